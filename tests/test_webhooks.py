"""The canonical endpoint as its callers meet it: signatures, bodies, and the one shape of every error."""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, text, update
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from answers import refused, rows, seen_from_outside
from cast import DISK_FULL, Tenant, sign
from config import Settings
from conftest import make_settings
from openremedy import database, signing, tenants
from openremedy.alerts import MAX_EVIDENCE_BYTES
from openremedy.database import ImpatientConnection
from openremedy.extensions import db
from openremedy.models import Tenant as TenantRow
from openremedy.models import WebhookSecret
from openremedy.services import services
from services import PostgresServer, until

BODY = json.dumps(DISK_FULL).encode()
SIGNATURE = "X-OpenRemedy-Signature"
MakeApp = Callable[[Settings], Flask]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def post(app: Flask, slug: str, body: bytes, signature: str | None) -> TestResponse:
    environment = {} if signature is None else {"HTTP_X_OPENREMEDY_SIGNATURE": signature}
    return app.test_client().post(f"/api/v1/webhooks/alerts/{slug}", data=body, environ_overrides=environment)


def disable(app: Flask, slug: str) -> None:
    with app.app_context():
        db.session.execute(update(TenantRow).where(TenantRow.slug == slug).values(disabled_at=datetime.now(UTC)))
        db.session.commit()


def rotate(tenant: Tenant, hours: float = 24) -> Tenant:
    """The tenant with its next secret; the one of before lives on for `hours`."""
    with tenant.app.app_context():
        secret, _ = tenants.rotate_secret(db.session(), services().vault, tenant.slug, timedelta(hours=hours))
    return dataclasses.replace(tenant, secret=secret)


# ---------------------------------------------------------------- accepted


def test_it_stores_a_signed_alert(alice: Tenant) -> None:
    answer = alice.send(BODY)
    assert answer.status_code == 202
    assert answer.content_type == "application/json"
    found = answer.get_json()
    assert set(found) == {"delivery_id", "outcome", "incident_id", "warnings"}
    assert (found["outcome"], found["warnings"]) == ("created", [])
    incident = alice.incident(found["incident_id"])
    assert incident["evidence"] == DISK_FULL["evidence"]
    assert alice.get(f"/deliveries/{found['delivery_id']}")["accepted"] is True


def test_it_says_null_where_there_is_no_incident(alice: Tenant) -> None:
    answer = alice.alert(status="resolved")
    assert (answer["outcome"], answer["incident_id"]) == ("ignored", None)


@on_sqlite
def test_it_takes_the_digest_in_upper_case(alice: Tenant) -> None:
    prefix, digest = sign(alice.secret, BODY).split("=")
    assert post(alice.app, alice.slug, BODY, f"{prefix}={digest.upper()}").status_code == 202


@on_sqlite
def test_it_reads_json_under_any_content_type(alice: Tenant, subtests: pytest.Subtests) -> None:
    for content_type in [
        "application/json; charset=utf-8",
        "application/vnd.x+json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "\x00nonsense",
        "",
    ]:
        with subtests.test(content_type=content_type):
            environment = {"CONTENT_TYPE": content_type, "HTTP_X_OPENREMEDY_SIGNATURE": sign(alice.secret, BODY)}
            answer = alice.app.test_client().post(alice.url, data=BODY, environ_overrides=environment)
            assert answer.status_code == 202


@on_sqlite
def test_a_trailing_slash_is_the_same(alice: Tenant) -> None:
    assert post(alice.app, "alice/", BODY, sign(alice.secret, BODY)).status_code == 202


def test_it_replaces_what_no_database_can_store(alice: Tenant) -> None:
    body = json.dumps(DISK_FULL | {"evidence": {"k\x00": "v\ud800", "mount": "/var"}}).encode()
    answer = alice.send(body).get_json()
    assert "U+FFFD" in answer["warnings"][0]
    kept = {"k\N{REPLACEMENT CHARACTER}": "v\N{REPLACEMENT CHARACTER}", "mount": "/var"}
    assert alice.incident(answer["incident_id"])["evidence"] == kept


def test_it_stores_strange_but_legal_values(alice: Tenant) -> None:
    evidence = {
        **dict.fromkeys(("__proto__", "{{7*7}}", "$where", "../../etc", "", "a/b~c"), "<img src=x onerror=alert(1)>"),
        "big": int("9" * 64),
        "small": 1e-308,
        "nothing": None,
        "text": "\N{SNOWMAN} \U0001f600 \x7f \x1b \u2028",
    }
    answer = alice.alert(evidence=evidence, hostname="ü" * 253, dedup_key="☃" * 255, tenant_id=7, id="x")
    assert answer["warnings"] == ["unknown field 'tenant_id' was ignored", "unknown field 'id' was ignored"]
    assert alice.incident(answer["incident_id"])["evidence"] == evidence


def test_it_stores_evidence_at_both_limits(alice: Tenant) -> None:
    nested: Any = "leaf"
    for _ in range(31):
        nested = [nested]
    assert alice.alert(evidence={"a": nested})["outcome"] == "created"
    text = "x" * (MAX_EVIDENCE_BYTES - len('{"text":""}'))
    assert alice.alert(hostname="other", evidence={"text": text})["outcome"] == "created"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_it_survives_the_first_and_the_last_year(
    make_app: MakeApp, settings: Settings, alice: Tenant, moment: str
) -> None:
    if alice.app.config["SQLALCHEMY_DATABASE_URI"].startswith("postgresql"):
        # Far from UTC, as many a server in the world.
        with alice.app.app_context(), db.engine.begin() as connection:
            name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
            zone = "Pacific/Kiritimati" if moment.startswith("9") else "Pacific/Pago_Pago"
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET timezone = '{zone}'")
    elsewhere = dataclasses.replace(alice, app=make_app(settings))
    outcomes = [elsewhere.alert(occurred_at=moment)["outcome"] for _ in range(2)]
    assert outcomes == ["created", "duplicate"]


def test_a_replayed_delivery_is_the_same_incident(alice: Tenant) -> None:
    first = alice.alert()
    with time_machine.travel(datetime.now(UTC) + timedelta(days=1)):
        second = alice.alert()
    assert (second["outcome"], second["incident_id"]) == ("updated", first["incident_id"])
    assert [one["occurrences"] for one in alice.incidents()] == [2]


# ---------------------------------------------------------------- the one 401


def bad_signatures(good: str) -> Iterator[str | None]:
    digest = good.removeprefix("sha256=")
    yield from (None, "", "sha256=", "sha256", digest)
    yield from (
        f"{prefix}{digest}" for prefix in ("sha1=", "md5=", "v1,", "SHA256=", "sha512=", " sha256=", "sha256= ")
    )
    yield from (f"sha256={digest[:length]}" for length in (1, 32, 63))
    yield from (f"sha256={digest}0", f"sha256={digest}{digest}", f"{good},{good}", f"{good} ", f"{good}\n")
    yield "sha256=" + " ".join(digest[place : place + 2] for place in range(0, 64, 2))
    yield "sha256=" + "zz" * 32
    yield "sha256=\xc3\xa9"
    yield "sha256=" + "\xef\xbc\x91" * 64
    yield "sha256=" + "0" * 64
    yield "sha256=" + "f" * 10_000


def test_every_unauthenticated_request_gets_the_same_answer(alice: Tenant, charlie: Tenant) -> None:
    good = sign(alice.secret, BODY)
    disable(alice.app, charlie.slug)
    before = rows(alice.app)
    answers = [post(alice.app, alice.slug, BODY, header) for header in bad_signatures(good)]
    answers += [
        post(alice.app, alice.slug, body, good)
        for body in (BODY + b"\n", BODY.replace(b"94", b"95"), json.dumps(DISK_FULL, indent=1).encode(), b"")
    ]
    answers += [
        post(alice.app, alice.slug, BODY, sign(charlie.secret, BODY)),  # another tenant's secret
        post(alice.app, alice.slug, BODY, sign("", BODY)),
        post(alice.app, charlie.slug, BODY, sign(charlie.secret, BODY)),  # a disabled tenant, rightly signed
        post(alice.app, "nobody", BODY, good),
        post(alice.app, "nobody", BODY, None),
        post(alice.app, "nobody", b"", sign("", b"")),
        post(alice.app, alice.slug, b"not json", None),
        post(alice.app, alice.slug, b"[" * 100_000, good),
    ]
    refused(answers[0], 401, "unauthorized")
    assert {str(seen_from_outside(answer)) for answer in answers} == {str(seen_from_outside(answers[0]))}
    assert rows(alice.app) == before


@on_sqlite
def test_a_slug_that_is_none_gets_the_same_401(alice: Tenant, subtests: pytest.Subtests) -> None:
    for slug in [
        "ALICE",
        "Alice",
        "alice%20",
        "%20alice",
        "alice%00",
        "%00",
        "..",
        "%2e%2e",
        ".",
        "alice.",
        "аlice",  # the first letter is Cyrillic
        "alice%ff",
        "%ed%a0%80",
        "x" * 300,
        "x" * 3000,
        "alice;a=b",
        "alice%0d%0aX-Evil:%201",
        "' OR 1=1 --",
        "{{7*7}}",
        "%25s%25n",
    ]:
        with subtests.test(slug=slug):
            good = sign(alice.secret, BODY)
            answer = post(alice.app, slug, BODY, good)
            assert seen_from_outside(answer) == seen_from_outside(post(alice.app, "nobody", BODY, good))
            assert post(alice.app, alice.slug, BODY, good).status_code == 202


@on_sqlite
def test_a_path_that_is_none_is_404(alice: Tenant, subtests: pytest.Subtests) -> None:
    for path in ["a/b", "alice/x", "", "alice//", "/alice", "alice%2fx"]:
        with subtests.test(path=path):
            answer = post(alice.app, path, BODY, sign(alice.secret, BODY))
            assert refused(answer, 404, "not_found")["message"] == "There is nothing here."


@on_sqlite
def test_other_methods_are_405_for_every_tenant_alike(alice: Tenant, subtests: pytest.Subtests) -> None:
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]:
        with subtests.test(method=method):
            headers = {SIGNATURE: sign(alice.secret, BODY), "X-HTTP-Method-Override": "POST"}
            answers = [
                alice.app.test_client().open(
                    f"/api/v1/webhooks/alerts/{slug}", method=method, data=BODY, headers=headers
                )
                for slug in ("alice", "nobody")
            ]
            assert answers[0].headers["Allow"] == "POST"
            if method != "HEAD":
                refused(answers[0], 405, "method_not_allowed")
            assert answers[0].status_code == 405
            assert seen_from_outside(answers[0]) == seen_from_outside(answers[1])
            assert alice.incidents() == []


@on_sqlite
def test_a_method_cannot_be_overridden(alice: Tenant) -> None:
    headers = {SIGNATURE: sign(alice.secret, BODY), "X-HTTP-Method-Override": "DELETE"}
    assert alice.app.test_client().post(f"{alice.url}?_method=PUT", data=BODY, headers=headers).status_code == 202


@on_sqlite
def test_a_session_or_a_token_does_not_stand_in_for_the_signature(alice: Tenant) -> None:
    client = alice.app.test_client()
    client.set_cookie("session", "eyJ1c2VyIjoxfQ.x.y")
    refused(client.post(alice.url, data=BODY, headers=alice.auth), 401, "unauthorized")
    refused(client.post(alice.url, data=BODY, query_string={SIGNATURE: sign(alice.secret, BODY)}), 401, "unauthorized")


# ---------------------------------------------------------------- rotation


def test_both_secrets_sign_within_the_grace(alice: Tenant) -> None:
    after = rotate(alice)
    assert {alice.send(BODY).status_code, after.send(BODY).status_code} == {202}
    with alice.app.app_context():
        services().tally.flush()
        used = db.session.scalars(db.select(WebhookSecret).order_by(WebhookSecret.id)).all()
        found = [(one.used_count, one.last_used_at is not None) for one in used if one.used_count]
    assert found == [(1, True), (1, True)]


def test_the_old_secret_ends_with_its_grace(alice: Tenant) -> None:
    after = rotate(alice)
    ends = datetime.now(UTC) + timedelta(hours=24)
    with time_machine.travel(ends - timedelta(seconds=5), tick=False):
        assert alice.send(BODY).status_code == 202
    with time_machine.travel(ends + timedelta(seconds=1), tick=False):
        refused(alice.send(BODY), 401, "unauthorized")
        assert after.send(BODY).status_code == 202


def test_a_secret_ends_on_its_own_time_however_often_one_rotates(alice: Tenant) -> None:
    second = rotate(alice, hours=1)
    third = rotate(second, hours=24)
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=2)):
        assert [one.send(BODY).status_code for one in (alice, second, third)] == [401, 202, 202]


def test_a_new_secret_works_at_once(alice: Tenant) -> None:
    for _ in range(3):
        alice.send(BODY)  # what is known of the tenant is fresh now
        alice = rotate(alice)
        assert alice.send(BODY).status_code == 202


def test_a_revoked_secret_stops_everywhere_within_a_second(
    make_app: MakeApp, settings: Settings, alice: Tenant
) -> None:
    elsewhere = dataclasses.replace(alice, app=make_app(settings))  # another web process
    assert (alice.send(BODY).status_code, elsewhere.send(BODY).status_code) == (202, 202)
    after = rotate(alice, hours=0)
    until(lambda: alice.send(BODY).status_code == 401, "the old secret is refused here", seconds=1.5)
    until(lambda: elsewhere.send(BODY).status_code == 401, "and in the other process", seconds=1.5)
    assert after.send(BODY).status_code == 202
    assert dataclasses.replace(after, app=elsewhere.app).send(BODY).status_code == 202


def test_a_disabled_tenant_is_refused_within_a_second(alice: Tenant) -> None:
    assert alice.send(BODY).status_code == 202
    disable(alice.app, alice.slug)
    until(lambda: alice.send(BODY).status_code == 401, "the tenant is refused", seconds=1.5)


@on_sqlite
def test_one_unreadable_secret_does_not_close_the_door_to_others(alice: Tenant, charlie: Tenant) -> None:
    with alice.app.app_context():
        owner = db.select(TenantRow.id).where(TenantRow.slug == "charlie").scalar_subquery()
        db.session.execute(update(WebhookSecret).where(WebhookSecret.tenant_id == owner).values(locked="broken"))
        db.session.commit()
    assert alice.send(BODY).status_code == 202
    refused(charlie.send(BODY), 401, "unauthorized")
    refused(post(alice.app, "charlie", BODY, sign("", BODY)), 401, "unauthorized")


# ---------------------------------------------------------------- no oracle in the work done


@contextmanager
def counted(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many HMACs are computed and how many statements reach the database."""
    seen = {"hmacs": 0, "statements": 0}
    digest = signing.hmac.digest

    def counting(*arguments: Any) -> bytes:
        seen["hmacs"] += 1
        return digest(*arguments)

    def statement(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        seen["statements"] += text.startswith("SELECT")

    with app.app_context(), monkeypatch.context() as patch:
        patch.setattr(signing.hmac, "digest", counting)
        event.listen(db.engine, "before_cursor_execute", statement)
        yield seen
        event.remove(db.engine, "before_cursor_execute", statement)


@pytest.mark.parametrize("live", [1, 3])
@pytest.mark.parametrize("fresh", [True, False], ids=["just-read", "long-ago"])
def test_a_refusal_costs_the_same_for_known_and_unknown_tenants(
    alice: Tenant, charlie: Tenant, monkeypatch: pytest.MonkeyPatch, live: int, fresh: bool
) -> None:
    for _ in range(live - 1):
        rotate(alice)
    disable(alice.app, charlie.slug)
    good, wrong = sign(alice.secret, BODY), sign("wrong", BODY)
    work = []
    for slug, signature in (("alice", wrong), ("nobody", wrong), ("charlie", good), ("alice", None), ("nobody", "x")):
        with alice.app.app_context():
            directory = services().door.directory
            directory.authenticate("alice", [(BODY, good)])  # makes what is known fresh
        if not fresh:
            monkeypatch.setattr(directory._known, "_read_at", float("-inf"))
        with counted(alice.app, monkeypatch) as seen:
            refused(post(alice.app, slug, BODY, signature), 401, "unauthorized")
        work.append((seen["hmacs"], seen["statements"]))
    # What is fresh is checked, read again because it did not fit, and checked again.
    assert set(work) == {(2 * live, 1) if fresh else (live, 1)}


@on_sqlite
def test_the_first_request_of_a_service_without_tenants_is_401(app: Flask) -> None:
    refused(post(app, "nobody", BODY, sign("", BODY)), 401, "unauthorized")


# ---------------------------------------------------------------- bodies


def test_a_signed_body_that_is_no_alert_is_refused_and_leaves_nothing(alice: Tenant, subtests: pytest.Subtests) -> None:
    for body, status, code in [
        (b"", 400, "invalid_json"),
        (b"{}x", 400, "invalid_json"),
        (b'{"hostname": "\xff"}', 400, "invalid_json"),
        (b"null", 400, "not_an_object"),
        (b"[]", 400, "not_an_object"),
        (b'{"severity": "low", "severity": "critical"}', 400, "duplicate_key"),
        (b'{"evidence": {"a": NaN}}', 400, "invalid_number"),
        (b'{"evidence": {"a": 1e400}}', 400, "invalid_number"),
        (b'{"evidence": {"a": ' + b"9" * 5000 + b"}}", 400, "invalid_number"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "too_deep"),
        (b"[" * 100_000, 400, "too_deep"),
        (b"{}", 422, "validation_error"),
        (b'{"hostname": "a\\u0000b", "incident_type": "custom"}', 422, "validation_error"),
        (b'{"hostname": "a\\ud800b", "incident_type": "custom"}', 422, "validation_error"),
    ]:
        with subtests.test(body=body, status=status, code=code):
            before = rows(alice.app)
            refused(alice.send(body), status, code)
            assert rows(alice.app) == before


@on_sqlite
def test_a_refusal_names_every_field(alice: Tenant) -> None:
    error = refused(alice.send(b'{"hostname": 1, "severity": "P1", "evidence": []}'), 422, "validation_error")
    assert set(error["fields"]) == {"hostname", "incident_type", "severity", "evidence"}


@on_sqlite
def test_evidence_over_its_limit_is_422(alice: Tenant) -> None:
    body = json.dumps(DISK_FULL | {"evidence": {"text": "x" * MAX_EVIDENCE_BYTES}}).encode()
    error = refused(alice.send(body), 422, "evidence_too_large")
    assert list(error["fields"]) == ["evidence"]


@on_sqlite
def test_a_compressed_body_is_415_whoever_sends_it(alice: Tenant, subtests: pytest.Subtests) -> None:
    for coding in ["gzip", "deflate", "br", "GZIP", "x", "identity, gzip", "gzip, identity"]:
        with subtests.test(coding=coding):
            refused(alice.send(BODY, **{"Content-Encoding": coding}), 415, "unsupported_encoding")
            answer = alice.app.test_client().post(
                "/api/v1/webhooks/alerts/nobody", headers={"Content-Encoding": coding}
            )
            refused(answer, 415, "unsupported_encoding")


@on_sqlite
def test_a_body_that_says_it_is_not_compressed_is_taken(alice: Tenant, subtests: pytest.Subtests) -> None:
    for coding in ["identity", " Identity ", ""]:
        with subtests.test(coding=coding):
            assert alice.send(BODY, **{"Content-Encoding": coding}).status_code == 202


class Unreadable:
    """A body that must not be touched."""

    def read(self, *_: Any) -> bytes:
        raise AssertionError("the body was read")

    readline = read


@on_sqlite
def test_a_declared_length_over_the_limit_is_413_before_anything_is_read(
    make_app: MakeApp, settings: Settings, alice: Tenant
) -> None:
    app = make_app(dataclasses.replace(settings, max_body_bytes=1000))
    for length in ("1001", "10000000", "9" * 30):
        environment = {"wsgi.input": Unreadable(), "CONTENT_LENGTH": length}
        answer = app.test_client().post(alice.url, environ_overrides=environment)
        assert "1000 bytes" in refused(answer, 413, "too_large")["message"]


@on_sqlite
def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_413(
    make_app: MakeApp, settings: Settings, alice: Tenant
) -> None:
    small = dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, max_body_bytes=len(BODY))))
    assert small.send(BODY).status_code == 202
    refused(small.send(BODY + b" "), 413, "too_large")


@on_sqlite
def test_the_default_limit_is_five_mebibytes(alice: Tenant) -> None:
    limit = 5 * 1024 * 1024
    assert alice.send(BODY.ljust(limit)).status_code == 202
    refused(alice.send(BODY.ljust(limit + 1)), 413, "too_large")


@on_sqlite
def test_a_length_that_is_none_never_fails(alice: Tenant, subtests: pytest.Subtests) -> None:
    for length in ["-1", "abc", "", "1e3", "0x10", " 5 ", "\u0665", "+5"]:
        with subtests.test(length=length):
            environment = {"CONTENT_LENGTH": length, "HTTP_X_OPENREMEDY_SIGNATURE": sign(alice.secret, BODY)}
            answer = alice.app.test_client().post(alice.url, data=BODY, environ_overrides=environment)
            assert answer.status_code in (202, 400, 401)


@on_sqlite
def test_a_body_that_breaks_off_is_400(alice: Tenant, subtests: pytest.Subtests) -> None:
    for error in [ConnectionResetError, TimeoutError, OSError]:
        with subtests.test(error=error):

            class Broken(Unreadable):
                def read(self, *_: Any, error: type[OSError] = error) -> bytes:
                    raise error

            environment = {"wsgi.input": Broken(), "CONTENT_LENGTH": "100"}
            refused(alice.app.test_client().post(alice.url, environ_overrides=environment), 400, "invalid_json")


# ---------------------------------------------------------------- the shape of errors


MIRROR = "mirror" * 60


@on_sqlite
def test_errors_do_not_reflect_the_request(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    client = alice.app.test_client()
    strict = make_app(dataclasses.replace(settings, trusted_hosts=("openremedy.example",))).test_client()
    answers = [
        alice.send(json.dumps({MIRROR: 1, "hostname": MIRROR, "incident_type": MIRROR}).encode()),
        alice.send(f'{{"{MIRROR}": 1, "{MIRROR}": 2}}'.encode()),
        alice.send(MIRROR.encode()),
        alice.send(BODY, **{"Content-Encoding": MIRROR}),
        post(alice.app, MIRROR, BODY, MIRROR),
        client.get(f"/{MIRROR}"),
        client.get(f"/api/{MIRROR}", headers={"Accept": "text/html"}),
        client.open(alice.url, method="MIRRORMIRRORMIRROR" * 20),
        client.get("/api/v1/incidents", headers={"Authorization": f"Bearer {MIRROR}"}),
        strict.get("/healthz", headers={"Host": MIRROR}),
        client.get("/healthz", headers={"Host": f"{MIRROR}<>"}),
    ]
    assert answers[1].get_json()["error"]["message"].count("mirror") == 16  # 100 characters
    for answer in answers:
        text = answer.get_data(as_text=True) + str(answer.headers)
        assert max((len(found) for found in re.findall("(?:mirror)+", text, re.IGNORECASE)), default=0) <= 100


@on_sqlite
def test_nothing_here_is_told_in_the_same_shape(client: FlaskClient, subtests: pytest.Subtests) -> None:
    programs = [("/favicon.ico", "*/*"), ("/../etc", "*/*"), ("/%00", "*/*")]  # a browser gets a page there
    api = [
        (path, accept)
        for path in ("/api", "/api/", "/api/v1", "/api/v2/webhooks/alerts/alice")
        for accept in ("*/*", "text/html")
    ]
    for path, accept in api + programs:
        with subtests.test(path=path, accept=accept):
            refused(client.get(path, headers={"Accept": accept}), 404, "not_found")


@on_sqlite
def test_no_route_of_the_api_redirects(app: Flask) -> None:
    client = app.test_client()
    checked = 0
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("ui."):
            continue
        assert rule.redirect_to is None
        path = re.sub("<[^>]*>", "x", rule.rule).rstrip("/")
        for method in ("GET", "POST"):
            bare, slashed = client.open(path, method=method), client.open(f"{path}/", method=method)
            assert bare.status_code == slashed.status_code, path
            doubled = client.open(f"{path[:2]}{path[2:].replace('/', '//')}", method=method)
            assert doubled.status_code == (bare.status_code if "/" not in path[2:] else 404)
            for answer in (bare, slashed, doubled):
                assert not 300 <= answer.status_code < 400
                assert "Location" not in answer.headers
                checked += 1
    assert checked > 50


@on_sqlite
@pytest.mark.parametrize("path", ["/api/v1/boom", "/boom"])
def test_an_unexpected_error_is_500_without_a_word_about_it(
    app: Flask, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    def boom() -> str:
        raise RuntimeError("the secret is in /srv/openremedy SELECT 1")

    app.add_url_rule(path, view_func=boom)
    answer = app.test_client().get(path)
    error = refused(answer, 500, "internal")
    assert error == {
        "code": "internal",
        "message": "Something went wrong on our side. The request id finds it in our log.",
    }


@on_sqlite
def test_an_error_while_the_door_works_is_500_and_not_a_half_answer(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: Any) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("openremedy.lifecycle.apply", boom)
    before = rows(alice.app)
    refused(alice.send(BODY), 500, "internal")
    assert rows(alice.app) == before


@pytest.mark.parametrize("away", ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://nobody@127.0.0.1:1/nothing"])
def test_a_database_that_is_away_is_503_and_says_when_to_come_back(
    make_app: MakeApp, tmp_path: Path, away: str
) -> None:
    app = make_app(make_settings(tmp_path, away, rate_limit=60))
    answer = post(app, "alice", BODY, sign("secret", BODY))
    refused(answer, 503, "unavailable")
    assert answer.headers.getlist("Retry-After") == ["2"]


@on_postgresql
def test_a_database_that_hangs_is_503_and_holds_no_thread(alice: Tenant, postgres_server: PostgresServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        for ready in pool.map(alice.send, [BODY] * 8):  # connections wait in the pool
            assert ready.status_code == 202
        with postgres_server.paused():
            began = time.monotonic()
            answers = list(pool.map(alice.send, [BODY] * 4))
            took = time.monotonic() - began
    for answer in answers:
        refused(answer, 503, "unavailable")
    assert took < 8  # two to doubt, two to ask; who stands in line behind another does not wait for it again
    assert alice.send(BODY).status_code == 202


@on_postgresql
@pytest.mark.parametrize("replay", [False, True], ids=["in one statement", "in a transaction"])
def test_a_database_that_is_read_only_is_503(
    app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch, replay: bool
) -> None:
    """As the one that was the primary until a moment ago."""
    if replay:
        monkeypatch.setattr("openremedy.express.store", lambda *_: None)
    with app.app_context():
        name = db.engine.url.database
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        db.engine.dispose()
        refused(alice.send(BODY), 503, "unavailable")
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))
        db.engine.dispose()
    assert alice.send(BODY).status_code == 202


FUNCTION = "openremedy_differing(bigint, bigint, json)"
RENAMED = {
    "table": ("TABLE incidents RENAME TO elsewhere", "TABLE elsewhere RENAME TO incidents"),
    "column": ("TABLE incidents RENAME hostname TO host", "TABLE incidents RENAME host TO hostname"),
    "function": (
        f"FUNCTION {FUNCTION} RENAME TO elsewhere",
        "FUNCTION elsewhere(bigint, bigint, json) RENAME TO openremedy_differing",
    ),
}


@on_postgresql
@pytest.mark.parametrize("what", RENAMED)
@pytest.mark.parametrize("replay", [False, True], ids=["in one statement", "in a transaction"])
def test_a_schema_of_another_release_is_503(
    app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch, replay: bool, what: str
) -> None:
    """Somebody goes back a release, or has not upgraded yet: the sender tries again, and then it is there."""
    if replay:
        monkeypatch.setattr("openremedy.express.store", lambda *_: None)
    before, after = RENAMED[what]
    with app.app_context(), db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ALTER {before}"))
        answer = alice.send(BODY)
        if replay and what == "function":
            assert answer.status_code == 202, "the transaction needs no function"
        else:
            refused(answer, 503, "unavailable")
        connection.execute(text(f"ALTER {after}"))
    assert alice.send(BODY).status_code == 202


@on_postgresql
def test_a_slow_statement_is_told_from_a_database_that_hangs(
    app: Flask, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "DOUBT", 0.2)
    with app.app_context(), db.engine.connect() as connection:
        asked = []
        own = connection.connection.driver_connection
        another, own.another = own.another, lambda: asked.append("once") or another()
        assert connection.scalar(text("SELECT 'here' FROM pg_sleep(0.6)")) == "here"
        assert asked == ["once"]
        with postgres_server.paused(), pytest.raises(OperationalError, match="does not answer"):
            connection.scalar(text("SELECT 1"))


@on_postgresql
def test_a_connection_that_was_ended_while_idle_is_noticed_without_a_question(app: Flask) -> None:
    with app.app_context():
        with db.engine.connect() as connection:
            first = connection.scalar(text("SELECT pg_backend_pid()"))
        with db.engine.connect() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) == first
        with psycopg.connect(db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        with db.engine.connect() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) != first


@on_postgresql
def test_a_statement_that_takes_long_is_given_up_unless_it_is_a_migration_s(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = text("SELECT pg_sleep(0.6)")
    monkeypatch.setattr(ImpatientConnection, "patience", 0.3)
    with app.app_context():
        with db.engine.connect() as connection, pytest.raises(OperationalError, match="does not answer"):
            connection.execute(sleep)
        with db.engine.connect() as connection:
            connection.connection.driver_connection.patience = None
            connection.execute(sleep)


@on_sqlite
def test_only_trusted_hosts_are_served(make_app: MakeApp, settings: Settings, alice: Tenant) -> None:
    trusting = dataclasses.replace(settings, trusted_hosts=("OpenRemedy.example", ".inside.example"))
    client = make_app(trusting).test_client()
    for host in ("openremedy.example", "openremedy.example:8000", "a.inside.example"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "openremedy.example.evil.example", "127.0.0.1", "evil.example:80", "a b"):
        headers = {"Host": host, "X-Forwarded-Host": "openremedy.example"}
        refused(client.get("/healthz", headers=headers), 404, "not_found")
        refused(client.post(alice.url, data=BODY, headers=headers), 404, "not_found")


@on_sqlite
def test_no_answer_sets_a_cookie_or_may_be_cached(alice: Tenant) -> None:
    client = alice.app.test_client()
    for answer in (alice.send(BODY), post(alice.app, "nobody", BODY, None), client.get("/x"), client.get("/healthz")):
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
