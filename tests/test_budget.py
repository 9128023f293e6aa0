"""A tenant's tokens of a day: never one above, whoever asks at once, whatever is cut off, whatever a server tells."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, select

from cast import Tenant
from openremedy import claims
from openremedy.budget import BudgetSpent, Excess, Metered, most_tokens
from openremedy.classifier import BadAnswer, ModelAway
from openremedy.classifier.prompt import MAX_OUTPUT_TOKENS
from openremedy.classifier.shapes import Completion
from openremedy.extensions import db
from openremedy.models import TokenUsage

ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
QUESTION = [{"role": "user", "content": "Which recipe?"}]
SCHEMA: dict[str, Any] = {"type": "object"}
MOST = most_tokens(QUESTION, SCHEMA)


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


class Answering:
    """A model whose next answers cost so many tokens, or are an error to raise; the last stays."""

    def __init__(self, *answers: int | BaseException) -> None:
        self.answers = list(answers)
        self.calls = 0

    async def complete(self, messages: Any, schema: Any) -> Completion:
        self.calls += 1
        await asyncio.sleep(0.001)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return Completion("{}", "fake-1", prompt_tokens=answer, completion_tokens=0, latency_ms=1)


def counted(engine: Engine, tenant_id: int) -> int:
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        found = connection.execute(select(TokenUsage.tokens).where(TokenUsage.tenant_id == tenant_id)).scalars()
        return sum(found)


def ask(engine: Engine, tenant: Tenant, model: Answering, limit: int = 0, excess: Excess | None = None) -> Completion:
    metered = Metered(engine, model, tenant.id, limit, excess or Excess())
    return asyncio.run(metered.complete(QUESTION, SCHEMA))


def test_eight_at_once_spend_every_token_they_may_and_none_above(engine: Engine, alice: Tenant) -> None:
    """Every answer costs all that was reserved, so the last one that fits fills the day to its limit."""
    limit, looks, start = 10 * MOST, [], threading.Barrier(8)

    def spend(_: int) -> int:
        start.wait()
        answered = 0
        for _ in range(4):
            try:
                ask(engine, alice, Answering(MOST), limit)
                answered += 1
            except BudgetSpent:
                pass
            looks.append(counted(engine, alice.id))
        return answered

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(8))) == 10
    assert max(looks) == counted(engine, alice.id) == limit


@ONLY_SQLITE
def test_what_a_call_did_not_use_is_there_for_the_next(engine: Engine, alice: Tenant) -> None:
    limit = MOST + 100
    for _ in range(2):
        ask(engine, alice, Answering(50), limit)
    with pytest.raises(BudgetSpent):
        ask(engine, alice, model := Answering(1), limit - 1)
    assert model.calls == 0, "what is not there is not asked for"
    assert counted(engine, alice.id) == 100


@ONLY_SQLITE
@pytest.mark.parametrize(
    ("trouble", "kept"),
    [
        (asyncio.CancelledError(), MOST),
        (RuntimeError("broken"), MOST),
        (ModelAway("too late", tokens=7), MOST),
        (ModelAway("429"), 0),
        (BadAnswer("prose", tokens=120), 120),
    ],
    ids=["cut off", "broken", "no answer in time", "refused", "unusable"],
)
def test_what_may_have_been_charged_for_stays_counted(
    engine: Engine, alice: Tenant, trouble: BaseException, kept: int
) -> None:
    with pytest.raises(type(trouble)):
        ask(engine, alice, Answering(trouble))
    assert counted(engine, alice.id) == kept


@ONLY_SQLITE
def test_a_server_that_told_of_more_than_was_reserved_is_given_more_room(engine: Engine, alice: Tenant) -> None:
    limit, excess = 2 * MOST + 1000, Excess()
    model = Answering(MOST + 1000)
    ask(engine, alice, model, limit, excess)
    with pytest.raises(BudgetSpent):
        ask(engine, alice, model, limit, excess)
    assert counted(engine, alice.id) == MOST + 1000, "the truth is counted, and the second would have gone above"


@ONLY_SQLITE
def test_the_day_begins_anew_at_midnight_utc(engine: Engine, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    monkeypatch.setattr(claims, "now", lambda: midnight - timedelta(milliseconds=1))
    assert claims.next_budget() == midnight
    ask(engine, alice, Answering(MOST), MOST)
    with pytest.raises(BudgetSpent):
        ask(engine, alice, Answering(MOST), MOST)
    monkeypatch.setattr(claims, "now", lambda: midnight)
    ask(engine, alice, Answering(MOST), MOST)
    with pytest.raises(BudgetSpent):
        ask(engine, alice, Answering(MOST), MOST)


@pytest.mark.parametrize("text", ["", "plain words", "🧯🔥" * 50, "0123456789abcdef" * 100, "\ud800"])
def test_no_tokenizer_of_bytes_makes_more_of_a_question_than_is_reserved(text: str) -> None:
    question = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    schema = {"enum": ["a-recipe"] * 12}
    in_bytes = 2 * len(text.encode("utf-8", "replace")) + len(str(schema).encode())
    assert most_tokens(question, schema) >= in_bytes + MAX_OUTPUT_TOKENS
