"""`flask classify eval`: the lexical tier on a folder of real alerts with the truth. Reads files only.

The folder holds `alerts_<variant>.jsonl` ({"id", "alert": an Alertmanager alert}) and `alerts_truth.jsonl`
({"id", "recipe_slug" or null, "accept": slugs that are right too}); recipes are JSON lines with slug, title,
when_to_use, description, impact and mitigation: `recipes.jsonl` in the folder or in the one above it.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openremedy.classifier.lexical import Index, lexical_answer
from openremedy.classifier.shapes import Recipe, Subject
from openremedy.errors import Invalid


@dataclass(frozen=True)
class Outcome:
    """One alert: what was said and what is right; `right` is None when no recipe fits."""

    ranked: tuple[str, ...]
    answer: str | None
    right: str | None
    accept: frozenset[str]
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the answer given is right; an answer to an alert that no recipe fits never is."""
        return self.answer is not None and self.right is not None and self.answer in (self.accept | {self.right})


def evaluate(folder: Path, recipes_file: Path | None, variant: str) -> dict[str, Any]:
    """Figures by name. Raises Invalid when a file is missing or not what it should be."""
    recipes_file = recipes_file or _recipes_of(folder)
    alerts = _rows(folder / f"alerts_{variant}.jsonl")
    try:
        index = Index([_recipe(row) for row in _rows(recipes_file)])
        truth = {row["id"]: row for row in _rows(folder / "alerts_truth.jsonl")}
        outcomes = [_outcome(index, row["alert"], truth[row["id"]]) for row in alerts]
    except (KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{folder}: a line lacks something ({type(error).__name__}: {error}).") from error
    return {"variant": variant, "tier": "lexical"} | _figures(outcomes)


def _recipes_of(folder: Path) -> Path:
    """Several folders of alerts may share the recipes that lie beside them."""
    own, shared = folder / "recipes.jsonl", folder.resolve().parent / "recipes.jsonl"
    return shared if shared.exists() and not own.exists() else own


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise Invalid(f"There is no file {path}.") from error
    except ValueError as error:
        raise Invalid(f"{path} is not JSON lines: {error}.") from error


def _recipe(row: dict[str, Any]) -> Recipe:
    when = "\n".join(row.get(name) or "" for name in ("when_to_use", "description", "impact"))
    tags = tuple(row.get("tags") or ())
    return Recipe(row["slug"], row.get("title") or "", when, steps=row.get("mitigation") or "", tags=tags)


def _outcome(index: Index, alert: dict[str, Any], truth: dict[str, Any]) -> Outcome:
    subject = _subject(alert)
    started = time.perf_counter()
    ranked = index.rank(subject)
    answer = lexical_answer(subject, ranked).recipe
    seconds = time.perf_counter() - started
    accept = frozenset(truth.get("accept") or ())
    return Outcome(tuple(one.recipe for one in ranked), answer, truth["recipe_slug"], accept, seconds)


def _subject(alert: dict[str, Any]) -> Subject:
    labels = alert.get("labels") or {}
    query = dict(parse_qsl(urlsplit(alert.get("generatorURL") or "").query))
    evidence = {**labels, **(alert.get("annotations") or {})}
    if "g0.expr" in query:
        evidence["expression"] = query["g0.expr"]
    return Subject("custom", str(labels.get("instance", "unknown")), "medium", evidence, "alertmanager")


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    fitting = [one for one in outcomes if one.right]
    foreign = [one for one in outcomes if not one.right]
    answered = [one for one in outcomes if one.answer]
    places = [one.ranked.index(one.right) + 1 if one.right in one.ranked else 0 for one in fitting if one.right]
    milliseconds = [one.seconds * 1000 for one in outcomes]
    return {
        "alerts": len(outcomes),
        "with_recipe": len(fitting),
        "without_recipe": len(foreign),
        "top1": _share(sum(place == 1 for place in places), len(places)),
        "top3": _share(sum(0 < place <= 3 for place in places), len(places)),
        "mrr": _share(sum(1 / place for place in places if place), len(places)),
        "answered": _share(len(answered), len(outcomes)),
        "precision": _share(sum(one.correct for one in answered), len(answered)),
        "abstained_without_recipe": _share(sum(one.answer is None for one in foreign), len(foreign)),
        "ms_p50": round(median(milliseconds), 2) if milliseconds else None,
        "ms_p95": round(quantiles(milliseconds, n=20)[-1], 2) if len(milliseconds) > 1 else None,
    }


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
