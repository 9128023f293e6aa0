"""A real Chromium against the real service: gunicorn and a worker on SQLite and Redis, started once for each file."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser.ground import Ground, ground_of
from browser.tabs import WIDE_LIGHT, Look, Tab, launch_options, new_tab
from services import RedisServer, missing
from ui_routes import NOBODY

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
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
    """What every test of a file shares; a test that changes something makes a thing of its own for it."""
    folder = tmp_path_factory.mktemp("ground")
    with ground_of(browser, redis_server, sqlite_template, folder, "web", "worker") as made:
        made.wait_for_verdicts()
        yield made


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
