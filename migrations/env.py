"""How Flask-Migrate runs a migration: on the application's own engine, one at a time, never waiting long for a lock."""

from typing import Any

from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app
from sqlalchemy import text

from openremedy.models.base import UtcDateTime

ONE_AT_A_TIME = 0x6F72_6D67  # any constant number: the advisory lock of our migrations


def render(kind: str, item: Any, _context: AutogenContext) -> str | bool:
    """Write our column type as the plain one, so that an old migration needs nothing of today's code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def ours(name: str | None, kind: str, _parents: Any) -> bool:
    """All but the index of words: it is there only where the database could make it, so no model names it."""
    return not (kind == "index" and name == "ix_incidents_words")


def run() -> None:
    """Apply what is asked for in one transaction."""
    extension = current_app.extensions["migrate"]
    with extension.db.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # A table that is made anew is dropped for a moment, and with it would go all rows that refer to it.
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
        options = dict(extension.configure_args)
        context.configure(
            connection=connection,
            target_metadata=extension.db.metadata,
            render_item=render,
            include_name=ours,
            transaction_per_migration=False,
            # SQLite too: the engine begins its transactions itself, so a broken migration leaves nothing behind.
            transactional_ddl=True,
            **options,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})"))
                # Intake goes on meanwhile: rather fail and be run again than queue every request behind us.
                connection.execute(text("SET LOCAL lock_timeout = '4s'"))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.connection.driver_connection.patience = None  # the same on our side of the wire
            context.run_migrations()
        # To be opened anew, with the habits of the others.
        connection.invalidate()


run()
