"""Charlie sees, counts and guesses nothing of Alice's, on every route there is; and who may do what within a tenant."""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from cast import Tenant, sign
from config import Settings
from conftest import make_settings
from openremedy import tenants
from openremedy.evaluation_queue import start_evaluation
from openremedy.extensions import db
from openremedy.models import (
    AlertRecord,
    Delivery,
    Incident,
    Recipe,
    Role,
    Source,
    SourceSecret,
    SourceToken,
    TimelineEntry,
    Verdict,
)
from openremedy.recipes import parse
from openremedy.services import services

SECRETLY = "alices-secret-host"

# Every route of the API with an id: what Alice has there, and the body that a call needs. The role is the least that
# may call it. A new route without an entry here fails test_every_route_has_its_entry.
WITH_AN_ID: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/api/v1/incidents/<incident_id>"): {"role": Role.VIEWER},
    ("POST", "/api/v1/incidents/<incident_id>/acknowledge"): {"role": Role.RESPONDER},
    ("POST", "/api/v1/incidents/<incident_id>/resolve"): {"role": Role.RESPONDER},
    ("POST", "/api/v1/incidents/<incident_id>/reclassify"): {"role": Role.RESPONDER},
    ("POST", "/api/v1/incidents/<incident_id>/feedback"): {"role": Role.RESPONDER, "body": {"answer": "none"}},
    ("GET", "/api/v1/deliveries/<delivery_id>"): {"role": Role.VIEWER},
    ("GET", "/api/v1/recipes/<slug>"): {"role": Role.VIEWER},
    ("GET", "/api/v1/sources/<source_id>"): {"role": Role.VIEWER},
    ("PATCH", "/api/v1/sources/<source_id>"): {"role": Role.ADMIN, "body": {"rate_limit": 5}},
    ("POST", "/api/v1/sources/<source_id>/rotate"): {"role": Role.ADMIN, "body": {}},
    ("POST", "/api/v1/sources/<source_id>/signing-secrets"): {"role": Role.ADMIN, "body": {"secret": "s"}, "ok": 201},
    ("DELETE", "/api/v1/sources/<source_id>/signing-secrets/<secret_id>"): {"role": Role.ADMIN},
    ("GET", "/api/v1/evaluations/<evaluation_id>"): {"role": Role.ADMIN},
}
LISTS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/api/v1/incidents"): {"role": Role.VIEWER},
    ("GET", "/api/v1/deliveries"): {"role": Role.VIEWER},
    ("GET", "/api/v1/recipes"): {"role": Role.VIEWER},
    ("GET", "/api/v1/sources"): {"role": Role.VIEWER},
}
# Open to anybody, or with a credential of their own.
OPEN = {
    *(
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/api/docs"),
    ),
    *(("GET", "/openremedy-monitor.sh"), ("POST", "/api/v1/webhooks/alerts/<tenant>")),
}
# Without an id: what makes something new in one's own tenant.
MAKING: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/v1/sources"): {"role": Role.ADMIN, "body": {"adapter": "grafana"}, "ok": 201},
    ("POST", "/api/v1/evaluations"): {"role": Role.ADMIN, "body": {}, "ok": 202},
}


@dataclass(frozen=True)
class Things:
    """Ids of things that exist, or ids like them that do not."""

    incident_id: str
    delivery_id: str
    slug: str
    source_id: str
    secret_id: str
    evaluation_id: str

    def url(self, rule: str) -> str:
        for name in ("incident_id", "delivery_id", "slug", "source_id", "secret_id", "evaluation_id"):
            rule = rule.replace(f"<{name}>", getattr(self, name))
        return rule


@pytest.fixture
def settings(tmp_path: Path, database_url: str, redis_url: str) -> Settings:
    """With a Redis, because evaluations are asked of workers."""
    return make_settings(tmp_path, database_url, redis_url=redis_url)


@pytest.fixture
def hers(alice: Tenant, app: Flask) -> Things:
    """An incident, a delivery and a recipe of Alice's, with a refused delivery beside them."""
    receipt = alice.alert(hostname=SECRETLY)
    alice.send(b"{")
    with app.app_context():
        services().tally.flush()
    alice.import_recipes(parse("- {slug: only-alices, title: Only of Alice, when: never, risk: low, steps: none}"))
    source = alice.source("grafana", signing_secret=f"{SECRETLY}-signing")
    (secret,) = alice.get(f"/sources/{source.id}")["signing_secrets"]
    with app.app_context():
        evaluation = start_evaluation(services(), alice.id, {"tier": "lexical", "threshold": None}, None)
    return Things(
        receipt["incident_id"], receipt["delivery_id"], "only-alices", str(source.id), secret["id"], evaluation
    )


def call(client: FlaskClient, method: str, url: str, token: str | None, body: Any = None) -> TestResponse:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.open(url, method=method, json=body, headers=headers)


def everything(app: Flask) -> str:
    """What the database holds of incidents, to see that nothing changed."""
    with app.app_context():
        rows = [
            db.session.execute(select(*model.__table__.c).order_by(model.id)).all()
            for model in (Incident, TimelineEntry, Verdict, Delivery, AlertRecord, Source, SourceToken, SourceSecret)
        ]
        return repr(rows)


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    """Without the adapters' own (tests/test_adapters.py is their contract) and the pages (tests/ui_routes.py)."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(("native_", "ui.")):
            continue
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, rule.rule


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_route_has_its_entry(app: Flask) -> None:
    assert set(routes(app)) == WITH_AN_ID.keys() | LISTS.keys() | MAKING.keys() | OPEN


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_operation_of_the_document_has_its_entry_and_says_whom_it_refuses(client: FlaskClient) -> None:
    described = {
        (method.upper(), re.sub(r"{(\w+)}", r"<\1>", path)): operation["responses"]
        for path, operations in client.get("/api/v1/openapi.json").get_json()["paths"].items()
        for method, operation in operations.items()
        if method != "parameters" and not path.startswith("/api/v1/webhooks/")  # these have credentials of their own
    }
    tables = WITH_AN_ID | LISTS | MAKING
    assert described.keys() == tables.keys()
    for key, refusals in described.items():
        assert "401" in refusals, key
        assert ("403" in refusals) is (tables[key]["role"] is not Role.VIEWER), key
        assert ("404" in refusals) is (key in WITH_AN_ID), key


def test_what_is_alices_is_for_charlie_what_does_not_exist(
    charlie: Tenant, hers: Things, client: FlaskClient, app: Flask
) -> None:
    before = everything(app)
    nothing = Things(str(uuid.uuid4()), str(uuid.uuid4()), "no-such-recipe", "987654321", "987654321", "0" * 32)
    for (method, rule), route in WITH_AN_ID.items():
        real = call(client, method, hers.url(rule), charlie.token, route.get("body"))
        unreal = call(client, method, nothing.url(rule), charlie.token, route.get("body"))
        assert real.status_code == unreal.status_code == 404, (method, rule)
        assert real.get_json()["error"] == unreal.get_json()["error"]
        assert len(real.data) == len(unreal.data)
    assert everything(app) == before


def test_alice_reaches_what_is_hers_by_the_same_routes(alice: Tenant, hers: Things, client: FlaskClient) -> None:
    for (method, rule), route in (WITH_AN_ID | LISTS | MAKING).items():
        answer = call(client, method, hers.url(rule), alice.token, route.get("body"))
        assert answer.status_code == route.get("ok", 200), (method, rule, answer.get_data())


def test_no_list_filter_or_search_shows_or_counts_anything_of_alices(
    alice: Tenant, charlie: Tenant, hers: Things, client: FlaskClient
) -> None:
    queries: list[dict[str, Any]] = [
        *({}, {"q": SECRETLY}, {"hostname": SECRETLY}, {"status": "open"}, {"classification": "pending"}),
        *({"since": "2020-01-01T00:00:00Z"}, {"limit": 1}, {"recipe": "only-alices"}, {"tenant_id": 1}),
        *({"tenant": alice.slug}, {"cursor": str(uuid.UUID(int=2**128 - 1))}, {"cursor": hers.incident_id}),
    ]
    for query in queries:
        assert charlie.get("/incidents", **query) == {"items": [], "next_cursor": None}, query
    for query in ({}, {"accepted": "false"}, {"reason": "invalid_json"}, {"limit": 1}):
        assert charlie.get("/deliveries", **query) == {"items": [], "next_cursor": None}, query
    assert "only-alices" not in {one["slug"] for one in charlie.get("/recipes", limit=200)["items"]}


def test_a_cursor_of_alices_tells_charlie_nothing(alice: Tenant, charlie: Tenant, hers: Things, app: Flask) -> None:
    """It is a place in a list: whether there is anything of hers at it makes no difference to his."""
    receipt = charlie.alert()
    charlie.source("grafana")
    his = {one["id"] for path in ("/incidents", "/deliveries", "/sources") for one in charlie.get(path)["items"]}
    assert receipt["incident_id"] in his
    for path, real in (
        ("/incidents", hers.incident_id),
        ("/deliveries", hers.delivery_id),
        ("/sources", hers.source_id),
        ("/recipes", str(alice_recipe(app, hers.slug))),
    ):
        near = str(int(real) + 1) if real.isdigit() else real[:-1] + ("1" if real[-1] != "1" else "2")
        found = charlie.get(path, cursor=real, limit=200)
        assert found == charlie.get(path, cursor=near, limit=200)
        assert {one["id"] for one in found["items"] if "id" in one} <= his


def alice_recipe(app: Flask, slug: str) -> int:
    """The number of a recipe that is only Alice's."""
    with app.app_context():
        found: int = db.session.scalars(select(Recipe.id).where(Recipe.slug == slug)).one()
        return found


# What rows of ours have, and no request may set.
PLANTED = {
    "tenant_id": 1,
    "tenant": "alice",
    "id": "1",
    "user_id": 1,
    "role": "admin",
    "status": "resolved",
    "token": "chosen",
    "token_hash": "0" * 64,
    "created_at": "2020-01-01T00:00:00Z",
    "outcomes": {},
    "verdict": {},
}


def test_no_body_sets_what_it_is_not_asked_for(alice: Tenant, hers: Things, client: FlaskClient, app: Flask) -> None:
    before = everything(app)
    asked = [(*key, route["body"]) for key, route in (WITH_AN_ID | MAKING).items() if "body" in route]
    assert len(asked) >= 6
    for method, rule, body in asked:
        for name, value in PLANTED.items():
            answer = call(client, method, hers.url(rule), alice.token, body | {name: value})
            assert answer.status_code == 422, (method, rule, name)
            assert name in answer.get_json()["error"]["fields"]
    assert everything(app) == before


def test_an_action_without_a_body_reads_none(alice: Tenant, hers: Things, client: FlaskClient) -> None:
    url = hers.url("/api/v1/incidents/<incident_id>/acknowledge")
    assert call(client, "POST", url, alice.token, PLANTED).get_json()["status"] == "acknowledged"
    assert alice.incident(hers.incident_id)["verdict"] is None


def test_a_sender_says_nothing_of_what_is_ours_to_say(alice: Tenant, charlie: Tenant) -> None:
    ours = PLANTED | {"occurrences": 99, "classification": "done", "recipe": "disk-full", "first_seen": "2020-01-01"}
    del ours["status"]  # this one is a sender's to say
    receipt = alice.alert(tenant_slug="charlie", **{name: value for name, value in ours.items() if name != "tenant"})
    incident = alice.incident(receipt["incident_id"])
    assert (incident["occurrences"], incident["classification"], incident["verdict"]) == (1, "pending", None)
    assert incident["first_seen"] > "2026"
    assert incident["id"] != "1"
    assert charlie.incidents() == []


def test_a_method_is_not_overridden_and_no_other_site_may_read_an_answer(
    alice: Tenant, hers: Things, client: FlaskClient, app: Flask
) -> None:
    before = everything(app)
    override = dict.fromkeys(("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"), "DELETE")
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method, rule in (WITH_AN_ID | LISTS | MAKING).keys() | OPEN:
        url = hers.url(rule).replace("<tenant>", alice.slug)
        for asked in ("GET", "OPTIONS"):
            answer = client.open(f"{url}?_method={method}", method=asked, headers=alice.auth | override | foreign)
            assert answer.status_code < 500
            assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")], url
    assert everything(app) == before


def test_nothing_of_alices_stands_in_any_answer_to_charlie(charlie: Tenant, hers: Things, client: FlaskClient) -> None:
    charlie.alert()
    for (method, rule), route in (WITH_AN_ID | LISTS | MAKING).items():
        text = call(client, method, hers.url(rule), charlie.token, route.get("body")).text
        assert not any(
            one in text for one in (SECRETLY, hers.incident_id, hers.delivery_id, "only-alices", hers.evaluation_id)
        )


def test_each_role_may_exactly_what_it_should(alice: Tenant, hers: Things, client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        tokens = {role: tenants.create_token(db.session(), alice.slug, role) for role in Role}
    for (method, rule), route in (WITH_AN_ID | LISTS | MAKING).items():
        url, body = hers.url(rule), route.get("body")
        assert call(client, method, url, None, body).status_code == 401, (method, rule)
        for role, token in tokens.items():
            answer = call(client, method, url, token, body)
            allowed = role.may(route["role"])
            assert answer.status_code == (route.get("ok", 200) if allowed else 403), (method, rule, role)
            if not allowed:
                assert answer.get_json()["error"]["code"] == "forbidden"


def test_a_role_that_is_too_low_changes_nothing(alice: Tenant, hers: Things, client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        viewer = tenants.create_token(db.session(), alice.slug, Role.VIEWER)
    before = everything(app)
    for (method, rule), route in WITH_AN_ID.items():
        call(client, method, hers.url(rule), viewer, route.get("body"))
        call(client, method, hers.url(rule), None, route.get("body"))
    assert everything(app) == before


def test_charlies_secret_opens_nothing_at_alices_door(alice: Tenant, charlie: Tenant, client: FlaskClient) -> None:
    body = json.dumps({"hostname": "web-01", "incident_type": "disk_full", "tenant_id": 1}).encode()
    headers = {"X-OpenRemedy-Signature": sign(charlie.secret, body)}
    assert client.post(alice.url, data=body, headers=headers).status_code == 401
    assert client.post(charlie.url, data=body, headers=headers).status_code == 202
    assert alice.incidents() == []
    assert len(charlie.incidents()) == 1


def test_the_same_alert_in_two_tenants_is_two_incidents(alice: Tenant, charlie: Tenant) -> None:
    hers, his = alice.alert(dedup_key="same")["incident_id"], charlie.alert(dedup_key="same")["incident_id"]
    assert hers != his
    charlie.alert(dedup_key="same", status="resolved")
    assert alice.incident(hers)["status"] == "open"
    assert charlie.incident(his)["status"] == "resolved"


def test_one_slug_in_two_tenants_is_each_ones_own_recipe(alice: Tenant, charlie: Tenant, app: Flask) -> None:
    spec = "- {slug: same, title: Of %s, when: never, risk: low, steps: %s steps, enabled: %s}"
    for tenant, enabled in ((alice, "false"), (charlie, "true")):
        tenant.import_recipes(parse(spec % (tenant.slug, tenant.slug, enabled)))
    assert alice.get("/recipes/same")["steps"] == "alice steps"
    assert charlie.get("/recipes/same")["steps"] == "charlie steps"
    said = {"answer": "correct", "recipe": "same"}
    assert charlie.post(f"/incidents/{charlie.alert()['incident_id']}/feedback", said)["verdict"]["recipe"] == "same"
    path = f"/api/v1/incidents/{alice.alert()['incident_id']}/feedback"
    refused = app.test_client().post(path, json=said, headers=alice.auth)
    assert refused.status_code == 422, "hers is disabled, and his does not count"


def test_an_import_into_one_tenant_leaves_the_others_recipes_alone(alice: Tenant, charlie: Tenant) -> None:
    before = charlie.get("/recipes/disk-full")
    alice.import_recipes(parse("- {slug: disk-full, title: Changed, when: never, risk: low, steps: none}"))
    assert alice.get("/recipes/disk-full")["title"] == "Changed"
    assert charlie.get("/recipes/disk-full") == before
