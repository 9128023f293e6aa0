"""The first page's figures: right, of one tenant alone, and there also when Redis is not."""

import dataclasses
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import Engine, insert, update

from bodies import tenant_id
from cast import Tenant
from config import Settings
from conftest import make_tenant
from openremedy import overview as page
from openremedy import tally
from openremedy.extensions import db
from openremedy.ids import first_id
from openremedy.models import ModelState, RefusalCount, Source, TokenUsage, now, table
from openremedy.models import Tenant as TenantRow
from openremedy.overview import ModelMode, Overview
from openremedy.queue import JOB, QueueState, job_queue
from openremedy.services import services
from services import RedisServer
from test_incident_lists import answered, change, incident

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def shown(tenant: Tenant) -> Overview:
    with tenant.app.app_context():
        return page.overview(db.session(), services(), id_of(tenant))


def id_of(tenant: Tenant) -> int:
    return tenant_id(db.engine, tenant.slug)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.fixture
def hers(alice: Tenant) -> int:
    with alice.app.app_context():
        return id_of(alice)


def write(engine: Engine, statement: Any, *values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(statement, *values)


# ---------------------------------------------------------------- incidents


def test_an_empty_tenant_has_nothing_but_its_hours(alice: Tenant) -> None:
    found = shown(alice)
    assert (found.open, found.acknowledged, found.needs_human, found.pending) == ({}, {}, 0, 0)
    assert (found.oldest_pending, found.sources, found.canonical_refusals, found.queue) == (None, (), {}, None)
    assert [dict(hour.by_type) for hour in found.hours] == [{}] * 24


def test_open_incidents_are_counted_by_severity_and_those_that_need_a_person(
    engine: Engine, alice: Tenant, hers: int
) -> None:
    incident(engine, hers, "a", severity="critical", triage="needs_human")
    incident(engine, hers, "b", severity="critical", triage="done")
    incident(engine, hers, "c", severity="high", status="acknowledged", triage="needs_human")
    incident(engine, hers, "d", severity="high", status="resolved", triage="needs_human")
    found = shown(alice)
    assert (found.open, found.acknowledged, found.needs_human) == ({"critical": 2}, {"high": 1}, 2)


def test_what_waits_for_a_verdict_is_counted_with_the_age_of_the_oldest(
    engine: Engine, alice: Tenant, hers: int
) -> None:
    since = datetime(2026, 3, 1, 12, tzinfo=UTC)
    incident(engine, hers, "a", triage="classifying", triage_since=since)
    incident(engine, hers, "b", triage="pending", triage_since=since + timedelta(hours=1))
    incident(engine, hers, "c", triage="done", triage_since=since - timedelta(hours=1))
    found = shown(alice)
    assert (found.pending, found.oldest_pending) == (2, since)


def begun(engine: Engine, tenant: int, hostname: str, moment: datetime, kind: str) -> None:
    """An incident that began at a time in the past."""
    incident_id = incident(engine, tenant, hostname, incident_type=kind)
    new = uuid.UUID(int=first_id(moment).int + int.from_bytes(hostname.encode()))
    for name in ("alerts", "timeline"):
        rows = db.metadata.tables[name]
        write(engine, rows.delete().where(rows.c.incident_id == incident_id))
    change(engine, incident_id, id=new)


def test_incidents_are_counted_by_the_hour_they_began_in(engine: Engine, alice: Tenant, hers: int) -> None:
    this = now().replace(minute=0, second=0, microsecond=0)
    begun(engine, hers, "a", this, "disk_full")
    begun(engine, hers, "b", this - timedelta(milliseconds=1), "disk_full")
    begun(engine, hers, "c", this - timedelta(hours=1), "disk_full")
    begun(engine, hers, "d", this - timedelta(hours=1), "cpu_high")
    begun(engine, hers, "e", this - timedelta(hours=23), "custom")
    begun(engine, hers, "f", this - timedelta(hours=23, milliseconds=1), "custom")
    with alice.app.app_context():
        hours = page._hours(db.session(), hers, this + timedelta(minutes=59))
    assert [hour.start for hour in hours] == [this - timedelta(hours=ago) for ago in range(23, -1, -1)]
    assert {hour.start: hour.by_type for hour in hours if hour.by_type} == {
        this: {"disk_full": 1},
        this - timedelta(hours=1): {"disk_full": 2, "cpu_high": 1},
        this - timedelta(hours=23): {"custom": 1},
    }


# ---------------------------------------------------------------- sources


def test_each_source_shows_what_came_of_what_it_sent(engine: Engine, alice: Tenant, hers: int) -> None:
    grafana, datadog = alice.source("grafana"), alice.source("datadog")
    counted = {"last_seen_at": now(), "created_count": 3, "duplicate_count": 1}
    write(engine, update(table(Source)).where(table(Source).c.id == grafana.id).values(counted))
    hour = now().replace(minute=0, second=0, microsecond=0)
    rows = [
        (grafana.id, "unauthorized", hour, 2),
        (grafana.id, "unauthorized", hour - timedelta(hours=1), 3),
        (grafana.id, "invalid_json", hour, 1),
        (grafana.id, "invalid_json", hour - timedelta(hours=25), 50),
        (tally.CANONICAL, "unauthorized", hour, 7),
    ]
    names = ("source_id", "reason", "minute", "count")
    values = [{"tenant_id": hers} | dict(zip(names, row, strict=True)) for row in rows]
    write(engine, insert(table(RefusalCount)), values)
    found = shown(alice)
    by_id = {one.id: one for one in found.sources}
    assert by_id[grafana.id].refusals == {"unauthorized": 5, "invalid_json": 1}
    assert (by_id[grafana.id].outcomes["created"], by_id[grafana.id].outcomes["duplicate"]) == (3, 1)
    assert (by_id[grafana.id].never_heard, by_id[datadog.id].never_heard) == (False, True)
    assert by_id[datadog.id].refusals == {}
    assert found.canonical_refusals == {"unauthorized": 7}


def test_a_source_whose_heartbeat_has_stopped_is_silent(engine: Engine, alice: Tenant) -> None:
    beating, stopped, none = (alice.source(one) for one in ("alertmanager", "grafana", "datadog"))
    for source, at in ((beating, now()), (stopped, now() - timedelta(days=3))):
        write(engine, update(table(Source)).where(table(Source).c.id == source.id).values(heartbeat_at=at))
    assert {one.id: one.silent for one in shown(alice).sources} == {
        beating.id: False,
        stopped.id: True,
        none.id: None,
    }


# ---------------------------------------------------------------- the model


@pytest.fixture
def with_model(make_app: Callable[[Settings], Flask], settings: Settings) -> Tenant:
    changed = dataclasses.replace(
        settings, openai_base_url="http://model.example.com/v1", model="m", llm_daily_tokens=1000
    )
    return make_tenant(make_app(changed), "alice")


def test_without_a_model_it_is_off(alice: Tenant) -> None:
    assert shown(alice).model == page.Model(ModelMode.OFF, None, None, 0, 0)


def test_the_model_is_shown_with_its_host_and_what_is_left_of_the_day(with_model: Tenant) -> None:
    with with_model.app.app_context():
        tenant = id_of(with_model)
        for day, tokens in ((now().date(), 250), (now().date() - timedelta(days=1), 999)):
            write(db.engine, insert(table(TokenUsage)), {"tenant_id": tenant, "day": day, "tokens": tokens})
    found = shown(with_model).model
    assert (found.mode, found.reason, found.tokens_today, found.budget) == (ModelMode.ON, None, 250, 1000)
    assert "model.example.com" in str(found.host)


@pytest.mark.parametrize("budget", [0, 70])
def test_a_tenants_own_budget_is_shown(with_model: Tenant, budget: int) -> None:
    with with_model.app.app_context():
        write(db.engine, update(table(TenantRow)).values(daily_tokens=budget))
    assert shown(with_model).model.budget == budget


def test_a_model_that_is_away_is_shown_with_the_reason(with_model: Tenant) -> None:
    with with_model.app.app_context():
        state = {"id": 1, "away_until": now(), "reason": "it is tired", "failures": 2}
        write(db.engine, insert(table(ModelState)), state)
    found = shown(with_model).model
    assert (found.mode, found.reason) == (ModelMode.AWAY, "it is tired")
    with with_model.app.app_context():
        write(db.engine, update(table(TenantRow)).values(model_allowed=False))
    assert shown(with_model).model.mode is ModelMode.DECLINED, "then it does not matter to this tenant"


# ---------------------------------------------------------------- the queue


@pytest.fixture
def with_redis(make_app: Callable[[Settings], Flask], settings: Settings, redis_url: str) -> Tenant:
    return make_tenant(make_app(dataclasses.replace(settings, redis_url=redis_url)), "alice")


@ON_ONE
def test_the_queue_is_shown_with_its_living_workers(with_redis: Tenant, redis_url: str) -> None:
    assert shown(with_redis).queue == QueueState(waiting=0, workers=0, failed=0)
    with Redis.from_url(redis_url) as redis:
        queue = job_queue(redis)
        jobs = [queue.enqueue(JOB) for _ in range(3)]
        queue.remove(jobs[0])
        queue.failed_job_registry.add(jobs[0], ttl=60)
        redis.sadd("rq:workers:classify", "rq:worker:alive", "rq:worker:killed")
        redis.hset("rq:worker:alive", "state", "idle")
    assert shown(with_redis).queue == QueueState(waiting=2, workers=1, failed=1)


@ON_ONE
def test_a_redis_that_is_away_or_hung_is_not_known_and_asked_once(
    with_redis: Tenant, redis_server: RedisServer
) -> None:
    with redis_server.paused():
        assert shown(with_redis).queue is None
        with with_redis.app.app_context():
            assert services().waker._pause_until > time.monotonic()
    assert shown(with_redis).queue is None, "it has answered again, but is not asked for a moment"


# ---------------------------------------------------------------- tenants apart


def test_charlie_counts_nothing_of_alices(engine: Engine, alice: Tenant, charlie: Tenant, hers: int) -> None:
    before = shown(charlie)
    for number, triage in enumerate(("pending", "classifying", "needs_human", "done")):
        incident(engine, hers, f"h{number}", severity="critical", triage=triage)
    source = alice.source("grafana")
    key = {"tenant_id": hers, "reason": "unauthorized", "minute": now(), "count": 9}
    rows = [key | {"source_id": source.id}, key | {"source_id": tally.CANONICAL}]
    write(engine, insert(table(RefusalCount)), rows)
    write(engine, insert(table(TokenUsage)), {"tenant_id": hers, "day": now().date(), "tokens": 5})
    assert shown(alice).pending == 2
    assert dataclasses.replace(shown(charlie), at=before.at) == before


# ---------------------------------------------------------------- related


def related(tenant: Tenant, incident_id: uuid.UUID, limit: int = 5) -> tuple[list[str], list[str]]:
    with tenant.app.app_context():
        found = page.related(db.session(), id_of(tenant), incident_id, limit)
    return [one["id"] for one in found.same_host], [one["id"] for one in found.same_cause]


def test_related_are_the_newest_of_the_same_host_and_of_the_same_cause(
    engine: Engine, alice: Tenant, charlie: Tenant, hers: int
) -> None:
    with charlie.app.app_context():
        his = id_of(charlie)
    ids = [incident(engine, hers, hostname) for hostname in ("one", "two", "three", "four")]
    change(engine, ids[1], hostname="ONE")
    change(engine, ids[2], hostname="One")
    theirs = incident(engine, his, "one")
    for number, cause in ((0, "same"), (1, "other"), (3, "same")):
        answered(engine, hers, ids[number], cause)
        answered(engine, hers, ids[number], cause)
    answered(engine, his, theirs, "same")
    names = [str(one) for one in ids]
    assert related(alice, ids[0]) == ([names[2], names[1]], [names[3]])
    assert related(alice, ids[0], limit=1) == ([names[2]], [names[3]])
    assert related(alice, ids[2]) == ([names[1], names[0]], [])
    assert related(charlie, theirs) == ([], [])
    assert related(charlie, ids[0]) == ([], [])
    assert related(alice, uuid.uuid4()) == ([], [])


def test_related_of_a_host_leave_out_the_incident_itself_wherever_it_stands(
    engine: Engine, alice: Tenant, hers: int
) -> None:
    ids = [incident(engine, hers, f"h{number}") for number in range(3)]
    for one in ids:
        change(engine, one, hostname="same")
    assert [related(alice, one, limit=2)[0] for one in ids] == [
        [str(ids[2]), str(ids[1])],
        [str(ids[2]), str(ids[0])],
        [str(ids[1]), str(ids[0])],
    ]
