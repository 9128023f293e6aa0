"""The pages of sources: who may what, what is shown once, and a checklist that only the tool itself can tick."""

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from browser_client import Person
from cast import Source, Tenant
from openremedy import sources as domain
from openremedy.adapter import Adapter, Format, Payload, Translated
from openremedy.alerts import Alert, IncidentType
from openremedy.checklist import Item, checklist, refusals
from openremedy.extensions import db
from openremedy.models import AuditLine, Delivery, Incident, Role
from openremedy.models import Source as SourceRow
from openremedy.registry import KEY, adapters, discover
from openremedy.services import services

ADAPTERS = discover()
EVERY_ADAPTER = pytest.mark.parametrize("adapter", list(ADAPTERS))
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TOKEN = re.compile(r"ors_[A-Za-z0-9_-]{43}")
WRONG = {"Authorization": "Bearer ors_wrong"}
NOON = "2026-03-01T12:00:00Z"


@pytest.fixture(autouse=True)
def _tally_by_hand(app: Flask) -> None:
    """It writes when the test says so and not once a second."""
    with app.app_context():
        services().tally._start = lambda: None


@pytest.fixture
def admin(alice: Tenant) -> Person:
    return Person(alice.app, "alice@example.com", "alice")


@pytest.fixture
def viewer(alice: Tenant) -> Person:
    return Person(alice.app, "vera@example.com", "alice", Role.VIEWER)


@pytest.fixture
def responder(alice: Tenant) -> Person:
    return Person(alice.app, "bob@example.com", "alice", Role.RESPONDER)


def flush(app: Flask) -> None:
    with app.app_context():
        services().tally.flush()


def page_of(source: Source) -> str:
    return f"/t/{source.slug}/sources/{source.id}"


def row(source: Source) -> Any:
    with source.app.app_context():
        found = db.session.get_one(SourceRow, source.id)
        return domain.as_json(found, source.url)


def lines(source: Source) -> dict[str, Item]:
    """The checklist by its names."""
    flush(source.app)
    with source.app.app_context():
        found = db.session.get_one(SourceRow, source.id)
        return {one.name: one for one in checklist(db.session(), found, adapters().get(source.adapter))}


def done(source: Source) -> list[str]:
    return [name for name, one in lines(source).items() if one.done]


def refused(source: Source) -> list[Any]:
    flush(source.app)
    with source.app.app_context():
        return refusals(db.session(), db.session.get_one(SourceRow, source.id))


def audited(app: Flask, action: str) -> list[AuditLine]:
    with app.app_context():
        return list(db.session.scalars(select(AuditLine).where(AuditLine.action == action).order_by(AuditLine.id)))


def whole_audit_log(app: Flask) -> str:
    with app.app_context():
        found = db.session.scalars(select(AuditLine)).all()
        return json.dumps([[one.actor, one.action, one.target, one.detail] for one in found])


def add(person: Person, adapter: str = "alertmanager", **fields: Any) -> Any:
    form_id = person.form_id(f"sources/new?adapter={adapter}")
    return person.post("sources", adapter=adapter, form_id=form_id, **fields)


def token_in(text: str) -> str:
    found = set(TOKEN.findall(text))
    assert len(found) == 1, found
    return found.pop()


def alert(status: str = "firing", key: str = "a", **labels: str) -> dict[str, Any]:
    """One alert as Alertmanager has it."""
    end = {"endsAt": "2026-03-01T12:05:00Z"} if status == "resolved" else {}
    return {"status": status, "labels": labels, "annotations": {}, "startsAt": NOON, "fingerprint": key} | end


def notification(*alerts: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "alerts": list(alerts)}


DISK = {"alertname": "DiskFull", "instance": "web-01:9100", "mountpoint": "/var", "severity": "warning"}


# ---------------------------------------------------------------- who may what

CHANGES = (
    *("sources", "sources/{id}/edit", "sources/{id}/rotate", "sources/{id}/disable", "sources/{id}/enable"),
    *("sources/{id}/signing-secrets", "sources/{id}/signing-secrets/1/remove", "sources/{id}/api-token"),
)


@on_sqlite
@pytest.mark.parametrize("who", ["viewer", "responder"])
def test_who_is_no_admin_reads_and_changes_nothing(alice: Tenant, who: str, request: pytest.FixtureRequest) -> None:
    person: Person = request.getfixturevalue(who)
    source = alice.source("pagerduty", signing_secret="of the webhook")
    before = row(source)
    page = person.get(page_of(source))
    assert page.status_code == 200
    assert "Settings and credentials" not in page.text
    assert person.get("sources/new").status_code == 403
    for path in CHANGES:
        assert person.post(path.format(id=source.id), name="x", secret="x", api_token="x").status_code == 403, path
    assert row(source) == before


@on_sqlite
def test_a_viewer_cannot_send_a_test_alert_and_a_responder_can(
    alice: Tenant, viewer: Person, responder: Person
) -> None:
    source = alice.source("alertmanager")
    assert "Send test alert" not in viewer.get(page_of(source)).text
    assert viewer.post(f"{page_of(source)}/test").status_code == 403
    assert "Send test alert" in responder.get(page_of(source)).text
    assert rehearse(responder, source).status_code == 303


@on_sqlite
def test_what_is_another_tenants_is_not_there(alice: Tenant, admin: Person, charlie: Tenant) -> None:
    theirs = charlie.source("pagerduty", signing_secret="of the webhook")
    with charlie.app.app_context():
        secret = db.session.get_one(SourceRow, theirs.id).secrets[0].id
    before = row(theirs)
    for path in ("", "/checklist"):
        assert admin.get(f"sources/{theirs.id}{path}").status_code == 404
    paths = [path.format(id=theirs.id) for path in CHANGES[1:]] + [f"sources/{theirs.id}/test"]
    for path in (*paths, f"sources/{theirs.id}/signing-secrets/{secret}/remove"):
        answer = admin.post(
            path, name="mine", secret="x", api_token="x", form_id=admin.form_id("sources/new?adapter=grafana")
        )
        assert answer.status_code == 404, path
    assert row(theirs) == before
    assert theirs.adapter not in admin.get("sources").text.split("</nav>")[1].split("<ul")[0]


@on_sqlite
def test_a_secret_of_another_source_is_not_removed_through_ones_own(alice: Tenant, admin: Person) -> None:
    mine, other = alice.source("pagerduty", signing_secret="one"), alice.source("grafana", signing_secret="two")
    with alice.app.app_context():
        secret = db.session.get_one(SourceRow, other.id).secrets[0].id
    assert admin.post(f"{page_of(mine)}/signing-secrets/{secret}/remove").status_code == 404
    assert len(row(other)["signing_secrets"]) == 1


@on_sqlite
@pytest.mark.parametrize("number", ["0", "x", "-1", "9" * 40, "1%00", "%F0%9F%98%80", "1.0"])
def test_a_number_that_is_none_is_not_there(admin: Person, number: str) -> None:
    assert admin.get(f"sources/{number}").status_code == 404
    assert admin.get(f"sources/{number}/checklist?seen=%ED%B3%BF%00").status_code == 404
    assert admin.post(f"sources/{number}/disable").status_code == 404


# ---------------------------------------------------------------- the list and the gallery


@on_sqlite
def test_without_a_source_the_list_is_the_gallery(admin: Person, viewer: Person) -> None:
    page = html.unescape(admin.get("sources").text)
    for adapter in ADAPTERS.values():
        assert adapter.title in page
        assert adapter.summary in page
        assert f"/t/alice/sources/new?adapter={adapter.name}" in page
    other = viewer.get("sources").text
    assert "An admin of this tenant connects the first one." in other
    assert "sources/new" not in other


@on_sqlite
def test_a_refusal_of_one_of_several_sources_of_a_tool_is_not_said_to_be_signed_by_us(
    alice: Tenant, admin: Person
) -> None:
    first, _ = alice.source("alertmanager"), alice.source("alertmanager")
    first.send(b"{}", Authorization="Bearer of-nobody")
    flush(alice.app)
    row = admin.get("").text.split("with a token that is nobody's")[1].split("</tr>")[0]
    assert "1 unauthorized" in row
    linked = re.search(r'href="/t/alice/([^"]+)"', row)
    assert linked
    listed = html.unescape(linked[1])
    assert ">unauthorized</a>" in admin.get(listed).text
    assert ">unauthorized</a>" not in admin.get(f"{listed}&adapter=canonical").text


@on_sqlite
def test_the_list_says_how_each_source_is(alice: Tenant, admin: Person) -> None:
    heard, never, off, silent = (alice.source("alertmanager") for _ in range(4))
    heard.alerts(notification(alert(**DISK)))
    heard.send(b"{", Authorization=f"Bearer {heard.token}")
    flush(alice.app)
    assert admin.post(f"{page_of(off)}/disable").status_code == 303
    with alice.app.app_context():
        db.session.get_one(SourceRow, silent.id).heartbeat_at = datetime.now(UTC) - timedelta(days=3)
        db.session.commit()
    page = admin.get("sources").text
    states = {one.id: page.split(f'/sources/{one.id}"')[1].split("</tr>")[0] for one in (heard, never, off, silent)}
    assert "seen</span>" in states[heard.id]
    assert "invalid json" in states[heard.id]
    assert "never heard from" in states[never.id]
    assert ">off</span>" in states[off.id]
    assert "silent</span>" in states[silent.id]
    assert "silent</span> heartbeat <time" in " ".join(admin.get("").text.split()), "and not when it asked for anything"
    assert "Its heartbeat has stopped" in admin.get(page_of(silent)).text
    assert "This source is switched off" in admin.get(page_of(off)).text


@on_sqlite
def test_the_list_asks_no_more_of_the_database_for_more_sources(alice: Tenant, admin: Person) -> None:
    def asked() -> int:
        found = []
        with alice.app.app_context():
            engine = db.engine
        note = lambda *args: found.append(args[2])  # noqa: E731
        event.listen(engine, "before_cursor_execute", note)
        admin.get("sources")
        event.remove(engine, "before_cursor_execute", note)
        return len(found)

    alice.source("grafana")
    few = asked()
    for _ in range(5):
        alice.source("grafana")
    assert few
    assert asked() == few


# ---------------------------------------------------------------- a new one


@on_sqlite
@EVERY_ADAPTER
def test_its_form_has_what_the_adapter_lets_one_choose(admin: Person, adapter: str) -> None:
    page = admin.get("sources/new", adapter=adapter).text
    assert ('name="signing_secret"' in page) == (ADAPTERS[adapter].verify is not None)
    for name in ADAPTERS[adapter].options.fields:
        assert f'name="option-{name}"' in page
    assert f"/api/v1/webhooks/{adapter}/alice" in page


@on_sqlite
@pytest.mark.parametrize("adapter", ["nothing", "alerts", "\0", "../x", "<b>"])
def test_an_adapter_that_does_not_exist_has_no_form(admin: Person, adapter: str) -> None:
    assert admin.get("sources/new", adapter=adapter).status_code == 404
    assert admin.post("sources", adapter=adapter).status_code == 404


@EVERY_ADAPTER
def test_adding_one_answers_with_what_to_paste_and_the_token_once(alice: Tenant, admin: Person, adapter: str) -> None:
    answer = add(admin, adapter, name="eu-1")
    assert answer.status_code == 200
    token = token_in(answer.text)
    shown = html.unescape(answer.text)
    assert f"/api/v1/webhooks/{adapter}/alice" in shown
    for step in ADAPTERS[adapter].setup:
        assert step.title in shown
    assert "YOUR-TOKEN" not in shown

    (item,) = alice.get("/sources")["items"]
    assert (item["name"], item["adapter"]) == ("eu-1", adapter)
    source = Source(alice.app, "alice", adapter, int(item["id"]), token)
    assert ADAPTERS[adapter].sample is not None
    body = ADAPTERS[adapter].sample("web-01", datetime.now(UTC), False)
    assert [one["outcome"] for one in source.alerts(body)] == ["created"]

    for path in (page_of(source), "sources"):
        later = admin.get(path).text
        assert token not in later
    assert "YOUR-TOKEN" in admin.get(page_of(source)).text
    (line,) = audited(alice.app, "source.added")
    assert (line.actor, line.target, line.detail) == ("alice@example.com", "eu-1", {"adapter": adapter})
    assert token not in whole_audit_log(alice.app)


def test_a_form_sent_twice_adds_one_source(alice: Tenant, admin: Person) -> None:
    form_id = admin.form_id("sources/new?adapter=grafana")
    assert admin.post("sources", adapter="grafana", form_id=form_id).status_code == 200
    again = admin.post("sources", adapter="grafana", form_id=form_id)
    assert again.status_code == 409
    assert not TOKEN.search(again.text)
    assert len(alice.get("/sources")["items"]) == 1
    assert len(audited(alice.app, "source.added")) == 1


def test_a_name_that_is_taken_is_said_and_what_was_typed_stays(alice: Tenant, admin: Person) -> None:
    add(admin, "grafana", name="eu-1")
    again = add(admin, "grafana", name="eu-1", **{"option-timestamp_header": "X-Time"})
    assert again.status_code == 409
    assert "There is a source" in again.text
    assert 'value="eu-1"' in again.text
    assert 'value="X-Time"' in again.text
    assert len(alice.get("/sources")["items"]) == 1
    assert len(audited(alice.app, "source.added")) == 1


@on_sqlite
def test_options_and_a_signing_secret_can_be_given_at_once(alice: Tenant, admin: Person) -> None:
    secret = "a secret of the contact point"
    answer = add(admin, "grafana", signing_secret=secret, **{"option-timestamp_header": "X-Time"})
    assert answer.status_code == 200
    assert secret not in answer.text
    (item,) = alice.get("/sources")["items"]
    assert item["options"] == {"timestamp_header": "X-Time"}
    assert len(item["signing_secrets"]) == 1


@on_sqlite
def test_what_is_wrong_with_an_option_is_said_at_its_field(alice: Tenant, admin: Person) -> None:
    answer = add(admin, "grafana", name="eu-1", **{"option-signature_header": "Cookie"})
    assert answer.status_code == 422
    assert "carries something else" in answer.text.split('id="e-option-signature_header"')[1][:200]
    assert 'value="Cookie"' in answer.text
    assert 'value="eu-1"' in answer.text
    assert alice.get("/sources")["items"] == []


@on_sqlite
@pytest.mark.parametrize("name", ["a\x07b", "x" * 101, "a\0b"])
def test_a_name_that_is_none_is_refused(alice: Tenant, admin: Person, name: str) -> None:
    assert add(admin, name=name).status_code == 422
    assert alice.get("/sources")["items"] == []


@on_sqlite
def test_a_name_is_only_text(alice: Tenant, admin: Person) -> None:
    name = "<script>{token}{url}{{7*7}}</script>"
    answer = add(admin, name=name)
    assert name not in answer.text
    assert html.escape(name) in answer.text
    assert token_in(answer.text) not in answer.text.split("<title>")[1].split("</title>")[0]


# ---------------------------------------------------------------- settings and credentials


def edit(person: Person, source: Source, **fields: Any) -> Any:
    typed = {"name": row(source)["name"], "stale_minutes": "", "rate_limit": ""} | fields
    return person.post(f"{page_of(source)}/edit", **typed)


def test_settings_are_saved_and_only_what_changed_is_in_the_audit_log(alice: Tenant, admin: Person) -> None:
    source = alice.source("pagerduty")
    assert edit(admin, source, stale_minutes="30", rate_limit="0", **{"option-legacy_v2": "true"}).status_code == 303
    found = row(source)
    assert (found["stale_after"], found["rate_limit"], found["options"]) == (1800, 0, {"legacy_v2": "true"})
    page = admin.get(page_of(source)).text
    assert 'value="30"' in page
    assert re.search(r'name="option-legacy_v2" value="true" checked', page)
    assert edit(admin, source, stale_minutes="30", rate_limit="", name="main").status_code == 303
    assert row(source)["options"] == {}
    changed = [line.detail["changed"] for line in audited(alice.app, "source.changed")]
    assert changed == [
        {"stale_after": 1800, "rate_limit": 0, "options": {"legacy_v2": "true"}},
        {"name": "main", "rate_limit": None, "options": {"legacy_v2": None}},
    ]


@on_sqlite
def test_saving_what_is_so_already_changes_nothing(alice: Tenant, admin: Person) -> None:
    source = alice.source("grafana", timestamp_header="X-Time")
    with alice.app.app_context():
        db.session.get_one(SourceRow, source.id).stale_after = 90
        db.session.commit()
    before = row(source)
    answer = edit(admin, source, stale_minutes="2", **{"option-timestamp_header": "X-Time"})
    assert answer.status_code == 303
    assert "Nothing was changed." in admin.get(page_of(source)).text
    assert row(source) == before
    assert audited(alice.app, "source.changed") == []


@on_sqlite
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "", "Must not be empty."),
        ("stale_minutes", "0", "A whole number"),
        ("stale_minutes", "9" * 19, "A whole number"),
        ("rate_limit", "-1", "A whole number"),
        ("rate_limit", "many", "A whole number"),
        ("option-timestamp_header", "no header", "Must be the name of a header"),
        ("option-timestamp_header", "X-Grafana-Alerting-Signature", "Must not be the header of the signature."),
    ],
)
def test_a_setting_that_cannot_be_is_said_at_its_field(
    alice: Tenant, admin: Person, field: str, value: str, words: str
) -> None:
    source = alice.source("grafana")
    before = row(source)
    answer = edit(admin, source, **{field: value})
    assert answer.status_code == 422
    assert words in answer.text.split(f'id="e-{field}"')[1][:300]
    assert f'value="{value}"' in answer.text
    assert row(source) == before


@on_sqlite
def test_the_name_of_another_source_is_a_conflict(alice: Tenant, admin: Person) -> None:
    first, second = alice.source("grafana"), alice.source("grafana")
    answer = edit(admin, second, name=row(first)["name"])
    assert answer.status_code == 409
    assert "There is a source of this name already." in answer.text
    assert audited(alice.app, "source.changed") == []


def rotate(person: Person, source: Source, **fields: Any) -> Any:
    return person.post(f"{page_of(source)}/rotate", form_id=person.form_id(page_of(source)), **fields)


def test_rotating_shows_the_new_token_once_and_both_work_meanwhile(alice: Tenant, admin: Person) -> None:
    source = alice.source("alertmanager")
    answer = rotate(admin, source, grace_hours="2")
    assert answer.status_code == 200
    token = token_in(answer.text)
    assert "The one before works until" in answer.text
    assert source.send(notification()).status_code == 202
    assert source.send(notification(), Authorization=f"Bearer {token}").status_code == 202
    assert token not in admin.get(page_of(source)).text
    (line,) = audited(alice.app, "source.rotated")
    assert line.detail == {"grace_hours": 2}
    assert [one["expires_at"] is None for one in row(source)["tokens"]] == [False, True]


@on_sqlite
def test_without_grace_the_token_of_before_ends_now(alice: Tenant, admin: Person) -> None:
    source = alice.source("alertmanager")
    answer = rotate(admin, source, grace_hours="0")
    assert "The one before has ended." in answer.text
    assert source.send(notification()).status_code == 401
    assert source.send(notification(), Authorization=f"Bearer {token_in(answer.text)}").status_code == 202


def test_rotating_twice_with_one_form_makes_one_token(alice: Tenant, admin: Person) -> None:
    source = alice.source("alertmanager")
    form_id = admin.form_id(page_of(source))
    assert admin.post(f"{page_of(source)}/rotate", form_id=form_id, grace_hours="1").status_code == 200
    again = admin.post(f"{page_of(source)}/rotate", form_id=form_id, grace_hours="1")
    assert again.status_code == 409
    assert not TOKEN.search(again.text)
    assert len(row(source)["tokens"]) == 2


@on_sqlite
@pytest.mark.parametrize("hours", ["-1", "8761", "soon"])
def test_a_grace_time_that_cannot_be_rotates_nothing(alice: Tenant, admin: Person, hours: str) -> None:
    source = alice.source("alertmanager")
    answer = rotate(admin, source, grace_hours=hours)
    assert answer.status_code == 422
    assert f'value="{hours}"' in answer.text
    assert len(row(source)["tokens"]) == 1


@on_sqlite
def test_a_source_is_switched_off_and_on(alice: Tenant, admin: Person) -> None:
    source = alice.source("alertmanager")
    for _ in range(2):  # twice is as once
        assert admin.post(f"{page_of(source)}/disable").status_code == 303
    assert source.send(notification()).status_code == 401
    assert "This source is switched off" in lines(source)["authenticated"].words
    assert admin.post(f"{page_of(source)}/enable").status_code == 303
    assert source.send(notification()).status_code == 202
    assert len(audited(alice.app, "source.changed")) == 3


@on_sqlite
def test_signing_secrets_are_added_and_removed_and_never_shown(alice: Tenant, admin: Person) -> None:
    source = alice.source("pagerduty")
    secret, path = "what PagerDuty has shown", f"{page_of(source)}/signing-secrets"
    assert admin.post(path, secret=secret, form_id=admin.form_id(page_of(source))).status_code == 303
    page = admin.get(page_of(source)).text
    assert secret not in page
    (kept,) = row(source)["signing_secrets"]
    assert f"/signing-secrets/{kept['id']}/remove" in page
    assert admin.post(f"{path}/{kept['id']}/remove").status_code == 303
    assert row(source)["signing_secrets"] == []
    assert admin.post(f"{path}/{kept['id']}/remove").status_code == 404
    assert secret not in whole_audit_log(alice.app)


@on_sqlite
def test_a_signing_secret_sent_twice_is_added_once(alice: Tenant, admin: Person) -> None:
    source = alice.source("pagerduty")
    form_id = admin.form_id(page_of(source))
    answers = [
        admin.post(f"{page_of(source)}/signing-secrets", secret="x", form_id=form_id).status_code for _ in range(2)
    ]
    assert answers == [303, 409]
    assert len(row(source)["signing_secrets"]) == 1


@on_sqlite
@pytest.mark.parametrize("path", ["signing-secrets", "api-token"])
def test_a_tool_without_it_takes_no_secret_of_that_kind(alice: Tenant, admin: Person, path: str) -> None:
    source = alice.source("alertmanager")
    form_id = admin.form_id(page_of(source))
    answer = admin.post(f"{page_of(source)}/{path}", secret="x", api_token="x", form_id=form_id)
    assert answer.status_code == 422
    assert "Alertmanager has no use for a" in answer.text
    assert (row(source)["signing_secrets"], row(source)["api_token"]) == ([], False)


@on_sqlite
def test_a_new_source_of_a_tool_that_signs_with_no_secret_takes_none(alice: Tenant, admin: Person) -> None:
    form_id = admin.form_id("sources/new?adapter=datadog")
    answer = admin.post("sources", adapter="datadog", name="dd", signing_secret="x", form_id=form_id)
    assert answer.status_code == 422
    assert "Datadog has no use for a signing secret" in answer.text
    assert alice.get("/sources")["items"] == []


@on_sqlite
def test_an_api_token_is_kept_and_ended_and_never_shown(alice: Tenant, admin: Person) -> None:
    source = alice.source("pagerduty")
    path = f"{page_of(source)}/api-token"
    assert admin.post(path, api_token="read-only-123").status_code == 303
    page = admin.get(page_of(source)).text
    assert "read-only-123" not in page
    assert "a token is set" in page
    assert admin.post(path, api_token="nöt ascii").status_code == 422
    assert row(source)["api_token"]
    assert admin.post(path, api_token="").status_code == 303
    assert not row(source)["api_token"]
    assert "read-only-123" not in whole_audit_log(alice.app)


# ---------------------------------------------------------------- the checklist


@on_sqlite
@EVERY_ADAPTER
def test_before_anything_has_come_it_says_what_this_tool_needs(alice: Tenant, adapter: str) -> None:
    found = lines(alice.source(adapter))
    assert list(found) == ["reached", "authenticated", "parsed", "host", "type", "severity", "recovery"]
    assert not any(one.done for one in found.values())
    assert found["reached"].words == ADAPTERS[adapter].hints["reached"]
    assert found["host"].words == "Waits for the first alert."


def test_a_wrong_token_has_reached_us_and_is_named(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    assert source.send(notification(), **WRONG).status_code == 401
    found = lines(source)
    assert [name for name, one in found.items() if one.done] == ["reached"]
    assert "wrong" in found["authenticated"].words
    assert found["authenticated"].at is not None


@on_sqlite
def test_a_wrong_token_counts_for_every_source_it_may_have_been_meant_for_and_no_other(
    alice: Tenant, charlie: Tenant
) -> None:
    one, two, other = alice.source("grafana"), alice.source("grafana"), alice.source("datadog")
    theirs = charlie.source("grafana")
    one.send(notification(), **WRONG)
    assert [done(source) for source in (one, two, other, theirs)] == [["reached"], ["reached"], [], []]


@on_sqlite
def test_what_was_refused_before_the_source_was_there_is_not_its(alice: Tenant) -> None:
    first = alice.source("alertmanager")
    first.send(notification(), **WRONG)
    flush(alice.app)
    with alice.app.app_context():
        for refused_one in db.session.scalars(select(Delivery)):
            refused_one.source_id = None
        db.session.commit()
    later = alice.source("alertmanager")
    with alice.app.app_context():  # beyond the millisecond that an id is made in
        db.session.get_one(SourceRow, later.id).created_at = datetime.now(UTC) + timedelta(seconds=1)
        db.session.commit()
    assert done(later) == []
    assert refused(later) == []


def test_a_body_of_another_format_is_authenticated_and_the_refusal_is_quoted(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    assert source.send({"title": "of a template"}).status_code == 422
    found = lines(source)
    assert [name for name, one in found.items() if one.done] == ["reached", "authenticated"]
    assert "Remove `payload:` from the webhook_config" in found["parsed"].words


@on_sqlite
def test_a_heartbeat_ticks_the_first_three_and_the_rest_waits_for_an_alert(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    source.alerts(notification(alert(alertname="Watchdog")))
    assert done(source) == ["reached", "authenticated", "parsed"]
    assert lines(source)["host"].words == "Only tests and heartbeats so far. Let a real alert fire."


@on_sqlite
def test_an_alert_that_says_little_is_told_what_is_missing(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    source.alerts(notification(alert(alertname="Something")))
    found = lines(source)
    assert done(source) == ["reached", "authenticated", "parsed"]
    assert {name: found[name].words for name in ("host", "type", "severity", "recovery")} == {
        name: ADAPTERS["alertmanager"].hints[name] for name in ("host", "type", "severity", "recovery")
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"instance": "web-01:9100"}, ["host"]),
        ({"alertname": "DiskFull"}, ["type"]),
        ({"severity": "critical"}, ["severity"]),
        ({"severity": "warning"}, ["severity"]),
        ({"severity": "purple"}, []),
    ],
)
def test_each_line_is_ticked_by_what_it_is_about(alice: Tenant, labels: dict[str, str], expected: list[str]) -> None:
    source = alice.source("alertmanager")
    source.alerts(notification(alert(**labels)))
    assert done(source)[3:] == expected


MEDIUM: dict[str, tuple[Any, Any]] = {
    "grafana": (
        {"alerts": [alert(alertname="x", priority="3")]},
        {"alerts": [alert(alertname="x")]},
    ),
    "datadog": (
        {"id": "1", "title": "x", "alert_priority": "P3"},
        {"id": "1", "title": "x", "alert_priority": "$ALERT_PRIORITY"},
    ),
    "pagerduty": (
        {
            "event": {
                "event_type": "incident.triggered",
                "data": {"type": "incident", "id": "Q1", "priority": {"summary": "P3"}},
            }
        },
        {"event": {"event_type": "incident.triggered", "data": {"type": "incident", "id": "Q1"}}},
    ),
    "uptimekuma": (
        {"heartbeat": {"status": 0}, "monitor": {"id": 1, "tags": [{"name": "severity", "value": "medium"}]}},
        {"heartbeat": {"status": 0}, "monitor": {"id": 1, "tags": [{"name": "team", "value": "shop"}]}},
    ),
    "zabbix": (
        {"event_id": "1", "event_value": "1", "event_nseverity": "2"},
        {"event_id": "1", "event_value": "1", "event_nseverity": "0"},
    ),
}


@on_sqlite
@pytest.mark.parametrize("adapter", list(MEDIUM))
def test_a_severity_that_was_said_is_told_from_our_default_for_every_tool(alice: Tenant, adapter: str) -> None:
    said, silent = MEDIUM[adapter]
    first, second = alice.source(adapter), alice.source(adapter)
    for source, body in ((first, said), (second, silent)):
        (stored,) = source.alerts(body)
        assert alice.incident(stored["incident_id"])["severity"] == "medium"
    assert lines(first)["severity"].done
    assert not lines(second)["severity"].done


@on_sqlite
def test_prometheus_without_an_alertmanager_is_read_as_well(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    source.alerts([{"labels": DISK, "startsAt": NOON}], "/api/v2/alerts")
    assert lines(source)["severity"].done


@on_sqlite
def test_a_service_in_place_of_a_host_is_no_host_until_the_api_names_one(alice: Tenant) -> None:
    source = alice.source("pagerduty")
    data = {"type": "incident", "id": "Q1", "title": "Slow", "service": {"summary": "Checkout"}}
    source.alerts({"event": {"event_type": "incident.triggered", "data": data}})
    assert lines(source)["host"].words == ADAPTERS["pagerduty"].hints["host"]
    with alice.app.app_context():
        db.session.scalars(select(Incident)).one().hostname = "web-01"
        db.session.commit()
    assert lines(source)["host"].words == "web-01"


def test_real_traffic_turns_it_green_and_then_it_rests(alice: Tenant, viewer: Person) -> None:
    source = alice.source("alertmanager")
    assert "hx-get" in viewer.get(page_of(source)).text.split('id="checklist"')[1].split(">")[0]
    source.alerts(notification(alert(**DISK)))
    assert "recovery" not in done(source)
    source.alerts(notification(alert("resolved", **DISK)))
    assert len(done(source)) == 7
    assert lines(source)["host"].words == "web-01"
    assert lines(source)["type"].words == "disk full"
    page = viewer.get(page_of(source)).text
    assert "7 of 7" in page
    assert "hx-get" not in page
    assert "hx-get" not in viewer.get(f"{page_of(source)}/checklist").text


def test_a_person_or_the_clock_is_no_recovery(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    (stored,) = source.alerts(notification(alert(**DISK)))
    alice.post(f"/incidents/{stored['incident_id']}/resolve")
    assert not lines(source)["recovery"].done


@on_sqlite
def test_the_page_is_not_touched_while_nothing_changes(alice: Tenant, viewer: Person) -> None:
    source = alice.source("alertmanager")
    page = viewer.get(page_of(source)).text
    found = re.search(r'hx-get="([^"]+)" hx-trigger="every 3s"', page)
    assert found
    path = html.unescape(found[1])
    assert viewer.get(path).status_code == 204
    source.send(notification(), **WRONG)
    flush(alice.app)
    news = viewer.get(path)
    assert news.status_code == 200
    assert news.text.lstrip().startswith('<section class="card" id="checklist"')
    assert "1 of 7" in news.text


@on_sqlite
def test_nothing_in_what_asks_again_has_to_be_evaluated(alice: Tenant, viewer: Person) -> None:
    page = viewer.get(page_of(alice.source("alertmanager"))).text
    triggers = re.findall(r'hx-trigger="([^"]+)"', page)
    assert triggers == ["every 3s"]


# ---------------------------------------------------------------- a test alert


def rehearse(person: Person, source: Source, form_id: str = "") -> Any:
    return person.post(f"{page_of(source)}/test", form_id=form_id or person.form_id(page_of(source)))


@EVERY_ADAPTER
def test_a_test_alert_opens_an_incident_and_ends_it_and_ticks_nothing(
    alice: Tenant, responder: Person, adapter: str
) -> None:
    source = alice.source(adapter)
    assert rehearse(responder, source).status_code == 303
    (incident,) = alice.incidents()
    assert (incident["hostname"], incident["status"]) == ("openremedy-test", "resolved")
    assert (incident["incident_type"], incident["source"]) == ("disk_full", row(source)["name"])
    page = responder.get(page_of(source)).text
    assert "The test alert opened" in page
    assert f'<a href="/t/alice/incidents/{incident["id"]}">an incident</a>' in page
    assert done(source) == []
    found = row(source)
    assert found["last_seen"] is None
    assert (found["outcomes"]["created"], found["outcomes"]["resolved"]) == (1, 1)
    deliveries = alice.get("/deliveries")["items"]
    assert [one["accepted"] for one in deliveries] == [True, True]
    assert all("test alert that bob@example.com has sent" in one["message"] for one in deliveries)
    (line,) = audited(alice.app, "source.tested")
    assert (line.actor, line.target) == ("bob@example.com", found["name"])
    assert line.detail == {"delivery": deliveries[1]["id"]}


@on_sqlite
def test_two_test_alerts_are_two_incidents_and_one_form_is_one(alice: Tenant, responder: Person) -> None:
    source = alice.source("datadog")
    assert rehearse(responder, source).status_code == 303
    form_id = responder.form_id(page_of(source))
    assert rehearse(responder, source, form_id=form_id).status_code == 303
    assert rehearse(responder, source, form_id=form_id).status_code == 409
    assert [one["status"] for one in alice.incidents()] == ["resolved", "resolved"]


@on_sqlite
def test_a_test_alert_hides_nothing_that_the_tool_has_sent(alice: Tenant, responder: Person) -> None:
    source = alice.source("alertmanager")
    source.alerts(notification(alert(alertname="Something")))
    before = done(source)
    rehearse(responder, source)
    assert done(source) == before


@on_sqlite
def test_a_replay_is_no_sign_of_life_either(alice: Tenant, admin: Person) -> None:
    source = alice.source("alertmanager")
    source.send(notification(alert(**DISK)), **WRONG)
    flush(alice.app)
    (delivery,) = alice.get("/deliveries")["items"]
    path = f"deliveries/{delivery['id']}/replay"
    assert admin.post(path, form_id=admin.form_id(path)).status_code == 303
    assert done(source)[:2] == ["reached", "host"]


@on_sqlite
def test_nothing_is_sent_for_a_source_that_is_switched_off(alice: Tenant, admin: Person, responder: Person) -> None:
    source = alice.source("alertmanager")
    form_id = responder.form_id(page_of(source))
    admin.post(f"{page_of(source)}/disable")
    assert "Send test alert" not in responder.get(page_of(source)).text
    answer = rehearse(responder, source, form_id=form_id)
    assert answer.status_code == 409
    assert "switched off" in answer.text
    assert alice.incidents() == []


# ---------------------------------------------------------------- refusals


def test_refusals_are_shown_by_reason_with_the_last_one_kept(alice: Tenant, viewer: Person) -> None:
    source = alice.source("alertmanager")
    for _ in range(25):
        source.send(b"{", Authorization=f"Bearer {source.token}")
    for _ in range(2):
        source.send(notification(), **WRONG)
    found = {one.reason: one for one in refused(source)}
    assert {reason: (one.count, one.at_least, one.sure) for reason, one in found.items()} == {
        "invalid_json": (25, False, True),
        "unauthorized": (2, False, True),
    }
    page = viewer.get(page_of(source)).text
    assert "25 requests" in page
    for one in found.values():
        assert f"/t/alice/deliveries/{one.delivery_id}" in page


@on_sqlite
def test_a_refusal_that_may_be_of_either_source_says_so(alice: Tenant, viewer: Person) -> None:
    one, two = alice.source("grafana"), alice.source("grafana")
    one.send({"alerts": []}, **WRONG)
    for source in (one, two):
        (found,) = refused(source)
        assert (found.reason, found.count, found.at_least, found.sure) == ("unauthorized", 1, True, False)
    page = viewer.get(page_of(two)).text
    assert "at least 1 request," in page
    assert "may be meant for another source of Grafana" in page


@on_sqlite
def test_refusals_of_yesterday_and_of_others_are_not_shown(alice: Tenant, charlie: Tenant, viewer: Person) -> None:
    source, theirs = alice.source("alertmanager"), charlie.source("alertmanager")
    theirs.send(notification(), **WRONG)
    alice.source("datadog").send({}, **WRONG)
    assert refused(source) == []
    assert "Nothing was refused." in viewer.get(page_of(source)).text


@on_sqlite
def test_hostile_words_of_a_refusal_are_only_text(alice: Tenant, viewer: Person) -> None:
    source = alice.source("alertmanager")
    source.send(b"{", Authorization=f"Bearer {source.token}")
    flush(alice.app)
    hostile = "<script>alert(1)</script>"
    with alice.app.app_context():
        db.session.scalars(select(Delivery)).one().message = hostile
        db.session.commit()
    page = viewer.get(page_of(source)).text
    assert hostile not in page
    assert html.escape(hostile) in page


# ---------------------------------------------------------------- adapters of others


def bare() -> Adapter:
    """An adapter that says nothing for its page."""

    def translate(entry: Any, _payload: Any) -> Translated:
        return Translated(Alert("web-01", IncidentType.CUSTOM, dedup_key=str(entry)))

    shape = Format(payload=Payload(), translate=translate, unwrap=lambda _payload, _options: [{}])
    return Adapter(name="bare", title="Bare", formats=(shape,))


@pytest.fixture
def with_bare(app: Flask) -> Iterator[Adapter]:
    adapter = bare()
    app.extensions[KEY]["bare"] = adapter
    yield adapter
    del app.extensions[KEY]["bare"]


@on_sqlite
def test_an_adapter_that_brings_nothing_has_its_pages(with_bare: Adapter, alice: Tenant, admin: Person) -> None:
    assert "Posts its own notifications." in admin.get("sources/new").text
    answer = add(admin, "bare")
    token = token_in(answer.text)
    assert f"Authorization: Bearer {token}" in answer.text
    assert "/api/v1/webhooks/bare/alice" in answer.text
    (item,) = alice.get("/sources")["items"]
    path = f"sources/{item['id']}"
    assert "Send test alert" not in admin.get(path).text
    form_id = admin.form_id(path)
    assert admin.post(f"{path}/test", form_id=form_id).status_code == 409
    assert alice.incidents() == []


@on_sqlite
@pytest.mark.parametrize(("severity", "told"), [("high", True), ("medium", False)])
def test_where_an_adapter_does_not_tell_medium_counts_as_not_said(
    with_bare: Adapter, alice: Tenant, severity: str, told: bool
) -> None:
    source = alice.source("bare")
    with alice.app.app_context():  # its endpoint is not mounted, so what it would have stored is put there
        values = {"identity": "x", "status": "open", "hostname": "web-01", "incident_type": "custom"}
        times = {"first_seen": datetime.now(UTC), "last_seen": datetime.now(UTC), "recent_starts": []}
        tenant_id = db.session.get_one(SourceRow, source.id).tenant_id
        kind = {"tenant_id": tenant_id, "source_id": source.id, "adapter": "bare", "severity": severity}
        db.session.add(Incident(**values, **times, **kind, evidence={}))
        db.session.commit()
    assert lines(source)["severity"].done is told


@on_sqlite
def test_a_source_whose_adapter_is_gone_still_has_its_page(alice: Tenant, admin: Person) -> None:
    source = alice.source("datadog")
    gone = alice.app.extensions[KEY].pop("datadog")
    page = admin.get(page_of(source))
    assert page.status_code == 200
    assert "not installed any more" in page.text
    assert "not installed any more" in admin.get("sources").text
    assert edit(admin, source, name="old").status_code == 303
    assert admin.post(f"{page_of(source)}/test", form_id=admin.form_id(page_of(source))).status_code == 404
    alice.app.extensions[KEY]["datadog"] = gone


@on_sqlite
def test_options_that_a_newer_adapter_would_refuse_still_show_their_page(alice: Tenant, admin: Person) -> None:
    source = alice.source("pagerduty")
    with alice.app.app_context():
        db.session.get_one(SourceRow, source.id).options = {"region": "moon", "old": "x"}
        db.session.commit()
    assert admin.get(page_of(source)).status_code == 200
