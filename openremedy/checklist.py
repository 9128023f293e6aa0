"""How far the connection of a source has come, told by what its tool has really sent, never by a test alert of ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from openremedy.alerts import IncidentType, Severity
from openremedy.ids import first_id
from openremedy.models import Delivery, EndedBy, Incident, Source, now
from openremedy.translation import UNKNOWN_HOST

TEST_HOST = "openremedy-test"
LOOKED_AT = 50  # newest incidents of the source
AROUND = timedelta(minutes=10)  # of the last use of a credential: there the delivery is looked for
SAYS_SEVERITY = ("severity", "priority", "urgency", "alert_priority", "level")


@dataclass(frozen=True)
class Item:
    """One line: whether it is done, what was seen (or what to do), and when."""

    name: str
    title: str
    done: bool
    words: str
    at: datetime | None = None


def checklist(session: Session, source: Source) -> list[Item]:
    """The lines in their order."""
    used = _last_use(source)
    incidents = _incidents(session, source)
    accepted = _accepted(session, source, used) or (incidents[0].first_seen if incidents else None)
    refused = _refused(session, source) if not accepted else None
    return [
        _reached(source, used, refused),
        _authenticated(source, used, refused),
        _parsed(source, accepted),
        *_mapped(incidents),
    ]


def _last_use(source: Source) -> datetime | None:
    """When the tool came with a good credential last."""
    used = [one.last_used_at for one in source.tokens] + [one.last_used_at for one in source.secrets]
    return max(filter(None, used), default=None)


def _incidents(session: Session, source: Source) -> list[Any]:
    """The newest incidents that the tool itself has opened."""
    columns = (Incident.id, Incident.hostname, Incident.incident_type, Incident.severity, Incident.evidence)
    statement = (
        select(*columns, Incident.first_seen, Incident.ended_by, Incident.sender_ended, Incident.resolved_at)
        .where(
            Incident.tenant_id == source.tenant_id,
            Incident.source_id == source.id,
            Incident.hostname != TEST_HOST,
        )
        .order_by(Incident.id.desc())
        .limit(LOOKED_AT)
    )
    return list(session.execute(statement))


def _accepted(session: Session, source: Source, used: datetime | None) -> datetime | None:
    """When a body of the tool was taken last, looked for around the last use of a credential."""
    if used is None:
        return None
    statement = (
        select(Delivery.received_at)
        .where(
            Delivery.tenant_id == source.tenant_id,
            Delivery.id.between(first_id(used - AROUND), first_id(used + AROUND)),
            Delivery.source_id == source.id,
            Delivery.accepted,
            or_(Delivery.message.is_(None), ~Delivery.message.startswith("Replay")),
        )
        .order_by(Delivery.id.desc())
        .limit(1)
    )
    return session.scalar(statement)


def _refused(session: Session, source: Source) -> Any:
    """The newest refusal that may have been meant for this source."""
    statement = (
        select(Delivery.received_at, Delivery.status_code, Delivery.message)
        .where(
            Delivery.tenant_id == source.tenant_id,
            Delivery.accepted.is_(False),
            Delivery.adapter == source.adapter,
            or_(Delivery.source_id == source.id, Delivery.source_id.is_(None)),
            Delivery.id > first_id(source.created_at),
        )
        .order_by(Delivery.id.desc())
        .limit(1)
    )
    return session.execute(statement).first()


def _reached(source: Source, used: datetime | None, refused: Any) -> Item:
    at = used or (refused.received_at if refused else None) or source.last_refused_at
    words = (
        "A request has arrived." if at else "Nothing has arrived yet. Is the address right, and does the tool notify?"
    )
    return Item("reached", "Reached us", at is not None, words, at)


def _authenticated(source: Source, used: datetime | None, refused: Any) -> Item:
    if used:
        return Item("authenticated", "Authenticated", True, "The token or signature was right.", used)
    last = refused.received_at if refused and refused.status_code == 401 else None
    words = "The last request came with a wrong token or signature." if last else "Waits for a request with its token."
    return Item("authenticated", "Authenticated", False, words, last)


def _parsed(source: Source, accepted: datetime | None) -> Item:
    if accepted:
        return Item("parsed", "Parsed", True, "The body is the tool's own format.", accepted)
    last = source.last_refused_at if source.last_refusal_reason not in (None, "unauthorized") else None
    words = (
        f"It was refused: {source.last_refusal_message}" if last else "Waits for a body that is the tool's own format."
    )
    return Item("parsed", "Parsed", False, words, last)


def _mapped(incidents: list[Any]) -> Iterator[Item]:
    """What was understood of the alerts; the newest example of each."""
    host = next((one for one in incidents if one.hostname != UNKNOWN_HOST), None)
    missing = "No alert so far names a host. Give it a label or tag such as host or instance."
    yield _item("host", "Host found", host, host and f"For example {host.hostname}.", incidents, missing)
    kind = next((one for one in incidents if one.incident_type != IncidentType.CUSTOM), None)
    said = kind and f"For example {str(kind.incident_type).replace('_', ' ')}."
    missing = "Every alert so far is of the type custom. Give it a label incident_type, or a name that says what broke."
    yield _item("type", "Type mapped", kind, said, incidents, missing)
    severity = next((one for one in incidents if _says_severity(one)), None)
    said = severity and f"For example {severity.severity}."
    missing = "No alert so far says how bad it is, so each is medium. Give it a label severity."
    yield _item("severity", "Severity mapped", severity, said, incidents, missing)
    ended = next((one for one in incidents if one.sender_ended or one.ended_by == EndedBy.SENDER), None)
    missing = "No alert has ended yet. Let one recover, and see that the tool sends resolved notifications."
    yield _item("recovery", "Recovery seen", ended, "The tool said that an alert is over.", incidents, missing)


def _item(name: str, title: str, example: Any, said: str | None, incidents: list[Any], missing: str) -> Item:
    if example:
        return Item(name, title, True, said or "", example.resolved_at if name == "recovery" else example.first_seen)
    return Item(name, title, False, missing if incidents else "Waits for the first alert.")


def _says_severity(incident: Any) -> bool:
    """Whether the tool has said it: medium is also what an alert without any severity becomes."""
    return incident.severity != Severity.MEDIUM or _names(incident.evidence, SAYS_SEVERITY)


def _names(evidence: Any, keys: tuple[str, ...], depth: int = 4) -> bool:
    if not isinstance(evidence, dict) or not depth:
        return False
    named = any(str(key).lower() in keys and value not in (None, "") for key, value in evidence.items())
    return named or any(_names(value, keys, depth - 1) for value in evidence.values())


def refusals(session: Session, source: Source, hours: int = 24, limit: int = 20) -> list[Any]:
    """The newest refused deliveries of the source that were kept."""
    statement = (
        select(Delivery.id, Delivery.received_at, Delivery.reason, Delivery.status_code, Delivery.message)
        .where(
            Delivery.tenant_id == source.tenant_id,
            Delivery.accepted.is_(False),
            Delivery.source_id == source.id,
            Delivery.id > first_id(now() - timedelta(hours=hours)),
        )
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    return list(session.execute(statement))
