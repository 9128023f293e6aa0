"""A tab of the browser that forgives nothing: whatever the console, the policy or the network says is a failure."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Response, Route, ViewportSize

WIDE: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
PATIENCE = 30_000  # milliseconds, for a loaded machine
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  window.tellViolation(`${event.effectiveDirective} blocked ${event.blockedURI || "inline"} ${event.sample}`));
"""


@dataclass(frozen=True)
class Look:
    """How wide the window is, and which colours its owner likes."""

    name: str
    viewport: ViewportSize
    scheme: str


LOOKS = [
    Look(f"{width}-{scheme}", viewport, scheme)
    for width, viewport in (("wide", WIDE), ("phone", PHONE))
    for scheme in ("light", "dark")
]
WIDE_LIGHT = LOOKS[0]
PHONE_LIGHT = LOOKS[2]


@dataclass
class Tab:
    """A page in a browser of its own, and what went wrong in it."""

    page: Page
    base: str
    problems: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    _statuses: set[int] = field(default_factory=set)
    _accepts: bool = False

    # ------------------------------------------------------------ what a test says beforehand

    def expect_status(self, *statuses: int) -> None:
        """From here on the console may say that something was answered with one of these."""
        self._statuses.update(statuses)

    def accept_dialogs(self) -> None:
        """From here on a question is answered with yes."""
        self._accepts = True

    # ------------------------------------------------------------ going places

    def open(self, path: str, status: int = 200) -> Response:
        """Type an address."""
        self.expect_status(*([status] if status >= 400 else []))
        answer = self.page.goto(self.base + path)
        assert answer
        assert answer.status == status, f"{path}: {answer.status}"
        return answer

    def follow(self, link: str | re.Pattern[str]) -> None:
        """Click the link of this name and wait for the scripts of where it leads: before, they hear nobody."""
        with self.page.expect_navigation(wait_until="domcontentloaded"):
            self.page.get_by_role("link", name=link).click()

    @property
    def path(self) -> str:
        """Where the tab is."""
        return self.page.url.removeprefix(self.base)

    def press(self, *keys: str) -> None:
        """Keys, one after the other, on a page whose scripts listen by now."""
        self.page.wait_for_load_state("domcontentloaded")
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> str:
        """The name, text or label of what has the focus."""
        script = "(e => e.name || e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"
        return str(self.page.evaluate(script))

    def tab_to(self, name: str, most: int = 60) -> None:
        """Press Tab until the element of this name or text has the focus."""
        for _ in range(most):
            self.press("Tab")
            if self.focused() == name:
                return
        raise AssertionError(f"no way to {name!r} by keyboard; the focus is on {self.focused()!r}")

    @contextlib.contextmanager
    def in_the_dark(self) -> Iterator[None]:
        """The same page to somebody who likes dark colours."""
        self.page.emulate_media(color_scheme="dark")
        yield
        self.page.emulate_media(color_scheme="light")

    @contextlib.contextmanager
    def as_on_a_phone(self) -> Iterator[None]:
        """The same page in a window as narrow as a phone's."""
        before = self.page.viewport_size
        assert before
        self.page.set_viewport_size(PHONE)
        yield
        self.page.set_viewport_size(before)

    # ------------------------------------------------------------ what is noticed

    def watch(self) -> None:
        """Notice everything from here on."""
        page, context = self.page, self.page.context
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"error of a script: {error}"))
        page.on("dialog", self._dialog)
        page.on("popup", lambda other: self.problems.append(f"a window was opened: {other.url}"))
        context.expose_binding("tellViolation", lambda _source, told: self.problems.append(f"policy: {told}"))
        context.add_init_script(_TELL_VIOLATIONS)
        context.route(lambda url: not url.startswith(self.base + "/"), self._elsewhere)

    def _console(self, message: ConsoleMessage) -> None:
        if message.text.startswith("Autofocus processing was blocked because a document already has a focused"):
            return  # a test typed before the page was drawn
        declared = any(f"responded with a status of {status} " in message.text for status in self._statuses)
        if not declared:
            self.problems.append(f"console, {message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        if self._accepts:
            dialog.accept()
            return
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _elsewhere(self, route: Route) -> None:
        self.problems.append(f"request to another host: {route.request.url}")
        route.abort()

    def check(self) -> None:
        """Fail if anything was noticed."""
        assert not self.problems, "\n".join(self.problems)


@contextlib.contextmanager
def new_tab(browser: Browser, base: str, look: Look = WIDE_LIGHT, state: Any = None) -> Iterator[Tab]:
    """A watched tab in a browser profile of its own; `state` is that of somebody who has signed in."""
    with _context(browser, look, state) as context:
        tab = Tab(context.new_page(), base)
        tab.watch()
        yield tab


@contextlib.contextmanager
def _context(browser: Browser, look: Look, state: Any) -> Iterator[BrowserContext]:
    context = browser.new_context(
        viewport=look.viewport,
        color_scheme="dark" if look.scheme == "dark" else "light",
        reduced_motion="reduce",  # what is judged by its colours must not be half way between two
        locale="en-GB",
        timezone_id="UTC",
        storage_state=state,
    )
    context.set_default_timeout(PATIENCE)
    try:
        yield context
    finally:
        context.close()


def launch_options(program: str | Path) -> dict[str, Any]:
    """How Chromium is started: the system's own, without a window, and quiet on the network."""
    quiet = (
        *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb"),
    )
    return {"executable_path": str(program), "headless": True, "args": list(quiet)}
