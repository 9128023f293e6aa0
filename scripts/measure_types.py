"""How well incident type and severity are told from native alerts: `python scripts/measure_types.py FOLDER`

FOLDER holds `types.jsonl` ({"id", "tool", "payload"}) and `types_truth.jsonl` ({"id", "incident_type", "severity",
"source"}). Each payload goes through the translation of its tool's own adapter. The families of alerts (where their
rules were published) are in two halves, told apart by a checksum of the family's name, so that rules can be written
looking at the first half only. `--wrong first` lists what is wrong in it, `--predictions FILE` writes JSON lines,
`--without name metric text` leaves these out of Alertmanager's alerts, and all alerts of other tools.
The interval is that of 1000 samples of whole families (95 %).
"""

import argparse
import json
import logging
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from openremedy.alerts import IncidentType
from openremedy.registry import discover, type_and_severity

HALVES = ("first", "second")
TOO_FEW = IncidentType.PORT_UNAVAILABLE  # rows of this type, to count in a mean
SAMPLES = 1000
PARTS = {"name": ("labels", "alertname"), "metric": ("generatorURL",), "text": ("annotations",)}


@dataclass(frozen=True)
class Row:
    """One alert: what was told and what is right."""

    id: str
    family: str
    name: str
    told: str
    severity: str | None
    right: str
    right_severity: str | None

    @property
    def half(self) -> str:
        """That of its family."""
        return HALVES[crc32(self.family.encode()) % 2]


def main() -> None:
    """Print the figures of all families and of each half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrong", choices=HALVES)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[])
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = list(read(chosen.folder, chosen.without))
    for half in ("all", *HALVES):
        show(half, [row for row in rows if half in ("all", row.half)])
    for row in rows:
        if row.half == chosen.wrong and row.told != row.right:
            print(f"{row.id}  {row.name[:70]}: told {row.told}, is {row.right}")
    if chosen.predictions:
        lines = ({"id": row.id, "incident_type": row.told, "severity": row.severity} for row in rows)
        chosen.predictions.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def read(folder: Path, without: Sequence[str] = ()) -> Iterator[Row]:
    """Every payload, translated."""
    truth = {one["id"]: one for one in _lines(folder / "types_truth.jsonl")}
    found = discover()
    for one in _lines(folder / "types.jsonl"):
        if without and one["tool"] != "alertmanager":
            continue
        right, payload = truth[one["id"]], _less(one["payload"], without)
        told, severity = type_and_severity(found, one["tool"], payload)
        known = right["incident_type"], right["severity"]
        yield Row(one["id"], family(right["source"]), right["name"], told, severity, *known)


def _less(payload: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """The payload without these parts."""
    for part in parts:
        *outer, last = PARTS[part]
        place = payload[outer[0]] if outer else payload
        place.pop(last, None)
    return payload


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip())


def family(source: str) -> str:
    """The repository and the three folders of the file a rule was published in: one product in most of them."""
    repository, _, path = source.partition(":")
    return "/".join((repository, *path.split("/")[:-1][:3]))


def show(half: str, rows: Sequence[Row]) -> None:
    """The figures of these rows."""
    known = [row for row in rows if row.right_severity]
    same = sum(row.severity == row.right_severity for row in known)
    right = sum(row.told == row.right for row in rows)
    low, high = _interval(rows)
    print(
        f"{half}: {len(rows)} alerts, right {right / len(rows):.3f}, macro-F1 {_mean(rows):.3f} [{low:.3f}, {high:.3f}]"
    )
    for kind in IncidentType:
        precision, recall, f1 = _f1(kind, rows)
        count = sum(row.right == kind for row in rows)
        print(f"  {kind:17} n {count:3}  precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}")
    print(f"  severity          n {len(known):3}  right {same / len(known):.3f}")


def _mean(rows: Sequence[Row]) -> float:
    """Macro-F1 without the type of too few rows."""
    each = [_f1(kind, rows)[2] for kind in IncidentType if kind is not TOO_FEW]
    return sum(each) / len(each)


def _interval(rows: Sequence[Row]) -> tuple[float, float]:
    """Where the mean would be with other families."""
    families = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    chance = random.Random(1)  # nosec B311 # noqa: S311 - the same samples at every run
    names = sorted(families)
    means = sorted(
        _mean([row for name in chance.choices(names, k=len(names)) for row in families[name]]) for _ in range(SAMPLES)
    )
    return means[SAMPLES // 40], means[-SAMPLES // 40]


def _f1(kind: IncidentType, rows: Sequence[Row]) -> tuple[float, float, float]:
    hits = sum(row.told == kind == row.right for row in rows)
    told, right = sum(row.told == kind for row in rows), sum(row.right == kind for row in rows)
    return hits / max(told, 1), hits / max(right, 1), 2 * hits / max(told + right, 1)


if __name__ == "__main__":
    main()
