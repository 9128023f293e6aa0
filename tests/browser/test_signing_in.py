"""Getting in and out, and one's own account, in the browser."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser.ground import Ground
from browser.people import fill_sign_in, sign_in
from browser.tabs import PHONE_LIGHT, Tab, new_tab
from browser_client import PASSWORD
from conftest import ENCRYPTION_KEY, make_settings
from openremedy import people
from openremedy.app import create_app
from openremedy.audit import COMMAND_LINE
from openremedy.extensions import db
from openremedy.models import LinkPurpose
from services import RedisServer
from stack import Stack
from ui_routes import ADMIN, RESPONDER, SUPERADMIN, VIEWER
from ui_world import address

Browse = Callable[..., Tab]


def test_signing_in_looking_and_signing_out_need_no_mouse(browse: Browse) -> None:
    tab = browse()
    tab.open("/t/alice/")
    assert tab.focused() == "email", "the cursor stands where one begins to type"
    tab.page.keyboard.type(address(VIEWER))
    tab.tab_to("password")
    tab.page.keyboard.type(PASSWORD)
    tab.press("Enter")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Overview")
    tab.press("Tab")
    assert tab.focused() == "Skip to the content"
    tab.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
    tab.open("/account")
    tab.tab_to("Sign out")
    tab.press("Enter")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_wrong_password_is_said_and_the_address_stays(browse: Browse) -> None:
    tab = browse()
    tab.expect_status(401)
    sign_in(tab, RESPONDER, "not the password")
    expect(tab.page.get_by_role("alert")).to_contain_text("do not belong together")
    assert tab.page.get_by_label("E-mail").input_value() == address(RESPONDER)
    assert tab.page.get_by_label("Password").input_value() == ""
    assert tab.focused() == "password"
    fill_sign_in(tab.page, address(RESPONDER), PASSWORD)
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_whoever_is_sent_to_sign_in_comes_back_to_where_they_were(browse: Browse) -> None:
    tab = browse()
    sign_in(tab, RESPONDER, path="/account?x=1")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Your account")
    assert tab.path == "/account?x=1"


def test_a_new_password_ends_the_other_browser_which_is_led_back_after_signing_in(
    browse: Browse, ground: Ground
) -> None:
    with ground.app.app_context():
        people.create_user(db.session(), "erin@example.com", PASSWORD, ADMIN, None)
    here, elsewhere = browse(), browse()
    for tab in (here, elsewhere):
        sign_in(tab, "erin", path="/account")
        expect(tab.page.get_by_role("heading", level=1)).to_have_text("Your account")
    expect(here.page.get_by_role("cell", name="this one")).to_have_count(1)

    here.page.get_by_label("Current password").fill(PASSWORD)
    here.page.get_by_label("New password").fill("another long password")
    here.page.get_by_role("button", name="Change the password").click()
    expect(here.page.get_by_role("status").first).to_contain_text("Your password is changed")

    elsewhere.open("/account", 401)
    expect(elsewhere.page.get_by_role("alert")).to_contain_text("Your sign-in has ended")
    fill_sign_in(elsewhere.page, "erin@example.com", "another long password")
    expect(elsewhere.page.get_by_role("heading", level=1)).to_have_text("Your account")

    here.open("/account")
    here.page.get_by_role("button", name="Sign out everywhere else").click()
    expect(here.page.get_by_role("button", name="Sign out everywhere else")).to_have_count(0)
    elsewhere.open("/account", 401)


def test_a_wrong_current_password_is_said_and_nothing_changes(browse: Browse) -> None:
    tab = browse(RESPONDER)
    tab.open("/account")
    tab.expect_status(401, 422)
    for current, new, said in (("wrong", "another long password", "not right"), (PASSWORD, "short", "has at least 8")):
        tab.page.get_by_label("Current password").fill(current)
        tab.page.get_by_label("New password").fill(new)
        tab.page.get_by_role("button", name="Change the password").click()
        expect(tab.page.get_by_text(said)).to_be_visible()
    tab.open("/account")


def test_on_a_phone_the_menu_opens_leads_on_and_signs_out(browse: Browse) -> None:
    tab = browse(look=PHONE_LIGHT)
    sign_in(tab, VIEWER)
    menu = tab.page.get_by_role("navigation", name="Main")
    button = tab.page.get_by_role("link", name="Menu").or_(tab.page.get_by_role("button", name="Menu"))
    expect(menu).to_be_hidden()
    tab.page.wait_for_load_state("domcontentloaded")
    button.click()
    expect(menu).to_be_visible()
    expect(button).to_have_attribute("aria-expanded", "true")
    button.click()
    expect(menu).to_be_hidden()
    button.click()
    menu.get_by_role("link", name=address(VIEWER)).click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Your account")
    expect(menu).to_be_hidden()
    tab.page.wait_for_load_state("domcontentloaded")
    button.click()
    menu.get_by_role("button", name="Sign out").click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_superadmin_chooses_a_tenant_and_switches_to_another(browse: Browse) -> None:
    tab = browse(SUPERADMIN)
    tab.open("/")
    tab.page.get_by_role("main").get_by_role("link", name="charlie").click()
    expect(tab.page).to_have_url(f"{tab.base}/t/charlie/")
    menu = tab.page.get_by_role("navigation", name="Main")
    menu.locator("summary").click()
    menu.get_by_role("link", name="alice", exact=True).click()
    expect(tab.page).to_have_url(f"{tab.base}/t/alice/")
    expect(menu.locator("summary")).to_have_text("alice")


def test_without_a_script_one_signs_in_and_the_menu_of_a_phone_opens(browser: Browser, ground: Ground) -> None:
    context = browser.new_context(viewport=PHONE_LIGHT.viewport, java_script_enabled=False)
    with ExitStack() as ending:
        ending.callback(context.close)
        page = context.new_page()
        page.goto(f"{ground.stack.url}/t/alice/")
        fill_sign_in(page, address(VIEWER), PASSWORD)
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        page.get_by_role("link", name="Menu").click()
        page.get_by_role("navigation", name="Main").get_by_role("link", name=address(VIEWER)).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Your account")
        page.get_by_role("link", name="Menu").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_no_page_lets_itself_be_framed(browser: Browser, ground: Ground) -> None:
    context = browser.new_context(storage_state=ground.state(ADMIN))
    with ExitStack() as ending:
        ending.callback(context.close)
        page = context.new_page()
        evil = f'<iframe src="{ground.stack.url}/sign-in"></iframe><iframe src="{ground.stack.url}/account"></iframe>'
        page.route("http://evil.example/", lambda route: route.fulfill(body=evil, content_type="text/html"))
        page.goto("http://evil.example/")
        assert [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"] * 2


# ---------------------------------------------------------------- the first one


@pytest.fixture
def new_installation(
    browser: Browser, redis_server: RedisServer, database_url: str, tmp_path: Path
) -> Iterator[tuple[Tab, str]]:
    """A service that nobody can sign in to yet, a tab in it, and the path of its set-up link."""
    redis_server.flushall()
    stack = Stack(tmp_path, database_url, redis_server.url, ENCRYPTION_KEY)
    app = create_app(make_settings(tmp_path, database_url))
    with ExitStack() as ending:
        ending.callback(stack.stop)
        stack.start("web")
        with app.app_context():
            token = people.make_link(db.session(), LinkPurpose.SETUP, COMMAND_LINE)
            db.session.remove()
            db.engine.dispose()
        tab = ending.enter_context(new_tab(browser, stack.url))
        yield tab, f"/link/{token}"
        tab.check()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_set_up_link_makes_the_first_account_once(new_installation: tuple[Tab, str]) -> None:
    tab, path = new_installation
    tab.open("/")
    expect(tab.page.get_by_text("Nobody can sign in yet")).to_be_visible()
    tab.open(path)
    tab.page.get_by_label("E-mail").fill("first@example.com")
    tab.page.get_by_label("Password").fill("short")
    tab.expect_status(422)
    tab.page.get_by_role("button", name="Make my account").click()
    expect(tab.page.get_by_text("at least 8 characters.").last).to_be_visible()
    assert tab.page.get_by_label("E-mail").input_value() == "first@example.com"
    tab.page.get_by_label("Password").fill("a long and good password")
    tab.page.get_by_role("button", name="Make my account").click()
    tab.page.wait_for_url("**/")
    tab.open(path, 404)
    tab.open("/account")
    expect(tab.page.get_by_role("main").get_by_text("first@example.com")).to_be_visible()
