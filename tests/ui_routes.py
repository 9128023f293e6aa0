"""Every route of the web UI, for the tests that walk them all: what its URL and its form need, and what it answers.

A new page gets its entry in ROUTES; without one tests/test_ui_routes.py fails. Whoever may use the route is known from
openremedy.ui.access.ACCESS already and is not said again here.

- `Page(...)` reads (GET): it is opened in the browser too, unless `not_a_page` says why it is none.
- `Form(...)` changes something (POST): `fields` is what a person fills in.

Texts in fields, queries and URL values may name things of the tenant in braces (`{incident_id}`, `{password}`); THINGS
makes them. A part of a URL is the thing of the same name, unless the entry's `values` say otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select

from browser_client import PASSWORD
from cast import Tenant
from openremedy import people, tenants
from openremedy.audit import COMMAND_LINE
from openremedy.extensions import db
from openremedy.models import Base, LinkPurpose, Membership, Role, SourceSecret, User
from openremedy.services import services

NOBODY, VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER = "nobody", "vera", "bob", "alice", "sam", "charlie"
EVERYBODY = (NOBODY, VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER)
Words = Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """What the two kinds of route share. `status` is for those who may, `status_of` where somebody gets another."""

    status: int
    status_of: Mapping[str, int] = field(default_factory=dict)
    values: Words = field(default_factory=dict)
    query: Words = field(default_factory=dict)


@dataclass(frozen=True)
class Page(Route):
    """A route that reads. `not_a_page`: why it is not opened in the browser as a page."""

    status: int = 200
    not_a_page: str = ""


@dataclass(frozen=True)
class Form(Route):
    """A route that changes something. A number against sending twice and the CSRF token are added to the fields."""

    status: int = 303
    fields: Words = field(default_factory=dict)
    changes_nothing: bool = False  # a try, a preview: a POST for its size or its secret alone


ROUTES: dict[str, Page | Form] = {
    # Signing in and one's own account
    "ui.sign_in": Page(status_of=dict.fromkeys((VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER), 302)),
    "ui.do_sign_in": Form(fields={"email": "bob@example.com", "password": "{password}"}),
    "ui.sign_out": Form(),
    "ui.home": Page(status_of=dict.fromkeys((VIEWER, RESPONDER, ADMIN, OUTSIDER), 302)),
    "ui.link": Page(),
    "ui.take_link": Form(fields={"password": "{password}"}),
    "ui.account": Page(),
    "ui.change_password": Form(fields={"current": "{password}", "password": "another long password"}),
    "ui.sign_out_others": Form(),
    # A tenant
    "ui.overview": Page(),
}

# Pages that somebody may open who is not signed in; everything else leads to the sign-in.
PUBLIC = {"ui.sign_in", "ui.link", "ui.static"}


# ---------------------------------------------------------------- what the values are examples of


def _incident(tenant: Tenant) -> str:
    receipt = tenant.alert(
        hostname=f"host-only-of-{tenant.slug}", evidence={"mount": "/var", "note": mark(tenant.slug)}
    )
    return str(receipt["incident_id"])


def _refused_delivery(tenant: Tenant) -> str:
    tenant.send(b'{"hostname": "' + mark(tenant.slug).encode())
    services().tally.flush()
    return str(tenant.get("/deliveries", accepted="false")["items"][0]["id"])


def _recipe(tenant: Tenant) -> str:
    slug = f"only-of-{tenant.slug}"
    spec = f"- {{slug: {slug}, title: {mark(tenant.slug)}, when: never, risk: low, steps: none}}"
    tenants.import_recipes(db.session(), tenant.slug, tenants.parse(spec))
    return slug


def _source(tenant: Tenant) -> str:
    return str(tenant.source("grafana", signing_secret=f"signing-secret-of-{tenant.slug}").id)


def _source_secret(_tenant: Tenant) -> str:
    return str(db.session.scalar(select(SourceSecret.id).order_by(SourceSecret.id.desc())))


def _member(tenant: Tenant) -> str:
    """Somebody of the tenant who does nothing in these tests, so that others may do something to them."""
    email = f"member-of-{tenant.slug}@example.com"
    people.create_user(db.session(), email, PASSWORD, tenant.slug, Role.VIEWER)
    mine = select(User.id).join(Membership, Membership.user_id == User.id).where(User.email == email)
    return str(db.session.scalar(mine))


def _api_token(tenant: Tenant) -> str:
    tenants.create_token(db.session(), tenant.slug, Role.VIEWER, mark(tenant.slug))
    return _newest("api_tokens")


def _invitation(tenant: Tenant) -> str:
    found = tenants.find_tenant(db.session(), tenant.slug)
    email = f"invited-by-{tenant.slug}@example.com"
    return people.make_link(db.session(), LinkPurpose.INVITE, COMMAND_LINE, email, found.id, Role.VIEWER)


def _newest(table: str) -> str:
    """The id that was given last in a table."""
    column = Base.metadata.tables[table].c.id
    return str(db.session.scalar(select(column).order_by(column.desc()).limit(1)))


# By the name that a URL gives them, in this order: each is made once for Alice's tenant and once for Charlie's.
THINGS: dict[str, Callable[[Tenant], str]] = {
    "tenant_slug": lambda tenant: tenant.slug,
    "incident_id": _incident,
    "delivery_id": _refused_delivery,
    "slug": _recipe,
    "source_id": _source,
    "secret_id": _source_secret,
    "user_id": _member,
    "token_id": _api_token,
    "token": _invitation,
    "link_id": lambda _tenant: _newest("links"),
    "filename": lambda _tenant: "app.css",
    "password": lambda _tenant: PASSWORD,
}


def mark(slug: str) -> str:
    """What stands in the texts of a tenant and must be seen by nobody else."""
    return f"mark-of-{slug}"
