"""Build the image of the Dockerfile and run it: as its user, nothing writable but /tmp, no capability.

As root on Linux with buildah, debootstrap, PostgreSQL and Redis: `make image-check`. It asks no registry, so the base
image is a stand-in: Debian with Python and pip under the name that the Dockerfile asks for. There is no container
engine either: what an engine would read from the image (user, environment, command, health check) is read from it and
obeyed here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from cryptography.fernet import Fernet

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import services  # noqa: E402
from stack import Stack  # noqa: E402

BASE = "docker.io/library/python:3.11-slim-bookworm"
IN_BASE = "python3,python3-venv,python3-pip,ca-certificates"
# What this machine is told about package indexes and certificates, for the build to be told too.
TOLD = ["/etc/pip.conf", "/etc/ssl/certs"]
# The network stays the host's: on its loopback are the databases.
ISOLATED = """
set -e
mount --rbind "$1" "$1"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -o remount,bind,ro "$1"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot "$1" setpriv --reuid "$2" --regid "$3" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    sh -c 'cd "$0" && exec "$@"' "${@:4}"
"""
# What is read from files when somebody asks for it, which a list of what to copy may forget.
READS = """
from openremedy import client_examples, downloads, tenants
from openremedy.demo import RECIPES, bodies
assert len(client_examples.examples("https://alerts.example.com", "acme")) >= 3
assert downloads.MONITOR.read_text() and tenants.STARTER_RECIPES.read_text() and RECIPES.read_text()
assert any(bodies.FIXTURES.glob("*/fixtures/*"))
"""
FORBIDDEN = "import pathlib; pathlib.Path('/app/written').write_text('')"


class Image:
    """What `buildah` has built, unpacked at `root`."""

    def __init__(self, store: Path) -> None:
        self._words = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run")]
        self._words += ["--storage-driver", "vfs"]
        self.root = Path()
        self.config: dict[str, Any] = {}

    def buildah(self, *arguments: str) -> str:
        """What it prints; what it says beside that is shown when it fails."""
        done = subprocess.run([*self._words, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"buildah {arguments[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout.strip()

    def make_base(self, folder: Path) -> None:
        """Debian's Python, under the name of the real one."""
        subprocess.run(
            [str(shutil.which("debootstrap")), "--variant=minbase", f"--include={IN_BASE}", "bookworm", str(folder)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (folder / "usr/bin/python").symlink_to("python3")
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(folder), "/")
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def build(self) -> None:
        """The Dockerfile, as it is."""
        volumes = [f"--volume={path}:{path}:ro" for path in TOLD if Path(path).exists()]
        options = ["--pull-never", "--isolation=chroot", "--network=host", "--format=docker", "--tag=openremedy"]
        self.buildah("build", *options, *volumes, ".")
        container = self.buildah("from", "--pull-never", "openremedy")
        self.root = Path(self.buildah("mount", container))
        inspected = json.loads(self.buildah("inspect", "--type", "image", "openremedy"))
        self.config = inspected["Docker"]["config"]

    def environment(self) -> dict[str, str]:
        """The variables that the image sets."""
        return dict(one.split("=", 1) for one in self.config["Env"])

    def command(self, *words: str) -> list[str]:
        """How an engine would run `words`, or the image's own command: read-only, unprivileged."""
        user, group = self.config["User"].split(":")
        inner = [*self.config["Entrypoint"], *(words or self.config["Cmd"])]
        confined = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ISOLATED, "bash"]
        return [*confined, str(self.root), user, group, self.config["WorkingDir"], *inner]


class Containers(Stack):
    """The service, each of its processes from the image."""

    def __init__(self, image: Image, folder: Path, database_url: str, redis_url: str) -> None:
        super().__init__(folder, database_url, redis_url, Fernet.generate_key().decode())
        self.image = image
        self.port = 8000  # the one of the image's command and health check
        self.url = f"http://127.0.0.1:{self.port}"
        asked = {
            name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ENCRYPTION_KEYS")
        }
        self.environment = image.environment() | asked | {"OPENREMEDY_RATE_LIMIT": "0"}

    def _command(self, name: str) -> list[str]:
        return self.image.command() if name == "web" else self.image.command("flask", name)

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """One command in a container of its own."""
        return subprocess.run(
            self.image.command(*words), env=self.environment, input=text, capture_output=True, text=True, check=False
        )

    def flask(self, *arguments: str, text: str | None = None) -> dict[str, Any]:
        done = self.run("flask", *arguments, "--json", text=text)
        if done.returncode:
            sys.exit(f"flask {' '.join(arguments)} failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def end(self, name: str) -> int:
        """SIGTERM to process 1 of the container, as an engine stops it."""
        process = self.processes.pop(name)
        os.kill(_family(process.pid)[1], signal.SIGTERM)
        return process.wait(timeout=100)

    def create_tenant(self) -> None:
        self.secret = self.flask("tenant", "create", self.slug)["webhook_secret"]
        self.flask("recipe", "import", self.slug, "config/recipes.yaml")
        self.token = self.flask("token", "create", self.slug)["token"]


def main() -> int:
    """Build, run, and print what was found; 1 when something is not as it should be."""
    if os.geteuid() != 0:
        sys.exit("This needs root: it mounts and changes its root.")
    if gone := [name for name in ("buildah", "debootstrap", "unshare", "setpriv") if not shutil.which(name)]:
        sys.exit(f"{', '.join(gone)} is missing.")
    with tempfile.TemporaryDirectory(prefix="openremedy-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with built(folder) as image, running(image, folder) as here:
            wrong = [text for text, right in findings(here) if not told(text, right)]
    print("Not as it should be:" if wrong else "The image is as it should be.", *wrong, sep="\n")
    return bool(wrong)


def told(text: str, right: bool) -> bool:
    """Print a finding; gives `right`."""
    print(f"{'ok' if right else 'WRONG':5} {text}", flush=True)
    return right


@contextmanager
def built(folder: Path) -> Iterator[Image]:
    """The image, with how long it took and how large it is."""
    image = Image(folder / "store")
    try:
        image.make_base(folder / "base")
        started = time.monotonic()
        image.build()
        print(f"built in {time.monotonic() - started:.0f} s, on a stand-in for {BASE}")
        for label, path in (("base", folder / "base"), ("image", image.root), ("packages", image.root / "opt/venv")):
            print(f"{label}: {_size(path)} MB")
        yield image
    finally:
        image.buildah("umount", "--all")


def _size(path: Path) -> int:
    return sum(one.lstat().st_size for one in path.rglob("*")) >> 20


@contextmanager
def running(image: Image, folder: Path) -> Iterator[Containers]:
    """The service of the image, with databases of its own."""
    with services.redis() as redis, services.postgres() as database:
        here = Containers(image, folder, database.create_database("openremedy"), redis.url)
        try:
            yield here
        finally:
            here.stop()


def findings(here: Containers) -> Iterator[tuple[str, bool]]:
    """What is looked at, and whether it is right."""
    image = here.image
    yield "it runs as a number, not as root", image.config["User"] == "10001:10001"
    yield "no pip in it", not [*image.root.glob("opt/venv/lib/*/site-packages/pip*")]
    tests = [path.name for path in image.root.glob("app/**/*test*.py")]
    yield f"no tests in it {tests or ''}", not tests
    migrated = here.run("flask", "db", "upgrade")
    yield f"flask db upgrade {migrated.stderr[-200:] if migrated.returncode else ''}", migrated.returncode == 0
    reads = here.run("python", "-c", READS)
    yield f"every file that is read later is there {reads.stderr[-200:]}", reads.returncode == 0
    written = here.run("python", "-c", FORBIDDEN)
    yield "nothing can be written", written.returncode != 0 and "Read-only file system" in written.stderr
    here.create_tenant()
    here.start("web", "worker", "scheduler")
    ready = requests.get(f"{here.url}/readyz", timeout=10)
    yield f"/readyz {ready.text.strip()}", (ready.status_code, ready.json()["status"]) == (200, "ok")
    health = image.config["Healthcheck"]["Test"]
    yield "the health check is in exec form", health[0] == "CMD"
    yield "it says that the web process is well", here.run(*health[1:]).returncode == 0
    here.send().raise_for_status()
    (incident,) = here.classified(1)
    recipe = incident["verdict"]["recipe"]
    yield f"an alert is an incident with the recipe {recipe}", recipe == "disk-full"
    for name in ("web", "worker", "scheduler"):
        yield f"{name} has no right beyond its user's", all(map(_unprivileged, _family(here.processes[name].pid)[1:]))
    for name in ("scheduler", "worker", "web"):
        code = here.end(name)
        yield f"{name} ends by SIGTERM with {code}", code == 0
    yield "the health check says that nobody answers any more", here.run(*health[1:]).returncode == 1


def _family(pid: int) -> list[int]:
    """The process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _unprivileged(pid: int) -> bool:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    nobody = set(status["Uid"].split()) == {"10001"}
    return nobody and int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
