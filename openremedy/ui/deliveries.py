"""Deliveries: everything that was received, what became of it, why it was refused, and sending it through once more."""

import json
import uuid
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from openremedy import deliveries as domain
from openremedy import incidents, replay
from openremedy.alerts import Outcome, parse_json
from openremedy.errors import BadBody, Conflict, NotFound
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.models import Role, Source
from openremedy.registry import adapters
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import in_tenant
from openremedy.ui.words import plural

PAGE = 50
MOST_BODY = 60_000  # characters of a body on the page
VERDICTS = {"": "All", "yes": "Accepted", "no": "Refused"}


def _id(text: str) -> uuid.UUID:
    found = parse_id(text)
    if found is None:
        raise NotFound()
    return found


# ---------------------------------------------------------------- the list


@in_tenant("/deliveries")
def deliveries() -> ResponseReturnValue:
    """What came in, newest first."""
    chosen = _chosen()
    after = parse_id(request.args.get("after", ""))
    found = domain.page(db.session(), g.here.id, _filters(chosen), after, PAGE + 1)
    more = len(found) > PAGE
    return render_template(
        "ui/deliveries.html",
        items=found[:PAGE],
        next=found[PAGE - 1]["id"] if more else None,
        chosen=chosen,
        verdicts=VERDICTS,
        adapters=[("", "Any"), (incidents.CANONICAL, "Canonical"), *((one.name, one.title) for one in _tools())],
        outcomes=[("", "Any"), *((str(one), str(one)) for one in Outcome)],
        sources=[("", "Any"), *((str(one.id), one.name) for one in _sources())],
        after=after,
    )


def _tools() -> list[Any]:
    return sorted(adapters().values(), key=lambda one: one.title)


def _sources() -> Any:
    return db.session.execute(
        select(Source.id, Source.name).where(Source.tenant_id == g.here.id).order_by(Source.name)
    ).all()


def _chosen() -> dict[str, str]:
    """The filters of the URL; what is no answer of ours is left out."""
    given = {name: request.args.get(name, "")[:100] for name in ("accepted", "adapter", "source", "outcome", "reason")}
    return {name: value if value.isprintable() and value.isascii() else "" for name, value in given.items()}


def _filters(chosen: dict[str, str]) -> domain.Filters:
    source = chosen["source"]
    return domain.Filters(
        accepted={"yes": True, "no": False}.get(chosen["accepted"]),
        reason=chosen["reason"] or None,
        source_id=int(source) if source.isdigit() and len(source) < 18 else None,
        adapter=chosen["adapter"] or None,
        outcome=next((one for one in Outcome if one == chosen["outcome"]), None),
    )


# ---------------------------------------------------------------- one delivery


@in_tenant("/deliveries/<delivery_id>")
def delivery(delivery_id: str) -> ResponseReturnValue:
    """One delivery with its body, what became of its alerts, and for an admin what was wrong with its signature."""
    found = domain.detail(db.session(), g.here.id, _id(delivery_id))
    finding = None
    if g.here.role is Role.ADMIN and _has_signature(found):
        finding = domain.diagnose(db.session(), services().vault, g.here.id, _id(delivery_id))
    return render_template("ui/delivery.html", delivery=found, body=_pretty(found["body"]), finding=finding)


def _has_signature(found: dict[str, Any]) -> bool:
    return not found["accepted"] and found["adapter"] == incidents.CANONICAL and found["reason"] == "unauthorized"


def _pretty(body: bytes) -> dict[str, Any]:
    """The body to read: indented where it is JSON, never more of it than a page holds."""
    try:
        text = json.dumps(parse_json(body), indent=2, ensure_ascii=False)
        kind = "JSON"
    except BadBody:
        text, kind = body.decode("utf-8", "replace"), "not JSON"
    text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return {"text": text[:MOST_BODY], "kind": kind, "left_out": max(0, len(text) - MOST_BODY)}


@in_tenant("/deliveries/<delivery_id>/body")
def delivery_body(delivery_id: str) -> ResponseReturnValue:
    """The bytes as they were kept, to save."""
    found = domain.detail(db.session(), g.here.id, _id(delivery_id))
    headers = {"Content-Disposition": f'attachment; filename="delivery-{found["id"]}.txt"'}
    return found["body"], 200, headers | {"Content-Type": "application/octet-stream"}


# ---------------------------------------------------------------- once more


@in_tenant("/deliveries/<delivery_id>/replay", role=Role.ADMIN)
def replay_preview(delivery_id: str) -> ResponseReturnValue:
    """What today's code would make of it; nothing changes."""
    found = domain.detail(db.session(), g.here.id, _id(delivery_id))
    problem = preview = None
    try:
        preview = replay.preview(db.session(), g.here.id, _id(delivery_id))
    except Conflict as conflict:
        problem = conflict
    alerts = [json.dumps(one, indent=2, ensure_ascii=False) for one in preview["alerts"]] if preview else []
    return render_template("ui/replay.html", delivery=found, preview=preview, alerts=alerts, problem=problem)


@in_tenant("/deliveries/<delivery_id>/replay", "POST", role=Role.ADMIN)
def replay_delivery(delivery_id: str) -> ResponseReturnValue:
    """Send it through the door once more."""
    domain.detail(db.session(), g.here.id, _id(delivery_id))  # what is not theirs leaves no trace of the form
    forms.once(db.session())
    db.session.commit()  # the door has a transaction of its own
    receipt = replay.replay(db.session(), g.here.id, _id(delivery_id), g.visitor.actor)
    flash(f"Replayed: {plural(len(receipt.outcomes), 'alert')} went through the door. This is the new delivery.")
    there = url_for("ui.delivery", tenant_slug=g.here.slug, delivery_id=receipt.delivery_id)
    return redirect(there, 303)
