"""What reaches the log: one line an event, and never a secret, a signature or a body."""

import dataclasses
import errno
import io
import json
import logging
import sys
from collections.abc import Callable

import pytest
import structlog
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

import leaks
from cast import DISK_FULL, Tenant, sign
from config import Settings
from openremedy import logs
from openremedy.extensions import db
from openremedy.services import services

MakeApp = Callable[[Settings], Flask]
HUSH = "hush-4711-marker"
leaks.watch.public.add(HUSH)  # looked for here, and PostgreSQL's own log may tell it
BODY = json.dumps(DISK_FULL | {"evidence": {"password": HUSH, "mount": "/var"}}).encode()

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def speak(log_format: str) -> structlog.typing.FilteringBoundLogger:
    """A logger as a fresh process has it."""
    structlog.reset_defaults()
    logs.configure(log_format)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def provoke(app: Flask, alice: Tenant) -> list[str]:
    """Good and bad requests of every kind; returns what must not be in the log."""
    client = app.test_client()
    good, wrong = sign(alice.secret, BODY), sign("wrong", BODY)
    broken = BODY[:-1]
    for slug, body, signature in (
        ("alice", BODY, good),
        ("alice", BODY, wrong),
        ("alice", BODY, HUSH),
        ("nobody", BODY, good),
        (f"nobody%0a{HUSH}", BODY, good),
        ("alice", broken, sign(alice.secret, broken)),
        ("alice", b'{"%s": 1}' % HUSH.encode(), sign(alice.secret, b'{"%s": 1}' % HUSH.encode())),
    ):
        headers = {
            "X-OpenRemedy-Signature": signature,
            "Authorization": f"Bearer {HUSH}",
            "User-Agent": f"{HUSH}\x1b[2J",
        }
        client.set_cookie("session", HUSH)
        client.post(f"/api/v1/webhooks/alerts/{slug}?token={HUSH}", data=body, headers=headers)
    client.get("/api/v1/incidents", headers=alice.auth)
    client.get("/api/v1/incidents", headers={"Authorization": f"Bearer {HUSH}"})
    client.get(f"/{HUSH}%0d%0a%1b[31m", headers={"X-Forwarded-For": HUSH})
    with app.app_context():
        services().tally.flush()
    return [alice.secret, alice.token, good, good.removeprefix("sha256="), wrong.removeprefix("sha256="), HUSH]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_log_tells_no_secret_and_no_body(
    capsys: pytest.CaptureFixture[str], make_app: MakeApp, settings: Settings, alice: Tenant, log_format: str
) -> None:
    app = make_app(dataclasses.replace(settings, log_format=log_format, rate_limit=6))
    hidden = provoke(app, alice)
    log = capsys.readouterr().err
    assert log.count("request.done") == 10
    assert [text for text in hidden if text in log] == []


@on_sqlite
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_unexpected_error_shows_where_and_not_with_what(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    make_app: MakeApp,
    settings: Settings,
    alice: Tenant,
    log_format: str,
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("openremedy.lifecycle.apply", boom)
    app = make_app(dataclasses.replace(settings, log_format=log_format))
    hidden = provoke(app, alice)
    log = capsys.readouterr().err
    assert "RuntimeError: unforeseen" in log
    assert "in accept" in log
    assert [text for text in hidden if text in log] == []


BREAKS = {
    "a type": ("ALTER COLUMN evidence TYPE integer USING 0", 'column "evidence"'),
    "a row": ("ADD CONSTRAINT never CHECK (hostname = '') NOT VALID", "violates check constraint"),
}


@pytest.mark.parametrize("wrong", BREAKS)
@pytest.mark.parametrize("in_one", [True, False], ids=["in one statement", "in a transaction"])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_error_of_the_database_shows_no_values(
    capsys: pytest.CaptureFixture[str],
    make_app: MakeApp,
    settings: Settings,
    alice: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    in_one: bool,
    wrong: str,
) -> None:
    if not in_one:
        monkeypatch.setattr("openremedy.express.store", lambda *_: None)
    app = make_app(settings)
    with app.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE incidents {BREAKS[wrong][0]}")
    hidden = provoke(app, alice)
    log = capsys.readouterr().err
    assert '"event": "request.failed"' in log
    assert BREAKS[wrong][1] in log.replace("\\", "")
    assert in_one or "INSERT INTO incidents" in log
    assert [text for text in hidden if text in log] == []
    assert DISK_FULL["hostname"] not in log


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_value_that_the_database_quotes_is_left_out(
    capsys: pytest.CaptureFixture[str], app: Flask, log_format: str
) -> None:
    logger = speak(log_format)
    with app.app_context(), db.engine.connect() as connection:
        try:
            connection.execute(text("SELECT CAST(CAST(:value AS text) AS integer)"), {"value": HUSH})
        except SQLAlchemyError as error:
            logger.exception("it broke")
            logging.getLogger("a library").error("it broke", exc_info=error)
    log = capsys.readouterr().err
    assert log.count("InvalidTextRepresentation") >= 2
    assert HUSH not in log


HOSTILE = 'a\nfake.event tenant="x"\r\x1b[2J\x00\x85\u2028\u202eb'


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_log_line_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    speak(log_format).warning(HOSTILE, host=HOSTILE)
    logging.getLogger("some.library").warning("not %s at all", HOSTILE)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert "fake.event" in line


class FullDisk(io.StringIO):
    """Where nothing can be written any more."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@on_sqlite
def test_a_log_that_cannot_be_written_refuses_no_alert(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    assert alice.send(BODY).status_code == 202
    sys.stderr.close()
    assert alice.send(BODY).status_code == 202


def test_what_is_hushed_is_silent_and_errors_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    logger = speak("json")
    logging.disable(logging.WARNING)
    try:
        logger.warning("quiet.please")
        logger.error("not.this")
    finally:
        logging.disable(logging.NOTSET)
    logger.info("heard.again")
    log = capsys.readouterr().err
    assert [word in log for word in ("quiet.please", "not.this", "heard.again")] == [False, True, True]


def test_json_lines_are_json_with_their_request(
    capsys: pytest.CaptureFixture[str], make_app: MakeApp, settings: Settings, alice: Tenant
) -> None:
    app = make_app(settings)
    capsys.readouterr()
    answer = dataclasses.replace(alice, app=app).send(BODY)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    mine = [event for event in events if event["request_id"] == answer.headers["X-Request-ID"]]
    assert mine[-1]["event"] == "request.done"
    stored = answer.get_json()
    assert mine[-1] | {"ms": 0, "timestamp": ""} == {
        "event": "request.done",
        "level": "info",
        "method": "POST",
        "route": "/api/v1/webhooks/alerts/<tenant>",
        "status": 202,
        "ms": 0,
        "timestamp": "",
        "request_id": answer.headers["X-Request-ID"],
        "tenant": "alice",
        "delivery": stored["delivery_id"],
        "incident": stored["incident_id"],
        "outcome": "created",
    }
