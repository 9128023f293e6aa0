"""Every route of the web UI, for the tests that walk them all: what its URL and its form need, and what it answers.

A new page gets its entry in ROUTES and its place in WHO; without them tests/test_ui_routes.py fails.

- `Page(...)` reads (GET): it is opened in the browser too, unless `not_a_page` says why it is none.
- `Form(...)` changes something (POST): `fields` is what a person fills in.

Texts of an entry may name things of the tenant in braces (`{incident_id}`, `{password}`); THINGS makes them. A part of
a URL is the thing of the same name, unless the entry says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select

from browser_client import PASSWORD
from cast import Tenant
from openremedy import outgoing, people, tenants
from openremedy.audit import COMMAND_LINE
from openremedy.demo.bodies import fixture
from openremedy.evaluation_queue import start_evaluation
from openremedy.extensions import db
from openremedy.models import Base, Event, LinkPurpose, Role, Shape
from openremedy.outgoing import Wanted
from openremedy.outgoing_client import Answer
from openremedy.recipes import parse
from openremedy.services import services
from openremedy.tryout_queue import start_tryout

NOBODY, VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER = "nobody", "vera", "bob", "alice", "sam", "charlie"
EVERYBODY = (NOBODY, VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER)
Words = Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """What the two kinds of route share. `status` is for those who may, `status_of` where somebody gets another.

    `at`: values of parts of the URL that are not the thing of their name; what is no part of it is its query.
    """

    status: int
    status_of: Mapping[str, int] = field(default_factory=dict)
    at: Words = field(default_factory=dict)


@dataclass(frozen=True)
class Page(Route):
    """A route that reads. `also`: other values for `at`, for the browser; `not_a_page`: why it opens none of them."""

    status: int = 200
    also: Sequence[Words] = ()
    not_a_page: str = ""


@dataclass(frozen=True)
class Form(Route):
    """A route that changes something, or `changes_nothing` says why not.

    A number against sending twice and the CSRF token are added to the fields.
    """

    status: int = 303
    fields: Words = field(default_factory=dict)
    changes_nothing: str = ""


_FRAGMENT = "a part of a page that stays open; the page is opened, and loads it"
_DOWNLOAD = "a file to save"
_NO_PROVIDER = "404 without an identity provider; tests/oidc has one"
_RECIPE = {
    "title": "A title",
    "when": "The disk is full.",
    "applies_to": "disk_full",
    "risk": "low",
    "steps": "Make room.",
    "match": "mount: /var",
    "tags": "disk",
    "enabled": "true",
}
_ENDPOINT = {"shape": "standard", "events": "created", "url": "https://hooks.example.com/of-a-test"}

ROUTES: dict[str, Page | Form] = {
    # Signing in and one's own account
    "ui.sign_in": Page(
        status_of=dict.fromkeys((VIEWER, RESPONDER, ADMIN, SUPERADMIN, OUTSIDER), 302), also=({"next": "/account"},)
    ),
    "ui.do_sign_in": Form(fields={"email": "bob@example.com", "password": "{password}"}),
    "ui.start_oidc": Form(404, changes_nothing=_NO_PROVIDER),
    "ui.oidc_callback": Page(404, not_a_page=_NO_PROVIDER),
    "ui.sign_out": Form(),
    "ui.home": Page(status_of=dict.fromkeys((VIEWER, RESPONDER, ADMIN, OUTSIDER), 302)),
    "ui.link": Page(also=({"token": "{known_token}"}, {"token": "{reset_token}"}, {"token": "{superadmin_token}"})),
    "ui.take_link": Form(fields={"password": "{password}"}),
    "ui.account": Page(),
    "ui.change_password": Form(fields={"current": "{password}", "password": "another long password"}),
    "ui.sign_out_others": Form(),
    # A tenant: what is wrong, and what is done about it
    "ui.overview": Page(),
    "ui.overview_live": Page(not_a_page=_FRAGMENT),
    "ui.incidents": Page(
        also=(
            {"status": "any", "sort": "severity", "q": "host"},
            {"status": "open", "severity": "medium", "incident_type": "disk_full", "classification": "done"},
            {"q": "nothing is called like this"},
        )
    ),
    "ui.incidents_live": Page(at={"ids": "{incident_id}", "digest": "x"}, not_a_page=_FRAGMENT),
    "ui.act_on_incidents": Form(fields={"action": "acknowledge", "id": "{incident_id}"}),
    "ui.incident": Page(also=({"incident_id": "{native_incident_id}"},)),
    "ui.incident_verdict": Page(not_a_page=_FRAGMENT),
    "ui.incident_changes": Page(at={"since": "x"}, not_a_page=_FRAGMENT),
    "ui.incident_evidence": Page(not_a_page=_DOWNLOAD),
    "ui.acknowledge_incident": Form(fields={"back": "/t/alice/incidents"}),
    "ui.resolve_incident": Form(),
    "ui.reclassify_incident": Form(changes_nothing="it waits for its first verdict"),
    "ui.answer_incident": Form(fields={"answer": "correct", "recipe": "{slug}"}),
    "ui.review": Page(also=({"why": "unsure"}, {"why": "none"})),
    # Its recipes
    "ui.recipes": Page(),
    "ui.recipe": Page(also=({"slug": "{starter_slug}"},)),
    "ui.recipe_version": Page(),
    "ui.new_recipe": Page(),
    "ui.add_recipe": Form(fields=_RECIPE | {"slug": "a-new-one"}),
    "ui.edit_recipe": Page(),
    "ui.save_recipe": Form(fields=_RECIPE | {"version": "{newest_version}"}),
    "ui.enable_recipe": Form(fields={"enabled": "false"}),
    "ui.delete_recipe": Form(fields={"version": "{newest_version}"}),
    "ui.restore_recipe": Form(fields={"version": "{newest_version}"}),
    "ui.preview_recipe": Form(200, fields={"steps": "# Steps"}, changes_nothing="shows what was typed"),
    "ui.try_recipe": Form(fields=_RECIPE | {"slug": "{slug}"}, changes_nothing="asks a worker, by the queue"),
    "ui.tryout": Page(),
    "ui.export_recipes": Page(not_a_page=_DOWNLOAD),
    "ui.add_starter_recipes": Form(changes_nothing="this tenant has them already"),
    "ui.import_form": Page(),
    "ui.import_recipes": Form(
        fields={"do": "import", "text": "- {slug: imported, title: Imported, when: never, risk: low, steps: none}"}
    ),
    # Its sources, and what they sent
    "ui.sources": Page(),
    "ui.new_source": Page(
        also=tuple(
            {"adapter": name} for name in ("alertmanager", "grafana", "datadog", "pagerduty", "uptimekuma", "zabbix")
        )
    ),
    "ui.add_source": Form(200, fields={"adapter": "grafana", "name": "Another"}),
    "ui.source": Page(also=tuple({"source_id": f"{{{name}_source_id}}"} for name in ("alertmanager", "pagerduty"))),
    "ui.source_checklist": Page(not_a_page=_FRAGMENT),
    "ui.edit_source": Form(fields={"name": "Renamed", "stale_minutes": "60", "rate_limit": "100"}),
    "ui.rotate_source": Form(200, fields={"grace_hours": "1"}),
    "ui.disable_source": Form(),
    "ui.enable_source": Form(),
    "ui.add_signing_secret": Form(fields={"secret": "another signing secret"}),
    "ui.remove_signing_secret": Form(),
    "ui.set_api_token": Form(fields={"api_token": "a-token-of-the-tool"}, at={"source_id": "{pagerduty_source_id}"}),
    "ui.send_test_alert": Form(),
    "ui.deliveries": Page(also=({"accepted": "no"}, {"outcome": "created"}, {"reason": "nothing like it"})),
    "ui.delivery": Page(
        also=tuple({"delivery_id": f"{{{one}_delivery_id}}"} for one in ("refused", "unsigned", "native"))
    ),
    "ui.delivery_body": Page(not_a_page=_DOWNLOAD),
    "ui.replay_preview": Page(also=({"delivery_id": "{refused_delivery_id}"}, {"delivery_id": "{native_delivery_id}"})),
    "ui.replay_delivery": Form(),
    # What its admins look after
    "ui.settings": Page(),
    "ui.change_settings": Form(
        fields={"name": "Renamed", "answer_threshold": "0.7", "daily_tokens": "1000", "retention_days": "30"}
    ),
    "ui.reveal_secret": Form(200, fields={"password": "{password}"}),
    "ui.rotate_secret": Form(200, fields={"grace": "24"}),
    "ui.end_secret": Form(fields={"secret_id": "{previous_secret_id}"}),
    "ui.outgoing": Page(),
    "ui.add_endpoint": Form(200, fields=_ENDPOINT | {"name": "Another"}),
    "ui.outgoing_endpoint": Page(also=({"state": "failed"},)),
    "ui.edit_endpoint": Form(fields=_ENDPOINT | {"name": "Renamed", "url": ""}),
    "ui.rotate_endpoint": Form(200),
    "ui.disable_endpoint": Form(),
    "ui.enable_endpoint": Form(changes_nothing="it is switched on"),
    "ui.remove_endpoint": Form(),
    "ui.test_endpoint": Form(),
    "ui.outgoing_message": Page(),
    "ui.send_message_again": Form(),
    "ui.members": Page(),
    "ui.invite_member": Form(200, fields={"email": "new@example.com", "role": "viewer"}),
    "ui.revoke_invitation": Form(),
    "ui.change_role": Form(fields={"role": "responder"}),
    "ui.remove_member": Form(),
    "ui.tokens": Page(),
    "ui.create_token": Form(200, fields={"name": "of a script", "role": "viewer"}),
    "ui.revoke_token": Form(),
    "ui.audit_log": Page(also=({"who": "nobody-at-all"},)),
    "ui.export_audit": Page(not_a_page=_DOWNLOAD),
    # The installation
    "ui.admin_tenants": Page(),
    "ui.admin_create_tenant": Form(200, fields={"slug": "another", "name": "Another", "starter": "yes"}),
    "ui.admin_disable_tenant": Form(at={"slug": "{tenant_slug}"}),
    "ui.admin_enable_tenant": Form(at={"slug": "{tenant_slug}"}, changes_nothing="it is enabled"),
    "ui.admin_users": Page(also=({"q": "alice"}, {"q": "nobody-at-all"})),
    "ui.admin_invite": Form(200, fields={"email": "boss@example.com"}),
    "ui.admin_revoke_invitation": Form(at={"link_id": "{superadmin_link_id}"}),
    "ui.admin_reset_link": Form(200),
    "ui.admin_disable_user": Form(),
    "ui.admin_enable_user": Form(changes_nothing="the user is enabled"),
    "ui.admin_set_superadmin": Form(fields={"superadmin": "yes"}),
    "ui.admin_health": Page(),
    "ui.admin_queue": Page(),
    "ui.admin_requeue": Form(),
    "ui.admin_delete_failed": Form(),
    "ui.admin_sweep": Form(),
    "ui.admin_audit": Page(),
    "ui.export_admin_audit": Page(not_a_page=_DOWNLOAD),
}

# Whom each route is for, said a second time on purpose: what the pages say of themselves is held against it.
ANYONE, SIGNED_IN = "anyone", "signed in"
WHO: dict[str, frozenset[str]] = {
    ANYONE: frozenset(
        ("ui.sign_in", "ui.do_sign_in", "ui.start_oidc", "ui.oidc_callback", "ui.sign_out", "ui.link", "ui.take_link")
    ),
    SIGNED_IN: frozenset(("ui.home", "ui.account", "ui.change_password", "ui.sign_out_others")),
    # Looks at everything of its tenant that is no secret, and at nothing that only admins do.
    VIEWER: frozenset(
        (
            *("ui.overview", "ui.overview_live", "ui.incidents", "ui.incidents_live", "ui.review"),
            *("ui.incident", "ui.incident_verdict", "ui.incident_changes", "ui.incident_evidence"),
            *("ui.recipes", "ui.recipe", "ui.recipe_version", "ui.export_recipes"),
            *("ui.sources", "ui.source", "ui.source_checklist"),
            *("ui.deliveries", "ui.delivery", "ui.delivery_body"),
        )
    ),
    # Handles incidents.
    RESPONDER: frozenset(
        (
            *("ui.act_on_incidents", "ui.acknowledge_incident", "ui.resolve_incident", "ui.reclassify_incident"),
            *("ui.answer_incident", "ui.send_test_alert"),
        )
    ),
    # Changes recipes, sources, settings and people, and sends a kept delivery in again.
    ADMIN: frozenset(
        (
            *("ui.new_recipe", "ui.add_recipe", "ui.edit_recipe", "ui.save_recipe", "ui.enable_recipe"),
            *("ui.delete_recipe", "ui.restore_recipe", "ui.preview_recipe", "ui.try_recipe", "ui.tryout"),
            *("ui.add_starter_recipes", "ui.import_form", "ui.import_recipes"),
            *("ui.new_source", "ui.add_source", "ui.edit_source", "ui.rotate_source", "ui.disable_source"),
            *("ui.enable_source", "ui.add_signing_secret", "ui.remove_signing_secret", "ui.set_api_token"),
            *("ui.replay_preview", "ui.replay_delivery"),
            *("ui.settings", "ui.change_settings", "ui.reveal_secret", "ui.rotate_secret", "ui.end_secret"),
            *("ui.members", "ui.invite_member", "ui.revoke_invitation", "ui.change_role", "ui.remove_member"),
            *("ui.outgoing", "ui.add_endpoint", "ui.outgoing_endpoint", "ui.edit_endpoint", "ui.rotate_endpoint"),
            *("ui.disable_endpoint", "ui.enable_endpoint", "ui.remove_endpoint", "ui.test_endpoint"),
            *("ui.outgoing_message", "ui.send_message_again"),
            *("ui.tokens", "ui.create_token", "ui.revoke_token", "ui.audit_log", "ui.export_audit"),
        )
    ),
    # Looks after the installation.
    SUPERADMIN: frozenset(name for name in ROUTES if name.startswith(("ui.admin_", "ui.export_admin_"))),
}


def whom(endpoint: str) -> str:
    """The least of those in WHO that a route is for. Raises StopIteration for none."""
    return next(least for least, endpoints in WHO.items() if endpoint in endpoints)


# Pages that somebody may open who is not signed in; everything else leads to the sign-in.
PUBLIC = {"ui.sign_in", "ui.link", "ui.static"}


# ---------------------------------------------------------------- what the values are examples of


def mark(slug: str) -> str:
    """What stands in the texts of a tenant and must be seen by nobody else."""
    return f"mark-of-{slug}"


def _incident(tenant: Tenant) -> str:
    evidence = {"mount": "/var", "disk_usage_percent": 94, "note": mark(tenant.slug)}
    return str(tenant.alert(hostname=f"host-only-of-{tenant.slug}", evidence=evidence)["incident_id"])


def _delivery(tenant: Tenant) -> str:
    return str(tenant.get("/deliveries", accepted="true")["items"][0]["id"])


def _refused_delivery(tenant: Tenant) -> str:
    tenant.send(b'{"hostname": "' + mark(tenant.slug).encode())
    services().tally.flush()
    return str(tenant.get("/deliveries", accepted="false")["items"][0]["id"])


def _unsigned_delivery(tenant: Tenant) -> str:
    tenant.send(b"{}", **{"X-OpenRemedy-Signature": "sha256=" + "0" * 64})
    services().tally.flush()
    return str(tenant.get("/deliveries", accepted="false", reason="unauthorized")["items"][0]["id"])


def _recipe(tenant: Tenant) -> str:
    """In two versions."""
    slug = f"only-of-{tenant.slug}"
    for title in ("First", mark(tenant.slug)):
        spec = f"- {{slug: {slug}, title: {title}, when: never, risk: low, steps: none}}"
        tenant.import_recipes(parse(spec))
    return slug


def _source(tenant: Tenant) -> str:
    return str(tenant.source("grafana", signing_secret=f"signing-secret-of-{tenant.slug}").id)


def _alertmanager_source(tenant: Tenant) -> str:
    source = tenant.source("alertmanager")
    source.alerts(fixture("alertmanager", "v0.33_mixed"))
    return str(source.id)


def _member(tenant: Tenant) -> str:
    """Somebody of the tenant who does nothing in these tests, so that others may do something to them."""
    email = f"member-of-{tenant.slug}@example.com"
    people.create_user(db.session(), email, PASSWORD, tenant.slug, Role.VIEWER)
    return _newest("users")


def _api_token(tenant: Tenant) -> str:
    tenants.create_token(db.session(), tenant.slug, Role.VIEWER, mark(tenant.slug))
    return _newest("api_tokens")


def _link(tenant: Tenant, email: str, purpose: LinkPurpose = LinkPurpose.INVITE, *, inside: bool = True) -> str:
    found = tenants.find_tenant(db.session(), tenant.slug)
    where, role = (found.id, Role.VIEWER) if inside else (None, None)
    return people.make_link(db.session(), purpose, COMMAND_LINE, email, where, role)


def _tryout(tenant: Tenant) -> str:
    (spec,) = parse("- {slug: disk-full, title: Tried, when: never, risk: low, steps: none}")
    return start_tryout(services(), tenants.find_tenant(db.session(), tenant.slug).id, spec.slug, spec)


def _evaluation(tenant: Tenant) -> str:
    tenant_id = tenants.find_tenant(db.session(), tenant.slug).id
    return start_evaluation(services(), tenant_id, {"tier": "lexical", "threshold": None}, None)


def _endpoint(tenant: Tenant) -> str:
    wanted = Wanted(
        mark(tenant.slug),
        Shape.STANDARD,
        [one for one in Event if one is not Event.ACCEPTED],
        f"https://hooks.example.com/{mark(tenant.slug)}",
    )
    found, _secret = outgoing.add_endpoint(
        db.session(), services().vault, tenant.id, wanted, COMMAND_LINE, allow_private=False
    )
    return str(found.id)


def _message(tenant: Tenant) -> str:
    """One that was given up."""
    endpoint = outgoing.list_endpoints(db.session(), tenant.id)[-1]
    message = outgoing.send_test(db.session(), endpoint, COMMAND_LINE)
    endpoint_id, message_id = endpoint.id, str(message.id)
    db.session.rollback()
    # A worker may have decided something meanwhile that is to be told, too; a test goes first.
    (claimed,) = outgoing.claim(db.engine, endpoint_id, 1)
    body = b'{"note": "' + mark(tenant.slug).encode() + b'"}'
    outgoing.settle(db.engine, {**claimed, "body": body}, Answer(error="the test says so", final=True), 1)
    return message_id


def _previous_secret(tenant: Tenant) -> str:
    previous = str(tenants.find_tenant(db.session(), tenant.slug).secrets[-1].id)
    db.session.rollback()
    tenants.rotate_secret(db.session(), services().vault, tenant.slug, timedelta(hours=24))
    return previous


def _newest(table: str) -> str:
    """The id that was given last in a table."""
    column = Base.metadata.tables[table].c.id
    return str(db.session.scalar(select(column).order_by(column.desc()).limit(1)))


# By the name that a URL gives them, in this order; each is made once for Alice's tenant and once for Charlie's.
THINGS: dict[str, Callable[[Tenant], str]] = {
    "tenant_slug": lambda tenant: tenant.slug,
    "starter_slug": lambda _tenant: "disk-full",
    "previous_secret_id": _previous_secret,
    "incident_id": _incident,
    "delivery_id": _delivery,
    "refused_delivery_id": _refused_delivery,
    "unsigned_delivery_id": _unsigned_delivery,
    "slug": _recipe,
    "version": lambda _tenant: "1",
    "newest_version": lambda _tenant: "2",
    "job_id": _tryout,
    "evaluation_id": _evaluation,
    "alertmanager_source_id": _alertmanager_source,
    "native_incident_id": lambda tenant: str(tenant.incidents(limit=1)[0]["id"]),
    "native_delivery_id": _delivery,
    "pagerduty_source_id": lambda tenant: str(tenant.source("pagerduty", signing_secret="of-pagerduty").id),
    "source_id": _source,
    "secret_id": lambda _tenant: _newest("source_secrets"),
    "endpoint_id": _endpoint,
    "message_id": _message,
    "user_id": _member,
    "token_id": _api_token,
    "superadmin_token": lambda tenant: _link(tenant, f"boss-of-{tenant.slug}@example.com", inside=False),
    "superadmin_link_id": lambda _tenant: _newest("links"),
    "known_token": lambda tenant: _link(tenant, f"{tenant.slug}@example.com"),
    "reset_token": lambda tenant: _link(tenant, f"{tenant.slug}@example.com", LinkPurpose.RESET, inside=False),
    "token": lambda tenant: _link(tenant, f"invited-by-{tenant.slug}@example.com"),
    "link_id": lambda _tenant: _newest("links"),
    "filename": lambda _tenant: "app.css",
    "password": lambda _tenant: PASSWORD,
}
