"""Thousands of alerts at once: one question per cause, sixteen in flight, and nobody waits for a noisy neighbour."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import Engine, func, insert, select

from cast import Tenant
from openremedy import classification
from openremedy.claims import SUSPECT_ATTEMPTS, Claim
from openremedy.classification import Classifier, Limits
from openremedy.classifier.shapes import Completion
from openremedy.extensions import db
from openremedy.ids import new_id
from openremedy.models import Incident, Verdict, now, table
from openremedy.queue import Waker
from services import until
from stack import Stack
from stub_model import StubModel, asked, good_answer

ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
PLACES = 16
NAMES = ["".join((first, second)) for first in "abcdefgh" for second in "aeiouy"]


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


def put(engine: Engine, tenant: Tenant, name: str, host: int = 0, **changes: Any) -> dict[str, Any]:
    """A pending incident of the cause `name`, without the door."""
    hostname = f"{tenant.slug}-{host:03}.example.net"
    row = {
        "id": new_id(),
        "tenant_id": tenant.id,
        "adapter": "canonical",
        "identity": new_id().hex,
        "status": "open",
        "hostname": hostname,
        "incident_type": "custom",
        "severity": "medium",
        "evidence": {"instance": f"{hostname}:9100", "alertname": f"Fault{name}"},
        "first_seen": now(),
        "last_seen": now(),
        "recent_starts": [],
    } | changes
    with engine.begin() as connection:
        connection.execute(insert(table(Incident)), row)
    return row


def tiers(engine: Engine, tenant: Tenant) -> Counter[str]:
    statement = select(Verdict.tier, func.count()).where(Verdict.tenant_id == tenant.id).group_by(Verdict.tier)
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return Counter(dict(connection.execute(statement).all()))


class Model:
    """Answers well, and to `slow` only when `released` says so."""

    def __init__(self, slow: Tenant | None = None, released: Any = None, **answer: Any) -> None:
        self.slow, self.released, self.answer = slow, released, answer
        self.calls = 0

    async def complete(self, messages: Sequence[dict[str, str]], schema: dict[str, Any]) -> Completion:
        self.calls += 1
        request = {"messages": list(messages), "response_format": {"json_schema": {"schema": schema}}}
        while self.slow and f'"{self.slow.slug}-' in asked(request) and not self.released():
            await asyncio.sleep(0.02)
        text = json.dumps(good_answer(request) | self.answer)
        return Completion(text, "fake-1", prompt_tokens=100, completion_tokens=20, latency_ms=1)


def classify(engine: Engine, model: Model, timeout: int = 10) -> None:
    asyncio.run(Classifier(engine, Limits(timeout, PLACES, 0, "fake-1"), model).run())


# ---------------------------------------------------------------- one question per cause


@ONLY_POSTGRES
def test_a_real_worker_asks_once_per_cause_and_keeps_sixteen_calls_in_flight(
    app: Flask, alice: Tenant, engine: Engine, stack: Stack, redis_url: str
) -> None:
    causes, hosts = NAMES[:20], 15
    for host in range(hosts):
        for name in causes:
            put(engine, alice, name, host)
    with StubModel("good", together=PLACES, delay=0.5) as stub, Redis.from_url(redis_url) as redis:
        stack.environment |= {"OPENAI_BASE_URL": stub.url, "OPENREMEDY_MODEL": "stub-1"}
        Waker(redis, 60).wake()
        stack.start("worker")
        until(lambda: tiers(engine, alice).total() == len(causes) * hosts, "every verdict")
        assert stub.calls == len(causes)
        assert stub.max_concurrent == PLACES
    assert tiers(engine, alice) == {"model": len(causes), "reuse": len(causes) * (hosts - 1)}


@ONLY_SQLITE
@pytest.mark.parametrize("answer", [{"recipe": "none", "citations": []}, {"confidence": 0.1}], ids=["none", "unsure"])
def test_an_answer_for_a_person_is_as_good_for_the_others_of_the_cause(
    alice: Tenant, engine: Engine, answer: dict[str, Any]
) -> None:
    for host in range(10):
        put(engine, alice, "aa", host)
    classify(engine, model := Model(**answer))
    assert model.calls == 1
    assert tiers(engine, alice) == {"model": 1, "reuse": 9}
    assert {one["classification"] for one in alice.incidents()} == {"needs_human"}


@ONLY_SQLITE
def test_evidence_that_bears_out_nothing_makes_no_further_call_in_a_storm(alice: Tenant, engine: Engine) -> None:
    for host, word in enumerate(NAMES[:20]):
        put(engine, alice, "aa", host, evidence={"error": f"lost {word}"})
    classify(engine, model := Model())
    assert model.calls == 1
    assert tiers(engine, alice) == {"model": 1, "lexical": 19}
    provisional = [one["verdict"]["provisional"] for one in alice.incidents()]
    assert provisional.count(True) == 19, "the model is asked about them later"


# ---------------------------------------------------------------- a noisy neighbour


@ONLY_SQLITE
def test_slow_calls_of_one_tenant_in_every_place_do_not_hold_up_another(
    alice: Tenant, charlie: Tenant, engine: Engine
) -> None:
    """Charlie comes when Alice has every place, and her calls end only when he has his verdicts."""
    for name in NAMES[:30]:
        put(engine, alice, name)

    def released() -> bool:
        if model.calls == PLACES and not charlies:
            charlies.extend(put(engine, charlie, name) for name in NAMES[:3])
        return tiers(engine, charlie).total() == 3

    charlies: list[dict[str, Any]] = []
    classify(engine, model := Model(slow=alice, released=released))
    assert tiers(engine, charlie) == {"model": 3}
    assert tiers(engine, alice) == {"model": 30}


@ONLY_SQLITE
def test_while_the_last_calls_of_a_job_end_another_tenant_is_served(
    alice: Tenant, charlie: Tenant, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "RUN_SECONDS", 0.2)
    for name in NAMES[:30]:
        put(engine, alice, name)
    began = time.monotonic()

    def released() -> bool:
        if time.monotonic() > began + 1 and not served:
            served.append(put(engine, charlie, "aa"))
        return bool(served) and tiers(engine, charlie).total() == 1

    served: list[dict[str, Any]] = []
    classify(engine, Model(slow=alice, released=released))
    assert tiers(engine, charlie) == {"model": 1}
    assert tiers(engine, alice).total() < 30, "the job's time was over"


@ONLY_SQLITE
def test_many_suspects_of_one_tenant_do_not_hold_up_another(
    alice: Tenant, charlie: Tenant, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "SUSPECT_SECONDS", 0.1)
    for _ in range(30):
        put(engine, alice, "aa", attempts=SUSPECT_ATTEMPTS)
    put(engine, charlie, "aa")
    order: list[int] = []

    class Watched(Classifier):
        async def _look(self, claimed: Sequence[Claim]) -> list[Any]:
            order.extend(claim.incident["tenant_id"] for claim in claimed)
            await asyncio.sleep(0.02)
            return []

    asyncio.run(Watched(engine, Limits(5, PLACES, 0, ""), None).run())
    assert order.index(charlie.id) < 10
    assert len(order) == 31, "none is left out"
