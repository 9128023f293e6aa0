"""Sources: who may send as which, how often, what is counted, and what an admin sees and changes."""

import base64
import dataclasses
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, update

from answers import limits_looked_up, refused, rows
from cast import Source, Tenant
from config import Settings
from openremedy import maintenance, signing, sources, tenants
from openremedy.directory import MAX_AGE, Fresh
from openremedy.errors import Unavailable
from openremedy.extensions import db, limiter
from openremedy.intake import Door
from openremedy.models import Source as SourceRow
from openremedy.models import SourceSecret, SourceToken
from openremedy.models import Tenant as TenantRow
from openremedy.services import services
from openremedy.translation import Payload

MakeApp = Callable[[Settings], Flask]
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
START = "2026-03-02T08:15:30Z"
DISK = {"alertname": "DiskFull", "instance": "db-1:9100", "mountpoint": "/", "severity": "critical"}


@pytest.fixture(autouse=True)
def _counters_start_at_zero() -> Iterator[None]:
    """The limiter belongs to the process: what one test made it count or believe must not stay."""
    believed = {"_storage_dead": False, "_Limiter__last_check_backend": 0.0, "_Limiter__check_backend_count": 0}
    vars(limiter).update(believed)
    yield
    vars(limiter).update(believed)


@pytest.fixture
def alertmanager(alice: Tenant) -> Source:
    return alice.source("alertmanager")


def notification(*alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "4", "alerts": list(alerts)} | more


def alert(labels: dict[str, str] | None = None, status: str = "firing", **more: Any) -> dict[str, Any]:
    return {"status": status, "labels": labels or DISK, "startsAt": START, "endsAt": "2026-03-02T08:45:30Z"} | more


FIRING = notification(alert())
RESOLVED = notification(alert(status="resolved"))


def a_second_later(app: Flask) -> None:
    """What the process knows of sources and tenants is as old as it may become."""
    with app.app_context():
        for known in (services().sources._known, services().directory._known):
            known._read_at -= MAX_AGE


def shown(alice: Tenant, source: Source) -> dict[str, Any]:
    """The source as the API shows it, after the facts in memory were written."""
    with alice.app.app_context():
        services().tally.flush()
    found: dict[str, Any] = alice.get(f"/sources/{source.id}")
    return found


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ---------------------------------------------------------------- by token


def test_a_token_is_taken_in_each_of_its_three_places(alertmanager: Source) -> None:
    token = alertmanager.token
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"bearer  {token} "},
        {"Authorization": basic("anybody", token)},
        {"Authorization": basic("", token)},
        {"X-OpenRemedy-Token": token},
        {"Authorization": "Bearer wrong", "X-OpenRemedy-Token": token},
    ):
        assert alertmanager.send(FIRING, **headers).status_code == 202, headers


def test_a_password_may_hold_colons(alice: Tenant, alertmanager: Source) -> None:
    with alice.app.app_context():
        hashed = hashlib.sha256(b"a:b:c").hexdigest()
        db.session.execute(update(SourceToken).values(token_hash=hashed))
        db.session.commit()
    assert alertmanager.send(FIRING, Authorization=basic("user", "a:b:c")).status_code == 202


def test_only_the_hash_of_a_token_is_kept(alice: Tenant, alertmanager: Source) -> None:
    with alice.app.app_context():
        (kept,) = db.session.scalars(select(SourceToken.token_hash))
    assert kept == hashlib.sha256(alertmanager.token.encode()).hexdigest()


def test_both_tokens_work_during_a_rotation_and_one_after_it(alice: Tenant, alertmanager: Source) -> None:
    answer = alice.post(f"/sources/{alertmanager.id}/rotate", {"grace_hours": 1})
    new = dataclasses.replace(alertmanager, token=answer["token"])
    assert [one.send(FIRING).status_code for one in (alertmanager, new)] == [202, 202]
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=1, seconds=2)):
        assert [one.send(FIRING).status_code for one in (alertmanager, new)] == [401, 202]


def test_a_token_that_is_rotated_without_grace_ends_at_once(alice: Tenant, alertmanager: Source) -> None:
    assert alertmanager.send(FIRING).status_code == 202
    alice.post(f"/sources/{alertmanager.id}/rotate", {"grace_hours": 0})
    a_second_later(alice.app)
    assert alertmanager.send(FIRING).status_code == 401


def test_a_disabled_source_and_one_of_a_disabled_tenant_are_refused_like_strangers(
    alice: Tenant, charlie: Tenant, alertmanager: Source
) -> None:
    his = charlie.source("alertmanager")
    body = refused(alertmanager.send(FIRING, Authorization="Bearer x"), 401, "unauthorized")
    with alice.app.app_context():
        db.session.execute(update(TenantRow).where(TenantRow.slug == "charlie").values(disabled_at=datetime.now(UTC)))
        db.session.commit()
    alice.app.test_client().patch(f"/api/v1/sources/{alertmanager.id}", json={"disabled": True}, headers=alice.auth)
    a_second_later(alice.app)
    for source in (alertmanager, his):
        assert refused(source.send(FIRING), 401, "unauthorized") == body
    alice.app.test_client().patch(f"/api/v1/sources/{alertmanager.id}", json={"disabled": False}, headers=alice.auth)
    assert alertmanager.send(FIRING).status_code == 202


@on_sqlite
def test_a_signature_of_the_tenant_opens_no_native_endpoint(alice: Tenant, alertmanager: Source) -> None:
    body = json.dumps(FIRING).encode()
    headers = {"X-OpenRemedy-Signature": signing.sign(alice.secret.encode(), body)}
    assert alertmanager.send(body, **headers).status_code == 401
    good = {"Authorization": f"Bearer {alertmanager.token}", "X-OpenRemedy-Signature": "sha256=" + "0" * 64}
    assert alertmanager.send(body, **good).status_code == 202, "the sender's own is not looked at"


# ---------------------------------------------------------------- by signature


def signed(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_several_signing_secrets_work_at_a_time(alice: Tenant) -> None:
    source = alice.source("grafana", signing_secret="first secret")
    other = alice.source("grafana", signing_secret="of another source")
    alice.app.test_client().post(
        f"/api/v1/sources/{source.id}/signing-secrets", json={"secret": "second ü"}, headers=alice.auth
    )
    body = json.dumps(FIRING).encode()
    for secret, status in (("first secret", 202), ("second ü", 202), ("of another source", 202), ("none", 401)):
        answer = source.send(body, **{"X-Grafana-Alerting-Signature": signed(secret, body)})
        assert answer.status_code == status, secret
    assert shown(alice, source)["outcomes"]["created"] == 1
    assert shown(alice, other)["outcomes"]["created"] == 1, "the secret tells which source it is"
    first, second = shown(alice, source)["signing_secrets"]
    assert first["last_used"]
    assert second["last_used"]
    path = f"/api/v1/sources/{source.id}/signing-secrets/{first['id']}"
    assert alice.app.test_client().delete(path, headers=alice.auth).status_code == 200
    a_second_later(alice.app)
    answer = source.send(body, **{"X-Grafana-Alerting-Signature": signed("first secret", body)})
    assert answer.status_code == 401


@on_sqlite
def test_a_body_that_was_written_again_is_not_the_signed_one(alice: Tenant) -> None:
    source = alice.source("grafana", signing_secret="secret")
    body = json.dumps(FIRING).encode()
    again = json.dumps(FIRING, indent=1).encode()
    assert source.send(again, **{"X-Grafana-Alerting-Signature": signed("secret", body)}).status_code == 401


@on_sqlite
def test_an_adapter_without_a_signature_takes_none(alice: Tenant) -> None:
    source = alice.source("alertmanager", signing_secret="secret")
    body = json.dumps(FIRING).encode()
    assert source.send(body, **{"X-Grafana-Alerting-Signature": signed("secret", body)}).status_code == 401


@on_sqlite
def test_a_refusal_costs_the_same_for_known_and_unknown_tenants(
    alice: Tenant, charlie: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many signatures are computed and as many queries asked, whatever there is behind the name."""
    source = alice.source("grafana", signing_secret="one")
    with alice.app.app_context():
        row = sources.get_source(db.session(), db.session.scalar(select(TenantRow.id)) or 0, str(source.id))
        sources.edit_source(db.session(), services().vault, row, Payload(), add_signing_secret="two")
    charlie.source("grafana")
    grafana = alice.app.extensions["openremedy.adapters"]["grafana"]
    calls: list[str] = []
    real = grafana.verify

    def counting(*arguments: Any) -> bool:
        calls.append("hmac")
        return bool(real(*arguments))

    monkeypatch.setitem(grafana.__dict__, "verify", counting)
    ask = Fresh._ask
    monkeypatch.setattr(Fresh, "_ask", lambda self: (calls.append("query"), ask(self))[1])
    costs = []
    for slug in ("alice", "charlie", "nobody"):
        with alice.app.app_context():
            services().sources._known.since(time.monotonic())
        calls.clear()
        body = json.dumps(FIRING).encode()
        answer = dataclasses.replace(source, slug=slug).send(body, **{"X-Grafana-Alerting-Signature": "0" * 64})
        assert answer.status_code == 401
        costs.append(sorted(calls))
    assert costs == [["hmac"] * 4 + ["query"]] * 3


# ---------------------------------------------------------------- the limit


@pytest.fixture
def limited(make_app: MakeApp, settings: Settings, alice: Tenant) -> Callable[..., Tenant]:
    def make(**changes: Any) -> Tenant:
        return dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, **changes)))

    return make


@on_sqlite
@pytest.mark.parametrize(
    ("adapter", "status"),
    [*((name, 503) for name in ("alertmanager", "grafana", "datadog", "uptimekuma", "zabbix")), ("pagerduty", 429)],
)
def test_over_the_limit_a_tool_gets_what_makes_it_try_again(
    limited: Callable[..., Tenant], adapter: str, status: int
) -> None:
    source = limited(source_rate_limit=3).source(adapter)
    body = (
        {"alerts": []}
        if adapter in ("alertmanager", "grafana")
        else {"title": "[TEST] x", "event": None, "msg": "x Testing"}
    )
    found = [source.send(body).status_code for _ in range(5)]
    assert found[3:] == [status, status]
    assert status not in found[:3]
    answer = source.send(body)
    refused(answer, status, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 61


@on_sqlite
def test_each_source_has_its_own_limit_and_a_body_counts_once(limited: Callable[..., Tenant]) -> None:
    tenant = limited(source_rate_limit=3, rate_limit=1)
    first, second = tenant.source("alertmanager"), tenant.source("alertmanager")
    many = notification(*(alert({"alertname": "Storm", "n": str(number)}) for number in range(50)))
    assert [first.send(many).status_code for _ in range(4)] == [202, 202, 202, 503]
    assert [second.send(many).status_code for _ in range(4)] == [202, 202, 202, 503]


@on_sqlite
def test_both_formats_of_a_source_share_its_limit(limited: Callable[..., Tenant]) -> None:
    source = limited(source_rate_limit=2).source("alertmanager")
    paths = ("", "/api/v2/alerts", "")
    bodies: list[Any] = [{"alerts": []}, [], {"alerts": []}]
    answers = [source.send(body, path).status_code for path, body in zip(paths, bodies, strict=True)]
    assert answers == [202, 202, 503]


@on_sqlite
def test_a_source_may_have_a_limit_of_its_own_or_none(limited: Callable[..., Tenant]) -> None:
    tenant = limited(source_rate_limit=2)
    source = tenant.source("alertmanager")
    change(tenant, source, rate_limit=4)
    assert [source.send({"alerts": []}).status_code for _ in range(5)] == [202] * 4 + [503]
    free = tenant.source("alertmanager")
    change(tenant, free, rate_limit=0)
    assert [free.send({"alerts": []}).status_code for _ in range(8)] == [202] * 8


def change(tenant: Tenant, source: Source, **body: Any) -> dict[str, Any]:
    answer = tenant.app.test_client().patch(f"/api/v1/sources/{source.id}", json=body, headers=tenant.auth)
    assert answer.status_code == 200, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


@on_sqlite
def test_more_than_60_failures_of_an_address_are_429_and_a_good_token_still_works(
    limited: Callable[..., Tenant],
) -> None:
    source = limited().source("alertmanager")
    found = [source.send(FIRING, Authorization="Bearer wrong").status_code for _ in range(63)]
    assert found == [401] * 60 + [429] * 3
    refused(source.send(FIRING, Authorization="Bearer wrong"), 429, "rate_limited")
    assert source.send(FIRING).status_code == 202
    assert source.send(FIRING, address="192.0.2.9", Authorization="Bearer wrong").status_code == 401


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_limit_goes_on_in_memory_with_redis_away(limited: Callable[..., Tenant]) -> None:
    """Every test here runs without Redis; this one says so."""
    source = limited(source_rate_limit=1, redis_url="redis://127.0.0.1:1/0").source("alertmanager")
    assert [source.send({"alerts": []}).status_code for _ in range(2)] == [202, 503]


def test_the_limit_is_kept_in_redis(limited: Callable[..., Tenant], redis_url: str) -> None:
    source = limited(source_rate_limit=2, redis_url=redis_url).source("alertmanager")
    assert [source.send({"alerts": []}).status_code for _ in range(3)] == [202, 202, 503]


def test_of_a_large_limit_the_limiter_is_asked_once_for_a_bundle_and_each_source_has_its_own(
    limited: Callable[..., Tenant], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = limited(source_rate_limit=2000, redis_url=redis_url)
    first, second = tenant.source("alertmanager"), tenant.source("alertmanager")
    asked = limits_looked_up(monkeypatch)
    assert [first.send({"alerts": []}).status_code for _ in range(10)] == [202] * 10
    assert len(asked) == 5, "a bundle of it is two"
    assert second.send({"alerts": []}).status_code == 202
    assert len(asked) == 6


# ---------------------------------------------------------------- what is counted and seen


def test_outcomes_are_counted_in_the_transaction_that_stores_them(alice: Tenant, alertmanager: Source) -> None:
    watchdog = alert({"alertname": "Watchdog"})
    mixed = notification(alert(startsAt="2026-03-02T08:20:00Z"), watchdog, 5)  # type: ignore[arg-type]  # 5 is no alert
    for body in (FIRING, FIRING, mixed, RESOLVED):
        assert alertmanager.send(body).status_code == 202
    found = alice.get(f"/sources/{alertmanager.id}")
    assert found["outcomes"] == {
        "created": 1,
        "updated": 1,
        "resolved": 1,
        "duplicate": 1,
        "ignored": 1,
        "rejected": 1,
    }
    assert found["last_seen"]


def test_use_of_a_token_is_noted(alice: Tenant, alertmanager: Source) -> None:
    assert shown(alice, alertmanager)["tokens"][0]["last_used"] is None
    alertmanager.send(FIRING)
    assert shown(alice, alertmanager)["tokens"][0]["last_used"]


def test_self_signing_is_no_use_of_the_tenants_secret(alice: Tenant, alertmanager: Source) -> None:
    alertmanager.send(FIRING)
    with alice.app.app_context():
        services().tally.flush()
        (secret,) = tenants.find_tenant(db.session(), "alice").secrets
        assert (secret.used_count, secret.last_used_at) == (0, None)


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (lambda one: one.send({"no": "alerts"}), "unsupported_envelope"),
        (lambda one: one.send(b"{"), "invalid_json"),
        (lambda one: one.send(FIRING, Authorization="Bearer wrong"), "unauthorized"),
        (lambda one: one.send(b"x" * 6_000_000), "too_large"),
    ],
)
def test_the_last_refusal_stands_on_its_source(
    alice: Tenant, alertmanager: Source, send: Callable[[Source], Any], reason: str
) -> None:
    assert shown(alice, alertmanager)["last_refusal"] is None
    assert send(alertmanager).status_code >= 400
    found = shown(alice, alertmanager)["last_refusal"]
    assert found["reason"] == reason
    assert found["message"]
    (sample,) = alice.get("/deliveries", accepted="false")["items"]
    assert (sample["source"], sample["adapter"], sample["reason"]) == ("alertmanager", "alertmanager", reason)


def test_a_rate_limited_body_is_a_refusal_that_is_seen(limited: Callable[..., Tenant]) -> None:
    tenant = limited(source_rate_limit=1)
    source = tenant.source("alertmanager")
    assert [source.send(FIRING).status_code for _ in range(2)] == [202, 503]
    assert shown(tenant, source)["last_refusal"]["reason"] == "rate_limited"


def test_a_token_of_yesterday_tells_which_source_it_was(alice: Tenant, alertmanager: Source) -> None:
    """With two sources of a kind a wrong token tells nothing, but one that was good once does."""
    other = alice.source("alertmanager")
    alice.post(f"/sources/{other.id}/rotate", {"grace_hours": 0})
    a_second_later(alice.app)
    assert other.send(FIRING).status_code == 401
    assert shown(alice, other)["last_refusal"]["reason"] == "unauthorized"
    assert shown(alice, alertmanager)["last_refusal"] is None


def test_a_refusal_tells_the_other_tenant_nothing(alice: Tenant, charlie: Tenant, alertmanager: Source) -> None:
    his = charlie.source("alertmanager")
    assert dataclasses.replace(alertmanager, token=his.token).send(FIRING).status_code == 401
    assert shown(charlie, his)["last_refusal"] is None
    assert shown(alice, alertmanager)["last_refusal"]["reason"] == "unauthorized"


def test_no_credential_is_kept_or_shown_anywhere(alice: Tenant, capfd: pytest.CaptureFixture[str]) -> None:
    source = alice.source("grafana", signing_secret="signing-secret-of-grafana")
    change(alice, alice.source("pagerduty"), api_token="api-token-of-the-tool")
    body = json.dumps(FIRING).encode()
    digest = signed("signing-secret-of-grafana", body)
    source.send(body, **{"X-Grafana-Alerting-Signature": digest, "Authorization": "Bearer " + "wrong-token-here"})
    source.send(b"{", Authorization=f"Bearer {source.token}")
    source.send(FIRING, **{"Authorization": basic("u", "wrong-password-here"), "X-OpenRemedy-Token": "wrong-header"})
    texts = [json.dumps(shown(alice, source)), json.dumps(alice.get("/sources")), json.dumps(alice.get("/deliveries"))]
    texts += [json.dumps(alice.get(f"/deliveries/{one['id']}")) for one in alice.get("/deliveries")["items"]]
    texts += capfd.readouterr()
    with alice.app.app_context():
        texts += [repr(row) for row in db.session.execute(db.text("SELECT * FROM deliveries")).all()]
        texts += [repr(row) for row in db.session.execute(db.text("SELECT * FROM source_secrets")).all()]
    hidden = (source.token, "signing-secret-of-grafana", "api-token-of-the-tool", "wrong-token-here")
    hidden += ("wrong-password-here", "wrong-header", base64.b64encode(b"u:wrong-password-here").decode())
    for text in texts:
        assert not any(secret in text for secret in hidden)
    assert digest not in "".join(texts[:3])


# ---------------------------------------------------------------- the heartbeat


def beat(source: Source, status: str = "firing") -> None:
    (found,) = source.alerts(notification(alert({"alertname": "Watchdog"}, status=status)))
    assert (found["outcome"], found["incident_id"]) == ("ignored", None)


def test_a_source_is_silent_when_its_heartbeat_stops(alice: Tenant, alertmanager: Source) -> None:
    alertmanager.send(FIRING)
    assert shown(alice, alertmanager)["silent"] is None, "it never had one"
    with time_machine.travel(datetime(2026, 3, 2, 8, 0, tzinfo=UTC), tick=False) as clock:
        beat(alertmanager)
        assert shown(alice, alertmanager)["silent"] is False
        clock.shift(timedelta(minutes=5))
        beat(alertmanager)
        clock.shift(timedelta(minutes=12))
        assert shown(alice, alertmanager)["silent"] is False
        clock.shift(timedelta(minutes=1))
        assert shown(alice, alertmanager)["silent"] is True
        beat(alertmanager)
        assert shown(alice, alertmanager)["silent"] is False


def test_twins_and_a_long_silence_do_not_change_the_pace_of_a_heartbeat(alice: Tenant, alertmanager: Source) -> None:
    with time_machine.travel(datetime(2026, 3, 2, 8, 0, tzinfo=UTC), tick=False) as clock:
        for minutes in (0, 240):
            clock.shift(timedelta(minutes=minutes))
            beat(alertmanager)
            clock.shift(timedelta(seconds=3))
            beat(alertmanager)
        clock.shift(timedelta(hours=9))
        assert shown(alice, alertmanager)["silent"] is False
        clock.shift(timedelta(days=14))
        assert shown(alice, alertmanager)["silent"] is True
        beat(alertmanager)
        clock.shift(timedelta(hours=11))
        assert shown(alice, alertmanager)["silent"] is True, "two weeks of silence are no pace"


def test_a_heartbeat_that_is_said_to_end_is_silence_at_once(alice: Tenant, alertmanager: Source) -> None:
    beat(alertmanager)
    beat(alertmanager, "resolved")
    assert shown(alice, alertmanager)["silent"] is True
    assert alice.incidents() == []
    beat(alertmanager)
    assert shown(alice, alertmanager)["silent"] is False


# ---------------------------------------------------------------- expiry (Prometheus without an Alertmanager)


def ahead(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def straight(source: Source, ends: str, **more: Any) -> dict[str, Any]:
    (found,) = source.alerts([{"labels": DISK, "startsAt": START, "endsAt": ends} | more], "/api/v2/alerts")
    return found


def swept(app: Flask) -> int:
    with app.app_context():
        return maintenance.sweep(services(), db.engine)["stale"]


def test_an_alert_of_prometheus_holds_until_it_says(alice: Tenant, alertmanager: Source) -> None:
    first = straight(alertmanager, ahead(4))
    again = straight(alertmanager, ahead(5))
    assert (first["outcome"], again["outcome"]) == ("created", "duplicate")
    assert alice.incident(first["incident_id"])["occurrences"] == 1
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=4, seconds=30)):
        assert swept(alice.app) == 0, "it was renewed"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=5, seconds=1)):
        assert swept(alice.app) == 1
        assert swept(alice.app) == 0
    incident = alice.incident(first["incident_id"])
    assert incident["status"] == "resolved"
    assert incident["timeline"][-1]["kind"] == "stale"


def test_a_late_repetition_does_not_shorten_what_a_newer_one_said(alice: Tenant, alertmanager: Source) -> None:
    straight(alertmanager, ahead(8))
    straight(alertmanager, ahead(4))
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        assert swept(alice.app) == 0


def test_a_repetition_of_an_episode_that_is_over_changes_nothing_of_the_next(
    alice: Tenant, alertmanager: Source
) -> None:
    straight(alertmanager, ahead(4))
    straight(alertmanager, ahead(-0.1))
    straight(alertmanager, ahead(20), startsAt=ahead(0))
    assert straight(alertmanager, ahead(4))["outcome"] == "duplicate"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=10)):
        assert swept(alice.app) == 0


def test_an_alert_that_comes_back_after_it_expired_is_still_firing(alice: Tenant, alertmanager: Source) -> None:
    first = straight(alertmanager, ahead(4))
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        swept(alice.app)
        second = straight(alertmanager, ahead(4))
    incident = alice.incident(second["incident_id"])
    assert (second["outcome"], incident["previous_incident_id"]) == ("created", first["incident_id"])
    assert incident["still_firing"] is True


def test_an_end_in_the_past_is_a_resolve(alice: Tenant, alertmanager: Source) -> None:
    first = straight(alertmanager, ahead(4))
    ended = straight(alertmanager, ahead(-0.1))
    assert (ended["outcome"], ended["incident_id"]) == ("resolved", first["incident_id"])
    assert straight(alertmanager, ahead(-0.1))["outcome"] == "ignored"
    assert alice.incident(first["incident_id"])["status"] == "resolved"


def test_a_repetition_that_was_long_on_its_way_ends_nothing(alice: Tenant, alertmanager: Source) -> None:
    first = straight(alertmanager, ahead(4))
    late = ahead(5)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        assert straight(alertmanager, late)["outcome"] == "duplicate"
        assert alice.incident(first["incident_id"])["status"] == "open"
        assert straight(alertmanager, ahead(4))["incident_id"] == first["incident_id"]
        assert swept(alice.app) == 0


def test_an_alert_that_is_repeated_long_after_its_end_burns(alice: Tenant, alertmanager: Source) -> None:
    """A clock that was set back for a moment has made an end of a repetition."""
    first = straight(alertmanager, ahead(4))
    assert straight(alertmanager, ahead(-0.1))["outcome"] == "resolved"
    assert straight(alertmanager, ahead(4))["outcome"] == "duplicate", "or the other one of a pair"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        again = straight(alertmanager, ahead(4))
        repeated = straight(alertmanager, ahead(5))
    assert (again["outcome"], repeated["outcome"]) == ("created", "duplicate")
    incident = alice.incident(again["incident_id"])
    assert (incident["previous_incident_id"], incident["still_firing"]) == (first["incident_id"], True)
    assert incident["status"] == "open"
    assert repeated["incident_id"] == again["incident_id"]
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=8)):
        assert straight(alertmanager, ahead(-0.1))["outcome"] == "resolved"


def test_a_clock_behind_ours_hides_nothing_once_it_is_right(alice: Tenant, alertmanager: Source) -> None:
    assert straight(alertmanager, ahead(-1))["outcome"] == "ignored"
    found = straight(alertmanager, ahead(4))
    assert found["outcome"] == "created"
    assert alice.incident(found["incident_id"])["status"] == "open"


def test_an_alert_that_says_no_end_holds_for_ever(alice: Tenant, alertmanager: Source) -> None:
    straight(alertmanager, "")
    with time_machine.travel(datetime.now(UTC) + timedelta(days=30)):
        assert swept(alice.app) == 0


def test_the_same_alert_through_an_alertmanager_of_the_source_is_the_same_incident(alertmanager: Source) -> None:
    first = straight(alertmanager, ahead(4))
    (second,) = alertmanager.alerts(FIRING)
    assert second["incident_id"] == first["incident_id"]


def test_an_incident_of_a_source_that_never_says_resolved_is_closed_as_stale(
    alice: Tenant, alertmanager: Source
) -> None:
    change(alice, alertmanager, stale_after=3600)
    (found,) = alertmanager.alerts(FIRING)
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=1, seconds=1)):
        assert swept(alice.app) == 1
    assert alice.incident(found["incident_id"])["timeline"][-1]["kind"] == "stale"


# ---------------------------------------------------------------- the door


def test_a_secret_that_ends_between_signing_and_checking_is_no_fault_of_the_tool(
    alice: Tenant, alertmanager: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    alertmanager.send(FIRING)
    real = Door.accept_native
    tries: list[int] = []

    def revoked_meanwhile(self: Door, *arguments: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            with alice.app.app_context():
                tenants.rotate_secret(db.session(), services().vault, "alice", timedelta(0))
            self.directory._known.since(time.monotonic())
        return real(self, *arguments)

    monkeypatch.setattr(Door, "accept_native", revoked_meanwhile)
    assert alertmanager.send(RESOLVED).status_code == 202
    assert len(tries) == 2


def test_a_tenant_without_a_live_secret_is_not_the_tools_fault_either(alice: Tenant, alertmanager: Source) -> None:
    with alice.app.app_context():
        for secret in tenants.find_tenant(db.session(), "alice").secrets:
            secret.expires_at = datetime.now(UTC)
        db.session.commit()
    a_second_later(alice.app)
    before = rows(alice.app)
    refused(alertmanager.send(FIRING), 503, "unavailable")
    assert rows(alice.app) == before


def test_the_database_away_is_503_and_nothing_else(
    alice: Tenant, alertmanager: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise Unavailable()

    monkeypatch.setattr("openremedy.store.store", away)
    answer = alertmanager.send(FIRING)
    refused(answer, 503, "unavailable")
    assert answer.headers["Retry-After"]


@on_sqlite
def test_note_and_update_come_from_adapters_only(alice: Tenant) -> None:
    for status in ("note", "update"):
        body = json.dumps({"hostname": "a", "incident_type": "custom", "status": status}).encode()
        refused(alice.send(body), 422, "validation_error")


def test_canonical_and_native_alerts_of_one_key_are_two_incidents(alice: Tenant, alertmanager: Source) -> None:
    (native,) = alertmanager.alerts(notification(alert(fingerprint="same-key")))
    canonical = alice.alert(dedup_key="same-key")
    assert native["incident_id"] != canonical["incident_id"]
    assert alice.incident(native["incident_id"])["dedup_key"] == "same-key"


# ---------------------------------------------------------------- what an admin changes


def test_a_new_source_shows_its_token_in_this_answer_only(alice: Tenant) -> None:
    client = alice.app.test_client()
    answer = client.post("/api/v1/sources", json={"adapter": "grafana", "name": "team a"}, headers=alice.auth)
    assert answer.status_code == 201
    made = answer.get_json()
    assert made["name"] == "team a"
    assert made["url"].endswith("/api/v1/webhooks/grafana/alice")
    source = Source(alice.app, "alice", "grafana", int(made["id"]), made["token"])
    assert source.send({"alerts": []}).status_code == 202
    (listed,) = alice.get("/sources")["items"]
    assert listed == alice.get(f"/sources/{made['id']}")
    assert "token" not in listed
    twice = client.post("/api/v1/sources", json={"adapter": "grafana", "name": "team a"}, headers=alice.auth)
    refused(twice, 409, "conflict")


@on_sqlite
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"adapter": "nagios"}, "adapter"),
        ({}, "adapter"),
        ({"adapter": "grafana", "name": "x" * 101}, "name"),
        ({"adapter": "grafana", "name": "a\x00b"}, "name"),
        ({"adapter": 5}, "adapter"),
    ],
)
def test_a_source_that_cannot_be_is_refused_by_its_field(alice: Tenant, body: Any, field: str) -> None:
    answer = alice.app.test_client().post("/api/v1/sources", json=body, headers=alice.auth)
    assert field in refused(answer, 422, "validation_error")["fields"]
    assert alice.get("/sources")["items"] == []


@on_sqlite
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stale_after": 0}, "stale_after"),
        ({"stale_after": "60"}, "stale_after"),
        ({"stale_after": 10**9}, "stale_after"),
        ({"rate_limit": -1}, "rate_limit"),
        ({"rate_limit": True}, "rate_limit"),
        ({"name": ""}, "name"),
        ({"options": {"no_such": 1}}, "options"),
        ({"options": {"signature_header": "not a header"}}, "options"),
        ({"options": []}, "options"),
        ({"disabled": "yes"}, "disabled"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_its_field(alice: Tenant, body: Any, field: str) -> None:
    source = alice.source("grafana")
    before = alice.get(f"/sources/{source.id}")
    answer = alice.app.test_client().patch(f"/api/v1/sources/{source.id}", json=body, headers=alice.auth)
    assert field in refused(answer, 422, "validation_error")["fields"]
    assert alice.get(f"/sources/{source.id}") == before


def test_what_is_named_changes_and_the_rest_stays(alice: Tenant) -> None:
    source = alice.source("grafana")
    change(alice, source, stale_after=600, options={"timestamp_header": "X-Time"})
    found = change(alice, source, name="renamed", rate_limit=5)
    assert (found["name"], found["rate_limit"], found["stale_after"]) == ("renamed", 5, 600)
    assert found["options"] == {"timestamp_header": "X-Time"}
    found = change(alice, source, stale_after=None, options={"timestamp_header": None})
    assert (found["stale_after"], found["options"]) == (None, {})


def test_an_api_token_is_kept_encrypted_and_replaced(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    assert change(alice, source, api_token="first")["api_token"] is True
    assert change(alice, source, api_token="second")["api_token"] is True
    with alice.app.app_context():
        (locked,) = db.session.scalars(select(SourceSecret.locked))
        assert services().vault.unlock(locked) == "second"
    path, client, before = f"/api/v1/sources/{source.id}", alice.app.test_client(), shown(alice, source)
    for body in ({"api_token": "töken"}, {"name": "half-way", "api_token": "ü"}):
        answer = client.patch(path, json=body, headers=alice.auth)
        assert "api_token" in refused(answer, 422, "validation_error")["fields"]
        assert shown(alice, source) == before
    assert change(alice, source, api_token="")["api_token"] is False


@on_sqlite
@pytest.mark.parametrize("adapter", ["alertmanager", "sns"])
def test_a_credential_that_a_tool_has_no_use_for_is_refused(alice: Tenant, adapter: str) -> None:
    source, client = alice.source(adapter), alice.app.test_client()
    path = f"/api/v1/sources/{source.id}"
    answer = client.post(f"{path}/signing-secrets", json={"secret": "x"}, headers=alice.auth)
    assert "no use for a signing secret" in refused(answer, 422, "validation_error")["message"]
    answer = client.patch(path, json={"name": "half-way", "api_token": "x"}, headers=alice.auth)
    assert "no use for a token" in refused(answer, 422, "validation_error")["message"]
    found = shown(alice, source)
    assert (found["name"], found["signing_secrets"], found["api_token"]) == (adapter, [], False)


def test_at_most_ten_signing_secrets_are_kept(alice: Tenant) -> None:
    source = alice.source("pagerduty", signing_secret="0")
    client, path = alice.app.test_client(), f"/api/v1/sources/{source.id}/signing-secrets"
    found = [client.post(path, json={"secret": str(n)}, headers=alice.auth).status_code for n in range(1, 11)]
    assert found == [201] * 9 + [409]


def test_sources_come_page_by_page_newest_first(alice: Tenant) -> None:
    made = [str(alice.source("grafana").id) for _ in range(5)]
    first = alice.get("/sources", limit=2)
    second = alice.get("/sources", limit=2, cursor=first["next_cursor"])
    third = alice.get("/sources", limit=2, cursor=second["next_cursor"])
    assert [one["id"] for page in (first, second, third) for one in page["items"]] == made[::-1]
    assert third["next_cursor"] is None


def test_no_source_is_changed_by_reading_it(alice: Tenant, alertmanager: Source) -> None:
    with alice.app.app_context():
        before = db.session.execute(select(*SourceRow.__table__.c)).all()
    alice.get("/sources")
    shown(alice, alertmanager)
    with alice.app.app_context():
        assert db.session.execute(select(*SourceRow.__table__.c)).all() == before


def test_an_id_is_found_before_a_name_that_looks_like_it(alice: Tenant) -> None:
    first, second = alice.source("grafana"), alice.source("grafana")
    change(alice, first, name=str(second.id))
    with alice.app.app_context():
        assert sources.find_source(db.session(), "alice", str(second.id)).id == second.id


@on_sqlite
def test_a_body_of_more_alerts_than_any_tool_sends_is_refused_whole(alice: Tenant, alertmanager: Source) -> None:
    body = b'{"alerts":[' + b",".join([b"{}"] * 25_001) + b"]}"
    assert "25001 alerts" in refused(alertmanager.send(body), 413, "too_large")["message"]
    assert alice.incidents() == []
