"""Who is here and what they may: every page says for whom it is, and nothing runs before that is settled.

A sign-in is a row; the signed cookie holds only its token. So whoever is signed out, removed or disabled is out with
the next request, whatever a copy of the cookie says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from flask import Blueprint, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFProtect

from openremedy import people
from openremedy.addresses import client_key
from openremedy.audit import Actor
from openremedy.errors import Forbidden, NotFound, Problem, Unauthorized
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.services import services

blueprint = Blueprint("ui", "openremedy", static_folder="static", static_url_path="/static")
csrf = CSRFProtect()
SAFE = ("GET", "HEAD")
TOKEN = "sign_in"  # nosec B105 # noqa: S105 - the name of a value in the session
STRANGERS_FORM = 32 << 10  # bytes; megabytes of percent code take seconds to read, and nobody has signed in for them
View = Callable[..., ResponseReturnValue]


@dataclass(frozen=True)
class Visitor:
    """Somebody who is signed in."""

    user_id: int
    email: str
    superadmin: bool
    has_password: bool
    sign_in_id: int
    confirmed: bool

    @property
    def actor(self) -> Actor:
        """As the audit log and the timeline name them."""
        return Actor(self.email, client_key(), g.request_id, self.superadmin)


@dataclass(frozen=True)
class Here:
    """The tenant of this page, and what the visitor may in it."""

    id: int
    slug: str
    name: str
    role: Role

    def may(self, role: str) -> bool:
        """Whether the visitor's role includes this one."""
        return self.role.may(Role(role))


@dataclass(frozen=True)
class Access:
    """For whom a page is: `anyone`, `signed_in`, `tenant` (with a role) or `superadmin`."""

    kind: str
    role: Role | None = None


# By endpoint; the tests hold every route against it.
ACCESS: dict[str, Access] = {}


# ---------------------------------------------------------------- how a page says for whom it is


def anyone(rule: str, *methods: str) -> Callable[[View], View]:
    """A page for people who are not signed in."""
    return _page(rule, methods, Access("anyone"), lambda _values: None)


def signed_in(rule: str, *methods: str) -> Callable[[View], View]:
    """A page of one's own."""
    return _page(rule, methods, Access("signed_in"), lambda _values: _enter())


def in_tenant(rule: str, *methods: str, role: Role = Role.VIEWER) -> Callable[[View], View]:
    """A page of a tenant, for members of at least this role; `g.here` says which and as what."""

    def enter(values: dict[str, Any]) -> None:
        _enter()
        _enter_tenant(values.pop("tenant_slug"), role)

    return _page(f"/t/<tenant_slug>{rule}", methods, Access("tenant", role), enter)


def superadmin(rule: str, *methods: str) -> Callable[[View], View]:
    """A page of the whole installation."""

    def enter(_values: dict[str, Any]) -> None:
        _enter()
        if not g.visitor.superadmin:
            raise NotFound()

    return _page(f"/admin{rule}", methods, Access("superadmin"), enter)


def _page(
    rule: str, methods: tuple[str, ...], access: Access, enter: Callable[[dict[str, Any]], None]
) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(**values: Any) -> ResponseReturnValue:
            enter(values)
            return view(**values)

        endpoint = cast(Any, view).__name__
        blueprint.add_url_rule(rule, endpoint, guarded, methods=list(methods or ("GET",)))
        ACCESS[f"ui.{endpoint}"] = access
        return guarded

    return decorate


@blueprint.before_request
def _before() -> None:
    """A change needs the token of this browser's own pages; a read takes no write lock."""
    if request.method in SAFE:
        db.session.connection(execution_options={"sqlite_readonly": True})
        return
    if TOKEN not in session:
        request.max_content_length = STRANGERS_FORM
    csrf.protect()


# ---------------------------------------------------------------- who is here


class Ended(Unauthorized):
    """The sign-in is over: answered with the page to sign in again."""

    message = "Your sign-in has ended. Please sign in again."


class SignInFirst(Problem):
    """Nobody is signed in: answered with a redirect to the page to sign in."""

    status = 302


def visitor() -> Visitor | None:
    """Who is signed in, found once a request."""
    if "visitor" not in g:
        g.visitor = _find_visitor()
    return cast("Visitor | None", g.visitor)


def _find_visitor() -> Visitor | None:
    token = session.get(TOKEN)
    if not isinstance(token, str):
        return None
    found = people.find_sign_in(_reader(), token)
    if found is None:
        return None
    row, user = found
    services().tally.seen(row.id)
    has_password = user.password_hash is not None
    here = Visitor(user.id, user.email, user.superadmin, has_password, row.id, people.confirmed(row))
    _done_reading()
    return here


def _reader() -> Any:
    """The session, told on SQLite that it only reads: what changes something opens a transaction of its own."""
    if request.method not in SAFE:
        db.session.rollback()
        db.session.connection(execution_options={"sqlite_readonly": True})
    return db.session()


def _done_reading() -> None:
    if request.method not in SAFE:
        db.session.rollback()


def _enter() -> None:
    if visitor() is not None:
        return
    if TOKEN in session:
        session.clear()
        raise Ended()
    raise SignInFirst()


def _enter_tenant(slug: str, role: Role) -> None:
    user = people.get_user(_reader(), str(g.visitor.user_id))
    found = people.place(db.session(), user, slug) if slug.isprintable() else None
    if found is None:
        raise NotFound()
    g.here = Here(found.tenant.id, found.tenant.slug, found.tenant.name, found.role)
    disabled = found.tenant.disabled_at is not None
    _done_reading()
    if disabled and not g.visitor.superadmin:
        raise Unauthorized("This tenant is disabled. Ask whoever runs this installation.")
    if not g.here.role.may(role):
        raise Forbidden(f"This is for the role {role}; yours here is {g.here.role}.")


def own_path(text: str | None) -> str | None:
    """Where to go after the sign-in, if it is a path of ours; else None.

    A browser takes `//host`, `/\\host` and a path with a tab in it for another host.
    """
    path = text or ""
    ours = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if ours and path.isascii() and path.isprintable() and "\\" not in path else None


def to_sign_in() -> ResponseReturnValue:
    """The way of somebody who is not signed in: back here afterwards."""
    wanted = request.full_path.rstrip("?") if request.method in SAFE else None
    return redirect(url_for("ui.sign_in", next=own_path(wanted) if wanted != "/" else None))
