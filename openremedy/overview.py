"""What the first page shows of one tenant, from few queries that indexes answer; Redis may be away."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import Session

from openremedy import incidents, sources
from openremedy.alerts import Outcome
from openremedy.ids import first_id
from openremedy.incidents import Filters
from openremedy.models import (
    Incident,
    IncidentStatus,
    ModelState,
    RefusalCount,
    Source,
    Tenant,
    TokenUsage,
    Triage,
    Verdict,
    now,
    table,
)
from openremedy.queue import QueueState
from openremedy.services import Services
from openremedy.tally import CANONICAL

HOURS = 24
_incidents = table(Incident)


@dataclass(frozen=True)
class Hour:
    """The incidents that began in an hour, by type; a type without any is left out."""

    start: datetime
    by_type: Mapping[str, int]


@dataclass(frozen=True)
class SourceState:
    """What came of what a source sent: alerts by outcome since ever, refusals by reason in the last 24 hours."""

    id: int
    adapter: str
    name: str
    disabled: bool
    last_seen: datetime | None
    heartbeat: datetime | None  # the last one
    silent: bool | None  # as sources.silent() has it
    outcomes: Mapping[str, int]
    refusals: Mapping[str, int]

    @property
    def never_heard(self) -> bool:
        """Whether nothing of it was ever accepted."""
        return self.last_seen is None


class ModelMode(StrEnum):
    """Whether a model is asked about this tenant's incidents."""

    OFF = "off"  # none is configured
    DECLINED = "declined"  # the tenant does not want it
    ON = "on"
    AWAY = "away"


@dataclass(frozen=True)
class Model:
    """`host` is where evidence goes, `reason` why the model is away; `budget` 0 = none."""

    mode: ModelMode
    host: str | None
    reason: str | None
    tokens_today: int
    budget: int


@dataclass(frozen=True)
class Overview:
    """All of it at one moment. `hours`: 24, oldest first, the last is not over. `queue` None: not to be told."""

    at: datetime
    open: Mapping[str, int]
    acknowledged: Mapping[str, int]
    needs_human: int
    pending: int
    oldest_pending: datetime | None
    hours: tuple[Hour, ...]
    sources: tuple[SourceState, ...]
    canonical_refusals: Mapping[str, int]
    model: Model
    queue: QueueState | None


@dataclass(frozen=True)
class Related:
    """Other incidents of the tenant, newest first, as a list has them."""

    same_host: list[dict[str, Any]]
    same_cause: list[dict[str, Any]]


def overview(session: Session, services: Services, tenant_id: int) -> Overview:
    """The tenant as it is now. Waits half a second for Redis at most."""
    at = now()
    standing = _standing(session, tenant_id)
    pending, oldest = _waiting(session, tenant_id)
    refused = _refusals(session, tenant_id, at - timedelta(hours=HOURS))
    return Overview(
        at=at,
        open=_by_severity(standing, IncidentStatus.OPEN),
        acknowledged=_by_severity(standing, IncidentStatus.ACKNOWLEDGED),
        needs_human=sum(count for (_, _, triage), count in standing.items() if triage == Triage.NEEDS_HUMAN),
        pending=pending,
        oldest_pending=oldest,
        hours=_hours(session, tenant_id, at),
        sources=_sources(session, tenant_id, at, refused),
        canonical_refusals=refused.get(CANONICAL, {}),
        model=_model(session, services, tenant_id, at),
        queue=services.waker.state(),
    )


def related(session: Session, tenant_id: int, incident_id: UUID, limit: int = 5) -> Related:
    """What else happened on the same host, and from the same cause. An incident of another tenant has none."""
    of_tenant = (Incident.tenant_id == tenant_id, Incident.id == incident_id)
    hostname = session.scalar(select(Incident.hostname).where(*of_tenant))
    if hostname is None:
        return Related([], [])
    near = incidents.page(session, tenant_id, Filters(hostname=hostname), None, limit + 1)
    same_host = [one for one in near if one["id"] != str(incident_id)][:limit]
    return Related(same_host, _same_cause(session, tenant_id, incident_id, limit))


def _same_cause(session: Session, tenant_id: int, incident_id: UUID, limit: int) -> list[dict[str, Any]]:
    """By the newest verdicts about the cause, of which an incident may have several."""
    mine = select(Verdict.cause).where(Verdict.tenant_id == tenant_id, Verdict.incident_id == incident_id)
    cause = session.scalar(mine.order_by(Verdict.id.desc()).limit(1))
    if cause is None:
        return []
    others = (
        select(Verdict.incident_id)
        .where(Verdict.tenant_id == tenant_id, Verdict.cause == cause, Verdict.incident_id != incident_id)
        .order_by(Verdict.id.desc())
        .limit(limit * 4)
    )
    newest = sorted(set(session.scalars(others)), reverse=True)[:limit]
    return incidents.of_ids(session, tenant_id, newest)


# ---------------------------------------------------------------- incidents


_Standing = Mapping[tuple[str, str, str], int]


def _standing(session: Session, tenant_id: int) -> _Standing:
    """How many are not resolved, by status, severity and triage."""
    groups = (Incident.status, Incident.severity, Incident.triage)
    statement = (
        select(*groups, func.count())
        .where(Incident.tenant_id == tenant_id, Incident.status != IncidentStatus.RESOLVED)
        .group_by(*groups)
    )
    return {(status, severity, triage): count for status, severity, triage, count in session.execute(statement)}


def _by_severity(standing: _Standing, status: IncidentStatus) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for (one, severity, _), count in standing.items():
        if one == status:
            found[str(severity)] += count
    return dict(found)


def _waiting(session: Session, tenant_id: int) -> tuple[int, datetime | None]:
    """How many have no verdict yet and since when the oldest waits; one query for each of the two partial indexes."""
    count, oldest = 0, []
    for triage in (Triage.PENDING, Triage.CLASSIFYING):
        waiting = (Incident.tenant_id == tenant_id, Incident.triage == triage)
        some, since = session.execute(select(func.count(), func.min(Incident.triage_since)).where(*waiting)).one()
        count += some
        oldest += [since] if since else []
    return count, min(oldest, default=None)


def _hours(session: Session, tenant_id: int, at: datetime) -> tuple[Hour, ...]:
    """By the identifiers, which tell when they were made, so that the index of the list is all that is read."""
    last = at.replace(minute=0, second=0, microsecond=0)
    starts = [last - timedelta(hours=HOURS - 1 - number) for number in range(HOURS)]
    began = select(_hour(starts).label("hour"), _incidents.c.incident_type).where(
        _incidents.c.tenant_id == tenant_id, _incidents.c.id >= first_id(starts[0])
    )
    each = began.subquery()
    counted = select(each.c.hour, each.c.incident_type, func.count()).group_by(each.c.hour, each.c.incident_type)
    found: list[dict[str, int]] = [{} for _ in starts]
    for hour, kind, count in session.execute(counted):
        found[hour][str(kind)] = count
    return tuple(Hour(start, by_type) for start, by_type in zip(starts, found, strict=True))


def _hour(starts: list[datetime]) -> ColumnElement[int]:
    ends = [(_incidents.c.id < first_id(end), literal(number)) for number, end in enumerate(starts[1:])]
    return case(*ends, else_=literal(HOURS - 1))


# ---------------------------------------------------------------- sources


def _refusals(session: Session, tenant_id: int, since: datetime) -> dict[int, dict[str, int]]:
    """By source and reason."""
    groups = (RefusalCount.source_id, RefusalCount.reason)
    statement = (
        select(*groups, func.sum(RefusalCount.count))
        .where(RefusalCount.tenant_id == tenant_id, RefusalCount.minute >= since)
        .group_by(*groups)
    )
    found: dict[int, dict[str, int]] = {}
    for source_id, reason, count in session.execute(statement):
        found.setdefault(source_id, {})[reason] = int(count)
    return found


def _sources(
    session: Session, tenant_id: int, at: datetime, refused: Mapping[int, Mapping[str, int]]
) -> tuple[SourceState, ...]:
    statement = select(Source).where(Source.tenant_id == tenant_id).order_by(Source.name)
    return tuple(
        SourceState(
            id=source.id,
            adapter=source.adapter,
            name=source.name,
            disabled=source.disabled_at is not None,
            last_seen=source.last_seen_at,
            heartbeat=source.heartbeat_at,
            silent=sources.silent(source, at),
            outcomes={str(one): getattr(source, f"{one}_count") for one in Outcome},
            refusals=refused.get(source.id, {}),
        )
        for source in session.scalars(statement)
    )


# ---------------------------------------------------------------- the model


def _model(session: Session, services: Services, tenant_id: int, at: datetime) -> Model:
    settings = services.settings
    chosen = select(Tenant.model_allowed, Tenant.daily_tokens).where(Tenant.id == tenant_id)
    allowed, daily = session.execute(chosen).one()
    of_today = (TokenUsage.tenant_id == tenant_id, TokenUsage.day == at.date())
    used = session.scalar(select(TokenUsage.tokens).where(*of_today)) or 0
    mode, reason = _mode(session, settings.model_enabled, allowed)
    host = settings.model_host if settings.model_enabled else None
    return Model(mode, host, reason, used, settings.llm_daily_tokens if daily is None else daily)


def _mode(session: Session, enabled: bool, allowed: bool) -> tuple[ModelMode, str | None]:
    if not enabled:
        return ModelMode.OFF, None
    if not allowed:
        return ModelMode.DECLINED, None
    away = session.execute(select(ModelState.reason).where(ModelState.away_until.is_not(None))).first()
    return (ModelMode.AWAY, away.reason) if away else (ModelMode.ON, None)
