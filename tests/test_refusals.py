"""What is refused stays visible: counted, with bounded samples, and without telling callers anything."""

import base64
import dataclasses
import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import event, select

from answers import refused, rows, seen_from_outside
from cast import DISK_FULL, Tenant, sign
from config import Settings
from openremedy.extensions import db
from openremedy.models import Delivery, RefusalCount
from openremedy.models import Tenant as TenantRow
from openremedy.services import services
from openremedy.tally import MAX_SAMPLES_WAITING, MAX_WAITING, SAMPLES_AN_HOUR, SAMPLES_KEPT, Refusal, Tally
from services import until

MakeApp = Callable[[Settings], Flask]
BODY = json.dumps(DISK_FULL).encode()
NOON = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def wrong(tenant: Tenant, body: bytes = BODY, slug: str | None = None, **headers: str) -> Any:
    """A post with a wrong signature."""
    url = f"/api/v1/webhooks/alerts/{tenant.slug if slug is None else slug}"
    signed = {"X-OpenRemedy-Signature": sign("wrong", body)} | headers
    return tenant.app.test_client().post(url, data=body, headers=signed)


def flush(app: Flask) -> None:
    with app.app_context():
        services().tally.flush()


def counts(app: Flask) -> dict[tuple[str, str, datetime], int]:
    """Refusals by slug, reason and minute."""
    flush(app)
    statement = select(TenantRow.slug, RefusalCount.reason, RefusalCount.minute, RefusalCount.count).join(TenantRow)
    with app.app_context():
        return {(slug, reason, minute): count for slug, reason, minute, count in db.session.execute(statement)}


def by_reason(app: Flask) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, reason, _), count in counts(app).items():
        found[reason] += count
    return found


def samples(app: Flask, **where: Any) -> list[Delivery]:
    flush(app)
    with app.app_context():
        statement = select(Delivery).where(Delivery.accepted.is_(False)).filter_by(**where).order_by(Delivery.id)
        return list(db.session.scalars(statement))


# ---------------------------------------------------------------- counted


def test_it_counts_by_tenant_reason_and_minute(alice: Tenant, charlie: Tenant) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        wrong(alice)
        wrong(alice)
        alice.send(b"not json")
        wrong(charlie)
        flush(alice.app)
        wrong(alice)
        clock.shift(60)
        wrong(alice)
        found = counts(alice.app)
    minute = NOON.replace(second=0)
    assert found == {
        ("alice", "unauthorized", minute): 3,
        ("alice", "invalid_json", minute): 1,
        ("charlie", "unauthorized", minute): 1,
        ("alice", "unauthorized", minute + timedelta(minutes=1)): 1,
    }


def by_source(app: Flask) -> dict[tuple[int, str], int]:
    flush(app)
    with app.app_context():
        return {(one.source_id, one.reason): one.count for one in db.session.scalars(select(RefusalCount))}


def test_a_wrong_token_is_counted_for_the_only_source_it_can_be_meant_for(alice: Tenant, charlie: Tenant) -> None:
    charlie.source("alertmanager")
    bad = {"Authorization": "Bearer ors_wrong"}
    with time_machine.travel(NOON, tick=False):
        only = alice.source("alertmanager")
        only.send({"alerts": []}, **bad)
        only.send(b"{", Authorization=f"Bearer {only.token}")
        for source in (alice.source("grafana"), alice.source("grafana")):
            source.send({"alerts": []}, **bad)
        wrong(alice)
        found = by_source(alice.app)
    assert found == {(only.id, "unauthorized"): 1, (only.id, "invalid_json"): 1, (0, "unauthorized"): 3}


@on_sqlite
def test_every_reason_has_its_own_count(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    small = dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, max_body_bytes=2000)))
    for body in (b"", b"[]", b'{"a": 1, "a": 1}', b'{"a": NaN}', b'{"a":' * 99 + b"1" + b"}" * 99, b"{}", b" " * 2001):
        small.send(body)
    small.send(BODY, **{"Content-Encoding": "gzip"})
    wrong(small)
    small.send(BODY)
    reasons = (
        *("invalid_json", "not_an_object", "duplicate_key", "invalid_number", "too_deep"),
        *("validation_error", "too_large", "unsupported_encoding", "unauthorized"),
    )
    assert by_reason(small.app) == dict.fromkeys(reasons, 1)


@on_sqlite
def test_a_request_over_the_limit_is_counted_too(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    app = make_app(dataclasses.replace(settings, rate_limit=1))
    for _ in range(3):
        wrong(dataclasses.replace(alice, app=app))
    assert by_reason(app) == {"unauthorized": 1, "rate_limited": 2}


@on_sqlite
def test_what_is_no_delivery_is_not_counted(alice: Tenant) -> None:
    client = alice.app.test_client()
    for method, path in (("GET", alice.url), ("POST", "/api/v1/nothing"), ("POST", "/api/v1/incidents/x/resolve")):
        assert client.open(path, method=method).status_code >= 400
    assert alice.send(BODY).status_code == 202
    assert counts(alice.app) == {}
    assert samples(alice.app) == []


def test_nothing_is_kept_of_unknown_tenants(alice: Tenant) -> None:
    before = rows(alice.app)
    for slug in ("nobody", "ALICE", "alice%00", "%00", "x" * 64, "x" * 3000, "%ed%a0%80", "☃", "a'b", "%0a"):
        refused(wrong(alice, slug=slug), 401, "unauthorized")
    flush(alice.app)
    assert rows(alice.app) == before


def test_a_hostile_request_does_not_lose_the_refusals_of_others(alice: Tenant) -> None:
    """What one caller sends is written in one transaction with what others sent."""
    wrong(alice)
    wrong(alice, slug="%00")
    wrong(alice, slug="alice%00")
    huge = {"CONTENT_LENGTH": "9" * 25, "HTTP_USER_AGENT": "\x00\xff\xed\xa0\x80", "CONTENT_TYPE": "\x00"}
    refused(alice.app.test_client().post(alice.url, environ_overrides=huge), 413, "too_large")
    assert by_reason(alice.app) == {"unauthorized": 1, "too_large": 1}
    assert [one.body_bytes for one in samples(alice.app, reason="too_large")] == [2**31 - 1]


def test_processes_that_count_at_once_lose_nothing(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    with alice.app.app_context():
        tallies = [Tally(db.engine, lambda _slug: True) for _ in range(4)]
    for tally in tallies:
        tally._start = lambda: None  # the test writes by hand

    def work(tally: Tally) -> None:
        for number in range(5):
            for reason in ("unauthorized", "invalid_json"):
                tally.refused(refusal(reason=reason))
            tally.refused(refusal(reason=f"other-{number}"))
            tally.flush()

    threads = [threading.Thread(target=work, args=(tally,)) for tally in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    found = by_reason(alice.app)
    assert (found["unauthorized"], found["invalid_json"]) == (20, 20)
    assert found.total() == 60


def refusal(**changes: Any) -> Refusal:
    return dataclasses.replace(
        Refusal(
            slug="alice",
            reason="unauthorized",
            status_code=401,
            message="No.",
            request_id="x" * 32,
            remote_addr="192.0.2.1",
            body=b"{}",
            body_bytes=2,
            headers={},
        ),
        **changes,
    )


# ---------------------------------------------------------------- sampled


def test_a_sample_says_what_came_and_why_it_was_refused(alice: Tenant) -> None:
    answer = wrong(alice, **{"User-Agent": "curl/8", "Content-Type": "application/json"})
    [sample] = samples(alice.app)
    assert (sample.reason, sample.status_code, sample.accepted) == ("unauthorized", 401, False)
    assert sample.message == answer.get_json()["error"]["message"]
    assert sample.request_id == answer.get_json()["request_id"]
    assert (sample.adapter, sample.remote_addr) == ("canonical", "127.0.0.1")
    assert (sample.body, sample.body_bytes) == (BODY, len(BODY))
    assert sample.headers == {
        "Content-Type": "application/json",
        "Content-Length": str(len(BODY)),
        "User-Agent": "curl/8",
        "X-OpenRemedy-Signature": sign("wrong", BODY),
    }
    assert alice.get("/deliveries", accepted="false")["items"][0]["id"] == str(sample.id)


@on_sqlite
def test_no_credential_is_kept_but_the_signature(alice: Tenant) -> None:
    credentials = {
        "Authorization": "Bearer ors_hush",
        "Cookie": "session=hush",
        "X-OpenRemedy-Token": "hush",
        "Proxy-Authorization": "Basic " + base64.b64encode(b"a:hush").decode(),
        "X-Api-Key": "hush",
        "X-Forwarded-For": "hush",
    }
    wrong(alice, **credentials)
    alice.app.test_client().post(f"{alice.url}?token=hush", data=BODY, headers=credentials)
    for sample in samples(alice.app):
        kept = json.dumps(sample.headers) + str(sample.message) + sample.body.decode()
        assert "hush" not in kept
        assert set(sample.headers) <= {"Content-Type", "Content-Length", "User-Agent", "X-OpenRemedy-Signature"}


@on_sqlite
def test_a_long_header_is_cut(alice: Tenant) -> None:
    wrong(alice, **{"User-Agent": "x" * 5000, "X-OpenRemedy-Signature": "y" * 5000})
    [sample] = samples(alice.app)
    assert max(len(value) for value in sample.headers.values()) == 500


def test_the_first_64_kib_of_a_body_are_kept(alice: Tenant) -> None:
    body = b"\x00\xff" * 50_000
    wrong(alice, body)
    [sample] = samples(alice.app)
    assert (sample.body, sample.body_bytes) == (body[: 64 * 1024], 100_000)


@on_sqlite
def test_a_body_that_was_not_read_has_its_length(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    small = dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, max_body_bytes=2000)))
    small.send(b"x" * 3000)
    [sample] = samples(small.app)
    assert (sample.reason, sample.body, sample.body_bytes) == ("too_large", b"", 3000)


def test_at_most_twenty_samples_an_hour_are_kept_of_a_reason(alice: Tenant, charlie: Tenant) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        for number in range(30):
            wrong(alice)
            clock.shift(timedelta(minutes=1))
            if number % 7 == 0:
                flush(alice.app)
        alice.send(b"not json")
        wrong(charlie)
        assert by_reason(alice.app) == {"unauthorized": 31, "invalid_json": 1}
        kept = Counter((sample.tenant_id, sample.reason) for sample in samples(alice.app))
        assert sorted(kept.values()) == [1, 1, SAMPLES_AN_HOUR]
        clock.shift(timedelta(minutes=45))  # the first fifteen are older than an hour by then
        for _ in range(30):
            wrong(alice)
        assert SAMPLES_AN_HOUR < len(samples(alice.app, reason="unauthorized")) <= 2 * SAMPLES_AN_HOUR


def test_processes_that_sample_at_once_keep_to_the_limit(alice: Tenant) -> None:
    with alice.app.app_context():
        tallies = [Tally(db.engine, lambda _slug: True) for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(number: int, tally: Tally) -> None:
        tally._start = lambda: None  # the test writes by hand
        for minute in range(SAMPLES_AN_HOUR):
            # Not the same minute, or the lock of the count alone would part them.
            at = datetime.now(UTC) - timedelta(minutes=number)
            tally.refused(refusal(at=at, message=str(minute)))
        barrier.wait(timeout=30)
        tally.flush()

    threads = [threading.Thread(target=work, args=(number, tally)) for number, tally in enumerate(tallies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(samples(alice.app)) == SAMPLES_AN_HOUR
    assert by_reason(alice.app) == {"unauthorized": 4 * SAMPLES_AN_HOUR}


def test_at_most_500_samples_are_kept_of_a_tenant_and_the_newest_stay(alice: Tenant, charlie: Tenant) -> None:
    wrong(charlie)
    flush(alice.app)
    with alice.app.app_context():
        tally = services().tally
        for number in range(30):
            for reason in range(20):
                tally.refused(refusal(reason=f"reason-{number}-{reason}", message=str(number)))
            tally.flush()
    kept = samples(alice.app)
    assert len(kept) == SAMPLES_KEPT + 1
    assert kept[0].reason == "unauthorized"
    assert [one.message for one in kept[1:21]] == ["5"] * 20
    assert kept[-1].message == "29"


# ---------------------------------------------------------------- in memory


@on_sqlite
def test_a_flood_stays_small_in_memory(alice: Tenant) -> None:
    with alice.app.app_context():
        tally = services().tally
        for number in range(5 * MAX_WAITING):
            tally.refused(refusal(slug=f"tenant-{number}"))
        for _ in range(100):
            tally.refused(refusal(slug="tenant-1"))
        assert len(tally._counts) == MAX_WAITING // 2
        assert len(tally._samples) == MAX_SAMPLES_WAITING // 2
        tally.flush()
        assert (tally._counts, tally._samples) == ({}, [])


@on_sqlite
def test_a_flood_of_made_up_names_crowds_no_tenant_out(alice: Tenant) -> None:
    wrong(alice)  # so that the names of tenants are known
    flush(alice.app)
    with alice.app.app_context():
        tally = services().tally
        for number in range(5 * MAX_WAITING):
            tally.refused(refusal(slug=f"tenant-{number}"))
        for number in range(MAX_WAITING):
            tally.refused(refusal(reason=f"reason-{number}"))
        assert len(tally._counts) == MAX_WAITING, "and hers are bounded as well"
        tally.flush()
    assert sum(by_reason(alice.app).values()) == 1 + MAX_WAITING // 2
    assert len(samples(alice.app)) == 1 + MAX_SAMPLES_WAITING // 2


@on_sqlite
def test_what_cannot_be_written_is_dropped_and_said_so(alice: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
    wrong(alice)
    with alice.app.app_context():
        db.session.execute(db.text("DROP TABLE refusal_counts"))
        db.session.commit()
    flush(alice.app)
    assert "tally.lost" in capsys.readouterr().err
    refused(wrong(alice), 401, "unauthorized")
    assert alice.send(BODY).status_code == 202


def test_the_count_appears_by_itself(alice: Tenant) -> None:
    with alice.app.app_context():
        del services().tally._start  # what the fixture put before it
    wrong(alice)
    until(lambda: counts(alice.app), "the refusal is written in the background", seconds=10)


# ---------------------------------------------------------------- nothing is told


def test_nothing_is_written_before_the_answer_and_the_answer_stays_the_same(alice: Tenant, app: Flask) -> None:
    before = rows(app)
    first = seen_from_outside(wrong(alice))
    for _ in range(2 * SAMPLES_AN_HOUR):
        wrong(alice)
    assert rows(app) == before
    flush(app)
    assert rows(app) != before
    assert seen_from_outside(wrong(alice)) == seen_from_outside(wrong(alice, slug="nobody")) == first


def test_a_refusal_in_memory_asks_nothing_of_the_database(alice: Tenant, app: Flask) -> None:
    seen: list[str] = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *found: seen.append(found[2]))
        for slug in ("alice", "nobody"):
            services().tally.refused(refusal(slug=slug))
    assert seen == []
