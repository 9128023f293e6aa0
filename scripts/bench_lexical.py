"""How long tier 5 takes for one incident and 300 generated recipes: `python scripts/bench_lexical.py`"""

import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from openremedy.classifier.lexical import Index, lexical_answer
from openremedy.classifier.shapes import Recipe, Subject

RECIPES = 300
INCIDENTS = 1000
WARM_UP = 50
TYPES = ("disk_full", "cpu_high", "memory_high", "service_down", "port_unavailable", "custom")


def main() -> None:
    """Print the time to build the index, and p50, p99 and the longest time of one incident."""
    chance = random.Random(1)  # nosec B311 # noqa: S311 - the same words at every run
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(2000)]
    started = time.perf_counter()
    index = Index([_recipe(chance, words, number) for number in range(RECIPES)])
    print(f"index of {RECIPES} recipes   {(time.perf_counter() - started) * 1000:8.2f} ms")
    times = [_time_of_one(index, _incident(chance, words)) for _ in range(WARM_UP + INCIDENTS)][WARM_UP:]
    cuts = statistics.quantiles(times, n=100)
    for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("longest", max(times))):
        print(f"one incident, {name:8} {value * 1000:8.2f} ms")


def _recipe(chance: random.Random, words: list[str], number: int) -> Recipe:
    return Recipe(
        slug=f"{chance.choice(words)}-{chance.choice(words)}-{number}",
        title=_text(chance, words, 5),
        when=_text(chance, words, 40),
        applies_to=(chance.choice(TYPES), "custom"),
        steps=_text(chance, words, 250),
        tags=tuple(chance.choices(words, k=5)),
    )


def _incident(chance: random.Random, words: list[str]) -> Subject:
    evidence = {chance.choice(words): _text(chance, words, 8) for _ in range(12)}
    return Subject("custom", f"{chance.choice(words)}-01", "high", {"alertname": _text(chance, words, 2), **evidence})


def _text(chance: random.Random, words: list[str], count: int) -> str:
    return " ".join(chance.choices(words, k=count))


def _time_of_one(index: Index, subject: Subject) -> float:
    started = time.perf_counter()
    lexical_answer(subject, index.rank(subject))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
