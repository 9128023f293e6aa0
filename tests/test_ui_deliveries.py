"""The pages of deliveries: what came, why it was refused, the doctor, and replay."""

import base64
import hmac
import json
import re

import pytest
from flask import Flask

from browser_client import Person
from cast import DISK_FULL, Tenant
from openremedy.models import Role
from openremedy.services import services

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """An admin of Alice's tenant."""
    return Person(app, "ann@example.com", "alice")


def refused(app: Flask, alice: Tenant, body: bytes, signature: str) -> str:
    """The id of a refused delivery with this signature."""
    answer = app.test_client().post(alice.url, data=body, headers={"X-OpenRemedy-Signature": signature})
    assert answer.status_code == 401
    with app.app_context():
        services().tally.flush()
    return str(alice.get("/deliveries", accepted="false")["items"][0]["id"])


def test_the_list_shows_accepted_and_refused_and_narrows(app: Flask, alice: Tenant, ann: Person) -> None:
    alice.alert()
    refused(app, alice, b"{}", "sha256=00")
    page = ann.get("deliveries").text
    assert "accepted 202" in page
    assert "refused 401" in page
    assert "accepted 202" not in ann.get("deliveries", accepted="no").text
    assert "refused 401" not in ann.get("deliveries", outcome="created").text
    assert "No delivery matches" in ann.get("deliveries", adapter="grafana").text


def test_a_body_is_pretty_and_the_signature_is_nowhere(app: Flask, alice: Tenant, ann: Person) -> None:
    number = alice.alert(hostname="<b>host</b>")["delivery_id"]
    page = ann.get(f"deliveries/{number}").text
    assert "&lt;b&gt;host&lt;/b&gt;" in page
    assert "<b>host" not in page
    assert "sha256=" not in page


def test_the_doctor_tells_the_admin_and_nobody_else(app: Flask, alice: Tenant, ann: Person) -> None:
    body = json.dumps(DISK_FULL).encode()
    digest = base64.b64encode(hmac.digest(alice.secret.encode(), body, "sha256")).decode()
    number = refused(app, alice, body, f"sha256={digest}")
    page = ann.get(f"deliveries/{number}").text
    assert "Signature doctor" in page
    assert "base64" in page
    assert alice.secret not in page
    bob = Person(app, "bob@example.com", "alice", Role.RESPONDER)
    assert "Signature doctor" not in bob.get(f"deliveries/{number}").text


def test_another_tenants_secret_is_no_different_from_a_random_one(
    app: Flask, alice: Tenant, charlie: Tenant, ann: Person
) -> None:
    found = []
    for secret in (charlie.secret, "orwh_random"):
        body = json.dumps(DISK_FULL).encode()
        digest = hmac.digest(secret.encode(), body, "sha256").hex()
        page = ann.get(f"deliveries/{refused(app, alice, body, f'sha256={digest}')}").text
        section = re.search(r"<h2>Signature doctor</h2>(.*?)</section>", page, re.DOTALL)
        assert section
        found.append(section[1])
    assert found[0] == found[1]


def test_a_replay_is_looked_at_first_and_then_goes_through_the_door_once(
    app: Flask, alice: Tenant, ann: Person
) -> None:
    number = refused(app, alice, json.dumps(DISK_FULL | {"hostname": "again"}).encode(), "sha256=00")
    path = f"deliveries/{number}/replay"
    preview = ann.get(path)
    assert "would go through the door" in preview.text
    assert alice.incidents() == [], "looking changes nothing"
    form_id = ann.form_id(path)
    answer = ann.post(path, form_id=form_id)
    assert answer.status_code == 303
    assert [one["hostname"] for one in alice.incidents()] == ["again"]
    assert ann.post(path, form_id=form_id).status_code == 409, "the same form again"
    assert alice.incidents()[0]["occurrences"] == 1
    assert number in ann.get(answer.location).text, "the new one says of which it is"


def test_what_could_not_be_taken_says_so_before_the_button(app: Flask, alice: Tenant, ann: Person) -> None:
    number = refused(app, alice, b'{"hostname": "x"}', "sha256=00")
    page = ann.get(f"deliveries/{number}/replay").text
    assert "It would be refused" in page
    assert "incident_type" in page
    assert "Send it through the door" not in page


def test_the_bytes_can_be_saved_as_they_came(app: Flask, alice: Tenant, ann: Person) -> None:
    number = refused(app, alice, b"\x00\xff not json", "sha256=00")
    answer = ann.get(f"deliveries/{number}/body")
    assert answer.data == b"\x00\xff not json"
    assert answer.mimetype == "application/octet-stream"
    assert ann.get(f"deliveries/{number}").status_code == 200
