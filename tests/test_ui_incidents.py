"""The list of incidents, one of them, and the review queue, as people use them."""

import re
import uuid
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from browser_client import Person
from cast import Tenant
from config import Settings
from hostile import SCRIPT
from openremedy import cookbook
from openremedy.audit import COMMAND_LINE
from openremedy.extensions import db
from openremedy.models import AuditLine, Incident, Role, Triage, Verdict

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

RULE_DECIDES = "The next incident of this cause is again decided by the condition of disk-full: change it there."


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """A responder of Alice's tenant."""
    return Person(app, "ann@example.com", "alice", Role.RESPONDER)


@pytest.fixture
def vera(app: Flask, alice: Tenant) -> Person:
    """A viewer of it."""
    return Person(app, "vera@example.com", "alice", Role.VIEWER)


def hosts(page: str) -> list[str]:
    return re.findall(r"<strong>([\w.-]+)</strong></a><div", page)


def actions(app: Flask) -> list[str]:
    with app.app_context():
        statement = select(AuditLine.action).where(AuditLine.tenant_id.is_not(None)).order_by(AuditLine.id)
        return [action for action in db.session.scalars(statement) if action.startswith(("incident", "verdict"))]


def judged(app: Flask, alice: Tenant, **said: Any) -> str:
    """An incident whose verdict, disk-full, was found by words unless `said` otherwise."""
    number = str(alice.alert()["incident_id"])
    alice.post(f"/incidents/{number}/feedback", {"answer": "correct", "recipe": "disk-full"})
    with app.app_context():
        mine = update(Verdict).where(Verdict.incident_id == uuid.UUID(number))
        db.session.execute(mine.values({"tier": "lexical", "confidence": 0.9} | said))
        db.session.commit()
    return number


def test_the_list_shows_what_is_active_newest_first(alice: Tenant, vera: Person) -> None:
    for host in ("one", "two", "three"):
        alice.alert(hostname=host)
    alice.alert(hostname="two", status="resolved")
    page = vera.get("incidents").text
    assert hosts(page) == ["three", "one"]
    assert "2 incidents" in page


def test_filters_search_and_order_are_in_the_url(alice: Tenant, vera: Person) -> None:
    alice.alert(hostname="low-1", severity="low")
    alice.alert(hostname="critical-1", severity="critical")
    alice.alert(hostname="low-2", severity="low", evidence={"note": "needle", "mount": "/x"})
    assert hosts(vera.get("incidents", severity="low").text) == ["low-2", "low-1"]
    assert hosts(vera.get("incidents", q="needle").text) == ["low-2"]
    assert hosts(vera.get("incidents", sort="severity").text)[0] == "critical-1"
    assert hosts(vera.get("incidents", hostname="LOW-1").text) == ["low-1"]
    assert "No incident matches" in vera.get("incidents", q="nowhere").text


def test_pages_follow_each_other_without_a_gap(alice: Tenant, vera: Person) -> None:
    for number in range(52):
        alice.alert(hostname=f"host-{number:02}")
    first = vera.get("incidents").text
    found = re.search(r'rel="next" href="([^"]+)"', first)
    assert found
    second = vera.get(found[1].replace("&amp;", "&")).text
    assert hosts(first) + hosts(second) == [f"host-{number:02}" for number in range(51, -1, -1)]


def test_an_empty_list_says_what_to_do_next(vera: Person) -> None:
    assert "All quiet" in vera.get("incidents").text


def test_an_open_page_learns_what_changed_and_how_many_are_new(alice: Tenant, vera: Person) -> None:
    first = alice.alert(hostname="before")["incident_id"]
    page = vera.get("incidents").text
    digest = re.search(r'id="live-digest" name="digest" value="(\w+)"', page)
    assert digest
    query = {"ids": first, "newest": first, "digest": digest[1], "since": "0"}
    assert vera.get("incidents/live", **query).status_code == 204
    alice.alert(hostname="after")
    alice.alert(hostname="before", status="resolved")
    changed = vera.get("incidents/live", **query).text
    assert "1 new incident" in changed
    assert f'id="state-{first}" hx-swap-oob="true"><span class="badge resolved">' in changed


def test_the_ticked_are_acted_on_and_no_others(alice: Tenant, app: Flask, ann: Person) -> None:
    ids = [alice.alert(hostname=f"h{number}")["incident_id"] for number in range(3)]
    answer = ann.post("incidents/act", action="resolve", id=ids[:2])
    assert answer.status_code == 303
    assert "2 incidents resolved" in ann.get("incidents").text
    assert [alice.incident(one)["status"] for one in ids] == ["resolved", "resolved", "open"]
    assert actions(app) == ["incidents.resolved"]


def test_all_that_match_are_acted_on_by_the_filters_of_the_url(alice: Tenant, ann: Person) -> None:
    for number in range(3):
        alice.alert(hostname=f"h{number}", severity="low" if number else "high")
    ann.post("incidents/act?severity=low", action="acknowledge", scope="matching")
    assert [one["status"] for one in alice.incidents()] == ["acknowledged", "acknowledged", "open"]


def test_what_would_change_all_that_match_asks_before_with_how_many_they_are(alice: Tenant, ann: Person) -> None:
    alice.alert(hostname="h1")
    page = ann.get("incidents", hostname="h1").text
    assert "1 incident matches" in page
    assert 'data-confirm-all="Resolve the 1 incident that matches?"' in page
    assert "<span>the one that matches, not only the ticked</span>" in page
    alice.alert(hostname="h2")
    page = ann.get("incidents").text
    assert 'data-confirm-all="Resolve all 2 incidents that match?"' in page
    assert 'data-confirm-all="Reclassify all 2 incidents that match?"' in page


def test_an_action_on_a_later_page_leads_back_to_that_page(alice: Tenant, ann: Person) -> None:
    for number in range(52):
        alice.alert(hostname=f"host-{number:02}")
    following = re.search(r'rel="next" href="([^"]+)"', ann.get("incidents").text)
    assert following
    later = following[1].replace("&amp;", "&")
    page = ann.get(later).text
    form = re.search(r'method="post" action="([^"]+/act[^"]*)"', page)
    ticked = re.search(r'name="id" value="([^"]+)"', page)
    assert form
    assert ticked
    answer = ann.post(form[1].replace("&amp;", "&"), action="acknowledge", id=ticked[1])
    assert answer.location == later


def test_nothing_chosen_or_no_action_changes_nothing(alice: Tenant, ann: Person) -> None:
    alice.alert()
    assert ann.post("incidents/act", action="resolve").status_code == 303
    assert "Nothing was ticked, so nothing was changed." in ann.get("incidents").text
    assert ann.post("incidents/act", action="delete").status_code == 422
    assert alice.incidents()[0]["status"] == "open"


def test_one_incident_shows_what_where_since_when_and_links_only_web_addresses(alice: Tenant, vera: Person) -> None:
    evidence = {"mount": "/var", "runbook": "https://wiki.example.com/x", "bad": "javascript:alert(1)"}
    number = alice.alert(hostname="db-7", severity="critical", evidence=evidence)["incident_id"]
    page = vera.get(f"incidents/{number}").text
    assert "<h1>db-7</h1>" in page
    assert '<a class="value" href="https://wiki.example.com/x" rel="noopener noreferrer nofollow">' in page
    assert 'href="javascript:' not in page
    assert "Acknowledge" not in page, "a viewer reads"


def test_the_page_says_so_where_the_text_reads_like_another_type_than_the_senders(alice: Tenant, vera: Person) -> None:
    evidence = {"title": f"Out of memory {SCRIPT}", "incident_type": SCRIPT}
    body = {"hostname": "app-3", "incident_type": "cpu_high", "evidence": evidence}
    page = vera.get(f"incidents/{alice.alert(body)['incident_id']}").text
    assert "The sender says <strong>CPU high</strong>; its text reads like <strong>memory high</strong>." in page
    assert SCRIPT not in page
    assert "The sender says" not in vera.get(f"incidents/{alice.alert()['incident_id']}").text


def test_a_responder_acknowledges_and_resolves_and_sending_twice_is_once(
    alice: Tenant, app: Flask, ann: Person
) -> None:
    number = alice.alert()["incident_id"]
    for action in ("acknowledge", "acknowledge", "resolve", "resolve"):
        answer = ann.post(f"incidents/{number}/{action}")
        assert answer.status_code == 303
        assert answer.location == f"/t/alice/incidents/{number}"
    kinds = [one["kind"] for one in alice.incident(number)["timeline"]]
    assert kinds == ["opened", "acknowledged", "resolved"]
    assert actions(app) == ["incident.acknowledged", "incident.resolved"]
    assert alice.incident(number)["timeline"][1]["actor"] == "ann@example.com"


def test_who_acknowledges_what_is_resolved_meanwhile_is_told_so(alice: Tenant, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    alice.post(f"/incidents/{number}/resolve")
    ann.post(f"incidents/{number}/acknowledge")
    page = ann.get(f"incidents/{number}").text
    assert "It is resolved already: there was nothing to acknowledge." in page
    assert "Acknowledged:" not in page


def test_another_recipe_is_chosen_and_then_sent_by_a_button(alice: Tenant, ann: Person) -> None:
    page = ann.get(f"incidents/{alice.alert()['incident_id']}").text
    assert "data-submit" not in page, "an arrow key on the list would send the answer"
    assert '<button class="btn" type="submit">Pick</button>' in page


def test_a_recipe_that_is_switched_off_is_not_offered_to_be_confirmed(app: Flask, alice: Tenant, ann: Person) -> None:
    number = judged(app, alice)
    off = "This recipe is switched off, so it cannot be confirmed."
    with app.app_context():
        db.session.execute(update(Incident).values(triage=Triage.NEEDS_HUMAN))
        db.session.commit()
    paths = (f"incidents/{number}", "review")
    for page in (ann.get(path).text for path in paths):
        assert (page.count('value="confirm"'), off in page) == (1, False)
    with app.app_context():
        cookbook.set_enabled(db.session(), alice.id, "disk-full", False, COMMAND_LINE)
    for page in (ann.get(path).text for path in paths):
        assert (page.count('value="confirm"'), off in page) == (0, True)


def test_a_correction_promises_the_next_incident_only_where_no_condition_decides_before(
    app: Flask, alice: Tenant, ann: Person
) -> None:
    for tier, told in (("lexical", "the next incident of this cause gets your answer"), ("rule", RULE_DECIDES)):
        number = judged(app, alice, tier=tier)
        for recipe in ("log-partition-full", "backup-failed"):
            ann.post(f"incidents/{number}/feedback", answer="correct", recipe=recipe)
            page = ann.get(f"incidents/{number}").text
            assert told in page
            assert page.count("Thank you: corrected") == 1
        alice.post(f"/incidents/{number}/resolve")


@pytest.mark.parametrize("connected", [False, True])
def test_a_verdict_for_now_promises_a_model_only_as_far_as_there_is_one(
    app: Flask, alice: Tenant, vera: Person, monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    monkeypatch.setattr(Settings, "model_enabled", connected)
    page = vera.get(f"incidents/{judged(app, alice, provisional=True)}").text
    assert ("asked again when the model is back" in page) == connected
    assert ("asked again once a model is connected" in page) == (not connected)
    assert ("for now" in page) == connected


def test_a_person_corrects_says_none_and_confirms(alice: Tenant, app: Flask, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    path = f"incidents/{number}/feedback"
    early = ann.post(path, answer="confirm")
    assert early.status_code == 409, "there is nothing to confirm yet"
    assert f'<a href="/t/alice/incidents/{number}">Back to the incident</a>' in early.text
    assert ann.post(path, answer="correct", recipe="no-such").status_code == 422
    assert ann.post(path, answer="what").status_code == 422
    assert ann.post(path, answer="correct", recipe="disk-full").status_code == 303
    assert alice.incident(number)["verdict"]["recipe"] == "disk-full"
    page = ann.get(f"incidents/{number}").text
    assert "a person said so" in page
    assert ann.post(path, answer="none").status_code == 303
    assert alice.incident(number)["verdict"]["recipe"] is None
    assert actions(app) == ["verdict.answered", "verdict.answered"]


def test_an_answer_leads_back_to_where_it_was_given_but_never_elsewhere(alice: Tenant, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    path = f"incidents/{number}/acknowledge"
    assert ann.post(path, back="/t/alice/review?why=none").location == "/t/alice/review?why=none"
    assert ann.post(path, back="//evil.example.com").location == f"/t/alice/incidents/{number}"


def test_an_answer_with_a_nul_is_refused_before_the_database_sees_it(alice: Tenant, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    answer = ann.post(f"incidents/{number}/feedback", answer="correct", recipe="disk\0full")
    assert (answer.status_code, "NUL" in answer.text) == (422, True)


def test_a_page_that_waits_for_its_verdict_asks_for_it_and_then_stops(alice: Tenant, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    assert 'hx-trigger="every 2s"' in ann.get(f"incidents/{number}").text
    ann.post(f"incidents/{number}/feedback", answer="correct", recipe="disk-full")
    assert "every 2s" not in ann.get(f"incidents/{number}/verdict").text


def test_the_page_says_which_model_and_prompt_and_shows_what_was_masked(
    app: Flask, alice: Tenant, vera: Person
) -> None:
    number = alice.alert(evidence={"error": "password=hunter2 was refused", "mount": "/srv"})["incident_id"]
    alice.post(f"/incidents/{number}/feedback", {"answer": "correct", "recipe": "disk-full"})
    cited = [{"pointer": "/error", "value": "password=[masked:password] was refused"}]
    said = {"tier": "model", "model": "fake-1", "prompt_version": "7", "citations": cited}
    with app.app_context():
        db.session.execute(update(Verdict).values(**said, summary="The login with [masked:password] failed."))
        db.session.commit()
    page = vera.get(f"incidents/{number}").text
    assert "(fake-1, prompt 7)" in page
    assert "The login with hunter2 failed." in page
    assert "[masked" not in page


def test_an_open_page_is_told_when_it_has_changed(alice: Tenant, ann: Person) -> None:
    number = alice.alert()["incident_id"]
    page = ann.get(f"incidents/{number}").text
    found = re.search(r'hx-get="([^"]+/changes\?since=[^"]+)"', page)
    assert found
    changes = found[1].replace("&amp;", "&")
    assert ann.get(changes).text.strip() == ""
    ann.post(f"incidents/{number}/acknowledge")
    assert "It has changed" in ann.get(changes).text


def test_an_open_page_is_told_when_somebody_answers_otherwise(app: Flask, alice: Tenant, ann: Person) -> None:
    number = judged(app, alice)
    found = re.search(r'hx-get="([^"]+/changes\?since=[^"]+)"', ann.get(f"incidents/{number}").text)
    assert found
    changes = found[1].replace("&amp;", "&")
    assert ann.get(changes).text.strip() == ""
    alice.post(f"/incidents/{number}/feedback", {"answer": "none"})
    assert "It has changed" in ann.get(changes).text


def test_the_evidence_can_be_kept_as_json(alice: Tenant, vera: Person) -> None:
    number = alice.alert(evidence={"mount": "/var", "ü": [1]})["incident_id"]
    answer = vera.get(f"incidents/{number}/evidence.json")
    assert answer.get_json() == {"mount": "/var", "ü": [1]}
    assert "attachment" in answer.headers["Content-Disposition"]


def test_an_incident_that_is_not_there_is_404(vera: Person) -> None:
    for path in ("", "/verdict", "/changes", "/evidence.json"):
        assert vera.get(f"incidents/{uuid.uuid4()}{path}").status_code == 404
        assert vera.get(f"incidents/nonsense{path}").status_code == 404


def test_the_overview_counts_what_is_open(alice: Tenant, vera: Person) -> None:
    assert "Nothing has arrived yet" in vera.get("").text
    alice.alert(hostname="a", severity="critical")
    alice.alert(hostname="b", severity="critical")
    page = vera.get("").text
    assert re.search(r'critical</span></span><span class="value">2</span>', page)
    assert "2 in the last 24 hours" in page
    assert '<rect class="s1"' in page, "the bar of disk full"
    assert re.findall(r'text-anchor="end">(\d+)<', page) == ["0", "2", "4"], "the middle line is half of the top"


def test_a_form_that_was_open_too_long_says_how_nothing_typed_is_lost(ann: Person) -> None:

    answer = ann.post("new-recipe", csrf_token="of another browser")
    assert "Go back, copy what you have typed, reload the page, and send it again." in answer.text


def test_the_review_queue_is_empty_with_a_word(vera: Person) -> None:
    assert "Nothing waits for you" in vera.get("review").text
