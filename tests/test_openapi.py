"""Whatever is asked of the API, by its own document and against it: the answer is one that the document describes.

`make test T="tests/test_openapi.py --hypothesis-profile=long"` asks many times as often, and otherwise each time.
"""

import asyncio
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import quote

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cast import Tenant, sign
from config import Settings
from conftest import make_settings
from leaks import watch
from openremedy import apidoc, tenants, workers
from openremedy.evaluation_queue import start_evaluation
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.services import services

ADAPTERS = Path(__file__).parent.parent / "adapters"
CHANGELOG = ADAPTERS.parent / "CHANGELOG.md"
API_PAGE = ADAPTERS.parent / "docs" / "api.md"
REAL_BODIES = {"/api/v1/sources": {"adapter": "grafana"}}
Operation = APIOperation[Any, Any, Any, Any]
SIGNING_SECRET = "a secret of the tool's own"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LONG = hypothesis.settings.get_current_profile_name() == "long"
asked = hypothesis.settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    **({} if LONG else {"max_examples": 20, "derandomize": True}),
)


@pytest.fixture
def settings(tmp_path: Path, database_url: str, redis_url: str) -> Settings:
    """With a Redis, because evaluations are asked of workers."""
    return make_settings(tmp_path, database_url, redis_url=redis_url)


# ---------------------------------------------------------------- who asks, and for what


@dataclass
class Caller:
    """The application behind somebody's credentials; without a token the request goes in as it is."""

    app: Flask
    token: str | None
    secret: str
    source_tokens: dict[str, str]
    addresses: Iterator[int] = field(default_factory=count)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Sign the bytes that were really sent: the hooks of schemathesis come before there are any."""
        if self.token:
            body = environ["wsgi.input"].read()
            environ |= self._credential(environ["PATH_INFO"], body) | {"wsgi.input": io.BytesIO(body)}
        # Each time from elsewhere: after sixty failures of an address every answer would be 429.
        environ["REMOTE_ADDR"] = str(ip_address("10.0.0.0") + next(self.addresses))
        return self.app(environ, start_response)

    def _credential(self, path: str, body: bytes) -> dict[str, str]:
        name = path.removeprefix("/api/v1/webhooks/").partition("/")[0]
        signature = sign(SIGNING_SECRET, body).removeprefix("sha256=")
        return {
            "alerts": {"HTTP_X_OPENREMEDY_SIGNATURE": sign(self.secret, body)},
            "pagerduty": {"HTTP_X_PAGERDUTY_SIGNATURE": f"v1={signature}"},
            "grafana": {"HTTP_X_GRAFANA_ALERTING_SIGNATURE": signature},
        }.get(name) or {"HTTP_AUTHORIZATION": f"Bearer {self.source_tokens.get(name, self.token)}"}


@pytest.fixture
def source_tokens(alice: Tenant) -> dict[str, str]:
    """Of a source of each tool; two of them sign instead, and what SNS signs with is AWS's own."""
    for name in ("pagerduty", "grafana"):
        alice.source(name, signing_secret=SIGNING_SECRET)
    return {name: alice.source(name).token for name in ("alertmanager", "datadog", "sns", "uptimekuma", "zabbix")}


@pytest.fixture
def things(alice: Tenant, app: Flask) -> dict[str, str]:
    """What there is, by the names of the parameters in paths."""
    receipt = alice.alert()
    alice.send(b"{")
    source = alice.source("grafana", signing_secret=SIGNING_SECRET)
    (secret,) = alice.get(f"/sources/{source.id}")["signing_secrets"]
    with app.app_context():
        services().tally.flush()
        asyncio.run(workers.classifier(services().settings).run())
        evaluation = start_evaluation(services(), alice.id, {"tier": "lexical", "threshold": None}, None)
    alice.post(f"/incidents/{receipt['incident_id']}/feedback", {"answer": "correct", "recipe": "disk-full"})
    return {
        **{name: receipt[name] for name in ("incident_id", "delivery_id")},
        "slug": "disk-full",
        "source_id": str(source.id),
        "secret_id": secret["id"],
        "evaluation_id": evaluation,
        "tenant": alice.slug,
    }


def cases(operation: Operation, things: dict[str, str]) -> st.SearchStrategy[schemathesis.Case]:
    """What the document allows and what it does not, of what there is and of what is not there."""
    # With a slash in it, and as a dot or two, a segment leads to another path.
    text = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=70)
    segment = text.filter(lambda text: text not in (".", "..")).map(quoted)
    names = [one.name for one in operation.path_parameters]
    in_path = st.fixed_dictionaries({name: st.just(things[name]) | segment for name in names})
    generated = st.one_of(operation.as_strategy(mode) for mode in GenerationMode)
    real = real_bodies(operation.path)
    # By their places: hypothesis writes out what it draws from, and these are long.
    body = st.none() | st.integers(0, len(real) - 1).map(lambda place: real[place]) if real else st.none()
    return st.builds(placed, generated, in_path, body)


def real_bodies(path: str) -> list[Any]:
    """Where the document says too little to guess one: of what a tool sends it only says that it is JSON."""
    if path in REAL_BODIES:
        return [REAL_BODIES[path]]
    name = path.removeprefix("/api/v1/webhooks/").partition("/")[0]
    files = sorted((ADAPTERS / name).glob("fixtures/**/*.json")) if name else []
    return [json.loads(file.read_text()) for file in files if not file.name.endswith(".expected.json")]


def as_they_are(operation: Operation, things: dict[str, str]) -> Iterator[schemathesis.Case]:
    """The real bodies, none of them left to chance."""
    in_path = {one.name: things[one.name] for one in operation.path_parameters}
    for body in real_bodies(operation.path):
        yield operation.Case(path_parameters=in_path, body=body, media_type="application/json")


def words_in(body: Any) -> set[str]:
    """What is made up for a field, also for one of secrets: any word, among them those of our own answers."""
    return {text.rstrip("=") for text in body.values() if isinstance(text, str)} if isinstance(body, dict) else set()


def quoted(text: str) -> str:
    return quote(text, safe="")


def placed(case: schemathesis.Case, in_path: dict[str, str], body: Any) -> schemathesis.Case:
    case.path_parameters = in_path
    if body is not None:
        case.body = body
    return case


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN], ids=["nobody", "viewer", "admin"])
def test_every_answer_is_one_that_the_document_describes(
    alice: Tenant, app: Flask, things: dict[str, str], source_tokens: dict[str, str], role: Role | None
) -> None:
    with app.app_context():
        token = tenants.create_token(db.session(), alice.slug, role) if role else None
    caller = Caller(app, token, alice.secret, source_tokens)
    document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", caller, config=SchemathesisConfig())
    operations = [found.ok() for found in document.get_all_operations()]
    succeeded = set()

    for operation in operations:

        def ask(case: schemathesis.Case) -> None:
            watch.public.update(words_in(case.body))
            answer = case.call()
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code < 300:
                succeeded.add(case.operation.label)

        asked(given(case=cases(operation, things))(ask))()
        for case in as_they_are(operation, things):
            ask(case)

    may = [one for one in operations if role and (role is Role.ADMIN or "403" not in one.definition.raw["responses"])]
    assert succeeded == {one.label for one in may}, "else the questions were not good enough"


# ---------------------------------------------------------------- the document


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = app.test_client().get("/api/v1/openapi.json").get_json()
    return found


def test_every_body_has_an_example_and_every_example_is_one(document: dict[str, Any]) -> None:
    components = document["components"]
    bodies, refusals = named_bodies(document)
    assert {name for name, one in components["schemas"].items() if "examples" in one} == bodies
    for name in bodies:
        whole = {"$ref": f"#/components/schemas/{name}", "components": components}
        for example in components["schemas"][name]["examples"]:
            jsonschema_rs.validator_for(whole).validate(example)
    error = {"$ref": "#/components/schemas/ErrorJson", "components": components}
    listed = re.findall(r"^\| `(\w+)` \| (\d+) \|", API_PAGE.read_text(), re.MULTILINE)
    for status, content in refusals:
        jsonschema_rs.validator_for(error).validate(content["example"])
        assert (content["example"]["error"]["code"], status) in listed


def named_bodies(document: dict[str, Any]) -> tuple[set[str], list[tuple[str, dict[str, Any]]]]:
    """The schemas of all requests and good answers, and each refusal with its status."""
    bodies, refusals = set(), []
    for operation in (one for methods in document["paths"].values() for one in methods.values() if "responses" in one):
        contents = [("200", operation["requestBody"]["content"])] if "requestBody" in operation else []
        for status, answer in operation["responses"].items():
            shared = document["components"]["responses"].get(answer.get("$ref", "").rpartition("/")[2])
            contents.append((status, (shared or answer)["content"]))
        for status, content in contents:
            found = content["application/json"]
            if status < "300":
                bodies |= {found["schema"]["$ref"].rpartition("/")[2]} if found["schema"] else set()
            else:
                refusals.append((status, found))
    return bodies, refusals


def test_the_alert_of_the_document_is_taken_as_it_stands(alice: Tenant, document: dict[str, Any]) -> None:
    (example,) = document["components"]["schemas"]["Alert"]["examples"]
    receipt = alice.alert(example)
    assert (receipt["outcome"], receipt["warnings"]) == ("created", [])


def test_two_who_ask_for_the_document_first_and_at_once_get_the_same_whole_one(app: Flask) -> None:
    barrier = Barrier(2)

    def ask(_: int) -> tuple[int, bytes]:
        barrier.wait()
        answer = app.test_client().get("/api/v1/openapi.json")
        return answer.status_code, answer.data

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(ask, range(2))
    assert one == two
    assert one[0] == 200


def test_every_operation_says_who_may_ask(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"].keys()
    for methods in document["paths"].values():
        for operation in (one for name, one in methods.items() if name != "parameters"):
            asked_for = operation.get("security", document["security"])
            assert asked_for
            assert {name for one in asked_for for name in one} <= schemes


def test_the_document_does_not_change_without_a_line_in_the_changelog(document: dict[str, Any]) -> None:
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]
    line = f"- API {apidoc.VERSION} (`{digest}`): "
    assert document["info"]["version"] == apidoc.VERSION
    assert line in CHANGELOG.read_text(), (
        f"The document has changed: raise VERSION in openremedy/apidoc.py and write a line {line!r} into CHANGELOG.md"
    )
