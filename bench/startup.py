"""What a process costs before it does anything: its start, its first answer, its memory."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

import services
from bench.servers import ROOT, OpenRemedy

NEVER_IN_WEB = ("openai", "openremedy.classifier.lexical", "openremedy.classifier.client", "snowballstemmer")


def measured(installation: OpenRemedy, runs: int) -> dict[str, Any]:
    """Seconds and megabytes, the median of a few starts."""
    return {
        "import_seconds": sorted(_import() for _ in range(runs))[runs // 2],
        "first_answer_seconds": sorted(_first_answer(installation) for _ in range(runs))[runs // 2],
        "web_mb": _memory(installation.stack.processes["web"].pid),
        "worker_mb": _worker(installation),
        "imported_by_web": _imported(installation),
    }


def _import() -> float:
    code = "import time; began = time.perf_counter(); import openremedy.app; print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 3)


def _first_answer(installation: OpenRemedy) -> float:
    stack = installation.stack
    stack.kill("web")
    began = time.perf_counter()
    stack.start("web")
    requests.get(f"{stack.url}/healthz", timeout=5).raise_for_status()
    return round(time.perf_counter() - began, 3)


def _memory(pid: int) -> list[float]:
    """Resident megabytes of each process that does the work: the children, or the process itself."""
    return [round(_resident(one) / 1024, 1) for one in services.children(pid) or [pid]]


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def _worker(installation: OpenRemedy) -> list[float]:
    stack = installation.stack
    stack.start("worker")
    stack.send().raise_for_status()
    services.until(lambda: stack.incidents()[-1]["classification"] != "pending", "a worker has classified", 60)
    try:
        return _memory(stack.processes["worker"].pid)
    finally:
        stack.kill("worker")


def _imported(installation: OpenRemedy) -> list[str]:
    """Of the modules that a web process must not pay for, those that it has after it has taken an alert."""
    code = (
        "import sys, wsgi; client = wsgi.app.test_client(); client.get('/healthz'); client.get('/sign-in');"
        " client.post('/api/v1/webhooks/alerts/x', data=b'{}'); print(*[name for name in sys.argv[1:] if name in"
        " sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *NEVER_IN_WEB],
        cwd=ROOT,
        env=installation.stack.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
