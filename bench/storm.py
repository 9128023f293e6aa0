"""What a storm of alerts does to the model, to its budget and to others: `make bench-storm`.

Starts a PostgreSQL, a Redis, gunicorn, worker processes and a scheduler of its own, and a stand-in for the model that
answers after a second. Four rounds:

alone   another tenant sends an alert now and then, and nobody else does anything;
storm   a noisy tenant sends 10,000 alerts of 50 causes on 200 hosts, 50 in a body of Alertmanager, the other goes on
        as before;
flood   the noisy tenant sends alerts of as many causes as there are, so that every call there can be is in flight;
spent   a third tenant sends more causes than its tokens of the day are enough for.

Prints the figures and writes them as JSON (--out); ends with 1 when a bound is broken.
"""

import argparse
import json
import statistics
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.installation import DELAY, Installation, Model, entry, installed, spread, start_workers

NOISY, OTHER, SPENDER = "noisy", "other", "spender"
LEAST_IN_FLIGHT = 16  # of one worker process
EVERY = 0.5  # seconds between two alerts of the other tenant
SPENDER_TOKENS = 60_000
SPENDER_PROMPT = 9_000  # tokens of a question, as the model reports them
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Numbers are masked in a cause; words are not.
NAMES = ["".join(letters) for letters in product(LETTERS, LETTERS, "aeiou")]


def body(tenant: str, name: str, host: int) -> dict[str, Any]:
    """An alert of the cause `name`; what differs from host to host differs here too."""
    hostname = f"{tenant}-{host:03}.example.net"
    evidence = {"instance": f"{hostname}:9100", "alertname": f"Fault{name}", "value": host * 7 % 100, "job": "node"}
    return {"hostname": hostname, "incident_type": "custom", "evidence": evidence}


def noisy_entry(name: str, host: int) -> dict[str, Any]:
    """The same as Alertmanager has it: what a template fills in differs, and so do the host and the identity."""
    told = f"Fault{name} on {NOISY}-{host:03}: {host * 7 % 100} failures in the last 5 minutes"
    return entry(
        f"Fault{name}", f"{NOISY}-{host:03}.example.net", zlib.crc32(f"{name} {host}".encode()), description=told
    )


def rule_body(number: int) -> dict[str, Any]:
    """An alert that a recipe's own conditions decide, without a model."""
    return {"hostname": f"other-{number:04}", "incident_type": "disk_full", "evidence": {"mount": "/var/log"}}


def in_flight(calls: Sequence[tuple[float, float, str, str]], since: float, until: float) -> dict[str, Any]:
    """Of each worker: the most calls at one moment, and the median of looks between two moments."""
    found = {}
    for worker in sorted({call[2] for call in calls}):
        mine = [(began, ended) for began, ended, name, _ in calls if name == worker]
        looks = [since + step * 0.05 for step in range(int((until - since) / 0.05))]
        counts = [sum(began <= look < ended for began, ended in mine) for look in looks]
        found[worker] = {"max": max(counts, default=0), "median": statistics.median(counts or [0])}
    return found


class Others:
    """Alerts of the other tenant, one now and then: every second is a question to the model, the rest fit a rule."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.number = 0

    @contextmanager
    def sending(self) -> Iterator[None]:
        stop = threading.Event()
        sender = threading.Thread(target=self._send, args=(stop,))
        sender.start()
        try:
            yield
        finally:
            stop.set()
            sender.join()

    def _send(self, stop: threading.Event) -> None:
        with requests.Session() as session:
            while not stop.wait(EVERY):
                self.number += 1
                ask = self.number % 2
                alert = body(OTHER, f"{NAMES[self.number]}x", self.number) if ask else rule_body(self.number)
                self.installation.send(session, OTHER, alert)

    def delays(self, since: float) -> dict[str, Any]:
        """Milliseconds from being stored to the first verdict, by who gave it."""
        self.installation.settled(OTHER, 60)
        by_tier = defaultdict(list)
        for stored, answered, tier in self.installation.verdicts(OTHER, since):
            by_tier[tier].append((answered - stored) * 1000)
        return {tier: spread(times) for tier, times in sorted(by_tier.items())}


# ---------------------------------------------------------------- the rounds


def alone(others: Others, seconds: float) -> dict[str, Any]:
    began = time.time()
    with others.sending():
        time.sleep(seconds)
    return {"other_tenant_ms": others.delays(began)}


def storm(
    installation: Installation, model: Model, others: Others, alerts: int, causes: int, hosts: int
) -> dict[str, Any]:
    """All of them as bodies of Alertmanager, while the other tenant goes on."""
    pairs = list(product(range(hosts), NAMES[:causes]))[:alerts]
    before = installation.cpu()
    began = time.time()
    with others.sending():
        answered = installation.notify(NOISY, [noisy_entry(name, host) for host, name in pairs])
        sent = time.time()
        installation.settled(NOISY, 3600)
    spent = installation.cpu()
    verdicts = installation.verdicts(NOISY, began)
    calls = model.of(NOISY, began)
    return {
        "alerts": len(pairs),
        **answered,
        "incidents": len(verdicts),
        "model_calls": len(calls),
        "tiers": dict(Counter(tier for _, _, tier in verdicts)),
        "seconds": {
            "all_accepted": round(sent - began, 1),
            "first_verdict": round(verdicts[0][1] - began, 1),
            "last_verdict": round(verdicts[-1][1] - began, 1),
        },
        "cpu_us_per_alert": {name: round((spent[name] - before[name]) / len(pairs) * 1e6) for name in spent},
        "in_flight": in_flight(model.seen, began, max((call[1] for call in calls), default=began)),
        "other_tenant_ms": others.delays(began),
    }


def flood(installation: Installation, model: Model, others: Others, options: argparse.Namespace) -> dict[str, Any]:
    began = time.time()
    alerts = [body(NOISY, f"{name}q", 0) for name in NAMES[: options.flood]]
    with others.sending():
        accepted = installation.send_all(NOISY, alerts)
        installation.settled(NOISY, 3600)
    calls = model.of(NOISY, began)
    last = max(call[0] for call in calls)
    return {
        "accepted": accepted,
        "model_calls": len(calls),
        # Until the last call begins something waits, but for what the senders are slower than the model.
        "in_flight": in_flight(model.seen, calls[0][0] + DELAY, last),
        "other_tenant_ms": others.delays(began),
    }


def spent(installation: Installation, model: Model) -> dict[str, Any]:
    installation.rows("UPDATE tenants SET daily_tokens = %s WHERE slug = %s RETURNING id", SPENDER_TOKENS, SPENDER)
    model.control({"prompt_tokens": SPENDER_PROMPT})
    looks: list[int] = []
    done = threading.Event()

    def watch() -> None:
        with psycopg.connect(installation.database.info.dsn, autocommit=True) as connection:
            while not done.wait(0.02):
                found = connection.execute(
                    "SELECT u.tokens FROM token_usage u JOIN tenants t ON t.id = u.tenant_id WHERE t.slug = %s",
                    (SPENDER,),
                ).fetchone()
                looks.append(int(found[0]) if found else 0)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        installation.send_all(SPENDER, [body(SPENDER, f"{name}s", 0) for name in NAMES[:40]])
        installation.settled(SPENDER, 120)
    finally:
        done.set()
        watching.join()
    calls = len(model.of(SPENDER))
    return {
        "limit": SPENDER_TOKENS,
        "most_counted": max(looks, default=0),
        "counted": installation.tokens_of(SPENDER),
        "reported_by_the_model": calls * (SPENDER_PROMPT + 20),
        "model_calls": calls,
    }


def broken_bounds(found: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """What was promised and did not hold."""
    storm, flood, spent = found["storm"], found["flood"], found["spent"]
    least = min((one["max"] for one in flood["in_flight"].values()), default=0)
    checks = {
        f"every alert was accepted ({storm['accepted']} of {storm['alerts']})": storm["accepted"] == storm["alerts"],
        f"every incident has its verdict ({storm['incidents']})": storm["incidents"] == storm["alerts"],
        f"at most one call per cause ({storm['model_calls']} of {options.causes})": (
            storm["model_calls"] <= options.causes
        ),
        f"{LEAST_IN_FLIGHT} calls in flight in every worker ({least})": (
            least >= LEAST_IN_FLIGHT and len(flood["in_flight"]) == options.workers
        ),
        f"the tokens of the day ({spent['most_counted']} of {spent['limit']})": (
            max(spent["most_counted"], spent["counted"], spent["reported_by_the_model"]) <= spent["limit"]
        ),
    }
    return [name for name, holds in checks.items() if not holds]


# ---------------------------------------------------------------- all of it


def measure(options: argparse.Namespace) -> dict[str, Any]:
    tenants = (NOISY, OTHER, SPENDER)
    with Model(tenants) as model, installed(tenants, model) as installation:
        start_workers(installation, options.workers)
        others = Others(installation)
        with others.sending():
            time.sleep(8)  # the workers load what they need
        found: dict[str, Any] = {"workers": options.workers, "model_delay_seconds": DELAY}
        rounds = {
            "alone": lambda: alone(others, options.alone),
            "storm": lambda: storm(installation, model, others, options.alerts, options.causes, options.hosts),
            "flood": lambda: flood(installation, model, others, options),
            "spent": lambda: spent(installation, model),
        }
        for name, run in rounds.items():
            found[name] = run()
            print(f"{name}: {json.dumps(found[name], indent=2)}", flush=True)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("alerts", 10_000), ("causes", 50), ("hosts", 200), ("workers", 2), ("flood", 600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--alone", type=float, default=40, help="seconds of the round without a storm")
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args()
    began = time.monotonic()
    found = measure(options)
    found["broken"] = broken_bounds(found, options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"broken bounds: {'; '.join(found['broken']) or 'none'}; {time.monotonic() - began:.0f} s in all")
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
