"""The door's one statement, for PostgreSQL: a body, its alerts and their incidents go in one turn on the wire.

It is guessed how the incidents of the body are: not there, or as this process left them. The lifecycle decides on that,
and the statement writes what it decided only if the guess is right. `openremedy_differing`, a function of the database,
says so once it has passed the gate (store.py) and locked the rows. Where it is wrong nothing is written and the answer
is how the incidents are; the next guess is built on that. What is not this plain, or loses its race, is left to the
store's own transaction: a failed guess costs time and is never a wrong row.

Made of text and not of SQLAlchemy's expressions, with all rows as JSON; docs/performance.md has the figures.
"""

import copy
import json
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import orjson
import psycopg
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql

from openremedy.alerts import Outcome
from openremedy.lifecycle import Episode, Result, Track
from openremedy.models import AlertRecord, Base, Delivery, Incident, TimelineEntry, now, table
from openremedy.rows import (
    ALERT,
    CHANGING,
    ENTRY,
    GATE,
    NEW,
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

ATTEMPTS = 3
RETRIED_STATES = ("40001", "40P01")  # serialisation failure, deadlock
REMEMBERED = 5_000  # incidents; about a kilobyte each


class NotPlain(Exception):
    """This body is none for one statement."""


@dataclass(frozen=True)
class Belief:
    """The newest episode of an identity and the version of its row."""

    episode: Episode
    version: str


class Beliefs:
    """How this process last saw the incidents that it wrote: only ever a guess, and always checked."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, str], Belief] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant_id: int, identities: Iterable[str]) -> dict[str, Belief]:
        """Those that are remembered."""
        with self._lock:
            return {one: found for one in identities if (found := self._known.get((tenant_id, one)))}

    def keep(self, tenant_id: int, written: dict[str, Belief]) -> None:
        """Remember what was written; what was not written for the longest is forgotten."""
        with self._lock:
            for identity, belief in written.items():
                self._known[tenant_id, identity] = belief
                self._known.move_to_end((tenant_id, identity))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


_beliefs: weakref.WeakKeyDictionary[Engine, Beliefs] = weakref.WeakKeyDictionary()


def store(
    engine: Engine, delivery: dict[str, Any], arrivals: Sequence[Arrival], unplaced: Sequence[Unplaced]
) -> list[Stored] | None:
    """Store a body in one statement, or nothing at all: then None, and it is for a transaction.

    Raises psycopg.Error, sqlalchemy.exc.TimeoutError: nothing was stored, or, if the connection broke, perhaps all.
    """
    if not arrivals or any(one.beat is not None for one in unplaced):
        return None
    tenant_id = delivery["tenant_id"]
    remembered = _beliefs.setdefault(engine, Beliefs())
    identities = sorted({one.identity for one in arrivals})
    beliefs = remembered.of(tenant_id, identities)
    try:
        with _connection(engine) as connection:
            for _ in range(ATTEMPTS):
                guess = Guess(delivery, arrivals, unplaced, identities, beliefs)
                if differing := guess.write(connection):
                    beliefs |= differing
                    continue
                remembered.keep(tenant_id, guess.written)
                return outcomes_of(arrivals, guess.results, unplaced)
    except (NotPlain, psycopg.IntegrityError, psycopg.DataError):
        pass  # nothing was written
    except psycopg.OperationalError as error:
        if error.sqlstate not in RETRIED_STATES:
            raise
    return None


@contextmanager
def _connection(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """One out of the pool, each of whose statements is a transaction of its own."""
    pooled = engine.raw_connection()
    driver: Any = pooled.driver_connection
    driver.autocommit = True
    try:
        yield driver
    finally:
        if driver.closed:
            pooled.invalidate()
        else:
            driver.autocommit = False
        pooled.close()


@dataclass
class Guess:
    """How the incidents of a body may be, and what the lifecycle makes of the body then."""

    delivery: dict[str, Any]
    arrivals: Sequence[Arrival]
    unplaced: Sequence[Unplaced]
    identities: list[str]
    beliefs: dict[str, Belief]
    results: dict[int, Result] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    written: dict[str, Belief] = field(default_factory=dict)

    def write(self, connection: psycopg.Connection[Any]) -> dict[str, Belief]:
        """Write the body if the guess is right; returns those incidents that are not as they were believed.

        Raises NotPlain.
        """
        self.tracks = {identity: self._track(identity) for identity in self.identities}
        for arrival in self.arrivals:
            episode = self.tracks[arrival.identity].open
            if episode and may_be_known(episode, arrival.alert):
                raise NotPlain
        at = now()
        self.results = applied(self.tracks, self.arrivals, at)
        if any(result.orphan for result in self.results.values()):
            return self._look(connection)
        if any(len(track.episodes) > 1 for track in self.tracks.values()):
            raise NotPlain  # an episode makes room for the next one, first
        return self._send(connection, at)

    def _track(self, identity: str) -> Track:
        belief = self.beliefs.get(identity)
        if belief is None:
            return Track()
        episode = copy.copy(belief.episode)
        return Track(latest=episode, known={episode.event_digest} if episode.event_digest else set())

    def _look(self, connection: psycopg.Connection[Any]) -> dict[str, Belief]:
        """What ends nothing we know of may end something that we do not know of."""
        differing = _believed(_execute(connection, _DIFFERING, self._believed()))
        if not differing:
            raise NotPlain
        return differing

    def _believed(self) -> list[Any]:
        tenant_id = self.delivery["tenant_id"]
        versions = [belief.version if (belief := self.beliefs.get(one)) else None for one in self.identities]
        return [GATE + tenant_id, tenant_id, self.identities, versions]

    def _send(self, connection: psycopg.Connection[Any], at: datetime) -> dict[str, Belief]:
        episodes = [(identity, one) for identity, track in self.tracks.items() for one in track.episodes]
        alerts = [alert_row(one, self.results[one.position]) for one in self.arrivals]
        alerts += [unplaced_row(one) for one in self.unplaced]
        counts = dict.fromkeys(Outcome, 0) | Counter(row["outcome"] for row in alerts)
        rows = {
            "body": [{name: self.delivery[name] for name in _DELIVERY}],
            "opened": [new_row(identity, one) for identity, one in episodes if one.new],
            "changed": [_changed_row(one) for _, one in episodes if not one.new],
            "alerts": alerts,
            "timeline": timeline_rows(self.tracks.values()),
            "source": [counts] if self.delivery["source_id"] is not None else [],
        }
        parts = tuple(name for name, found in rows.items() if found)
        values = [*self._believed(), self.delivery["body"], at, *(_json(rows[name]) for name in parts)]
        answer = _execute(connection, _statement(parts), values)
        version = answer[0][1 + len(STATE) + 2]
        if answer[0][0] is not None:
            return _believed(answer)
        self.written = {identity: Belief(_settled(one), version) for identity, one in episodes}
        return {}


def _changed_row(episode: Episode) -> dict[str, Any]:
    row = {name: getattr(episode, name) for name in CHANGING} | {"id": episode.id}
    return row | {"evidence": episode.newest.evidence} if episode.newest else row


def _settled(episode: Episode) -> Episode:
    """As it would be read again."""
    settled = copy.copy(episode)
    settled.new, settled.changed, settled.newest = False, False, None
    return settled


def _execute(connection: psycopg.Connection[Any], statement: str, values: list[Any]) -> list[Any]:
    with psycopg.RawCursor(connection) as cursor:
        return cursor.execute(statement, values, prepare=True).fetchall()


def _believed(rows: list[Any]) -> dict[str, Belief]:
    """The answer of openremedy_differing. Raises NotPlain: a resolve has come before its firing."""
    found = {}
    for identity, version, incident_id, *rest in rows:
        if version is None:
            raise NotPlain
        state = dict(zip(STATE, rest, strict=False))
        found[identity] = Belief(Episode(id=incident_id, **state), version)
    return found


def _json(rows: list[Any]) -> str:
    try:
        return orjson.dumps(rows, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        return json.dumps(rows, default=str, sort_keys=True, ensure_ascii=False)  # integers of more than 64 bits


# ---------------------------------------------------------------- the statement

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_DELIVERY = [column.name for column in table(Delivery).c if column.name != "body"]
_DIFFERING = "SELECT * FROM openremedy_differing($1, $2, $3, $4)"
_BODY, _AT, _FIRST_ROWS = "$5::bytea", "$6::timestamptz", 7


@cache
def _statement(parts: tuple[str, ...]) -> str:
    """The statement with these of _PARTS, whose rows are its parameters from $7 on, in their order.

    Its answer is what differs, or one row of NULL that ends with the version of the rows that were written.
    """
    ctes = [f"differing AS MATERIALIZED ({_DIFFERING})"]
    ctes += [_PARTS[name].replace("$rows", f"${number}") for number, name in enumerate(parts, _FIRST_ROWS)]
    waits = "".join(f", (SELECT count(*) FROM {name})" for name in parts if name == "changed")
    return (
        f"WITH {', '.join(ctes)} SELECT differing.*, pg_current_xact_id()::xid::text{waits}"
        " FROM (SELECT) one LEFT JOIN differing ON true"
    )


def _rows(model: type[Base], names: Sequence[str]) -> str:
    columns = table(model).c
    return f"json_to_recordset($rows) AS r ({', '.join(f'{n} {columns[n].type.compile(_DIALECT)}' for n in names)})"


def _insert(model: type[Base], shared: dict[str, str], names: Sequence[str]) -> str:
    """Rows of a table with what they share, taken from the body `b`; none where something differs."""
    columns, values = ", ".join([*shared, *names]), ", ".join(shared.values())
    return f"INSERT INTO {model.__tablename__} ({columns}) SELECT {values}, r.* FROM body b, {_rows(model, names)}"


_OF_BODY = {name: f"b.{name}" for name in ("tenant_id", "source_id", "adapter")}
_OF_ALERT = {"tenant_id": "b.tenant_id", "delivery_id": "b.id", "received_at": _AT}
_COUNTS = ", ".join(f"{one}_count = {one}_count + r.{one}" for one in Outcome)
_PARTS = {
    "body": f"body AS MATERIALIZED (SELECT * FROM {_rows(Delivery, _DELIVERY)}"
    " WHERE NOT EXISTS (SELECT FROM differing)), "
    f"delivery AS (INSERT INTO deliveries ({', '.join(_DELIVERY)}, body) SELECT b.*, {_BODY} FROM body b)",
    "opened": f"opened AS ({_insert(Incident, _OF_BODY, NEW)} RETURNING id)",
    "changed": "changed AS MATERIALIZED (SELECT openremedy_change($rows) FROM body)",
    "alerts": f"told AS ({_insert(AlertRecord, _OF_ALERT, ALERT)})",
    "timeline": f"said AS ({_insert(TimelineEntry, {'tenant_id': 'b.tenant_id', 'at': _AT}, ENTRY)})",
    # Not before the incidents, and so the same for everybody: the row of the source is where its bodies queue up.
    "source": f"heard AS (UPDATE sources SET last_seen_at = {_AT}, {_COUNTS} FROM body b, json_to_recordset($rows)"
    f" AS r ({', '.join(f'{one} integer' for one in Outcome)}) WHERE sources.id = b.source_id)",
}
