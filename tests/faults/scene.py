"""A whole installation to break: PostgreSQL, Redis, a model, an Alertmanager, web, workers, scheduler, two tenants."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from cryptography.fernet import Fernet

import services
from conftest import driver
from faults.senders import INTAKES, Tenant, alertmanager_alert, number_in
from faults.stream import Record, Stream
from launched import Launcher
from services import Alertmanager, PostgresServer, RedisServer
from stack import ROOT, Stack, several
from stub_model import StubModel

RATE = 50.0  # alerts a second, repetitions not counted
BY_ALERTMANAGER = 10  # alerts that a real Alertmanager is told in each round
RECOVERY = 300  # seconds in which everything has its verdict after a fault
LLM_TIMEOUT = 5  # seconds; a lost worker's incidents are free half a minute later
WAITING = ("pending", "classifying")
WORKERS = ("worker-1", "worker-2")
PROCESSES = ("web", *WORKERS, "scheduler")
# What may be answered while something is broken; an alert of ours is never at fault.
DOCUMENTED = (202, 503)
ADAPTERS = ("alertmanager", "grafana", "datadog")
RECIPES = ROOT / "config/recipes.yaml"

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
    miscounted: list[str] = field(default_factory=list)
    misjudged: list[str] = field(default_factory=list)  # no verdict, or a recipe that the tenant has not
    waiting: int = 0
    undocumented: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    taken_after: float | None = None  # seconds from the end of the fault to the next 202
    recovered_after: float = 0.0  # seconds from the end of the fault until nothing waited any more
    remarks: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the guarantees did."""
        wrong = (
            self.lost,
            self.doubled,
            self.strayed,
            self.miscounted,
            self.misjudged,
            self.undocumented,
            self.remarks,
        )
        return self.sent > 0 and not self.waiting and not any(wrong)


class Stage(ABC):
    """An installation to break, and what its users see of it; how it is started is its kind's business."""

    rate = RATE
    documented: tuple[int, ...] = DOCUMENTED
    in_order = True  # incidents of a round are listed before those of the rounds before

    def __init__(self, url: str) -> None:
        self.url = url
        self.tenants: list[Tenant] = []
        self.alertmanager: Alertmanager | None = None
        self.numbers = itertools.count(1)

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """That of its processes, for an administrator's commands."""

    def whole(self) -> None:
        """Start what a round has left dead, where nothing else does."""
        return

    def furnish(self) -> None:
        """Make two tenants and their sources."""
        self.tenants = [self._tenant(slug) for slug in ("alice", "bob")]

    def _tenant(self, slug: str) -> Tenant:
        signing = "a secret of PagerDuty's, used as the text it is"
        created, _, token, *sources = several(
            self.environment,
            (("tenant", "create", slug), None),
            (("recipe", "import", slug, "-"), RECIPES.read_text().replace("- slug: ", f"- slug: {slug}-")),
            (("token", "create", slug, "--role", "admin"), None),
            (("source", "add", slug, "pagerduty", "--signing-secret", "-"), signing),
            *((("source", "add", slug, adapter), None) for adapter in ADAPTERS),
        )
        tokens = {adapter: source["token"] for adapter, source in zip(ADAPTERS, sources[1:], strict=True)}
        return Tenant(slug, created["webhook_secret"], token["token"], tokens, signing)

    # ------------------------------------------------------------ a round

    def round(self, fault: str, breaks: Callable[[Any], list[str] | None], may_refuse: bool) -> Found:
        """Send, break, mend, wait, and look from outside."""
        self.whole()
        stream = Stream(self.url, self.tenants, self.numbers, self.rate)
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
        wanted = record.sent | told.keys()
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
        found = [pair for each in seen.values() for pair in each]
        return Found(
            fault=fault,
            sent=len(wanted),
            accepted=len(record.accepted | told),
            refused=record.refused,
            lost=sorted({*missing, *record.given_up}),
            doubled=sorted(set(doubled)),
            strayed=strayed,
            miscounted=[line for number in record.taken for line in _miscounted(record, number, seen.get(number, []))],
            misjudged=[line for slug, one in found for line in _misjudged(slug, one)],
            waiting=len(waiting),
            undocumented=record.undocumented(self.documented),
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
        """Newest first, until a whole page is older, where a clock has not upset that."""
        cursor: dict[str, str] = {}
        while True:
            answer = requests.get(
                f"{self.url}/api/v1/incidents",
                params={"limit": "200", **cursor},
                headers={"Authorization": f"Bearer {tenant.token}"},
                timeout=30,
            )
            answer.raise_for_status()
            page = answer.json()
            yield from page["items"]
            numbers = [found[0] for one in page["items"] if (found := number_in(one))]
            if not page["next_cursor"] or (self.in_order and numbers and max(numbers) < first):
                return
            cursor = {"cursor": page["next_cursor"]}


def _miscounted(record: Record, number: int, found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A canonical alert without a time is a new observation each time; the tools' own, the same bytes again, never."""
    canonical = INTAKES[number % len(INTAKES)] == "canonical"
    least, most = (record.taken[number], record.tries[number]) if canonical else (1, 1)
    return [
        f"{number} was taken {record.taken[number]} times of {record.tries[number]} and is counted {one['occurrences']}"
        for _, one in found
        if not least <= one["occurrences"] <= most
    ]


def _misjudged(tenant: str, incident: dict[str, Any]) -> list[str]:
    """What it ended with: every recipe has its tenant in its name."""
    verdict = incident["verdict"]
    if verdict is None and incident["classification"] not in WAITING:
        return [f"{incident['id']} is {incident['classification']} without a verdict"]
    if verdict and verdict["recipe"] and not verdict["recipe"].startswith(f"{tenant}-"):
        return [f"{incident['id']} of {tenant} was given {verdict['recipe']}"]
    return []


class Scene(Stage):
    """Every process by itself, as on a server."""

    def __init__(self, folder: Path, url: str, redis: RedisServer, model: StubModel) -> None:
        self.stack = Stack(folder, url, redis.url, Fernet.generate_key().decode())
        super().__init__(self.stack.url)
        self.folder = folder
        self.names = PROCESSES  # what runs
        self.postgres: PostgresServer | None = None
        self.database = ""  # for its administrator
        self.standby_port = 0
        self.kept = ExitStack()  # what a fault has started to stay
        self.redis = redis
        self.model = model
        self.stack.environment |= {
            "OPENAI_BASE_URL": model.url,
            "OPENREMEDY_LLM_TIMEOUT": str(LLM_TIMEOUT),
            "OPENREMEDY_SOURCE_RATE_LIMIT": "0",
        }

    @property
    def environment(self) -> dict[str, str]:
        """That of its processes."""
        return self.stack.environment

    def start(self) -> None:
        """The schema, the tenants, the processes."""
        self.command("db", "upgrade")
        self.furnish()
        self.whole()

    def command(self, *words: str) -> None:
        """A command that prints no JSON."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *words]
        subprocess.run(command, cwd=ROOT, env=self.stack.environment, check=True, capture_output=True)

    def whole(self) -> None:
        """Start what a round has left dead, and let the model behave."""
        for server in filter(None, (self.postgres, self.redis)):
            if server.process is None or server.process.poll() is not None:
                server.process = None
                server.start()
        for name in self.names:
            self.revive(name)
        self.model.control({"behaviour": "good", "delay": 0})

    def revive(self, name: str) -> None:
        """As a supervisor does: start a process that has ended."""
        process = self.stack.processes.get(name)
        if process is None or process.poll() is not None:
            self.stack.processes.pop(name, None)
            self.stack.start(name)

    def restart(self, name: str) -> None:
        """In good order, with the environment as it is now."""
        self.stack.end(name)
        self.stack.start(name)


class Embedded(Stage):
    """What `make run` starts: SQLite, its own Redis, one supervisor."""

    rate = 20.0  # each commit waits for the disk, alone

    def __init__(self, folder: Path) -> None:
        port = services.free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self._settings = {"OPENREMEDY_RATE_LIMIT": "0", "OPENREMEDY_SOURCE_RATE_LIMIT": "0"}
        self._folder = folder / "data"
        self.launcher = Launcher(self._folder, port, **self._settings).wait_until_ready()

    @property
    def environment(self) -> dict[str, str]:
        """What `make run` needs to be told, and a command to find the same."""
        return os.environ | self._settings | {"OPENREMEDY_DATA_DIR": str(self._folder)}


# ---------------------------------------------------------------- the stages


@contextmanager
def on_postgresql() -> Iterator[Scene]:
    """The whole service on PostgreSQL and Redis, with an Alertmanager that posts to it."""
    with services.postgres(durable=True) as postgres, _beside() as (folder, redis, model):
        database = postgres.create_database("openremedy")
        # The second host is where a standby may be promoted.
        standby = services.free_port()
        hosts = f"host=127.0.0.1:{postgres.port}&host=127.0.0.1:{standby}&target_session_attrs=read-write"
        one = Scene(folder, f"{driver(f'postgresql://{postgres.user}@/openremedy')}?{hosts}", redis, model)
        one.postgres, one.database, one.standby_port = postgres, database, standby
        with _started(one):
            alice = one.tenants[0]
            text = ROUTING.format(url=one.url, slug=alice.slug, token=alice.tokens["alertmanager"])
            with services.running(lambda place: Alertmanager(place, text)) as one.alertmanager:
                yield one


@contextmanager
def behind_nginx() -> Iterator[Scene]:
    """Two webs behind the documented proxy, which is all that its senders see."""
    with services.postgres(durable=True) as postgres, _beside() as (folder, redis, model):
        database = postgres.create_database("openremedy")
        one = Scene(folder, driver(database), redis, model)
        one.postgres, one.database = postgres, database
        one.names, one.stack.ports["web-2"] = (*PROCESSES, "web-2"), services.free_port()
        one.stack.environment["OPENREMEDY_PROXY_COUNT"] = "1"
        one.documented = (*DOCUMENTED, 502, 504)  # the proxy's own, where a web went with a request in its hands
        webs = (one.stack.port, one.stack.ports["web-2"])
        with services.running(lambda place: services.Proxy(place, webs)) as proxy:
            one.url = proxy.url
            with _started(one):
                yield one


@contextmanager
def by_itself(disk_mb: int | None = None) -> Iterator[Scene]:
    """The service on PostgreSQL by itself, for faults after which no list is in the order of its alerts."""
    with services.postgres(durable=True, disk_mb=disk_mb) as postgres, _beside() as (folder, redis, model):
        database = postgres.create_database("openremedy")
        one = Scene(folder, driver(database), redis, model)
        one.postgres, one.database, one.in_order = postgres, database, False
        with _started(one):
            yield one


@contextmanager
def on_a_small_disk() -> Iterator[Scene]:
    """The same with a PostgreSQL whose disk has half a gigabyte."""
    if os.geteuid() != 0:
        services.missing("root", "a file system of its own for the database")
    with by_itself(disk_mb=512) as one:
        yield one


@contextmanager
def on_sqlite() -> Iterator[Scene]:
    """Every process by itself, on one SQLite file."""
    with _beside() as (folder, redis, model):
        one = Scene(folder, f"sqlite:///{folder}/openremedy.db", redis, model)
        one.rate = Embedded.rate
        one.database = str(folder / "openremedy.db")
        with _started(one):
            yield one


@contextmanager
def embedded() -> Iterator[Embedded]:
    """What `make run` starts."""
    with tempfile.TemporaryDirectory(prefix="openremedy-faults-") as folder:
        one = Embedded(Path(folder))
        try:
            one.furnish()
            yield one
        finally:
            one.launcher.interrupt()


@contextmanager
def _beside() -> Iterator[tuple[Path, RedisServer, StubModel]]:
    with (
        tempfile.TemporaryDirectory(prefix="openremedy-faults-") as folder,
        services.redis() as redis,
        StubModel("good") as model,
    ):
        yield Path(folder), redis, model


@contextmanager
def _started(one: Scene) -> Iterator[None]:
    try:
        one.start()
        yield
    finally:
        one.stack.stop()
        one.kept.close()


STAGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "PostgreSQL": on_postgresql,
    "nginx": behind_nginx,
    "clocks": by_itself,
    "a small disk": on_a_small_disk,
    "SQLite": on_sqlite,
    "make run": embedded,
}
