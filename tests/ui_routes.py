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
from openremedy.recipes import parse
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


RECIPE = {"title": "A title", "when": "never", "risk": "low", "steps": "none", "enabled": "true"}

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
    "ui.overview_live": Page(not_a_page="a part of the overview"),
    "ui.incidents": Page(query={"status": "any", "q": "var"}),
    "ui.incidents_live": Page(query={"ids": "{incident_id}"}, not_a_page="a part of the list"),
    "ui.act_on_incidents": Form(fields={"action": "acknowledge", "id": "{incident_id}"}),
    "ui.incident": Page(),
    "ui.incident_verdict": Page(not_a_page="a part of the incident"),
    "ui.incident_changes": Page(not_a_page="a part of the incident"),
    "ui.incident_evidence": Page(not_a_page="a download"),
    "ui.acknowledge_incident": Form(),
    "ui.resolve_incident": Form(),
    "ui.reclassify_incident": Form(),
    "ui.answer_incident": Form(fields={"answer": "correct", "recipe": "{slug}"}),
    "ui.review": Page(),
    # Recipes
    "ui.recipes": Page(),
    "ui.recipe": Page(),
    "ui.recipe_version": Page(values={"version": "1"}),
    "ui.new_recipe": Page(),
    "ui.add_recipe": Form(fields=RECIPE | {"slug": "a-new-one"}),
    "ui.edit_recipe": Page(),
    "ui.save_recipe": Form(fields=RECIPE | {"version": "1"}),
    "ui.preview_recipe": Form(status=200, fields={"steps": "## Look"}, changes_nothing=True),
    "ui.try_recipe": Form(status=503, fields=RECIPE | {"slug": "a-new-one"}, changes_nothing=True),  # no Redis here
    "ui.tryout": Page(status=404, values={"job_id": "0" * 32}, not_a_page="a part of the editor, and of one job"),
    "ui.enable_recipe": Form(fields={"enabled": "false"}),
    "ui.delete_recipe": Form(fields={"version": "1"}),
    "ui.restore_recipe": Form(fields={"version": "1"}, values={"version": "1"}),
    "ui.export_recipes": Page(not_a_page="a download"),
    "ui.add_starter_recipes": Form(),
    "ui.import_form": Page(),
    "ui.import_recipes": Form(
        fields={"do": "import", "text": "- {slug: by-import, title: By import, when: never, risk: low, steps: none}"}
    ),
    # Sources and deliveries
    "ui.sources": Page(),
    "ui.new_source": Page(query={"adapter": "pagerduty"}),
    "ui.add_source": Form(status=200, fields={"adapter": "grafana", "name": "another one"}),
    "ui.source": Page(),
    "ui.source_checklist": Page(not_a_page="a part of the source"),
    "ui.edit_source": Form(fields={"name": "renamed"}),
    "ui.rotate_source": Form(status=200, fields={"grace_hours": "1"}),
    "ui.disable_source": Form(),
    "ui.enable_source": Form(),
    "ui.add_signing_secret": Form(fields={"secret": "one more signing secret"}),
    "ui.remove_signing_secret": Form(),
    "ui.set_api_token": Form(fields={"api_token": "a-token-for-the-api"}),
    "ui.send_test_alert": Form(),
    "ui.deliveries": Page(query={"accepted": "no"}),
    "ui.delivery": Page(),
    "ui.delivery_body": Page(not_a_page="a download"),
    "ui.replay_preview": Page(),
    "ui.replay_delivery": Form(status=400),  # the one of these tests is not JSON
    # What admins do
    "ui.settings": Page(),
    "ui.change_settings": Form(fields={"name": "Renamed", "model_allowed": "yes"}),
    "ui.reveal_secret": Form(status=200, fields={"password": "{password}"}),
    "ui.rotate_secret": Form(status=200, fields={"grace_hours": "1"}),
    "ui.end_secret": Form(status=404, fields={"secret_id": "1"}),
    "ui.members": Page(),
    "ui.invite_member": Form(status=200, fields={"email": "new@example.com", "role": "viewer"}),
    "ui.revoke_invitation": Form(),
    "ui.change_role": Form(fields={"role": "responder"}),
    "ui.remove_member": Form(),
    "ui.tokens": Page(),
    "ui.create_token": Form(status=200, fields={"name": "a token", "role": "viewer"}),
    "ui.revoke_token": Form(),
    "ui.audit_log": Page(),
    "ui.export_audit": Page(not_a_page="a download"),
    # The whole installation
    "ui.admin_tenants": Page(),
    "ui.admin_create_tenant": Form(status=200, fields={"slug": "a-new-tenant", "name": "A new tenant"}),
    "ui.admin_disable_tenant": Form(values={"slug": "{tenant_slug}"}),
    "ui.admin_enable_tenant": Form(values={"slug": "{tenant_slug}"}),
    "ui.admin_users": Page(),
    "ui.admin_invite": Form(status=200, fields={"email": "new@example.com"}),
    "ui.admin_revoke_invitation": Form(status=404),  # an invitation to a tenant is none of these
    "ui.admin_reset_link": Form(status=200),
    "ui.admin_disable_user": Form(),
    "ui.admin_enable_user": Form(),
    "ui.admin_set_superadmin": Form(fields={"superadmin": "true"}),
    "ui.admin_health": Page(),
    "ui.admin_queue": Page(),
    "ui.admin_requeue": Form(status=503),  # no Redis here
    "ui.admin_delete_failed": Form(status=503),
    "ui.admin_sweep": Form(),
    "ui.admin_audit": Page(),
    "ui.export_admin_audit": Page(not_a_page="a download"),
    # Single sign-on, which is not configured here
    "ui.start_oidc": Form(status=404),
    "ui.oidc_callback": Page(status=404, not_a_page="where the identity provider sends people back to"),
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
    tenant.import_recipes(parse(spec))
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
