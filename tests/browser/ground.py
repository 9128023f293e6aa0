"""What a test in the browser stands on: a running service with people and things in it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests
from flask import Flask
from playwright.sync_api import Browser
from sqlalchemy import func, select

from browser.people import state_of
from cast import sign
from conftest import ENCRYPTION_KEY, make_settings
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.models import Incident, Triage
from openremedy.services import services
from services import RedisServer, until
from stack import Stack
from ui_routes import ADMIN, NOBODY
from ui_world import Cast, fill


class Ground:
    """A running service, and the browsers of those who have signed in. `app` is on the same database and Redis."""

    def __init__(self, stack: Stack, browser: Browser, app: Flask, cast: Cast) -> None:
        self.stack = stack
        self.app = app
        self.cast = cast
        self.things = cast.things[ADMIN]
        self._browser = browser
        self._states: dict[str, Any] = {}

    def state(self, name: str) -> Any:
        """The cookies of somebody; they sign in through the form once for each file, for passwords are counted."""
        if name == NOBODY:
            return None
        if name not in self._states:
            self._states[name] = state_of(self._browser, self.stack.url, name)
        return self._states[name]

    def stack_send(self, **alert: Any) -> dict[str, Any]:
        """Post a signed alert of Alice's over the wire."""
        tenant = self.cast.tenants[ADMIN]
        raw = json.dumps(alert).encode()
        url = f"{self.stack.url}/api/v1/webhooks/alerts/{tenant.slug}"
        answer = requests.post(url, data=raw, headers={"X-OpenRemedy-Signature": sign(tenant.secret, raw)}, timeout=30)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for_verdicts(self) -> None:
        """Until no incident waits any more."""
        until(self._all_classified, "every incident has its verdict", 60)

    def _all_classified(self) -> bool:
        with self.app.app_context():
            waiting = select(func.count()).where(Incident.triage.in_([Triage.PENDING, Triage.CLASSIFYING]))
            return not db.session.scalar(waiting)


@contextmanager
def ground_of(browser: Browser, redis: RedisServer, template: Path, folder: Path, *processes: str) -> Iterator[Ground]:
    """Alice's tenant and Charlie's with one thing of each kind, served by these processes from SQLite and Redis."""
    redis.flushall()
    url = f"sqlite:///{shutil.copy(template, folder / 'openremedy.db')}"
    stack = Stack(folder, url, redis.url, ENCRYPTION_KEY)
    secret_key = stack.environment["SECRET_KEY"]
    app = create_app(make_settings(folder, url, redis_url=redis.url, secret_key=secret_key))
    with ExitStack() as ending:
        ending.callback(_close, app)
        ending.callback(stack.stop)
        stack.start(*processes)
        yield Ground(stack, browser, app, fill(app))


def _close(app: Flask) -> None:
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()
