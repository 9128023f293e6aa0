"""The look at all that the run puts out (leaks.py): what it must see, it sees."""

import json
import logging
import secrets
from pathlib import Path

import pytest
import structlog
from flask import Flask, Response
from redis import Redis

import leaks
from cast import DISK_FULL, Tenant
from cast import sign as sign_as_a_client
from conftest import make_settings
from openremedy import crypto, logs, signing

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
    assert found == "GET show: a secret ort_: <p>your token is [47 characters], keep it</p>"


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
    leaks.of_settings(given)
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
    assert found.startswith("web.log: a secret by its prefix")


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


@ON_ONE
def test_what_may_show_a_secret_is_a_route_of_ours(app: Flask) -> None:
    routes = {f"{method} {rule.endpoint}" for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    assert routes >= leaks.SHOWS


@ON_ONE
@pytest.mark.parametrize("endpoint", sorted({one.split()[1] for one in leaks.SHOWS if one.startswith("GET ")}))
def test_what_may_show_one_is_not_held_to_account(endpoint: str, app: Flask) -> None:
    answering(crypto.generate(crypto.API_TOKEN), endpoint).test_client().get("/")
    assert not seen()
