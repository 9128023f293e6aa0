"""Outgoing: where a tenant's events are posted to, and what came of each."""

import json
from collections.abc import Mapping
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from openremedy import outgoing as domain
from openremedy.errors import Invalid, NotFound, Problem
from openremedy.extensions import db
from openremedy.models import Event, MessageState, OutgoingEndpoint, Role, Shape
from openremedy.outgoing import Wanted
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import in_tenant

SHOWN_BODY = 20_000  # characters
EVENTS: Mapping[Event, str] = {
    Event.CREATED: "An incident is opened",
    Event.CLASSIFIED: "It has a verdict, also each later one",
    Event.NEEDS_HUMAN: "It needs a person",
    Event.ACCEPTED: "A person accepts a recipe while the incident is open: this starts your automation",
    Event.ACKNOWLEDGED: "Somebody acknowledges it",
    Event.RESOLVED: "It is over",
}
SHAPES: Mapping[Shape, str] = {
    Shape.STANDARD: "JSON, also for Rundeck and StackStorm",
    Shape.SLACK: "Slack, Mattermost, Rocket.Chat",
    Shape.AWX: "AWX or Ansible Automation Platform: launch a job template",
    Shape.GITHUB: "GitHub Actions: repository_dispatch",
}
STATES: Mapping[MessageState, str] = {
    MessageState.PENDING: "waits",
    MessageState.SENT: "sent",
    MessageState.FAILED: "given up",
}

# ---------------------------------------------------------------- all of them


@in_tenant("/outgoing", role=Role.ADMIN)
def outgoing() -> ResponseReturnValue:
    """The endpoints, and the form for a new one."""
    return _list_page()


def _list_page(problem: Problem | None = None) -> ResponseReturnValue:
    page = render_template(
        "ui/outgoing.html",
        endpoints=domain.list_endpoints(db.session(), g.here.id),
        waiting=domain.waiting(db.session(), g.here.id),
        problem=problem,
        **_form({"events": domain.USUAL, "shape": Shape.STANDARD}, problem),
    )
    return page, problem.status if problem else 200


def _form(usual: Mapping[str, Any], problem: Problem | None) -> dict[str, Any]:
    """What the fields show: as it is, or as it was typed where something was wrong. Never a URL or a header."""
    typed = {"name": usual.get("name", ""), "shape": usual["shape"], "events": usual["events"]}
    if problem:
        typed = {name: request.form.get(name, "") for name in ("name", "shape")}
        typed["events"] = request.form.getlist("events")
    return {"typed": typed, "events": EVENTS, "shapes": [(str(one), words) for one, words in SHAPES.items()]}


@in_tenant("/outgoing", "POST", role=Role.ADMIN)
def add_endpoint() -> ResponseReturnValue:
    """Add one, and show the secret this once."""
    session = db.session()
    try:
        wanted = _wanted()
        forms.once(session)
        endpoint, secret = domain.add_endpoint(
            session, services().vault, g.here.id, wanted, g.visitor.actor, allow_private=_allow_private()
        )
    except Problem as problem:
        session.rollback()
        return _list_page(problem)
    return _page(endpoint, made=secret)


def _wanted() -> Wanted:
    """The form. Raises Invalid."""
    return Wanted(
        **forms.every(
            name=lambda: forms.needed("name", 100),
            shape=lambda: forms.one_of("shape", Shape),
            events=_events,
            url=lambda: forms.text("url", domain.MAX_URL),
            header=lambda: forms.text("header", domain.MAX_HEADER),
        ),
        no_header="no_header" in request.form,
    )


def _events() -> list[Event]:
    try:
        return [Event(one) for one in request.form.getlist("events")]
    except ValueError as error:
        raise Invalid(fields={"events": ["Choose of the list."]}) from error


def _allow_private() -> bool:
    return services().settings.outgoing_allow_private


# ---------------------------------------------------------------- one of them


@in_tenant("/outgoing/<endpoint_id>", role=Role.ADMIN)
def outgoing_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """How it is, its messages, and its settings."""
    return _page(_endpoint(endpoint_id))


def _endpoint(endpoint_id: str) -> OutgoingEndpoint:
    return domain.get_endpoint(db.session(), g.here.id, endpoint_id)


def _page(endpoint: OutgoingEndpoint, made: str | None = None, problem: Problem | None = None) -> ResponseReturnValue:
    state = _state()
    now_chosen = {"name": endpoint.name, "shape": endpoint.shape, "events": endpoint.events}
    page = render_template(
        "ui/outgoing_endpoint.html",
        endpoint=endpoint,
        made=made,
        problem=problem,
        messages=domain.messages(db.session(), endpoint, state),
        state=state,
        state_words=STATES,
        next_try=domain.next_try(db.session(), endpoint),
        shape_words=SHAPES[endpoint.shape],
        engine=domain.is_engine(endpoint),
        grace_hours=round(domain.GRACE.total_seconds() / 3600),
        most=domain.SHOWN,
        **_form(now_chosen, problem),
    )
    return page, problem.status if problem else 200


def _state() -> MessageState | None:
    chosen = request.args.get("state", "")
    return MessageState(chosen) if chosen in list(MessageState) else None


@in_tenant("/outgoing/<endpoint_id>/edit", "POST", role=Role.ADMIN)
def edit_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """Change what was chosen; an empty address or header stays as it is."""
    endpoint = _endpoint(endpoint_id)
    try:
        domain.edit_endpoint(
            db.session(), services().vault, endpoint, _wanted(), g.visitor.actor, allow_private=_allow_private()
        )
    except NotFound:
        raise
    except Problem as problem:
        db.session.rollback()
        return _page(_endpoint(endpoint_id), problem=problem)
    flash("Saved.")
    return _back(endpoint_id)


def _back(endpoint_id: str) -> ResponseReturnValue:
    return redirect(url_for("ui.outgoing_endpoint", tenant_slug=g.here.slug, endpoint_id=endpoint_id), 303)


@in_tenant("/outgoing/<endpoint_id>/rotate", "POST", role=Role.ADMIN)
def rotate_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """A new secret, shown this once; the one before signs as well for a day."""
    endpoint = _endpoint(endpoint_id)
    try:
        forms.once(db.session())
    except Problem as problem:
        return _page(_endpoint(endpoint_id), problem=problem)
    return _page(endpoint, made=domain.rotate_secret(db.session(), services().vault, endpoint, g.visitor.actor))


@in_tenant("/outgoing/<endpoint_id>/disable", "POST", role=Role.ADMIN)
def disable_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """Send nothing more to it."""
    domain.set_disabled(db.session(), _endpoint(endpoint_id), True, g.visitor.actor)
    flash("Switched off: what happens from now on is not sent to it, and not later either.")
    return _back(endpoint_id)


@in_tenant("/outgoing/<endpoint_id>/enable", "POST", role=Role.ADMIN)
def enable_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """Send to it again, what waited first."""
    domain.set_disabled(db.session(), _endpoint(endpoint_id), False, g.visitor.actor)
    flash("Switched on again.")
    return _back(endpoint_id)


@in_tenant("/outgoing/<endpoint_id>/remove", "POST", role=Role.ADMIN)
def remove_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """End it, with its messages."""
    domain.remove_endpoint(db.session(), _endpoint(endpoint_id), g.visitor.actor)
    flash("Removed.")
    return redirect(url_for("ui.outgoing", tenant_slug=g.here.slug), 303)


@in_tenant("/outgoing/<endpoint_id>/test", "POST", role=Role.ADMIN)
def test_endpoint(endpoint_id: str) -> ResponseReturnValue:
    """Send a message that says no more than that it arrived."""
    endpoint = _endpoint(endpoint_id)
    try:
        forms.once(db.session())
        message = domain.send_test(db.session(), endpoint, g.visitor.actor)
    except Problem as problem:
        db.session.rollback()
        return _page(_endpoint(endpoint_id), problem=problem)
    flash("A test is on its way. This page shows what came of it; reload it in a moment.")
    return _to_message(endpoint_id, str(message.id))


# ---------------------------------------------------------------- one message


@in_tenant("/outgoing/<endpoint_id>/messages/<message_id>", role=Role.ADMIN)
def outgoing_message(endpoint_id: str, message_id: str) -> ResponseReturnValue:
    """What was sent, and what came of each attempt."""
    endpoint = _endpoint(endpoint_id)
    message = domain.get_message(db.session(), endpoint, message_id)
    body = _readable(message.body)
    page = render_template(
        "ui/outgoing_message.html",
        endpoint=endpoint,
        message=message,
        body=body[:SHOWN_BODY],
        cut=len(body) > SHOWN_BODY,
        tried_for=domain.TRIED_FOR.days,
    )
    return page, 200


def _readable(body: bytes | None) -> str:
    """JSON as people read it; it is our own."""
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False) if body else ""


def _to_message(endpoint_id: str, message_id: str) -> ResponseReturnValue:
    where = {"tenant_slug": g.here.slug, "endpoint_id": endpoint_id, "message_id": message_id}
    return redirect(url_for("ui.outgoing_message", **where), 303)


@in_tenant("/outgoing/<endpoint_id>/messages/<message_id>/again", "POST", role=Role.ADMIN)
def send_message_again(endpoint_id: str, message_id: str) -> ResponseReturnValue:
    """Try it once more from now on."""
    endpoint = _endpoint(endpoint_id)
    message = domain.get_message(db.session(), endpoint, message_id)
    try:
        forms.once(db.session())
        domain.send_again(db.session(), endpoint, message, g.visitor.actor)
    except Problem as problem:
        db.session.rollback()
        return _page(_endpoint(endpoint_id), problem=problem)
    flash("It is on its way again.")
    return _to_message(endpoint_id, message_id)
