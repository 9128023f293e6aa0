"""How far a figure may be off by chance: 95 % intervals, and the test of a paired difference. Pure."""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import mul

from openremedy.shares import Interval as Interval
from openremedy.shares import wilson as wilson

DRAWS = 1000


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided chance of such a split where both are equally good; where they agree, nothing is learnt."""
    differ = only_first + only_second
    tail = ways = 1  # whole numbers until the end: 2 ** -differ is 0 as a float where many differ
    for k in range(min(only_first, only_second)):
        ways = ways * (differ - k) // (k + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**differ))


@dataclass(frozen=True)
class Resampling:
    """The bootstrap over clusters: what belongs together is drawn together, the same draws for every figure."""

    families: Sequence[Hashable]

    @cached_property
    def clusters(self) -> list[int]:
        """The number of each case's cluster."""
        numbers = {family: number for number, family in enumerate(dict.fromkeys(self.families))}
        return [numbers[family] for family in self.families]

    @cached_property
    def draws(self) -> list[list[int]]:
        """How often each cluster is in each draw."""
        chance = random.Random(1)  # nosec B311 # noqa: S311 - the same draws at every run
        numbers = range(len(set(self.clusters)))
        drawn = (Counter(chance.choices(numbers, k=len(numbers))) for _ in range(DRAWS if numbers else 0))
        return [[one[number] for number in numbers] for one in drawn]

    def of_share(self, parts: Sequence[float | None]) -> Interval | None:
        """Of the mean of those parts that are not None. Where every draw gives the same, as for a share of 1, that says
        nothing: then each cluster counts as one case of Wilson's.
        """
        found = _middle(self._means(parts))
        if found is None or found[0] != found[1]:
            return found
        hits, counts = self._sums(parts)
        shares = [hit / count for hit, count in zip(hits, counts, strict=True) if count]
        return wilson(sum(shares), len(shares))

    def of_difference(self, first: Sequence[float | None], second: Sequence[float | None]) -> Interval | None:
        """Of the mean of `second` less that of `first`, of the same cases: what is hard for one is hard for the other
        too, and that must not count as chance.
        """
        pairs = zip(self._means(first), self._means(second), strict=True)
        return _middle([None if a is None or b is None else b - a for a, b in pairs])

    def of(self, figures: Callable[[Sequence[int]], Mapping[str, float | None]]) -> dict[str, Interval]:
        """Of figures that are more than a mean; they are told how often each case counts."""
        values: dict[str, list[float | None]] = {}
        for draw in self.draws:
            for name, value in figures([draw[number] for number in self.clusters]).items():
                values.setdefault(name, []).append(value)
        return {name: interval for name, found in values.items() if (interval := _middle(found))}

    def _means(self, parts: Sequence[float | None]) -> list[float | None]:
        """Of each draw."""
        hits, counts = self._sums(parts)
        drawn = ((sum(map(mul, hits, draw)), sum(map(mul, counts, draw))) for draw in self.draws)
        return [hit / count if count else None for hit, count in drawn]

    def _sums(self, parts: Sequence[float | None]) -> tuple[list[float], list[int]]:
        """The sum of each cluster, and of how many."""
        hits, counts = [0.0] * len(set(self.clusters)), [0] * len(set(self.clusters))
        for number, part in zip(self.clusters, parts, strict=True):
            if part is not None:
                hits[number] += part
                counts[number] += 1
        return hits, counts


def _middle(values: Sequence[float | None]) -> Interval | None:
    """Without 2.5 % at each end; what no draw could tell has none."""
    ordered = sorted(value for value in values if value is not None)
    cut = int(len(ordered) * 0.025)
    return (ordered[cut], ordered[-1 - cut]) if ordered else None
