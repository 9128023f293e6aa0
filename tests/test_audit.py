"""The audit log: append-only whatever the code does, every change has its line, and no line holds a secret."""

import csv
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from browser_client import PASSWORD, Person
from cast import Tenant
from openremedy import audit, people, sheets, tenants
from openremedy.audit import Actor, Filters
from openremedy.extensions import db
from openremedy.models import AuditLine, Role, now
from openremedy.services import services
from openremedy.tally import STRAYS_AN_HOUR

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ANN = Actor("ann@example.com", "192.0.2.1", "f" * 32)


@pytest.fixture
def inside(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def write(tenant_id: int | None, action: str = "thing.done", actor: Actor = ANN, **detail: Any) -> None:
    db.session.add(audit.line(actor, tenant_id, action, "the thing", **detail))
    db.session.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE id = (SELECT min(id) FROM audit_log)",
        "INSERT INTO audit_log SELECT * FROM audit_log ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
    ],
)
def test_the_database_refuses_to_change_or_delete_a_line(app: Flask, inside: None, statement: str) -> None:
    write(None)
    sqlite = db.engine.dialect.name == "sqlite"
    if sqlite:  # else it takes ON for that of a join
        statement = statement.replace(" ON CONFLICT", " WHERE true ON CONFLICT")
    with pytest.raises(DBAPIError, match="append-only"), db.engine.begin() as connection:
        connection.execute(text(statement))
    assert db.session.scalars(select(AuditLine.actor)).all() == [ANN.name]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_database_refuses_to_empty_the_log(app: Flask, inside: None) -> None:
    write(None)
    with pytest.raises(DBAPIError, match="append-only"), db.engine.begin() as connection:
        connection.execute(text("TRUNCATE audit_log"))


def test_a_line_is_of_the_transaction_of_the_change(app: Flask, alice: Tenant, inside: None) -> None:
    before = len(db.session.scalars(select(AuditLine)).all())
    tenants.create_token(db.session(), "alice", Role.VIEWER, "kept", ANN)
    db.session.add(audit.line(ANN, None, "token.created"))
    db.session.rollback()
    assert len(db.session.scalars(select(AuditLine)).all()) == before + 1


@ON_ONE
def test_what_a_superadmin_does_in_a_tenant_says_so(app: Flask, alice: Tenant, inside: None) -> None:
    root = Actor("root@example.com", superadmin=True)
    tenant = tenants.find_tenant(db.session(), "alice")
    write(tenant.id, "a.one", root)
    write(tenant.id, "a.two", ANN)
    write(None, "a.three", root)
    found = {line["action"]: line["detail"] for line in audit.page(db.session(), None, Filters(action="a."), None, 9)}
    assert found == {"a.one": {"superadmin": True}, "a.two": {}, "a.three": {}}


@ON_ONE
def test_no_line_holds_a_secret(app: Flask, alice: Tenant) -> None:
    root, made = Person(app, "root@example.com"), []
    with app.app_context():
        vault = services().vault
        tenant = tenants.find_tenant(db.session(), "alice")
        made += [tenants.create_tenant(db.session(), vault, "other", secret="a secret brought along")]
        made += [tenants.create_with_recipes(db.session(), vault, "third", "Third", ANN)]
        made += [tenants.rotate_secret(db.session(), vault, "alice", timedelta(hours=1), ANN)[0]]
        made += tenants.reveal_secrets(db.session(), vault, "alice", tenant.id, ANN).values()
        made += [tenants.create_token(db.session(), "alice", Role.ADMIN, "program", ANN)]
        made += [people.invite(db.session(), "eve@example.com", tenant.id, Role.VIEWER, ANN)]
    root.post("/account/password", current=PASSWORD, password="an altogether new one")
    made += [PASSWORD, "an altogether new one", root.token(), alice.secret, alice.token]
    with app.app_context():
        lines = [dict(line) for line in audit.every(db.engine, None, Filters())]
    assert {"tenant.created", "secret.rotated", "secret.revealed", "token.created", "link.invite"} <= {
        line["action"] for line in lines
    }
    written = json.dumps(lines, default=str)
    assert len(made) >= 12
    assert [secret for secret in made if secret is None or secret in written] == []


# ---------------------------------------------------------------- reading it


def test_whoever_guesses_on_and_on_does_not_fill_the_log(app: Flask, charlie: Tenant) -> None:
    client = app.test_client()

    def guess(path: str, times: int) -> None:
        for _ in range(times):
            assert client.get(f"/api/v1/{path}/{uuid.uuid4()}", headers=charlie.auth).status_code == 404
        with app.app_context():
            services().tally.flush()

    def told() -> Counter[str]:
        with app.app_context():
            return Counter(db.session.scalars(select(AuditLine.target).where(AuditLine.action == "nothing.found")))

    incident, delivery = "/api/v1/incidents/<incident_id>", "/api/v1/deliveries/<delivery_id>"
    guess("incidents", STRAYS_AN_HOUR)
    guess("incidents", 5)
    assert told() == {incident: STRAYS_AN_HOUR}
    guess("deliveries", 1)
    assert told() == {incident: STRAYS_AN_HOUR, delivery: 1}
    with time_machine.travel(now() + timedelta(hours=1, seconds=1)):
        guess("incidents", 1)
    assert told() == {incident: STRAYS_AN_HOUR + 1, delivery: 1}


def test_pages_follow_each_other_without_gap_or_repetition(app: Flask, alice: Tenant, inside: None) -> None:
    tenant = tenants.find_tenant(db.session(), "alice")
    for number in range(7):
        write(tenant.id, f"thing.n{number}")
    seen: list[str] = []
    before = None
    while found := audit.page(db.session(), tenant.id, Filters(action="thing."), before, 3):
        write(tenant.id, "thing.newer")  # what comes meanwhile shifts nothing
        seen += [line["action"] for line in found]
        before = found[-1]["id"]
    assert seen == [f"thing.n{number}" for number in range(6, -1, -1)]


def test_a_tenant_sees_its_own_lines_and_superadmins_all(
    app: Flask, alice: Tenant, charlie: Tenant, inside: None
) -> None:
    hers, his = (tenants.find_tenant(db.session(), slug).id for slug in ("alice", "charlie"))
    for tenant_id in (hers, his, None):
        write(tenant_id)
    only = Filters(action="thing.done")
    assert [line["tenant"] for line in audit.page(db.session(), hers, only, None, 9)] == ["alice"]
    assert [line["tenant"] for line in audit.page(db.session(), None, only, None, 9)] == [None, "charlie", "alice"]
    assert [line["tenant"] for line in audit.every(db.engine, hers, only)] == ["alice"]
    of_his = Filters(action="thing.done", tenant="charlie")
    assert [line["tenant"] for line in audit.page(db.session(), None, of_his, None, 9)] == ["charlie"]


def test_filters_narrow_by_who_what_and_when(app: Flask, alice: Tenant, inside: None) -> None:
    tenant = tenants.find_tenant(db.session(), "alice")
    write(tenant.id, "source.added", Actor("50%_off@example.com"))
    write(tenant.id, "source.rotated", ANN)

    def found(**wanted: Any) -> list[str]:
        return [line["action"] for line in audit.page(db.session(), tenant.id, Filters(**wanted), None, 99)]

    assert found(who="ANN@") == ["source.rotated"]
    assert found(who="50%_") == ["source.added"]
    assert found(who="%", action="source") == ["source.added"]
    assert found(action="source.") == ["source.rotated", "source.added"]
    assert found(action="source.", since=now() + timedelta(hours=1)) == []
    assert found(action="source.", until=now() - timedelta(hours=1)) == []
    assert len(found(action="source.", since=now() - timedelta(hours=1), until=now() + timedelta(hours=1))) == 2
    assert {"source.added", "source.rotated"} <= set(audit.known_actions(db.session(), tenant.id))


def test_an_export_reads_more_than_one_batch(
    app: Flask, alice: Tenant, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BATCH", 2)
    tenant = tenants.find_tenant(db.session(), "alice")
    for _ in range(6):
        write(tenant.id)
    assert len(list(audit.every(db.engine, tenant.id, Filters(action="thing.")))) == 6


# ---------------------------------------------------------------- as a table


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_cell_is_never_a_formula(start: str) -> None:
    dangerous = f'{start}HYPERLINK("http://evil.example","x")'
    (head, row) = csv.reader(io.StringIO("".join(sheets.lines(["who"], [[dangerous]])), newline=""))
    assert head == ["who"]
    assert row == [f"'{dangerous}"]


def test_other_cells_are_as_they_are() -> None:
    cells = ["ann@example.com", "", 'a "quote", a comma\nand a line', "1-2", "a=b"]
    (_, row) = csv.reader(io.StringIO("".join(sheets.lines(["a"], [cells])), newline=""))
    assert row == cells
