"""How pages write times, numbers and the words of the service."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from flask import Flask
from markupsafe import Markup

from openremedy import markdown
from openremedy.models import now

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def register(app: Flask) -> None:
    """Give the templates these words."""
    for word in (ago, at, duration, number, plural, spoken, percent, size, safe_url, moment):
        app.jinja_env.filters[word.__name__] = word
    app.jinja_env.filters["markdown"] = markdown.render
    app.jinja_env.globals["pairs"] = pairs


def moment(value: Any) -> datetime | None:
    """A time, also from the text that the API writes."""
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value


def ago(value: Any, never: str = "never") -> Markup | str:
    """`3 minutes ago`, with the exact time behind it."""
    found = moment(value)
    if found is None:
        return never
    seconds = (now() - found).total_seconds()
    words = "just now" if abs(seconds) < 2 else f"in {_length(-seconds)}" if seconds < 0 else f"{_length(seconds)} ago"
    return _time(found, words)


def at(value: Any, never: str = "never") -> Markup | str:
    """`25 Nov 2026, 01:49:14 UTC`."""
    found = moment(value)
    return never if found is None else _time(found, _exact(found))


def _time(value: datetime, words: str) -> Markup:
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        value.astimezone(UTC).isoformat(timespec="seconds"), _exact(value), words
    )


def _exact(value: datetime) -> str:
    value = value.astimezone(UTC)
    return f"{value.day} {value:%b %Y, %H:%M:%S} UTC"


def duration(seconds: float | None) -> str:
    """`2 hours`: the largest unit that fits."""
    return "" if seconds is None else _length(seconds)


def _length(seconds: float) -> str:
    for length, name in _UNITS:
        if seconds >= length:
            return plural(math.floor(seconds / length), name)
    return "less than a second"


def number(value: float | None) -> str:
    """`1,234,567`."""
    return "-" if value is None else f"{value:,}"


def plural(count: int, singular: str, many: str | None = None) -> str:
    """`1 incident`, `1,200 incidents`."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def percent(value: float | None) -> str:
    """`97 %`; never 100 % for what is less."""
    if value is None:
        return "-"
    return f"{min(99, round(value * 100)) if value < 1 else 100} %"


def size(count: int | None) -> str:
    """`1.5 KiB`."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count:,} bytes"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


_SPOKEN: Mapping[str, str] = {
    "needs_human": "needs a person",
    "cpu_high": "CPU high",
    "person": "a person",
    "rule": "recipe condition",
    "reuse": "earlier answer",
    "model": "language model",
    "lexical": "words",
}


def spoken(word: Any) -> str:
    """A word of the service as people say it: `disk_full` is `disk full`."""
    return _SPOKEN.get(str(word), str(word).replace("_", " "))


def pairs(words: Iterable[Any]) -> list[tuple[str, str]]:
    """Words as the choices of a field."""
    return [(str(word), spoken(word)) for word in words]


def safe_url(text: Any) -> str | None:
    """The text if it is a web address that may become a link, else None."""
    if not isinstance(text, str) or not text.isprintable():
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    return text if parts.scheme in ("http", "https") and parts.netloc and " " not in text else None
