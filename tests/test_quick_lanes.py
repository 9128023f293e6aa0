"""What is plainly right is read in one pass; here that pass is held against the readers behind it."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marshmallow import Schema

from openremedy import alerts, translation
from openremedy.alerts import Alert, AlertStatus, IncidentType, Severity, parse_alert, parse_json
from openremedy.errors import Invalid
from openremedy.translation import Items, Mapped, Payload, Text, Texts, canonical, fit

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=20)
ODD = st.sampled_from(
    [
        "",
        " ",
        "\t",
        "a\x00b",
        "\x85",
        "\ud800",
        "x" * 254,
        "x" * 256,
        "\u00a0",
        "\u200b",
        "é",
        "\u2028",
        0,
        1.5,
        None,
        [],
    ]
)
MOMENTS = (
    "2026-01-31T12:00:00Z 2026-01-31t12:00:00.123456789z 2026-06-30T23:59:60Z 2026-01-31T12:00:00+14:00 2026-01-31 "
    "2026-13-31T12:00:00Z 0001-01-01T00:00:00+01:00 2026-01-31T12:00:00.1Z"
)
TIMES = st.sampled_from([*MOMENTS.split(), "9" * 70, "2026-01-31T12:00:00.1Z" + "0" * 60])


def tried(read: Callable[[], Any]) -> Any:
    """What is read, or what is said about it."""
    try:
        return read()
    except Exception as problem:  # whatever it is, both ways must say the same
        return type(problem), str(problem), getattr(problem, "code", None), getattr(problem, "fields", None)


# ---------------------------------------------------------------- bytes

BYTES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value, separators=(",", ":")).encode()),
    JSON.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")),
)


@given(BYTES)
@example(b'{"a":1,"a":1}')
@example(b'{"a":1,"a":2}')
@example(b'{"a":{"b":1,"b":1}}')
@example(b"[1e400]")
@example(b"[1e16]")
@example(b"[1.0]")
@example(b"[-0.0]")
@example(b"[-0]")
@example(b"[NaN]")
@example(b"[18446744073709551616]")
@example(b"[" + b"1" * 70 + b"]")
@example(b"[" + b'{"a":' * 40 + b"1" + b"}" * 40 + b"]")
@example(b'["\\ud800"]')
@example(b'["\\u0000"]')
@example(b'["\\u003c\\u003e\\u0026"]')
@example(b'["<>&"]')
@example(b'["\\u003c","<"]')
@example(b"\xef\xbb\xbf{}")
@example(b'"\xff"')
@example(b" 1")
def test_what_is_read_back_is_what_the_strict_reader_reads(body: bytes) -> None:
    quick = tried(lambda: parse_json(body))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alerts, "_read_back", lambda _body: None)
        assert repr(tried(lambda: parse_json(body))) == repr(quick)


def test_the_bytes_of_alertmanager_are_read_in_one_pass() -> None:
    """Or this lane is of no use."""
    value = {
        "generatorURL": "http://p/graph?g0.expr=a+<+1&g0.tab=1",
        "labels": {"job": "nöde"},
        "n": [1, 2.5, True, None],
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    as_go = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
    assert alerts._read_back(as_go) == value


# ---------------------------------------------------------------- alerts

FIELDS = {
    "hostname": st.text() | ODD,
    "incident_type": st.sampled_from(list(map(str, IncidentType))) | ODD,
    "severity": st.sampled_from(list(map(str, Severity))) | ODD,
    "status": st.sampled_from(list(map(str, AlertStatus))) | ODD,
    "evidence": st.dictionaries(st.text(), JSON) | ODD,
    "dedup_key": st.text() | ODD,
    "occurred_at": TIMES | st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()) | ODD,
    "other": JSON,
}


@given(st.fixed_dictionaries({}, optional=FIELDS))
@settings(max_examples=300)
def test_a_plain_alert_is_what_the_schema_makes_of_it(values: dict[str, Any]) -> None:
    body = json.dumps(values).encode()
    quick = tried(lambda: parse_alert(body))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alerts, "_plainly_right", lambda _values: None)
        assert repr(tried(lambda: parse_alert(body))) == repr(quick)


def test_most_alerts_are_plain() -> None:
    whole = {"hostname": "web-01", "incident_type": "custom", "dedup_key": "k", "occurred_at": "2026-01-31T12:00:00Z"}
    for values in (whole, {"hostname": "web-01", "incident_type": "disk_full", "evidence": {"a": 1}}):
        assert alerts._plainly_right(values)


@given(
    st.builds(
        Alert,
        hostname=st.text(max_size=300),
        incident_type=st.sampled_from(IncidentType),
        evidence=st.dictionaries(st.text(), JSON),
        dedup_key=st.none() | st.text(max_size=300),
    )
)
def test_what_is_sent_to_the_door_is_what_was_made_to_fit(alert: Alert) -> None:
    assert json.loads(canonical(alert)) == json.loads(fit(alert).to_bytes())
    parse_alert(canonical(alert))


def test_a_time_that_is_none_is_refused() -> None:
    body = {"hostname": "a", "incident_type": "custom", "occurred_at": "2026-01-31"}
    with pytest.raises(Invalid):
        parse_alert(json.dumps(body).encode())


# ---------------------------------------------------------------- envelopes


class Envelope(Payload):
    items = Items()
    text = Text()
    other = Text(data_key="otherName")
    object = Mapped()
    labels = Texts()


@given(
    st.fixed_dictionaries(
        {"items": st.lists(JSON)},
        optional={name: JSON | st.text() for name in ("text", "otherName", "object", "strange")}
        | {"labels": st.dictionaries(st.text(), st.text() | JSON) | JSON},
    )
)
def test_a_plain_envelope_is_what_the_schema_makes_of_it(data: dict[str, Any]) -> None:
    assert Envelope().load(data) == Schema.load(Envelope(), data)


def test_an_envelope_without_its_list_is_refused_as_before() -> None:
    envelope = Envelope()
    for data in ({}, {"items": None}, {"items": {}}, [], None):
        assert tried(partial(envelope.load, data)) == tried(partial(Schema.load, envelope, data))


def test_a_field_of_another_kind_leaves_it_to_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Payload):
        count = translation.fields.Integer()

    assert Other().load({"count": "7"}) == {"count": 7}
