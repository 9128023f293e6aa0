"""Which recipe fits an incident: pure tiers, and one checked question to a model."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

from .masking import mask
from .pointers import NoSuchPlace, resolve
from .prompt import CUT, MAX_OUTPUT_TOKENS, Message, messages, prompt_tokens, reprompt, shown_evidence
from .shapes import Answer, Citation, Completion, Example, Recipe, Subject
from .trouble import BadAnswer, ModelAway
from .verdict import ModelAnswer, parse_answer, response_schema

__all__ = ["BadAnswer", "Model", "ModelAway", "ask_model", "estimate_tokens"]


class Model(Protocol):
    async def complete(self, messages: Sequence[Message], schema: dict[str, Any]) -> Completion: ...


async def ask_model(
    subject: Subject,
    shortlist: Sequence[Recipe],
    client: Model,
    deadline_seconds: float,
    nonce: str | None = None,
    examples: Sequence[Example] = (),
) -> Answer:
    """The model's checked answer within the deadline; raises ModelAway or BadAnswer, each with the tokens spent."""
    question = _Question(subject, shortlist, client, nonce or secrets.token_hex(12), examples)
    try:
        async with asyncio.timeout(deadline_seconds):
            return await question.answer()
    except TimeoutError as late:
        reason = f"The model gave no answer within {deadline_seconds:g} seconds."
        raise ModelAway(reason, tokens=question.tokens_so_far()) from late
    except (ModelAway, BadAnswer) as trouble:
        trouble.tokens += question.tokens
        raise


def estimate_tokens(messages: Sequence[Message]) -> int:
    """No less than a question may cost with its answer, its re-prompt and the second answer; for reserving budget."""
    again = reprompt(messages, "x" * 2000, "x" * 500)
    return prompt_tokens(messages) + prompt_tokens(again) + 2 * MAX_OUTPUT_TOKENS


class _Question:
    """One incident put to a model, at most twice, with what it has cost until now."""

    def __init__(
        self, subject: Subject, shortlist: Sequence[Recipe], client: Model, nonce: str, examples: Sequence[Example]
    ) -> None:
        self._subject = subject
        # In one order: a server that has compiled a schema knows it again.
        self._slugs = sorted(recipe.slug for recipe in shortlist)
        self._client = client
        self._shown = shown_evidence(subject.evidence)
        self._messages = messages(subject, shortlist, f"incident-{nonce}", examples)
        self._in_flight = False
        self.tokens = 0
        self._latency_ms = 0
        self._model = ""

    async def answer(self) -> Answer:
        try:
            return await self._attempt()
        except BadAnswer as bad:
            if bad.final:
                raise
            # What this attempt cost moves from the error to the question: the error ends here.
            self.tokens += bad.tokens
            self._messages = reprompt(self._messages, bad.text, bad.problem)
        return await self._attempt()

    async def _attempt(self) -> Answer:
        self._in_flight = True
        completion = await self._client.complete(self._messages, response_schema(self._slugs))
        self._in_flight = False
        self.tokens += completion.tokens
        self._latency_ms += completion.latency_ms
        self._model = completion.model
        return self._checked(parse_answer(completion.text, self._slugs, self._shown))

    def _checked(self, answer: ModelAnswer) -> Answer:
        return Answer(
            recipe=answer.recipe,
            tier="model",
            confidence=answer.confidence,
            citations=_uncut(answer.citations, self._subject),
            summary=answer.summary,
            model=self._model,
            tokens=self.tokens,
            latency_ms=self._latency_ms,
        )

    def tokens_so_far(self) -> int:
        """A call that was cut off is paid for too: its prompt is counted as estimated."""
        return self.tokens + (prompt_tokens(self._messages) if self._in_flight else 0)


def _uncut(citations: Sequence[Citation], subject: Subject) -> tuple[Citation, ...]:
    """The cited places with the incident's own (masked) values: the model saw long texts cut."""
    whole = mask(subject.evidence)
    kept = []
    for cited in citations:
        if isinstance(cited.value, str) and cited.value.startswith(CUT):
            continue
        try:
            kept.append(Citation(cited.pointer, resolve(whole, cited.pointer)))
        except NoSuchPlace:
            # It cited the marker that says something was cut.
            continue
    return tuple(kept)
