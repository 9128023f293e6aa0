"""The faults: each breaks one thing of a scene for some seconds and mends it; what it returns is a remark on it.

A function ends with the fault. What it leaves dead is started again by the scene, as a supervisor would.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import requests
from redis import Redis

import services
from cast import sign
from faults import attacks
from faults.scene import WAITING, WORKERS, Embedded, Scene, Stage
from stack import ROOT

HELD = 5.0  # seconds that most faults last


@dataclass(frozen=True)
class Fault:
    """`may_refuse`: whether a 503 or a broken connection is excused; `short`: whether it is part of the short form."""

    name: str
    stage: str
    breaks: Callable[[Any], list[str] | None]
    may_refuse: bool
    short: bool


FAULTS: list[Fault] = []


def fault(
    name: str, *, stage: str = "PostgreSQL", may_refuse: bool = False, short: bool = False
) -> Callable[[Callable[[Any], list[str] | None]], None]:
    """Put a function into the catalogue."""
    return lambda breaks: FAULTS.append(Fault(name, stage, breaks, may_refuse, short))


@fault("none")
def _none(_stage: Stage) -> None:
    time.sleep(HELD)


# ---------------------------------------------------------------- PostgreSQL


@fault("database stopped", may_refuse=True)
def _database_stopped(scene: Scene) -> None:
    scene.postgres.stop()
    time.sleep(HELD)
    scene.postgres.start()


@fault("database killed (-9)", may_refuse=True)
def _database_killed(scene: Scene) -> None:
    _kill_all(scene.postgres)
    scene.postgres.start()


def _kill_all(server: services.Server) -> None:
    """A crash of the machine it runs on: the server and what it has started, at once."""
    family = [server.pid, *services.children(server.pid)]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.kill()


@fault("database hung", may_refuse=True, short=True)
def _database_hung(scene: Scene) -> None:
    with scene.postgres.paused():
        time.sleep(HELD)


@fault("database restarted", may_refuse=True)
def _database_restarted(scene: Scene) -> None:
    scene.postgres.stop()
    scene.postgres.start()


@fault("a backend of the database killed (-9)", may_refuse=True)
def _backend_killed(scene: Scene) -> None:
    with _inside(scene) as database:
        (pid,) = database.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
        ).fetchone() or (0,)
    os.kill(pid, signal.SIGKILL)
    time.sleep(HELD)


# Whoever else is connected, but for those that only take places.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND application_name <> 'hog'
"""


@fault("all sessions of the database ended, again and again", may_refuse=True)
def _sessions_ended(scene: Scene) -> None:
    with _inside(scene) as database:
        for _ in range(10):
            database.execute(_END_SESSIONS)
            time.sleep(0.5)


@fault("database out of connections", may_refuse=True)
def _out_of_connections(scene: Scene) -> None:
    """The sessions of ours end, and others take their places before they are back."""
    with contextlib.ExitStack() as held:
        ending = held.enter_context(_inside(scene))
        until_full = time.monotonic() + HELD
        while time.monotonic() < until_full:
            ending.execute(_END_SESSIONS)
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    own = psycopg.connect(scene.database, connect_timeout=2, application_name="hog")
                    held.callback(own.close)


@fault("database read-only", may_refuse=True)
def _read_only(scene: Scene) -> None:
    with _inside(scene) as database:
        database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        database.execute("SELECT pg_reload_conf()")
        time.sleep(HELD)
        database.execute("SET default_transaction_read_only = off")
        database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        database.execute("SELECT pg_reload_conf()")


@fault("the table of incidents locked for longer than a lock is waited for", may_refuse=True)
def _table_locked(scene: Scene) -> None:
    with psycopg.connect(scene.database) as database:
        database.execute("LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE")
        time.sleep(8)


@contextlib.contextmanager
def _inside(scene: Scene) -> Iterator[psycopg.Connection[tuple[int]]]:
    """As the administrator of the database."""
    with psycopg.connect(scene.database, autocommit=True) as database:
        yield database


# ---------------------------------------------------------------- Redis


@fault("Redis stopped")
def _redis_stopped(scene: Scene) -> None:
    scene.redis.stop()
    time.sleep(HELD)
    scene.redis.start()


@fault("Redis hung", short=True)
def _redis_hung(scene: Scene) -> None:
    with scene.redis.paused():
        time.sleep(HELD)


@fault("Redis flushed, again and again", short=True)
def _redis_flushed(scene: Scene) -> None:
    for _ in range(10):
        scene.redis.flushall()
        time.sleep(0.5)


@fault("Redis full, noeviction")
def _redis_full(scene: Scene) -> None:
    with scene.redis.client() as redis:
        redis.config_set("maxmemory", 1)
        time.sleep(HELD)
        redis.config_set("maxmemory", 0)


@fault("Redis killed (-9) with its file")
def _redis_killed(scene: Scene) -> None:
    scene.redis.kill()
    scene.redis.start()
    time.sleep(HELD / 2)


@fault("Redis killed (-9), nothing of it persisted")
def _redis_gone(scene: Scene) -> None:
    scene.redis.kill()
    subprocess.run(["rm", "-rf", str(scene.redis.folder / "appendonlydir")], check=True)
    scene.redis.start()
    time.sleep(HELD / 2)


@fault("Redis read-only, a replica of nothing")
def _redis_replica(scene: Scene) -> None:
    with scene.redis.client() as redis:
        redis.execute_command("REPLICAOF", "127.0.0.1", services.free_port())
        time.sleep(HELD)
        redis.execute_command("REPLICAOF", "NO", "ONE")


@fault("Redis wants a password that nobody has")
def _redis_closed(scene: Scene) -> None:
    with scene.redis.client() as redis:
        redis.config_set("requirepass", "another")
        redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(HELD)
    with Redis(port=scene.redis.port, password="another") as redis:
        redis.config_set("requirepass", "")


@fault("all clients of Redis cut off, again and again")
def _redis_clients(scene: Scene) -> None:
    with scene.redis.client() as redis:
        for _ in range(10):
            for kind in ("normal", "pubsub"):
                redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            time.sleep(0.5)


# ---------------------------------------------------------------- workers and scheduler


@fault("a worker killed (-9)", short=True)
def _worker_killed(scene: Scene) -> None:
    scene.stack.kill(WORKERS[0])
    time.sleep(HELD)


@fault("all workers killed (-9) at once")
def _workers_killed(scene: Scene) -> None:
    for name in WORKERS:
        scene.stack.kill(name)
    time.sleep(HELD)


@fault("a worker killed (-9) in the middle of a call, one after another")
def _workers_killed_in_calls(scene: Scene) -> None:
    scene.model.control({"delay": 2})
    for name in WORKERS:
        time.sleep(HELD / 2)
        scene.stack.kill(name)
        scene.revive(name)


@fault("a worker told to stop (TERM)")
def _worker_term(scene: Scene) -> list[str]:
    code = scene.stack.end(WORKERS[0])
    return [] if code == 0 else [f"it ended with {code}"]


@fault("a worker told to stop twice (TERM, TERM)")
def _worker_term_twice(scene: Scene) -> None:
    scene.model.control({"delay": 2})
    time.sleep(2)
    process = scene.stack.processes.pop(WORKERS[0])
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    process.wait(timeout=60)


@fault("a worker frozen until its leases are over, then awake again")
def _worker_frozen(scene: Scene) -> None:
    scene.model.control({"delay": 1})
    time.sleep(1)
    pid = scene.stack.processes[WORKERS[0]].pid
    os.killpg(pid, signal.SIGSTOP)
    try:
        time.sleep(45)
    finally:
        os.killpg(pid, signal.SIGCONT)


@fault("no worker for a while")
def _no_worker(scene: Scene) -> None:
    for name in WORKERS:
        scene.stack.end(name)
    time.sleep(HELD)


POISON = "an alert that kills"
POISONED_FOR = 400  # seconds; three attempts, each with its lease and its sweep


@fault("an incident that kills every worker that asks the model about it")
def _poison(scene: Scene) -> list[str]:
    """Whoever holds it dies with whatever else it holds; the others' must not share its end."""
    alice = scene.tenants[0]
    body = {"hostname": "poison-01", "incident_type": "custom", "evidence": {"summary": POISON}}
    raw = json.dumps(body).encode()
    headers = {"X-OpenRemedy-Signature": sign(alice.secret, raw), "Content-Type": "application/json"}
    scene.model.control({"delay": 1, "reset": True})
    answer = requests.post(f"{scene.url}/api/v1/webhooks/alerts/{alice.slug}", raw, headers=headers, timeout=30)
    asked = 0
    deadline = time.monotonic() + POISONED_FOR
    while (found := _read(scene, answer.json()["incident_id"]))["classification"] in WAITING:
        if time.monotonic() > deadline:
            return [f"it still waits after {asked} workers died of it"]
        if sum(POISON in json.dumps(one) for one in scene.model.requests) > asked:
            asked += 1
            for name in WORKERS:
                scene.stack.kill(name)
                scene.revive(name)
        time.sleep(0.2)
    return [] if asked > 1 else [f"it killed nobody and is {found['classification']}"]


def _read(scene: Scene, incident_id: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {scene.tenants[0].token}"}
    answer = requests.get(f"{scene.url}/api/v1/incidents/{incident_id}", headers=headers, timeout=30)
    found: dict[str, Any] = answer.json()
    return found


@fault("scheduler killed (-9)")
def _scheduler_killed(scene: Scene) -> None:
    scene.stack.kill("scheduler")
    time.sleep(HELD)


@fault("two more schedulers, and Redis flushed under them")
def _two_sweepers(scene: Scene) -> None:
    names = ("scheduler-2", "scheduler-3")
    scene.stack.start(*names)
    try:
        for _ in range(10):
            scene.redis.flushall()
            time.sleep(0.5)
        time.sleep(HELD)
    finally:
        for name in names:
            scene.stack.end(name)


# ---------------------------------------------------------------- web


@fault("a web process killed (-9)", may_refuse=True, short=True)
def _web_killed(scene: Scene) -> None:
    for _ in range(3):
        os.kill(_web_processes(scene)[0], signal.SIGKILL)
        time.sleep(HELD / 3)


@fault("all web processes killed (-9) at once", may_refuse=True)
def _all_web_killed(scene: Scene) -> None:
    for pid in _web_processes(scene):
        os.kill(pid, signal.SIGKILL)
    time.sleep(HELD)


@fault("gunicorn's master killed (-9)", may_refuse=True)
def _master_killed(scene: Scene) -> None:
    scene.stack.kill("web")
    time.sleep(1)
    scene.stack.start("web")


@fault("the web told to stop under load (TERM) and started again", may_refuse=True)
def _web_term(scene: Scene) -> list[str]:
    code = scene.stack.end("web")
    scene.stack.start("web")
    return [] if code == 0 else [f"it ended with {code}"]


@fault("the web told to load itself anew (HUP), again and again", may_refuse=True)
def _web_hup(scene: Scene) -> None:
    for _ in range(3):
        scene.stack.processes["web"].send_signal(signal.SIGHUP)
        time.sleep(HELD / 2)


@fault("a web process frozen until gunicorn replaces it", may_refuse=True)
def _web_frozen(scene: Scene) -> None:
    os.kill(_web_processes(scene)[0], signal.SIGSTOP)
    time.sleep(40)


def _web_processes(scene: Scene) -> list[int]:
    found: list[int] = services.until(lambda: services.children(scene.stack.processes["web"].pid), "web processes")
    return found


# ---------------------------------------------------------------- the model


def _misbehaves(behaviour: str, held: float = HELD) -> Callable[[Scene], None]:
    def breaks(scene: Scene) -> None:
        scene.model.control({"behaviour": behaviour})
        time.sleep(held)

    return breaks


for _name, _behaviour in {
    "the model says 429": "429",
    "the model says 500": "500",
    "the model hangs": "hang",
    "the model answers a byte at a time": "drip",
    "the model's answer is cut off": "truncated",
    "the model's answer has ten megabytes": "10mb",
    "the model's answer is a compressed bomb": "bomb",
    "the model's address is a web page": "html200",
    "the model sends us elsewhere": "redirect",
    "the model talks nonsense": "garbage",
    "the model names a recipe that nobody has": "unknown-recipe",
    "the model cites what is not there": "fabricated-citation",
    "the model obeys whatever the alert says": "obeys-injection",
    "the model refuses": "refusal",
    "the model's key is not good any more": "401",
}.items():
    fault(_name, short=_behaviour == "hang")(_misbehaves(_behaviour))


# ---------------------------------------------------------------- people, clocks and disks


@fault("a webhook secret replaced in full flight", short=True)
def _secret_replaced(scene: Scene) -> None:
    """The old one is good for a while; who has got the new one uses it."""
    for tenant in scene.tenants:
        time.sleep(HELD / 3)
        tenant.secret = scene.stack.flask("tenant", "rotate-secret", tenant.slug, "--grace", "1")["webhook_secret"]
    time.sleep(HELD / 3)


@fault("what is logged has no room on the disk", may_refuse=True)
def _log_disk_full(scene: Scene) -> None:
    log = scene.folder / "web.log"
    log.rename(scene.folder / "web-before.log")
    log.symlink_to("/dev/full")
    try:
        scene.restart("web")
        time.sleep(HELD)
    finally:
        log.unlink()
    scene.restart("web")


@fault("the clock of the web an hour ahead, then an hour behind", stage="clocks", may_refuse=True)
def _clock_jumps(scene: Scene) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if not library:
        services.missing("faketime", "apt-get install faketime")
    before = dict(scene.stack.environment)
    try:
        for jump in ("+1h", "-1h"):
            clock = {"LD_PRELOAD": str(library), "FAKETIME": jump}
            scene.stack.environment |= clock
            scene.restart("web")
            time.sleep(HELD)
    finally:
        scene.stack.environment = before
        scene.restart("web")


@fault("the schema a step back and forward again, the web loaded anew", may_refuse=True)
def _migrated(scene: Scene) -> None:
    scene.command("db", "downgrade")
    time.sleep(1)
    scene.command("db", "upgrade")
    scene.stack.processes["web"].send_signal(signal.SIGHUP)
    time.sleep(HELD / 2)


@fault("the database fails over to its standby", may_refuse=True)
def _failed_over(scene: Scene) -> None:
    """Last of its stage: the standby is the database from here on."""
    first = scene.postgres
    assert first
    standby = first.standby(scene.kept.enter_context(services.own_folder("standby")), scene.standby_port)
    scene.kept.callback(standby.stop)
    time.sleep(HELD)
    _kill_all(first)
    scene.postgres, scene.database = standby, standby.url_of("openremedy")
    standby.promote()
    time.sleep(HELD)


@fault("the database's disk full", stage="a small disk", may_refuse=True)
def _disk_full(scene: Scene) -> None:
    assert scene.postgres
    filler = scene.postgres.folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        time.sleep(3 * HELD)
    finally:
        filler.unlink()


# ---------------------------------------------------------------- behind the documented proxy


@fault("nginx: none", stage="nginx")
def _none_behind_nginx(_scene: Scene) -> None:
    time.sleep(HELD)


@fault("nginx: 5,000 connections that say nothing", stage="nginx")
def _idle_connections(scene: Scene) -> None:
    with attacks.idle(scene.url, 5_000):
        time.sleep(3 * HELD)


@fault("nginx: 500 senders of a byte a second", stage="nginx", short=True)
def _slow_senders(scene: Scene) -> None:
    attacks.dribble(scene.url, 500, 3 * HELD)


@fault("nginx: a flood of headers", stage="nginx")
def _flood_of_headers(scene: Scene) -> list[str]:
    return attacks.flood(scene.url, attacks.headers(), 2 * HELD, 400, 401, 414, 431)


@fault("nginx: a flood of bodies, of known and of unknown length", stage="nginx")
def _flood_of_bodies(scene: Scene) -> list[str]:
    return attacks.flood(scene.url, attacks.bodies(), 2 * HELD, 413)


@fault("nginx: a flood of compressed bombs, rightly signed", stage="nginx")
def _flood_of_bombs(scene: Scene) -> list[str]:
    return attacks.flood(scene.url, attacks.bombs(scene.tenants[0]), 2 * HELD, 415)


@fault("nginx: a flood of bodies that no parser likes, rightly signed", stage="nginx")
def _flood_of_nonsense(scene: Scene) -> list[str]:
    return attacks.flood(scene.url, attacks.nonsense(scene.tenants[0]), 2 * HELD, 400, 422)


@fault("nginx: a flood of wrong signatures", stage="nginx")
def _flood_of_signatures(scene: Scene) -> list[str]:
    return attacks.flood(scene.url, attacks.forged(scene.tenants[0]), 2 * HELD, 401)


@fault("nginx: one of two webs killed (-9)", stage="nginx", may_refuse=True)
def _one_web_killed(scene: Scene) -> None:
    scene.stack.kill("web-2")
    time.sleep(HELD)


@fault("nginx: one of two webs frozen", stage="nginx", may_refuse=True)
def _one_web_hung(scene: Scene) -> None:
    pid = scene.stack.processes["web-2"].pid
    os.killpg(pid, signal.SIGSTOP)
    try:
        time.sleep(3 * HELD)
    finally:
        os.killpg(pid, signal.SIGCONT)


@fault("nginx: a new migration, then webs, workers and scheduler one after another", stage="nginx", may_refuse=True)
def _rolling_restart(scene: Scene) -> list[str]:
    """As the release notes say: the schema first, then one process at a time in good order."""
    with tempfile.TemporaryDirectory() as name:
        migrations = Path(name) / "migrations"
        shutil.copytree(ROOT / "migrations", migrations)
        newest = sorted(migrations.glob("versions/0*.py"))[-1].name.split("_")[0]
        (migrations / "versions/9999_next.py").write_text(NEXT_MIGRATION.format(newest))
        scene.command("db", "upgrade", "--directory", str(migrations))
        codes = {}
        for process in scene.names:
            codes[process] = scene.stack.end(process)
            scene.stack.start(process)
            time.sleep(1)
        scene.command("db", "downgrade", "--directory", str(migrations))
    return [f"{process} ended with {code}" for process, code in codes.items() if code]


# What the next release might do: the present code serves while it runs and after it.
NEXT_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{0}"


def upgrade():
    op.execute("SET lock_timeout = '5s'")
    op.add_column("incidents", sa.Column("of_the_next_release", sa.Text()))
    op.add_column("deliveries", sa.Column("of_the_next_release", sa.Integer(), server_default="1", nullable=False))


def downgrade():
    op.execute("SET lock_timeout = '5s'")
    op.drop_column("incidents", "of_the_next_release")
    op.drop_column("deliveries", "of_the_next_release")
"""


# ---------------------------------------------------------------- SQLite


@fault("SQLite: none", stage="SQLite")
def _none_on_sqlite(_scene: Scene) -> None:
    time.sleep(HELD)


@fault("SQLite: a web process killed (-9)", stage="SQLite", may_refuse=True)
def _web_killed_on_sqlite(scene: Scene) -> None:
    for _ in range(3):
        os.kill(_web_processes(scene)[0], signal.SIGKILL)
        time.sleep(HELD / 3)


@fault("SQLite: everything killed (-9) at once", stage="SQLite", may_refuse=True)
def _all_killed_on_sqlite(scene: Scene) -> None:
    for name in list(scene.stack.processes):
        scene.stack.kill(name)
    scene.redis.kill()


@fault("SQLite: another writer holds the file for 15 seconds", stage="SQLite", may_refuse=True)
def _file_locked(scene: Scene) -> None:
    with contextlib.closing(sqlite3.connect(scene.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(15)
        other.execute("ROLLBACK")


# ---------------------------------------------------------------- make run


def _crashes(program: str) -> Callable[[Embedded], None]:
    def breaks(stage: Embedded) -> None:
        stage.launcher.crash(program)
        time.sleep(1)

    return breaks


for _program in ("web", "worker", "scheduler", "redis"):
    fault(f"make run: its {_program} killed (-9)", stage="make run", may_refuse=_program == "web")(_crashes(_program))
