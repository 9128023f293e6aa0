"""Outgoing: the endpoints of a tenant, and the messages on their way to them.

The trigger of migration 0009 makes the messages, dispatch.py sends them; both know an endpoint's state from its row.
"""

import base64
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, RowMapping, Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from openremedy import audit
from openremedy.addresses import is_public
from openremedy.audit import Actor
from openremedy.crypto import Vault
from openremedy.errors import Conflict, Invalid, NotFound
from openremedy.ids import parse_id
from openremedy.incidents import say, stamp
from openremedy.models import (
    Event,
    Incident,
    MessageState,
    OutgoingEndpoint,
    OutgoingMessage,
    Shape,
    Tenant,
    now,
    table,
)
from openremedy.tenants import called, find_tenant, label, unique

if TYPE_CHECKING:  # what it brings along takes a tenth of a second, and a web process posts nothing
    from openremedy.outgoing_client import Answer

SECRET = "whsec_"  # nosec B105 # noqa: S105 - the prefix that the Standard Webhooks have for it
GRACE = timedelta(hours=24)  # for which a secret that was rotated out signs as well
MAX_ENDPOINTS = 20  # of a tenant
MAX_URL = 2000
MAX_HEADER = 2000
TEST = "test"

# After so many seconds an attempt that failed is followed by the next, and the last of them again and again.
SCHEDULE = (5, 60, 300, 1800, 7200, 18000, 28800)
TRIED_FOR = timedelta(days=3)
# After this long without one success an endpoint is switched off.
PATIENCE = timedelta(days=5)
LONGEST_PAUSE = 600  # seconds that an endpoint which fails is left alone; they double from the first
FIRST_PAUSE = 5
LEASE = timedelta(seconds=60)  # in which an attempt has ended, or its process is dead
LOG_KEPT = 20  # attempts of a message
SHOWN = 50  # messages of an endpoint
REMOVED_AT_ONCE = 500
USUAL = (Event.CREATED, Event.CLASSIFIED, Event.NEEDS_HUMAN, Event.RESOLVED)  # what most endpoints want

_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,99}):[ \t]*([\x20-\x7e]{1,1800})", re.ASCII)
_OURS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "user-agent", "expect", "te"}
_messages = table(OutgoingMessage)
_endpoints = table(OutgoingEndpoint)


# ---------------------------------------------------------------- endpoints


@dataclass(frozen=True)
class Wanted:
    """What an admin chooses. An empty `url` or `header` leaves the one there is; `no_header` ends it."""

    name: str
    shape: Shape
    events: Sequence[Event]
    url: str = field(default="", repr=False)
    header: str = field(default="", repr=False)
    no_header: bool = False


def list_endpoints(session: Session, tenant_id: int) -> Sequence[OutgoingEndpoint]:
    """Those of a tenant, oldest first."""
    statement = select(OutgoingEndpoint).where(OutgoingEndpoint.tenant_id == tenant_id)
    return session.scalars(statement.order_by(OutgoingEndpoint.id)).all()


def get_endpoint(session: Session, tenant_id: int, endpoint_id: str) -> OutgoingEndpoint:
    """One of a tenant. Raises NotFound."""
    if not (endpoint_id.isascii() and endpoint_id.isdigit() and len(endpoint_id) <= 18):
        raise NotFound()
    statement = select(OutgoingEndpoint).where(
        OutgoingEndpoint.tenant_id == tenant_id, OutgoingEndpoint.id == int(endpoint_id)
    )
    found = session.scalar(statement)
    if found is None:
        raise NotFound()
    return found


def find_endpoint(session: Session, slug: str, endpoint: str) -> OutgoingEndpoint:
    """A tenant's endpoint by its id or name. Raises NotFound."""
    if found := called(list_endpoints(session, find_tenant(session, slug).id), endpoint):
        return found
    raise NotFound(f"{slug!r} has no endpoint {endpoint!r}.")


def add_endpoint(
    session: Session, vault: Vault, tenant_id: int, wanted: Wanted, actor: Actor, *, allow_private: bool
) -> tuple[OutgoingEndpoint, str]:
    """Add one and return it with the secret that signs, shown this once. Raises Invalid, Conflict."""
    if not wanted.url:
        raise Invalid(fields={"url": ["Must not be empty."]})
    # Two at once: the second waits here and then counts the first.
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    if len(list_endpoints(session, tenant_id)) >= MAX_ENDPOINTS:
        raise Conflict(f"This tenant has {MAX_ENDPOINTS} endpoints already; remove one that is not used.")
    secret = _new_secret()
    endpoint = OutgoingEndpoint(tenant_id=tenant_id, locked_secret=vault.lock(secret))
    with unique(session, f"There is an endpoint {wanted.name!r} already."):
        _apply(vault, endpoint, wanted, allow_private)
        session.add(endpoint)
        session.add(audit.line(actor, tenant_id, "outgoing.added", endpoint.name, host=endpoint.host))
    return endpoint, secret


def edit_endpoint(
    session: Session, vault: Vault, endpoint: OutgoingEndpoint, wanted: Wanted, actor: Actor, *, allow_private: bool
) -> None:
    """Change it. Raises Invalid, Conflict."""
    session.refresh(endpoint, with_for_update={"key_share": True})
    shape, host = endpoint.shape, endpoint.host
    with unique(session, f"There is an endpoint {wanted.name!r} already."):
        _apply(vault, endpoint, wanted, allow_private)
        endpoint.retry_at = None  # whoever has just mended something wants to see that it works
        if endpoint.shape is not shape:
            unsent = (_messages.c.endpoint_id == endpoint.id) & (_messages.c.state != MessageState.SENT)
            session.execute(update(_messages).where(unsent).values(body=None))
        changed = [name for name in ("url", "header") if getattr(wanted, name)]
        where = {"host": [host, endpoint.host]} if host != endpoint.host else {}
        session.add(audit.line(actor, endpoint.tenant_id, "outgoing.changed", endpoint.name, secrets=changed, **where))


def _apply(vault: Vault, endpoint: OutgoingEndpoint, wanted: Wanted, allow_private: bool) -> None:
    if not wanted.events:
        raise Invalid(fields={"events": ["Choose at least one."]})
    endpoint.name = label(wanted.name, 100)
    if not endpoint.name:
        raise Invalid(fields={"name": ["Must not be empty."]})
    endpoint.shape = wanted.shape
    endpoint.events = [str(one) for one in Event if one in wanted.events]
    if wanted.url:
        host = host_of(wanted.url, allow_private=allow_private)
        if endpoint.locked_header and host != endpoint.host and not (wanted.header or wanted.no_header):
            # Else whoever may change the address could read the header, which is shown to nobody.
            words = "The address is at another host: type the header again, or say that none is sent."
            raise Invalid(fields={"header": [words]})
        endpoint.host = host
        endpoint.locked_url = vault.lock(wanted.url)
    if wanted.header or wanted.no_header:
        endpoint.locked_header = vault.lock(_header(wanted.header)) if wanted.header else None


def host_of(url: str, *, allow_private: bool) -> str:
    """The host of a URL that may be posted to. Raises Invalid. What its name stands for is looked at with each post."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(fields={"url": ["Must be an address such as https://hooks.example.com/path."]})
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise Invalid(fields={"url": ["Must begin with https://."]})
    if "@" in parts.netloc or parts.fragment:
        raise Invalid(fields={"url": ["Must hold neither a user nor a fragment (#); use the header for a password."]})
    if not allow_private and _private(host):
        raise Invalid(fields={"url": ["This is a private address; OPENREMEDY_OUTGOING_ALLOW_PRIVATE would allow it."]})
    return parts.netloc[:300]


def _private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False  # a name: what it stands for may be another tomorrow
    return not is_public(host)


def _header(text: str) -> str:
    found = _HEADER.fullmatch(text.strip())
    if not found:
        raise Invalid(fields={"header": ["Must be one line `Name: value` of printable ASCII."]})
    name = found[1].lower()
    if name in _OURS or name.startswith(("webhook-", "proxy-")):
        raise Invalid(fields={"header": [f"{found[1]} is set by us."]})
    return f"{found[1]}: {found[2].strip()}"


def _new_secret() -> str:
    return SECRET + base64.b64encode(secrets.token_bytes(32)).decode()


def rotate_secret(session: Session, vault: Vault, endpoint: OutgoingEndpoint, actor: Actor) -> str:
    """A new secret; the one of before signs as well for a day."""
    session.refresh(endpoint, with_for_update={"key_share": True})
    secret = _new_secret()
    endpoint.locked_previous, endpoint.previous_until = endpoint.locked_secret, now() + GRACE
    endpoint.locked_secret = vault.lock(secret)
    session.add(audit.line(actor, endpoint.tenant_id, "outgoing.rotated", endpoint.name))
    session.commit()
    return secret


def set_disabled(session: Session, endpoint: OutgoingEndpoint, disabled: bool, actor: Actor) -> None:
    """Queue and send nothing for it, or do so again, what waited first. Again changes nothing."""
    session.refresh(endpoint, with_for_update={"key_share": True})
    if disabled == (endpoint.disabled_at is not None):
        return
    endpoint.disabled_at = now() if disabled else None
    endpoint.disabled_reason = None
    endpoint.failures, endpoint.failing_since, endpoint.retry_at = 0, None, None
    if not disabled:
        waits = (_messages.c.endpoint_id == endpoint.id) & (_messages.c.state == MessageState.PENDING)
        session.execute(update(_messages).where(waits).values(since=now(), next_at=now()))
    action = "outgoing.disabled" if disabled else "outgoing.enabled"
    session.add(audit.line(actor, endpoint.tenant_id, action, endpoint.name))
    session.commit()


def remove_endpoint(session: Session, endpoint: OutgoingEndpoint, actor: Actor) -> None:
    """End it, with the messages that wait for it and those that were sent."""
    endpoint_id = endpoint.id
    session.add(audit.line(actor, endpoint.tenant_id, "outgoing.removed", endpoint.name))
    session.delete(endpoint)
    session.commit()
    # What is cut short here, and what was added meanwhile, goes with its age.
    some = select(_messages.c.id).where(_messages.c.endpoint_id == endpoint_id).limit(REMOVED_AT_ONCE)
    while session.connection().execute(delete(_messages).where(_messages.c.id.in_(some))).rowcount:
        session.commit()


def engines(session: Session, tenant_id: int) -> list[str]:
    """The names of those that an accepted recipe is handed to; a chat only reads of it."""
    live = [one for one in list_endpoints(session, tenant_id) if one.disabled_at is None]
    return [one.name for one in live if is_engine(one)]


def is_engine(endpoint: OutgoingEndpoint) -> bool:
    """Whether it may carry out what it is sent."""
    return Event.ACCEPTED in endpoint.events and endpoint.shape is not Shape.SLACK


def as_json(endpoint: OutgoingEndpoint, waiting: int) -> dict[str, Any]:
    """An endpoint as programs see it; of its address only the host."""
    return {
        "id": str(endpoint.id),
        "name": endpoint.name,
        "format": str(endpoint.shape),
        "host": endpoint.host,
        "events": endpoint.events,
        "header": endpoint.locked_header is not None,
        "disabled": endpoint.disabled_at is not None,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": stamp(endpoint.failing_since),
        "last_sent": stamp(endpoint.last_sent_at),
        "waiting": waiting,
    }


# ---------------------------------------------------------------- messages as people see them


def waiting(session: Session, tenant_id: int) -> dict[int, int]:
    """How many messages wait, by endpoint."""
    counted = (
        select(OutgoingMessage.endpoint_id, func.count())
        .join(OutgoingEndpoint, OutgoingEndpoint.id == OutgoingMessage.endpoint_id)
        .where(OutgoingEndpoint.tenant_id == tenant_id, OutgoingMessage.state == MessageState.PENDING)
        .group_by(OutgoingMessage.endpoint_id)
    )
    return dict(session.execute(counted).all())


def next_try(session: Session, endpoint: OutgoingEndpoint) -> datetime | None:
    """When an endpoint is tried again: when it has rested, and a message has. None: no message waits."""
    waits = (OutgoingMessage.endpoint_id == endpoint.id, OutgoingMessage.state == MessageState.PENDING)
    first = session.scalar(select(func.min(OutgoingMessage.next_at)).where(*waits))
    return max(first, endpoint.retry_at or first, now()) if first else None


def messages(
    session: Session, endpoint: OutgoingEndpoint, state: MessageState | None = None
) -> Sequence[OutgoingMessage]:
    """The newest of an endpoint, newest first."""
    statement = select(OutgoingMessage).where(OutgoingMessage.endpoint_id == endpoint.id)
    if state:
        statement = statement.where(OutgoingMessage.state == state)
    order = (OutgoingMessage.created_at.desc(), OutgoingMessage.id.desc())
    return session.scalars(statement.order_by(*order).limit(SHOWN)).all()


def get_message(session: Session, endpoint: OutgoingEndpoint, message_id: str) -> OutgoingMessage:
    """One of an endpoint. Raises NotFound."""
    found = session.get(OutgoingMessage, parse_id(message_id) or uuid.UUID(int=0))
    if found is None or found.endpoint_id != endpoint.id:
        raise NotFound()
    return found


def message_json(message: OutgoingMessage) -> dict[str, Any]:
    """A message as programs see it; `attempts` holds its newest ones, each with what came of it."""
    return {
        "id": str(message.id),
        "event": message.event,
        "incident_id": str(message.incident_id) if message.incident_id else None,
        "created_at": stamp(message.created_at),
        "state": str(message.state),
        "attempts": message.log,
    }


def send_test(session: Session, endpoint: OutgoingEndpoint, actor: Actor) -> OutgoingMessage:
    """A message that says no more than that it arrived. Raises Conflict."""
    if endpoint.disabled_at:
        raise Conflict("This endpoint is switched off.")
    message = OutgoingMessage(tenant_id=endpoint.tenant_id, endpoint_id=endpoint.id, event=TEST)
    session.add(message)
    # Whoever has just mended something wants to know now.
    endpoint.retry_at = None
    session.add(audit.line(actor, endpoint.tenant_id, "outgoing.tested", endpoint.name))
    session.commit()
    return message


def send_again(session: Session, endpoint: OutgoingEndpoint, message: OutgoingMessage, actor: Actor) -> None:
    """Try a message once more from now on, with the id that it had; one that waits is left. Raises Conflict."""
    session.refresh(endpoint, with_for_update={"key_share": True})
    if endpoint.disabled_at:
        raise Conflict("This endpoint is switched off.")
    session.refresh(message, with_for_update=True)
    if message.state is MessageState.PENDING:  # it may be under way at this moment
        return
    message.state = MessageState.PENDING
    message.since = message.next_at = now()
    endpoint.retry_at = None
    session.add(audit.line(actor, endpoint.tenant_id, "outgoing.sent_again", endpoint.name, message=str(message.id)))
    session.commit()


# ---------------------------------------------------------------- messages as they are sent


def due(engine: Engine) -> list[tuple[int, int]]:
    """Tenant and id of the endpoints that a message waits for and that may be tried now, the longest wait first."""
    moment = now()
    oldest = (
        select(func.min(OutgoingMessage.next_at))
        .where(OutgoingMessage.endpoint_id == OutgoingEndpoint.id, OutgoingMessage.state == MessageState.PENDING)
        .scalar_subquery()
    )
    statement = (
        select(OutgoingEndpoint.tenant_id, OutgoingEndpoint.id)
        .join(Tenant, Tenant.id == OutgoingEndpoint.tenant_id)
        .where(_may_be_tried(moment), Tenant.disabled_at.is_(None), oldest <= moment)
        .order_by(oldest)
    )
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return [(row.tenant_id, row.id) for row in connection.execute(statement)]


def _may_be_tried(moment: datetime) -> Any:
    free = or_(OutgoingEndpoint.retry_at.is_(None), OutgoingEndpoint.retry_at <= moment)
    return OutgoingEndpoint.disabled_at.is_(None) & free


def claim(engine: Engine, endpoint_id: int, places: int) -> list[Any]:
    """Up to `places` rows of messages of an endpoint, oldest first, that are nobody else's for the time of LEASE.

    An endpoint that fails is tried with one at a time.
    """
    moment = now()
    with engine.begin() as connection:
        # Several schedulers go about one endpoint in turn.
        wanted = select(_endpoints.c.failures).where(_endpoints.c.id == endpoint_id, _may_be_tried(moment))
        failures = connection.scalar(wanted.with_for_update(key_share=True))
        if failures is None:
            return []
        ids = list(connection.scalars(_free(endpoint_id, moment, 1 if failures else places)))
        if not ids:
            return []
        if failures:
            held = update(_endpoints).where(_endpoints.c.id == endpoint_id).values(retry_at=moment + LEASE)
            connection.execute(held)
        taken = (
            update(_messages)
            .where(_messages.c.id.in_(ids))
            .values(attempts=_messages.c.attempts + 1, next_at=moment + LEASE)
            .returning(*_messages.c)
        )
        return list(connection.execute(taken).mappings())


def _free(endpoint_id: int, moment: datetime, places: int) -> Select[Any]:
    return (
        select(_messages.c.id)
        .where(
            _messages.c.endpoint_id == endpoint_id,
            _messages.c.state == MessageState.PENDING,
            _messages.c.next_at <= moment,
        )
        # A test first: somebody waits for what it says.
        .order_by(_messages.c.incident_id.is_not(None), _messages.c.next_at)
        .limit(places)
        .with_for_update(skip_locked=True)
    )


def settle(engine: Engine, message: Mapping[str, Any], answer: "Answer", milliseconds: int) -> MessageState | None:
    """Write what came of an attempt, to the message, to its endpoint and, where it is a hand-over, to the incident.

    Returns the state of the message, or None where it is somebody else's by now.
    """
    moment = now()
    tried = {"at": stamp(moment), "status": answer.status, "error": answer.error, "milliseconds": milliseconds}
    values: dict[str, Any] = {"log": [*message["log"], tried][-LOG_KEPT:], "body": message["body"]}
    if answer.well:
        values["state"] = MessageState.SENT
    else:
        values["next_at"] = moment + timedelta(seconds=_pause(moment - message["since"], answer))
        over = answer.final or values["next_at"] > message["since"] + TRIED_FOR
        values["state"] = MessageState.FAILED if over else MessageState.PENDING
    mine = (
        (_messages.c.id == message["id"])
        & (_messages.c.attempts == message["attempts"])
        & (_messages.c.state == MessageState.PENDING)
    )
    held = select(*_endpoints.c).where(_endpoints.c.id == message["endpoint_id"]).with_for_update(key_share=True)
    with engine.begin() as connection:
        # The endpoint first, as everywhere: two that lock both in another order would wait for each other.
        endpoint = connection.execute(held).mappings().first()
        if endpoint is None or not connection.execute(update(_messages).where(mine).values(values)).rowcount:
            return None
        if not answer.final:
            _note(connection, endpoint, answer, moment)
        if message["event"] == Event.ACCEPTED and values["state"] is not MessageState.PENDING:
            _say_handed_over(connection, message, endpoint["name"], answer)
    state: MessageState = values["state"]
    return state


def _pause(tried_for: timedelta, answer: "Answer") -> int:
    """The step of the schedule that comes after so long, in seconds."""
    passed = accumulate(SCHEDULE)
    seconds = tried_for.total_seconds()
    planned = next((step for step, until in zip(SCHEDULE, passed, strict=True) if until > seconds), SCHEDULE[-1])
    # A little apart, so that what failed together does not come back together.
    spread = planned + secrets.randbelow(max(1, planned // 4))
    return max(spread, answer.retry_after or 0)


def _note(connection: Connection, endpoint: RowMapping, answer: "Answer", moment: datetime) -> None:
    changes = _well() if answer.well else _badly(endpoint, answer, moment)
    connection.execute(update(_endpoints).where(_endpoints.c.id == endpoint["id"]).values(changes))
    if reason := changes.get("disabled_reason"):
        audit.write(
            connection, Actor("scheduler"), endpoint["tenant_id"], "outgoing.disabled", endpoint["name"], reason=reason
        )


def _well() -> dict[str, Any]:
    return {"failures": 0, "failing_since": None, "retry_at": None, "last_sent_at": now()}


def _badly(endpoint: RowMapping, answer: "Answer", moment: datetime) -> dict[str, Any]:
    failures = endpoint["failures"] + 1
    pause = max(min(FIRST_PAUSE * 2 ** min(failures - 1, 20), LONGEST_PAUSE), answer.retry_after or 0)
    since = endpoint["failing_since"] or moment
    changes = {"failures": failures, "failing_since": since, "retry_at": moment + timedelta(seconds=pause)}
    if answer.status == 410:
        return changes | {"disabled_at": moment, "disabled_reason": "It answered 410: it wants no more messages."}
    if moment - since > PATIENCE:
        reason = f"For {PATIENCE.days} days no message could be delivered; the last one: {answer.error}."
        return changes | {"disabled_at": moment, "disabled_reason": reason}
    return changes


def _say_handed_over(connection: Connection, message: Mapping[str, Any], name: str, answer: "Answer") -> None:
    known = select(Incident.id).where(Incident.id == message["incident_id"])
    if connection.scalar(known) is None:
        return
    kind = "handed_over" if answer.well else "hand_over_failed"
    detail = {"status": answer.status} if answer.well else {"reason": answer.error}
    say(connection, message["tenant_id"], message["incident_id"], kind, name, **detail)
