"""A tenant's tokens of a day, and a model that is paid from them, question by question."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine

from openremedy import claims, traces
from openremedy.classifier import BadAnswer, Model, ModelAway
from openremedy.classifier.prompt import MAX_OUTPUT_TOKENS, Message
from openremedy.classifier.shapes import Completion

log = structlog.get_logger()

# What a server adds by its template around one message and around all of them.
_PER_MESSAGE = 16
_PER_QUESTION = 64


class BudgetSpent(Exception):
    """The day has not enough tokens left for this question: it was not asked."""


def most_tokens(messages: Sequence[Message], schema: dict[str, Any]) -> int:
    """No question with its answer costs more: a tokenizer that works on bytes makes at most one token of each."""
    texts = [*(message["content"] for message in messages), json.dumps(schema)]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return size + _PER_MESSAGE * len(messages) + _PER_QUESTION + MAX_OUTPUT_TOKENS


@dataclass
class Excess:
    """By how much a model's server has gone over what was reserved, at most: so much more is reserved from then on."""

    tokens: int = 0


class Metered:
    """A model that may cost a tenant at most `limit` tokens a day (0 = no limit).

    The most a question may cost is reserved before it is asked and replaced by what it did cost. Where nobody knows
    (a crash, a call that was cut off) the reservation stays. Raises BudgetSpent besides what the model itself raises.
    """

    def __init__(self, engine: Engine, model: Model, tenant_id: int, limit: int, excess: Excess) -> None:
        self._engine = engine
        self._model = model
        self._tenant_id = tenant_id
        self._limit = limit
        self._excess = excess

    async def complete(self, messages: Sequence[Message], schema: dict[str, Any]) -> Completion:
        """One question and its answer."""
        reserved = most_tokens(messages, schema) + self._excess.tokens
        day = claims.reserve_tokens(self._engine, self._tenant_id, reserved, self._limit)
        if day is None:
            raise BudgetSpent
        used = reserved
        try:
            with traces.span("model", **{"gen_ai.operation.name": "chat"}) as told:
                completion = await self._model.complete(messages, schema)
                told(**{"gen_ai.usage.input_tokens": completion.prompt_tokens})
                told(**{"gen_ai.usage.output_tokens": completion.completion_tokens})
            used = completion.tokens
        except BadAnswer as bad:
            used = bad.tokens
            raise
        except ModelAway as away:
            # Tokens of a server that gave no answer are a guess: they may be all that was reserved.
            used = reserved if away.tokens else 0
            raise
        finally:
            claims.correct_tokens(self._engine, self._tenant_id, day, used - reserved)
            if used > reserved:
                self._excess.tokens += used - reserved
                log.error("budget.overrun", tenant=self._tenant_id, reserved=reserved, used=used)
        return completion
