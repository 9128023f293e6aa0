"""One body against the database: what is written, in how many statements, and what odd data does."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, select, text

from bodies import NOON, alert, arrivals, delivery, minute, outcomes, put, tenant_id
from cast import Tenant
from openremedy import store
from openremedy.alerts import Alert, Outcome
from openremedy.extensions import db
from openremedy.models import AlertRecord, Delivery, Incident, Source, TimelineEntry
from openremedy.rows import Unplaced


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.fixture
def tenant(alice: Tenant, engine: Engine) -> int:
    return tenant_id(engine, alice.slug)


def rows(engine: Engine, *columns: Any, order: Any = None) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(order))]


def many(count: int, status: str = "firing", at: float | None = 0) -> list[Alert]:
    return [alert(status, at, hostname=f"host-{number}", evidence={"n": number}) for number in range(count)]


# ---------------------------------------------------------------- one body


def test_a_body_is_stored_with_every_alert_in_its_place(engine: Engine, tenant: int) -> None:
    row = delivery(tenant)
    bad = [Unplaced(1, Outcome.REJECTED, "no labels"), Unplaced(4, Outcome.REJECTED, "not an object")]
    good = [store.Arrival(place, one, str(place)) for place, one in zip((0, 2, 3), many(3), strict=True)]
    stored = store.store(engine, row, good, bad)
    assert outcomes(stored) == ["created", "rejected", "created", "created", "rejected"]
    assert [one.reason for one in stored] == [None, "no labels", None, None, "not an object"]
    columns = (AlertRecord.position, AlertRecord.outcome, AlertRecord.incident_id, AlertRecord.delivery_id)
    assert rows(engine, *columns, order=AlertRecord.position) == [
        (place, one.outcome, one.incident_id, row["id"]) for place, one in enumerate(stored)
    ]


def test_a_body_of_nothing_but_rejects_is_kept(engine: Engine, tenant: int) -> None:
    assert outcomes(store.store(engine, delivery(tenant), [], [Unplaced(0, Outcome.REJECTED, "no")])) == ["rejected"]
    assert len(rows(engine, Delivery.id)) == 1


def test_an_empty_body_is_kept(engine: Engine, tenant: int) -> None:
    assert store.store(engine, delivery(tenant), []) == []
    assert len(rows(engine, Delivery.id)) == 1


@pytest.mark.parametrize("earlier", [[], [alert(at=-9)], [alert(at=-9), alert("resolved", at=-8)]])
def test_each_episode_of_a_body_keeps_its_ids_links_and_evidence(
    engine: Engine, tenant: int, earlier: list[Alert]
) -> None:
    for one in earlier:
        put(engine, tenant, one)
    stored = put(
        engine,
        tenant,
        alert(at=20, evidence={"n": 3}, severity="low"),
        alert("resolved", at=15),
        alert(at=10, evidence={"n": 2}, severity="high"),
        alert("resolved", at=5),
        alert(at=0, evidence={"n": 1}, severity="critical"),
    )
    begun = len(earlier) != 1  # else the body's first firing is one more of the open episode
    assert outcomes(stored) == ["created", "resolved", "created", "resolved", "created" if begun else "updated"]
    third, second, first = (stored[place].incident_id for place in (0, 2, 4))
    assert [one.incident_id for one in stored] == [third, second, second, first, first]
    columns = (
        Incident.id,
        Incident.previous_incident_id,
        Incident.evidence,
        Incident.severity,
        Incident.status,
        Incident.latest,
    )
    found = rows(engine, *columns, order=Incident.id)[-3:]
    before_all = rows(engine, Incident.id, order=Incident.id)[0][0] if len(earlier) == 2 else None
    assert found == [
        (first, before_all, {"n": 1}, "critical", "resolved", False),
        (second, first, {"n": 2}, "high", "resolved", False),
        (third, second, {"n": 3}, "low", "open", True),
    ]


def test_a_body_knows_the_lone_resolve_of_an_episode_it_begins_after_ending_another(
    engine: Engine, tenant: int
) -> None:
    put(engine, tenant, alert("resolved", at=35))
    put(engine, tenant, alert())
    assert outcomes(put(engine, tenant, alert("resolved", at=20), alert(at=30))) == ["resolved", "created"]
    assert {status for (status,) in rows(engine, Incident.status)} == {"resolved"}


def test_a_source_is_marked_as_seen(engine: Engine, tenant: int) -> None:
    with engine.begin() as connection:
        row = {"tenant_id": tenant, "adapter": "datadog", "name": "dd"}
        source = connection.execute(Source.__table__.insert().returning(Source.id), row).scalar_one()
    row = delivery(tenant, source_id=source, adapter="datadog")
    store.store(engine, row, arrivals(alert()))
    assert rows(engine, Incident.source_id, Incident.adapter) == [(source, "datadog")]
    [(seen,)] = rows(engine, Source.last_seen_at)
    assert seen >= row["received_at"]


def test_an_incidents_timeline_is_in_the_order_of_its_changes_whoever_waited(engine: Engine, tenant: int) -> None:
    late = delivery(tenant)  # received first, and then it waited
    put(engine, tenant, alert())
    store.store(engine, late, arrivals(alert("resolved")))
    [(first_seen, resolved_at)] = rows(engine, Incident.first_seen, Incident.resolved_at)
    assert first_seen < resolved_at
    [(opened,), (resolved,)] = rows(engine, TimelineEntry.at, order=TimelineEntry.id)
    assert opened < resolved


# ---------------------------------------------------------------- large bodies


def statements(engine: Engine, work: Callable[[], Any]) -> int:
    count = 0

    def listen(*_: Any) -> None:
        nonlocal count
        count += 1

    event.listen(engine, "before_cursor_execute", listen)
    try:
        work()
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    return count


@pytest.mark.parametrize("kind", ["first", "repeat", "older", "duplicate", "resolve", "again", "lone resolve"])
def test_the_number_of_statements_does_not_grow_with_the_body(engine: Engine, tenant: int, kind: str) -> None:
    bodies = {
        "repeat": [("firing", 1)],
        "older": [("firing", -1)],
        "duplicate": [("firing", 0)],
        "resolve": [("resolved", 1)],
        "again": [("resolved", 1), ("firing", 2)],
    }

    def send(first: int, count: int) -> int:
        alerts = {
            step: [alert(*step, hostname=f"host-{first + n}") for n in range(count)]
            for step in [("firing", 0), *bodies.get(kind, []), ("resolved", 0)]
        }
        if kind == "lone resolve":
            return statements(engine, lambda: put(engine, tenant, *alerts["resolved", 0]))
        if kind == "first":
            return statements(engine, lambda: put(engine, tenant, *alerts["firing", 0]))
        *earlier, last = [("firing", 0), *bodies[kind]]
        for step in earlier:
            put(engine, tenant, *alerts[step])
        return statements(engine, lambda: put(engine, tenant, *alerts[last]))

    few, more = send(0, 3), send(100, 50)
    assert few == more <= 16


def test_a_body_of_a_thousand_is_stored_whole_and_repeats_too(engine: Engine, tenant: int) -> None:
    def send(*body: Any) -> set[str]:
        return set(outcomes(put(engine, tenant, *many(1000, *body))))

    assert send() == {"created"}
    assert send() == {"duplicate"}
    assert send("firing", -1) == {"updated"}
    assert send("resolved", 5) == {"resolved"}
    assert len(set(rows(engine, Incident.identity))) == 1000
    assert set(rows(engine, Incident.status, Incident.occurrences)) == {("resolved", 2)}
    assert send("firing", 3) == {"duplicate"}
    assert send("firing", 6) == {"created"}


def test_a_body_of_ten_thousand_is_stored_whole(engine: Engine, tenant: int) -> None:
    assert set(outcomes(put(engine, tenant, *many(10_000)))) == {"created"}
    assert len(rows(engine, Incident.id)) == 10_000


def test_thousands_of_lone_resolves_are_remembered(engine: Engine, tenant: int) -> None:
    assert set(outcomes(put(engine, tenant, *many(1000, "resolved", at=5)))) == {"ignored"}
    assert set(outcomes(put(engine, tenant, *many(1000)))) == {"created"}
    assert {status for (status,) in rows(engine, Incident.status)} == {"resolved"}


def test_a_thousand_alerts_of_one_identity_in_one_body_are_one_incident(engine: Engine, tenant: int) -> None:
    put(engine, tenant, *[alert(evidence={"n": number}) for number in range(1000)])
    assert rows(engine, Incident.occurrences, Incident.evidence) == [(1000, {"n": 999})]


# ---------------------------------------------------------------- odd data

ODD = {
    "": {"": ""},
    "numbers": [10**63, -(10**63), 1e308, 5e-324, -0.0, 0.1, True, False, None],
    "text": "ü \u2028 😀 \ufffd ' \" \\ \x1b \x7f %s %(a)s :name {} \\u0000",
    "nested": [[[[[[{}]]]]]],
    "__proto__": {"constructor": None},
    "long": "x" * 100_000,
    "id": "not ours",
}


def test_odd_evidence_comes_back_as_it_was_sent(engine: Engine, tenant: int) -> None:
    put(engine, tenant, alert(at=0, evidence=ODD))
    put(engine, tenant, alert("note", at=1, evidence=ODD))
    assert put(engine, tenant, alert(at=0, evidence=ODD))[0].outcome == "duplicate"
    [(evidence,)] = rows(engine, Incident.evidence)
    assert json.dumps(evidence, sort_keys=True) == json.dumps(ODD, sort_keys=True)
    assert rows(engine, TimelineEntry.detail, order=TimelineEntry.id)[-1] == ({"evidence": ODD},)


EDGES = [minute(0).replace(year=1, month=1, day=1, hour=0), minute(0).replace(year=9999, month=12, day=31, hour=23)]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("at", EDGES, ids=["year 1", "year 9999"])
def test_the_first_and_last_times_can_be_stored_and_read(engine: Engine, tenant: int, at: Any, zone: str) -> None:
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {engine.url.database} SET timezone = '{zone}'"))
        engine.dispose()
    minutes = (at - NOON).total_seconds() / 60
    assert outcomes(put(engine, tenant, alert(at=minutes))) == ["created"]
    assert outcomes(put(engine, tenant, alert("resolved", at=minutes))) == ["resolved"]
    assert outcomes(put(engine, tenant, alert(at=minutes))) == ["duplicate"]
    assert rows(engine, Incident.fired_at) == [(at,)]


def test_a_duplicate_is_told_also_behind_a_new_observation_in_its_body(engine: Engine, tenant: int) -> None:
    put(engine, tenant, alert(at=0))
    assert outcomes(put(engine, tenant, alert(), alert(at=0))) == ["updated", "duplicate"]


@pytest.mark.usefixtures("in_transactions")
def test_a_writer_that_keeps_losing_goes_alone(engine: Engine, tenant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store._store
    tried: list[bool] = []

    def losing(*arguments: Any) -> Any:
        tried.append(arguments[-1])
        if not arguments[-1]:
            raise store.Collision
        return real(*arguments)

    monkeypatch.setattr(store, "_store", losing)
    (stored,) = put(engine, tenant, alert())
    assert stored.outcome == "created"
    assert tried == [False, False, False, True]
