"""DESIGN 3.4 as its users see it: posts to the endpoint, incidents in the API, on both databases."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, update

from bodies import NOON, alert, put, tenant_id
from cast import Member, Tenant
from openremedy import maintenance, store
from openremedy.extensions import db
from openremedy.models import Incident, Source, now


def at(minutes: float) -> str:
    """A time by the sender's clock, as a sender writes it."""
    return (NOON + timedelta(minutes=minutes)).isoformat()


def kinds(incident: dict[str, Any]) -> list[str]:
    return [entry["kind"] for entry in incident["timeline"]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves our clock forward by minutes."""
    moved = timedelta()

    def move(minutes: float) -> None:
        nonlocal moved
        moved += timedelta(minutes=minutes)

    monkeypatch.setattr(store, "now", lambda: datetime.now(UTC) + moved)
    return move


# ---------------------------------------------------------------- one episode


def test_the_first_alert_opens_an_incident(alice: Tenant) -> None:
    answer = alice.alert(severity="high", dedup_key="Disk-1")
    assert answer["outcome"] == "created"
    found = alice.incident(answer["incident_id"])
    assert found["status"] == "open"
    assert found["first_seen"] == found["last_seen"]
    expected = {
        "hostname": "web-01",
        "incident_type": "disk_full",
        "severity": "high",
        "source": "canonical",
        "dedup_key": "Disk-1",
        "occurrences": 1,
        "resolved_at": None,
        "previous_incident_id": None,
        "still_firing": False,
        "flapping": False,
        "classification": "pending",
        "verdict": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert kinds(found) == ["opened"]


def test_the_same_body_again_is_one_more_occurrence(alice: Tenant) -> None:
    first, second = alice.alert(), alice.alert()
    assert (second["outcome"], second["incident_id"]) == ("updated", first["incident_id"])
    assert second["delivery_id"] != first["delivery_id"]
    [found] = alice.incidents()
    assert found["occurrences"] == 2
    assert found["last_seen"] > found["first_seen"]
    assert kinds(alice.incident(found["id"])) == ["opened", "repeated"]


def test_the_same_event_again_is_a_duplicate(alice: Tenant) -> None:
    first = alice.alert(occurred_at="2026-03-01T12:00:00Z")
    again = alice.alert(occurred_at="2026-03-01T13:00:00.000+01:00")
    assert (again["outcome"], again["incident_id"]) == ("duplicate", first["incident_id"])
    [found] = alice.incidents()
    assert found["occurrences"] == 1
    assert found["last_seen"] > found["first_seen"]
    assert kinds(alice.incident(found["id"])) == ["opened", "duplicate"]


def test_the_newest_event_gives_severity_and_evidence(alice: Tenant) -> None:
    number = alice.alert(occurred_at=at(0), severity="low", evidence={"mount": "/var", "percent": 91})["incident_id"]
    newest = {"mount": "/var", "percent": 99}
    alice.alert(occurred_at=at(2), severity="critical", evidence=newest)
    assert alice.alert(occurred_at=at(1), severity="info", evidence={"mount": "/var"})["outcome"] == "updated"
    found = alice.incident(number)
    assert (found["severity"], found["evidence"], found["occurrences"]) == ("critical", newest, 3)
    assert kinds(found) == ["opened", "severity_changed", "repeated", "repeated"]
    [changed] = [entry for entry in found["timeline"] if entry["kind"] == "severity_changed"]
    assert (changed["actor"], changed["detail"]) == ("sender", {"before": "low", "after": "critical"})


def test_acknowledge_and_resolve_by_the_sender(alice: Tenant) -> None:
    number = alice.alert()["incident_id"]
    answers = [alice.alert(status=status) for status in ("acknowledged", "firing", "resolved")]
    assert [one["outcome"] for one in answers] == ["updated", "updated", "resolved"]
    assert {one["incident_id"] for one in answers} == {number}
    found = alice.incident(number)
    assert (found["status"], found["occurrences"]) == ("resolved", 2)
    assert found["resolved_at"] == found["last_seen"]
    assert kinds(found) == ["opened", "acknowledged", "repeated", "resolved"]


@pytest.mark.parametrize("status", ["acknowledged", "resolved"])
def test_it_ignores_and_keeps_what_finds_nothing_open(alice: Tenant, status: str) -> None:
    answer = alice.alert(status=status)
    assert (answer["outcome"], answer["incident_id"]) == ("ignored", None)
    assert alice.incidents() == []
    [kept] = alice.get(f"/deliveries/{answer['delivery_id']}")["alerts"]
    assert kept["outcome"] == "ignored"


def test_every_alert_of_an_incident_is_listed_with_its_outcome(alice: Tenant) -> None:
    number = alice.alert(occurred_at=at(0))["incident_id"]
    for status, minutes in (("firing", 0), ("resolved", 5), ("firing", 3)):
        alice.alert(status=status, occurred_at=at(minutes))
    found = [(one["status"], one["outcome"]) for one in alice.incident(number)["alerts"]]
    assert found[::-1] == [
        ("firing", "created"),
        ("firing", "duplicate"),
        ("resolved", "resolved"),
        ("firing", "duplicate"),
    ]


# ---------------------------------------------------------------- late, lost and out of order


@pytest.mark.parametrize("end", [None, 5])
def test_a_late_retry_of_what_the_sender_resolved_opens_nothing(alice: Tenant, end: float | None) -> None:
    number = alice.alert(occurred_at=at(0))["incident_id"]
    alice.alert(status="resolved", **({} if end is None else {"occurred_at": at(end)}))
    late = alice.alert(occurred_at=at(0))
    assert (late["outcome"], late["incident_id"]) == ("duplicate", number)
    [found] = alice.incidents()
    assert (found["status"], found["occurrences"]) == ("resolved", 1)


def test_a_late_retry_opens_nothing_two_episodes_later(alice: Tenant) -> None:
    for minutes in (0, 10, 20):
        assert alice.alert(occurred_at=at(minutes))["outcome"] == "created"
        assert alice.alert(status="resolved", occurred_at=at(minutes + 5))["outcome"] == "resolved"
    assert [alice.alert(occurred_at=at(minutes))["outcome"] for minutes in (0, 10, 20)] == ["duplicate"] * 3
    assert len(alice.incidents()) == 3


def test_a_replayed_resolve_does_not_end_a_newer_incident(alice: Tenant) -> None:
    alice.alert(occurred_at=at(0))
    alice.alert(status="resolved", occurred_at=at(5))
    number = alice.alert(occurred_at=at(6))["incident_id"]
    assert alice.alert(status="resolved", occurred_at=at(5))["outcome"] == "ignored"
    assert alice.incident(number)["status"] == "open"


def test_a_resolve_older_than_the_newest_firing_is_ignored(alice: Tenant) -> None:
    number = alice.alert(occurred_at=at(5))["incident_id"]
    answer = alice.alert(status="resolved", occurred_at=at(3))
    assert (answer["outcome"], answer["incident_id"]) == ("ignored", number)
    assert kinds(alice.incident(number)) == ["opened", "ignored"]


def test_a_firing_that_its_resolve_overtook_is_shown_and_over(alice: Tenant) -> None:
    assert alice.alert(status="resolved", occurred_at=at(5))["outcome"] == "ignored"
    number = alice.alert(occurred_at=at(0))["incident_id"]
    found = alice.incident(number)
    assert (found["status"], kinds(found)) == ("resolved", ["opened", "resolved"])


def test_another_tenants_lone_resolve_ends_nothing_of_hers(alice: Tenant, charlie: Tenant) -> None:
    charlie.alert(status="resolved", occurred_at=at(5))
    assert alice.incident(alice.alert(occurred_at=at(0))["incident_id"])["status"] == "open"


# ---------------------------------------------------------------- the next episode


def test_a_replay_after_the_end_opens_a_new_incident_linked_to_the_last(alice: Tenant) -> None:
    first = alice.alert()["incident_id"]
    alice.alert(status="resolved")
    second = alice.alert()
    assert second["outcome"] == "created"
    found = alice.incident(second["incident_id"])
    assert (found["previous_incident_id"], found["still_firing"]) == (first, False)
    [opened] = found["timeline"]
    assert (opened["kind"], opened["detail"]["previous_incident_id"]) == ("opened", first)


@pytest.mark.parametrize("when", [{}, {"occurred_at": at(0)}], ids=["without a time", "with the same time"])
def test_what_burns_on_after_a_persons_resolve_is_shown_again(alice: Tenant, bob: Member, when: Any) -> None:
    first = alice.alert(**when)["incident_id"]
    app = alice.app.test_client()
    assert app.post(f"/api/v1/incidents/{first}/resolve", headers=bob.auth).status_code == 200
    second = alice.alert(**when)
    assert second["outcome"] == "created"
    found = alice.incident(second["incident_id"])
    assert (found["status"], found["previous_incident_id"], found["still_firing"]) == ("open", first, True)
    assert kinds(found) == ["still_firing"]
    before = alice.incident(first)
    assert kinds(before) == ["opened", "resolved"]
    sender, person = [entry["actor"] for entry in before["timeline"]]
    assert sender == "sender"
    assert "bob" in person


def test_it_is_not_still_firing_when_the_sender_agreed_with_the_person(alice: Tenant) -> None:
    number = alice.alert(occurred_at=at(0))["incident_id"]
    alice.post(f"/incidents/{number}/resolve")
    assert alice.alert(status="resolved", occurred_at=at(5))["outcome"] == "ignored"
    assert kinds(alice.incident(number)) == ["opened", "resolved", "sender_resolved", "ignored"]
    assert alice.alert(occurred_at=at(0))["outcome"] == "duplicate"
    found = alice.incident(alice.alert(occurred_at=at(6))["incident_id"])
    assert (found["previous_incident_id"], found["still_firing"]) == (number, False)


def test_acknowledging_and_resolving_twice_changes_nothing(alice: Tenant) -> None:
    number = alice.alert()["incident_id"]
    for button, status in (("acknowledge", "acknowledged"), ("resolve", "resolved"), ("acknowledge", "resolved")):
        for _ in range(2):
            assert alice.post(f"/incidents/{number}/{button}")["status"] == status
    assert kinds(alice.incident(number)) == ["opened", "acknowledged", "resolved"]


@pytest.mark.parametrize(("minutes", "flapping"), [(25, True), (31, False)])
def test_three_incidents_within_an_hour_are_flapping(
    alice: Tenant, clock: Callable[[float], None], minutes: float, flapping: bool
) -> None:
    for _ in range(3):
        alice.alert()
        alice.alert(status="resolved")
        clock(minutes)
    assert [one["flapping"] for one in alice.incidents()] == [flapping, False, False]
    newest = alice.incident(alice.incidents()[0]["id"])
    assert ("flapping" in kinds(newest)) is flapping


# ---------------------------------------------------------------- stale


@pytest.fixture
def source(app: Flask, alice: Tenant) -> int:
    """A source of Alice's whose incidents are stale after ten minutes."""
    row = {"tenant_id": tenant_id_of(app, alice), "adapter": "datadog", "name": "dd", "stale_after": 600}
    with app.app_context(), db.engine.begin() as connection:
        return int(connection.execute(insert(Source).returning(Source.id), row).scalar_one())


def tenant_id_of(app: Flask, tenant: Tenant) -> int:
    with app.app_context():
        return tenant_id(db.engine, tenant.slug)


def silent(app: Flask, minutes: float) -> int:
    """Let that much time pass without news, then close what is stale."""
    with app.app_context():
        with db.engine.begin() as connection:
            for number, seen in connection.execute(select(Incident.id, Incident.last_seen)).all():
                earlier = seen - timedelta(minutes=minutes)
                connection.execute(update(Incident).where(Incident.id == number).values(last_seen=earlier))
        return maintenance.close_stale(db.engine)


def fire(app: Flask, tenant: Tenant, source: int | None) -> str:
    with app.app_context():
        stored = put(db.engine, tenant_id_of(app, tenant), alert(at=0), source_id=source, adapter="datadog")
    return str(stored[0].incident_id)


def test_a_silent_incident_is_closed_as_stale_and_says_so(app: Flask, alice: Tenant, source: int) -> None:
    number = fire(app, alice, source)
    assert silent(app, 9.9) == 0
    assert silent(app, 0.2) == 1
    found = alice.incident(number)
    assert (found["status"], kinds(found)) == ("resolved", ["opened", "stale"])
    assert found["timeline"][-1]["actor"] == "scheduler"
    assert found["source"] == "dd"


def test_a_firing_after_the_stale_close_is_still_firing(app: Flask, alice: Tenant, source: int) -> None:
    first = fire(app, alice, source)
    silent(app, 11)
    found = alice.incident(fire(app, alice, source))
    assert (found["previous_incident_id"], found["still_firing"], found["status"]) == (first, True, "open")


def test_a_repeat_keeps_an_incident_from_going_stale(app: Flask, alice: Tenant, source: int) -> None:
    fire(app, alice, source)
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(update(Incident).values(last_seen=now() - timedelta(minutes=11)))
    fire(app, alice, source)  # a duplicate; it was seen all the same
    with app.app_context():
        assert maintenance.close_stale(db.engine) == 0


def test_nothing_goes_stale_without_a_limit_of_its_source(app: Flask, alice: Tenant, source: int) -> None:
    alice.alert(hostname="canonical")
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(update(Source).values(stale_after=None))
    fire(app, alice, source)
    assert silent(app, 60 * 24 * 365) == 0


# ---------------------------------------------------------------- identity


def incidents_of(alice: Tenant, *bodies: dict[str, Any]) -> int:
    """How many incidents these alerts open."""
    for body in bodies:
        answer = alice.send(json.dumps({"hostname": "web-01", "incident_type": "custom"} | body).encode())
        assert answer.status_code == 202
    return len(alice.incidents())


SAME = {
    "hostname case": ({"hostname": "Web-01"}, {"hostname": "wEB-01"}),
    "severity": ({"severity": "low"}, {"severity": "high"}),
    "number and text": (
        {"incident_type": "port_unavailable", "evidence": {"port": 443}},
        {"incident_type": "port_unavailable", "evidence": {"port": "443"}},
    ),
    "other evidence": (
        {"incident_type": "disk_full", "evidence": {"mount": "/", "percent": 1}},
        {"incident_type": "disk_full", "evidence": {"mount": "/", "percent": 2}},
    ),
    "nothing more for cpu_high": (
        {"incident_type": "cpu_high", "evidence": {"name": "a", "mount": "/", "port": 1}},
        {"incident_type": "cpu_high", "evidence": {"name": "b", "mount": "/x", "port": 2}},
    ),
    "nothing more for memory_high": (
        {"incident_type": "memory_high", "evidence": {"service_name": "a"}},
        {"incident_type": "memory_high", "evidence": {"service_name": "b"}},
    ),
    "the first present decides": (
        {"evidence": {"alertname": "A", "title": "x"}},
        {"evidence": {"alertname": "A", "title": "y"}},
    ),
    "empty is not present": ({"evidence": {"alertname": "", "title": "x"}}, {"evidence": {"title": "x"}}),
    "null is not present": ({"evidence": {"alertname": None, "name": "x"}}, {"evidence": {"name": "x"}}),
    "one dedup_key": (
        {"dedup_key": "k", "hostname": "a", "incident_type": "cpu_high"},
        {"dedup_key": "k", "hostname": "b", "incident_type": "disk_full"},
    ),
    "a structured thing": ({"evidence": {"name": {"a": 1, "b": 2}}}, {"evidence": {"name": {"b": 2, "a": 1}}}),
}
DIFFERENT = {
    "host": ({"hostname": "a"}, {"hostname": "b"}),
    "type": ({"incident_type": "cpu_high"}, {"incident_type": "memory_high"}),
    "mount": (
        {"incident_type": "disk_full", "evidence": {"mount": "/"}},
        {"incident_type": "disk_full", "evidence": {"mount": "/var"}},
    ),
    "mount and none": ({"incident_type": "disk_full", "evidence": {"mount": "/"}}, {"incident_type": "disk_full"}),
    "service": (
        {"incident_type": "service_down", "evidence": {"service_name": "nginx"}},
        {"incident_type": "service_down", "evidence": {"service_name": "Nginx"}},
    ),
    "port": (
        {"incident_type": "port_unavailable", "evidence": {"port": 80}},
        {"incident_type": "port_unavailable", "evidence": {"port": 8080}},
    ),
    "custom by check": ({"evidence": {"check": "a"}}, {"evidence": {"check": "b"}}),
    "port zero and none": (
        {"incident_type": "port_unavailable", "evidence": {"port": 0}},
        {"incident_type": "port_unavailable"},
    ),
    "case of a dedup_key": ({"dedup_key": "k"}, {"dedup_key": "K"}),
    "long dedup_keys that end differently": ({"dedup_key": "k" * 254 + "a"}, {"dedup_key": "k" * 254 + "b"}),
    "long things that end differently": (
        {"evidence": {"name": "x" * 9000 + "a"}},
        {"evidence": {"name": "x" * 9000 + "b"}},
    ),
    "where host and thing meet": (
        {"incident_type": "disk_full", "hostname": "a", "evidence": {"mount": "b/c"}},
        {"incident_type": "disk_full", "hostname": "ab", "evidence": {"mount": "/c"}},
    ),
}


@pytest.mark.parametrize("bodies", SAME.values(), ids=SAME)
def test_these_are_the_same_incident(alice: Tenant, bodies: tuple[dict[str, Any], ...]) -> None:
    assert incidents_of(alice, *bodies) == 1


@pytest.mark.parametrize("bodies", DIFFERENT.values(), ids=DIFFERENT)
def test_these_are_different_incidents(alice: Tenant, bodies: tuple[dict[str, Any], ...]) -> None:
    assert incidents_of(alice, *bodies) == 2


@pytest.mark.parametrize(
    "key", ["web-01", "custom", "customweb-01", "custom:web-01:", '["canonical","thing","custom","web-01",""]']
)
def test_a_dedup_key_never_meets_a_derived_identity(alice: Tenant, app: Flask, key: str) -> None:
    assert incidents_of(alice, {}, {"dedup_key": key}) == 2
    with app.app_context():
        derived = db.session.scalars(select(Incident.identity)).first()
    assert incidents_of(alice, {"dedup_key": derived}) == 3


def test_two_tenants_with_the_same_alert_have_an_incident_each(alice: Tenant, charlie: Tenant) -> None:
    hers, his = alice.alert(), charlie.alert()
    assert hers["outcome"] == his["outcome"] == "created"
    assert hers["incident_id"] != his["incident_id"]
    charlie.alert(status="resolved")
    assert [one["status"] for one in alice.incidents()] == ["open"]
    assert [one["id"] for one in charlie.incidents()] == [his["incident_id"]]
