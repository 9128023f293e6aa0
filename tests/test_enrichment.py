"""What a worker asks PagerDuty's API about a new incident: once, at a fixed address, never at the price of one."""

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flask import Flask

from cast import Source, Tenant
from openremedy import enrichment, workers
from openremedy.adapter import Adapter
from openremedy.extensions import db
from openremedy.services import services
from test_native import pagerduty_event

TOKEN = "api-token-of-pagerduty"
ANSWER = {
    "alerts": [
        {
            "id": "PALERT1",
            "summary": "Disk full",
            "severity": "critical",
            "body": {"details": {"source": "db-1.example.net", "incident_type": "disk_full", "free": "3 %"}},
        }
    ]
}


class Api:
    """A stand-in for api.pagerduty.com that says what it is told to and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.wait = 200, json.dumps(ANSWER).encode(), 0.0
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append((self.path, dict(self.headers)))
                time.sleep(api.wait)
                self.send_response(api.status)
                for name, value in api.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(api.body)))
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api(app: Flask) -> Iterator[Api]:
    """The API at the address that the PagerDuty adapter asks."""
    stand_in = Api()
    adapters: dict[str, Adapter] = app.extensions["openremedy.adapters"]
    adapter = adapters["pagerduty"]
    assert adapter.enrichment
    asked = dataclasses.replace(adapter.enrichment, base=lambda _options: stand_in.url)
    adapters["pagerduty"] = dataclasses.replace(adapter, enrichment=asked)
    yield stand_in
    stand_in.close()


@pytest.fixture
def source(alice: Tenant) -> Source:
    source = alice.source("pagerduty")
    answer = alice.app.test_client().patch(
        f"/api/v1/sources/{source.id}", json={"api_token": TOKEN}, headers=alice.auth
    )
    assert answer.status_code == 200
    return source


def classify(app: Flask) -> None:
    """What a job of a worker does."""
    with app.app_context():
        asyncio.run(workers.classifier(services().settings).run())
        db.session.remove()


def opened(source: Source, moment: str = "2026-03-02T08:15:30Z") -> str:
    (found,) = source.alerts(pagerduty_event("incident.triggered", moment, title="Something is wrong"))
    incident_id: str = found["incident_id"]
    return incident_id


def test_the_api_tells_what_the_webhook_left_out(alice: Tenant, source: Source, api: Api) -> None:
    incident_id = opened(source)
    assert alice.incident(incident_id)["hostname"] == "service:Databases"
    classify(alice.app)
    incident = alice.incident(incident_id)
    assert (incident["hostname"], incident["incident_type"]) == ("db-1.example.net", "disk_full")
    assert incident["evidence"]["enrichment"]["alerts"][0]["summary"] == "Disk full"
    assert incident["evidence"]["title"] == "Something is wrong"
    assert incident["classification"] in ("done", "needs_human")
    assert [one["actor"] for one in incident["timeline"] if one["kind"] == "enriched"] == ["PagerDuty"]
    ((path, headers),) = api.asked
    assert path.startswith("/incidents/Q1AB2CD3EF4GH5/alerts?")
    assert headers["Authorization"] == f"Token token={TOKEN}"


def test_it_is_asked_once_and_a_newer_alert_does_not_wipe_it_out(alice: Tenant, source: Source, api: Api) -> None:
    incident_id = opened(source)
    classify(alice.app)
    source.alerts(pagerduty_event("incident.priority_updated", "2026-03-02T08:20:00Z", priority={"summary": "P1"}))
    alice.post(f"/incidents/{incident_id}/reclassify")
    classify(alice.app)
    assert len(api.asked) == 1
    incident = alice.incident(incident_id)
    assert incident["evidence"]["enrichment"]["alerts"]
    assert (incident["hostname"], incident["severity"]) == ("db-1.example.net", "critical")


def test_without_a_token_nothing_is_asked(alice: Tenant, api: Api) -> None:
    incident_id = opened(alice.source("pagerduty"))
    classify(alice.app)
    assert api.asked == []
    assert "enrichment" not in alice.incident(incident_id)["evidence"]


def test_an_id_that_is_none_of_pagerdutys_is_not_asked_about(alice: Tenant, source: Source, api: Api) -> None:
    for incident_id in ("../users", "Q1/../../x", "http://evil.example/", "q1", "Q1?a=b", "Q1%2F"):
        source.alerts(pagerduty_event("incident.triggered", "2026-03-02T08:15:30Z", id=incident_id))
    classify(alice.app)
    assert api.asked == []


def test_a_url_in_the_webhook_is_never_followed(alice: Tenant, source: Source, api: Api) -> None:
    elsewhere = Api()
    url = f"{elsewhere.url}/incidents/Q1AB2CD3EF4GH5"
    source.alerts(pagerduty_event("incident.triggered", "2026-03-02T08:15:30Z", self=url, html_url=url))
    classify(alice.app)
    assert len(api.asked) == 1
    assert elsewhere.asked == []
    elsewhere.close()


def say(api: Api, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
    api.status, api.body, api.headers = status, body, headers


FAULTS: dict[str, tuple[Callable[[Api], None], str]] = {
    "refused": (lambda api: say(api, 401), "the API answered 401"),
    "broken": (lambda api: say(api, 500), "the API answered 500"),
    "redirected": (lambda api: say(api, 302, Location=api.url), "the API answered 302"),
    "no-json": (lambda api: say(api, body=b"<html>"), "not JSON"),
    "no-number": (lambda api: say(api, body=b'{"alerts": [NaN]}'), "not JSON"),
    "too-deep": (lambda api: say(api, body=b"[" * 100_000), "not JSON"),
    "too-large": (lambda api: say(api, body=b'"' + b"x" * 2_000_000 + b'"'), "too large"),
    "gone": (lambda api: api.close(), "cannot be reached"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_api_that_fails_costs_the_incident_nothing(
    alice: Tenant, source: Source, api: Api, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    inject, words = FAULTS[fault]
    inject(api)
    incident_id = opened(source)
    classify(alice.app)
    incident = alice.incident(incident_id)
    assert incident["classification"] in ("done", "needs_human")
    assert incident["hostname"] == "service:Databases"
    assert words in incident["evidence"]["enrichment"]["error"]
    assert TOKEN not in json.dumps(incident)
    assert TOKEN not in "".join(capfd.readouterr())


def test_an_api_that_hangs_is_not_waited_for(
    alice: Tenant, source: Source, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment, "DEADLINE", 0.2)
    api.wait = 3
    incident_id = opened(source)
    classify(alice.app)
    assert "did not answer" in alice.incident(incident_id)["evidence"]["enrichment"]["error"]


def test_an_answer_of_any_shape_is_taken_or_left(alice: Tenant, source: Source, api: Api) -> None:
    shapes = [
        None,
        1,
        "x",
        [],
        {},
        {"alerts": None},
        {"alerts": [None, 1, "x", [], {"body": 5}, {"body": {"details": "\x00"}}]},
    ]
    for number, shape in enumerate(shapes):
        api.body = json.dumps(shape).encode()
        source.alerts(pagerduty_event("incident.triggered", "2026-03-02T08:15:30Z", id=f"Q{number}"))
        classify(alice.app)
    assert {one["classification"] for one in alice.incidents()} <= {"done", "needs_human"}
    assert len(api.asked) == len(shapes)


def test_an_adapter_that_stumbles_over_the_answer_costs_nothing(alice: Tenant, source: Source, api: Api) -> None:
    adapters = alice.app.extensions["openremedy.adapters"]
    broken = dataclasses.replace(adapters["pagerduty"].enrichment, read=lambda _answer: {}["missing"])
    adapters["pagerduty"] = dataclasses.replace(adapters["pagerduty"], enrichment=broken)
    incident_id = opened(source)
    classify(alice.app)
    assert "could not be asked (KeyError)" in alice.incident(incident_id)["evidence"]["enrichment"]["error"]


def test_a_token_that_no_key_opens_is_as_none(alice: Tenant, source: Source, api: Api) -> None:
    with alice.app.app_context():
        db.session.execute(db.text("UPDATE source_secrets SET locked = 'of another key'"))
        db.session.commit()
    incident_id = opened(source)
    classify(alice.app)
    assert api.asked == []
    assert alice.incident(incident_id)["classification"] in ("done", "needs_human")
