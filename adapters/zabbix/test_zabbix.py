"""Special cases of Zabbix; the contract and the golden files are in tests/test_adapters.py, and the script of the media
type runs in tests/test_zabbix.py.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.zabbix import NAMES, SPELLINGS, adapter
from openremedy.adapter import Alert, AlertStatus, Ignored, IncidentType, Translated, Translation, Unsupported, read

FOLDER = Path(__file__).parent
FILE = (FOLDER / "media_openremedy.yaml").read_text("utf-8")
EXPORT = yaml.safe_load(FILE)["zabbix_export"]
(MEDIA,) = EXPORT["media_types"]
SHAPE = adapter.formats[0]
# What Zabbix 6.0 takes in a media type that is a webhook: the keys and, where it has a list of them, the values.
# https://www.zabbix.com/documentation/6.0/en/manual/xml_export_import/media
SCHEMA: dict[str, str] = {
    "name": r"\S.*",
    "type": "WEBHOOK",
    "timeout": r"(?:[1-9]|[1-5][0-9]|60)s",
    "process_tags": "YES",
    "show_event_menu": "YES",
    "event_menu_url": r"\{EVENT\.TAGS\.__openremedy_link\}",
    "event_menu_name": "OpenRemedy",
    "script": r"(?s).+",
    "description": r"(?s).+",
}
CREDENTIALS = {"url", "token", "http_proxy"}
OPERATIONS = {
    *(("TRIGGERS", mode) for mode in ("PROBLEM", "RECOVERY", "UPDATE")),
    *(("SERVICE", mode) for mode in ("PROBLEM", "RECOVERY", "UPDATE")),
    *(("INTERNAL", mode) for mode in ("PROBLEM", "RECOVERY")),
    ("DISCOVERY", "PROBLEM"),
    ("AUTOREGISTRATION", "PROBLEM"),
}


def fixture(name: str) -> Any:
    return json.loads((FOLDER / f"fixtures/{name}.json").read_text("utf-8"))


def translated(body: Any) -> Translation:
    (one,) = read(SHAPE, json.dumps(body).encode(), "application/json", {}).translations
    return one


def alert_of(body: Any) -> Alert:
    found = translated(body)
    assert isinstance(found, Translated), found
    return found.alert


def problem(**changes: Any) -> Any:
    return fixture("v6_problem") | changes


# ---------------------------------------------------------------- the file


def test_the_file_is_an_export_as_zabbix_6_0_takes_it() -> None:
    assert set(EXPORT) == {"version", "date", "media_types"}
    assert EXPORT["version"] == "6.0"
    assert set(MEDIA) == {*SCHEMA, "parameters", "message_templates"}
    for key, shape in SCHEMA.items():
        assert re.fullmatch(shape, MEDIA[key]), key
    for one in MEDIA["parameters"]:
        assert set(one) == {"name", "value"}
        assert isinstance(one["value"], str)
        assert len(one["name"]) <= 255
        assert len(one["value"]) <= 2048
    names = [one["name"] for one in MEDIA["parameters"]]
    assert len(names) == len(set(names))


def test_there_is_a_message_for_every_operation_of_every_kind_of_event() -> None:
    for one in MEDIA["message_templates"]:
        assert set(one) == {"event_source", "operation_mode", "subject", "message"}
        assert one["subject"].strip()
        assert one["message"].strip()
    assert sorted((one["event_source"], one["operation_mode"]) for one in MEDIA["message_templates"]) == sorted(
        OPERATIONS
    )


def test_every_parameter_is_read_and_whatever_is_read_of_ours_is_a_parameter() -> None:
    parameters = {one["name"] for one in MEDIA["parameters"]}
    assert set(re.findall(r"\bparams\.([a-z_]+)", MEDIA["script"])) <= parameters
    # The script adds two; the status in words is for the media types of others.
    assert parameters - CREDENTIALS == set(SPELLINGS) - {"schema", "sent_at", "event_status"}
    assert {name: NAMES[re.sub(r"[^a-z]", "", name)] for name in parameters - CREDENTIALS} == {
        name: name for name in parameters - CREDENTIALS
    }


def test_every_parameter_is_a_macro_so_that_importing_again_costs_nobody_anything() -> None:
    for one in MEDIA["parameters"]:
        assert re.fullmatch(r"(?:\{\$?[A-Z.]+\} ?)*", one["value"]), one


def test_the_script_escapes_nothing_by_hand_and_logs_no_credential() -> None:
    script = MEDIA["script"]
    assert "request.post(url, JSON.stringify(body))" in script
    assert all("token" not in line and "url" not in line for line in script.splitlines() if "Zabbix.log" in line)
    assert not re.search(r"=>|\b(?:let|const|class|async)\b|`", script)  # ECMAScript 5 is all that Zabbix runs


def test_the_readme_and_the_page_show_the_file_itself() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block == FILE
    assert FILE in [step.snippet for step in adapter.setup]


# ---------------------------------------------------------------- macros


@pytest.mark.parametrize(
    "text", ["", " ", "{EVENT.ID}", "*UNKNOWN*", "{$A.B}", '{$A:"c d"}', "{EVENT.DATE} {EVENT.TIME}", "{HOST.NAME1}"]
)
def test_a_macro_without_a_value_is_not_there(text: str) -> None:
    found = alert_of(problem(host=text, host_name="Orders", trigger_url=text))
    assert found.hostname == "Orders"
    assert "trigger_url" not in found.evidence


@pytest.mark.parametrize("text", ["{a}", "x {HOST.NAME}", '{"A": 1}', "*UNKNOWN*?", "{}"])
def test_text_that_only_looks_like_one_stays(text: str) -> None:
    assert alert_of(problem(event_name=text)).evidence["title"] == text


def test_only_a_message_whose_event_was_not_resolved_is_a_test() -> None:
    assert isinstance(translated(problem(event_id="{EVENT.ID}")), Ignored)
    absent: tuple[Any, ...] = ("", "*UNKNOWN*", None, {})
    for odd in absent:
        assert isinstance(translated(problem(event_id=odd)), Translated)


# ---------------------------------------------------------------- what people do


@pytest.mark.parametrize(
    ("action", "value", "status"),
    [
        ("acknowledged", "1", AlertStatus.ACKNOWLEDGED),
        ("commented and acknowledged", "1", AlertStatus.ACKNOWLEDGED),
        ("unacknowledged", "1", AlertStatus.UPDATE),
        ("changed severity from Not classified to High", "1", AlertStatus.UPDATE),
        ("acknowledged, commented and changed severity from Average to High", "1", AlertStatus.ACKNOWLEDGED),
        ("commented", "1", AlertStatus.NOTE),
        ("unsuppressed", "1", AlertStatus.NOTE),
        ("done what nobody knows yet", "1", AlertStatus.NOTE),
        ("{EVENT.UPDATE.ACTION}", "1", AlertStatus.NOTE),
        ("commented and closed", "1", AlertStatus.RESOLVED),
        ("closed", "0", AlertStatus.RESOLVED),
        ("acknowledged", "0", AlertStatus.NOTE),
        ("changed severity from Average to High", "0", AlertStatus.NOTE),
    ],
)
def test_an_update_is_what_was_done(action: str, value: str, status: AlertStatus) -> None:
    found = alert_of(problem(event_update_status="1", event_update_action=action, event_value=value))
    assert found.status is status


def test_what_is_neither_a_problem_nor_an_end_opens_an_incident() -> None:
    for value in ("", "7", "{EVENT.VALUE}", None):
        assert alert_of(problem(event_value=value)).status is AlertStatus.FIRING
        assert alert_of(problem(event_value=value, event_status="RESOLVED")).status is AlertStatus.RESOLVED


def test_a_step_of_an_escalation_differs_in_nothing() -> None:
    assert alert_of(fixture("v6_problem")) == alert_of(fixture("v6_problem_next_step"))


def test_the_root_cause_of_a_service_does_not_grow_older() -> None:
    def cause(age: str) -> Any:
        body = fixture("service_problem")
        body["service_rootcause"] = f'Host: "db-01" Problem name: "x Age: 3" Severity: "High" Age: {age}'
        return alert_of(body).evidence["rootcause"]

    assert cause("2s") == cause("1M 2d 3h 4m") == 'Host: "db-01" Problem name: "x Age: 3" Severity: "High"'


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("ahead", "local_now", "event_time"),
    [
        ("Vienna", "2026.03.02 09:15:33", "2026.03.02 09:15:30"),
        ("UTC", "2026.03.02 08:15:33", "2026.03.02 08:15:30"),
        ("Kathmandu", "2026.03.02 14:00:33", "2026.03.02 14:00:30"),
        ("New York", "2026.03.02 03:15:33", "2026.03.02 03:15:30"),
        ("Kiritimati", "2026.03.02 22:15:33", "2026.03.02 22:15:30"),
        ("a clock that is wrong by a minute", "2026.03.02 09:16:33", "2026.03.02 09:15:30"),
    ],
)
def test_a_local_time_is_read_in_the_time_zone_of_the_recipient(ahead: str, local_now: str, event_time: str) -> None:
    found = alert_of(problem(local_now=local_now, event_time=event_time))
    assert str(found.occurred_at) == "2026-03-02 08:15:30+00:00", ahead


@pytest.mark.parametrize("local_now", ["", "2026.03.02 09:22:00", "2026.03.09 09:15:33", "02.03.2026 09:15", "x" * 999])
def test_where_the_time_zone_cannot_be_told_there_is_no_time(local_now: str) -> None:
    assert alert_of(problem(local_now=local_now)).occurred_at is None
    told = alert_of(problem(local_now=local_now, event_timestamp="1772439330"))
    assert str(told.occurred_at) == "2026-03-02 08:15:30+00:00"


# ---------------------------------------------------------------- types and things


def test_a_name_that_is_about_something_else_is_not_overruled_by_the_key() -> None:
    assert alert_of(fixture("type_name_is_about_something_else")).incident_type is IncidentType.CUSTOM


@pytest.mark.parametrize(
    ("key", "port", "service"),
    [
        ("net.tcp.service[tcp,,5432]", 5432, None),
        ('net.tcp.service["http",10.0.0.1,"8080"]', 8080, "http"),
        ("net.tcp.service[ssh]", None, "ssh"),
        ("net.tcp.port[,443]", 443, None),
        ("net.tcp.listen[25]", 25, None),
        ("net.tcp.listen", None, None),
    ],
)
def test_the_key_of_an_item_names_the_port_and_the_service(key: str, port: int | None, service: str | None) -> None:
    found = alert_of(problem(event_name="Orders", item_key=key, event_tags="", trigger_description=""))
    assert found.incident_type is IncidentType.PORT_UNAVAILABLE
    assert (found.evidence.get("port"), found.evidence.get("service_name")) == (port, service)


def test_a_link_is_of_the_web_or_none() -> None:
    assert alert_of(problem()).evidence["link"].startswith("https://zabbix.example.com/tr_events.php?triggerid=23133")
    for url in ("javascript:alert(1)", "{$ZABBIX.URL}", ""):
        assert "link" not in alert_of(problem(zabbix_url=url)).evidence
    assert "link" not in alert_of(problem(trigger_id="1&x=2")).evidence


# ---------------------------------------------------------------- other bodies


def test_a_body_of_something_else_is_refused_with_advice() -> None:
    for body in ({}, {"text": "x"}, {"host": "web-01"}, {"event_name": "{EVENT.NAME}"}):
        with pytest.raises(Unsupported, match="media type"):
            SHAPE.unwrap(SHAPE.payload.load(body), {})


SEEDS = (
    "{",
    "{A",
    "{A:",
    "*UNKNOWN*",
    "{A.B} ",
    " ",
    "[",
    '"',
    '",',
    "a[",
    "a,",
    ":",
    "Host:",
    " Age: 1",
    "\\",
    "1",
    " and ",
)
PLACES = (
    *("event_name", "event_tags", "item_key", "event_update_action", "alert_message", "service_rootcause"),
    *("trigger_description", "event_severity", "local_now", "event_time", "item_value", "host_groups"),
)


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_text_of_any_length_is_read_in_no_time(seed: str) -> None:
    text = (seed * (256 * 1024 // len(seed)))[: 256 * 1024]
    before = time.perf_counter()
    for hostile in (text, "x" + text + "x"):
        body = dict.fromkeys(PLACES, hostile) | {"event_id": "1", "event_nseverity": hostile, hostile[:999]: 1}
        assert isinstance(translated(body), Translated)
    # Some 6 MB of text in all; reading that is quadratic takes minutes.
    assert time.perf_counter() - before < 5
