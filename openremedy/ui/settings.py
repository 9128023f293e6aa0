"""What an admin sets for a tenant: its webhook secret, its name, the classifier, how long things are kept."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from openremedy import doctor, tenants
from openremedy.classifier.shapes import ANSWER_THRESHOLD, MODEL_THRESHOLD
from openremedy.client_examples import examples
from openremedy.errors import Conflict, Forbidden, Invalid, Problem, RateLimited
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.services import services
from openremedy.sources import url_of
from openremedy.tenants import LOWEST_THRESHOLD, MAX_NAME, MAX_RETENTION, MAX_TOKENS
from openremedy.ui import forms
from openremedy.ui.access import in_tenant
from openremedy.ui.sign_in import check_again

MOST_GRACE = 24 * 365  # hours
GRACE = 24


@in_tenant("/settings", role=Role.ADMIN)
def settings() -> ResponseReturnValue:
    """The page."""
    return settings_page()


def settings_page(
    problem: Problem | None = None,
    revealed: Mapping[int, str | None] | None = None,
    made: str | None = None,
    typed: Mapping[str, Any] | None = None,
) -> ResponseReturnValue:
    """The page: with secrets just `revealed`, one just `made`, or a form as it was `typed` and what was wrong."""
    tenant = tenants.get_tenant(db.session(), g.here.id)
    page = render_template(
        "ui/settings.html",
        problem=problem,
        tenant=tenant,
        typed=typed or tenants.settings_of(tenant),
        secrets=tenants.live_secrets(db.session(), g.here.id),
        revealed=revealed,
        made=made,
        grace=request.form.get("grace", GRACE),
        url=url_of(services().settings.public_url, g.here.slug, "alerts"),
        examples=examples(services().settings.public_url, g.here.slug),
        tokens_today=tenants.tokens_today(db.session(), g.here.id),
        answer_threshold=ANSWER_THRESHOLD,
        model_threshold=MODEL_THRESHOLD,
        lowest_threshold=LOWEST_THRESHOLD,
        model_host=doctor.host_of_model(services().settings),
        installation=services().settings,
    )
    return page, problem.status if problem else 200


@in_tenant("/settings", "POST", role=Role.ADMIN)
def change_settings() -> ResponseReturnValue:
    """Keep what was chosen."""
    try:
        chosen = forms.every(
            name=lambda: forms.text("name", MAX_NAME),
            answer_threshold=lambda: forms.fraction("answer_threshold", LOWEST_THRESHOLD, 1),
            daily_tokens=lambda: forms.whole("daily_tokens", 0, MAX_TOKENS),
            retention_days=lambda: forms.whole("retention_days", 1, MAX_RETENTION),
        )
        chosen |= {"installation": services().settings, "model_allowed": "model_allowed" in request.form}
        tenants.change_settings(db.session(), g.here.id, g.visitor.actor, **chosen)
    except Invalid as problem:
        db.session.rollback()
        return settings_page(problem, typed=request.form)
    flash("The settings are saved.")
    return redirect(url_for("ui.settings", tenant_slug=g.here.slug), 303)


# ---------------------------------------------------------------- the webhook secret


@in_tenant("/settings/secret/reveal", "POST", role=Role.ADMIN)
def reveal_secret() -> ResponseReturnValue:
    """Show the live secrets in this one answer, after the password."""
    try:
        check_again(request.form.get("password", ""))
    except (Forbidden, RateLimited) as problem:
        problem.fields = {"password": [problem.message]}
        return settings_page(problem)
    found = tenants.reveal_secrets(db.session(), services().vault, g.here.slug, g.here.id, g.visitor.actor)
    return settings_page(revealed=found)


@in_tenant("/settings/secret/rotate", "POST", role=Role.ADMIN)
def rotate_secret() -> ResponseReturnValue:
    """Make a new secret and show it once."""
    session = db.session()
    try:
        hours = forms.whole("grace", 0, MOST_GRACE)
        grace = timedelta(hours=GRACE if hours is None else hours)
        forms.once(session)
        made, _until = tenants.rotate_secret(session, services().vault, g.here.slug, grace, g.visitor.actor)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return settings_page(problem)
    return settings_page(made=made)


@in_tenant("/settings/secret/end", "POST", role=Role.ADMIN)
def end_secret() -> ResponseReturnValue:
    """End a previous secret now."""
    try:
        tenants.end_secret(db.session(), g.here.id, request.form.get("secret_id", ""), g.visitor.actor)
    except Conflict as problem:
        db.session.rollback()
        return settings_page(problem)
    flash("The previous secret has ended.")
    return redirect(url_for("ui.settings", tenant_slug=g.here.slug), 303)
