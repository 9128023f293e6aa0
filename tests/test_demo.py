"""`flask demo`: the tenant that it leaves behind looks as if people had worked in it for a week."""

import dataclasses
import json
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from answers import rows
from conftest import make_settings, make_tenant
from openremedy import crypto, demo, people, sources, tenants
from openremedy.app import create_app
from openremedy.demo.week import week
from openremedy.extensions import db
from openremedy.models import (
    AlertRecord,
    ApiToken,
    AuditLine,
    Delivery,
    Feedback,
    Incident,
    Recipe,
    RefusalCount,
    Source,
    Tenant,
    TimelineEntry,
    Verdict,
    WebhookSecret,
    as_if_at,
    now,
)
from openremedy.services import services

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
LIMIT = 5  # requests a minute: the demo must not be held up by it


@dataclass
class Played:
    """An installation with another tenant in it, after `flask demo --json`."""

    app: Flask
    began: datetime
    answer: dict[str, Any]
    other: dict[str, Any]  # what Charlie's tenant held before
    log: str
    made: list[str]  # every secret and token that was made meanwhile

    def all(self, statement: Any) -> list[Any]:
        """The rows that a statement finds."""
        with self.app.app_context():
            return list(db.session.execute(statement))

    def count(self, model: Any, *conditions: Any) -> int:
        """How many rows of the demo's tenant there are."""
        demo_tenant = select(Tenant.id).where(Tenant.slug == "demo").scalar_subquery()
        ((found,),) = self.all(select(func.count()).where(model.tenant_id == demo_tenant, *conditions))
        return int(found)

    def counts(self, column: Any) -> Counter[Any]:
        """How often each value of a column is there."""
        demo_tenant = select(Tenant.id).where(Tenant.slug == "demo").scalar_subquery()
        statement = select(column, func.count()).where(column.class_.tenant_id == demo_tenant).group_by(column)
        return Counter({row[0]: row[1] for row in self.all(statement)})


def held(app: Flask, slug: str) -> dict[str, Any]:
    """Everything in the tables that tell what a tenant has."""
    with app.app_context():
        tenant_id = select(Tenant.id).where(Tenant.slug == slug).scalar_subquery()
        return {
            model.__tablename__: [
                tuple(row) for row in db.session.execute(select(*model.__table__.c).where(model.tenant_id == tenant_id))
            ]
            for model in (Incident, Verdict, Delivery, Source, Recipe, AuditLine, TimelineEntry, WebhookSecret)
        }


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.args} {record.exc_info}")


@pytest.fixture(scope="module")
def played(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("demo")
    shutil.copy(sqlite_template, folder / "openremedy.db")
    settings = make_settings(folder, f"sqlite:///{folder}/openremedy.db", rate_limit=LIMIT, source_rate_limit=LIMIT)
    app = create_app(settings)
    charlie = make_tenant(app, "charlie")
    charlie.alert()
    with app.app_context():
        services().tally.flush()
    other = held(app, "charlie")
    kept, made, generate = Kept(), list[str](), crypto.generate

    def generated(prefix: str) -> str:
        made.append(generate(prefix))
        return made[-1]

    began = now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_hushed", nullcontext)
        patch.setattr(crypto, "generate", generated)
        logging.getLogger().addHandler(kept)
        done = app.test_cli_runner().invoke(args=["demo", "--json"])
        logging.getLogger().removeHandler(kept)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    yield Played(app, began, json.loads(done.stdout), other, "\n".join([*kept.lines, done.stderr]), made)
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()


# ---------------------------------------------------------------- what it leaves behind


def test_the_answer_tells_what_there_is_now(played: Played) -> None:
    assert set(played.answer) == {"tenant", "incidents", "deliveries", "sources", "members"}
    assert played.answer["tenant"] == "demo"
    assert played.answer["incidents"] == played.count(Incident)
    assert played.answer["deliveries"] == played.count(Delivery)
    assert played.answer["sources"] == played.count(Source)


def test_a_week_has_passed_and_lately_more_happens(played: Played) -> None:
    assert 150 <= played.count(Incident) <= 250
    week_ago = played.began - timedelta(days=7)
    for model, column in (
        (Incident, Incident.first_seen),
        (Delivery, Delivery.received_at),
        (AlertRecord, AlertRecord.received_at),
        (TimelineEntry, TimelineEntry.at),
        (Verdict, Verdict.created_at),
        (RefusalCount, RefusalCount.minute),
        (Feedback, Feedback.created_at),
    ):
        assert played.count(model) > 10
        assert played.count(model, column < week_ago) == 0, model
        assert played.count(model, column > played.began + timedelta(seconds=5)) == 0, model
    of_six_hours = played.count(Incident, Incident.first_seen > played.began - timedelta(hours=6))
    assert of_six_hours > 1.5 * played.count(Incident) / (7 * 4)
    assert played.count(Incident, Incident.first_seen > played.began - timedelta(hours=1)) >= 4


def test_what_is_newer_has_the_greater_id(played: Played) -> None:
    for column, at in ((Incident.id, Incident.first_seen), (Delivery.id, Delivery.received_at)):
        ours = select(column, at).join(Tenant, Tenant.id == at.class_.tenant_id).where(Tenant.slug == "demo")
        times = [moment for _, moment in played.all(ours.order_by(column))]
        assert len(times) > 100
        assert times == sorted(times)


def test_some_are_open_some_of_them_acknowledged_and_a_few_wait_for_somebody(played: Played) -> None:
    status = played.counts(Incident.status)
    assert 12 <= status["open"] + status["acknowledged"] <= 20
    assert status["acknowledged"] >= 3
    assert 4 <= played.count(Incident, Incident.triage == "needs_human") <= 8
    assert played.count(Incident, Incident.triage == "needs_human", Incident.status != "resolved") >= 4


def test_every_incident_has_its_verdict_and_no_model_was_asked(played: Played) -> None:
    assert set(played.counts(Incident.triage)) == {"done", "needs_human"}
    assert played.count(Incident, Incident.verdict_id.is_(None)) == 0
    assert set(played.counts(Verdict.tier)) == {"rule", "reuse", "lexical", "person"}
    assert set(played.counts(Verdict.model)) == {None}
    named = {recipe for (recipe,) in played.all(select(Verdict.recipe).distinct()) if recipe}
    assert len(named) > 15


def test_all_types_and_severities_and_what_an_incident_can_go_through_are_there(played: Played) -> None:
    assert len(played.counts(Incident.incident_type)) == 6
    assert len(played.counts(Incident.severity)) == 5
    assert set(played.counts(AlertRecord.outcome)) == {"created", "updated", "resolved", "duplicate", "ignored"}
    assert {"still_firing", "flapping", "note", "severity_changed"} <= set(played.counts(TimelineEntry.kind))
    assert played.count(Incident, Incident.flapping) >= 4
    assert played.count(Incident, Incident.flapping, Incident.status == "open") >= 1
    assert set(played.counts(Incident.ended_by)) == {None, "sender", "person"}
    assert set(played.counts(Feedback.answer)) == {"confirm", "correct", "none"}
    assert played.count(AlertRecord, AlertRecord.reason.startswith("Test notification")) >= 3


def test_there_is_a_source_of_every_kind_and_in_every_state(played: Played) -> None:
    with played.app.app_context():
        tenant = tenants.find_tenant(db.session(), "demo")
        found = {one.name: one for one in sources.list_sources(db.session(), tenant.id)}
        assert {one.adapter for one in found.values()} == {"alertmanager", "grafana", "datadog", "pagerduty"}
        states = {name: sources.silent(one, now()) for name, one in found.items()}
        assert [name for name, silent in states.items() if silent] == ["staging Alertmanager"]
        assert [name for name, silent in states.items() if silent is False] == [
            "prod-eu Alertmanager",
            "prod-us Alertmanager",
        ]
        assert [name for name, one in found.items() if one.disabled_at] == ["old Grafana (office)"]
        assert [name for name, one in found.items() if one.last_seen_at is None] == ["payments Prometheus"]
        staging = found["staging Alertmanager"]
        assert staging.heartbeat_at is not None
        assert now() - staging.heartbeat_at > timedelta(hours=5)
        used = [one.tokens[0].last_used_at for one in found.values() if one.tokens[0].last_used_at]
        assert len(used) >= 6
        assert max(used) < played.began + timedelta(seconds=1)


def test_what_was_refused_is_there_with_the_ways_people_get_it_wrong(played: Played) -> None:
    refused = played.all(select(Delivery).where(Delivery.accepted.is_(False)).order_by(Delivery.id))
    found = Counter(one.reason for (one,) in refused)
    assert found.keys() == {"unauthorized", "invalid_json", "validation_error", "unsupported_envelope"}
    assert found["unauthorized"] >= 15
    signatures = [one.headers.get("X-OpenRemedy-Signature", "") for (one,) in refused if one.reason == "unauthorized"]
    assert "" in signatures
    assert any(text.endswith("=") for text in signatures), "base64"
    assert any(text and not text.startswith("sha256=") for text in signatures), "without its prefix"
    assert played.count(RefusalCount) >= 20


def test_a_text_that_speaks_to_a_model_waits_for_a_person(played: Played) -> None:
    said = select(TimelineEntry.incident_id, TimelineEntry.detail).where(TimelineEntry.kind == "needs_human")
    (suspicious,) = [one for one, detail in played.all(said) if "injection" in detail["reason"]]
    ((status, triage),) = played.all(select(Incident.status, Incident.triage).where(Incident.id == suspicious))
    assert (status, triage) == ("open", "needs_human")


def test_the_people_of_the_tenant_act_in_it_and_the_log_says_who(played: Played) -> None:
    actors = played.counts(AuditLine.actor)
    assert actors.keys() == {"ada@example.com", "ruben@example.com", "command line"}
    assert {"incident.acknowledged", "incident.resolved", "verdict.answered", demo.FILLED} <= set(
        played.counts(AuditLine.action)
    )
    assert played.count(ApiToken, ApiToken.last_used_at.is_not(None)) == 1
    assert played.count(Recipe) > 50
    assert played.count(Recipe, Recipe.enabled.is_(False)) == 1
    assert played.count(WebhookSecret, WebhookSecret.expires_at < played.began) == 1


# ---------------------------------------------------------------- who can sign in, and who else sees it


def test_everybody_signs_in_with_the_password_that_was_printed_and_no_other(played: Played) -> None:
    members = played.answer["members"]
    assert {(one["email"], one["role"]) for one in members} == {
        ("ada@example.com", "admin"),
        ("ruben@example.com", "responder"),
        ("vera@example.com", "viewer"),
    }
    assert len({one["password"] for one in members}) == 3
    with played.app.app_context():
        for one in members:
            user = people.find_user(db.session(), one["email"])
            assert user
            assert not user.superadmin
            assert len(one["password"]) >= 16
            assert people.check_password(user, one["password"])
            assert not people.check_password(user, "demo")
            assert one["password"] not in (user.password_hash or "")


def test_nothing_secret_of_it_is_logged(played: Played) -> None:
    assert played.log.count("request.done") > 500
    hidden = [one["password"] for one in played.answer["members"]] + played.made
    assert len(hidden) > 12
    assert [text for text in hidden if text in played.log] == []


def test_another_tenant_is_as_it_was_and_its_alerts_still_wait(played: Played) -> None:
    assert held(played.app, "charlie") == played.other
    ((triage,),) = played.all(
        select(Incident.triage).join(Tenant, Tenant.id == Incident.tenant_id).where(Tenant.slug == "charlie")
    )
    assert triage == "pending"


def test_the_limits_of_the_installation_hold_again_afterwards(played: Played) -> None:
    with played.app.app_context():
        assert services().settings.rate_limit == LIMIT
        assert services().door.tally is services().tally
        assert type(services().tally).__name__ == "Tally"


# ---------------------------------------------------------------- again, elsewhere, otherwise


def test_a_second_run_changes_nothing_and_says_so_in_one_line(played: Played) -> None:
    before = rows(played.app)
    for words in (["demo"], ["demo", "--json"]):
        done = played.app.test_cli_runner().invoke(args=words)
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "'demo' already" in done.stderr
        assert "--tenant" in done.stderr
    assert rows(played.app) == before


@ON_ONE
def test_in_production_it_is_refused_without_yes(make_app: Callable[..., Flask], settings: Any) -> None:
    app = make_app(dataclasses.replace(settings, embedded_database=False))
    before = rows(app)
    done = app.test_cli_runner().invoke(args=["demo"])
    assert done.exit_code == 1
    assert "--yes" in done.stderr
    assert rows(app) == before


@ON_POSTGRES
def test_on_postgresql_it_is_the_same_week(app: Flask, played: Played) -> None:
    words = ["demo", "--yes", "--tenant", "other", "--json"]
    with app.app_context():
        people.create_user(db.session(), "vera+other@example.com", "a password of her own", None, None)
    done = app.test_cli_runner().invoke(args=words)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    figures = ("incidents", "deliveries", "sources")
    assert [answer[name] for name in figures] == [played.answer[name] for name in figures]
    assert [one["email"] for one in answer["members"]] == [
        f"{name}+other@example.com" for name in ("ada", "ruben", "vera")
    ]
    assert [one["password"] is None for one in answer["members"]] == [False, False, True]
    with app.app_context():
        status = dict(db.session.execute(select(Incident.status, func.count()).group_by(Incident.status)).all())
        assert {str(name): count for name, count in status.items()} == {
            str(name): count for name, count in played.counts(Incident.status).items()
        }
        assert demo.is_whole(db.session(), "other") is True


def test_people_are_told_where_to_look_and_who_can_sign_in() -> None:
    members = (
        demo.Member("ada@example.com", demo.Role.ADMIN, "s3cret"),
        demo.Member("v@example.com", demo.Role.VIEWER, None),
    )
    text = demo.welcome(demo.Filled("demo", 182, 670, 8, members), "http://127.0.0.1:8000")
    assert "http://127.0.0.1:8000/t/demo/" in text
    assert "s3cret" in text
    assert "the password they have" in text
    assert "s3cret" not in repr(members)


def test_the_same_seed_tells_the_same_week_and_another_one_another() -> None:
    end = datetime(2026, 3, 4, 12, tzinfo=UTC)
    assert week(7, end) == week(7, end)
    assert week(7, end) != week(8, end)


@ON_ONE
def test_a_tenant_that_was_filled_half_way_is_told_from_a_whole_one(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "week", stopped)
    with app.app_context():
        assert demo.is_whole(db.session()) is None
        db.session.remove()
        with pytest.raises(KeyboardInterrupt):
            demo.fill(db.session(), db.engine)
        assert demo.is_whole(db.session()) is False


def test_only_who_tells_a_history_has_its_time() -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    seen: list[datetime] = []
    with as_if_at(past):
        assert now() == past
        thread = threading.Thread(target=lambda: seen.append(now()))
        thread.start()
        thread.join()
    assert now() > past
    assert seen[0] > past
