"""Deliveries as the API and the pages read them, and the doctor who looks into a refused one."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from cast import DISK_FULL, Tenant, sign
from openremedy import deliveries, tenants
from openremedy.alerts import Outcome
from openremedy.deliveries import Filters
from openremedy.errors import Conflict, NotFound
from openremedy.extensions import db
from openremedy.models import WebhookSecret
from openremedy.services import services
from openremedy.signature_doctor import Finding
from test_refusals import BODY, flush, wrong

FIRING = {"alerts": [{"status": "firing", "labels": {"alertname": "DiskFull"}, "fingerprint": "a1"}, "no alert"]}


def tenant_id(tenant: Tenant) -> int:
    return tenants.find_tenant(db.session(), tenant.slug).id


def listed(tenant: Tenant, limit: int = 50, before: str | None = None, **filters: Any) -> list[str]:
    """The ids of a page."""
    with tenant.app.app_context():
        cursor = uuid.UUID(before) if before else None
        found = deliveries.page(db.session(), tenant_id(tenant), Filters(**filters), cursor, limit)
        return [one["id"] for one in found]


def detail(tenant: Tenant, delivery_id: str) -> dict[str, Any]:
    with tenant.app.app_context():
        return deliveries.detail(db.session(), tenant_id(tenant), uuid.UUID(delivery_id))


def refusal(tenant: Tenant) -> str:
    """The id of the newest refused delivery."""
    flush(tenant.app)
    return listed(tenant, 1, accepted=False)[0]


def diagnosed(tenant: Tenant, delivery_id: str) -> Finding:
    with tenant.app.app_context():
        return deliveries.diagnose(db.session(), services().vault, tenant_id(tenant), uuid.UUID(delivery_id))


# ---------------------------------------------------------------- read


def test_the_list_is_narrowed_by_each_filter(alice: Tenant, charlie: Tenant) -> None:
    charlie.alert()
    canonical = alice.alert()["delivery_id"]
    again = alice.alert()["delivery_id"]
    source = alice.source("alertmanager")
    native = source.send(FIRING).get_json()["delivery_id"]
    wrong(alice)
    refused = refusal(alice)
    alice.send(b"not json")
    garbled = refusal(alice)
    assert listed(alice) == [garbled, refused, native, again, canonical]
    assert listed(alice, accepted=True) == [native, again, canonical]
    assert listed(alice, accepted=False) == [garbled, refused]
    assert listed(alice, reason="unauthorized") == [refused]
    assert listed(alice, source_id=source.id) == [native]
    assert listed(alice, adapter="canonical") == [garbled, refused, again, canonical]
    assert listed(alice, adapter="canonical", accepted=True) == [again, canonical]
    assert listed(alice, outcome=Outcome.CREATED) == [native, canonical]
    assert listed(alice, outcome=Outcome.UPDATED) == [again]
    assert listed(alice, outcome=Outcome.REJECTED) == [native]
    assert listed(alice, outcome=Outcome.IGNORED) == []


def test_the_list_goes_on_behind_a_cursor(alice: Tenant) -> None:
    ids = [alice.alert()["delivery_id"] for _ in range(3)][::-1]
    assert listed(alice, 2) == ids[:2]
    assert listed(alice, 2, before=ids[1]) == ids[2:]


def test_one_delivery_has_its_bytes_and_the_place_of_each_alert(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    found = detail(alice, source.send(FIRING).get_json()["delivery_id"])
    assert found["source_id"] == source.id
    assert b'"no alert"' in found["body"]
    assert found["cut"] is False
    first, second = found["alerts"]
    assert (first["position"], first["outcome"], first["status"]) == (0, "created", "firing")
    assert alice.incident(first["incident_id"])["severity"] == first["severity"]
    assert (second["position"], second["outcome"], second["incident_id"]) == (1, "rejected", None)
    assert second["status"] is None


def test_the_api_says_no_more_of_an_alert_than_it_did(alice: Tenant) -> None:
    (alert,) = alice.get(f"/deliveries/{alice.alert()['delivery_id']}")["alerts"]
    assert set(alert) == {"outcome", "incident_id", "reason"}


def test_a_body_that_was_kept_in_part_says_so(alice: Tenant) -> None:
    wrong(alice, b" " * 70_000)
    found = detail(alice, refusal(alice))
    assert found["cut"] is True
    assert len(found["body"]) == 64 * 1024


def test_another_tenants_delivery_is_not_there(alice: Tenant, charlie: Tenant) -> None:
    wrong(alice)
    theirs = refusal(alice)
    for look in (detail, diagnosed):
        with pytest.raises(NotFound):
            look(charlie, theirs)


# ---------------------------------------------------------------- the signature doctor


def test_a_missing_header_is_found(alice: Tenant) -> None:
    alice.app.test_client().post(alice.url, data=BODY)
    assert diagnosed(alice, refusal(alice)).code == "header_missing"


def test_a_header_is_examined_as_it_was_kept(alice: Tenant) -> None:
    wrong(alice, **{"X-OpenRemedy-Signature": sign(alice.secret, BODY).removeprefix("sha256=")})
    assert diagnosed(alice, refusal(alice)).code == "prefix_missing"
    wrong(alice, **{"X-OpenRemedy-Signature": "sha256=" + "é" * 600})
    assert diagnosed(alice, refusal(alice)).code == "not_a_signature"


def test_a_secret_that_has_ended_is_found_out(alice: Tenant) -> None:
    with alice.app.app_context():
        tenants.rotate_secret(db.session(), services().vault, alice.slug, timedelta(0))
        ended = db.session.scalar(select(WebhookSecret.expires_at).order_by(WebhookSecret.id))
    assert ended
    wrong(alice, **{"X-OpenRemedy-Signature": sign(alice.secret, BODY + b"\n")})
    finding = diagnosed(alice, refusal(alice))
    assert finding.code == "newline_added+previous_secret"
    assert f"{ended:%Y-%m-%d %H:%M} UTC" in finding.sentence


def test_another_tenants_secret_is_as_unknown_as_a_random_one(alice: Tenant, charlie: Tenant) -> None:
    findings = []
    for secret in (charlie.secret, "random"):
        wrong(alice, **{"X-OpenRemedy-Signature": sign(secret, BODY)})
        findings.append(diagnosed(alice, refusal(alice)))
    assert findings[0] == findings[1]
    assert findings[0].code == "none"


def test_a_body_that_was_cut_cannot_be_told_about(alice: Tenant) -> None:
    body = b" " * 70_000
    wrong(alice, body, **{"X-OpenRemedy-Signature": sign(alice.secret, body + b"\n")})
    assert diagnosed(alice, refusal(alice)).code == "body_cut"


def test_another_reason_is_not_the_signature(alice: Tenant) -> None:
    alice.send(b"not json")
    assert diagnosed(alice, refusal(alice)).code == "not_the_signature"


def test_a_secret_that_cannot_be_read_is_said_and_the_others_are_tried(alice: Tenant) -> None:
    with alice.app.app_context():
        db.session.execute(update(WebhookSecret).values(locked="lost"))
        db.session.add(WebhookSecret(tenant_id=tenant_id(alice), locked=services().vault.lock("other")))
        db.session.commit()
    wrong(alice, **{"X-OpenRemedy-Signature": sign("other\n", BODY)})
    finding = diagnosed(alice, refusal(alice))
    assert finding.code == "secret_newline"
    assert "1 of your secrets could not be tried" in finding.advice


def test_only_a_refused_canonical_delivery_is_examined(alice: Tenant) -> None:
    source = alice.source("grafana")
    source.send({}, Authorization="Bearer wrong")
    for delivery_id in (refusal(alice), alice.alert(DISK_FULL)["delivery_id"]):
        with pytest.raises(Conflict):
            diagnosed(alice, delivery_id)
