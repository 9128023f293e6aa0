"""`flask classify eval FOLDER`: a tier over a folder of other people's alerts. Reads files and, where asked, a model.

The folder holds `alerts_named.jsonl` and `alerts_hidden.jsonl` ({"id", "alert": an alert of Alertmanager}) and where
they are known `alerts_truth.jsonl`, `types.jsonl` ({"id", "tool", "payload"}) and `types_truth.jsonl`. Every alert goes
through the translation of its adapter, so that the tiers see what they would see of the tool itself.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openremedy import adapter as native
from openremedy.adapter import Adapter
from openremedy.alerts import Alert, IncidentType, parse_alert
from openremedy.classification import Catalogue, Terms
from openremedy.classifier import ask_model
from openremedy.classifier.lexical import Index
from openremedy.classifier.shapes import Answer, Example, Recipe, Subject
from openremedy.errors import Invalid, Problem
from openremedy.evaluation import kinds, lines
from openremedy.evaluation.comparing import compare
from openremedy.evaluation.confirmed import NO_MODEL, Means
from openremedy.evaluation.figures import figures
from openremedy.evaluation.kinds import Kind
from openremedy.evaluation.lines import Line
from openremedy.evaluation.rows import Judged, Prediction, Truth, judged
from openremedy.evaluation.running import Case, Told, ask_all, costs, tell_all
from openremedy.intake import ALL_STATUSES
from openremedy.recipes import RecipeFileError, parse
from openremedy.registry import type_and_severity
from openremedy.translation import Translated, fit

Adapters = Mapping[str, Adapter]

VARIANTS = ("named", "hidden", "blind")
# blind: the alerts without their names, and recipes without theirs.
ALERTS = {"named": "alerts_named.jsonl", "hidden": "alerts_hidden.jsonl", "blind": "alerts_hidden.jsonl"}
RECIPES = {"named": "recipes.jsonl", "hidden": "recipes.jsonl", "blind": "recipes_opaque.jsonl"}
WHEN = ("when_to_use", "description", "impact")


@dataclass(frozen=True)
class Wanted:
    """How to run; `threshold` None is the one that is shipped, `recipes` None those beside the alerts."""

    folder: Path
    variant: str = "named"
    tier: str = "lexical"
    recipes: Path | None = None
    threshold: float | None = None
    predictions: Path | None = None
    price: float | None = None  # of a million tokens


async def evaluate(wanted: Wanted, adapters: Adapters, means: Means) -> dict[str, Any]:
    """A key per figure, without a truth only what was run; predictions are written where wanted. Raises Invalid."""
    started = time.perf_counter()
    catalogue = _catalogue(wanted)
    built = time.perf_counter() - started
    cases = _cases(wanted, adapters)
    truths = _truths(wanted, cases, catalogue)
    types = _types(wanted.folder, adapters)
    told = await _told(wanted, cases, catalogue, means)
    found = [one.prediction for one in told]
    if wanted.predictions:
        lines.write(wanted.predictions, [*lines.prediction_rows(found), *map(_kind_row, types)])
    return {
        "variant": wanted.variant,
        "tier": wanted.tier,
        "threshold": catalogue.terms.threshold_for(wanted.tier),
        "recipes": len(catalogue.recipes),
        "index_ms": round(built * 1000, 2),
        **(figures(judged(truths, found)) if truths else {"alerts": len(found)}),
        **costs(told, wanted.price),
        **_type_figures(wanted.folder, types),
    }


async def _told(wanted: Wanted, cases: Sequence[Case], catalogue: Catalogue, means: Means) -> list[Told]:
    if wanted.tier != "model":
        return tell_all(cases, catalogue)
    model = means.model
    if model is None:
        raise Invalid(NO_MODEL)

    async def ask(subject: Subject, shortlist: Sequence[Recipe], examples: Sequence[Example]) -> Answer:
        return await ask_model(subject, shortlist, model, means.timeout, examples=examples)

    return await ask_all(cases, catalogue, ask, means.concurrency)


# ---------------------------------------------------------------- recipes


def _catalogue(wanted: Wanted) -> Catalogue:
    recipes = recipes_of(wanted.recipes or _beside(wanted.folder, RECIPES[wanted.variant]))
    return Catalogue(0, recipes, Index(recipes), Terms.chosen(True, wanted.threshold, None))


def _beside(folder: Path, name: str) -> Path:
    """Several folders of alerts may share the recipes that lie beside them."""
    own, shared = folder / name, folder.resolve().parent / name
    return shared if shared.exists() and not own.exists() else own


def recipes_of(path: Path) -> tuple[Recipe, ...]:
    """The recipes of a benchmark (.jsonl), or the enabled ones of a catalogue as `flask recipe export` writes it.

    Raises Invalid.
    """
    if path.suffix not in (".yaml", ".yml"):
        return tuple(map(_recipe, lines.read(path, "slug")))
    try:
        specs = parse(path.read_text("utf-8"))
    except (RecipeFileError, OSError, ValueError) as error:
        raise Invalid(f"{path}: {error}") from error
    return tuple(
        Recipe(one.slug, one.title, one.when, one.applies_to, one.match or {}, one.risk, one.steps, one.tags)
        for one in specs
        if one.enabled
    )


def _recipe(line: Line) -> Recipe:
    when = "\n".join(line.optional(name) or "" for name in WHEN if line.get(name))
    steps = line.optional("mitigation") if line.get("mitigation") else None
    title = line.optional("title") if line.get("title") else None
    return Recipe(line.text("slug"), title or "", when, steps=steps or "", tags=line.texts("tags"))


# ---------------------------------------------------------------- alerts


def _cases(wanted: Wanted, adapters: Adapters) -> list[Case]:
    rows = lines.read(wanted.folder / ALERTS[wanted.variant])
    return [Case(row.id, _subject(row, adapters)) for row in rows]


def _subject(row: Line, adapters: Adapters) -> Subject:
    try:
        return subject_of(row.object("alert"), adapters["alertmanager"])
    except Problem as problem:
        raise row.wrong(problem.sentence()) from problem


def subject_of(payload: dict[str, Any], adapter: Adapter) -> Subject:
    """What the classifier would see of one alert of Alertmanager; of a heartbeat too, which opens no incident.

    A heartbeat is known by its name, so it is translated under another one. Raises BadBody, Invalid.
    """
    alert = _translated(payload, adapter)
    if alert is None:
        name = str((payload.get("labels") or {}).get("alertname", ""))
        alert = _translated({**payload, "labels": {**payload["labels"], "alertname": "-"}}, adapter)
        if alert is None:
            raise Invalid("The adapter makes nothing of this alert.")
        labels = {**alert.evidence.get("labels", {}), "alertname": name}
        alert = replace(alert, evidence={**alert.evidence, "alertname": name, "labels": labels})
    return Subject(str(alert.incident_type), alert.hostname, str(alert.severity), alert.evidence, adapter.name)


def _translated(payload: dict[str, Any], adapter: Adapter) -> Alert | None:
    """The canonical alert that the door would be given; None for what the adapter ignores or refuses."""
    reading = native.read(adapter.formats[0], json.dumps({"alerts": [payload]}).encode(), "application/json", {})
    one = next((one for one in reading.translations if isinstance(one, Translated)), None)
    return parse_alert(fit(one.alert).to_bytes(), ALL_STATUSES)[0] if one else None


def _truths(wanted: Wanted, cases: Sequence[Case], catalogue: Catalogue) -> list[Truth]:
    """In the order of the alerts; nothing where the folder has none. Raises Invalid."""
    path = wanted.folder / "alerts_truth.jsonl"
    if not path.exists():
        return []
    found = {truth.id: truth for truth in truths_of(path, {recipe.slug for recipe in catalogue.recipes})}
    unknown = next((case.id for case in cases if case.id not in found), None)
    if unknown is not None:
        raise Invalid(f"{path} has no row for the alert {unknown!r} of {ALERTS[wanted.variant]}.")
    return [found[case.id] for case in cases]


def truths_of(path: Path, slugs: set[str] | None = None) -> list[Truth]:
    """The truth of a folder; with `slugs` a recipe that is not among them is an error. Raises Invalid."""
    found = []
    for line in lines.read(path):
        truth = lines.truth_of(line)
        if slugs is not None and truth.right and not {truth.right, truth.opaque} & slugs:
            raise line.wrong(f"there is no recipe {truth.right!r} among the recipes.")
        found.append(truth)
    return found


# ---------------------------------------------------------------- types


def _types(folder: Path, adapters: Adapters) -> list[Kind]:
    path = folder / "types.jsonl"
    return [_kind(row, adapters) for row in lines.read(path)] if path.exists() else []


def _kind(row: Line, adapters: Adapters) -> Kind:
    told, severity = type_and_severity(adapters, row.text("tool"), row.object("payload"))
    return Kind(row.id, str(told), None if severity is None else str(severity))


def _kind_row(kind: Kind) -> dict[str, Any]:
    return {"id": kind.id, "incident_type": kind.incident_type, "severity": kind.severity}


def _type_figures(folder: Path, types: Sequence[Kind]) -> dict[str, Any]:
    path = folder / "types_truth.jsonl"
    if not types or not path.exists():
        return {}
    truth = {line.id: line for line in lines.read(path)}
    unknown = next((kind.id for kind in types if kind.id not in truth), None)
    if unknown is not None:
        raise Invalid(f"{path} has no row for {unknown!r} of types.jsonl.")
    right = [_right_kind(truth[kind.id]) for kind in types]
    return kinds.figures(right, {kind.id: kind for kind in types})


def _right_kind(line: Line) -> Kind:
    told = line.text("incident_type")
    if told not in list(IncidentType):
        raise line.wrong(f"there is no incident type {told!r}.")
    # The rules of one exporter are alike; where no family is given they are one.
    return Kind(line.id, told, line.optional("severity"), line.optional("family") or line.optional("group"))


# ---------------------------------------------------------------- two runs


def compare_files(first: Path, second: Path, truths: Sequence[Truth]) -> dict[str, Any]:
    """What differs between two files of predictions. Raises Invalid."""
    return compare(*(_judged(path, truths) for path in (first, second)))


def _judged(path: Path, truths: Sequence[Truth]) -> list[Judged]:
    found: list[Prediction] = lines.predictions(path, [truth.id for truth in truths])
    return judged(truths, found)
