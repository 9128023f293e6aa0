"""What the scheduler does: find lost work, close what is stale, delete what is old. Several may run at once."""

import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Engine, and_, delete, or_, select
from sqlalchemy.exc import SQLAlchemyError

from openremedy import claims, follow_ups, lifecycle, meters, people, search, store
from openremedy.ids import first_id
from openremedy.lifecycle import Episode, Track
from openremedy.models import (
    CauseLease,
    Delivery,
    Incident,
    IncidentStatus,
    Link,
    OutgoingMessage,
    RefusalCount,
    SignIn,
    Source,
    Submission,
    Tenant,
    TokenUsage,
    now,
    table,
)
from openremedy.services import Services

log = structlog.get_logger()

PRUNE_SECONDS = 3600
PRUNE_AT_ONCE = 20.0  # seconds between two sweeps
# After a start or an absence of the database: what could not be repeated to us meanwhile is repeated within a minute.
CATCH_UP_SECONDS = 90
BATCH = 500
SUBMISSIONS_KEPT = timedelta(days=1)  # nobody sends a form again later
LINKS_KEPT = timedelta(days=30)  # after their end: whoever follows an old one is told that its time is over
STALE_BATCH = 200


def run(services: Services, engine: Engine, stopped: threading.Event, seconds: float) -> None:
    """Sweep every `seconds`, prune every hour, until stopped. An absent database is waited for."""
    courier = meters.Courier(services.redis)
    pruned_at = float("-inf")
    back_at = time.monotonic()
    while not stopped.is_set():
        try:
            found = sweep(services, engine, expire=time.monotonic() - back_at > CATCH_UP_SECONDS)
            meters.swept(found, time.time())
            if any(found.values()):
                log.info("sweep.done", **found)
            if time.monotonic() - pruned_at > PRUNE_SECONDS:
                enough = _enough(stopped)
                deleted = prune(engine, services.settings.retention_days, enough)
                meters.pruned(deleted)
                log.info("prune.done", **deleted)
                # What is left has its turn after the next sweep, which must not wait for years of rows.
                pruned_at = pruned_at if enough() else time.monotonic()
        except SQLAlchemyError as error:
            log.error("scheduler.database_away", error=type(error).__name__)
            back_at = time.monotonic()
        courier.bring()
        stopped.wait(seconds)


def _enough(stopped: threading.Event) -> Callable[[], bool]:
    end = time.monotonic() + PRUNE_AT_ONCE
    return lambda: stopped.is_set() or time.monotonic() > end


def sweep(services: Services, engine: Engine, expire: bool = True) -> dict[str, int]:
    """One round: lost claims, stale incidents, provisional verdicts; then wake a worker if anything waits for one."""
    requeued, given_up = claims.requeue_lost(engine)
    stale = close_stale(engine) + (close_expired(engine) if expire else 0)
    redone = 0
    if services.settings.model_enabled and not claims.away_until(engine):
        redone = claims.redo_provisional(engine)
    if claims.waiting(engine):
        services.waker.wake()
    if follow_ups.waiting(engine):
        services.follow_up_waker.wake()
    # Last, for it may take some seconds and nobody waits for it.
    indexed = search.catch_up(engine)
    return {"requeued": requeued, "given_up": given_up, "stale": stale, "redone": redone, "indexed": indexed}


def close_stale(engine: Engine) -> int:
    """Close open incidents of sources that never say "resolved" and were silent for the source's `stale_after`."""
    moment = now()
    closed = 0
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        sources = connection.execute(
            select(Source.id, Source.tenant_id, Source.stale_after).where(Source.stale_after.is_not(None))
        ).all()
    for source_id, tenant_id, stale_after in sources:
        limit = moment - timedelta(seconds=stale_after or 0)
        closed += _close_stale_of(engine, source_id, tenant_id, limit, moment)
    return closed


def close_expired(engine: Engine) -> int:
    """Close open incidents whose sender had to repeat them by now and has not (Prometheus without an Alertmanager)."""
    moment = now()
    overdue = (
        select(Incident.tenant_id, Incident.id)
        .where(Incident.expires_at < moment, Incident.status != IncidentStatus.RESOLVED)
        .limit(STALE_BATCH)
    )
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        found = connection.execute(overdue).all()
    return sum(
        _close(engine, tenant_id, incident_id, moment, lambda one: bool(one.expires_at and one.expires_at < moment))
        for tenant_id, incident_id in found
    )


def _close_stale_of(engine: Engine, source_id: int, tenant_id: int, limit: datetime, moment: datetime) -> int:
    silent = (
        select(Incident.id)
        .where(Incident.source_id == source_id, Incident.status != IncidentStatus.RESOLVED, Incident.last_seen < limit)
        .limit(STALE_BATCH)
    )
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        ids = list(connection.scalars(silent))
    return sum(_close(engine, tenant_id, one, moment, lambda episode: episode.last_seen < limit) for one in ids)


def _close(
    engine: Engine, tenant_id: int, incident_id: uuid.UUID, moment: datetime, holds: Callable[[Episode], bool]
) -> bool:
    """Close one incident as stale, unless it has been seen again since it was listed."""
    with engine.begin() as connection:
        episode = store.load_locked(connection, tenant_id, incident_id)
        if episode is None or not holds(episode):
            return False
        track = Track(latest=episode)
        closed = lifecycle.close(track, episode, moment, ended_by="stale", actor="scheduler")
        store.write_track(connection, tenant_id, moment, track)
        return closed


def prune(engine: Engine, days: int, enough: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Delete what is older than `days`, or than a tenant's own shorter time, in small transactions with pauses; open
    incidents stay whatever their age. `enough` is asked between two transactions whether to leave the rest for later.
    """
    moment = now()
    counts = _prune_old(engine, moment - timedelta(days=days), None, enough)
    for tenant_id, own in _shorter_retention(engine, days):
        of_tenant = _prune_old(engine, moment - timedelta(days=own), tenant_id, enough)
        counts = {name: count + of_tenant[name] for name, count in counts.items()}
    return counts | _prune_traces(engine, moment)


def _shorter_retention(engine: Engine, days: int) -> list[tuple[int, int]]:
    """A tenant keeps things no longer than the installation does."""
    own = select(Tenant.id, Tenant.retention_days).where(Tenant.retention_days < days)
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return [(tenant_id, retention or 0) for tenant_id, retention in connection.execute(own)]


def _prune_old(engine: Engine, limit: datetime, tenant_id: int | None, enough: Callable[[], bool]) -> dict[str, int]:
    """What is older than `limit`, of one tenant or of all."""

    def of(model: Any, old: Any) -> Any:
        return old if tenant_id is None else and_(model.tenant_id == tenant_id, old)

    def delete_old(model: Any, old: Any) -> int:
        return _delete_old(engine, model, of(model, model.id < first_id(limit)), old, enough)

    closed = and_(Incident.status == IncidentStatus.RESOLVED, Incident.resolved_at < limit)
    return {
        "deliveries": delete_old(Delivery, Delivery.received_at < limit),
        "incidents": delete_old(Incident, closed),
        "outgoing_messages": _delete_in_batches(
            engine, OutgoingMessage, of(OutgoingMessage, OutgoingMessage.created_at < limit), enough
        ),
        "refusal_counts": _delete_all(engine, RefusalCount, of(RefusalCount, RefusalCount.minute < limit)),
        "token_usage": _delete_all(engine, TokenUsage, of(TokenUsage, TokenUsage.day < limit.date())),
    }


def _prune_traces(engine: Engine, moment: datetime) -> dict[str, int]:
    """What has had its use, whatever the retention."""
    ended = or_(SignIn.created_at < moment - people.LONGEST_SIGN_IN, SignIn.seen_at < moment - people.LONGEST_IDLE)
    return {
        "cause_leases": _delete_all(engine, CauseLease, CauseLease.lease_until < moment - timedelta(hours=1)),
        "submissions": _delete_in_batches(engine, Submission, Submission.at < moment - SUBMISSIONS_KEPT),
        "sign_ins": _delete_in_batches(engine, SignIn, ended),
        "links": _delete_in_batches(engine, Link, Link.expires_at < moment - LINKS_KEPT),
    }


def _delete_old(engine: Engine, model: Any, made: Any, old: Any, enough: Callable[[], bool]) -> int:
    """Of those that were `made` early enough what is `old`, along the key, which tells when a row was made: none is
    looked at twice, and no index is kept for this alone.

    After each batch a pause as long as it took: half of the database's time is always left to intake.
    """
    rows = table(model)
    window = select(rows.c.id).where(made).order_by(rows.c.id).limit(BATCH)
    total = 0
    seen = None
    while not enough():
        started = time.monotonic()
        with engine.begin() as connection:
            ids = list(connection.scalars(window if seen is None else window.where(rows.c.id > seen)))
            if ids:
                batch = (rows.c.id.in_(ids), old)
                total += connection.execute(delete(rows).where(*batch)).rowcount
        if len(ids) < BATCH:
            break
        seen = ids[-1]
        time.sleep(time.monotonic() - started)
    return total


def _delete_in_batches(engine: Engine, model: Any, condition: Any, enough: Callable[[], bool] = lambda: False) -> int:
    rows = table(model)
    total = 0
    while not enough():
        some = select(rows.c.id).where(condition).limit(BATCH)
        with engine.begin() as connection:
            count = connection.execute(delete(rows).where(rows.c.id.in_(some))).rowcount
        total += count
        if count < BATCH:
            break
    return total


def _delete_all(engine: Engine, model: Any, condition: Any) -> int:
    with engine.begin() as connection:
        return connection.execute(delete(table(model)).where(condition)).rowcount
