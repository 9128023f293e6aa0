"""How we talk to the database: the pool, its time limits, and what each kind needs to be told."""

import select
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from config import Settings
from openremedy.alerts import compact

# What is no fault of ours or of the alert: a database that is away, full, read-only or broken. It can be sent again.
FAILED = (psycopg.OperationalError, psycopg.InternalError, OperationalError, InternalError, PoolTimeout)

# A schema that is not this code's: behind it while somebody goes back a release, or never made. SQLite has no words of
# its own for that, it is an OperationalError there.
OTHER_SCHEMA = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)

BUSY_TIMEOUT = 10  # seconds a SQLite writer waits for the others
DOUBT = 2  # seconds without an answer after which we ask whether there is a database, and those below as well
STATEMENT_TIMEOUT = 10
ANSWER_TIMEOUT = STATEMENT_TIMEOUT + 2
SERVER_OPTIONS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",  # elsewhere the years 1 and 9999 of a careless sender leave the range that can be read back
}

_POSTGRESQL: dict[str, Any] = {
    "pool_pre_ping": True,
    "pool_size": 8,
    "max_overflow": 4,
    "pool_timeout": 2,
    "connect_args": {
        "connect_timeout": DOUBT,
        "options": " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items()),
    },
}


def engine_options(settings: Settings) -> dict[str, Any]:
    """Options of create_engine()."""
    # Errors reach the log, and their parameters are hosts, evidence and ciphertext.
    common = {"json_serializer": compact, "hide_parameters": True}
    if settings.database_url.startswith("sqlite"):
        return common | {"connect_args": {"timeout": BUSY_TIMEOUT}}
    return common | _POSTGRESQL


def single_statements(engine: Engine) -> Engine:
    """An engine on the same PostgreSQL, each of whose statements is a transaction of its own.

    Its connections are closed with those of the first.
    """
    own = create_engine(
        engine.url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, **_POSTGRESQL, hide_parameters=True
    )
    prepare(own)
    event.listen(engine, "engine_disposed", lambda _: own.dispose())
    weakref.finalize(engine, own.dispose)
    return own


def prepare(engine: Engine) -> None:
    """Give an engine the habits of its kind, before its first connection."""
    {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}[engine.dialect.name](engine)


def _prepare_sqlite(engine: Engine) -> None:
    """Write-ahead log, foreign keys, lower() of all letters, and transactions that take the write lock when they begin.

    A transaction that began by reading and then writes is refused at once when another wrote in between, whatever
    the timeout; one that begins IMMEDIATE waits for its turn. Readers say so with `sqlite_readonly`.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.create_function("lower", 1, _lower, deterministic=True)  # its own knows the letters of ASCII alone
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        deferred = connection.get_execution_options().get("sqlite_readonly")
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _prepare_postgresql(engine: Engine) -> None:
    """Connections that do not wait for ever for a server that neither answers nor closes them."""

    ask = engine.dialect.do_ping

    def lives(connection: Any) -> bool:
        """An idle connection has nothing to say unless it was ended: no turn on the wire to know that it was not."""
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN)
        return not waiting.poll(0) or ask(connection)

    engine.dialect.do_ping = lives  # type: ignore[method-assign, assignment]  # around SQLAlchemy's own

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = ImpatientConnection.connect(*arguments, **options)
        connection.another = partial(psycopg.connect, *arguments, **options)
        return connection


class Hung(psycopg.OperationalError):
    """A server that is hung or out of reach: whoever else asks it now gets no answer either."""


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up on a server that is hung or out of reach; its own statement_timeout cannot end a wait for it."""

    patience: float | None = ANSWER_TIMEOUT  # a migration sets it to None: its statements may take long
    another: Callable[[], psycopg.Connection[Any]] | None = None  # makes one to the same database

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Psycopg's own wait for an answer, with an end. Raises Hung."""
        if timeout or self.patience is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, min(self.patience, DOUBT))
        except psycopg.errors._WaitTimeout:
            pass  # a slow statement, or nobody is there
        try:
            if self.patience > DOUBT and self._answered():
                return super().wait(gen, interval, self.patience - DOUBT)
        except psycopg.errors._WaitTimeout:
            pass
        self.pgconn.finish()  # what it would answer later belongs to nobody
        raise Hung("the database does not answer")

    def _answered(self) -> bool:
        """Whether the server says anything to a new connection, be it no."""
        try:
            if self.another:
                self.another().close()
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.Error:
            pass  # it has no room for another, or is ending: our own connection will tell
        return True
