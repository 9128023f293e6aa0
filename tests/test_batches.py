"""Incidents that are claimed together are looked at and stored together; each is as well off as if it were alone."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, func, select, update

from bodies import many_pending
from cast import Tenant
from openremedy import claims
from openremedy.claims import Claim
from openremedy.classification import Case, Classifier, Decided, Limits
from openremedy.classifier.shapes import Completion
from openremedy.extensions import db
from openremedy.models import Incident, TimelineEntry, Verdict, now
from openremedy.models import Tenant as TenantRow
from stub_model import good_answer

ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
LIMITS = Limits(5, 16, 0, "fake-1")
LEASE = timedelta(seconds=60)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


class Model:
    """Answers well, and tells how often it was asked."""

    def __init__(self, pause: float = 0.0) -> None:
        self.calls, self.pause = 0, pause

    async def complete(self, messages: Sequence[dict[str, str]], schema: dict[str, Any]) -> Completion:
        self.calls += 1
        await asyncio.sleep(self.pause)
        request = {"messages": list(messages), "response_format": {"json_schema": {"schema": schema}}}
        return Completion(json.dumps(good_answer(request)), "fake-1", 100, 20, latency_ms=1)


def look(worker: Classifier, claimed: Sequence[Claim]) -> None:
    """What a worker does with what it has claimed."""

    async def run() -> None:
        for work in await worker._begin(claimed):
            await work

    asyncio.run(run())


def read(engine: Engine, statement: Any) -> Any:
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.execute(statement).scalar()


def by_host(tenant: Tenant) -> dict[str, str]:
    return {one["hostname"]: one["classification"] for one in tenant.incidents(limit=200)}


@contextmanager
def transactions(engine: Engine) -> Iterator[list[str]]:
    """The first words of what was written, by transaction that was committed."""
    done: list[str] = []
    begun: list[str] = []

    def execute(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        begun.append(statement.split()[0])

    def commit(_c: Any) -> None:
        written = [word for word in begun if word in ("INSERT", "UPDATE", "DELETE")]
        begun.clear()
        if written:
            done.append(" ".join(written))

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    try:
        yield done
    finally:
        event.remove(engine, "before_cursor_execute", execute)
        event.remove(engine, "commit", commit)


# ---------------------------------------------------------------- together


def test_a_batch_is_one_look_up_of_each_kind_and_one_transaction(alice: Tenant, engine: Engine) -> None:
    for number in range(16):
        alice.alert(hostname=f"web-{number}")
    looked_up: list[int] = []

    class Watched(Classifier):
        def _catalogue(self, tenant_id: int) -> Any:
            looked_up.append(tenant_id)
            return super()._catalogue(tenant_id)

    claimed = claims.claim(engine, 16, LEASE)
    with transactions(engine) as done:
        look(Watched(engine, LIMITS, None), claimed)
    assert done == ["UPDATE INSERT INSERT"]
    assert looked_up == [alice.id]
    assert set(by_host(alice).values()) == {"done"}


def test_in_a_batch_of_several_tenants_who_sent_most_comes_last(alice: Tenant, charlie: Tenant, engine: Engine) -> None:
    for number in range(8):
        alice.alert(hostname=f"web-{number}")
    charlie.alert(hostname="charlie's")
    met: list[str] = []

    class Watched(Classifier):
        def _case(self, claim: Claim, catalogue: Any) -> Case:
            met.append(by_host(charlie)["charlie's"])
            return super()._case(claim, catalogue)

    look(Watched(engine, LIMITS, None), claims.claim(engine, 16, LEASE))
    assert met == ["classifying"] + ["done"] * 8
    assert set(by_host(alice).values()) == {"done"}


def test_followers_of_a_cause_are_put_back_together_and_no_attempt_counts(alice: Tenant, engine: Engine) -> None:
    for number in range(10):
        alice.alert(hostname=f"web-{number}")
    claimed = claims.claim(engine, 16, LEASE)
    with transactions(engine) as done:
        look(Classifier(engine, LIMITS, model := Model()), claimed)
    assert model.calls == 1
    # The turn, the others back, the reservation and the costs, the verdict, the end of the turn.
    assert done == ["INSERT", "UPDATE", "INSERT", "UPDATE", "UPDATE INSERT INSERT", "DELETE"]
    assert sorted(by_host(alice).values()) == ["done"] + ["pending"] * 9
    assert read(engine, select(func.max(Incident.attempts)).where(Incident.triage == "pending")) == 0


def test_each_of_a_batch_has_what_it_would_have_alone(alice: Tenant, engine: Engine) -> None:
    alice.alert(hostname="rule", evidence={"mount": "/var/log"})
    alice.alert(hostname="words")
    alice.alert(hostname="nothing", incident_type="custom", evidence={"check": "zzyzx quux"})
    look(Classifier(engine, LIMITS, None), claims.claim(engine, 16, LEASE))
    found = {one["hostname"]: alice.incident(one["id"]) for one in alice.incidents()}
    assert {name: one["verdict"]["tier"] for name, one in found.items()} == {
        "rule": "rule",
        "words": "lexical",
        "nothing": "lexical",
    }
    kinds = {name: [entry["kind"] for entry in one["timeline"]][-1] for name, one in found.items()}
    assert kinds == {"rule": "classified", "words": "classified", "nothing": "needs_human"}


# ---------------------------------------------------------------- one of them breaks


def failing(step: str, hostname: str) -> type[Classifier]:
    """A classifier that breaks at a step of one incident."""

    class Fragile(Classifier):
        def _case(self, claim: Claim, catalogue: Any) -> Case:
            self._break("case", claim)
            return super()._case(claim, catalogue)

        def _without_model(self, case: Case, earlier: Any) -> Any:
            self._break("tiers", case.claim)
            return super()._without_model(case, earlier)

        def _turn(self, case: Case, away: Any) -> Any:
            self._break("turn", case.claim)
            return super()._turn(case, away)

        def _row(self, one: Decided) -> dict[str, Any]:
            self._break("row", one.case.claim)
            return super()._row(one)

        def _break(self, at: str, claim: Claim) -> None:
            if at == step and claim.incident["hostname"] == hostname:
                raise ValueError("broken")

    return Fragile


@pytest.mark.parametrize("step", ["case", "tiers", "turn", "row"])
def test_an_incident_that_breaks_in_a_batch_fails_alone(alice: Tenant, engine: Engine, step: str) -> None:
    for number in range(6):
        alice.alert(hostname=f"web-{number}")
    look(failing(step, "web-3")(engine, LIMITS, None), claims.claim(engine, 16, LEASE))
    found = by_host(alice)
    assert found.pop("web-3") == "pending"
    assert set(found.values()) == {"done"}
    assert read(engine, select(Incident.retry_at).where(Incident.hostname == "web-3")), (
        "it rests before it is tried again"
    )
    assert read(engine, select(func.count()).select_from(Verdict)) == 5
    assert read(engine, select(func.count()).select_from(TimelineEntry).where(TimelineEntry.kind == "classified")) == 5


def test_a_verdict_that_cannot_be_stored_costs_no_question_of_its_batch(alice: Tenant, engine: Engine) -> None:
    alice.alert(hostname="rule-1", evidence={"mount": "/var/log"})
    alice.alert(hostname="rule-2", evidence={"mount": "/var/log"})
    alice.alert(hostname="asks")
    look(failing("row", "rule-2")(engine, LIMITS, model := Model()), claims.claim(engine, 16, LEASE))
    assert by_host(alice) == {"rule-1": "done", "rule-2": "pending", "asks": "done"}
    assert model.calls == 1


def test_where_what_a_batch_looks_up_cannot_be_had_each_is_looked_at_alone(alice: Tenant, engine: Engine) -> None:
    for number in range(4):
        alice.alert(hostname=f"web-{number}")

    class Fragile(Classifier):
        def _earlier(self, cases: Any) -> Any:
            if len(cases) > 1:
                raise ValueError("broken")
            return super()._earlier(cases)

    look(Fragile(engine, LIMITS, None), claims.claim(engine, 16, LEASE))
    assert set(by_host(alice).values()) == {"done"}


def test_a_batch_settles_only_what_is_still_ours(alice: Tenant, engine: Engine) -> None:
    for number in range(5):
        alice.alert(hostname=f"web-{number}")
    claimed = claims.claim(engine, 16, LEASE)
    lost = Incident.hostname == "web-2"
    with engine.begin() as connection:
        connection.execute(update(Incident).where(lost).values(triage="pending", claim=None))
    look(Classifier(engine, LIMITS, None), claimed)
    found = by_host(alice)
    assert found.pop("web-2") == "pending"
    assert set(found.values()) == {"done"}
    assert read(engine, select(func.count()).select_from(Verdict)) == 4


def test_of_a_batch_only_those_whose_recipes_changed_are_put_back(
    alice: Tenant, charlie: Tenant, engine: Engine
) -> None:
    alice.alert()
    charlie.alert()

    class Interrupted(Classifier):
        def _store(self, decided: Sequence[Decided]) -> None:
            with engine.begin() as connection:
                raised = TenantRow.catalogue_version + 1
                connection.execute(update(TenantRow).where(TenantRow.id == alice.id).values(catalogue_version=raised))
            super()._store(decided)

    look(Interrupted(engine, LIMITS, None), claims.claim(engine, 16, LEASE))
    assert set(by_host(alice).values()) == {"pending"}
    assert set(by_host(charlie).values()) == {"done"}
    assert read(engine, select(Incident.attempts).where(Incident.tenant_id == alice.id)) == 0


def test_an_incident_whose_tool_is_asked_holds_up_nobody_of_its_batch(alice: Tenant, engine: Engine) -> None:
    alice.alert(hostname="asks")
    alice.alert(hostname="other")

    class Slow:
        def wants(self, claim: Claim) -> bool:
            return bool(claim.incident["hostname"] == "asks")

        async def __call__(self, claim: Claim) -> Claim:
            seen.append(by_host(alice))
            return claim

    seen: list[dict[str, str]] = []
    look(Classifier(engine, LIMITS, None, Slow()), claims.claim(engine, 16, LEASE))
    assert seen == [{"asks": "classifying", "other": "done"}]
    assert by_host(alice) == {"asks": "done", "other": "done"}


# ---------------------------------------------------------------- in a storm


def test_a_storm_of_one_cause_is_taken_over_in_batches(alice: Tenant, engine: Engine) -> None:
    for number in range(33):
        alice.alert(hostname=f"web-{number}")
    with transactions(engine) as done:
        asyncio.run(Classifier(engine, LIMITS, model := Model(pause=0.1)).run())
    assert model.calls == 1
    assert set(by_host(alice).values()) == {"done"}
    # The one that was asked about and two or three batches of those that waited for it, not 33.
    assert done.count("UPDATE INSERT INSERT") <= 4


@ONLY_POSTGRES
def test_a_claim_reads_the_first_of_each_tenant_also_where_the_planner_knows_nothing(
    alice: Tenant, charlie: Tenant, engine: Engine
) -> None:
    """In a storm the statistics of the table are of the time before: no plan may read all that is pending."""
    with engine.begin() as connection:
        for tenant in (alice, charlie):
            many_pending(connection, tenant.id, 3000)
    wanted = claims._claimable("postgresql", one_tenant=False, bounded=False)
    values = wanted.params(limit=16, moment=now())
    literal = values.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        (plan,) = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {literal}".replace("%", "%%")
        ).scalar_one()
    assert max(rows_read(plan["Plan"])) < 100


def rows_read(node: dict[str, Any]) -> Iterator[float]:
    """Of every step of a plan, how many rows it gave or threw away."""
    loops = node["Actual Loops"]
    yield (
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
    ) * loops
    for inner in node.get("Plans", ()):
        yield from rows_read(inner)
