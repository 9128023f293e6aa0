"""One contract over every adapter: each fixture through the real route, odd bodies, and what nobody may send.

A new adapter is covered by what lies in its folder; nothing has to be added here.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask

from answers import refused, rows, seen_from_outside
from cast import Source, Tenant
from config import Settings
from golden import Case, cases, cases_of, folder
from openremedy.adapter import Adapter, Format
from openremedy.alerts import MAX_EVIDENCE_BYTES, Alert, parse_alert
from openremedy.intake import ALL_STATUSES
from openremedy.registry import discover

ADAPTERS = discover()
CASES = cases()


def opening(adapter: Adapter, shape: Format) -> Case:
    """The first fixture of a format with an alert that opens an incident."""
    return next(
        case
        for case in CASES
        if case.adapter is adapter
        and case.shape is shape
        and any(one.get("status") == "firing" for one in case.expected["alerts"])
    )


def each(formats: list[tuple[Adapter, Format]]) -> pytest.MarkDecorator:
    names = [f"{adapter.name}{shape.path.replace('/', '-')}" for adapter, shape in formats]
    return pytest.mark.parametrize(("adapter", "shape"), formats, ids=names)


FORMATS = [(adapter, shape) for adapter in ADAPTERS.values() for shape in adapter.formats]
LISTS = [
    (adapter, shape)
    for adapter, shape in FORMATS
    if shape.array or isinstance(json.loads(opening(adapter, shape).body).get("alerts"), list)
]
ENVELOPES = [(adapter, shape) for adapter, shape in LISTS if not shape.array]
EVERY_ADAPTER = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=list(ADAPTERS))
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
EVERY_FORMAT = each(FORMATS)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
TAKEN = ("created", "updated", "resolved", "duplicate", "ignored")


def source(alice: Tenant, adapter: Adapter, **options: Any) -> Source:
    return alice.source(adapter.name, **options)


# ---------------------------------------------------------------- what an adapter consists of


@EVERY_ADAPTER
def test_an_adapter_is_a_folder_with_instructions_and_examples(adapter: Adapter) -> None:
    text = (folder(adapter) / "README.md").read_text()
    assert text.startswith(f"# {adapter.title}\n")
    for heading in ("## Set up", "## What becomes what", "## What is ignored", "## Test it", "## When it is refused"):
        assert f"\n{heading}" in text, heading
    assert "## Remove" in text
    assert any(case.adapter is adapter for case in CASES)


@EVERY_ADAPTER
def test_its_blueprint_is_a_real_one(adapter: Adapter) -> None:
    app = Flask("alone")
    blueprint = adapter.blueprint()
    assert isinstance(blueprint, Blueprint)
    app.register_blueprint(blueprint)
    assert f"/api/v1/webhooks/{adapter.name}/<tenant>" in {rule.rule for rule in app.url_map.iter_rules()}


# ---------------------------------------------------------------- golden files


@EVERY_CASE
def test_a_fixture_becomes_what_its_expected_file_says(case: Case) -> None:
    assert case.translated() == case.expected, "make fixtures writes what the code says; read it before committing"


@EVERY_CASE
def test_every_expected_alert_is_a_canonical_one(case: Case) -> None:
    for one in case.expected["alerts"]:
        if "hostname" in one:
            canonical = {name: value for name, value in one.items() if name not in ("opens", "expires_at")}
            _, warnings = parse_alert(json.dumps(canonical).encode(), ALL_STATUSES)
            assert all("U+FFFD" in warning for warning in warnings)


@on_postgresql  # which refuses more of what is to be stored
@EVERY_ADAPTER
def test_every_fixture_goes_through_the_real_door(alice: Tenant, adapter: Adapter, subtests: pytest.Subtests) -> None:
    for case in cases_of(adapter):
        with subtests.test(case=str(case)):
            sender = source(alice, case.adapter, **case.options)
            answer = sender.send(case.body, case.shape.path, method=case.shape.methods[-1])
            assert answer.status_code == 202, answer.get_data()
            found = answer.get_json()
            assert set(found) == {"delivery_id", "alerts"}
            assert len(found["alerts"]) == len(case.expected["alerts"])
            for expected, stored in zip(case.expected["alerts"], found["alerts"], strict=True):
                assert set(stored) == {"outcome", "incident_id", "reason"}
                check(alice, expected, stored)
            delivery = alice.get(f"/deliveries/{found['delivery_id']}")
            assert (delivery["adapter"], delivery["accepted"]) == (case.adapter.name, True)
            assert delivery["message"] == case.expected.get("remark")
            assert [one["outcome"] for one in delivery["alerts"]] == [one["outcome"] for one in found["alerts"]]


def check(alice: Tenant, expected: dict[str, Any], stored: dict[str, Any]) -> None:
    """One answer is what the expected file lets expect."""
    if "ignored" in expected or "rejected" in expected:
        outcome = "ignored" if "ignored" in expected else "rejected"
        assert stored == {"outcome": outcome, "incident_id": None, "reason": expected[outcome]}
        return
    if expected["status"] == "firing" and "expires_at" not in expected:
        assert stored["incident_id"], stored
    assert stored["outcome"] in TAKEN
    if stored["outcome"] == "created":
        incident = alice.incident(stored["incident_id"])
        assert (incident["hostname"], incident["incident_type"]) == (expected["hostname"], expected["incident_type"])
        assert incident["source"] != "canonical"


@on_sqlite  # the identity and the times of an alert are told before any database is asked
@EVERY_ADAPTER
def test_a_fixture_sent_twice_counts_nothing_twice(alice: Tenant, adapter: Adapter, subtests: pytest.Subtests) -> None:
    timed = [
        case
        for case in cases_of(adapter)
        if all("occurred_at" in one or "hostname" not in one for one in case.expected["alerts"])
    ]
    assert timed
    for case in timed:
        with subtests.test(case=str(case)):
            sender = source(alice, case.adapter, **case.options)
            first = sender.alerts(case.body, case.shape.path)
            again = sender.alerts(case.body, case.shape.path)
            assert {one["outcome"] for one in again} <= {"duplicate", "ignored", "rejected"}
            for incident_id in {one["incident_id"] for one in first} - {None}:
                told = [one["outcome"] for one in first if one["incident_id"] == incident_id]
                occurrences = told.count("created") + told.count("updated")
                assert alice.incident(incident_id)["occurrences"] <= occurrences


@on_sqlite
@EVERY_ADAPTER
def test_two_sources_with_equal_alerts_stay_apart(alice: Tenant, adapter: Adapter) -> None:
    case = opening(adapter, adapter.formats[0])
    first = source(alice, adapter, **case.options).alerts(case.body)
    second = source(alice, adapter, **case.options).alerts(case.body)
    assert {one["incident_id"] for one in first}.isdisjoint({one["incident_id"] for one in second} - {None})
    assert "created" in {one["outcome"] for one in second}


# ---------------------------------------------------------------- odd bodies

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1.5, 10**30, "", "x", "\x00\ud800", "x" * 100_000),
    *([], [1], [None, {}], [[[[]]]], {}, {"a": 1}, {"\x00": {"b": [{}]}}),
)


def places(value: Any, depth: int = 3) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a body, down to some depth; of a list its first two entries."""
    if depth == 0:
        return
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, child in entries:
        yield (key,)
        yield from ((key, *path) for path in places(child, depth - 1))


def changed(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`body` with another value at `path`; with the path itself taken out when the value is `...`."""
    result = copy.deepcopy(body)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return result


def spoilt(body: Any) -> Iterator[Any]:
    for path in places(body):
        for value in (..., *ODD):
            yield changed(body, path, value)


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


@on_sqlite
@EVERY_FORMAT
def test_no_odd_body_is_an_error_of_ours(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    sender = source(alice, adapter, **case.options)
    bodies = [encoded(body) for body in (*ODD, *spoilt(json.loads(case.body)))]
    answers = {body: sender.send(body, shape.path) for body in bodies}
    assert len(answers) > 100
    for body, answer in answers.items():
        assert answer.status_code in (202, 400, 422), (answer.status_code, body[:500])
        if answer.status_code == 422:
            assert refused(answer, 422, "unsupported_envelope")["message"]


@on_sqlite
@each(LISTS)
def test_an_odd_alert_costs_no_sibling(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    body = json.loads(case.body)
    envelope = {"alerts": body} if shape.array else body
    sender = source(alice, adapter, **case.options)
    place = next(number for number, one in enumerate(case.expected["alerts"]) if one.get("status") == "firing")
    good = envelope["alerts"][place]
    odd = [*ODD, *spoilt(good)]
    alerts = [*odd[::2], good, *odd[1::2]]
    stored = sender.alerts(alerts if shape.array else envelope | {"alerts": alerts}, shape.path)
    assert len(stored) == len(alerts)
    firing = "expires_at" not in case.expected["alerts"][place]
    assert stored[len(odd[::2])]["outcome"] in (("created", "updated", "duplicate") if firing else TAKEN)
    for alert, one in zip(alerts, stored, strict=True):
        assert (one["outcome"] == "rejected") == (not isinstance(alert, dict)), (alert, one)


@on_sqlite
@each(ENVELOPES)
def test_odd_words_around_the_alerts_cost_none_of_them(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    body = json.loads(case.body)
    sender = source(alice, adapter, **case.options)
    for path in places({name: value for name, value in body.items() if name != "alerts"}):
        for value in (..., *ODD):
            stored = sender.alerts(changed(body, path, value), shape.path)
            assert {one["outcome"] for one in stored} <= set(TAKEN), (path, value)


@on_sqlite
@EVERY_FORMAT
def test_deep_nesting_is_refused_or_kept_and_never_an_error(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    sender = source(alice, adapter, **case.options)
    for levels in (20, 28, 40, 900, 100_000):
        for opening_, closing in (("[", "]"), ('{"a":', "}")):
            deep = opening_ * levels + "1" * (opening_ == '{"a":') + closing * levels
            text = case.body.decode().rstrip()[:-1] + (f', "deep": {deep}}}' if not shape.array else f", {deep}]")
            answer = sender.send(text.encode(), shape.path)
            assert answer.status_code in (202, 400), (levels, answer.get_data()[:200])
            if levels >= 40:
                refused(answer, 400, "too_deep")
            if levels == 20:
                assert answer.status_code == 202


@pytest.mark.parametrize(
    ("database_url", "adapter", "shape"),
    [("sqlite", *LISTS[0]), *(("postgresql", *one) for one in LISTS)],
    ids=lambda value: getattr(value, "name", None) or str(getattr(value, "path", value)).replace("/", "-"),
    indirect=["database_url"],
)
def test_ten_thousand_alerts_in_one_body_are_ten_thousand_outcomes(
    make_app: Callable[[Settings], Flask], settings: Settings, alice: Tenant, adapter: Adapter, shape: Format
) -> None:
    case = opening(adapter, shape)
    body = json.loads(case.body)
    entries = body if shape.array else body["alerts"]
    large = dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, max_body_bytes=50_000_000)))
    sender = source(large, adapter, **case.options)
    place = next(number for number, one in enumerate(case.expected["alerts"]) if one.get("status") == "firing")
    many = [
        entries[place] | {"fingerprint": f"{number:016x}", "labels": {"alertname": "Storm", "n": str(number)}}
        for number in range(10_000)
    ]
    stored = sender.alerts(many if shape.array else body | {"alerts": many}, shape.path)
    assert len(stored) == 10_000
    assert {one["outcome"] for one in stored} == {
        "ignored" if "expires_at" in case.expected["alerts"][place] else "created"
    }


@EVERY_FORMAT
def test_evidence_over_the_limit_is_cut_and_the_raw_body_kept(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    body = json.loads(case.body)
    sender = source(alice, adapter, **case.options)
    huge = encoded(stuffed(body))
    answer = sender.send(huge, shape.path)
    assert answer.status_code == 202
    delivery = alice.get(f"/deliveries/{answer.get_json()['delivery_id']}")
    assert delivery["body"].encode() == huge
    for expected, stored in zip(case.expected["alerts"], answer.get_json()["alerts"], strict=True):
        assert (stored["outcome"] == "rejected") == ("rejected" in expected), stored
    shown = [one["incident_id"] for one in answer.get_json()["alerts"] if one["incident_id"]]
    assert shown or "expires_at" in case.expected["alerts"][0]
    for incident_id in shown:
        assert len(json.dumps(alice.incident(incident_id)["evidence"])) <= MAX_EVIDENCE_BYTES * 1.1


def stuffed(value: Any) -> Any:
    """Every text but the short ones that steer is 300 KB longer."""
    if isinstance(value, dict):
        grown = {name: stuffed(child) for name, child in value.items()}
        return grown | ({"note": "n" * 300_000} if "summary" in value or "description" in value else {})
    if isinstance(value, list):
        return [stuffed(child) for child in value]
    return value + " " * 20 + "long " * 60_000 if isinstance(value, str) and " " in value else value


# ---------------------------------------------------------------- who may not


@on_sqlite
@EVERY_FORMAT
def test_whoever_is_not_a_source_gets_one_and_the_same_answer(
    alice: Tenant, charlie: Tenant, adapter: Adapter, shape: Format
) -> None:
    case = opening(adapter, shape)
    hers, his = source(alice, adapter, **case.options), source(charlie, adapter, **case.options)
    others = alice.source(next(name for name in ADAPTERS if name != adapter.name))
    before = rows(alice.app)
    nobody = dataclasses.replace(hers, slug="nobody")
    strangers = [
        hers.send(case.body, shape.path, Authorization="Bearer ors_wrong"),
        hers.send(case.body, shape.path, Authorization="Bearer " + his.token),
        hers.send(case.body, shape.path, Authorization="Bearer " + others.token),
        hers.send(case.body, shape.path, Authorization="Bearer " + alice.token),
        hers.send(case.body, shape.path, Authorization="Basic bm9jb2xvbg=="),
        hers.send(case.body, shape.path, Authorization="Basic !!!"),
        hers.send(case.body, shape.path, Authorization="Bearer \u00e9\u00ff"),
        hers.send(case.body, shape.path, **{"X-OpenRemedy-Signature": "sha256=" + "0" * 64}),
        hers.send(case.body, f"{shape.path}?token={hers.token}", **{"X-Nothing": "x"}),
        nobody.send(case.body, shape.path),
        nobody.send(b"not json", shape.path),
    ]
    answers = {without_counts(seen_from_outside(answer)) for answer in strangers}
    assert len(answers) == 1
    refused(strangers[0], 401, "unauthorized")
    after = rows(alice.app)
    assert {name: count for name, count in after.items() if name not in ("deliveries", "refusal_counts")} == {
        name: count for name, count in before.items() if name not in ("deliveries", "refusal_counts")
    }


def without_counts(seen: tuple[int, bytes, list[tuple[str, str]]]) -> tuple[Any, ...]:
    """How many tries are left is another number each time."""
    status, body, headers = seen
    return status, body, tuple(header for header in headers if not header[0].startswith("X-RateLimit"))


@on_sqlite
@EVERY_FORMAT
def test_a_wrong_method_is_405_without_a_word_about_the_tenant(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    sender = source(alice, adapter)
    for method in {"GET", "PUT", "DELETE", "OPTIONS", "PATCH"} - set(shape.methods):
        hers, nobodys = (
            one.send(b"{}", shape.path, method=method) for one in (sender, dataclasses.replace(sender, slug="x"))
        )
        assert hers.status_code == 405
        assert set(hers.headers["Allow"].split(", ")) - {"HEAD"} == set(shape.methods)
        assert without_counts(seen_from_outside(hers)) == without_counts(seen_from_outside(nobodys))


@on_sqlite
@EVERY_FORMAT
def test_a_trailing_slash_is_the_same_and_nothing_redirects(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    case = opening(adapter, shape)
    assert source(alice, adapter, **case.options).send(case.body, shape.path + "/").status_code == 202


@on_sqlite
@EVERY_FORMAT
def test_size_and_compression_are_refused_before_anything_is_read(
    make_app: Callable[[Settings], Flask], settings: Settings, alice: Tenant, adapter: Adapter, shape: Format
) -> None:
    small = dataclasses.replace(alice, app=make_app(dataclasses.replace(settings, max_body_bytes=100)))
    sender = source(small, adapter)
    refused(sender.send(b"{" * 101, shape.path), 413, "too_large")
    refused(sender.send(b"{" * 101, shape.path, Authorization="Bearer wrong"), 413, "too_large")
    refused(sender.send(b"{}", shape.path, **{"Content-Encoding": "gzip"}), 415, "unsupported_encoding")


@on_sqlite
@EVERY_FORMAT
def test_what_is_no_json_is_told_where(alice: Tenant, adapter: Adapter, shape: Format) -> None:
    sender = source(alice, adapter)
    for body, code in (
        *((b"", "invalid_json"), (b"{", "invalid_json"), (b"\xff", "invalid_json"), (b'{"a":1}x', "invalid_json")),
        *((b'{"a":1,"a":2}', "duplicate_key"), (b'{"a":NaN}', "invalid_number"), (b'"x"', "not_an_object")),
        *((b"{}" if shape.array else b"[]", "not_an_object"), (b"null", "not_an_object")),
    ):
        assert refused(sender.send(body, shape.path), 400, code)["message"]


def test_an_alert_that_its_adapter_stumbles_over_is_a_page_all_the_same(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of an adapter costs the translation of one alert, never the alert and never its siblings."""
    case = opening(ADAPTERS["alertmanager"], ADAPTERS["alertmanager"].formats[0])
    shape = alice.app.extensions["openremedy.adapters"]["alertmanager"].formats[0]
    good = shape.translate

    def stumbling(entry: Any, payload: Any) -> Any:
        return good(entry, payload) if entry["labels"].get("instance") != "bad:1" else 1 / 0

    monkeypatch.setitem(shape.__dict__, "translate", stumbling)
    body = json.loads(case.body)
    sender = alice.source("alertmanager")
    stored = sender.alerts(body | {"alerts": [{"labels": {"instance": "bad:1"}}, *body["alerts"]]})
    assert [one["outcome"] for one in stored] == ["created"] * len(stored)
    incident = alice.incident(stored[0]["incident_id"])
    assert (incident["hostname"], incident["incident_type"]) == ("unknown", "custom")
    assert incident["evidence"]["alert"] == {"labels": {"instance": "bad:1"}}


def test_an_alert_that_is_not_canonical_is_rejected_beside_its_siblings(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = alice.app.extensions["openremedy.adapters"]["alertmanager"].formats[0]
    good = shape.translate

    def nameless(entry: Any, payload: Any) -> Any:
        found = good(entry, payload)
        wrong: Alert = dataclasses.replace(found.alert, incident_type="no_such_type")
        return dataclasses.replace(found, alert=wrong) if entry["labels"].get("instance") == "bad:1" else found

    monkeypatch.setitem(shape.__dict__, "translate", nameless)
    alerts = [{"labels": {"instance": f"{name}:1"}} for name in ("good", "bad", "other")]
    stored = alice.source("alertmanager").alerts({"alerts": alerts})
    assert [one["outcome"] for one in stored] == ["created", "rejected", "created"]
    assert "incident_type" in stored[1]["reason"]
