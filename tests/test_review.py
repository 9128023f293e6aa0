"""Who waits for a person, and why."""

import uuid
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, update

from cast import Tenant
from openremedy import review
from openremedy.extensions import db
from openremedy.models import Incident, Triage, Verdict, table
from openremedy.review import Why


def waits(app: Flask, tenant: Tenant, host: str, why: Why) -> str:
    """An incident that waits for this reason."""
    incident = uuid.UUID(tenant.alert(hostname=host)["incident_id"])
    with app.app_context():
        values: dict[str, Any] = {"triage": Triage.NEEDS_HUMAN, "cause": "!x" if why is Why.SUSPICION else "x"}
        if why is not Why.FAILED:
            values["verdict_id"] = _verdict(tenant, incident, None if why is Why.NONE else "disk-full")
        db.session.execute(update(Incident).where(Incident.id == incident).values(values))
        db.session.commit()
    return str(incident)


def _verdict(tenant: Tenant, incident: uuid.UUID, recipe: str | None) -> uuid.UUID:
    row = {
        "id": uuid.uuid4(),
        "tenant_id": tenant.id,
        "incident_id": incident,
        "recipe": recipe,
        "tier": "lexical",
        "confidence": 0.4,
        "provisional": False,
        "reusable": False,
        "cause": "x",
        "catalogue_version": 1,
        "prompt_version": "",
        "model_version": "",
        "runners_up": [],
        "citations": [],
        "summary": "",
        "actor": "classifier",
    }
    db.session.execute(insert(table(Verdict)), row)
    return uuid.UUID(str(row["id"]))


@pytest.fixture
def four(app: Flask, alice: Tenant) -> dict[Why, str]:
    """One for each reason."""
    return {why: waits(app, alice, f"host-{why}", why) for why in Why}


def queue(app: Flask, tenant: Tenant, why: Why | None = None, after: str | None = None) -> list[str]:
    with app.app_context():
        found = review.queue(db.session(), tenant.id, why, uuid.UUID(after) if after else None, 10)
        return [str(one.id) for one in found]


def test_the_queue_is_newest_first_and_says_why_each_waits(app: Flask, alice: Tenant, four: dict[Why, str]) -> None:
    with app.app_context():
        found = review.queue(db.session(), alice.id, None, None, 10)
    assert [(str(one.id), one.why) for one in found] == [(four[why], why) for why in reversed(Why)]


@pytest.mark.parametrize("why", Why)
def test_each_reason_alone_is_shown_and_counted(app: Flask, alice: Tenant, four: dict[Why, str], why: Why) -> None:
    assert queue(app, alice, why) == [four[why]]
    with app.app_context():
        assert review.counts(db.session(), alice.id) == dict.fromkeys(Why, 1)
        assert review.count(db.session(), alice.id) == 4


def test_skipping_goes_on_behind_the_one_that_was_skipped(app: Flask, alice: Tenant, four: dict[Why, str]) -> None:
    everything = queue(app, alice)
    assert queue(app, alice, after=everything[0]) == everything[1:]
    assert queue(app, alice, after=everything[-1]) == []


def test_what_is_resolved_or_has_its_answer_waits_for_nobody(app: Flask, alice: Tenant, four: dict[Why, str]) -> None:
    alice.post(f"/incidents/{four[Why.NONE]}/resolve")
    alice.post(f"/incidents/{four[Why.UNSURE]}/feedback", {"answer": "none"})
    assert queue(app, alice) == [four[Why.FAILED], four[Why.SUSPICION]]


def test_charlie_sees_and_counts_nothing_of_it(app: Flask, charlie: Tenant, four: dict[Why, str]) -> None:
    assert queue(app, charlie) == []
    with app.app_context():
        assert review.count(db.session(), charlie.id) == 0
        assert sum(review.counts(db.session(), charlie.id).values()) == 0
