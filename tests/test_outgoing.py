"""Outgoing: what is queued with what happens, what is posted, and what becomes of an endpoint that fails."""

import asyncio
import dataclasses
import json
import re
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook, WebhookVerificationError

from browser_client import Person
from cast import Tenant
from config import Settings
from leaks import watch
from openremedy import audit, incidents, maintenance, outgoing
from openremedy.addresses import is_public
from openremedy.audit import COMMAND_LINE, Actor, Filters
from openremedy.dispatch import Dispatcher, start
from openremedy.errors import Conflict, Invalid
from openremedy.extensions import db
from openremedy.models import (
    Event,
    Incident,
    MessageState,
    OutgoingEndpoint,
    OutgoingMessage,
    Recipe,
    Shape,
    Verdict,
    as_if_at,
    now,
    table,
)
from openremedy.outgoing import Wanted
from openremedy.outgoing_bodies import body_of
from openremedy.outgoing_client import Answer, OutgoingClient, _Guarded
from openremedy.services import services
from receiver import Receiver
from services import free_port, until
from stack import Stack

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
PUBLIC = "https://hooks.example.com/services/path"
BOB = Actor("bob@example.com")
messages_table, endpoints_table = table(OutgoingMessage), table(OutgoingEndpoint)


def add(tenant: Tenant, url: str = PUBLIC, *events: Event, **changes: Any) -> tuple[int, str]:
    """An endpoint of the tenant, of every event unless some are named; its id and its secret."""
    watch.public.add(url)
    wanted = Wanted(
        **({"name": "hook", "shape": Shape.STANDARD, "events": events or list(Event), "url": url} | changes)
    )
    with tenant.app.app_context():
        endpoint, secret = outgoing.add_endpoint(
            db.session(), services().vault, tenant.id, wanted, COMMAND_LINE, allow_private=True
        )
        return endpoint.id, secret


def queued(app: Flask) -> list[dict[str, Any]]:
    """All messages, in the order of what happened."""
    order = (OutgoingMessage.timeline_id, OutgoingMessage.endpoint_id)
    with app.app_context(), db.engine.connect().execution_options(sqlite_readonly=True) as connection:
        return [dict(one) for one in connection.execute(select(*messages_table.c).order_by(*order)).mappings()]


def events(app: Flask) -> list[str]:
    return [one["event"] for one in queued(app)]


def endpoint_row(app: Flask, endpoint_id: int) -> Any:
    with app.app_context(), db.engine.connect().execution_options(sqlite_readonly=True) as connection:
        return (
            connection.execute(select(*endpoints_table.c).where(endpoints_table.c.id == endpoint_id)).mappings().one()
        )


def change(app: Flask, model: Any, **values: Any) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(update(table(model)).values(values))


def act(app: Flask, action: Callable[..., None], tenant: Tenant, incident_id: str, *more: Any) -> None:
    with app.app_context():
        action(db.engine, tenant.id, uuid.UUID(incident_id), *more, BOB)


@contextmanager
def sending(app: Flask, *, allow_private: bool = True) -> Iterator[None]:
    """A dispatcher at work, as the scheduler has one."""
    stopped = threading.Event()
    with app.app_context():
        client = OutgoingClient(allow_private=allow_private)
        dispatcher = Dispatcher(db.engine, services().vault, services().settings.public_url, client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openremedy.dispatch.LOOK", 0.02)
        thread = start(dispatcher, stopped)
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def settled(app: Flask, *, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many messages have been tried and written down."""

    def found() -> list[dict[str, Any]]:
        tried = [one for one in queued(app) if one["log"]]
        return tried if len(tried) >= count else []

    result: list[dict[str, Any]] = until(found, f"{count} messages were tried")
    return result


# ---------------------------------------------------------------- what is queued


def test_each_event_of_an_incident_becomes_a_message_in_its_own_transaction(app: Flask, alice: Tenant) -> None:
    add(alice)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.acknowledge, alice, incident_id)
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    act(app, incidents.resolve, alice, incident_id)
    assert events(app) == ["created", "acknowledged", "accepted", "resolved"]
    assert {str(one["incident_id"]) for one in queued(app)} == {incident_id}


def test_a_repetition_is_no_event(app: Flask, alice: Tenant) -> None:
    add(alice)
    alice.alert()
    alice.alert()
    assert events(app) == ["created"]


def test_only_the_events_that_were_asked_for_are_queued(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.RESOLVED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.resolve, alice, incident_id)
    assert events(app) == ["resolved"]


def test_what_happens_in_another_tenant_is_queued_for_nobody_here(app: Flask, alice: Tenant, charlie: Tenant) -> None:
    add(charlie)
    alice.alert()
    assert events(app) == []


def test_a_body_of_many_alerts_queues_a_message_for_each_incident_and_endpoint(app: Flask, alice: Tenant) -> None:
    add(alice, name="one")
    add(alice, name="two")
    body = {"alerts": [{"status": "firing", "labels": {"alertname": "A", "instance": f"h{n}"}} for n in range(20)]}
    alice.source("alertmanager").alerts(body)
    assert len(queued(app)) == 40
    assert len({one["id"] for one in queued(app)}) == 40


def test_an_answer_about_what_is_over_hands_nothing_over(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.resolve, alice, incident_id)
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    assert events(app) == []


def test_the_same_answer_again_hands_over_once_and_none_fits_never(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "none", None)
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    act(app, incidents.feedback, alice, incident_id, "confirm", None)
    assert events(app) == ["accepted"]


def test_nothing_is_queued_for_an_endpoint_that_is_switched_off(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice)
    with app.app_context():
        endpoint = outgoing.get_endpoint(db.session(), alice.id, str(endpoint_id))
        outgoing.set_disabled(db.session(), endpoint, True, COMMAND_LINE)
    alice.alert()
    assert events(app) == []


def test_what_is_rolled_back_leaves_no_message(app: Flask, alice: Tenant) -> None:
    add(alice)
    incident_id = uuid.UUID(alice.alert()["incident_id"])
    with app.app_context(), db.engine.connect() as connection:
        incidents.say(connection, alice.id, incident_id, "acknowledged", "somebody")
        connection.rollback()
    assert events(app) == ["created"]


# ---------------------------------------------------------------- what is posted


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_a_message_is_posted_once_and_signed_as_the_library_checks_it(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    _, secret = add(alice, hook.url, Event.CREATED)
    incident_id = alice.alert()["incident_id"]
    with sending(app):
        (message,) = settled(app)
    (taken,) = hook.taken
    told = Webhook(secret).verify(taken.body, taken.headers)
    assert taken.headers["webhook-id"] == f"msg_{message['id']}"
    assert told["type"] == "incident.created"
    assert told["data"]["incident"]["id"] == incident_id
    assert told["data"]["incident"]["evidence"]["mount"] == "/var"
    assert told["data"]["url"] == f"http://127.0.0.1:8000/t/alice/incidents/{incident_id}"
    assert (message["state"], message["attempts"], message["log"][0]["status"]) == ("sent", 1, 204)


@ON_ONE
def test_a_body_that_was_changed_or_signed_with_another_secret_does_not_verify(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    _, secret = add(alice, hook.url)
    alice.alert()
    with sending(app):
        settled(app)
    (taken,) = hook.taken
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(taken.body + b" ", taken.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 44).verify(taken.body, taken.headers)


@ON_ONE
def test_during_a_rotation_both_secrets_verify_and_a_day_later_only_the_new_one(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    endpoint_id, before = add(alice, hook.url, Event.CREATED)
    with app.app_context():
        endpoint = outgoing.get_endpoint(db.session(), alice.id, str(endpoint_id))
        secret = outgoing.rotate_secret(db.session(), services().vault, endpoint, COMMAND_LINE)
    alice.alert()
    with sending(app):
        settled(app)
        for one in (before, secret):
            Webhook(one).verify(hook.taken[0].body, hook.taken[0].headers)
        change(app, OutgoingEndpoint, previous_until=now() - timedelta(seconds=1))
        alice.alert(hostname="another")
        settled(app, count=2)
    Webhook(secret).verify(hook.taken[1].body, hook.taken[1].headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(before).verify(hook.taken[1].body, hook.taken[1].headers)


@ON_ONE
def test_a_header_of_the_other_sides_choice_is_sent_along(app: Flask, alice: Tenant, hook: Receiver) -> None:
    add(alice, hook.url, Event.CREATED, header="Authorization: Bearer of-the-engine")
    alice.alert()
    with sending(app):
        settled(app)
    assert hook.taken[0].headers["authorization"] == "Bearer of-the-engine"


@ON_ONE
def test_an_accepted_recipe_is_handed_over_with_its_steps_and_the_incident_says_that_it_was(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    add(alice, hook.url, Event.ACCEPTED, name="rundeck-prod")
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    with sending(app):
        settled(app)
    data = json.loads(hook.taken[0].body)["data"]
    assert (data["recipe"]["slug"], data["actor"]) == ("disk-full", "bob@example.com")
    assert data["recipe"]["steps"]
    line = alice.get(f"/incidents/{incident_id}")["timeline"][-1]
    assert (line["kind"], line["actor"], line["detail"]) == ("handed_over", "rundeck-prod", {"status": 204})


def say_verdict(app: Flask, tenant: Tenant, incident_id: str, recipe: str) -> None:
    """As if a worker had given another verdict meanwhile."""
    with app.app_context(), db.engine.begin() as connection:
        row = connection.execute(select(*table(Verdict).c).limit(1)).mappings().one()
        other = {**row, "id": uuid.uuid4(), "tier": "model", "recipe": recipe, "incident_id": uuid.UUID(incident_id)}
        connection.execute(table(Verdict).insert(), other)
        connection.execute(update(table(Incident)).values(verdict_id=other["id"]))


@pytest.mark.parametrize("meanwhile", ["another verdict", "none fits", "resolved", "recipe gone"])
@ON_ONE
def test_a_recipe_that_was_accepted_is_not_handed_over_when_that_does_not_stand_any_more(
    app: Flask, alice: Tenant, hook: Receiver, meanwhile: str
) -> None:
    endpoint_id, _ = add(alice, hook.url, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    if meanwhile == "another verdict":
        say_verdict(app, alice, incident_id, "backup-failed")
    elif meanwhile == "none fits":
        act(app, incidents.feedback, alice, incident_id, "none", None)
    elif meanwhile == "resolved":
        act(app, incidents.resolve, alice, incident_id)
    else:
        change(app, Recipe, enabled=False)
    with sending(app):
        (message,) = settled(app)
    assert (hook.taken, message["state"]) == ([], "failed")
    assert alice.get(f"/incidents/{incident_id}")["timeline"][-1]["kind"] == "hand_over_failed"
    assert endpoint_row(app, endpoint_id)["failures"] == 0


@ON_ONE
def test_what_was_accepted_is_looked_at_before_each_attempt(app: Flask, alice: Tenant, hook: Receiver) -> None:
    hook.answers = lambda _number: (503, {})
    add(alice, hook.url, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    with sending(app):
        settled(app)
        act(app, incidents.resolve, alice, incident_id)
        at_once(app)
        until(lambda: queued(app)[0]["state"] == "failed", "it was given up")
    assert len(hook.taken) == 1
    assert queued(app)[0]["log"][-1]["error"] == "the incident is over by now"


@ON_ONE
def test_of_two_answers_before_the_post_only_the_last_is_handed_over(app: Flask, alice: Tenant, hook: Receiver) -> None:
    add(alice, hook.url, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    act(app, incidents.feedback, alice, incident_id, "correct", "backup-failed")
    with sending(app):
        settled(app, count=2)
    assert [json.loads(one.body)["data"]["recipe"]["slug"] for one in hook.taken] == ["backup-failed"]


@ON_ONE
def test_the_same_recipe_accepted_again_after_a_fresh_verdict_is_not_handed_over_again(
    app: Flask, alice: Tenant
) -> None:
    add(alice, PUBLIC, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")
    say_verdict(app, alice, incident_id, "disk-full")
    act(app, incidents.feedback, alice, incident_id, "confirm", None)
    assert events(app) == ["accepted"]


# ---------------------------------------------------------------- what fails


@ON_ONE
def test_an_error_that_nobody_thought_of_is_an_attempt_that_failed(
    app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Answer:
        raise ZeroDivisionError

    monkeypatch.setattr(OutgoingClient, "post", broken)
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    alice.alert()
    with sending(app):
        (message,) = settled(app)
    assert message["log"][0]["error"] == "it could not be sent (ZeroDivisionError)"
    assert endpoint_row(app, endpoint_id)["failures"] == 1


def test_a_receiver_that_breaks_tls_after_its_handshake_is_a_failure(tmp_path: Path) -> None:
    """As one does that asks for a certificate of ours: with TLS 1.3 it says so in its first answer."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject)
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    port = free_port()
    server = ("openssl", "s_server", "-quiet", "-Verify", "1", "-accept", str(port))
    verify = ssl.create_default_context(cafile=str(certificate))

    async def post() -> Answer:
        return await OutgoingClient(allow_private=True, verify=verify).post(f"https://localhost:{port}/", {}, b"{}")

    with subprocess.Popen(
        [*server, "-cert", str(certificate), "-key", str(key)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: _listens(port), "the server listens")
            answer = asyncio.run(post())
        finally:
            process.terminate()
    assert (answer.status, answer.well) == (None, False)
    assert "broke" in str(answer.error)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "99999999999999999999999 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37", "1e9"]
)
@ON_ONE
def test_a_strange_retry_after_is_none(app: Flask, alice: Tenant, hook: Receiver, text: str) -> None:
    hook.answers = lambda _number: (503, {"Retry-After": text})
    add(alice, hook.url, Event.CREATED)
    alice.alert()
    with sending(app):
        (message,) = settled(app)
    assert message["log"][0]["error"] == "answered 503"
    assert message["next_at"] < now() + timedelta(seconds=10)


@ON_ONE
def test_slow_endpoints_of_one_tenant_leave_places_to_another(
    app: Flask, alice: Tenant, charlie: Tenant, hook: Receiver
) -> None:
    with Receiver() as slow:
        slow.held = threading.Event()
        for number in range(10):
            add(alice, slow.url, Event.CREATED, name=f"slow-{number}")
        for number in range(5):
            alice.alert(hostname=f"h{number}")
        add(charlie, hook.url, Event.CREATED)
        with sending(app):
            until(lambda: len(slow.taken) == 8, "as many as one tenant may have hang")
            charlie.alert()
            until(lambda: hook.taken, "the other tenant is served")
            slow.held.set()
            until(lambda: len(slow.taken) == 50, "and all the rest")
        assert slow.most_at_once == 8


def test_the_schedule_is_told_by_how_long_a_message_was_tried() -> None:
    answer = Answer(500, "answered 500")
    steps = [(0, 5), (6, 60), (70, 300), (400, 1800), (2200, 7200), (9400, 18000), (28000, 28800), (200_000, 28800)]
    for passed, step in steps:
        assert step <= outgoing._pause(timedelta(seconds=passed), answer) <= step * 1.25 + 1


def edit(app: Flask, tenant: Tenant, endpoint_id: int, wanted: Wanted) -> None:
    with app.app_context():
        endpoint = outgoing.get_endpoint(db.session(), tenant.id, str(endpoint_id))
        outgoing.edit_endpoint(db.session(), services().vault, endpoint, wanted, COMMAND_LINE, allow_private=False)


@ON_ONE
def test_a_header_does_not_follow_its_endpoint_to_another_host_unseen(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED, header="Authorization: Bearer of-the-engine")
    elsewhere = Wanted("hook", Shape.STANDARD, [Event.CREATED], "https://evil.example/")
    with pytest.raises(Invalid):
        edit(app, alice, endpoint_id, elsewhere)
    assert endpoint_row(app, endpoint_id)["host"] == "hooks.example.com"
    edit(app, alice, endpoint_id, dataclasses.replace(elsewhere, no_header=True))
    row = endpoint_row(app, endpoint_id)
    assert (row["host"], row["locked_header"]) == ("evil.example", None)
    with app.app_context():
        (line,) = audit.every(db.engine, alice.id, Filters(action="outgoing.changed"))
        assert line["detail"]["host"] == ["hooks.example.com", "evil.example"]


@ON_ONE
def test_another_format_is_that_of_what_waits_as_well(app: Flask, alice: Tenant, hook: Receiver) -> None:
    hook.answers = lambda number: (400 if number == 1 else 200, {})
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    alice.alert()
    with sending(app):
        settled(app)
        edit(app, alice, endpoint_id, Wanted("hook", Shape.SLACK, [Event.CREATED]))
        at_once(app)
        until(lambda: queued(app)[0]["state"] == "sent", "it was sent")
    assert list(json.loads(hook.taken[1].body)) == ["text"]


@ON_ONE
def test_what_waited_is_tried_at_once_when_an_endpoint_is_switched_on_and_a_test_first(
    app: Flask, alice: Tenant
) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    for number in range(3):
        alice.alert(hostname=f"h{number}")
    long_ago = now() - timedelta(days=4)
    change(app, OutgoingMessage, next_at=now() + timedelta(hours=8), since=long_ago)
    tenant_id = alice.id
    with app.app_context():
        endpoint = outgoing.get_endpoint(db.session(), tenant_id, str(endpoint_id))
        outgoing.set_disabled(db.session(), endpoint, True, COMMAND_LINE)
        outgoing.set_disabled(db.session(), endpoint, False, COMMAND_LINE)
        outgoing.send_test(db.session(), endpoint, COMMAND_LINE)
        db.session.rollback()
        assert outgoing.due(db.engine) == [(tenant_id, endpoint_id)]
        claimed = outgoing.claim(db.engine, endpoint_id, 4)
    assert sorted(one["event"] for one in claimed) == ["created", "created", "created", "test"]
    assert min(one["since"] for one in claimed) > long_ago
    change(app, OutgoingMessage, next_at=now() - timedelta(seconds=1))
    with app.app_context():
        (first,) = outgoing.claim(db.engine, endpoint_id, 1)
    assert first["event"] == "test"


@ON_ONE
def test_one_that_waits_is_not_sent_again_beside_itself(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    alice.alert()
    tenant_id = alice.id
    with app.app_context():
        (message,) = outgoing.claim(db.engine, endpoint_id, 1)
        endpoint = outgoing.get_endpoint(db.session(), tenant_id, str(endpoint_id))
        row = outgoing.get_message(db.session(), endpoint, str(message["id"]))
        outgoing.send_again(db.session(), endpoint, row, COMMAND_LINE)
        db.session.rollback()
        assert outgoing.due(db.engine) == []


@ON_ONE
def test_a_sweep_that_breaks_ends_the_scheduler(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor starts the next one; with the thread that posts alone nothing would be swept any more."""

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(maintenance, "run", broken)
    monkeypatch.setattr("openremedy.dispatch.LOOK", 0.02)
    monkeypatch.setattr("openremedy.cli.signal.signal", lambda *_: None)
    found = app.test_cli_runner().invoke(args=["scheduler"])
    assert isinstance(found.exception, ZeroDivisionError)
    assert "dispatch" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((500, {}), "answered 500"),
        ((404, {}), "answered 404"),
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}), "answered 302, a redirect, which is not followed"),
    ],
)
@ON_ONE
def test_an_answer_that_is_no_success_is_kept_and_the_message_waits_for_its_next_attempt(
    app: Flask, alice: Tenant, hook: Receiver, answers: tuple[int, dict[str, str]], said: str
) -> None:
    hook.answers = lambda _number: answers
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    alice.alert()
    with sending(app):
        (message,) = settled(app)
    assert (message["state"], message["log"][0]["error"]) == ("pending", said)
    assert message["next_at"] > now() + timedelta(seconds=2)
    assert endpoint_row(app, endpoint_id)["failures"] == 1
    assert len(hook.taken) == 1


@ON_ONE
def test_an_attempt_after_a_failure_sends_the_same_bytes_under_the_same_id_with_a_fresh_signature(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    hook.answers = lambda number: (503 if number == 1 else 200, {})
    endpoint_id, secret = add(alice, hook.url, Event.CREATED)
    incident_id = alice.alert()["incident_id"]
    with sending(app):
        settled(app)
        act(app, incidents.resolve, alice, incident_id)  # what it says stays what happened then
        at_once(app)
        until(lambda: queued(app)[0]["state"] == "sent", "it was sent")
    first, second = hook.taken
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    Webhook(secret).verify(second.body, second.headers)
    row = endpoint_row(app, endpoint_id)
    assert (row["failures"], row["failing_since"], row["retry_at"]) == (0, None, None)


def at_once(app: Flask) -> None:
    """As if the pauses were over."""
    change(app, OutgoingMessage, next_at=now() - timedelta(seconds=1))
    change(app, OutgoingEndpoint, retry_at=None)


@ON_ONE
def test_retry_after_is_honoured(app: Flask, alice: Tenant, hook: Receiver) -> None:
    hook.answers = lambda _number: (429, {"Retry-After": "900"})
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    alice.alert()
    with sending(app):
        (message,) = settled(app)
    for waits_until in (message["next_at"], endpoint_row(app, endpoint_id)["retry_at"]):
        assert timedelta(seconds=890) < waits_until - now() <= timedelta(seconds=900)


@ON_ONE
def test_an_endpoint_that_fails_is_tried_with_one_message_at_a_time(app: Flask, alice: Tenant, hook: Receiver) -> None:
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    for number in range(6):
        alice.alert(hostname=f"h{number}")
    change(app, OutgoingEndpoint, failures=3, failing_since=now())
    with app.app_context():
        assert len(outgoing.claim(db.engine, endpoint_id, 4)) == 1
        assert outgoing.due(db.engine) == []
        assert outgoing.claim(db.engine, endpoint_id, 4) == []


@ON_ONE
def test_an_endpoint_that_hangs_holds_a_few_places_and_not_another_endpoint(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    with Receiver() as slow:
        slow.held = threading.Event()
        add(alice, slow.url, Event.CREATED, name="slow")
        for number in range(12):
            alice.alert(hostname=f"h{number}")
        with sending(app):
            until(lambda: len(slow.taken) == 4, "four hang")
            add(alice, hook.url, Event.CREATED, name="quick")
            alice.alert(hostname="the-one")
            until(lambda: hook.taken, "the other endpoint is served")
            slow.held.set()
            until(lambda: len(slow.taken) == 13, "and all the rest")
        assert slow.most_at_once == 4


@ON_ONE
def test_a_statement_that_waits_makes_no_other_post_wait_for_it(
    app: Flask, alice: Tenant, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that came meanwhile would count as late, and be posted again."""
    add(alice, hook.url, Event.CREATED)
    settle, first, others = outgoing.settle, threading.Event(), threading.Event()

    def settle_the_first_one_last(*args: Any) -> Any:
        if not first.is_set():
            first.set()
            assert others.wait(10)
        found = settle(*args)
        others.set()
        return found

    monkeypatch.setattr(outgoing, "settle", settle_the_first_one_last)
    for number in range(2):
        alice.alert(hostname=f"h{number}")
    with sending(app):
        until(lambda: [one["state"] for one in queued(app)] == ["sent", "sent"], "both are settled")
    assert len(hook.taken) == 2


@ON_ONE
def test_a_database_that_fails_between_two_endpoints_costs_neither_of_them_its_places(
    app: Flask, alice: Tenant, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = add(alice, hook.url, Event.CREATED, name="first")
    add(alice, hook.url, Event.CREATED, name="second")
    claim, failed = outgoing.claim, threading.Event()

    def fail_once(engine: Any, endpoint_id: int, places: int) -> Any:
        if endpoint_id != first and not failed.is_set():
            failed.set()
            raise OperationalError("SELECT", {}, Exception("the server went away"))
        return claim(engine, endpoint_id, places)

    monkeypatch.setattr(outgoing, "claim", fail_once)
    for number in range(6):
        alice.alert(hostname=f"h{number}")
    with sending(app):
        until(lambda: len(hook.taken) == 12, "all are posted")
    assert failed.is_set()


@ON_ONE
def test_410_switches_an_endpoint_off_and_says_so(app: Flask, alice: Tenant, hook: Receiver) -> None:
    hook.answers = lambda _number: (410, {})
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    alice.alert()
    with sending(app):
        settled(app)
    assert "410" in endpoint_row(app, endpoint_id)["disabled_reason"]
    with app.app_context():
        (line,) = audit.every(db.engine, alice.id, Filters(action="outgoing.disabled"))
        assert line["actor"] == "scheduler"


@ON_ONE
def test_after_days_without_a_success_an_endpoint_is_switched_off_and_not_before(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    alice.alert()

    def fail(since: timedelta) -> Any:
        at_once(app)
        change(app, OutgoingEndpoint, failures=50, failing_since=now() - since)
        with app.app_context():
            (message,) = outgoing.claim(db.engine, endpoint_id, 1)
            outgoing.settle(db.engine, message, Answer(500, "answered 500"), 5)
        return endpoint_row(app, endpoint_id)["disabled_at"]

    assert fail(outgoing.PATIENCE - timedelta(minutes=1)) is None
    assert fail(outgoing.PATIENCE + timedelta(minutes=1)) is not None
    assert "answered 500" in endpoint_row(app, endpoint_id)["disabled_reason"]
    with app.app_context():
        assert outgoing.due(db.engine) == []


@ON_ONE
def test_a_message_is_given_up_after_three_days_and_a_hand_over_says_so_on_the_incident(
    app: Flask, alice: Tenant
) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.ACCEPTED)
    incident_id = alice.alert()["incident_id"]
    act(app, incidents.feedback, alice, incident_id, "correct", "disk-full")

    def fail(age: timedelta) -> MessageState | None:
        at_once(app)
        change(app, OutgoingMessage, since=now() - age)
        with app.app_context():
            (message,) = outgoing.claim(db.engine, endpoint_id, 1)
            return outgoing.settle(db.engine, message, Answer(error="cannot be connected to"), 5)

    assert fail(timedelta(days=2)) is MessageState.PENDING
    assert fail(outgoing.TRIED_FOR) is MessageState.FAILED
    line = alice.get(f"/incidents/{incident_id}")["timeline"][-1]
    assert (line["kind"], line["detail"]) == ("hand_over_failed", {"reason": "cannot be connected to"})


@ON_ONE
def test_what_somebody_else_has_claimed_meanwhile_is_not_written_by_whoever_was_too_slow(
    app: Flask, alice: Tenant
) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    alice.alert()
    with app.app_context():
        (slow,) = outgoing.claim(db.engine, endpoint_id, 1)
        at_once(app)
        (quick,) = outgoing.claim(db.engine, endpoint_id, 1)
        assert outgoing.settle(db.engine, slow, Answer(500, "answered 500"), 60_000) is None
        assert outgoing.settle(db.engine, quick, Answer(204), 5) is MessageState.SENT
        assert outgoing.settle(db.engine, quick, Answer(500, "answered 500"), 5) is None


def test_two_schedulers_at_once_claim_each_message_once(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    body = {"alerts": [{"status": "firing", "labels": {"alertname": "A", "instance": f"h{n}"}} for n in range(40)]}
    alice.source("alertmanager").alerts(body)
    found: list[uuid.UUID] = []

    def claim() -> None:
        with app.app_context():
            while some := outgoing.claim(db.engine, endpoint_id, 3):
                found.extend(one["id"] for one in some)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 40


@ON_ONE
def test_a_message_about_an_incident_that_was_deleted_is_given_up_at_once(
    app: Flask, alice: Tenant, hook: Receiver
) -> None:
    endpoint_id, _ = add(alice, hook.url, Event.CREATED)
    alice.alert()
    change(app, OutgoingMessage, incident_id=uuid.uuid4())
    with sending(app):
        (message,) = settled(app)
    assert (message["state"], message["log"][0]["error"]) == ("failed", "the incident was deleted")
    assert endpoint_row(app, endpoint_id)["failures"] == 0
    assert hook.taken == []


@ON_ONE
def test_messages_are_deleted_with_the_age_that_deliveries_have(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.CREATED)
    with as_if_at(now() - timedelta(days=100)):
        alice.alert()
    alice.alert(hostname="of-today")
    with app.app_context():
        assert maintenance.prune(db.engine, 90, lambda: True)["outgoing_messages"] == 0, "its time was over"
        assert maintenance.prune(db.engine, 90)["outgoing_messages"] == 1
    assert len(queued(app)) == 1


@ON_ONE
def test_an_endpoint_is_removed_with_its_messages_and_an_alert_meanwhile_is_taken(app: Flask, alice: Tenant) -> None:
    endpoint_id, _ = add(alice, PUBLIC, Event.CREATED)
    alice.alert()
    with app.app_context():
        endpoint = outgoing.get_endpoint(db.session(), alice.id, str(endpoint_id))
        outgoing.remove_endpoint(db.session(), endpoint, COMMAND_LINE)
    assert queued(app) == []
    assert alice.alert(hostname="afterwards")["outcome"] == "created"


@ONLY_POSTGRES
def test_whoever_holds_an_endpoint_holds_up_no_alert(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.CREATED)
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(select(endpoints_table.c.id).with_for_update())
        assert alice.alert()["outcome"] == "created"


@ONLY_POSTGRES
@pytest.mark.parametrize("endpoints", [0, 1])
def test_the_door_looks_endpoints_up_by_their_index(app: Flask, alice: Tenant, endpoints: int) -> None:
    """Whole tables are forbidden there: the plan of one is so dear that PostgreSQL compiles it, for 27 milliseconds."""
    if endpoints:
        add(alice)
    incident_id = uuid.UUID(alice.alert()["incident_id"])
    plans: list[str] = []
    with app.app_context(), db.engine.connect() as connection:
        for order in (
            *("LOAD 'auto_explain'", "SET client_min_messages = log", "SET enable_seqscan = off"),
            *("SET auto_explain.log_min_duration = 0", "SET auto_explain.log_nested_statements = on"),
        ):
            connection.exec_driver_sql(order)
        own: Any = connection.connection.driver_connection
        own.add_notice_handler(lambda notice: plans.append(str(notice.message_primary)))
        incidents.say(connection, alice.id, incident_id, "acknowledged", "somebody")
        connection.rollback()
    said = "\n".join(plans)
    assert "outgoing_endpoints" in said
    assert "Seq Scan on outgoing_endpoints" not in said


# ---------------------------------------------------------------- where nothing is sent to


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),  # noqa: S104
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1%eth0", "fc00::1"),
        *("ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "2001:0:a9fe:a9fe:0:0:80ff:fffe", "fec0::1"),
        *("64:ff9b:1::a9fe:a9fe", "::a9fe:a9fe", "::ffff:0:7f00:1", "5f00::1", "3fff::1", "192.88.99.1"),
    ],
)
def test_a_private_address_is_none_for_the_whole_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"])
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com/", "ftp://example.com/", "https://", "https://a b/", "file:///etc/passwd"),
        *("https://user:password@example.com/", "https://example.com/#part", "https://127.0.0.1/", "https://[::1]/"),
        *("https://localhost/", "https://x.localhost:1/", "https://169.254.169.254/latest", "https://exa\nmple.com/"),
        *("https://example.com:99999/", "https://[::ffff:10.0.0.1]/", "https://bücher.example/", "", "x" * 3000),
    ],
)
def test_an_address_that_nothing_is_sent_to_is_refused_when_it_is_typed(url: str) -> None:
    with pytest.raises(Invalid):
        outgoing.host_of(url, allow_private=False)


def test_a_private_address_may_be_allowed_for_an_installation() -> None:
    assert outgoing.host_of("http://10.0.0.1:8080/x", allow_private=True) == "10.0.0.1:8080"
    with pytest.raises(Invalid):
        outgoing.host_of("ftp://10.0.0.1/", allow_private=True)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]"])
@ON_ONE
def test_a_name_that_stands_for_a_private_address_is_posted_nothing(
    app: Flask, alice: Tenant, hook: Receiver, host: str
) -> None:
    port = hook.url.split(":")[2].split("/")[0]
    add(alice, f"https://{host}:{port}/hook", Event.CREATED)
    alice.alert()
    with sending(app, allow_private=False):
        (message,) = settled(app)
    assert "the host is at a private address" in message["log"][0]["error"]


def test_what_was_added_while_plain_http_was_allowed_is_not_posted_when_it_is_not_any_more(
    monkeypatch: pytest.MonkeyPatch, hook: Receiver
) -> None:
    monkeypatch.setattr("openremedy.outgoing_client.is_public", lambda _address: True)
    answer = asyncio.run(OutgoingClient(allow_private=False).post(hook.url, {}, b"{}"))
    assert "is not https" in str(answer.error)
    assert hook.taken == []


def test_a_name_that_changes_its_mind_is_connected_to_at_the_address_that_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, hook: Receiver
) -> None:
    """DNS rebinding: a public address for who looks, a private one for who connects."""
    port = int(hook.url.split(":")[2].split("/")[0])
    asked: list[str] = []
    answers = ["93.184.215.14", "127.0.0.1", "127.0.0.1"]
    connected: list[str] = []

    async def resolve(_loop: Any, host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        return [(2, 1, 6, "", (answers[min(len(asked), 3) - 1], port))]

    async def connect(_self: Any, host: str, *_: Any, **__: Any) -> Any:
        connected.append(host)
        raise OSError("nobody is there")

    monkeypatch.setattr("asyncio.BaseEventLoop.getaddrinfo", resolve)
    monkeypatch.setattr("httpcore2.AnyIOBackend.connect_tcp", connect)

    async def post() -> None:
        answer = await OutgoingClient(allow_private=False).post(f"https://rebinding.example:{port}/", {}, b"{}")
        assert not answer.well

    asyncio.run(post())
    assert (asked, connected) == (["rebinding.example"], ["93.184.215.14"])
    assert hook.taken == []


def test_where_the_first_address_of_a_name_does_not_answer_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, hook: Receiver
) -> None:
    port = int(hook.url.split(":")[2].split("/")[0])

    async def resolve(*_: Any, **__: Any) -> Any:
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]  # the first: nobody is there

    monkeypatch.setattr("asyncio.BaseEventLoop.getaddrinfo", resolve)
    monkeypatch.setattr("openremedy.outgoing_client.is_public", lambda _address: True)

    async def connect() -> str:
        stream = await _Guarded().connect_tcp("a-name", port, timeout=5)
        try:
            return str(stream.get_extra_info("server_addr")[0])
        finally:
            await stream.aclose()

    assert asyncio.run(connect()) == "127.0.0.1"


@pytest.mark.parametrize(
    "header",
    [
        "Host: x",
        "webhook-id: x",
        "Content-Length: 1",
        "no colon",
        "A: b\r\nC: d",
        "Ä: x",
        "X: ",
        "Transfer-Encoding: x",
    ],
)
@ON_ONE
def test_a_header_that_is_ours_or_none_is_refused(alice: Tenant, header: str) -> None:
    watch.public.add(header)
    with pytest.raises(Invalid) as refused:
        add(alice, header=header)
    assert "header" in refused.value.fields


@ON_ONE
def test_a_tenant_has_so_many_endpoints_and_no_more(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_ENDPOINTS", 2)
    add(alice, name="one")
    add(alice, name="two")
    with pytest.raises(Conflict):
        add(alice, name="three")


# ---------------------------------------------------------------- shapes


def told(**incident: Any) -> dict[str, Any]:
    verdict = {"recipe": "disk-full", "confidence": 0.93, "provisional": False}
    known = {"hostname": "db-1", "incident_type": "disk_full", "severity": "high", "evidence": {}, "verdict": verdict}
    data = {
        "tenant": "acme",
        "url": "https://remedy.example.com/t/acme/incidents/1",
        "actor": "bob@example.com",
        "reason": None,
        "incident": known | incident,
        "recipe": {"slug": "disk-full", "title": "Make room", "risk": "low", "tags": [], "steps": "1. Look."},
    }
    return {"type": "incident.created", "timestamp": "2026-11-29T00:00:00.000000Z", "data": data}


@pytest.mark.parametrize("shape", list(Shape))
@pytest.mark.parametrize("event", list(Event))
def test_each_shape_of_each_event_is_as_its_golden_file_has_it(shape: Shape, event: Event) -> None:
    what = told(evidence={"summary": "/var is 94 % full"}) | {"type": f"incident.{event}"}
    if event is Event.NEEDS_HUMAN:
        what["data"] |= {"reason": "confidence 0.41 is below 0.6"}
    found = json.dumps(json.loads(body_of(shape, what)), indent=2, ensure_ascii=False) + "\n"
    assert found == (Path(__file__).parent / "outgoing" / f"{shape}_{event}.json").read_text()


def slack(**incident: Any) -> str:
    text: str = json.loads(body_of(Shape.SLACK, told(**incident)))["text"]
    return text


def test_text_of_an_alert_makes_no_link_and_calls_nobody_together_in_a_chat() -> None:
    text = slack(
        hostname="<!channel> `x` *b* <https://evil.example|click>",
        evidence={"summary": "@here @all\n> [a](http://evil.example) & `code`\n" + "long " * 200},
    )
    ours = text.rsplit("\n", 1)[0]
    assert "<" not in ours
    assert "@here" not in ours
    assert "\n>" not in ours
    assert [line.count("`") for line in ours.splitlines()] == [2, 2]
    assert len(text) < 1000


def test_what_is_too_long_for_github_goes_without_its_evidence() -> None:
    body = json.loads(body_of(Shape.GITHUB, told(evidence={"log": "x" * 70_000})))
    assert len(json.dumps(body["client_payload"])) < 60_000
    assert "left_out" in body["client_payload"]["data"]["incident"]["evidence"]
    longer = told(evidence={"log": "ж" * 70_000}, verdict={"citations": ["ж" * 30_000]})
    longer["data"]["recipe"]["steps"] = "ж" * 60_000
    assert len(body_of(Shape.GITHUB, longer)) < 62_000
    assert body["client_payload"]["data"]["incident"]["hostname"] == "db-1"


def test_a_host_of_an_alert_chooses_no_hosts_of_a_playbook() -> None:
    assert list(json.loads(body_of(Shape.AWX, told(hostname="all")))) == ["extra_vars"]


# ---------------------------------------------------------------- as people meet it


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """An admin of Alice's tenant."""
    return Person(app, "ann@example.com", "alice")


FIELDS = {"name": "#oncall", "shape": "slack", "events": "created", "url": PUBLIC}


def new_endpoint(ann: Person, **fields: str) -> str:
    """The path of the endpoint that was added."""
    answer = ann.post("outgoing", form_id=ann.form_id("outgoing"), **(FIELDS | fields))
    assert answer.status_code == 200, answer.text
    with ann.app.app_context():
        endpoint_id = db.session.scalar(select(func.max(OutgoingEndpoint.id)))
    return f"outgoing/{endpoint_id}"


@ON_ONE
def test_the_address_and_the_header_of_an_endpoint_are_never_shown_again(app: Flask, ann: Person) -> None:
    watch.public.add(PUBLIC)
    path = new_endpoint(ann, header="Authorization: Bearer hidden-from-now-on")
    page = ann.get(path).text
    assert "hooks.example.com" in page
    assert "/services/path" not in page
    assert "hidden-from-now-on" not in page
    assert "whsec_" not in page
    answer = ann.post(f"{path}/edit", name="renamed", shape="slack", events="resolved", url="", header="")
    assert answer.status_code == 303
    row = endpoint_row(app, int(path.split("/")[1]))
    with app.app_context():
        assert services().vault.unlock(row["locked_url"]) == PUBLIC
        assert services().vault.unlock(row["locked_header"]) == "Authorization: Bearer hidden-from-now-on"
    assert (row["name"], row["events"]) == ("renamed", ["resolved"])


@ON_ONE
def test_a_wrong_address_is_said_beside_its_field_and_nothing_is_added(app: Flask, ann: Person) -> None:
    answer = ann.post("outgoing", form_id=ann.form_id("outgoing"), **(FIELDS | {"url": "https://10.0.0.1/"}))
    assert answer.status_code == 422
    assert "This is a private address" in answer.text
    with app.app_context():
        assert db.session.scalar(select(func.count(OutgoingEndpoint.id))) == 0


@ON_ONE
def test_a_test_is_sent_at_once_and_its_page_says_what_came_of_it(
    make_app: Callable[[Settings], Flask], settings: Settings, alice: Tenant, hook: Receiver
) -> None:
    app = make_app(dataclasses.replace(settings, outgoing_allow_private=True))
    ann = Person(app, "ann@example.com", "alice")
    watch.public.add(hook.url)
    path = new_endpoint(ann, url=hook.url)
    answer = ann.post(f"{path}/test", form_id=ann.form_id(path))
    with sending(app):
        settled(app)
    assert json.loads(hook.taken[0].body) == {"text": "A test of OpenRemedy: messages arrive here."}
    page = ann.get(answer.location).text
    assert "204" in page
    assert "messages arrive here" in page


@ON_ONE
def test_a_page_says_when_an_endpoint_that_fails_is_really_tried_again(app: Flask, ann: Person, alice: Tenant) -> None:
    path = new_endpoint(ann)
    change(app, OutgoingEndpoint, failing_since=now(), failures=1, retry_at=now() + timedelta(seconds=6))
    assert "It is tried again with the next message" in ann.get(path).text
    alice.alert()
    (message,) = queued(app)
    of_message = f"{path}/messages/{message['id']}"
    for rests, waits in ((6, 90), (90, 6)):
        change(app, OutgoingMessage, next_at=now() + timedelta(seconds=waits))
        change(app, OutgoingEndpoint, retry_at=now() + timedelta(seconds=rests))
        assert re.search(r"It is tried again <time[^>]+>in 1 minute<", ann.get(path).text)
        assert re.search(r"tried <time[^>]+>in 1 minute<", ann.get(of_message).text)


@ON_ONE
def test_the_filter_of_messages_uses_the_words_of_the_rows(app: Flask, ann: Person, alice: Tenant) -> None:
    path = new_endpoint(ann)
    alice.alert()
    for state, words in (("pending", "waits"), ("failed", "given up"), ("sent", "sent")):
        change(app, OutgoingMessage, state=MessageState(state))
        page = ann.get(path, state=state).text
        assert f'<option value="{state}" selected>{words}</option>' in page
        assert f'">{words}</span>' in page


@ON_ONE
def test_what_was_given_up_can_be_sent_again_under_its_id(app: Flask, ann: Person, alice: Tenant) -> None:
    path = new_endpoint(ann)
    alice.alert()
    change(app, OutgoingMessage, state=MessageState.FAILED)
    (message,) = queued(app)
    where = f"{path}/messages/{message['id']}"
    assert ann.post(f"{where}/again", form_id=ann.form_id(where)).status_code == 303
    (again,) = queued(app)
    assert (again["id"], again["state"]) == (message["id"], "pending")


@ON_ONE
def test_who_accepts_a_recipe_is_told_which_engine_it_goes_to_and_a_chat_is_none(alice: Tenant, ann: Person) -> None:
    incident_id = alice.alert()["incident_id"]
    add(alice, PUBLIC, Event.ACCEPTED, name="a-chat", shape=Shape.SLACK)
    assert "is handed to" not in ann.get(f"incidents/{incident_id}").text
    add(alice, PUBLIC, Event.ACCEPTED, name="rundeck-prod")
    page = ann.get(f"incidents/{incident_id}").text
    assert "A recipe that you accept is handed to <strong>rundeck-prod</strong>." in page
    assert "a-chat" not in page


# ---------------------------------------------------------------- the scheduler itself


@ONLY_POSTGRES
def test_a_scheduler_that_was_killed_half_way_is_followed_by_one_that_posts_again(
    app: Flask, alice: Tenant, stack: Stack, hook: Receiver
) -> None:
    """No worker runs: none is needed."""
    stack.environment |= {"OPENREMEDY_OUTGOING_ALLOW_PRIVATE": "true"}
    add(alice, hook.url, Event.CREATED)
    alice.alert()
    hook.held = threading.Event()
    stack.start("scheduler")
    until(lambda: hook.taken, "it was posted")
    stack.kill("scheduler")
    hook.held.set()
    hook.held = None
    at_once(app)  # its lease would be over in a minute
    stack.start("scheduler")
    until(lambda: queued(app)[0]["state"] == "sent", "it was posted again")
    first, second = hook.taken
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert stack.end("scheduler") == 0


@ON_ONE
def test_the_receiver_of_the_documentation_takes_what_we_post_once(app: Flask, alice: Tenant, hook: Receiver) -> None:
    code = (Path(__file__).parent.parent / "docs/outgoing.md").read_text().split("```python\n")[1].split("```")[0]
    _, secret = add(alice, hook.url, Event.CREATED)
    seen: set[str] = set()
    room: dict[str, Any] = {"SECRET": secret, "already_seen": lambda one: one in seen or seen.add(one)}
    exec(code, room)  # noqa: S102 - our own documentation
    alice.alert()
    with sending(app):
        settled(app)
    (taken,) = hook.taken
    assert room["handle"](taken.headers, taken.body) == "incident.created"
    assert room["handle"](taken.headers, taken.body) == "once is enough"
    with pytest.raises(WebhookVerificationError):
        room["handle"](taken.headers | {"webhook-id": "msg_another"}, taken.body)


@ON_ONE
def test_what_waits_for_an_endpoint_that_is_switched_off_is_nobodys_trouble(app: Flask, alice: Tenant) -> None:
    add(alice, PUBLIC, Event.CREATED)
    alice.alert()
    assert "openremedy_outgoing_waiting 1.0" in app.test_client().get("/metrics").text
    change(app, OutgoingEndpoint, disabled_at=now())
    assert "openremedy_outgoing_waiting 0.0" in app.test_client().get("/metrics").text
