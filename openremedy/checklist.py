"""How far the connection of a source has come, and what was refused of it: told by what its tool itself has sent.

A test alert or a replay of ours is no sign of life of the tool, so it ticks nothing. What of an alert was understood is
told by the newest incidents; whether its severity was said or is our default, by reading its body once more.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from openremedy import follow_ups, replay
from openremedy.adapter import Adapter
from openremedy.alerts import IncidentType, Severity
from openremedy.errors import Problem
from openremedy.ids import first_id
from openremedy.instructions import TEST_HOST
from openremedy.models import AlertRecord, Delivery, EndedBy, Incident, RefusalCount, SecretKind, Source, now
from openremedy.tally import SAMPLES_KEPT
from openremedy.translation import UNKNOWN_HOST, Translated

STAND_IN = "service:"  # in place of a host, where a tool names only the service
LOOKED_AT = 50  # newest incidents of the source
READ_AGAIN = 3  # bodies
MAX_READ_AGAIN = 256 * 1024  # bytes of such a body
UNAUTHORIZED = "unauthorized"
HINTS: Mapping[str, str] = {
    "reached": "Nothing has arrived yet. Is the address right, and does the tool notify?",
    "host": "No alert so far names its host.",
    "type": "Every alert so far is of the type custom. Its name, or a label incident_type, says what broke.",
    "severity": "No alert so far says how bad it is, so each counts as medium.",
    "recovery": "No alert has ended yet. Let one recover, and see that the tool tells that as well.",
}
NO_ALERT = "Waits for the first alert."
ONLY_TESTS = "Only tests and heartbeats so far. Let a real alert fire."


@dataclass(frozen=True)
class Item:
    """One line: whether it is done, what was seen or what to do, and when."""

    name: str
    title: str
    done: bool
    words: str
    at: datetime | None = None
    incident_id: uuid.UUID | None = None


def checklist(session: Session, source: Source, adapter: Adapter | None) -> list[Item]:
    """The lines in their order; `adapter` None: its package is not installed any more."""
    hints = {**HINTS, **(adapter.hints if adapter else {})}
    used = _last_use(source)
    refused = None if source.last_seen_at else _refused(session, source)
    incidents = _incidents(session, source)
    return [
        _reached(used, refused, hints),
        _authenticated(source, used, refused),
        _parsed(source, refused),
        *_confirmed(session, source),
        *_understood(session, source, adapter, incidents, hints),
    ]


# ---------------------------------------------------------------- did it come in


def _last_use(source: Source) -> datetime | None:
    """When the tool came with a good credential last."""
    tokens = [one.last_used_at for one in source.tokens]
    secrets = [one.last_used_at for one in source.secrets if one.kind is SecretKind.SIGNING]
    return max(filter(None, (*tokens, *secrets, source.last_seen_at)), default=None)


def _refused(session: Session, source: Source) -> Any:
    """The newest refused delivery that was, or may have been, meant for this source."""
    columns = (Delivery.received_at, Delivery.reason, Delivery.message, Delivery.remote_addr)
    statement = select(*columns).where(*_meant_for(source, source.created_at)).order_by(Delivery.id.desc()).limit(1)
    return session.execute(statement).first()


def _meant_for(source: Source, since: datetime) -> list[ColumnElement[bool]]:
    """Refused deliveries since then. Of a wrong token or signature often only tool and tenant are known."""
    return [
        Delivery.tenant_id == source.tenant_id,
        # Both: each database has an index for one of them.
        ~Delivery.accepted,
        Delivery.reason.is_not(None),
        Delivery.adapter == source.adapter,
        or_(Delivery.source_id == source.id, Delivery.source_id.is_(None)),
        Delivery.id >= first_id(since),
    ]


def _reached(used: datetime | None, refused: Any, hints: Mapping[str, str]) -> Item:
    if used:
        return Item("reached", "Reached us", True, "The last request came", used)
    if refused:
        return Item("reached", "Reached us", True, f"A request from {refused.remote_addr} came", refused.received_at)
    return Item("reached", "Reached us", False, hints["reached"])


def _authenticated(source: Source, used: datetime | None, refused: Any) -> Item:
    title = "Authenticated"
    if used:
        return Item("authenticated", title, True, "With the right token or signature", used)
    if source.disabled_at:
        return Item("authenticated", title, False, "This source is switched off: whatever it sends is refused.")
    if refused and refused.reason == UNAUTHORIZED:
        words = (
            "A request came without a token or signature of this source, or with a wrong one. Paste it again, or "
            "rotate the token if it is lost. That was"
        )
        return Item("authenticated", title, False, words, refused.received_at)
    return Item("authenticated", title, False, "Waits for a request with the token or a signature of this source.")


def _parsed(source: Source, refused: Any) -> Item:
    if source.last_seen_at:
        return Item("parsed", "Parsed", True, "A body of the tool's own format was taken", source.last_seen_at)
    if refused and refused.reason != UNAUTHORIZED:
        return Item("parsed", "Parsed", False, f"The last body was refused: {refused.message}", refused.received_at)
    return Item("parsed", "Parsed", False, "Waits for a body of the tool's own format.")


def _confirmed(session: Session, source: Source) -> Iterator[Item]:
    """A line for each thing that the tool asked us to confirm; of most tools there is none."""
    for one in follow_ups.of_source(session, source.tenant_id, source.id):
        if one.done_at:
            yield Item("confirmed", "Confirmed", True, f"{one.subject} was confirmed", one.done_at)
        elif one.due_at is None:
            yield Item("confirmed", "Confirmed", False, f"{one.subject}: {one.words} That was", one.created_at)
        else:
            words = f"{one.words} It is tried again." if one.words else "a worker does it next."
            yield Item("confirmed", "Confirmed", False, f"{one.subject}: {words}")


# ---------------------------------------------------------------- was it understood


def _incidents(session: Session, source: Source) -> Sequence[Any]:
    """The newest incidents that the tool has opened, without their evidence."""
    columns = (Incident.id, Incident.hostname, Incident.incident_type, Incident.severity, Incident.first_seen)
    statement = (
        select(*columns, Incident.ended_by, Incident.sender_ended, Incident.resolved_at)
        .where(
            Incident.tenant_id == source.tenant_id,
            Incident.source_id == source.id,
            Incident.hostname != TEST_HOST,
            Incident.id >= first_id(source.created_at),
        )
        .order_by(Incident.id.desc())
        .limit(LOOKED_AT)
    )
    return session.execute(statement).all()


def _understood(
    session: Session, source: Source, adapter: Adapter | None, incidents: Sequence[Any], hints: Mapping[str, str]
) -> Iterator[Item]:
    if not incidents:
        hints = dict.fromkeys(hints, ONLY_TESTS if source.last_seen_at else NO_ALERT)
    host = next((one for one in incidents if _is_host(one.hostname)), None)
    yield _item("host", "Host found", host, host and host.hostname, hints)
    kind = next((one for one in incidents if one.incident_type != IncidentType.CUSTOM), None)
    yield _item("type", "Type mapped", kind, kind and str(kind.incident_type).replace("_", " "), hints)
    severity = _with_severity(session, source, adapter, incidents)
    yield _item("severity", "Severity mapped", severity, severity and str(severity.severity), hints)
    ended = next((one for one in incidents if one.sender_ended or one.ended_by == EndedBy.SENDER), None)
    yield _item("recovery", "Recovery seen", ended, ended and f"{ended.hostname} is well again", hints)


def _is_host(hostname: str) -> bool:
    return hostname != UNKNOWN_HOST and not hostname.startswith(STAND_IN)


def _item(name: str, title: str, example: Any, words: str | None, hints: Mapping[str, str]) -> Item:
    if example is None:
        return Item(name, title, False, hints[name])
    at = example.resolved_at if name == "recovery" else example.first_seen
    return Item(name, title, True, words or "", at, example.id)


def _with_severity(session: Session, source: Source, adapter: Adapter | None, incidents: Sequence[Any]) -> Any:
    """The newest incident whose alert has said how bad it is: medium is also what one that says nothing becomes."""
    loud = next((one for one in incidents if one.severity != Severity.MEDIUM), None)
    if loud or adapter is None:
        return loud
    return next((one for one in incidents[:READ_AGAIN] if _says_severity(session, source, adapter, one.id)), None)


def _says_severity(session: Session, source: Source, adapter: Adapter, incident_id: uuid.UUID) -> bool:
    """Whether an alert in the body that touched the incident last says so."""
    statement = (
        select(Delivery)
        .join(AlertRecord, AlertRecord.delivery_id == Delivery.id)
        .where(AlertRecord.incident_id == incident_id, Delivery.body_bytes <= MAX_READ_AGAIN)
        .order_by(AlertRecord.id.desc())
        .limit(1)
    )
    delivery = session.scalar(statement)
    if delivery is None:
        return False
    try:
        reading = replay.read(adapter, delivery, source)
    except Problem:  # today's code, or the options of today, do not take it any more
        return False
    return any(isinstance(one, Translated) and one.severity_told for one in reading.translations)


# ---------------------------------------------------------------- what was refused


@dataclass(frozen=True)
class Refused:
    """Requests of a source that were refused for one reason. `at_least`: more may have been."""

    reason: str
    count: int
    at_least: bool
    message: str
    at: datetime
    delivery_id: uuid.UUID | None = None
    sure: bool = True  # False: perhaps they were meant for another source of this tool


def refusals(session: Session, source: Source, hours: int = 24) -> list[Refused]:
    """What was refused in the last hours, by reason, newest first; those that may have been meant for it as well."""
    since = max(now() - timedelta(hours=hours), source.created_at)
    counted = _counted(session, source, since)
    kept = _kept(session, source, since)
    found = [_by_reason(reason, counted.get(reason), kept.get(reason, [])) for reason in counted.keys() | kept.keys()]
    return sorted(found, key=lambda one: one.at, reverse=True)


def _counted(session: Session, source: Source, since: datetime) -> dict[str, tuple[int, datetime]]:
    """How many, and the minute of the last."""
    statement = (
        select(RefusalCount.reason, func.sum(RefusalCount.count), func.max(RefusalCount.minute))
        .where(
            RefusalCount.tenant_id == source.tenant_id,
            RefusalCount.source_id == source.id,
            RefusalCount.minute >= since.replace(second=0, microsecond=0),
        )
        .group_by(RefusalCount.reason)
    )
    return {reason: (int(count), newest) for reason, count, newest in session.execute(statement)}


def _kept(session: Session, source: Source, since: datetime) -> dict[str, list[Any]]:
    """The samples of each reason, newest first."""
    columns = (Delivery.id, Delivery.received_at, Delivery.reason, Delivery.message, Delivery.source_id)
    statement = select(*columns).where(*_meant_for(source, since)).order_by(Delivery.id.desc()).limit(SAMPLES_KEPT)
    found: dict[str, list[Any]] = {}
    for row in session.execute(statement):
        found.setdefault(row.reason, []).append(row)
    return found


def _by_reason(reason: str, counted: tuple[int, datetime] | None, kept: Sequence[Any]) -> Refused:
    count, minute = counted or (0, None)
    if not kept:
        assert minute is not None  # nosec B101 # noqa: S101 - one of both is there
        return Refused(reason, count, False, "", minute)
    newest = kept[0]
    return Refused(
        reason,
        max(count, len(kept)),
        len(kept) > count,
        newest.message or "",
        newest.received_at,
        newest.id,
        any(one.source_id is not None for one in kept),
    )
