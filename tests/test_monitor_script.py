"""The monitor of a host, scripts/openremedy-monitor.sh: run as cron runs it, against the real service.

Its PATH is a folder with the programs it may use and no others, and with stand-ins for what a test cannot really have:
a full disk, a stopped service. `sleep` only writes down for how long.
"""

import contextlib
import fcntl
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cast import sign
from services import RedisServer, free_port, missing
from stack import Stack

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "openremedy-monitor.sh"
DOCS = ROOT / "docs" / "monitor.md"
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (INFO|WARN|ERROR) \S.*")
ADVICE = "apt-get install"

# Beside curl and openssl only what every Linux has. df, ss, systemctl, nproc and sleep have stand-ins.
PROGRAMS = (
    "bash curl openssl cat cksum find flock hostname mkdir mv nice od rm sort stat stdbuf timeout tr uname".split()
)
DF = "Type Used Avail Use% IUse% Mounted on\n"
SECRET = "It's a Secret to Everybody"


class Host:
    """A machine of the test's own: what its monitor may call, and what it sees."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.bin, self.proc, self.state = folder / "bin", folder / "proc", folder / "state"
        self.bin.mkdir(parents=True)
        (self.proc / "net").mkdir(parents=True)
        for program in PROGRAMS:
            found = shutil.which(program) or missing(program, f"the monitor script; {ADVICE} {program}")
            (self.bin / program).symlink_to(found)
        self.fake("df", f'cat "{folder}/df"; exit "$(cat "{folder}/df.exit")"')
        self.fake("ss", f'cat "{folder}/ss"')
        self.fake("nproc", "echo 4")
        self.fake("sleep", f'echo "$1" >>"{folder}/sleeps"')
        self.fake("systemctl", f'eval "name=\\${{$#}}"; cat "{folder}/units/$1/$name"; test ! -e "{folder}/down/$name"')
        for kind in ("units/is-active", "units/show", "down"):
            (folder / kind).mkdir(parents=True)
        self.environment = {
            "PATH": str(self.bin),
            "OREMEDY_URL": "http://127.0.0.1:1",
            "OREMEDY_TENANT": "alice",
            "OREMEDY_SECRET": SECRET,
            "OREMEDY_HOSTNAME": name,
            "OREMEDY_STATE_DIR": str(self.state),
            "OREMEDY_PROC": str(self.proc),
        }
        self.disks("ext4 100 900 10% 1% /")
        self.mounts("/dev/sda1 / ext4 rw 0 0")
        self.load("0.10")
        self.memory(available=7000000)
        self.listen()

    def fake(self, program: str, script: str) -> None:
        """A stand-in for a program."""
        file = self.bin / program
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def disks(self, *rows: str | bytes, exit_code: int = 0, head: str = DF) -> None:
        """What df prints."""
        lines = [row if isinstance(row, bytes) else row.encode() for row in rows]
        (self.folder / "df").write_bytes(head.encode() + b"".join(line + b"\n" for line in lines))
        (self.folder / "df.exit").write_text(str(exit_code))

    def mounts(self, *rows: str) -> None:
        (self.proc / "mounts").write_text("".join(f"{row}\n" for row in rows))

    def load(self, one_minute: str) -> None:
        (self.proc / "loadavg").write_text(f"{one_minute} 0.20 0.30 1/234 5678\n")

    def memory(self, available: int) -> None:
        table = {"MemTotal": 8000000, "MemFree": 1, "MemAvailable": available, "SwapTotal": 1000, "SwapFree": 600}
        (self.proc / "meminfo").write_text("".join(f"{name}: {value} kB\n" for name, value in table.items()))

    def listen(self, *addresses: str) -> None:
        """What ss prints."""
        head = "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n"
        rows = [f'LISTEN 0 128 {one} 0.0.0.0:* users:(("a :9999 b",pid=7,fd=3))\n' for one in addresses]
        (self.folder / "ss").write_text(head + "".join(rows))

    def unit(self, name: str, state: str, **properties: object) -> None:
        """What systemctl says about a service."""
        (self.folder / "units/is-active" / name).write_text(f"{state}\n")
        (self.folder / "units/show" / name).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        down = self.folder / "down" / name
        down.unlink(missing_ok=True) if state == "active" else down.touch()

    def process(self, pid: int, name: str, pages: int = 10) -> None:
        """A process in /proc."""
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "comm").write_text(f"{name}\n")
        (folder / "statm").write_text(f"9999 {pages} 3 1 0 5 0\n")

    def without(self, *programs: str) -> None:
        for program in programs:
            (self.bin / program).unlink()

    def run(
        self, *options: str, exit_code: int = 0, environment: dict[str, str] | None = None, **changes: str | int | None
    ) -> "subprocess.CompletedProcess[str]":
        """One run in a clean environment; every line it logs has the one form."""
        settings = self.environment if environment is None else environment
        settings = {**settings, **{name: str(value) for name, value in changes.items() if value is not None}}
        for name in (name for name, value in changes.items() if value is None):
            del settings[name]
        done = subprocess.run(
            [str(SCRIPT), *options], env=settings, capture_output=True, encoding="utf-8", timeout=120, check=False
        )
        assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
        for line in (done.stderr if "--dry-run" in options else done.stdout + done.stderr).splitlines():
            assert LOG_LINE.fullmatch(line), line
        secret = settings.get("OREMEDY_SECRET", "")
        assert len(secret) < 8 or secret not in done.stdout + done.stderr
        return done

    def bodies(self, **changes: str | int) -> list[dict[str, Any]]:
        """What a dry run would send."""
        return [json.loads(line) for line in self.run("--dry-run", **changes).stdout.splitlines()]

    def remembered(self) -> set[str]:
        """The checks that are firing, by their state files."""
        return {file.name for file in self.state.iterdir()} - {"lock"}

    def sleeps(self) -> list[int]:
        file = self.folder / "sleeps"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Host:
    """A healthy host with one disk, named after the test."""
    return Host(tmp_path / "host", re.sub(r"\W+", "-", request.node.name).strip("-"))


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, redis_server: RedisServer
) -> Iterator[Stack]:
    """The real service with Alice's tenant."""
    from conftest import ENCRYPTION_KEY

    folder = tmp_path_factory.mktemp("monitored")
    shutil.copy(sqlite_template, folder / "openremedy.db")
    redis_server.flushall()
    stack = Stack(folder, f"sqlite:///{folder}/openremedy.db", redis_server.url, ENCRYPTION_KEY)
    try:
        stack.create_tenant()
        stack.start("web")
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def watched(host: Host, running: Stack) -> Host:
    """A host that reports to the real service."""
    host.environment |= {"OREMEDY_URL": f"{running.url}/", "OREMEDY_SECRET": running.secret}
    return host


def incidents(stack: Stack, host: Host) -> list[dict[str, Any]]:
    """The incidents of a host with their evidence, oldest first."""
    found = stack.get("/incidents", hostname=host.environment["OREMEDY_HOSTNAME"])["items"]
    return [stack.get(f"/incidents/{one['id']}") for one in reversed(found)]


# ---------------------------------------------------------------- a server that answers as a test wants it


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent; answers what was put into `answers`, else 202. None: it takes the body and hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        self.answers: list[tuple[int, dict[str, str], str] | None] = []
        self.always: tuple[int, dict[str, str], str] | None = (202, {}, '{"outcome": "created"}')
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]

    def said(self) -> list[tuple[str, str]]:
        """Status and type of each alert since the last look."""
        said = [(body["status"], body["incident_type"]) for body in self.bodies]
        self.requests.clear()
        return said


class Answerer(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0) if self.server.answers else self.server.always
        if answer is None:
            self.close_connection = True
            return
        status, headers, text = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/openremedy-monitor.sh" else 404)
        self.end_headers()
        self.wfile.write(SCRIPT.read_bytes())

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def reporting(host: Host, receiver: Receiver) -> Host:
    """A host that reports to the receiver."""
    host.environment["OREMEDY_URL"] = receiver.url
    return host


UNAVAILABLE = (503, {}, '{"error": {"code": "unavailable", "message": "later"}, "request_id": "1"}')


# ---------------------------------------------------------------- each check fires and recovers


def disk_breaks(host: Host) -> None:
    host.disks("ext4 100 900 10% 1% /", "xfs 9600 409600 96% 12% /var/log")
    host.mounts("/dev/sda1 / ext4 rw 0 0", "/dev/sdb1 /var/log xfs rw 0 0")


def disk_recovers(host: Host) -> None:
    host.disks("ext4 100 900 10% 1% /", "xfs 100 900 10% 1% /var/log")


DISK = {"disk_usage_percent": 96, "mount": "/var/log", "inodes_used_percent": 12, "free_mb": 400}
DISK |= {"filesystem": "xfs", "device": "/dev/sdb1"}


def memory_breaks(host: Host) -> None:
    host.process(70, "java", pages=5000)
    host.process(71, "bash")
    host.memory(available=480000)


MEMORY = {"memory_percent": 94.0, "total_mb": 7812, "used_mb": 7343, "top_process": "java", "swap_percent": 40}


def service_breaks(host: Host) -> None:
    why = {"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "oom-kill"}
    host.unit("nginx", "failed", **why, ExecMainCode=2, ExecMainStatus=9)


SERVICE = {"service_name": "nginx", "service_active": False, "error": "failed (failed), result oom-kill"}
SERVICE |= {"exit_code": 137}

CHECKS: dict[str, tuple[Callable[[Host], object], Callable[[Host], object], str, dict[str, Any]]] = {
    "disk_full": (disk_breaks, disk_recovers, "high", DISK),
    "cpu_high": (
        lambda host: host.load("9.25"),
        lambda host: host.load("0.10"),
        "critical",
        {"cpu_percent": 100.0, "load_1m": 9.25, "cores": 4},
    ),
    "memory_high": (memory_breaks, lambda host: host.memory(available=7000000), "high", MEMORY),
    "service_down": (service_breaks, lambda host: host.unit("nginx", "active"), "critical", SERVICE),
    "port_unavailable": (
        lambda host: host.listen("0.0.0.0:22"),
        lambda host: host.listen("0.0.0.0:22", "[::]:5432"),
        "critical",
        {"port": 5432, "port_open": False, "expected_service": "postgresql"},
    ),
}


@pytest.mark.parametrize("incident_type", list(CHECKS))
def test_a_check_opens_an_incident_and_its_recovery_closes_it(
    running: Stack, watched: Host, incident_type: str
) -> None:
    breaks, recovers, severity, evidence = CHECKS[incident_type]
    watched.environment |= {"CHECK_SERVICES": "nginx", "CHECK_PORTS": "5432:postgresql,22"}
    watched.unit("nginx", "active")
    watched.listen("0.0.0.0:22", "[::]:5432")
    watched.run()
    assert incidents(running, watched) == []
    assert watched.remembered() == set()

    breaks(watched)
    watched.run()
    watched.run()
    (incident,) = incidents(running, watched)
    assert (incident["status"], incident["incident_type"]) == ("open", incident_type)
    assert (incident["severity"], incident["occurrences"]) == (severity, 2)
    assert incident["evidence"] == evidence
    assert len(watched.remembered()) == 1

    recovers(watched)
    watched.run()
    (incident,) = incidents(running, watched)
    assert incident["status"] == "resolved"
    assert watched.remembered() == set()
    assert "0 sent" in watched.run().stdout


def test_a_real_machine_is_read_without_any_environment_but_its_settings(
    running: Stack, tmp_path: Path, host: Host
) -> None:
    closed = free_port()
    settings = {"OREMEDY_URL": running.url, "OREMEDY_TENANT": "alice", "OREMEDY_SECRET": running.secret}
    settings |= {"OREMEDY_STATE_DIR": str(tmp_path / "real"), "OREMEDY_HOSTNAME": "a-real-machine"}
    settings |= {"DISK_THRESHOLD": "1", "MEM_THRESHOLD": "1", "OREMEDY_LARGEST_SECONDS": "0"}
    settings |= {"CHECK_PORTS": f"{running.port} {closed}", "CHECK_SERVICES": "surely-not-a-service-of-this-machine"}
    host.environment["OREMEDY_HOSTNAME"] = "a-real-machine"
    host.run("--no-wait", environment=settings)
    found = {one["incident_type"]: one["evidence"] for one in incidents(running, host)}
    assert {"disk_full", "memory_high", "port_unavailable", "service_down"} <= set(found)
    assert found["port_unavailable"] == {"port": closed, "port_open": False}
    assert found["memory_high"]["memory_percent"] < 100
    assert found["memory_high"]["top_process"]
    assert Path(found["disk_full"]["mount"]).is_mount()


# ---------------------------------------------------------------- disks


NAMES = {
    "spaces": "/media/my  disk 90% 90% /x",
    "quotes": '/media/"it\'s" $HOME `id` *',
    "backslash": "/media/a\\040b\\n%s",
    "unicode": "/media/Größe 東京 😀",
}


@pytest.mark.parametrize("mount", list(NAMES.values()), ids=list(NAMES))
def test_a_mount_may_have_any_name(running: Stack, watched: Host, mount: str) -> None:
    watched.disks(f"ext4 9 1 97% - {mount}")
    watched.run()
    assert len(watched.remembered()) == 1
    (incident,) = incidents(running, watched)
    assert incident["evidence"] == {
        "disk_usage_percent": 97,
        "mount": mount,
        "free_mb": 0,
        "filesystem": "ext4",
    }
    watched.disks("ext4 1 9 10% 1% /")  # taken out
    watched.run()
    assert [one["status"] for one in incidents(running, watched)] == ["resolved"]


def test_a_very_long_mount_is_resolved_under_its_own_name(receiver: Receiver, reporting: Host) -> None:
    mounts = ["/kubelet/" + "ä/" * 150 + end for end in ("one", "two")]
    reporting.disks(*(f"ext4 9 1 97% - {mount}" for mount in mounts))
    reporting.run()
    reporting.disks("ext4 1 9 10% 1% /")
    reporting.run()
    assert sorted(body["evidence"]["mount"] for body in receiver.bodies) == sorted([*mounts, *mounts])


def test_bytes_that_are_not_utf_8_are_replaced(host: Host) -> None:
    bad = [
        b"\xff",
        b"\xc3",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
    ]
    for one in bad:
        host.disks(b"ext4 9 1 97% 1% /mnt/a" + one + "ü\x7f".encode())
        (body,) = host.bodies()
        replaced = body["evidence"]["mount"].removeprefix("/mnt/a").removesuffix("ü\x7f")
        assert set(replaced) == {"\N{REPLACEMENT CHARACTER}"}, one


def test_virtual_file_systems_are_left_out(host: Host) -> None:
    rows = [f"{kind} 9 0 100% 100% /v/{kind}" for kind in "tmpfs devtmpfs squashfs iso9660 overlay nsfs autofs".split()]
    real = [f"{kind} 9 0 100% - /r/{kind}" for kind in "ext4 xfs btrfs vfat zfs nfs4 fuseblk fuse.sshfs".split()]
    host.disks(*rows, "overlay 9 0 100% 2% /", *real)
    assert {body["evidence"]["mount"] for body in host.bodies()} == {"/", *(row.split()[-1] for row in real)}


def test_used_up_inodes_are_a_full_disk_too(host: Host) -> None:
    host.disks("ext4 10 90 10% 99% /srv")
    (body,) = host.bodies()
    assert body["severity"] == "critical"
    assert (body["evidence"]["disk_usage_percent"], body["evidence"]["inodes_used_percent"]) == (10, 99)


def test_the_threshold_itself_counts(host: Host) -> None:
    host.disks("ext4 10 90 89% 1% /a", "ext4 10 90 90% 1% /b")
    assert [body["evidence"]["mount"] for body in host.bodies()] == ["/b"]
    assert [body["evidence"]["mount"] for body in host.bodies(DISK_THRESHOLD=89)] == ["/a", "/b"]
    assert host.bodies(DISK_THRESHOLD=91) == []


def test_the_largest_files_of_a_full_disk_are_named(host: Host, tmp_path: Path) -> None:
    disk = tmp_path / 'a "disk"'
    disk.mkdir()
    for name, size in {"big one": 110, "bigger\nü": 120, "small": 1}.items():
        with (disk / name).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * 1024 * 1024)
    with (disk / "sparse").open("wb") as file:
        file.truncate(500 * 1024 * 1024)
    host.disks(f"ext4 9 1 97% 1% {disk}")
    (body,) = host.bodies(OREMEDY_LARGEST_SECONDS=30)
    assert body["evidence"]["largest_files"] == [f"{disk}/bigger\nü 120M", f"{disk}/big one 110M"]
    (body,) = host.bodies(OREMEDY_LARGEST_SECONDS=0)
    assert "largest_files" not in body["evidence"]


def test_a_df_without_columns_of_ones_choice_is_read_too(host: Host) -> None:
    host.fake("df", f'case "$*" in "-P -k") cat "{host.folder}/df" ;; *) exit 1 ;; esac')
    rows = ("//nas/my share 1000 970 30 97% /mnt/my share", "tmpfs 9 9 0 100% /run")
    host.disks(*rows, head="Filesystem 1024-blocks Used Available Capacity Mounted on\n")
    host.mounts("//nas/my\\040share /mnt/my\\040share cifs rw 0 0", "tmpfs /run tmpfs rw 0 0")
    (body,) = host.bodies()
    assert body["evidence"] == {
        "disk_usage_percent": 97,
        "mount": "/mnt/my share",
        "free_mb": 0,
        "filesystem": "cifs",
        "device": "//nas/my share",
    }


def test_what_could_not_be_looked_at_is_neither_firing_nor_resolved(receiver: Receiver, reporting: Host) -> None:
    reporting.disks("ext4 10 90 95% 1% /srv", "ext4 10 90 95% 1% /opt")
    reporting.load("99.00")
    reporting.memory(available=1)
    reporting.run()
    assert len(receiver.said()) == 4
    kept = reporting.remembered()

    reporting.disks(head="", exit_code=1)
    (reporting.proc / "loadavg").unlink()
    (reporting.proc / "meminfo").write_text("")
    assert reporting.run(exit_code=1).stderr.count("ERROR") == 3
    assert receiver.said() == []
    assert reporting.remembered() == kept

    reporting.disks("ext4 1 99 1% 1% /", exit_code=1)  # df was refused by some; /srv is still there, /opt is not
    reporting.mounts("/dev/sda1 / ext4 rw 0 0", "/dev/sdb1 /srv ext4 rw 0 0")
    reporting.load("0.00")
    reporting.memory(available=7000000)
    reporting.run()
    assert sorted(body["evidence"].get("mount", "") for body in receiver.bodies) == ["", "", "/opt"]
    assert {"resolved"} == {status for status, _ in receiver.said()}


def test_a_df_that_hangs_is_left_alone(host: Host) -> None:
    host.without("timeout")
    host.fake(
        "timeout", 'case "$*" in *" -l "*) shift 3; exec "$@" ;; *" df "*) exit 124 ;; *) shift 3; exec "$@" ;; esac'
    )
    host.disks("ext4 10 90 95% 1% /srv")
    done = host.run("--dry-run", exit_code=1)
    assert "df hangs" in done.stderr
    assert json.loads(done.stdout)["evidence"]["mount"] == "/srv"


# ---------------------------------------------------------------- load, memory


def test_load_is_held_against_the_cores(host: Host) -> None:
    host.load("3.59")
    assert host.bodies() == []
    host.load("3.60")
    (body,) = host.bodies()
    assert body["severity"] == "high"
    assert body["evidence"] == {"cpu_percent": 90.0, "load_1m": 3.6, "cores": 4}


def test_the_process_that_uses_the_processor_now_is_named(host: Host) -> None:
    host.load("8.00")
    host.without("sleep")
    (host.bin / "sleep").symlink_to(shutil.which("sleep") or "")
    busy = host.folder / "a (busy) one"
    shutil.copy(shutil.which("bash") or "", busy)
    with subprocess.Popen([busy, "-c", "while :; do :; done"]) as process:
        try:
            (host.proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
            (host.proc / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
            (body,) = host.bodies()
        finally:
            process.kill()
    assert body["evidence"]["top_process"] == "a (busy) one"


def test_a_kernel_that_does_not_tell_what_is_available_is_understood(host: Host) -> None:
    (host.proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 20 kB\nBuffers: 30 kB\nCached: 40 kB\n")
    (body,) = host.bodies()
    assert body["evidence"] == {"memory_percent": 91.0, "total_mb": 0, "used_mb": 0}


# ---------------------------------------------------------------- services, ports


def test_a_unit_that_does_not_exist_says_so(host: Host) -> None:
    host.unit("ngnix", "inactive", LoadState="not-found", ActiveState="inactive", ExecMainCode=0, ExecMainStatus=0)
    (body,) = host.bodies(CHECK_SERVICES="ngnix ngnix")
    assert body["evidence"]["error"] == "there is no unit of this name"
    assert "exit_code" not in body["evidence"]


@pytest.mark.parametrize("systemctl", ["not installed", "of a container"])
def test_without_systemd_services_are_found_among_the_processes(host: Host, systemctl: str) -> None:
    if systemctl == "not installed":
        host.without("systemctl")
    else:
        host.fake("systemctl", 'echo "System has not been booted with systemd as init system" >&2; exit 1')
    host.process(80, "redis-server")
    host.process(81, "a-service-with-")  # the kernel keeps 15 characters
    services = "redis-server.service, a-service-with-a-long-name nginx-of-nobody"
    if Path("/run/systemd/system").exists() and systemctl == "of a container":
        # systemd does run here, so its silence is a trouble of its own.
        assert host.run("--dry-run", exit_code=1, CHECK_SERVICES=services).stdout == ""
        return
    done = host.run("--dry-run", CHECK_SERVICES=services)
    (body,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert body["evidence"] == {"service_name": "nginx-of-nobody", "service_active": False}
    assert done.stderr.count("systemd does not run here") == 1


def test_a_service_that_is_no_longer_listed_is_resolved(receiver: Receiver, reporting: Host) -> None:
    reporting.unit("nginx", "failed")
    reporting.run(CHECK_SERVICES="nginx", CHECK_PORTS="443")
    assert len(receiver.said()) == 2
    reporting.run()
    ends = [(body["status"], body["evidence"]) for body in receiver.bodies]
    assert ends == [("resolved", {"service_name": "nginx"}), ("resolved", {"port": 443})]
    assert reporting.remembered() == set()


def test_without_ss_the_kernel_is_asked(host: Host) -> None:
    host.without("ss")
    row = "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1 1 0\n"
    rows = [row.format(address="0100007F", port=443, state="0A"), row.format(address="0100007F", port=444, state="01")]
    (host.proc / "net/tcp").write_text("  sl  local_address rem_address st\n" + "".join(rows))
    (host.proc / "net/tcp6").write_text(row.format(address="0" * 32, port=8443, state="0A"))
    assert [body["evidence"]["port"] for body in host.bodies(CHECK_PORTS="443 444 8443")] == [444]
    (host.proc / "net/tcp").unlink()
    (host.proc / "net/tcp6").unlink()
    assert "neither ss nor" in host.run("--dry-run", exit_code=1, CHECK_PORTS="443").stderr


def test_every_way_to_write_a_listening_address_is_read(host: Host) -> None:
    host.listen("0.0.0.0:1", "[::]:2", "*:3", "127.0.0.53%lo:4", "[fe80::1]%eth0:5", "[::ffff:127.0.0.1]:6")
    assert [body["evidence"]["port"] for body in host.bodies(CHECK_PORTS="1 2 3 4 5 6 9999 128")] == [9999, 128]


# ---------------------------------------------------------------- the host's name


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ('we"b\\01\n', 'we"b\\01_'),
        ("bücher-東京", "bücher-東京"),
        ("a\tb\x1b[31m\x85c", "a_b_[31m_c"),
        ("x" * 252 + "üüü", "x" * 252 + "ü"),
    ],
)
def test_a_host_may_have_any_name(running: Stack, watched: Host, name: str, sent: str) -> None:
    watched.environment["OREMEDY_HOSTNAME"] = name
    watched.disks("ext4 9 1 97% 1% /")
    watched.run()
    watched.environment["OREMEDY_HOSTNAME"] = sent
    (incident,) = incidents(running, watched)
    assert incident["hostname"] == sent


def test_the_full_name_of_the_host_is_asked_for(host: Host) -> None:
    host.disks("ext4 9 1 97% 1% /")
    host.without("hostname", "uname")
    host.fake("hostname", "echo web-01.example.com")
    host.fake("uname", "echo web-02")
    assert [body["hostname"] for body in host.bodies(OREMEDY_HOSTNAME="")] == ["web-01.example.com"]
    host.fake("hostname", "echo localhost.localdomain")
    assert [body["hostname"] for body in host.bodies(OREMEDY_HOSTNAME=" ")] == ["web-02"]


def test_an_episode_keeps_the_name_it_began_with(receiver: Receiver, reporting: Host) -> None:
    for name, percent in (("web-01.example.com", 97), ("web-01", 98), ("web-01", 10), ("web-01", 97)):
        reporting.disks(f"ext4 9 1 {percent}% 1% /")
        reporting.run(OREMEDY_HOSTNAME=name)
    assert [(body["hostname"], body["status"]) for body in receiver.bodies] == [
        ("web-01.example.com", "firing"),
        ("web-01.example.com", "firing"),
        ("web-01.example.com", "resolved"),
        ("web-01", "firing"),
    ]


# ---------------------------------------------------------------- the secret


SECRETS = {
    "64 bytes": "k" * 64,
    "65 bytes": "k" * 65,
    "200 bytes": "0123456789" * 20,
    "utf-8": "Schlüssel 鍵 😀",
    "blanks": "  two  blanks ",
    "backslashes": r"\x41\n\\0\101%b\c",
    "percent": "%s%d%%n%(x)T",
    "dashes": "-n -e --help",
    "quotes": "'\"`$(id)${HOME}`\"'*?[a-z]!#&|;<>",
    "one byte": "k",
}


@pytest.mark.parametrize("secret", list(SECRETS.values()), ids=list(SECRETS))
@pytest.mark.parametrize("kind", ["variable", "file"])
def test_any_secret_signs_as_the_service_does(receiver: Receiver, reporting: Host, secret: str, kind: str) -> None:
    reporting.disks("ext4 9 1 97% 1% /srv/Größe \\ 100% 東京 😀")
    file = reporting.folder / "secret"
    file.write_text(f"{secret}\n")
    file.chmod(0o600)
    if kind == "file":
        reporting.environment |= {"OREMEDY_SECRET_FILE": str(file), "OREMEDY_SECRET": ""}
    else:
        reporting.environment["OREMEDY_SECRET"] = secret
    done = reporting.run()
    ((path, headers, body),) = receiver.requests
    assert path == "/api/v1/webhooks/alerts/alice"
    assert headers["X-OpenRemedy-Signature"] == sign(secret, body)
    assert "東京 😀".encode() in body
    assert done.stderr == ""


def spy(host: Host, log: Path) -> None:
    """Every program first writes down its arguments and its environment."""
    for file in list(host.bin.iterdir()):
        real = file.with_name(f".{file.name}")
        file.rename(real)
        words = f'printf "%s " {file.name} "$@"; /bin/cat /proc/$$/environ'
        host.fake(file.name, f'{{ {words}; }} >"{log}/{file.name}.$$"\nexec "{real}" "$@"')


@pytest.mark.parametrize("kind", ["variable", "file", "variable, and a shell that exports and traces all"])
def test_the_secret_is_in_no_argument_and_no_environment_of_a_program(running: Stack, watched: Host, kind: str) -> None:
    secret, log = watched.environment["OREMEDY_SECRET"], watched.folder / "spied"
    inner = bytes(byte ^ 0x36 for byte in secret.encode().ljust(64, b"\0"))
    outer = bytes(byte ^ 0x5C for byte in secret.encode().ljust(64, b"\0"))
    if kind == "file":
        file = watched.folder / "secret"
        file.write_text(secret)
        file.chmod(0o600)
        watched.environment |= {"OREMEDY_SECRET_FILE": str(file)}
        del watched.environment["OREMEDY_SECRET"]
    # What is in the environment already stays there with whatever is assigned to it.
    names = set(re.findall(r"\b[a-z_]*(?:secret|key|pad|text|inner|outer|hex)[a-z_]*\b", SCRIPT.read_text()))
    watched.environment |= dict.fromkeys(names, "before")
    breaks = CHECKS["disk_full"][0]
    breaks(watched)
    log.mkdir()
    bash = watched.folder / "bash-of-the-run"
    shutil.copy(shutil.which("bash") or "", bash)
    spy(watched, log)
    watched.without("bash")
    (watched.bin / "bash").symlink_to(bash)  # the one program that was given the secret
    if kind.endswith("all"):
        done = subprocess.run(
            [bash, "-a", "-x", SCRIPT], env=watched.environment, capture_output=True, text=True, check=True
        )
        assert secret not in done.stdout + done.stderr
    else:
        watched.run()
    assert len(incidents(running, watched)) == 1
    assert {"curl", "openssl", "od", "tr", "df", "mkdir"} <= {file.stem for file in log.iterdir()}
    spied = b"\n".join(file.read_bytes() for file in log.iterdir())
    assert b"OREMEDY_TENANT=alice" in spied
    for trace in (secret.encode(), inner, outer):
        assert trace not in spied
        assert trace.hex().encode() not in spied
        assert "".join(f"\\x{byte:02x}" for byte in trace).encode() not in spied


def test_the_secret_is_seen_in_no_argument_list_while_it_runs(receiver: Receiver, reporting: Host) -> None:
    reporting.disks(*(f"ext4 9 1 97% 1% /srv/{number}" for number in range(6)))
    seen, over = set(), threading.Event()

    def look() -> None:
        while not over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(file.read_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    reporting.run()
    over.set()
    looking.join()
    assert len(receiver.requests) == 6
    assert any(b"openremedy-monitor.sh" in line for line in seen)
    assert not any(SECRET.encode() in line or SECRET.encode().hex().encode() in line for line in seen)


def test_a_secret_file_that_others_can_read_is_used_and_spoken_of(receiver: Receiver, reporting: Host) -> None:
    file = reporting.folder / "secret"
    file.write_text(f"{SECRET}\r\n")
    file.chmod(0o640)
    reporting.load("9.00")
    done = reporting.run(OREMEDY_SECRET=None, OREMEDY_SECRET_FILE=str(file))
    assert "chmod 600" in done.stderr
    ((_, headers, body),) = receiver.requests
    assert headers["X-OpenRemedy-Signature"] == sign(SECRET, body)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"OREMEDY_SECRET": None}, "OREMEDY_SECRET"),
        ({"OREMEDY_SECRET": ""}, "OREMEDY_SECRET"),
        ({"OREMEDY_SECRET": "two\nlines"}, "secret"),
        ({"OREMEDY_SECRET": None, "OREMEDY_SECRET_FILE": "/nowhere/secret"}, "/nowhere/secret cannot be read"),
        ({"OREMEDY_SECRET": None, "OREMEDY_SECRET_FILE": "/"}, "cannot be read"),
        ({"OREMEDY_SECRET": None, "OREMEDY_SECRET_FILE": "/dev/null"}, "/dev/null"),
        ({"OREMEDY_URL": None}, "OREMEDY_URL"),
        ({"OREMEDY_URL": "openremedy.example.com"}, "OREMEDY_URL"),
        ({"OREMEDY_URL": "ftp://example.com"}, "OREMEDY_URL"),
        ({"OREMEDY_URL": "https://a:b@example.com"}, "OREMEDY_URL"),
        ({"OREMEDY_URL": "https://example.com/?x=1"}, "OREMEDY_URL"),
        ({"OREMEDY_TENANT": None}, "OREMEDY_TENANT"),
        ({"OREMEDY_TENANT": "../bob"}, "OREMEDY_TENANT"),
        ({"DISK_THRESHOLD": 0}, "DISK_THRESHOLD"),
        ({"CPU_THRESHOLD": 101}, "CPU_THRESHOLD"),
        ({"MEM_THRESHOLD": "90%"}, "MEM_THRESHOLD"),
        ({"MEM_THRESHOLD": "a[$(id)]"}, "MEM_THRESHOLD"),
        ({"OREMEDY_JITTER": "-1"}, "OREMEDY_JITTER"),
        ({"CHECK_PORTS": "443 0"}, "CHECK_PORTS"),
        ({"CHECK_PORTS": "65536"}, "CHECK_PORTS"),
        ({"CHECK_PORTS": "https"}, "CHECK_PORTS"),
        ({"CHECK_SERVICES": "../nginx"}, "CHECK_SERVICES"),
        ({"CHECK_SERVICES": "--version"}, "CHECK_SERVICES"),
    ],
)
def test_a_wrong_setting_ends_it_with_one_clear_line(
    reporting: Host, receiver: Receiver, changes: dict[str, str | int | None], named: str
) -> None:
    reporting.load("99.00")
    done = reporting.run(exit_code=2, **changes)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert " ERROR " in line
    assert named in line
    assert receiver.requests == []


def test_without_any_setting_one_line_names_all_that_is_missing(host: Host) -> None:
    done = host.run(exit_code=2, environment={})
    (line,) = done.stderr.splitlines()
    assert all(name in line for name in ("OREMEDY_URL", "OREMEDY_TENANT", "OREMEDY_SECRET_FILE", "OREMEDY_SECRET"))


@pytest.mark.parametrize("program", ["curl", "openssl"])
def test_a_missing_program_is_named(host: Host, program: str) -> None:
    host.without(program)
    (line,) = host.run(exit_code=2).stderr.splitlines()
    assert f"{program} is not installed" in line


def test_an_option_that_does_not_exist_is_named(host: Host) -> None:
    (line,) = host.run("--dryrun", exit_code=2).stderr.splitlines()
    assert "--dryrun" in line


# ---------------------------------------------------------------- the answers


def test_the_wrong_secret_is_told_in_one_line_and_nothing_is_remembered(running: Stack, watched: Host) -> None:
    watched.disks("ext4 9 1 97% 1% /a", "ext4 9 1 97% 1% /b")
    done = watched.run(exit_code=1, OREMEDY_SECRET="of somebody else")
    refused = [line for line in done.stderr.splitlines() if "refused" in line]
    assert len(refused) == 2  # the other disk is tried as well
    assert all("HTTP 401 unauthorized" in line for line in refused)
    assert not re.search(r"[0-9a-f]{32}", done.stdout + done.stderr)
    assert watched.remembered() == set()
    assert watched.sleeps()[1:] == []  # only the wait at the start
    assert incidents(running, watched) == []


def test_a_server_that_is_away_or_busy_is_asked_again(receiver: Receiver, reporting: Host) -> None:
    receiver.answers = [UNAVAILABLE, (429, {"retry-after": "7"}, '{"error": {"code": "rate_limited"}}'), (502, {}, "")]
    reporting.disks("ext4 9 1 97% 1% /")
    done = reporting.run("--no-wait")
    assert len({body for _, _, body in receiver.requests}) == 1
    assert len(receiver.requests) == 4
    first, second, third = reporting.sleeps()
    assert 2 <= first <= 4
    assert 7 <= second <= 9
    assert 8 <= third <= 10
    assert "HTTP 429 rate_limited" in done.stderr
    assert "accepted (created)" in done.stdout
    assert reporting.remembered() == {"disk_full.%2F"}


def test_it_gives_up_in_time_and_the_next_run_goes_on(receiver: Receiver, reporting: Host) -> None:
    receiver.always = (503, {"Retry-After": "86400"}, "")
    reporting.disks(*(f"ext4 9 1 97% 1% /{number}" for number in range(5)))
    done = reporting.run("--no-wait", exit_code=1)
    # The first alert waits for the server; to ask once is enough for each other one.
    assert [body["evidence"]["mount"] for body in receiver.bodies] == ["/0", "/0", "/0", "/0", "/1", "/2", "/3", "/4"]
    assert all(60 <= seconds <= 62 for seconds in reporting.sleeps())
    assert done.stderr.count("not sent: HTTP 503") == 5
    assert reporting.remembered() == set()
    receiver.always = (202, {}, "{}")
    reporting.run()
    assert len(reporting.remembered()) == 5


def test_what_cannot_help_is_not_tried_again(receiver: Receiver, reporting: Host) -> None:
    reporting.load("9.00")
    for status, words in ((422, "HTTP 422"), (301, "redirect"), (404, "does not lead to OpenRemedy")):
        receiver.always = (status, {"Location": "https://elsewhere.example.com/"}, "")
        assert words in reporting.run(exit_code=1).stderr
    assert len(receiver.requests) == 3


def test_a_site_that_takes_anything_is_noticed(receiver: Receiver, reporting: Host) -> None:
    receiver.always = (200, {}, "<html>Welcome</html>")
    reporting.load("9.00")
    assert "is OREMEDY_URL right?" in reporting.run().stderr


def test_nothing_that_a_server_says_can_forge_a_log_line(receiver: Receiver, reporting: Host) -> None:
    forged = "2026-01-01T00:00:00+0000 INFO all is well"
    receiver.always = (400, {"X": "y"}, f'{{"error": {{"code": "x\\n{forged}", "message": "\n{forged}"}}}}')
    reporting.disks("ext4 9 1 97% 1% /a\x1b[2J")
    done = reporting.run(exit_code=1)
    assert "all is well" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_state_outlives_a_server_that_is_down(receiver: Receiver, reporting: Host) -> None:
    reporting.disks("ext4 9 1 97% 1% /")
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = reporting.run(exit_code=1, OREMEDY_URL=nowhere)
    assert "no answer" in done.stderr
    assert reporting.remembered() == set()
    reporting.run()
    assert reporting.remembered() == {"disk_full.%2F"}

    reporting.disks("ext4 1 9 10% 1% /")
    reporting.run(exit_code=1, OREMEDY_URL=nowhere)
    assert reporting.remembered() == {"disk_full.%2F"}
    reporting.run()
    assert receiver.said() == [("firing", "disk_full"), ("resolved", "disk_full")]
    assert reporting.remembered() == set()


def test_an_alert_whose_answer_got_lost_is_resolved_later(receiver: Receiver, reporting: Host) -> None:
    receiver.always = None  # it may well have been stored
    reporting.load("9.00")
    reporting.run(exit_code=1)
    assert {"firing"} == {status for status, _ in receiver.said()}
    receiver.always = (202, {}, '{"outcome": "resolved"}')
    reporting.load("0.10")
    reporting.run()
    assert receiver.said() == [("resolved", "cpu_high")]


# ---------------------------------------------------------------- state, lock, waiting


def test_only_its_owner_can_read_the_state(receiver: Receiver, reporting: Host) -> None:
    reporting.load("9.00")
    reporting.run()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (reporting.state, *reporting.state.iterdir())}
    assert modes == {0o700, 0o600}


def test_without_a_place_for_its_state_it_sends_all_the_same(receiver: Receiver, reporting: Host) -> None:
    reporting.load("9.00")
    done = reporting.run(exit_code=1, OREMEDY_STATE_DIR="/dev/null/state")
    assert "cannot write in /dev/null/state" in done.stderr
    assert receiver.said() == [("firing", "cpu_high")]


def test_a_state_file_that_a_full_disk_left_empty_still_leads_to_its_resolve(
    receiver: Receiver, reporting: Host
) -> None:
    reporting.state.mkdir()
    (reporting.state / "disk_full.%2Fvar%20%C3%BC").touch()
    (reporting.state / "port_unavailable.443").write_text("host cut-o")
    reporting.run()
    ends = [(body["hostname"], body["status"], body["evidence"]) for body in receiver.bodies]
    name = reporting.environment["OREMEDY_HOSTNAME"]
    assert ends == [(name, "resolved", {"mount": "/var ü"}), (name, "resolved", {"port": 443})]


def test_a_second_run_does_nothing_while_one_is_active(receiver: Receiver, reporting: Host) -> None:
    reporting.load("9.00")
    reporting.state.mkdir()
    with (reporting.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (line,) = reporting.run(exit_code=3).stderr.splitlines()
        assert "another run is active" in line
        assert receiver.requests == []
    reporting.run()
    assert len(receiver.requests) == 1


def test_without_flock_a_folder_is_the_lock(receiver: Receiver, reporting: Host) -> None:
    reporting.without("flock")
    reporting.load("9.00")
    lock = reporting.state / "lock.d"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{os.getpid()}\n")
    reporting.run(exit_code=3)
    assert lock.is_dir()

    (lock / "pid").write_text("99999999\n")  # of a run that was killed
    reporting.run()
    assert not lock.exists()

    lock.mkdir()
    (lock / "pid").write_text(f"{os.getpid()}\n")
    os.utime(lock, (1, 1))  # the process number has been given to another program since
    reporting.run()
    assert len(receiver.requests) == 2


def test_runs_of_a_fleet_wait_for_different_times(host: Host) -> None:
    for _ in range(4):
        host.run(OREMEDY_JITTER=100)
    assert len(set(host.sleeps())) > 1
    assert all(0 <= seconds <= 100 for seconds in host.sleeps())


def test_the_wait_can_be_switched_off(host: Host) -> None:
    host.run("--no-wait")
    host.run(OREMEDY_JITTER=0)
    assert host.sleeps() == []
    host.run()
    (seconds,) = host.sleeps()
    assert 0 <= seconds <= 20


def test_a_dry_run_shows_all_and_changes_nothing(receiver: Receiver, reporting: Host) -> None:
    reporting.unit("nginx", "failed")
    reporting.run(CHECK_SERVICES="nginx")
    before = {file.name: file.read_bytes() for file in reporting.state.iterdir()}
    receiver.requests.clear()
    sleeps = reporting.sleeps()
    reporting.unit("nginx", "active")
    reporting.memory(available=100)
    settings = reporting.environment
    for name in ("OREMEDY_SECRET", "OREMEDY_URL", "OREMEDY_TENANT"):
        del settings[name]
    with (reporting.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reporting.without("curl", "openssl")
        bodies = reporting.bodies(CHECK_SERVICES="nginx")
    assert {(body["status"], body["incident_type"]) for body in bodies} == {
        ("resolved", "service_down"),
        ("firing", "memory_high"),
    }
    assert receiver.requests == []
    assert reporting.sleeps() == sleeps
    assert {file.name: file.read_bytes() for file in reporting.state.iterdir()} == before


def test_a_dry_run_says_what_a_real_one_would_miss(host: Host) -> None:
    done = host.run("--dry-run", OREMEDY_SECRET=None)
    assert re.search("WARN .*secret", done.stderr)
    assert not host.state.exists()


# ---------------------------------------------------------------- the script as a file, and its documentation


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck") or missing(
        "shellcheck", f"the style of the shell scripts; {ADVICE} shellcheck"
    )
    done = subprocess.run([program, *SCRIPT.parent.glob("*.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_can_be_run_and_tells_about_itself(host: Host) -> None:
    assert os.access(SCRIPT, os.X_OK)
    done = subprocess.run([SCRIPT, "--help"], env={"PATH": host.environment["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 0
    for variable in variables():
        assert variable in done.stdout
    done = subprocess.run([SCRIPT, "--version"], env={}, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"openremedy-monitor \d+\.\d+\n", done.stdout)


def test_another_shell_is_told_to_leave_it(tmp_path: Path) -> None:
    dash = shutil.which("dash") or shutil.which("busybox") or missing("dash", "a shell that is not bash")
    done = subprocess.run([dash, *(["sh"] if "busybox" in dash else []), SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert "run it with bash" in done.stderr


def test_bash_in_the_clothes_of_sh_is_good_enough(host: Host) -> None:
    sh = host.bin / "sh"
    sh.symlink_to(shutil.which("bash") or "")
    host.disks("ext4 9 1 97% 1% /")
    done = subprocess.run([sh, SCRIPT, "--dry-run"], env=host.environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["incident_type"] == "disk_full"


def variables() -> set[str]:
    """Every variable of the environment that the script reads for its settings."""
    named = re.findall(r"\$\{?((?:OREMEDY|CHECK)_\w+|(?:DISK|CPU|MEM)_THRESHOLD)", SCRIPT.read_text())
    assert len(set(named)) >= 13
    return set(named)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_every_variable_and_exit_code_is_documented_and_nothing_else() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)`", DOCS.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(variables())
    codes = re.findall(r"^\| (\d) \|", DOCS.read_text(), re.MULTILINE)
    assert codes == ["0", "1", "2", "3"]


def test_the_lines_of_the_documentation_set_it_up(receiver: Receiver, host: Host, tmp_path: Path) -> None:
    places = {
        "/opt/openremedy": str(tmp_path / "opt"),
        "/etc/cron.d": str(tmp_path),
        "/var/log": str(tmp_path),
        "https://openremedy.example.com": receiver.url,
        "sudo ": "",
    }

    def here(text: str) -> str:
        for place, ours in places.items():
            text = text.replace(place, ours)
        return text

    install, *_ = blocks("bash")
    cron, *_ = [block for block in blocks("text") if "*/5" in block]
    subprocess.run(["bash", "-euc", here(install)], input=f"{SECRET}\n", text=True, check=True, capture_output=True)
    secret = tmp_path / "opt" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (tmp_path / "opt" / "monitor.sh").read_bytes() == SCRIPT.read_bytes()

    *settings, line = here(cron).strip().splitlines()
    *when, user, command = line.split(maxsplit=6)
    assert (when, user) == (["*/5", "*", "*", "*", "*"], "root")
    assert "/var/log/openremedy-monitor.log" in cron
    environment = host.environment | dict(one.split("=", 1) for one in settings)
    del environment["OREMEDY_SECRET"]
    host.load("9.00")
    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, timeout=60)
    assert ("firing", "cpu_high") in receiver.said()
    assert "accepted (created)" in (tmp_path / "openremedy-monitor.log").read_text()
