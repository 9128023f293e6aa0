"""Two web hosts behind nginx and two worker hosts, each in a network namespace with a share of a processor.

As root on Linux, with nginx, wrk, PostgreSQL and Redis installed: `make bench-scaling`. It makes namespaces, a bridge
and control groups of its own (all called `or-...`), sends only to their addresses, and takes them away again.
docs/scaling.md has its figures and says what they show.
"""

import argparse
import ctypes
import itertools
import json
import os
import pwd
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import requests
from cryptography.fernet import Fernet
from redis import Redis as Client
from redis import RedisError

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import services  # noqa: E402
from bench import bodies, installation, load, verdicts  # noqa: E402
from cast import sign  # noqa: E402
from conftest import driver  # noqa: E402
from faults.scene import Found, Stage  # noqa: E402
from stack import Stack  # noqa: E402

LAN = "or-lan"
# Address and share of one processor.
HOSTS = {
    "proxy": ("10.77.0.10", 0.25),
    "web-1": ("10.77.0.11", 0.30),
    "web-2": ("10.77.0.12", 0.30),
    "worker-1": ("10.77.0.21", 0.20),
    "worker-2": ("10.77.0.22", 0.20),
    "database": ("10.77.0.31", 0.50),
    "redis": ("10.77.0.32", 0.10),
    "sender": ("10.77.0.41", 0.25),
}
GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD = 100_000  # microseconds
PASSWORD = "a password of this bench alone"  # nosec B105 # noqa: S105 - of servers that end with it
PORT = 8000
CLONE_NEWNET = 0x40000000
SETTLED = 10.0  # seconds in which nginx finds a host that is back


def run(*command: str) -> None:
    """A command that must not fail."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def on(host: str, *command: str, account: pwd.struct_passwd | None = None) -> list[str]:
    """The command as it is started on a host: in its control group, in its network, as this account."""
    into = 'echo $$ > "$1" && shift && exec "$@"'
    enter = ["nsenter", f"--net=/run/netns/or-{host}"]
    enter += [f"--setuid={account.pw_uid}", f"--setgid={account.pw_gid}"] if account else []
    return ["sh", "-c", into, "sh", str(GROUPS / f"or-{host}" / "tasks"), *enter, *command]


# ---------------------------------------------------------------- the hosts


@contextmanager
def lan() -> Iterator[None]:
    """All hosts on one bridge, which is in a namespace too; this thread is on the sender from here on."""
    with ExitStack() as kept:
        for name in (LAN, *(f"or-{host}" for host in HOSTS)):
            run("ip", "netns", "add", name)
            kept.callback(run, "ip", "netns", "delete", name)
        run("ip", "-n", LAN, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", LAN, "link", "set", "bridge", "up")
        for host, (address, share) in HOSTS.items():
            run("ip", "-n", LAN, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", f"or-{host}")
            run("ip", "-n", LAN, "link", "set", host, "master", "bridge", "up")
            run("ip", "-n", f"or-{host}", "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", f"or-{host}", "link", "set", device, "up")
            group = GROUPS / f"or-{host}"
            group.mkdir()
            kept.callback(_remove, group)
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD * share)))
        before = os.open("/proc/self/ns/net", os.O_RDONLY)
        kept.callback(os.close, before)
        kept.callback(_enter, before)
        sender = os.open("/run/netns/or-sender", os.O_RDONLY)
        _enter(sender)
        os.close(sender)
        yield


def _enter(network: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _remove(group: Path) -> None:
    for _ in range(50):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
    print(f"still there: {group}", file=sys.stderr)


class Database(services.PostgresServer):
    """On its own host, which only a password opens."""

    def identity(self) -> dict[str, Any]:
        return {}  # nsenter changes the account, after it has changed the network

    def initialise(self) -> None:
        shutil.chown(self.folder, self.user)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        shutil.chown(secret, self.user)
        command = [str(self.programs / "initdb"), "--pgdata", "data", "--auth", "scram-sha-256", "--encoding", "UTF8"]
        command += ["--no-locale", "--no-sync", "--username", self.user, "--pwfile", str(secret)]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, **super().identity())
        with (self.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 scram-sha-256\n")

    def command(self) -> list[str]:
        words = super().command()
        words[words.index("listen_addresses=127.0.0.1")] = f"listen_addresses={HOSTS['database'][0]}"
        return on("database", *words, account=pwd.getpwnam(self.user))

    def url_of(self, database: str) -> str:
        secret = PASSWORD.replace(" ", "%20")
        return f"postgresql://{self.user}:{secret}@{HOSTS['database'][0]}:{self.port}/{database}"


class Redis(services.RedisServer):
    """On its own host."""

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD.replace(' ', '%20')}@{HOSTS['redis'][0]}:{self.port}/0"

    def command(self) -> list[str]:
        words = super().command()
        words[words.index("127.0.0.1")] = HOSTS["redis"][0]
        return on("redis", *words, "--requirepass", PASSWORD)

    def answers(self) -> bool:
        with suppress(RedisError), Client.from_url(self.url, socket_timeout=2) as client:
            return bool(client.ping())
        return False


class Proxy(services.Server):
    """nginx with the file that is deployed."""

    stop_signal = signal.SIGQUIT

    def command(self) -> list[str]:
        text = (ROOT / "deploy/nginx.conf").read_text()
        webs = [f"{HOSTS[name][0]}:8000" for name in ("web-1", "web-2")]
        (self.folder / "nginx.conf").write_text(services.before_hosts(text, webs, "80"))
        return on("proxy", "nginx", "-p", str(self.folder), "-c", "nginx.conf", "-g", services.IN_ITS_FOLDER)

    def answers(self) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"http://{HOSTS['proxy'][0]}/healthz", timeout=5).status_code > 0
        return False


class Hosts(Stack):
    """Its processes are each on the host of their name."""

    start_wait = 90.0  # seconds; a host has a third of a processor

    def _answers(self, name: str) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"http://{HOSTS[name][0]}:{PORT}/healthz", timeout=2).ok
        return False

    def _command(self, name: str) -> list[str]:
        command = super()._command(name)
        if name.startswith("web"):
            command[command.index("--bind") + 1] = f"{HOSTS[name][0]}:{PORT}"
        return on({"scheduler": "worker-1"}.get(name, name), *command)


class Arrangement(Stage):
    """All of it, as its users see it through the proxy."""

    def __init__(self, folder: Path, database: str, redis: str) -> None:
        super().__init__(f"http://{HOSTS['proxy'][0]}")
        self.database = database
        self.redis = redis
        self.hosts = Hosts(folder, driver(database), redis, Fernet.generate_key().decode())
        self.hosts.url = self.url
        self.hosts.environment |= {
            "OPENREMEDY_PROXY_COUNT": "1",
            "OPENREMEDY_RATE_LIMIT": "100000000",
            "OPENREMEDY_SOURCE_RATE_LIMIT": "100000000",
            "OPENREMEDY_PUBLIC_URL": self.url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """An administrator's machine has the settings of the others."""
        return self.hosts.environment

    def command(self, *words: str) -> None:
        """One that prints no JSON."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *words]
        subprocess.run(command, cwd=ROOT, env=self.hosts.environment, check=True, capture_output=True)

    def whole(self) -> None:
        self.staff(web=2, workers=2)

    def signal(self, number: signal.Signals, names: list[str]) -> None:
        """To these processes and whatever they have started."""
        for name in names:
            os.killpg(self.hosts.processes[name].pid, number)

    def staff(self, web: int, workers: int) -> None:
        """So many hosts of each kind run."""
        wanted = [f"web-{number + 1}" for number in range(web)] + [f"worker-{number + 1}" for number in range(workers)]
        running = [name for name, one in self.hosts.processes.items() if one.poll() is None]
        for name in running:
            if name not in wanted and name != "scheduler":
                self.hosts.kill(name)
        missing = [name for name in (*wanted, "scheduler") if name not in running]
        for name in missing:
            self.hosts.processes.pop(name, None)
            self.hosts.start(name)
        if missing:
            time.sleep(SETTLED)


# ---------------------------------------------------------------- what is measured


def posts(one: Arrangement, folder: Path, web: int, seconds: float) -> float:
    """Accepted canonical posts a second with so many web hosts."""
    one.staff(web=web, workers=0)
    alice = one.tenants[0]
    path = f"/api/v1/webhooks/alerts/{alice.slug}"

    def request(number: int) -> bytes:
        raw = bodies.canonical(number)
        return load.raw_request(path, raw, {"X-OpenRemedy-Signature": sign(alice.secret, raw)})

    file = folder / "requests"
    for length in (2.0, seconds):  # the first warms up
        load.prepare(file, (request(next(NUMBERS)) for _ in range(int(1500 * length))))
        found = load.as_fast_as_possible(one.url, file, length)
    return found.rate


NUMBERS = itertools.count(1)


def decided(one: Arrangement, workers: int, incidents: int) -> float:
    """Verdicts a second by words alone with so many worker hosts, which stand still until all incidents wait."""
    one.staff(web=1, workers=0)
    slug = f"tenant-{next(NUMBERS)}"  # of its own: what says the same takes over what another was told
    one.hosts.flask("tenant", "create", slug)
    one.hosts.flask("recipe", "import", slug, "config/recipes.yaml")
    token = one.hosts.flask("source", "add", slug, "alertmanager")["token"]
    with Client.from_url(one.redis) as redis:
        redis.flushall()  # it remembers workers that were killed
        one.staff(web=1, workers=workers)
        services.until(lambda: redis.scard("rq:workers") == workers, "the workers wait for a job", 60)
    names = [f"worker-{number + 1}" for number in range(workers)]
    one.signal(signal.SIGSTOP, names)
    entries = verdicts.alerts(incidents)
    for start in range(0, incidents, installation.BODY):
        answer = requests.post(
            f"{one.url}/api/v1/webhooks/alertmanager/{slug}",
            json=installation.notification(entries[start : start + installation.BODY]),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        answer.raise_for_status()
    began = time.time()
    one.signal(signal.SIGCONT, names)
    query = """SELECT count(*), extract(epoch FROM max(v.created_at))::float8
        FROM verdicts v JOIN tenants t ON t.id = v.tenant_id WHERE t.slug = %s"""
    with psycopg.connect(one.database, autocommit=True) as database:

        def found() -> tuple[int, float]:
            return database.execute(query, [slug]).fetchone() or (0, 0.0)

        services.until(lambda: time.sleep(0.5) or found()[0] >= incidents, "all verdicts", 300)
        count, last = found()
    return count / (last - began)


def lost_host(name: str) -> Any:
    """A host that is gone, as when its power is cut."""

    def breaks(one: Arrangement) -> None:
        one.hosts.kill(name)
        time.sleep(8)

    return breaks


@contextmanager
def arranged(folder: Path) -> Iterator[Arrangement]:
    """The hosts with their programs, and two tenants."""
    programs = services.postgres_programs() or services.missing("PostgreSQL", "apt-get install postgresql")
    redis_server = shutil.which("redis-server") or services.missing("redis-server", "apt-get install redis-server")
    with (
        lan(),
        services.own_folder("pg") as pg,
        services.running(lambda there: Redis(there, redis_server)) as redis,
    ):
        database = Database(pg, programs, durable=True)
        database.initialise()
        with services.started(database):
            one = Arrangement(folder, database.create_database("openremedy"), redis.url)
            try:
                one.command("db", "upgrade")
                one.furnish()
                one.staff(web=1, workers=0)
                with services.running(Proxy):
                    yield one
            finally:
                one.hosts.stop()


def main() -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--incidents", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path("bench-scaling.json"))
    options = parser.parse_args()
    if os.geteuid() != 0 or not GROUPS.exists():
        sys.exit("This needs root, and control groups of the first version under /sys/fs/cgroup/cpu.")
    if gone := [name for name in ("ip", "nsenter", "nginx", "wrk") if not shutil.which(name)]:
        sys.exit(f"{', '.join(gone)} is missing.")
    before = os.getloadavg()[0]
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="openremedy-scaling-") as name, arranged(Path(name)) as one:
        for number in range(options.rounds):
            for hosts in (1, 2):
                rates.setdefault(f"posts, {hosts} web", []).append(posts(one, Path(name), hosts, options.seconds))
                rates.setdefault(f"verdicts, {hosts} workers", []).append(decided(one, hosts, options.incidents))
                print(number, hosts, {what: round(values[-1]) for what, values in rates.items()}, flush=True)
        lost = [
            one.round(f"{host} is gone", lost_host(host), may_refuse=host.startswith("web"))
            for host in ("web-1", "worker-1")
        ]
    for each in lost:
        each.undocumented.pop(
            "502", None
        )  # nginx's, where a host went with a request in its hands; its sender tries again
    _tell(rates, lost, before)
    found = {"rates": rates, "lost": [asdict(each) for each in lost], "load_average": [before, os.getloadavg()[0]]}
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(each.holds for each in lost) else 1


def _tell(rates: dict[str, list[float]], lost: list[Found], before: float) -> None:
    for what, values in sorted(rates.items()):
        print(f"{what:24} {statistics.median(values):7.0f} ({min(values):.0f} to {max(values):.0f}) a second")
    for each in lost:
        print(
            f"{each.fault}: {each.sent} sent, {each.accepted} accepted, {each.refused} tries refused, "
            f"{len(each.lost)} lost, {len(each.doubled)} doubled, all decided after {each.recovered_after:.0f} s; "
            f"{each.answers}"
        )
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    sys.exit(main())
