"""A test alert of a source: what its tool would send when something breaks and ends, by the way of real ones."""

import json

from sqlalchemy.orm import Session

from openremedy import adapter as native
from openremedy import audit
from openremedy.adapter import Adapter
from openremedy.audit import Actor
from openremedy.checklist import TEST_HOST
from openremedy.directory import Sender
from openremedy.errors import Conflict
from openremedy.intake import Origin, Receipt
from openremedy.models import Source, now


def rehearse(session: Session, tenant: str, source: Source, adapter: Adapter, actor: Actor) -> Receipt:
    """Send an alert that begins and one that ends it; returns what became of the first.

    Its host is openremedy-test, so everybody sees what it is. Raises Conflict, Unavailable.
    """
    if adapter.sample is None:
        raise Conflict(f"{adapter.title} brings no test alert.")
    if source.disabled_at:
        raise Conflict("This source is disabled; enable it first.")
    sender = Sender(source.id, source.tenant_id, tenant, source.adapter, source.name, source.rate_limit, source.options)
    session.add(audit.line(actor, source.tenant_id, "source.tested", source.name))
    session.commit()
    at = now()
    begun = _send(sender, adapter, json.dumps(adapter.sample(TEST_HOST, at, False)).encode(), actor)
    _send(sender, adapter, json.dumps(adapter.sample(TEST_HOST, at, True)).encode(), actor)
    return begun


def _send(sender: Sender, adapter: Adapter, body: bytes, actor: Actor) -> Receipt:
    reading = native.read(adapter.formats[0], body, "application/json", sender.options)
    return native.hand_over(sender, body, reading, Origin(actor.request_id, actor.address))
