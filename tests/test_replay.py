"""A stored delivery runs again through today's code: seen before, and then through the real door."""

import dataclasses
import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import func, select, update

from answers import rows
from cast import DISK_FULL, Source, Tenant, sign
from golden import Case, cases_of
from openremedy import adapter as native
from openremedy import replay, tenants
from openremedy.audit import COMMAND_LINE, Actor
from openremedy.errors import BadBody, Conflict, Invalid, NotFound
from openremedy.extensions import db
from openremedy.intake import Door, Receipt
from openremedy.models import AuditLine, Delivery, WebhookSecret, now
from openremedy.models import Source as SourceRow
from openremedy.models import Tenant as TenantRow
from openremedy.registry import adapters, discover
from openremedy.services import services
from openremedy.tally import MAX_SAMPLE_BYTES
from openremedy.translation import Translated
from test_cli import Shell

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ADAPTERS = discover()
ANA = Actor("ana@example.com", "192.0.2.7", "f" * 32)
TIMED = {**DISK_FULL, "occurred_at": "2026-01-31T12:00:00Z"}
ENTRY = {"status": "firing", "labels": {"alertname": "DiskFull"}, "startsAt": "2026-01-31T12:00:00Z"}
FIRING = {"alerts": [{**ENTRY, "fingerprint": "a1"}, "no alert"], "truncatedAlerts": 3}
WATCHDOG = {"alerts": [{"status": "firing", "labels": {"alertname": "Watchdog"}, "fingerprint": "b2"}]}
DATADOG_FORM = b"alert_type=error&title=disk&hostname=web-01&alert_id=7&alert_transition=Triggered"


def tenant_id(tenant: Tenant) -> int:
    return tenants.find_tenant(db.session(), tenant.slug).id


def previewed(tenant: Tenant, delivery_id: str) -> dict[str, Any]:
    with tenant.app.app_context():
        return replay.preview(db.session(), tenant_id(tenant), uuid.UUID(delivery_id))


def replayed(tenant: Tenant, delivery_id: str, actor: Actor = ANA) -> Receipt:
    with tenant.app.app_context():
        return replay.replay(db.session(), tenant_id(tenant), uuid.UUID(delivery_id), actor)


def outcomes(receipt: Receipt) -> list[str]:
    return [str(one.outcome) for one in receipt.outcomes]


def refusal(tenant: Tenant) -> str:
    """The id of the newest refused delivery."""
    with tenant.app.app_context():
        services().tally.flush()
    found: str = tenant.get("/deliveries", accepted="false", limit=1)["items"][0]["id"]
    return found


def change(app: Flask, statement: Any) -> None:
    with app.app_context():
        db.session.execute(statement)
        db.session.commit()


def one(app: Flask, statement: Any) -> Any:
    with app.app_context():
        return db.session.scalar(statement)


def fired(source: Source, body: Any = FIRING) -> str:
    found: str = source.send(body).get_json()["delivery_id"]
    return found


# ---------------------------------------------------------------- what would come of it


@on_sqlite  # a preview stores nothing
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=list(ADAPTERS))
def test_every_fixture_is_previewed_as_its_expected_file_says(
    alice: Tenant, adapter: native.Adapter, subtests: pytest.Subtests
) -> None:
    for case in cases_of(adapter):
        with subtests.test(case=str(case)):
            delivery_id = stored(alice, case)
            before = rows(alice.app)
            found = previewed(alice, delivery_id)
            assert rows(alice.app) == before
            assert found["error"] is None
            assert {"alerts": found["alerts"]} | (
                {"remark": found["remark"]} if found["remark"] else {}
            ) == case.expected
            again = replayed(alice, delivery_id)
            assert len(again.outcomes) == len(case.expected["alerts"])
            assert "created" not in outcomes(again)


def stored(alice: Tenant, case: Case) -> str:
    sender = alice.source(case.adapter.name, **case.options)
    answer = sender.send(case.body, case.shape.path, method=case.shape.methods[-1])
    assert answer.status_code == 202
    found: str = answer.get_json()["delivery_id"]
    return found


def test_a_canonical_delivery_is_previewed_as_its_alert_and_its_warnings(alice: Tenant) -> None:
    delivery_id = alice.alert(TIMED, hostname=" web-01 ", color="red")["delivery_id"]
    found = previewed(alice, delivery_id)
    assert found == {
        "delivery_id": delivery_id,
        "adapter": "canonical",
        "source": None,
        "alerts": [
            {
                "hostname": " web-01 ",
                "incident_type": "disk_full",
                "severity": "medium",
                "status": "firing",
                "evidence": DISK_FULL["evidence"],
                "occurred_at": "2026-01-31T12:00:00+00:00",
            }
        ],
        "remark": None,
        "warnings": ["unknown field 'color' was ignored"],
        "error": None,
    }


def test_what_would_be_refused_is_previewed_with_its_fields(alice: Tenant) -> None:
    alice.send(b'{"hostname": ""}')
    found = previewed(alice, refusal(alice))
    assert found["alerts"] == []
    assert found["error"]["code"] == "validation_error"
    assert set(found["error"]["fields"]) == {"hostname", "incident_type"}
    alice.send(b"not json")
    assert previewed(alice, refusal(alice))["error"]["code"] == "invalid_json"


def test_a_wrong_envelope_is_previewed_with_its_advice(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    source.send({"alerts": "none"})
    found = previewed(alice, refusal(alice))
    assert found["source"] == "alertmanager"
    assert found["error"]["code"] == "unsupported_envelope"
    assert "payload:" in found["error"]["message"]
    assert found["error"]["fields"] == {"alerts": ["Must be a list."]}


def test_more_alerts_than_are_taken_are_previewed_as_refused(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery_id = fired(alice.source("alertmanager"))
    monkeypatch.setattr(native, "MAX_ALERTS", 1)
    assert previewed(alice, delivery_id)["error"]["code"] == "too_large"


def test_what_the_door_would_reject_is_previewed_as_rejected(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery_id = fired(alice.source("alertmanager"))
    shape = adapters_of(alice)["alertmanager"].formats[0]

    def strange(entry: Any, payload: Any) -> Any:
        found = shape.translate(entry, payload)
        assert isinstance(found, Translated)
        return dataclasses.replace(found, alert=dataclasses.replace(found.alert, incident_type="none of ours"))

    changed = dataclasses.replace(
        adapters_of(alice)["alertmanager"], formats=(dataclasses.replace(shape, translate=strange),)
    )
    monkeypatch.setitem(alice.app.extensions["openremedy.adapters"], "alertmanager", changed)
    first, second = previewed(alice, delivery_id)["alerts"]
    assert "incident_type" in first["rejected"]
    assert "JSON object" in second["rejected"]
    receipt = replayed(alice, delivery_id)
    assert [one.reason for one in receipt.outcomes] == [first["rejected"], second["rejected"]]


def adapters_of(tenant: Tenant) -> Any:
    with tenant.app.app_context():
        return adapters()


# ---------------------------------------------------------------- through the door


def test_a_replay_is_a_new_delivery_that_says_so_with_a_line_in_the_audit_log(alice: Tenant) -> None:
    first = alice.alert(TIMED)
    receipt = replayed(alice, first["delivery_id"])
    assert outcomes(receipt) == ["duplicate"]
    found = alice.get(f"/deliveries/{receipt.delivery_id}")
    assert found["message"] == f"This is a replay of {first['delivery_id']} by ana@example.com."
    assert (found["accepted"], found["status_code"], found["adapter"]) == (True, 202, "canonical")
    assert found["body"] == alice.get(f"/deliveries/{first['delivery_id']}")["body"]
    assert (found["remote_addr"], found["request_id"]) == (ANA.address, ANA.request_id)
    line = one(alice.app, select(AuditLine).where(AuditLine.action == "delivery.replayed"))
    assert (line.actor, line.address, line.target) == (ANA.name, ANA.address, first["delivery_id"])
    assert line.detail == {"delivery": str(receipt.delivery_id)}
    assert alice.incident(first["incident_id"])["occurrences"] == 1


def test_a_delivery_that_came_says_nothing_of_a_replay(alice: Tenant) -> None:
    assert alice.get(f"/deliveries/{alice.alert()['delivery_id']}")["message"] is None
    assert one(alice.app, select(func.count(AuditLine.id)).where(AuditLine.action == "delivery.replayed")) == 0


def test_a_native_replay_keeps_its_remark_and_repeats_nothing(alice: Tenant) -> None:
    first = fired(alice.source("alertmanager"))
    receipt = replayed(alice, first)
    assert outcomes(receipt) == ["duplicate", "rejected"]
    found = alice.get(f"/deliveries/{receipt.delivery_id}")
    assert found["message"].startswith(f"This is a replay of {first} by ana@example.com. 3 more alerts were left out")
    assert (found["adapter"], found["source"]) == ("alertmanager", "alertmanager")
    assert len(alice.incidents()) == 1


def test_a_replay_of_a_firing_that_has_ended_long_since_opens_nothing(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    entry = {"labels": {"alertname": "Gone"}, "startsAt": "2026-03-02T08:00:00Z", "status": "firing"}
    first = fired(source, {"alerts": [entry]})
    fired(source, {"alerts": [entry | {"status": "resolved", "endsAt": "2026-03-02T09:00:00Z"}]})
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=1)):
        assert outcomes(replayed(alice, first)) == ["duplicate"]


def test_a_replay_can_be_replayed(alice: Tenant) -> None:
    first = replayed(alice, fired(alice.source("alertmanager")))
    assert outcomes(replayed(alice, str(first.delivery_id))) == ["duplicate", "rejected"]


def test_a_canonical_alert_without_a_time_is_one_more_observation(alice: Tenant) -> None:
    first = alice.alert()
    assert outcomes(replayed(alice, first["delivery_id"])) == ["updated"]
    assert alice.incident(first["incident_id"])["occurrences"] == 2


def test_a_delivery_refused_for_its_signature_becomes_an_incident(alice: Tenant) -> None:
    body = json.dumps(DISK_FULL).encode()
    alice.app.test_client().post(alice.url, data=body, headers={"X-OpenRemedy-Signature": sign("wrong", body)})
    receipt = replayed(alice, refusal(alice))
    assert outcomes(receipt) == ["created"]
    headers = one(alice.app, select(Delivery.headers).where(Delivery.id == receipt.delivery_id))
    assert "X-OpenRemedy-Signature" not in headers


def test_what_is_refused_again_stores_nothing(alice: Tenant) -> None:
    for body, refused in ((b"{}", Invalid), (b"not json", BadBody)):
        alice.send(body)
        delivery_id = refusal(alice)
        before = rows(alice.app)
        with pytest.raises(refused):
            replayed(alice, delivery_id)
        assert rows(alice.app) == before


def test_a_refused_native_body_goes_to_the_only_source_that_it_can_be_from(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    source.send({**FIRING, "truncatedAlerts": 0}, Authorization="Bearer wrong")
    delivery_id = refusal(alice)
    change(alice.app, update(Delivery).values(source_id=None))
    assert outcomes(replayed(alice, delivery_id)) == ["created", "rejected"]
    assert alice.incidents()[0]["source"] == "alertmanager"
    alice.source("alertmanager")
    for function in (previewed, replayed):
        with pytest.raises(Conflict, match="which of the tenant's sources"):
            function(alice, delivery_id)


def test_a_refused_body_of_an_adapter_without_a_source_has_nowhere_to_go(alice: Tenant, charlie: Tenant) -> None:
    charlie.source("grafana")
    alice.app.test_client().post("/api/v1/webhooks/grafana/alice", json={})
    with pytest.raises(Conflict, match="no source of grafana"):
        replayed(alice, refusal(alice))


def test_an_accepted_body_whose_source_is_gone_is_given_to_no_other(alice: Tenant) -> None:
    delivery_id = fired(alice.source("alertmanager"))
    change(alice.app, update(Delivery).values(source_id=None))
    with pytest.raises(Conflict, match="source is gone"):
        replayed(alice, delivery_id)


def test_prometheus_without_an_alertmanager_is_known_by_its_list(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    entry = {"labels": {"alertname": "DiskFull", "instance": "web-01:9100"}, "startsAt": ENTRY["startsAt"]}
    sent = source.send([entry], "/api/v2/alerts").get_json()["delivery_id"]
    assert outcomes(replayed(alice, sent)) == ["duplicate"]
    (alert,) = previewed(alice, sent)["alerts"]
    assert alert["hostname"] == "web-01"


def test_a_form_is_read_as_the_form_that_it_was(alice: Tenant) -> None:
    source = alice.source("datadog")
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "X-OpenRemedy-Token": source.token}
    answer = source.send(DATADOG_FORM, **form)
    assert answer.status_code == 202
    found = previewed(alice, answer.get_json()["delivery_id"])
    assert found["error"] is None
    assert [one["hostname"] for one in found["alerts"]] == ["web-01"]
    assert outcomes(replayed(alice, answer.get_json()["delivery_id"])) == ["updated"]


# ---------------------------------------------------------------- what it is no sign of


def test_a_replay_is_no_sign_of_life_of_its_source(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    delivery_id = fired(source, WATCHDOG)
    past = now() - timedelta(days=2)
    row = update(SourceRow).where(SourceRow.id == source.id)
    change(alice.app, row.values(last_seen_at=past, heartbeat_at=past, heartbeat_gap=60))
    before = alice.get(f"/sources/{source.id}")
    assert before["silent"] is True
    assert outcomes(replayed(alice, delivery_id)) == ["ignored"]
    after = alice.get(f"/sources/{source.id}")
    assert (after["last_seen"], after["heartbeat_at"], after["silent"]) == (
        before["last_seen"],
        before["heartbeat_at"],
        True,
    )
    assert after["outcomes"]["ignored"] == before["outcomes"]["ignored"] + 1


def test_a_replay_is_no_use_of_the_secret_by_its_client(alice: Tenant) -> None:
    delivery_id = alice.alert()["delivery_id"]

    def used() -> Any:
        with alice.app.app_context():
            services().tally.flush()
            return db.session.execute(select(WebhookSecret.used_count, WebhookSecret.last_used_at)).one()

    before = used()
    replayed(alice, delivery_id)
    assert used() == before
    assert before.used_count == 1


# ---------------------------------------------------------------- who may not


def test_a_disabled_sources_delivery_can_be_replayed(alice: Tenant) -> None:
    source = alice.source("alertmanager")
    delivery_id = fired(source)
    change(alice.app, update(SourceRow).values(disabled_at=now()))
    assert outcomes(replayed(alice, delivery_id)) == ["duplicate", "rejected"]


def test_a_disabled_tenants_delivery_cannot(alice: Tenant) -> None:
    native_id = fired(alice.source("alertmanager"))
    canonical_id = alice.alert()["delivery_id"]
    change(alice.app, update(TenantRow).where(TenantRow.slug == "alice").values(disabled_at=now()))
    before = rows(alice.app)
    for delivery_id in (native_id, canonical_id):
        with pytest.raises(Conflict, match="disabled"):
            replayed(alice, delivery_id)
    assert rows(alice.app) == before


def test_a_tenant_without_a_live_secret_is_told_so(alice: Tenant) -> None:
    delivery_id = alice.alert()["delivery_id"]
    change(alice.app, update(WebhookSecret).values(expires_at=now()))
    forget(alice)
    with pytest.raises(Conflict, match="no live webhook secret"):
        replayed(alice, delivery_id)


def forget(alice: Tenant) -> None:
    """Read anew which secrets there are, which otherwise happens once a second."""
    with alice.app.app_context():
        services().directory._known.since(time.monotonic())


def test_a_secret_that_ends_between_signing_and_checking_is_no_fault_of_the_body(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery_id = alice.alert(TIMED)["delivery_id"]
    real = Door.accept
    tries: list[int] = []

    def revoked_meanwhile(self: Door, *arguments: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            tenants.rotate_secret(db.session(), services().vault, "alice", timedelta(0))
            forget(alice)
        return real(self, *arguments)

    monkeypatch.setattr(Door, "accept", revoked_meanwhile)
    assert outcomes(replayed(alice, delivery_id)) == ["duplicate"]
    assert len(tries) == 2


def test_a_body_that_was_cut_is_not_replayed(alice: Tenant) -> None:
    body = b" " * (MAX_SAMPLE_BYTES + 1)
    alice.app.test_client().post(alice.url, data=body)
    delivery_id = refusal(alice)
    for function in (previewed, replayed):
        with pytest.raises(Conflict, match="Only the first 65536 of its 65537 bytes"):
            function(alice, delivery_id)


def test_an_adapter_that_is_not_installed_any_more_is_named(alice: Tenant) -> None:
    delivery_id = fired(alice.source("alertmanager"))
    change(alice.app, update(Delivery).values(adapter="nagios"))
    change(alice.app, update(SourceRow).values(adapter="nagios"))
    with pytest.raises(Conflict, match="'nagios' is not installed"):
        replayed(alice, delivery_id)


def test_another_tenants_delivery_is_not_there(alice: Tenant, charlie: Tenant) -> None:
    delivery_id = alice.alert()["delivery_id"]
    for function in (previewed, replayed):
        with pytest.raises(NotFound):
            function(charlie, delivery_id)


# ---------------------------------------------------------------- the command


@pytest.fixture
def shell(app: Flask) -> Shell:
    return Shell(app)


def test_the_command_previews_and_replays(alice: Tenant, shell: Shell) -> None:
    first = alice.alert(TIMED)
    before = rows(alice.app)
    found = shell.json("replay", first["delivery_id"], "--dry-run")
    assert found == previewed(alice, first["delivery_id"])
    assert "firing: disk_full (medium) on 'web-01'" in shell.run("replay", first["delivery_id"], "--dry-run").stdout
    assert rows(alice.app) == before
    done = shell.json("replay", first["delivery_id"])
    assert done["replay_of"] == first["delivery_id"]
    assert done["alerts"] == [
        {"outcome": "duplicate", "incident_id": first["incident_id"], "reason": done["alerts"][0]["reason"]}
    ]
    assert alice.get(f"/deliveries/{done['delivery_id']}")["message"].endswith("by command line.")
    assert one(alice.app, select(AuditLine.actor).where(AuditLine.action == "delivery.replayed")) == COMMAND_LINE.name
    assert f"duplicate {first['incident_id']}" in shell.run("replay", first["delivery_id"]).stdout


@on_sqlite
def test_the_command_says_what_would_be_refused_and_what_is_not_there(alice: Tenant, shell: Shell) -> None:
    alice.send(b"{}")
    delivery_id = refusal(alice)
    said = shell.run("replay", delivery_id, "--dry-run").stdout
    assert said.startswith("It would be refused: validation_error. ")
    assert "hostname: " in said
    assert "hostname: " in shell.refused("replay", delivery_id)
    for unknown in ("x", str(uuid.uuid4())):
        assert "no such delivery" in shell.refused("replay", unknown)
    native_id = fired(alice.source("alertmanager"), {"alerts": ["\x1b[2J", *WATCHDOG["alerts"]]})
    lines = shell.run("replay", native_id, "--dry-run").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["rejected", "ignored"]
