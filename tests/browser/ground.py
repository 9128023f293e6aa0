"""What a test in the browser stands on."""

from typing import Any

from flask import Flask
from playwright.sync_api import Browser

from browser.people import state_of
from stack import Stack
from ui_routes import ADMIN, NOBODY
from ui_world import Cast


class Ground:
    """A running service with people and things in it, and the browsers of those who have signed in."""

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
