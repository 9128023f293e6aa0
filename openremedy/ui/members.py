"""Who may act in a tenant: its members and invitations, and the tokens of programs."""

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from openremedy import people, tenants
from openremedy.errors import Conflict, Invalid, Problem
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import in_tenant

MEANING = {
    Role.VIEWER: "Sees everything of this tenant and changes nothing.",
    Role.RESPONDER: "Also acknowledges, resolves, confirms and corrects.",
    Role.ADMIN: "Also changes recipes, sources, members, tokens, the secret and the settings.",
}


@in_tenant("/members", role=Role.ADMIN)
def members() -> ResponseReturnValue:
    """The page."""
    return members_page()


def members_page(problem: Problem | None = None, link: str | None = None, invited: str = "") -> ResponseReturnValue:
    """Members and open invitations, with what was wrong or the link that was just made for `invited`."""
    page = render_template(
        "ui/members.html",
        problem=problem,
        link=link,
        invited=invited,
        members=people.members(db.session(), g.here.id),
        invitations=people.open_invitations(db.session(), g.here.id),
        meaning=MEANING,
        hours=people.LINK_HOURS,
    )
    return page, problem.status if problem else 200


@in_tenant("/members/invite", "POST", role=Role.ADMIN)
def invite_member() -> ResponseReturnValue:
    """Make the link that lets somebody in, and show it once."""
    session = db.session()
    try:
        asked = forms.every(
            email=lambda: people.address_of(forms.text("email")), role=lambda: forms.one_of("role", Role)
        )
        forms.once(session)
        token = people.invite(session, asked["email"], g.here.id, asked["role"], g.visitor.actor)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return members_page(problem)
    return members_page(link=people.link_url(services().settings.public_url, token), invited=asked["email"])


@in_tenant("/members/invitations/<link_id>/revoke", "POST", role=Role.ADMIN)
def revoke_invitation(link_id: str) -> ResponseReturnValue:
    """Take an invitation back."""
    people.revoke_link(db.session(), g.here.id, link_id, g.visitor.actor)
    flash("The invitation is taken back.")
    return redirect(url_for("ui.members", tenant_slug=g.here.slug), 303)


@in_tenant("/members/<user_id>/role", "POST", role=Role.ADMIN)
def change_role(user_id: str) -> ResponseReturnValue:
    """Change what a member may."""
    try:
        people.set_role(db.session(), g.here.id, user_id, forms.one_of("role", Role), g.visitor.actor)
    except (Invalid, Conflict) as problem:
        db.session.rollback()
        return members_page(problem)
    flash("The role is changed.")
    return redirect(url_for("ui.members", tenant_slug=g.here.slug), 303)


@in_tenant("/members/<user_id>/remove", "POST", role=Role.ADMIN)
def remove_member(user_id: str) -> ResponseReturnValue:
    """End a membership."""
    try:
        people.remove_member(db.session(), g.here.id, user_id, g.visitor.actor)
    except Conflict as problem:
        db.session.rollback()
        return members_page(problem)
    flash("The member is removed, and signed out everywhere.")
    return redirect(url_for("ui.members", tenant_slug=g.here.slug), 303)


# ---------------------------------------------------------------- programs


@in_tenant("/tokens", role=Role.ADMIN)
def tokens() -> ResponseReturnValue:
    """The page."""
    return tokens_page()


def tokens_page(problem: Problem | None = None, made: str | None = None) -> ResponseReturnValue:
    """The live tokens, with what was wrong or the one that was just made."""
    page = render_template(
        "ui/tokens.html",
        problem=problem,
        made=made,
        tokens=tenants.list_tokens(db.session(), g.here.id),
        meaning=MEANING,
        api=f"{services().settings.public_url}/api/v1/incidents",
        name=request.form.get("name", "") if problem else "",
        role=request.form.get("role", str(Role.VIEWER)),
    )
    return page, problem.status if problem else 200


@in_tenant("/tokens", "POST", role=Role.ADMIN)
def create_token() -> ResponseReturnValue:
    """Make a token and show it once."""
    session = db.session()
    try:
        asked = forms.every(name=lambda: forms.needed("name", 200), role=lambda: forms.one_of("role", Role))
        forms.once(session)
        made = tenants.create_token(session, g.here.slug, asked["role"], asked["name"], g.visitor.actor)
    except (Invalid, Conflict) as problem:
        session.rollback()
        return tokens_page(problem)
    return tokens_page(made=made)


@in_tenant("/tokens/<token_id>/revoke", "POST", role=Role.ADMIN)
def revoke_token(token_id: str) -> ResponseReturnValue:
    """End a token now."""
    tenants.revoke_token(db.session(), g.here.id, token_id, g.visitor.actor)
    flash("The token is revoked.")
    return redirect(url_for("ui.tokens", tenant_slug=g.here.slug), 303)
