"""`make faults`: breaks everything that can break, one thing after another, and prints what came of it.

Ends with 1 where something was lost, doubled, shown to another tenant or answered as it must not be.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults.catalogue import FAULTS, Fault  # noqa: E402
from faults.proof import proven  # noqa: E402
from faults.scene import STAGES, Found  # noqa: E402

HEAD = ("fault", "sent", "202", "refused", "lost", "doubled", "next 202", "all decided")


def main() -> int:
    """Run those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a part of them, some minutes")
    parser.add_argument("--prove", action="store_true", help="switch mechanisms off and see that it is seen")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    options = parser.parse_args()
    if options.prove:
        blind = proven(options.only)
        print("\n".join(blind) or "Each of them is seen.")
        return 1 if blind else 0
    chosen = [one for one in FAULTS if options.only in one.name and (one.short or not options.short)]
    began = time.monotonic()
    found = rounds(chosen)
    options.out.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    sent, lost = sum(one.sent for one in found), sum(len(one.lost) for one in found)
    print(
        f"{len(found)} rounds, {sent} alerts, {lost} lost, {sum(len(one.doubled) for one in found)} doubled,"
        f" {time.monotonic() - began:.0f} s"
    )
    broken = [one for one in found if not one.holds]
    for one in broken:
        print(f"BROKEN {one.fault}: {asdict(one)}")
    return 1 if broken or not found else 0


def rounds(chosen: list[Fault]) -> list[Found]:
    """One after another, those of a stage in one installation, each printed as it ends."""
    print(f"{HEAD[0]:68}{HEAD[1]:>6}{HEAD[2]:>6}{HEAD[3]:>9}{HEAD[4]:>6}{HEAD[5]:>9}{HEAD[6]:>10}{HEAD[7]:>13}")
    found = []
    for name, stage in STAGES.items():
        there = [one for one in chosen if one.stage == name]
        with stage() if there else nullcontext() as here:
            for one in there:
                found.append(here.round(one.name, one.breaks, one.may_refuse))
                print(row(found[-1]), flush=True)
    return found


def row(one: Found) -> str:
    """A line of the table."""
    taken = "-" if one.taken_after is None else f"{one.taken_after:.1f} s"
    return (
        f"{one.fault:68}{one.sent:6}{one.accepted:6}{one.refused:9}{len(one.lost):6}{len(one.doubled):9}{taken:>10}"
        f"{one.recovered_after:11.1f} s{'' if one.holds else '  BROKEN'}"
    )


if __name__ == "__main__":
    sys.exit(main())
