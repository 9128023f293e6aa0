"""A real Alertmanager and a real Prometheus, with the configuration that the README shows, against the real service."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from openremedy.incident_type import incident_type_of
from openremedy.translation import fingerprint
from services import Alertmanager, PostgresServer, Prometheus, RedisServer, missing, postgres, running, until
from stack import Stack

CONFIG = """
route:
  receiver: openremedy
  group_by: [scenario]
  group_wait: 500ms
  group_interval: 2s
  repeat_interval: 4s
  routes:
    - matchers: [scenario="truncated"]
      receiver: truncating
      group_wait: 3s  # all of them are there by then, on a slow machine too
receivers:
  - name: openremedy
    webhook_configs:
      - url: {url}
        send_resolved: true
        http_config:
          authorization:
            credentials: {token}
  - name: truncating
    webhook_configs:
      - url: {url}
        max_alerts: 2
        http_config:
          basic_auth:
            username: anybody
            password: {token}
"""
PROMETHEUS = """
global:
  evaluation_interval: 1s
  external_labels: {{cluster: eu}}
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - path_prefix: /api/v1/webhooks/alertmanager/alice
      authorization:
        credentials: {token}
      static_configs:
        - targets: ['127.0.0.1:{port}']
"""
RULES = """
groups:
  - name: test
    rules:
      - alert: DiskFull
        expr: label_replace(vector({percent}) > 90, "instance", "db-1:9100", "", "")
        labels: {{severity: critical, mountpoint: /}}
        annotations:
          summary: 'at {{{{ $value }}}} %'
      - alert: Watchdog
        expr: vector(1)
"""
STARTED = "2026-03-02T08:15:30.412Z"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """A server of its own, because it is stopped."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, database: PostgresServer, redis_server: RedisServer
) -> Iterator[Stack]:
    from conftest import ENCRYPTION_KEY, driver, make_settings, migrate

    folder = tmp_path_factory.mktemp("senders")
    url = database.create_database("senders")
    migrate(make_settings(folder, driver(url)))
    redis_server.flushall()
    stack = Stack(folder, url, redis_server.url, ENCRYPTION_KEY)
    try:
        stack.create_tenant()
        stack.start("web", "worker")
        yield stack
    finally:
        stack.stop()


def add_source(service: Stack, name: str) -> dict[str, Any]:
    return service.flask("source", "add", "alice", "alertmanager", "--name", name)


@pytest.fixture(scope="module")
def alertmanager(service: Stack) -> Iterator[Alertmanager]:
    source = add_source(service, "single")
    config = CONFIG.format(url=source["url"].replace("8000", str(service.port)), token=source["token"])
    with running(lambda folder: Alertmanager(folder, config)) as server:
        yield server


def fire(server: Alertmanager, scenario: str, *alerts: dict[str, Any], minutes: float = 60) -> None:
    """Tell Alertmanager of alerts as Prometheus does; negative minutes say that they are over."""
    ends = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    body = [
        {
            "labels": {"alertname": "DiskFull", "scenario": scenario} | one.get("labels", {}),
            "annotations": one.get("annotations", {}),
            "startsAt": one.get("startsAt", STARTED),
            "endsAt": ends,
            "generatorURL": "http://prometheus.example/graph?g0.expr=up",
        }
        for one in alerts
    ]
    requests.post(f"{server.url}/api/v2/alerts", json=body, timeout=10).raise_for_status()


def host(name: str, **more: str) -> dict[str, Any]:
    return {"labels": {"instance": f"{name}:9100", "severity": "critical", "mountpoint": "/"} | more}


def incidents(service: Stack, scenario: str) -> list[dict[str, Any]]:
    """The incidents of a scenario, oldest first, with everything about them."""
    found = service.incidents(q=scenario)[::-1]
    return [service.get(f"/incidents/{one['id']}") for one in found]


def arrived(service: Stack, scenario: str, count: int = 1, **wanted: Any) -> list[dict[str, Any]]:
    """Wait until so many incidents of a scenario are in this state."""

    def there() -> list[dict[str, Any]]:
        found = incidents(service, scenario)
        right = [one for one in found if all(one[name] == value for name, value in wanted.items())]
        return found if len(right) == count else []

    result: list[dict[str, Any]] = until(there, f"{count} incidents of {scenario} with {wanted}", seconds=60)
    return result


def failed(server: Alertmanager) -> float:
    """How many notifications of webhooks it has given up."""
    return counted(server, "alertmanager_notifications_failed_total")


def refusals(server: Alertmanager) -> float:
    """How many requests of webhooks were answered with an error, or not at all."""
    return counted(server, "alertmanager_notification_requests_failed_total")


def counted(server: Alertmanager, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    counts = re.findall(rf'^{name}\{{.*?integration="webhook".*?\}} (\S+)$', text, re.M)
    assert counts
    return sum(map(float, counts))


# ---------------------------------------------------------------- Alertmanager


def test_an_alert_opens_an_incident_repeats_and_ends(service: Stack, alertmanager: Alertmanager) -> None:
    fire(alertmanager, "single", host("web-1"))
    (incident,) = arrived(service, "single", status="open")
    assert (incident["hostname"], incident["incident_type"], incident["severity"]) == ("web-1", "disk_full", "critical")
    assert (incident["source"], incident["evidence"]["mount"]) == ("single", "/")
    assert incident["dedup_key"] == fingerprint(incident["evidence"]["labels"]), "Alertmanager's own, and ours"
    repeated = until(lambda: [one for one in duplicates(service, "single") if one], "a repeat notification")
    assert repeated[0]["occurrences"] == 1
    fire(alertmanager, "single", host("web-1"), minutes=-0.01)
    (incident,) = arrived(service, "single", status="resolved")
    assert incident["id"] == repeated[0]["id"]
    assert failed(alertmanager) == 0


def duplicates(service: Stack, scenario: str) -> Iterator[dict[str, Any]]:
    """The incidents of a scenario that were told of again."""
    for one in incidents(service, scenario):
        if any(alert["outcome"] == "duplicate" for alert in one["alerts"]):
            yield one


def test_a_group_is_one_incident_for_each_alert_and_each_ends_by_itself(
    service: Stack, alertmanager: Alertmanager
) -> None:
    fire(alertmanager, "grouped", host("a"), host("b"), host("c"))
    arrived(service, "grouped", 3, status="open")
    fire(alertmanager, "grouped", host("b"), minutes=-0.01)
    found = arrived(service, "grouped", 1, status="resolved")
    assert {one["hostname"]: one["status"] for one in found} == {"a": "open", "b": "resolved", "c": "open"}
    assert failed(alertmanager) == 0


def test_an_alert_that_fires_again_is_a_new_incident_linked_to_the_last(
    service: Stack, alertmanager: Alertmanager
) -> None:
    fire(alertmanager, "refired", host("web-1"))
    arrived(service, "refired", status="open")
    fire(alertmanager, "refired", host("web-1"), minutes=-0.01)
    arrived(service, "refired", status="resolved")
    fire(alertmanager, "refired", host("web-1") | {"startsAt": datetime.now(UTC).isoformat()})
    first, second = arrived(service, "refired", status="open")
    assert second["previous_incident_id"] == first["id"]
    assert second["still_firing"] is False
    assert failed(alertmanager) == 0


def test_what_max_alerts_cuts_is_shown(service: Stack, alertmanager: Alertmanager) -> None:
    # Just now: of a group with an alert that is older than group_wait it sends what it has at once, be it four of five.
    started = {"startsAt": datetime.now(UTC).isoformat()}
    fire(alertmanager, "truncated", *(host(f"host-{number}") | started for number in range(5)))
    found = arrived(service, "truncated", 2, status="open")
    assert {one["evidence"]["truncated_alerts"] for one in found} == {3}
    delivery = service.get(f"/deliveries/{found[0]['alerts'][0]['delivery_id']}")
    assert delivery["message"] == "3 more alerts were left out by the sender (max_alerts)."


def test_unicode_and_large_annotations_arrive_as_they_are(service: Stack, alertmanager: Alertmanager) -> None:
    text = "Größe – \u2028 <script>alert(1)</script> & \U0001f525 " + "x" * 10_240
    fire(alertmanager, "unicode", host("büro-01.例え.jp") | {"annotations": {"summary": text}})
    (incident,) = arrived(service, "unicode", status="open")
    assert incident["hostname"] == "büro-01.例え.jp"
    assert incident["evidence"]["summary"] == text
    assert failed(alertmanager) == 0


def test_the_watchdog_is_a_heartbeat(service: Stack, alertmanager: Alertmanager) -> None:
    fire(alertmanager, "heartbeat", {"labels": {"alertname": "Watchdog"}})
    until(lambda: of_source(service, "single")["heartbeat_at"], "the heartbeat")
    assert of_source(service, "single")["silent"] is False
    assert incidents(service, "heartbeat") == []


def of_source(service: Stack, name: str) -> dict[str, Any]:
    return next(one for one in service.get("/sources")["items"] if one["name"] == name)


def test_every_incident_gets_its_verdict(service: Stack, alertmanager: Alertmanager) -> None:
    fire(alertmanager, "verdict", host("db-1", mountpoint="/var/log"))
    arrived(service, "verdict", status="open")
    found = until(
        lambda: [one for one in incidents(service, "verdict") if one["verdict"]], "the verdict of a native alert"
    )
    assert found[0]["verdict"]["recipe"]


def test_with_the_database_stopped_during_the_flush_the_alert_arrives_after_it_is_back(
    service: Stack, database: PostgresServer, alertmanager: Alertmanager
) -> None:
    before, refused = failed(alertmanager), refusals(alertmanager)
    database.stop()
    try:
        fire(alertmanager, "outage", host("web-1"), host("web-2"))
        until(lambda: refusals(alertmanager) >= refused + 2, "it was refused, and again")
    finally:
        database.start()
    found = arrived(service, "outage", 2, status="open")
    assert {one["occurrences"] for one in found} == {1}
    assert failed(alertmanager) >= before


@pytest.fixture
def pair(service: Stack) -> Iterator[tuple[Alertmanager, Alertmanager]]:
    """Two that know each other and share one source."""
    source = add_source(service, "pair")
    config = CONFIG.format(url=source["url"].replace("8000", str(service.port)), token=source["token"])
    with ExitStack() as stack:
        first = stack.enter_context(running(lambda folder: Alertmanager(folder, config, ())))
        second = stack.enter_context(running(lambda folder: Alertmanager(folder, config, (first.cluster_port,))))
        until(lambda: all(map(settled, (first, second))), "both have found each other", seconds=60)
        yield first, second


def settled(server: Alertmanager) -> bool:
    """Whether it knows of the other one and has begun to notify."""
    cluster = requests.get(f"{server.url}/api/v2/status", timeout=10).json()["cluster"]
    return cluster["status"] == "ready" and len(cluster["peers"]) == 2


def test_two_alertmanagers_of_a_cluster_are_one_incident(
    service: Stack, pair: tuple[Alertmanager, Alertmanager]
) -> None:
    for server in pair:
        fire(server, "cluster", host("web-1"))
    arrived(service, "cluster", status="open")
    until(lambda: list(duplicates(service, "cluster")), "the second notification")
    (incident,) = incidents(service, "cluster")
    assert incident["occurrences"] == 1
    for server in pair:
        fire(server, "cluster", host("web-1"), minutes=-0.01)
    (incident,) = arrived(service, "cluster", status="resolved")
    assert sum(map(failed, pair)) == 0


# ---------------------------------------------------------------- Prometheus straight to us


def test_a_prometheus_without_an_alertmanager_posts_straight_to_us(service: Stack) -> None:
    source = add_source(service, "prometheus")
    config = PROMETHEUS.format(token=source["token"], port=service.port)
    with running(lambda folder: Prometheus(folder, config, RULES.format(percent=97))) as prometheus:
        until(lambda: of_source(service, "prometheus")["outcomes"]["duplicate"] >= 2, "its repetitions", seconds=60)
        (incident,) = [one for one in service.incidents() if one["source"] == "prometheus"]
        assert (incident["hostname"], incident["incident_type"], incident["status"]) == ("db-1", "disk_full", "open")
        assert incident["occurrences"] == 1
        assert of_source(service, "prometheus")["silent"] is False
        prometheus.follow(RULES.format(percent=12))
        ended = until(
            lambda: [one for one in service.incidents(status="resolved") if one["source"] == "prometheus"],
            "its end",
            60,
        )
    assert [one["id"] for one in ended] == [incident["id"]]
    assert service.get(f"/incidents/{incident['id']}")["evidence"]["labels"]["cluster"] == "eu"


def readme() -> list[str]:
    """The YAML of the README: receivers, route, Prometheus, rules."""
    text = (Path(__file__).parent.parent / "adapters/alertmanager/README.md").read_text()
    found: list[str] = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.M | re.S)
    return found


def test_the_rules_of_the_readme_are_ones_that_prometheus_takes_and_say_the_same_without_their_label(
    tmp_path: Path,
) -> None:
    _, _, _, rules = readme()
    found = yaml.safe_load(rules)["groups"][0]["rules"]
    said = {rule["alert"]: rule["labels"]["incident_type"] for rule in found}
    assert list(said) == ["DiskFull", "HighCPU", "HighMemory", "ServiceDown", "PortDown"]
    assert {name: str(incident_type_of(name)) for name in said} == said
    assert {str(incident_type_of("Other", rule["expr"])) for rule in found} == set(said.values())
    promtool = shutil.which("promtool") or missing("promtool", "on Debian and Ubuntu: apt-get install prometheus")
    file = tmp_path / "rules.yml"
    file.write_text(rules)
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 rules found" in done.stdout


def test_the_configuration_of_the_readme_is_one_that_alertmanager_takes() -> None:
    receivers, route, _, _ = readme()
    config = "\n".join(line.removeprefix("   ") for line in (receivers + route).splitlines())
    config = config.replace("credentials_file: /etc/alertmanager/openremedy.token", "credentials: x")
    with running(lambda folder: Alertmanager(folder, config)) as server:
        assert "openremedy" in requests.get(f"{server.url}/api/v2/receivers", timeout=10).text
