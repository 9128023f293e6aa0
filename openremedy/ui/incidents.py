"""Incidents: one of them, with everything that is known about it and what a person may do."""

import uuid
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from openremedy import incidents as domain
from openremedy import outgoing
from openremedy.alerts import compact
from openremedy.errors import Invalid, NotFound
from openremedy.evidence_tree import tree
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.models import Recipe, Role, Verdict
from openremedy.overview import related
from openremedy.services import services
from openremedy.ui import access, forms
from openremedy.ui.access import in_tenant
from openremedy.ui.timeline import sentences

WAITING = ("pending", "classifying")


def id_of(text: str) -> uuid.UUID:
    """The id in a URL. Raises NotFound."""
    found = parse_id(text)
    if found is None:
        raise NotFound()
    return found


# ---------------------------------------------------------------- one incident


@in_tenant("/incidents/<incident_id>")
def incident(incident_id: str) -> ResponseReturnValue:
    """What broke where since when, which recipe fits and why, and what happened."""
    found = domain.detail(db.session(), g.here.id, id_of(incident_id))
    return render_template("ui/incident.html", **shown(found))


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What the templates of an incident need."""
    verdict = found["verdict"]
    cited = [one["pointer"] for one in verdict["citations"]] if verdict else []
    return {
        "incident": found,
        "verdict": verdict,
        "recipe": _recipe(verdict["recipe"]) if verdict and verdict["recipe"] else None,
        "titles": _titles(),
        "root": tree(found["evidence"], cited),
        "timeline": sentences(found["timeline"]),
        "related": related(db.session(), g.here.id, id_of(found["id"])),
        "waiting": found["classification"] in WAITING,
        "engines": outgoing.engines(db.session(), g.here.id) if found["status"] != "resolved" else [],
        "model": services().settings.model_enabled,
        "mark": mark(found),
    }


def _recipe(slug: str) -> Recipe | None:
    return db.session.scalar(select(Recipe).where(Recipe.tenant_id == g.here.id, Recipe.slug == slug))


def _titles() -> dict[str, str]:
    """The titles of the recipes that may be chosen, by slug."""
    statement = select(Recipe.slug, Recipe.title).where(Recipe.tenant_id == g.here.id, Recipe.enabled)
    return {row.slug: row.title for row in db.session.execute(statement.order_by(Recipe.title))}


@in_tenant("/incidents/<incident_id>/verdict")
def incident_verdict(incident_id: str) -> ResponseReturnValue:
    """The verdict alone, for a page that waits for it."""
    found = domain.detail(db.session(), g.here.id, id_of(incident_id))
    return render_template("ui/incident_verdict.html", **shown(found))


@in_tenant("/incidents/<incident_id>/changes")
def incident_changes(incident_id: str) -> ResponseReturnValue:
    """Says that the incident has changed since the page was opened (`since`: its mark), or nothing."""
    found = domain.of_ids(db.session(), g.here.id, [id_of(incident_id)])
    if not found:
        raise NotFound()
    changed = mark(found[0]) != request.args.get("since", "")
    return render_template("ui/incident_changes.html", incident_id=incident_id, changed=changed)


def mark(found: dict[str, Any]) -> str:
    """What of an incident a page that is open should be loaded anew for."""
    settled = "waiting" if found["classification"] in WAITING else found["classification"]
    judged_at = found["verdict"]["created_at"] if found["verdict"] else "never"
    return f"{found['status']}-{settled}-{found['severity']}-{judged_at}"


@in_tenant("/incidents/<incident_id>/evidence.json")
def incident_evidence(incident_id: str) -> ResponseReturnValue:
    """The whole evidence, to keep."""
    found = domain.detail(db.session(), g.here.id, id_of(incident_id))
    headers = {
        "Content-Type": "application/json",
        "Content-Disposition": f'attachment; filename="evidence-{found["id"]}.json"',
    }
    return compact(found["evidence"]).encode("utf-8", "backslashreplace"), 200, headers


# ---------------------------------------------------------------- what a responder does


def _back(incident_id: str) -> ResponseReturnValue:
    """To where the button was: a list or the queue says so, else the incident."""
    following = access.own_path(request.form.get("back"))
    return redirect(following or url_for("ui.incident", tenant_slug=g.here.slug, incident_id=incident_id), 303)


@in_tenant("/incidents/<incident_id>/acknowledge", "POST", role=Role.RESPONDER)
def acknowledge_incident(incident_id: str) -> ResponseReturnValue:
    """Say that somebody looks at it."""
    domain.acknowledge(db.engine, g.here.id, id_of(incident_id), g.visitor.actor)
    found = domain.of_ids(db.session(), g.here.id, [id_of(incident_id)])
    if found[0]["status"] == "resolved":
        flash("It is resolved already: there was nothing to acknowledge.", "warn")
    else:
        flash("Acknowledged: the others see that you look at it.")
    return _back(incident_id)


@in_tenant("/incidents/<incident_id>/resolve", "POST", role=Role.RESPONDER)
def resolve_incident(incident_id: str) -> ResponseReturnValue:
    """Say that it is over."""
    domain.resolve(db.engine, g.here.id, id_of(incident_id), g.visitor.actor)
    flash("Resolved. If it still burns, its next alert opens a new incident.")
    return _back(incident_id)


@in_tenant("/incidents/<incident_id>/reclassify", "POST", role=Role.RESPONDER)
def reclassify_incident(incident_id: str) -> ResponseReturnValue:
    """Ask for a fresh verdict."""
    domain.reclassify(db.engine, g.here.id, id_of(incident_id), g.visitor.actor)
    services().waker.wake()
    flash("A fresh verdict is on its way.")
    return _back(incident_id)


ANSWERS = {
    "confirm": "Thank you: confirmed, and counted on the recipe's scorecard.",
    "correct": "Thank you: corrected, and the next incident of this cause gets your answer.",
    "none": "Thank you: noted that no recipe fits.",
}
RULE_DECIDES = (
    "Thank you: corrected. The next incident of this cause is again decided by the condition of {}: change it there."
)


@in_tenant("/incidents/<incident_id>/feedback", "POST", role=Role.RESPONDER)
def answer_incident(incident_id: str) -> ResponseReturnValue:
    """Confirm the verdict, pick another recipe, or say that none fits."""
    answer, recipe = request.form.get("answer", ""), forms.text("recipe", 200) or None
    if answer not in ANSWERS:
        raise Invalid("Confirm, pick another recipe, or say that none fits.")
    domain.feedback(db.engine, g.here.id, id_of(incident_id), answer, recipe, g.visitor.actor)
    ruled_by = _ruled_by(id_of(incident_id)) if answer == "correct" else None
    flash(RULE_DECIDES.format(ruled_by) if ruled_by else ANSWERS[answer])
    return _back(incident_id)


def _ruled_by(incident_id: uuid.UUID) -> str | None:
    """The recipe whose condition decided before people answered: it comes before any earlier answer."""
    statement = select(Verdict.tier, Verdict.recipe).where(
        Verdict.tenant_id == g.here.id, Verdict.incident_id == incident_id, Verdict.tier != "person"
    )
    last = db.session.execute(statement.order_by(Verdict.id.desc()).limit(1)).first()
    return last.recipe if last and last.tier == "rule" else None
