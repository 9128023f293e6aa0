"""`flask outgoing …`: what an admin does on the pages, by a program."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from cast import Tenant
from leaks import watch
from openremedy import cli_outgoing
from openremedy.crypto import Vault
from openremedy.extensions import db
from openremedy.models import OutgoingEndpoint
from openremedy.services import services
from receiver import Receiver
from test_cli import Shell, rows
from test_outgoing import add, sending

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
URL = "https://hooks.example.com/of-the-command-line"
HEADER = "Authorization: Bearer of-the-other-side"


@pytest.fixture
def shell(app: Flask) -> Shell:
    return Shell(app)


@pytest.fixture
def added(shell: Shell, alice: Tenant) -> dict[str, Any]:
    """An endpoint `chat` of alice's tenant, as `outgoing add` answers."""
    watch.public |= {URL, URL + "/2", HEADER}  # typed here as words of a command line
    answer: dict[str, Any] = shell.json("outgoing", "add", "alice", "chat", URL)
    return answer


def locked(app: Flask) -> tuple[str, str | None]:
    """The address and the header of the only endpoint, as they are sent."""
    with app.app_context():
        vault: Vault = services().vault
        (one,) = db.session.scalars(db.select(OutgoingEndpoint))
        return vault.unlock(one.locked_url), one.locked_header and vault.unlock(one.locked_header)


def test_an_endpoint_is_added_with_the_usual_events_and_its_secret_is_printed_once(
    shell: Shell, added: dict[str, Any], app: Flask
) -> None:
    assert added["secret"].startswith("whsec_")
    assert added["events"] == ["created", "classified", "needs_human", "resolved"]
    (listed,) = shell.json("outgoing", "list", "alice")["items"]
    assert listed == {name: value for name, value in added.items() if name != "secret"}
    assert listed == {
        "id": added["id"],
        "name": "chat",
        "format": "standard",
        "host": "hooks.example.com",
        "events": ["created", "classified", "needs_human", "resolved"],
        "header": False,
        "disabled": False,
        "disabled_reason": None,
        "failing_since": None,
        "last_sent": None,
        "waiting": 0,
    }
    assert locked(app) == (URL, None)


@ON_ONE
def test_what_is_secret_comes_from_standard_input(shell: Shell, alice: Tenant, app: Flask) -> None:
    watch.public |= {URL, HEADER}
    words = ("outgoing", "add", "alice", "engine", "-", "--header", "-", "--event", "accepted", "--format", "awx")
    answer = shell.json(*words, text=f"{URL}\n{HEADER}\n")
    assert (answer["format"], answer["events"], answer["header"]) == ("awx", ["accepted"], True)
    assert locked(app) == (URL, HEADER)


@ON_ONE
def test_only_what_is_named_is_changed(shell: Shell, added: dict[str, Any], app: Flask) -> None:
    changed = shell.json("outgoing", "edit", "alice", "chat", "--event", "created", "--header", HEADER)
    assert changed == {name: value for name, value in added.items() if name != "secret"} | {
        "events": ["created"],
        "header": True,
    }
    assert locked(app) == (URL, HEADER)
    moved = shell.json("outgoing", "edit", "alice", added["id"], "--name", "talk", "--url", URL + "/2", "--header", "")
    assert (moved["name"], moved["events"], moved["header"]) == ("talk", ["created"], False)
    assert locked(app) == (URL + "/2", None)


@ON_ONE
def test_an_endpoint_is_switched_off_and_on(shell: Shell, added: dict[str, Any]) -> None:
    assert shell.json("outgoing", "edit", "alice", "chat", "--disable")["disabled"] is True
    assert "switched off" in shell.run("outgoing", "list", "alice").output
    assert "switched off" in shell.refused("outgoing", "test", "alice", "chat")
    assert shell.json("outgoing", "edit", "alice", "chat", "--enable")["disabled"] is False


@ON_ONE
def test_a_rotated_secret_is_another_one_and_the_old_one_signs_for_a_day(
    shell: Shell, added: dict[str, Any], app: Flask
) -> None:
    answer = shell.json("outgoing", "rotate", "alice", "chat")
    assert answer["secret"] != added["secret"]
    assert answer["previous_signs_until"]
    (row,) = rows(app, db.select(OutgoingEndpoint))
    assert row.locked_previous


@ON_ONE
def test_a_removed_endpoint_is_gone(shell: Shell, added: dict[str, Any]) -> None:
    assert shell.json("outgoing", "remove", "alice", "chat") == {"id": added["id"], "name": "chat"}
    assert shell.json("outgoing", "list", "alice") == {"items": []}
    assert "flask outgoing add alice NAME URL" in shell.run("outgoing", "list", "alice").output


@ON_ONE
def test_the_messages_of_an_endpoint_are_listed_by_their_state(
    shell: Shell, added: dict[str, Any], alice: Tenant
) -> None:
    assert "no message" in shell.run("outgoing", "messages", "alice", "chat").output
    incident = alice.alert()["incident_id"]
    (item,) = shell.json("outgoing", "messages", "alice", "chat")["items"]
    assert (item["event"], item["incident_id"], item["state"], item["attempts"]) == ("created", incident, "pending", [])
    assert shell.json("outgoing", "messages", "alice", "chat", "--state", "sent") == {"items": []}
    assert shell.json("outgoing", "list", "alice")["items"][0]["waiting"] == 1


@ON_ONE
def test_bad_words_are_named_and_nothing_is_changed(shell: Shell, added: dict[str, Any], app: Flask) -> None:
    assert "There is an endpoint 'chat' already." in shell.refused("outgoing", "add", "alice", "chat", URL)
    assert "Must begin with https://." in shell.refused("outgoing", "add", "alice", "x", "http://hooks.example.com")
    assert "private address" in shell.refused("outgoing", "add", "alice", "x", "https://10.0.0.1/")
    assert "header" in shell.refused("outgoing", "add", "alice", "x", URL, "--header", "no colon")
    assert "'alice' has no endpoint 'nothing'." in shell.refused("outgoing", "rotate", "alice", "nothing")
    assert "There is no tenant 'nobody'." in shell.refused("outgoing", "list", "nobody")
    shell.refused("outgoing", "add", "alice", "x", URL, "--event", "unheard-of", code=2)
    for words in (("--url", ""), ("--name", ""), ("--url", "https://elsewhere.example.com", "--header", "nothing")):
        shell.refused("outgoing", "edit", "alice", "chat", *words)
    assert len(shell.json("outgoing", "list", "alice")["items"]) == 1
    assert locked(app) == (URL, None)


@ON_ONE
def test_an_endpoint_of_another_tenant_is_none(shell: Shell, added: dict[str, Any], charlie: Tenant) -> None:
    for command in ("rotate", "remove", "messages", "test", "edit"):
        assert "'charlie' has no endpoint" in shell.refused("outgoing", command, "charlie", added["id"]), command


# ---------------------------------------------------------------- a test message


@pytest.fixture
def hook(alice: Tenant) -> Iterator[Receiver]:
    """What takes the messages of alice's endpoint `hook`."""
    with Receiver() as receiver:
        add(alice, receiver.url)
        yield receiver


def test_a_test_tells_that_it_arrived(app: Flask, hook: Receiver, shell: Shell) -> None:
    with sending(app):
        answer = shell.json("outgoing", "test", "alice", "hook")
    assert (answer["event"], answer["state"], answer["attempts"][0]["status"]) == ("test", "sent", 204)
    assert json.loads(hook.taken[-1].body)["type"] == "openremedy.test"


@ON_ONE
def test_a_test_that_is_refused_is_told_with_what_was_answered(app: Flask, hook: Receiver, shell: Shell) -> None:
    hook.answers = lambda _number: (403, {})
    with sending(app):
        told = shell.refused("outgoing", "test", "alice", "hook")
    assert "has not arrived" in told
    assert "403" in told


@ON_ONE
def test_a_test_that_nobody_sends_says_what_to_look_for_and_stays_queued(hook: Receiver, shell: Shell) -> None:
    assert "does a scheduler run?" in shell.refused("outgoing", "test", "alice", "hook", "--wait", "0.1")
    assert shell.json("outgoing", "test", "alice", "hook", "--wait", "0")["state"] == "pending"
    assert {one["state"] for one in shell.json("outgoing", "messages", "alice", "hook")["items"]} == {"pending"}
    shell.refused("outgoing", "test", "alice", "hook", "--wait", "nan", code=2)


@ON_ONE
def test_a_test_of_an_endpoint_that_is_removed_meanwhile_says_so(
    hook: Receiver, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = ("outgoing", "remove", "alice", "hook")
    monkeypatch.setattr(cli_outgoing.time, "sleep", lambda _seconds: shell.json(*remove))
    told = shell.run("outgoing", "test", "alice", "hook")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "removed meanwhile" in told.stderr
