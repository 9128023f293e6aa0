"""Structured log lines: one event each, never a body, a secret or a signature."""

import logging
import sys
from typing import Any

import structlog


def configure(log_format: str) -> None:
    """Send our events and those of the libraries to standard error, as JSON lines or as text for people."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _one_line,
    ]
    renderer = (
        structlog.processors.JSONRenderer(default=str)
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
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def note(**facts: Any) -> None:
    """Put facts on every line of this request that comes from here on; its last one is always written."""
    structlog.contextvars.bind_contextvars(**facts)


def _one_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Nobody who gets text into a message starts a line of their own with it, or steers a terminal."""
    text = str(event["event"])
    if not text.isprintable():
        event["event"] = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return event
