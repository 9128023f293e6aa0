"""The door's one statement, for PostgreSQL: a body, its alerts and their incidents go in one turn on the wire.

It is guessed how the incidents of the body are: not there, or as this process left them. The lifecycle decides on that,
and the statement writes what it decided only if the guess is right in all that it decides by; what adds up is added.
`openremedy_differing`, a function of the database, says so once it has passed the gate (store.py) and locked the rows.
Where it is wrong nothing is written and the answer is how the incidents are; the next guess is built on that. What is
not this plain, or loses its race, is left to the store's own transaction: a failed guess costs time and is never a
wrong row.

Made of text and not of SQLAlchemy's expressions, with all rows as JSON; docs/performance.md has the figures.
"""

import json
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import orjson
import psycopg
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import TimeoutError as PoolTimeout

from openremedy.alerts import Outcome
from openremedy.database import FAILED, Hung, single_statements
from openremedy.lifecycle import Episode, Result, Track
from openremedy.models import AlertRecord, Base, Delivery, Incident, TimelineEntry, now, table
from openremedy.rows import (
    ALERT,
    BEGINNING,
    DECIDING,
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
SHUT_DOWN = "57P01"  # what a connection says that was ended while it was idle: it has done nothing
LARGEST = 300  # alerts of bodies that are written together; a larger one holds nobody up
REMEMBERED = 20_000  # incidents; about a kilobyte each


Cursor = psycopg.RawCursor[Any]


class NotPlain(Exception):
    """This body is none for one statement."""


class Beliefs:
    """How this process last saw the incidents that it wrote: only ever a guess, and always checked."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, str], Episode] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant_id: int, identities: Iterable[str]) -> dict[str, Episode]:
        """Those that are remembered."""
        with self._lock:
            return {one: found for one in identities if (found := self._known.get((tenant_id, one)))}

    def keep(self, tenant_id: int, written: dict[str, Episode]) -> None:
        """Remember what was written; what was not written for the longest is forgotten."""
        with self._lock:
            for identity, belief in written.items():
                self._known[tenant_id, identity] = belief
                self._known.move_to_end((tenant_id, identity))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


@dataclass(eq=False)
class Body:
    """A delivery and what is in it; and, once it has been tried to store them, what came of that."""

    delivery: dict[str, Any]
    arrivals: Sequence[Arrival]
    unplaced: Sequence[Unplaced]
    results: dict[int, Result] = field(default_factory=dict)
    stored: bool = False
    error: Exception | None = None
    # Set when it is done, or the next to write for all who wait; who need not wait has none.
    turn: threading.Event | None = None

    @property
    def done(self) -> bool:
        """Nobody writes it any more."""
        return self.stored or self.error is not None

    def wake(self) -> None:
        """It is its turn; who wrote it by itself does not wait for it."""
        if self.turn:
            self.turn.set()


class Line:
    """Bodies of one tenant that come while one is being written: the first of them writes all in the next statement.

    So the more there are at once, the less each costs; who comes alone waits for nobody.
    """

    def __init__(self) -> None:
        self._waiting: list[Body] = []
        self._busy = False
        self._lock = threading.Lock()

    def pass_through(self, body: Body, write: Callable[[list[Body]], None]) -> None:
        """Have the body written, by this thread together with others or by one of theirs."""
        with self._lock:
            self._waiting.append(body)
            if self._busy:
                body.turn = threading.Event()
            self._busy = True
        if body.turn:
            body.turn.wait()
            if body.done:
                return
        bodies = self._next()
        try:
            write(bodies)
        finally:
            for one in bodies:
                one.error = one.error or (None if one.stored else NotPlain())
            if isinstance(bodies[0].error, Hung):
                bodies += self._give_up(bodies[0].error)
            self._hand_over()
            for one in bodies:
                one.wake()

    def _next(self) -> list[Body]:
        """Those that fit into a statement, in the order they came."""
        with self._lock:
            room = LARGEST
            bodies: list[Body] = []
            while self._waiting and (not bodies or len(self._waiting[0].arrivals) <= room):
                bodies.append(self._waiting.pop(0))
                room -= len(bodies[-1].arrivals)
            return bodies

    def _give_up(self, error: Exception) -> list[Body]:
        """All who wait: none of them needs to find out for itself."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.error = error
        return waiting

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].wake()
            else:
                self._busy = False


class Room:
    """What one process keeps about a database; not its engine, which would then never be forgotten."""

    def __init__(self, engine: Engine) -> None:
        self.beliefs = Beliefs()
        self._engine = single_statements(engine)
        self._lines: defaultdict[int, Line] = defaultdict(Line)

    def store(self, body: Body) -> list[Stored] | None:
        """As store()."""
        if len(body.arrivals) > LARGEST:
            self._write_alone(body)
        else:
            self._lines[body.delivery["tenant_id"]].pass_through(body, self.write)
        if body.stored:
            return outcomes_of(body.arrivals, body.results, body.unplaced)
        error = body.error
        plain_failure = isinstance(error, NotPlain | psycopg.IntegrityError | psycopg.DataError)
        if plain_failure or getattr(error, "sqlstate", None) in (*RETRIED_STATES, SHUT_DOWN):
            return None  # nothing was written
        raise error or NotPlain

    def write(self, bodies: list[Body]) -> None:
        """All in one statement, or, where one of them is none for it or breaks it, each in its own."""
        try:
            self._try(bodies)
        except (NotPlain, psycopg.Error, PoolTimeout) as error:
            for one in bodies:
                if len(bodies) > 1 and not isinstance(error, FAILED):
                    self._write_alone(one)
                else:
                    one.error = error

    def _write_alone(self, body: Body) -> None:
        try:
            self._try([body])
        except (NotPlain, psycopg.Error, PoolTimeout) as error:
            body.error = error

    def _try(self, bodies: list[Body]) -> None:
        tenant_id = bodies[0].delivery["tenant_id"]
        identities = sorted({one.identity for body in bodies for one in body.arrivals})
        beliefs = self.beliefs.of(tenant_id, identities)
        with _cursor(self._engine) as cursor:
            for _ in range(ATTEMPTS):
                guess = Guess(tenant_id, bodies, identities, beliefs)
                if differing := guess.write(cursor):
                    beliefs |= differing
                    continue
                self.beliefs.keep(tenant_id, guess.written)
                for body in bodies:
                    body.stored = True
                return
        raise NotPlain


_rooms: weakref.WeakKeyDictionary[Engine, Room] = weakref.WeakKeyDictionary()


def store(
    engine: Engine, delivery: dict[str, Any], arrivals: Sequence[Arrival], unplaced: Sequence[Unplaced]
) -> list[Stored] | None:
    """Store a body in one statement, or nothing at all: then None, and it is for a transaction.

    Raises psycopg.Error, sqlalchemy.exc.TimeoutError: nothing was stored, or, if the connection broke, perhaps all.
    """
    if not arrivals or any(one.beat is not None for one in unplaced):
        return None
    room = _rooms.get(engine) or _rooms.setdefault(engine, Room(engine))
    return room.store(Body(delivery, arrivals, unplaced))


@contextmanager
def _cursor(engine: Engine) -> Iterator[Cursor]:
    """Of a connection out of the pool, which keeps it."""
    pooled = engine.raw_connection()
    driver: Any = pooled.driver_connection
    try:
        yield pooled.info.get(Cursor) or pooled.info.setdefault(Cursor, Cursor(driver))
    finally:
        if driver.closed:
            pooled.invalidate()
        pooled.close()


@dataclass
class Guess:
    """How the incidents of some bodies may be, and what the lifecycle makes of the bodies then, one after another."""

    tenant_id: int
    bodies: list[Body]
    identities: list[str]
    beliefs: dict[str, Episode]
    tracks: dict[str, Track] = field(default_factory=dict)
    written: dict[str, Episode] = field(default_factory=dict)

    def write(self, cursor: Cursor) -> dict[str, Episode]:
        """Write the bodies if the guess is right; returns those incidents that are not as they were believed.

        Raises NotPlain.
        """
        self.tracks = {identity: self._track(identity) for identity in self.identities}
        at = now()
        for body in self.bodies:
            for arrival in body.arrivals:
                episode = self.tracks[arrival.identity].open
                # Of one that begins here everything is known.
                if episode and not episode.new and may_be_known(episode, arrival.alert):
                    raise NotPlain
            body.results = applied(self.tracks, body.arrivals, at)
        if any(result.orphan for body in self.bodies for result in body.results.values()):
            return self._look(cursor)
        if any(len(track.episodes) > 1 for track in self.tracks.values()):
            raise NotPlain  # an episode makes room for the next one, first
        return self._send(cursor, at)

    def _track(self, identity: str) -> Track:
        believed = self.beliefs.get(identity)
        if believed is None:
            return Track()
        episode = believed.as_stored()
        return Track(latest=episode, known={episode.event_digest} if episode.event_digest else set())

    def _look(self, cursor: Cursor) -> dict[str, Episode]:
        """What ends nothing we know of may end something that we do not know of."""
        differing = _believed(_execute(cursor, _DIFFERING, self._believed()))
        if not differing:
            raise NotPlain
        return differing

    def _believed(self) -> list[Any]:
        rows = [_believed_row(identity, self.beliefs.get(identity)) for identity in self.identities]
        return [GATE + self.tenant_id, self.tenant_id, _json(rows)]

    def _send(self, cursor: Cursor, at: datetime) -> dict[str, Episode]:
        rows = self._rows()
        parts = tuple(name for name, found in rows.items() if found)
        raw = b"".join(body.delivery["body"] for body in self.bodies)
        answer = _execute(
            cursor, _statement(parts), [*self._believed(), raw, at, *(_json(rows[name]) for name in parts)]
        )
        if answer[0][0] is not None:
            return _believed([row[: 2 + len(STATE)] for row in answer])
        episodes = ((identity, track.latest) for identity, track in self.tracks.items() if track.episodes)
        self.written = {identity: one.as_stored() for identity, one in episodes if one}
        return {}

    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        """By the parts of the statement."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}
        began_by = {
            result.episode: body.delivery
            for body in reversed(self.bodies)
            for result in body.results.values()
            if result.outcome is Outcome.CREATED
        }
        for identity, track in self.tracks.items():
            for one in track.episodes:
                if one.new:
                    by = began_by[one.id]
                    row = new_row(identity, one) | {"source_id": by["source_id"], "adapter": by["adapter"]}
                    found["opened"].append(row)
                else:
                    found["changed"].append(_changed_row(self.beliefs[identity], one))
        start = 1
        for body in self.bodies:
            delivery = {name: body.delivery[name] for name in _DELIVERY}
            size = len(body.delivery["body"])
            found["body"].append(delivery | {"start": start, "size": size})
            start += size
            alerts = [alert_row(one, body.results[one.position]) for one in body.arrivals]
            alerts += [unplaced_row(one) for one in body.unplaced]
            for row in alerts:
                row["delivery_id"] = delivery["id"]
            found["alerts"] += alerts
        found["source"] = list(self._heard())
        found["timeline"] = timeline_rows(self.tracks.values())
        return found

    def _heard(self) -> Iterator[dict[str, Any]]:
        """The outcomes of each source."""
        counts: defaultdict[int, Counter[Outcome]] = defaultdict(Counter)
        for body in self.bodies:
            if body.delivery["source_id"] is not None:
                counts[body.delivery["source_id"]].update(one.outcome for one in body.results.values())
                counts[body.delivery["source_id"]].update(one.outcome for one in body.unplaced)
        for source_id, count in counts.items():
            yield {"id": source_id} | {str(one): count[one] for one in Outcome}


def _believed_row(identity: str, episode: Episode | None) -> dict[str, Any]:
    row: dict[str, Any] = {"identity": identity}
    return row | {"id": episode.id} | {name: vars(episode)[name] for name in DECIDING} if episode else row


def _changed_row(believed: Episode, episode: Episode) -> dict[str, Any]:
    row = {name: vars(episode)[name] for name in DECIDING}
    row |= {"id": episode.id, "last_seen": episode.last_seen, "more": episode.occurrences - believed.occurrences}
    return row | {"evidence": episode.newest.evidence} if episode.newest else row


def _execute(cursor: Cursor, statement: str, values: list[Any]) -> list[Any]:
    return cursor.execute(statement, values, prepare=True).fetchall()


def _believed(rows: list[Any]) -> dict[str, Episode]:
    """The answer of openremedy_differing. Raises NotPlain: a resolve has come before its firing."""
    found = {}
    for identity, incident_id, *rest in rows:
        if incident_id is None:
            raise NotPlain
        found[identity] = Episode(id=incident_id, **dict(zip(STATE, rest, strict=True)))
    return found


def _json(rows: list[Any]) -> str:
    try:
        return orjson.dumps(rows, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        return json.dumps(rows, default=str, sort_keys=True, ensure_ascii=False)  # integers of more than 64 bits


# ---------------------------------------------------------------- the statement

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy gives its constructor no types
_DELIVERY = [column.name for column in table(Delivery).c if column.name != "body"]
_PLAIN = "plain AS MATERIALIZED (SELECT WHERE NOT EXISTS (SELECT FROM differing))"
_DIFFERING = "SELECT * FROM openremedy_differing($1, $2, $3::json)"
_BODIES, _AT, _FIRST_ROWS = "$4::bytea", "$5::timestamptz", 6  # the bodies one behind the other


@cache
def _statement(parts: tuple[str, ...]) -> str:
    """The statement with these of _PARTS, whose rows are its parameters from $6 on, in their order.

    Its answer is what differs, or one row of NULL.
    """
    ctes = [f"differing AS MATERIALIZED ({_DIFFERING})", _PLAIN]
    ctes += [_PARTS[name].replace("$rows", f"${number}") for number, name in enumerate(parts, _FIRST_ROWS)]
    # Where all bodies of a source queue up comes after the incidents, as in the store's transaction: PostgreSQL would
    # run the parts from the last to the first, and two writers could wait for each other.
    after = " AND (SELECT count(*) FROM opened) >= 0" if "opened" in parts else ""
    ctes[-1] = ctes[-1].replace("$after", after)
    # What only selects is run if it is asked for.
    waits = ", (SELECT count(*) FROM changed)" if "changed" in parts else ""
    return f"WITH {', '.join(ctes)} SELECT differing.*{waits} FROM (SELECT) one LEFT JOIN differing ON true"  # nosec B608 # our own names


def _typed(model: type[Base], names: Sequence[str]) -> str:
    columns = table(model).c
    return ", ".join(f"{name} {columns[name].type.compile(_DIALECT)}" for name in names)


def _insert(model: type[Base], shared: dict[str, str], names: Sequence[str]) -> str:
    """Rows of a table with what they share; none where something differs."""
    columns, values = ", ".join([*shared, *names]), ", ".join(shared.values())
    rows = f"json_to_recordset($rows) AS r ({_typed(model, names)})"
    return f"INSERT INTO {model.__tablename__} ({columns}) SELECT {values}, r.* FROM plain, {rows}"  # nosec B608 # our own names


_OF_INCIDENT = {"tenant_id": "$2::bigint"} | dict.fromkeys(BEGINNING, _AT)
_OF_ALERT = {"tenant_id": "$2::bigint", "received_at": _AT}
_COUNTS = ", ".join(f"{one}_count = {one}_count + r.{one}" for one in Outcome)
_PARTS = {
    "body": f"delivery AS (INSERT INTO deliveries ({', '.join(_DELIVERY)}, body) SELECT {', '.join(_DELIVERY)},"  # nosec B608 # our own names
    f" substring({_BODIES} FROM start FOR size) FROM plain, json_to_recordset($rows)"
    f" AS r (start integer, size integer, {_typed(Delivery, _DELIVERY)}))",
    "opened": f"opened AS ({_insert(Incident, _OF_INCIDENT, [*NEW, 'source_id', 'adapter'])} RETURNING id)",
    "changed": "changed AS MATERIALIZED (SELECT openremedy_add($rows) FROM plain)",
    "alerts": f"told AS ({_insert(AlertRecord, _OF_ALERT, [*ALERT, 'delivery_id'])})",
    "timeline": f"said AS ({_insert(TimelineEntry, {'tenant_id': '$2::bigint', 'at': _AT}, ENTRY)})",
    "source": f"heard AS (UPDATE sources SET last_seen_at = {_AT}, {_COUNTS} FROM plain, json_to_recordset($rows)"  # nosec B608 # our own names
    f" AS r (id bigint, {', '.join(f'{one} integer' for one in Outcome)}) WHERE sources.id = r.id$after)",
}
