"""`make bench`: how fast the door and the verdicts are, as ratios within one run; `--smoke`: only that it still runs.

Prints a table and writes everything it found as JSON. It ends with 1 where a floor of docs/performance.md does not
hold, but not after a smoke, whose figures say nothing.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench import intake, load, servers, startup, verdicts  # noqa: E402

# What must hold, and what is aimed at: figure -> (floor, aim, whether less is better).
BOUNDS = {
    "unique / bare": (0.20, 0.25, False),
    "unique / alerta": (8, 10, False),
    "alertmanager / alerta": (30, 40, False),
    "repeats / unique": (1.0, 1.0, False),
    "filled / empty": (0.9, 0.9, False),
    "hung / healthy": (0.8, 0.8, False),
    "p99 at 70 %, ms": (50, 50, True),
    "by words, incidents/s": (150, 150, False),
    "calls in flight": (16, 16, False),
    "storm: model calls": (50, 50, True),
    "storm: first verdict, s": (5, 5, True),
    "storm: last verdict, s": (60, 60, True),
    "storm: others, ms": (5000, 5000, True),
}
# A look whether everything still runs.
SMALL: dict[str, dict[str, Any]] = {
    "lexical": {"incidents": 60, "catalogue": 40},
    "model": {"calls": 16, "at_once": 16, "rates": (10,), "seconds": 2},
    "storm": {"alerts": 100, "causes": 5, "hosts": 20},
}


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each candidate in each round")
    parser.add_argument("--rows", type=int, default=1_000_000, help="incidents of the filled database")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--without-alerta", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="a minute: that everything still runs")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.seconds, options.rows = 1, 1.0, 2_000
        load.CONNECTIONS = 4  # with more, no slow one is answered within a second
    began, average = time.monotonic(), os.getloadavg()
    found = measure(options)
    found["machine"] = {
        "processors": os.cpu_count(),
        "load_average": {"before": average, "after": os.getloadavg()},
        "seconds": round(time.monotonic() - began),
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    rows = figures(found)
    print(table(rows))
    print(
        f"load average {average[0]:.1f} before, {os.getloadavg()[0]:.1f} after; {found['machine']['seconds']} s in all"
    )
    broken = [name for name, _, verdict in rows if verdict == "BROKEN"]
    return 1 if broken and not options.smoke else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, one after another."""
    if missing := [name for name in ("wrk",) if not shutil.which(name)]:
        sys.exit(f"{', '.join(missing)} is missing; on Debian and Ubuntu: apt-get install {' '.join(missing)}")
    found = intake.measured(options.rounds, options.seconds, options.rows, not options.without_alerta)
    sizes: dict[str, Any] = SMALL if options.smoke else {name: {} for name in SMALL}
    parts = {
        "start": partial(_start, 1 if options.smoke else 3),
        "lexical": partial(verdicts.lexical_throughput, **sizes["lexical"]),
        "model": partial(verdicts.model_tier, **sizes["model"]),
        "storm": partial(verdicts.storm, **sizes["storm"]),
    }
    # A smoke mostly waits for processes to start, so all of them do at once.
    with ProcessPoolExecutor(len(parts) if options.smoke else 1) as pool:
        jobs = {name: pool.submit(part) for name, part in parts.items()}
        return found | {name: job.result() for name, job in jobs.items()}


def _start(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="openremedy-bench-") as folder, servers.machine(Path(folder)) as one:
        return startup.measured(one.openremedy(), runs)


def figures(found: dict[str, Any]) -> list[tuple[str, dict[str, float], str]]:
    """Each figure that has a bound, its spread, and what to say about it."""
    values = found["ratios"] | {
        "hung / healthy": found["redis_hung"]["ratio"],
        "p99 at 70 %, ms": found["open_loop"]["p99_ms"],
    }
    storm = found["storm"]
    once = {
        "by words, incidents/s": found["lexical"]["incidents_per_second"],
        "calls in flight": found["model"]["in_flight"]["16"]["max"],
        "storm: model calls": storm["model_calls"],
        "storm: first verdict, s": storm["seconds"]["first_verdict"],
        "storm: last verdict, s": storm["seconds"]["last_verdict"],
        "storm: others, ms": max(one["max"] for one in storm["other_tenant_ms"].values()),
    }
    values |= {name: dict.fromkeys(("median", "min", "max"), value) for name, value in once.items()}
    return [(name, one, _verdict(name, one["median"])) for name, one in values.items()]


def _verdict(name: str, value: float) -> str:
    floor, aim, less = BOUNDS[name]
    if (value <= aim) if less else (value >= aim):
        return "reached"
    return "floor holds" if ((value <= floor) if less else (value >= floor)) else "BROKEN"


def table(rows: list[tuple[str, dict[str, float], str]]) -> str:
    """For people."""
    lines = [f"{'figure':24}{'median':>9}{'min':>9}{'max':>9}{'floor':>8}{'aim':>8}"]
    for name, one, verdict in rows:
        floor, aim, _ = BOUNDS[name]
        lines.append(f"{name:24}{one['median']:9.3f}{one['min']:9.3f}{one['max']:9.3f}{floor:8g}{aim:8g}  {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
