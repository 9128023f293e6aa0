"""Migrations on both databases: up and down, alone and at once; the schema is what the models say."""

import dataclasses
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import flask_migrate
import psycopg
import pytest
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import func, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from cast import Tenant
from config import Settings
from openremedy import doctor, search
from openremedy.extensions import db
from openremedy.models import Incident, table
from openremedy.models import Tenant as TenantRow
from openremedy.services import services
from services import PostgresServer

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

ROOT = Path(__file__).parent.parent


def tables(app: Flask) -> set[str]:
    with app.app_context():
        return set(inspect(db.engine).get_table_names())


def test_up_down_and_up_again(app: Flask) -> None:
    everything = set(db.metadata.tables) | {"alembic_version"}
    assert tables(app) == everything
    with app.app_context():
        flask_migrate.downgrade(revision="base")
        assert tables(app) == {"alembic_version"}
        flask_migrate.upgrade()
        flask_migrate.upgrade()  # nothing left to do
    assert tables(app) == everything


def test_the_models_say_what_the_migrations_made(app: Flask) -> None:
    with app.app_context():
        flask_migrate.check()  # exits when there is something to migrate


def test_an_upgrade_keeps_what_is_there(app: Flask, alice: Tenant) -> None:
    incident_id = alice.alert()["incident_id"]
    source = alice.source("pagerduty", signing_secret="secret")
    before = alice.get(f"/sources/{source.id}")
    with app.app_context():
        flask_migrate.downgrade(revision="0001")
        db.engine.dispose()
        flask_migrate.upgrade()
    assert alice.incident(incident_id)["hostname"] == "web-01"
    assert alice.get(f"/sources/{source.id}") == before
    assert source.send({"event": None}).status_code == 422, "its token is still good"


def test_the_release_before_goes_on_writing_to_the_new_schema(app: Flask, alice: Tenant) -> None:
    """Its statements name none of the new columns."""
    with app.app_context(), db.engine.begin() as connection:
        for statement in (
            "INSERT INTO sources (tenant_id, adapter, name, created_at)"
            " SELECT id, 'grafana', 'old', created_at FROM tenants",
            "INSERT INTO source_secrets (source_id, locked, created_at) SELECT id, 'x', created_at FROM sources",
        ):
            connection.execute(text(statement))
    (source,) = alice.get("/sources")["items"]
    assert (source["options"], source["outcomes"]["created"], source["rate_limit"]) == ({}, 0, None)


def test_every_migration_says_why(app: Flask) -> None:
    scripts = ScriptDirectory(str(ROOT / "migrations"))
    for script in scripts.walk_revisions():
        assert "Why: " in (script.doc + script.longdoc if script.longdoc else script.doc)
    assert len(scripts.get_heads()) == 1


@pytest.mark.parametrize("field", ["uq_incidents_open", "uq_incidents_identity"])
def test_the_database_itself_refuses_a_second_one(app: Flask, alice: Tenant, field: str) -> None:
    alice.alert()
    incidents = table(Incident)
    with app.app_context(), db.engine.connect() as connection:
        row = dict(connection.execute(select(incidents)).mappings().one())
        copy = row | {"id": uuid.uuid4()}
        copy |= {"latest": False} if field == "uq_incidents_open" else {"status": "resolved"}
        with pytest.raises(IntegrityError) as refused:
            connection.execute(insert(incidents), copy)
        connection.rollback()
        assert "incidents" in str(refused.value.orig)
        # What differs in both is welcome: the history of an identity.
        connection.execute(insert(incidents), copy | {"latest": False, "status": "resolved"})
        connection.rollback()


def test_another_tenant_may_have_the_same_identity_open(app: Flask, alice: Tenant, charlie: Tenant) -> None:
    alice.alert()
    incidents = table(Incident)
    with app.app_context(), db.engine.begin() as connection:
        row = dict(connection.execute(select(incidents)).mappings().one())
        other = connection.execute(select(TenantRow.id).where(TenantRow.slug == "charlie")).scalar_one()
        connection.execute(insert(incidents), row | {"id": uuid.uuid4(), "tenant_id": other})
        assert connection.execute(select(func.count()).select_from(incidents)).scalar_one() == 2


@ON_POSTGRES
def test_two_upgrades_at_once_wait_for_each_other(settings: Settings, postgres_server: PostgresServer) -> None:
    empty = postgres_server.create_database("two_upgrades")
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": empty,
        "SECRET_KEY": settings.secret_key,
        "ENCRYPTION_KEYS": settings.encryption_keys[0],
    }
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    for process in started:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with psycopg.connect(empty) as connection:
        found = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        assert {name for (name,) in found} == set(db.metadata.tables) | {"alembic_version"}
    postgres_server.drop_database("two_upgrades")


@ON_POSTGRES
def test_an_account_that_may_not_create_extensions_upgrades_without_the_index_of_words(
    make_app: Callable[[Settings], Flask], settings: Settings, postgres_server: PostgresServer
) -> None:
    url = postgres_server.create_database("humble")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE humble LOGIN")
        connection.execute("GRANT CREATE ON SCHEMA public TO humble")
    theirs = url.replace(f"//{postgres_server.user}@", "//humble@").replace("postgresql:", "postgresql+psycopg:", 1)
    app = make_app(dataclasses.replace(settings, database_url=theirs))
    with app.app_context():
        flask_migrate.upgrade()
        flask_migrate.check()
        assert not search.indexed(db.engine)
        (found,) = [check for check in doctor.examine(services(), db.engine) if check.name == "search"]
        assert found.status == "warn"
        assert "pg_trgm" in found.advice
        flask_migrate.downgrade(revision="0003")
        db.engine.dispose()
    postgres_server.drop_database("humble")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("DROP ROLE humble")


@ON_POSTGRES
def test_the_index_of_words_that_operators_are_told_to_add_is_the_one_of_the_migration(app: Flask) -> None:
    definition = text("SELECT pg_get_indexdef('ix_incidents_words'::regclass)")
    (told,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    with app.app_context(), db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        made = connection.scalar(definition)
        connection.execute(text("DROP INDEX ix_incidents_words"))
        for statement in told.split(";")[:-1]:
            connection.execute(text(statement))
        assert connection.scalar(definition) == made
