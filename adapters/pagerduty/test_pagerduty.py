"""What is special about PagerDuty; its fixtures go through the contract that all adapters share."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.pagerduty import STATUSES, adapter, translate, unwrap, verify
from adapters.pagerduty.details import host_in_text
from openremedy.adapter import (
    Alert,
    AlertStatus,
    Enrichment,
    Ignored,
    Rejected,
    Translated,
    Translation,
    Unsupported,
    incident_type_of,
)

FIXTURES = Path(__file__).parent / "fixtures"
SECRET = b"q3sVZ0Lx+ThisLooksLikeBase64/AndIsUsedAsText=="
BODY = b'{"event": {"event_type": "pagey.ping",  "data": {"message": "spaces  stay"}}}'


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def translated(body: dict[str, Any], **options: Any) -> Translation:
    """What the only event of a body becomes."""
    payload = adapter.formats[0].payload.load(body)
    (entry,) = unwrap(payload, options)
    return translate(entry, payload)


def alert(body: dict[str, Any], **options: Any) -> Alert:
    found = translated(body, **options)
    assert isinstance(found, Translated), found
    return found.alert


def event(kind: str = "incident.triggered", data: Any = None, **changes: Any) -> dict[str, Any]:
    """A body with the incident of a fixture in it, its data changed as given."""
    body: dict[str, Any] = fixture("triggered_v3")
    body["event"] |= {"event_type": kind, **changes}
    body["event"]["data"] |= data or {}
    return body


# ---------------------------------------------------------------- signatures


def signed(body: bytes = BODY, secret: bytes = SECRET) -> str:
    return "v1=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def accepts(header: str | None, body: bytes = BODY, secret: bytes = SECRET) -> bool:
    headers = {} if header is None else {"x-pagerduty-signature": header}
    return verify(secret, body, headers, {}, time.time())


WRONG = "v1=" + "0" * 64
GOOD = signed()
HEX = GOOD.removeprefix("v1=")


def test_the_signature_is_the_one_that_openssl_computes() -> None:
    """printf %s '{"a": 1}' | openssl dgst -sha256 -hmac 'It is only a test+/='"""
    assert accepts(
        "v1=8fa7a8cff129e7ecab5df3de0f25157c076682cf8b1d89183b4743c73862f542", b'{"a": 1}', b"It is only a test+/="
    )


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        f"{WRONG},{GOOD}",
        f"{GOOD},{WRONG}",
        f" {WRONG} ,\t{GOOD} ",
        f"v1= {HEX}",
        f"v2={HEX[::-1]},{GOOD}",
        ",".join([WRONG] * 50 + [GOOD]),
        f"v1={HEX.upper()}",
        f"nonsense,,=,v1,{GOOD}",
    ],
)
def test_one_right_signature_among_any_number_is_enough(header: str) -> None:
    assert accepts(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",",
        "v1",
        "v1=",
        WRONG,
        HEX,
        f"v2={HEX}",
        f"V1={HEX}",
        f"v1:{HEX}",
        f"v1={HEX[:-1]}",
        f"v1={HEX}0",
        f"v1==v1={HEX}",
        f"sha256={HEX}",
        f"{WRONG},{WRONG}",
        "v1=é\ud800\x00",
        "v1=" + "f" * 1_000_000,
        "," * 1_000_000,
    ],
)
def test_anything_else_is_refused_and_never_an_error(header: str | None) -> None:
    assert not accepts(header)


def test_a_body_that_was_written_again_fails() -> None:
    again = json.dumps(json.loads(BODY)).encode()
    assert json.loads(again) == json.loads(BODY)
    assert again != BODY
    assert not accepts(GOOD, again)
    assert not accepts(GOOD, BODY + b"\n")


def test_the_secret_is_text_and_nothing_that_is_decoded() -> None:
    assert not accepts(GOOD, secret=SECRET.rstrip(b"="))
    assert not accepts(GOOD, secret=SECRET + b"\n")


# ---------------------------------------------------------------- envelopes


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event": None},
        {"event": "incident.triggered"},
        {"event": {}},
        {"event": {"data": {"id": "Q0"}}},
        {"event": {"event_type": " "}},
        {"event": {"event_type": {"name": "incident.triggered"}}},
        {"messages": {"0": {}}},
        {"hostname": "web-01", "incident_type": "disk_full"},
    ],
)
def test_a_body_that_is_no_webhook_of_pagerduty_is_told_how_to_make_one(body: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="Integrations > Generic Webhooks"):
        translated(body)


@pytest.mark.parametrize("options", [{}, {"legacy_v2": False}, {"legacy_v2": "false"}])
def test_v2_without_the_switch_is_told_of_the_switch(options: Mapping[str, Any]) -> None:
    with pytest.raises(Unsupported, match="flask source edit TENANT SOURCE --option legacy_v2=true"):
        translated(fixture("v2_trigger"), **options)


@pytest.mark.parametrize("value", [True, "true"])
def test_v2_with_the_switch_says_what_v3_says(value: object) -> None:
    v2, v3 = alert(fixture("v2_trigger"), legacy_v2=value), alert(event())
    assert (v2.status, v2.dedup_key, v2.severity) == (v3.status, v3.dedup_key, v3.severity)
    assert v2.hostname == v3.hostname


def test_the_time_of_a_v2_message_is_its_own_else_that_of_its_log_entry() -> None:
    body = fixture("v2_trigger")
    body["messages"][0] |= {"created_on": "2026-02-03T08:15:31Z", "type": "an unknown key"}
    assert str(alert(body, legacy_v2=True).occurred_at) == "2026-02-03 08:15:31+00:00"
    del body["messages"][0]["created_on"]
    assert str(alert(body, legacy_v2=True).occurred_at) == "2026-02-03 08:15:30+00:00"


@pytest.mark.parametrize("options", [{}, {"legacy_v2": True}])
@pytest.mark.parametrize(
    "message",
    [
        {"type": "incident.trigger", "data": {"incident": {"id": "Q0OR7A2MZX81WB", "status": "triggered"}}},
        {"type": "incident.resolve"},
        {"data": {"incident": {}}},
    ],
)
def test_v1_is_refused_with_and_without_the_switch(message: dict[str, Any], options: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="V1 webhook"):
        translated({"messages": [{"event": "incident.trigger"}, message]}, **options)


def test_the_switch_takes_true_and_false_and_nothing_else() -> None:
    for value in (True, False, "true", "false"):
        assert not adapter.options.validate({"legacy_v2": value})
    assert adapter.options.validate({"legacy_v2": "perhaps"})


# ---------------------------------------------------------------- events


def test_every_event_type_is_in_the_readme_and_has_a_fixture() -> None:
    readme = (Path(__file__).parent / "README.md").read_text()
    bodies = [json.loads(path.read_text()) for path in FIXTURES.glob("*_v3.json")]
    shown = {body["event"]["event_type"] for body in bodies}
    for name in STATUSES:
        assert f"`{name.removeprefix('incident.')}`" in readme, name
        assert name in shown, name


def test_a_note_belongs_to_the_incident_that_it_names_and_not_to_its_own_id() -> None:
    for name in ("annotated_v3", "status_update_published_v3", "custom_field_values_updated_v3"):
        found = alert(fixture(name))
        assert (found.status, found.dedup_key) == (AlertStatus.NOTE, "Q0OR7A2MZX81WB")


@pytest.mark.parametrize("incident", [None, "Q0", {}, {"id": None}, {"id": ["Q0"]}])
def test_a_note_that_names_no_incident_is_rejected_with_the_reason(incident: Any) -> None:
    body = fixture("annotated_v3")
    body["event"]["data"]["incident"] = incident
    found = translated(body)
    assert isinstance(found, Rejected)
    assert "data.incident.id" in found.reason


def test_an_event_whose_data_only_refers_to_the_incident_is_about_that_one() -> None:
    reference = {"type": "incident_something", "id": "PNOTE01", "incident": {"id": "Q9", "summary": "It broke"}}
    found = alert(event(data=reference))
    assert found.dedup_key == "Q9"
    assert found.evidence["title"] == "It broke"


def test_a_long_note_is_cut() -> None:
    body = fixture("annotated_v3")
    body["event"]["data"]["content"] = "n" * 100_000
    assert len(alert(body).evidence["content"]) == 8000


def test_only_an_acknowledgement_opens_what_was_never_seen_firing() -> None:
    for name, opens in (("acknowledged_v3", True), ("triggered_v3", False), ("resolved_v3", False)):
        found = translated(fixture(name))
        assert isinstance(found, Translated)
        assert found.opens is opens


def test_a_merge_says_into_what_and_a_repair_says_nothing() -> None:
    merged = alert(fixture("resolved_merged_v3")).evidence["resolution"]
    assert (merged["reason"], merged["into"]) == ("merged", "Q0OR7A2MZX8100")
    assert merged["url"].endswith("/incidents/Q0OR7A2MZX8100")
    assert "resolution" not in alert(fixture("resolved_v3")).evidence
    reason = fixture("resolved_merged_v3")["event"]["data"]["resolve_reason"]
    assert "resolution" not in alert(event(data={"resolve_reason": reason})).evidence


def test_the_same_event_delivered_twice_says_the_same() -> None:
    """As a retry does, and a second subscription, whose event has an id of its own."""
    first, second = (alert(event(id=number)) for number in ("01A", "01B"))
    assert first.digest() == second.digest()
    assert first.digest() != alert(event(occurred_at="2026-02-03T08:15:31Z")).digest()


def test_an_event_of_a_type_to_come_is_ignored_by_name() -> None:
    found = translated(event("incident.dreamt_of\x00" + "x" * 500))
    assert isinstance(found, Ignored)
    assert "incident.dreamt_of" in found.reason
    assert "\x00" not in found.reason
    assert len(found.reason) < 200


def test_a_page_without_an_id_is_kept_under_the_key_of_its_sender() -> None:
    assert alert(event(data={"id": None})).dedup_key == f"incident_key:{event()['event']['data']['incident_key']}"
    nameless = event(data={"id": " ", "incident_key": None})
    resolved = event("incident.resolved", data={"id": " ", "incident_key": None})
    assert alert(nameless).dedup_key is alert(resolved).dedup_key is None
    assert alert(nameless).evidence["title"] == alert(resolved).evidence["title"]


@pytest.mark.parametrize(
    "changes",
    [
        {"client": {"name": "OpenRemedy"}},
        {"client": {"summary": "openremedy"}},
        {"agent": {"summary": "OpenRemedy", "type": "app_reference"}},
        {"data": {"incident_key": "openremedy:1"}},
    ],
)
def test_what_came_from_us_does_not_come_back(changes: dict[str, Any]) -> None:
    for kind in ("incident.triggered", "incident.acknowledged", "incident.resolved"):
        assert isinstance(translated(event(kind, **changes)), Ignored)


@pytest.mark.parametrize(
    "changes",
    [
        {"client": {"name": "PagerDuty"}},
        {"agent": {"summary": "OpenRemedy", "type": "service_reference"}},
        {"data": {"incident_key": "openremedy-host is full", "title": "OpenRemedy"}},
    ],
)
def test_what_somebody_watches_of_us_is_a_page(changes: dict[str, Any]) -> None:
    assert isinstance(translated(event(**changes)), Translated)


# ---------------------------------------------------------------- severity, host, type


@pytest.mark.parametrize(
    ("priority", "urgency", "severity"),
    [
        *((f"P{n}", "low", severity) for n, severity in enumerate("critical high medium low info".split(), 1)),
        *((f"SEV{n}", "low", severity) for n, severity in enumerate("critical high medium low info".split(), 1)),
        ("sev-1", "low", "critical"),
        ("P2 - urgent", "low", "high"),
        ("Major", "low", "high"),
        ("P9", "low", "low"),
        ("", "high", "high"),
        ("", "LOW", "low"),
        ("", "", "medium"),
        (None, None, "medium"),
        ({"summary": None, "name": "P1"}, "low", "critical"),
    ],
)
def test_the_priority_decides_before_the_urgency(priority: Any, urgency: Any, severity: str) -> None:
    reference = {"summary": priority} if isinstance(priority, str) else priority
    assert alert(event(data={"priority": reference, "urgency": urgency})).severity == severity


@pytest.mark.parametrize(
    ("title", "host"),
    [
        ("[Triggered on {host:web-01}] CPU", "web-01"),
        ("{host:web-01,env:prod} CPU", "web-01"),
        ("CPU host=web-01.", "web-01"),
        ("CPU (hostname='web-01')", "web-01"),
        ("CPU instance = web-01:9100, job=node", "web-01"),
        ("CPU HOST:10.0.0.7:22", "10.0.0.7"),
        ("Disk full on db.example.com", "db.example.com"),
        ("Disk full on db.example.com:5432.", "db.example.com"),
        ("Disk full ON 10.20.30.40!", "10.20.30.40"),
        ("host=db-1 is slow on web.example.com", "db-1"),
        ("Disk full on db-1", ""),
        ("Disk full on Monday. Sorry", ""),
        ("Login on localhost:8080", ""),
        ("https://host:8080/x", ""),
        ("ghost:web-01", ""),
        ("host:8080", ""),
        ("host: none given", ""),
        ("common.example.com", ""),
        ("", ""),
    ],
)
def test_the_host_in_a_title(title: str, host: str) -> None:
    assert host_in_text(title) == host
    found = alert(event(data={"title": title, "service": None}))
    assert (found.hostname, found.evidence["hostname_source"]) == ((host, "title") if host else ("unknown", "none"))


def test_a_host_is_found_in_a_custom_field_then_in_the_title_then_the_service_stands_for_it() -> None:
    fields = [{"name": "Host", "value": "https://db-1.example.com:8443/x"}]
    assert alert(event(data={"custom_fields": fields})).hostname == "db-1.example.com"
    assert alert(event(data={"custom_fields": [{"name": "host", "value": None}]})).hostname == "web-07.shop.example.com"
    nothing = alert(event(data={"title": "It broke"}))
    assert (nothing.hostname, nothing.evidence["hostname_source"]) == ("service:Checkout", "service")


def test_the_type_is_what_a_field_says_else_what_the_title_sounds_like() -> None:
    def said(**data: Any) -> str:
        return alert(event(data={"title": "Memory usage is too high"} | data)).incident_type

    by_title = incident_type_of("Memory usage is too high")
    assert said(custom_fields=[{"name": "incident_type", "value": " Disk_Full "}]) == "disk_full"
    assert said(incident_type={"name": "service_down"}) == "service_down"
    assert said(incident_type={"name": "Major"}) == by_title
    assert said() == by_title
    assert said(title="It broke") == "custom"


def test_the_type_is_what_the_details_measure_or_tell_where_the_title_says_nothing() -> None:
    def told(title: str, **details: str) -> str:
        trigger = {"type": "trigger_log_entry", "channel": {"details": details}}
        message = fixture("v2_trigger")["messages"][0] | {"log_entries": [trigger]}
        message["incident"] |= {"title": title}
        return alert({"messages": [message]}, legacy_v2=True).incident_type

    details = {"firing.query": "shop_heap_used_bytes > 1", "description": "The disk is full"}
    assert told("Shop is down", **details) == "service_down"
    assert told("Shop", **details) == "memory_high"
    assert told("Shop", description="The disk is full") == "disk_full"


HOSTILE = ("host=" * 40_000, "on " * 60_000, "on " + "a." * 60_000, "host " * 40_000 + "= x", "{" * 200_000)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:8])
def test_a_hostile_title_costs_no_time(text: str) -> None:
    began = time.perf_counter()
    alert(event(data={"title": text}))
    assert time.perf_counter() - began < 0.5


# ---------------------------------------------------------------- what a worker asks for


def enrichment() -> Enrichment:
    assert adapter.enrichment
    return adapter.enrichment


def test_only_the_id_of_the_incident_makes_the_path() -> None:
    path = enrichment().path(alert(event()).evidence)
    assert path
    assert path.startswith("/incidents/Q0OR7A2MZX81WB/alerts?include[]=first_trigger_log_entries")
    assert [enrichment().base(options) for options in ({}, {"region": "eu"}, {"region": "http://evil.example"})] == [
        "https://api.pagerduty.com",
        "https://api.eu.pagerduty.com",
        "https://api.pagerduty.com",
    ]
    assert enrichment().authorization("abc") == "Token token=abc"
    assert enrichment().headers == {"Accept": "application/vnd.pagerduty+json;version=2"}


@pytest.mark.parametrize(
    "incident_id",
    ["", "q0", "../users", "Q0/..", "Q0?x", "Q0\n", "Q0%2e", "\uff310", "Q\u0663", "Q" * 41, None, 7, ["Q0"]],
)
def test_an_id_that_is_none_of_pagerduty_is_asked_nothing(incident_id: Any) -> None:
    assert enrichment().path({"incident_id": incident_id}) is None
    assert enrichment().path({"link": "https://evil.example.com/incidents/Q0"}) is None


ANSWER = {
    "alerts": [
        {
            "id": "PALERT1",
            "summary": "Root volume almost full",
            "severity": "critical",
            "alert_key": "k",
            "body": {
                "type": "alert_body",
                "contexts": [{"type": "link"}],
                "cef_details": {"source_origin": "Alertmanager"},
                "details": {"incident_type": "disk_full", "labels": {"instance": "web-07.shop.example.com:9100"}},
            },
            "first_trigger_log_entry": {"channel": {"details": {"used": "97 %", "incident_type": "custom"}}},
        },
        {"summary": "Another", "body": None},
    ],
    "more": True,
}


def test_the_alerts_of_an_incident_tell_its_host_and_its_type() -> None:
    assert enrichment().read(ANSWER) == {
        "alerts": [
            {
                "summary": "Root volume almost full",
                "severity": "critical",
                "details": {
                    "used": "97 %",
                    "incident_type": "disk_full",
                    "source": "Alertmanager",
                    "labels.instance": "web-07.shop.example.com:9100",
                },
            },
            {"summary": "Another"},
        ],
        "hostname": "web-07.shop.example.com",
        "incident_type": "disk_full",
    }


@pytest.mark.parametrize(
    ("body", "host"),
    [
        ({"cef_details": {"source_origin": "db-11.example.com"}}, "db-11.example.com"),
        ({"cef_details": {"source_origin": "Alertmanager"}}, None),
        ({"cef_details": {"source_origin": "https://monitor.example.com/"}}, None),
        ({"cef_details": {"source_origin": "monitor-1", "details": {"Host": "web-02"}}}, "web-02"),
        ({"details": {"firing": "Labels:\n - alertname = Odd\n - instance = web-03:9100\n"}}, "web-03"),
        ({"details": "Ping on 10.0.0.9 lost"}, "10.0.0.9"),
        ({"details": {"hostname": {"name": "web-04"}}}, None),
    ],
)
def test_a_host_is_found_wherever_tools_put_it(body: dict[str, Any], host: str | None) -> None:
    assert enrichment().read({"alerts": [{"body": body}]}).get("hostname") == host


def test_what_is_kept_of_an_answer_is_bounded() -> None:
    details = {f"key-{number}" * 50: "x" * 50_000 for number in range(1000)}
    found = enrichment().read({"alerts": [{"summary": "s" * 50_000, "body": {"details": details}}] * 100})
    assert len(json.dumps(found)) < 128 * 1024


def test_what_is_deep_or_no_json_number_is_left_out() -> None:
    deep: Any = {"host": "web-01"}
    for _ in range(5000):
        deep = {"a": [deep]}
    details = {"deep": deep, "nan": float("nan"), "inf": float("inf"), "load": 4.5, "none": None, "blank": " "}
    assert enrichment().read({"alerts": [{"body": {"details": details}}]}) == {"alerts": [{"details": {"load": 4.5}}]}


# On a busy machine an example may take its time.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
names = st.sampled_from(
    "alerts body details cef_details source_origin hostname incident_type severity summary first_trigger_log_entry "
    "channel id type incident name value service priority urgency custom_fields assignees resolve_reason".split()
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5))


@unhurried
@given(st.dictionaries(names, anything) | anything | st.fixed_dictionaries({"alerts": st.lists(anything, max_size=3)}))
def test_no_answer_of_the_api_is_an_error(answer: Any) -> None:
    found = enrichment().read(answer)
    assert set(found) <= {"alerts", "hostname", "incident_type"}
    json.dumps(found, allow_nan=False)


kinds = ["incident.triggered", "incident.resolved", "incident.annotated", "incident.custom_field_values.updated"]


@unhurried
@given(st.sampled_from(kinds), anything, anything, st.dictionaries(names, anything))
def test_no_event_is_an_error(kind: str, agent: Any, client: Any, data: dict[str, Any]) -> None:
    body = {"event": {"event_type": kind, "agent": agent, "client": client, "occurred_at": agent, "data": data}}
    assert isinstance(translated(body), Translated | Ignored | Rejected)


@unhurried
@given(st.sampled_from(["incident.trigger", "incident.annotate", ""]), anything, anything, anything)
def test_no_message_of_v2_is_an_error(kind: str, entries: Any, incident: Any, channel: Any) -> None:
    for log_entries in (entries, [entries], [{"channel": channel}]):
        message = {"event": kind, "log_entries": log_entries, "incident": incident}
        assert isinstance(translated({"messages": [message]}, legacy_v2=True), Translated | Ignored | Rejected)
