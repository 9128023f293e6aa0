"""The hostile tenant is what it says: every text got through the door, and lies where the browser tests look for it."""

import json

from flask import Flask
from sqlalchemy import select

from cast import Tenant
from hostile import HOSTILE, hostile_world
from openremedy.extensions import db
from openremedy.models import AuditLine, Delivery, Incident, Source, TimelineEntry, Verdict


def test_there_are_enough_different_texts_and_none_that_the_database_cannot_hold() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 25
    assert all("\0" not in text and len(text) <= 253 for text in HOSTILE)


def test_every_text_is_taken_or_refused_as_intended_and_lies_in_every_place(app: Flask, alice: Tenant) -> None:
    world = hostile_world(alice)
    assert [one for one in world.answers if one[1] != one[2]] == []
    with app.app_context():
        session = db.session()
        for adapter in ("canonical", "alertmanager", "grafana", "datadog", "pagerduty", "uptimekuma", "zabbix"):
            found = session.scalars(select(Incident.evidence).where(Incident.adapter == adapter)).all()
            assert len(found) >= len(HOSTILE), adapter
            whole = "\n".join(json.dumps(one, ensure_ascii=False) for one in found)
            written = [json.dumps(text.strip(), ensure_ascii=False)[1:-1] for text in HOSTILE]
            assert [text for text in written if text not in whole] == [], adapter
        hosts = set(session.scalars(select(Incident.hostname)))
        assert len(hosts) > 40
        assert set(session.scalars(select(Incident.triage))) == {"done", "needs_human", "pending"}
        summaries = session.scalars(select(Verdict.summary).where(Verdict.tier == "model")).all()
        assert len(summaries) == len(HOSTILE)
        assert set(HOSTILE) <= {line.target for line in session.scalars(select(AuditLine))}
        assert {entry.kind for entry in session.scalars(select(TimelineEntry))} >= {"note", "needs_human"}
        refused = session.scalars(select(Delivery).where(Delivery.accepted.is_(False))).all()
        assert {one.reason for one in refused} == {"unauthorized", "validation_error", "duplicate_key", "invalid_json"}
        assert any("<script>" in (one.message or "") for one in refused)
        assert any("<script>" in one.headers["User-Agent"] for one in refused)
        assert sum("<" in name for name in session.scalars(select(Source.name))) > 5
        assert len(world.recipes) == len(HOSTILE)
        assert any("<script>" in email for email in world.emails)
