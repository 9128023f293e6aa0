"""`flask demo`: a tenant as it looks after a week of work, for people who want to look around."""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, exists, func, select
from sqlalchemy.orm import Session

from openremedy import audit, cookbook, people, sources, tenants
from openremedy.demo import world
from openremedy.demo.stage import Credentials, Play, request, stage
from openremedy.demo.week import DAYS, week
from openremedy.errors import Conflict
from openremedy.models import AuditLine, Delivery, Incident, Role, Source, Tenant, as_if_at, now
from openremedy.recipes import parse
from openremedy.services import services

SLUG = "demo"
SEED = 4711
RECIPES = Path(__file__).parents[2] / "config" / "demo_recipes.yaml"
FILLED = "demo.filled"
# Before the first alert: the tenant is made, then its secret is changed, and the old one ends.
_MADE, _ROTATED = timedelta(days=DAYS + 5), timedelta(days=DAYS + 2)


@dataclass(frozen=True)
class Member:
    """Somebody who can sign in; `password` is None for one who had an account before."""

    email: str
    role: Role
    password: str | None = field(repr=False)


@dataclass(frozen=True)
class Filled:
    """A tenant that was filled."""

    tenant: str
    incidents: int
    deliveries: int
    sources: int
    members: tuple[Member, ...]

    def as_json(self) -> dict[str, Any]:
        """With the passwords, which are shown this once."""
        members = [{"email": one.email, "role": str(one.role), "password": one.password} for one in self.members]
        figures = {"incidents": self.incidents, "deliveries": self.deliveries, "sources": self.sources}
        return {"tenant": self.tenant, **figures, "members": members}


def fill(session: Session, engine: Engine, slug: str = SLUG, seed: int = SEED) -> Filled:
    """Make the tenant and let a week happen in it. Raises Conflict (it exists: nothing is changed), Invalid."""
    end = now()
    with as_if_at(end - _MADE):
        secret = _make(session, slug)
        tenant_id = tenants.find_tenant(session, slug).id
        members = tuple(_join(session, slug, person) for person in world.PEOPLE)
        tokens, signing = _connect(session, slug)
    with as_if_at(end - _ROTATED):
        new_secret, _ = tenants.rotate_secret(session, services().vault, slug, timedelta(hours=24))
        api_token = tenants.create_token(session, slug, Role.VIEWER, world.TOKEN_NAME)
    credentials = Credentials(new_secret, secret, tokens, signing)
    with stage(engine), _hushed(), asyncio.Runner() as runner:
        Play(session, engine, tenant_id, slug, credentials, end, runner).play(week(seed, end))
        _read(api_token)
    return _told(session, tenant_id, slug, seed, members)


def url_of(public_url: str, slug: str = SLUG) -> str:
    """The first page of the tenant."""
    return f"{public_url}/t/{slug}/"


def welcome(filled: Filled, public_url: str) -> str:
    """What people are told about a tenant that was filled; the passwords are in it."""
    width = max(len(one.email) for one in filled.members)
    who = "\n".join(
        f"  {one.email:{width}}  {one.role:9}  {one.password or 'the password they have'}" for one in filled.members
    )
    return f"""\
The tenant {filled.tenant} has {filled.incidents} incidents of the last {DAYS} days from {filled.sources} sources.
Open {url_of(public_url, filled.tenant)} and sign in; the passwords are shown only now:
{who}"""


def is_whole(session: Session, slug: str = SLUG) -> bool | None:
    """Whether a tenant was filled to the end; None when there is no such tenant."""
    tenant_id = session.scalar(select(Tenant.id).where(Tenant.slug == slug))
    if tenant_id is None:
        return None
    filled = exists().where(AuditLine.tenant_id == tenant_id, AuditLine.action == FILLED)
    return bool(session.scalar(select(filled)))


def _make(session: Session, slug: str) -> str:
    try:
        secret = tenants.create_tenant(session, services().vault, slug, world.NAME)
    except Conflict as error:
        raise Conflict(
            f"There is a tenant {slug!r} already; nothing was changed. --tenant takes another name."
        ) from error
    for file in (tenants.STARTER_RECIPES, RECIPES):
        cookbook.import_recipes(session, tenants.find_tenant(session, slug).id, parse(file.read_text("utf-8")))
    return secret


def _join(session: Session, slug: str, person: world.Person) -> Member:
    email = person.email(slug)
    known = people.user_exists(session, email)
    password = secrets.token_urlsafe(15)
    people.create_user(session, email, password, slug, person.role)
    return Member(email, person.role, None if known else password)


def _connect(session: Session, slug: str) -> tuple[dict[world.Tool, str], dict[world.Tool, str]]:
    """The tokens of the sources and the secrets with which some of their tools sign."""
    signing = {tool: secrets.token_urlsafe(24) for tool in world.SOURCES if tool.signs}
    tokens = {}
    for tool in world.SOURCES:
        vault = services().vault
        _, tokens[tool] = sources.add_source(session, vault, slug, tool.adapter, tool.name, signing.get(tool))
    return tokens, signing


@contextmanager
def _hushed() -> Iterator[None]:
    """A thousand lines about made-up requests are no news; errors are."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _read(token: str) -> None:
    """The token of the tenant is in use."""
    request("GET", "/api/v1/incidents", {"Authorization": f"Bearer {token}"}, world.ADA.address)
    services().tally.flush()


def _told(session: Session, tenant_id: int, slug: str, seed: int, members: tuple[Member, ...]) -> Filled:
    incidents, deliveries, connected = (
        session.scalar(select(func.count()).where(model.tenant_id == tenant_id)) or 0
        for model in (Incident, Delivery, Source)
    )
    session.add(audit.line(audit.COMMAND_LINE, tenant_id, FILLED, slug, seed=seed, incidents=incidents))
    session.commit()
    return Filled(slug, incidents, deliveries, connected, members)
