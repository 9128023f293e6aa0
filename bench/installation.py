"""A whole installation on servers of its own, a stand-in for the model beside it, and what is asked of its database."""

import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flask_migrate
import psycopg
import requests
from cryptography.fernet import Fernet

import services as servers
from bench.servers import cpu_seconds
from cast import sign
from conftest import driver, make_settings
from openremedy.app import create_app
from openremedy.extensions import db
from stack import Stack
from stub_model import StubModel, asked

ROOT = Path(__file__).parent.parent
AT_ONCE = 8  # senders
BODY = 50  # alerts of one body of Alertmanager
TRIES = 20  # of one body
DELAY = 1.0  # seconds of the model
ANYBODY = "anybody"


class Model(StubModel):
    """Remembers of each call when it began and ended, which worker made it, and for which tenant and host."""

    def __init__(self, tenants: Sequence[str] = (), delay: float = DELAY) -> None:
        super().__init__("good", delay=delay)
        self.tenants = tenants
        self.own = threading.local()
        self.seen: list[tuple[float, float, str, str]] = []
        self.begun: dict[str, float] = {}

    def begin(self, request: dict[str, Any], headers: dict[str, str]) -> str:
        question = asked(request)
        tenant = next((name for name in self.tenants if f'"{name}-' in question), ANYBODY)
        self.own.call = (time.time(), headers["authorization"].removeprefix("Bearer "), tenant)
        self.begun[_hostname(question)] = self.own.call[0]
        return super().begin(request, headers)

    def end(self) -> None:
        super().end()
        began, worker, tenant = self.own.call
        self.seen.append((began, time.time(), worker, tenant))

    def of(self, tenant: str, since: float = 0.0) -> list[tuple[float, float, str, str]]:
        return [call for call in self.seen if call[3] == tenant and call[0] >= since]


def _hostname(question: str) -> str:
    line = next(line for line in question.splitlines() if line.startswith("incident = "))
    found: str = json.loads(line.removeprefix("incident = "))["hostname"]
    return found


class Installation:
    """The processes and what is asked of their database."""

    def __init__(self, stack: Stack, url: str, postgres: int) -> None:
        self.stack = stack
        self.postgres = postgres  # its process
        self.database = psycopg.connect(url, autocommit=True)
        self.secrets: dict[str, str] = {}
        self.tokens: dict[str, str] = {}

    def create(self, slug: str) -> None:
        """A tenant with the starter recipes and a source of Alertmanager."""
        self.stack.slug = slug
        (source,) = self.stack.create_tenant("alertmanager")
        self.secrets[slug] = self.stack.secret
        self.tokens[slug] = source["token"]

    def rows(self, statement: Any, *values: Any) -> list[Any]:
        return self.database.execute(statement, values).fetchall()

    def send(self, session: requests.Session, slug: str, alert: dict[str, Any]) -> bool:
        """A signed canonical alert."""
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

    def notify(self, slug: str, entries: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Post alerts as Alertmanager does, 50 in a body, several bodies at once and again what was refused for now;
        how many were taken, and how many bodies were refused at first.
        """
        bodies = [entries[first : first + BODY] for first in range(0, len(entries), BODY)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda body: self._notify(slug, body), bodies))
        return {"accepted": sum(taken for taken, _ in answers), "refused_bodies": sum(again for _, again in answers)}

    def _notify(self, slug: str, entries: Sequence[dict[str, Any]]) -> tuple[int, int]:
        url = f"{self.stack.url}/api/v1/webhooks/alertmanager/{slug}"
        headers = {"Authorization": f"Bearer {self.tokens[slug]}"}
        for again in range(TRIES):
            answer = requests.post(url, json=notification(entries), headers=headers, timeout=60)
            if answer.status_code not in (429, 503):
                answer.raise_for_status()
                taken = [one["outcome"] for one in answer.json()["alerts"]]
                return taken.count("created") + taken.count("updated") + taken.count("duplicate"), again
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        return 0, TRIES

    def settled(self, slug: str, seconds: float) -> None:
        """Wait until nothing of this tenant is without a verdict."""
        waiting = """SELECT 1 FROM incidents i JOIN tenants t ON t.id = i.tenant_id
            WHERE t.slug = %s AND i.triage IN ('pending', 'classifying') LIMIT 1"""
        servers.until(lambda: time.sleep(0.2) or not self.rows(waiting, slug), f"verdicts of {slug}", seconds)

    def verdicts(self, slug: str, since: float = 0.0) -> list[tuple[float, float, str]]:
        """When each incident was there, when it had its first verdict, and of which tier."""
        return self.rows(
            """SELECT extract(epoch FROM i.first_seen)::float8, extract(epoch FROM v.created_at)::float8, v.tier
            FROM incidents i JOIN tenants t ON t.id = i.tenant_id CROSS JOIN LATERAL (
                SELECT created_at, tier FROM verdicts WHERE incident_id = i.id ORDER BY id LIMIT 1) v
            WHERE t.slug = %s AND extract(epoch FROM i.first_seen) >= %s ORDER BY v.created_at""",
            slug,
            since,
        )

    def tokens_of(self, slug: str) -> int:
        """What is counted of a tenant's day."""
        found = self.rows(
            "SELECT u.tokens FROM token_usage u JOIN tenants t ON t.id = u.tenant_id WHERE t.slug = %s", slug
        )
        return sum(int(tokens) for (tokens,) in found)

    def cpu(self) -> dict[str, float]:
        """Seconds of processor that the database and each kind of process have used so far."""
        used = Counter({"postgres": cpu_seconds([self.postgres])})
        for name, process in self.stack.processes.items():
            used[name.split("-")[0]] += cpu_seconds([process.pid])
        return dict(used)

    def close(self) -> None:
        self.database.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself and in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def notification(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Alerts in the envelope of Alertmanager."""
    return {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "openremedy",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.net:9093",
        "alerts": list(entries),
    }


def entry(name: str, hostname: str, fingerprint: int, **annotations: str) -> dict[str, Any]:
    """A firing alert of the rule `name` as it stands in a notification."""
    return {
        "status": "firing",
        "labels": {"alertname": name, "instance": f"{hostname}:9100", "job": "node", "severity": "warning"},
        "annotations": annotations,
        "startsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.net:9090/graph?g0.expr=probe_faults_total+%3E+3",
        "fingerprint": f"{fingerprint:016x}",
    }


@contextmanager
def installed(tenants: Sequence[str], model: Model | None, **environment: str) -> Iterator[Installation]:
    """PostgreSQL that waits for its disk, Redis, gunicorn and a scheduler, with these tenants; no worker yet."""
    with (
        tempfile.TemporaryDirectory(prefix="openremedy-bench-") as folder,
        servers.postgres(durable=True) as postgres,
        servers.redis() as redis,
    ):
        url = postgres.create_database("bench")
        app = create_app(make_settings(Path(folder), driver(url)))
        with app.app_context():
            flask_migrate.upgrade(str(ROOT / "migrations"))
            db.engine.dispose()
        stack = Stack(Path(folder), url, redis.url, Fernet.generate_key().decode())
        if model:
            stack.environment |= {"OPENAI_BASE_URL": model.url, "OPENREMEDY_MODEL": "stub-1"}
        stack.environment |= environment
        installation = Installation(stack, url, postgres.pid)
        try:
            for slug in tenants:
                installation.create(slug)
            stack.start("web", "scheduler")
            yield installation
        finally:
            stack.stop()
            installation.close()


def start_workers(installation: Installation, count: int) -> None:
    """So many; each tells the model its number."""
    for number in range(count):
        installation.stack.environment["OPENAI_API_KEY"] = f"worker-{number + 1}"
        installation.stack.start(f"worker-{number + 1}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, p50, p95 and the most."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    at = [ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.95)]
    return {"count": len(ordered), "p50": round(at[0]), "p95": round(at[1]), "max": round(ordered[-1])}
