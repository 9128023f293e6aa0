"""What a storm of alerts does to the model, to its budget and to others: `make bench-storm`.

Starts a PostgreSQL, a Redis, gunicorn, worker processes and a scheduler of its own, and a stand-in for the model that
answers after a second. Four rounds:

alone   another tenant sends an alert now and then, and nobody else does anything;
storm   a noisy tenant sends 10,000 alerts of 50 causes on 200 hosts by HTTP, the other goes on as before;
flood   the noisy tenant sends alerts of as many causes as there are, so that every call there can be is in flight;
spent   a third tenant sends more causes than its tokens of the day are enough for.

Prints the figures and writes them as JSON (--out); ends with 1 when a bound is broken.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import requests
from cryptography.fernet import Fernet

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import flask_migrate  # noqa: E402

import services as servers  # noqa: E402
from cast import sign  # noqa: E402
from conftest import driver, make_settings  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from stack import Stack  # noqa: E402
from stub_model import StubModel, asked  # noqa: E402

NOISY, OTHER, SPENDER = "noisy", "other", "spender"
DELAY = 1.0  # seconds of the model
AT_ONCE = 8  # senders
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


def rule_body(number: int) -> dict[str, Any]:
    """An alert that a recipe's own conditions decide, without a model."""
    return {"hostname": f"other-{number:04}", "incident_type": "disk_full", "evidence": {"mount": "/var/log"}}


class Model(StubModel):
    """Remembers of each call when it began and ended, which worker made it and for which tenant."""

    def __init__(self) -> None:
        super().__init__("good", delay=DELAY)
        self.own = threading.local()
        self.seen: list[tuple[float, float, str, str]] = []

    def begin(self, request: dict[str, Any], headers: dict[str, str]) -> str:
        tenant = next(name for name in (NOISY, OTHER, SPENDER) if f'"{name}-' in asked(request))
        self.own.call = (time.time(), headers["authorization"].removeprefix("Bearer "), tenant)
        return super().begin(request, headers)

    def end(self) -> None:
        super().end()
        began, worker, tenant = self.own.call
        self.seen.append((began, time.time(), worker, tenant))

    def of(self, tenant: str, since: float = 0.0) -> list[tuple[float, float, str, str]]:
        return [call for call in self.seen if call[3] == tenant and call[0] >= since]


def in_flight(calls: Sequence[tuple[float, float, str, str]], since: float, until: float) -> dict[str, Any]:
    """Of each worker: the most calls at one moment, and the median of looks between two moments."""
    found = {}
    for worker in sorted({call[2] for call in calls}):
        mine = [(began, ended) for began, ended, name, _ in calls if name == worker]
        looks = [since + step * 0.05 for step in range(int((until - since) / 0.05))]
        counts = [sum(began <= look < ended for began, ended in mine) for look in looks]
        found[worker] = {"max": max(counts, default=0), "median": statistics.median(counts or [0])}
    return found


class Installation:
    """The processes and what is asked of their database."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.stack = stack
        self.database = psycopg.connect(url, autocommit=True)
        self.secrets: dict[str, str] = {}

    def create(self, slug: str) -> None:
        self.stack.slug = slug
        self.stack.create_tenant()
        self.secrets[slug] = self.stack.secret

    def rows(self, statement: Any, *values: Any) -> list[Any]:
        return self.database.execute(statement, values).fetchall()

    def send(self, session: requests.Session, slug: str, alert: dict[str, Any]) -> bool:
        raw = json.dumps(alert).encode()
        headers = {"X-OpenRemedy-Signature": sign(self.secrets[slug], raw), "Content-Type": "application/json"}
        url = f"{self.stack.url}/api/v1/webhooks/alerts/{slug}"
        return session.post(url, data=raw, headers=headers, timeout=60).status_code == 202

    def send_all(self, slug: str, alerts: Sequence[dict[str, Any]]) -> int:
        """Post them, several at once; returns how many were accepted."""

        def some(part: Sequence[dict[str, Any]]) -> int:
            with requests.Session() as session:
                return sum(self.send(session, slug, alert) for alert in part)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return sum(pool.map(some, [alerts[first::AT_ONCE] for first in range(AT_ONCE)]))

    def settled(self, slug: str, seconds: float) -> None:
        """Wait until nothing of this tenant is without a verdict."""
        waiting = """SELECT 1 FROM incidents i JOIN tenants t ON t.id = i.tenant_id
            WHERE t.slug = %s AND i.triage IN ('pending', 'classifying') LIMIT 1"""
        servers.until(lambda: time.sleep(0.2) or not self.rows(waiting, slug), f"verdicts of {slug}", seconds)

    def verdicts(self, slug: str, since: float) -> list[tuple[float, float, str]]:
        """When each incident was there, when it had its first verdict, and of which tier."""
        return self.rows(
            """SELECT extract(epoch FROM i.first_seen)::float8, extract(epoch FROM v.created_at)::float8, v.tier
            FROM incidents i JOIN tenants t ON t.id = i.tenant_id CROSS JOIN LATERAL (
                SELECT created_at, tier FROM verdicts WHERE incident_id = i.id ORDER BY id LIMIT 1) v
            WHERE t.slug = %s AND extract(epoch FROM i.first_seen) >= %s ORDER BY v.created_at""",
            slug,
            since,
        )

    def tokens(self, slug: str) -> int:
        found = self.rows(
            "SELECT u.tokens FROM token_usage u JOIN tenants t ON t.id = u.tenant_id WHERE t.slug = %s", slug
        )
        return sum(int(tokens) for (tokens,) in found)

    def close(self) -> None:
        self.database.close()


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


def spread(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    at = [values[min(int(len(values) * share), len(values) - 1)] for share in (0.5, 0.95)]
    return {"count": len(values), "p50": round(at[0]), "p95": round(at[1]), "max": round(values[-1])}


# ---------------------------------------------------------------- the rounds


def alone(others: Others, seconds: float) -> dict[str, Any]:
    began = time.time()
    with others.sending():
        time.sleep(seconds)
    return {"other_tenant_ms": others.delays(began)}


def storm(installation: Installation, model: Model, others: Others, options: argparse.Namespace) -> dict[str, Any]:
    pairs = list(product(range(options.hosts), NAMES[: options.causes]))[: options.alerts]
    alerts = [body(NOISY, name, host) for host, name in pairs]
    began = time.time()
    with others.sending():
        accepted = installation.send_all(NOISY, alerts)
        sent = time.time()
        installation.settled(NOISY, 3600)
    verdicts = installation.verdicts(NOISY, began)
    calls = model.of(NOISY, began)
    return {
        "alerts": len(alerts),
        "accepted": accepted,
        "incidents": len(verdicts),
        "model_calls": len(calls),
        "tiers": dict(Counter(tier for _, _, tier in verdicts)),
        "seconds": {
            "all_accepted": round(sent - began, 1),
            "first_verdict": round(verdicts[0][1] - began, 1),
            "last_verdict": round(verdicts[-1][1] - began, 1),
        },
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
        "counted": installation.tokens(SPENDER),
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


@contextmanager
def installed(model: Model, options: argparse.Namespace) -> Iterator[Installation]:
    with (
        tempfile.TemporaryDirectory(prefix="openremedy-storm-") as folder,
        servers.postgres(durable=True) as postgres,
        servers.redis() as redis,
    ):
        url = postgres.create_database("storm")
        app = create_app(make_settings(Path(folder), driver(url)))
        with app.app_context():
            flask_migrate.upgrade(str(ROOT / "migrations"))
            db.engine.dispose()
        stack = Stack(Path(folder), url, redis.url, Fernet.generate_key().decode())
        stack.environment |= {"OPENAI_BASE_URL": model.url, "OPENREMEDY_MODEL": "stub-1"}
        installation = Installation(stack, url)
        try:
            for slug in (NOISY, OTHER, SPENDER):
                installation.create(slug)
            stack.start("web", "scheduler")
            for number in range(options.workers):
                stack.environment["OPENAI_API_KEY"] = f"worker-{number + 1}"  # tells the model who asks
                stack.start(f"worker-{number + 1}")
            yield installation
        finally:
            stack.stop()
            installation.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with Model() as model, installed(model, options) as installation:
        others = Others(installation)
        with others.sending():
            time.sleep(8)  # the workers load what they need
        found: dict[str, Any] = {"workers": options.workers, "model_delay_seconds": DELAY}
        rounds = {
            "alone": lambda: alone(others, options.alone),
            "storm": lambda: storm(installation, model, others, options),
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
