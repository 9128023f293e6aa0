"""What deleting the old costs: `make bench-prune`, or with a number of incidents.

Fills a PostgreSQL of its own with a year (a million incidents, and as many deliveries and alerts), lets a steady sender
post to real web processes, and times its answers without and with `flask prune` at its work. Then it tells what the
tables take on the disk, and what a thousand alerts do. Ends with 1 when an answer was no success.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench import filling, installation, load  # noqa: E402
from cast import DISK_FULL, sign  # noqa: E402

TENANT = "alice"
RATE = 100.0  # alerts a second
TABLES = ("incidents", "deliveries", "alerts", "verdicts", "timeline")
PART = 3_000  # alerts of the measure of the disk


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30, help="of the measure without a prune")
    options = parser.parse_args()
    with installation.installed([TENANT], None, OPENREMEDY_RATE_LIMIT="0") as here:
        here.stack.end("scheduler")  # its own prune would come in between
        print(f"load {os.getloadavg()[0]:.1f}; {options.rows:,} incidents, deliveries and alerts of a year", flush=True)
        url = here.stack.environment["DATABASE_URL"]
        per_thousand(here)
        filling.fill(url, options.rows, options.rows)
        show_sizes("filled", here.database)
        show("without a prune", posting(here, options.seconds))
        pruned(here)
        show_sizes("after the prune", here.database)
        here.database.execute("VACUUM")
        show_sizes("and after a VACUUM", here.database)
        filled_again(here)
    return 0


def per_thousand(here: installation.Installation) -> None:
    """What alerts of the usual size take: each a new incident, then each a repetition of one that is open."""
    here.stack.start("worker")
    for what, start in (("new incidents", 0), ("repetitions", 0)):
        before = sizes(here.database)
        bodies = [DISK_FULL | {"hostname": f"host-{start + number}.example.com"} for number in range(PART)]
        assert here.send_all(TENANT, bodies) == PART  # nosec B101 # noqa: S101 - else the figure would say nothing
        here.settled(TENANT, 120)
        grown = sum(sizes(here.database).values()) - sum(before.values())
        print(f"a thousand alerts, {what}: {grown / PART * 1000 / 2**20:.2f} MB", flush=True)
    here.stack.end("worker")


def sizes(database: psycopg.Connection) -> dict[str, int]:
    """Bytes of each table with its indexes and what is kept beside it."""
    found = {name: database.execute("SELECT pg_total_relation_size(%s)", [name]).fetchone() for name in TABLES}
    return {name: int(row[0]) if row else 0 for name, row in found.items()}


def show_sizes(when: str, database: psycopg.Connection) -> None:
    """One line."""
    counted = database.execute("SELECT (SELECT count(*) FROM incidents), (SELECT count(*) FROM deliveries)").fetchone()
    told = ", ".join(f"{name} {size >> 20:,}" for name, size in sizes(database).items())
    print(f"{when}: {counted} incidents and deliveries; MB: {told}", flush=True)


def show(when: str, seen: load.Load) -> None:
    """One line."""
    print(
        f"{when}: {seen.requests / seen.seconds:.0f} alerts/s, p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms", flush=True
    )


def posting(here: installation.Installation, seconds: float) -> load.Load:
    """A steady sender of new incidents."""
    return load.at_a_rate(here.stack.port, alerts(here), RATE, seconds)


def alerts(here: installation.Installation) -> Iterator[bytes]:
    """Signed, each of another host."""
    import itertools
    import json

    began = time.time_ns()
    for number in itertools.count():
        body = json.dumps(DISK_FULL | {"hostname": f"new-{began}-{number}"}).encode()
        headers = {"X-OpenRemedy-Signature": sign(here.secrets[TENANT], body)}
        yield load.raw_request(f"/api/v1/webhooks/alerts/{TENANT}", body, headers)


def pruned(here: installation.Installation) -> None:
    """The command, with the sender beside it for as long as it works, half a minute at a time."""
    began = time.monotonic()
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "prune", "--json"]
    working = subprocess.Popen(command, cwd=ROOT, env=here.stack.environment, stdout=subprocess.PIPE, text=True)
    while working.poll() is None:
        show("with a prune", posting(here, 15))
    told, _ = working.communicate()
    print(
        f"prune: {told.strip()} in {time.monotonic() - began:.0f} s (to the end of the last quarter minute)", flush=True
    )


def filled_again(here: installation.Installation) -> None:
    """A second prune finds nothing: what it costs to look."""
    began = time.monotonic()
    here.stack.flask("prune")
    print(
        f"a prune that finds nothing: {time.monotonic() - began:.1f} s, the start of the command included", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
