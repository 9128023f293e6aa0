"""The read and admin API: bearer tokens of a tenant, JSON lists with a cursor, four actions on an incident."""

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import wraps
from http import HTTPStatus
from inspect import signature
from typing import Any

from flask import Flask, Request, g, request
from flask_smorest import Blueprint
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from sqlalchemy import select
from webargs.flaskparser import FlaskParser

from openremedy import apidoc, audit, deliveries, evaluation_queue, incidents, sources, tenants
from openremedy.adapter import Adapter
from openremedy.addresses import client_key
from openremedy.alerts import IncidentType, Rfc3339, Severity, parse_object
from openremedy.apidoc import Answer
from openremedy.audit import Actor
from openremedy.errands import State
from openremedy.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.incidents import Filters, stamp
from openremedy.models import IncidentStatus, Recipe, Role, Source, Tenant, Triage
from openremedy.registry import KEY as ADAPTERS
from openremedy.registry import adapters, check_credentials, options_of
from openremedy.services import services

ALERT_FIELDS = ("outcome", "incident_id", "reason")  # of a delivery's alerts


def register(app: Flask) -> None:
    """Mount the API, its OpenAPI document and the page to read it."""
    titles = {adapter.blueprint_name: adapter.title for adapter in app.extensions[ADAPTERS].values()}
    apidoc.register(app, blueprint, titles)


class StrictParser(FlaskParser):
    """Reads a JSON body as the door does: the same refusals, whatever its Content-Type says."""

    def load_json(self, req: Request, schema: Schema) -> dict[str, Any]:
        """The JSON object in the body. Raises BadBody."""
        return parse_object(req.get_data(cache=True))


class StrictBlueprint(Blueprint):  # type: ignore[misc]  # flask-smorest carries no types
    """A blueprint whose bodies are read strictly."""

    ARGUMENTS_PARSER = StrictParser()


blueprint = StrictBlueprint("api", __name__, url_prefix="/api/v1", description="Incidents, deliveries and recipes")


# ---------------------------------------------------------------- shapes


class Text(fields.String):
    """Text that every database can hold and compare."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not _storable(text):
            raise ValidationError("Must not contain NUL characters or lone surrogates.")
        return text


def _storable(text: str) -> bool:
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


class QueryTime(Rfc3339):
    """A time in a URL, where the plus sign of its zone reads as a blank unless the caller wrote %2B."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        return super()._deserialize(re.sub(r" (?=\d\d:\d\d$)", "+", str(value)), attr, data, **kwargs)


class PageQuery(Schema):
    """Where in a list, and how much of it."""

    class Meta:
        unknown = EXCLUDE

    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    cursor = fields.String(load_default=None, validate=validate.Length(max=200))


class IncidentQuery(PageQuery):
    """Filters of the incident list; all of them hold."""

    status = fields.Enum(IncidentStatus, by_value=fields.String(), load_default=None)
    severity = fields.Enum(Severity, by_value=fields.String(), load_default=None)
    incident_type = fields.Enum(IncidentType, by_value=fields.String(), load_default=None)
    hostname = Text(load_default=None)
    recipe = Text(load_default=None)
    classification = fields.Enum(Triage, by_value=fields.String(), load_default=None)
    q = Text(load_default=None, validate=validate.Length(max=200))
    since = QueryTime(load_default=None)


class DeliveryQuery(PageQuery):
    """Filters of the delivery list."""

    accepted = fields.Boolean(load_default=None)
    reason = Text(load_default=None)


class FeedbackBody(Schema):
    """A person's answer."""

    answer = fields.String(required=True, validate=validate.OneOf(["confirm", "correct", "none"]))
    recipe = Text(load_default=None, validate=validate.Length(1, 100))


class Candidate(Answer):
    """A recipe that came close."""

    recipe = fields.String()
    confidence = fields.Float()


class Citation(Answer):
    """A place in the evidence (JSON pointer) and what it holds."""

    pointer = fields.String()
    value = fields.Raw(allow_none=True)


class VerdictJson(Answer):
    """What the classifier, or a person, says."""

    recipe = fields.String(allow_none=True)
    tier = fields.String(validate=validate.OneOf(["rule", "reuse", "model", "lexical", "person"]))
    confidence = fields.Float()
    provisional = fields.Boolean()
    runners_up = fields.List(fields.Nested(Candidate))
    citations = fields.List(fields.Nested(Citation))
    summary = fields.String()
    model = fields.String(allow_none=True)
    prompt_version = fields.String()
    tokens = fields.Integer()
    latency_ms = fields.Integer()
    created_at = fields.String()


class IncidentSummary(Answer):
    """An incident without its evidence."""

    id = fields.String()
    status = fields.String()
    hostname = fields.String()
    incident_type = fields.String()
    severity = fields.String()
    source = fields.String()
    dedup_key = fields.String(allow_none=True)
    occurrences = fields.Integer()
    first_seen = fields.String()
    last_seen = fields.String()
    resolved_at = fields.String(allow_none=True)
    previous_incident_id = fields.String(allow_none=True)
    still_firing = fields.Boolean()
    flapping = fields.Boolean()
    classification = fields.String()
    verdict = fields.Nested(VerdictJson, allow_none=True)


class IncidentDetail(IncidentSummary):
    """An incident with everything known about it."""

    evidence = fields.Dict()
    type_opinion = fields.String(
        allow_none=True,
        metadata={
            "description": "The type that its name, metric and text read like, where the sender said another one."
        },
    )
    timeline = fields.List(fields.Dict())
    alerts = fields.List(fields.Dict())
    verdicts = fields.List(fields.Nested(VerdictJson))


class IncidentPage(Answer):
    """A page of incidents."""

    items = fields.List(fields.Nested(IncidentSummary))
    next_cursor = fields.String(allow_none=True)


class DeliverySummary(Answer):
    """One HTTP body that was received; `status_code`, `reason` and `message` are what its sender was told.

    Of one that was accepted `message` may be a remark, such as alerts that its tool has left out.
    """

    id = fields.String()
    adapter = fields.String()
    source = fields.String()
    received_at = fields.String()
    accepted = fields.Boolean()
    status_code = fields.Integer()
    reason = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    remote_addr = fields.String()
    request_id = fields.String()
    headers = fields.Dict()
    body_bytes = fields.Integer()


class DeliveryDetail(DeliverySummary):
    """A delivery with its body (of a refused one at most the first 64 KiB) and the outcomes of its alerts."""

    body = fields.String()
    alerts = fields.List(fields.Dict())


class DeliveryPage(Answer):
    """A page of deliveries."""

    items = fields.List(fields.Nested(DeliverySummary))
    next_cursor = fields.String(allow_none=True)


class NewSource(Schema):
    """A tool that shall send to us."""

    adapter = Text(required=True, validate=validate.Length(1, 63))
    name = Text(load_default="", validate=validate.Length(max=100))


class SourceChange(Schema):
    """What is named is changed, the rest stays."""

    name = Text(validate=validate.Length(1, 100))
    stale_after = fields.Integer(strict=True, allow_none=True)
    rate_limit = fields.Integer(strict=True, allow_none=True)
    disabled = fields.Boolean(truthy={True}, falsy={False})
    options = fields.Dict(keys=Text())
    api_token = Text(validate=validate.Length(max=1000))


class RotateBody(Schema):
    """How many hours the previous token works on."""

    grace_hours = fields.Float(load_default=24, validate=validate.Range(0, 24 * 365))


class SigningSecretBody(Schema):
    """A secret that the tool has made."""

    secret = Text(required=True, validate=validate.Length(1, 1000))


class Refusal(Answer):
    """What was refused last, and why."""

    at = fields.String()
    reason = fields.String()
    message = fields.String()


class TokenUse(Answer):
    """A token, never its value."""

    created_at = fields.String()
    expires_at = fields.String(allow_none=True)
    last_used = fields.String(allow_none=True)


class SigningSecretUse(Answer):
    """A secret with which the tool signs, never its value."""

    id = fields.String()
    created_at = fields.String()
    last_used = fields.String(allow_none=True)


class SourceJson(Answer):
    """A configured sender, and what came of what it sent."""

    id = fields.String()
    adapter = fields.String()
    name = fields.String()
    url = fields.String()
    disabled = fields.Boolean()
    created_at = fields.String()
    last_seen = fields.String(allow_none=True)
    stale_after = fields.Integer(allow_none=True)
    rate_limit = fields.Integer(allow_none=True)
    options = fields.Dict()
    outcomes = fields.Dict(keys=fields.String(), values=fields.Integer())
    heartbeat_at = fields.String(allow_none=True)
    silent = fields.Boolean(allow_none=True)
    last_refusal = fields.Nested(Refusal, allow_none=True)
    tokens = fields.List(fields.Nested(TokenUse))
    signing_secrets = fields.List(fields.Nested(SigningSecretUse))
    api_token = fields.Boolean()


class SourceWithToken(SourceJson):
    """The source with its token, which is shown this once."""

    token = fields.String()


class RotatedSource(SourceWithToken):
    """The source with its new token, and until when the one of before works."""

    previous_valid_until = fields.String()


class SourcePage(Answer):
    """A page of sources."""

    items = fields.List(fields.Nested(SourceJson))
    next_cursor = fields.String(allow_none=True)


class RecipeSummary(Answer):
    """A recipe without its steps."""

    slug = fields.String()
    title = fields.String()
    when = fields.String()
    applies_to = fields.List(fields.String())
    match = fields.Dict(allow_none=True)
    risk = fields.String()
    tags = fields.List(fields.String())
    enabled = fields.Boolean()
    updated_at = fields.String()


class RecipeDetail(RecipeSummary):
    """A recipe with its steps (Markdown)."""

    steps = fields.String()


class RecipePage(Answer):
    """A page of recipes."""

    items = fields.List(fields.Nested(RecipeSummary))
    next_cursor = fields.String(allow_none=True)


class EvaluationSetting(Schema):
    """How to classify: the tier, and the answer threshold where it is not the tenant's."""

    tier = fields.String(load_default="lexical", validate=validate.OneOf(["lexical", "model"]))
    threshold = fields.Float(load_default=None, allow_none=True, validate=validate.Range(0, 1))


class EvaluationBody(EvaluationSetting):
    """`against`: another setting on the same incidents, to see the difference."""

    against = fields.Nested(EvaluationSetting, load_default=None, allow_none=True)


class EvaluationJson(Answer):
    """`result` has a key per figure when it is done; `reason` says why it failed."""

    id = fields.String()
    state = fields.String(validate=validate.OneOf([str(state) for state in State]))
    reason = fields.String(allow_none=True)
    result = fields.Dict(allow_none=True)


# ---------------------------------------------------------------- who may


def needs(role: Role, *refusals: HTTPStatus) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The view runs for a bearer token of at least this role; `g.tenant_id` and `g.actor` say whose.

    `refusals`: for the document, how it may be answered besides what follows from its role, its path and its body.
    """

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            _authenticate(role)
            return view(*args, **kwargs)

        for refusal in sorted({*refusals, *_refusals(role, set(signature(view).parameters))}):
            guarded = blueprint.alt_response(refusal, refusal.name)(guarded)
        return guarded

    return decorate


def _refusals(role: Role, parameters: set[str]) -> Iterator[HTTPStatus]:
    yield from (HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)
    if role is not Role.VIEWER:
        yield HTTPStatus.FORBIDDEN
    if "body" in parameters:
        yield from (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if parameters - {"body", "query"}:
        yield HTTPStatus.NOT_FOUND


def _authenticate(role: Role) -> None:
    reads = request.method in ("GET", "HEAD")
    if reads:
        # On SQLite a transaction takes the write lock unless it says that it only reads.
        db.session.connection(execution_options={"sqlite_readonly": True})
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    found = tenants.find_token(db.session(), value.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        raise Unauthorized("The API token is missing or wrong.")
    token, tenant = found
    if not token.role.may(role):
        raise Forbidden(f"This needs a token with the role {role} or more.")
    services().tally.token_used(token.id)
    g.tenant_id = tenant.id
    g.tenant = tenant.slug
    g.actor = Actor(f"token {token.name or token.id}", client_key(), g.request_id)
    if not reads:
        db.session.rollback()  # the action opens a transaction of its own


def _id(text: str) -> uuid.UUID:
    found = parse_id(text)
    if found is None:
        raise NotFound()
    return found


def _cursor(text: str | None) -> uuid.UUID | None:
    if text is None:
        return None
    found = parse_id(text)
    if found is None:
        raise Invalid(fields={"cursor": ["Not a cursor of ours."]})
    return found


def _paged(items: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """One more than `limit` was read, to know whether there is a next page."""
    more = len(items) > limit
    return {"items": items[:limit], "next_cursor": items[limit - 1]["id"] if more else None}


def _numbered(
    statement: Any, key: Any, query: dict[str, Any], shown: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """A page of rows that have a number, newest first."""
    if query["cursor"] is not None:
        if not query["cursor"].isascii() or not query["cursor"].isdigit() or len(query["cursor"]) > 18:
            raise Invalid(fields={"cursor": ["Not a cursor of ours."]})
        statement = statement.where(key < int(query["cursor"]))
    found = db.session.scalars(statement.order_by(key.desc()).limit(query["limit"] + 1)).all()
    more = len(found) > query["limit"]
    items = [shown(one) for one in found[: query["limit"]]]
    return {"items": items, "next_cursor": str(found[query["limit"] - 1].id) if more else None}


# ---------------------------------------------------------------- incidents


@blueprint.get("/incidents")
@needs(Role.VIEWER)
@blueprint.arguments(IncidentQuery, location="query")
@blueprint.response(200, IncidentPage)
def list_incidents(query: dict[str, Any]) -> dict[str, Any]:
    """Incidents, newest first."""
    limit, before = query.pop("limit"), _cursor(query.pop("cursor"))
    return _paged(incidents.page(db.session(), g.tenant_id, Filters(**query), before, limit + 1), limit)


@blueprint.get("/incidents/<incident_id>")
@needs(Role.VIEWER)
@blueprint.response(200, IncidentDetail)
def get_incident(incident_id: str) -> dict[str, Any]:
    """One incident with its evidence, timeline, alerts and verdicts."""
    return _shown(incident_id)


def _shown(incident_id: str) -> dict[str, Any]:
    return incidents.detail(db.session(), g.tenant_id, _id(incident_id))


@blueprint.post("/incidents/<incident_id>/acknowledge")
@needs(Role.RESPONDER)
@blueprint.response(200, IncidentDetail)
def acknowledge_incident(incident_id: str) -> dict[str, Any]:
    """Say that somebody looks at it."""
    incidents.acknowledge(db.engine, g.tenant_id, _id(incident_id), g.actor)
    return _shown(incident_id)


@blueprint.post("/incidents/<incident_id>/resolve")
@needs(Role.RESPONDER)
@blueprint.response(200, IncidentDetail)
def resolve_incident(incident_id: str) -> dict[str, Any]:
    """Say that it is over; if it still burns, its next alert opens a new incident."""
    incidents.resolve(db.engine, g.tenant_id, _id(incident_id), g.actor)
    return _shown(incident_id)


@blueprint.post("/incidents/<incident_id>/reclassify")
@needs(Role.RESPONDER)
@blueprint.response(200, IncidentDetail)
def reclassify_incident(incident_id: str) -> dict[str, Any]:
    """Ask for a fresh verdict."""
    incidents.reclassify(db.engine, g.tenant_id, _id(incident_id), g.actor)
    services().waker.wake()
    return _shown(incident_id)


@blueprint.post("/incidents/<incident_id>/feedback")
@needs(Role.RESPONDER, HTTPStatus.CONFLICT)
@blueprint.arguments(FeedbackBody)
@blueprint.response(200, IncidentDetail)
def give_feedback(body: dict[str, Any], incident_id: str) -> dict[str, Any]:
    """Confirm the verdict, correct it, or say that no recipe fits."""
    incidents.feedback(db.engine, g.tenant_id, _id(incident_id), body["answer"], body["recipe"], g.actor)
    return _shown(incident_id)


# ---------------------------------------------------------------- deliveries


@blueprint.get("/deliveries")
@needs(Role.VIEWER)
@blueprint.arguments(DeliveryQuery, location="query")
@blueprint.response(200, DeliveryPage)
def list_deliveries(query: dict[str, Any]) -> dict[str, Any]:
    """What was received, accepted or refused, newest first; without the bodies."""
    limit, before = query.pop("limit"), _cursor(query.pop("cursor"))
    return _paged(deliveries.page(db.session(), g.tenant_id, deliveries.Filters(**query), before, limit + 1), limit)


@blueprint.get("/deliveries/<delivery_id>")
@needs(Role.VIEWER)
@blueprint.response(200, DeliveryDetail)
def get_delivery(delivery_id: str) -> dict[str, Any]:
    """One delivery with its body as it was received, and what became of its alerts."""
    found = deliveries.detail(db.session(), g.tenant_id, _id(delivery_id))
    return found | {
        "body": found["body"].decode("utf-8", "replace"),
        "alerts": [{name: alert[name] for name in ALERT_FIELDS} for alert in found["alerts"]],
    }


# ---------------------------------------------------------------- sources


@blueprint.get("/sources")
@needs(Role.VIEWER)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, SourcePage)
def list_sources(query: dict[str, Any]) -> dict[str, Any]:
    """The tools that send to this tenant, newest first; never their tokens."""
    return _numbered(select(Source).where(Source.tenant_id == g.tenant_id), Source.id, query, _source_json)


@blueprint.post("/sources")
@needs(Role.ADMIN, HTTPStatus.CONFLICT)
@blueprint.arguments(NewSource)
@blueprint.response(201, SourceWithToken)
def add_source(body: dict[str, Any]) -> dict[str, Any]:
    """Add a source; its token is in this answer and nowhere else."""
    _adapter(body["adapter"])
    _audit("source.added", body["name"] or body["adapter"], adapter=body["adapter"])
    source, token = sources.add_source(db.session(), services().vault, g.tenant, body["adapter"], body["name"])
    return _source_json(source) | {"token": token}


def _adapter(name: str) -> Adapter:
    found = adapters().get(name)
    if found is None:
        raise Invalid(fields={"adapter": [f"Must be one of: {', '.join(sorted(adapters()))}."]})
    return found


@blueprint.get("/sources/<source_id>")
@needs(Role.VIEWER)
@blueprint.response(200, SourceJson)
def get_source(source_id: str) -> dict[str, Any]:
    """One source: last seen, outcomes, what was refused last."""
    return _source_json(_source(source_id))


@blueprint.patch("/sources/<source_id>")
@needs(Role.ADMIN, HTTPStatus.CONFLICT)
@blueprint.arguments(SourceChange)
@blueprint.response(200, SourceJson)
def edit_source(body: dict[str, Any], source_id: str) -> dict[str, Any]:
    """Change name, limits, options, or disable and enable it. An empty api_token ends the one there is."""
    return _edited(source_id, **body)


@blueprint.post("/sources/<source_id>/rotate")
@needs(Role.ADMIN)
@blueprint.arguments(RotateBody)
@blueprint.response(200, RotatedSource)
def rotate_source(body: dict[str, Any], source_id: str) -> dict[str, Any]:
    """Give it a new token; the previous one works during the grace time."""
    source = _source(source_id)
    _audit("source.rotated", source.name, grace_hours=body["grace_hours"])
    token, until = sources.rotate_source(db.session(), source, timedelta(hours=body["grace_hours"]))
    return _source_json(source) | {"token": token, "previous_valid_until": stamp(until)}


@blueprint.post("/sources/<source_id>/signing-secrets")
@needs(Role.ADMIN, HTTPStatus.CONFLICT)
@blueprint.arguments(SigningSecretBody)
@blueprint.response(201, SourceJson)
def add_signing_secret(body: dict[str, Any], source_id: str) -> dict[str, Any]:
    """Add a secret with which the tool signs; those there are go on working."""
    return _edited(source_id, add_signing_secret=body["secret"])


@blueprint.delete("/sources/<source_id>/signing-secrets/<secret_id>")
@needs(Role.ADMIN)
@blueprint.response(200, SourceJson)
def remove_signing_secret(source_id: str, secret_id: str) -> dict[str, Any]:
    """End a signing secret now."""
    return _edited(source_id, remove_signing_secret=secret_id)


def _edited(source_id: str, **changes: Any) -> dict[str, Any]:
    source = _source(source_id)
    check_credentials(source.adapter, changes)
    _audit("source.changed", source.name, changed=sources.told(changes))
    sources.edit_source(db.session(), services().vault, source, options_of(source.adapter), **changes)
    return _source_json(source)


def _audit(action: str, target: str, **detail: Any) -> None:
    """A line that is committed with the change that follows."""
    db.session.add(audit.line(g.actor, g.tenant_id, action, target, **detail))


def _source(source_id: str) -> Source:
    return sources.get_source(db.session(), g.tenant_id, source_id)


def _source_json(source: Source) -> dict[str, Any]:
    return sources.as_json(source, sources.url_of(services().settings.public_url, g.tenant, source.adapter))


# ---------------------------------------------------------------- recipes


@blueprint.get("/recipes")
@needs(Role.VIEWER)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, RecipePage)
def list_recipes(query: dict[str, Any]) -> dict[str, Any]:
    """The tenant's recipes, newest first; without their steps."""
    statement = select(Recipe).where(Recipe.tenant_id == g.tenant_id)
    return _numbered(statement, Recipe.id, query, _recipe_json)


@blueprint.get("/recipes/<slug>")
@needs(Role.VIEWER)
@blueprint.response(200, RecipeDetail)
def get_recipe(slug: str) -> dict[str, Any]:
    """One recipe with its steps."""
    if not _storable(slug):
        raise NotFound()
    recipe = db.session.scalar(select(Recipe).where(Recipe.tenant_id == g.tenant_id, Recipe.slug == slug))
    if recipe is None:
        raise NotFound()
    return _recipe_json(recipe) | {"steps": recipe.steps}


def _recipe_json(recipe: Recipe) -> dict[str, Any]:
    return {
        "slug": recipe.slug,
        "title": recipe.title,
        "when": recipe.when,
        "applies_to": recipe.applies_to,
        "match": recipe.match,
        "risk": recipe.risk,
        "tags": recipe.tags,
        "enabled": recipe.enabled,
        "updated_at": stamp(recipe.updated_at),
    }


# ---------------------------------------------------------------- evaluations


@blueprint.post("/evaluations")
@needs(Role.ADMIN, HTTPStatus.CONFLICT)
@blueprint.arguments(EvaluationBody)
@blueprint.response(202, EvaluationJson)
def start_evaluation(body: dict[str, Any]) -> dict[str, Any]:
    """Have a worker classify anew what people have answered, and measure how right that is; nothing is stored."""
    against = body.pop("against")
    if "model" in (body["tier"], (against or {}).get("tier")):
        _needs_model()
    job_id = evaluation_queue.start_evaluation(services(), g.tenant_id, body, against)
    return {"id": job_id, "state": State.PENDING, "reason": None, "result": None}


def _needs_model() -> None:
    if not services().settings.model_enabled:
        raise Invalid(fields={"tier": ["No model is connected."]})
    if not db.session.get_one(Tenant, g.tenant_id).model_allowed:
        raise Conflict("This tenant does not let its evidence go to a model.")


@blueprint.get("/evaluations/<evaluation_id>")
@needs(Role.ADMIN)
@blueprint.response(200, EvaluationJson)
def get_evaluation(evaluation_id: str) -> dict[str, Any]:
    """How far it is, and its figures; they are kept for ten minutes."""
    found = evaluation_queue.read_evaluation(services(), g.tenant_id, evaluation_id)
    if found is None:
        raise NotFound()
    return {"id": evaluation_id, "state": found.state, "reason": found.reason, "result": found.result}
