"""/metrics: what it counts, who may read it, and that the real Prometheus and its tools understand it."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from cast import DISK_FULL, Tenant
from config import Settings
from openremedy import meters, metrics
from openremedy.extensions import db
from openremedy.meters import Courier
from services import Prometheus, RedisServer, children, missing, running, until
from stack import Stack

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/openremedy.json"
PAGE = (ROOT / "docs/metrics.md").read_text()
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
GONE = "postgresql+psycopg://hidden-user:hidden-password@127.0.0.1:1/hidden-name"
TOKEN = "a token for scraping alone"

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]
MakeApp = Callable[[Settings], Flask]


def read(text: str) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(app: Flask) -> Figures:
    answer = app.test_client().get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    return read(answer.text)


def figure(figures: Figures, name: str, **labels: str) -> float:
    return figures.get((f"openremedy_{name}", tuple(sorted(labels.items()))), 0.0)


@pytest.fixture
def grown(app: Flask) -> Callable[..., float]:
    """By how much a figure has grown since the test began: the counts are those of the process."""
    before = scraped(app)
    return lambda name, **labels: figure(scraped(app), name, **labels) - figure(before, name, **labels)


# ---------------------------------------------------------------- what web processes count


@ON_ONE
def test_alerts_are_counted_by_what_became_of_them(alice: Tenant, grown: Callable[..., float]) -> None:
    alice.alert()
    alice.alert()
    alice.source("alertmanager").alerts({"alerts": [{"status": "firing", "labels": {"alertname": "A"}}, None]})
    assert grown("alerts_total", adapter="canonical", outcome="created") == 1
    assert grown("alerts_total", adapter="canonical", outcome="updated") == 1
    assert grown("alerts_total", adapter="alertmanager", outcome="created") == 1
    assert grown("alerts_total", adapter="alertmanager", outcome="rejected") == 1
    assert grown("answers_total", part="canonical", status="202") == 2
    assert grown("answers_total", part="alertmanager", status="202") == 1
    assert grown("request_seconds_count", part="canonical") == 2


@ON_ONE
def test_refusals_are_counted_by_their_code(alice: Tenant, app: Flask, grown: Callable[..., float]) -> None:
    alice.send(b"{")
    alice.send(b"{}", **{"X-OpenRemedy-Signature": "sha256=00"})
    app.test_client().post("/api/v1/webhooks/grafana/nobody", json={})
    assert grown("refusals_total", adapter="canonical", code="invalid_json") == 1
    assert grown("refusals_total", adapter="canonical", code="unauthorized") == 1
    assert grown("refusals_total", adapter="grafana", code="unauthorized") == 1


@ON_ONE
def test_pages_the_api_and_what_is_nowhere_are_told_apart(
    alice: Tenant, app: Flask, grown: Callable[..., float]
) -> None:
    alice.get("/incidents")
    app.test_client().get("/sign-in")
    app.test_client().get("/nowhere/at/all")
    assert grown("answers_total", part="api", status="200") == 1
    assert grown("answers_total", part="pages", status="200") == 1
    assert grown("answers_total", part="none", status="404") == 1


# ---------------------------------------------------------------- what is asked at each scrape


def test_the_state_of_incidents_is_told(alice: Tenant, app: Flask) -> None:
    alice.alert(severity="critical")
    first = alice.alert(hostname="web-02", severity="low")
    alice.post(f"/incidents/{first['incident_id']}/acknowledge")
    figures = scraped(app)
    assert figure(figures, "incidents", status="open", severity="critical") == 1
    assert figure(figures, "incidents", status="acknowledged", severity="low") == 1
    assert figure(figures, "incidents_waiting") == 2
    assert 0 < figure(figures, "oldest_waiting_seconds") < 60
    assert figure(figures, "incidents_needing_human") == 0
    assert figure(figures, "database_up") == 1


def test_an_empty_installation_tells_zeros(app: Flask) -> None:
    figures = scraped(app)
    for name in ("incidents_waiting", "oldest_waiting_seconds", "incidents_needing_human", "sources_silent"):
        assert figures[f"openremedy_{name}", ()] == 0


@ON_ONE
def test_a_source_whose_heartbeat_has_ended_is_silent_unless_it_is_disabled(alice: Tenant, app: Flask) -> None:
    source = alice.source("alertmanager")
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(db.text("UPDATE sources SET heartbeat_at = received, heartbeat_ended_at = received"
                                   " FROM (SELECT created_at AS received FROM sources)"))  # fmt: skip
    assert figure(scraped(app), "sources_silent") == 1
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(db.text("UPDATE sources SET disabled_at = created_at WHERE id = :id"), {"id": source.id})
    assert figure(scraped(app), "sources_silent") == 0


@pytest.mark.parametrize("database_url", [GONE], indirect=False)
def test_without_a_database_the_rest_is_told(app: Flask) -> None:
    figures = scraped(app)
    assert figures["openremedy_database_up", ()] == 0
    assert ("openremedy_incidents_waiting", ()) not in figures
    assert figure(figures, "request_seconds_count", part="metrics") >= 0


@ON_ONE
def test_without_redis_the_rest_is_told(app: Flask) -> None:
    figures = scraped(app)
    assert figures["openremedy_redis_up", ()] == 0
    assert figures["openremedy_database_up", ()] == 1
    assert ("openremedy_queue_jobs", ()) not in figures


# ---------------------------------------------------------------- who may read it


@pytest.fixture
def closed(make_app: MakeApp, settings: Settings) -> Flask:
    return make_app(dataclasses.replace(settings, metrics_token=TOKEN, metrics_allow=(ip_network("10.1.0.0/16"),)))


@ON_ONE
@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("10.1.2.3", {}, 200),
        ("10.2.0.1", {}, 401),
        ("127.0.0.1", {}, 401),
        ("2001:db8::1", {}, 401),
        ("10.2.0.1", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("10.2.0.1", {"Authorization": f"bearer  {TOKEN} "}, 200),
        ("10.2.0.1", {"Authorization": "Bearer another"}, 401),
        ("10.2.0.1", {"Authorization": "Bearer "}, 401),
        ("10.2.0.1", {"Authorization": f"Basic {TOKEN}"}, 401),
        # A wrong token is no good from anywhere, and a proxy's address is not that of who asks through it.
        ("10.1.2.3", {"Authorization": "Bearer another"}, 401),
        ("10.1.2.3", {"X-Forwarded-For": "203.0.113.9"}, 401),
        ("10.1.2.3", {"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {TOKEN}"}, 200),
    ],
)
def test_metrics_are_for_their_networks_and_for_bearers_of_their_token(
    closed: Flask, address: str, headers: dict[str, str], status: int
) -> None:
    answer = closed.test_client().get("/metrics", headers=headers, environ_overrides={"REMOTE_ADDR": address})
    assert answer.status_code == status
    if status == 401:
        assert answer.get_json()["error"]["code"] == "unauthorized"


@ON_ONE
def test_behind_a_known_proxy_the_address_of_who_asks_counts(make_app: MakeApp, settings: Settings) -> None:
    allowed = (ip_network("203.0.113.0/24"),)
    client = make_app(dataclasses.replace(settings, proxy_count=1, metrics_allow=allowed)).test_client()
    assert client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200
    assert client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


# ---------------------------------------------------------------- what workers bring


@pytest.fixture
def brought(redis_url: str) -> Iterator[Callable[[], dict[str, float]]]:
    """The hash in Redis, by the names of its figures without their labels."""
    with Redis.from_url(redis_url) as redis:
        yield lambda: {field.decode(): float(value) for field, value in redis.hgetall(meters.KEY).items()}


def test_what_is_new_is_brought_and_nothing_twice(redis_url: str, brought: Callable[[], dict[str, float]]) -> None:
    field = '["openremedy_verdicts_total", {"tier": "rule"}]'
    with Redis.from_url(redis_url) as redis:
        one, another = Courier(redis), Courier(redis)
        for courier in (one, another):
            courier.bring()
        before = brought().get(field, 0.0)
        meters.decided("rule", 0.3)
        one.bring()
        one.bring()
        assert brought()[field] == before + 1
        meters.decided("rule", 0.3)
        one.bring()
        assert brought()[field] == before + 2
        another.bring()  # of another process: there it would have counted for itself
        assert brought()[field] == before + 4


def test_what_could_not_be_brought_comes_along_the_next_time(
    redis_url: str, redis_server: RedisServer, brought: Callable[[], dict[str, float]]
) -> None:
    field = '["openremedy_swept_total", {"kind": "rounds"}]'
    with Redis.from_url(redis_url, socket_timeout=0.2, retry=None) as redis:
        courier = Courier(redis)
        courier.bring()
        before = brought().get(field, 0.0)
        redis_server.stop()
        meters.swept({"requeued": 1}, at=1_000.0)
        courier.bring()
        redis_server.start()
        courier.bring()
    assert brought()[field] == before + 1
    assert brought()['["openremedy_last_sweep_timestamp_seconds", {}]'] == 1_000.0


# ---------------------------------------------------------------- the real thing


@pytest.fixture
def whole(stack: Stack) -> Stack:
    """Everything runs, and somebody has used it."""
    stack.create_tenant()
    stack.start("web", "worker", "scheduler")
    return stack


@ONLY_POSTGRES
def test_a_real_prometheus_scrapes_all_processes_and_understands_rules_and_dashboard(whole: Stack) -> None:
    sent = 40
    answers = whole.send_many([{**DISK_FULL, "hostname": f"web-{number}"} for number in range(sent)])
    assert {answer.status_code for answer in answers} == {202}
    whole.classified(sent)
    config = (
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: openremedy, static_configs: [{{targets: ['127.0.0.1:{whole.port}']}}]}}\n"
    )
    with running(lambda folder: Prometheus(folder, config, RULES.read_text())) as prometheus:
        base = f"http://127.0.0.1:{prometheus.port}/api/v1"

        def ask(expression: str) -> Any:
            answer = requests.get(f"{base}/query", params={"query": expression}, timeout=10).json()
            assert answer["status"] == "success", (expression, answer)
            return [float(one["value"][1]) for one in answer["data"]["result"]]

        # Both workers of gunicorn count, and so does the worker that has no port.
        until(lambda: ask("sum(openremedy_alerts_total)") == [sent], "the alerts of both processes")
        until(lambda: ask("sum(openremedy_verdicts_total)") == [sent], "the verdicts of the worker")
        until(lambda: ask("openremedy_swept_total{kind='rounds'} >= 1"), "the scheduler's round")
        assert ask("openremedy_workers") == [1]
        assert ask("sum(openremedy_incidents)") == [sent]
        for expression in dashboard_expressions():
            ask(expression.replace("$job", "openremedy").replace("$__rate_interval", "1m"))
        rules = requests.get(f"{base}/rules", timeout=10).json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
    lines = [json.loads(line) for name in ("web", "worker") for line in whole.log(name).splitlines() if line[:1] == "{"]
    opened = {line["incident"]: line["request_id"] for line in lines if line.get("outcome") == "created"}
    verdicts = {line["incident"]: line["request_id"] for line in lines if line["event"] == "incident.classified"}
    assert len(opened) == sent
    assert verdicts == opened


@ONLY_POSTGRES
def test_the_folder_in_which_gunicorns_workers_count_goes_with_them(stack: Stack) -> None:
    stack.start("web")
    (worker, *_) = children(stack.processes["web"].pid)
    maps = Path(f"/proc/{worker}/maps").read_text()
    (folder,) = set(re.findall(r"\S*/openremedy-metrics-[^/]+", maps))
    assert Path(folder).is_dir()
    assert stack.end("web") == 0
    assert not Path(folder).exists()


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("words", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_accepts_the_rules_and_what_is_expected_of_them(words: tuple[str, ...]) -> None:
    done = subprocess.run([promtool(), *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@ON_ONE
def test_promtool_finds_nothing_to_say_about_the_names(alice: Tenant, app: Flask) -> None:
    alice.alert()
    text = app.test_client().get("/metrics").text
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def promtool() -> str:
    return shutil.which("promtool") or missing("promtool", "on Debian and Ubuntu: apt-get install prometheus")


# ---------------------------------------------------------------- the page


def test_every_metric_is_on_the_page_with_its_labels_and_nothing_else_is(
    alice: Tenant, make_app: MakeApp, settings: Settings, redis_url: str
) -> None:
    alice.alert()  # else there would be no incident to tell of, and no label
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(openremedy_\w+)` \| (.*?) ?\|", PAGE, re.MULTILINE)
    }
    assert listed == all_metrics(make_app(dataclasses.replace(settings, redis_url=redis_url)))


def all_metrics(app: Flask) -> dict[str, set[str]]:
    """By the names of the exposition, from what counts and from what one scrape of a whole service tells."""
    counted: Any = {*meters.OF_WEB._names_to_collectors.values(), *meters.OF_WORKERS._names_to_collectors.values()}
    found = {one._name + ("_total" if one._type == "counter" else ""): set(one._labelnames) for one in counted}
    with app.test_request_context():
        for family in metrics._Told().collect():
            if family.name not in {name.removesuffix("_total") for name in found}:
                found[family.name] = {label for sample in family.samples for label in sample.labels}
    return found


def test_rules_dashboard_and_the_tests_of_the_rules_speak_of_metrics_that_there_are() -> None:
    known = set(re.findall(r"^\| `(openremedy_\w+)` \|", PAGE, re.MULTILINE))
    for text in (RULES.read_text(), DASHBOARD.read_text(), (RULES.parent / "rules_test.yml").read_text()):
        named = set(re.findall(r"\bopenremedy_[a-z_]+", text))
        assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} - known == set()
