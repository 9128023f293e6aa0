"""What people come for, from the first click to the last, in the browser."""

import base64
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import requests
from playwright.sync_api import Page, expect
from sqlalchemy import update

from browser.ground import Ground
from browser.tabs import LOOKS, PHONE_LIGHT, WIDE_LIGHT, Look, Tab
from browser_client import PASSWORD
from openremedy.extensions import db
from openremedy.models import Incident, Triage, now
from openremedy.registry import discover
from ui_routes import ADMIN, RESPONDER, SUPERADMIN

Browse = Callable[..., Tab]
PATIENCE = 30_000  # milliseconds
TOOLS = ("alertmanager", "grafana", "datadog", "pagerduty")
DISK = {"hostname": "flow-01", "incident_type": "disk_full", "severity": "high", "evidence": {"mount": "/var"}}


def heading(tab: Tab) -> str:
    return tab.page.locator("h1").inner_text()


def said(page: Page) -> None:
    """What was done is said on the page that follows."""
    expect(page.locator(".flash").first).to_be_visible()


# ---------------------------------------------------------------- connect a tool


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_is_connected_and_every_line_turns_green_by_what_it_sends(
    tool: str, ground: Ground, browse: Browse
) -> None:
    look = LOOKS[TOOLS.index(tool)]  # each of the four in another look
    tab = browse(ADMIN, look)
    tab.open("/t/alice/sources/new")
    tab.page.get_by_role("link", name=discover()[tool].title).first.click()
    tab.page.get_by_label("Name (optional)").fill(f"flow {tool}")
    tab.page.get_by_role("button", name="Add the source").click()
    token = tab.page.locator("#token").inner_text().strip()
    assert token.startswith("ors_")
    assert f"/api/v1/webhooks/{tool}/alice" in tab.page.locator("main").inner_text()
    missing = tab.page.locator("#checklist .missing")
    expect(missing).to_have_count(7)
    url = f"{ground.stack.url}/api/v1/webhooks/{tool}/alice"
    wrong = requests.post(url, json={}, headers={"Authorization": "Bearer wrong"}, timeout=30)
    assert wrong.status_code == 401
    expect(missing).to_have_count(6, timeout=PATIENCE)
    at = datetime.now(UTC) - timedelta(minutes=1)
    for ended in (False, True):
        sample = discover()[tool].sample
        assert sample, "each of the four has one"
        body = sample(f"{tool}-host-7", at, ended)
        answer = requests.post(url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 202, answer.text
    expect(missing).to_have_count(0, timeout=PATIENCE)
    tab.expect_status(409)
    tab.page.reload()  # sends the form again, which makes no second source
    expect(tab.page.locator("main")).to_contain_text("sent already")
    assert token not in tab.page.content(), "it is shown once"


def test_a_test_alert_opens_an_incident_and_ends_it(ground: Ground, browse: Browse) -> None:
    tab = browse(RESPONDER)
    tab.open(f"/t/alice/sources/{ground.things['source_id']}")
    tab.page.get_by_role("button", name="Send test alert").click()
    said(tab.page)
    tab.open("/t/alice/incidents?status=any&q=openremedy-test")
    expect(tab.page.get_by_role("link", name="openremedy-test").first).to_be_visible()
    expect(tab.page.locator("tbody .badge.resolved").first).to_be_visible()


# ---------------------------------------------------------------- an incident


def test_an_incident_arrives_live_without_a_jump_and_is_corrected(ground: Ground, browse: Browse) -> None:
    tab = browse(RESPONDER)
    sent = ground.stack_send(**DISK | {"hostname": "flow-live-before"})
    ground.wait_for_verdicts()
    tab.open("/t/alice/incidents")
    first = tab.page.locator("tbody tr").first.inner_text()
    ground.stack_send(**DISK | {"hostname": "flow-live-after"})
    pill = re.compile("new incident")
    expect(tab.page.get_by_role("link", name=pill)).to_be_visible(timeout=PATIENCE)
    assert tab.page.locator("tbody tr").first.inner_text().split("\n")[1] == first.split("\n")[1], "nothing has jumped"
    tab.follow(pill)
    tab.follow("flow-live-after")
    expect(tab.page.locator("#verdict")).to_contain_text("sure", timeout=PATIENCE)
    another = tab.page.get_by_label("Another recipe")
    another.focus()
    tab.press("ArrowDown")
    another.select_option(label="Log partition full (/var/log)")
    assert tab.page.locator(".flash").count() == 0, "a choice alone sends nothing"
    tab.page.get_by_role("button", name="Pick").click()
    said(tab.page)
    expect(tab.page.locator("#verdict")).to_contain_text("a person said so")
    expect(tab.page.locator(".timeline")).to_contain_text("Corrected to log-partition-full")
    assert sent["outcome"] == "created"


def test_a_choice_stays_while_the_page_waits_for_a_verdict(ground: Ground, browse: Browse) -> None:
    number = ground.stack_send(**DISK | {"hostname": "flow-waits"})["incident_id"]
    ground.wait_for_verdicts()
    with ground.app.app_context():
        asked_again = {"triage": Triage.PENDING, "retry_at": now() + timedelta(hours=1)}
        db.session.execute(update(Incident).where(Incident.id == uuid.UUID(number)).values(asked_again))
        db.session.commit()
    tab = browse(RESPONDER)
    tab.open(f"/t/alice/incidents/{number}")
    another = tab.page.get_by_label("Another recipe")
    another.select_option("backup-failed")
    for _ in range(2):
        with tab.page.expect_response(re.compile("/verdict$")):
            pass
    expect(another).to_have_value("backup-failed")
    tab.page.get_by_role("button", name="Pick").click()
    said(tab.page)


def test_the_open_list_shows_what_changes_in_its_rows(ground: Ground, browse: Browse) -> None:
    ground.stack_send(**DISK | {"hostname": "flow-row"})
    ground.wait_for_verdicts()
    tab = browse(RESPONDER)
    tab.open("/t/alice/incidents?q=flow-row&status=any")
    row = tab.page.locator("tbody tr", has_text="flow-row")
    expect(row.locator(".badge.open")).to_be_visible()
    row.get_by_role("checkbox").check()
    ground.stack_send(**DISK | {"hostname": "flow-row", "status": "resolved"})
    expect(row.locator(".badge.resolved")).to_be_visible(timeout=PATIENCE)
    expect(row.get_by_role("checkbox")).to_be_checked()


def test_many_are_acknowledged_at_once(ground: Ground, browse: Browse) -> None:
    for number in range(3):
        ground.stack_send(**DISK | {"hostname": f"flow-many-{number}"})
    tab = browse(RESPONDER, PHONE_LIGHT)
    tab.open("/t/alice/incidents?q=flow-many")
    tab.page.get_by_label(re.compile("that match")).check()
    tab.page.get_by_role("button", name="Acknowledge").click()
    expect(tab.page.locator(".flash").first).to_contain_text("3 incidents acknowledged")
    expect(tab.page.locator("tbody .badge.acknowledged")).to_have_count(3)


def test_all_that_match_are_resolved_only_after_a_yes(ground: Ground, browse: Browse) -> None:
    for number in range(2):
        ground.stack_send(**DISK | {"hostname": f"flow-asked-{number}"})
    tab = browse(RESPONDER)
    tab.open("/t/alice/incidents?q=flow-asked")
    tab.accept_dialogs()
    tab.page.locator('tbody [name="id"]').first.check()
    tab.page.get_by_role("button", name="Resolve").click()
    expect(tab.page.locator(".flash").first).to_contain_text("1 incident resolved")
    assert tab.dialogs == [], "the ticked are seen"
    ground.stack_send(**DISK | {"hostname": "flow-asked-2"})
    tab.open("/t/alice/incidents?q=flow-asked")
    tab.page.get_by_label(re.compile("that match")).check()
    tab.page.get_by_role("button", name="Resolve").click()
    expect(tab.page.locator(".flash").first).to_contain_text("2 incidents resolved")
    assert tab.dialogs == ["Resolve all 2 incidents that match?"]


@pytest.mark.parametrize("end", ["Enter", "Tab"])
def test_a_filter_chosen_by_keyboard_applies_when_it_is_entered_or_left(browse: Browse, end: str) -> None:
    tab = browse(RESPONDER)
    tab.open("/t/alice/incidents")
    tab.page.get_by_label("Status").focus()
    tab.press("ArrowDown", "ArrowDown")
    tab.page.wait_for_timeout(500)
    assert tab.path == "/t/alice/incidents", "an arrow only chooses"
    tab.press(end)
    tab.page.wait_for_url(re.compile("status=acknowledged"))


def test_a_filter_chosen_by_mouse_applies_at_once(browse: Browse) -> None:
    tab = browse(RESPONDER)
    tab.open("/t/alice/incidents")
    tab.press("Tab")
    status = tab.page.get_by_label("Status")
    status.dispatch_event("pointerdown")
    status.select_option(label="Acknowledged")
    tab.page.wait_for_url(re.compile("status=acknowledged"))


def test_the_menu_of_a_phone_opens_where_it_is_seen_and_takes_the_focus(browse: Browse) -> None:
    tab = browse(ADMIN, PHONE_LIGHT)
    tab.open("/t/alice/")
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    menu, button = tab.page.locator("#menu"), tab.page.get_by_role("link", name="Menu")
    button.click()
    first = menu.get_by_role("link", name="Overview")
    expect(first).to_be_in_viewport()
    expect(first).to_be_focused()
    bar = tab.page.locator("header.bar").bounding_box()
    box = first.bounding_box()
    assert bar
    assert box
    assert box["y"] >= bar["y"] + bar["height"], "the bar covers nothing of it"
    button.click()
    expect(menu).to_be_hidden()


def test_the_review_queue_is_worked_by_single_keys(ground: Ground, browse: Browse) -> None:
    for number in range(2):
        ground.stack_send(
            hostname=f"flow-review-{number}", incident_type="custom", evidence={"title": f"Quux frobnicates {number}"}
        )
    ground.wait_for_verdicts()
    tab = browse(RESPONDER)
    tab.open("/t/alice/review")
    shown = tab.page.locator("h2 a").first
    before = shown.inner_text()
    tab.press("s")
    expect(shown).not_to_have_text(before)
    tab.open("/t/alice/review")
    tab.press("n")
    said(tab.page)
    expect(shown).not_to_have_text(before)
    tab.press("o")
    expect(tab.page.locator("h1")).not_to_have_text("Review")


# ---------------------------------------------------------------- a recipe


def test_a_recipe_is_edited_with_its_preview_tried_and_saved(browse: Browse) -> None:
    tab = browse(ADMIN)
    tab.open("/t/alice/recipes/disk-full")
    tab.follow("Edit")
    steps = tab.page.get_by_label("Steps", exact=True)
    steps.fill("## A new heading\n\nCall **somebody**.\n\n<script>alert(1)</script>")
    preview = tab.page.locator("#preview")
    expect(preview.get_by_role("heading", name="A new heading")).to_be_visible(timeout=PATIENCE)
    expect(preview.locator("strong")).to_have_text("somebody")
    assert preview.locator("script").count() == 0
    tab.page.get_by_role("button", name=re.compile("Try it")).click()
    expect(tab.page.locator("#tryout")).to_contain_text("Without the language model", timeout=PATIENCE)
    tab.page.get_by_role("button", name="Save").click()
    said(tab.page)
    expect(tab.page.get_by_role("heading", name="A new heading")).to_be_visible()
    tab.page.get_by_role("link", name="Version 1", exact=True).click()
    expect(tab.page.locator(".diff").first).to_contain_text("Call **somebody**.")


def test_two_who_edit_the_same_recipe_lose_nothing(browse: Browse) -> None:
    hers, his = browse(ADMIN), browse(SUPERADMIN)
    for tab in (hers, his):
        tab.open("/t/alice/recipes/backup-failed/edit")
    hers.page.get_by_label("Title").fill("Hers")
    hers.page.get_by_role("button", name="Save").click()
    said(hers.page)
    his.expect_status(409)
    his.page.get_by_label("Title").fill("His")
    his.page.get_by_role("button", name="Save").click()
    expect(his.page.locator("main")).to_contain_text("Somebody else has changed it meanwhile")
    assert his.page.get_by_label("Title").input_value() == "His"
    his.page.get_by_role("button", name="Save").click()
    said(his.page)
    expect(his.page.locator("h1")).to_have_text("His")


def test_an_action_and_a_percentage_are_not_broken_over_two_lines(ground: Ground, browse: Browse) -> None:
    alice = ground.cast.tenants[ADMIN]
    number = ground.stack_send(**DISK | {"hostname": "flow-line"})["incident_id"]
    ground.wait_for_verdicts()
    alice.post(f"/incidents/{number}/acknowledge")
    alice.post(f"/incidents/{number}/feedback", {"answer": "correct", "recipe": "backup-failed"})
    tab = browse(ADMIN)
    tab.page.set_viewport_size({"width": 1400, "height": 900})
    lines = "cell => { const r = document.createRange(); r.selectNodeContents(cell); return r.getClientRects().length }"
    tab.open("/t/alice/audit")
    assert tab.page.locator("td", has_text="incident.acknowledged").first.evaluate(lines) == 1
    tab.open("/t/alice/recipes")
    rated = tab.page.locator('td[data-label="Right"]', has_text="%").all()
    assert rated
    assert {one.evaluate(lines) for one in rated} == {1}


# ---------------------------------------------------------------- the secret


def test_the_secret_is_revealed_after_the_password_and_rotated(ground: Ground, browse: Browse) -> None:
    tab = browse(ADMIN)
    tab.open("/t/alice/settings")
    secret = ground.cast.tenants[ADMIN].secret
    assert secret not in tab.page.content()
    tab.page.get_by_label("Your password").fill(PASSWORD)
    tab.page.get_by_role("button", name="Reveal").click()
    expect(tab.page.locator("main")).to_contain_text(secret)
    tab.open("/t/alice/settings")
    tab.accept_dialogs()
    tab.page.get_by_role("button", name="Make a new secret").click()
    expect(tab.page.locator("main")).to_contain_text("not shown again")
    fresh = re.search(r"orwh_[\w-]{20,}", tab.page.locator("main").inner_text())
    assert fresh
    assert fresh[0] != secret
    for key in (secret, fresh[0]):
        raw = json.dumps(DISK | {"hostname": "flow-rotated"}).encode()
        signature = "sha256=" + hmac.new(key.encode(), raw, hashlib.sha256).hexdigest()
        answer = requests.post(
            f"{ground.stack.url}/api/v1/webhooks/alerts/alice",
            data=raw,
            headers={"X-OpenRemedy-Signature": signature},
            timeout=30,
        )
        assert answer.status_code == 202, "both are good during the grace time"
    tab.open("/t/alice/audit")
    expect(tab.page.locator("main")).to_contain_text("secret.revealed")


def test_the_doctor_says_why_a_signature_was_refused(ground: Ground, browse: Browse) -> None:
    secret = ground.cast.tenants[ADMIN].secret
    raw = json.dumps(DISK | {"hostname": "flow-doctor"}).encode()
    wrong = base64.b64encode(hmac.digest(secret.encode(), raw, "sha256")).decode()
    url = f"{ground.stack.url}/api/v1/webhooks/alerts/alice"
    answer = requests.post(url, data=raw, headers={"X-OpenRemedy-Signature": f"sha256={wrong}"}, timeout=30)
    assert answer.status_code == 401
    tab = browse(ADMIN)
    tab.open("/t/alice/deliveries?accepted=no&adapter=canonical")
    expect(tab.page.locator("tbody tr").first).to_be_visible(timeout=PATIENCE)
    for _ in range(20):  # the sample is written a moment after the answer
        tab.page.locator("tbody tr a").first.click()
        if "flow-doctor" in tab.page.content():
            break
        tab.page.wait_for_timeout(500)
        tab.open("/t/alice/deliveries?accepted=no&adapter=canonical")
    doctor = tab.page.locator("section", has=tab.page.get_by_role("heading", name="Signature doctor"))
    expect(doctor).to_contain_text("base64")
    path = tab.path
    bobs = browse(RESPONDER)
    bobs.open(path)
    expect(bobs.page.locator("main")).not_to_contain_text("Signature doctor")


# ---------------------------------------------------------------- everything once without a mouse


@pytest.mark.parametrize("look", [WIDE_LIGHT, PHONE_LIGHT], ids=lambda look: look.name)
def test_from_the_overview_to_an_acknowledged_incident_without_a_mouse(
    look: Look, ground: Ground, browse: Browse
) -> None:
    ground.stack_send(**DISK | {"hostname": f"flow-keys-{look.name}"})
    ground.wait_for_verdicts()
    tab = browse(RESPONDER, look)
    tab.open("/t/alice/incidents")
    tab.press("/")
    assert tab.focused() == "q"
    tab.page.keyboard.type(f"flow-keys-{look.name}")
    tab.press("Enter")
    expect(tab.page.locator("tbody tr")).to_have_count(1)
    tab.tab_to(f"flow-keys-{look.name}")
    tab.press("Enter")
    expect(tab.page.locator("h1")).to_have_text(f"flow-keys-{look.name}")
    tab.page.wait_for_load_state()
    tab.press("a")
    said(tab.page)
    expect(tab.page.locator(".head .badge.acknowledged")).to_be_visible()
