"""/healthz is about the process alone, /readyz about what it needs; neither tells a secret or a host."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from redis import Redis

from config import Settings
from openremedy.extensions import db
from openremedy.models import ModelState, now
from services import RedisServer

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
GONE = "postgresql+psycopg://hidden-user:hidden-password@127.0.0.1:1/hidden-name"

MakeApp = Callable[[Settings], Flask]


def ready(app: Flask) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz, which never name a host or a secret."""
    answer = app.test_client().get("/readyz")
    assert not any(word in answer.text for word in ("hidden", "127.0.0.1", "sqlite:", "postgres", "redis:/"))
    body: dict[str, Any] = answer.get_json()
    assert set(body) == {"status", "checks"}
    return answer.status_code, body


def statements(app: Flask) -> list[str]:
    """Whatever is sent to the database from now on."""
    sent: list[str] = []
    with app.app_context():
        db.event.listen(db.engine, "before_cursor_execute", lambda *words: sent.append(words[2]))
    return sent


def test_healthz_asks_nobody(app: Flask) -> None:
    sent = statements(app)
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert sent == []


@pytest.mark.parametrize("database_url", [GONE], indirect=False)
def test_healthz_answers_with_database_and_redis_gone(
    make_app: MakeApp, settings: Settings, redis_server: RedisServer
) -> None:
    app = make_app(dataclasses.replace(settings, redis_url=redis_server.url))
    with redis_server.paused():
        started = time.monotonic()
        assert app.test_client().get("/healthz").status_code == 200
        assert time.monotonic() - started < 1


def test_readyz_is_ok_where_all_is_well(make_app: MakeApp, settings: Settings, redis_url: str) -> None:
    app = make_app(dataclasses.replace(settings, redis_url=redis_url))
    assert ready(app) == (200, {"status": "ok", "checks": {"database": "ok", "redis": "ok", "model": "off"}})


@pytest.mark.parametrize("database_url", [GONE], indirect=False)
def test_readyz_is_503_when_the_database_is_gone(app: Flask) -> None:
    status, body = ready(app)
    assert status == 503
    assert body == {"status": "unavailable", "checks": {"database": "unreachable"}}


@ON_ONE
def test_readyz_is_503_when_the_sqlite_file_is_gone(make_app: MakeApp, settings: Settings) -> None:
    app = make_app(dataclasses.replace(settings, database_url=f"sqlite:///{settings.data_dir}/absent/none.db"))
    assert ready(app)[0] == 503


def test_readyz_is_503_when_the_schema_is_behind(app: Flask) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(db.text("DELETE FROM alembic_version"))
    status, body = ready(app)
    assert status == 503
    assert "flask db upgrade" in body["checks"]["database"]


def test_readyz_is_200_while_the_next_release_is_rolled_out(app: Flask) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(db.text("UPDATE alembic_version SET version_num = '9999'"))
    status, body = ready(app)
    assert (status, body["checks"]["database"]) == (200, "ok")


def test_readyz_is_degraded_when_redis_refuses(app: Flask) -> None:
    status, body = ready(app)
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["redis"].startswith("away")


@ON_ONE
def test_readyz_does_not_hang_with_redis(make_app: MakeApp, settings: Settings, redis_server: RedisServer) -> None:
    app = make_app(dataclasses.replace(settings, redis_url=redis_server.url))
    assert ready(app)[1]["status"] == "ok"
    with redis_server.paused():
        for _ in range(2):
            started = time.monotonic()
            assert ready(app)[1]["status"] == "degraded"
            assert time.monotonic() - started < 1.5
    assert ready(app)[1]["status"] == "ok"


@ON_ONE
def test_readyz_names_a_wrong_eviction_policy(make_app: MakeApp, settings: Settings, redis_url: str) -> None:
    app = make_app(dataclasses.replace(settings, redis_url=redis_url))
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            status, body = ready(app)
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["redis"] == "maxmemory-policy is allkeys-lru, must be noeviction"


def test_readyz_is_degraded_while_the_model_is_away(make_app: MakeApp, settings: Settings, redis_url: str) -> None:
    on = {"openai_base_url": "http://127.0.0.1:1/v1", "openai_api_key": "hidden-key"}
    app = make_app(dataclasses.replace(settings, redis_url=redis_url, **on))
    assert ready(app)[1]["checks"]["model"] == "ok"
    with app.app_context():
        db.session.add(ModelState(id=1, away_until=now(), reason="hidden reason", failures=1))
        db.session.commit()
    status, body = ready(app)
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["model"].startswith("away")


@ON_ONE
def test_readyz_only_reads(app: Flask) -> None:
    sent = statements(app)
    ready(app)
    assert sent
    assert all(statement.lstrip().startswith(("SELECT", "PRAGMA", "BEGIN")) for statement in sent)
    assert "BEGIN IMMEDIATE" not in sent, "a probe must not wait for a writer"
