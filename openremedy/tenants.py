"""Tenants and what belongs to one: webhook secrets, API tokens, what an admin chose for it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cryptography.fernet import InvalidToken
from sqlalchemy import ColumnElement, Engine, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from config import Settings
from openremedy import audit, cookbook, crypto
from openremedy.audit import COMMAND_LINE, Actor
from openremedy.crypto import Vault
from openremedy.errors import Conflict, Invalid, NotFound, Problem
from openremedy.models import (
    ApiToken,
    Incident,
    IncidentStatus,
    Membership,
    OutgoingEndpoint,
    Role,
    Source,
    Tenant,
    TokenUsage,
    WebhookSecret,
    now,
)
from openremedy.recipes import parse

FIRST_TENANT = "my-company"
STARTER_RECIPES = Path(__file__).parent.parent / "config" / "recipes.yaml"
MAX_LIVE_SECRETS = 10
MAX_NAME = 200
MAX_TOKENS = 2_000_000_000  # what its column holds
MAX_RETENTION = 3650
LOWEST_THRESHOLD = 0.5  # below it an answer is more likely wrong than right
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


# ---------------------------------------------------------------- tenants


def create_tenant(
    session: Session,
    vault: Vault,
    slug: str,
    name: str = "",
    secret: str | None = None,
    *,
    actor: Actor = COMMAND_LINE,
) -> str:
    """Create a tenant and return its webhook secret. Raises Invalid, Conflict."""
    if not _SLUG.fullmatch(slug):
        _refused("slug", f"{slug[:80]!r} is no slug: 1 to 63 lower-case letters, digits and inner hyphens.")
    secret = crypto.generate(crypto.WEBHOOK_SECRET) if secret is None else given(secret)
    tenant = Tenant(slug=slug, name=label(name, MAX_NAME) or slug)
    tenant.secrets.append(WebhookSecret(locked=vault.lock(secret)))
    with unique(session, f"There is a tenant {slug!r} already."):
        session.add(tenant)
        session.flush()  # the line needs the tenant's id
        session.add(audit.line(actor, tenant.id, "tenant.created", slug))
    return secret


def create_with_recipes(session: Session, vault: Vault, slug: str, name: str, actor: Actor) -> str:
    """The same with the starter recipes, all of it or nothing. Raises Invalid, Conflict."""
    with Session(session.connection(), join_transaction_mode="create_savepoint") as inner:
        secret = create_tenant(inner, vault, slug, name, actor=actor)
        specs = parse(STARTER_RECIPES.read_text("utf-8"))
        cookbook.import_recipes(inner, find_tenant(inner, slug).id, specs, actor)
    session.commit()
    return secret


def given(secret: str) -> str:
    """A secret somebody brings along: text that can be signed with."""
    if not secret or not secret.isprintable():
        raise Invalid("The secret is empty or holds characters that cannot be printed.")
    return secret


def label(text: str, limit: int) -> str:
    """A name for people. Raises Invalid."""
    if len(text) > limit or not text.isprintable():
        _refused("name", f"A name has at most {limit} characters, all of them printable.")
    return text.strip()


@contextmanager
def unique(session: Session, conflict: str) -> Iterator[None]:
    """Commit what is done inside, all of it or nothing, letting the unique index say what exists already."""
    try:
        yield
        session.commit()
    except IntegrityError as error:
        session.rollback()
        raise Conflict(conflict) from error
    except Problem:
        session.rollback()
        raise


def find_tenant(session: Session, slug: str) -> Tenant:
    """The tenant of this slug. Raises NotFound."""
    tenant = session.scalar(select(Tenant).where(Tenant.slug == slug))
    if tenant is None:
        raise NotFound(f"There is no tenant {slug!r}.")
    return tenant


Thing = TypeVar("Thing", Source, OutgoingEndpoint)


def called(things: Sequence[Thing], wanted: str) -> Thing | None:
    """That of a tenant's things which has this id or name, the newest of several."""
    # An id first: somebody may have named another one like it.
    return ({one.name: one for one in things} | {str(one.id): one for one in things}).get(wanted)


@dataclass(frozen=True)
class Counted:
    """A tenant and how much there is of it."""

    tenant: Tenant
    open_incidents: int
    sources: int
    members: int


def all_tenants(session: Session) -> list[Counted]:
    """Every tenant, by its slug."""
    open_incidents = _count(session, Incident.tenant_id, Incident.status != IncidentStatus.RESOLVED)
    of_sources = _count(session, Source.tenant_id, Source.disabled_at.is_(None))
    of_members = _count(session, Membership.tenant_id)
    return [
        Counted(one, open_incidents.get(one.id, 0), of_sources.get(one.id, 0), of_members.get(one.id, 0))
        for one in session.scalars(select(Tenant).order_by(Tenant.slug))
    ]


def _count(session: Session, tenant_id: Any, *conditions: ColumnElement[bool]) -> dict[int, int]:
    counted = session.execute(select(tenant_id, func.count()).where(*conditions).group_by(tenant_id))
    return dict(counted.all())


def set_tenant_disabled(session: Session, slug: str, disabled: bool, actor: Actor) -> None:
    """Refuse whatever is sent to a tenant, and its members, or no more. Again changes nothing. Raises NotFound."""
    tenant = find_tenant(session, slug)
    session.refresh(tenant, with_for_update=True)
    if disabled == (tenant.disabled_at is not None):
        return
    tenant.disabled_at = now() if disabled else None
    session.add(audit.line(actor, tenant.id, "tenant.disabled" if disabled else "tenant.enabled", slug))
    session.commit()


def get_tenant(session: Session, tenant_id: int) -> Tenant:
    """The tenant of this id. Raises NotFound."""
    tenant = session.get(Tenant, tenant_id)
    if tenant is None:
        raise NotFound()
    return tenant


def tokens_today(session: Session, tenant_id: int) -> int:
    """Model tokens that a tenant has used since midnight UTC, those of calls in flight included."""
    of_today = select(TokenUsage.tokens).where(TokenUsage.tenant_id == tenant_id, TokenUsage.day == now().date())
    return session.scalar(of_today) or 0


# ---------------------------------------------------------------- webhook secrets


def rotate_secret(
    session: Session, vault: Vault, slug: str, grace: timedelta, actor: Actor = COMMAND_LINE
) -> tuple[str, datetime]:
    """Add a new webhook secret; the previous one lives on for `grace`, those before it for as long as they were told.

    Without grace all of them end now.

    Returns the new secret and the moment the previous ones end. Raises NotFound, Conflict.
    """
    tenant = find_tenant(session, slug)
    moment = now()
    # Two rotations at once: the second waits here and then sees the secret of the first.
    session.execute(select(Tenant.id).where(Tenant.id == tenant.id).with_for_update())
    until = moment + grace
    live = [one for one in tenant.secrets if one.expires_at is None or one.expires_at > moment]
    if len(live) >= MAX_LIVE_SECRETS and grace:
        raise Conflict(
            f"{MAX_LIVE_SECRETS} secrets of {slug!r} live already; wait for one to end, or end all with --grace 0."
        )
    for secret in live:
        if secret.expires_at is None or not grace:  # one that was promised a time keeps it, but for a revocation
            secret.expires_at = until
    value = crypto.generate(crypto.WEBHOOK_SECRET)
    tenant.secrets.append(WebhookSecret(locked=vault.lock(value)))
    hours = round(grace / timedelta(hours=1), 2)
    session.add(audit.line(actor, tenant.id, "secret.rotated", slug, grace_hours=hours))
    session.commit()
    return value, until


def live_secrets(session: Session, tenant_id: int) -> Sequence[WebhookSecret]:
    """The secrets that sign now, newest first."""
    return session.scalars(_live(tenant_id).order_by(WebhookSecret.id.desc())).all()


def _live(tenant_id: int) -> Any:
    lives = or_(WebhookSecret.expires_at.is_(None), WebhookSecret.expires_at > now())
    return select(WebhookSecret).where(WebhookSecret.tenant_id == tenant_id, lives)


def reveal_secrets(session: Session, vault: Vault, tenant: str, tenant_id: int, actor: Actor) -> dict[int, str | None]:
    """The live secrets in clear by their id, None where no key opens one; nobody sees them without leaving a line."""
    found = {one.id: _opened(vault, one.locked) for one in live_secrets(session, tenant_id)}
    session.add(audit.line(actor, tenant_id, "secret.revealed", tenant, secrets=len(found)))
    session.commit()
    return found


def _opened(vault: Vault, locked: str) -> str | None:
    try:
        return vault.unlock(locked)
    except InvalidToken:
        return None


def end_secret(session: Session, tenant_id: int, secret_id: str, actor: Actor) -> None:
    """End a previous secret before its time. Raises NotFound, Conflict (the newest one)."""
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    live = live_secrets(session, tenant_id)
    secret = next((one for one in live if str(one.id) == secret_id), None)
    if secret is None:
        raise NotFound("This secret has ended already.")
    if secret is live[0]:
        raise Conflict("This is the newest secret. To end it, rotate first.")
    secret.expires_at = now()
    session.add(audit.line(actor, tenant_id, "secret.ended", f"secret of {secret.created_at:%Y-%m-%d %H:%M} UTC"))
    session.commit()


# ---------------------------------------------------------------- what an admin chose


CHOSEN = ("name", "model_allowed", "answer_threshold", "daily_tokens", "retention_days")


def settings_of(tenant: Tenant) -> dict[str, Any]:
    """What an admin chose for a tenant, as change_settings() takes it."""
    return {field: getattr(tenant, field) for field in CHOSEN}


def change_settings(
    session: Session,
    tenant_id: int,
    actor: Actor,
    *,
    installation: Settings,
    name: str,
    model_allowed: bool,
    answer_threshold: float | None,
    daily_tokens: int | None,
    retention_days: int | None,
) -> bool:
    """Change what an admin may choose; None = as the installation has it. False when nothing changes.

    A tenant may spend fewer tokens and keep things for a shorter time than the installation, not the other way.
    Raises NotFound, Invalid (only what changes is looked at).
    """
    tenant = session.get(Tenant, tenant_id, populate_existing=True, with_for_update={"key_share": True})
    if tenant is None:
        raise NotFound()
    wanted = {
        "name": name.strip(),
        "model_allowed": model_allowed,
        "answer_threshold": answer_threshold,
        "daily_tokens": daily_tokens,
        "retention_days": retention_days,
    }
    changed = {field: value for field, value in wanted.items() if getattr(tenant, field) != value}
    try:
        _check_settings(changed, installation)
    except Invalid:
        session.rollback()
        raise
    told = {field: {"before": getattr(tenant, field), "after": value} for field, value in changed.items()}
    for field, value in changed.items():
        setattr(tenant, field, value)
    if changed:
        session.add(audit.line(actor, tenant_id, "tenant.changed", tenant.slug, **told))
    session.commit()
    return bool(changed)


def _check_settings(changed: Mapping[str, Any], installation: Settings) -> None:
    problems = {
        "name": _name_problem(changed.get("name", "-")),
        "answer_threshold": _range_problem(changed.get("answer_threshold"), LOWEST_THRESHOLD, 1),
        "daily_tokens": _range_problem(changed.get("daily_tokens"), *_tokens(installation)),
        "retention_days": _range_problem(changed.get("retention_days"), 1, _longest_retention(installation)),
    }
    if wrong := {field: [problem] for field, problem in problems.items() if problem}:
        raise Invalid("These settings cannot be taken.", fields=wrong)


def _name_problem(name: str) -> str | None:
    if not name:
        return "Missing: what is it called?"
    return None if len(name) <= MAX_NAME and name.isprintable() else f"At most {MAX_NAME} characters, all printable."


def _range_problem(value: float | None, least: float, most: float) -> str | None:
    return None if value is None or least <= value <= most else f"From {least:g} to {most:.10g}, or nothing."


def _tokens(installation: Settings) -> tuple[int, int]:
    """0 is no limit, which only an installation without one can give."""
    limit = installation.llm_daily_tokens
    return (1, limit) if limit else (0, MAX_TOKENS)


def _longest_retention(installation: Settings) -> int:
    return min(installation.retention_days, MAX_RETENTION)


def _refused(field: str, words: str) -> NoReturn:
    raise Invalid(fields={field: [words]})


# ---------------------------------------------------------------- programs


def create_token(session: Session, slug: str, role: Role, name: str = "", actor: Actor = COMMAND_LINE) -> str:
    """Create an API token and return it; only its hash is kept. Raises Invalid, NotFound."""
    tenant = find_tenant(session, slug)
    token = crypto.generate(crypto.API_TOKEN)
    name = label(name, MAX_NAME)
    session.add(ApiToken(tenant_id=tenant.id, token_hash=crypto.hashed(token), role=role, name=name))
    session.add(audit.line(actor, tenant.id, "token.created", name, role=str(role)))
    session.commit()
    return token


def list_tokens(session: Session, tenant_id: int) -> Sequence[ApiToken]:
    """The live tokens of a tenant, newest first."""
    statement = select(ApiToken).where(ApiToken.tenant_id == tenant_id, ApiToken.revoked_at.is_(None))
    return session.scalars(statement.order_by(ApiToken.id.desc())).all()


def revoke_token(session: Session, tenant_id: int, token_id: str, actor: Actor) -> None:
    """End a token. Raises NotFound (no live one of this tenant)."""
    token = next((one for one in list_tokens(session, tenant_id) if str(one.id) == token_id), None)
    if token is None:
        raise NotFound("This token has been revoked already.")
    token.revoked_at = now()
    session.add(audit.line(actor, tenant_id, "token.revoked", token.name, role=str(token.role)))
    session.commit()


def find_token(session: Session, token: str) -> tuple[ApiToken, Tenant] | None:
    """The live token of an enabled tenant, or None."""
    statement = (
        select(ApiToken, Tenant)
        .join(Tenant, Tenant.id == ApiToken.tenant_id)
        .where(ApiToken.token_hash == crypto.hashed(token), ApiToken.revoked_at.is_(None), Tenant.disabled_at.is_(None))
    )
    found = session.execute(statement).first()
    return (found[0], found[1]) if found else None


# ---------------------------------------------------------------- the first start


@dataclass(frozen=True)
class FirstTenant:
    """What the first start shows once."""

    slug: str
    webhook_secret: str
    token: str


def ensure_first_tenant(engine: Engine, vault: Vault) -> FirstTenant | None:
    """With no tenant at all, make `my-company` with the starter recipes and a viewer's token; else None.

    All of it in one transaction: a start that is killed half-way leaves nothing that the next one would keep.
    """
    with engine.begin() as connection, Session(connection, join_transaction_mode="create_savepoint") as session:
        if session.scalar(select(func.count()).select_from(Tenant)):
            return None
        try:
            secret = create_with_recipes(session, vault, FIRST_TENANT, "My company", COMMAND_LINE)
        except Conflict:
            return None  # another process was first
        return FirstTenant(FIRST_TENANT, secret, create_token(session, FIRST_TENANT, Role.VIEWER, "first start"))
