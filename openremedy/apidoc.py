"""What the API says of itself: the OpenAPI document and a page to read it, both from the same schemas."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any

from apispec import APISpec
from flask import Flask, Response, make_response, render_template
from flask_smorest import Api, Blueprint
from markupsafe import Markup
from marshmallow import Schema, fields, validate
from werkzeug.routing import Map

from openremedy.alerts import PUBLIC_STATUSES, AlertSchema, Outcome, Rfc3339

PAGE = "/api/docs"
# Of the document. The first number goes up when something that a client may rely on goes away or changes its meaning,
# the second when something is added, the third when only words change. CHANGELOG.md has a line for each.
VERSION = "1.0.0"
STYLE = (Path(__file__).parent / "templates" / "api_docs.css").read_text("utf-8")
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
# What a body looks like, by the name of its schema, and an error by its status.
EXAMPLES = json.loads((Path(__file__).parent / "api_examples.json").read_text("utf-8"))
REFUSALS = {
    400: "The body is not JSON, or not the JSON we take: invalid_json, not_an_object, duplicate_key, invalid_number, "
    "too_deep",
    401: "Unsigned, wrong signature, unknown or disabled tenant: unauthorized",
    413: "The body is over the limit: too_large",
    415: "The body is compressed: unsupported_encoding",
    422: "The schema does not hold, `fields` names every field: validation_error, evidence_too_large",
    429: "Over the limit, see Retry-After: rate_limited",
    503: "The database is not available, see Retry-After; nothing was stored: unavailable",
}


NATIVE_REFUSALS = REFUSALS | {
    401: "Wrong token or signature, disabled source, unknown tenant: unauthorized",
    422: "The body is not of this tool, `message` says what to do: unsupported_envelope",
    429: "Too many failed authentications from this address; where the tool tries again after a 429, also too many "
    "bodies of this source: rate_limited",
    503: "The database is not available (unavailable) or too many bodies of this source (rate_limited), see "
    "Retry-After; nothing was stored",
}


class ErrorDetail(Schema):
    """What was wrong: `code` for programs, `message` for people, `fields` where single fields are wrong."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields")


class ErrorJson(Schema):
    """The one shape of every error; `request_id` finds it in the log."""

    error = fields.Nested(ErrorDetail, required=True)
    request_id = fields.String(required=True)


class Answer(Schema):
    """What an answer is made of: every field is in it, always."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Nothing is loaded by it, so this is for the document alone."""
        field_obj.required = True


class Accepted(Answer):
    """The alert is committed."""

    delivery_id = fields.String()
    outcome = fields.String(validate=validate.OneOf([str(outcome) for outcome in Outcome]))
    incident_id = fields.String(allow_none=True)
    warnings = fields.List(fields.String())


class NativeOutcome(Answer):
    """What became of one alert; `reason` says why where it is not plain."""

    outcome = fields.String(validate=validate.OneOf([str(outcome) for outcome in Outcome]))
    incident_id = fields.String(allow_none=True)
    reason = fields.String(allow_none=True)


class NativeAccepted(Answer):
    """The whole body is committed; its alerts in their order."""

    delivery_id = fields.String()
    alerts = fields.List(fields.Nested(NativeOutcome))


class OpenRemedyApi(Api):  # type: ignore[misc]  # flask-smorest carries no types
    """flask-smorest with the error shape that we answer.

    Its document is written when somebody asks for it: most processes never show it, and it is a large part of making
    an application.
    """

    ERROR_SCHEMA = ErrorJson
    DEFAULT_ERROR_RESPONSE_NAME = None  # it would describe whatever we answer

    _describe: Callable[[APISpec], None] | None = None
    _lock = Lock()

    def describe_with(self, describe: Callable[[APISpec], None]) -> None:
        """What writes the rest of the document, once."""
        self._describe = describe

    @property
    def spec(self) -> APISpec:
        """The whole document."""
        with self._lock:
            if self._describe:
                self._describe(self._spec)
                self._describe = None
            return self._spec

    @spec.setter
    def spec(self, spec: APISpec) -> None:
        self._spec = spec


def register(app: Flask, blueprint: Blueprint, native: Mapping[str, str]) -> None:
    """Mount the blueprint with its document and the page. `native`: the titles of the tools by their blueprints."""
    app.config.update(
        API_TITLE="OpenRemedy",
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api/v1",
        OPENAPI_JSON_PATH="openapi.json",
    )
    api = OpenRemedyApi(app, spec_kwargs={"security": [{"token": []}]})
    api.register_field(Rfc3339, "string", "date-time")
    app.register_blueprint(blueprint)

    def describe(spec: APISpec) -> None:
        blueprint.register_views_in_doc(api, app, spec, name=blueprint.name, parameters=None)
        spec.tag({"name": blueprint.name, "description": blueprint.description})
        _describe_the_rest(spec, app.url_map, native)

    api.describe_with(describe)
    app.add_url_rule(PAGE, "api_docs", lambda: _page(api.spec.to_dict()))


def _describe_the_rest(spec: APISpec, routes: Map, native: Mapping[str, str]) -> None:
    """What is no view of flask-smorest: the doors, how to prove who asks, and what bodies look like."""
    components = spec.components
    components.security_scheme("token", {"type": "http", "scheme": "bearer", "description": "flask token create"})
    components.security_scheme(
        "signature",
        {
            "type": "apiKey",
            "in": "header",
            "name": "X-OpenRemedy-Signature",
            "description": "sha256=<hex HMAC-SHA256(webhook secret, raw body)>",
        },
    )
    components.security_scheme(
        "source",
        {"type": "http", "scheme": "bearer", "description": "flask source add; also as the password of HTTP Basic"},
    )
    for rule in routes.iter_rules():
        if rule.endpoint == "webhooks.post_alert":
            spec.path(rule=rule, operations={"post": _door()})
        elif title := native.get(rule.endpoint.partition(".")[0]):
            methods = sorted(rule.methods or ())
            spec.path(rule=rule, operations={method.lower(): _native(title) for method in methods})
    components.schemas["Alert"]["properties"]["status"]["enum"] = list(PUBLIC_STATUSES)  # the others are for adapters
    for name, example in EXAMPLES["schemas"].items():
        components.schemas[name]["examples"] = [example]
    for name, refusal in components.responses.items():
        refusal["content"]["application/json"]["example"] = EXAMPLES["errors"][str(HTTPStatus[name].value)]


def _door() -> dict[str, Any]:
    """The canonical endpoint; it is not a view of flask-smorest, because nothing may be parsed before the door."""
    return {
        "tags": ["webhooks"],
        "summary": "Send one canonical alert; 202 means it is committed",
        "description": "Unknown fields are ignored and named in `warnings`.",
        "security": [{"signature": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": AlertSchema}}},
        "responses": {"202": _answer("Stored", Accepted), **_refusals(REFUSALS)},
    }


def _native(title: str) -> dict[str, Any]:
    """The endpoint of an adapter: the tool's own body, whatever its version sends."""
    return {
        "tags": ["webhooks"],
        "summary": f"{title} posts its own format; 202 means that all of it is committed",
        "description": "An alert that cannot be one is `rejected` beside its siblings; only a wrong envelope is 422.",
        "security": [{"source": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
        "responses": {"202": _answer("Stored", NativeAccepted), **_refusals(NATIVE_REFUSALS)},
    }


def _refusals(refusals: Mapping[int, str]) -> dict[str, Any]:
    described = {str(status): _answer(words, ErrorJson) for status, words in refusals.items()}
    for status, refusal in described.items():
        refusal["content"]["application/json"]["example"] = EXAMPLES["errors"][status]
    return described


def _answer(words: str, schema: type[Schema]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


# ---------------------------------------------------------------- the page


def _page(document: dict[str, Any]) -> Response:
    """The document for people: no script, nothing from elsewhere."""
    style = Markup(STYLE)  # nosec B704 # noqa: S704 - our file
    html = render_template("api_docs.html", style=style, routes=list(_routes(document)))
    response = make_response(html)
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _routes(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in sorted(document["paths"].items()):
        shared = methods.get("parameters", [])
        for method, operation in methods.items():
            if method == "parameters":
                continue
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            yield {
                "method": method.upper(),
                "path": path,
                "summary": operation.get("summary", ""),
                "description": operation.get("description", ""),
                "parameters": [_parameter(one) for one in (*shared, *operation.get("parameters", []))],
                "body": _fields(document, body),
                "answers": [_answered(document, status, one) for status, one in sorted(operation["responses"].items())],
            }


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    schema = parameter["schema"]
    return {"name": parameter["name"], "where": parameter["in"], "kind": _kind(schema)}


def _answered(document: Mapping[str, Any], status: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    found = _resolved(document, answer)
    schema = found.get("content", {}).get("application/json", {}).get("schema")
    return {"status": status, "words": found.get("description", ""), "fields": _fields(document, schema)}


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    found = _resolved(document, schema or {})
    required = found.get("required", [])
    return [
        {"name": name, "kind": _kind(one), "required": name in required}
        for name, one in found.get("properties", {}).items()
    ]


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """`part`, or what its reference names."""
    if "$ref" not in part:
        return part
    found: Any = document
    for key in part["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return _resolved(document, found)


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words: `integer, 1 to 200, default 50`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kinds = schema.get("type", "any")
    optional = "default" in schema and schema["default"] is None  # "or null" then only says that it may be left out
    named = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if not (optional and kind == "null")]
    words = [" or ".join(named)]
    if "enum" in schema:
        words = [" | ".join(str(one) for one in schema["enum"] if one is not None)]
    if "items" in schema:
        words = [f"list of {_kind(schema['items'])}"]
    if "maximum" in schema:
        words.append(f"{schema.get('minimum', 0)} to {schema['maximum']}")
    if schema.get("default") is not None:
        words.append(f"default {schema['default']}")
    return ", ".join(words)
