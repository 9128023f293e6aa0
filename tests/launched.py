"""`make run` as a process of its own, with what it prints and what runs below it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from leaks import watch
from services import children, until

ROOT = Path(__file__).resolve().parents[1]
OURS = re.compile(
    r"DISPLAY|WAYLAND_DISPLAY|BROWSER|DATABASE_URL|REDIS_URL|SECRET_KEY(_FALLBACKS)?|ENCRYPTION_KEYS|OPENAI_.*|OPENREMEDY_.*|FLASK_.*"
)
PROGRAMS = {
    "redis": "valkey-server",
    "worker": "flask --app wsgi worker",
    "scheduler": "flask --app wsgi scheduler",
    "web": "gunicorn",
}


class Launcher:
    """One `python -m openremedy.launcher`, and what it has printed so far."""

    def __init__(self, data_dir: Path, port: int, *options: str, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not OURS.fullmatch(name)}
        environment |= {"OPENREMEDY_DATA_DIR": str(data_dir), "OPENREMEDY_PORT": str(port), **settings}
        self.data_dir = data_dir
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "openremedy.launcher", *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_until_ready(self) -> "Launcher":
        def ready_or_over() -> bool:
            return "Stop with Ctrl-C." in self.output or self.process.poll() is not None

        until(ready_or_over, "the start", 120)
        assert self.process.poll() is None, self.output
        assert "OpenRemedy is ready at" in self.output, self.output
        return self

    def command(self, title: str) -> str:
        """The line that the launcher prints under `title`, to be pasted."""
        return self.output.split(f"{title}:\n")[1].splitlines()[0].strip()

    def program(self, name: str) -> int | None:
        """Process id of a program under the supervisor (for the web: gunicorn's master)."""
        table = processes()
        (supervisord,) = [pid for pid, (parent, _) in table.items() if parent == self.process.pid]
        found = [pid for pid, (parent, words) in table.items() if parent == supervisord and PROGRAMS[name] in words]
        return found[0] if found else None

    def crash(self, name: str) -> None:
        """kill -9 a program, and wait until another one runs in its place."""
        killed = self.program(name)
        assert killed, f"{name} does not run"
        # Gunicorn's workers outlive their master for a moment, and go on answering.
        family = {killed, *children(killed)}
        os.kill(killed, signal.SIGKILL)
        until(lambda: not family & set(processes()) and self.program(name), f"another {name}", 60)

    def everything(self) -> list[int]:
        """All processes below the launcher."""
        table = processes()
        found = [self.process.pid]
        for pid in found:
            found.extend(child for child, (parent, _) in table.items() if parent == pid)
        return found[1:]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(timeout=120)
        self.reader.join(timeout=10)
        watch.launcher(self.output, self.data_dir)
        return code


def processes() -> dict[int, tuple[int, str]]:
    """Process id to parent and command line; without those that ended and wait for their parent."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 3) for line in listed.stdout.splitlines())
    return {int(pid): (int(parent), words) for pid, parent, state, words in rows if not state.startswith("Z")}
