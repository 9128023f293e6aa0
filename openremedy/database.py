"""How we talk to the database: the pool, its time limits, and what each kind needs to be told."""

from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from config import Settings
from openremedy.alerts import compact

BUSY_TIMEOUT = 10  # seconds a SQLite writer waits for the others
PING_TIMEOUT = 2  # seconds, and those below as well
STATEMENT_TIMEOUT = 10
ANSWER_TIMEOUT = STATEMENT_TIMEOUT + 2
SERVER_OPTIONS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",  # elsewhere the years 1 and 9999 of a careless sender leave the range that can be read back
}


def engine_options(settings: Settings) -> dict[str, Any]:
    """Options of create_engine()."""
    # Errors reach the log, and their parameters are hosts, evidence and ciphertext.
    common = {"json_serializer": compact, "hide_parameters": True}
    if settings.database_url.startswith("sqlite"):
        return common | {"connect_args": {"timeout": BUSY_TIMEOUT}}
    return common | {
        "pool_pre_ping": True,
        "pool_size": 8,
        "max_overflow": 4,
        "pool_timeout": 2,
        "connect_args": {
            "connect_timeout": 2,
            "options": " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items()),
        },
    }


def prepare(engine: Engine) -> None:
    """Give an engine the habits of its kind, before its first connection."""
    {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}[engine.dialect.name](engine)


def _prepare_sqlite(engine: Engine) -> None:
    """Write-ahead log, foreign keys, and transactions that take the write lock when they begin.

    A transaction that began by reading and then writes is refused at once when another wrote in between, whatever
    the timeout; one that begins IMMEDIATE waits for its turn. Readers say so with `sqlite_readonly`.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        deferred = connection.get_execution_options().get("sqlite_readonly")
        connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")


def _prepare_postgresql(engine: Engine) -> None:
    """Connections that do not wait for ever for a server that neither answers nor closes them."""

    ping = engine.dialect.do_ping

    def ping_briefly(connection: Any) -> bool:
        connection.pinged = True
        try:
            return ping(connection)
        finally:
            connection.pinged = False

    engine.dialect.do_ping = ping_briefly  # type: ignore[method-assign, assignment]  # around SQLAlchemy's own

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return ImpatientConnection.connect(*arguments, **options)


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up on a server that is hung or out of reach; its own statement_timeout cannot end a wait for it."""

    pinged = False
    patience: float | None = ANSWER_TIMEOUT  # a migration sets it to None: its statements may take long

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Psycopg's own wait for an answer, with an end. Raises OperationalError."""
        patience = PING_TIMEOUT if self.pinged else self.patience
        try:
            return super().wait(gen, interval, timeout or patience)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # what it would answer later belongs to nobody
            raise psycopg.OperationalError("the database does not answer") from error
