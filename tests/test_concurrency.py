"""Many at once: threads against the store, processes against the service, and a database that goes away."""

import json
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Engine, event, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

import openremedy.database
from bodies import alert, outcomes, put, tenant_id
from cast import DISK_FULL, Member, Tenant
from conftest import ENCRYPTION_KEY, driver, make_settings, make_tenant, migrate
from openremedy import incidents, maintenance, store
from openremedy.audit import Actor
from openremedy.errors import Unavailable
from openremedy.extensions import db
from openremedy.models import AlertRecord, Delivery, Incident, Source, TimelineEntry, now
from openremedy.services import services
from services import PostgresServer, RedisServer, postgres, until
from stack import Stack

ONLY_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.fixture
def tenant(alice: Tenant, engine: Engine) -> int:
    return tenant_id(engine, alice.slug)


Found = TypeVar("Found")


def at_once(works: Sequence[Callable[[], Found]]) -> list[Found]:
    """Run all of them at the same time, each in a thread; the first error of any is raised."""
    barrier = threading.Barrier(len(works))

    def start(work: Callable[[], Found]) -> Found:
        barrier.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(start, works))


def rows(engine: Engine, statement: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(statement).all())


def counts(engine: Engine) -> dict[str, int]:
    """How many rows each table of an alert's holds."""
    tables = (Delivery, AlertRecord, Incident, TimelineEntry)
    return {table.__tablename__: rows(engine, select(func.count()).select_from(table))[0][0] for table in tables}


def said(engine: Engine) -> Counter[str]:
    """How often each kind stands on the timelines."""
    return Counter(kind for (kind,) in rows(engine, select(TimelineEntry.kind)))


@contextmanager
def before(engine: Engine, beginning: str, do: Callable[[], None]) -> Iterator[None]:
    """Run `do` in the middle of the first transaction that comes to a statement that begins so."""
    waiting = [do]

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning) and waiting:
            waiting.pop()()

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert not waiting, f"no statement began with {beginning}"


# ---------------------------------------------------------------- one identity, many writers


@pytest.mark.parametrize("at", [None, 0], ids=["without a time", "with a time"])
def test_fifty_first_alerts_at_once_are_one_incident(engine: Engine, tenant: int, at: float | None) -> None:
    stored = at_once([lambda: put(engine, tenant, alert(at=at))[0]] * 50)
    again = "updated" if at is None else "duplicate"
    assert Counter(str(one.outcome) for one in stored) == {"created": 1, again: 49}
    assert len({one.incident_id for one in stored}) == 1
    assert rows(engine, select(Incident.occurrences)) == [(50 if at is None else 1,)]
    assert counts(engine) == {"deliveries": 50, "alerts": 50, "incidents": 1, "timeline": 1}


def test_fifty_firings_at_once_after_a_persons_resolve_are_one_incident(engine: Engine, tenant: int) -> None:
    first = put(engine, tenant, alert())[0].incident_id
    assert first
    incidents.resolve(engine, tenant, first, Actor("bob"))
    stored = at_once([lambda: put(engine, tenant, alert())[0]] * 50)
    assert Counter(outcomes(stored)) == {"created": 1, "updated": 49}
    found = rows(engine, select(Incident.occurrences, Incident.still_firing, Incident.previous_incident_id))
    assert sorted(found) == [(1, False, None), (50, True, first)]


def test_two_tenants_alerts_at_once_do_not_meet(engine: Engine, app: Flask, tenant: int, charlie: Tenant) -> None:
    other = tenant_id(engine, charlie.slug)
    at_once([lambda: put(engine, tenant, alert()), lambda: put(engine, other, alert())] * 10)
    found = rows(engine, select(Incident.tenant_id, Incident.occurrences))
    assert sorted(found) == sorted([(tenant, 10), (other, 10)])


@contextmanager
def on_error(do: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        do()
        raise


def race(rounds: int, *contenders: Callable[[int], Any]) -> None:
    """Let the contenders meet once a round."""
    barrier = threading.Barrier(len(contenders))

    def run(contender: Callable[[int], Any]) -> None:
        with on_error(barrier.abort):
            for number in range(rounds):
                barrier.wait(timeout=30)
                contender(number)

    at_once([partial(run, contender) for contender in contenders])


def test_a_firing_and_its_resolve_racing_always_end_resolved(engine: Engine, tenant: int) -> None:
    race(
        100,
        lambda n: put(engine, tenant, alert(at=0, hostname=f"web-{n}")),
        lambda n: put(engine, tenant, alert("resolved", at=5, hostname=f"web-{n}")),
    )
    assert rows(engine, select(Incident.status, func.count()).group_by(Incident.status)) == [("resolved", 100)]


def test_firings_and_resolves_without_times_racing_leave_at_most_one_open(engine: Engine, tenant: int) -> None:
    race(
        50,
        lambda _: put(engine, tenant, alert()),
        lambda _: put(engine, tenant, alert()),
        lambda _: put(engine, tenant, alert("resolved")),
    )
    statuses = Counter(str(status) for (status,) in rows(engine, select(Incident.status)))
    closed = rows(engine, select(func.count()).where(AlertRecord.outcome == "resolved"))[0][0]
    assert statuses["open"] <= 1
    assert statuses["resolved"] == closed
    assert rows(engine, select(func.sum(Incident.occurrences))) == [(100,)]
    assert len(rows(engine, select(Incident.id).where(Incident.latest))) == 1


@pytest.mark.usefixtures("in_transactions")
@pytest.mark.parametrize("earlier", [False, True], ids=["the first episode", "a later episode"])
@ONLY_POSTGRESQL
def test_a_resolve_that_comes_while_its_firing_is_being_stored_ends_it(
    engine: Engine, tenant: int, earlier: bool
) -> None:
    if earlier:
        put(engine, tenant, alert(at=-9))
        put(engine, tenant, alert("resolved", at=-8))
    with ThreadPoolExecutor(1) as pool:

        def resolve() -> None:
            ending = pool.submit(put, engine, tenant, alert("resolved", at=5))
            # It either waits for us or, wrongly, does not.
            wait([ending], timeout=0.5)

        with before(engine, "INSERT INTO incidents", resolve):
            put(engine, tenant, alert(at=0))
    assert rows(engine, select(Incident.status).where(Incident.status != "resolved")) == []


@pytest.mark.usefixtures("in_transactions")
@pytest.mark.parametrize("earlier", [False, True], ids=["the first episode", "a later episode"])
@ONLY_POSTGRESQL
def test_a_firing_that_comes_while_its_resolve_is_being_stored_is_over(
    engine: Engine, tenant: int, earlier: bool
) -> None:
    if earlier:
        put(engine, tenant, alert(at=-9))
        put(engine, tenant, alert("resolved", at=-8))
    with ThreadPoolExecutor(1) as pool:

        def fire() -> None:
            wait([pool.submit(put, engine, tenant, alert(at=0))], timeout=0.5)

        with before(engine, "INSERT INTO alerts", fire):
            put(engine, tenant, alert("resolved", at=5))
    assert Counter(str(status) for (status,) in rows(engine, select(Incident.status))) == {"resolved": 1 + earlier}


def test_bodies_with_the_same_alerts_in_other_orders_do_not_deadlock(engine: Engine, tenant: int) -> None:
    def body(status: str, number: int) -> Callable[[], list[str]]:
        alerts = [alert(status, hostname=f"web-{n}") for n in range(30)]
        random.Random(number).shuffle(alerts)
        return lambda: outcomes(put(engine, tenant, *alerts))

    first = at_once([body("firing", number) for number in range(20)])
    assert Counter(outcome for each in first for outcome in each) == {"created": 30, "updated": 570}
    assert {count for (count,) in rows(engine, select(Incident.occurrences))} == {20}
    last = at_once([body(("firing", "resolved")[number % 2], number) for number in range(20)])
    assert {outcome for each in last for outcome in each} <= {"created", "updated", "resolved", "ignored"}
    assert len(rows(engine, select(Incident.id).where(Incident.status != "resolved"))) <= 30
    assert rows(engine, select(func.sum(Incident.occurrences))) == [(900,)]
    if engine.dialect.name == "postgresql":
        deadlocks = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert rows(engine, deadlocks) == [(0,)]


def test_a_person_resolves_while_alerts_arrive(engine: Engine, tenant: int) -> None:
    def resolve_all() -> None:
        for _ in range(25):
            for (found,) in rows(engine, select(Incident.id).where(Incident.status != "resolved")):
                incidents.resolve(engine, tenant, found, Actor("bob"))

    def post() -> None:
        for _ in range(25):
            put(engine, tenant, alert())

    at_once([post, post, post, post, resolve_all])
    columns = (Incident.id, Incident.status, Incident.previous_incident_id, Incident.still_firing)
    found = rows(engine, select(*columns).order_by(Incident.id))
    assert rows(engine, select(func.sum(Incident.occurrences))) == [(100,)]
    assert [one.status for one in found[:-1]] == ["resolved"] * (len(found) - 1)
    # A chain: each links to the one before it and burns on.
    assert [one.previous_incident_id for one in found] == [None, *[one.id for one in found[:-1]]]
    assert [one.still_firing for one in found] == [False, *[True] * (len(found) - 1)]


# ---------------------------------------------------------------- people and clocks at the same time


def test_two_people_at_once_change_an_incident_once(app: Flask, engine: Engine, alice: Tenant, bob: Member) -> None:
    def press(who: Tenant | Member, button: str, number: str) -> Callable[[], int]:
        path = f"/api/v1/incidents/{number}/{button}"
        return lambda: app.test_client().post(path, json={}, headers=who.auth).status_code

    number = alice.alert()["incident_id"]
    for buttons in (("acknowledge", "acknowledge"), ("resolve", "resolve"), ("acknowledge", "resolve")):
        presses = [press(who, button, number) for who, button in zip((alice, bob), buttons, strict=True)]
        assert at_once(presses * 3) == [200] * 6
    assert alice.incident(number)["status"] == "resolved"
    assert said(engine) == {"opened": 1, "acknowledged": 1, "resolved": 1}


def test_an_acknowledge_and_a_resolve_at_once_end_resolved(app: Flask, engine: Engine, alice: Tenant) -> None:
    numbers = [alice.alert(hostname=f"web-{n}")["incident_id"] for n in range(20)]
    race(
        20,
        lambda n: alice.post(f"/incidents/{numbers[n]}/acknowledge"),
        lambda n: alice.post(f"/incidents/{numbers[n]}/resolve"),
    )
    assert {one["status"] for one in alice.incidents()} == {"resolved"}
    assert said(engine)["resolved"] == 20


def test_two_sweeps_at_once_close_each_stale_incident_once(app: Flask, engine: Engine, tenant: int) -> None:
    with engine.begin() as connection:
        row = {"tenant_id": tenant, "adapter": "datadog", "name": "dd", "stale_after": 60}
        source = connection.execute(insert(Source).returning(Source.id), row).scalar_one()
    put(engine, tenant, *[alert(hostname=f"web-{n}") for n in range(30)], source_id=source)
    with engine.begin() as connection:
        connection.execute(update(Incident).values(last_seen=now() - timedelta(seconds=61)))

    def sweep() -> int:
        with app.app_context():
            return maintenance.sweep(services(), engine)["stale"]

    assert sum(at_once([sweep] * 4)) == 30
    assert said(engine) == {"opened": 30, "stale": 30}


# ---------------------------------------------------------------- a database that is busy, broken or gone


def refused(answer: Any) -> None:
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


@ONLY_SQLITE
def test_a_sqlite_that_stays_locked_is_a_503(
    make_app: Callable[..., Flask], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openremedy.database, "BUSY_TIMEOUT", 0.3)
    alice = make_tenant(make_app(settings), "alice")
    alice.alert()
    with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused(alice.send(json.dumps(DISK_FULL).encode()))
        other.execute("ROLLBACK")
    assert alice.alert()["outcome"] == "updated"


@pytest.mark.usefixtures("in_transactions")
def test_writers_that_meet_again_and_again_get_a_503(
    engine: Engine, tenant: int, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collide(*_: Any) -> None:
        raise store.Collision

    monkeypatch.setattr(store, "_write_episodes", collide)
    refused(alice.send(json.dumps(DISK_FULL).encode()))
    assert counts(engine) == {"deliveries": 0, "alerts": 0, "incidents": 0, "timeline": 0}


@pytest.mark.usefixtures("in_transactions")
@ONLY_POSTGRESQL
@pytest.mark.parametrize("beginning", ["INSERT INTO incidents", "INSERT INTO alerts", "INSERT INTO timeline"])
def test_a_connection_killed_in_the_middle_leaves_nothing_half_done(
    engine: Engine, tenant: int, postgres_server: PostgresServer, beginning: str
) -> None:
    def kill() -> None:
        name = engine.url.database
        with psycopg.connect(postgres_server.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    with before(engine, beginning, kill), pytest.raises(Unavailable):
        put(engine, tenant, alert())
    assert counts(engine) == {"deliveries": 0, "alerts": 0, "incidents": 0, "timeline": 0}
    assert outcomes(put(engine, tenant, alert())) == ["created"]


@pytest.mark.usefixtures("in_transactions")
@ONLY_POSTGRESQL
def test_a_deadlock_is_retried_until_it_works(engine: Engine, tenant: int) -> None:
    def deadlock() -> None:
        raise OperationalError("", {}, psycopg.errors.DeadlockDetected())

    with before(engine, "INSERT INTO alerts", deadlock):
        assert outcomes(put(engine, tenant, alert())) == ["created"]
    assert counts(engine) == {"deliveries": 1, "alerts": 1, "incidents": 1, "timeline": 1}


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    with postgres() as server:
        migrate(make_settings(tmp_path_factory.mktemp("own"), driver(server.url)))
        yield server


def test_a_stopped_postgresql_is_a_503_and_nothing_needs_a_restart(
    own_postgres: PostgresServer, tmp_path: Path, make_app: Callable[..., Flask]
) -> None:
    app = make_app(make_settings(tmp_path, driver(own_postgres.url)))
    alice = make_tenant(app, "alice")
    alice.alert()
    own_postgres.stop()
    begin = time.monotonic()
    refused(alice.send(json.dumps(DISK_FULL).encode()))
    refused(app.test_client().get("/api/v1/incidents", headers=alice.auth))
    assert time.monotonic() - begin < 8
    own_postgres.start()
    assert alice.alert()["outcome"] == "updated"
    assert len(alice.incidents()) == 1


# ---------------------------------------------------------------- as processes


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Stack]:
    """Web and worker processes, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("service")
    url = f"sqlite:///{folder / 'openremedy.db'}"
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "openremedy.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = driver(server.create_database("service", template=request.getfixturevalue("postgres_template")))
    redis_server.flushall()
    running = Stack(folder, url, redis_server.url, ENCRYPTION_KEY)
    running.start("web", "worker")
    running.create_tenant()
    yield running
    running.stop()


def test_fifty_posts_at_once_are_one_incident_with_one_verdict(service: Stack) -> None:
    answers = service.send_many([{**DISK_FULL, "hostname": "fifty"}] * 50, at_once=50)
    assert Counter(answer.status_code for answer in answers) == {202: 50}
    assert Counter(answer.json()["outcome"] for answer in answers) == {"created": 1, "updated": 49}
    [found] = service.incidents(hostname="fifty")
    assert found["occurrences"] == 50
    until(lambda: service.get(f"/incidents/{found['id']}")["verdict"], "the verdict")
    assert len(service.get(f"/incidents/{found['id']}")["verdicts"]) == 1


@pytest.mark.parametrize(
    ("service", "grace", "expected"),
    [("postgresql", "24", {202}), ("sqlite", "0", {202, 401})],
    indirect=["service"],
    ids=["with grace", "at once"],
)
def test_posts_during_a_rotation_are_accepted_or_unauthorized(service: Stack, grace: str, expected: set[int]) -> None:
    old = service.secret
    with ThreadPoolExecutor(9) as pool:
        rotation = pool.submit(service.flask, "tenant", "rotate-secret", service.slug, "--grace", grace)
        found: list[int] = []
        while not rotation.done() or len(found) < 50:
            found += [answer.status_code for answer in pool.map(service.send, [DISK_FULL] * 8)]
    assert set(found) <= expected
    service.secret = rotation.result()["webhook_secret"]
    assert service.send().status_code == 202
    new, service.secret = service.secret, old
    if grace == "0":
        until(lambda: service.send().status_code == 401, "the old secret is refused")
    else:
        assert service.send().status_code == 202
    service.secret = new
