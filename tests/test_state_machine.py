"""DESIGN 3.4 and 6 under any order of events: the store against a simple model of the rules, and under threads.

The model is written from DESIGN and on purpose not like lifecycle.py: it keeps every episode and looks through them.
"""

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, func, insert, select

from bodies import alert, put
from openremedy import incidents
from openremedy.alerts import Alert
from openremedy.audit import Actor
from openremedy.extensions import db
from openremedy.models import AlertRecord, Delivery, Incident, Tenant, TimelineEntry

TENANTS = ("one", "two")
HOSTS = ("web", "db")

# What a sender says: status, minutes by its clock (None = without a time), severity.
saying = st.tuples(
    st.sampled_from(["firing", "firing", "firing", "resolved", "resolved", "acknowledged"]),
    st.none() | st.integers(0, 5),
    st.sampled_from(["low", "high"]),
)
whose = {"tenant": st.sampled_from(TENANTS), "host": st.sampled_from(HOSTS)}


# ---------------------------------------------------------------- the model


@dataclass
class Life:
    """One episode."""

    status: str
    severity: str
    firings: list[int | None]
    said: set[tuple[str, int, str]] = field(default_factory=set)
    newest: int | None = None  # time of the event that gave the severity
    ended_by_sender: bool = False
    end: int | None = None
    still_firing: bool = False

    def fired(self) -> int | None:
        return max((at for at in self.firings if at is not None), default=None)

    def end_by_sender(self, at: int | None) -> None:
        self.ended_by_sender = True
        self.end = self.fired() if at is None else at


@dataclass
class Model:
    """All episodes of one identity, and the resolves that met none."""

    episodes: list[Life] = field(default_factory=list)
    lone: list[int] = field(default_factory=list)

    def open(self) -> Life | None:
        return next((one for one in self.episodes if one.status != "resolved"), None)

    def over(self, at: int | None) -> bool:
        """Whether the sender itself has ended an episode at this time or later."""
        ends = [one.end for one in self.episodes if one.ended_by_sender and one.end is not None]
        return at is not None and any(at <= end for end in ends)

    def say(self, status: str, at: int | None, severity: str) -> str:
        return {"firing": self.fire, "resolved": self.resolve, "acknowledged": self.acknowledge}[status](at, severity)

    def fire(self, at: int | None, severity: str) -> str:
        if self.over(at):
            return "duplicate"
        now = self.open()
        if now is None:
            self.begin(at, severity)
            return "created"
        if at is not None and ("firing", at, severity) in now.said:
            return "duplicate"
        if at is not None:
            now.said.add(("firing", at, severity))
        if at is None or now.newest is None or at >= now.newest:
            now.severity = severity
            now.newest = now.newest if at is None else at
        now.firings.append(at)
        return "updated"

    def begin(self, at: int | None, severity: str) -> None:
        said = set() if at is None else {("firing", at, severity)}
        still = bool(self.episodes) and not self.episodes[-1].ended_by_sender
        begun = Life("open", severity, [at], said, newest=at, still_firing=still)
        self.episodes.append(begun)
        if at is not None and any(at <= lone for lone in self.lone):
            begun.status = "resolved"
            begun.end_by_sender(max(self.lone))

    def resolve(self, at: int | None, _severity: str) -> str:
        now = self.open()
        if self.over(at):
            return "ignored"
        latest = self.episodes[-1] if self.episodes else None
        fired = latest.fired() if latest else None
        too_old = at is not None and fired is not None and at < fired
        if now:
            if not too_old:
                now.status = "resolved"
                now.end_by_sender(at)
            return "ignored" if too_old else "resolved"
        if latest and not latest.ended_by_sender and not too_old:
            latest.end_by_sender(at)
        elif at is not None:
            self.lone.append(at)
        return "ignored"

    def acknowledge(self, at: int | None, severity: str) -> str:
        now = self.open()
        if now is None or self.over(at):
            return "ignored"
        if at is not None and ("acknowledged", at, severity) in now.said:
            return "duplicate"
        if at is not None:
            now.said.add(("acknowledged", at, severity))
        now.status = "acknowledged"
        return "updated"

    def body(self, said: list[tuple[str, int | None, str]]) -> list[str]:
        """Several alerts in one body: those with a time in the order of their times, the others in their places."""
        timed = sorted(
            (place for place, (_, at, _) in enumerate(said) if at is not None),
            key=lambda place: (said[place][1], said[place][0] == "resolved"),
        )
        order = [timed.pop(0) if at is not None else place for place, (_, at, _) in enumerate(said)]
        found = {place: self.say(*said[place]) for place in order}
        return [found[place] for place in range(len(said))]


# ---------------------------------------------------------------- what must never be false


INCIDENT = [
    getattr(Incident, name)
    for name in (
        *("id", "tenant_id", "identity", "hostname", "status", "severity", "occurrences"),
        *("latest", "still_firing", "previous_incident_id"),
    )
]
ALERT = [getattr(AlertRecord, name) for name in ("id", "tenant_id", "delivery_id", "incident_id", "status", "outcome")]
TIMELINE = (TimelineEntry.tenant_id, TimelineEntry.incident_id, TimelineEntry.kind)


def never_two_open_for_one_identity(found: list[Any]) -> None:
    opened = Counter((one.tenant_id, one.identity) for one in found if one.status != "resolved")
    assert all(count == 1 for count in opened.values())
    newest = Counter((one.tenant_id, one.identity) for one in found if one.latest)
    assert newest == Counter({(one.tenant_id, one.identity) for one in found})
    assert all(one.latest for one in found if one.status != "resolved")


def everything_accepted_has_its_delivery(deliveries: list[Any], alerts: list[Any]) -> None:
    owner = {one.id: one.tenant_id for one in deliveries}
    assert all(owner[one.delivery_id] == one.tenant_id for one in alerts)


def every_firing_belongs_to_one_incident_and_counts_once(found: list[Any], alerts: list[Any]) -> None:
    firings = [one for one in alerts if one.status == "firing"]
    assert {one.outcome for one in firings} <= {"created", "updated", "duplicate"}
    assert {one.incident_id for one in firings} <= {one.id for one in found}
    counted = Counter(one.incident_id for one in firings if one.outcome != "duplicate")
    assert counted == {one.id: one.occurrences for one in found}
    begun = Counter(one.incident_id for one in firings if one.outcome == "created")
    assert begun == {one.id: 1 for one in found}


def nothing_points_into_another_tenant(found: list[Any], alerts: list[Any], timeline: list[Any]) -> None:
    owner = {one.id: one.tenant_id for one in found} | {None: None}
    assert all(owner[one.previous_incident_id] in (None, one.tenant_id) for one in found)
    assert all(owner[one.incident_id] in (None, one.tenant_id) for one in alerts)
    assert all(owner[one.incident_id] == one.tenant_id for one in timeline)


def the_timeline_tells_every_beginning_and_end(found: list[Any], timeline: list[Any]) -> None:
    told = Counter((one.incident_id, one.kind) for one in timeline)
    for one in found:
        assert told[one.id, "still_firing" if one.still_firing else "opened"] == 1
        assert told[one.id, "resolved"] == (one.status == "resolved")


class Machine(RuleBasedStateMachine):
    """Two tenants with the same two identities on a database that earlier runs have filled."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.deliveries = 0
        self.alerts = 0
        with engine.begin() as connection:
            statement = insert(Tenant).returning(Tenant.id)
            self.tenants = {
                slug: connection.execute(statement, {"slug": uuid.uuid4().hex, "name": slug}).scalar_one()
                for slug in TENANTS
            }

    def put(self, tenant: str, *alerts: Alert) -> list[str]:
        stored = put(self.engine, self.tenants[tenant], *alerts)
        return [str(one.outcome) for one in stored]

    def latest(self, tenant: str, host: str) -> uuid.UUID | None:
        statement = select(Incident.id).where(
            Incident.tenant_id == self.tenants[tenant], Incident.hostname == host, Incident.latest
        )
        with self.engine.connect() as connection:
            return connection.execute(statement).scalar_one_or_none()

    def rows(self, connection: Connection, *columns: Any) -> list[Any]:
        mine = columns[0].class_.tenant_id.in_(self.tenants.values())
        return list(connection.execute(select(*columns).where(mine).order_by(columns[0])).all())

    @invariant()
    def nothing_is_false_that_must_never_be(self) -> None:
        with self.engine.connect() as connection:
            found = self.rows(connection, *INCIDENT)
            alerts = self.rows(connection, *ALERT)
            deliveries = self.rows(connection, Delivery.id, Delivery.tenant_id)
            timeline = self.rows(connection, TimelineEntry.id, *TIMELINE)
        never_two_open_for_one_identity(found)
        every_firing_belongs_to_one_incident_and_counts_once(found, alerts)
        nothing_points_into_another_tenant(found, alerts, timeline)
        the_timeline_tells_every_beginning_and_end(found, timeline)
        everything_accepted_has_its_delivery(deliveries, alerts)
        assert (len(deliveries), len(alerts)) == (self.deliveries, self.alerts)
        self.compare(found)

    def compare(self, found: list[Any]) -> None:
        """With the model, where there is one."""


class OneAfterTheOther(Machine):
    """Every outcome and every episode is as the model has it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.models = {(tenant, host): Model() for tenant in TENANTS for host in HOSTS}

    @rule(said=saying, **whose)
    def an_alert(self, tenant: str, host: str, said: tuple[str, int | None, str]) -> None:
        self.a_body(tenant, host, [said])

    @rule(said=st.lists(saying, min_size=2, max_size=5), **whose)
    def several_of_one_identity_in_a_body(
        self, tenant: str, host: str, said: list[tuple[str, int | None, str]]
    ) -> None:
        self.a_body(tenant, host, said)

    def a_body(self, tenant: str, host: str, said: list[tuple[str, int | None, str]]) -> None:
        alerts = [alert(status, at, severity=severity, hostname=host) for status, at, severity in said]
        expected = self.models[tenant, host].body(said)
        assert self.put(tenant, *alerts) == expected
        self.deliveries += 1
        self.alerts += len(said)

    @rule(**whose)
    def a_person_resolves(self, tenant: str, host: str) -> None:
        if number := self.latest(tenant, host):
            incidents.resolve(self.engine, self.tenants[tenant], number, Actor("bob"))
            self.models[tenant, host].episodes[-1].status = "resolved"

    @rule(**whose)
    def a_person_acknowledges(self, tenant: str, host: str) -> None:
        if number := self.latest(tenant, host):
            incidents.acknowledge(self.engine, self.tenants[tenant], number, Actor("bob"))
            now = self.models[tenant, host].open()
            if now:
                now.status = "acknowledged"

    def compare(self, found: list[Any]) -> None:
        for (tenant, host), model in self.models.items():
            mine = [one for one in found if (one.tenant_id, one.hostname) == (self.tenants[tenant], host)]
            assert [(one.status, one.severity, one.occurrences, one.still_firing) for one in mine] == [
                (one.status, one.severity, len(one.firings), one.still_firing) for one in model.episodes
            ]
            assert [one.previous_incident_id for one in mine] == [None, *[one.id for one in mine]][: len(mine)]


class AllAtOnce(Machine):
    """Threads; only what must never be false is checked."""

    @rule(
        said=st.lists(st.tuples(*whose.values(), st.lists(saying, min_size=1, max_size=3)), min_size=2, max_size=8),
        people=st.lists(st.tuples(*whose.values()), max_size=2),
    )
    def many(self, said: list[Any], people: list[tuple[str, str]]) -> None:
        def post(tenant: str, host: str, alerts: list[tuple[str, int | None, str]]) -> None:
            self.put(tenant, *[alert(status, at, severity=how, hostname=host) for status, at, how in alerts])

        def resolve(tenant: str, host: str) -> None:
            if number := self.latest(tenant, host):
                incidents.resolve(self.engine, self.tenants[tenant], number, Actor("bob"))

        works = [(post, *one) for one in said] + [(resolve, *one) for one in people]
        with ThreadPoolExecutor(len(works)) as pool:
            for done in [pool.submit(work, *arguments) for work, *arguments in works]:
                done.result(timeout=60)
        self.deliveries += len(said)
        self.alerts += sum(len(alerts) for _, _, alerts in said)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.mark.parametrize(("machine", "runs", "steps"), [(OneAfterTheOther, 20, 25), (AllAtOnce, 10, 8)])
def test_the_rules_hold_in_any_order(
    engine: Engine, machine: Callable[[Engine], Machine], runs: int, steps: int
) -> None:
    limits = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(lambda: machine(engine), settings=limits)
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(Incident)).scalar_one() > 0
