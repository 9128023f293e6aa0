"""A real Chromium against the real service: gunicorn and a worker on SQLite and Redis, started once for each file."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import func, select

from browser.ground import Ground
from browser.tabs import LOOKS, WIDE_LIGHT, Look, Tab, launch_options, new_tab
from conftest import ENCRYPTION_KEY, make_settings
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.models import Incident, Triage
from openremedy.services import services
from services import RedisServer, missing, until
from stack import Stack
from ui_routes import NOBODY
from ui_world import fill

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("chromium", "the tests in a real browser; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_options(program))
        yield started
        started.close()


@pytest.fixture(scope="module")
def ground(
    browser: Browser, redis_server: RedisServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """Alice's tenant and Charlie's with one thing of each kind, and every incident with its verdict."""
    folder = tmp_path_factory.mktemp("browser")
    redis_server.flushall()
    url = f"sqlite:///{shutil.copy(sqlite_template, folder / 'openremedy.db')}"
    stack = Stack(folder, url, redis_server.url, ENCRYPTION_KEY)
    secret_key = stack.environment["SECRET_KEY"]
    app = create_app(make_settings(folder, url, redis_url=redis_server.url, secret_key=secret_key))
    with ExitStack() as ending:
        ending.callback(_close, app)
        ending.callback(stack.stop)
        stack.start("web", "worker")
        cast = fill(app)
        until(lambda: _all_classified(app), "every incident has its verdict", 60)
        yield Ground(stack, browser, app, cast)


def _all_classified(app: Flask) -> bool:
    with app.app_context():
        waiting = select(func.count()).where(Incident.triage.in_([Triage.PENDING, Triage.CLASSIFYING]))
        return not db.session.scalar(waiting)


def _close(app: Flask) -> None:
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def browse(browser: Browser, ground: Ground) -> Iterator[Callable[..., Tab]]:
    """Opens tabs: `browse("alice", look)`. At the end of the test nothing may have gone wrong in any of them."""
    tabs: list[Tab] = []
    with ExitStack() as ending:

        def open_tab(name: str = NOBODY, look: Look = WIDE_LIGHT) -> Tab:
            tab = ending.enter_context(new_tab(browser, ground.stack.url, look, ground.state(name)))
            tabs.append(tab)
            return tab

        yield open_tab
        for tab in tabs:
            tab.check()


@pytest.fixture(params=LOOKS, ids=lambda look: look.name)
def look(request: pytest.FixtureRequest) -> Look:
    """Wide and phone, light and dark."""
    chosen: Look = request.param
    return chosen
