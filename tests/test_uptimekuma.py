"""What becomes of incidents when Uptime Kuma tells of outages, certificates and maintenance, through the real door."""

import json
from pathlib import Path
from typing import Any

import pytest

from answers import refused
from cast import Tenant

FIXTURES = Path(__file__).parent.parent / "adapters/uptimekuma/fixtures"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))


def test_an_outage_is_one_incident_however_often_it_is_told(alice: Tenant) -> None:
    source = alice.source("uptimekuma")
    told = [source.alerts(fixture(f"v2_http_{name}"))[0] for name in ("down", "down", "down_again", "up", "up")]
    assert [one["outcome"] for one in told] == ["created", "duplicate", "updated", "resolved", "ignored"]
    incident = alice.incident(told[0]["incident_id"])
    assert (incident["status"], incident["occurrences"]) == ("resolved", 2)
    assert {one["incident_id"] for one in told[:4]} == {incident["id"]}


@on_sqlite
def test_a_repetition_opens_what_the_first_notification_could_not(alice: Tenant) -> None:
    (stored,) = alice.source("uptimekuma").alerts(fixture("v2_http_down_again"))
    assert stored["outcome"] == "created"


@on_sqlite
def test_a_maintenance_leaves_what_is_open_open(alice: Tenant) -> None:
    source = alice.source("uptimekuma")
    (opened,) = source.alerts(fixture("v1_http_down"))
    assert source.alerts(fixture("maintenance"))[0]["outcome"] == "ignored"
    assert alice.incident(opened["incident_id"])["status"] == "open"


@on_sqlite
def test_a_certificate_that_expires_is_one_incident_until_it_does(alice: Tenant) -> None:
    source = alice.source("uptimekuma")
    notice = fixture("certificate_v1")
    (first,) = source.alerts(notice)
    notice["msg"] = notice["msg"].replace("in 7 days", "in -1 days")
    (second,) = source.alerts(notice)
    assert (first["outcome"], second["outcome"]) == ("created", "updated")
    incident = alice.incident(second["incident_id"])
    assert (incident["hostname"], incident["evidence"]["days_left"]) == ("shop.example.com", -1)
    (other,) = source.alerts(fixture("certificate_v2"))
    assert other["incident_id"] != first["incident_id"]


def form(body: Any, name: str = "data") -> bytes:
    lines = ["--------axios-1", f'Content-Disposition: form-data; name="{name}"', "", json.dumps(body)]
    return "\r\n".join([*lines, "--------axios-1--", ""]).encode()


@on_sqlite
def test_a_form_of_several_parts_is_read_like_json_and_replayed(alice: Tenant) -> None:
    source = alice.source("uptimekuma")
    kind = {"Authorization": f"Bearer {source.token}", "Content-Type": "multipart/form-data; boundary=------axios-1"}
    for name, outcome in (("v1_http_down", "created"), ("v1_http_up", "resolved")):
        answer = source.send(form(fixture(name)), **kind)
        assert answer.get_json()["alerts"][0]["outcome"] == outcome
    shown = alice.app.test_cli_runner().invoke(args=["replay", answer.get_json()["delivery_id"], "--dry-run", "--json"])
    assert "shop.example.com" in shown.output, shown.output
    refused(source.send(form(fixture("v1_http_down"), "other"), **kind), 400, "invalid_json")
    refused(source.send(b"--x\r\nno form at all", **kind), 400, "invalid_json")
    refused(source.send(form({"a": 1}), **kind), 422, "unsupported_envelope")


@on_sqlite
def test_a_file_in_a_form_needs_no_disk(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    file = 'Content-Disposition: form-data; name="log"; filename="x"\r\n\r\n' + "x" * 600_000
    body = f"--------axios-1\r\n{file}\r\n".encode() + form(fixture("v1_http_down"))
    source = alice.source("uptimekuma")
    kind = {"Authorization": f"Bearer {source.token}", "Content-Type": "multipart/form-data; boundary=------axios-1"}
    assert source.alerts(body, **kind)[0]["outcome"] == "created"
