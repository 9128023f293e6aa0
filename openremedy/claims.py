"""Who works on which incident: claims with a lease, the lease of a cause, the state of the model, the token budget.

All of it is rows and conditional writes, so it holds for any number of workers and survives any of them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from openremedy.ids import new_id
from openremedy.models import CauseLease, Incident, ModelState, TimelineEntry, TokenUsage, Triage, now, table

MAX_ATTEMPTS = 5
# An incident that was claimed twice without a verdict may be what kills the worker: it is then claimed alone.
SUSPECT_ATTEMPTS = 2
FIRST_PAUSE = 15  # seconds the model is left alone after a failure, doubled with each further one
LONGEST_PAUSE = 300
LONGEST_RETRY_AFTER = 600
CAUSE_PAUSE = timedelta(minutes=5)
_STATE_ROW = 1

_incidents = table(Incident)


@dataclass(frozen=True)
class Claim:
    """An incident somebody works on; `id` is the batch it was claimed with."""

    id: uuid.UUID
    incident: Any  # a row of the table


def _upsert(connection: Connection, model: Any) -> Any:
    """An insert that can say ON CONFLICT; each dialect has a class of its own."""
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    return kind.insert(table(model))


# ---------------------------------------------------------------- incidents


def claim(engine: Engine, limit: int, lease: timedelta) -> list[Claim]:
    """Up to `limit` pending incidents, one of each tenant before a second of any; oldest first."""
    moment = now()
    ready = (Incident.triage == Triage.PENDING, or_(Incident.retry_at.is_(None), Incident.retry_at <= moment))
    turn = func.row_number().over(partition_by=Incident.tenant_id, order_by=Incident.id)
    queued = select(Incident.id, Incident.attempts, turn.label("turn")).where(*ready).subquery()
    fair = select(queued.c.id).order_by(queued.c.turn, queued.c.id).limit(limit)
    with engine.begin() as connection:
        # Looked up first and locked second: a window cannot be locked, and a row taken in between is skipped.
        ids = list(connection.scalars(fair))
        locked = select(Incident.id, Incident.attempts).where(Incident.id.in_(ids), *ready)
        rows = connection.execute(locked.order_by(Incident.id).with_for_update(skip_locked=True)).all()
        chosen = _without_suspects(rows)
        if not chosen:
            return []
        batch = new_id()
        taken = (
            update(_incidents)
            .where(_incidents.c.id.in_(chosen))
            .values(
                triage=Triage.CLASSIFYING,
                triage_since=moment,
                attempts=_incidents.c.attempts + 1,
                claim=batch,
                lease_until=moment + lease,
                retry_at=None,
            )
            .returning(*_incidents.c)
        )
        return [Claim(batch, row) for row in connection.execute(taken).mappings()]


def _without_suspects(rows: Sequence[Any]) -> list[uuid.UUID]:
    good = [row.id for row in rows if row.attempts < SUSPECT_ATTEMPTS]
    return good or [row.id for row in rows[:1]]


def give_back(engine: Engine, held: Claim, until: datetime | None, cause: str) -> None:
    """Put a claimed incident back to wait for its cause's answer; the attempt does not count."""
    statement = (
        update(_incidents)
        .where(_incidents.c.id == held.incident["id"], _mine(held))
        .values(
            triage=Triage.PENDING,
            attempts=_incidents.c.attempts - 1,
            claim=None,
            lease_until=None,
            retry_at=until,
            cause=cause,
        )
    )
    with engine.begin() as connection:
        connection.execute(statement)


def _mine(held: Claim) -> Any:
    return (_incidents.c.claim == held.id) & (_incidents.c.triage == Triage.CLASSIFYING)


def settle(connection: Connection, held: Claim, values: dict[str, Any]) -> bool:
    """Write the end of a claim; False when the incident is somebody else's by now, then nothing was written."""
    done = values | {"claim": None, "lease_until": None, "fresh": False, "triage_since": now()}
    statement = update(_incidents).where(_incidents.c.id == held.incident["id"], _mine(held)).values(done)
    return connection.execute(statement).rowcount == 1


def fail(engine: Engine, held: Claim, reason: str) -> None:
    """An attempt that broke: later again, or, when the attempts are spent, to a person."""
    attempts = held.incident["attempts"]
    spent = attempts >= MAX_ATTEMPTS
    pause = timedelta(seconds=5 * 2**attempts)
    values = (
        {"triage": Triage.NEEDS_HUMAN, "retry_at": None}
        if spent
        else {"triage": Triage.PENDING, "retry_at": now() + pause}
    )
    with engine.begin() as connection:
        if settle(connection, held, values) and spent:
            _say_needs_human(connection, held.incident, f"{attempts} attempts failed: {reason}")


def _say_needs_human(connection: Connection, incident: Any, reason: str) -> None:
    row = {
        "tenant_id": incident["tenant_id"],
        "incident_id": incident["id"],
        "at": now(),
        "kind": "needs_human",
        "actor": "classifier",
        "detail": {"reason": reason},
    }
    connection.execute(insert(table(TimelineEntry)), row)


def requeue_lost(engine: Engine, limit: int = 500) -> tuple[int, int]:
    """Take back incidents whose worker vanished; returns how many wait again and how many went to a person."""
    expired = (
        select(_incidents.c.id, _incidents.c.tenant_id, _incidents.c.attempts)
        .where(_incidents.c.triage == Triage.CLASSIFYING, _incidents.c.lease_until < now())
        .order_by(_incidents.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with engine.begin() as connection:
        rows = connection.execute(expired).mappings().all()
        spent = [row for row in rows if row["attempts"] >= MAX_ATTEMPTS]
        again = [row for row in rows if row["attempts"] < MAX_ATTEMPTS]
        _release(connection, spent, Triage.NEEDS_HUMAN)
        _release(connection, again, Triage.PENDING)
        for row in spent:
            _say_needs_human(connection, row, f"{row['attempts']} attempts ended without an answer")
    return len(again), len(spent)


def _release(connection: Connection, rows: Sequence[Any], triage: Triage) -> None:
    values = {"triage": triage, "claim": None, "lease_until": None, "retry_at": None, "triage_since": now()}
    if rows:
        ids = [row["id"] for row in rows]
        connection.execute(update(_incidents).where(_incidents.c.id.in_(ids)).values(values))


def redo_provisional(engine: Engine, limit: int = 200) -> int:
    """Queue provisional verdicts again, newest first; a verdict stays until a better one is there."""
    moment = now()
    current = or_(_incidents.c.status != "resolved", _incidents.c.last_seen > moment - timedelta(hours=24))
    chosen = (
        select(_incidents.c.id)
        .where(
            _incidents.c.provisional,
            _incidents.c.triage.in_((Triage.DONE, Triage.NEEDS_HUMAN)),
            or_(_incidents.c.retry_at.is_(None), _incidents.c.retry_at <= moment),
            current,
        )
        .order_by(_incidents.c.id.desc())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with engine.begin() as connection:
        ids = list(connection.scalars(chosen))
        values = {"triage": Triage.PENDING, "triage_since": moment, "attempts": 0, "retry_at": None}
        connection.execute(update(_incidents).where(_incidents.c.id.in_(ids)).values(values))
    return len(ids)


def waiting(engine: Engine) -> bool:
    """Whether an incident could be claimed now."""
    ready = (Incident.triage == Triage.PENDING, or_(Incident.retry_at.is_(None), Incident.retry_at <= now()))
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.execute(select(Incident.id).where(*ready).limit(1)).first() is not None


# ---------------------------------------------------------------- causes


@dataclass(frozen=True)
class CauseTurn:
    """`mine`: ask the model. Else wait `until` another's call ends, or, with None, do without the model."""

    mine: bool
    until: datetime | None = None


def take_cause(engine: Engine, held: Claim, cause: str, lease: timedelta) -> CauseTurn:
    """Try to become the one who asks the model about a cause."""
    moment = now()
    leases = table(CauseLease)
    tenant_id = held.incident["tenant_id"]
    holder = held.incident["id"]
    with engine.begin() as connection:
        statement = _upsert(connection, CauseLease).values(
            tenant_id=tenant_id, cause=cause, holder=holder, lease_until=moment + lease, failed_until=None
        )
        taken = statement.on_conflict_do_update(
            index_elements=["tenant_id", "cause"],
            set_={"holder": holder, "lease_until": moment + lease, "failed_until": None},
            where=(leases.c.lease_until < moment)
            & or_(leases.c.failed_until.is_(None), leases.c.failed_until < moment),
        ).returning(leases.c.holder)
        if connection.execute(taken).first():
            return CauseTurn(mine=True)
        row = connection.execute(
            select(leases).where(leases.c.tenant_id == tenant_id, leases.c.cause == cause)
        ).first()
    if row is None:  # given up between the two statements
        return CauseTurn(mine=False, until=moment)
    return CauseTurn(mine=False, until=row.lease_until if row.lease_until >= moment else None)


def leave_cause(engine: Engine, held: Claim, cause: str, *, failed: bool) -> None:
    """End one's turn and let those who wait for this cause go on."""
    leases = table(CauseLease)
    mine = (
        leases.c.tenant_id == held.incident["tenant_id"],
        leases.c.cause == cause,
        leases.c.holder == held.incident["id"],
    )
    waiters = (
        _incidents.c.tenant_id == held.incident["tenant_id"],
        _incidents.c.triage == Triage.PENDING,
        _incidents.c.cause == cause,
    )
    with engine.begin() as connection:
        if failed:
            moment = now()
            values = {"holder": None, "lease_until": moment, "failed_until": moment + CAUSE_PAUSE}
            connection.execute(update(leases).where(*mine).values(values))
        else:
            connection.execute(delete(leases).where(*mine))
        connection.execute(update(_incidents).where(*waiters).values(retry_at=None))


# ---------------------------------------------------------------- the model


def away_until(engine: Engine) -> datetime | None:
    """When the model may be asked again, or None when it may be asked now."""
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        found = connection.execute(select(ModelState.away_until)).scalar()
    return found if found and found > now() else None


def model_failed(engine: Engine, reason: str, retry_after: float | None) -> datetime:
    """Leave the model alone for a while, longer each time; returns until when.

    Calls that were in flight together fail together: they count as one failure.
    """
    states = table(ModelState)
    with engine.begin() as connection:
        row = connection.execute(select(states).with_for_update()).first()
        if row and row.away_until and row.away_until > now() and retry_after is None:
            return row.away_until  # type: ignore[no-any-return]
        failures = row.failures if row else 0
        pause = min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE)
        if retry_after is not None:
            pause = min(max(retry_after, 1), LONGEST_RETRY_AFTER)
        until = now() + timedelta(seconds=pause)
        values = {"away_until": until, "reason": reason[:500], "failures": failures + 1}
        statement = _upsert(connection, ModelState).values(id=_STATE_ROW, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    return until


def model_answered(engine: Engine) -> None:
    """The model is back."""
    states = table(ModelState)
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        if not connection.execute(select(states.c.failures).where(states.c.failures > 0)).first():
            return
    with engine.begin() as connection:
        connection.execute(update(states).values(away_until=None, reason=None, failures=0))


def reserve_tokens(engine: Engine, tenant_id: int, tokens: int, limit: int) -> bool:
    """Take `tokens` out of today's budget (limit 0 = none); False when they are not there."""
    with engine.begin() as connection:
        usage = table(TokenUsage)
        statement = _upsert(connection, TokenUsage).values(tenant_id=tenant_id, day=now().date(), tokens=tokens)
        raised = usage.c.tokens + tokens
        if limit and tokens > limit:
            return False
        taken = statement.on_conflict_do_update(
            index_elements=["tenant_id", "day"],
            set_={"tokens": raised},
            where=(raised <= limit) if limit else None,
        ).returning(usage.c.tokens)
        return connection.execute(taken).first() is not None


def correct_tokens(engine: Engine, tenant_id: int, difference: int) -> None:
    """Replace what was reserved by what was used; `difference` = used - reserved."""
    usage = table(TokenUsage)
    statement = (
        update(usage)
        .where(usage.c.tenant_id == tenant_id, usage.c.day == now().date())
        .values(tokens=usage.c.tokens + difference)
    )
    with engine.begin() as connection:
        connection.execute(statement)


def next_budget() -> datetime:
    """When the daily budget begins anew: midnight UTC."""
    return (now() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
