"""The figures of one run: what is right, what is said of it, and how far chance goes. Pure.

Those that the benchmark's score.py has are computed as it does, so that both say the same of the same predictions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, groupby
from typing import Any

from openremedy.evaluation.intervals import Interval, Resampling, wilson
from openremedy.evaluation.rows import Id, Judged

Part = Callable[[Judged], float | None]

SHORTLIST = 12
PRECISIONS = (90, 95, 99)
BINS = 10
LINKED = ("runbook_url", "same_name")


# ---------------------------------------------------------------- shares: a part of each alert, None where not asked


def _fitting(part: Callable[[Judged], float]) -> Part:
    return lambda one: part(one) if one.truth.right else None


def _foreign(part: Callable[[Judged], float]) -> Part:
    return lambda one: None if one.truth.right else part(one)


def _lenient(one: Judged) -> bool:
    return one.best in one.truth.accept


SHARES: Mapping[str, Part] = {
    "top1": _fitting(lambda one: one.place == 1),
    "top3": _fitting(lambda one: 0 < one.place <= 3),
    "mrr": _fitting(lambda one: 1 / one.place if one.place else 0.0),
    "shortlist_recall": _fitting(lambda one: 0 < one.place <= SHORTLIST),
    "top1_lenient": _fitting(_lenient),
    "top1_after_abstain": _fitting(lambda one: one.correct),
    "answered": lambda one: one.answered,
    "precision": lambda one: one.correct if one.answered else None,
    "precision_lenient": lambda one: (
        one.prediction.recipe in one.truth.accept | {one.truth.right} if one.answered else None
    ),
    "abstain_precision": lambda one: None if one.answered else not one.truth.right,
    "abstain_recall": _foreign(lambda one: not one.answered),
    "accuracy": lambda one: one.correct,
}


def share(rows: Sequence[Judged], part: Part) -> float | None:
    """The mean of the parts that there are."""
    parts = [found for found in map(part, rows) if found is not None]
    return sum(parts) / len(parts) if parts else None


# ---------------------------------------------------------------- more than a mean


class Curves:
    """Coverage at a precision, and calibration, of alerts that may count several times or not at all.

    Coverage: the largest share of the alerts with a recipe that can be named rightly at that precision, by the best
    threshold. By the score of the best recipe, given or not, so that the threshold in force does not hide the order.
    What has the same score is named together or not at all.
    """

    def __init__(self, rows: Sequence[Judged]) -> None:
        self._rows = rows
        self._fitting = [bool(one.truth.right) for one in rows]
        self._strict = [one.best == one.truth.right for one in rows]
        self._lenient = [_lenient(one) for one in rows]
        self._bins = [_bin_of(one) for one in rows]
        self._off = [one.prediction.confidence - one.correct for one in rows]
        scored = [place for place, one in enumerate(rows) if one.best and one.prediction.score is not None]
        scored.sort(key=self._score, reverse=True)
        self._ties = [(score, list(places)) for score, places in groupby(scored, key=self._score)]

    def _score(self, place: int) -> float:
        return self._rows[place].prediction.score or 0.0

    def once(self) -> dict[str, float | None]:
        """Each alert counted once."""
        return self.at([1] * len(self._rows))

    def at(self, times: Sequence[int]) -> dict[str, float | None]:
        """The figures where each alert counts that often."""
        total = sum(compress(times, self._fitting))
        most, threshold, lenient = self._most(times)
        found: dict[str, float | None] = {
            f"cov{percent}": most[percent] / total if total else None for percent in PRECISIONS
        }
        return found | {
            "cov95_lenient": lenient / total if total else None,
            "thr95": threshold if total else None,
            "ece": self._ece(times),
        }

    def _most(self, times: Sequence[int]) -> tuple[dict[int, int], float | None, int]:
        """How many are right at most at each precision, from which score on at 95 %, and the same leniently."""
        most, threshold, most_lenient = dict.fromkeys(PRECISIONS, 0), None, 0
        strict = lenient = named = 0
        for score, places in self._ties:
            for place in places:
                count = times[place]
                named += count
                strict += count * self._strict[place]
                lenient += count * self._lenient[place]
            for percent in PRECISIONS:
                if strict > most[percent] and strict / named >= percent / 100:
                    most[percent] = strict
                    threshold = score if percent == 95 else threshold
            if lenient > most_lenient and lenient / named >= 0.95:
                most_lenient = lenient
        return most, threshold, most_lenient

    def _ece(self, times: Sequence[int]) -> float | None:
        """The expected calibration error: how far confidence and truth are apart."""
        apart = [0.0] * BINS
        for place, count, off in zip(self._bins, times, self._off, strict=True):
            apart[place] += count * off
        return sum(map(abs, apart)) / sum(times) if sum(times) else None


def _bin_of(one: Judged) -> int:
    return min(int(one.prediction.confidence * BINS), BINS - 1)


def reliability(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """By tenths of the confidence: how sure it was of what it said (none is said too), and how often that was right."""
    bins: list[list[Judged]] = [[] for _ in range(BINS)]
    for one in rows:
        bins[_bin_of(one)].append(one)
    return [_bin(number, found) for number, found in enumerate(bins) if found]


def _bin(number: int, rows: Sequence[Judged]) -> dict[str, Any]:
    right = sum(one.correct for one in rows)
    return {
        "from": number / BINS,
        "to": (number + 1) / BINS,
        "count": len(rows),
        "confidence": _mean([one.prediction.confidence for one in rows]),
        "correct": right / len(rows),
        "correct_ci": both_rounded(wilson(right, len(rows))),
    }


# ---------------------------------------------------------------- all of a run


def figures(rows: Sequence[Judged]) -> dict[str, Any]:
    """A key per figure, each share with its interval behind it (`<figure>_ci`), and the same of each known subset."""
    found = _figures(rows)
    found["reliability"] = reliability(rows)
    found["confusion"] = confusion([(one.truth.right, one.prediction.recipe, one.truth.id) for one in rows])
    found["subsets"] = {name: _figures(part) for name, part in subsets(rows).items()}
    return found


def subsets(rows: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The parts of a benchmark whose truth says whence it is: by how its recipe was found, and by the kind of those
    that no recipe fits. All the others of the opposite sort stay in, so that precision means something.
    """
    if not any(one.truth.basis or one.truth.kind for one in rows):
        return {}
    wanted: dict[str, Callable[[Judged], bool]] = {
        "authors_linked": lambda one: one.truth.basis in LINKED or not one.truth.right,
        "hand_crosswalk": lambda one: one.truth.basis == "hand_crosswalk" or not one.truth.right,
        "foreign": lambda one: one.truth.foreign or not one.truth.right,
        "near_negatives": lambda one: one.truth.kind != "neg_far",
        "far_negatives": lambda one: one.truth.kind != "neg_near",
    }
    return {name: [one for one in rows if belongs(one)] for name, belongs in wanted.items()}


def _figures(rows: Sequence[Judged]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "alerts": len(rows),
        "with_recipe": sum(bool(one.truth.right) for one in rows),
        "without_recipe": sum(not one.truth.right for one in rows),
        "intervals_by": "family" if by_family(rows) else "alert",
    }
    resampling = resampling_of(rows)
    for name, part in SHARES.items():
        found[name] = rounded(share(rows, part))
        found[f"{name}_ci"] = both_rounded(_of_share(rows, name, part, resampling))
    curves = Curves(rows)
    chances = resampling.of(curves.at)
    for name, value in curves.once().items():
        found[name] = rounded(value)
        if name != "thr95":
            found[f"{name}_ci"] = both_rounded(chances.get(name))
    return found


def by_family(rows: Sequence[Judged]) -> bool:
    """Whether alerts are known to belong together."""
    return any(one.truth.family for one in rows)


def resampling_of(rows: Sequence[Judged]) -> Resampling:
    """Draws of families, or of alerts where there are none; an alert without a family stands for itself."""
    return Resampling([one.truth.family or (one.truth.id,) for one in rows])


def _of_share(rows: Sequence[Judged], name: str, part: Part, resampling: Resampling) -> Interval | None:
    parts = [part(one) for one in rows]
    if name == "mrr" or by_family(rows):
        return resampling.of_share(parts)
    asked = [one for one in parts if one is not None]
    return wilson(sum(asked), len(asked))


def confusion(said: Sequence[tuple[str | None, str | None, Id]]) -> list[dict[str, Any]]:
    """What was expected, what was said instead and of which alerts, the most frequent first; null is none."""
    wrong: dict[tuple[str | None, str | None], list[Id]] = {}
    for expected, got, which in said:
        if expected != got:
            wrong.setdefault((expected, got), []).append(which)
    rows = [{"expected": expected, "got": got, "count": len(ids), "ids": ids} for (expected, got), ids in wrong.items()]
    return sorted(rows, key=lambda row: (-len(row["ids"]), row["expected"] or "", row["got"] or ""))


# ---------------------------------------------------------------- cost and latency


def latency(seconds: Sequence[float]) -> dict[str, float | None]:
    """Milliseconds that half, 95 and 99 of a hundred alerts needed at most."""
    ordered = sorted(seconds)
    return {f"ms_p{percent}": _at(ordered, percent) for percent in (50, 95, 99)}


def _at(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    return round(ordered[math.ceil(percent / 100 * len(ordered)) - 1] * 1000, 2)


def rounded(value: float | None) -> float | None:
    """As it is shown."""
    return None if value is None else round(value, 4)


def both_rounded(interval: Interval | None) -> list[float] | None:
    """Its ends as they are shown."""
    return None if interval is None else [round(interval[0], 4), round(interval[1], 4)]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
