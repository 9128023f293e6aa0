"""Reads what people and tools write freely: titles, custom fields, the details of an event. Pure, and never raises."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from openremedy.adapter import IncidentType, first_host, host_of, said_type, text_of

MAX_ENTRIES = 30
MAX_LEVELS = 4
MAX_NAME = 100
MAX_TEXT = 1000
MAX_LOOKED_AT = 2000  # characters of a text that are searched for a host
HOST_NAMES = ("hostname", "host", "host_name", "instance", "node", "server")

# `{host:web-01}`, `host=web-01`, `instance = web-01:9100`; not `localhost:8080` and not `https://host:8080`.
_LABELLED = re.compile(r"(?<![\w./-])(?:hostname|host|instance)(?: ?= ?|:)[\"']?([\w.:-]{1,253})", re.IGNORECASE)
_ON = re.compile(
    r"\bon ((?:[a-z0-9_-]{1,63}\.){1,10}[a-z]{2,63}|(?:\d{1,3}\.){3}\d{1,3})(?![\w-])", re.IGNORECASE | re.ASCII
)
# PD-CEF's `source` is "preferably a hostname", and often only the name of the tool.
_LIKE_A_HOST = re.compile(r"(?=[^.\d-]{0,253}[.\d-])[\w.:-]{1,253}")


def mapped(value: Any) -> dict[str, Any]:
    """A JSON object as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A JSON list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def text_in(value: Any, *names: str) -> str:
    """The first of these keys that holds a text or a number, as text; empty when none does."""
    found = (mapped(value).get(name) for name in names)
    texts = (text_of(one).strip() for one in found if isinstance(one, str | int | float))
    return next(filter(None, texts), "")


def summary_of(reference: Any) -> str:
    """What PagerDuty calls the thing that this refers to; V3 knows `summary` only."""
    return text_in(reference, "summary", "name")


def flat(value: Any) -> dict[str, Any]:
    """The first texts and numbers in nested details, by their path: `labels.instance`."""
    return dict(islice(_leaves(value, "", MAX_LEVELS), MAX_ENTRIES))


def _leaves(value: Any, path: str, levels: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in named if levels else ():
            yield from _leaves(one, f"{path}.{name}"[-MAX_NAME:] if path else str(name)[:MAX_NAME], levels - 1)
    elif isinstance(value, str):
        text = value.strip()
        if text:
            yield path or "text", text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
        yield path or "value", value


def event_details(body: Any) -> dict[str, Any]:
    """What the monitoring tool told PagerDuty, from an alert's `body` or a log entry's `channel`."""
    cef = mapped(mapped(body).get("cef_details"))
    details = flat(mapped(body).get("details")) or flat(cef.get("details"))
    source = text_in(cef, "source_origin")[:MAX_TEXT]
    return ({"source": source} if source else {}) | details


def custom_fields(value: Any) -> dict[str, Any]:
    """Custom fields of an incident by their names; one that is not set is left out."""
    named = [one for one in listed(value) if isinstance(one, dict)]
    return flat({name: one.get("value") for one in named if (name := text_in(one, "name"))})


# ---------------------------------------------------------------- hosts and incident types


def named_host(details: Mapping[str, Any]) -> str:
    """The host in details that have a key for it; empty when none has."""
    return first_host(text for name in HOST_NAMES for text in called((name,), details))


def host_in(details: Mapping[str, Any]) -> str:
    """The host in a tool's details: of a key of its own, else in a text, else the source of the event."""
    texts = (value for value in details.values() if isinstance(value, str))
    source = next((text for text in called(("source",), details) if _LIKE_A_HOST.fullmatch(text)), "")
    return named_host(details) or next(filter(None, map(host_in_text, texts)), "") or host_of(source)


def host_in_text(text: str) -> str:
    """The host that a title or a description speaks of; empty when there is none."""
    for pattern in (_LABELLED, _ON):
        for found in pattern.finditer(text[:MAX_LOOKED_AT]):
            host = host_of(found[1].strip(".:-"))
            if host and not host.isdigit():
                return host
    return ""


def named_type(details: Mapping[str, Any]) -> IncidentType | None:
    """The incident type in details that name one of ours."""
    return said_type(called(("incident_type",), details))


def called(names: Iterable[str], details: Mapping[str, Any]) -> Iterator[str]:
    """The texts in flat details that are called so, whatever they stand in, in the order of the names."""
    for name in names:
        for path, value in details.items():
            if isinstance(value, str) and path.rpartition(".")[2].lower() == name:
                yield value
