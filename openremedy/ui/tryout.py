"""Trying a recipe against the last incidents before it is saved: a worker does it, the page waits for it."""

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from openremedy.errors import Invalid, NotFound
from openremedy.models import Role
from openremedy.recipe_form import spec_from_form
from openremedy.services import services
from openremedy.tryout_queue import read_tryout, start_tryout
from openremedy.ui.access import in_tenant
from openremedy.ui.recipes import form_values


@in_tenant("/recipe-try", "POST", role=Role.ADMIN)
def try_recipe() -> ResponseReturnValue:
    """Ask a worker what the recipe in the form would change; nothing is stored."""
    try:
        spec = spec_from_form(form_values(None))
    except Invalid as problem:
        if request.headers.get("HX-Request"):
            # Shown in place of the result: htmx leaves out what is not a success.
            return render_template("ui/tryout.html", problem=problem, found=None, job_id=None)
        raise
    job_id = start_tryout(services(), g.here.id, spec.slug, spec)
    there = url_for("ui.tryout", tenant_slug=g.here.slug, job_id=job_id)
    if request.headers.get("HX-Request"):
        return tryout_part(job_id)
    return redirect(there, 303)


@in_tenant("/recipe-try/<job_id>", role=Role.ADMIN)
def tryout(job_id: str) -> ResponseReturnValue:
    """What has been found: a part of the editor's page, or a page of its own where there is no script."""
    if request.headers.get("HX-Request"):
        return tryout_part(job_id)
    return render_template("ui/tryout_page.html", **_found(job_id))


def tryout_part(job_id: str) -> ResponseReturnValue:
    """The part of a page that waits for it."""
    return render_template("ui/tryout.html", **_found(job_id))


def _found(job_id: str) -> dict[str, object]:
    found = read_tryout(services(), g.here.id, job_id)
    if found is None:
        raise NotFound("This try-out is over; start it again.")
    return {"found": found, "job_id": job_id, "problem": None}
