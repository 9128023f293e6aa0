"""A test alert of a source: what its tool would send when something breaks and when it is over, by the same way."""

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from openremedy import adapter as native
from openremedy.adapter import Adapter
from openremedy.alerts import Outcome
from openremedy.audit import Actor
from openremedy.directory import Sender
from openremedy.errors import Conflict
from openremedy.instructions import TEST_HOST
from openremedy.intake import Origin, Receipt, Rehearsal
from openremedy.models import Source, Tenant, now


@dataclass(frozen=True)
class Rehearsed:
    """What came of both bodies."""

    begun: Receipt
    ended: Receipt

    @property
    def well(self) -> bool:
        """Whether an incident was opened and closed again."""
        return (self.begun.outcomes[0].outcome, self.ended.outcomes[0].outcome) == (Outcome.CREATED, Outcome.RESOLVED)


def rehearse(session: Session, source: Source, adapter: Adapter, actor: Actor) -> Rehearsed:
    """Send an alert that begins and its end, each read, signed and stored as a body of the tool is.

    Its host is openremedy-test, its deliveries say what they are, and it is no sign of life of the tool. What the
    session holds is rolled back, because the door has a transaction of its own. Raises Conflict, Unavailable.
    """
    if adapter.sample is None:
        raise Conflict(f"{adapter.title} brings no test alert.")
    tenant = session.get_one(Tenant, source.tenant_id)
    if source.disabled_at or tenant.disabled_at:
        raise Conflict(f"This {'source' if source.disabled_at else 'tenant'} is switched off; nothing is taken for it.")
    sender = Sender(source.id, tenant.id, tenant.slug, source.adapter, source.name, source.rate_limit, source.options)
    session.rollback()
    at = now()
    return Rehearsed(*(_send(sender, adapter, at, ended, actor) for ended in (False, True)))


def _send(sender: Sender, adapter: Adapter, at: datetime, ended: bool, actor: Actor) -> Receipt:
    assert adapter.sample is not None  # nosec B101 # noqa: S101 - rehearse() has looked
    body = json.dumps(adapter.sample(TEST_HOST, at, ended)).encode()
    reading = native.read(adapter.formats[0], body, "application/json", sender.options)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    origin = Origin(actor.request_id, actor.address, headers, Rehearsal(sender.name, actor, ended))
    return native.hand_over(sender, body, reading, origin)
