"""Databases for tests: copies of templates, and on PostgreSQL databases that are put back to how they were."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from services import PostgresServer, until

# Of these everything that a statement can change about a schema has a row, with the transaction that wrote it.
_CATALOGUE = "pg_class pg_attribute pg_attrdef pg_constraint pg_index pg_trigger pg_proc pg_type".split()
_SHAPE = " UNION ALL ".join(f"SELECT count(*), max(xmin::text::bigint) FROM {name}" for name in _CATALOGUE)  # noqa: S608
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1"
_END_OTHERS = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"


class Rewound:
    """A PostgreSQL database that is put back to how it was, in a tenth of the time that a new one takes.

    Only rows are put back; `rewind` says whether that was enough. Each user gets it under another name, so that a
    thread left over from the one before does not find it.
    """

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self.name = _new_name()
        server.create_database(self.name, template=template)
        with self._connected() as connection:
            self._tables = [str(name) for (name,) in connection.execute(_TABLES)]
            self._sequences = connection.execute(_SEQUENCES).fetchall()
            self._rows = {table: rows for table in self._tables if (rows := _rows_of(connection, table))}
            self._shape = connection.execute(_SHAPE).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self._server.url_of(self.name)) as connection:
            yield connection

    def rewind(self) -> bool:
        """Put the rows back; False, and the database is gone, if its schema is not the one it was made with."""
        self._rename()
        with self._connected() as connection:
            same = connection.execute(_SHAPE).fetchall() == self._shape
            if same:
                self._put_back(connection)
        if not same:
            self._server.drop_database(self.name)
        return same

    def _rename(self) -> None:
        old, self.name = self.name, _new_name()
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            until(
                lambda: connection.execute(_END_OTHERS, [old]).fetchone() == (0,),
                "nobody is connected any more",
                pause=0.001,
            )
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (old, self.name))))

    def _put_back(self, connection: psycopg.Connection) -> None:
        # No triggers and no foreign keys meanwhile: the audit log lets nobody delete, and tables come in any order.
        connection.execute("SET LOCAL session_replication_role = replica")
        empty = sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in self._tables)
        connection.execute(empty)
        for table, rows in self._rows.items():
            with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as into:
                into.write(rows)
        for name, last in self._sequences:
            connection.execute("SELECT setval(%s::regclass, coalesce(%s, 1), %s)", [name, last, last is not None])


def _new_name() -> str:
    return f"test_{uuid.uuid4().hex}"


def _rows_of(connection: psycopg.Connection, table: str) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as out:
        return b"".join(out)


class Shelf:
    """Rewound databases that nobody uses at the moment, by their template."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._free: dict[str, list[Rewound]] = {}

    @contextmanager
    def lent(self, template: str) -> Iterator[str]:
        """The URL of a database as its template is, for as long as somebody needs it."""
        free = self._free.setdefault(template, [])
        database = free.pop() if free else Rewound(self._server, template)
        yield self._server.url_of(database.name)
        if database.rewind():
            free.append(database)
