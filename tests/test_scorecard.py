"""Scorecards: how often a recipe was named, and what people said of that."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from cast import DISK_FULL, Tenant
from openremedy.extensions import db
from openremedy.models import Feedback, Verdict, now
from openremedy.scorecard import Scorecard, scorecards
from test_classification import LOG_DISK, classify

NAMED = "log-partition-full"  # by its own conditions


def cards(tenant: Tenant, **arguments: Any) -> dict[str, Scorecard]:
    tenant_id = tenant.id
    with tenant.app.app_context():
        return scorecards(db.session(), tenant_id, **arguments)


def named(tenant: Tenant, count: int = 1) -> list[str]:
    """Incidents that a rule has given their recipe."""
    ids = [tenant.alert(LOG_DISK, hostname=f"web-{number}")["incident_id"] for number in range(count)]
    classify(tenant.app)
    return ids


def answer(tenant: Tenant, incident_id: str, said: str, recipe: str | None = None) -> None:
    tenant.post(f"/incidents/{incident_id}/feedback", {"answer": said, "recipe": recipe})


def test_a_recipe_counts_the_incidents_that_it_is_the_verdict_of_by_tier(alice: Tenant) -> None:
    before = now()
    named(alice, 3)
    alice.alert(DISK_FULL, hostname="db-01", evidence={"mount": "/srv"})
    classify(alice.app)
    found = cards(alice)
    assert {slug: card.by_tier for slug, card in found.items()} == {NAMED: {"rule": 3}, "disk-full": {"lexical": 1}}
    assert found[NAMED].named == 3
    last = found[NAMED].last_named
    assert last is not None
    assert before <= last <= now()
    assert found[NAMED].precision is found[NAMED].precision_interval is None, "nobody has answered"


def test_what_people_say_is_counted_for_both_recipes(alice: Tenant) -> None:
    confirmed, away, none, unanswered = named(alice, 4)
    answer(alice, confirmed, "confirm")
    answer(alice, away, "correct", "disk-full")
    answer(alice, none, "none")
    found = cards(alice)
    card = found[NAMED]
    assert (card.confirmed, card.corrected_away, card.none_fits, card.corrected_to) == (1, 1, 1, 0)
    assert card.precision == pytest.approx(1 / 3)
    assert card.precision_interval == pytest.approx((0.0615, 0.7923), abs=1e-4), "three answers tell little"
    assert card.by_tier == {"rule": 1, "person": 1}, "only verdicts in force are counted"
    assert (found["disk-full"].corrected_to, found["disk-full"].by_tier) == (1, {"person": 1})
    assert found["disk-full"].precision is None, "it was not named there by the classifier"
    assert unanswered


def test_somebody_who_thinks_again_counts_once(alice: Tenant) -> None:
    slipped, twice = named(alice, 2)
    answer(alice, slipped, "none")
    answer(alice, slipped, "correct", NAMED)
    answer(alice, twice, "correct", "disk-full")
    answer(alice, twice, "correct", "inodes-exhausted")
    found = cards(alice)
    assert (found[NAMED].confirmed, found[NAMED].none_fits, found[NAMED].corrected_away) == (1, 0, 1)
    assert "disk-full" not in found, "a second thought leaves nothing of the first"
    assert found["inodes-exhausted"].corrected_to == 1


def test_a_recipe_given_where_none_was_named_is_corrected_to(alice: Tenant) -> None:
    incident = alice.alert({"hostname": "x", "incident_type": "custom", "evidence": {"check": "zzyzx"}})["incident_id"]
    answer(alice, incident, "correct", "disk-full")
    assert cards(alice)["disk-full"] == Scorecard(
        by_tier={"person": 1}, last_named=cards(alice)["disk-full"].last_named, corrected_to=1
    )


def test_none_where_none_was_named_is_nobody_s(alice: Tenant) -> None:
    incident = alice.alert({"hostname": "x", "incident_type": "custom", "evidence": {"check": "zzyzx"}})["incident_id"]
    answer(alice, incident, "none")
    assert cards(alice) == {}


def test_only_the_last_days_are_counted(app: Flask, alice: Tenant) -> None:
    answer(alice, named(alice)[0], "confirm")
    with app.app_context():
        for model in (Verdict, Feedback):
            db.session.execute(update(model).values(created_at=now() - timedelta(days=10)))
        db.session.commit()
    assert cards(alice, days=9) == {}
    assert cards(alice, days=11)[NAMED].confirmed == 1


def test_another_tenant_s_answers_are_not_counted(alice: Tenant, charlie: Tenant) -> None:
    answer(charlie, named(charlie)[0], "confirm")
    assert cards(alice) == {}
