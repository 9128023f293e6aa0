"""The read API: lists that stay whole while rows change, one error shape, four actions that are safe to repeat."""

import asyncio
import base64
import hashlib
import json
import re
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from werkzeug.test import TestResponse

from cast import DISK_FULL, Member, Tenant, sign
from openremedy import workers
from openremedy.apidoc import STYLE_HASH
from openremedy.extensions import db
from openremedy.models import ApiToken, Feedback, Incident, Recipe, now
from openremedy.models import Tenant as TenantRow
from openremedy.services import services

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SUMMARY = {
    *("id", "status", "hostname", "incident_type", "severity", "source", "dedup_key", "occurrences", "first_seen"),
    *("last_seen", "resolved_at", "previous_incident_id", "still_firing", "flapping", "classification", "verdict"),
}
VERDICT = {
    *("recipe", "tier", "confidence", "provisional", "runners_up", "citations", "summary", "model", "tokens"),
    *("prompt_version", "latency_ms", "created_at"),
}
CRITICAL = {
    "hostname": "DB-01",
    "incident_type": "service_down",
    "severity": "critical",
    "dedup_key": "pg-primary",
    "evidence": {"service_name": "postgresql", "error": 'Größe "100%_full" in C:\\data', "exit_code": 1},
}


def problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """An answer in the one error shape; returns its `error`."""
    assert answer.status_code == status, answer.text
    body = answer.get_json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) in ({"code", "message"}, {"code", "message", "fields"})
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    found: dict[str, Any] = body["error"]
    return found


def classify(app: Flask) -> None:
    """What a worker does with what waits."""
    with app.app_context():
        asyncio.run(workers.classifier(services().settings).run())


def found(tenant: Tenant, **filters: Any) -> set[str]:
    return {one["hostname"] for one in tenant.incidents(**filters)}


def act(member: Member | Tenant, client: FlaskClient, path: str, body: Any = None) -> TestResponse:
    return client.post(f"/api/v1{path}", json=body, headers=member.auth)


# ---------------------------------------------------------------- what an incident looks like


def test_a_list_shows_exactly_the_promised_keys(alice: Tenant, app: Flask) -> None:
    alice.alert()
    (before,) = alice.incidents()
    assert set(before) == SUMMARY
    assert before["verdict"] is None
    assert before["classification"] == "pending"
    assert (before["source"], before["dedup_key"], before["occurrences"]) == ("canonical", None, 1)
    classify(app)
    (after,) = alice.incidents()
    assert set(after["verdict"]) == VERDICT
    assert all(set(one) == {"recipe", "confidence"} for one in after["verdict"]["runners_up"])
    assert all(set(one) == {"pointer", "value"} for one in after["verdict"]["citations"])


def test_the_detail_adds_evidence_timeline_alerts_and_verdicts(alice: Tenant, app: Flask) -> None:
    incident_id = alice.alert(occurred_at="2026-01-31T12:00:00Z")["incident_id"]
    alice.alert(occurred_at="2026-01-31T12:00:00Z")
    alice.alert(occurred_at="2026-01-31T12:05:00Z", severity="high")
    classify(app)
    incident = alice.incident(incident_id)
    assert set(incident) == SUMMARY | {"evidence", "type_opinion", "timeline", "alerts", "verdicts"}
    assert incident["evidence"] == DISK_FULL["evidence"]
    assert [one["outcome"] for one in incident["alerts"]] == ["updated", "duplicate", "created"]
    assert incident["alerts"][0]["occurred_at"] == "2026-01-31T12:05:00.000000Z"
    assert incident["verdicts"] == [incident["verdict"]]
    kinds = [entry["kind"] for entry in incident["timeline"]]
    assert kinds[0] == "opened"
    assert {"duplicate", "repeated", "severity_changed", "classified"} <= set(kinds)
    assert [entry["at"] for entry in incident["timeline"]] == sorted(entry["at"] for entry in incident["timeline"])
    assert all(set(entry) == {"at", "kind", "actor", "detail"} for entry in incident["timeline"])


def test_another_opinion_on_the_senders_type_stands_beside_it(alice: Tenant) -> None:
    body = {"hostname": "app-3", "incident_type": "cpu_high", "evidence": {"title": "Worker killed: out of memory"}}
    incident = alice.incident(alice.alert(body)["incident_id"])
    assert (incident["incident_type"], incident["type_opinion"]) == ("cpu_high", "memory_high")
    assert alice.incident(alice.alert()["incident_id"])["type_opinion"] is None
    assert "type_opinion" not in alice.incidents()[0]


# ---------------------------------------------------------------- filters


def test_every_filter_narrows_the_list(alice: Tenant) -> None:
    alice.alert()
    database = alice.alert(CRITICAL)["incident_id"]
    alice.post(f"/incidents/{database}/feedback", {"answer": "correct", "recipe": "service-down"})
    alice.post(f"/incidents/{database}/acknowledge")
    only = {"DB-01"}
    assert found(alice) == {"web-01", "DB-01"}
    assert found(alice, status="acknowledged") == only
    assert found(alice, severity="critical") == only
    assert found(alice, incident_type="service_down") == only
    assert found(alice, hostname="db-01") == only
    assert found(alice, recipe="service-down") == only
    assert found(alice, classification="done") == only
    assert found(alice, classification="pending", status="open") == {"web-01"}
    assert found(alice, severity="critical", hostname="web-01") == set()


def test_search_finds_words_wherever_they_stand_and_as_they_are(alice: Tenant) -> None:
    alice.alert()
    alice.alert(CRITICAL)
    there = [
        "db-01",
        "DB",
        "pg-PRIMARY",
        "service_down",
        "postgresql",
        "größe",
        '"100%_full"',
        "C:\\data",
        "db full 100",
    ]
    assert {words: found(alice, q=words) for words in there} == {words: {"DB-01"} for words in there}
    absent = ["nothing-of-it", "db-01 nothing-of-it", "%%", "d_-01", "'", "C:\\\\data"]
    assert {words: found(alice, q=words) for words in absent} == {words: set() for words in absent}


def test_since_means_last_seen_at_or_after(alice: Tenant) -> None:
    incident_id = alice.alert()["incident_id"]
    first = alice.incident(incident_id)["last_seen"]
    later = (datetime.fromisoformat(first) + timedelta(microseconds=1)).isoformat().replace("+00:00", "Z")
    assert found(alice, since=first) == {"web-01"}
    assert found(alice, since=later) == set()
    alice.alert()
    assert found(alice, since=later) == {"web-01"}, "seen again since"
    assert found(alice, since="2026-01-31T12:00:00+05:30") == {"web-01"}
    raw = "/api/v1/incidents?since=2026-01-31T12:00:00+05:30"  # as typed: the plus reads as a blank
    assert alice.app.test_client().get(raw, headers=alice.auth).status_code == 200


NONSENSE = [
    *({"limit": 0}, {"limit": 201}, {"limit": -1}, {"limit": "many"}, {"cursor": "x"}, {"cursor": "1" * 300}),
    *({"status": "burning"}, {"severity": "HIGH"}, {"incident_type": "disk"}, {"classification": "maybe"}),
    *({"since": "yesterday"}, {"since": "2026-01-31"}, {"since": "0001-01-01T00:00:00+23:00"}, {"q": "x" * 201}),
    *({"q": "a\0b"}, {"hostname": "\0"}, {"recipe": "\0"}),
]


def test_a_nonsensical_filter_is_named(alice: Tenant, client: FlaskClient) -> None:
    for query in NONSENSE:
        answer = client.get("/api/v1/incidents", query_string=query, headers=alice.auth)
        assert set(problem(answer, 422, "validation_error")["fields"]) == set(query)


# ---------------------------------------------------------------- pages


def test_pages_neither_repeat_nor_miss_while_rows_change(alice: Tenant) -> None:
    ids = [alice.alert(hostname=f"host-{number}")["incident_id"] for number in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = alice.get("/incidents", limit=2, **cursor)
        seen += [one["id"] for one in page["items"]]
        assert len(page["items"]) <= 2
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
        alice.alert(hostname=f"new-{len(seen)}")  # arrives on top
        alice.alert(hostname="host-0")  # seen again: its place stays
        alice.post(f"/incidents/{ids[1]}/resolve")
    assert seen == ids[::-1]


@ON_ONE
def test_a_page_that_ends_exactly_has_no_next(alice: Tenant) -> None:
    for number in range(2):
        alice.alert(hostname=f"host-{number}")
    assert alice.get("/incidents", limit=2)["next_cursor"] is None
    assert alice.get("/incidents", limit=1)["next_cursor"] is not None
    assert alice.get("/incidents", hostname="nobody") == {"items": [], "next_cursor": None}


@ON_ONE
def test_a_page_has_fifty_unless_told(alice: Tenant, app: Flask) -> None:
    alice.alert()
    with app.app_context():
        row = dict(db.session.execute(select(*Incident.__table__.c)).mappings().one())
        for number in range(60):
            copy = row | {"id": uuid.UUID(int=row["id"].int + number + 1), "identity": f"copy-{number}"}
            db.session.add(Incident(**copy))
        db.session.commit()
    assert len(alice.get("/incidents")["items"]) == 50
    assert len(alice.get("/incidents", limit=200)["items"]) == 61


# ---------------------------------------------------------------- actions


def test_acknowledging_again_changes_nothing(alice: Tenant) -> None:
    incident_id = alice.alert()["incident_id"]
    first = alice.post(f"/incidents/{incident_id}/acknowledge")
    again = alice.post(f"/incidents/{incident_id}/acknowledge")
    assert first["status"] == "acknowledged"
    assert again == first
    assert [entry["actor"] for entry in first["timeline"] if entry["kind"] == "acknowledged"] == ["token alice"]


def test_resolving_again_changes_nothing_and_the_next_firing_opens_a_new_one(alice: Tenant) -> None:
    incident_id = alice.alert()["incident_id"]
    first = alice.post(f"/incidents/{incident_id}/resolve")
    again = alice.post(f"/incidents/{incident_id}/resolve")
    assert (first["status"], first["resolved_at"] is not None) == ("resolved", True)
    assert again == first
    assert alice.post(f"/incidents/{incident_id}/acknowledge") == first, "a resolved one stays resolved"
    following = alice.incident(alice.alert()["incident_id"])
    assert following["previous_incident_id"] == incident_id
    assert following["still_firing"]


def test_reclassifying_asks_once_and_brings_a_fresh_verdict(alice: Tenant, app: Flask) -> None:
    incident_id = alice.alert()["incident_id"]
    classify(app)
    first = alice.post(f"/incidents/{incident_id}/reclassify")
    assert first["classification"] == "pending"
    assert alice.post(f"/incidents/{incident_id}/reclassify") == first
    assert [entry["kind"] for entry in first["timeline"]].count("reclassify") == 1
    with app.app_context():
        named = Recipe.slug == first["verdict"]["recipe"]
        db.session.execute(update(Recipe).where(named).values(enabled=False))
        db.session.execute(update(TenantRow).values(catalogue_version=TenantRow.catalogue_version + 1))
        db.session.commit()
    classify(app)
    incident = alice.incident(incident_id)
    assert incident["classification"] in ("done", "needs_human")
    assert incident["verdict"]["recipe"] != first["verdict"]["recipe"], "looked at anew"
    assert [one["recipe"] for one in incident["verdicts"]] == [
        incident["verdict"]["recipe"],
        first["verdict"]["recipe"],
    ]


def feedback_rows(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(Feedback)) or 0


def test_a_correction_becomes_the_verdict_once(alice: Tenant, app: Flask) -> None:
    incident_id = alice.alert()["incident_id"]
    said = {"answer": "correct", "recipe": "disk-full"}
    first = alice.post(f"/incidents/{incident_id}/feedback", said)
    assert (first["classification"], first["verdict"]["tier"]) == ("done", "person")
    assert first["verdict"]["recipe"] == "disk-full"
    assert first["verdict"]["confidence"] == 1.0
    assert alice.post(f"/incidents/{incident_id}/feedback", said) == first
    assert feedback_rows(app) == 1
    assert alice.post(f"/incidents/{incident_id}/feedback", {"answer": "confirm"}) == first
    classify(app)
    assert alice.incident(incident_id) == first, "no worker writes over a person's answer"


def test_confirming_keeps_the_recipe_that_was_named(alice: Tenant, app: Flask) -> None:
    incident_id = alice.alert(CRITICAL)["incident_id"]
    classify(app)
    named = alice.incident(incident_id)["verdict"]["recipe"]
    assert named
    confirmed = alice.post(f"/incidents/{incident_id}/feedback", {"answer": "confirm", "recipe": named})
    assert (confirmed["verdict"]["recipe"], confirmed["verdict"]["tier"]) == (named, "person")


def test_none_fits_is_an_answer(alice: Tenant) -> None:
    incident_id = alice.alert()["incident_id"]
    answered = alice.post(f"/incidents/{incident_id}/feedback", {"answer": "none"})
    assert answered["classification"] == "done"
    assert answered["verdict"]["recipe"] is None
    assert alice.post(f"/incidents/{incident_id}/feedback", {"answer": "none"}) == answered


@ON_ONE
def test_confirming_what_is_not_there_is_a_conflict(alice: Tenant, client: FlaskClient) -> None:
    path = f"/incidents/{alice.alert()['incident_id']}/feedback"
    problem(act(alice, client, path, {"answer": "confirm"}), 409, "conflict")
    alice.post(path, {"answer": "correct", "recipe": "disk-full"})
    stale = act(alice, client, path, {"answer": "confirm", "recipe": "service-down"})
    problem(stale, 409, "conflict")


UNFIT = {
    "nothing": (b"", "invalid_json"),
    "no JSON": (b"{", "invalid_json"),
    "no UTF-8": (b'{"answer": "\xff"}', "invalid_json"),
    "a list": (b"[]", "not_an_object"),
    "text": (b'"none"', "not_an_object"),
    "a key twice": (b'{"answer": "none", "answer": "none"}', "duplicate_key"),
    "NaN": (b'{"answer": NaN}', "invalid_number"),
    "too deep": (b'{"answer": ' + b"[" * 100 + b"]" * 100 + b"}", "too_deep"),
}


@ON_ONE
def test_a_malformed_body_is_refused_as_at_the_door(alice: Tenant, client: FlaskClient) -> None:
    path = f"/api/v1/incidents/{alice.alert()['incident_id']}/feedback"
    headers = alice.auth | {"Content-Type": "application/json"}
    for body, code in UNFIT.values():
        problem(client.post(path, data=body, headers=headers), 400, code)


WRONG = {
    "no answer": ({}, "answer"),
    "an unknown answer": ({"answer": "perhaps"}, "answer"),
    "a number": ({"answer": 1}, "answer"),
    "no recipe to correct to": ({"answer": "correct"}, "recipe"),
    "an unknown recipe": ({"answer": "correct", "recipe": "no-such"}, "recipe"),
    "a recipe with NUL": ({"answer": "correct", "recipe": "disk\0full"}, "recipe"),
    "a lone surrogate": ({"answer": "correct", "recipe": "\ud800"}, "recipe"),
    "a recipe that is no text": ({"answer": "correct", "recipe": ["disk-full"]}, "recipe"),
    "an unknown field": ({"answer": "none", "tenant_id": 2}, "tenant_id"),
}


def test_feedback_that_makes_no_sense_names_its_field(alice: Tenant, client: FlaskClient, app: Flask) -> None:
    path = f"/incidents/{alice.alert()['incident_id']}/feedback"
    for body, field in WRONG.values():
        assert set(problem(act(alice, client, path, body), 422, "validation_error")["fields"]) == {field}
    assert feedback_rows(app) == 0


@ON_ONE
def test_feedback_needs_no_content_type(alice: Tenant, client: FlaskClient) -> None:
    path = f"/api/v1/incidents/{alice.alert()['incident_id']}/feedback"
    answer = client.post(path, data=b'{"answer": "none"}', headers=alice.auth | {"Content-Type": "text/plain"})
    assert answer.status_code == 200


@ON_ONE
def test_a_disabled_recipe_cannot_be_the_answer(alice: Tenant, client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        db.session.execute(update(Recipe).where(Recipe.slug == "disk-full").values(enabled=False))
        db.session.commit()
    path = f"/incidents/{alice.alert()['incident_id']}/feedback"
    problem(act(alice, client, path, {"answer": "correct", "recipe": "disk-full"}), 422, "validation_error")


@ON_ONE
def test_a_body_over_the_limit_is_refused(alice: Tenant, client: FlaskClient) -> None:
    path = f"/api/v1/incidents/{alice.alert()['incident_id']}/feedback"
    body = json.dumps({"answer": "x" * 5 * 1024 * 1024}).encode()
    problem(client.post(path, data=body, headers=alice.auth), 413, "too_large")


# ---------------------------------------------------------------- who may


def test_no_or_a_bad_token_is_unauthorized(alice: Tenant, client: FlaskClient) -> None:
    bad = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer ort_\xff\xe9",
        f"Token {alice.token}",
        f"Basic {alice.token}",
    ]
    for header in [*bad, alice.token, f"Bearer {alice.token} x", f"Bearer {alice.token.upper()}"]:
        problem(client.get("/api/v1/incidents", headers={"Authorization": header}), 401, "unauthorized")
    problem(client.get("/api/v1/incidents"), 401, "unauthorized")


@ON_ONE
def test_the_scheme_is_read_in_either_case(alice: Tenant, client: FlaskClient) -> None:
    assert client.get("/api/v1/incidents", headers={"Authorization": f"bEARER {alice.token}"}).status_code == 200


@ON_ONE
def test_a_webhook_secret_is_no_token_and_a_url_carries_none(alice: Tenant, client: FlaskClient) -> None:
    bearer = {"Authorization": f"Bearer {alice.secret}"}
    problem(client.get("/api/v1/incidents", headers=bearer), 401, "unauthorized")
    problem(client.get("/api/v1/incidents", query_string={"token": alice.token}), 401, "unauthorized")


@ON_ONE
def test_a_revoked_token_is_unauthorized(alice: Tenant, bob: Member, client: FlaskClient, app: Flask) -> None:
    assert client.get("/api/v1/incidents", headers=bob.auth).status_code == 200
    with app.app_context():
        db.session.execute(update(ApiToken).where(ApiToken.name == "bob").values(revoked_at=now()))
        db.session.commit()
    problem(client.get("/api/v1/incidents", headers=bob.auth), 401, "unauthorized")
    assert client.get("/api/v1/incidents", headers=alice.auth).status_code == 200


@ON_ONE
def test_a_disabled_tenant_is_unauthorized(alice: Tenant, client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        db.session.execute(update(TenantRow).values(disabled_at=now()))
        db.session.commit()
    problem(client.get("/api/v1/incidents", headers=alice.auth), 401, "unauthorized")


@ON_ONE
def test_a_responder_may_act(bob: Member, alice: Tenant, client: FlaskClient) -> None:
    incident_id = alice.alert()["incident_id"]
    for action, body in (
        ("acknowledge", None),
        ("resolve", None),
        ("reclassify", None),
        ("feedback", {"answer": "none"}),
    ):
        answer = act(bob, client, f"/incidents/{incident_id}/{action}", body)
        assert answer.status_code == 200, answer.text
    actors = {entry["actor"] for entry in alice.incident(incident_id)["timeline"]}
    assert "token bob" in actors


# ---------------------------------------------------------------- deliveries


def test_deliveries_show_what_came_without_what_could_be_sent_again(alice: Tenant, app: Flask) -> None:
    receipt = alice.alert()
    refused = b'{"hostname": "web-01"}'
    assert alice.send(refused).status_code == 422
    with app.app_context():
        services().tally.flush()
    newest, oldest = alice.get("/deliveries")["items"]
    assert (newest["accepted"], newest["status_code"], newest["reason"]) == (False, 422, "validation_error")
    assert oldest["id"] == receipt["delivery_id"]
    assert (oldest["accepted"], oldest["status_code"], oldest["reason"]) == (True, 202, None)
    assert oldest["headers"]["Content-Type"] == "application/json"
    assert "signature" not in json.dumps([newest, oldest]).lower()
    assert not {"body", "alerts"} & (set(newest) | set(oldest))

    detail = alice.get(f"/deliveries/{newest['id']}")
    assert set(detail) == set(newest) | {"body", "alerts"}
    assert (detail["body"], detail["alerts"]) == (refused.decode(), [])
    detail = alice.get(f"/deliveries/{oldest['id']}")
    assert json.loads(detail["body"]) == DISK_FULL
    assert detail["alerts"] == [{"outcome": "created", "incident_id": receipt["incident_id"], "reason": None}]
    assert sign(alice.secret, detail["body"].encode()) not in json.dumps(detail)


def test_deliveries_are_filtered_and_paged(alice: Tenant, app: Flask, client: FlaskClient) -> None:
    ids = [alice.alert()["delivery_id"] for _ in range(3)]
    alice.send(b"{")
    with app.app_context():
        services().tally.flush()
    accepted = alice.get("/deliveries", accepted="true", limit=2)
    assert [one["id"] for one in accepted["items"]] == ids[:0:-1]
    rest = alice.get("/deliveries", accepted="true", limit=2, cursor=accepted["next_cursor"])
    assert [one["id"] for one in rest["items"]] == ids[:1]
    assert rest["next_cursor"] is None
    (refused,) = alice.get("/deliveries", accepted="false")["items"]
    assert alice.get("/deliveries", reason="invalid_json")["items"] == [refused]
    assert alice.get("/deliveries", reason="too_deep")["items"] == []
    for query in ({"accepted": "maybe"}, {"cursor": "x"}, {"limit": 0}, {"reason": "\0"}):
        answer = client.get("/api/v1/deliveries", query_string=query, headers=alice.auth)
        assert set(problem(answer, 422, "validation_error")["fields"]) == set(query)


@ON_ONE
def test_a_body_that_is_no_text_is_still_shown(alice: Tenant, app: Flask) -> None:
    assert alice.send(b"\xff\xfe\x00").status_code == 400
    with app.app_context():
        services().tally.flush()
    (refused,) = alice.get("/deliveries")["items"]
    assert alice.get(f"/deliveries/{refused['id']}")["body"] == "\ufffd\ufffd\0"


# ---------------------------------------------------------------- recipes


def test_recipes_are_listed_without_steps_and_shown_with_them(alice: Tenant) -> None:
    slugs: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = alice.get("/recipes", limit=7, **cursor)
        slugs += [one["slug"] for one in page["items"]]
        assert not any("steps" in one for one in page["items"])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(slugs) == len(set(slugs)) >= 20
    keys = {"slug", "title", "when", "applies_to", "match", "risk", "tags", "enabled", "updated_at"}
    assert set(page["items"][0]) == keys
    recipe = alice.get("/recipes/disk-full")
    assert set(recipe) == keys | {"steps"}
    assert recipe["applies_to"] == ["disk_full"]


def test_a_foreign_cursor_of_recipes_is_named(alice: Tenant, client: FlaskClient) -> None:
    for cursor in ("x", "-1", "9" * 30, "1.5", "²", str(uuid.uuid4())):
        answer = client.get("/api/v1/recipes", query_string={"cursor": cursor}, headers=alice.auth)
        assert set(problem(answer, 422, "validation_error")["fields"]) == {"cursor"}


# ---------------------------------------------------------------- ids, methods, slashes

MALFORMED = ["x", "0", "-1", "1e3", "..", "%00", "%FF", "' OR 1=1", "a" * 3000]


def test_a_malformed_id_is_not_found(alice: Tenant, client: FlaskClient) -> None:
    incident_id = alice.alert()["incident_id"]
    for text in (*MALFORMED, f"{incident_id}0", incident_id.replace("-", "")):
        for path in (f"/incidents/{text}", f"/deliveries/{text}", f"/recipes/{text}"):
            problem(client.get(f"/api/v1{path}", headers=alice.auth), 404, "not_found")
        for action in ("acknowledge", "resolve", "reclassify"):
            problem(act(alice, client, f"/incidents/{text}/{action}"), 404, "not_found")


@ON_ONE
def test_a_trailing_slash_makes_no_difference(alice: Tenant, client: FlaskClient) -> None:
    incident_id = alice.alert()["incident_id"]
    for path in ("/incidents", f"/incidents/{incident_id}", "/deliveries", "/recipes", "/recipes/disk-full"):
        plain = client.get(f"/api/v1{path}", headers=alice.auth)
        slashed = client.get(f"/api/v1{path}/", headers=alice.auth)
        assert (slashed.status_code, slashed.get_json()) == (200, plain.get_json())
    answer = client.post(f"/api/v1/incidents/{incident_id}/resolve/", headers=alice.auth)
    assert answer.get_json()["status"] == "resolved"


@ON_ONE
def test_an_unknown_route_answers_in_the_one_shape_and_never_redirects(client: FlaskClient) -> None:
    for path in ("/api/", "/api/v1", "/api/v1/nothing", "/api/v2/incidents", "/api/v1//incidents"):
        problem(client.get(path), 404, "not_found")
        problem(client.post(path), 404, "not_found")


@ON_ONE
def test_a_wrong_method_says_which_are_right(alice: Tenant, client: FlaskClient) -> None:
    incident_id = alice.alert()["incident_id"]
    for method, path in (("DELETE", "/incidents"), ("PUT", f"/incidents/{incident_id}"), ("PATCH", "/recipes/x")):
        answer = client.open(f"/api/v1{path}", method=method, headers=alice.auth)
        problem(answer, 405, "method_not_allowed")
        assert {"GET", "HEAD", "OPTIONS"} == set(re.split(r", *", answer.headers["Allow"]))
    problem(client.get(f"/api/v1/incidents/{incident_id}/resolve", headers=alice.auth), 405, "method_not_allowed")


@ON_ONE
def test_head_and_options_tell_without_a_body(alice: Tenant, client: FlaskClient) -> None:
    assert client.head("/api/v1/incidents").status_code == 401
    head = client.head("/api/v1/incidents", headers=alice.auth)
    assert (head.status_code, head.data) == (200, b"")
    options = client.options("/api/v1/incidents")
    assert (options.status_code, options.data) == (200, b"")
    assert "GET" in options.headers["Allow"]


@ON_ONE
def test_reading_does_not_wait_for_a_writer(alice: Tenant, client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        engine = db.engine
    with engine.begin():  # on SQLite this holds the write lock
        assert client.get("/api/v1/incidents", headers=alice.auth).status_code == 200
        assert client.head("/api/v1/incidents", headers=alice.auth).status_code == 200


@ON_ONE
def test_answers_are_not_kept_by_caches(alice: Tenant, client: FlaskClient) -> None:
    answer = client.get("/api/v1/incidents", headers=alice.auth)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# ---------------------------------------------------------------- what the API says of itself


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


@ON_ONE
def test_the_document_names_every_route_of_the_api(document: dict[str, Any], app: Flask) -> None:
    assert document["openapi"].startswith("3.1")
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/") and rule.rule not in ("/api/v1/openapi.json", "/api/docs")
    }
    described = {
        (path, method) for path, methods in document["paths"].items() for method in methods if method != "parameters"
    }
    assert described == routes


@ON_ONE
def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        part: Any = document
        for key in reference.split("/"):
            part = part[key]
        assert part


@ON_ONE
def test_the_document_describes_the_error_shape_and_the_canonical_alert(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["ErrorJson"]["properties"]) == {"error", "request_id"}
    assert set(schemas["ErrorDetail"]["properties"]) == {"code", "message", "fields"}
    assert schemas["Alert"]["required"] == ["hostname", "incident_type"]
    assert schemas["Alert"]["properties"]["status"]["enum"] == ["firing", "acknowledged", "resolved"]
    assert set(schemas["IncidentSummary"]["properties"]) == SUMMARY
    door = document["paths"]["/api/v1/webhooks/alerts/{tenant}"]["post"]
    assert set(door["responses"]) == {"202", "400", "401", "413", "415", "422", "429", "503"}
    assert door["security"] == [{"signature": []}]
    assert document["security"] == [{"token": []}]


@ON_ONE
def test_the_page_shows_every_route_and_brings_everything_itself(client: FlaskClient, document: dict[str, Any]) -> None:
    answer = client.get("/api/docs")
    assert answer.mimetype == "text/html"
    for path in document["paths"]:
        assert f"<code>{path}</code>" in answer.text
    assert "next_cursor" in answer.text
    for outside in ("<script", "http://", "https://", "src=", "onclick", "style="):
        assert outside not in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{STYLE_HASH}'" in policy
    assert "unsafe" not in policy


@ON_ONE
def test_the_style_of_the_page_is_the_one_its_policy_allows(client: FlaskClient) -> None:
    style = re.findall(r"<style>(.*?)</style>", client.get("/api/docs").text, re.DOTALL)[0]
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() == STYLE_HASH
