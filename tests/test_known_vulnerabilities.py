"""`make audit` fails on a known vulnerability, and never says that it has looked where it has not."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services import free_port

ROOT = Path(__file__).parent.parent
CANARY = "pycrypto"
Known = Callable[[str], bool]
Done = subprocess.CompletedProcess[str]


@contextmanager
def advisories(known: Known, status: int = 200) -> Iterator[str]:
    """A service that speaks the protocol of OSV and has an advisory for these packages."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(advisory(asked) if known(asked["package"]["name"]) else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def advisory(asked: dict[str, Any]) -> dict[str, Any]:
    """As https://ossf.github.io/osv-schema/ has it."""
    fixed = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
    affected = [{"package": asked["package"], "ranges": fixed}]
    return {"vulns": [{"id": f"TEST-{asked['package']['name']}", "summary": "A hole", "affected": affected}]}


def audit(url: str, *arguments: str) -> Done:
    return subprocess.run(
        [sys.executable, "scripts/audit.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PIP_AUDIT_OSV_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def counts(done: Done) -> tuple[int, int]:
    """How many packages it has audited, of how many."""
    found = re.fullmatch(r"audited (\d+) of (\d+) packages", done.stdout.splitlines()[-1])
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2])


def test_every_locked_package_is_audited() -> None:
    with advisories(lambda name: name == CANARY) as url:
        done = audit(url)
    assert done.returncode == 0, done.stdout + done.stderr
    audited, all_of_them = counts(done)
    pins = {
        line.split()[0]
        for lock in ROOT.glob("requirements*.txt")
        for line in lock.read_text().splitlines()
        if re.match(r"\w", line)
    }
    assert audited == all_of_them == len(pins)
    assert "WARNING" not in done.stdout


def test_a_known_vulnerability_fails_and_names_the_release_that_mends_it() -> None:
    with advisories(lambda name: name in (CANARY, "flask")) as url:
        done = audit(url)
    assert done.returncode == 1
    assert re.search(r"^VULNERABLE: flask \S+: TEST-flask, fixed in 99\.1$", done.stdout, re.MULTILINE)
    assert done.stdout.count("VULNERABLE") == 1
    assert counts(done)[0] > 100


def test_one_that_is_accepted_can_be_left_out() -> None:
    with advisories(lambda name: name in (CANARY, "flask")) as url:
        done = audit(url, "--ignore-vuln=TEST-flask")
    assert done.returncode == 0
    assert counts(done)[0] > 100


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_service_without_advisories_is_not_believed(status: int) -> None:
    with advisories(lambda name: False, status) as url:
        done = audit(url)
    assert done.returncode == 0
    assert counts(done)[0] == 0
    assert "WARNING: no advisory service could be asked" in done.stdout


def test_a_service_that_is_away_is_no_failure_and_is_said() -> None:
    done = audit(f"http://127.0.0.1:{free_port()}/v1/query")
    assert done.returncode == 0
    assert counts(done)[0] == 0
    assert "osv told nothing" in done.stdout


def test_what_pip_audit_itself_does_not_understand_is_a_failure() -> None:
    with advisories(lambda name: name == CANARY) as url:
        done = audit(url, "--no-such-argument")
    assert done.returncode == 2
    assert "--no-such-argument" in done.stderr
