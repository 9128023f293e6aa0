"""Special cases of Datadog; the contract over all adapters and the golden files are in tests/test_adapters.py."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from adapters import datadog
from adapters.datadog import NAMES, SPELLINGS, adapter
from openremedy.adapter import Alert, AlertStatus, Ignored, IncidentType, Severity, Translated, Unsupported

FOLDER = Path(__file__).parent
FIXTURES = FOLDER / "fixtures"
README = (FOLDER / "README.md").read_text("utf-8")
SHAPE = adapter.formats[0]
# https://docs.datadoghq.com/integrations/webhooks/#variables, those that the template uses.
VALUES = {
    "$ID": "8410022713345500101",
    "$EVENT_TYPE": "query_alert_monitor",
    "$EVENT_TITLE": "[P1] [Triggered on {host:web-9}] Busy",
    "$TEXT_ONLY_MSG": "Value: 97 (Threshold: 90)",
    "$DATE": "1767312000000",
    "$LAST_UPDATED": "1767312000000",
    "$HOSTNAME": "web-9",
    "$TAGS": "env:prod,host:web-9,monitor",
    "$LINK": "https://app.datadoghq.com/event/event?id=8410022713345500101",
    "$SNAPSHOT": "https://p.datadoghq.com/snapshot/view/1.png",
    "$AGGREG_KEY": "9bd4",
    "$ALERT_ID": "1234",
    "$ALERT_CYCLE_KEY": "77165",
    "$ALERT_TITLE": "Busy on host:web-9",
    "$ALERT_TRANSITION": "Triggered",
    "$ALERT_TYPE": "error",
    "$ALERT_PRIORITY": "P1",
    "$ALERT_STATUS": "system.load.1 over host:web-9 was > 90 at least once during the last 1m.",
    "$ALERT_METRIC": "system.load.1",
    "$ALERT_QUERY": "avg(last_5m):avg:system.load.1{*} by {host} > 90",
    "$ALERT_SCOPE": "host:web-9",
    "$TAGS[incident_type]": "",
    "$ORG_ID": "4471",
    "$ORG_NAME": "Shop",
}


def translated(body: dict[str, Any]) -> Any:
    payload = SHAPE.payload.load(body)
    (entry,) = SHAPE.unwrap(payload, {})
    return SHAPE.translate(entry, payload)


def alert_of(body: dict[str, Any]) -> Alert:
    found = translated(body)
    assert isinstance(found, Translated), found
    return found.alert


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))


def alert(name: str) -> Alert:
    return alert_of(fixture(name))


# ---------------------------------------------------------------- the template of the README


def template() -> dict[str, str]:
    blocks = re.findall(r"^ *```json\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = next(json.loads(block) for block in blocks if '"schema"' in block)
    return found


def test_the_template_has_every_field_that_is_read_and_documented_variables_only() -> None:
    read = {NAMES[re.sub(r"[^a-z]", "", key)] for key in template()}
    # One text is enough; the last two are for the payloads of others.
    assert read == set(SPELLINGS) - {"body", "priority", "severity"}
    assert set(template().values()) - {"openremedy.datadog/1"} == set(VALUES)


def test_the_template_with_every_variable_replaced_is_a_whole_alert() -> None:
    found = alert_of({key: VALUES.get(text, text) for key, text in template().items()})
    assert (found.hostname, found.incident_type, found.severity) == ("web-9", IncidentType.CPU_HIGH, Severity.CRITICAL)
    assert (found.status, found.dedup_key) == (AlertStatus.FIRING, "cycle:4471:1234:77165:host:web-9")
    assert (found.evidence["value"], found.evidence["threshold"]) == (97, 90)
    assert "fields" not in found.evidence


def test_the_template_with_no_variable_replaced_is_a_page_without_a_dollar() -> None:
    found = alert_of(dict(template()))
    assert (found.hostname, found.incident_type, found.severity) == ("unknown", IncidentType.CUSTOM, Severity.MEDIUM)
    assert found.status is AlertStatus.FIRING
    assert "$" not in json.dumps(dict(found.evidence)) + str(found.dedup_key)


@pytest.mark.parametrize("missing", list(VALUES))
def test_each_variable_may_stay_unreplaced(missing: str) -> None:
    found = alert_of({key: VALUES.get(text, text) if text != missing else text for key, text in template().items()})
    assert "$" not in json.dumps(dict(found.evidence)) + str(found.dedup_key)
    assert found.hostname == "web-9"


def test_every_table_of_the_code_is_in_the_readme() -> None:
    for name in (*datadog.SERVICE_TAGS, *datadog.MOUNT_TAGS, *datadog.SHOWN, *datadog.ALERT_TYPES):
        assert f"`{name}`" in README, name


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "style",
    [
        *("template", "default", "default_one_group", "default_old_links", "default_title_only"),
        *("foreign_keep", "foreign_upper_case", "foreign_nested", "key_aggregate"),
    ],
)
def test_an_alert_and_its_recovery_are_one_incident(style: str) -> None:
    fired, ended = alert(f"{style}_triggered"), alert(f"{style}_recovered")
    assert (fired.status, ended.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert fired.dedup_key == ended.dedup_key
    assert fired.occurred_at
    assert ended.occurred_at
    assert fired.occurred_at < ended.occurred_at


@pytest.mark.parametrize("name", "retriggered renotify warn no_data re_no_data recovered".split())
def test_every_transition_of_a_cycle_is_of_the_same_incident_and_says_something_new(name: str) -> None:
    first, later = alert("template_triggered"), alert(f"template_{name}")
    assert first.dedup_key == later.dedup_key
    assert first.digest() != later.digest()


def test_the_monitors_of_an_organisation_are_never_one_incident() -> None:
    names = [
        *("default_triggered", "default_one_group_triggered", "default_another_monitor_triggered"),
        *("default_title_only_triggered", "default_title_only_other_team", "default_group_in_link_only"),
        *("default_old_links_triggered", "default_message_only", "key_event_id", "key_link_in_plain_text"),
    ]
    assert len({alert(name).dedup_key for name in names}) == len(names)


@pytest.mark.parametrize("field", ["alert_id", "alert_scope", "org_id", "alert_cycle_key"])
def test_another_monitor_scope_organisation_or_cycle_is_another_incident(field: str) -> None:
    body = fixture("template_triggered")
    assert alert_of(body | {field: "another"}).dedup_key != alert_of(body).dedup_key


def test_the_order_of_a_scope_does_not_matter() -> None:
    body = fixture("key_scope_in_another_order")
    assert alert_of(body | {"alert_scope": "env:prod, host:cart-1"}).dedup_key == alert_of(body).dedup_key


def test_a_link_of_a_person_does_not_name_the_monitor() -> None:
    other = "[like that one](https://app.datadoghq.com/monitors/5550001?group=host%3Amail-1)"
    body = fixture("default_one_group_triggered")
    assert alert_of(body | {"body": other + body["body"]}).dedup_key == alert_of(body).dedup_key


# ---------------------------------------------------------------- what is no alert


@pytest.mark.parametrize(
    "title", ["[TEST] Disk", "[P1] [Recovered on {host:a}] [TEST] Disk", "[TEST] [P2] [Triggered] Disk"]
)
def test_a_test_notification_opens_nothing(title: str) -> None:
    for key in ("title", "alert_title", "EVENT_TITLE"):
        assert isinstance(translated({key: title, "id": "1"}), Ignored)


def test_the_word_test_alone_is_no_test() -> None:
    assert alert_of({"title": "[Triggered] Load test of [TESTING]"}).evidence["monitor"] == "Load test of [TESTING]"


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"a": 1}, {"title": None}, {"title": "$EVENT_TITLE", "body": "null"}, {"title": {"a": 1}}),
        *({"hostname": "web-1", "incident_type": "disk_full"}, {"schema": 1}, {"org": {"id": "1"}}),
    ],
)
def test_a_body_without_anything_of_datadog_is_refused_with_advice(body: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="payload"):
        translated(body)


@pytest.mark.parametrize(
    "key", "ID Title alert-title message EVENT_MSG EventType AlertId transition alert_query aggregKey".split()
)
def test_one_thing_of_datadog_is_enough(key: str) -> None:
    assert alert_of({key: "something"}).status is AlertStatus.FIRING


# ---------------------------------------------------------------- words for nothing


@pytest.mark.parametrize(
    "nothing",
    [None, "", "  ", "null", "NULL", "None", "n/a", "N/A", "$HOSTNAME", "$TAGS[host]", "$TAGS[]", "$A1_B", " $X "],
)
def test_a_value_that_stands_for_none_is_absent(nothing: Any) -> None:
    found = alert_of(
        {"title": "[Triggered on {host:a-1}] Disk", "hostname": nothing, "tags": [nothing], "own": nothing}
    )
    assert (found.hostname, found.evidence["hostname_source"]) == ("a-1", "title")
    assert not {"tags", "fields"} & set(found.evidence)


@pytest.mark.parametrize(
    "something", ["nullable", "$5", "$lower", "costs $HOSTNAME", "$HOSTNAME.example.com", "none-1"]
)
def test_a_value_that_only_looks_like_it_is_kept(something: str) -> None:
    assert alert_of({"title": "Disk", "hostname": something}).hostname == something


def test_the_first_value_under_a_name_counts_and_no_other_is_lost() -> None:
    found = alert_of({"title": "$EVENT_TITLE", "EVENT_TITLE": "Disk", "event-title": "Other"})
    assert found.evidence["title"] == "Disk"
    assert found.evidence["fields"] == {"event-title": "Other"}


def test_what_stands_in_an_object_is_found_under_its_long_and_its_short_name() -> None:
    for body in ({"alert": {"id": "7", "scope": "host:a"}}, {"alert": {"alert_id": "7", "alert_scope": "host:a"}}):
        found = alert_of(body | {"org": {"id": 5, "plan": "x"}})
        assert (found.dedup_key, found.hostname) == ("monitor:5:7:host:a", "a")
        assert found.evidence["fields"] == {"org.plan": "x"}


def test_a_flat_form_is_read_and_a_refusal_for_load_is_a_5xx() -> None:
    assert SHAPE.form
    assert not adapter.retries_429  # Datadog drops what it got a 4xx for


# ---------------------------------------------------------------- severity, type, host: the order of the fall-backs


def test_severity_falls_back_in_its_order() -> None:
    body: dict[str, Any] = {
        "alert_priority": "P1",
        "title": "[P2] [Triggered] Disk",
        "severity": "low",
        "tags": "severity:info",
        "alert_type": "warning",
    }
    found = []
    for key in list(body):
        found.append(alert_of({"id": "1"} | body).severity)
        del body[key]
    assert found == [Severity.CRITICAL, Severity.HIGH, Severity.LOW, Severity.INFO, Severity.MEDIUM]
    assert alert_of({"id": "1"}).severity is Severity.MEDIUM


@pytest.mark.parametrize("priority", ["normal", "low", "P0", "P6", "P12", "1"])
def test_what_is_no_priority_of_a_monitor_is_not_taken_for_one(priority: str) -> None:
    for key in ("priority", "alert_priority"):
        assert alert_of({"title": "Disk", key: priority, "alert_type": "error"}).severity is Severity.HIGH


def test_a_warning_is_one_step_lower_by_its_title_too() -> None:
    assert alert_of({"title": "[P1] [Re-Warn on {host:a}] Disk"}).severity is Severity.HIGH
    assert alert_of({"title": "[P5] [Warn] Disk"}).severity is Severity.INFO


def test_the_host_falls_back_in_its_order() -> None:
    body = {
        "hostname": "a-1",
        "scope": "env:prod, host:b-1",
        "title": "[Triggered on {host:c-1}] Disk",
        "tags": "host:d-1,service:shop",
        "body": "[Monitor Status](https://app.datadoghq.eu/monitors/7?group=service%3Abasket%2Chost%3Ae-1)",
        "id": "1",
    }
    found = []
    for key in list(body):
        one = alert_of(body)
        found.append((one.hostname, one.evidence["hostname_source"]))
        body = (
            body | {key: "host:*,Host,:x"}
            if key == "tags"
            else {k: v for k, v in body.items() if k != key} | {"id": "1"}
        )
    assert found == [
        *(
            ("a-1", "hostname"),
            ("b-1", "scope"),
            ("c-1", "title"),
            ("d-1", "tags"),
            ("e-1", "link"),
            ("unknown", "none"),
        ),
    ]
    assert alert_of({"title": "Disk", "tags": "host:*,service:shop"}).hostname == "service:shop"


def test_no_data_of_a_metric_is_never_the_trouble_that_the_metric_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datadog, "incident_type_of", lambda *_: IncidentType.CPU_HIGH)
    for metric in ("system.cpu.user", "system.disk.in_use", "aws.ec2.cpuutilization", "own.metric", ""):
        for transition in ("No Data", "Re-No Data"):
            found = alert_of({"title": "CPU is high", "metric": metric, "transition": transition})
            assert (found.incident_type, found.evidence["no_data"]) == (IncidentType.CUSTOM, True)
    assert alert_of({"title": "CPU is high", "metric": "own.metric"}).incident_type is IncidentType.CPU_HIGH


def test_the_type_is_told_by_a_known_metric_then_by_the_title_then_by_the_query_then_by_the_message() -> None:
    event = {"title": "Shop is down", "metric": "shop.orders", "message": "The disk is full"}
    assert alert_of(event | {"metric": "system.mem.pct_usable"}).incident_type is IncidentType.MEMORY_HIGH
    assert alert_of(event).incident_type is IncidentType.SERVICE_DOWN
    query = "avg(last_5m):avg:shop.orders{*} / avg:shop.heap.used{*} > 1"
    assert alert_of(event | {"title": "Shop", "query": query}).incident_type is IncidentType.MEMORY_HIGH
    assert alert_of(event | {"title": "Shop"}).incident_type is IncidentType.DISK_FULL


def test_what_a_container_asks_for_is_not_what_it_uses() -> None:
    for name in ("kubernetes.cpu.requests", "kubernetes.memory.limits"):
        assert alert_of({"title": "Shop", "metric": name}).incident_type is IncidentType.CUSTOM


@pytest.mark.parametrize("name", ["read_time", "read_time_pct", "write_time", "write_time_pct", "total"])
def test_a_busy_disk_is_not_a_full_one(name: str) -> None:
    assert alert_of({"title": "Disk is full", "metric": f"system.disk.{name}"}).incident_type is IncidentType.CUSTOM


def test_a_service_check_is_not_taken_for_a_metric_that_the_text_names() -> None:
    text = {
        "title": "x",
        "alert_status": "system.disk.in_use over host:a was > 0.9",
        "query": '"tcp.can_connect".over("*")',
    }
    found = alert_of(text)
    assert (found.incident_type, found.evidence["check"]) == (IncidentType.PORT_UNAVAILABLE, "tcp.can_connect")
    assert "metric" not in found.evidence


# ---------------------------------------------------------------- status and time


@pytest.mark.parametrize(
    ("transition", "status"),
    [
        *(("Triggered", "firing"), ("Re-Triggered", "firing"), ("Warn", "firing"), ("Re-Warn", "firing")),
        *(("No Data", "firing"), ("Re-No Data", "firing"), ("Renotify", "firing"), ("Something new", "firing")),
        *(("Recovered", "resolved"), ("recovered", "resolved"), ("Warn Recovered", "resolved")),
    ],
)
def test_a_transition_decides_and_else_the_title_does(transition: str, status: str) -> None:
    other = "Triggered" if status == "resolved" else "Recovered"
    for kind in ("success", "error", ""):
        said = {"alert_transition": transition, "title": f"[{other}] Disk", "alert_type": kind}
        assert alert_of(said).status == status
        for title in (f"[P1] [{transition} on {{host:a}}] Disk", f"[{transition} on {{a:b[0],c:d}}] [TESTS] Disk"):
            assert alert_of({"title": title, "alert_type": kind}).status == status


def test_without_any_transition_only_success_ends() -> None:
    assert alert_of({"title": "Backup", "alert_type": "success"}).status is AlertStatus.RESOLVED
    for kind in ("error", "warning", "info", "user_update", ""):
        assert alert_of({"title": "[Recovery plan] Backup Recovered", "alert_type": kind}).status is AlertStatus.FIRING


def test_a_retry_says_the_same_and_a_later_notification_does_not() -> None:
    body = fixture("template_renotify")
    assert alert_of(body).digest() == alert_of(dict(body)).digest()
    later = {"id": "2", "date": "1767319200000", "last_updated": "1767319200000"}
    first, second = alert_of(body).occurred_at, alert_of(body | later).occurred_at
    assert first
    assert second
    assert second > first


# ---------------------------------------------------------------- what is in the evidence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("Value: 93.002 (Threshold: 90.0)", 93.002), ("Metric value: 97", 97), ("value: **-4.5**", -4.5)),
        *(("Value: 1e3", 1000.0), ("Value: 1,234", None), ("Value: high", None), ("Value: " + "9" * 40, None)),
        *(("values: 3", None), ("Value: 0.0", 0.0)),
    ],
)
def test_a_value_in_the_message_is_a_number(text: str, value: float | None) -> None:
    assert alert_of({"title": "Disk", "message": text}).evidence.get("value") == value


def test_a_service_check_names_its_service() -> None:
    def service(check: str, tags: str) -> Any:
        return alert_of({"title": "x", "query": f'"{check}".over("*")', "tags": tags}).evidence.get("service_name")

    assert service("process.up", "process:nginx,service:web") == "nginx"
    assert service("systemd.unit.active_state", "unit:redis.service") == "redis.service"
    assert service("mysql.can_connect", "service:orders") == "mysql"
    assert service("datadog.agent.up", "service:orders") == "datadog-agent"
    assert service("process.up", "service:orders") == "orders"
    assert service("process.up", "") is None


def test_a_device_is_a_mount_only_where_the_agent_says_so() -> None:
    def disk(tags: str) -> tuple[Any, Any]:
        evidence = alert_of({"title": "x", "metric": "system.disk.used", "tags": tags}).evidence
        return evidence.get("mount"), evidence.get("device")

    assert disk("device:/dev/sda1") == (None, "/dev/sda1")
    assert disk("device:tmpfs") == (None, "tmpfs")
    assert disk("device:/var/lib/docker") == ("/var/lib/docker", None)
    assert disk("device:/dev/sda1,mount_point:/srv") == ("/srv", "/dev/sda1")


def test_the_name_of_a_monitor_is_the_same_for_every_host_and_transition() -> None:
    titles = [
        "[P2] [Triggered on {host:a}] Disk",
        "[Recovered on {host:b,x:[1]}] [P1] Disk",
        " [No Data]  Disk ",
        "Disk",
    ]
    assert {alert_of({"title": title}).evidence["monitor"] for title in titles} == {"Disk"}


# ---------------------------------------------------------------- hostile text

SEEDS = (
    *("[", "[P1] ", "[Triggered on {", "[x on {", "{", "on {", "**a.", "**a.b** ove", "a.b ", "a:b,", ",", " ", "\n"),
    *("](", "](/monitors/1", "](x/monitors#1?group=a&", "&", "%", '"a.', ':a.b"', ":a", "value: ", "value: 1", "1,"),
    *("was > 1", "<", "> 1 ", "$A", "$A[", "\x00", "\ud800", "\u0130", "%%%", "1.", "null "),
)


PLACES = "title message body query alert_status tags scope date severity own".split()


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_text_of_any_length_is_read_in_no_time(seed: str) -> None:
    text = (seed * (256 * 1024 // len(seed)))[: 256 * 1024]
    before = time.perf_counter()
    for hostile in (text, "x" + text + "x"):
        assert isinstance(translated(dict.fromkeys(PLACES, hostile) | {"id": "1", hostile: 1}), Translated)
    # Some 5 MB of text in all; reading that is quadratic takes minutes.
    assert time.perf_counter() - before < 5
