"""What superadmins do for the whole installation: tenants, users, its health, the queue."""

from collections.abc import Callable

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from redis.exceptions import RedisError

from openremedy import audit, backlog, doctor, maintenance, people, registry, tenants
from openremedy.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from openremedy.extensions import db
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import superadmin
from openremedy.ui.words import plural

MOST_USERS = 200


# ---------------------------------------------------------------- tenants


@superadmin("/tenants")
def admin_tenants() -> ResponseReturnValue:
    """The page."""
    return tenants_page()


def tenants_page(problem: Problem | None = None, made: str | None = None, slug: str = "") -> ResponseReturnValue:
    """Every tenant, with what was wrong or the webhook secret of the one that was just made."""
    page = render_template(
        "ui/admin_tenants.html",
        problem=problem,
        made=made,
        slug=slug,
        tenants=tenants.all_tenants(db.session()),
        typed=request.form if problem else {},
        starter="starter" in request.form if problem else True,
    )
    return page, problem.status if problem else 200


@superadmin("/tenants", "POST")
def admin_create_tenant() -> ResponseReturnValue:
    """Make a tenant and show its webhook secret once."""
    session = db.session()
    create = tenants.create_with_recipes if "starter" in request.form else tenants.create_tenant
    try:
        asked = forms.every(slug=lambda: forms.needed("slug", 63), name=lambda: forms.text("name", 200))
        forms.once(session)
        made = create(session, services().vault, asked["slug"], asked["name"], actor=g.visitor.actor)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return tenants_page(problem)
    return tenants_page(made=made, slug=asked["slug"])


@superadmin("/tenants/<slug>/disable", "POST")
def admin_disable_tenant(slug: str) -> ResponseReturnValue:
    """Refuse whatever is sent to a tenant, and its members."""
    return _set_tenant_disabled(slug, True)


@superadmin("/tenants/<slug>/enable", "POST")
def admin_enable_tenant(slug: str) -> ResponseReturnValue:
    """Take it again."""
    return _set_tenant_disabled(slug, False)


def _set_tenant_disabled(slug: str, disabled: bool) -> ResponseReturnValue:
    if not slug.isprintable():
        raise NotFound()
    tenants.set_tenant_disabled(db.session(), slug, disabled, g.visitor.actor)
    flash(f"{slug} is {'disabled' if disabled else 'enabled'}.")
    return redirect(url_for("ui.admin_tenants"), 303)


# ---------------------------------------------------------------- users


@superadmin("/users")
def admin_users() -> ResponseReturnValue:
    """The page."""
    return users_page()


def users_page(problem: Problem | None = None, link: str | None = None, link_for: str = "") -> ResponseReturnValue:
    """Users whose address contains what the URL asks for, with what was wrong or the link that was just made."""
    part = request.args.get("q", "").strip()[:254]
    found = people.users(db.session(), part if part.isprintable() else "", MOST_USERS + 1)
    page = render_template(
        "ui/admin_users.html",
        problem=problem,
        link=link,
        link_for=link_for,
        part=part,
        users=found[:MOST_USERS],
        more=len(found) > MOST_USERS,
        memberships=people.memberships(db.session(), found[:MOST_USERS]),
        invitations=people.open_invitations(db.session(), None),
        hours=people.LINK_HOURS,
    )
    return page, problem.status if problem else 200


def _made(token: str, email: str) -> ResponseReturnValue:
    return users_page(link=people.link_url(services().settings.public_url, token), link_for=email)


@superadmin("/users/invite", "POST")
def admin_invite() -> ResponseReturnValue:
    """Make the link that makes somebody a superadmin, and show it once."""
    session = db.session()
    try:
        email = people.address_of(forms.text("email"))
        forms.once(session)
        return _made(people.invite_superadmin(session, email, g.visitor.actor), email)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return users_page(problem)


@superadmin("/users/invitations/<link_id>/revoke", "POST")
def admin_revoke_invitation(link_id: str) -> ResponseReturnValue:
    """Take the invitation of a superadmin back."""
    people.revoke_link(db.session(), None, link_id, g.visitor.actor)
    flash("The invitation is taken back.")
    return redirect(url_for("ui.admin_users"), 303)


@superadmin("/users/<user_id>/link", "POST")
def admin_reset_link(user_id: str) -> ResponseReturnValue:
    """Make the link with which a user chooses a new password, and show it once."""
    session = db.session()
    try:
        forms.once(session)
        user = people.get_user(session, user_id)
        return _made(people.reset_link(session, user, g.visitor.actor), user.email)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return users_page(problem)


def _change_user(change: Callable[[], None], words: str) -> ResponseReturnValue:
    try:
        change()
    except Conflict as problem:
        db.session.rollback()
        return users_page(problem)
    flash(words)
    return redirect(url_for("ui.admin_users"), 303)


@superadmin("/users/<user_id>/disable", "POST")
def admin_disable_user(user_id: str) -> ResponseReturnValue:
    """Let a user in no more."""
    change = lambda: people.set_disabled(db.session(), user_id, True, g.visitor.actor)  # noqa: E731
    return _change_user(change, "The user is disabled and signed out everywhere.")


@superadmin("/users/<user_id>/enable", "POST")
def admin_enable_user(user_id: str) -> ResponseReturnValue:
    """Let a user in again."""
    change = lambda: people.set_disabled(db.session(), user_id, False, g.visitor.actor)  # noqa: E731
    return _change_user(change, "The user may sign in again.")


@superadmin("/users/<user_id>/superadmin", "POST")
def admin_set_superadmin(user_id: str) -> ResponseReturnValue:
    """Let a user act for the whole installation, or no more."""
    wanted = request.form.get("superadmin") == "yes"
    words = "The user is a superadmin now." if wanted else "The user is no superadmin any more."
    return _change_user(lambda: people.set_superadmin(db.session(), user_id, wanted, g.visitor.actor), words)


# ---------------------------------------------------------------- health


@superadmin("/health")
def admin_health() -> ResponseReturnValue:
    """`flask doctor` as a page, with what is set and what runs."""
    checks = doctor.examine(services(), db.engine)
    return render_template(
        "ui/admin_health.html",
        checks=checks,
        failed=sum(check.status == doctor.FAIL for check in checks),
        warned=sum(check.status == doctor.WARN for check in checks),
        configuration=doctor.configuration(services().settings),
        versions=doctor.versions(db.engine),
        adapters=sorted(registry.adapters()),
    )


# ---------------------------------------------------------------- the queue


@superadmin("/queue")
def admin_queue() -> ResponseReturnValue:
    """The page."""
    return queue_page()


def queue_page(problem: Problem | None = None) -> ResponseReturnValue:
    """What Redis tells, or that it does not."""
    try:
        found = backlog.look(services().redis)
    except RedisError:
        found = None
    return render_template("ui/admin_queue.html", problem=problem, backlog=found), problem.status if problem else 200


@superadmin("/queue/requeue", "POST")
def admin_requeue() -> ResponseReturnValue:
    """Queue one failed job again, or all of them."""
    return _with_failed("job.requeued", backlog.requeue, "queued again")


@superadmin("/queue/delete", "POST")
def admin_delete_failed() -> ResponseReturnValue:
    """Forget one failed job, or all of them."""
    return _with_failed("job.deleted", backlog.delete_failed, "deleted")


def _with_failed(action: str, change: Callable[..., None], words: str) -> ResponseReturnValue:
    job_id = request.form.get("job_id", "")
    try:
        count = backlog.each_failed(services().redis, job_id or None, change)
    except RedisError:
        return queue_page(Unavailable("Redis does not answer, so nothing was changed."))
    db.session.add(audit.line(g.visitor.actor, None, action, job_id or "all failed jobs", count=count))
    db.session.commit()
    flash(f"{plural(count, 'job')} {words}.")
    return redirect(url_for("ui.admin_queue"), 303)


@superadmin("/queue/sweep", "POST")
def admin_sweep() -> ResponseReturnValue:
    """Look for lost work now; the scheduler does it every 30 seconds."""
    found = maintenance.sweep(services(), db.engine)
    db.session.add(audit.line(g.visitor.actor, None, "queue.swept", "", **found))
    db.session.commit()
    flash("Swept: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.items()) + ".")
    return redirect(url_for("ui.admin_queue"), 303)
