"""What tests get from tests/databases.py: nobody finds anything that somebody before them has left."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from databases import Rewound, Shelf
from services import PostgresServer

NEW_TENANT = """
INSERT INTO tenants (slug, name, created_at, catalogue_version, model_allowed)
VALUES (%s, '', now(), 1, true) RETURNING id
"""
House = Callable[[int], tuple[str, Any]]


def added(connection: psycopg.Connection, slug: str) -> int:
    row = connection.execute(NEW_TENANT, [slug]).fetchone()
    assert row
    return int(row[0])


def slugs(connection: psycopg.Connection) -> list[str]:
    return [slug for (slug,) in connection.execute("SELECT slug FROM tenants ORDER BY id")]


def test_what_somebody_wrote_or_deleted_is_as_it_was_for_the_next(
    postgres_server: PostgresServer, postgres_houses: House
) -> None:
    shelf, template = Shelf(postgres_server), postgres_houses(1)[0]
    with shelf.lent(template) as first, psycopg.connect(first) as connection:
        number = added(connection, "left-over")
        connection.execute("DELETE FROM recipe_versions")
        connection.execute("DELETE FROM recipes")
        connection.commit()
    with shelf.lent(template) as second, psycopg.connect(second) as connection:
        assert second != first, "a thread that somebody left behind does not find it"
        assert slugs(connection) == ["alice"]
        assert connection.execute("SELECT count(*) > 0 FROM recipes").fetchone() == (True,)
        assert added(connection, "somebody") == number, "numbers begin where they did"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(first)


def test_two_at_a_time_have_a_database_each(postgres_server: PostgresServer, postgres_template: str) -> None:
    shelf = Shelf(postgres_server)
    with shelf.lent(postgres_template) as one, shelf.lent(postgres_template) as other:
        assert one != other


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tenants ADD COLUMN odd text",
        "ALTER TABLE tenants DROP COLUMN name",
        "ALTER TABLE tenants ALTER COLUMN name SET DEFAULT 'x'",
        "ALTER TABLE tenants DROP CONSTRAINT uq_tenants_slug",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "CREATE TABLE odd (id int)",
        "CREATE INDEX odd ON tenants (name)",
        "DROP TABLE submissions",
        "CREATE FUNCTION odd() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_a_database_of_another_schema_is_given_to_nobody(
    postgres_server: PostgresServer, postgres_template: str, change: str
) -> None:
    database = Rewound(postgres_server, postgres_template)
    with psycopg.connect(postgres_server.url_of(database.name)) as connection:
        connection.execute(change)
    assert not database.rewind()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres_server.url_of(database.name))
