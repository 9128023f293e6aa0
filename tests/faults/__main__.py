"""`make faults`: breaks everything that can break, one thing after another, and prints what came of it.

Ends with 1 where something was lost, doubled, shown to another tenant or answered as it must not be.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults.catalogue import FAULTS, Fault  # noqa: E402
from faults.proof import proven  # noqa: E402
from faults.scene import STAGES, Found  # noqa: E402

HEAD = ("fault", "sent", "202", "refused", "lost", "doubled", "next 202", "all decided")
TABLE = "## What came of each fault"  # the last part of docs/reliability.md


def main() -> int:
    """Run those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a part of them, some minutes")
    parser.add_argument("--prove", action="store_true", help="switch mechanisms off and see that it is seen")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    parser.add_argument("--table", type=Path, help="a page whose table becomes this one: docs/reliability.md")
    options = parser.parse_args()
    if options.prove:
        blind = proven(options.only)
        print("\n".join(blind) or "Each of them is seen.")
        return 1 if blind else 0
    chosen = [one for one in FAULTS if options.only in one.name and (one.short or not options.short)]
    began = time.monotonic()
    found = rounds(chosen)
    options.out.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    said = summary(found, time.monotonic() - began)
    print(said)
    if options.table:
        page = options.table.read_text()
        options.table.write_text(page[: page.index(TABLE)] + "\n".join((TABLE, "", *table(found, said))) + "\n")
    broken = [one for one in found if not one.holds]
    for one in broken:
        print(f"BROKEN {one.fault}: {asdict(one)}")
    return 1 if broken or not found else 0


def rounds(chosen: list[Fault]) -> list[Found]:
    """One after another, those of a stage in one installation, each printed as it ends."""
    print(f"{HEAD[0]:85}{HEAD[1]:>6}{HEAD[2]:>6}{HEAD[3]:>9}{HEAD[4]:>6}{HEAD[5]:>9}{HEAD[6]:>10}{HEAD[7]:>13}")
    found = []
    for name, stage in STAGES.items():
        there = [one for one in chosen if one.stage == name]
        with stage() if there else nullcontext() as here:
            for one in there:
                found.append(here.round(one.name, one.breaks, one.may_refuse))
                print(row(found[-1]), flush=True)
    return found


def cells(one: Found) -> tuple[str, ...]:
    """What stands under HEAD."""
    counts = (one.sent, one.accepted, one.refused, len(one.lost), len(one.doubled))
    taken = "-" if one.taken_after is None else f"{one.taken_after:.1f} s"
    return (one.fault, *map(str, counts), taken, f"{one.recovered_after:.1f} s")


def row(one: Found) -> str:
    """A line of the table."""
    name, *rest = cells(one)
    widths = (6, 6, 9, 6, 9, 10, 13)
    told = "".join(f"{cell:>{width}}" for cell, width in zip(rest, widths, strict=True))
    return f"{name:85}{told}{'' if one.holds else '  BROKEN'}"


def summary(found: list[Found], seconds: float) -> str:
    """One line of all of it."""
    sent = sum(one.sent for one in found)
    lost, doubled = sum(len(one.lost) for one in found), sum(len(one.doubled) for one in found)
    return f"{len(found)} rounds, {sent:,} alerts, {lost} lost, {doubled} doubled, {seconds:.0f} s"


def table(found: list[Found], said: str) -> list[str]:
    """The whole of it as Markdown."""
    rows = (HEAD, ("---",) * len(HEAD), *(cells(one) for one in found))
    today = datetime.now(UTC).date().isoformat()
    return [f"`make faults` on {today}: {said}.", "", *("| " + " | ".join(one) + " |" for one in rows)]


if __name__ == "__main__":
    sys.exit(main())
