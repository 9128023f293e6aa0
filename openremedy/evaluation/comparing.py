"""Two runs on the same alerts: what differs, and whether that may be chance. Pure."""

from collections.abc import Sequence
from typing import Any

from openremedy.evaluation.figures import SHARES, Curves, both_rounded, resampling_of, rounded, share
from openremedy.evaluation.intervals import Interval, mcnemar
from openremedy.evaluation.rows import Judged

Pair = tuple[Judged, Judged]
TESTED = ("top1", "accuracy")


def compare(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """The figures of both (`a`, `b`) with `difference` = b - a, its interval, and McNemar's exact p where each alert is
    right or wrong; `gained` are the alerts that only b has right, `lost` those that only a has. Both in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    one, other, chances = _all(first), _all(second), _chances(first, second)
    return {
        "alerts": len(pairs),
        "figures": {
            name: {
                "a": rounded(one[name]),
                "b": rounded(other[name]),
                "difference": rounded(_minus(other[name], one[name])),
                "difference_ci": both_rounded(chances.get(name)),
            }
            for name in one
        },
        "mcnemar": {name: _tested(pairs, name) for name in TESTED},
        "gained": [a.truth.id for a, b in pairs if b.correct and not a.correct],
        "lost": [a.truth.id for a, b in pairs if a.correct and not b.correct],
    }


def _all(rows: Sequence[Judged]) -> dict[str, float | None]:
    found = {name: share(rows, part) for name, part in SHARES.items()} | Curves(rows).once()
    del found["thr95"]  # a threshold is no measure of quality
    return found


def _chances(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Interval | None]:
    """The interval of each difference."""
    resampling, curves, others = resampling_of(first), Curves(first), Curves(second)

    def differences(times: Sequence[int]) -> dict[str, float | None]:
        one, other = curves.at(times), others.at(times)
        return {name: _minus(other[name], one[name]) for name in one}

    found = {
        name: resampling.of_difference([part(one) for one in first], [part(one) for one in second])
        for name, part in SHARES.items()
    }
    return found | resampling.of(differences)


def _minus(value: float | None, less: float | None) -> float | None:
    return None if value is None or less is None else value - less


def _tested(pairs: Sequence[Pair], name: str) -> dict[str, Any]:
    part = SHARES[name]
    only_a = sum(bool(part(a)) and not part(b) for a, b in pairs)
    only_b = sum(bool(part(b)) and not part(a) for a, b in pairs)
    return {"only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)}
