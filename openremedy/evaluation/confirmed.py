"""The classifier on a tenant's own incidents that people have answered. Nothing is stored but the tokens it costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine

from openremedy.budget import BudgetSpent, Excess, Metered
from openremedy.classification import Catalogue, Terms, enabled_recipes, terms_of
from openremedy.classifier import Model, ask_model
from openremedy.classifier.cause import cause_of
from openremedy.classifier.lexical import Index
from openremedy.classifier.shapes import Answer, Example, Recipe, Subject
from openremedy.errors import Conflict, Invalid
from openremedy.evaluation.comparing import compare
from openremedy.evaluation.figures import figures
from openremedy.evaluation.rows import Judged, Truth, judged
from openremedy.evaluation.running import Case, NoBudget, Told, ask_all, costs, tell_all
from openremedy.examples import answers_to_all, examples_of

NEWEST = 500  # that an evaluation looks at when somebody waits for it
SECONDS = 20  # then it tells what it has, so that it does not hold up the worker
NO_MODEL = "No model is connected: set OPENAI_BASE_URL, or OPENAI_API_KEY and OPENREMEDY_MODEL."


@dataclass(frozen=True)
class Setting:
    """How to classify; what is None is as the tenant has it."""

    tier: str = "lexical"
    threshold: float | None = None
    recipes: tuple[Recipe, ...] | None = None


@dataclass(frozen=True)
class Means:
    """What a model is asked with; `model` None: there is none."""

    model: Model | None
    timeout: float
    concurrency: int
    daily_tokens: int  # of the installation; 0 = no limit


@dataclass(frozen=True)
class Answered:
    """A tenant's incidents with what people said last of each, newest answer first."""

    cases: list[Case]
    truths: list[Truth]


@dataclass(frozen=True)
class Run:
    """One setting over the incidents, as far as there was time."""

    catalogue: Catalogue
    told: list[Told]
    rows: list[Judged]
    gone: int  # incidents whose right recipe is not in the catalogue

    def as_json(self, setting: Setting, price: float | None = None) -> dict[str, Any]:
        """A key per figure."""
        return {
            "tier": setting.tier,
            "threshold": self.catalogue.terms.threshold_for(setting.tier),
            "recipes": len(self.catalogue.recipes),
            "right_recipe_gone": self.gone,
            **figures(self.rows),
            **costs(self.told, price),
        }


def answered(engine: Engine, tenant_id: int, limit: int | None = None) -> Answered:
    """Incidents of which a person confirmed or corrected the verdict or said that none fits.

    Alerts of one cause are one family. What people said of others is known to the tiers, of the incident itself not.
    """
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        found = answers_to_all(connection, tenant_id, limit)
    return Answered([Case(one.id, one.subject) for one in found], [_truth(one) for one in found])


def _truth(example: Example) -> Truth:
    right = example.recipe
    return Truth(example.id, right, frozenset([right] if right else []), cause_of(example.subject))


def catalogue_of(engine: Engine, tenant_id: int, setting: Setting) -> Catalogue:
    """The tenant's recipes and terms, with what the setting has instead."""
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        version, terms = terms_of(connection, tenant_id)
        recipes = enabled_recipes(connection, tenant_id) if setting.recipes is None else setting.recipes
        examples = examples_of(connection, tenant_id)
    if setting.threshold is not None:
        terms = replace(terms, threshold=setting.threshold, model_threshold=setting.threshold)
    return Catalogue(version, recipes, Index(recipes).remembering(examples), terms)


async def run(
    engine: Engine, tenant_id: int, found: Answered, setting: Setting, means: Means, end: float | None = None
) -> Run:
    """Classify the incidents anew. Raises Invalid, Conflict."""
    catalogue = catalogue_of(engine, tenant_id, setting)
    slugs = {recipe.slug for recipe in catalogue.recipes}
    # Who looks for a recipe that is no more cannot find it: that says nothing of the classifier.
    there = {truth.id for truth in found.truths if truth.right is None or truth.right in slugs}
    cases = [case for case in found.cases if case.id in there]
    if setting.tier == "model":
        asker = _Asker(engine, tenant_id, _model(means, catalogue.terms), means, catalogue.terms)
        told = await ask_all(cases, catalogue, asker.ask, means.concurrency, end)
    else:
        told = tell_all(cases, catalogue, end)
    reached = {one.prediction.id for one in told}
    rows = judged([truth for truth in found.truths if truth.id in reached], [one.prediction for one in told])
    return Run(catalogue, told, rows, len(found.cases) - len(cases))


def _model(means: Means, terms: Terms) -> Model:
    if means.model is None:
        raise Invalid(NO_MODEL)
    if not terms.model_allowed:
        raise Conflict("This tenant does not let its evidence go to a model.")
    return means.model


@dataclass(frozen=True)
class _Asker:
    """Asks a model within the tenant's budget, which an evaluation shares with the verdicts."""

    engine: Engine
    tenant_id: int
    model: Model
    means: Means
    terms: Terms

    async def ask(self, subject: Subject, shortlist: Sequence[Recipe], examples: Sequence[Example]) -> Answer:
        limit = self.terms.tokens_a_day(self.means.daily_tokens)
        paid = Metered(self.engine, self.model, self.tenant_id, limit, Excess())
        try:
            return await ask_model(subject, shortlist, paid, self.means.timeout, examples=examples)
        except BudgetSpent as spent:
            raise NoBudget from spent


# ---------------------------------------------------------------- while somebody waits


async def evaluate(
    engine: Engine, tenant_id: int, setting: Setting, against: Setting | None, means: Means
) -> dict[str, Any]:
    """The figures of the newest answered incidents, as far as there is time for, and beside those of `against`.

    `complete` false: the time was over. `comparison` is of the incidents that both have answered, a = `against`.
    """
    found = answered(engine, tenant_id, NEWEST)
    settings = [setting, *([against] if against else [])]
    runs = []
    for one in settings:
        end = time.monotonic() + SECONDS / len(settings)
        runs.append(await run(engine, tenant_id, found, one, means, end))
    result = runs[0].as_json(setting)
    result["complete"] = all(len(one.rows) + one.gone == len(found.cases) for one in runs)
    result["against"] = runs[1].as_json(against) if against else None
    result["comparison"] = compared(runs[1].rows, runs[0].rows) if against else None
    return result


def compared(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """Two runs on the alerts that both have."""
    by_id = {row.truth.id: row for row in first}
    both = [(by_id[row.truth.id], row) for row in second if row.truth.id in by_id]
    return compare([a for a, _ in both], [b for _, b in both])
