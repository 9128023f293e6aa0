"""The documentation cannot lie: its commands run, its examples are accepted, and it names all there is and no more.

`make run` and `make test` themselves are what tests/test_launcher.py and CI run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import requests
from flask import Flask
from flask_migrate.cli import db as migrations

from cast import sign
from openremedy import errors, responses
from services import RedisServer, missing, until
from stack import Stack

ROOT = Path(__file__).parent.parent
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("adapters/**/*.md")]
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def code(path: Path) -> list[str]:
    """Every line of a fenced block and every span of code."""
    text = path.read_text("utf-8")
    fenced = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w+\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [line for block in fenced for line in block.splitlines()] + spans


# ---------------------------------------------------------------- a running service


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, redis_server: RedisServer
) -> Iterator[Stack]:
    """The whole service with a worker, as a newcomer has it: tenant my-company with the starter recipes."""
    from conftest import ENCRYPTION_KEY

    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(sqlite_template, folder / "openremedy.db")
    redis_server.flushall()
    stack = Stack(folder, f"sqlite:///{folder}/openremedy.db", redis_server.url, ENCRYPTION_KEY)
    stack.slug = "my-company"
    try:
        stack.create_tenant()
        stack.start("web", "worker")
        yield stack
    finally:
        stack.stop()


def run(stack: Stack, words: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in the stack's folder, as its operator or client."""
    return subprocess.run(
        words,
        cwd=stack.folder,
        env=stack.environment | {"FLASK_APP": str(ROOT / "wsgi.py")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_readme_works_from_top_to_bottom(running: Stack) -> None:
    replaced = {
        "the-webhook-secret": running.secret,
        "the-viewer-token": running.token,
        "127.0.0.1:8000": f"127.0.0.1:{running.port}",
        ".venv/bin/flask": f"{shlex.quote(sys.executable)} -m flask",
    }
    prepare, *steps = blocks(ROOT / "README.md", "bash")
    said = []
    until(lambda: run(running, [sys.executable, "-m", "flask", "doctor"]).returncode == 0, "a worker")
    for step in steps:
        text = f"set -euo pipefail\n{prepare}\n{step}"
        for words, with_words in replaced.items():
            text = text.replace(words, with_words)
        done = run(running, ["bash", "-c", text])
        assert done.returncode == 0, (step, done.stdout, done.stderr)
        said.append(done.stdout)
        running.classified(1)
    created, read, resolved, source, imported, doctor = said
    assert json.loads(created)["outcome"] == "created"
    assert json.loads(read)["items"][0]["verdict"]["recipe"]
    assert json.loads(resolved)["outcome"] == "resolved"
    assert "/api/v1/webhooks/alertmanager/my-company" in source
    assert "0 recipes added, 0 changed" in imported
    assert "fail" not in doctor


CLIENTS = {"bash": ("bash", "bash", "disk_full"), "python": ("python", sys.executable, "cpu_high")}
CLIENTS["node"] = ("js", "node", "disk_full")


@pytest.fixture(params=list(CLIENTS))
def client_program(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[str], str]:
    """The command that runs a client of docs/clients as it stands there, and the type of its alert."""
    language, program, incident_type = CLIENTS[request.param]
    if not shutil.which(program):
        missing(program, f"the {request.param} client of docs/clients; on Debian and Ubuntu: apt-get install nodejs")
    file = tmp_path / f"send.{language}"
    file.write_text(blocks(ROOT / "docs" / "clients" / f"{request.param}.md", language)[0])
    return [program, str(file)], incident_type


def test_a_client_is_accepted_as_it_stands(running: Stack, client_program: tuple[list[str], str]) -> None:
    words, incident_type = client_program
    done = run(running, words, OPENREMEDY_URL=running.url, OPENREMEDY_SECRET=running.secret)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"] in ("created", "updated")
    assert answer["warnings"] == []
    incident = running.get(f"/incidents/{answer['incident_id']}")
    assert (incident["hostname"], incident["incident_type"]) == ("web-01", incident_type)


def test_a_client_with_the_wrong_secret_is_refused_and_says_so(
    running: Stack, client_program: tuple[list[str], str]
) -> None:
    done = run(running, client_program[0], OPENREMEDY_URL=running.url, OPENREMEDY_SECRET="of somebody else")
    assert done.returncode != 0
    assert json.loads(done.stdout)["error"]["code"] == "unauthorized"


def test_an_unsigned_client_gets_the_answer_that_the_documentation_shows(running: Stack) -> None:
    shown = [json.loads(block) for block in blocks(ROOT / "docs/clients/README.md", "json") if "error" in block]
    url = f"{running.url}/api/v1/webhooks/alerts"
    body = b'{"hostname": "web-01", "incident_type": "disk_full"}'
    answers = [requests.post(f"{url}/{slug}", data=body, timeout=10) for slug in ("my-company", "nobody")]
    for answer in answers:
        assert answer.status_code == 401
        assert set(answer.json()) == set(shown[0])
        assert set(answer.json()["error"]) == set(shown[0]["error"])
        assert answer.json()["error"]["code"] == shown[0]["error"]["code"]
    assert answers[0].json()["error"] == answers[1].json()["error"]


def test_the_bash_client_keeps_its_secret_out_of_every_argument_list(running: Stack, tmp_path: Path) -> None:
    spies, log = tmp_path / "spies", tmp_path / "arguments"
    spies.mkdir()
    for program in ("curl", "openssl", "od", "tr"):
        spy = spies / program
        spy.write_text(f'#!/bin/sh\necho "{program} $*" >> {log}\nexec {shutil.which(program)} "$@"\n')
        spy.chmod(0o755)
    script = blocks(ROOT / "docs/clients/bash.md", "bash")[0]
    path = f"{spies}:{os.environ['PATH']}"
    done = run(running, ["bash", "-c", script], PATH=path, OPENREMEDY_URL=running.url, OPENREMEDY_SECRET=running.secret)
    assert done.returncode == 0, done.stderr
    arguments = log.read_text()
    assert {"curl", "openssl", "od", "tr"} <= {line.partition(" ")[0] for line in arguments.splitlines()}
    assert running.secret not in arguments
    assert running.secret.encode().hex() not in arguments


def test_the_short_form_of_the_signature_is_the_same_one() -> None:
    (line,) = [one for one in code(ROOT / "docs/clients/bash.md") if one.startswith("signature=$(") and "-hmac" in one]
    environment = {
        "PATH": os.environ["PATH"],
        "OPENREMEDY_SECRET": "It's a Secret to Everybody",
        "body": "Hello, World!",
    }
    script = f'{line}; printf %s "$signature"'
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert f"sha256={done.stdout}" == sign("It's a Secret to Everybody", b"Hello, World!")


def test_the_signature_to_check_ones_own_code_by_is_right() -> None:
    text = (ROOT / "docs/clients/README.md").read_text()
    secret, body = re.findall(r"with the secret `([^`]+)` the body `([^`]+)`", text)[0]
    assert sign(secret, body.encode()) in text


def test_every_example_of_evidence_is_accepted(running: Stack) -> None:
    examples = [json.loads(block) for block in blocks(ROOT / "docs/evidence.md", "json")]
    assert {one["incident_type"] for one in examples} == {
        *("disk_full", "cpu_high", "memory_high", "service_down", "port_unavailable", "custom")
    }
    for example in examples:
        answer = running.send(example)
        assert answer.status_code == 202, answer.text
        assert answer.json()["warnings"] == []


# ---------------------------------------------------------------- commands


def commands(app: Flask) -> dict[str, click.Command]:
    """Every command by its words; `db` is Flask-Migrate's."""
    found: dict[str, click.Command] = {}

    def walk(prefix: str, group: dict[str, click.Command]) -> None:
        for name, command in group.items():
            if isinstance(command, click.Group):
                walk(f"{prefix}{name} ", command.commands)
            else:
                found[f"{prefix}{name}"] = command

    walk("", app.cli.commands | {"db": migrations})
    return found


def options(command: click.Command) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts if word.startswith("--")}


OURS = re.compile(
    r"(tenant|source|outgoing|user|token|recipe|classify) \w|worker|scheduler|sweep|prune|replay|doctor|demo"
)


@ON_ONE
def test_every_flask_command_in_the_documentation_exists_with_its_options(app: Flask) -> None:
    known = commands(app)
    checked = 0
    for path in DOCS:
        for line in code(path):
            for words in re.findall(r"(?:^|\s|/)flask ([a-z][^>|;&]*(?:\|[a-z-]+[^>;&]*)?)", line):
                parts = [word.strip("[]") for word in words.split()]
                name = next((name for name in (" ".join(parts[:2]), parts[0]) if name in known), None)
                group = parts[0] in app.cli.commands and len(parts) == 1  # `flask recipe` as a word for all of them
                assert name or group, f"{path.name}: flask {words}"
                used = {part.split("=")[0] for part in parts if part.startswith("--")}
                if name:
                    assert used <= options(known[name]) | {"--help", "--json"}, f"{path.name}: flask {words}"
                    checked += 1
    assert checked > 30


@ON_ONE
def test_every_command_and_option_is_documented(app: Flask) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    ours = {name: command for name, command in commands(app).items() if OURS.match(name)}
    assert set(sections) == set(ours)
    for name, command in ours.items():
        named = set(re.findall(r"--[a-z][a-z-]*", sections[name]))
        assert named == options(command) - {"--json"}, name


# ---------------------------------------------------------------- settings, errors, routes


def test_every_setting_is_documented_and_nothing_else() -> None:
    source = (ROOT / "config" / "settings.py").read_text()
    head, _, prefixed = source.partition("def _prefixed(")
    prefixed, _, tail = prefixed.partition("\ndef ")
    read = r'env\.(?!prefixed)\w+\(\s*"([A-Z_]+)"'
    names = set(re.findall(read, head + tail)) | {f"OPENREMEDY_{name}" for name in re.findall(read, prefixed)}
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(names) >= 23
    assert sorted(rows) == sorted(names)


def test_every_error_code_is_documented_and_nothing_else() -> None:
    codes = set(responses.CODES.values())
    codes |= {one.code for one in (errors.Problem, *errors.Problem.__subclasses__())}
    for path in (ROOT / "openremedy").rglob("*.py"):
        codes |= set(re.findall(r'\bcode="(\w+)"', path.read_text()))
    listed = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {name for name, _ in listed} == codes
    statuses = {name: status for status, name in responses.CODES.items()}
    assert all(str(statuses.get(name, status)) == status for name, status in listed)


@ON_ONE
def test_every_endpoint_is_documented_and_nothing_else(app: Flask) -> None:
    listed = re.findall(r"^\| `([A-Z]+) (\S+)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    # The endpoints of the adapters are one line; what is special about each is in the README of its folder.
    routes = {
        ("POST", "/api/v1/webhooks/<adapter>/<tenant>") if rule.endpoint.startswith("native_") else (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule not in ("/api/v1/openapi.json", "/api/docs")
        and not rule.endpoint.startswith("ui.")  # pages, for people: tests/ui_routes.py has them all
    }
    assert set(listed) == routes


# ---------------------------------------------------------------- links, words


def test_every_link_leads_to_a_file_that_is_there() -> None:
    for path in DOCS:
        for link in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_every_program_that_the_makefile_is_said_to_have_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCS:
        for line in code(path):
            for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
                assert target in targets, f"{path.name}: make {target}"


def test_every_decision_is_half_a_page_in_the_same_order() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    for number, path in enumerate(records, 1):
        text = path.read_text()
        assert path.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        places = [text.index(word) for word in ("Date: ", "**Context.**", "**Decision.**", "**Consequences.**")]
        assert places == sorted(places)
        assert len(text.split()) <= 250


def test_json_in_the_documentation_is_json() -> None:
    for path in DOCS:
        for block in blocks(path, "json"):
            found: Any = json.loads(block)
            assert isinstance(found, dict)


def test_the_proxy_of_the_page_is_the_file_that_is_deployed() -> None:
    (shown,) = blocks(ROOT / "docs/scaling.md", "nginx")
    assert shown == (ROOT / "deploy/nginx.conf").read_text()
