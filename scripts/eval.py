"""Every figure by which the classifier is judged, each under the command that prints it: `make eval`

    python scripts/eval.py BENCHMARK

BENCHMARK is a folder with recipes.jsonl, recipes_opaque.jsonl and the alerts, which may lie in its folder `dev`. Where
its score.py is there, it is asked about the same predictions. Exit code 1 when something cannot be measured or the two
do not agree; an aim that is missed is no error.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT = 1800  # seconds a command may take


@dataclass(frozen=True)
class Figure:
    """A figure by its place in the answer of a command, and what is aimed at: at least `aim`, or at most."""

    name: str
    place: str
    aim: float | None = None
    at_most: bool = False

    def line(self, answer: Mapping[str, Any]) -> str:
        """The figure with its interval and its aim."""
        value = _at(answer, self.place)
        ends = _at(answer, f"{self.place}_ci")
        interval = f"[{ends[0]:.4f}, {ends[1]:.4f}]" if ends else ""
        return f"  {self.name:44} {_shown(value):>9}  {interval:18} {self._judged(value)}".rstrip()

    def _judged(self, value: Any) -> str:
        if self.aim is None or value is None:
            return ""
        reached = value <= self.aim if self.at_most else value >= self.aim
        return f"aim {'<=' if self.at_most else '>='} {self.aim:g}: {'reached' if reached else 'MISSED'}"


@dataclass(frozen=True)
class Section:
    """One command whose answer is a JSON object, and the figures that are read out of it."""

    title: str
    command: tuple[str, ...]
    figures: tuple[Figure, ...]
    predictions: Path | None = None


MATCHING = (
    Figure("answered", "answered"),
    Figure("precision of answers", "precision", 0.95),
    Figure("mean reciprocal rank", "mrr"),
    Figure("coverage at 90 % precision", "cov90"),
    Figure("coverage at 99 % precision", "cov99"),
    Figure("abstention, precision", "abstain_precision"),
    Figure("abstention, recall", "abstain_recall"),
    Figure("right answers, none included", "accuracy"),
    Figure("calibration error", "ece", 0.05, at_most=True),
    Figure("not named like their runbook, top-1", "subsets.foreign.top1"),
    Figure("linked by hand, top-1", "subsets.hand_crosswalk.top1"),
)
NAMED = (
    Figure("top-1", "top1", 0.95),
    Figure("top-3", "top3"),
    Figure("coverage at 95 % precision", "cov95", 0.92),
    Figure("linked by hand (foreign names), top-1", "subsets.hand_crosswalk.top1", 0.80),
    Figure("near negatives, abstention", "subsets.near_negatives.abstain_recall", 0.85),
    Figure("shortlist recall at 12", "shortlist_recall", 0.99),
    Figure("one incident, p50 in ms", "ms_p50", 20, at_most=True),
    Figure("one incident, p99 in ms", "ms_p99", 60, at_most=True),
    Figure("index of the recipes in ms", "index_ms"),
)
HIDDEN = (
    Figure("top-1", "top1", 0.85),
    Figure("top-3", "top3", 0.95),
    Figure("coverage at 95 % precision", "cov95"),
    Figure("near negatives, abstention", "subsets.near_negatives.abstain_recall"),
    Figure("shortlist recall at 12", "shortlist_recall", 0.97),
)
BLIND = (
    Figure("top-1", "top1", 0.75),
    Figure("top-3", "top3"),
    Figure("coverage at 95 % precision", "cov95"),
    Figure("near negatives, abstention", "subsets.near_negatives.abstain_recall"),
    Figure("shortlist recall at 12", "shortlist_recall"),
)
TYPES = (
    Figure("incident type, macro-F1 without port", "type_macro_f1_without_port", 0.92),
    Figure("incident type, macro-F1", "type_macro_f1"),
    Figure("incident type, accuracy", "type_accuracy"),
    Figure("severity, accuracy", "severity_accuracy"),
)


def sections(benchmark: Path, folder: Path, kept: Path) -> Iterator[Section]:
    """What is run, in its order. The figures of another command are one more Section here; its command prints JSON."""
    for variant, title, figures in (
        ("named", "Alerts with their names", (*NAMED, *MATCHING[:-1], *TYPES)),
        ("hidden", "Alerts without name and expression", (*HIDDEN, *MATCHING)),
        ("blind", "Alerts without name, recipes without title", (*BLIND, *MATCHING)),
    ):
        recipes = benchmark / ("recipes_opaque.jsonl" if variant == "blind" else "recipes.jsonl")
        out = kept / f"{variant}.jsonl"
        words = ("flask", "classify", "eval", str(folder), "--recipes", str(recipes), "--variant", variant)
        yield Section(title, (*words, "--predictions", str(out)), figures, out)


def main() -> int:
    """Print every figure. Returns the exit code."""
    benchmark = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/classifier-benchmark")
    folder = benchmark / "dev" if (benchmark / "dev").is_dir() else benchmark
    for needed in (benchmark / "recipes.jsonl", folder / "alerts_named.jsonl", folder / "alerts_truth.jsonl"):
        if not needed.exists():
            print(f"There is no file {needed}: say where the benchmark is, make eval BENCHMARK=FOLDER", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as kept:
        ended = [_print(section, benchmark, folder) for section in sections(benchmark, folder, Path(kept))]
    return max([*ended, *(_tell(title, words) for title, words in reports(benchmark, folder))])


def reports(benchmark: Path, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What prints figures of its own. The shipped weights have seen the alerts above; these have not."""
    training = ("scripts/train_matcher.py", "--benchmark", str(benchmark), "--report")
    yield "Each family by weights that have not seen it, other approaches, and learning from people", training
    yield "A model that is always right: how often the words object", ("scripts/measure_guards.py", str(folder))
    if (folder / "types.jsonl").exists():
        yield "Incident types by half and by step", ("scripts/measure_types.py", str(folder))


def _tell(title: str, words: tuple[str, ...]) -> int:
    print(f"\n{title}\n$ python {shlex.join(words)}", flush=True)
    done = _run([sys.executable, str(ROOT / words[0]), *words[1:]])
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
    return int(done.returncode != 0)


def _print(section: Section, benchmark: Path, folder: Path) -> int:
    shown = [word for word in section.command if word not in ("--predictions", str(section.predictions))]
    print(f"\n{section.title}\n$ {shlex.join(shown)}", flush=True)
    done = _run([sys.executable, "-m", *section.command, "--json"])
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return 1
    answer = json.loads(done.stdout)
    for figure in section.figures:
        print(figure.line(answer))
    return _agreed(answer, benchmark / "score.py", folder, section.predictions)


def _run(words: list[str]) -> "subprocess.CompletedProcess[str]":
    """A command as one types it, but for the data folder: nothing is to be kept, and none of yours is touched."""
    with tempfile.TemporaryDirectory() as data:
        environment = {"OPENREMEDY_DATA_DIR": data} | os.environ | {"FLASK_APP": str(ROOT / "wsgi.py")}
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


# ---------------------------------------------------------------- the benchmark's own opinion

SAME = {
    **{name: name for name in ("top1", "top3", "mrr", "top1_lenient", "top1_after_abstain", "ece")},
    **{name: name for name in ("abstain_precision", "abstain_recall")},
    "accuracy_with_abstain": "accuracy",
    "cov@90": "cov90",
    "cov@95": "cov95",
    "cov@99": "cov99",
    "n_pos": "with_recipe",
    "n_neg": "without_recipe",
    "cov@95_lenient": "cov95_lenient",
    "thr@95": "thr95",
}


def _agreed(answer: Mapping[str, Any], score: Path, folder: Path, predictions: Path | None) -> int:
    """Whether the benchmark's score.py says the same of the same predictions; said only where there is one."""
    if predictions is None or not score.exists():
        return 0
    words = ["--truth", str(folder / "alerts_truth.jsonl"), "--pred", str(predictions), "--json"]
    done = _run([sys.executable, str(score), *words])
    if done.returncode:
        print(f"score.py failed: {done.stderr.strip()}", file=sys.stderr)
        return 1
    found = json.loads(done.stdout)["all"]
    differ = [name for name, value in found.items() if name in SAME and not _equal(value, answer[SAME[name]])]
    same = sum(name in SAME for name in found) - len(differ)
    print(f"  score.py says the same of {same} figures" + (f", not of {', '.join(differ)}" if differ else ""))
    return bool(differ)


def _equal(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) <= 5.1e-5


def _at(answer: Mapping[str, Any], place: str) -> Any:
    found: Any = answer
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
