"""Tenants and what belongs to one: webhook secrets, API tokens, what an admin chose for it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from config import Settings
from openremedy import audit, cookbook, crypto
from openremedy.audit import Actor
from openremedy.crypto import Vault
from openremedy.errors import Conflict, Invalid, NotFound, Problem
from openremedy.models import (
    ApiToken,
    Role,
    Tenant,
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


# ---------------------------------------------------------------- tenants and their webhook secrets


def create_tenant(session: Session, vault: Vault, slug: str, name: str = "", secret: str | None = None) -> str:
    """Create a tenant and return its webhook secret. Raises Invalid, Conflict."""
    if not _SLUG.fullmatch(slug):
        raise Invalid(f"{slug!r} is no slug: 1 to 63 lower-case letters, digits and inner hyphens.")
    secret = crypto.generate(crypto.WEBHOOK_SECRET) if secret is None else given(secret)
    tenant = Tenant(slug=slug, name=label(name, MAX_NAME) or slug)
    tenant.secrets.append(WebhookSecret(locked=vault.lock(secret)))
    with unique(session, f"There is a tenant {slug!r} already."):
        session.add(tenant)
    return secret


def given(secret: str) -> str:
    """A secret somebody brings along: text that can be signed with."""
    if not secret or not secret.isprintable():
        raise Invalid("The secret is empty or holds characters that cannot be printed.")
    return secret


def label(text: str, limit: int) -> str:
    """A name for people. Raises Invalid."""
    if len(text) > limit or not text.isprintable():
        raise Invalid(f"A name has at most {limit} characters, all of them printable.")
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


def rotate_secret(session: Session, vault: Vault, slug: str, grace: timedelta) -> tuple[str, datetime]:
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
    session.commit()
    return value, until


# ---------------------------------------------------------------- what an admin chose


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


# ---------------------------------------------------------------- programs


def create_token(session: Session, slug: str, role: Role, name: str = "") -> str:
    """Create an API token and return it; only its hash is kept. Raises Invalid, NotFound."""
    tenant = find_tenant(session, slug)
    token = crypto.generate(crypto.API_TOKEN)
    session.add(ApiToken(tenant_id=tenant.id, token_hash=crypto.hashed(token), role=role, name=label(name, MAX_NAME)))
    session.commit()
    return token


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
            secret = create_tenant(session, vault, FIRST_TENANT, "My company")
        except Conflict:
            return None  # another process was first
        cookbook.import_recipes(session, find_tenant(session, FIRST_TENANT).id, parse(STARTER_RECIPES.read_text()))
        return FirstTenant(FIRST_TENANT, secret, create_token(session, FIRST_TENANT, Role.VIEWER, "first start"))
