"""Who works on which incident: claims with a lease, the lease of a cause, the state of the model, the token budget.

All of it is rows and conditional writes, so it holds for any number of workers and survives any of them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Select,
    Subquery,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from openremedy.ids import new_id
from openremedy.models import CauseLease, Incident, ModelState, TimelineEntry, TokenUsage, Triage, holds, now, table

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


def _mine(incident: Any, claim: Any) -> tuple[ColumnElement[bool], ...]:
    """What must hold for a row to be written by who made this claim."""
    return _incidents.c.id == incident, _incidents.c.claim == claim, _incidents.c.triage == Triage.CLASSIFYING


# Made once, and each row of a batch with the same: to build a statement takes longer than to run it.
_ENDING = ("triage", "triage_since", "cause", "fresh", "provisional", "retry_at", "model_attempts", "verdict_id")
_HELD = _mine(bindparam("b_id"), bindparam("b_claim"))
_SETTLE = (
    update(_incidents)
    .where(*_HELD)
    .values({name: bindparam(f"b_{name}") for name in _ENDING} | {"claim": None, "lease_until": None})
)
_LIMIT = bindparam("limit", type_=Integer)
_FREE = (
    select(Incident.id)
    .where(Incident.id.in_(bindparam("ids", expanding=True)), Incident.triage == Triage.PENDING)
    .order_by(Incident.id)
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(_incidents)
    .where(_incidents.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        triage=Triage.CLASSIFYING,
        attempts=_incidents.c.attempts + 1,
        claim=bindparam("b_claim"),
        lease_until=bindparam("b_lease_until"),
        retry_at=None,
    )
    .returning(*_incidents.c)
)
_GIVE_BACK = (
    update(_incidents)
    .where(*_HELD)
    .values(
        triage=Triage.PENDING,
        attempts=_incidents.c.attempts - 1,
        claim=None,
        lease_until=None,
        cause=bindparam("b_cause"),
    )
)


def _upsert(engine: Engine, model: Any) -> Any:
    """An insert that can say ON CONFLICT; each dialect has a class of its own."""
    kind = postgresql if engine.dialect.name == "postgresql" else sqlite
    return kind.insert(table(model))


# ---------------------------------------------------------------- incidents


def claim(
    engine: Engine, limit: int, lease: timedelta, tenant_id: int | None = None, most_in_hand: int | None = None
) -> list[Claim]:
    """Up to `limit` incidents that may be worked on together. What others hold at this moment is left out, so an
    empty list does not mean that nothing waits; `waiting` tells.

    A tenant's turn comes later the more of its incidents are being worked on or wait before this one, so whoever
    sends thousands does not hold up the one incident of another. Within a turn the oldest is first. With `tenant_id`
    only those of this tenant; with `most_in_hand` none that would give its tenant more than so many at work.
    """
    values = {"limit": limit, "tenant": tenant_id, "most_in_hand": most_in_hand}
    wanted = _claimable(engine.dialect.name, tenant_id is not None, most_in_hand is not None)
    return _claim(engine, wanted, values, lease)


# Statements are made once, with the moment and the like to be filled in: to build these takes longer than to run them.


@cache
def _claimable(dialect: str, one_tenant: bool, bounded: bool) -> Select[Any]:
    ready = (*_ready(one_tenant), Incident.attempts < SUSPECT_ATTEMPTS)
    first = _first_of_each_tenant(dialect, ready)
    # SQLite would walk through all that is done, for an index that has the tenants in order.
    whose = Incident.tenant_id if dialect == "postgresql" else Incident.tenant_id + 0
    in_hand = (
        select(whose.label("tenant_id"), func.count().label("count"))
        .where(Incident.triage == Triage.CLASSIFYING)
        .group_by(whose)
        .subquery()
    )
    place = func.row_number().over(partition_by=first.c.tenant_id, order_by=first.c.id)
    turn = (place + func.coalesce(in_hand.c.count, 0)).label("turn")
    queued = select(first.c.id, turn).outerjoin(in_hand, in_hand.c.tenant_id == first.c.tenant_id).subquery()
    wanted = select(queued.c.id).order_by(queued.c.turn, queued.c.id).limit(_LIMIT)
    return wanted.where(queued.c.turn <= bindparam("most_in_hand")) if bounded else wanted


def _first_of_each_tenant(dialect: str, ready: Sequence[ColumnElement[bool]]) -> Subquery:
    """The first `limit` of every tenant that has any: no more can be claimed, and what stands behind them, however
    many they are, is not read. Both steps walk ix_incidents_pending. SQLite, where one process of a small installation
    claims, reads all that waits: to bound it there took a walk past all that is done, for each that waits.
    """
    if dialect != "postgresql":
        return select(Incident.id, Incident.tenant_id).where(*ready).subquery()
    # Ordered by all of the index, or another that begins with the tenant would be walked past all that is done.
    pending = select(Incident.tenant_id).where(Incident.triage == Triage.PENDING)
    pending = pending.order_by(Incident.tenant_id, Incident.id).limit(1)
    tenants = select(pending.scalar_subquery().label("id")).cte("tenants", recursive=True)
    following = pending.where(Incident.tenant_id > tenants.c.id).scalar_subquery()
    tenants = tenants.union_all(select(following).where(tenants.c.id.is_not(None)))
    theirs = select(Incident.id).where(Incident.tenant_id == tenants.c.id, *ready).order_by(Incident.id)
    # Said like this because it can only be done like this. Where nothing is known yet of how much is pending,
    # which in a storm is usual, a join was planned so that it read all of it, and once more for each of its rows.
    first = theirs.limit(_LIMIT).correlate(tenants).lateral()
    return select(first.c.id, tenants.c.id.label("tenant_id")).join(first, true()).subquery()


def claim_suspect(engine: Engine, lease: timedelta, tenant_id: int | None = None) -> Claim | None:
    """One incident that may be what kills workers: claimed alone, so that others do not pay for it."""
    return next(iter(_claim(engine, _suspects(tenant_id is not None), {"limit": 1, "tenant": tenant_id}, lease)), None)


@cache
def _suspects(one_tenant: bool) -> Select[Any]:
    suspects = (*_ready(one_tenant), Incident.attempts >= SUSPECT_ATTEMPTS)
    # Ordered as their index is: by the id alone SQLite walks through all that is done.
    return select(Incident.id).where(*suspects).order_by(Incident.tenant_id, Incident.id).limit(_LIMIT)


def _ready(one_tenant: bool) -> tuple[ColumnElement[bool], ...]:
    """What may be claimed: it waits, its pause is over, and nobody asks the model about its cause just now."""
    moment = bindparam("moment", type_=_incidents.c.retry_at.type)
    # Not correlated, so that the database looks the leases up once and not for each of many thousands that wait.
    asked_about = select(CauseLease.tenant_id, CauseLease.cause).where(CauseLease.lease_until >= moment)
    unasked = or_(Incident.cause.is_(None), tuple_(Incident.tenant_id, Incident.cause).not_in(asked_about))
    due = or_(Incident.retry_at.is_(None), Incident.retry_at <= moment)
    theirs = (Incident.tenant_id == bindparam("tenant", type_=BigInteger),) if one_tenant else ()
    return Incident.triage == Triage.PENDING, due, unasked, *theirs


def _claim(engine: Engine, wanted: Select[Any], values: dict[str, Any], lease: timedelta) -> list[Claim]:
    moment = now()
    with engine.begin() as connection:
        # Looked up first and locked second, because a window cannot be locked.
        ids = list(connection.scalars(wanted, values | {"moment": moment}))
        return _take(connection, ids, moment, lease) if ids else []


def _take(connection: Connection, ids: Sequence[uuid.UUID], moment: datetime, lease: timedelta) -> list[Claim]:
    free = list(connection.scalars(_FREE, {"ids": ids}))
    batch = new_id()
    values = {"ids": free, "b_claim": batch, "b_lease_until": moment + lease}
    return [Claim(batch, row) for row in connection.execute(_TAKE, values).mappings()] if free else []


def give_back(connection: Connection, held: Sequence[tuple[Claim, str]]) -> None:
    """Put claimed incidents back to wait, each with its cause; the attempts do not count."""
    if held:
        connection.execute(_GIVE_BACK, [_of(claim) | {"b_cause": cause} for claim, cause in held])


def _of(held: Claim) -> dict[str, Any]:
    return {"b_id": held.incident["id"], "b_claim": held.id}


def settle(connection: Connection, ends: Sequence[tuple[Claim, dict[str, Any]]]) -> bool:
    """Write the ends of claims (all that _ENDING names); False when one of the incidents is somebody else's by now.
    Then only the others were written.
    """
    if not ends:
        return True
    rows = [_of(held) | {f"b_{name}": end[name] for name in _ENDING} for held, end in ends]
    return connection.execute(_SETTLE, rows, execution_options={"preserve_rowcount": True}).rowcount == len(rows)


def fail(engine: Engine, held: Claim, reason: str) -> None:
    """An attempt that broke: later again, or, when the attempts are spent, to a person."""
    attempts = held.incident["attempts"]
    spent = attempts >= MAX_ATTEMPTS
    pause = timedelta(seconds=5 * 2**attempts)
    values = (
        {"triage": Triage.NEEDS_HUMAN, "triage_since": now()}
        if spent
        else {"triage": Triage.PENDING, "retry_at": now() + pause}
    )
    free = values | {"claim": None, "lease_until": None}
    with engine.begin() as connection:
        settled = connection.execute(update(_incidents).where(*_mine(held.incident["id"], held.id)).values(free))
        if settled.rowcount and spent:
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
        .order_by(_incidents.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with engine.begin() as connection:
        rows = connection.execute(expired).mappings().all()
        spent = [row for row in rows if row["attempts"] >= MAX_ATTEMPTS]
        again = [row for row in rows if row["attempts"] < MAX_ATTEMPTS]
        _release(connection, spent, {"triage": Triage.NEEDS_HUMAN, "triage_since": now()})
        _release(connection, again, {"triage": Triage.PENDING})
        for row in spent:
            _say_needs_human(connection, row, f"{row['attempts']} attempts ended without an answer")
    return len(again), len(spent)


def _release(connection: Connection, rows: Sequence[Any], values: dict[str, Any]) -> None:
    free = values | {"claim": None, "lease_until": None, "retry_at": None}
    if rows:
        ids = [row["id"] for row in rows]
        connection.execute(update(_incidents).where(_incidents.c.id.in_(ids)).values(free))


def redo_provisional(engine: Engine, limit: int = 200) -> int:
    """Queue provisional verdicts again, newest first; a verdict stays until a better one is there."""
    moment = now()
    current = or_(_incidents.c.status != "resolved", _incidents.c.last_seen > moment - timedelta(hours=24))
    chosen = (
        select(_incidents.c.id)
        .where(
            holds(_incidents.c.provisional),
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


def waiting(engine: Engine, tenant_id: int | None = None, beyond: int = 0) -> bool:
    """Whether an incident could be claimed now: any, or one of this tenant; and more than `beyond` of them."""
    values = {"moment": now(), "tenant": tenant_id, "beyond": beyond}
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.execute(_waiting(tenant_id is not None), values).first() is not None


@cache
def _waiting(one_tenant: bool) -> Select[Any]:
    return select(Incident.id).where(*_ready(one_tenant)).limit(1).offset(bindparam("beyond", type_=Integer))


# ---------------------------------------------------------------- causes


class Turn(StrEnum):
    """Who asks the model about a cause."""

    MINE = "mine"
    # Somebody asks already: the incident was put back and is ready again when that call has ended.
    WAIT = "wait"
    # The model gave no usable answer a short while ago.
    FAILED = "failed"


def take_cause(engine: Engine, held: Claim, cause: str, lease: timedelta) -> Turn:
    """Try to become the one who asks the model about a cause."""
    moment = now()
    leases = table(CauseLease)
    key = {"tenant_id": held.incident["tenant_id"], "cause": cause}
    mine = {"holder": held.incident["id"], "lease_until": moment + lease, "failed_until": None}
    # The holder itself comes back when its worker was lost.
    over = (leases.c.lease_until < moment) | (leases.c.holder == held.incident["id"])
    rested = leases.c.failed_until.is_(None) | (leases.c.failed_until < moment)
    taken = (
        _upsert(engine, CauseLease)
        .values(**key, **mine)
        .on_conflict_do_update(index_elements=list(key), set_=mine, where=over & rested)
        .returning(leases.c.holder)
    )
    with engine.begin() as connection:
        if connection.execute(taken).first():
            return Turn.MINE
        # The row is locked since the upsert, also where its condition did not hold.
        held_until = connection.execute(select(leases.c.lease_until).filter_by(**key)).scalar_one()
        if held_until < moment:
            return Turn.FAILED
        give_back(connection, [(held, cause)])
        return Turn.WAIT


def leave_cause(engine: Engine, held: Claim, cause: str, *, failed: bool) -> None:
    """End one's turn; those who wait for this cause may then be claimed."""
    leases = table(CauseLease)
    mine = (
        leases.c.tenant_id == held.incident["tenant_id"],
        leases.c.cause == cause,
        leases.c.holder == held.incident["id"],
    )
    moment = now()
    ended = {"holder": None, "lease_until": moment - timedelta(seconds=1), "failed_until": moment + CAUSE_PAUSE}
    with engine.begin() as connection:
        connection.execute(update(leases).where(*mine).values(ended) if failed else delete(leases).where(*mine))


def others_ask(engine: Engine, held: Claim) -> bool:
    """Whether the model is asked just now about another cause of this tenant."""
    asking = select(CauseLease.cause).where(
        CauseLease.tenant_id == held.incident["tenant_id"],
        CauseLease.holder != held.incident["id"],
        CauseLease.lease_until >= now(),
    )
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.execute(asking.limit(1)).first() is not None


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
        failures = row.failures if row else 0
        known: datetime | None = row.away_until if row and row.away_until and row.away_until > now() else None
        until = now() + timedelta(seconds=_pause(failures, retry_after))
        if known and (retry_after is None or until <= known):
            return known
        values = {"away_until": until, "reason": reason[:500], "failures": failures + (known is None)}
        statement = _upsert(engine, ModelState).values(id=_STATE_ROW, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    return until


def _pause(failures: int, retry_after: float | None) -> float:
    if retry_after is not None:
        return min(max(retry_after, 1), LONGEST_RETRY_AFTER)
    return min(FIRST_PAUSE * 2.0 ** min(failures, 10), LONGEST_PAUSE)


def model_answered(engine: Engine) -> None:
    """The model is back."""
    states = table(ModelState)
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        if not connection.execute(select(states.c.failures).where(states.c.failures > 0)).first():
            return
    with engine.begin() as connection:
        connection.execute(update(states).values(away_until=None, reason=None, failures=0))


def reserve_tokens(engine: Engine, tenant_id: int, tokens: int, limit: int) -> date | None:
    """Take `tokens` out of today's budget (limit 0 = none); the day they are of, None when they are not there."""
    day = now().date()
    usage = table(TokenUsage)
    raised = usage.c.tokens + tokens
    statement = _upsert(engine, TokenUsage).values(tenant_id=tenant_id, day=day, tokens=tokens)
    taken = statement.on_conflict_do_update(
        index_elements=["tenant_id", "day"], set_={"tokens": raised}, where=(raised <= limit) if limit else None
    ).returning(usage.c.tokens)
    if limit and tokens > limit:
        return None
    with engine.begin() as connection:
        return day if connection.execute(taken).first() else None


def correct_tokens(engine: Engine, tenant_id: int, day: date, difference: int) -> None:
    """Replace what was reserved by what was used; `difference` = used - reserved."""
    usage = table(TokenUsage)
    of_day = (usage.c.tenant_id == tenant_id, usage.c.day == day)
    with engine.begin() as connection:
        connection.execute(update(usage).where(*of_day).values(tokens=usage.c.tokens + difference))


def next_budget() -> datetime:
    """When the daily budget begins anew: midnight UTC."""
    return (now() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
