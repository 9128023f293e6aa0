"""What every test may ask for: an application on a fresh database of each kind, Alice, Bob and Charlie, real services.

Alice owns the tenant `alice`, Bob is a responder there, Charlie owns another tenant and must see nothing of hers.
"""

import base64
import dataclasses
import gc
import hashlib
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import flask_migrate
import hypothesis
import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.templating import Environment
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy.engine import Engine
from werkzeug.routing import Rule

from config import Settings
from openremedy import database, people, tenants
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.fetching import Fetcher
from openremedy.models import Role
from openremedy.recipes import parse
from openremedy.services import services

# With --import-mode=importlib the folder of a test is not importable by itself.
sys.path.insert(0, str(Path(__file__).parent))

import leaks
from cast import Member, Tenant
from databases import Shelf
from services import PostgresServer, RedisServer, postgres, redis, report_not_run
from stack import Stack

ROOT = Path(__file__).parent.parent
# Always the same: this module may be imported twice, by pytest and by a test, and both must read the same secrets.
ENCRYPTION_KEY = base64.urlsafe_b64encode(hashlib.sha256(b"tests").digest()).decode()
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens there: every test without a Redis of its own runs without one

# For a longer look by hand: --hypothesis-profile=long. A test with a number of its own keeps to it.
hypothesis.settings.register_profile("long", max_examples=200, deadline=None, print_blob=True)

# Minutes each. Begun first (with `--no-loadscope-reorder`), so that one process is not left alone with them at the end.
LONGEST = (
    *("test_ui_routes.py", "test_pages.py", "test_hostile.py", "test_flows.py", "test_faults.py"),
    *("test_launcher.py", "test_real_senders.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, everything else in its order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Look for garbage less often, and never in what stays: applications made by the thousand had it looked for a fifth
    of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    report_not_run(terminalreporter)


@pytest.fixture(autouse=True)
def _push_request_context() -> None:
    """Replace pytest-flask's own: inside its context all requests of a test would share one `g`."""


# ---------------------------------------------------------------- nothing that is put out has a secret in it


@pytest.fixture(scope="session", autouse=True)
def _watched() -> Iterator[None]:
    with leaks.watching():
        yield


@pytest.fixture(autouse=True)
def _no_secret_is_put_out() -> Iterator[None]:
    """First of all fixtures, so that what the others put out at their end is seen too."""
    yield
    leaks.watch.report()


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
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """An empty Redis."""
    redis_server.flushall()
    yield redis_server.url
    with redis_server.client() as client:
        leaks.of_redis(client)


# ---------------------------------------------------------------- databases, migrated once and copied


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "openremedy.db"
    migrate(make_settings(path.parent, f"sqlite:///{path}"))
    return settled(path)


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


def settled(path: Path) -> Path:
    """A SQLite file with everything in itself, so that it can be copied."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


# A tenant costs more than most tests that need one: those who ask for these find them moved in, in this order.
RESIDENTS = ("alice", "charlie")
Keys = dict[str, tuple[str, str]]


@pytest.fixture(scope="session")
def sqlite_houses(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[Path, Keys]]:
    """The template in which so many of the residents live, and their secrets and tokens."""

    @cache
    def house(count: int) -> tuple[Path, Keys]:
        if not count:
            return sqlite_template, {}
        before, keys = house(count - 1)
        path = Path(shutil.copy(before, tmp_path_factory.mktemp("template") / "openremedy.db"))
        keys = keys | move_in(make_settings(path.parent, f"sqlite:///{path}"), RESIDENTS[count - 1])
        return settled(path), keys

    return house


@pytest.fixture(scope="session")
def postgres_houses(
    postgres_server: PostgresServer, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[str, Keys]]:
    """The same on PostgreSQL."""

    @cache
    def house(count: int) -> tuple[str, Keys]:
        if not count:
            return postgres_template, {}
        before, keys = house(count - 1)
        url = driver(postgres_server.create_database(f"openremedy_template_{count}", before))
        settings = make_settings(tmp_path_factory.mktemp("template"), url)
        return f"openremedy_template_{count}", keys | move_in(settings, RESIDENTS[count - 1])

    return house


def move_in(settings: Settings, slug: str) -> Keys:
    app = create_app(settings)
    tenant = make_tenant(app, slug)
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()
    return {slug: (tenant.secret, tenant.token)}


@pytest.fixture(scope="session")
def shelf(postgres_server: PostgresServer) -> Shelf:
    return Shelf(postgres_server)


@pytest.fixture
def residents() -> Keys:
    """Who lives in this test's database already."""
    return {}


@pytest.fixture
def alice_lives_here() -> None:
    """Asked for by our `alice`, not by those that a file may have of its own."""


@pytest.fixture
def charlie_lives_here() -> None:
    """The same for Charlie."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, residents: Keys) -> Iterator[str]:
    """A fresh, migrated database of each kind, with those residents in it that the test asks for."""
    count = len(list(takewhile(lambda slug: f"{slug}_lives_here" in request.fixturenames, RESIDENTS)))
    if request.param == "sqlite":
        path, keys = request.getfixturevalue("sqlite_houses")(count)
        residents.update(keys)
        yield f"sqlite:///{shutil.copy(path, tmp_path / 'openremedy.db')}"
        return
    name, keys = request.getfixturevalue("postgres_houses")(count)
    residents.update(keys)
    with request.getfixturevalue("shelf").lent(name) as url:
        yield driver(url)


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
def in_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """No body goes in one statement: what is asked for is about the store's own transaction."""
    monkeypatch.setattr("openremedy.express.store", lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def _quick_applications() -> Iterator[None]:
    """Thousands are made: compile the code of each route and template once, let SQLite not wait for the disk, and let
    a password cost nothing, which is a matter of argon2's own.

    What survives a crash is tested on processes of their own, which know nothing of this.
    """
    prepare = database.prepare

    def prepare_in_haste(engine: Engine) -> None:
        prepare(engine)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF").close())

    with pytest.MonkeyPatch.context() as patch:
        _once(patch, Rule, "_compile_builder", lambda rule: (rule.rule, tuple(rule._trace), repr(rule.defaults)))
        _once(patch, Environment, "compile", lambda _: ())
        patch.setattr(database, "prepare", prepare_in_haste)
        patch.setattr(people, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


def _once(patch: pytest.MonkeyPatch, owner: type, name: str, key: Callable[[Any], tuple[Any, ...]]) -> None:
    """A method gives what it gave for the same arguments and `key` of its object."""
    given: dict[Any, Any] = {}
    method = getattr(owner, name)

    def once(this: Any, *arguments: Any) -> Any:
        of_what = (*key(this), *arguments)
        if of_what not in given:
            given[of_what] = method(this, *arguments)
        return given[of_what]

    patch.setattr(owner, name, once)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """No Redis, no rate limit, no model; a test that wants other settings overrides this fixture or uses make_app."""
    return make_settings(tmp_path, database_url)


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Builds applications and closes their connections afterwards.

    Their tally writes when a test says so: by its clock it would write between two looks at the rows.
    """
    made: list[Flask] = []

    def make(settings: Settings, fetcher: Fetcher | None = None) -> Flask:
        app = create_app(settings, fetcher)
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
def alice(app: Flask, residents: Keys, alice_lives_here: None) -> Tenant:
    """Alice's tenant, with the starter recipes."""
    return at_home(app, "alice", residents)


@pytest.fixture
def bob(app: Flask, alice: Tenant) -> Member:
    """A responder in Alice's tenant."""
    with app.app_context():
        return Member(alice.slug, tenants.create_token(db.session(), alice.slug, Role.RESPONDER, "bob"))


@pytest.fixture
def charlie(app: Flask, residents: Keys, charlie_lives_here: None) -> Tenant:
    """Another tenant, which must see nothing of Alice's."""
    return at_home(app, "charlie", residents)


def at_home(app: Flask, slug: str, residents: Keys) -> Tenant:
    """A tenant who lives here already, else a new one."""
    return Tenant(app, slug, *residents[slug]) if slug in residents else make_tenant(app, slug)


def make_tenant(app: Flask, slug: str) -> Tenant:
    with app.app_context():
        secret = tenants.create_tenant(db.session(), services().vault, slug)
        tenant = Tenant(app, slug, secret, tenants.create_token(db.session(), slug, Role.ADMIN, slug))
        tenant.import_recipes(parse(tenants.STARTER_RECIPES.read_text()))
        return tenant


# ---------------------------------------------------------------- the whole service, as processes


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    """gunicorn, workers and the scheduler as real processes; started by the test with what it needs."""
    running = Stack(tmp_path, database_url, redis_url, ENCRYPTION_KEY)
    yield running
    running.stop()
