"""Flask extensions, unbound: create_app() gives them their app."""

from functools import cache
from pathlib import Path

from flask_limiter import Limiter
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from limits import RateLimitItem, parse

from openremedy.addresses import client_key
from openremedy.bundles import KEY_PREFIX, BundledMovingWindow
from openremedy.models.base import Base

db = SQLAlchemy(model_class=Base)
# By its full path: not every command is started from the repository root.
migrate = Migrate(directory=str(Path(__file__).parent.parent / "migrations"), render_as_batch=True, compare_type=True)
limiter = Limiter(client_key)


def per_minute(rate_limit: int) -> str:
    """A limit as the limiter reads it."""
    return f"{rate_limit} per minute"


@cache
def _item(limit: str) -> RateLimitItem:
    return parse(limit)


def in_stock(rate_limit: int, key: str, scope: str) -> bool:
    """Whether this process keeps a hit of this limit for the caller, which is taken: then there is nothing to charge.

    The limiter takes longer to find out what holds for whom than an alert takes from its bytes to its rows. `key` and
    `scope` are those that the limiter itself tells callers and limits apart by.
    """
    strategy = limiter.limiter
    return isinstance(strategy, BundledMovingWindow) and strategy.in_stock(
        _item(per_minute(rate_limit)), KEY_PREFIX, key, scope
    )
