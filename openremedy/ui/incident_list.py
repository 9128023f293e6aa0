"""The list of incidents: what is shown is in the URL, so that it can be shared and survives a reload."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from openremedy import incidents as domain
from openremedy.alerts import IncidentType, Severity
from openremedy.errors import Invalid
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.incidents import BulkAction
from openremedy.models import Recipe, Role, Source, Triage
from openremedy.search import Filters, Sort
from openremedy.services import services
from openremedy.ui.access import in_tenant
from openremedy.ui.words import plural

PAGE = 50
ACTIONS = {
    BulkAction.ACKNOWLEDGE: "acknowledged",
    BulkAction.RESOLVE: "resolved",
    BulkAction.RECLASSIFY: "sent to be classified again",
}
STATUSES = {"": "Active", "open": "Open", "acknowledged": "Acknowledged", "resolved": "Resolved", "any": "Any"}
SORTS = {"": "Newest", "last_seen": "Last seen", "severity": "Severity", "occurrences": "Most often"}


@dataclass(frozen=True)
class Shown:
    """What the URL asks for; anything that is no answer of ours is left out."""

    status: str = ""
    severity: str = ""
    incident_type: str = ""
    source: str = ""
    recipe: str = ""
    classification: str = ""
    hostname: str = ""
    q: str = ""
    sort: str = ""

    @classmethod
    def of(cls, values: Any) -> "Shown":
        """From the query of a URL."""
        given = {one.name: _clean(values.get(one.name, "")) for one in fields(cls)}
        known: dict[str, Any] = {
            "status": STATUSES,
            "severity": list(Severity),
            "incident_type": list(IncidentType),
            "classification": list(Triage),
            "sort": SORTS,
        }
        if not (given["source"].isascii() and given["source"].isdigit() and len(given["source"]) < 18):
            given["source"] = ""
        return cls(**{name: value for name, value in given.items() if name not in known or value in known[name]})

    @property
    def order(self) -> Sort:
        """As the domain takes it."""
        return Sort(self.sort or Sort.NEWEST)

    @property
    def filters(self) -> Filters:
        """As the domain takes them."""
        return Filters(
            status=self.status if self.status in ("open", "acknowledged", "resolved") else None,
            open_only=not self.status,
            severity=self.severity or None,
            incident_type=self.incident_type or None,
            source_id=int(self.source) if self.source.isdigit() else None,
            recipe=self.recipe or None,
            classification=self.classification or None,
            hostname=self.hostname or None,
            q=self.q or None,
        )

    def url(self, endpoint: str = "incidents", **changes: Any) -> str:
        """The address of this list, with something changed; it begins at the top again."""
        names = {one.name for one in fields(self)}
        changed = replace(self, **{name: value for name, value in changes.items() if name in names})
        query = {one.name: getattr(changed, one.name) or None for one in fields(self)}
        query |= {name: value for name, value in changes.items() if name not in names}
        return url_for(f"ui.{endpoint}", tenant_slug=g.here.slug, **query)

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out beyond what is resolved."""
        return replace(self, sort="", status="") != Shown() or self.status not in ("", "any")


def _clean(text: str) -> str:
    return text.strip()[:200] if not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text) else ""


# ---------------------------------------------------------------- the list


@in_tenant("/incidents")
def incidents() -> ResponseReturnValue:
    """A page of incidents, newest first unless told otherwise."""
    state = Shown.of(request.args)
    after = request.args.get("after")
    page = domain.listed(db.session(), g.here.id, state.filters, sort=state.order, cursor=after, limit=PAGE)
    return render_template(
        "ui/incidents.html",
        state=state,
        page=page,
        count=domain.count_up_to(db.session(), g.here.id, state.filters),
        newest=domain.newest(db.session(), g.here.id),
        statuses=STATUSES,
        sorts=SORTS,
        severities=list(Severity),
        types=list(IncidentType),
        triages=list(Triage),
        sources=db.session.execute(
            select(Source.id, Source.name).where(Source.tenant_id == g.here.id).order_by(Source.name)
        ).all(),
        recipes=db.session.execute(
            select(Recipe.slug, Recipe.title).where(Recipe.tenant_id == g.here.id).order_by(Recipe.title)
        ).all(),
        digest=_digest(page.items),
    )


def _digest(items: list[dict[str, Any]]) -> str:
    """Tells whether the rows of an open page have changed."""
    said = [
        (one["id"], one["status"], one["severity"], one["occurrences"], one["last_seen"], one["classification"])
        for one in items
    ]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


@in_tenant("/incidents/live")
def incidents_live() -> ResponseReturnValue:
    """What has changed on an open page: its rows in place, and how many came since; nothing jumps."""
    state = Shown.of(request.args)
    ids = [found for text in request.args.get("ids", "").split(",")[:PAGE] if (found := parse_id(text))]
    newest = parse_id(request.args.get("newest", ""))
    items = domain.of_ids(db.session(), g.here.id, ids)
    since = domain.count_since(db.session(), g.here.id, state.filters, newest) if newest else 0
    digest = _digest(items)
    if digest == request.args.get("digest") and str(since) == request.args.get("since", "0"):
        return "", 204
    return render_template("ui/incidents_live.html", state=state, items=items, since=since, digest=digest)


@in_tenant("/incidents/act", "POST", role=Role.RESPONDER)
def act_on_incidents() -> ResponseReturnValue:
    """One action on the incidents that are ticked, or on all that match."""
    state = Shown.of(request.args)
    action = next((one for one in ACTIONS if one == request.form.get("action")), None)
    if action is None:
        raise Invalid("Choose what is to be done with them.")
    chosen: Any = state.filters
    if request.form.get("scope") != "matching":
        chosen = [found for text in request.form.getlist("id")[:PAGE] if (found := parse_id(text))]
    back = redirect(state.url(after=request.args.get("after")), 303)
    if not chosen:
        flash("Nothing was ticked, so nothing was changed.", "warn")
        return back
    done = domain.act_on_all(db.engine, g.here.id, chosen, action, g.visitor.actor)
    if action is BulkAction.RECLASSIFY:
        services().waker.wake()
    kept = f" {plural(done['unchanged'], 'other')} had nothing to change." if done["unchanged"] else ""
    flash(f"{plural(done['changed'], 'incident')} {ACTIONS[action]}.{kept}")
    return back
