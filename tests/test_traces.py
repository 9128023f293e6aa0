"""Traces: what a collector is told by real processes, what it never is, and that nobody waits for one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cast import DISK_FULL
from collector import Collector, Told
from leaks import watch
from services import until
from stack import Stack
from stub_model import StubModel

ROOT = Path(__file__).parent.parent
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # milliseconds between two batches
CANARY = "a word that only the evidence has"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def traced(stack: Stack, url: str, **more: str) -> Stack:
    """A stack of which nothing runs yet, with the tenant, that will tell this collector."""
    stack.create_tenant()
    stack.environment |= QUICKLY | {"OTEL_EXPORTER_OTLP_ENDPOINT": url} | more
    return stack


def settled(collector: Collector, *names: str) -> list[Told]:
    """The spans, once there is one of each of these names."""
    until(lambda: {one.name for one in collector.spans()} >= set(names), f"spans {names}")
    return collector.spans()


@pytest.mark.services
def test_an_alert_is_one_trace_from_the_request_to_its_verdict(stack: Stack, collector: Collector) -> None:
    with StubModel("good") as model:
        traced(stack, collector.url, OPENAI_BASE_URL=model.url, OTEL_SERVICE_NAME="openremedy-of-a-test")
        stack.start("web", "worker")
        answer = stack.send(evidence=DISK_FULL["evidence"] | {"note": CANARY})
        stack.classified(1)
        settled(collector, "verdict", "model", "job classify_pending")
        codes = [stack.end(name) for name in ("web", "worker")]
    assert codes == [0, 0]
    spans = collector.spans()
    posted = next(one for one in spans if one.facts.get("http.request.method") == "POST")
    request_id = answer.headers["X-Request-ID"]
    assert (posted.trace, posted.id, posted.parent) == (request_id, request_id[16:], "")
    assert posted.name.startswith("POST /api/v1/webhooks/alerts/<")
    assert posted.facts == {
        "http.request.method": "POST",
        "http.route": posted.name.removeprefix("POST "),
        "http.response.status_code": 202,
        "openremedy.request_id": request_id,
    }
    assert [one.facts["db.operation.name"] for one in spans if one.parent == posted.id and one.name != "verdict"]
    (verdict,) = [one for one in spans if one.name == "verdict"]
    assert (verdict.trace, verdict.parent) == (posted.trace, posted.id)
    assert verdict.facts["openremedy.tier"] == "model"
    assert verdict.facts["openremedy.incident"] == answer.json()["incident_id"]
    (asked,) = [one for one in spans if one.name == "model"]
    assert asked.facts["gen_ai.usage.input_tokens"] > 0
    jobs = {one.id: one for one in spans if one.name == "job classify_pending"}
    assert verdict.links
    assert {*verdict.links, asked.parent} <= jobs.keys()
    assert any(one.parent in jobs and "db.query.text" in one.facts for one in spans)
    assert {one.of["service.name"] for one in spans} == {"openremedy-of-a-test"}


def test_no_span_has_anything_of_a_body_a_secret_or_an_address_in_it(stack: Stack, collector: Collector) -> None:
    traced(stack, collector.url)
    link = stack.flask("user", "create", "bob@example.com", "--tenant", "alice", "--role", "viewer",
                       text="a long enough password\n")  # fmt: skip
    stack.start("web", "worker")
    stack.send(evidence=DISK_FULL["evidence"] | {"note": CANARY}, hostname="canary-host-0815")
    stack.classified(1)
    stack.get("/incidents", q=CANARY)
    secret_path = "a-token-in-a-path-that-nobody-may-see"
    agent = {"User-Agent": "agent-canary", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    requests.get(f"{stack.url}/link/{secret_path}?query-canary=1", headers=agent, timeout=30)
    requests.request("CANARY", f"{stack.url}/nowhere-canary", timeout=30)
    settled(collector, "verdict", "_OTHER")
    for name in ("web", "worker"):
        stack.end(name)
    told = b"".join(collector.raw).decode("utf-8", "replace")
    for word in (CANARY, "canary", "CANARY", secret_path, "127.0.0.1", "abab", stack.token, link["email"]):
        assert word not in told, word
    watch.look(told, "a span", log=True)
    assert all("?" not in one.facts.get("http.route", "") for one in collector.spans())


@ONLY_POSTGRES
def test_an_error_of_the_database_is_told_without_the_row(stack: Stack, collector: Collector) -> None:
    traced(stack, collector.url)
    program = """
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from openremedy import traces
from openremedy.extensions import db
from wsgi import app
with app.app_context(), traces.span("probe"):
    try:
        with db.engine.begin() as connection:
            again = text("INSERT INTO tenants (slug) SELECT slug || cast(:canary AS text) FROM tenants WHERE id < 0")
            connection.execute(again, {"canary": "canary"})
            connection.execute(text("SELECT cast(:canary AS integer)"), {"canary": "canary"})
    except Exception as error:  # which one it is differs from database to database
        print(type(error).__name__)
try:
    with traces.span("failing"):
        raise ValueError("canary")
except ValueError:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=stack.environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "DataError", done.stderr
    spans = settled(collector, "probe", "SELECT", "failing")
    assert {one.error for one in spans if one.name == "SELECT"} == {"InvalidTextRepresentation"}
    assert {one.error for one in spans if one.name == "failing"} == {"ValueError"}
    assert b"canary'" not in b"".join(collector.raw).replace(b":canary", b"")
    assert not [one for one in spans if "canary" in str(one.error)]


@ON_ONE
@pytest.mark.parametrize("hangs", [True, False], ids=["hung", "gone"])
def test_a_collector_that_is_away_costs_no_request_anything(stack: Stack, hangs: bool) -> None:
    with Collector(hangs=True) as silent:
        traced(stack, silent.url if hangs else "http://127.0.0.1:1", OTEL_BSP_MAX_QUEUE_SIZE="16",
               OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8")  # fmt: skip
        stack.start("web", "worker")
        stack.send()  # the first one imports and compiles
        took = []
        for number in range(60):  # more spans than the queue holds
            began = time.monotonic()
            assert stack.send(hostname=f"web-{number}").status_code == 202
            took.append(time.monotonic() - began)
        assert sorted(took)[len(took) // 2] < 0.5
        assert max(took) < 5
        stack.classified(61)
        began = time.monotonic()
        assert [stack.end(name) for name in ("web", "worker")] == [0, 0]
        assert time.monotonic() - began < 12  # of the two, each a second or two for itself


@ON_ONE
def test_only_what_is_sampled_is_told_and_a_verdict_goes_with_its_request(stack: Stack, collector: Collector) -> None:
    traced(stack, collector.url, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    stack.start("web", "worker")
    for number in range(24):
        stack.send(hostname=f"web-{number}")
    stack.classified(24)
    for name in ("web", "worker"):
        stack.end(name)
    requests_of = {one.id for one in collector.spans() if one.facts.get("http.request.method") == "POST"}
    verdicts = {one.parent for one in collector.named("verdict")}
    assert 0 < len(requests_of) < 24
    assert verdicts == requests_of


@ON_ONE
def test_probes_and_scrapes_are_no_traces(stack: Stack, collector: Collector) -> None:
    traced(stack, collector.url)
    stack.start("web")
    for path in ("/healthz", "/readyz", "/metrics", "/sign-in"):
        requests.get(stack.url + path, timeout=30)
    settled(collector, "GET /sign-in")
    stack.end("web")
    assert {one.facts.get("http.route") for one in collector.spans() if not one.parent} == {"/sign-in"}


LOADED = "import sys, wsgi, openremedy.workers; print(*sorted(sys.modules))"
NOT_INSTALLED = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
"""


def loaded(stack: Stack, before: str = "") -> list[str]:
    """What of OpenTelemetry a web process and a worker have imported."""
    program = [sys.executable, "-c", before + LOADED]
    done = subprocess.run(program, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if name.startswith("opentelemetry.")]


@ON_ONE
def test_without_a_collector_nothing_that_sends_is_imported(stack: Stack) -> None:
    names = loaded(stack)  # the client of Redis takes its metrics where it finds them
    assert not [name for name in names if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk.trace"))]
    stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
    assert "opentelemetry.sdk.trace" in loaded(stack)


@ON_ONE
def test_without_what_sends_the_service_is_as_ever(stack: Stack) -> None:
    assert loaded(stack, NOT_INSTALLED) == []


@ON_ONE
def test_a_collector_without_what_sends_to_it_stops_the_start_with_one_line(stack: Stack) -> None:
    traced(stack, "http://127.0.0.1:4318")
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED + LOADED], cwd=ROOT, env=stack.environment, capture_output=True, text=True
    )
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "requirements-otel.txt" in line
