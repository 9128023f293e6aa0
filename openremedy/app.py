"""The application factory."""

import math
import time
import uuid
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from config import Settings, load
from openremedy import api, cli, health, logs, webhooks
from openremedy.alerts import compact
from openremedy.crypto import Vault
from openremedy.directory import Directory
from openremedy.errors import Invalid, NotFound, Problem, Unavailable
from openremedy.extensions import db, limiter, migrate
from openremedy.intake import Door
from openremedy.queue import Waker, web_client
from openremedy.services import JOB_MARGIN, KEY, Services
from openremedy.tally import Tally

log = structlog.get_logger()

# The codes of DESIGN 3.3 for what Flask itself refuses.
CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_encoding",
    422: "validation_error",
    429: "rate_limited",
    503: "unavailable",
}
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
}
LIMITER_TIMEOUT = 0.25  # seconds
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


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application from the settings, or from the environment. Raises SettingsError."""
    settings = settings or load()
    logs.configure(settings.log_format)
    app = Flask("openremedy", static_folder=None)
    app.config.from_mapping(_flask_config(settings))
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # merging answers with a redirect, which a sender follows without its body
    if settings.proxy_count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxy_count, x_proto=1)  # type: ignore[method-assign]
    _extensions(app, settings)
    app.extensions[KEY] = _services(app, settings)
    app.register_blueprint(webhooks.blueprint)
    app.register_blueprint(health.blueprint)
    api.register(app)
    cli.register(app)
    _hooks(app)
    return app


def _flask_config(settings: Settings) -> dict[str, Any]:
    return {
        "SECRET_KEY": settings.secret_key,
        "TRUSTED_HOSTS": [host.lower() for host in settings.trusted_hosts] or None,  # as senders spell them
        "MAX_CONTENT_LENGTH": settings.max_body_bytes,
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(settings),
        "RATELIMIT_STORAGE_URI": _limiter_url(settings.redis_url),
        "RATELIMIT_STORAGE_OPTIONS": {
            "socket_timeout": LIMITER_TIMEOUT,
            "socket_connect_timeout": LIMITER_TIMEOUT,
        },
        "RATELIMIT_STRATEGY": "moving-window",
        # Changing the strategy on a live Redis gives WRONGTYPE: then raise this version.
        "RATELIMIT_KEY_PREFIX": "openremedy-v1",
        "RATELIMIT_HEADERS_ENABLED": True,
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
    }


def _engine_options(settings: Settings) -> dict[str, Any]:
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


def _limiter_url(redis_url: str) -> str:
    """The spelling of a Redis URL that limits understands."""
    return redis_url.replace("unix://", "redis+unix://", 1) if redis_url.startswith("unix://") else redis_url


def _extensions(app: Flask, settings: Settings) -> None:
    db.init_app(app)
    migrate.init_app(app, db)
    limiter.init_app(app)
    if settings.database_url.startswith("sqlite"):
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with app.app_context():
        prepare = {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}
        prepare[db.engine.dialect.name](db.engine)


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

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return ImpatientConnection.connect(*arguments, **options)


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up on a server that is hung or out of reach; its own statement_timeout cannot end a wait for it."""

    patience: float | None = ANSWER_TIMEOUT  # a migration sets it to None: its statements may take long

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Psycopg's own wait for an answer, with an end. Raises OperationalError."""
        # Only the ping that comes before a connection is used runs outside a transaction.
        patience = PING_TIMEOUT if self.autocommit else self.patience
        try:
            return super().wait(gen, interval, timeout or patience)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # what it would answer later belongs to nobody
            raise psycopg.OperationalError("the database does not answer") from error


def _services(app: Flask, settings: Settings) -> Services:
    with app.app_context():
        engine = db.engine
    vault = Vault(settings.encryption_keys)
    redis = web_client(settings.redis_url)
    waker = Waker(redis, settings.llm_timeout + JOB_MARGIN)
    tally = Tally(engine)
    door = Door(engine, Directory(engine, vault), tally, waker)
    return Services(settings, vault, redis, waker, tally, door)


# ---------------------------------------------------------------- every request


def _hooks(app: Flask) -> None:
    # limiter.init_app added its own functions already: ours come before them and after them.
    app.before_request_funcs.setdefault(None, []).insert(0, _begin)
    app.after_request_funcs.setdefault(None, []).insert(0, _finish)  # these run from the last to the first
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(OperationalError, _database_away)
    app.register_error_handler(PoolTimeout, _database_away)
    app.register_error_handler(Exception, _unexpected)


def _begin() -> None:
    g.request_id = uuid.uuid4().hex
    g.started = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-ID"] = g.request_id
    _set_retry_after(response)
    log.info(
        "request.done",
        method=request.method,
        route=str(request.url_rule) if request.url_rule else None,
        status=response.status_code,
        ms=round((time.perf_counter() - g.started) * 1000, 1),
    )
    return response


def _set_retry_after(response: Response) -> None:
    """Only where waiting helps: the limiter puts the header on every answer, rounded down, and over that of a 503."""
    reset = response.headers.get("X-RateLimit-Reset")
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS and reset:
        response.headers["Retry-After"] = str(max(1, math.ceil(int(reset) - time.time())))
    elif retry_after := g.get("retry_after"):
        response.headers["Retry-After"] = retry_after
    else:
        response.headers.pop("Retry-After", None)


def _problem(problem: Problem) -> ResponseReturnValue:
    webhooks.remember_refusal(problem)
    g.retry_after = problem.headers.get("Retry-After")
    error: dict[str, Any] = {"code": problem.code, "message": problem.message}
    if problem.fields:
        error["fields"] = problem.fields
    return {"error": error, "request_id": g.request_id}, problem.status, problem.headers


def _http_error(error: HTTPException) -> ResponseReturnValue:
    """What Flask and its extensions refuse, in our one shape."""
    status = error.code or 500
    problem = Problem(_words(error, status), code=CODES.get(status, _code_of(status)), fields=_fields(error))
    problem.status = status  # type: ignore[misc]
    if isinstance(getattr(error, "valid_methods", None), list | tuple | set):
        problem.headers["Allow"] = ", ".join(sorted(error.valid_methods))  # type: ignore[attr-defined]
    return _problem(problem)


def _code_of(status: int) -> str:
    return "internal" if status >= 500 else HTTPStatus(status).name.lower()


def _words(error: HTTPException, status: int) -> str:
    """Ours for what senders meet. Those of Werkzeug are for people too, but some quote the request."""
    own = {404: NotFound.message, 422: Invalid.message, 429: "Too many requests from your address; see Retry-After."}
    return own.get(status) or (HTTPStatus(status).phrase if status == 400 else error.description or "")


def _fields(error: HTTPException) -> dict[str, Any] | None:
    """The messages of webargs, without the name of the place they were read from."""
    messages = getattr(error, "data", {}).get("messages", {})
    return {name: found for place in messages.values() for name, found in place.items()} or None


def _database_away(error: Exception) -> ResponseReturnValue:
    log.error("database.away", error=type(error).__name__)
    return _problem(Unavailable())


def _unexpected(error: Exception) -> ResponseReturnValue:
    log.exception("request.failed", error=type(error).__name__)
    return _problem(Problem())
