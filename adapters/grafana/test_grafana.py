"""Special cases of Grafana; the contract over all adapters and the golden files are in tests/test_adapters.py."""

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from marshmallow import ValidationError

from adapters.grafana import SIGNATURE, adapter, verify
from openremedy.adapter import Alert, AlertStatus, Ignored, IncidentType, Severity, Translated, Unsupported

FIXTURES = Path(__file__).parent / "fixtures"
SHAPE = adapter.formats[0]
SECRET = b"a signing secret \xc3\xa9"
BODY = (FIXTURES / "v12_firing.json").read_bytes()
NOW = 1_770_091_999.0
STAMPED = {"timestamp_header": "X-Stamp"}


def fixture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


def translations(body: dict[str, Any]) -> list[Any]:
    payload = SHAPE.payload.load(body)
    assert SHAPE.alert
    return [SHAPE.translate(SHAPE.alert.load(entry), payload) for entry in SHAPE.unwrap(payload, {})]


def alerts(body: dict[str, Any]) -> list[Alert]:
    found = translations(body)
    assert all(isinstance(one, Translated) for one in found)
    return [one.alert for one in found]


def one(**changes: Any) -> Alert:
    """The alert that one entry becomes."""
    entry = {"status": "firing", "labels": {"alertname": "Any"}, "fingerprint": "f1"} | changes
    return alerts({"orgId": 1, "alerts": [entry]})[0]


def test_the_type_is_told_by_the_name_then_by_what_is_measured_then_by_the_text() -> None:
    annotations = {"Description": "The disk is full"}
    measured = "[ var='A' labels={__name__=shop_heap_used_bytes, job=cpu_usage} value=1 ]"
    assert (
        one(labels={"alertname": "Shop down"}, valueString=measured, annotations=annotations).incident_type
        == "service_down"
    )
    assert one(valueString=measured, annotations=annotations).incident_type == "memory_high"
    assert one(annotations=annotations).incident_type == "disk_full"


# ---------------------------------------------------------------- repetitions


def again(body: dict[str, Any]) -> dict[str, Any]:
    """The same notification some time later: what Grafana makes anew each time is another."""
    later: dict[str, Any] = json.loads(json.dumps(body))
    later |= {"groupKey": "{}:{later}", "title": "later", "message": "later", "receiver": "renamed"}
    for entry in later["alerts"]:
        entry |= {"imageURL": "https://x.example/2.png", "silenceURL": "https://x.example/2", "embeddedImage": "Mg=="}
        for name in ("dashboardURL", "panelURL"):
            entry[name] = entry[name].replace("to=1770091999123", "to=1770095599456")
    return later


def test_a_repetition_says_the_same() -> None:
    body = fixture("v12_firing")
    assert "to=1770091999123" in body["alerts"][0]["panelURL"]
    assert [found.digest() for found in alerts(again(body))] == [found.digest() for found in alerts(body)]


def test_another_value_says_something_else() -> None:
    body = fixture("v12_firing")
    before = alerts(body)[0].digest()
    body["alerts"][0]["values"]["B"] = 97.2
    assert alerts(body)[0].digest() != before


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://g/d/x?from=1&to=2", "https://g/d/x?from=1"),
        ("https://g/d/x?to=2", "https://g/d/x"),
        ("https://g/d/x?to=2&viewPanel=3", "https://g/d/x?viewPanel=3"),
        ("https://g/d/x?from=1&orgId=1&to=2&viewPanel=3", "https://g/d/x?from=1&orgId=1&viewPanel=3"),
        ("https://g/d/into=2?var-to=5", "https://g/d/into=2?var-to=5"),
        ("https://g/d/x?to=now", "https://g/d/x?to=now"),
    ],
)
def test_links_lose_the_end_of_their_time_range_only(url: str, kept: str) -> None:
    assert one(dashboardURL=url).evidence["dashboard_url"] == kept


def test_images_are_not_in_the_evidence() -> None:
    assert "aW1hZ2U=" in BODY.decode()
    assert "aW1hZ2U=" not in json.dumps(alerts(fixture("v12_firing"))[0].evidence)


# ---------------------------------------------------------------- identity, status, time


def test_two_organisations_of_one_grafana_stay_apart() -> None:
    entry = {"fingerprint": "f1"}
    keys = [
        alerts({"orgId": envelope, "alerts": [entry | own]})[0].dedup_key
        for envelope, own in ((1, {}), (2, {}), (1, {"orgId": 3}), (None, {}))
    ]
    assert keys == ["1:f1", "2:f1", "3:f1", "f1"]


def test_a_firing_and_its_end_are_one_identity() -> None:
    labels = {"alertname": "Any", "instance": "a:1"}
    firing, resolved = (one(status=status, labels=labels, fingerprint="") for status in ("firing", "resolved"))
    assert firing.dedup_key == resolved.dedup_key


@pytest.mark.parametrize(
    ("status", "expected"),
    [("firing", "firing"), ("resolved", "resolved"), (" Resolved ", "resolved"), ("gone", "firing"), (None, "firing")],
)
def test_the_status_of_the_group_is_not_looked_at(status: Any, expected: str) -> None:
    body = {"orgId": 1, "status": "resolved", "state": "ok", "alerts": [{"status": status, "labels": {"a": "b"}}]}
    (found,) = alerts(body)
    assert found.status == AlertStatus(expected)
    assert ("status" in found.evidence) == (status == "gone")


def test_the_year_one_is_no_time() -> None:
    none = "0001-01-01T00:00:00Z"
    assert one(startsAt=none).occurred_at is None
    assert one(status="resolved", startsAt="2026-01-01T00:00:00Z", endsAt=none).occurred_at is None


# ---------------------------------------------------------------- no data


@pytest.mark.parametrize("name", ["DatasourceNoData", "DatasourceError"])
@pytest.mark.parametrize("kind", ["cpu_high", "disk_full", "memory_high"])
def test_no_data_is_never_a_full_disk_or_a_busy_cpu(name: str, kind: str) -> None:
    labels = {"alertname": name, "rulename": f"Disk full, CPU and memory high: {kind}", "severity": "critical"}
    found = one(labels=labels | {"incident_type": kind, "mountpoint": "/"}, annotations={"incident_type": kind})
    assert found.incident_type is IncidentType.CUSTOM
    assert found.severity is Severity.CRITICAL
    assert found.evidence["no_data"] is True
    assert found.evidence.get("datasource_error", False) is (name == "DatasourceError")
    assert "mount" not in found.evidence


def test_an_alert_that_only_keeps_its_state_was_measured() -> None:
    found = one(labels={"alertname": "CPU high"}, annotations={"grafana_state_reason": "Error, KeepLast"})
    assert "no_data" not in found.evidence
    assert found.evidence["state_reason"] == "Error, KeepLast"


def test_the_timeline_learns_why_grafana_ended_it() -> None:
    reason = {"grafana_state_reason": "MissingSeries"}
    assert "MissingSeries" in one(status="resolved", annotations=reason).evidence["resolution"]
    assert "resolution" not in one(status="firing", annotations=reason).evidence
    assert "resolution" not in one(status="resolved").evidence


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("[ var='A' labels={instance=web-1:9100, job=node} value=1 ]", "web-1"),
        ("[ var='A' labels={job=a, b, instance=web-2} value=1 ]", "web-2"),
        ("[ var='A' labels={filter={x=\"1\"}, node=web-3} value=1 ]", "web-3"),
        ("[ var='A' labels={} value=1 ], [ var='B' labels={host=web-4} value=null ]", "web-4"),
        ("[ var='A' labels={host=x} value=1 ], [ var='B' labels={instance=web-5} value=1 ]", "web-5"),
        ("[ var='A' labels={host=web-6} value=1 ], [ var='B' labels={host=x} value=1 ]", "web-6"),
        ("labels={instance=", "unknown"),
        ("labels={=web}", "unknown"),
        ("labels={instance} value=1", "unknown"),
        ("no labels", "unknown"),
    ],
)
def test_a_host_is_read_out_of_the_value_string(text: str, host: str) -> None:
    assert one(valueString=text).hostname == host


def test_a_measured_value_may_hold_commas_and_braces() -> None:
    text = "[ var='A' labels={instance=web-1, mountpoint=/srv/{a}, b/c, uid=7} value=99 ]"
    assert one(labels={"incident_type": "disk_full"}, valueString=text).evidence["mount"] == "/srv/{a}, b/c"


@pytest.mark.parametrize(
    "text",
    ["labels={" * 200_000, "labels={a=, " + ", " * 500_000, "labels={" + ", a" * 400_000 + "}", "{}=, " * 300_000],
)
def test_a_hostile_value_string_costs_little_time(text: str) -> None:
    began = time.perf_counter()
    assert one(valueString=text).hostname == "unknown"
    assert time.perf_counter() - began < 1


# ---------------------------------------------------------------- test notifications and envelopes


def test_a_test_is_ignored_with_a_useful_word() -> None:
    (found,) = translations(fixture("test_button"))
    assert isinstance(found, Ignored)
    assert "this source is connected" in found.reason
    assert found.beat is None


def test_a_test_does_not_take_a_real_alert_with_it() -> None:
    body = fixture("test_button")
    body["alerts"].append(fixture("v12_firing")["alerts"][0])
    assert [type(found) for found in translations(body)] == [Ignored, Translated]


@pytest.mark.parametrize(
    "body",
    [{}, {"text": "fired"}, {"alerts": None}, {"alerts": "x"}, {"alerts": {}, "ruleId": 1}, {"status": "firing"}],
)
def test_a_custom_payload_is_refused_with_the_remedy(body: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="Remove the custom payload"):
        SHAPE.unwrap(SHAPE.payload.load(body), {})


@pytest.mark.parametrize("count", [-1, 0, "", "x", None, [], 1.5, True, 10**12])
def test_only_a_number_of_cut_alerts_is_remarked_on(count: Any) -> None:
    assert SHAPE.remark(SHAPE.payload.load({"alerts": [], "truncatedAlerts": count})) is None


def test_a_legacy_rule_opens_and_closes_one_incident() -> None:
    found = [alerts(fixture(f"legacy_v7_{state}"))[0] for state in ("alerting", "no_data", "ok")]
    assert len({each.dedup_key for each in found}) == 1
    assert [each.status for each in found] == ["firing", "firing", "resolved"]
    assert [each.occurred_at for each in found] == [None] * 3


def test_put_is_taken_as_well() -> None:
    assert SHAPE.methods == ("POST", "PUT")


# ---------------------------------------------------------------- signature


def signed(body: bytes, stamp: str | None = None, secret: bytes = SECRET) -> dict[str, str]:
    """The headers that Grafana sends, lower-case as the adapter sees them."""
    text = body if stamp is None else stamp.encode() + b":" + body
    found = {SIGNATURE.lower(): hmac.new(secret, text, hashlib.sha256).hexdigest()}
    return found if stamp is None else found | {"x-stamp": stamp}


def test_signatures_that_another_program_made_hold() -> None:
    """Made with `printf … | openssl dgst -sha256 -hmac k`, and RFC 4231, test case 2."""
    plain = "53e1cedd550e0e693ce03bafe5ae424d9f292717018d586aaade877481dc824c"
    assert verify(b"k", b"payload", {SIGNATURE.lower(): plain}, {}, NOW)
    stamped = "f21eb11a48de730b56f56d2c6d048511d302847ebf3d8c62f3432484ba7d1f9f"
    headers = {SIGNATURE.lower(): stamped, "x-stamp": "1700000000"}
    assert verify(b"k", b"payload", headers, STAMPED, 1_700_000_000)
    published = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert verify(b"Jefe", b"what do ya want for nothing?", {SIGNATURE.lower(): published}, {}, NOW)


def test_a_signed_body_is_admitted() -> None:
    assert verify(SECRET, BODY, signed(BODY), {}, NOW)
    upper = {SIGNATURE.lower(): signed(BODY)[SIGNATURE.lower()].upper()}
    assert verify(SECRET, BODY, upper, {}, NOW)


def test_the_header_of_the_signature_is_the_one_chosen() -> None:
    options = {"signature_header": "X-OpenRemedy-Signature"}
    digest = signed(BODY)[SIGNATURE.lower()]
    assert verify(SECRET, BODY, {"x-openremedy-signature": digest}, options, NOW)
    assert not verify(SECRET, BODY, signed(BODY), options, NOW)
    assert not verify(SECRET, BODY, {"x-openremedy-signature": digest}, {}, NOW)


def test_a_body_written_again_fails() -> None:
    assert json.loads(BODY) == json.loads(json.dumps(json.loads(BODY)))
    assert not verify(SECRET, json.dumps(json.loads(BODY)).encode(), signed(BODY), {}, NOW)
    assert not verify(SECRET, BODY.rstrip(), signed(BODY), {}, NOW)


def test_another_secret_fails() -> None:
    assert not verify(SECRET, BODY, signed(BODY, secret=b"another"), {}, NOW)


@pytest.mark.parametrize("off", [0, -1, -300, 300])
def test_a_timestamp_of_now_is_admitted(off: int) -> None:
    assert verify(SECRET, BODY, signed(BODY, str(int(NOW) + off)), STAMPED, NOW)


@pytest.mark.parametrize("off", [-301, 301, -86_400, 86_400])
def test_a_timestamp_of_another_time_is_refused(off: int) -> None:
    assert not verify(SECRET, BODY, signed(BODY, str(int(NOW) + off)), STAMPED, NOW)


def test_the_second_zero_is_a_time_like_any_other() -> None:
    assert verify(SECRET, b"", signed(b"", "0"), STAMPED, 0)


def test_a_timestamp_header_is_required_once_it_is_set() -> None:
    stamp = str(int(NOW))
    assert not verify(SECRET, BODY, signed(BODY), STAMPED, NOW)
    assert not verify(SECRET, BODY, signed(BODY) | {"x-stamp": stamp}, STAMPED, NOW)
    assert not verify(SECRET, BODY, signed(BODY, stamp), {}, NOW)
    assert not verify(SECRET, b":" + BODY, signed(BODY, ""), STAMPED, NOW)


STRANGE = ["", " ", "é", "\x00", "x" * 64, "٣" * 64, "0" * 63, "0" * 65, "9" * 5000, "-1", "1e9", "\ud800", "nan"]


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_headers_are_a_no_and_never_an_error(strange: str) -> None:
    stamp = str(int(NOW))
    assert not verify(SECRET, BODY, {SIGNATURE.lower(): strange}, {}, NOW)
    assert not verify(SECRET, BODY, signed(BODY, stamp) | {"x-stamp": strange}, STAMPED, NOW)
    assert not verify(SECRET, BODY, {}, {"signature_header": "X-Not-There"}, NOW)


@pytest.mark.parametrize("wrap", ["sha256={}", " {}", "{} ", "{}\n", "v1={}", "{0},{0}"])
def test_the_signature_stands_alone_in_its_header(wrap: str) -> None:
    digest = signed(BODY)[SIGNATURE.lower()]
    assert not verify(SECRET, BODY, {SIGNATURE.lower(): wrap.format(digest)}, {}, NOW)


@pytest.mark.parametrize("wrap", [" {}", "{} ", "+{}", "0x{}", "{}.0", "{}\n"])
def test_the_timestamp_is_digits_only(wrap: str) -> None:
    stamp = wrap.format(int(NOW))
    assert not verify(SECRET, BODY, signed(BODY, stamp), STAMPED, NOW)


# ---------------------------------------------------------------- options


def test_options_have_the_defaults_of_grafana() -> None:
    assert adapter.options.load({}) == {"signature_header": SIGNATURE, "timestamp_header": None}


@pytest.mark.parametrize("name", ["X-Signature", "signature", "X-OpenRemedy-Signature"])
def test_a_header_of_ones_own_may_carry_it(name: str) -> None:
    assert adapter.options.load({"signature_header": name})["signature_header"] == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "X Signature", "X-Signature:", "X-Signature\n", "Ж", "X_Signature", "-", "x" * 101, 5, ["X"]),
        *("Authorization", "cookie", "HOST", "X-OpenRemedy-Token", "Content-Type"),
    ],
)
@pytest.mark.parametrize("option", ["signature_header", "timestamp_header"])
def test_what_is_no_header_of_ones_own_is_refused(option: str, name: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        adapter.options.load({option: name})
    assert option in refused.value.messages_dict


def test_one_header_cannot_carry_both() -> None:
    with pytest.raises(ValidationError, match="signature"):
        adapter.options.load({"signature_header": "X-Both", "timestamp_header": "x-both"})
    with pytest.raises(ValidationError, match="signature"):
        adapter.options.load({"timestamp_header": SIGNATURE.lower()})
