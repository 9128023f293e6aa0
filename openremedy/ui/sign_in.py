"""Signing in and out, one-time links, and one's own account."""

from flask import flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_limiter.errors import RateLimitExceeded

from openremedy import audit, people
from openremedy.addresses import client_key
from openremedy.audit import Actor
from openremedy.errors import Forbidden, NotFound, Problem, RateLimited
from openremedy.extensions import db, limiter
from openremedy.models import Link, LinkPurpose, Tenant, User
from openremedy.people import Browser
from openremedy.services import services
from openremedy.ui import access
from openremedy.ui.access import TOKEN, anyone, signed_in

WINDOW = "15 minutes"
PER_ACCOUNT_HERE = f"10 per {WINDOW}"
PER_ADDRESS = f"60 per {WINDOW}"
PER_ACCOUNT = f"100 per {WINDOW}"


# ---------------------------------------------------------------- how often a password may be tried


# The address stands first: it has no blank, so that no two pairs have the same key, whatever is typed.
@limiter.shared_limit(PER_ACCOUNT_HERE, scope="password-account-here", key_func=lambda: f"{client_key()} {g.trying}")
def _charge_here() -> None:
    """Count a password of this account from this address."""


@limiter.shared_limit(PER_ADDRESS, scope="password-address", key_func=client_key)
def _charge_address() -> None:
    """Count a password from this address."""


@limiter.shared_limit(PER_ACCOUNT, scope="password-account", key_func=lambda: g.trying)
def _charge_account() -> None:
    """Count a password of this account from anywhere."""


def charge_password(email: str) -> None:
    """Count one more password that is tried. Raises RateLimited.

    Many addresses together may try an account only so often; where its owner has signed in before, that does not
    count, so strangers cannot lock them out.
    """
    g.trying = email.strip().lower()[:254]
    try:
        _charge_here()
        _charge_address()
        if not people.came_from_here(db.session(), email, client_key()):
            _charge_account()
    except RateLimitExceeded as error:
        raise RateLimited("Too many passwords were tried. Wait a quarter of an hour, then try again.") from error
    finally:
        db.session.rollback()


def charge_address() -> None:
    """Count one more who comes back from the identity provider, with the passwords. Raises RateLimited."""
    try:
        _charge_address()
    except RateLimitExceeded as error:
        raise RateLimited("Too many sign-ins were tried. Wait a quarter of an hour, then try again.") from error


# ---------------------------------------------------------------- in and out


def browser() -> Browser:
    """Where this request comes from."""
    return Browser(client_key(), request.headers.get("User-Agent", ""))


def actor_named(email: str) -> Actor:
    """Somebody who is not signed in yet, as the audit log names them."""
    return Actor(email, client_key(), g.request_id)


@anyone("/sign-in")
def sign_in() -> ResponseReturnValue:
    """The form."""
    if access.visitor():
        return redirect(access.own_path(request.args.get("next")) or url_for("ui.home"))
    return sign_in_page()


def ended_page(problem: Problem) -> ResponseReturnValue:
    """The form in place of a page whose reader's sign-in has ended: it leads back there."""
    return sign_in_page(problem, request.full_path.rstrip("?") if request.method == "GET" else None)


def sign_in_page(problem: Problem | None = None, following: str | None = None) -> ResponseReturnValue:
    """The form, with what was wrong, and where to go afterwards."""
    page = render_template(
        "ui/sign_in.html",
        problem=problem,
        next=access.own_path(request.values.get("next") or following),
        email=request.form.get("email", "")[:254],
        anybody=people.anybody(db.session()),
    )
    return page, problem.status if problem else 200


@anyone("/sign-in", "POST")
def do_sign_in() -> ResponseReturnValue:
    """Check the password; a new session takes the place of the one before."""
    email, password = request.form.get("email", ""), request.form.get("password", "")
    try:
        charge_password(email)
        token = people.sign_in(db.session(), email, password, browser(), actor_named(email.strip().lower()[:254]))
    except Problem as problem:
        return sign_in_page(problem)
    return let_in(token, access.own_path(request.values.get("next")))


def let_in(token: str, following: str | None = None) -> ResponseReturnValue:
    """Go on as somebody who is signed in. Nothing of the session before stays, so none can be planted."""
    session.clear()
    session[TOKEN] = token
    session.permanent = True
    return redirect(following or url_for("ui.home"), 303)


@anyone("/sign-out", "POST")
def sign_out() -> ResponseReturnValue:
    """End the sign-in of this browser; again changes nothing."""
    visitor = access.visitor()
    if visitor:
        people.sign_out(db.session(), visitor.sign_in_id)
    session.clear()
    return redirect(url_for("ui.sign_in"), 303)


@signed_in("/")
def home() -> ResponseReturnValue:
    """The overview of the tenant, or the choice of one."""
    places = people.places(db.session(), people.get_user(db.session(), str(g.visitor.user_id)))
    if len(places) == 1:
        return redirect(url_for("ui.overview", tenant_slug=places[0].tenant.slug))
    return render_template("ui/home.html", choice=places)


# ---------------------------------------------------------------- one-time links


@anyone("/link/<token>")
def link(token: str) -> ResponseReturnValue:
    """What the link offers, and the form to take it."""
    return link_page(token)


def link_page(token: str, problem: Problem | None = None) -> ResponseReturnValue:
    """The form, with what was wrong."""
    found = people.find_link(db.session(), token)
    if found is None or (found.purpose is LinkPurpose.SETUP and people.anybody(db.session())):
        raise NotFound("This link has been used, or its time is over. Ask for a new one.")
    page = render_template(
        "ui/link.html",
        link=found,
        token=token,
        problem=problem,
        tenant=db.session.get(Tenant, found.tenant_id) if found.tenant_id else None,
        known=_invited(found),
        email=request.form.get("email", "")[:254],
    )
    return page, problem.status if problem else 200


def _invited(found: Link) -> User | None:
    """Who is invited, where they have an account already."""
    return people.find_user(db.session(), found.email or "") if found.purpose is LinkPurpose.INVITE else None


@anyone("/link/<token>", "POST")
def take_link(token: str) -> ResponseReturnValue:
    """Take the offer, and sign in."""
    # A link for somebody counts as a try of their password, whatever address the form says.
    found = people.find_link(db.session(), token)
    email, password = (found and found.email) or request.form.get("email", ""), request.form.get("password", "")
    try:
        charge_password(email)
        user = people.use_link(db.session(), token, email, password, actor_named(email))
    except NotFound:
        raise
    except Problem as problem:
        return link_page(token, problem)
    return let_in(people.let_in(db.session(), user, browser(), actor_named(user.email), "by link"))


# ---------------------------------------------------------------- one's own account


@signed_in("/account")
def account() -> ResponseReturnValue:
    """Password and sign-ins of the visitor."""
    return account_page()


def account_page(problem: Problem | None = None) -> ResponseReturnValue:
    """The page, with what was wrong."""
    page = render_template(
        "ui/account.html", sign_ins=people.sign_ins(db.session(), g.visitor.user_id), problem=problem
    )
    return page, problem.status if problem else 200


@signed_in("/account/password", "POST")
def change_password() -> ResponseReturnValue:
    """Give oneself a new password; every other browser is signed out."""
    user = people.get_user(db.session(), str(g.visitor.user_id))
    try:
        charge_password(g.visitor.email)
        people.change_password(
            db.session(),
            user,
            request.form.get("current", ""),
            request.form.get("password", ""),
            g.visitor.actor,
            g.visitor.sign_in_id,
        )
    except Problem as problem:
        return account_page(problem)
    flash("Your password is changed, and every other browser is signed out.")
    return redirect(url_for("ui.account"), 303)


@signed_in("/account/sign-out-others", "POST")
def sign_out_others() -> ResponseReturnValue:
    """End every other sign-in of the visitor."""
    people.end_sign_ins(db.session(), g.visitor.user_id, g.visitor.sign_in_id)
    db.session.add(audit.line(g.visitor.actor, None, "user.signed_out_elsewhere", g.visitor.email))
    db.session.commit()
    flash("Every other browser is signed out.")
    return redirect(url_for("ui.account"), 303)


def check_again(password: str) -> None:
    """Take the visitor's password once more, before a secret is shown. Raises RateLimited, Forbidden.

    Who has none comes back from the identity provider instead: `ui.password_again` offers the way.
    """
    if not g.visitor.has_password:
        return _check_shown()
    charge_password(g.visitor.email)
    user = people.get_user(db.session(), str(g.visitor.user_id))
    if not people.check_password(user, password):
        raise Forbidden("This is not your password.")
    db.session.rollback()
    return None


def _check_shown() -> None:
    if not g.visitor.confirmed:
        raise Forbidden(f"Sign in again with {services().settings.oidc_name} first; that counts for ten minutes.")
