"""The door's statements: one body, its alerts and their incidents in one transaction.

SQLAlchemy Core with prebuilt statements, because a unit of work of the ORM costs more than the rest of a request.
Two writers of one identity meet at its newest episode: they wait for its row lock, or, where there is no row yet,
one of them fails at the unique index and starts over. Rows are locked and written in the order of their identities,
so bodies that hold the same alerts in another order do not deadlock.

A resolve that finds no row at all has nothing to wait for, while its firing may be in another transaction that does
not see the resolve either; both would be stored and the incident stay open for ever. Therefore every body passes a
gate of its tenant, shared, and such a resolve starts over and takes the gate for itself alone. SQLite has one writer
at a time anyway.
"""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg
import structlog
from sqlalchemy import Connection, Engine, bindparam, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from openremedy import express, heartbeat
from openremedy.alerts import AlertStatus, Outcome
from openremedy.database import FAILED
from openremedy.errors import Unavailable
from openremedy.lifecycle import Episode, Result, Track
from openremedy.models import AlertRecord, Delivery, Incident, Source, TimelineEntry, holds, now, table
from openremedy.rows import (
    BEGINNING,
    CHANGING,
    GATE,
    STATE,
    Arrival,
    Stored,
    Unplaced,
    alert_row,
    applied,
    may_be_known,
    new_row,
    outcomes_of,
    timeline_rows,
    unplaced_row,
)

log = structlog.get_logger()

ATTEMPTS = 8
PATIENCE = 2  # collisions after the first, then the tenant's gate is taken alone

_incidents = table(Incident)
_alerts = table(AlertRecord)

_LATEST = (
    select(_incidents.c.id, _incidents.c.identity, *[_incidents.c[name] for name in STATE])
    .where(
        # "+ 0": with no index that begins with the tenant, however few rows the planner believes there are.
        _incidents.c.tenant_id + 0 == bindparam("tenant_id"),
        _incidents.c.identity.in_(bindparam("identities", expanding=True)),
        holds(_incidents.c.latest),
    )
    .order_by(_incidents.c.identity)
    .with_for_update()
)
_KNOWN = select(_alerts.c.incident_id, _alerts.c.digest).where(
    _alerts.c.occurred_at.is_not(None),
    tuple_(_alerts.c.incident_id, _alerts.c.digest).in_(bindparam("pairs", expanding=True)),
)
_ORPHANS = (
    select(_alerts.c.orphan_identity, func.max(_alerts.c.occurred_at))
    .where(
        _alerts.c.tenant_id + 0 == bindparam("tenant_id"),
        _alerts.c.orphan_identity.in_(bindparam("identities", expanding=True)),
    )
    .group_by(_alerts.c.orphan_identity)
)
_UPDATE = (
    update(_incidents)
    .where(_incidents.c.id == bindparam("b_id"))
    # Out of the index of words, which costs more than all the rest of a write; the scheduler puts it back.
    .values({name: bindparam(f"b_{name}") for name in CHANGING} | {"searchable": False})
)
_UPDATE_WITH_EVIDENCE = _UPDATE.values(evidence=bindparam("b_evidence"))
# The dialects spell the clause alike, but each has a class of its own. RETURNING would tell as well what was inserted,
# at five times the price.
_INSERT_INCIDENT = {
    "postgresql": postgresql.insert(_incidents).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(_incidents).on_conflict_do_nothing(),
}
_ALONE = select(func.pg_advisory_xact_lock(bindparam("gate")))
# The delivery is written first, so the gate costs no statement of its own. No scans of whole tables: plans are kept,
# and one that was made while a table was small is still used while a storm makes it large.
_INSERT_DELIVERY = {
    "postgresql": insert(table(Delivery)).returning(
        func.pg_advisory_xact_lock_shared(table(Delivery).c.tenant_id + GATE),
        func.set_config("enable_seqscan", "off", True),
    ),
    "sqlite": insert(table(Delivery)),
}
_INSERT_ALERTS = insert(_alerts)
_INSERT_TIMELINE = insert(table(TimelineEntry))
_sources = table(Source)
_SOURCE_SEEN = (
    update(_sources)
    .where(_sources.c.id == bindparam("b_id"))
    .values(
        last_seen_at=func.coalesce(bindparam("b_at", type_=_sources.c.last_seen_at.type), _sources.c.last_seen_at),
        **{f"{one}_count": _sources.c[f"{one}_count"] + bindparam(f"b_{one}") for one in Outcome},
    )
)
# The row is locked already by what counts.
_LAST_BEAT = select(_sources.c.heartbeat_at, _sources.c.heartbeat_gap).where(_sources.c.id == bindparam("b_id"))
_BEAT = update(_sources).where(_sources.c.id == bindparam("b_id"))


Note = Callable[[Connection], None]


class Collision(Exception):
    """Another transaction opened the same identity first: start over and see its row."""


class Overtaken(Exception):
    """A resolve may have come before its firing, or that is being stored just now: start over, alone."""


def store(
    engine: Engine,
    delivery: dict[str, Any],
    arrivals: Sequence[Arrival],
    unplaced: Sequence[Unplaced] = (),
    replayed: Note | None = None,
    also: Note | None = None,
) -> list[Stored]:
    """Store a delivery with its alerts and return their outcomes in the order of the body.

    `delivery` is a row of the table. `replayed` says that somebody here sent it and not its source: it writes
    who did that, in the same transaction, and the delivery is no sign of life of the source. `also` writes more in that
    transaction. Raises Unavailable; then nothing was stored.
    """
    try:
        plain = engine.dialect.name == "postgresql" and not (replayed or also)
        if plain and (outcomes := express.store(engine, delivery, arrivals, unplaced)) is not None:
            return outcomes
    except FAILED as error:
        raise _unavailable(error) from error
    alone = False
    for attempt in range(ATTEMPTS):
        try:
            with engine.begin() as connection:
                stored = _store(connection, delivery, arrivals, unplaced, replayed, alone)
                if also:
                    also(connection)
                return stored
        except Overtaken:
            alone = True
        except Collision:
            # Where an identity ends and begins all the time one writer may lose again and again; alone it cannot.
            alone = alone or attempt >= PATIENCE
        except FAILED as error:
            if _state(error) not in express.RETRIED_STATES:
                raise _unavailable(error) from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise _unavailable(error) from error
        time.sleep(random.uniform(0, 0.005 * (attempt + 1)))  # nosec B311 # noqa: S311 - spreads writers, hides nothing
    raise Unavailable("Too many writers change the same incident at once; please send it again.")


def _state(error: SQLAlchemyError | psycopg.Error) -> str | None:
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _unavailable(error: SQLAlchemyError | psycopg.Error) -> Unavailable:
    log.error("database.away", error=type(error).__name__, state=_state(error))
    return Unavailable()


def _store(
    connection: Connection,
    delivery: dict[str, Any],
    arrivals: Sequence[Arrival],
    unplaced: Sequence[Unplaced],
    replayed: Note | None,
    alone: bool,
) -> list[Stored]:
    dialect = connection.dialect.name
    if alone and dialect == "postgresql":
        connection.execute(_ALONE, {"gate": GATE + delivery["tenant_id"]})
    connection.execute(_INSERT_DELIVERY[dialect], delivery)
    tracks = _load(connection, delivery["tenant_id"], arrivals)
    unmet = {identity for identity, track in tracks.items() if not track.latest}
    # Read while the rows are locked, so that the times of an incident are in the order of its changes.
    at = now()
    results = applied(tracks, arrivals, at)
    if not alone and any(results[one.position].orphan and one.identity in unmet for one in arrivals):
        raise Overtaken
    _write_episodes(connection, delivery, tracks, at)
    _write_alerts(connection, delivery, at, arrivals, results, unplaced)
    _write_timeline(connection, delivery["tenant_id"], at, list(tracks.values()))
    stored = outcomes_of(arrivals, results, unplaced)
    if delivery["source_id"]:
        seen_at = None if replayed else at
        _note_source(connection, delivery["source_id"], seen_at, stored, unplaced)
    if replayed:
        replayed(connection)
    return stored


# ---------------------------------------------------------------- load


def _load(connection: Connection, tenant_id: int, arrivals: Sequence[Arrival]) -> dict[str, Track]:
    """The locked newest episode of each identity, sorted by identity."""
    tracks = {identity: Track() for identity in sorted({arrival.identity for arrival in arrivals})}
    for chunk in _chunks(list(tracks)):
        for row in connection.execute(_LATEST, {"tenant_id": tenant_id, "identities": chunk}).mappings():
            episode = _episode(row)
            known = {episode.event_digest} if episode.event_digest else set()
            tracks[row["identity"]] = Track(latest=episode, known=known)
    _load_known(connection, tracks, arrivals)
    _load_orphans(connection, tenant_id, tracks, arrivals)
    return tracks


def _episode(row: Any) -> Episode:
    return Episode(id=row["id"], **{name: row[name] for name in STATE})


def _load_known(connection: Connection, tracks: dict[str, Track], arrivals: Sequence[Arrival]) -> None:
    """Which timed alerts the open episodes have seen; only asked where the newest event does not settle it."""
    asked = {}
    for arrival in arrivals:
        episode = tracks[arrival.identity].open
        if episode and may_be_known(episode, arrival.alert):
            asked[episode.id, arrival.alert.digest()] = tracks[arrival.identity]
    by_episode = {key[0]: track for key, track in asked.items()}
    for chunk in _chunks(list(asked)):
        for episode_id, digest in connection.execute(_KNOWN, {"pairs": chunk}):
            by_episode[episode_id].known.add(digest)


def _load_orphans(
    connection: Connection, tenant_id: int, tracks: dict[str, Track], arrivals: Sequence[Arrival]
) -> None:
    """The resolves that came before their firing; asked where an alert may begin an episode."""
    opening = (AlertStatus.FIRING, AlertStatus.ACKNOWLEDGED)
    firing = {one.identity for one in arrivals if one.alert.occurred_at and one.alert.status in opening}
    ending = {one.identity for one in arrivals if one.alert.status is AlertStatus.RESOLVED}
    asked = {identity for identity in firing if identity in ending or not tracks[identity].open}
    for chunk in _chunks(sorted(asked)):
        for identity, end in connection.execute(_ORPHANS, {"tenant_id": tenant_id, "identities": chunk}):
            tracks[identity].orphan_end = end


def _chunks(items: list[Any], size: int = 400) -> list[list[Any]]:
    """SQLite takes 999 parameters a statement in its older builds."""
    return [items[start : start + size] for start in range(0, len(items), size)]


# ---------------------------------------------------------------- decide and write


def _write_episodes(connection: Connection, delivery: dict[str, Any], tracks: dict[str, Track], at: datetime) -> None:
    common = {name: delivery[name] for name in ("tenant_id", "source_id", "adapter")} | dict.fromkeys(BEGINNING, at)
    begun = [common | new_row(identity, one) for identity, track in tracks.items() for one in track.episodes if one.new]
    # First: an episode that is not the newest any more makes room in the unique index for the one that is.
    write_changes(connection, [one for track in tracks.values() for one in track.episodes if not one.new])
    if begun:
        statement = _INSERT_INCIDENT[connection.dialect.name]
        if connection.execute(statement, begun, execution_options={"preserve_rowcount": True}).rowcount < len(begun):
            raise Collision


def write_changes(connection: Connection, episodes: Sequence[Episode]) -> None:
    """Write what changed of episodes that were loaded and locked before."""
    plain = [_changed_row(one) for one in episodes if one.changed and not one.newest]
    with_evidence = [
        _changed_row(one) | {"b_evidence": dict(one.newest.evidence)} for one in episodes if one.changed and one.newest
    ]
    if plain:
        connection.execute(_UPDATE, plain)
    if with_evidence:
        connection.execute(_UPDATE_WITH_EVIDENCE, with_evidence)


def _changed_row(episode: Episode) -> dict[str, Any]:
    return {"b_id": episode.id} | {f"b_{name}": getattr(episode, name) for name in CHANGING}


def _write_alerts(
    connection: Connection,
    delivery: dict[str, Any],
    at: datetime,
    arrivals: Sequence[Arrival],
    results: dict[int, Result],
    unplaced: Sequence[Unplaced],
) -> None:
    common = {
        "tenant_id": delivery["tenant_id"],
        "delivery_id": delivery["id"],
        "received_at": at,
    }
    rows = [common | alert_row(arrival, results[arrival.position]) for arrival in arrivals]
    rows += [common | unplaced_row(one) for one in unplaced]
    if rows:
        connection.execute(_INSERT_ALERTS, rows)


def _note_source(
    connection: Connection, source_id: int, at: datetime | None, stored: Sequence[Stored], unplaced: Sequence[Unplaced]
) -> None:
    """Last, and so the same for everybody: the row of the source is where its bodies queue up.

    `at` None: its outcomes count, but it was not heard of.
    """
    counts = Counter(one.outcome for one in stored)
    seen = {"b_id": source_id, "b_at": at} | {f"b_{one}": counts[one] for one in Outcome}
    connection.execute(_SOURCE_SEEN, seen)
    beats = [one.beat for one in unplaced if one.beat is not None]
    if not beats or at is None:
        return
    before, gap = connection.execute(_LAST_BEAT, {"b_id": source_id}).one()
    gap = heartbeat.learnt(gap, before, at)
    values = {"heartbeat_at": at, "heartbeat_gap": gap, "heartbeat_ended_at": None} if any(beats) else {}
    connection.execute(_BEAT.values(values or {"heartbeat_ended_at": at}), {"b_id": source_id})


def _write_timeline(connection: Connection, tenant_id: int, at: datetime, tracks: Sequence[Track]) -> None:
    rows = [{"tenant_id": tenant_id, "at": at} | row for row in timeline_rows(tracks)]
    if rows:
        connection.execute(_INSERT_TIMELINE, rows)


# ---------------------------------------------------------------- changes by people and the clock


def load_locked(connection: Connection, tenant_id: int, incident_id: uuid.UUID) -> Episode | None:
    """An incident of the tenant, its row locked until the end of the transaction."""
    return next(iter(load_all_locked(connection, tenant_id, [incident_id])), None)


def load_all_locked(connection: Connection, tenant_id: int, incident_ids: Sequence[uuid.UUID]) -> list[Episode]:
    """Those of the incidents that are the tenant's, locked in the order in which the door locks them."""
    statement = (
        select(_incidents.c.id, *[_incidents.c[name] for name in STATE])
        .where(_incidents.c.tenant_id == tenant_id, _incidents.c.id.in_(incident_ids))
        .order_by(_incidents.c.identity, _incidents.c.id)
        .with_for_update()
    )
    return [_episode(row) for row in connection.execute(statement).mappings()]


def write_tracks(connection: Connection, tenant_id: int, at: datetime, tracks: Sequence[Track]) -> None:
    """Write the changed episodes and the timeline of tracks."""
    write_changes(connection, [episode for track in tracks for episode in track.episodes])
    _write_timeline(connection, tenant_id, at, tracks)


def write_track(connection: Connection, tenant_id: int, at: datetime, track: Track) -> None:
    """The same of one."""
    write_tracks(connection, tenant_id, at, [track])
