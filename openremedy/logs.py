"""Structured log lines: one event each, never a body, a secret or a signature."""

import json
import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import psycopg
import structlog
from sqlalchemy.exc import DBAPIError

# What every line of the request in hand says; a dictionary is never changed, only replaced.
_facts: ContextVar[dict[str, Any]] = ContextVar("facts", default={})  # noqa: B039 - for that reason
_AS_JSON = json.JSONEncoder(default=str)  # made once: json.dumps() makes one for each line


def configure(log_format: str) -> None:
    """Send our events and those of the libraries to standard error, as JSON lines or as text for people."""
    shared: list[Any] = [
        _of_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _one_line,
        _without_rows,
    ]
    renderer = (
        structlog.processors.JSONRenderer(lambda event, **_: _AS_JSON.encode(event))
        if log_format == "json"
        # Not its default formatter of exceptions: that one prints local variables, and with them secrets and bodies.
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    exceptions: list[Any] = [structlog.processors.format_exc_info] if log_format == "json" else []
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("httpx2", "httpcore2", "openai", "alembic.runtime"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[_audible, *shared, *exceptions, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Ours do not pass through the logging module, which takes three times as long as all the rest.
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]  # it writes and flushes
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """What is standard error now. A disk that is full, or a reader that is gone, must not refuse an alert."""

    def write(self, text: str) -> None:
        """Write, or lose the line as the logging module does."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """The same for what is buffered."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def begin(**facts: Any) -> None:
    """Forget what was noted, and put facts on every line of this request."""
    _facts.set(facts)


def note(**facts: Any) -> None:
    """Put facts on every line of this request that comes from here on; its last one is always written."""
    _facts.set(_facts.get() | facts)


def _audible(_logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What logging.disable() hushes is hushed here too."""
    if logging.root.manager.disable >= getattr(logging, method.upper(), logging.ERROR):
        raise structlog.DropEvent
    return event


def _of_request(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**_facts.get(), **event}


def _one_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Nobody who gets text into a message starts a line of their own with it, or steers a terminal."""
    text = str(event["event"])
    if not text.isprintable():
        event["event"] = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return event


def _without_rows(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An error of PostgreSQL tells of the row and the value that it was about: hosts and evidence."""
    error = _error_of(event.get("exc_info"))
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.Error) and cause.sqlstate:
            # Of class 22, "data exception", the first line already quotes the value.
            told = type(cause).__name__ if cause.sqlstate.startswith("22") else cause.diag.message_primary
            error.args = (told,)
        error = error.__cause__ or error.__context__
    return event


def _error_of(info: Any) -> BaseException | None:
    """What structlog and the logging module may be given as `exc_info`."""
    if isinstance(info, BaseException):
        return info
    return info[1] if isinstance(info, tuple) else sys.exception() if info else None
