"""How well incident type and severity are told from native alerts: `python scripts/measure_types.py FOLDER`

FOLDER holds `types.jsonl` ({"id", "tool", "payload"}) and `types_truth.jsonl` ({"id", "incident_type", "severity",
"source"}). Each payload goes through the translation of its tool's own adapter. The families of alerts (where their
rules were published) are in two halves, told apart by a checksum of the family's name, so that rules can be written
looking at the first half only. `--wrong first` lists what is wrong in it, `--predictions FILE` writes JSON lines.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from openremedy.alerts import IncidentType
from openremedy.registry import discover, type_and_severity

HALVES = ("first", "second")
TOO_FEW = IncidentType.PORT_UNAVAILABLE  # rows of this type, to count in a mean


@dataclass(frozen=True)
class Row:
    """One alert: what was told and what is right."""

    id: str
    half: str
    name: str
    told: str
    severity: str | None
    right: str
    right_severity: str | None


def main() -> None:
    """Print the figures of all families and of each half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrong", choices=HALVES)
    parser.add_argument("--predictions", type=Path)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = list(read(chosen.folder))
    for half in ("all", *HALVES):
        show(half, [row for row in rows if half in ("all", row.half)])
    for row in rows:
        if row.half == chosen.wrong and row.told != row.right:
            print(f"{row.id}  {row.name[:70]}: told {row.told}, is {row.right}")
    if chosen.predictions:
        lines = ({"id": row.id, "incident_type": row.told, "severity": row.severity} for row in rows)
        chosen.predictions.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def read(folder: Path) -> Iterator[Row]:
    """Every payload, translated."""
    truth = {one["id"]: one for one in _lines(folder / "types_truth.jsonl")}
    found = discover()
    for one in _lines(folder / "types.jsonl"):
        right = truth[one["id"]]
        told, severity = type_and_severity(found, one["tool"], one["payload"])
        half = HALVES[crc32(family(right["source"]).encode()) % 2]
        yield Row(one["id"], half, right["name"], told, severity, right["incident_type"], right["severity"])


def _lines(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    return (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip())


def family(source: str) -> str:
    """The repository and the three folders of the file a rule was published in: one product in most of them."""
    repository, _, path = source.partition(":")
    return "/".join((repository, *path.split("/")[:-1][:3]))


def show(half: str, rows: Sequence[Row]) -> None:
    """The figures of these rows; the mean of F1 leaves the type of too few rows out."""
    kinds = {kind: _f1(kind, rows) for kind in IncidentType}
    mean = [f1 for kind, (_, _, f1) in kinds.items() if kind is not TOO_FEW]
    known = [row for row in rows if row.right_severity]
    same = sum(row.severity == row.right_severity for row in known)
    right = sum(row.told == row.right for row in rows)
    print(f"{half}: {len(rows)} alerts, right {right / len(rows):.3f}, macro-F1 {sum(mean) / len(mean):.3f}")
    for kind, (precision, recall, f1) in kinds.items():
        count = sum(row.right == kind for row in rows)
        print(f"  {kind:17} n {count:3}  precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}")
    print(f"  severity          n {len(known):3}  right {same / len(known):.3f}")


def _f1(kind: IncidentType, rows: Sequence[Row]) -> tuple[float, float, float]:
    hits = sum(row.told == kind == row.right for row in rows)
    told, right = sum(row.told == kind for row in rows), sum(row.right == kind for row in rows)
    return hits / max(told, 1), hits / max(right, 1), 2 * hits / max(told + right, 1)


if __name__ == "__main__":
    main()
