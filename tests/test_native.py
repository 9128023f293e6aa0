"""Native bodies and the database: one transaction, few round trips, many at once, everything of a body or nothing."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import time_machine
from flask import Flask
from sqlalchemy import event

from answers import rows
from cast import Source, Tenant
from conftest import make_settings, make_tenant
from openremedy import store
from openremedy.app import create_app
from openremedy.errors import Unavailable
from openremedy.extensions import db
from openremedy.services import services
from services import PostgresServer
from stack import Stack

ONLY_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def at(minute: int) -> str:
    return f"2026-03-02T08:{minute:02}:00Z"


def alert(number: int = 0, status: str = "firing", starts: int = 0, ends: int = 30, **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "Storm", "n": str(number)} | labels,
        "annotations": {"summary": "something is wrong"},
        "startsAt": at(starts),
        "endsAt": at(ends) if status == "resolved" else "0001-01-01T00:00:00Z",
    }


def body(*alerts: Any) -> dict[str, Any]:
    return {"version": "4", "alerts": list(alerts)}


@pytest.fixture
def source(alice: Tenant) -> Source:
    return alice.source("alertmanager")


def outcomes(found: list[dict[str, Any]]) -> list[str]:
    return [one["outcome"] for one in found]


# ---------------------------------------------------------------- one body


def test_one_identity_twice_in_a_body_is_one_incident_in_event_order(alice: Tenant, source: Source) -> None:
    found = source.alerts(body(alert(starts=10, team="web"), alert(starts=10, team="web"), alert(starts=5, team="web")))
    assert len({one["incident_id"] for one in found}) == 1
    assert outcomes(found) == ["updated", "duplicate", "created"]
    assert alice.incident(found[0]["incident_id"])["occurrences"] == 2


def test_firing_and_resolved_of_one_identity_in_a_body_end_in_event_order(alice: Tenant, source: Source) -> None:
    found = source.alerts(body(alert(status="resolved", ends=30), alert(starts=10)))
    assert outcomes(found) == ["resolved", "created"]
    assert alice.incident(found[0]["incident_id"])["status"] == "resolved"
    again = source.alerts(body(alert(starts=40), alert(status="resolved", ends=30)))
    assert outcomes(again) == ["created", "ignored"]
    assert alice.incident(again[0]["incident_id"])["status"] == "open"


def test_a_late_firing_does_not_open_what_its_tool_has_closed(alice: Tenant, source: Source) -> None:
    source.alerts(body(alert(starts=10)))
    source.alerts(body(alert(status="resolved", ends=30)))
    assert outcomes(source.alerts(body(alert(starts=10)))) == ["duplicate"]
    assert {one["status"] for one in alice.incidents()} == {"resolved"}


def test_what_alertmanager_still_says_long_after_its_end_burns(alice: Tenant, source: Source) -> None:
    """Prometheus was cut off from it until it believed that the alert was over; its start is still the first one."""
    (first,) = source.alerts(body(alert(starts=10)))
    source.alerts(body(alert(status="resolved", starts=10, ends=30)))
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=4)):
        assert outcomes(source.alerts(body(alert(starts=10)))) == ["duplicate"], "or a late copy"
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=6)):
        (again,) = source.alerts(body(alert(starts=10)))
        (repeated,) = source.alerts(body(alert(starts=10)))
        incident = alice.incident(again["incident_id"])
        assert outcomes([again, repeated]) == ["created", "duplicate"]
        assert (incident["previous_incident_id"], incident["still_firing"]) == (first["incident_id"], True)
        assert outcomes(source.alerts(body(alert(status="resolved", starts=10, ends=50)))) == ["resolved"]


def test_two_sources_with_equal_labels_stay_apart(alice: Tenant, source: Source) -> None:
    other = alice.source("alertmanager")
    first, second = (one.alerts(body(alert()))[0]["incident_id"] for one in (source, other))
    assert first != second
    source.alerts(body(alert(status="resolved")))
    assert alice.incident(first)["status"] == "resolved"
    assert alice.incident(second)["status"] == "open"
    assert {one["source"] for one in alice.incidents()} == {"alertmanager", "alertmanager-2"}


@pytest.mark.usefixtures("in_transactions")
def test_of_a_body_that_cannot_be_stored_whole_nothing_is_stored(
    alice: Tenant, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.alerts(body(alert(99)))
    before = rows(alice.app)

    def broken(*_: Any) -> None:
        raise Unavailable()

    monkeypatch.setattr(store, "_write_timeline", broken)
    assert source.send(body(*map(alert, range(5)))).status_code == 503
    assert rows(alice.app) == before


# ---------------------------------------------------------------- round trips


@pytest.fixture
def statements(alice: Tenant) -> Iterator[list[str]]:
    """Every statement that is sent; one that has many rows is one."""
    with alice.app.app_context():
        engine = db.engine
    seen: list[str] = []

    def sent(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", sent)
    yield seen
    event.remove(engine, "before_cursor_execute", sent)


@pytest.mark.parametrize("starts", [[0, 0], [0, 5]], ids=["new", "repeated"])
def test_fifty_alerts_cost_as_many_statements_as_one(source: Source, statements: list[str], starts: list[int]) -> None:
    """Of a body of new alerts, and of one that changes what is there."""
    used = []
    for count, first in ((1, 1000), (50, 2000)):
        source.send(body(*(alert(first + number) for number in range(count) if starts[1])))
        with source.app.app_context():
            services().sources._known.since(time.monotonic())
            services().directory._known.since(time.monotonic())
        statements.clear()
        source.send(body(*(alert(first + number, starts=starts[1]) for number in range(count))))
        used.append(Counter(statement.split("(")[0] for statement in statements))
    assert used[0] == used[1]


class Wire:
    """A relay in front of PostgreSQL that counts how often the client speaks and then waits for an answer."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.turns = 0
        self._from_client = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            for one, other, asks in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._relay, args=(one, other, asks), daemon=True).start()

    def _relay(self, one: socket.socket, other: socket.socket, asks: bool) -> None:
        with closing(one), closing(other):
            while part := self._read(one):
                if asks and not self._from_client:
                    self.turns += 1
                self._from_client = asks
                try:
                    other.sendall(part)
                except OSError:  # the other side has closed meanwhile
                    return

    @staticmethod
    def _read(one: socket.socket) -> bytes:
        try:
            return one.recv(1 << 20)
        except OSError:
            return b""

    def close(self) -> None:
        self._listener.close()


@ONLY_POSTGRESQL
def test_fifty_alerts_do_not_cost_fifty_round_trips(
    database_url: str, postgres_server: PostgresServer, tmp_path: Any
) -> None:
    wire = Wire(postgres_server.port)
    app = create_app(make_settings(tmp_path, database_url.replace(str(postgres_server.port), str(wire.port))))
    try:
        source = make_tenant(app, "wired").source("alertmanager")
        source.send(body(alert(9999)))
        turns = []
        for count, first in ((1, 1000), (50, 2000)):
            before = wire.turns
            assert source.send(body(*(alert(first + number) for number in range(count)))).status_code == 202
            turns.append(wire.turns - before)
        assert turns[1] <= turns[0] + 8, "a large body may take some packets more, never one for each alert"
    finally:
        with app.app_context():
            services().tally.stop()
            db.engine.dispose()
        wire.close()


# ---------------------------------------------------------------- many at once


def test_twenty_bodies_of_the_same_alerts_in_reversed_order_are_each_stored_once(alice: Tenant, source: Source) -> None:
    forth = [alert(number) for number in range(30)]
    bodies = [body(*(forth if turn % 2 else forth[::-1])) for turn in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(source.send, bodies))
    assert {answer.status_code for answer in answers} == {202}
    found = Counter(one["outcome"] for answer in answers for one in answer.get_json()["alerts"])
    assert found == {"created": 30, "duplicate": 30 * 19}
    incidents = alice.incidents(limit=200)
    assert len(incidents) == 30
    assert {one["occurrences"] for one in incidents} == {1}
    assert alice.get(f"/sources/{source.id}")["outcomes"]["duplicate"] == 30 * 19


def test_firing_and_resolving_at_once_leave_nothing_open_that_its_tool_has_closed(
    alice: Tenant, source: Source
) -> None:
    firing = [body(*(alert(number, starts=5) for number in order)) for order in (range(20), range(19, -1, -1))] * 5
    ended = [body(*(alert(number, "resolved") for number in order)) for order in (range(20), range(19, -1, -1))] * 5
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(source.send, [one for pair in zip(firing, ended, strict=True) for one in pair]))
    assert {answer.status_code for answer in answers} == {202}
    assert {one["status"] for one in alice.incidents(limit=200)} == {"resolved"}


def test_two_kinds_of_bodies_of_one_source_at_once_are_each_counted(alice: Tenant, source: Source) -> None:
    """Heartbeats and alerts meet at the row of their source."""
    watchdog = {"status": "firing", "labels": {"alertname": "Watchdog"}}
    bodies = [body(watchdog, alert(number), watchdog) if number % 2 else body(watchdog) for number in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(source.send, bodies))
    assert {answer.status_code for answer in answers} == {202}
    counted = alice.get(f"/sources/{source.id}")["outcomes"]
    assert (counted["created"], counted["ignored"]) == (20, 60)


@ONLY_POSTGRESQL
def test_real_processes_take_them_too(stack: Stack) -> None:
    token = stack.create_tenant("alertmanager")[0]["token"]
    stack.start("web")
    url = f"{stack.url}/api/v1/webhooks/alertmanager/alice"
    forth = [alert(number) for number in range(50)]

    def post(turn: int) -> requests.Response:
        raw = json.dumps(body(*(forth if turn % 2 else forth[::-1])))
        return requests.post(url, data=raw, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert {answer.status_code for answer in answers} == {202}
    found = stack.incidents()
    assert len(found) == 50
    assert {one["occurrences"] for one in found} == {1}


# ---------------------------------------------------------------- without what is not needed


def test_a_pagerduty_event_is_answered_with_redis_away(alice: Tenant, app: Flask) -> None:
    """Every test here is without Redis, a model and PagerDuty's API; the bound is that nothing is waited for."""
    source = alice.source("pagerduty")
    found = source.alerts(pagerduty_event("incident.triggered", "2026-03-02T08:15:30Z"))
    assert outcomes(found) == ["created"]
    assert alice.incident(found[0]["incident_id"])["classification"] == "pending"


def pagerduty_event(kind: str, moment: str, **data: Any) -> dict[str, Any]:
    incident = {
        "id": "Q1AB2CD3EF4GH5",
        "type": "incident",
        "title": "Disk full on db-1.example.net",
        "status": "triggered",
        "urgency": "high",
        "service": {"id": "P1", "summary": "Databases", "type": "service_reference"},
    }
    return {
        "event": {
            "id": f"01{kind}",
            "event_type": kind,
            "resource_type": "incident",
            "occurred_at": moment,
            "data": incident | data,
        }
    }


def test_an_acknowledgement_from_pagerduty_opens_what_was_never_seen(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    (found,) = source.alerts(pagerduty_event("incident.acknowledged", at(10), status="acknowledged"))
    assert found["outcome"] == "created"
    assert alice.incident(found["incident_id"])["status"] == "acknowledged"
    (ended,) = source.alerts(pagerduty_event("incident.resolved", at(20), status="resolved"))
    assert (ended["outcome"], ended["incident_id"]) == ("resolved", found["incident_id"])
    (late,) = source.alerts(pagerduty_event("incident.acknowledged", at(15), status="acknowledged"))
    assert late["outcome"] == "ignored"
    assert len(alice.incidents()) == 1


def test_an_acknowledgement_acknowledges_what_is_open(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    (found,) = source.alerts(pagerduty_event("incident.triggered", at(5)))
    (acknowledged,) = source.alerts(pagerduty_event("incident.acknowledged", at(6), status="acknowledged"))
    assert (acknowledged["outcome"], acknowledged["incident_id"]) == ("updated", found["incident_id"])
    incident = alice.incident(found["incident_id"])
    assert (incident["status"], incident["occurrences"]) == ("acknowledged", 1)


def test_a_merge_says_on_the_timeline_into_what(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    source.alerts(pagerduty_event("incident.triggered", at(5)))
    reason = {"type": "merge_resolve_reason", "incident": {"id": "Q9PARENT", "html_url": "https://x.pagerduty.com/Q9"}}
    (found,) = source.alerts(pagerduty_event("incident.resolved", at(6), status="resolved", resolve_reason=reason))
    (line,) = [one for one in alice.incident(found["incident_id"])["timeline"] if one["kind"] == "resolved"]
    assert "Q9PARENT" in json.dumps(line["detail"])


def test_an_update_changes_severity_and_a_note_only_the_timeline(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    (found,) = source.alerts(pagerduty_event("incident.triggered", at(5)))
    source.alerts(pagerduty_event("incident.priority_updated", at(6), priority={"summary": "P1"}))
    incident = alice.incident(found["incident_id"])
    assert (incident["severity"], incident["occurrences"]) == ("critical", 1)
    note = pagerduty_event("incident.annotated", at(7))
    note["event"]["data"] = {
        "id": "PNOTE",
        "type": "incident_note",
        "content": "Restarted it",
        "incident": {"id": "Q1AB2CD3EF4GH5", "type": "incident_reference"},
    }
    (noted,) = source.alerts(note)
    assert (noted["outcome"], noted["incident_id"]) == ("updated", found["incident_id"])
    after = alice.incident(found["incident_id"])
    assert "Restarted it" in json.dumps(after["timeline"])
    assert (after["evidence"], after["severity"]) == (incident["evidence"], "critical")


def test_updates_and_notes_open_nothing(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    for kind in ("incident.priority_updated", "incident.escalated"):
        assert outcomes(source.alerts(pagerduty_event(kind, at(5)))) == ["ignored"]
    assert alice.incidents() == []
