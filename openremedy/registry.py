"""Finds the adapters: one folder each in the adapters' package, and entry points of installed packages."""

import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flask import Flask, current_app
from marshmallow import Schema, ValidationError

from config import ADAPTERS
from openremedy.adapter import Adapter, Format, Payload, translate_entry
from openremedy.alerts import IncidentType, Severity
from openremedy.errors import Invalid
from openremedy.incident_type import type_in
from openremedy.translation import Translated, Translation, Unsupported

GROUP = "openremedy.adapters"
RESERVED = ("alerts",)  # the canonical endpoint
KEY = "openremedy.adapters"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class AdapterError(Exception):
    """An adapter cannot be used; the message names it. A silently absent one would be lost alerts."""


def discover(package: str = ADAPTERS) -> dict[str, Adapter]:
    """Every adapter by its name, folders first. Raises AdapterError."""
    found: dict[str, Adapter] = {}
    for place, name, load in _candidates(package):
        adapter = _checked(place, name, _load(place, load))
        if name in found:
            raise AdapterError(f"{place}: there is an adapter {name!r} already")
        found[name] = adapter
    return found


def _candidates(package: str) -> Iterator[tuple[str, str, EntryPoint]]:
    """Where each adapter was found, what it must be called, and how to get it."""
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.ispkg:
            place = f"{package}.{module.name}"
            yield place, module.name, EntryPoint(module.name, f"{place}:adapter", GROUP)
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        yield f"entry point {point.name} = {point.value}", point.name, point


def _load(place: str, point: EntryPoint) -> object:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # whatever somebody's module raises, it must be said whose it is
        raise AdapterError(f"adapter {place} cannot be loaded: {type(error).__name__}: {error}") from error


def _checked(place: str, name: str, adapter: object) -> Adapter:
    if not isinstance(adapter, Adapter):
        raise AdapterError(f"adapter {place} is a {type(adapter).__name__}, not an openremedy.adapter.Adapter")
    if adapter.name != name:
        raise AdapterError(f"adapter {place} calls itself {adapter.name!r}; its name must be {name!r}")
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise AdapterError(f"adapter {place}: {name!r} cannot be a name (lower-case word, not {', '.join(RESERVED)})")
    return adapter


def register(app: Flask, found: Mapping[str, Adapter]) -> None:
    """Give every adapter its endpoint."""
    app.extensions[KEY] = dict(found)
    for adapter in found.values():
        app.register_blueprint(adapter.blueprint())


def adapters() -> Mapping[str, Adapter]:
    """The adapters of the current application."""
    found: Mapping[str, Adapter] = current_app.extensions[KEY]
    return found


def options_of(adapter: str) -> Schema:
    """The options that a source of this adapter may have: none where its package is not installed any more."""
    found = adapters().get(adapter)
    return found.options if found else Payload()


def check_credentials(adapter: str, changes: Mapping[str, Any]) -> None:
    """Raise Invalid for a credential that the tool has no use for: it would look like protection and be none.

    `changes`: as sources.edit_source() takes them.
    """
    signing, api_token = changes.get("add_signing_secret"), changes.get("api_token")
    if not (signing or api_token):
        return
    found = adapters().get(adapter)
    if found is None:
        raise Invalid(f"The adapter {adapter} is not installed any more.")
    if signing and not found.verify:
        raise Invalid(f"{found.title} has no use for a signing secret: it signs with none.")
    if api_token and not found.enrichment:
        raise Invalid(f"{found.title} has no use for a token of its API: it is not asked for anything.")


# ---------------------------------------------------------------- what a payload is read as


def type_and_severity(
    found: Mapping[str, Adapter], tool: str, payload: Mapping[str, Any]
) -> tuple[IncidentType, Severity | None]:
    """The type and the severity of the incident that one alert would open; no severity where it would open none.

    `found`: what discover() gives. `payload`: a whole body of `tool` with an alert in it, or an alert out of the list
    in such a body. What no adapter takes could only come in the canonical format: it is read as the evidence of a
    sender that says neither.
    """
    one = _translated(found[tool].formats[0], dict(payload)) if tool in found else None
    if one is None:
        return type_in(payload), Severity.MEDIUM
    if isinstance(one, Translated):
        return one.alert.incident_type, one.alert.severity
    return IncidentType.CUSTOM, None


def _translated(shape: Format, payload: dict[str, Any]) -> Translation | None:
    """The first alert of a body, or of one that is made for it; None where it is neither."""
    for body in (payload, {"alerts": [payload]}):
        try:
            envelope: dict[str, Any] = shape.payload.load(body)
            entries = shape.unwrap(envelope, {})
        except (ValidationError, Unsupported):
            continue
        if entries:
            return translate_entry(shape, entries[0], envelope)
    return None
