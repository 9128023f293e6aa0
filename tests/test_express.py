"""The door's one statement: as right as the transaction that it stands in for, and never more than a guess."""

import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Connection, Engine, create_engine, select, text

from bodies import alert, arrivals, delivery, many_pending, minute, outcomes, put, tenant_id
from cast import Tenant
from openremedy import database, express, store
from openremedy.alerts import Alert, Outcome
from openremedy.database import Hung
from openremedy.errors import Unavailable
from openremedy.extensions import db
from openremedy.models import AlertRecord, Delivery, Incident, TimelineEntry, table
from openremedy.rows import GATE, STATE, Unplaced
from services import until

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

HOSTILE = [
    {"big": 10**30, "small": -(10**25), "float": 1e300, "tiny": 5e-324, "whole": 1e16, "no": False, "none": None},
    {
        "quote": "\"'\\\\ \\u0041 $1 %s {x} :name",
        "lines": "a\nb\r\n\tc",
        "umlaut": "ÄÖ ß",
        "emoji": "🔥👩‍🚒",
        "bidi": "\u202eabc",
    },
    {"z": 1, "a": {"z": [1, {"y": 2, "b": [[], {}]}], "a": ""}, "": "no name", "ключ": "значение"},
    {"json": '{"a": [1, 2]}', "sql": "'); DROP TABLE incidents; --", "line": "\u2028\u2029\x7f"},
    {},
]


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.fixture
def tenant(alice: Tenant, engine: Engine) -> int:
    return tenant_id(engine, alice.slug)


@pytest.fixture
def other(engine: Engine) -> Iterator[Engine]:
    """The same database, seen by another process: it believes nothing."""
    one = create_engine(engine.url)
    database.prepare(one)
    yield one
    one.dispose()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of this room, in the order they are sent."""
    found: list[str] = []
    real = express._execute

    def execute(connection: Any, statement: str, values: list[Any]) -> list[Any]:
        found.append("look" if statement.startswith("SELECT") else "write")
        return real(connection, statement, values)

    monkeypatch.setattr(express, "_execute", execute)
    return found


def rows(engine: Engine, statement: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(statement).all())


def told(engine: Engine, tenant: int) -> list[Any]:
    """Everything that is stored of a tenant, without what differs by nature: ids and moments of ours."""
    found = []
    for model in (Delivery, Incident, AlertRecord, TimelineEntry):
        columns = [one for one in table(model).c if one.name not in DIFFERENT]
        stored = rows(engine, select(*columns).where(table(model).c.tenant_id == tenant))
        found += sorted(AN_ID.sub("an id", repr(row)) for row in stored)
    return found


AN_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


DIFFERENT = (
    "id tenant_id delivery_id incident_id previous_incident_id received_at first_seen last_seen triage_since at "
    "recent_starts request_id acknowledged_at resolved_at"
).split()

BODIES: dict[str, list[list[Alert]]] = {
    "a new one": [[alert()]],
    "a new one with a time": [[alert(at=0)]],
    "a repeat": [[alert()], [alert(severity="high", evidence={"used": 93})]],
    "a repeat with a time": [[alert(at=0)], [alert(at=0)], [alert(at=5)], [alert(at=2)]],
    "its end": [[alert(at=0)], [alert("resolved", at=5)], [alert("resolved", at=5)]],
    "an end before its beginning": [[alert("resolved", at=5)], [alert(at=0)]],
    "an end of nothing": [[alert("resolved")]],
    "an acknowledgement": [[alert("acknowledged")], [alert()], [alert("acknowledged")]],
    "the next episode": [[alert(at=0)], [alert("resolved", at=5)], [alert(at=9)]],
    "all in one body": [[alert(at=0), alert(at=0), alert("resolved", at=5), alert(hostname="web-02")]],
    "many": [[alert(hostname=f"web-{n}", evidence={"n": n}) for n in range(40)]] * 2,
    "a key": [[alert(dedup_key="a'b\\\\c\"d")], [alert(hostname="elsewhere", dedup_key="a'b\\\\c\"d")]],
}
BODIES |= {
    f"hostile evidence {n}": [[alert(evidence=one)], [alert(evidence=one | {"again": 1})]]
    for n, one in enumerate(HOSTILE)
}


@pytest.mark.parametrize("name", BODIES)
def test_it_stores_what_the_transaction_stores(
    engine: Engine, tenant: int, charlie: Tenant, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    theirs = tenant_id(engine, charlie.slug)
    with_it = [outcomes(put(engine, tenant, *body)) for body in BODIES[name]]
    monkeypatch.setattr(express, "store", lambda *_: None)
    assert with_it == [outcomes(put(engine, theirs, *body)) for body in BODIES[name]]
    assert told(engine, tenant) == told(engine, theirs)


def test_a_delivery_is_stored_to_the_letter(engine: Engine, tenant: int) -> None:
    texts = {"headers": {"User-Agent": '\\u0000 ü "'}, "message": "x'y\\", "adapter": "grafana"}
    changes: dict[str, Any] = {"body": bytes(range(256)), **texts}
    put(engine, tenant, alert(), **changes)
    columns = (Delivery.body, Delivery.headers, Delivery.message, Delivery.adapter)
    assert rows(engine, select(*columns)) == [tuple(changes.values())]


def test_what_belongs_to_no_incident_stands_beside_what_does(engine: Engine, tenant: int, sent: list[str]) -> None:
    rejected = Unplaced(0, Outcome.REJECTED, "no'; --")
    (one,) = arrivals(alert())
    one = type(one)(1, one.alert, one.identity)
    assert outcomes(store.store(engine, delivery(tenant), [one], [rejected])) == ["rejected", "created"]
    assert sent == ["write"]
    found = rows(
        engine, select(AlertRecord.position, AlertRecord.outcome, AlertRecord.reason).order_by(AlertRecord.position)
    )
    assert [tuple(map(str, row)) for row in found] == [("0", "rejected", "no'; --"), ("1", "created", "None")]


# ---------------------------------------------------------------- turns on the wire


def test_what_is_new_takes_one_turn_however_many_there_are(engine: Engine, tenant: int, sent: list[str]) -> None:
    put(engine, tenant, *[alert(hostname=f"web-{n}") for n in range(50)])
    assert sent == ["write"]


def test_what_this_process_has_stored_takes_one_turn_again(engine: Engine, tenant: int, sent: list[str]) -> None:
    for _ in range(3):
        put(engine, tenant, alert())
    put(engine, tenant, alert("resolved"))
    assert sent == ["write"] * 4


def test_what_another_has_changed_takes_two(engine: Engine, other: Engine, tenant: int, sent: list[str]) -> None:
    put(engine, tenant, alert())
    put(other, tenant, alert(severity="critical"))
    assert sent == ["write"] * 3
    put(engine, tenant, alert())
    assert sent == ["write"] * 5
    assert rows(engine, select(Incident.occurrences, Incident.severity)) == [(3, "medium")]


def test_an_end_of_what_only_another_knows_looks_first(
    engine: Engine, other: Engine, tenant: int, sent: list[str]
) -> None:
    put(engine, tenant, alert(at=0))
    assert outcomes(put(other, tenant, alert("resolved", at=5))) == ["resolved"]
    assert sent == ["write", "look", "write"]


def test_it_forgets_what_was_not_written_for_the_longest(
    engine: Engine, tenant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "REMEMBERED", 2)
    for name in ("a", "b", "a", "c"):
        put(engine, tenant, alert(hostname=name))
    kept = express._rooms[engine].beliefs._known.values()
    hosts = {
        host for (host,) in rows(engine, select(Incident.hostname).where(Incident.id.in_([one.id for one in kept])))
    }
    assert hosts == {"a", "c"}


def test_its_function_gives_what_the_lifecycle_asks_for(engine: Engine, tenant: int) -> None:
    found = rows(
        engine, text("SELECT proargnames FROM pg_proc WHERE proname = 'openremedy_differing' AND pronargs = 3")
    )
    assert found[0][0][3:] == ["identity", "id", *STATE]


FETCHED = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'incidents'"


def test_changes_read_no_others_with_a_plan_from_when_the_table_was_nearly_empty(engine: Engine, tenant: int) -> None:
    """A session keeps its plans, and the storm that makes a table large finds those of the time before."""

    def change(connection: Connection) -> None:
        found = connection.execute(text("SELECT id, event_at, fired_at FROM incidents LIMIT 5")).mappings().all()
        same = {"more": 1, "status": "open", "severity": "low", "sender_ended": False, "latest": True}
        changed = express._json([dict(row) | same | {"last_seen": minute(0)} for row in found])
        connection.execute(text("SELECT set_config('enable_seqscan', 'off', true)"))
        assert connection.scalar(text("SELECT openremedy_add(CAST(:rows AS json))"), {"rows": changed}) == 5

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as vacuum, engine.connect() as connection:
        many_pending(vacuum, tenant, 5)
        vacuum.execute(text("VACUUM ANALYZE incidents"))
        for _ in range(12):
            change(connection)
            connection.commit()
        many_pending(vacuum, tenant, 3000)
        before = connection.scalar(text(FETCHED))
        change(connection)
        assert connection.scalar(text(FETCHED)) - before <= 20
        assert connection.scalar(text("SELECT sum(occurrences) FROM incidents")) == 5 + 3000 + 13 * 5


# ---------------------------------------------------------------- races


@contextmanager
def held(engine: Engine, tenant: int) -> Iterator[psycopg.Connection[Any]]:
    """The tenant's gate, taken by somebody else: whoever stores waits before it, with an old view of the tables."""
    address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [GATE + tenant])
        yield connection


def waiting(connection: psycopg.Connection[Any]) -> list[int]:
    """Who waits before a gate."""
    found = connection.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return [pid for (pid,) in found]


def stored_behind(
    engine: Engine, tenant: int, body: Alert, meanwhile: Callable[[psycopg.Connection[Any]], None]
) -> Future[Any]:
    """The future of a body that was sent while the gate was held and `meanwhile` happened."""
    pool = ThreadPoolExecutor(1)
    with held(engine, tenant) as connection:
        future = pool.submit(put, engine, tenant, body)
        until(lambda: waiting(connection), "it waits before the gate")
        meanwhile(connection)
    pool.shutdown(wait=False)
    return future


def test_a_resolve_that_is_stored_while_its_firing_waits_ends_it(engine: Engine, tenant: int, sent: list[str]) -> None:
    (late,) = arrivals(alert("resolved", at=5))
    row = delivery(tenant)

    def resolve(connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            "INSERT INTO deliveries (id, tenant_id, adapter, received_at, request_id, remote_addr, accepted,"
            " status_code, headers, body, body_bytes)"
            " VALUES (%s, %s, 'canonical', now(), 'x', 'x', true, 202, '{}', '', 0)",
            [row["id"], tenant],
        )
        connection.execute(
            "INSERT INTO alerts (tenant_id, delivery_id, position, outcome, status, severity, occurred_at, received_at,"
            " orphan_identity) VALUES (%s, %s, 0, 'ignored', 'resolved', 'medium', %s, now(), %s)",
            [tenant, row["id"], minute(5), late.identity],
        )

    (stored,) = stored_behind(engine, tenant, alert(at=0), resolve).result(30)
    assert (stored.outcome, stored.reason) == ("created", "its resolve had arrived before it")
    assert rows(engine, select(Incident.status)) == [("resolved",)]
    assert sent == ["write"], "and then a transaction"


def test_what_is_believed_may_change_while_it_waits(engine: Engine, tenant: int, sent: list[str]) -> None:
    put(engine, tenant, alert())

    def acknowledge(connection: psycopg.Connection[Any]) -> None:
        connection.execute("UPDATE incidents SET status = 'acknowledged', occurrences = 7")

    assert outcomes(stored_behind(engine, tenant, alert(), acknowledge).result(30)) == ["updated"]
    assert rows(engine, select(Incident.status, Incident.occurrences)) == [("acknowledged", 8)]
    assert sent == ["write"] * 3


def test_a_body_whose_connection_is_killed_is_stored_once_by_another(engine: Engine, tenant: int) -> None:
    def kill(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT pg_terminate_backend(%s)", waiting(connection))

    assert outcomes(stored_behind(engine, tenant, alert(), kill).result(30)) == ["created"]
    assert [len(rows(engine, select(model.id))) for model in (Delivery, Incident, AlertRecord)] == [1, 1, 1]


@pytest.mark.slow
def test_a_body_that_waits_too_long_is_given_up_by_the_database_and_not_by_us(engine: Engine, tenant: int) -> None:
    """By its lock_timeout: a statement that we had left alone would be written when the gate opens."""
    with held(engine, tenant), pytest.raises(Unavailable):
        put(engine, tenant, alert())
    assert told(engine, tenant) == []
    assert outcomes(put(engine, tenant, alert())) == ["created"], "the next one has a connection that works"


def test_a_connection_that_was_ended_while_it_was_idle_costs_nobody_a_refusal(engine: Engine, tenant: int) -> None:
    """It has answered a moment ago, so nobody asks it whether it still does."""
    put(engine, tenant, alert())
    with held(engine, tenant) as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(f"{others} AND pid <> pg_backend_pid()")
    assert outcomes(put(engine, tenant, alert())) == ["updated"]


def test_a_failing_row_leaves_nothing_of_its_body(engine: Engine, tenant: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE timeline ADD CONSTRAINT none CHECK (false) NOT VALID"))
    with pytest.raises(Exception, match="none"):
        put(engine, tenant, alert())
    assert told(engine, tenant) == []


def test_two_processes_with_wrong_beliefs_write_every_alert_once(engine: Engine, other: Engine, tenant: int) -> None:
    put(engine, tenant, *[alert(hostname=f"web-{n}") for n in range(3)])
    barrier = threading.Barrier(8)

    def send(number: int) -> list[str]:
        barrier.wait(30)
        mine = (engine, other)[number % 2]
        return [one for _ in range(10) for one in outcomes(put(mine, tenant, alert(hostname=f"web-{number % 3}")))]

    with ThreadPoolExecutor(8) as pool:
        assert set(chain.from_iterable(pool.map(send, range(8)))) == {"updated"}
    assert sum(count for (count,) in rows(engine, select(Incident.occurrences))) == 3 + 80
    assert len(rows(engine, select(AlertRecord.id))) == 3 + 80


def test_what_another_process_has_counted_costs_no_turn_and_is_added_to(
    engine: Engine, other: Engine, tenant: int, sent: list[str]
) -> None:
    severe = alert(severity="high", evidence={"n": 2})
    for mine in (engine, other):  # the second learns how it is in a turn of its own
        put(mine, tenant, alert())
    assert sent == ["write"] * 3
    for mine in (engine, other, engine, other):
        put(mine, tenant, alert())
    assert sent == ["write"] * 7
    put(engine, tenant, severe)
    assert sent == ["write"] * 8
    put(other, tenant, severe)
    assert sent == ["write"] * 10, "another severity is decided by"
    found = rows(engine, select(Incident.occurrences, Incident.severity, Incident.evidence))
    assert found == [(8, "high", {"n": 2})]


def test_a_deadlock_is_no_refusal(engine: Engine, tenant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadlock(*_: Any) -> list[Any]:
        raise psycopg.errors.DeadlockDetected

    monkeypatch.setattr(express, "_execute", deadlock)
    assert outcomes(put(engine, tenant, alert())) == ["created"]


# ---------------------------------------------------------------- bodies that come at once


def sent_by(engine: Engine, tenant: int, one: Alert) -> Any:
    """Store an alert with a body of its own."""
    body = f"body of {one.hostname}".encode()
    return put(engine, tenant, one, body=body, body_bytes=len(body))


def stands_in_line(line: express.Line, before: int) -> bool:
    return len(line._waiting) > before


def in_line(engine: Engine, tenant: int, *bodies: Alert) -> list[Any]:
    """Store bodies that all wait while the first is held before the gate, and return what came of each."""
    with ThreadPoolExecutor(len(bodies)) as pool, held(engine, tenant) as connection:
        futures = [pool.submit(sent_by, engine, tenant, bodies[0])]
        until(lambda: waiting(connection), "the first waits before the gate")
        line = express._rooms[engine]._lines[tenant]
        for body in bodies[1:]:
            before = len(line._waiting)
            futures.append(pool.submit(sent_by, engine, tenant, body))
            until(partial(stands_in_line, line, before), "the next stands in line")
        connection.rollback()
        return [future.result(30) for future in futures]


def test_who_comes_while_another_is_written_goes_with_the_others(engine: Engine, tenant: int, sent: list[str]) -> None:
    stored = in_line(engine, tenant, *[alert(hostname=f"web-{n}", evidence={"n": n}) for n in range(6)])
    assert [outcomes(one) for one in stored] == [["created"]] * 6
    assert sent == ["write"] * 2
    told_of = rows(engine, select(Incident.hostname, Incident.evidence))
    assert sorted((host, evidence["n"]) for host, evidence in told_of) == [(f"web-{n}", n) for n in range(6)]
    bodies = rows(engine, select(Delivery.body))
    assert sorted(bodies) == [(b"body of web-%d" % n,) for n in range(6)], "each has its own"


def test_those_of_one_thing_follow_one_another(engine: Engine, tenant: int, sent: list[str]) -> None:
    first = alert(hostname="another")
    stored = in_line(
        engine, tenant, first, alert(at=0), alert(at=5, severity="high"), alert(at=0), alert("resolved", at=9)
    )
    assert [outcomes(one) for one in stored[1:]] == [["created"], ["updated"], ["duplicate"], ["resolved"]]
    assert sent == ["write"] * 2
    (row,) = rows(
        engine, select(Incident.status, Incident.severity, Incident.occurrences).where(Incident.hostname == "web-01")
    )
    assert row == ("resolved", "high", 2)


def test_one_that_is_not_plain_costs_the_others_a_statement_each_and_nothing_else(
    engine: Engine, tenant: int, sent: list[str]
) -> None:
    stored = in_line(
        engine, tenant, alert(hostname="a"), alert(hostname="b"), alert("resolved", at=5), alert(hostname="c")
    )
    assert [outcomes(one) for one in stored] == [["created"], ["created"], ["ignored"], ["created"]]
    assert len(rows(engine, select(Delivery.id))) == 4
    assert len(rows(engine, select(AlertRecord.id))) == 4


def test_a_body_that_breaks_the_statement_breaks_alone(engine: Engine, tenant: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE incidents ADD CONSTRAINT no_b CHECK (hostname <> 'b')"))
    with pytest.raises(Exception, match="no_b"):
        in_line(engine, tenant, alert(hostname="a"), alert(hostname="b"), alert(hostname="c"))
    found = rows(engine, select(Incident.hostname).order_by(Incident.hostname))
    assert found == [("a",), ("c",)]
    assert len(rows(engine, select(Delivery.id))) == 2


def test_who_stands_behind_one_that_got_no_answer_is_told_at_once(database_url: str) -> None:
    line, tried = express.Line(), []

    def hangs(bodies: list[express.Body]) -> None:
        until(lambda: len(line._waiting) == 3, "the others stand in line")
        tried.append(bodies)
        bodies[0].error = Hung("the database does not answer")

    bodies = [express.Body({}, (), ()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: line.pass_through(one, hangs), bodies))
    assert len(tried) == 1
    assert all(isinstance(one.error, Hung) for one in bodies)


def test_a_large_body_does_not_stand_in_line(engine: Engine, tenant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "LARGEST", 3)
    monkeypatch.setattr(express.Line, "pass_through", lambda *_: pytest.fail("it holds others up"))
    assert outcomes(put(engine, tenant, *[alert(hostname=f"web-{n}") for n in range(4)])) == ["created"] * 4


def test_the_sources_of_bodies_that_go_together_are_counted_apart(engine: Engine, tenant: int, sent: list[str]) -> None:
    with engine.begin() as connection:
        for number in (1, 2):
            values = {"id": 900 + number, "tenant": tenant, "name": f"s{number}"}
            columns = "INSERT INTO sources (id, tenant_id, adapter, name, created_at)"
            connection.execute(text(f"{columns} VALUES (:id, :tenant, 'grafana', :name, now())"), values)
    bodies = [
        express.Body(delivery(tenant, source_id=source, adapter="grafana"), arrivals(alert(hostname=host)), ())
        for source, host in ((901, "a"), (902, "b"), (902, "c"))
    ]
    express.Room(engine).write(bodies)
    assert sent == ["write"]
    counted = rows(
        engine, text("SELECT id, created_count, last_seen_at IS NOT NULL FROM sources WHERE id > 900 ORDER BY id")
    )
    assert counted == [(901, 1, True), (902, 2, True)]
    found = rows(engine, select(Incident.hostname, Incident.source_id, Incident.adapter).order_by(Incident.hostname))
    assert found == [("a", 901, "grafana"), ("b", 902, "grafana"), ("c", 902, "grafana")]


def test_a_database_that_nobody_uses_any_more_is_forgotten(engine: Engine, tenant: int) -> None:
    one = create_engine(engine.url)
    database.prepare(one)
    put(one, tenant, alert())
    one.dispose()
    forgotten = weakref.ref(one)
    del one
    gc.collect()
    assert forgotten() is None


def test_the_row_of_a_source_is_free_while_its_incidents_wait(engine: Engine, tenant: int) -> None:
    """The transaction takes it last; the other way round the two would wait for each other."""
    (one,) = arrivals(alert())
    with engine.begin() as connection:
        columns = "INSERT INTO sources (id, tenant_id, adapter, name, created_at)"
        connection.execute(text(f"{columns} VALUES (901, :tenant, 'grafana', 's', now())"), {"tenant": tenant})
    with ThreadPoolExecutor(1) as pool, engine.connect() as other:
        copied = {"identity": one.identity, "tenant": tenant}
        columns = "id, tenant_id, adapter, identity, latest, status, hostname, incident_type, severity, evidence"
        columns += ", occurrences, first_seen, last_seen, recent_starts, triage, triage_since"
        values = "gen_random_uuid(), :tenant, 'grafana', :identity, true, 'open', 'web-01', 'disk_full', 'high', '{}'"
        values += ", 1, now(), now(), '[]', 'pending', now()"
        other.execute(text(f"INSERT INTO incidents ({columns}) VALUES ({values})"), copied)  # noqa: S608 - our own words
        row = delivery(tenant, source_id=901, adapter="grafana")
        stored = pool.submit(store.store, engine, row, [one])
        blocked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: rows(engine, text(blocked)), "it waits for the incident of the other")
        assert rows(engine, text("SELECT id FROM sources WHERE id = 901 FOR UPDATE NOWAIT")) == [(901,)]
        other.commit()
        assert outcomes(stored.result(30)) == ["updated"]
