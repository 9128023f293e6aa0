"""What every adapter relies on: hosts, words, times, keys, and an alert that is made to fit."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openremedy.alerts import MAX_EVIDENCE_BYTES, Alert, IncidentType, Severity, parse_alert
from openremedy.incident_type import incident_type_of, said_type
from openremedy.translation import (
    CUT,
    Items,
    Mapped,
    Payload,
    Text,
    Texts,
    count_of,
    fingerprint,
    fit,
    host_of,
    port_of,
    severity_of,
    time_of,
    time_of_epoch,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def fitted(**changes: Any) -> Alert:
    """An alert after it was made to fit, as the door reads it."""
    whole: dict[str, Any] = {"hostname": "a", "incident_type": IncidentType.CUSTOM} | changes
    alert, _ = parse_alert(fit(Alert(**whole)).to_bytes())
    return alert


@pytest.mark.parametrize(
    "evidence",
    [
        {"text": "x" * 1_000_000},
        {f"text-{number}": "x" * 20_000 for number in range(100)},
        {"list": ["x" * 100] * 50_000},
        {"labels": {f"name-{number}": "x" * 40 for number in range(20_000)}},
        {f"{number}-" + "k" * 300: 1 for number in range(20_000)},
        {"k" * 400_000: {"x": 1}},
        {"ü" * 200_000: "ü" * 200_000},
        {"nul": "\x00" * 300_000},
        {f"\ud800{chr(0xD800 + number)}": "x" * 100 for number in range(2000)},
        {"numbers": list(range(100_000))},
    ],
    ids=range(10),
)
def test_evidence_of_any_size_fits_and_says_where_it_was_cut(evidence: dict[str, Any]) -> None:
    alert = fitted(evidence=evidence)
    size = len(json.dumps(alert.evidence, ensure_ascii=False, separators=(",", ":")).encode())
    assert 0 < size <= MAX_EVIDENCE_BYTES
    if len(json.dumps(evidence, ensure_ascii=False).encode("utf-8", "surrogatepass")) > 2 * MAX_EVIDENCE_BYTES:
        assert CUT in json.dumps(alert.evidence, ensure_ascii=False)


def test_what_fits_is_left_as_it_is() -> None:
    evidence = {"text": "x" * 200_000, "list": [1, {"a": None}], "labels": {"b": "c"}}
    assert fitted(evidence=evidence).evidence == evidence


def test_deep_evidence_is_cut_at_the_last_level_that_is_kept() -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = {"d": deep}
    assert CUT in json.dumps(fitted(evidence=deep).evidence, ensure_ascii=False)


@settings(deadline=None)
@given(st.text(), st.text() | st.none(), st.dictionaries(st.text(), JSON))
def test_an_alert_of_any_text_is_canonical_once_it_fits(host: str, key: str | None, evidence: dict[str, Any]) -> None:
    alert = fitted(hostname=host, dedup_key=key, evidence=evidence)
    assert 1 <= len(alert.hostname) <= 253
    assert (alert.dedup_key is None) == (key is None)


def test_long_keys_stay_apart() -> None:
    first, second = (fitted(dedup_key="k" * 300 + end).dedup_key for end in "ab")
    assert first != second
    assert fitted(dedup_key="short").dedup_key == "short"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("web-01:9100", "web-01"),
        ("[2001:db8::1]:9100", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("https://user@example.com:8443/health?x=1", "example.com"),
        ("https://[::1]:8/", "::1"),
        ("example.com/health", "example.com"),
        ("/var/run/app.sock", "/var/run/app.sock"),
        ("http://[broken", "http://[broken"),
        (" padded ", "padded"),
        ("", ""),
    ],
)
def test_a_host_is_found_in_what_tools_call_an_instance(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("word", "severity"),
    [
        *[
            ("critical", "critical"),
            ("PAGE", "critical"),
            ("P1", "critical"),
            ("p0", "critical"),
            ("SEV-1", "critical"),
        ],
        *[("P2 - High", "high"), ("error", "high"), ("sev2", "high"), ("warning", "medium"), ("Warn!", "medium")],
        *[("P4", "low"), ("minor", "low"), ("none", "info"), ("P5", "info"), ("priority:5", "info")],
        *[("hoch", None), ("", None), ("p15", None), ("p2.5", None), ("5", None), ("page two", "critical")],
    ],
)
def test_words_and_ranks_become_severities(word: str, severity: str | None) -> None:
    assert severity_of(word) == (Severity(severity) if severity else None)


@pytest.mark.parametrize(
    ("name", "expression", "incident_type"),
    [
        *[
            ("RootVolumeSpaceTooLow", "", "disk_full"),
            ("inodes used", "", "disk_full"),
            ("DiskIoSaturation", "", "custom"),
        ],
        *[("JvmHeapHigh", "", "memory_high"), ("OOMKilled", "", "memory_high"), ("MemoryRequestsHigh", "", "custom")],
        *[
            ("HighCPU", "", "cpu_high"),
            ("LoadAverageTooHigh", "", "cpu_high"),
            ("LoadBalancerTooManyErrors", "", "custom"),
        ],
        *[("PortDown", "", "port_unavailable"), ("TcpProbeFailed", "", "port_unavailable")],
        *[("InstanceDown", "", "service_down"), ("SystemdUnitFailed", "", "service_down")],
        *[
            ("NoLeader", "", "service_down"),
            ("ReplicasScaledDown", "", "custom"),
            ("CertificateNotReady", "", "custom"),
        ],
        *[("X", 'probe_success{job="a"} == 0', "port_unavailable"), ("X", "up == 0", "service_down")],
        *[("X", 'mysql_up{a="b"}==0', "service_down"), ("X", "absent(up{job='a'})", "service_down")],
        *[("X", 'node_systemd_unit_state{state="failed"} == 1', "service_down")],
        *[
            ("X", "node_filesystem_avail_bytes < 5", "disk_full"),
            ("X", "node_memory_MemAvailable_bytes < 5", "memory_high"),
        ],
        *[("X", "node_load5 > 8", "cpu_high"), ("X", "up == 1", "custom"), ("", "", "custom")],
        # The name is looked at first.
        ("HighCPU", "up == 0", "cpu_high"),
    ],
)
def test_the_type_is_told_from_the_name_then_from_the_expression(
    name: str, expression: str, incident_type: str
) -> None:
    assert incident_type_of(name, expression) == incident_type


def test_the_first_word_that_is_a_type_is_what_a_sender_says() -> None:
    assert said_type(["", "no_such", " Disk_Full ", "custom"]) is IncidentType.DISK_FULL
    assert said_type([]) is None


def test_a_time_that_stands_for_none_is_none() -> None:
    assert time_of("2026-03-02T08:15:30.412345678+01:00") == datetime(2026, 3, 2, 7, 15, 30, 412345, UTC)
    for text in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "", "yesterday", "2026-03-02"):
        assert time_of(text) is None
    seconds, milliseconds = time_of_epoch("1772439330"), time_of_epoch("1772439330412")
    assert seconds == datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)
    assert milliseconds == datetime(2026, 3, 2, 8, 15, 30, 412000, UTC)
    for text in ("", "0", "-1772439330", "1e9", "1" * 30, "١٧٧٢٤٣٩٣٣٠"):
        assert time_of_epoch(text) is None


def test_the_fingerprint_is_that_of_prometheus() -> None:
    """FNV-1a of sorted labels; a real Alertmanager's is compared with it in tests/test_real_senders.py."""
    assert fingerprint({}) == "cbf29ce484222325"
    assert fingerprint({"b": "2", "a": "1"}) == fingerprint({"a": "1", "b": "2"})
    assert fingerprint({"a": "1b", "c": "2"}) != fingerprint({"a": "1", "bc": "2"})


def test_counts_and_ports_are_numbers_where_they_can_be() -> None:
    assert [count_of(text) for text in ("3", "0", "", "-1", "1.5", "x", "9" * 10, "³")] == [3, 0, 0, 0, 0, 0, 0, 0]
    assert [port_of(text) for text in ("443", "ssh", "", "999999")] == [443, "ssh", "", "999999"]


class Shape(Payload):
    text = Text()
    mapped = Mapped()
    texts = Texts()
    items = Items()


@settings(deadline=None)
@given(JSON, JSON, JSON)
def test_a_field_of_any_kind_is_read_and_never_refused(text: Any, mapped: Any, texts: Any) -> None:
    found = Shape().load({"text": text, "mapped": mapped, "texts": texts, "items": [], "more": 1})
    assert isinstance(found["text"], str)
    assert isinstance(found["mapped"], dict)
    assert all(isinstance(value, str) for value in found["texts"].values())
    assert set(found) == {"text", "mapped", "texts", "items"}
