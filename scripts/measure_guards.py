"""What the guards around the model cost honest alerts: `python scripts/measure_guards.py FOLDER [RECIPES]`

FOLDER is one that `flask classify eval` reads. Printed are, of the alerts with a recipe, how often the right one is on
the shortlist, and how many of those would wait for a person although a model named the right one (docs/adr/0027); and
how many of all alerts are suspected of talking to the model.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from openremedy.benchmark import recipes_of, subject_of
from openremedy.classification import SHORTLIST
from openremedy.classifier.injection import suspicion
from openremedy.classifier.lexical import Index
from openremedy.classifier.objection import objection
from openremedy.classifier.shapes import Subject
from openremedy.registry import discover

VARIANTS = (("named", "recipe_slug"), ("hidden", "recipe_slug"), ("blind", "recipe_opaque"))


def main(folder: Path, recipes: Path) -> None:
    """Print one line per variant."""
    truth = {row["id"]: row for row in _rows(folder / "alerts_truth.jsonl")}
    alertmanager = discover()["alertmanager"]
    for variant, column in VARIANTS:
        blind = variant == "blind"
        index = Index(recipes_of(recipes.with_stem(f"{recipes.stem}_opaque") if blind else recipes))
        alerts = _rows(folder / f"alerts_{'hidden' if blind else variant}.jsonl")
        said: Counter[str] = Counter()
        for row in alerts:
            said.update(_outcomes(index, subject_of(row["alert"], alertmanager), truth[row["id"]][column]))
        print(variant, json.dumps(said))


def _outcomes(index: Index, subject: Subject, right: str | None) -> Iterator[str]:
    yield "alerts"
    if suspicion(subject):
        yield "suspected"
    if right is None:
        return
    yield "with a recipe"
    ranked = index.rank(subject, SHORTLIST)
    if right not in [one.recipe for one in ranked]:
        return
    yield "on the shortlist"
    reason = objection(right, ranked)
    if reason:
        yield "objected to"
        yield "objected to: another is sure" if "the words say" in reason else "objected to: hardly supported"


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    given = Path(sys.argv[1])
    main(given, Path(sys.argv[2]) if len(sys.argv) > 2 else given.parent / "recipes.jsonl")
