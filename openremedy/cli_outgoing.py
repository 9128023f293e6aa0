"""The command line of outgoing: `flask outgoing …`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.orm.exc import ObjectDeletedError

from openremedy import outgoing as domain
from openremedy import tenants
from openremedy.audit import COMMAND_LINE
from openremedy.commands import answering, real, value_of
from openremedy.errors import Invalid
from openremedy.extensions import db
from openremedy.incidents import stamp
from openremedy.models import Event, MessageState, OutgoingEndpoint, OutgoingMessage, Shape
from openremedy.services import services

outgoing = AppGroup("outgoing", help="Where a tenant's events are posted to.")
EVENTS = click.Choice([str(event) for event in Event])
SHAPES = click.Choice([str(shape) for shape in Shape])
TESTED_EVERY = 0.5  # seconds


@outgoing.command("add")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("name")
@click.argument("url")
@click.option("--format", "shape", type=SHAPES, default=str(Shape.STANDARD), show_default=True, help="What is posted.")
@click.option("--event", "events", type=EVENTS, multiple=True, help="What it wants, again for each; else the usual.")
@click.option("--header", help="`Name: value` that the other side asks for (- reads it from standard input).")
@answering
def outgoing_add(
    tenant_slug: str, name: str, url: str, shape: str, events: Sequence[str], header: str | None
) -> tuple[dict[str, Any], str]:
    """Add an endpoint (its URL, or - to read it from standard input) and print the secret that signs, once."""
    tenant_id = tenants.find_tenant(db.session(), tenant_slug).id
    chosen = [Event(one) for one in events] or domain.USUAL
    wanted = domain.Wanted(name, Shape(shape), chosen, value_of(url) or "", value_of(header) or "")
    one, secret = domain.add_endpoint(
        db.session(), services().vault, tenant_id, wanted, COMMAND_LINE, allow_private=_allow_private()
    )
    answer = domain.as_json(one, 0) | {"secret": secret}
    return answer, f"Endpoint {one.name} (id {one.id}) added, for {', '.join(one.events)}.\nSecret: {secret}"


def _allow_private() -> bool:
    return services().settings.outgoing_allow_private


@outgoing.command("list")
@click.argument("tenant_slug", metavar="TENANT")
@answering
def outgoing_list(tenant_slug: str) -> tuple[dict[str, Any], str]:
    """List the endpoints of a tenant, what waits for each, and whether it fails."""
    tenant_id = tenants.find_tenant(db.session(), tenant_slug).id
    waiting = domain.waiting(db.session(), tenant_id)
    items = [domain.as_json(one, waiting.get(one.id, 0)) for one in domain.list_endpoints(db.session(), tenant_id)]
    none = f"{tenant_slug} has no endpoint: flask outgoing add {tenant_slug} NAME URL"
    return {"items": items}, "\n".join(map(_endpoint_line, items)) or none


def _endpoint_line(item: dict[str, Any]) -> str:
    parts = [f"{item['id']}  {item['name']}  {item['format']} to {item['host']}  {', '.join(item['events'])}"]
    parts.append(f"last sent {item['last_sent'] or 'never'}")
    if item["waiting"]:
        parts.append(f"{item['waiting']} waiting")
    if item["failing_since"]:
        parts.append(f"FAILING since {item['failing_since']}")
    if item["disabled"]:
        parts.append(f"switched off{': ' if item['disabled_reason'] else ''}{item['disabled_reason'] or ''}")
    return "; ".join(parts)


@outgoing.command("edit")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("endpoint", metavar="ENDPOINT")
@click.option("--name", help="The name people see.")
@click.option("--url", help="The address (- reads it from standard input).")
@click.option("--format", "shape", type=SHAPES, help="What is posted.")
@click.option("--event", "events", type=EVENTS, multiple=True, help="What it wants, again for each.")
@click.option("--header", help="`Name: value` (- reads it from standard input; empty ends it).")
@click.option("--disable", "disabled", flag_value=True, default=None, help="Queue and send nothing more.")
@click.option("--enable", "disabled", flag_value=False, help="Send again, what waited first.")
@answering
def outgoing_edit(tenant_slug: str, endpoint: str, **given: Any) -> tuple[dict[str, Any], str]:
    """Change an endpoint (its id or name); what is not named stays."""
    one = domain.find_endpoint(db.session(), tenant_slug, endpoint)
    disabled = given.pop("disabled")
    if any(value not in (None, ()) for value in given.values()):
        domain.edit_endpoint(
            db.session(), services().vault, one, _wanted(one, given), COMMAND_LINE, allow_private=_allow_private()
        )
    if disabled is not None:
        domain.set_disabled(db.session(), one, disabled, COMMAND_LINE)
    answer = domain.as_json(one, domain.waiting(db.session(), one.tenant_id).get(one.id, 0))
    return answer, f"Endpoint {one.name} is changed.\n{_endpoint_line(answer)}"


def _wanted(one: OutgoingEndpoint, given: Mapping[str, Any]) -> domain.Wanted:
    """What was named, and the rest as it is."""
    url, header = value_of(given["url"]), value_of(given["header"])
    if url == "":
        raise Invalid(fields={"url": ["Must not be empty."]})
    return domain.Wanted(
        one.name if given["name"] is None else given["name"],
        Shape(given["shape"] or one.shape),
        [Event(event) for event in given["events"] or one.events],
        url or "",
        header or "",
        no_header=header == "",
    )


@outgoing.command("rotate")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("endpoint", metavar="ENDPOINT")
@answering
def outgoing_rotate(tenant_slug: str, endpoint: str) -> tuple[dict[str, Any], str]:
    """Give an endpoint a new secret; the previous one signs as well for a day."""
    one = domain.find_endpoint(db.session(), tenant_slug, endpoint)
    secret = domain.rotate_secret(db.session(), services().vault, one, COMMAND_LINE)
    answer = {"id": str(one.id), "secret": secret, "previous_signs_until": stamp(one.previous_until)}
    return answer, f"New secret of {one.name}:\n{secret}\nThe previous one signs until {stamp(one.previous_until)}."


@outgoing.command("remove")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("endpoint", metavar="ENDPOINT")
@answering
def outgoing_remove(tenant_slug: str, endpoint: str) -> tuple[dict[str, Any], str]:
    """End an endpoint, with its messages."""
    one = domain.find_endpoint(db.session(), tenant_slug, endpoint)
    found = {"id": str(one.id), "name": one.name}
    domain.remove_endpoint(db.session(), one, COMMAND_LINE)
    return found, f"Endpoint {found['name']} is removed."


@outgoing.command("messages")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("endpoint", metavar="ENDPOINT")
@click.option("--state", type=click.Choice([str(state) for state in MessageState]), help="Only these.")
@answering
def outgoing_messages(tenant_slug: str, endpoint: str, state: str | None) -> tuple[dict[str, Any], str]:
    """List the newest messages of an endpoint and what came of each."""
    one = domain.find_endpoint(db.session(), tenant_slug, endpoint)
    wanted = MessageState(state) if state else None
    items = [domain.message_json(message) for message in domain.messages(db.session(), one, wanted)]
    return {"items": items}, "\n".join(map(_message_line, items)) or f"There is no message for {one.name}."


def _message_line(item: dict[str, Any]) -> str:
    line = f"{item['created_at']}  {item['id']}  {item['event']}  {item['state']}"
    if not item["attempts"]:
        return line
    last = item["attempts"][-1]
    return f"{line}; {len(item['attempts'])} tried, the last {last['at']}: {last['error'] or last['status']}"


@outgoing.command("test")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("endpoint", metavar="ENDPOINT")
@click.option("--wait", type=click.FloatRange(0, 600), default=20, callback=real, help="Seconds to wait for a try.")
@answering
def outgoing_test(tenant_slug: str, endpoint: str, wait: float) -> tuple[dict[str, Any], str]:
    """Send a message that says no more than that it arrived, and tell what came of it.

    The scheduler sends it: exit code 1 where nothing was tried in time, or where the first try failed.
    """
    one = domain.find_endpoint(db.session(), tenant_slug, endpoint)
    message = domain.send_test(db.session(), one, COMMAND_LINE)
    try:
        answer = _answered(message, time.monotonic() + wait)
    except ObjectDeletedError as error:
        raise click.ClickException("The endpoint was removed meanwhile, and the test with it.") from error
    tried = answer["attempts"]
    if tried and answer["state"] != MessageState.SENT:
        raise click.ClickException(f"The test has not arrived: {_message_line(answer)}.")
    if wait and not tried:
        raise click.ClickException(f"Nothing was sent within {wait:g} seconds; does a scheduler run? It stays queued.")
    return answer, f"The test {'arrived' if tried else 'is queued'}: {_message_line(answer)}"


def _answered(message: OutgoingMessage, end: float) -> dict[str, Any]:
    """The message once it was tried, or as it is at the end of our patience. Raises ObjectDeletedError."""
    while not message.log and time.monotonic() < end:
        db.session.rollback()  # what the scheduler writes is seen by the next transaction
        time.sleep(TESTED_EVERY)
    return domain.message_json(message)
