"""Learn the weights of the lexical tier and write openremedy/classifier/matcher.json: `make train-matcher`.

Reads labelled alerts: the folder of the classifier benchmark (three variants of its alerts against its recipes) and
our own incidents against the starter catalogue (training/incidents.yaml). Two things are learnt, both convex and
without chance, so that the same files give the same bytes:

1. The weight of each feature: the softmax over the candidates of an incident shall give the right recipe the most
   (weights not below zero, L2). A family of n alerts counts as the square root of n.
2. What the chances of the three outcomes are (the best is right, another is, none fits): a multinomial logistic
   regression on the features of the best, learnt from rankings of families that the weights had not seen.

`--report` prints cross-validated figures instead, with intervals, and how they grow with what people confirm.
"""

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from openremedy.classifier.lexical import (  # noqa: E402
    CONFIDENCE_FEATURES,
    FEATURES,
    Example,
    Index,
)
from openremedy.classifier.shapes import Recipe, Subject  # noqa: E402

MATCHER = ROOT / "openremedy" / "classifier" / "matcher.json"
OWN = ROOT / "training" / "incidents.yaml"
STARTER = ROOT / "config" / "recipes.yaml"
OUTCOMES = ("right", "wrong", "none")
RANK_L2, CONFIDENCE_C = 1.0, 0.1
FOLDS = 10
PRECISION = 0.95
DECIMALS = 4


@dataclass(frozen=True)
class Case:
    """One labelled incident; `family`: alerts that are the same in all but names, never on both sides of a split."""

    id: str
    variant: str
    family: str
    kind: str
    foreign: bool
    subject: Subject
    right: str | None


@dataclass
class Rows:
    """Compared incidents as arrays: n incidents, up to k candidates, f features; `right` -1 none fits, -2 not found."""

    cases: list[Case]
    features: Any
    there: Any
    right: Any
    fixed: Any  # the confidence features that do not depend on the weights, as of the first candidate by glance
    titled: Any
    slugs: list[list[str]] = field(default_factory=list)


# ---------------------------------------------------------------- what is learnt from


def benchmark_cases(folder: Path) -> Iterable[tuple[str, Index, list[Case]]]:
    """Per variant the index of its recipes and its alerts."""
    truths = {row["id"]: row for row in _lines(folder / "dev" / "alerts_truth.jsonl")}
    plain = Index(_benchmark_recipe(row) for row in _lines(folder / "recipes.jsonl"))
    opaque = Index(_benchmark_recipe(row) for row in _lines(folder / "recipes_opaque.jsonl"))
    variants = (("named", "named", plain), ("hidden", "hidden", plain), ("blind", "hidden", opaque))
    for variant, alerts, index in variants:
        rows = _lines(folder / "dev" / f"alerts_{alerts}.jsonl")
        yield variant, index, [_benchmark_case(variant, row, truths[row["id"]]) for row in rows]


def _benchmark_recipe(row: dict[str, Any]) -> Recipe:
    when = "\n".join(row.get(name) or "" for name in ("when_to_use", "description", "impact"))
    return Recipe(row["slug"], row.get("title") or "", when, steps=row.get("mitigation") or "", tags=tuple(row["tags"]))


def _benchmark_case(variant: str, row: dict[str, Any], truth: dict[str, Any]) -> Case:
    right = truth["recipe_opaque"] if variant == "blind" and truth["recipe_slug"] else truth["recipe_slug"]
    foreign = truth["basis"] == "hand_crosswalk"
    return Case(row["id"], variant, truth["family"], truth["kind"], foreign, subject_of_alert(row["alert"]), right)


def subject_of_alert(alert: dict[str, Any]) -> Subject:
    """What the classifier would see of an alert that Alertmanager sends."""
    from openremedy.benchmark import subject_of  # the real translation

    return subject_of(alert)


def own_cases() -> tuple[str, Index, list[Case]]:
    index = Index(
        Recipe(
            row["slug"],
            row["title"],
            row["when"],
            tuple(row.get("applies_to", ())),
            {},
            row["risk"],
            row["steps"],
            tuple(row.get("tags", ())),
        )
        for row in yaml.safe_load(STARTER.read_text("utf-8"))
    )
    rows = yaml.safe_load(OWN.read_text("utf-8"))
    return "own", index, [_own_case(row) for row in rows]


def _own_case(row: dict[str, Any]) -> Case:
    subject = Subject(row["incident_type"], row["hostname"], row["severity"], row["evidence"])
    return Case(row["id"], "own", row["id"], row["kind"], False, subject, row["recipe"])


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]


# ---------------------------------------------------------------- incidents as numbers


def compared(index: Index, cases: Sequence[Case]) -> Rows:
    count, width = len(cases), max(len(FEATURES), 1)
    found = [index.compare(case.subject) for case in cases]
    most = max(len(one.order) for one in found if one)
    features, there = np.zeros((count, most, width)), np.zeros((count, most), bool)
    right, fixed, titled = np.full(count, -2), np.zeros((count, len(CONFIDENCE_FEATURES))), np.zeros((count, most))
    slugs: list[list[str]] = []
    for row, (case, one) in enumerate(zip(cases, found, strict=True)):
        places = one.order if one else []
        slugs.append([one.scope.slugs[place] for place in places] if one else [])
        for column, place in enumerate(places):
            assert one
            features[row, column], there[row, column] = one.features[place], True
            titled[row, column] = bool(one.scope.texts[place].name)
        if one:
            fixed[row] = one.confidence_features()
        right[row] = -1 if case.right is None else slugs[-1].index(case.right) if case.right in slugs[-1] else -2
    return Rows(list(cases), features, there, right, fixed, titled, slugs)


def remembered(index: Index, cases: Sequence[Case]) -> Rows:
    """Each half of the cases, with the answers to the other half known: repeats among them, and strangers."""
    halves = [cases[0::2], cases[1::2]]
    both = [
        compared(index.remembering(Example(case.subject, case.right) for case in other), half)
        for half, other in ((halves[0], halves[1]), (halves[1], halves[0]))
    ]
    return joined(both)


def joined(parts: Sequence[Rows]) -> Rows:
    """Several sets as one, the shorter lists of candidates filled up."""
    most = max(part.there.shape[1] for part in parts)

    def wide(array: Any) -> Any:
        gap = [(0, 0), (0, most - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, gap)

    return Rows(
        [case for part in parts for case in part.cases],
        np.concatenate([wide(part.features) for part in parts]),
        np.concatenate([wide(part.there) for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.fixed for part in parts]),
        np.concatenate([wide(part.titled) for part in parts]),
        [slugs for part in parts for slugs in part.slugs],
    )


def taken(rows: Rows, which: Any) -> Rows:
    places = np.flatnonzero(which)
    return Rows(
        [rows.cases[place] for place in places],
        rows.features[places],
        rows.there[places],
        rows.right[places],
        rows.fixed[places],
        rows.titled[places],
        [rows.slugs[place] for place in places],
    )


def influence(rows: Rows) -> Any:
    """A family of n alerts counts as the square root of n, in each variant."""
    sizes = Counter((case.variant, case.family) for case in rows.cases)
    return np.array([sizes[case.variant, case.family] ** -0.5 for case in rows.cases])


def folds_of(rows: Rows, count: int = FOLDS, seed: int = 0) -> Any:
    """The fold of each row, whole families together."""
    families = np.array(sorted({case.family for case in rows.cases}))
    np.random.RandomState(seed).shuffle(families)
    fold = {family: place % count for place, family in enumerate(families)}
    return np.array([fold[case.family] for case in rows.cases])


# ---------------------------------------------------------------- learning


def learn_weights(rows: Rows) -> Any:
    """One weight per feature, not below zero."""
    known = taken(rows, rows.right >= 0)
    features, there, right = known.features, known.there, known.right
    counted, at = influence(known), np.arange(len(known.right))

    def loss(weights: Any) -> tuple[float, Any]:
        points = np.where(there, features @ weights, -1e9)
        top = points.max(1, keepdims=True)
        raised = np.exp(points - top)
        whole = raised.sum(1, keepdims=True)
        missed = -(counted * (points[at, right] - top[:, 0] - np.log(whole[:, 0]))).sum()
        expected = np.einsum("nk,nkf->nf", raised / whole, features)
        slope = -(counted[:, None] * (features[at, right] - expected)).sum(0)
        return missed + RANK_L2 / 2 * weights @ weights, slope + RANK_L2 * weights

    start = np.full(features.shape[2], 2.0)
    settings = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    bounds = [(0, None)] * len(start)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=settings).x


def points_of(rows: Rows, weights: Any) -> Any:
    return np.where(rows.there, rows.features @ weights, -1e9)


def confidence_inputs(rows: Rows, points: Any) -> Any:
    """The confidence features of the best candidate under these points."""
    at, order = np.arange(len(points)), (-points).argsort(1, kind="stable")
    best = order[:, 0]
    raised = np.exp(points - points.max(1, keepdims=True))
    share = raised[at, best] / raised.sum(1)
    odds = np.log(np.maximum(share, 1e-6) / np.maximum(1 - share, 1e-6))
    alone = rows.there.sum(1) < 2
    second = points[at, order[:, 1]] if points.shape[1] > 1 else points[:, 0]
    lead = np.where(alone, points[at, best], points[at, best] - second)
    inputs = rows.fixed.copy()
    for name, values in (
        *zip(FEATURES, rows.features[at, best].T, strict=True),
        ("share", odds),
        ("lead", lead),
        ("points", points[at, best]),
        ("titled", rows.titled[at, best]),
    ):
        inputs[:, CONFIDENCE_FEATURES.index(name)] = values
    return inputs


def outcomes_of(rows: Rows, points: Any) -> Any:
    return np.where(rows.right == -1, 2, np.where(points.argmax(1) == rows.right, 0, 1))


def learn_confidence(rows: Rows, points: Any) -> Any:
    """Three rows of an intercept and a weight per confidence feature."""
    inputs, outcomes = confidence_inputs(rows, points), outcomes_of(rows, points)
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(C=CONFIDENCE_C, max_iter=20_000, tol=1e-10)
    model.fit(scaler.transform(inputs), outcomes)
    slopes = model.coef_ / scaler.scale_
    return np.column_stack([model.intercept_ - slopes @ scaler.mean_, slopes])


def chances(rows: Rows, points: Any, confidence: Any) -> Any:
    """Per row the chances that the best is right, that another is, that none fits."""
    scores = confidence[:, 0] + confidence_inputs(rows, points) @ confidence[:, 1:].T
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def unseen_points(rows: Rows, seed: int = 0) -> Any:
    """Points by weights that were learnt without the row's family."""
    folds, points = folds_of(rows, seed=seed), np.zeros(rows.there.shape)
    for fold in range(FOLDS):
        weights = learn_weights(taken(rows, folds != fold))
        points[folds == fold] = points_of(taken(rows, folds == fold), weights)
    return points


def unseen_chances(rows: Rows, points: Any, seed: int = 0) -> Any:
    folds, found = folds_of(rows, seed=seed), np.zeros((len(rows.cases), 3))
    for fold in range(FOLDS):
        seen = folds != fold
        confidence = learn_confidence(taken(rows, seen), points[seen])
        found[~seen] = chances(taken(rows, ~seen), points[~seen], confidence)
    return found


def threshold_of(rows: Rows, points: Any, found: Any) -> float:
    """The lowest at which what is answered is right often enough in every variant, on families unseen."""
    right = points.argmax(1) == rows.right
    variants = np.array([case.variant for case in rows.cases])
    for threshold in np.arange(0.5, 0.99, 0.01):
        said = found[:, 0] >= threshold
        shares = [right[said & (variants == one)].mean() for one in set(variants) if (said & (variants == one)).any()]
        if min(shares) >= PRECISION:
            return round(float(threshold), 2)
    raise SystemExit("No threshold is precise enough.")
