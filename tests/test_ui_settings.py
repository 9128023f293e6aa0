"""The settings of a tenant: its webhook secret, what the classifier may do, the clients to copy."""

import dataclasses
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from browser_client import PASSWORD, Person
from cast import DISK_FULL, Tenant, sign
from config import Settings
from openremedy import audit, directory, tenants
from openremedy.audit import Filters
from openremedy.crypto import Vault
from openremedy.extensions import db
from openremedy.models import Role, TokenUsage, WebhookSecret, now

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """An admin of Alice's tenant."""
    return Person(app, "ann@example.com", "alice")


def lines(app: Flask, action: str) -> list[Any]:
    with app.app_context():
        return [dict(one) for one in audit.every(db.engine, None, Filters(action=action))]


def secrets_in(text: str) -> list[str]:
    return re.findall(r"orwh_[A-Za-z0-9_-]{40,}", text)


def rotate(ann: Person, **fields: Any) -> str:
    """The new secret, as the page shows it once."""
    answer = ann.post("settings/secret/rotate", form_id=ann.form_id("settings"), **fields)
    assert answer.status_code == 200, answer.text
    (secret,) = secrets_in(answer.text)
    return secret


def send(alice: Tenant, secret: str) -> int:
    return dataclasses.replace(alice, secret=secret).send(b'{"hostname": "h", "incident_type": "custom"}').status_code


# ---------------------------------------------------------------- reveal


def test_a_secret_is_shown_after_the_password_and_leaves_a_line(app: Flask, ann: Person, alice: Tenant) -> None:
    assert alice.secret not in ann.get("settings").text
    answer = ann.post("settings/secret/reveal", password=PASSWORD)
    assert answer.status_code == 200
    assert secrets_in(answer.text) == [alice.secret]
    assert answer.headers["Cache-Control"] == "no-store"
    (line,) = lines(app, "secret.revealed")
    assert (line["actor"], line["tenant"], line["address"]) == ("ann@example.com", "alice", "127.0.0.1")
    assert alice.secret not in repr(line)
    assert alice.secret not in ann.get("settings").text


def test_every_live_secret_is_shown_and_none_that_has_ended(ann: Person, alice: Tenant) -> None:
    second = rotate(ann, grace="1")
    assert secrets_in(ann.post("settings/secret/reveal", password=PASSWORD).text) == [second, alice.secret]
    third = rotate(ann, grace="0")
    assert secrets_in(ann.post("settings/secret/reveal", password=PASSWORD).text) == [third]


@ON_ONE
def test_the_wrong_password_shows_nothing_and_is_said_at_its_field(app: Flask, ann: Person, alice: Tenant) -> None:
    answer = ann.post("settings/secret/reveal", password="wrong")
    assert answer.status_code == 403
    assert 'id="e-password"' in answer.text
    assert secrets_in(answer.text) == []
    assert lines(app, "secret.revealed") == []


@ON_ONE
def test_reveals_are_throttled_as_sign_ins_are(
    make_app: Any, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import make_tenant

    # A Redis that is late on a busy machine would be left for the memory, which counts anew.
    monkeypatch.setattr("openremedy.app.LIMITER_TIMEOUT", 10)
    app = make_app(dataclasses.replace(settings, redis_url=redis_url))
    alice = make_tenant(app, "alice")
    ann = Person(app, "ann@example.com", "alice")  # the first of ten passwords
    found = [ann.post("settings/secret/reveal", password="wrong").status_code for _ in range(10)]
    assert found == [403] * 9 + [429]
    right = ann.post("settings/secret/reveal", password=PASSWORD)
    assert right.status_code == 429
    assert alice.secret not in right.text


@ON_ONE
def test_a_superadmin_may_look_and_the_line_says_who_it_was(app: Flask, alice: Tenant) -> None:
    root = Person(app, "root@example.com")
    answer = root.post("/t/alice/settings/secret/reveal", password=PASSWORD)
    assert secrets_in(answer.text) == [alice.secret]
    (line,) = lines(app, "secret.revealed")
    assert (line["actor"], line["detail"]["superadmin"]) == ("root@example.com", True)


@ON_ONE
def test_a_secret_that_no_key_opens_is_said_to_be_so(app: Flask, ann: Person) -> None:
    from cryptography.fernet import Fernet

    with app.app_context():
        row = db.session.scalars(select(WebhookSecret)).one()
        row.locked = Vault([Fernet.generate_key().decode()]).lock("lost")
        db.session.commit()
    answer = ann.post("settings/secret/reveal", password=PASSWORD)
    assert answer.status_code == 200
    assert "no key opens it" in answer.text


# ---------------------------------------------------------------- rotate and end


def test_after_a_rotation_both_secrets_sign_and_the_page_tells_when_each_was_used(ann: Person, alice: Tenant) -> None:
    second = rotate(ann, grace="24")
    assert send(alice, alice.secret) == send(alice, second) == 202
    page = ann.get("settings").text
    assert secrets_in(page) == []
    assert "in 23 hours" in page
    assert page.count("End now") == 1


def test_without_grace_the_secret_of_before_is_refused(
    ann: Person, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "MAX_AGE", 0)  # else a process keeps what it knows for at most a second
    assert send(alice, alice.secret) == 202
    second = rotate(ann, grace="0")
    assert send(alice, second) == 202
    assert send(alice, alice.secret) == 401
    assert "End now" not in ann.get("settings").text


def test_a_rotation_that_is_sent_twice_is_done_once(app: Flask, ann: Person) -> None:
    fields = {"form_id": ann.form_id("settings"), "grace": "24"}
    first, again = (ann.post("settings/secret/rotate", **fields) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 409)
    assert secrets_in(again.text) == []
    assert len(lines(app, "secret.rotated")) == 1


@ON_ONE
@pytest.mark.parametrize("grace", ["-1", "8761", "1.5", "soon", "١"])
def test_a_grace_that_makes_no_sense_changes_nothing(app: Flask, ann: Person, grace: str) -> None:
    answer = ann.post("settings/secret/rotate", form_id=ann.form_id("settings"), grace=grace)
    assert answer.status_code == 422
    assert 'id="e-grace"' in answer.text
    assert f'value="{grace}"' in answer.text
    assert lines(app, "secret.rotated") == []


@ON_ONE
def test_ten_secrets_are_enough(ann: Person) -> None:
    for _ in range(9):
        rotate(ann, grace="1")
    answer = ann.post("settings/secret/rotate", form_id=ann.form_id("settings"), grace="1")
    assert answer.status_code == 409
    assert "live already" in answer.text


def test_a_previous_secret_ends_at_once_and_the_newest_does_not(app: Flask, ann: Person, alice: Tenant) -> None:
    rotate(ann, grace="24")
    with app.app_context():
        newest, previous = tenants.live_secrets(db.session(), tenants.find_tenant(db.session(), "alice").id)
        ids = str(newest.id), str(previous.id)
    assert ann.post("settings/secret/end", secret_id=ids[0]).status_code == 409
    assert ann.post("settings/secret/end", secret_id=ids[1]).status_code == 303
    assert ann.post("settings/secret/end", secret_id=ids[1]).status_code == 404
    with app.app_context():
        live = tenants.live_secrets(db.session(), tenants.find_tenant(db.session(), "alice").id)
        assert [str(one.id) for one in live] == [ids[0]]
    assert len(lines(app, "secret.ended")) == 1


@ON_ONE
def test_another_tenants_secret_is_not_there(app: Flask, ann: Person, charlie: Tenant) -> None:
    with app.app_context():
        (his,) = tenants.live_secrets(db.session(), tenants.find_tenant(db.session(), "charlie").id)
        his_id = str(his.id)
    for secret_id in (his_id, "0", "x", "9" * 40, "\0"):
        assert ann.post("settings/secret/end", secret_id=secret_id).status_code == 404
    with app.app_context():
        assert tenants.live_secrets(db.session(), tenants.find_tenant(db.session(), "charlie").id)


# ---------------------------------------------------------------- who may


@ON_ONE
@pytest.mark.parametrize("role", [Role.VIEWER, Role.RESPONDER])
def test_who_is_no_admin_sees_and_changes_nothing_of_it(app: Flask, alice: Tenant, role: Role) -> None:
    bob = Person(app, "bob@example.com", "alice", role)
    assert bob.get("settings").status_code == 403
    for path in ("settings", "settings/secret/reveal", "settings/secret/rotate", "settings/secret/end"):
        assert bob.post(path, password=PASSWORD).status_code == 403
    assert 'href="/t/alice/settings"' not in bob.get().text


@ON_ONE
def test_another_tenants_settings_are_not_there(app: Flask, ann: Person, charlie: Tenant) -> None:
    assert ann.get("/t/charlie/settings").status_code == 404
    answer = ann.post("/t/charlie/settings/secret/reveal", password=PASSWORD)
    assert answer.status_code == 404
    assert charlie.secret not in answer.text


# ---------------------------------------------------------------- what is chosen


def test_what_an_admin_chose_is_kept_with_one_line_of_what_changed(app: Flask, ann: Person) -> None:
    chosen = {"name": "Alice & Co", "answer_threshold": "0.7", "daily_tokens": "5000", "retention_days": "30"}
    assert ann.post("settings", **chosen).status_code == 303
    with app.app_context():
        found = tenants.settings_of(tenants.find_tenant(db.session(), "alice"))
    expected = {
        "name": "Alice & Co",
        "model_allowed": False,
        "answer_threshold": 0.7,
        "daily_tokens": 5000,
        "retention_days": 30,
    }
    assert found == expected
    (line,) = lines(app, "tenant.changed")
    assert {field: change["after"] for field, change in line["detail"].items()} == expected
    page = ann.get("settings").text
    assert 'value="0.7"' in page
    assert "Alice &amp; Co" in page


def test_the_same_choice_again_leaves_no_line(app: Flask, ann: Person) -> None:
    for _ in range(2):
        assert ann.post("settings", name="alice", model_allowed="yes").status_code == 303
    assert lines(app, "tenant.changed") == []


@ON_ONE
def test_every_field_that_is_wrong_is_said_at_once_and_what_was_typed_stays(app: Flask, ann: Person) -> None:
    typed = {"name": " ", "answer_threshold": "1.5", "daily_tokens": "-1", "retention_days": "<b>9</b>"}
    answer = ann.post("settings", **typed)
    assert answer.status_code == 422
    for field in ("answer_threshold", "daily_tokens", "retention_days"):
        assert f'id="e-{field}"' in answer.text
    assert 'value="1.5"' in answer.text
    assert "<b>9</b>" not in answer.text
    assert lines(app, "tenant.changed") == []


@ON_ONE
def test_a_choice_beyond_the_installation_is_said_at_its_field(make_app: Any, settings: Settings) -> None:
    from conftest import make_tenant

    app = make_app(dataclasses.replace(settings, llm_daily_tokens=1000, retention_days=30))
    make_tenant(app, "alice")
    ann = Person(app, "ann@example.com", "alice")
    for field, value in (("daily_tokens", "0"), ("daily_tokens", "1001"), ("retention_days", "31")):
        answer = ann.post("settings", **({"name": "alice"} | {field: value}))
        assert answer.status_code == 422
        assert f'id="e-{field}"' in answer.text
    assert lines(app, "tenant.changed") == []


# ---------------------------------------------------------------- the classifier and the clients


@ON_ONE
def test_the_model_is_named_with_its_host_and_never_with_its_key(make_app: Any, settings: Settings) -> None:
    from conftest import make_tenant

    with_model = dataclasses.replace(
        settings,
        openai_base_url="https://models.example.com/v1/secret-path",
        openai_api_key="sk-not-to-be-shown",
        model="some-model",
        llm_daily_tokens=100_000,
    )
    app = make_app(with_model)
    make_tenant(app, "alice")
    with app.app_context():
        tenant = tenants.find_tenant(db.session(), "alice")
        db.session.add(TokenUsage(tenant_id=tenant.id, day=now().date(), tokens=1234))
        db.session.commit()
    page = Person(app, "ann@example.com", "alice").get("settings").text
    assert "some-model" in page
    assert "<dd>models.example.com</dd>" in page
    assert "<dt>API key</dt><dd>set</dd>" in page
    assert "1,234 of 100,000" in page
    assert "sk-not" not in page
    assert "secret-path" not in page


def test_a_page_imports_neither_the_matcher_nor_the_models_client() -> None:
    code = "import sys, wsgi, openremedy.ui.settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "openremedy.classifier.shapes" in done.stdout.split()
    assert not {"openremedy.classifier.lexical", "openai"} & set(done.stdout.split())


@ON_ONE
def test_the_clients_are_filled_in_with_the_tenant_and_without_its_secret(
    make_app: Any, settings: Settings, tmp_path: Path
) -> None:
    from conftest import make_tenant

    app = make_app(dataclasses.replace(settings, public_url="https://alerts.example.com"))
    alice = make_tenant(app, "alice")
    page = Person(app, "ann@example.com", "alice").get("settings").text
    for name in ("bash", "python", "node"):
        shown = re.search(rf'<pre id="code-{name}"[^>]*>(.*?)</pre>', page, re.DOTALL)
        assert shown
        code = unescape(shown[1])
        assert "https://alerts.example.com" in code
        assert "alice" in code
        assert "my-company" not in code
        assert "127.0.0.1" not in code
        assert "OPENREMEDY_SECRET" in code
        assert alice.secret not in code


@ON_ONE
def test_the_bash_client_of_the_page_signs_what_the_door_takes(app: Flask, ann: Person, alice: Tenant) -> None:
    shown = re.search(r'<pre id="code-bash"[^>]*>(.*?)</pre>', ann.get("settings").text, re.DOTALL)
    assert shown
    before_sending = unescape(shown[1]).split("reply=")[0] + 'printf "%s\\n%s" "$signature" "$body"'
    done = subprocess.run(
        ["bash", "-c", before_sending],
        env={"PATH": "/usr/bin:/bin", "OPENREMEDY_SECRET": alice.secret},
        capture_output=True,
        text=True,
        check=True,
    )
    signature, _, body = done.stdout.partition("\n")
    assert f"sha256={signature}" == sign(alice.secret, body.encode())
    assert alice.send(body.encode()).status_code == 202
    assert DISK_FULL["incident_type"] in body
