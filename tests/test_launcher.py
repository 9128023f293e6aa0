"""`make run` as a newcomer meets it: one start, a pasted curl, Ctrl-C, a second start, and crashes in between."""

import fcntl
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.fernet import Fernet

from launched import Launcher, processes
from services import free_port, until


def paste(command: str) -> dict[str, Any]:
    """Run a printed command as a person does, through a shell."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts launchers that share one data folder, and leaves none behind."""
    port = free_port()
    started: list[Launcher] = []

    def starter(*options: str, **settings: str) -> Launcher:
        started.append(Launcher(tmp_path / "data", port, *options, **settings))
        return started[-1]

    yield starter
    for launcher in started:
        launcher.process.kill()
        launcher.ended()


@pytest.mark.slow
def test_a_newcomer_gets_a_verdict_and_loses_nothing_by_restarts_and_crashes(start: Any) -> None:
    launcher = start().wait_until_ready()
    send, read = launcher.command("Send a first alert"), launcher.command("Read it back, classified")
    set_up = launcher.command("Set up your account (this link works once, for 72 hours)")
    assert requests.get(set_up, timeout=10).status_code == 200
    assert paste(send)["outcome"] == "created"

    def verdict() -> Any:
        return paste(read)["items"][0]["verdict"]

    assert until(verdict, "a verdict", 30)["recipe"]

    below = launcher.everything()
    assert len(below) >= 6
    assert launcher.interrupt() == 0, launcher.output
    assert not set(below) & set(processes()), "left behind"

    launcher = start().wait_until_ready()
    assert "webhook secret" not in launcher.output.replace("The webhook secret was shown", "")
    assert "rotate-secret my-company" in launcher.output
    assert verdict()["recipe"]

    # A new link takes the place of the first; it makes the first account, and then there is none any more.
    assert requests.get(set_up, timeout=10).status_code == 404
    set_up = launcher.command("Set up your account (this link works once, for 72 hours)")
    with requests.Session() as browser:
        (token,) = re.findall(r'name="csrf_token" value="([^"]+)"', browser.get(set_up, timeout=10).text)
        fields = {"csrf_token": token, "email": "root@example.com", "password": "a long and good password"}
        assert browser.post(set_up, data=fields, timeout=10).url.endswith("/t/my-company/")

    for name in ("worker", "scheduler", "web", "redis"):
        launcher.crash(name)
    until(lambda: subprocess.run(read, shell=True, capture_output=True, check=False).returncode == 0, "the web back")
    until(lambda: paste(send)["outcome"] == "updated", "a repeat", 30)
    assert paste(read)["items"][0]["occurrences"] >= 2

    # The launcher itself: what it started must not live on, and the next start waits for the slowest of it.
    below = launcher.everything()
    assert [pid for pid in below if not holds(pid, launcher.data_dir / "run" / "programs.lock")] == []
    launcher.process.kill()
    launcher = start().wait_until_ready()
    assert not set(below) & set(processes()), "orphans"
    assert "/link/" not in launcher.output
    assert paste(read)["items"][0]["verdict"]["recipe"]
    assert launcher.interrupt() == 0


def holds(pid: int, file: Path) -> bool:
    """Whether the process has this file open."""
    opened = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
    return str(file) in opened


def test_a_start_waits_for_the_last_program_of_the_run_before(tmp_path: Path) -> None:
    lock = tmp_path / "data" / "run" / "programs.lock"
    lock.parent.mkdir(parents=True)
    tether = [sys.executable, "-m", "openremedy.tether", str(lock)]
    with socket.create_server(("127.0.0.1", 0)) as port, subprocess.Popen([*tether, "sleep", "60"]) as left:
        until(lambda: holds(left.pid, lock), "the program")
        launcher = Launcher(tmp_path / "data", port.getsockname()[1])
        until(lambda: launcher.output, "a word")
        left.kill()
        assert launcher.ended() == 2
    waits, over = launcher.output.splitlines()
    assert "Waiting for the programs of the last run to stop" in waits
    assert "is taken" in over, "the next thing that it looks at"


def test_a_program_whose_supervisor_is_gone_does_not_begin_beside_the_next_start(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tether = [sys.executable, "-m", "openremedy.tether", lock.name]
        late = subprocess.run([*tether, "echo", "begun"], capture_output=True, text=True, timeout=20, check=False)
    assert "BlockingIOError" in late.stderr
    assert "begun" not in late.stdout


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        launcher = Launcher(tmp_path / "data", other.getsockname()[1])
        assert launcher.ended() == 2
    assert launcher.output.count("\n") == 1
    assert "is taken" in launcher.output
    assert "OPENREMEDY_PORT" in launcher.output


def test_a_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "data", free_port(), DATABASE_URL="postgresql://127.0.0.1/none")
    assert launcher.ended() == 2
    assert launcher.output.count("\n") == 1
    assert "SECRET_KEY is required" in launcher.output


def test_a_second_start_in_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "launcher.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        launcher = Launcher(tmp_path, free_port())
        assert launcher.ended() == 2
    assert launcher.output.count("\n") == 1
    assert "already runs" in launcher.output


# ---------------------------------------------------------------- make demo


@pytest.mark.slow
def test_a_demo_is_filled_once_says_who_can_sign_in_and_opens_a_browser(start: Any, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    screen = {"DISPLAY": ":99", "BROWSER": f"{browser} %s &"}

    launcher = start("--demo", **screen).wait_until_ready()
    url = re.search(r"Open (\S+/t/demo/) and sign in", launcher.output)
    assert url, launcher.output
    assert "my-company" not in launcher.output
    password = re.search(r"ada@example.com +admin +(\S+)", launcher.output)
    assert password
    until(opened.exists, "the browser")
    assert opened.read_text() == f"{url[1]}\n"
    with requests.Session() as session:
        page = session.get(url[1], timeout=20)
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token, page.text
        form = {"csrf_token": token[1], "email": "ada@example.com", "password": password[1]}
        # Not to the page that asked: wherever the form was, it is sent to the sign-in.
        session.post(url[1].replace("/t/demo/", "/sign-in"), data=form, timeout=20)
        assert session.get(url[1], timeout=20).url == url[1]
    assert launcher.interrupt() == 0

    launcher = start("--demo").wait_until_ready()
    assert url[1] in launcher.output
    assert password[1] not in launcher.output
    assert "The passwords were shown at the first start." in launcher.output
    assert opened.read_text() == f"{url[1]}\n", "no screen, no browser"
    assert launcher.interrupt() == 0


def test_a_demo_does_not_go_into_a_database_of_somebody(tmp_path: Path) -> None:
    settings = {"SECRET_KEY": secrets.token_urlsafe(48), "ENCRYPTION_KEYS": Fernet.generate_key().decode()}
    launcher = Launcher(tmp_path, free_port(), "--demo", DATABASE_URL="postgresql://127.0.0.1/none", **settings)
    assert launcher.ended() == 2
    assert launcher.output.count("\n") == 1
    assert "unset DATABASE_URL" in launcher.output
