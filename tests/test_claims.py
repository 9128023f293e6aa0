"""Claims, leases and the sweep: every incident once, every tenant in turn, nothing lost."""

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask
from sqlalchemy import Engine, event, func, insert, select, update
from sqlalchemy.exc import OperationalError

import bodies
from cast import Tenant
from openremedy import claims, clock, maintenance
from openremedy.claims import Claim, Turn
from openremedy.classification import Classifier, Limits
from openremedy.extensions import db
from openremedy.ids import new_id
from openremedy.models import (
    CauseLease,
    Incident,
    Link,
    RefusalCount,
    SignIn,
    Submission,
    Triage,
    User,
    Verdict,
    now,
    table,
)
from openremedy.models import Tenant as TenantRow
from openremedy.services import KEY

ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
LEASE = timedelta(seconds=60)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


def put(engine: Engine, slug: str, count: int = 1, **values: Any) -> list[uuid.UUID]:
    """Pending incidents, without the door; the tenant is made when there is none."""
    with engine.begin() as connection:
        tenant = connection.execute(select(TenantRow.id).where(TenantRow.slug == slug)).scalar()
        if tenant is None:
            made = insert(TenantRow).values(slug=slug, name=slug).returning(TenantRow.id)
            tenant = connection.execute(made).scalar_one()
        rows = [_row(tenant) | values for _ in range(count)]
        connection.execute(insert(table(Incident)), rows)
    return [row["id"] for row in rows]


def _row(tenant: int) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant,
        "adapter": "canonical",
        "identity": uuid.uuid4().hex,
        "status": "open",
        "hostname": "web-01",
        "incident_type": "disk_full",
        "severity": "medium",
        "evidence": {},
        "first_seen": now(),
        "last_seen": now(),
        "recent_starts": [],
    }


def change(engine: Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(Incident).values(**values))


def states(engine: Engine) -> dict[str, int]:
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return dict(connection.execute(select(Incident.triage, func.count()).group_by(Incident.triage)).all())


def read(engine: Engine, statement: Any) -> Any:
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.execute(statement).scalar()


def ids(claimed: list[Claim]) -> list[uuid.UUID]:
    return [one.incident["id"] for one in claimed]


def ended_lease(engine: Engine) -> None:
    change(engine, lease_until=now() - timedelta(seconds=1))


# ---------------------------------------------------------------- who gets what


def test_two_workers_that_race_for_300_incidents_claim_each_once(engine: Engine) -> None:
    wanted = put(engine, "alice", 300)
    start = threading.Barrier(2)

    def work(_: int) -> list[uuid.UUID]:
        start.wait()
        mine: list[uuid.UUID] = []
        while claims.waiting(engine):
            mine += ids(claims.claim(engine, 8, LEASE))
        return mine

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert sorted(first + second) == sorted(wanted)


def test_one_incident_of_another_tenant_is_in_the_first_batch_beside_a_thousand(engine: Engine) -> None:
    put(engine, "alice", 1000)
    (charlies,) = put(engine, "charlie")
    assert charlies in ids(claims.claim(engine, 16, LEASE))


def test_where_one_place_gets_free_it_goes_to_the_tenant_that_holds_none(engine: Engine) -> None:
    put(engine, "alice", 1000)
    claims.claim(engine, 16, LEASE)
    (charlies,) = put(engine, "charlie")
    assert ids(claims.claim(engine, 1, LEASE)) == [charlies]


def test_places_are_shared_by_turns(engine: Engine) -> None:
    for slug, count in (("alice", 50), ("bella", 50), ("charlie", 2)):
        put(engine, slug, count)
    claimed = [one.incident["tenant_id"] for one in claims.claim(engine, 12, LEASE)]
    assert sorted(claimed.count(tenant) for tenant in set(claimed)) == [2, 5, 5]


def test_a_place_for_tenants_with_little_in_hand_is_not_for_the_noisy_one(engine: Engine) -> None:
    put(engine, "alice", 100)
    claims.claim(engine, 16, LEASE)
    assert claims.claim(engine, 4, LEASE, most_in_hand=4) == []
    charlies = put(engine, "charlie", 6)
    assert sorted(ids(claims.claim(engine, 8, LEASE, most_in_hand=4))) == charlies[:4]
    assert claims.claim(engine, 4, LEASE, most_in_hand=4) == []


def test_every_tenant_has_its_turn_before_any_has_two(engine: Engine) -> None:
    for number in range(12):
        put(engine, f"tenant-{number}", 5)
    put(engine, "noisy", 500)
    claimed = [one.incident["tenant_id"] for one in claims.claim(engine, 13, LEASE)]
    assert len(set(claimed)) == 13


def test_what_rests_or_waits_before_it_does_not_hide_what_is_ready(engine: Engine) -> None:
    put(engine, "alice", 20, retry_at=now() + timedelta(minutes=1))
    put(engine, "alice", 20, cause="cause")
    ready = put(engine, "alice", 3)
    with engine.begin() as connection:
        lease = {"cause": "cause", "holder": new_id(), "lease_until": now() + LEASE}
        tenant = connection.execute(select(TenantRow.id).where(TenantRow.slug == "alice")).scalar_one()
        connection.execute(insert(CauseLease).values(tenant_id=tenant, **lease))
    assert ids(claims.claim(engine, 2, LEASE)) == ready[:2]
    assert ids(claims.claim(engine, 2, LEASE)) == ready[2:]
    assert not claims.waiting(engine)


def test_a_cause_that_is_asked_about_for_one_tenant_is_free_for_another(engine: Engine) -> None:
    put(engine, "alice", 2, cause="cause")
    first, _ = claims.claim(engine, 2, LEASE)
    take(engine, first)
    charlies = put(engine, "charlie", cause="cause")
    assert ids(claims.claim(engine, 2, LEASE)) == charlies


def test_the_oldest_of_a_tenant_comes_first(engine: Engine) -> None:
    put_first, put_later = put(engine, "alice"), put(engine, "alice")
    assert ids(claims.claim(engine, 1, LEASE)) == put_first
    assert ids(claims.claim(engine, 1, LEASE)) == put_later


def test_what_shall_rest_is_left_alone_until_then(engine: Engine) -> None:
    put(engine, "alice", retry_at=now() + timedelta(minutes=1))
    assert claims.claim(engine, 16, LEASE) == []
    assert not claims.waiting(engine)
    change(engine, retry_at=now() - timedelta(seconds=1))
    assert claims.waiting(engine)
    assert len(claims.claim(engine, 16, LEASE)) == 1


@ONLY_POSTGRES
def test_a_row_that_somebody_holds_is_not_waited_for(engine: Engine) -> None:
    held, free = put(engine, "alice", 2)
    with engine.begin() as connection:
        connection.execute(select(Incident.id).where(Incident.id == held).with_for_update())
        assert ids(claims.claim(engine, 16, LEASE)) == [free]
        assert claims.waiting(engine), "the worker must look again"


# ---------------------------------------------------------------- lost workers


def test_a_lease_that_ended_gives_the_incident_back(engine: Engine) -> None:
    put(engine, "alice")
    claims.claim(engine, 16, LEASE)
    assert claims.requeue_lost(engine) == (0, 0)
    ended_lease(engine)
    assert claims.requeue_lost(engine) == (1, 0)
    (again,) = claims.claim(engine, 16, LEASE)
    assert again.incident["attempts"] == 2


def test_what_ends_every_worker_goes_to_a_person_who_sees_it(app: Flask, alice: Tenant, engine: Engine) -> None:
    incident_id = alice.alert()["incident_id"]
    for _ in range(claims.MAX_ATTEMPTS):
        assert claims.claim(engine, 16, LEASE) or claims.claim_suspect(engine, LEASE)
        ended_lease(engine)
        claims.requeue_lost(engine)
    assert not claims.waiting(engine)
    incident = alice.incident(incident_id)
    assert incident["classification"] == "needs_human"
    assert incident["timeline"][-1]["kind"] == "needs_human"
    assert incident["timeline"][-1]["detail"]["reason"] == "5 attempts ended without an answer"


def test_suspects_are_claimed_alone_and_innocents_without_them(engine: Engine) -> None:
    suspects = put(engine, "alice", 3, attempts=claims.SUSPECT_ATTEMPTS)
    innocents = put(engine, "alice", 3)
    assert sorted(ids(claims.claim(engine, 16, LEASE))) == innocents
    assert claims.claim(engine, 16, LEASE) == []
    for suspect in suspects:
        alone = claims.claim_suspect(engine, LEASE)
        assert alone
        assert alone.incident["id"] == suspect


def test_innocents_survive_an_incident_that_ends_the_process(app: Flask, alice: Tenant, engine: Engine) -> None:
    """A worker that ends at once (here: a lease nobody keeps) when it touches one of 20 incidents."""
    poison = uuid.UUID(alice.alert(hostname="poison")["incident_id"])
    for number in range(19):
        alice.alert(hostname=f"web-{number}")

    class Fragile(Classifier):
        def _case(self, claim: Claim, catalogue: Any) -> Any:
            if claim.incident["id"] == poison:
                raise SystemExit(1)
            return super()._case(claim, catalogue)

    for _ in range(claims.MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            asyncio.run(Fragile(engine, Limits(5, 16, 0, ""), None).run())
        ended_lease(engine)
        claims.requeue_lost(engine)
    asyncio.run(Fragile(engine, Limits(5, 16, 0, ""), None).run())
    found = {one["hostname"]: one["classification"] for one in alice.incidents()}
    assert found.pop("poison") == "needs_human"
    assert set(found.values()) == {"done"}
    assert len(found) == 19


def test_a_lost_claim_s_answer_is_dropped(app: Flask, alice: Tenant, engine: Engine) -> None:
    alice.alert()
    (lost,) = claims.claim(engine, 16, LEASE)
    ended_lease(engine)
    claims.requeue_lost(engine)
    (kept,) = claims.claim(engine, 16, LEASE)
    worker = Classifier(engine, Limits(5, 16, 0, ""), None)
    asyncio.run(worker._one(lost))
    assert states(engine) == {"classifying": 1}
    assert read(engine, select(func.count()).select_from(Verdict)) == 0
    asyncio.run(worker._one(kept))
    assert states(engine) == {"done": 1}
    asyncio.run(worker._one(kept))
    assert read(engine, select(func.count()).select_from(Verdict)) == 1


def test_a_lost_claim_neither_fails_nor_gives_back_what_another_holds(engine: Engine) -> None:
    put(engine, "alice")
    (lost,) = claims.claim(engine, 16, LEASE)
    ended_lease(engine)
    claims.requeue_lost(engine)
    claims.claim(engine, 16, LEASE)
    claims.fail(engine, lost, "broken")
    with engine.begin() as connection:
        claims.give_back(connection, [(lost, "cause")])
    assert states(engine) == {"classifying": 1}


def test_two_sweeps_at_once_requeue_each_incident_once(engine: Engine) -> None:
    put(engine, "alice", 200)
    while claims.claim(engine, 64, LEASE):
        pass
    ended_lease(engine)
    start = threading.Barrier(2)

    def sweep(_: int) -> int:
        start.wait()
        return claims.requeue_lost(engine)[0]

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(sweep, range(2))) == 200
    assert states(engine) == {"pending": 200}
    assert read(engine, select(func.max(Incident.attempts))) == 1


def test_an_attempt_that_broke_rests_and_in_the_end_goes_to_a_person(engine: Engine) -> None:
    put(engine, "alice")
    rests = []
    for _ in range(claims.MAX_ATTEMPTS):
        held = next(iter(claims.claim(engine, 16, LEASE)), None) or claims.claim_suspect(engine, LEASE)
        assert held
        claims.fail(engine, held, "ValueError")
        rests.append(read(engine, select(Incident.retry_at)))
        change(engine, retry_at=None)
    assert all(rests[:-1])
    assert rests[:-1] == sorted(rests[:-1])
    assert states(engine) == {"needs_human": 1}


def test_how_long_an_incident_waits_is_counted_from_its_beginning(engine: Engine) -> None:
    began = now() - timedelta(hours=1)
    put(engine, "alice", triage_since=began)
    (held,) = claims.claim(engine, 16, LEASE)
    claims.fail(engine, held, "ValueError")
    change(engine, retry_at=None)
    claims.claim(engine, 16, LEASE)
    ended_lease(engine)
    claims.requeue_lost(engine)
    assert read(engine, select(Incident.triage_since)) == began


# ---------------------------------------------------------------- causes


def take(engine: Engine, held: Claim) -> Turn:
    return claims.take_cause(engine, held, "cause", LEASE)


def test_one_asks_and_the_others_of_the_cause_wait_until_it_has_left(engine: Engine) -> None:
    put(engine, "alice", 3)
    first, second, third = claims.claim(engine, 16, LEASE)
    assert [take(engine, one) for one in (first, second, third)] == [Turn.MINE, Turn.WAIT, Turn.WAIT]
    assert not claims.waiting(engine)
    claims.leave_cause(engine, first, "cause", failed=False)
    assert claims.waiting(engine)
    again = claims.claim(engine, 16, LEASE)
    assert [one.incident["attempts"] for one in again] == [1, 1], "waiting for another is no attempt"


def test_who_waits_for_a_worker_that_died_goes_on_when_its_lease_ends(engine: Engine) -> None:
    put(engine, "alice", 2)
    first, second = claims.claim(engine, 16, LEASE)
    assert (take(engine, first), take(engine, second)) == (Turn.MINE, Turn.WAIT)
    with engine.begin() as connection:
        connection.execute(update(CauseLease).values(lease_until=now() - timedelta(seconds=1)))
    (again,) = claims.claim(engine, 16, LEASE)
    assert take(engine, again) is Turn.MINE


def test_the_incident_that_asked_may_ask_again_when_its_worker_was_lost(engine: Engine) -> None:
    put(engine, "alice")
    (lost,) = claims.claim(engine, 16, LEASE)
    take(engine, lost)
    ended_lease(engine)
    claims.requeue_lost(engine)
    (again,) = claims.claim(engine, 16, LEASE)
    assert take(engine, again) is Turn.MINE


def test_after_a_failed_cause_the_others_do_without_for_a_while(engine: Engine) -> None:
    put(engine, "alice", 2)
    first, second = claims.claim(engine, 16, LEASE)
    take(engine, first)
    claims.leave_cause(engine, first, "cause", failed=True)
    assert take(engine, second) is Turn.FAILED
    with engine.begin() as connection:
        connection.execute(update(CauseLease).values(failed_until=now() - timedelta(seconds=1)))
    assert take(engine, second) is Turn.MINE


@ONLY_POSTGRES
def test_of_many_that_want_a_cause_at_once_one_gets_it(engine: Engine) -> None:
    put(engine, "alice", 8)
    held = claims.claim(engine, 16, LEASE)
    start = threading.Barrier(8)

    def want(one: Claim) -> Turn:
        start.wait()
        return take(engine, one)

    with ThreadPoolExecutor(8) as pool:
        turns = list(pool.map(want, held))
    assert (turns.count(Turn.MINE), turns.count(Turn.WAIT)) == (1, 7)


# ---------------------------------------------------------------- the scheduler's round


def test_a_sweep_says_what_it_found(app: Flask, alice: Tenant, engine: Engine) -> None:
    alice.alert()
    claims.claim(engine, 16, LEASE)
    ended_lease(engine)
    assert maintenance.sweep(app.extensions[KEY], engine) == {
        "requeued": 1,
        "given_up": 0,
        "stale": 0,
        "redone": 0,
        "indexed": 0,
    }


def test_pruning_keeps_open_incidents_and_whatever_is_young(app: Flask, alice: Tenant, engine: Engine) -> None:
    with clock.as_if_at(now() - timedelta(days=91)):
        kept_open, closed, late = (alice.alert(hostname=name)["incident_id"] for name in ("open", "closed", "late"))
        alice.post(f"/incidents/{closed}/resolve")
    young = alice.alert(hostname="young")["incident_id"]
    for one in (late, young):
        alice.post(f"/incidents/{one}/resolve")
    assert maintenance.prune(engine, 90)["incidents"] == 1
    assert {one["id"] for one in alice.incidents()} == {kept_open, late, young}


def test_pruning_stops_when_it_is_told_to_and_goes_on_the_next_time(
    alice: Tenant, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BATCH", 2)
    for number in range(5):
        resolved(alice, 91 + number)
    asked = chain([False, False], repeat(True))
    first = maintenance.prune(engine, 90, lambda: next(asked))
    assert (first["deliveries"], first["incidents"]) == (4, 0)
    second = maintenance.prune(engine, 90)
    assert (second["deliveries"], second["incidents"]) == (1, 5)


def test_pruning_goes_past_what_it_must_not_delete(
    alice: Tenant, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BATCH", 2)
    with clock.as_if_at(now() - timedelta(days=91)):
        for name in ("one", "two", "three", "four"):
            alice.alert(hostname=name)
    resolved(alice, 91)
    looks = iter(range(20))
    found = maintenance.prune(engine, 90, lambda: next(looks) < 0)
    assert (found["incidents"], len(alice.incidents())) == (1, 4)


@pytest.mark.parametrize(("at_once", "times"), [(60.0, 1), (-1.0, 3)], ids=["all of it", "a part"])
def test_what_a_round_has_not_deleted_has_its_turn_in_the_next(
    app: Flask, engine: Engine, monkeypatch: pytest.MonkeyPatch, at_once: float, times: int
) -> None:
    monkeypatch.setattr(maintenance, "PRUNE_AT_ONCE", at_once)
    pruned: list[int] = []
    monkeypatch.setattr(maintenance, "prune", lambda *_: pruned.append(1) or {})
    rounds = iter([False, False, False, True])
    stopped = SimpleNamespace(is_set=lambda: False, wait=lambda _seconds: None)
    monkeypatch.setattr(maintenance, "sweep", lambda *_, **__: {} if not next(rounds) else stop_now())
    with pytest.raises(KeyboardInterrupt):
        maintenance.run(app.extensions[KEY], engine, cast(threading.Event, stopped), 0)
    assert len(pruned) == times


def stop_now() -> dict[str, int]:
    raise KeyboardInterrupt


def resolved(tenant: Tenant, days_ago: int) -> str:
    """An incident that came and ended that long ago, with its delivery."""
    with clock.as_if_at(now() - timedelta(days=days_ago)):
        receipt = tenant.alert(hostname=f"{days_ago}-days")
        tenant.post(f"/incidents/{receipt['incident_id']}/resolve")
    return str(receipt["incident_id"])


def test_a_tenant_keeps_things_for_its_own_time_and_no_longer_than_the_installation(
    alice: Tenant, charlie: Tenant, engine: Engine
) -> None:
    hers = [resolved(alice, days) for days in (3, 8)]
    his = [resolved(charlie, days) for days in (8, 91)]
    with engine.begin() as connection:
        for tenant, days in ((alice, 7), (charlie, 365)):
            connection.execute(update(TenantRow).where(TenantRow.slug == tenant.slug).values(retention_days=days))
            minute = {"source_id": 0, "reason": "unauthorized", "minute": now() - timedelta(days=8), "count": 1}
            connection.execute(insert(RefusalCount).values(tenant_id=tenant.id, **minute))
    found = maintenance.prune(engine, 90)
    assert {name: found[name] for name in ("incidents", "deliveries", "refusal_counts")} == {
        "incidents": 2,
        "deliveries": 2,
        "refusal_counts": 1,
    }
    assert [one["id"] for one in alice.incidents()] == hers[:1]
    assert [one["id"] for one in charlie.incidents()] == his[:1]


def test_pruning_ends_what_has_had_its_use(alice: Tenant, engine: Engine) -> None:
    moment = now()
    people = {"address": "", "user_agent": ""}
    rows = {
        Submission: [{"id": "old", "at": moment - timedelta(hours=25)}, {"id": "new", "at": moment}],
        SignIn: [
            {"token_hash": "old", "created_at": moment - timedelta(days=31), "seen_at": moment},
            {"token_hash": "idle", "created_at": moment, "seen_at": moment - timedelta(days=8)},
            {"token_hash": "new", "created_at": moment - timedelta(days=29), "seen_at": moment - timedelta(days=6)},
        ],
        Link: [
            {"token_hash": "old", "purpose": "setup", "expires_at": moment - timedelta(days=31)},
            {"token_hash": "new", "purpose": "setup", "expires_at": moment - timedelta(days=29)},
        ],
    }
    with engine.begin() as connection:
        user = connection.execute(insert(User).values(email="a@b").returning(User.id)).scalar_one()
        for model, values in rows.items():
            common = people | {"user_id": user, "confirmed_at": moment} if model is SignIn else {}
            connection.execute(insert(table(model)), [common | one for one in values])
    found = maintenance.prune(engine, 90)
    assert (found["submissions"], found["sign_ins"], found["links"]) == (1, 2, 1)
    with engine.connect() as connection:
        left = [
            connection.execute(select(column)).scalar()
            for column in (Submission.id, SignIn.token_hash, Link.token_hash)
        ]
    assert left == ["new"] * 3


def test_the_scheduler_outlives_an_absent_database(app: Flask, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    stopped = threading.Event()

    def sweep(*_: Any, **__: Any) -> dict[str, int]:
        rounds.append(1)
        if len(rounds) == 3:
            stopped.set()
            return {}
        raise OperationalError("select", {}, OSError("away"))

    monkeypatch.setattr(maintenance, "sweep", sweep)
    maintenance.run(app.extensions[KEY], engine, stopped, seconds=0.01)
    assert len(rounds) == 3


# ---------------------------------------------------------------- SQLite, which keeps no statistics


SMALL = ("uq_incidents_identity", "ix_incidents_pending", "ix_incidents_leased", "ix_incidents_provisional", "(id=?)")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_neither_the_door_nor_a_claim_walks_past_all_that_is_done(engine: Engine) -> None:
    put(engine, "acme", 300, triage=Triage.DONE)
    put(engine, "acme", 3)
    asked: dict[str, Any] = {}

    @event.listens_for(engine, "before_cursor_execute")
    def ask(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        asked[statement] = values[0] if many else values

    for _ in range(2):  # new, and repeated
        bodies.put(engine, bodies.tenant_id(engine, "acme"), bodies.alert(hostname="new"))
    claims.claim(engine, 4, LEASE, most_in_hand=4)
    claims.claim_suspect(engine, LEASE)
    claims.waiting(engine)
    claims.requeue_lost(engine)
    claims.redo_provisional(engine)
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        steps = [
            (statement, step)
            for statement, values in list(asked.items())
            if statement.startswith(("SELECT", "UPDATE", "WITH"))
            for *_, step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            if " incidents" in step
        ]
    assert len(steps) >= 8
    assert [found for found in steps if not any(name in found[1] for name in SMALL)] == []
