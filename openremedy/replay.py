"""A stored delivery run again through today's code: first to see what comes of it, then through the real door."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.http import parse_options_header

from openremedy import adapter as native
from openremedy import deliveries, translation
from openremedy.adapter import Adapter, Format, Reading
from openremedy.alerts import parse_alert
from openremedy.audit import Actor
from openremedy.directory import Sender
from openremedy.errors import BadBody, Conflict, Invalid, Problem, TooLarge, Unauthorized
from openremedy.intake import ALL_STATUSES, CANONICAL, Origin, Receipt, Replay
from openremedy.models import Delivery, Source, Tenant
from openremedy.registry import adapters
from openremedy.services import services
from openremedy.translation import Translated, Translation, fit


def preview(session: Session, tenant_id: int, delivery_id: uuid.UUID) -> dict[str, Any]:
    """What today's code makes of a delivery, changing nothing.

    `delivery_id`, `adapter`, `source` (its name, null for the canonical format), `alerts` (each a canonical alert, or
    `ignored` or `rejected` with the reason), `remark`, `warnings`, and `error`: null, or `code`, `message` and `fields`
    of what would be refused. Raises NotFound, Conflict.
    """
    delivery = _whole(session, tenant_id, delivery_id)
    found: dict[str, Any] = {"delivery_id": str(delivery_id), "adapter": delivery.adapter, "source": None}
    found |= {"alerts": [], "remark": None, "warnings": [], "error": None}
    try:
        if delivery.adapter == CANONICAL:
            alert, found["warnings"] = parse_alert(delivery.body)
            return found | {"alerts": [json.loads(alert.to_bytes())]}
        source = _source(session, delivery)
        found["source"] = source.name
        reading = read(_adapter(delivery), delivery, source)
    except (BadBody, Invalid, TooLarge) as problem:
        return found | {"error": {"code": problem.code, "message": problem.message, "fields": problem.fields}}
    return found | {"alerts": [_at_the_door(one) for one in reading.translations], "remark": reading.remark}


def replay(session: Session, tenant_id: int, delivery_id: uuid.UUID, actor: Actor) -> Receipt:
    """Send a delivery through the door once more, as a new delivery that says so.

    Who replays a refused one vouches for it: it is signed with the tenant's own secret. What the session holds is
    rolled back, because the door has a transaction of its own. Raises NotFound, Conflict, BadBody, Invalid, TooLarge,
    Unavailable; then nothing was stored.
    """
    delivery = _whole(session, tenant_id, delivery_id)
    tenant = session.get_one(Tenant, tenant_id)
    if tenant.disabled_at:
        raise Conflict("The tenant is disabled; nothing is taken for it.")
    headers = deliveries.shown(delivery.headers)  # not a signature: it is not what this one is taken for
    origin = Origin(actor.request_id, actor.address, headers, Replay(delivery_id, actor))
    body, slug = delivery.body, tenant.slug
    if delivery.adapter == CANONICAL:
        session.rollback()
        return _again(slug, body, origin)
    source = _source(session, delivery)
    reading = read(_adapter(delivery), delivery, source)
    sender = Sender(source.id, tenant_id, slug, source.adapter, source.name, source.rate_limit, source.options)
    session.rollback()
    return native.hand_over(sender, body, reading, origin)


def as_json(delivery_id: uuid.UUID, receipt: Receipt) -> dict[str, Any]:
    """What came of a replay, for programs."""
    return native.answer(receipt) | {"replay_of": str(delivery_id), "warnings": receipt.warnings}


def _again(slug: str, body: bytes, origin: Origin) -> Receipt:
    for _ in range(2):  # a secret that ends between signing and checking is no fault of the body
        try:
            return services().door.accept(slug, body, services().directory.signer(slug)(body), origin)
        except Unauthorized:
            continue
    raise Conflict("The tenant has no live webhook secret to sign with.")


def _whole(session: Session, tenant_id: int, delivery_id: uuid.UUID) -> Delivery:
    delivery = deliveries.find(session, tenant_id, delivery_id)
    if not deliveries.whole(delivery):
        kept = f"Only the first {len(delivery.body)} of its {delivery.body_bytes} bytes were kept"
        raise Conflict(f"{kept}; it cannot be replayed.")
    return delivery


# ---------------------------------------------------------------- native bodies


def _adapter(delivery: Delivery) -> Adapter:
    found = adapters().get(delivery.adapter)
    if found is None:
        raise Conflict(f"The adapter {delivery.adapter!r} is not installed.")
    return found


def _source(session: Session, delivery: Delivery) -> Source:
    """The source that it came from; for a refused one that named none, the only one it can be. Raises Conflict."""
    if delivery.accepted and delivery.source_id is None:
        raise Conflict("Its source is gone, and from another one its alerts would be other incidents.")
    theirs = select(Source).where(Source.tenant_id == delivery.tenant_id, Source.adapter == delivery.adapter)
    if delivery.source_id is not None:
        theirs = theirs.where(Source.id == delivery.source_id)
    found = session.scalars(theirs.limit(2)).all()
    if not found:
        raise Conflict(f"The tenant has no source of {delivery.adapter} that this could be from.")
    if len(found) > 1:
        raise Conflict(f"It cannot be told which of the tenant's sources of {delivery.adapter} this is from.")
    return found[0]


def read(adapter: Adapter, delivery: Delivery, source: Source) -> Reading:
    """A stored body by the format that fits it, because the path that it came by is not kept.

    Raises BadBody, Invalid, TooLarge.
    """
    mimetype = parse_options_header(delivery.headers.get("Content-Type"))[0].lower()
    *others, last = _formats(adapter, delivery.body)
    for shape in others:
        try:
            return native.read(shape, delivery.body, mimetype, source.options)
        except Problem:
            continue
    return native.read(last, delivery.body, mimetype, source.options)


def _formats(adapter: Adapter, body: bytes) -> Sequence[Format]:
    """Those for a JSON list when it is one, else those for the rest; all where there is none of the kind."""
    is_list = body.lstrip()[:1] == b"["
    return [shape for shape in adapter.formats if shape.array == is_list] or adapter.formats


def _at_the_door(one: Translation) -> dict[str, Any]:
    """A translation as the door takes it, which refuses what is not canonical after all."""
    if isinstance(one, Translated):
        try:
            parse_alert(fit(one.alert).to_bytes(), ALL_STATUSES)
        except (BadBody, Invalid) as problem:
            return {"rejected": problem.sentence()}
    return translation.as_json(one)
