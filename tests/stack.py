"""The whole service as its own processes: gunicorn, workers, scheduler, on private databases and ports."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from cast import DISK_FULL, sign
from leaks import watch
from openremedy.tether import die_with_parent
from services import START_WAIT, free_port, until

ROOT = Path(__file__).parent.parent

Command = tuple[tuple[str, ...], str | None]  # the words after `flask`, and its standard input
# Several commands of one process: most of the time of one is the import of the application.
_SEVERAL = """
import json, sys
from wsgi import app
run = app.test_cli_runner().invoke
done = [run(args=[*words, "--json"], input=text) for words, text in json.load(sys.stdin)]
if failed := [one.output for one in done if one.exit_code]:
    sys.exit("".join(failed))
print(json.dumps([json.loads(one.stdout) for one in done]))
"""


def several(environment: dict[str, str], *commands: Command) -> list[dict[str, Any]]:
    """The JSON that these `flask … --json` commands print, one after another."""
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL],
        cwd=ROOT,
        env=environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


class Stack:
    """Processes of one installation. Each ends with the test, also with a killed one."""

    start_wait = START_WAIT

    def __init__(self, folder: Path, database_url: str, redis_url: str, encryption_key: str) -> None:
        self.port = free_port()
        self.ports: dict[str, int] = {}  # of a further web process by its name; the others have `port`
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("OPENAI", "OPENREMEDY", "OTEL"))
            },
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": encryption_key,
            "OPENREMEDY_PORT": str(self.port),
            "OPENREMEDY_DATA_DIR": str(folder / "data"),
            "OPENREMEDY_RATE_LIMIT": "0",
        }
        for name in ("SECRET_KEY", "ENCRYPTION_KEYS"):
            watch.learn(self.environment[name], name)
        self.secret = ""
        self.token = ""
        self.slug = "alice"

    # ------------------------------------------------------------ processes

    def start(self, *names: str) -> None:
        """Start web, worker, scheduler (any of them), and wait until the web answers."""
        for name in names:
            log = (self.folder / f"{name}.log").open("ab")
            self.processes[name] = subprocess.Popen(
                self._command(name),
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            log.close()
        for name in names:
            if name.startswith("web"):
                until(lambda name=name: self._answers(name), f"{name} answers", self.start_wait)

    def _command(self, name: str) -> list[str]:
        if name.startswith("web"):
            return [
                *(sys.executable, "-m", "gunicorn", "--config", "config/gunicorn.conf.py"),
                *("--bind", f"127.0.0.1:{self.ports.get(name, self.port)}", "wsgi:app"),
            ]
        return [sys.executable, "-m", "flask", "--app", "wsgi", name.split("-")[0]]

    def _answers(self, name: str) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.ports.get(name, self.port)}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def kill(self, name: str) -> None:
        """`kill -9` of a process and everything it started."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watch.log_of(self.folder / f"{name}.log")

    def end(self, name: str) -> int:
        """SIGTERM, as a supervisor stops a process; returns its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        code = process.wait(timeout=60)
        watch.log_of(self.folder / f"{name}.log")
        return code

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.folder / f"{name}.log").read_text()

    # ------------------------------------------------------------ as its users

    def flask(self, *arguments: str, text: str | None = None) -> dict[str, Any]:
        """The JSON a `flask … --json` command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments, "--json"],
            cwd=ROOT,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def create_tenant(self, *adapters: str) -> list[dict[str, Any]]:
        """Alice's tenant with the starter recipes and, which are returned, a source of each of these adapters; by the
        commands an operator uses.
        """
        created, _, token, *sources = several(
            self.environment,
            (("tenant", "create", self.slug), None),
            (("recipe", "import", self.slug, "config/recipes.yaml"), None),
            (("token", "create", self.slug, "--role", "admin"), None),
            *((("source", "add", self.slug, adapter), None) for adapter in adapters),
        )
        self.secret, self.token = created["webhook_secret"], token["token"]
        return sources

    def send(self, body: dict[str, Any] | None = None, timeout: float = 30, **changes: Any) -> requests.Response:
        """Post a signed alert."""
        raw = json.dumps({**(body or DISK_FULL), **changes}).encode()
        headers = {"X-OpenRemedy-Signature": sign(self.secret, raw), "Content-Type": "application/json"}
        return requests.post(
            f"{self.url}/api/v1/webhooks/alerts/{self.slug}", data=raw, headers=headers, timeout=timeout
        )

    def send_many(self, bodies: list[dict[str, Any]], at_once: int = 8) -> list[requests.Response]:
        """Post several alerts, some at once."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.send, bodies))

    def get(self, path: str, **query: Any) -> Any:
        """A successful GET of the API."""
        answer = requests.get(
            f"{self.url}/api/v1{path}", params=query, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )
        answer.raise_for_status()
        return answer.json()

    def incidents(self, **query: Any) -> list[dict[str, Any]]:
        """All incidents, page by page."""
        items: list[dict[str, Any]] = []
        cursor = {}
        while True:
            page = self.get("/incidents", limit=200, **query, **cursor)
            items += page["items"]
            if not page["next_cursor"]:
                return items
            cursor = {"cursor": page["next_cursor"]}

    def classified(self, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        """Wait until `count` incidents exist and none waits for its verdict; returns them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.incidents()
            waiting = [one for one in found if one["classification"] in ("pending", "classifying")]
            if len(found) >= count and not waiting:
                return found
            time.sleep(0.2)
        raise TimeoutError(f"{len(found)} incidents, {len(waiting)} without an answer after {seconds} seconds")
