"""A tier over alerts, one after the other or with many model calls in flight, as the cascade would answer each."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openremedy.classification import EXAMPLES, Catalogue, Terms
from openremedy.classifier import BadAnswer, ModelAway
from openremedy.classifier.lexical import Match
from openremedy.classifier.prompt import PROMPT_VERSION
from openremedy.classifier.shapes import Answer, Example, Recipe, Subject
from openremedy.evaluation.figures import latency, rounded
from openremedy.evaluation.rows import Id, Prediction

# Asks the model; raises ModelAway, BadAnswer, NoBudget.
Ask = Callable[[Subject, Sequence[Recipe], Sequence[Example]], Awaitable[Answer]]

WARM_UP = 20  # alerts that are answered once without being counted


class NoBudget(Exception):
    """The tenant has no tokens left today."""


@dataclass(frozen=True)
class Case:
    """One alert; `subject` None where the adapter makes no incident of it."""

    id: Id
    subject: Subject


@dataclass(frozen=True)
class Told:
    """What was said of one alert, by which tier, and what it took. `trouble`: why the model is not who said it."""

    prediction: Prediction
    tier: str
    seconds: float = 0.0
    tokens: int = 0
    model: str | None = None
    trouble: str | None = None


def tell(case: Case, catalogue: Catalogue) -> Told:
    """The answer without a model: the recipes' own conditions, then the words."""
    started = time.perf_counter()
    ranked = catalogue.rank(case.subject, str(case.id))
    answer = catalogue.by_rules(case.subject) or catalogue.by_words(case.subject, ranked)
    seconds = time.perf_counter() - started
    return Told(_prediction(case.id, answer, ranked, catalogue.terms), answer.tier, seconds)


def tell_all(cases: Sequence[Case], catalogue: Catalogue, end: float | None = None) -> list[Told]:
    """Each in its order, as many as there is time for until `end` (of time.monotonic())."""
    for case in cases[:WARM_UP]:
        tell(case, catalogue)
    found = []
    for case in cases:
        if end is not None and time.monotonic() > end:
            break
        found.append(tell(case, catalogue))
    return found


async def ask_all(
    cases: Sequence[Case], catalogue: Catalogue, ask: Ask, concurrency: int, end: float | None = None
) -> list[Told]:
    """The same with a model, `concurrency` calls at once; those that are not answered at `end` are left out."""
    places = asyncio.Semaphore(concurrency)

    async def one(case: Case) -> Told | None:
        async with places:
            if end is not None and time.monotonic() > end:
                return None
            try:
                async with asyncio.timeout(None if end is None else end - time.monotonic()):
                    return await _ask(case, catalogue, ask)
            except TimeoutError:
                return None

    try:
        async with asyncio.TaskGroup() as group:  # whose calls end with it: the loop may be a worker's, and go on
            calls = [group.create_task(one(case)) for case in cases]
    except ExceptionGroup as errors:  # the callers know the errors of a question, not groups of them
        raise errors.exceptions[0] from errors
    return [told for call in calls if (told := call.result()) is not None]


async def _ask(case: Case, catalogue: Catalogue, ask: Ask) -> Told:
    """What a model says; where it cannot be had the words do, as in the cascade."""
    words = tell(case, catalogue)
    if words.tier == "rule":
        return words
    ranked = catalogue.rank(case.subject, str(case.id))
    shortlist = catalogue.shortlist(ranked)
    examples = catalogue.index.nearest(case.subject, EXAMPLES, without=str(case.id))
    if not shortlist:
        return words
    started = time.perf_counter()
    try:
        answer = await ask(case.subject, shortlist, examples)
    except ModelAway as away:
        return replace(words, trouble="away", tokens=away.tokens, seconds=time.perf_counter() - started)
    except BadAnswer as bad:
        return replace(words, trouble="bad answer", tokens=bad.tokens, seconds=time.perf_counter() - started)
    except NoBudget:
        return replace(words, trouble="no budget")
    seconds = time.perf_counter() - started
    prediction = _prediction(case.id, answer, ranked, catalogue.terms)
    return Told(prediction, answer.tier, seconds, answer.tokens, answer.model)


def _prediction(which: Id, answer: Answer, ranked: Sequence[Match], terms: Terms) -> Prediction:
    """An answer below the threshold goes to a person: that is an abstention too. Then the confidence is the chance
    that no recipe fits, which is less than the chance that the best guess is wrong.
    """
    none = ranked[0].none if ranked else 1.0
    listed = tuple(dict.fromkeys([*([answer.recipe] if answer.recipe else []), *(one.recipe for one in ranked)]))
    if answer.recipe is None and answer.tier == "model":
        none = answer.confidence  # it says how sure it is of that
        score = 1 - none
    else:
        score = answer.confidence
    score = round(score, 6)
    if answer.recipe and answer.confidence >= terms.threshold_of(answer):
        return Prediction(which, answer.recipe, score, listed, score)
    return Prediction(which, None, round(min(none, 1 - score), 6), listed, score)


# ---------------------------------------------------------------- what it took


def costs(told: Sequence[Told], price_per_million: float | None = None) -> dict[str, Any]:
    """Tokens, money where a price is given, milliseconds, and who answered."""
    tokens = sum(one.tokens for one in told)
    asked = [one for one in told if one.tier == "model" or one.trouble]
    found: dict[str, Any] = {
        "by_tier": dict(Counter(one.tier for one in told)),
        "model_asked": len(asked),
        "model_in_vain": dict(Counter(one.trouble for one in told if one.trouble)),
        "models": sorted({one.model for one in told if one.model}),
        "prompt_version": PROMPT_VERSION if asked else None,
        "tokens": tokens,
        "tokens_per_question": rounded(tokens / len(asked)) if asked else None,
    }
    if price_per_million is not None:
        found["cost"] = round(tokens * price_per_million / 1_000_000, 6)
    return found | latency([one.seconds for one in told])
