"""Tenants and what belongs to one: webhook secrets, API tokens, what an admin chose for it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openremedy import cookbook, crypto
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
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


# ---------------------------------------------------------------- tenants and their webhook secrets


def create_tenant(session: Session, vault: Vault, slug: str, name: str = "", secret: str | None = None) -> str:
    """Create a tenant and return its webhook secret. Raises Invalid, Conflict."""
    if not _SLUG.fullmatch(slug):
        raise Invalid(f"{slug!r} is no slug: 1 to 63 lower-case letters, digits and inner hyphens.")
    secret = crypto.generate(crypto.WEBHOOK_SECRET) if secret is None else given(secret)
    tenant = Tenant(slug=slug, name=label(name, 200) or slug)
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


# ---------------------------------------------------------------- programs


def create_token(session: Session, slug: str, role: Role, name: str = "") -> str:
    """Create an API token and return it; only its hash is kept. Raises Invalid, NotFound."""
    tenant = find_tenant(session, slug)
    token = crypto.generate(crypto.API_TOKEN)
    session.add(ApiToken(tenant_id=tenant.id, token_hash=crypto.hashed(token), role=role, name=label(name, 200)))
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
