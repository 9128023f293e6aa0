"""The candidates, each under the same gunicorn with the same settings, on the same PostgreSQL and Redis."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import flask_migrate
import requests
from cryptography.fernet import Fernet

import services
from conftest import driver, make_settings
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.tether import die_with_parent
from stack import Stack

ROOT = Path(__file__).parent.parent
ALERTA = ROOT / ".venv/alerta/bin/python"
SOURCE_LIMIT = "100000000"  # far above any load: every limit runs and none refuses


@dataclass
class Candidate:
    """One program behind gunicorn: where it listens, and its processes."""

    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class OpenRemedy:
    """An installation of ours: its processes, and the URL of its database."""

    stack: Stack
    database: str
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """Its web process."""
        return Candidate("openremedy", self.stack.port, self.stack.processes["web"].pid)


class Machine:
    """PostgreSQL and Redis for all of them, and what was started on these; all of it ends with the `with`."""

    def __init__(self, folder: Path, postgres: services.PostgresServer, redis: services.RedisServer) -> None:
        self.folder = folder
        self.postgres = postgres
        self.redis = redis
        self._kept = ExitStack()

    def bare(self) -> Candidate:
        """The bare Flask POST."""
        return self._gunicorn("bare", sys.executable, "bench.bare:app", {})

    def alerta(self) -> Candidate:
        """Alerta with its schema made before its workers race for it."""
        environment = {"DATABASE_URL": self.postgres.create_database("alerta"), "SECRET_KEY": "x" * 40}
        make = [str(ALERTA), "-c", "import bench.alerta"]
        subprocess.run(make, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
        return self._gunicorn("alerta", str(ALERTA), "bench.alerta:app", environment)

    def openremedy(self, name: str = "openremedy", **environment: str) -> OpenRemedy:
        """Ours, with one tenant, its recipes and a source of Alertmanager; only the web process is started."""
        url = self.postgres.create_database(name)
        folder = self.folder / name
        folder.mkdir()
        app = create_app(make_settings(folder, driver(url)))
        with app.app_context():
            flask_migrate.upgrade(str(ROOT / "migrations"))
            db.engine.dispose()
        stack = Stack(folder, url, self.redis.url, Fernet.generate_key().decode())
        self._kept.callback(stack.stop)
        limits = dict.fromkeys(("OPENREMEDY_RATE_LIMIT", "OPENREMEDY_SOURCE_RATE_LIMIT"), SOURCE_LIMIT)
        stack.environment |= limits | environment
        (source,) = stack.create_tenant("alertmanager")
        stack.start("web")
        return OpenRemedy(stack, url, {"alertmanager": source["token"]})

    def _gunicorn(self, name: str, python: str, app: str, environment: dict[str, str]) -> Candidate:
        port = services.free_port()
        # Loaded once, before the first answer: a worker of Alerta changes the schema as it begins, and dies, and all of
        # gunicorn with it, where the other answers meanwhile (PostgreSQL finds a deadlock).
        command = [python, "-m", "gunicorn", "--config", "bench/gunicorn.conf.py", "--preload"]
        command += ["--bind", f"127.0.0.1:{port}", app]
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        log.close()
        self._kept.callback(process.wait, 30)
        self._kept.callback(process.terminate)
        services.until(lambda: _answers(f"http://127.0.0.1:{port}/"), f"{name} answers, see {log.name}")
        return Candidate(name, port, process.pid)

    def close(self) -> None:
        """End what was started here."""
        self._kept.close()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Start PostgreSQL (that waits for its disk, as in production) and Redis."""
    with services.postgres(durable=True) as postgres, services.redis() as redis:
        one = Machine(folder, postgres, redis)
        try:
            yield one
        finally:
            one.close()


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that these processes and their children have used so far."""
    ticks = 0
    for pid in pids:
        for one in [pid, *services.children(pid)]:
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended since; its parent counts it, below
            ticks += sum(map(int, fields[11:15] if one == pid else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
