"""What every test may ask for: an application on a fresh database of each kind, Alice, Bob and Charlie, real services.

Alice owns the tenant `alice`, Bob is a responder there, Charlie owns another tenant and must see nothing of hers.
"""

import dataclasses
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from argon2 import PasswordHasher
from cryptography.fernet import Fernet
from flask import Flask
from flask.testing import FlaskClient

from config import Settings
from openremedy import people, tenants
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.recipes import parse
from openremedy.services import services

# With --import-mode=importlib the folder of a test is not importable by itself.
sys.path.insert(0, str(Path(__file__).parent))

from cast import Member, Tenant
from services import PostgresServer, RedisServer, postgres, redis, report_not_run
from stack import Stack

ROOT = Path(__file__).parent.parent
ENCRYPTION_KEY = Fernet.generate_key().decode()
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens there: every test without a Redis of its own runs without one


# Minutes each. Begun first (with `--no-loadscope-reorder`), so that one process is not left alone with them at the end.
LONGEST = ("test_ui_routes.py", "test_pages.py", "test_flows.py", "test_real_senders.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, everything else in its order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    report_not_run(terminalreporter)


@pytest.fixture(autouse=True)
def _push_request_context() -> None:
    """Replace pytest-flask's own: inside its context all requests of a test would share one `g`."""


# ---------------------------------------------------------------- servers, started once


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.flushall()
    return redis_server.url


# ---------------------------------------------------------------- databases, migrated once and copied


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "openremedy.db"
    migrate(make_settings(path.parent, f"sqlite:///{path}"))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = postgres_server.create_database("openremedy_template")
    migrate(make_settings(tmp_path_factory.mktemp("template"), driver(url)))
    return "openremedy_template"


def migrate(settings: Settings) -> None:
    app = create_app(settings)
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        db.engine.dispose()


def driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "openremedy.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    url = server.create_database(name, template=request.getfixturevalue("postgres_template"))
    yield driver(url)
    server.drop_database(name)


def make_settings(folder: Path, database_url: str, **changes: Any) -> Settings:
    settings = Settings(
        database_url=database_url,
        redis_url=NOWHERE,
        secret_key=uuid.uuid4().hex * 2,
        encryption_keys=(ENCRYPTION_KEY,),
        data_dir=folder,
        redis_socket=None,
        embedded_database=database_url.startswith("sqlite"),
        rate_limit=0,
        log_format="json",
    )
    return dataclasses.replace(settings, **changes)


# ---------------------------------------------------------------- the application


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """No Redis, no rate limit, no model; a test that wants other settings overrides this fixture or uses make_app."""
    return make_settings(tmp_path, database_url)


@pytest.fixture
def make_app() -> Iterator[Callable[[Settings], Flask]]:
    """Builds applications and closes their connections afterwards.

    Their tally writes when a test says so: by its clock it would write between two looks at the rows.
    """
    made: list[Flask] = []

    def make(settings: Settings) -> Flask:
        app = create_app(settings)
        app.testing = False  # errors become answers, as for a real caller
        with app.app_context():
            services().tally._start = lambda: None
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            services().tally.stop()
            db.session.remove()
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[[Settings], Flask], settings: Settings) -> Flask:
    return make_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def alice(app: Flask) -> Tenant:
    """Alice's tenant, with the starter recipes."""
    return make_tenant(app, "alice")


@pytest.fixture
def bob(app: Flask, alice: Tenant) -> Member:
    """A responder in Alice's tenant."""
    with app.app_context():
        return Member(alice.slug, tenants.create_token(db.session(), alice.slug, Role.RESPONDER, "bob"))


@pytest.fixture
def charlie(app: Flask) -> Tenant:
    """Another tenant, which must see nothing of Alice's."""
    return make_tenant(app, "charlie")


def make_tenant(app: Flask, slug: str) -> Tenant:
    with app.app_context():
        secret = tenants.create_tenant(db.session(), services().vault, slug)
        tenant = Tenant(app, slug, secret, tenants.create_token(db.session(), slug, Role.ADMIN, slug))
        tenant.import_recipes(parse(tenants.STARTER_RECIPES.read_text()))
        return tenant


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a password costs is a matter of argon2's own; how many are computed is ours."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people, "_hasher", hasher)
    monkeypatch.setattr(people, "_NOBODY", hasher.hash("nobody"))


# ---------------------------------------------------------------- the whole service, as processes


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    """gunicorn, workers and the scheduler as real processes; started by the test with what it needs."""
    running = Stack(tmp_path, database_url, redis_url, ENCRYPTION_KEY)
    yield running
    running.stop()
