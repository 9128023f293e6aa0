"""The rate limit of the canonical endpoint: who is counted, as whom, and what happens when Redis is away."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask, request
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from answers import limits_looked_up, refused
from cast import Tenant, sign
from config import Settings
from openremedy.addresses import client_key, network_of
from openremedy.extensions import limiter
from services import RedisServer, until

MakeApp = Callable[[Settings], Flask]
MakeClient = Callable[..., FlaskClient]
BODY = b'{"hostname": "web-01", "incident_type": "custom"}'
URL = "/api/v1/webhooks/alerts/alice"


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """One kind is enough: the limit knows nothing of the database."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


@pytest.fixture(autouse=True)
def _redis_is_believed_to_live() -> Iterator[None]:
    """The limiter belongs to the process, not to the application: what one test learned of Redis must not stay."""
    believed = {"_storage_dead": False, "_Limiter__last_check_backend": 0.0, "_Limiter__check_backend_count": 0}
    vars(limiter).update(believed)
    yield
    vars(limiter).update(believed)


@pytest.fixture
def limited(make_app: MakeApp, settings: Settings) -> MakeClient:
    """A client of an application with a limit of 60, or with other settings."""

    def make(**changes: Any) -> FlaskClient:
        return make_app(dataclasses.replace(settings, **({"rate_limit": 60} | changes))).test_client()

    return make


def post(client: FlaskClient, address: str = "192.0.2.1", forwarded: str | None = None) -> TestResponse:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    return client.post(URL, data=BODY, headers=headers, environ_overrides={"REMOTE_ADDR": address})


def send(client: FlaskClient, alice: Tenant) -> TestResponse:
    return client.post(URL, data=BODY, headers={"X-OpenRemedy-Signature": sign(alice.secret, BODY)})


def statuses(client: FlaskClient, count: int, address: str = "192.0.2.1") -> list[int]:
    return [post(client, address).status_code for _ in range(count)]


# ---------------------------------------------------------------- the limit


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "memory"])
def test_the_61st_request_of_a_minute_is_429(
    limited: MakeClient, request: pytest.FixtureRequest, with_redis: bool
) -> None:
    client = limited(**{"redis_url": request.getfixturevalue("redis_url")} if with_redis else {})
    assert statuses(client, 60) == [401] * 60
    answer = post(client)
    refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert len(answer.headers.getlist("Retry-After")) == 1
    assert post(client, "192.0.2.2").status_code == 401


def test_every_kind_of_request_counts(limited: MakeClient, alice: Tenant) -> None:
    client = limited(rate_limit=5)
    signed = {"X-OpenRemedy-Signature": sign(alice.secret, BODY)}
    answers = [
        client.post(URL, data=BODY, headers=signed),
        client.post(URL, data=BODY),
        client.post(URL, data=b"x", headers={"X-OpenRemedy-Signature": sign(alice.secret, b"x")}),
        client.post(URL, data=BODY, headers=signed | {"Content-Encoding": "gzip"}),
        client.post("/api/v1/webhooks/alerts/nobody", data=b"x" * 6_000_000),
        client.post(URL, data=BODY, headers=signed),
    ]
    assert [answer.status_code for answer in answers] == [202, 401, 400, 415, 413, 429]


def test_all_tenants_behind_one_address_share_its_limit(limited: MakeClient) -> None:
    client = limited(rate_limit=2)
    found = [client.post(f"/api/v1/webhooks/alerts/{slug}").status_code for slug in ("alice", "charlie", "nobody")]
    assert found == [401, 401, 429]


def test_a_flood_of_bad_signatures_is_stopped(limited: MakeClient) -> None:
    found = statuses(limited(), 200)
    assert (found.count(401), found.count(429)) == (60, 140)


def test_a_refused_request_does_not_prolong_the_wait(limited: MakeClient) -> None:
    client = limited(rate_limit=2)
    with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False) as clock:
        assert statuses(client, 2) == [401, 401]
        for _ in range(10):
            clock.shift(5)
            assert post(client).status_code == 429
        clock.shift(11)
        assert post(client).status_code == 401


def test_the_window_moves_so_that_its_edge_lets_no_burst_through(limited: MakeClient) -> None:
    client = limited()
    with time_machine.travel(datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC), tick=False) as clock:
        assert post(client).status_code == 401  # a fixed window would begin here ...
        clock.shift(59)
        assert statuses(client, 59) == [401] * 59
        clock.shift(2)  # ... and let 60 more through by now
        assert statuses(client, 60) == [401] + [429] * 59
        clock.shift(59)
        assert statuses(client, 60) == [401] * 59 + [429]


def test_a_caller_who_waits_as_told_is_served(limited: MakeClient) -> None:
    client = limited(rate_limit=3)
    with time_machine.travel(datetime(2026, 1, 1, 12, 0, 0, 900_000, tzinfo=UTC), tick=False) as clock:
        statuses(client, 3)
        clock.shift(30.25)
        wait = int(post(client).headers["Retry-After"])
        clock.shift(wait)
        assert post(client).status_code == 401
        assert wait <= 31


def test_zero_turns_the_limit_off(limited: MakeClient) -> None:
    client = limited(rate_limit=0)
    assert set(statuses(client, 70)) == {401}


def test_nothing_else_takes_from_the_budget_or_is_held_by_it(limited: MakeClient, alice: Tenant) -> None:
    client = limited(rate_limit=2)

    def others() -> set[int]:
        paths = ("/healthz", "/readyz", "/api/v1/incidents", "/api/v1/recipes")
        return {client.get(path, headers=alice.auth).status_code for path in paths for _ in range(5)}

    assert others() == {200}
    assert [send(client, alice).status_code for _ in range(3)] == [202, 202, 429]
    assert others() == {200}


def test_the_limiter_looks_only_at_what_is_charged(limited: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(*about: Any) -> tuple[tuple[()], tuple[()]]:
        asked.append(about)
        return (), ()

    monkeypatch.setattr(limiter.limit_manager, "resolve_limits", resolve)
    client = limited()
    for path in ("/healthz", "/api/v1/incidents", "/sign-in"):
        client.get(path)
    assert asked == []
    post(client)
    assert len(asked) == 1


def test_a_refused_request_is_not_read(limited: MakeClient) -> None:
    class Unreadable:
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

        readline = read

    client = limited(rate_limit=1)
    post(client)
    environment = {"wsgi.input": Unreadable(), "CONTENT_LENGTH": "1000", "REMOTE_ADDR": "192.0.2.1"}
    refused(client.post(URL, environ_overrides=environment), 429, "rate_limited")


# ---------------------------------------------------------------- as whom


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("::1", "::/64"),
        ("192.0.2.1:50000", "192.0.2.1"),
        ("[2001:db8:1:2::3]:50000", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::3]", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("unknown", "unknown"),
        ("_hidden", "unknown"),
        ("192.0.2.256", "unknown"),
        ("192.0.2.1, 192.0.2.2", "unknown"),
        ("\x00", "unknown"),
        ("x" * 10_000, "unknown"),
    ],
)
def test_an_address_is_counted_as(address: str, key: str) -> None:
    assert network_of(address) == key
    with Flask("x").test_request_context(environ_overrides={"REMOTE_ADDR": address}):
        assert client_key() == key
        assert request.remote_addr == (address or None) or not address


def test_a_caller_owns_its_whole_ipv6_network(limited: MakeClient) -> None:
    client = limited(rate_limit=2)
    hosts = ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3", "2001:db8:0:2::1")
    assert [post(client, host).status_code for host in hosts] == [401, 401, 429, 401]


def test_an_ipv4_address_in_ipv6_clothes_is_the_same_caller(limited: MakeClient) -> None:
    client = limited(rate_limit=1)
    assert [post(client, host).status_code for host in ("192.0.2.1", "::ffff:192.0.2.1")] == [401, 429]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "limit_holds"),
    [
        # Nobody in front: whatever the header says is the caller's own invention.
        (0, "198.51.100.{}", True),
        (0, "198.51.100.{}, 192.0.2.9", True),
        # One proxy, which appends the caller's address: what stands left of it is invented.
        (1, "198.51.100.{}, 203.0.113.7", True),
        (1, "203.0.113.{}", False),
        (1, "203.0.113.7:{}", True),
        # Two proxies.
        (2, "198.51.100.{}, 203.0.113.7, 192.0.2.9", True),
        (2, "203.0.113.{}, 192.0.2.9", False),
        # Fewer entries than proxies: the request came round them, and the header is not believed.
        (2, "203.0.113.{}", True),
        (1, "nonsense{}", True),
    ],
)
def test_the_address_comes_from_the_configured_number_of_proxies(
    limited: MakeClient, proxies: int, forwarded: str, limit_holds: bool
) -> None:
    client = limited(rate_limit=3, proxy_count=proxies)
    found = [post(client, forwarded=forwarded.format(number)).status_code for number in range(1, 8)]
    assert found == ([401] * 3 + [429] * 4 if limit_holds else [401] * 7)


def test_other_headers_of_proxies_are_not_believed(limited: MakeClient) -> None:
    client = limited(rate_limit=3, proxy_count=1)
    names = ("X-Real-IP", "Forwarded", "Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP")
    found = [
        client.post(URL, headers=dict.fromkeys(names, f"for=198.51.100.{number}")).status_code for number in range(5)
    ]
    assert found == [401] * 3 + [429] * 2


# ---------------------------------------------------------------- a large limit


def test_of_a_large_limit_the_limiter_is_asked_once_for_a_bundle_and_nobody_gets_more(
    limited: MakeClient, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = limits_looked_up(monkeypatch)
    client = limited(rate_limit=2000, redis_url=redis_url)
    assert statuses(client, 2002) == [401] * 2000 + [429] * 2
    assert len(asked) == 1000 + 2
    assert post(client, "203.0.113.50").status_code == 401, "another caller has a stock of its own"


# ---------------------------------------------------------------- Redis away


def test_callers_are_counted_in_redis(limited: MakeClient, redis_url: str) -> None:
    post(limited(redis_url=redis_url))
    with Redis.from_url(redis_url) as redis:
        assert [key for key in redis.keys("*openremedy-v1*") if b"192.0.2.1" in key]


def test_it_limits_in_memory_when_redis_refuses(limited: MakeClient, alice: Tenant) -> None:
    client = limited(rate_limit=3)  # nothing listens at the address of this Redis
    began = time.monotonic()
    assert [send(client, alice).status_code for _ in range(5)] == [202, 202, 202, 429, 429]
    assert time.monotonic() - began < 5


def test_it_limits_in_memory_when_redis_dies_and_returns_to_it(
    limited: MakeClient, alice: Tenant, redis_server: RedisServer, redis_url: str
) -> None:
    client = limited(rate_limit=3, redis_url=redis_url)
    assert send(client, alice).status_code == 202
    redis_server.kill()
    try:
        assert [send(client, alice).status_code for _ in range(4)] == [202, 202, 202, 429]
    finally:
        redis_server.start()
    # The limiter looks for Redis again after 1, 2, 4, ... seconds.
    until(lambda: _seen_by(redis_url, client), "callers are counted in Redis again", seconds=15)


def test_a_hung_redis_costs_little_and_the_limit_holds(
    limited: MakeClient, alice: Tenant, redis_server: RedisServer, redis_url: str
) -> None:
    client = limited(rate_limit=3, redis_url=redis_url)
    assert send(client, alice).status_code == 202
    longest, found = 0.0, []
    with redis_server.paused():
        for _ in range(5):
            began = time.monotonic()
            found.append(send(client, alice).status_code)
            longest = max(longest, time.monotonic() - began)
    assert found == [202, 202, 202, 429, 429]
    assert longest < 1.5
    until(lambda: _seen_by(redis_url, client), "callers are counted in Redis again", seconds=15)


def _seen_by(redis_url: str, client: FlaskClient) -> bool:
    post(client, "203.0.113.50")
    with Redis.from_url(redis_url) as redis:
        return any(b"203.0.113.50" in key for key in redis.keys("*"))


def test_of_those_that_find_redis_hung_at_the_same_moment_none_fails(
    limited: MakeClient, alice: Tenant, redis_server: RedisServer, redis_url: str
) -> None:
    """The limiter turns to memory for the first of them, and would let the others fail."""
    app = limited(redis_url=redis_url).application
    with redis_server.paused(), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: send(app.test_client(), alice).status_code, range(16)))
    assert set(found) == {202}
