"""From bytes to one checked alert: what is refused, with which code, and what is kept."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openremedy.alerts import (
    MAX_EVIDENCE_BYTES,
    Alert,
    AlertStatus,
    IncidentType,
    Severity,
    compact,
    hashed,
    identity,
    parse_alert,
    parse_object,
    shown,
)
from openremedy.errors import BadBody, Invalid

MINIMAL: dict[str, Any] = {"hostname": "web-01", "incident_type": "custom"}


def parsed(**changes: Any) -> Alert:
    return parse_alert(json.dumps(MINIMAL | changes).encode())[0]


def refusal(body: bytes | dict[str, Any]) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_alert(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b" ", "invalid_json"),
        (b"{", "invalid_json"),
        (b"{}x", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b'{"a": 1,}', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": "b', "invalid_json"),
        (b'{"a": "\n"}', "invalid_json"),
        (b'{"a": 01}', "invalid_json"),
        (b'{"a": +1}', "invalid_json"),
        (b'{"a": "\\x41"}', "invalid_json"),
        (b"hostname=web-01", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_json"),
        ("{}".encode("utf-16"), "invalid_json"),
        (b"\x1f\x8b\x08\x00", "invalid_json"),
        (b"null", "not_an_object"),
        (b"true", "not_an_object"),
        (b"1", "not_an_object"),
        (b'"x"', "not_an_object"),
        (b"[]", "not_an_object"),
        (b"[{}]", "not_an_object"),
        (b'{"severity": "low", "severity": "critical"}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b'{"evidence": {"a": [{"b": 1, "b": 1}]}}', "duplicate_key"),
        (b'{"a": NaN}', "invalid_number"),
        (b'{"a": Infinity}', "invalid_number"),
        (b'{"a": -Infinity}', "invalid_number"),
        (b"NaN", "invalid_number"),
        (b'{"a": 1e400}', "invalid_number"),
        (b'{"a": -1e400}', "invalid_number"),
        (b'{"a": ' + b"9" * 65 + b"}", "invalid_number"),
        (b'{"a": -' + b"9" * 65 + b"}", "invalid_number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_number"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "too_deep"),
    ],
)
def test_it_refuses_what_is_not_strict_json(body: bytes, code: str) -> None:
    with pytest.raises(BadBody) as caught:
        parse_object(body)
    assert caught.value.code == code
    assert len(caught.value.message) < 200


def test_it_keeps_numbers_as_they_are() -> None:
    body = b'{"a": ' + b"9" * 64 + b', "b": 1e308, "c": -0.5, "d": 1E-400, "e": -' + b"9" * 64 + b"}"
    assert parse_object(body) == {"a": int("9" * 64), "b": 1e308, "c": -0.5, "d": 0.0, "e": -int("9" * 64)}


@pytest.mark.parametrize("kind", ["object", "array", "mixed"])
def test_it_takes_evidence_of_32_levels_and_refuses_33(kind: str) -> None:
    def nested(levels: int) -> Any:
        value: Any = "leaf"
        for level in range(levels - 1):  # the evidence itself is the first
            value = [value] if kind == "array" or (kind == "mixed" and level % 2) else {"a": value}
        return {"a": value}

    assert parsed(evidence=nested(32)).evidence == nested(32)
    with pytest.raises(BadBody) as caught:
        parsed(evidence=nested(33))
    assert caught.value.code == "too_deep"


def test_it_is_not_fooled_by_brackets_in_text() -> None:
    text = "[{" * 5000
    assert parsed(evidence={"text": text}).evidence["text"] == text


# ---------------------------------------------------------------- fields


def test_a_hostname_and_a_type_are_enough() -> None:
    assert parsed() == Alert(
        hostname="web-01",
        incident_type=IncidentType.CUSTOM,
        severity=Severity.MEDIUM,
        evidence={},
        status=AlertStatus.FIRING,
        dedup_key=None,
        occurred_at=None,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("incident_type", word) for word in IncidentType),
        *(("severity", word) for word in Severity),
        *(("status", word) for word in ("firing", "acknowledged", "resolved")),
        ("hostname", "x"),
        ("hostname", "x" * 253),
        ("hostname", "ünïcode-\N{SNOWMAN}"),
        ("hostname", "<script>alert(1)</script>"),
        ("dedup_key", "x"),
        ("dedup_key", "x" * 255),
        ("evidence", {}),
        ("evidence", {"__proto__": 1, "<script>": 2, "{{7*7}}": 3, "$where": 4, "../../etc": 5, "": 6}),
    ],
)
def test_it_keeps_good_values_as_they_are(field: str, value: Any) -> None:
    assert getattr(parsed(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("hostname", value) for value in (None, "", "   ", "x" * 254, "x" * 10_000, 123, True, {}, [], 1.5)),
        *(("hostname", f"web{char}01") for char in "\x00\x01\n\r\t\x1b\x7f\x85\ud800\udfff"),
        *(("incident_type", value) for value in (None, "", "Disk_Full", "disk-full", "unknown", 1, [], {}, True)),
        *(("severity", value) for value in (None, "", "HIGH", "warning", "P1", 1, [], {})),
        *(("status", value) for value in (None, "", "FIRING", "open", "note", "update", 1, [], {})),
        *(("evidence", value) for value in (None, [], "text", 1, True, [["a", 1]])),
        *(("dedup_key", value) for value in (None, "", " ", "x" * 256, 1, {}, [], "a\x00b", "a\ud800b")),
        *(("occurred_at", value) for value in (None, "", 0, 1767225600, True, {}, [])),
    ],
)
def test_it_refuses_bad_values_under_their_field(field: str, value: Any) -> None:
    error = refusal(MINIMAL | {field: value})
    assert error.code == "validation_error"
    assert error.fields is not None
    assert list(error.fields) == [field]
    assert all(isinstance(message, str) for message in error.fields[field])


@pytest.mark.parametrize("missing", ["hostname", "incident_type"])
def test_it_misses_a_required_field(missing: str) -> None:
    error = refusal({name: value for name, value in MINIMAL.items() if name != missing})
    assert error.fields is not None
    assert list(error.fields) == [missing]


def test_it_names_the_errors_of_all_fields_at_once() -> None:
    error = refusal({"hostname": 1, "severity": "P1", "evidence": [], "status": "x", "dedup_key": "", "occurred_at": 1})
    expected = {"hostname", "incident_type", "severity", "evidence", "status", "dedup_key", "occurred_at"}
    assert error.fields is not None
    assert set(error.fields) == expected


def test_it_lists_the_words_it_takes() -> None:
    error = refusal(MINIMAL | {"incident_type": "oops", "severity": "oops", "status": "oops"})
    assert error.fields is not None
    assert all(word in str(error.fields["incident_type"]) for word in IncidentType)
    assert all(word in str(error.fields["severity"]) for word in Severity)
    assert "note" not in str(refusal(MINIMAL | {"status": "note"}).fields)


@pytest.mark.parametrize("field", ["hostname", "incident_type", "severity", "status", "dedup_key", "occurred_at"])
def test_it_does_not_repeat_what_was_sent(field: str) -> None:
    error = refusal(MINIMAL | {field: "<b>" + "mirror" * 100})
    assert "mirror" not in str(error.fields) + error.message


def test_an_adapter_may_say_note_and_update() -> None:
    body = json.dumps(MINIMAL | {"status": "note"}).encode()
    assert parse_alert(body, statuses=AlertStatus)[0].status is AlertStatus.NOTE


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5Z", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-01-31T12:00:00+05:30", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        ("2026-01-31T12:00:00-23:59", datetime(2026, 2, 1, 11, 59, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_it_reads_rfc_3339(text: str, moment: datetime) -> None:
    assert parsed(occurred_at=text).occurred_at == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00Z",
        "20260131T120000Z",
        "2026-02-30T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:60:00Z",
        "2026-01-31T12:00:61Z",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00Z\n",
        " 2026-01-31T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+10:00",
        "9999-12-31T23:59:59-10:00",
        "\uff12026-01-31T12:00:00Z",
        "2026-W05-6T12:00:00Z",
        "now",
        "1767225600",
    ],
)
def test_it_refuses_other_times(text: str) -> None:
    assert refusal(MINIMAL | {"occurred_at": text}).fields == {
        "occurred_at": ["Not an RFC 3339 time such as 2026-01-31T12:00:00Z."]
    }


# ---------------------------------------------------------------- evidence


def evidence_of(size: int) -> dict[str, str]:
    return {"text": "x" * (size - len('{"text":""}'))}


def test_it_takes_evidence_of_256_kib_and_not_a_byte_more() -> None:
    assert len(compact(parsed(evidence=evidence_of(MAX_EVIDENCE_BYTES)).evidence)) == MAX_EVIDENCE_BYTES
    error = refusal(MINIMAL | {"evidence": evidence_of(MAX_EVIDENCE_BYTES + 1)})
    assert (error.status, error.code) == (422, "evidence_too_large")
    assert error.fields is not None
    assert list(error.fields) == ["evidence"]


def test_it_measures_evidence_without_the_spaces_of_its_sender() -> None:
    body = json.dumps(MINIMAL | {"evidence": {"numbers": list(range(20_000))}}, indent=8).encode()
    assert len(body) > MAX_EVIDENCE_BYTES
    assert parse_alert(body)[0].evidence["numbers"][-1] == 19_999


def test_it_measures_evidence_as_it_is_written_again() -> None:
    # 5 bytes sent, 19 kept.
    body = b'{"hostname": "a", "incident_type": "custom", "evidence": {"n": [%s]}}' % b",".join([b"1e15"] * 20_000)
    assert len(body) < MAX_EVIDENCE_BYTES
    assert refusal(body).code == "evidence_too_large"


def test_it_refuses_many_keys_by_their_size() -> None:
    error = refusal(MINIMAL | {"evidence": {f"key-{number}": number for number in range(100_000)}})
    assert error.code == "evidence_too_large"


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800", "\\udfff", "\\udc00\\ud800"])
def test_it_replaces_what_cannot_be_stored_and_says_so(bad: str) -> None:
    evidence = json.dumps({"kBAD": ["vBAD", {"deep": "BAD"}]}).replace("BAD", bad)
    body = f'{{"hostname": "a", "incident_type": "custom", "evidence": {evidence}}}'.encode()
    alert, warnings = parse_alert(body)
    clean = "\N{REPLACEMENT CHARACTER}" * (len(bad) // 6)
    assert alert.evidence == {f"k{clean}": [f"v{clean}", {"deep": clean}]}
    assert [warning for warning in warnings if "U+FFFD" in warning]


def test_it_keeps_both_values_of_keys_that_become_equal() -> None:
    evidence = r'{"a\u0000": 1, "a\ud800": 2, "a\ufffd": 3}'
    alert, _ = parse_alert(f'{{"hostname": "a", "incident_type": "custom", "evidence": {evidence}}}'.encode())
    assert sorted(alert.evidence.values()) == [1, 2, 3]


def test_it_keeps_every_other_character() -> None:
    text = "tab\t line\n é \N{SNOWMAN} \U0001f600 \u202e \ufeff \x7f \x1b[31m"
    alert, warnings = parse_alert(json.dumps(MINIMAL | {"evidence": {"text": text}}).encode())
    assert alert.evidence == {"text": text}
    assert warnings == []


# ---------------------------------------------------------------- warnings


def test_it_ignores_unknown_fields_and_names_them() -> None:
    alert, warnings = parse_alert(json.dumps(MINIMAL | {"tenant_id": 7, "recipe_id": 1, "id": "x"}).encode())
    assert alert == parsed()
    assert warnings == [f"unknown field '{name}' was ignored" for name in ("tenant_id", "recipe_id", "id")]


def test_it_names_no_more_than_twenty_unknown_fields_and_none_at_length() -> None:
    _, warnings = parse_alert(json.dumps(MINIMAL | {f"{number}\x1b{'x' * 500}": 1 for number in range(25)}).encode())
    assert len(warnings) == 21
    assert warnings[-1] == "5 more unknown fields were ignored"
    assert all(len(warning) < 140 and warning.isprintable() for warning in warnings)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\ud800", "é", "x" * 1000])
def test_foreign_text_is_shown_on_one_short_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 10 * 100 + 3


# ---------------------------------------------------------------- identity


def known_by(**changes: Any) -> str:
    return identity(parsed(**changes))


def test_an_identity_is_the_dedup_key_whatever_else_is_said() -> None:
    assert known_by(dedup_key="k") == known_by(dedup_key="k", hostname="other", incident_type="cpu_high")
    assert known_by(dedup_key="k") != known_by(dedup_key="K")


def test_a_dedup_key_never_meets_the_identity_of_another_alert() -> None:
    alert = parsed()
    assert known_by(dedup_key=f"{alert.incident_type},{alert.hostname},") != identity(alert)


@pytest.mark.parametrize(
    ("incident_type", "name"),
    [("disk_full", "mount"), ("service_down", "service_name"), ("port_unavailable", "port"), ("custom", "alertname")],
)
def test_an_identity_holds_the_thing_itself(incident_type: str, name: str) -> None:
    first, second = ({"incident_type": incident_type, "evidence": {name: value, "noise": value}} for value in "ab")
    assert known_by(**first) != known_by(**second)
    assert known_by(**first) == known_by(incident_type=incident_type, hostname="WEB-01", evidence={name: "a"})


@pytest.mark.parametrize("incident_type", ["cpu_high", "memory_high"])
def test_an_identity_of_a_host_holds_nothing_more(incident_type: str) -> None:
    assert known_by(incident_type=incident_type, evidence={"mount": "/"}) == known_by(incident_type=incident_type)


def test_a_port_is_the_same_as_a_number_and_as_text() -> None:
    port = {"incident_type": "port_unavailable"}
    assert known_by(**port, evidence={"port": 443}) == known_by(**port, evidence={"port": "443"})


def test_a_custom_alert_is_known_by_the_first_name_it_has() -> None:
    assert known_by(evidence={"title": "", "check": "c", "name": "n"}) == known_by(evidence={"check": "c"})
    assert known_by(evidence={"alertname": "a", "title": "t"}) == known_by(evidence={"alertname": "a", "title": "u"})


@given(st.lists(st.text(st.characters(codec=None)), max_size=3))
@example(["\ud800", "\x00\x1f\x7f\x85\u2028", '"\\/'])
def test_the_hash_of_some_texts_is_that_of_their_shortest_json(texts: list[str]) -> None:
    """Whatever writes the JSON: an identity that changed would open a second incident for what is open."""
    assert hashed(*texts) == hashlib.sha256(compact(texts).encode("utf-8", "surrogatepass")).hexdigest()


def test_parts_of_an_identity_do_not_run_together() -> None:
    assert known_by(hostname="ab", evidence={"name": "c"}) != known_by(hostname="a", evidence={"name": "bc"})


def test_an_unknown_field_is_named_as_it_was_sent() -> None:
    body = '{"hostname": "a", "incident_type": "custom", "größe": 1, "a\\u0007b": 2}'.encode()
    _alert, warnings = parse_alert(body)
    assert warnings == ["unknown field 'größe' was ignored", r"unknown field 'a\x07b' was ignored"]


def test_a_status_of_adapters_is_named_beside_the_other_errors() -> None:
    with pytest.raises(Invalid) as caught:
        parse_alert(b'{"hostname": "", "incident_type": "x", "severity": 1, "status": "note"}')
    assert set(caught.value.fields or ()) == {"hostname", "incident_type", "severity", "status"}


def test_many_keys_that_become_equal_are_kept_apart_in_linear_time_and_measured_as_they_became() -> None:
    surrogates = [f"\\ud{high:03x}" for high in range(0x800, 0x880)]
    keys = [first + second for first in surrogates[:64] for second in surrogates[:64]]
    head = '{"hostname":"a","incident_type":"custom","evidence":{'
    alert, _ = parse_alert((head + ",".join(f'"{key}":1' for key in keys) + "}}").encode())
    assert len(alert.evidence) == len(keys) == 4096
    assert sum(map(len, alert.evidence)) < 4096 * 8
    long = ",".join(f'"{key}{"x" * 80}":1' for key in keys)
    with pytest.raises(Invalid) as refused:
        parse_alert((head + long + "}}").encode())
    assert refused.value.code == "evidence_too_large"
