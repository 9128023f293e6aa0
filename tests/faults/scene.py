"""A whole installation to break: PostgreSQL, Redis, a model, an Alertmanager, web, workers, scheduler, two tenants."""

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask_migrate
import requests
from cryptography.fernet import Fernet

import services
from conftest import driver, make_settings
from faults.senders import Tenant, alertmanager_alert, number_in
from faults.stream import Record, Stream
from openremedy.app import create_app
from openremedy.extensions import db
from services import Alertmanager, PostgresServer, RedisServer, until
from stack import ROOT, Stack
from stub_model import StubModel

RATE = 50.0  # alerts a second, repetitions not counted
BY_ALERTMANAGER = 10  # alerts that a real Alertmanager is told in each round
RECOVERY = 300  # seconds in which everything has its verdict after a fault
LLM_TIMEOUT = 5  # seconds; a lost worker's incidents are free half a minute later
WAITING = ("pending", "classifying")
WORKERS = ("worker-1", "worker-2")
ADAPTERS = ("alertmanager", "grafana", "datadog")

ROUTING = """
route:
  receiver: openremedy
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
- name: openremedy
  webhook_configs:
  - url: {url}/api/v1/webhooks/alertmanager/{slug}
    send_resolved: false
    http_config: {{authorization: {{credentials: {token}}}}}
"""


@dataclass
class Found:
    """One round, seen from outside."""

    fault: str
    sent: int
    accepted: int
    refused: int
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    strayed: list[str] = field(default_factory=list)
    waiting: int = 0
    undocumented: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    taken_after: float | None = None  # seconds from the end of the fault to the next 202
    recovered_after: float = 0.0  # seconds from the end of the fault until nothing waited any more
    remarks: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the guarantees did."""
        return not (self.lost or self.doubled or self.strayed or self.waiting or self.undocumented or self.remarks)


class Scene:
    """The installation, and what its users see of it."""

    def __init__(
        self, folder: Path, postgres: PostgresServer, redis: RedisServer, model: StubModel, database: str, url: str
    ) -> None:
        self.folder = folder
        self.postgres = postgres
        self.redis = redis
        self.model = model
        self.database = database
        self.stack = Stack(folder, url, redis.url, Fernet.generate_key().decode())
        self.stack.environment |= {
            "OPENAI_BASE_URL": model.url,
            "OPENREMEDY_LLM_TIMEOUT": str(LLM_TIMEOUT),
            "OPENREMEDY_SOURCE_RATE_LIMIT": "0",
        }
        self.tenants: list[Tenant] = []
        self.alertmanager: Alertmanager | None = None
        self.numbers = itertools.count(1)

    # ------------------------------------------------------------ set-up

    def furnish(self) -> None:
        """Tenants, sources, processes."""
        self.tenants = [self._tenant(slug) for slug in ("alice", "bob")]
        self.stack.start("web", *WORKERS, "scheduler")

    def _tenant(self, slug: str) -> Tenant:
        flask = self.stack.flask
        secret = flask("tenant", "create", slug)["webhook_secret"]
        flask("recipe", "import", slug, "config/recipes.yaml")
        token = flask("token", "create", slug, "--role", "admin")["token"]
        tokens = {adapter: flask("source", "add", slug, adapter)["token"] for adapter in ADAPTERS}
        signing = "a secret of PagerDuty's, used as the text it is"
        flask("source", "add", slug, "pagerduty", "--signing-secret", "-", text=signing)
        return Tenant(slug, secret, token, tokens, signing)

    def whole(self) -> None:
        """Start what a round has left dead."""
        for server in (self.postgres, self.redis):
            if server.process is None or server.process.poll() is not None:
                server.process = None
                server.start()
        for name in ("web", *WORKERS, "scheduler"):
            self.revive(name)
        self.model.control({"behaviour": "good", "delay": 0})

    def revive(self, name: str) -> None:
        """As a supervisor does: start a process that has ended."""
        process = self.stack.processes.get(name)
        if process is None or process.poll() is not None:
            self.stack.processes.pop(name, None)
            self.stack.start(name)

    # ------------------------------------------------------------ a round

    def round(self, fault: str, breaks: Any, may_refuse: bool) -> Found:
        """Send, break, mend, wait, and look from outside."""
        self.whole()
        stream = Stream(self.stack.url, self.tenants, self.numbers, RATE)
        told = self._tell_alertmanager()
        stream.start()
        time.sleep(2)
        remarks = []
        try:
            remarks += breaks(self) or []
        finally:
            stream.mark()
            ended = time.monotonic()
            self.whole()
            time.sleep(2)
            record = stream.stop()
        found = self._judged(fault, record, told, ended)
        found.remarks += remarks
        if record.refused and not may_refuse:
            found.remarks.append(f"{record.refused} were refused, and this fault excuses none")
        return found

    def _tell_alertmanager(self) -> dict[int, str]:
        if not self.alertmanager:
            return {}
        alice = self.tenants[0]
        numbers = [next(self.numbers) for _ in range(BY_ALERTMANAGER)]
        alerts = [alertmanager_alert(number, alice) for number in numbers]
        requests.post(f"{self.alertmanager.url}/api/v2/alerts", json=alerts, timeout=10).raise_for_status()
        return dict.fromkeys(numbers, alice.slug)

    def _judged(self, fault: str, record: Record, told: dict[int, str], ended: float) -> Found:
        wanted = record.accepted | told
        deadline = ended + RECOVERY
        while True:
            seen = self._seen(min(wanted, default=0))
            missing = [number for number in wanted if number not in seen]
            waiting = [one for found in seen.values() for _, one in found if one["classification"] in WAITING]
            if time.monotonic() > deadline or not (missing or waiting):
                break
            time.sleep(0.5)
        doubled = [number for number, found in seen.items() if len({one["id"] for _, one in found}) > 1]
        doubled += [
            number
            for number, ids in record.incidents.items()
            if number in seen and ids != {one["id"] for _, one in seen[number]}
        ]
        strayed = [
            f"{one['id']} of {(number_in(one) or (0, 'nobody'))[1]} is shown to {tenant}"
            for found in seen.values()
            for tenant, one in found
            if (number_in(one) or (0, tenant))[1] != tenant
        ]
        return Found(
            fault=fault,
            sent=len(wanted) + len(record.given_up),
            accepted=len(wanted),
            refused=record.refused,
            lost=sorted({*missing, *record.given_up}),
            doubled=sorted(set(doubled)),
            strayed=strayed,
            waiting=len(waiting),
            undocumented=record.undocumented,
            answers=dict(record.answers),
            taken_after=record.first_after - record.marked if record.first_after else None,
            recovered_after=time.monotonic() - ended,
        )

    def _seen(self, first: int) -> dict[int, list[tuple[str, dict[str, Any]]]]:
        """By number, from `first` on: what the pages of every tenant show."""
        seen: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        for tenant in self.tenants:
            for one in self._listed(tenant, first):
                if (number := number_in(one)) and number[0] >= first:
                    seen.setdefault(number[0], []).append((tenant.slug, one))
        return seen

    def _listed(self, tenant: Tenant, first: int) -> Iterator[dict[str, Any]]:
        """Newest first, until a whole page is older."""
        cursor: dict[str, str] = {}
        while True:
            answer = requests.get(
                f"{self.stack.url}/api/v1/incidents",
                params={"limit": "200", **cursor},
                headers={"Authorization": f"Bearer {tenant.token}"},
                timeout=30,
            )
            answer.raise_for_status()
            page = answer.json()
            yield from page["items"]
            numbers = [found[0] for one in page["items"] if (found := number_in(one))]
            if not page["next_cursor"] or (numbers and max(numbers) < first):
                return
            cursor = {"cursor": page["next_cursor"]}

    # ------------------------------------------------------------ for the report

    def verdicts(self) -> Counter[str]:
        """By what gave them, of all incidents of all tenants."""
        return Counter(
            str((one.get("verdict") or {}).get("tier", one["classification"]))
            for tenant in self.tenants
            for one in self._listed(tenant, 0)
        )


@contextmanager
def scene(database_url: str | None = None) -> Iterator[Scene]:
    """Everything started; `database_url`: not on PostgreSQL."""
    with ExitStack() as kept:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="openremedy-faults-")))
        postgres = kept.enter_context(services.postgres(durable=True))
        redis = kept.enter_context(services.redis())
        model = kept.enter_context(StubModel("good"))
        database = postgres.create_database("openremedy")
        url = database_url or driver(database)
        app = create_app(make_settings(folder, url))
        with app.app_context():
            flask_migrate.upgrade(str(ROOT / "migrations"))
            db.engine.dispose()
        one = Scene(folder, postgres, redis, model, database, url)
        kept.callback(one.stack.stop)
        one.furnish()
        alice = one.tenants[0]
        text = ROUTING.format(url=one.stack.url, slug=alice.slug, token=alice.tokens["alertmanager"])
        one.alertmanager = kept.enter_context(services.running(lambda place: Alertmanager(place, text)))
        until(lambda: one.stack.processes["web"].poll() is None, "the web process lives")
        yield one
