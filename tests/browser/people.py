"""Somebody in front of the browser: signs in through the form, as people do."""

from typing import Any

from playwright.sync_api import Browser, Page

from browser.tabs import Tab, new_tab
from browser_client import PASSWORD
from ui_world import address


def sign_in(tab: Tab, name: str, password: str = PASSWORD, path: str = "/sign-in") -> None:
    """Fill in the form that `path` shows or leads to."""
    tab.open(path)
    fill_sign_in(tab.page, address(name), password)


def fill_sign_in(page: Page, email: str, password: str) -> None:
    """Fill in the form on this page and send it."""
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def state_of(browser: Browser, base: str, name: str) -> Any:
    """The cookies of somebody who has just signed in, for other tabs."""
    with new_tab(browser, base) as tab:
        sign_in(tab, name)
        tab.page.wait_for_url(lambda url: "/sign-in" not in url)
        tab.check()
        return tab.page.context.storage_state()
