"""The incidents that wait for a person, and why each of them does."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session

from openremedy.models import Incident, IncidentStatus, TimelineEntry, Triage, Verdict


class Why(StrEnum):
    """Why a person has to look."""

    UNSURE = "unsure"  # a recipe, below the threshold or with the words against it
    NONE = "none"  # no recipe fits
    SUSPICION = "suspicion"  # the evidence may be talking to the model
    FAILED = "failed"  # no verdict came about


# A cause that begins so was set apart by the classifier: its evidence is under suspicion.
_SUSPECT = "!"


@dataclass(frozen=True)
class Waiting:
    """One of the queue, without its evidence."""

    id: uuid.UUID
    hostname: str
    incident_type: str
    severity: str
    status: str
    first_seen: datetime
    why: Why
    recipe: str | None


def count(session: Session, tenant_id: int) -> int:
    """How many open incidents wait for a person."""
    return session.scalar(_waiting(select(func.count(Incident.id)), tenant_id)) or 0


def counts(session: Session, tenant_id: int) -> dict[Why, int]:
    """The same by the reason."""
    return {why: session.scalar(_because(select(func.count(Incident.id)), tenant_id, why)) or 0 for why in Why}


def queue(session: Session, tenant_id: int, why: Why | None, after: uuid.UUID | None, limit: int) -> Sequence[Waiting]:
    """Who waits, newest first, from the one behind `after` on."""
    columns = (
        *(Incident.id, Incident.hostname, Incident.incident_type, Incident.severity, Incident.status),
        *(Incident.first_seen, Incident.cause, Incident.verdict_id, Verdict.recipe),
    )
    statement = _because(cast(Select[Any], select(*columns)), tenant_id, why)
    if after:
        statement = statement.where(Incident.id < after)
    rows = session.execute(statement.order_by(Incident.id.desc()).limit(limit)).all()
    return [
        Waiting(
            row.id,
            row.hostname,
            str(row.incident_type),
            str(row.severity),
            str(row.status),
            row.first_seen,
            _why(row),
            row.recipe,
        )
        for row in rows
    ]


def reason(session: Session, incident_id: uuid.UUID) -> str | None:
    """The classifier's own words for why it asks a person."""
    statement = (
        select(TimelineEntry.detail)
        .where(TimelineEntry.incident_id == incident_id, TimelineEntry.kind == "needs_human")
        .order_by(TimelineEntry.id.desc())
        .limit(1)
    )
    detail: dict[str, Any] = session.scalar(statement) or {}
    return detail.get("reason")


def _waiting(statement: Select[Any], tenant_id: int) -> Select[Any]:
    return statement.where(
        Incident.tenant_id == tenant_id,
        Incident.triage == Triage.NEEDS_HUMAN,
        Incident.status != IncidentStatus.RESOLVED,
    )


def _because(statement: Select[Any], tenant_id: int, why: Why | None) -> Select[Any]:
    statement = _waiting(statement.select_from(Incident), tenant_id).outerjoin(
        Verdict, Verdict.id == Incident.verdict_id
    )
    suspect = func.coalesce(func.substr(Incident.cause, 1, 1), "") == _SUSPECT
    conditions: dict[Why | None, ColumnElement[bool]] = {
        Why.FAILED: Incident.verdict_id.is_(None),
        Why.SUSPICION: and_(Incident.verdict_id.is_not(None), suspect),
        Why.NONE: and_(Incident.verdict_id.is_not(None), ~suspect, Verdict.recipe.is_(None)),
        Why.UNSURE: and_(Incident.verdict_id.is_not(None), ~suspect, Verdict.recipe.is_not(None)),
    }
    return statement.where(conditions[why]) if why else statement


def _why(row: Any) -> Why:
    if row.verdict_id is None:
        return Why.FAILED
    if (row.cause or "").startswith(_SUSPECT):
        return Why.SUSPICION
    return Why.UNSURE if row.recipe else Why.NONE
