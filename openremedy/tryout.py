"""What a change of one recipe would do to the last incidents: both catalogues side by side, nothing stored."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from openremedy.classification import Catalogue, enabled_recipes, terms_of
from openremedy.classifier.cause import NAMING_KEYS
from openremedy.classifier.lexical import Index
from openremedy.classifier.shapes import Answer, Recipe, Subject
from openremedy.incidents import evidence_of, subject_of
from openremedy.models import Feedback, Incident, table
from openremedy.recipes import RecipeSpec

INCIDENTS = 100
SECONDS = 20  # then it tells what it has; huge evidence in a huge catalogue must not hold up the worker
TITLE = 200
TIERS = ("rule", "lexical")
LEFT_OUT = ("reuse", "model")


def try_out(engine: Engine, tenant_id: int, slug: str, spec: RecipeSpec | None) -> dict[str, Any]:
    """Classify the last incidents without and with a change: `spec` in place of the recipe `slug`; None = without it.

    Returns JSON: `tiers` that were used and those `left_out`, `threshold`, `complete` (false: the time was over),
    `totals` and `incidents`, newest first, each with incident_id, hostname, incident_type, title, `before` and `after`
    ({recipe, tier, confidence}), `outcome` (same, changed, gained, lost), `answered` ({answer, recipe} or null) and
    `agrees` (of what would change, where a person has answered; else null).
    """
    end = time.monotonic() + SECONDS
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        before, after = _catalogues(connection, tenant_id, slug, spec)
        incidents = _newest(connection, tenant_id)
        answers = _answers(connection, [row["id"] for row in incidents])
    rows = []
    for incident in _while_there_is_time(incidents, end):
        rows.append(_compared(incident, before, after, answers.get(incident["id"])))
    return {
        "tiers": TIERS,
        "left_out": LEFT_OUT,
        "threshold": before.terms.threshold,
        "complete": len(rows) == len(incidents),
        "totals": _totals(rows),
        "incidents": rows,
    }


def _catalogues(
    connection: Connection, tenant_id: int, slug: str, spec: RecipeSpec | None
) -> tuple[Catalogue, Catalogue]:
    version, terms = terms_of(connection, tenant_id)
    present = enabled_recipes(connection, tenant_id)
    changed = tuple(recipe for recipe in present if recipe.slug != slug)
    if spec and spec.enabled:
        changed += (_recipe(spec),)
    return Catalogue(version, present, Index(present), terms), Catalogue(version, changed, Index(changed), terms)


def _recipe(spec: RecipeSpec) -> Recipe:
    return Recipe(
        slug=spec.slug,
        title=spec.title,
        when=spec.when,
        applies_to=spec.applies_to,
        match=spec.match,
        risk=spec.risk,
        steps=spec.steps,
        tags=spec.tags,
    )


def _newest(connection: Connection, tenant_id: int) -> Sequence[Any]:
    statement = select(table(Incident)).where(Incident.tenant_id == tenant_id)
    return connection.execute(statement.order_by(Incident.id.desc()).limit(INCIDENTS)).mappings().all()


def _answers(connection: Connection, incidents: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """What was said last of each."""
    newest = select(func.max(Feedback.id)).where(Feedback.incident_id.in_(incidents)).group_by(Feedback.incident_id)
    statement = select(Feedback.incident_id, Feedback.answer, Feedback.recipe).where(Feedback.id.in_(newest))
    return {incident: {"answer": said, "recipe": recipe} for incident, said, recipe in connection.execute(statement)}


def _while_there_is_time(incidents: Sequence[Any], end: float) -> Iterator[Any]:
    for incident in incidents:
        if time.monotonic() > end:
            return
        yield incident


def _compared(incident: Any, before: Catalogue, after: Catalogue, answered: dict[str, Any] | None) -> dict[str, Any]:
    subject = subject_of(incident)
    old, new = (_answer(catalogue, subject) for catalogue in (before, after))
    outcome = _outcome(old.recipe, new.recipe)
    return {
        "incident_id": str(incident["id"]),
        "hostname": incident["hostname"],
        "incident_type": str(incident["incident_type"]),
        "title": _title(incident),
        "before": _named(old),
        "after": _named(new),
        "outcome": outcome,
        "answered": answered,
        "agrees": None if answered is None or outcome == "same" else new.recipe == answered["recipe"],
    }


def _answer(catalogue: Catalogue, subject: Subject) -> Answer:
    return catalogue.by_rules(subject) or catalogue.by_words(subject, catalogue.rank(subject))


def _outcome(old: str | None, new: str | None) -> str:
    if old == new:
        return "same"
    if old is None:
        return "gained"
    return "lost" if new is None else "changed"


def _named(answer: Answer) -> dict[str, Any]:
    return {"recipe": answer.recipe, "tier": answer.tier, "confidence": round(answer.confidence, 4)}


def _title(incident: Any) -> str:
    """What the alert calls itself, or nothing."""
    evidence = evidence_of(incident)
    found = (evidence[key] for key in NAMING_KEYS if isinstance(evidence.get(key), str) and evidence[key])
    return next(found, "")[:TITLE]


def _totals(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter(row["outcome"] for row in rows)
    counts["agrees"] = sum(row["agrees"] is True for row in rows)
    counts["disagrees"] = sum(row["agrees"] is False for row in rows)
    return {name: counts[name] for name in ("same", "changed", "gained", "lost", "agrees", "disagrees")}
