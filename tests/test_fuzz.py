"""Whatever arrives at the canonical endpoint, it is answered and never with a server error."""

import dataclasses
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from answers import refused, rows
from cast import DISK_FULL, Tenant, sign
from config import Settings
from openremedy.alerts import AlertStatus, IncidentType, Outcome, Severity

ALLOWED = {202, 400, 401, 413, 415, 422, 429}
MAX_BODY = 4000
LATIN_1 = st.characters(max_codepoint=255)  # what a header can carry as WSGI hands it over

fuzzed = hypothesis.settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return dataclasses.replace(settings, max_body_bytes=MAX_BODY)


class Door:
    """Posts to Alice's endpoint and looks at what every answer must keep to."""

    def __init__(self, alice: Tenant) -> None:
        self.alice = alice
        self.rows = rows(alice.app)

    def post(self, body: bytes, headers: dict[str, str], path: str | None = None) -> None:
        environment = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        environment |= {"CONTENT_TYPE": environment.pop("HTTP_CONTENT_TYPE", "application/json")}
        client = self.alice.app.test_client()
        self.look_at(client.post(path or self.alice.url, data=body, environ_overrides=environment))

    def signed(self, body: bytes, path: str | None = None) -> None:
        self.post(body, {"X-OpenRemedy-Signature": sign(self.alice.secret, body)}, path)

    def look_at(self, answer: TestResponse) -> None:
        assert answer.status_code in ALLOWED
        after = rows(self.alice.app)
        if answer.status_code == 202:
            assert answer.get_json()["outcome"] in list(Outcome)
            assert after["deliveries"] == self.rows["deliveries"] + 1
        else:
            refused(answer, answer.status_code, answer.get_json()["error"]["code"])
            assert after == self.rows
        self.rows = after


@pytest.fixture
def door(alice: Tenant) -> Door:
    return Door(alice)


# ---------------------------------------------------------------- bytes


def test_any_bytes_with_any_headers_are_answered(door: Door) -> None:
    names = st.sampled_from(["X-OpenRemedy-Signature", "Content-Type", "Content-Encoding", "Cookie", "Accept", "Range"])

    @fuzzed
    @given(body=st.binary(max_size=300), headers=st.dictionaries(names, st.text(LATIN_1, max_size=90)))
    def check(body: bytes, headers: dict[str, str]) -> None:
        door.post(body, headers)

    check()


def test_any_signed_bytes_are_answered(door: Door) -> None:
    @fuzzed
    @given(body=st.one_of(st.binary(max_size=300), st.binary(min_size=MAX_BODY - 1, max_size=MAX_BODY + 1)))
    def check(body: bytes) -> None:
        door.signed(body)

    check()


def test_a_damaged_alert_is_answered(door: Door) -> None:
    whole = json.dumps(DISK_FULL | {"severity": "high", "occurred_at": "2026-01-31T12:00:00Z"}).encode()
    place = st.integers(0, len(whole))

    @fuzzed
    @given(
        start=place, end=place, put=st.one_of(st.binary(max_size=8), st.sampled_from([b"\\u0000", b"\\ud800", b'"']))
    )
    def check(start: int, end: int, put: bytes) -> None:
        body = whole[:start] + put + whole[max(start, end) :]
        door.signed(body)

    check()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_any_slug_is_answered(door: Door) -> None:
    body = json.dumps(DISK_FULL).encode()
    bytes_of_a_path = st.binary(min_size=1, max_size=80).filter(lambda raw: b"/" not in raw)

    @fuzzed
    @given(slug=bytes_of_a_path)
    def check(slug: bytes) -> None:
        path = "/api/v1/webhooks/alerts/" + "".join(f"%{byte:02x}" for byte in slug)
        door.signed(body, path)

    check()


# ---------------------------------------------------------------- JSON


def any_json() -> st.SearchStrategy[Any]:
    """Values that Python writes as JSON, legal or not: NaN, lone surrogates and NUL among them."""
    text = st.text(st.characters(codec=None, categories=None), max_size=20)
    numbers = st.one_of(st.integers(), st.floats(), st.integers(-(10**70), 10**70))
    leaves = st.one_of(st.none(), st.booleans(), numbers, text)
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4))
    )


def words(*good: str) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(good), any_json())


def alerts() -> st.SearchStrategy[dict[str, Any]]:
    things = ("mount", "service_name", "port", "alertname", "title", "check", "name")
    evidence = st.one_of(st.dictionaries(st.sampled_from(things), any_json(), max_size=3), any_json())
    return st.fixed_dictionaries(
        {"hostname": st.one_of(words("web-01"), st.text(max_size=260)), "incident_type": words(*IncidentType)},
        optional={
            "severity": words(*Severity),
            "status": words(*AlertStatus),
            "evidence": evidence,
            "dedup_key": st.one_of(st.text(max_size=260), any_json()),
            "occurred_at": st.one_of(st.datetimes().map(lambda at: at.isoformat() + "Z"), any_json()),
            "tenant_id": any_json(),
        },
    )


@pytest.mark.parametrize("escaped", [True, False])
def test_any_json_in_the_fields_of_an_alert_is_answered(door: Door, alice: Tenant, escaped: bool) -> None:
    @fuzzed
    @given(alert=alerts())
    def check(alert: dict[str, Any]) -> None:
        body = json.dumps(alert, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        door.signed(body)

    check()
    # What was stored can be read again.
    for incident in alice.incidents(limit=20):
        assert alice.incident(incident["id"])["id"] == incident["id"]
