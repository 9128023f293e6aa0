"""Boot a real systemd with deploy/systemd as docs/install.md says, break what breaks on such a machine, and look.

As root on Linux with systemd-container, PostgreSQL and Redis: `make units-check`. The machine is a container on a copy
of this one's file system, which goes with it, on a network of its own. Python and its packages are those of .venv.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = Path("/opt/openremedy")
ETC = Path("/etc/openremedy")
UNITS = Path("etc/systemd/system")
SHARED = Path("/dev/shm")  # nosec B108 # noqa: S108 - it is looked at only
SAID = "check-units.txt"
EXAMPLE = "postgresql://openremedy:the-password@127.0.0.1:5432/openremedy"
PORT = 8000  # of the unit
WEB, SCHEDULER, WORKER, MIGRATE = (f"openremedy-{name}.service" for name in ("web", "scheduler", "worker@1", "migrate"))
PROGRAMS = (WEB, WORKER, SCHEDULER)
# Started by nothing but itself, so that nothing of this machine's own comes up beside it.
PROBE = f"""[Unit]
DefaultDependencies=no
Requires=basic.target
After=basic.target
AllowIsolate=yes
[Service]
Type=oneshot
ExecStartPre=/sbin/ldconfig
ExecStart={HOME}/.venv/bin/python {HOME}/scripts/check_units.py inside
StandardOutput=file:/{SAID}
StandardError=inherit
ExecStopPost=/usr/bin/systemctl --no-block poweroff --force
"""
ALERT = {"hostname": "web-01", "incident_type": "disk_full", "evidence": {"disk_usage_percent": 94, "mount": "/var"}}


def main() -> int:
    """Boot it, and print what was found inside; 1 when something is not as it should be."""
    if os.geteuid() != 0:
        sys.exit("This needs root: it mounts and boots.")
    if gone := [name for name in ("systemd-nspawn", "redis-server") if not shutil.which(name)]:
        sys.exit(f"{', '.join(gone)} is missing.")
    with machine() as root:
        options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--link-journal=no"]
        options += ["--console=pipe", "--machine=openremedy-units", f"--directory={root}", *furnished(root)]
        booted = [*options, "--boot", "systemd.unit=probe.service"]
        done = system("systemd-nspawn", *booted)
        said = (root / SAID).read_text() if (root / SAID).exists() else f"It did not boot.\n{done.stdout}{done.stderr}"
    print(said, end="")
    right = said.rstrip().endswith("The units are as they should be.")
    return not right


@contextmanager
def machine() -> Iterator[Path]:
    """This machine's file system; what is written there is in memory and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="openremedy-units-") as name:
        folder = Path(name)
        system("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", name).check_returncode()
        try:
            for one in ("upper", "work", "root"):
                (folder / one).mkdir()
            layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
            system("mount", "-t", "overlay", "overlay", "-o", layers, str(folder / "root")).check_returncode()
            yield folder / "root"
        finally:
            system("umount", str(folder / "root"))
            system("umount", "--lazy", name).check_returncode()


def furnished(root: Path) -> list[str]:
    """Lay the release out there as `git clone` and `make install` do; gives what is bound for it."""
    home = root / HOME.relative_to("/")
    shutil.rmtree(home, ignore_errors=True)
    listed = system("git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / name)
    packages = f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (home / packages).mkdir(parents=True)
    python = Path("/usr" if sys.base_prefix == "/usr" else "/opt/python")  # one in a home would not be seen
    (root / python.relative_to("/")).mkdir(parents=True, exist_ok=True)
    programs = home / ".venv/bin"
    programs.mkdir()
    (programs / "python").symlink_to(python / "bin/python3")
    (home / ".venv/pyvenv.cfg").write_text(f"home = {python}/bin\ninclude-system-site-packages = false\n")
    for name in ("flask", "gunicorn"):
        script = (ROOT / ".venv/bin" / name).read_text().split("\n", 1)[1]
        (programs / name).write_text(f"#!{HOME}/.venv/bin/python\n{script}")
        (programs / name).chmod(0o755)
    (root / UNITS / "probe.service").write_text(PROBE)
    (root / "etc/ld.so.conf.d/0-python.conf").write_text(f"{python}/lib\n")  # its own library goes before the system's
    (root / "etc/machine-id").unlink(missing_ok=True)
    # There is nothing but loopback, so nothing to wait for.
    for waiting in (root / "usr/lib/systemd/system").glob("*-wait-online*.service"):
        masked = root / UNITS / waiting.name
        masked.unlink(missing_ok=True)
        masked.symlink_to("/dev/null")
    bound = [f"--bind-ro={ROOT.resolve() / packages}:{HOME / packages}"]
    return bound if python == Path("/usr") else [*bound, f"--bind-ro={sys.base_prefix}:{python}"]


# ---------------------------------------------------------------- inside of it


def inside() -> int:
    """What is looked at on the booted machine."""
    sys.path[:0] = [str(HOME), str(HOME / "tests")]
    wrong = []
    try:
        wrong += [text for text, right in findings() if not told(text, right)]
    except TimeoutError as late:
        wrong.append(str(late))
    if not wrong:
        print("The units are as they should be.")
        return 0
    print("Not as it should be:", *wrong, system("systemctl", "list-jobs").stdout, sep="\n")
    print(system("journalctl", "--no-pager", "--lines=60", "--unit=openremedy-*").stdout)
    return 1


def told(text: str, right: bool) -> bool:
    """Print a finding; gives `right`."""
    print(f"{'ok' if right else 'WRONG':5} {text}", flush=True)
    return right


def system(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)


def findings() -> Iterator[tuple[str, bool]]:
    """In the order in which an operator meets them."""
    from services import PostgresServer, postgres_programs, until

    programs = postgres_programs()
    if not programs:
        raise FileNotFoundError("PostgreSQL is missing")
    system("redis-server", "--daemonize", "yes", "--save", "", "--maxmemory-policy", "noeviction")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    database = PostgresServer(folder, programs, durable=False)
    database.initialise()
    installed = install(f"postgresql://{database.user}@127.0.0.1:{database.port}/postgres")
    yield f"it is installed {installed.stderr.strip()[-400:]}", installed.returncode == 0
    until(lambda: answer("/readyz") == 503, "web")
    yield "without a database web is up and not ready", True
    until(lambda: int(shown(MIGRATE, "NRestarts")) > 0, "a second try of the migration")
    database.start()
    until(lambda: answer("/readyz") == 200, "readiness")
    yield "it is ready once the database is there, which the migration has waited for", True
    yield from privileges()
    counted = system("nsenter", f"--mount=/proc/{shown(WEB, 'MainPID')}/ns/mnt", "ls", str(SHARED))
    yield f"what web counts is in memory of its own: {counted.stdout.strip()}", "openremedy-metrics-" in counted.stdout
    yield from an_alert()
    for name in PROGRAMS:
        before = shown(name, "MainPID")
        os.kill(int(before), signal.SIGKILL)
        until(lambda before=before, name=name: shown(name, "MainPID") not in ("0", before), f"{name} again")
        yield f"{name} is started again after kill -9", True
    until(lambda: answer("/readyz") == 200, "readiness")
    before = shown(WEB, "MainPID")
    migrated = system("systemctl", "restart", MIGRATE)
    yield f"the migration of an upgrade {migrated.stderr.strip()}", migrated.returncode == 0
    system("systemctl", "restart", "openremedy.target")
    until(lambda: shown(WEB, "MainPID") not in ("0", before) and answer("/readyz") == 200, "readiness")
    yield "a restart of the target restarts web", True
    until(lambda: all(shown(name, "ActiveState") == "active" for name in PROGRAMS), "all of them")
    began = time.monotonic()
    system("systemctl", "stop", "openremedy.target")
    until(lambda: all(shown(name, "ActiveState") != "deactivating" for name in PROGRAMS), "the end of all")
    yield f"all of it stops in {time.monotonic() - began:.1f} s", True
    for name in PROGRAMS:
        ended = [shown(name, what) for what in ("ActiveState", "Result", "ExecMainStatus")]
        yield f"{name} ended with {' '.join(ended)}", ended == ["inactive", "success", "0"]
    yield "nothing is left in /dev/shm", not [*SHARED.glob("openremedy-*")]


def install(database_url: str) -> subprocess.CompletedProcess[str]:
    """The commands of docs/install.md, with this database."""
    (block,) = re.findall(r"^```sh\n(.*?)^```", (HOME / "docs/install.md").read_text(), re.MULTILINE | re.DOTALL)
    return system("bash", "-euc", block.replace(EXAMPLE, database_url))


def shown(unit: str, what: str) -> str:
    return system("systemctl", "show", "--value", "--property", what, unit).stdout.strip()


def answer(path: str) -> int:
    """The status, or 0."""
    import requests

    try:
        return requests.get(f"http://127.0.0.1:{PORT}{path}", timeout=5).status_code
    except requests.RequestException:
        return 0


def privileges() -> Iterator[tuple[str, bool]]:
    """What each program may do."""
    secrets = [path.read_text().strip() for path in (ETC / "secrets").iterdir()]
    for name in PROGRAMS:
        pid = shown(name, "MainPID")
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        user = status["Uid"].split()[0]
        bare = int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        yield f"{name} is user {user}, without capabilities, its system calls filtered", user != "0" and bare
        here = Path(f"/proc/{pid}/environ").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
        yield f"{name} has no secret in its environment", not any(secret in here for secret in secrets)
        tried = system("nsenter", f"--mount=/proc/{pid}/ns/mnt", "touch", str(HOME / "written"), "/etc/written")
        yield f"{name} can write to nothing of the system", tried.stderr.count("Read-only file system") == 2


def an_alert() -> Iterator[tuple[str, bool]]:
    """One comes in, and gets its verdict."""
    import requests

    from cast import sign
    from services import until

    def flask(*words: str) -> dict[str, Any]:
        done = system("openremedy-flask", *words, "--json")
        if done.returncode:
            raise RuntimeError(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    secret = flask("tenant", "create", "alice")["webhook_secret"]
    flask("recipe", "import", "alice", "config/recipes.yaml")
    token = flask("token", "create", "alice")["token"]
    body = json.dumps(ALERT).encode()
    url = f"http://127.0.0.1:{PORT}/api/v1"
    headers = {"X-OpenRemedy-Signature": sign(secret, body)}
    taken = requests.post(f"{url}/webhooks/alerts/alice", data=body, headers=headers, timeout=30)
    yield f"an alert is answered {taken.status_code}", taken.status_code == 202

    def recipe() -> Any:
        got = requests.get(f"{url}/incidents", headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
        return (got["items"][0]["verdict"] or {}).get("recipe")

    found: Callable[[], Any] = recipe
    yield f"its recipe is {until(found, 'a verdict')}", True


if __name__ == "__main__":
    sys.exit(inside() if sys.argv[1:] == ["inside"] else main())
