"""What kind of thing broke, by the name, the metric and the text; and our opinion beside the sender's."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from openremedy.adapter import Translated, read
from openremedy.alerts import IncidentType, Severity
from openremedy.incident_type import MAX_READ, incident_type_of, other_opinion, type_in
from openremedy.registry import discover, type_and_severity

CPU, MEMORY, DISK = IncidentType.CPU_HIGH, IncidentType.MEMORY_HIGH, IncidentType.DISK_FULL
DOWN, PORT, CUSTOM = IncidentType.SERVICE_DOWN, IncidentType.PORT_UNAVAILABLE, IncidentType.CUSTOM
NO_MEMORY = "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.05"
FULL = ("The disk of this host is almost full.",)


# ---------------------------------------------------------------- precedence


@pytest.mark.parametrize(
    ("name", "expression", "texts", "incident_type"),
    [
        ("ShopCpuHigh", NO_MEMORY, FULL, CPU),
        ("ShopTrouble", NO_MEMORY, FULL, MEMORY),
        ("ShopTrouble", "shop_orders_total < 5", FULL, DISK),
        ("ShopTrouble", "shop_orders_total < 5", ("Orders are few.",), CUSTOM),
        # Summary before description, one sentence before the next.
        ("ShopTrouble", "", ("CPU usage is above 90%", *FULL), CPU),
        ("ShopTrouble", "", ("Memory usage is above 90%. CPU usage is above 90%.",), MEMORY),
    ],
)
def test_the_name_decides_before_the_metric_and_the_metric_before_the_text(
    name: str, expression: str, texts: tuple[str, ...], incident_type: IncidentType
) -> None:
    assert incident_type_of(name, expression, texts) is incident_type


@pytest.mark.parametrize(
    "name",
    [
        "ShopLatencyHigh",
        "ShopCertificateExpiresSoon CertExpiry",
        "OrderQueueBacklog",
        "DiskReadLatency",
        "ShopJobFailed",
    ],
)
def test_a_name_that_is_about_something_else_is_custom_whatever_the_metric_and_the_text_say(name: str) -> None:
    assert incident_type_of(name, NO_MEMORY, FULL) is CUSTOM


def test_of_what_a_name_speaks_the_cause_comes_before_what_is_down_because_of_it() -> None:
    assert incident_type_of("Shop crashed, disk full") is DISK
    assert incident_type_of("Shop down, out of memory") is MEMORY
    assert incident_type_of("Shop restarted, CPU load") is CPU
    assert incident_type_of("Shop port closed, service down") is PORT


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "incident_type"),
    [
        *[("diskspace shop", DISK), ("diskfull on shop", DISK), ("ShopDiskPressure", DISK), ("NoSpaceLeft", DISK)],
        *[("cpuload shop", CPU), ("memusage shop", MEMORY), ("HeapSpaceLow", MEMORY)],
        *[("ShopLowMemory", MEMORY), ("ShopLowMemoryUtilization", CUSTOM), ("ShopLowCpuUsage", CUSTOM)],
        *[("MemoryEccErrors", CUSTOM), ("CpuTemperature", CUSTOM), ("ShopReadinessProbeFailed", CUSTOM)],
        *[("ShopNotResponding", DOWN), ("ShopClusterRed", DOWN), ("ShopClusterYellow", CUSTOM), ("PodFailed", DOWN)],
    ],
)
def test_a_name_is_read_as_the_words_in_it(name: str, incident_type: IncidentType) -> None:
    assert incident_type_of(name) is incident_type


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("expression", "incident_type"),
    [
        *[('shop_up{zone="a"} < 1', DOWN), ("(up) == 0", DOWN), ("up == 0.5", CUSTOM), ("shop_backup == 0", CUSTOM)],
        *[("shop_filesystem_used_percent > 90", DISK), ("shop_disk_read_bytes_free", CUSTOM)],
        *[("shop.heap.used", MEMORY), ("shop_memory_limit_bytes_used", CUSTOM), ("container_cpu_usage_seconds", CPU)],
        # What is in labels is not what is measured.
        *[('shop_orders{kind="memory_used"}', CUSTOM), ("shop_orders{a='cpu_usage'} < 1", CUSTOM)],
    ],
)
def test_a_metric_is_read_as_the_words_in_it_without_its_labels(expression: str, incident_type: IncidentType) -> None:
    assert incident_type_of("Shop", expression) is incident_type


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "incident_type"),
    [
        *[("The volume /data is full.", DISK), ("Frequent collections, memory", CUSTOM), ("Heap usage is 97%", MEMORY)],
        *[("Swap is used up", MEMORY), ("Load average is 40", CPU), ("Port 8443 refused the connection", PORT)],
        *[("The shop is down", DOWN), ("The shop isn't responding", DOWN), ("The shop cannot be reached", DOWN)],
        # One statement is not made of two, a fear is no fact, and a metric is no service.
        *[("The shop is running, its cart did not load", CUSTOM), ("Some nodes may be down soon", CUSTOM)],
        *[("The metric shop_orders has disappeared", CUSTOM), ("The disk is slow. The table is full.", CUSTOM)],
    ],
)
def test_a_sentence_needs_more_than_the_word(text: str, incident_type: IncidentType) -> None:
    assert incident_type_of("Shop", "", (text,)) is incident_type


def test_only_the_beginning_of_a_text_is_read() -> None:
    assert incident_type_of("Shop", "", ("x" * MAX_READ + " The disk is full",)) is CUSTOM


# ---------------------------------------------------------------- alerts of any shape


def test_an_alert_of_any_shape_is_read_by_the_names_of_its_keys() -> None:
    assert type_in({"Message": {"AlarmName": "Shop", "MetricName": "MemoryUsed"}}) is MEMORY
    assert type_in({"problem": [{"summary": "The disk is full"}]}) is DISK
    assert type_in({"cpu": {"usage": "high"}, "note": "CPU usage is high", "title": 7}) is CUSTOM


def test_a_payload_is_told_by_its_own_adapter_as_a_body_or_as_an_alert_of_one() -> None:
    found = discover()
    alert = {"labels": {"alertname": "ShopHeapHigh", "severity": "page"}, "status": "firing"}
    assert type_and_severity(found, "alertmanager", alert) == (MEMORY, Severity.CRITICAL)
    assert type_and_severity(found, "alertmanager", {"alerts": [alert]}) == (MEMORY, Severity.CRITICAL)
    event = {"title": "[P2] Shop", "alert_query": "avg(last_5m):avg:shop.orders{*} < 1", "body": "@all"}
    assert type_and_severity(found, "datadog", event) == (CUSTOM, Severity.HIGH)
    assert type_and_severity(found, "datadog", event | {"body": "The disk is full"}) == (DISK, Severity.HIGH)
    watchdog = {"labels": {"alertname": "Watchdog"}}
    assert type_and_severity(found, "alertmanager", watchdog) == (CUSTOM, None)
    assert type_and_severity(found, "of_nobody", {"title": "Shop is down"}) == (DOWN, Severity.MEDIUM)
    assert type_and_severity(found, "datadog", {"policy": {"condition_name": "CPU usage"}}) == (CPU, Severity.MEDIUM)


# ---------------------------------------------------------------- the sender's type, and ours beside it


@pytest.mark.parametrize(
    ("said", "evidence", "opinion"),
    [
        (CPU, {"title": "Out of memory"}, MEMORY),
        (CPU, {"description": "The memory usage is above 90%"}, MEMORY),
        (CUSTOM, {"alertname": "ShopDown"}, DOWN),
        # The same, nothing to say, something else, or no more than a number.
        (MEMORY, {"title": "Out of memory"}, None),
        (CPU, {"title": "Orders are few"}, None),
        (CPU, {"title": "Certificate expired", "summary": "The disk is full"}, None),
        (CPU, {"memory_percent": 99, "memory": {"used": "99%"}}, None),
        (CPU, {}, None),
        # It speaks of the sender's type too, or of what is nearly the same.
        (CPU, {"title": "CPU and memory are high"}, None),
        (CPU, {"title": "Out of memory", "message": "The CPU usage is high too"}, None),
        (PORT, {"title": "Shop is down"}, None),
        (DOWN, {"title": "Port closed"}, None),
    ],
)
def test_our_opinion_is_told_where_it_clearly_differs_from_the_senders(
    said: IncidentType, evidence: dict[str, Any], opinion: IncidentType | None
) -> None:
    assert other_opinion(said, evidence, by_sender=True) is opinion


@pytest.mark.parametrize(
    "evidence",
    [
        {"labels": {"incident_type": "cpu_high"}},
        {"tags": ["team:shop", "incident_type:cpu_high"]},
        {"details": {"custom.Incident_Type": "CPU_high"}},
        {"incident_type": "cpu_high"},
    ],
)
def test_of_a_native_alert_there_is_a_second_opinion_only_where_its_sender_had_one(evidence: dict[str, Any]) -> None:
    title = {"title": "Out of memory"}
    assert other_opinion(CPU, evidence | title, by_sender=False) is MEMORY
    assert other_opinion(DISK, evidence | title, by_sender=False) is None
    assert other_opinion(CPU, {"note": "incident_type"} | title, by_sender=False) is None


@pytest.mark.parametrize(
    ("tool", "said", "body"),
    [
        (
            "alertmanager",
            {"labels": {"incident_type": "cpu_high"}},
            lambda said: {"alerts": [{"annotations": {"summary": "Heap usage is 97%"}} | said]},
        ),
        (
            "grafana",
            {"annotations": {"summary": "Heap usage is 97%", "Incident_Type": "cpu_high"}},
            lambda said: {"alerts": [{"annotations": {"summary": "Heap usage is 97%"}} | said]},
        ),
        ("datadog", {"incident_type": "cpu_high"}, lambda said: {"title": "Heap usage"} | said),
        ("datadog", {"tags": "incident_type:cpu_high"}, lambda said: {"title": "Heap usage"} | said),
        (
            "pagerduty",
            {"incident_type": {"name": "cpu_high"}},
            lambda said: {
                "event": {
                    "event_type": "incident.triggered",
                    "data": {"type": "incident", "id": "P1", "title": "Heap usage"} | said,
                }
            },
        ),
    ],
)
def test_what_a_native_sender_said_of_the_type_is_in_the_evidence_of_every_adapter(
    tool: str, said: dict[str, Any], body: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    shape = discover()[tool].formats[0]
    for more, told, opinion in ((said, CPU, MEMORY), ({}, MEMORY, None)):
        (one,) = read(shape, json.dumps(body(more)).encode(), "application/json", {}).translations
        assert isinstance(one, Translated)
        assert one.alert.incident_type is told
        assert other_opinion(told, one.alert.evidence, by_sender=False) is opinion


def test_evidence_of_any_depth_and_kind_has_no_opinion_and_does_no_harm() -> None:
    deep: Any = "Out of memory"
    for _ in range(40):
        deep = {"title": [deep, None, 1, True]}
    assert other_opinion(CPU, deep, by_sender=True) is None
    assert other_opinion(CPU, {"title": "<script>{{ 7 * 7 }}</script>"}, by_sender=True) is None
