"""What time it is; one place, so that a history that is told has its own present."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_told: ContextVar[datetime | None] = ContextVar("told", default=None)


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return _told.get() or datetime.now(UTC)


def told() -> datetime | None:
    """The moment that is told, None while time is what it is."""
    return _told.get()


@contextmanager
def as_if_at(moment: datetime) -> Iterator[None]:
    """Let `now()` say `moment` in here and nowhere else: `flask demo` tells a week like this.

    No request and no worker does this.
    """
    before = _told.set(moment)
    try:
        yield
    finally:
        _told.reset(before)
