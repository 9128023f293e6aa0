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
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from openremedy.benchmark import recipes_of, subject_of  # noqa: E402
from openremedy.classifier.lexical import CONFIDENCE_FEATURES, FEATURES, MOSTLY, Index, swayed  # noqa: E402
from openremedy.classifier.query import query_of  # noqa: E402
from openremedy.classifier.shapes import ANSWER_THRESHOLD, Example, Subject  # noqa: E402
from openremedy.classifier.words import terms_of, words_of  # noqa: E402
from openremedy.registry import discover  # noqa: E402

ALERTMANAGER = discover()["alertmanager"]

MATCHER = ROOT / "openremedy" / "classifier" / "matcher.json"
OWN = ROOT / "training" / "incidents.yaml"
STARTER = ROOT / "config" / "recipes.yaml"
OUTCOMES = ("right", "wrong", "none")
RANK_L2, CONFIDENCE_C = 1.0, 0.2
FOLDS = 10
SPLITS = range(5)  # into folds, by which the threshold is found
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
    sway: Any  # per candidate, by what people said
    slugs: list[list[str]] = field(default_factory=list)


# ---------------------------------------------------------------- what is learnt from


def benchmark_cases(folder: Path) -> Iterable[tuple[str, Index, list[Case]]]:
    """Per variant the index of its recipes and its alerts."""
    truths = {row["id"]: row for row in _lines(folder / "dev" / "alerts_truth.jsonl")}
    plain, opaque = (Index(recipes_of(folder / name)) for name in ("recipes.jsonl", "recipes_opaque.jsonl"))
    variants = (("named", "named", plain), ("hidden", "hidden", plain), ("blind", "hidden", opaque))
    for variant, alerts, index in variants:
        rows = _lines(folder / "dev" / f"alerts_{alerts}.jsonl")
        yield variant, index, [_benchmark_case(variant, row, truths[row["id"]]) for row in rows]


def _benchmark_case(variant: str, row: dict[str, Any], truth: dict[str, Any]) -> Case:
    right = truth["recipe_opaque"] if variant == "blind" and truth["recipe_slug"] else truth["recipe_slug"]
    foreign = truth["basis"] == "hand_crosswalk"
    return Case(
        row["id"], variant, truth["family"], truth["kind"], foreign, subject_of(row["alert"], ALERTMANAGER), right
    )


def own_cases() -> tuple[str, Index, list[Case]]:
    index = Index(recipes_of(STARTER))
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
    sway = np.zeros((count, most))
    right, fixed = np.full(count, -2), np.zeros((count, len(CONFIDENCE_FEATURES)))
    slugs: list[list[str]] = []
    for row, (case, one) in enumerate(zip(cases, found, strict=True)):
        places = one.order if one else []
        slugs.append([one.scope.slugs[place] for place in places] if one else [])
        for column, place in enumerate(places):
            there[row, column] = True
            if one:
                features[row, column], sway[row, column] = one.features[place], one.sway(place)
        if one:
            fixed[row] = one.confidence_features(one.order[0])
        right[row] = -1 if case.right is None else slugs[-1].index(case.right) if case.right in slugs[-1] else -2
    return Rows(list(cases), features, there, right, fixed, sway, slugs)


def remembered(index: Index, cases: Sequence[Case]) -> Rows:
    """Each half of the cases, with the answers to the other half known: repeats among them, and strangers."""
    halves = [cases[0::2], cases[1::2]]
    both = [
        compared(index.remembering(Example(case.id, case.subject, case.right) for case in other), half)
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
        np.concatenate([wide(part.sway) for part in parts]),
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
        rows.sway[places],
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


def leading(rows: Rows, points: Any) -> Any:
    """Per row the place of the best: most points, but what people chose for mostly the same comes first."""
    return (points + 1e6 * (rows.sway > MOSTLY)).argmax(1)


def confidence_inputs(rows: Rows, points: Any) -> Any:
    """The confidence features of the best candidate under these points."""
    at, best = np.arange(len(points)), leading(rows, points)
    raised = np.exp(points - points.max(1, keepdims=True))
    share = raised[at, best] / raised.sum(1)
    odds = np.log(np.maximum(share, 1e-6) / np.maximum(1 - share, 1e-6))
    alone = rows.there.sum(1) < 2
    others = points.copy()
    others[at, best] = -np.inf
    second = others.max(1)
    lead = np.where(alone, points[at, best], points[at, best] - second)
    inputs = rows.fixed.copy()
    for name, values in (
        *zip(FEATURES, rows.features[at, best].T, strict=True),
        ("share", odds),
        ("lead", lead),
        ("points", points[at, best]),
    ):
        inputs[:, CONFIDENCE_FEATURES.index(name)] = values
    return inputs


def outcomes_of(rows: Rows, points: Any) -> Any:
    return np.where(rows.right == -1, 2, np.where(leading(rows, points) == rows.right, 0, 1))


def kinds_of(rows: Rows) -> dict[str, Any]:
    """Which rows each kind of confidence is learnt from: our own small catalogue, the benchmark's, and its untitled."""
    variants = np.array([case.variant for case in rows.cases])
    return {"few": variants == "own", "untitled": variants == "blind", "many": ~np.isin(variants, ("own", "blind"))}


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
    plain = raised / raised.sum(1, keepdims=True)
    swayed_by = rows.sway[np.arange(len(points)), leading(rows, points)]
    return np.array([swayed(one, sway) for one, sway in zip(plain, swayed_by, strict=True)])


def unseen_points(rows: Rows, seed: int = 0) -> Any:
    """Points by weights that were learnt without the row's family."""
    folds, points = folds_of(rows, seed=seed), np.zeros(rows.there.shape)
    for fold in range(FOLDS):
        weights = learn_weights(taken(rows, folds != fold))
        points[folds == fold] = points_of(taken(rows, folds == fold), weights)
    return points


def unseen_chances(rows: Rows, points: Any, seed: int = 0) -> Any:
    folds, found = folds_of(rows, seed=seed), np.zeros((len(rows.cases), 3))
    for kind in kinds_of(rows).values():
        for fold in range(FOLDS):
            seen, own = kind & (folds != fold), kind & (folds == fold)
            confidence = learn_confidence(taken(rows, seen), points[seen])
            found[own] = chances(taken(rows, own), points[own], confidence)
    return found


def threshold_of(rows: Rows) -> float:
    """The lowest from which on what is answered is right often enough in every variant, on families unseen.

    Over several ways to split the families, because single alerts near the bound would decide otherwise. Of the
    benchmark's variants: our own incidents are too few, and too many of them made to be difficult, for a bound.
    """
    variants = np.array([case.variant for case in rows.cases])
    splits = [(points, unseen_chances(rows, points, seed)) for seed in SPLITS for points in [unseen_points(rows, seed)]]
    right = np.concatenate([leading(rows, points) == rows.right for points, _ in splits])
    sure = np.concatenate([found[:, 0] for _, found in splits])
    variants = np.tile(variants, len(splits))
    found = 0.0
    for threshold in np.arange(0.95, 0.49, -0.01):
        said = [right[(variants == one) & (sure >= threshold)] for one in {*variants} - {"own"}]
        if min(answers.mean() for answers in said if len(answers)) < PRECISION:
            break
        found = round(float(threshold), 2)
    if not found:
        raise SystemExit("No threshold is precise enough.")
    return found


# ---------------------------------------------------------------- the shipped file


def train(sets: Sequence[tuple[str, Index, list[Case]]]) -> dict[str, Any]:
    """What matcher.json holds."""
    rows = joined([part(index, cases) for _, index, cases in sets for part in (compared, remembered)])
    weights, unseen = learn_weights(rows), unseen_points(rows)
    return {
        "about": "Written by scripts/train_matcher.py (make train-matcher); docs/classifier.md says what each is.",
        "threshold": threshold_of(rows),
        "weights": _named(FEATURES, weights),
        "confidence": {
            kind: _by_outcome(learn_confidence(taken(rows, which), unseen[which]))
            for kind, which in kinds_of(rows).items()
        },
    }


def _by_outcome(confidence: Any) -> dict[str, dict[str, float]]:
    names = ("intercept", *CONFIDENCE_FEATURES)
    return {outcome: _named(names, values) for outcome, values in zip(OUTCOMES, confidence, strict=True)}


def _named(names: Sequence[str], values: Any) -> dict[str, float]:
    return {name: round(float(value), DECIMALS) + 0.0 for name, value in zip(names, values, strict=True)}


# ---------------------------------------------------------------- the report


def report(sets: Sequence[tuple[str, Index, list[Case]]]) -> None:
    """All figures are of families that what is measured had not seen."""
    print(f"Learnt without the families that are measured, {FOLDS} folds; [95 % interval, bootstrap over families].")
    plain = joined([compared(index, cases) for _, index, cases in sets])
    both = joined([plain, *(remembered(index, cases) for _, index, cases in sets)])
    points = unseen_points(both)
    found = unseen_chances(both, points)
    count = len(plain.cases)
    threshold = threshold_of(both)
    print(f"\nThe answer threshold: {threshold}\n")
    _print_tier(plain, points[:count], found[:count], threshold)
    _print_approaches(sets, plain, points[:count])
    _print_learning(sets, both)


def _print_tier(rows: Rows, points: Any, found: Any, threshold: float) -> None:
    variants = np.array([case.variant for case in rows.cases])
    for variant in dict.fromkeys(variants):
        which = variants == variant
        for name, share in _tier_figures(taken(rows, which), points[which], found[which], threshold):
            print(f"{variant:7} {name:34} {share}")


def _tier_figures(rows: Rows, points: Any, found: Any, threshold: float) -> Iterable[tuple[str, str]]:
    kinds = np.array([case.kind for case in rows.cases])
    fits, foreign = rows.right != -1, np.array([case.foreign for case in rows.cases])
    best, place = leading(rows, points) == rows.right, places_of(rows, points)
    said = found[:, 0] >= threshold
    near = np.isin(kinds, ("neg_near", "near_negative"))
    yield "top-1", _share(rows, best, fits)
    yield "top-3", _share(rows, place < 3, fits)
    yield "among the first 12", _share(rows, place < 12, fits)
    if foreign.any():
        yield "top-1, not named like their runbook", _share(rows, best, fits & foreign)
    yield "coverage at 95 % precision", _interval(rows, lambda at: coverage(found[at, 0], best[at], fits[at]))
    yield "answered, of those a recipe fits", _share(rows, said, fits)
    yield "precision of the answers given", _share(rows, best, said)
    yield "near negatives left unanswered", _share(rows, ~said, near)
    yield "far negatives left unanswered", _share(rows, ~said, ~fits & ~near)
    stated, held = np.where(said, found[:, 0], found[:, 2]), np.where(said, best, ~fits)
    yield "calibration error (10 bins)", _interval(rows, lambda at: calibration_error(stated[at], held[at]))


def places_of(rows: Rows, points: Any) -> Any:
    """Where the right recipe stands, from 0; 999 where it is not among the candidates."""
    order = (-points).argsort(1, kind="stable")
    hits = order == rows.right[:, None]
    return np.where(hits.any(1), hits.argmax(1), 999)


def coverage(stated: Any, right: Any, fits: Any) -> float:
    """The largest share of those a recipe fits that is answered rightly where 95 % of the answers are right."""
    most, said, good = 0.0, 0, 0
    order = np.argsort(-stated, kind="stable")
    for at, row in enumerate(order):
        said, good = said + 1, good + bool(right[row])
        tied = at + 1 < len(order) and stated[order[at + 1]] == stated[row]
        if not tied and good / said >= PRECISION:
            most = max(most, good / max(fits.sum(), 1))
    return float(most)


def calibration_error(stated: Any, held: Any) -> float:
    bins = np.minimum((stated * 10).astype(int), 9)
    gaps = [(bins == one).sum() * abs(stated[bins == one].mean() - held[bins == one].mean()) for one in set(bins)]
    return float(sum(gaps) / len(stated))


def _share(rows: Rows, held: Any, among: Any) -> str:
    return _interval(rows, lambda at: float(held[at][among[at]].mean()) if among[at].any() else math.nan, among.sum())


def _interval(rows: Rows, figure: Callable[[Any], float], of: int | None = None, draws: int = 400) -> str:
    families = np.array([case.family for case in rows.cases])
    members = [np.flatnonzero(families == family) for family in dict.fromkeys(families)]
    chance = np.random.RandomState(0)
    drawn = [
        figure(np.concatenate([members[one] for one in chance.randint(0, len(members), len(members))]))
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{figure(np.arange(len(families))):.3f} [{low:.3f}, {high:.3f}]" + (f" of {of}" if of is not None else "")


def _print_approaches(sets: Sequence[tuple[str, Index, list[Case]]], rows: Rows, points: Any) -> None:
    print("\nApproaches compared: top-1 (coverage at 95 % precision by the raw score).")
    approaches = {
        "BM25 with concepts, name twice": rows.features[:, :, FEATURES.index("bm25")],
        "tf-idf of words and pairs": _dense(sets, rows, "word"),
        "tf-idf of words, pairs and pieces of words": _dense(sets, rows, "both"),
        "latent semantic analysis, 100 dimensions": _dense(sets, rows, "latent"),
        "trees on the same features": _trees(rows),
        "weighted features (shipped)": points,
    }
    variants = np.array([case.variant for case in rows.cases])
    for name, scores in approaches.items():
        scores = np.where(rows.there, scores, -1e9)
        shares = []
        for variant in dict.fromkeys(variants):
            which = variants == variant
            part, its = taken(rows, which), scores[which]
            best, fits = its.argmax(1) == part.right, part.right != -1
            raw = np.sort(its, 1)[:, -1] if name != "weighted features (shipped)" else its.max(1)
            shares.append(f"{variant} {best[fits].mean():.3f} ({coverage(raw, best, fits):.3f})")
        print(f"  {name:44} {'  '.join(shares)}")


def _dense(sets: Sequence[tuple[str, Index, list[Case]]], rows: Rows, kind: str) -> Any:
    """Cosines by a library's vectors of the whole texts, for the candidates of each incident."""
    scores, start = np.zeros(rows.there.shape), 0
    for _, index, cases in sets:
        recipes = list(index.recipes.values())
        texts = [words_of(f"{one.title} {one.title} {one.when} {one.steps} {' '.join(one.tags)}") for one in recipes]
        asked = [query_of(case.subject).everything for case in cases]
        words = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True).fit(texts)
        cosines = (words.transform(asked) @ words.transform(texts).T).toarray()
        if kind == "both":
            pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
            held = pieces.fit_transform([" ".join(text) for text in texts])
            cosines = cosines + (pieces.transform([" ".join(one) for one in asked]) @ held.T).toarray()
        if kind == "latent":
            latent = TruncatedSVD(min(100, len(recipes) - 1), random_state=0).fit(words.transform(texts))
            held, said = (normalize(latent.transform(words.transform(one))) for one in (texts, asked))
            cosines = said @ held.T
        column = {recipe.slug: place for place, recipe in enumerate(recipes)}
        for row in range(len(cases)):
            for at, slug in enumerate(rows.slugs[start + row]):
                scores[start + row, at] = cosines[row, column[slug]]
        start += len(cases)
    return scores


def _trees(rows: Rows) -> Any:
    """Gradient boosted trees that tell right candidates from wrong ones by the same features, on unseen families."""
    folds, scores = folds_of(rows), np.zeros(rows.there.shape)
    for fold in range(FOLDS):
        seen = taken(rows, (folds != fold) & (rows.right >= 0))
        right = np.arange(seen.there.shape[1]) == seen.right[:, None]
        trees = HistGradientBoostingClassifier(max_depth=3, learning_rate=0.05, l2_regularization=1.0, random_state=0)
        trees.fit(seen.features[seen.there], right[seen.there])
        own = folds == fold
        found = trees.predict_proba(rows.features[own].reshape(-1, len(FEATURES)))[:, 1]
        scores[own] = found.reshape(-1, rows.there.shape[1])
    return scores


def _print_learning(sets: Sequence[tuple[str, Index, list[Case]]], rows: Rows) -> None:
    print("\nTop-1 of the same alerts without and with so many answers of people to others, five drawings.")
    print("Repeats: a person has answered an alert of their family; strangers: nobody has.")
    for name, index, cases in sets:
        for count in (50, 100, 200):
            if count < len(cases):
                held = _after_answers(index, cases, rows, count)
                told = [
                    _before_and_after(what, held, repeat) for what, repeat in (("repeats", True), ("strangers", False))
                ]
                print(f"  {name:7} {count:3} answers: {'   '.join(told)}")


def _before_and_after(what: str, held: Sequence[tuple[bool, bool, bool]], repeat: bool) -> str:
    pairs = [(before, after) for before, after, one in held if one == repeat]
    before, after = (np.mean([pair[side] for pair in pairs]) if pairs else math.nan for side in (0, 1))
    return f"{len(pairs):5} {what} {before:.3f} -> {after:.3f}"


def _after_answers(index: Index, cases: Sequence[Case], rows: Rows, count: int) -> list[tuple[bool, bool, bool]]:
    """Per alert that was not answered: right before, right after, and whether it is a repeat."""
    folds = dict(zip([case.family for case in rows.cases], folds_of(rows), strict=True))
    weights = _weights_by_fold(rows)
    held: list[tuple[bool, bool, bool]] = []
    for drawing in range(5):
        order = np.random.RandomState(drawing).permutation(len(cases))
        answered, rest = [cases[one] for one in order[:count]], [cases[one] for one in order[count:]]
        families = {case.family for case in answered}
        learnt = index.remembering(Example(case.id, case.subject, case.right) for case in answered)
        parts = compared(index, rest), compared(learnt, rest)
        for row, case in enumerate(rest):
            if case.right is not None:
                before, after = (_is_right(part, row, weights[folds[case.family]]) for part in parts)
                held.append((before, after, case.family in families))
    return held


def _is_right(rows: Rows, row: int, weights: Any) -> bool:
    one = taken(rows, np.arange(len(rows.cases)) == row)
    return bool(leading(one, points_of(one, weights))[0] == rows.right[row])


_by_fold: dict[int, Any] = {}


def _weights_by_fold(rows: Rows) -> dict[int, Any]:
    if not _by_fold:
        folds = folds_of(rows)
        _by_fold.update({fold: learn_weights(taken(rows, folds != fold)) for fold in range(FOLDS)})
    return _by_fold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, default=ROOT.parent / "shared" / "classifier-benchmark")
    parser.add_argument("--report", action="store_true", help="print cross-validated figures; write nothing")
    chosen = parser.parse_args()
    if not (chosen.benchmark / "recipes.jsonl").exists():
        raise SystemExit(f"There is no benchmark in {chosen.benchmark}; name its folder with --benchmark.")
    sets = [*benchmark_cases(chosen.benchmark), own_cases()]
    if chosen.report:
        return report(sets)
    learnt = train(sets)
    MATCHER.write_text(json.dumps(learnt, indent=1) + "\n", "utf-8")
    print(f"{MATCHER.relative_to(ROOT)} sha256 {hashlib.sha256(MATCHER.read_bytes()).hexdigest()}")
    if learnt["threshold"] != ANSWER_THRESHOLD:
        raise SystemExit(f"ANSWER_THRESHOLD in classifier/shapes.py is {ANSWER_THRESHOLD}: set {learnt['threshold']}.")
    return None


if __name__ == "__main__":
    main()
