"""Single sign-on: off to the identity provider, and back."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from flask import current_app, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from openremedy import people
from openremedy.errors import NotFound, Problem
from openremedy.extensions import db
from openremedy.models import now
from openremedy.services import services
from openremedy.ui import access, sign_in
from openremedy.ui.access import Ended, anyone

if TYPE_CHECKING:
    from openremedy.identity import Provider

KEY = "openremedy.identity"
UNDER_WAY = "oidc"  # in the session; one at a time, for a cookie is small
LONGEST = timedelta(minutes=10)  # between the button and the way back
MAX_NEXT = 1500  # of a cookie's 4096 bytes


class NotUnderWay(Problem):
    """Nobody was sent to the provider from this browser lately, or they have come back already."""

    status = 400
    message = "This sign-in was not started in this browser, took too long, or has been used. Please start again."


def provider() -> "Provider":
    """The identity provider. Raises NotFound when there is none."""
    settings = services().settings
    if settings.oidc_issuer is None:
        raise NotFound()
    kept = current_app.extensions
    if KEY not in kept:
        from openremedy.identity import Provider  # only here: its libraries cost time and memory at the start

        kept[KEY] = Provider(settings)
    return cast("Provider", kept[KEY])


def redirect_uri() -> str:
    """Where the provider sends people back to; it knows this address by heart."""
    return services().settings.public_url + url_for("ui.oidc_callback")


@anyone("/sign-in/oidc", "POST")
def start_oidc() -> ResponseReturnValue:
    """To the provider; with `again` it asks for the password anew, for somebody who is signed in here.

    The answer is a page that moves on and not a redirect: browsers hold each hop that follows a form against
    form-action, and that the provider's are ours is not so.
    """
    known = provider()
    following = _short(access.own_path(request.form.get("next")))
    again = request.form.get("again") == "1"
    try:
        if again and access.visitor() is None:
            raise Ended()
        leaving = known.depart(redirect_uri(), again)
    except Problem as problem:
        return sign_in.sign_in_page(problem, following)
    session[UNDER_WAY] = {
        "state": leaving.state,
        "nonce": leaving.nonce,
        "verifier": leaving.verifier,
        "again": again,
        "next": following,
        "at": now().timestamp(),
    }
    return render_template("ui/leaving.html", url=leaving.url)


def _short(path: str | None) -> str | None:
    return path if path and len(path) <= MAX_NEXT else None


@anyone("/sign-in/oidc/callback")
def oidc_callback() -> ResponseReturnValue:
    """Back from the provider."""
    known = provider()
    visitor = access.visitor()
    # What was read so far is done with: the provider may take seconds, and then there is something to write.
    db.session.rollback()
    following = None
    try:
        sign_in.charge_address()
        mine = _under_way()
        following = mine["next"]
        identity = known.identify(redirect_uri(), request.args, mine["nonce"], mine["verifier"])
        if mine["again"]:
            return _confirmed(visitor, identity, mine)
        actor = sign_in.actor_named(identity.address or identity.subject)
        user = people.arrive(db.session(), identity, actor)
        return _let_in(user, identity, following)
    except Problem as problem:
        db.session.rollback()
        return sign_in.sign_in_page(problem, following)


def _under_way() -> dict[str, Any]:
    """What was kept when this browser left, this once. Raises NotUnderWay."""
    mine = session.get(UNDER_WAY)
    # Somebody else's link to here ends nothing that is under way.
    if not mine or mine["state"] != request.args.get("state"):
        raise NotUnderWay()
    del session[UNDER_WAY]
    if now() - datetime.fromtimestamp(mine["at"], UTC) > LONGEST:
        raise NotUnderWay()
    return cast(dict[str, Any], mine)


def _confirmed(visitor: access.Visitor | None, identity: people.Identity, mine: dict[str, Any]) -> ResponseReturnValue:
    if visitor is None:
        raise Ended()
    asked_at = datetime.fromtimestamp(mine["at"], UTC)
    people.confirm_at_provider(db.session(), visitor.sign_in_id, identity, asked_at, visitor.actor)
    return redirect(mine["next"] or url_for("ui.account"), 303)


def _let_in(user: Any, identity: people.Identity, following: str | None) -> ResponseReturnValue:
    # Who was signed in at the provider already has not shown anything just now.
    shown_at = identity.shown_at or people.LONG_AGO
    actor = sign_in.actor_named(user.email)
    token = people.let_in(db.session(), user, sign_in.browser(), actor, "by single sign-on", shown_at)
    return sign_in.let_in(token, following)
