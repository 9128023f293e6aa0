"""Real processes, and everything around them failing: each alert that was answered 202 ends with a verdict."""

import dataclasses
import itertools
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from conftest import ENCRYPTION_KEY, driver, make_settings
from openremedy import maintenance
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.services import services
from services import PostgresServer, RedisServer, until
from stack import ROOT, Stack
from stub_model import StubModel

LLM_TIMEOUT = 5
BEST_PRACTICE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "disk_full": (
        {"disk_usage_percent": 96, "mount": "/srv", "largest_files": ["/srv/dump.bin"]},
        {"disk-full"},
    ),
    "cpu_high": (
        {"cpu_percent": 97, "load_1m": 17.5, "cores": 4, "top_process": "java"},
        {"cpu-high", "runaway-process"},
    ),
    "memory_high": (
        {"memory_percent": 96, "total_mb": 16000, "used_mb": 15400, "top_process": "python3"},
        {"memory-high"},
    ),
    "service_down": (
        {"service_name": "billing", "service_active": False, "error": "exit-code", "exit_code": 1},
        {"service-down"},
    ),
    "port_unavailable": ({"port": 9000, "port_open": False, "expected_service": "billing"}, {"port-unavailable"}),
    "custom": (
        {"alertname": "CertificateExpiresSoon", "summary": "TLS certificate expires in 5 days"},
        {"certificate-expiring"},
    ),
}


class House(Stack):
    """The stack, with a database to look into and a count of hosts."""

    def __init__(self, folder: Path, server: PostgresServer, name: str, redis_url: str) -> None:
        super().__init__(folder, driver(server.url_of(name)), redis_url, ENCRYPTION_KEY)
        self.app = create_app(make_settings(folder, driver(server.url_of(name)), redis_url=redis_url))
        self.database = server.url_of(name)
        self.asked: str | None = None
        self.hosts = (f"host-{number}" for number in itertools.count())

    def staff(self, **settings: str) -> None:
        """A fresh worker with these settings."""
        self.dismiss("worker")
        self.environment |= {"OPENREMEDY_LLM_TIMEOUT": str(LLM_TIMEOUT), "OPENREMEDY_LLM_CONCURRENCY": "16"}
        self.environment |= settings
        self.asked = self.environment.get("OPENAI_BASE_URL")
        self.start("worker")

    def hire(self, model: StubModel) -> None:
        """A worker that asks this model; the one there is, if it does."""
        if self.asked != model.url or not self.alive("worker"):
            self.staff()

    def alive(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def dismiss(self, name: str) -> None:
        """Kill a process, if there is one and it still lives."""
        if self.alive(name):
            self.kill(name)
        self.processes.pop(name, None)

    def post(self, **changes: Any) -> str:
        """An alert that opens an incident of its own; returns the incident's id."""
        answer = self.send(hostname=next(self.hosts), **changes)
        assert answer.status_code == 202, answer.text
        assert answer.json()["outcome"] == "created"
        return str(answer.json()["incident_id"])

    def incident(self, incident_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/incidents/{incident_id}")
        return found

    def settled(self, ids: list[str], seconds: float = 60, sweep: bool = False) -> list[dict[str, Any]]:
        """Wait for the verdicts and check what must always hold; with `sweep` as the scheduler does."""
        deadline = time.monotonic() + seconds
        while any(state in ("pending", "classifying") for state in self.states(ids).values()):
            assert time.monotonic() < deadline, f"after {seconds} s: {self.states(ids)}"
            if sweep:
                self.sweep()
            time.sleep(0.2)
        found = [self.incident(one) for one in ids]
        assert len(set(ids)) == len(ids) == len(self.states(ids)), "each 202 has one incident"
        for one in found:
            human = any(entry["kind"] == "needs_human" for entry in one["timeline"])
            assert one["verdict"] or human, "a verdict, or visibly with a person"
            assert (one["classification"] == "needs_human") == human
        return found

    def states(self, ids: list[str]) -> dict[str, str]:
        with psycopg.connect(self.database) as connection:
            query = "SELECT id, triage FROM incidents WHERE id = ANY(%s)"
            return {str(one): state for one, state in connection.execute(query, [[uuid.UUID(text) for text in ids]])}

    def let_time_pass(self) -> None:
        """The pauses of the model, of causes and of incidents are over; then one round of the scheduler."""
        with psycopg.connect(self.database) as connection:
            connection.execute("UPDATE model_state SET away_until = now()")
            connection.execute("UPDATE cause_leases SET failed_until = now(), lease_until = now()")
            connection.execute("UPDATE incidents SET retry_at = now()")
        self.sweep()

    def sweep(self) -> None:
        """One round of the scheduler, which does in its own process just this."""
        with self.app.app_context():
            here = services()
            settings = dataclasses.replace(here.settings, openai_base_url=self.environment.get("OPENAI_BASE_URL"))
            maintenance.sweep(dataclasses.replace(here, settings=settings), db.engine)

    def let_leases_end(self, ids: list[str]) -> timedelta:
        """Those who hold these incidents, and their causes, have held them long enough. Returns what was left."""
        uuids = [uuid.UUID(one) for one in ids]
        with psycopg.connect(self.database) as connection:
            held = connection.execute(
                "SELECT lease_until - now() FROM incidents WHERE id = ANY(%s)", [uuids]
            ).fetchall()
            over = "SET lease_until = now() - interval '1 second'"
            connection.execute(f"UPDATE incidents {over} WHERE id = ANY(%s)", [uuids])
            connection.execute(f"UPDATE cause_leases {over} WHERE holder = ANY(%s)", [uuids])
        return max(left for (left,) in held)


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    postgres_template: str,
    redis_server: RedisServer,
) -> Iterator[House]:
    name = f"faults_{uuid.uuid4().hex}"
    postgres_server.create_database(name, template=postgres_template)
    redis_server.flushall()
    running = House(tmp_path_factory.mktemp("house"), postgres_server, name, redis_server.url)
    running.start("web")
    running.create_tenant()
    yield running
    for process in list(running.processes):
        running.dismiss(process)
    with running.app.app_context():
        services().tally.stop()
        db.engine.dispose()
    postgres_server.drop_database(name)


@pytest.fixture(autouse=True)
def _whole(house: House, redis_server: RedisServer) -> None:
    """Whatever a test before this one has broken works again."""
    if redis_server.process is None:
        redis_server.start()
    for name in ("worker-2", "scheduler"):
        house.dismiss(name)
    if not house.alive("web"):
        house.dismiss("web")
        house.start("web")
    if not house.alive("worker"):
        house.staff()


@pytest.fixture(scope="module")
def stub() -> Iterator[StubModel]:
    with StubModel("good") as model:
        yield model


@pytest.fixture
def model(house: House, stub: StubModel) -> Iterator[StubModel]:
    """The stand-in, answering well and fast, and the service configured to ask it."""
    stub.control({"behaviour": "good", "delay": 0, "reset": True})
    house.environment["OPENAI_BASE_URL"] = stub.url
    yield stub
    stub.control({"behaviour": "good", "delay": 0})
    house.environment.pop("OPENAI_BASE_URL")


def ends(process: subprocess.Popen[bytes], seconds: float = 60) -> int:
    return process.wait(timeout=seconds)


# ---------------------------------------------------------------- without any key


def test_without_a_key_every_incident_type_gets_a_fitting_starter_recipe_within_five_seconds(house: House) -> None:
    house.staff()
    house.settled([house.post()])  # the worker is up
    for kind, (evidence, fitting) in BEST_PRACTICE.items():
        incident_id = house.post(incident_type=kind, evidence=evidence)
        (found,) = house.settled([incident_id], seconds=5)
        assert found["verdict"]["recipe"] in fitting, found["verdict"]
    body = {"hostname": "bare-01", "incident_type": "disk_full"}
    answer = house.send(body)
    (found,) = house.settled([answer.json()["incident_id"]], seconds=5)
    assert found["verdict"]["recipe"] == "disk-full"


def test_the_web_process_never_imports_the_model_s_client_or_the_matcher(house: House) -> None:
    code = "import sys, wsgi; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=house.environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "openremedy.webhooks" in loaded
    heavy = {"openai", "numpy", "openremedy.classifier.lexical", "openremedy.classification", "openremedy.evaluation"}
    heavy |= {"openremedy.benchmark", "openremedy.measuring", "openremedy.dispatch", "httpcore2"}
    assert not loaded & heavy


# ---------------------------------------------------------------- the model, well and badly


def test_the_model_s_recipe_tokens_and_latency_are_kept(house: House, model: StubModel) -> None:
    house.staff()
    (found,) = house.settled([house.post(evidence={"check": "kept", "mount": "/kept"})])
    verdict = found["verdict"]
    assert (verdict["tier"], verdict["model"], verdict["tokens"]) == ("model", "stub-1", 120)
    assert verdict["recipe"] in {one["slug"] for one in house.get("/recipes", limit=200)["items"]}
    assert verdict["latency_ms"] > 0
    assert model.calls == 1


@pytest.mark.parametrize(
    "behaviour", ["429", "500", "garbage", "unknown-recipe", "fabricated-citation", "hang", "html200"]
)
def test_an_incident_gets_a_verdict_while_the_model_fails_and_the_model_s_when_it_is_back(
    house: House, model: StubModel, behaviour: str
) -> None:
    house.hire(model)
    model.control({"behaviour": behaviour, "retry_after": "3"})
    incident_id = house.post(evidence={"mount": f"/srv/{behaviour}", "disk_usage_percent": 95})
    (found,) = house.settled([incident_id])
    assert model.calls >= 1
    assert (found["verdict"]["tier"], found["verdict"]["provisional"]) == ("lexical", True)
    model.control({"behaviour": "good"})
    house.let_time_pass()
    (found,) = house.settled([incident_id])
    assert (found["verdict"]["tier"], found["verdict"]["provisional"]) == ("model", False)


def test_the_scheduler_alone_has_it_redone_when_retry_after_is_over(house: House, model: StubModel) -> None:
    house.hire(model)
    model.control({"behaviour": "429", "retry_after": "2"})
    incident_id = house.post(evidence={"mount": "/srv/later", "disk_usage_percent": 95})
    house.settled([incident_id])
    model.control({"behaviour": "good"})
    time.sleep(2)
    house.start("scheduler")  # its first round is at once
    until(lambda: house.incident(incident_id)["verdict"]["tier"] == "model", "the model's verdict")
    assert house.end("scheduler") == 0


def test_a_thousand_alerts_of_twenty_causes_ask_the_model_at_most_twenty_times(house: House, model: StubModel) -> None:
    # This is about how often the model is asked. On a busy machine two seconds of it may take more than five of ours.
    house.staff(OPENREMEDY_LLM_TIMEOUT="60")
    model.control({"delay": 2})
    house.start("worker-2")
    words = [first + second for first in ("al", "be", "ga", "de") for second in ("pha", "ta", "mma", "lta", "psi")]
    bodies = [
        {"hostname": f"node-{number}", "incident_type": "custom", "evidence": {"alertname": word, "value": number}}
        for number in range(50)
        for word in words
    ]
    answers = house.send_many(bodies)
    assert {answer.status_code for answer in answers} == {202}
    ids = [answer.json()["incident_id"] for answer in answers]
    deadline = time.monotonic() + 120
    while set(house.states(ids).values()) - {"done", "needs_human"}:
        assert time.monotonic() < deadline, house.states(ids)
        time.sleep(0.3)
    assert model.calls <= 20
    assert len(house.states(ids)) == 1000
    with psycopg.connect(house.database) as connection:
        query = "SELECT tier, count(*) FROM verdicts WHERE incident_id = ANY(%s) GROUP BY tier"
        tiers = dict(connection.execute(query, [[uuid.UUID(one) for one in ids]]).fetchall())
    assert tiers == {"model": 20, "reuse": 980}
    house.dismiss("worker")  # the next one is to have the usual deadline


# ---------------------------------------------------------------- the worker


def test_a_worker_that_is_told_to_stop_ends_its_job_first(house: House, model: StubModel) -> None:
    house.staff()
    model.control({"delay": 2})
    incident_id = house.post(evidence={"mount": "/srv/term", "disk_usage_percent": 95})
    until(lambda: model.calls, "the call is in flight")
    assert house.end("worker") == 0
    (found,) = house.settled([incident_id], seconds=1)
    assert found["verdict"]["tier"] == "model"


def test_an_idle_worker_that_is_told_to_stop_ends_at_once(house: House) -> None:
    house.staff()
    house.settled([house.post()])
    time.sleep(0.5)
    started = time.monotonic()
    assert house.end("worker") == 0
    assert time.monotonic() - started < 5


def test_a_worker_killed_in_the_middle_of_a_call_costs_time_and_nothing_else(house: House, model: StubModel) -> None:
    house.staff()
    model.control({"delay": 2})
    ids = [house.post(evidence={"mount": f"/srv/{name}", "disk_usage_percent": 95}) for name in ("kill", "murder")]
    until(lambda: model.calls == 2, "both calls are in flight")
    house.kill("worker")
    model.control({"delay": 0})
    house.staff()
    others = house.settled([house.post(evidence={"mount": "/srv/others"})])
    assert others[0]["verdict"], "who comes later does not wait for the lost ones"
    left = house.let_leases_end(ids)
    assert timedelta() < left < timedelta(seconds=90), "they are held for so long, and not much longer"
    found = house.settled(ids, sweep=True)
    assert [one["verdict"]["tier"] for one in found] == ["model", "model"]
    assert [len(one["verdicts"]) for one in found] == [1, 1]


# ---------------------------------------------------------------- Redis


def test_a_flushed_redis_loses_no_pending_work(house: House, redis_server: RedisServer) -> None:
    house.dismiss("worker")
    ids = [house.post() for _ in range(10)]
    redis_server.flushall()
    house.staff()
    house.settled(ids, sweep=True)


def test_a_flushed_redis_under_a_live_worker_does_not_matter(house: House, redis_server: RedisServer) -> None:
    house.settled([house.post()])
    redis_server.flushall()
    house.settled([house.post() for _ in range(5)], seconds=10)
    assert house.alive("worker")
    with redis_server.client() as client:
        until(lambda: client.scard("rq:workers:classify"), "the worker is on the list again, for doctor")


def test_a_redis_that_hangs_delays_no_post_and_loses_no_verdict(house: House, redis_server: RedisServer) -> None:
    slowest = 0.0
    with redis_server.paused():
        ids = []
        for _ in range(30):
            started = time.monotonic()
            ids.append(house.post())
            slowest = max(slowest, time.monotonic() - started)
    assert slowest < 1.5
    house.settled(ids, sweep=True)


def test_a_redis_killed_while_the_worker_is_busy_costs_the_worker_only(
    house: House, model: StubModel, redis_server: RedisServer
) -> None:
    house.staff()
    model.control({"delay": 2})
    incident_id = house.post(evidence={"mount": "/srv/redis", "disk_usage_percent": 95})
    until(lambda: model.calls, "the call is in flight")
    worker = house.processes["worker"]
    redis_server.kill()
    try:
        (found,) = house.settled([incident_id])
        assert found["verdict"]["tier"] == "model"
        assert ends(worker) != 0, "a supervisor must notice"
        while_away = house.post()
    finally:
        redis_server.start()
    house.staff()
    house.settled([while_away], sweep=True)


def test_without_redis_at_the_start_posts_are_kept_and_classified_when_it_comes(
    house: House, redis_server: RedisServer
) -> None:
    for name in ("web", "worker"):
        house.dismiss(name)
    redis_server.kill()
    try:
        house.start("web")
        house.staff()
        ids = [house.post() for _ in range(5)]
        assert set(house.states(ids).values()) == {"pending"}
    finally:
        redis_server.start()
    house.settled(ids, sweep=True)
    assert house.alive("worker")


def test_an_idle_worker_survives_an_absence_of_redis(house: House, redis_server: RedisServer) -> None:
    house.settled([house.post()], sweep=True)
    redis_server.kill()
    time.sleep(4)
    redis_server.start()
    house.settled([house.post()], seconds=20, sweep=True)
    assert house.alive("worker")


# ---------------------------------------------------------------- the database


def test_a_database_that_hangs_during_a_call_costs_the_verdict_time(
    house: House, model: StubModel, postgres_server: PostgresServer
) -> None:
    house.hire(model)
    model.control({"delay": 1})
    incident_id = house.post(evidence={"mount": "/srv/database", "disk_usage_percent": 95})
    until(lambda: model.calls, "the call is in flight")
    with postgres_server.paused():
        with pytest.raises(requests.Timeout):
            house.send(hostname="nobody", timeout=0.5)
        time.sleep(1)
    (found,) = house.settled([incident_id], sweep=True)
    assert [one["tier"] for one in found["verdicts"]] == ["model"]


def test_a_database_that_restarts_costs_neither_worker_nor_scheduler(
    house: House, postgres_server: PostgresServer
) -> None:
    (house.folder / "scheduler.log").unlink(missing_ok=True)
    house.start("scheduler")
    until(lambda: "prune.done" in house.log("scheduler"), "its first round")
    house.settled([house.post()], sweep=True)
    postgres_server.stop()
    try:
        answer = house.send(hostname="nobody")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    finally:
        postgres_server.start()
    house.settled([house.post()], sweep=True)
    assert house.alive("worker")
    assert house.end("scheduler") == 0
