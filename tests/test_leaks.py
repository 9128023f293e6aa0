"""The look at all that the run puts out (leaks.py): what it must see, it sees."""

import json
import logging
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from flask import Flask, Response, session
from redis import Redis
from rq import Queue

import leaks
from cast import DISK_FULL, Tenant
from cast import sign as sign_as_a_client
from conftest import make_settings
from openremedy import crypto, logs, people, signing
from openremedy.audit import COMMAND_LINE
from openremedy.extensions import db
from openremedy.ui.access import TOKEN

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def answering(text: str, endpoint: str = "show") -> Flask:
    """An application with one page."""
    page = Flask(__name__)
    page.add_url_rule("/", endpoint, lambda: text)
    return page


def seen() -> list[str]:
    """What the watch has seen, so that it is not held against the test."""
    return leaks.watch.take()


def test_a_secret_on_a_page_is_seen_and_masked() -> None:
    token = crypto.generate(crypto.API_TOKEN)
    answering(f"<p>your token is {token}, keep it</p>").test_client().get("/")
    (found,) = seen()
    assert found == "GET show: an API token: <p>your token is [47 characters], keep it</p>"


def test_a_secret_in_a_header_or_a_stream_is_seen(tmp_path: Path) -> None:
    token = secrets.token_urlsafe()
    page = answering("")
    page.view_functions["show"] = lambda: Response("", 302, {"Location": f"/?token={token}"})
    page.test_client().get("/")
    page.view_functions["show"] = lambda: Response(iter(["a,b\n", f"{token},\n"]))
    page.test_client().get("/").get_data()
    assert len(seen()) == 2


@ON_ONE
def test_what_is_sealed_hashed_or_set_is_a_secret(app: Flask, tmp_path: Path) -> None:
    given = make_settings(tmp_path, "postgresql://who:a-good-password@host/db", openai_api_key="sk-of-the-tests")
    crypto.Vault([crypto_key()]).lock("the tool's own signing secret")
    told = ["a-good-password", "sk-of-the-tests", given.secret_key, "the tool's own signing secret"]
    answering(" ".join(told)).test_client().get("/")
    assert len(seen()) == len(told)


def crypto_key() -> str:
    return "A" * 43 + "="


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_secret_in_a_log_line_is_seen(log_format: str) -> None:
    token = crypto.generate(crypto.SOURCE_TOKEN)
    structlog.reset_defaults()
    logs.configure(log_format)
    structlog.get_logger().warning("it broke", detail=token)
    logging.getLogger("a library").warning("it broke: %s", token)
    try:
        raise ValueError(token)
    except ValueError:
        structlog.get_logger().exception("it broke")
    assert len(seen()) >= 3


def test_a_signature_that_would_be_accepted_is_nothing_for_a_log() -> None:
    expected = signing.sign(b"secret", b"body")
    structlog.get_logger().warning("wrong signature", expected=expected)
    (found,) = seen()
    assert "an expected signature" in found


def test_a_log_of_a_process_is_read_and_what_has_our_prefix_is_seen_there(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text(f"started\nthe token orwh_{'x' * 43} is wrong\n")
    leaks.watch.log_of(tmp_path / "web.log")
    (found,) = seen()
    assert found.startswith("web.log: a webhook secret: the token [")


def test_a_device_in_the_place_of_a_log_is_not_read(tmp_path: Path) -> None:
    """One that is always full gives zeros for ever."""
    (tmp_path / "web.log").symlink_to("/dev/zero")
    leaks.watch.log_of(tmp_path / "web.log")
    assert not seen()


def test_a_secret_in_a_job_is_seen(redis_url: str) -> None:
    token = crypto.generate(crypto.SOURCE_TOKEN)
    with Redis.from_url(redis_url) as client:
        client.hset("rq:job:1", "data", json.dumps({"token": token}))
        client.rpush("rq:queue:1", token)
        leaks.of_redis(client)
        client.flushall()
    assert len(seen()) == 2


@ON_ONE
def test_the_body_and_the_signature_of_an_alert_are_not_taken_for_secrets_of_ours(alice: Tenant) -> None:
    raw = json.dumps(DISK_FULL).encode()
    answer = alice.app.test_client().post(
        "/api/v1/webhooks/alerts/alice",
        data=raw,
        headers={"X-OpenRemedy-Signature": sign_as_a_client(alice.secret, raw)},
    )
    assert answer.status_code == 202
    assert not seen()


# ---------------------------------------------------------------- a secret in other letters, or near another


def test_a_secret_is_seen_behind_what_json_and_urls_put_in_front_of_it() -> None:
    token = secrets.token_urlsafe()
    watch = leaks.watch
    for text in (json.dumps(f"a\n{token}"), json.dumps(f"\u00e9{token}"), f"/?next=%2Fx%3D{token}"):
        assert watch.found(text), text


def test_a_secret_of_any_letters_is_seen_as_html_json_and_urls_write_it() -> None:
    plain = 'it\'s 100% a "secr\u00e9t" & more'
    crypto.Vault([crypto_key()]).lock(plain)
    page = answering("")
    page.add_url_rule("/html", "html", lambda: f"<b>{leaks.escape(plain)}</b>")
    page.add_url_rule("/json", "json", lambda: {"secret": plain})
    page.add_url_rule("/url", "url", lambda: f"?s={leaks.quote(plain, safe='')}&t={leaks.quote_plus(plain)}")
    for path in ("/html", "/json", "/url"):
        page.test_client().get(path)
        assert seen(), path


def test_of_two_secrets_side_by_side_neither_is_told() -> None:
    one, other = secrets.token_urlsafe(), crypto.generate(crypto.SOURCE_TOKEN)
    answering(f"{one} {other}").test_client().get("/")
    told = seen()
    assert len(told) == 2
    assert not any(part in line for line in told for part in (one[:12], one[-12:], other[4:16], other[-12:]))


# ---------------------------------------------------------------- what is tried, and what proves who somebody is


def test_a_password_or_a_token_that_was_only_tried_is_a_secret_too() -> None:
    assert not people.check_password(None, "mistyped-by-alice")
    crypto.hashed("nearly-the-token-of-bob")
    for tried in ("mistyped-by-alice", "nearly-the-token-of-bob"):
        structlog.get_logger().warning("nobody", tried=tried)
        assert seen(), tried


@ON_ONE
def test_a_new_password_and_a_sign_in_are_secrets(app: Flask) -> None:
    with app.app_context():
        people.create_user(db.session(), "alice@example.com", "first-password-of-alice", None, None)
        structlog.get_logger().warning("made", password="first-password-of-alice")
        user = people.find_user(db.session(), "alice@example.com")
        assert user
        token = people.let_in(db.session(), user, people.Browser("127.0.0.1", "a browser"), COMMAND_LINE, "by password")
        structlog.get_logger().warning("let in", token=token)
    assert [line.split(": ")[1] for line in seen()] == ["a password", "a sign-in's token"]


@ON_ONE
def test_the_signature_that_a_refused_body_should_have_had_is_shown_nowhere(alice: Tenant) -> None:
    raw = json.dumps(DISK_FULL | {"hostname": "refused"}).encode()
    alice.app.view_functions["show"] = lambda: sign_as_a_client(alice.secret, raw).removeprefix("sha256=")
    alice.app.add_url_rule("/show", "show", alice.app.view_functions["show"])
    alice.app.test_client().get("/show")
    assert not seen()
    assert alice.send(raw, **{"X-OpenRemedy-Signature": f"sha256={'0' * 64}"}).status_code == 401
    alice.app.test_client().get("/show")
    (found,) = seen()
    assert "that a refused body should have had" in found


@ON_ONE
def test_the_signature_that_a_tool_should_have_sent_is_nothing_for_a_log(alice: Tenant) -> None:
    source = alice.source("pagerduty", "a-signing-secret-of-the-tool")
    assert source.send(b"{}", **{"X-PagerDuty-Signature": f"v1={'0' * 64}"}).status_code == 401
    # Not by hmac.new, whose results are known wherever they are made.
    right = leaks._digest(b"a-signing-secret-of-the-tool", b"{}", "sha256").hex()
    structlog.get_logger().warning("refused", expected=right)
    (found,) = seen()
    assert "an expected signature" in found


@ON_ONE
def test_a_cookie_and_the_token_of_a_form_are_nothing_for_a_log(app: Flask) -> None:
    answer = app.test_client().get("/sign-in")
    form_token = answer.text.split('name="csrf_token" value="')[1].split('"')[0]
    structlog.get_logger().warning("strange", cookie=answer.headers["Set-Cookie"], form=form_token)
    assert {line.split(": ")[1] for line in seen()} == {"a session's cookie", "a form's token"}


@ON_ONE
def test_a_secret_that_a_browser_keeps_in_its_session_is_seen(app: Flask) -> None:
    def keep() -> str:
        session.update({TOKEN: secrets.token_urlsafe(), "flashed": crypto.generate(crypto.WEBHOOK_SECRET)})
        return ""

    app.add_url_rule("/keep", "keep", keep)
    app.test_client().get("/keep")
    (found,) = seen()
    assert found.startswith("GET keep: a webhook secret")


# ---------------------------------------------------------------- commands and the launcher


@ON_ONE
def test_a_command_that_prints_a_secret_is_seen(app: Flask) -> None:
    @app.cli.command("gossip")
    def gossip() -> None:
        print(crypto.generate(crypto.API_TOKEN))

    app.test_cli_runner().invoke(args=["gossip"])
    (found,) = seen()
    assert found.startswith("flask gossip: an API token")


def test_a_command_in_a_process_of_its_own_that_prints_a_secret_is_seen() -> None:
    said = f"print('the secret orwh_{'x' * 43} is wrong'); raise SystemExit(1)"
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", said, "flask", "doctor"], capture_output=True, text=True, check=True)
    (found,) = seen()
    assert found.startswith("flask doctor: a webhook secret")


def test_the_launcher_shows_its_first_steps_and_no_key(tmp_path: Path) -> None:
    key = "K" * 43
    (tmp_path / "secret_key").write_text(key)
    leaks.watch.launcher(f"  webhook secret  orwh_{'y' * 43}\n", tmp_path)
    assert not seen()
    leaks.watch.launcher(f'{{"event": "orwh_{"y" * 43}"}}\n  http://127.0.0.1/?{key}\n', tmp_path)
    assert [line.split(":")[1].strip() for line in seen()] == ["a webhook secret", "SECRET_KEY"]


def test_a_secret_in_a_job_is_seen_when_it_is_queued(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        Queue("told", connection=client).enqueue("json.dumps", crypto.generate(crypto.SOURCE_TOKEN))
        assert seen()
        client.flushall()


# ---------------------------------------------------------------- a run in which something leaks

PLANTED = """
import pytest, structlog
from flask import Flask
from conftest import make_settings
from services import Server, own_folder, started
from openremedy import crypto, logs

TOKEN = crypto.generate(crypto.SOURCE_TOKEN)

class Chatty(Server):
    def command(self):
        return ["sh", "-c", f"echo {TOKEN}; exec sleep 60"]
    def answers(self):
        return self.log.read_text().count(TOKEN)

@pytest.fixture(scope="session")
def chatty():
    with own_folder("chatty") as folder, started(Chatty(folder)):
        yield

def test_a_page(tmp_path):
    settings, page = make_settings(tmp_path, "sqlite://"), Flask("page")
    page.add_url_rule("/x", "x", lambda: settings.secret_key)
    page.test_client().get("/x")

def test_nothing():
    structlog.get_logger().warning("all is well")

def test_a_log():
    logs.configure("json")
    structlog.get_logger().warning(TOKEN)

def test_at_the_end_of_the_run(chatty):
    pass
"""


def test_a_run_in_which_a_secret_is_put_out_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    pytester.makepyfile(PLANTED)
    done = pytester.runpytest_subprocess("-p", "conftest", "-p", "no:valkey", "-n", "1", "--dist", "loadfile")
    done.assert_outcomes(passed=4, errors=3)
    done.stdout.fnmatch_lines(
        ["*GET x: SECRET_KEY: ?*", "*a log line: a source's token*", "*server.log: a source's token*"]
    )


# ---------------------------------------------------------------- what is there to show a secret


def _source(alice: Tenant) -> str:
    return str(alice.source("datadog").id)


def _api(path: str, **body: str) -> Callable[[Tenant], Any]:
    return lambda alice: alice.app.test_client().post(path.format(source=_source(alice)), json=body, headers=alice.auth)


def _flask(words: str) -> Callable[[Tenant], Any]:
    return lambda alice: alice.app.test_cli_runner().invoke(args=words.format(source=_source(alice)).split())


SHOWING: dict[str, list[Callable[[Tenant], Any]]] = {
    "POST api.add_source": [_api("/api/v1/sources", adapter="datadog", name="of a test")],
    "POST api.rotate_source": [_api("/api/v1/sources/{source}/rotate")],
    "flask tenant create": [
        _flask("tenant create one"),
        _flask("tenant create two --secret a-secret-of-ones-own-0123456789"),
    ],
    "flask tenant rotate-secret": [_flask("tenant rotate-secret alice")],
    "flask source add": [_flask("source add alice grafana")],
    "flask source rotate": [_flask("source rotate alice {source}")],
    "flask outgoing add": [_flask("outgoing add alice chat https://hooks.example.com")],
    "flask outgoing rotate": [
        _flask("outgoing add alice chat https://hooks.example.com"),
        _flask("outgoing rotate alice chat"),
    ],
    "flask token create": [_flask("token create alice")],
    "flask user link": [_flask("user link alice@example.com")],
    "flask demo": [_flask("demo --json")],
}


def test_what_may_show_a_secret_is_held_to_do_so() -> None:
    """The pages are in tests/test_ui_routes.py."""
    assert {where for where in leaks.SHOWS if " ui." not in where} == SHOWING.keys()


@ON_ONE
@pytest.mark.parametrize("where", sorted(SHOWING))
def test_what_may_show_a_secret_shows_each_kind_that_it_may(where: str, alice: Tenant) -> None:
    with alice.app.app_context():
        people.create_user(db.session(), "alice@example.com", "a long and good password", None, None)
    leaks.watch.shown.clear()
    for show in SHOWING[where]:
        show(alice)
    assert {kind for there, kind in leaks.watch.shown if there == where} == leaks.SHOWS[where]


@ON_ONE
def test_what_may_show_one_kind_may_show_no_other(app: Flask) -> None:
    answering(crypto.generate(crypto.API_TOKEN), "ui.link").test_client().get("/")
    (found,) = seen()
    assert found.startswith("GET ui.link: an API token")
