"""/healthz tells that the process answers, /readyz whether it can do its work."""

import functools
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from openremedy.extensions import db
from openremedy.models import ModelState
from openremedy.services import services

blueprint = Blueprint("health", __name__)

OK = "ok"


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """The process is up; nothing else is looked at."""
    return {"status": OK}


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """503 only when the database cannot be used; everything else that is wrong is `degraded`."""
    checks = {"database": database_check(db.engine)}
    if checks["database"] == OK:
        checks |= {"redis": redis_check(), "model": model_check(db.engine)}
    status = OK if all(found in (OK, "off") for found in checks.values()) else "degraded"
    ready = checks["database"] == OK
    return {"status": status if ready else "unavailable", "checks": checks}, 200 if ready else 503


def database_check(engine: Engine) -> str:
    """`ok`, or what is wrong with the database or its schema."""
    try:
        with engine.connect().execution_options(sqlite_readonly=True) as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError:
        return "unreachable"
    head, known = _revisions(current_app.extensions["migrate"].directory)
    # A schema that is ahead is the next release being rolled out: migrations keep the previous code working.
    ahead = revision is not None and revision not in known
    return OK if revision == head or ahead else "schema is behind: run flask db upgrade"


@functools.cache
def _revisions(directory: str) -> tuple[str | None, frozenset[str]]:
    """The newest migration this code knows, and all of them."""
    config = Config()
    config.set_main_option("script_location", directory)
    scripts = ScriptDirectory.from_config(config)
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


def redis_check() -> str:
    """`ok`, or what is wrong with Redis; gives up in half a second."""
    try:
        policy = redis_info("memory", "maxmemory_policy")
    except RedisError:
        return "away: alerts are stored, verdicts wait for it"
    return OK if policy in ("noeviction", "") else f"maxmemory-policy is {policy}, must be noeviction"


def redis_info(section: str, name: str) -> str:
    """One value of INFO, or "" where the server does not tell. Raises RedisError."""
    info: Any = services().redis.info(section)
    return str(info.get(name, ""))


def model_check(engine: Engine) -> str:
    """`off`, `ok`, or why the model is away."""
    if not services().settings.model_enabled:
        return "off"
    try:
        with engine.connect().execution_options(sqlite_readonly=True) as connection:
            row = connection.execute(db.select(ModelState.reason).where(ModelState.away_until.is_not(None))).first()
    except SQLAlchemyError:
        return "unknown"
    return "away: verdicts are provisional until it is back" if row else OK
