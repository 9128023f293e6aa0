"""Who did what, when, from where: one line for every change that a person or a program makes, in its transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, insert, select
from sqlalchemy.orm import Session

from openremedy.models import AuditLine, Tenant, now, table

MAX_TARGET = 300
BATCH = 500  # lines of an export that are read at a time
RECENT = 1000  # lines among which the known actions are looked for


@dataclass(frozen=True)
class Actor:
    """Who acts: `name` is an e-mail address, `token <name>`, or the command line."""

    name: str
    address: str = ""
    request_id: str = ""
    superadmin: bool = False  # acts in every tenant; the lines that it leaves in one say so


# ---------------------------------------------------------------- write


COMMAND_LINE = Actor("command line")


def line(actor: Actor, tenant_id: int | None, action: str, target: str = "", **detail: Any) -> AuditLine:
    """A line to add to the session that makes the change.

    `action` is a noun and a verb (`source.added`), `target` names the thing for people, `detail` holds what changed and
    never a secret. `tenant_id` None: of the installation.
    """
    return AuditLine(**row(actor, tenant_id, action, target, **detail))


def write(connection: Connection, actor: Actor, tenant_id: int, action: str, target: str = "", **detail: Any) -> None:
    """The same on a connection."""
    connection.execute(insert(table(AuditLine)), row(actor, tenant_id, action, target, **detail))


def row(actor: Actor, tenant_id: int | None, action: str, target: str = "", **detail: Any) -> dict[str, Any]:
    """The same as a row of the table."""
    if actor.superadmin and tenant_id is not None:
        detail["superadmin"] = True
    return {
        "at": now(),
        "tenant_id": tenant_id,
        "actor": actor.name[:MAX_TARGET],
        "action": action,
        "target": target[:MAX_TARGET],
        "detail": detail,
        "address": actor.address,
        "request_id": actor.request_id,
    }


# ---------------------------------------------------------------- read


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; None = everything. `since` is the first moment in it, `until` the first one after."""

    who: str | None = None  # part of the name
    action: str | None = None  # its beginning: `source` finds `source.added`
    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None  # a slug, where lines of several tenants are listed


def page(
    session: Session, tenant_id: int | None, filters: Filters, before: int | None, limit: int
) -> Sequence[RowMapping]:
    """Up to `limit` lines of a tenant, newest first, older than `before`; `tenant_id` None: every line there is.

    A row has the columns of the table and `tenant`, the slug.
    """
    return session.execute(_lines(tenant_id, filters, before, limit)).mappings().all()


def every(engine: Engine, tenant_id: int | None, filters: Filters) -> Iterator[RowMapping]:
    """The same without an end. Read in batches: whoever downloads slowly keeps no transaction open."""
    before = None
    while True:
        with engine.connect().execution_options(sqlite_readonly=True) as connection:
            found = connection.execute(_lines(tenant_id, filters, before, BATCH)).mappings().all()
        yield from found
        if len(found) < BATCH:
            return
        before = found[-1]["id"]


def known_actions(session: Session, tenant_id: int | None) -> Sequence[str]:
    """What was done lately, for a form to offer."""
    lately = select(AuditLine.action).order_by(AuditLine.id.desc()).limit(RECENT)
    if tenant_id is not None:
        lately = lately.where(AuditLine.tenant_id == tenant_id)
    actions = lately.subquery()
    return session.scalars(select(actions.c.action).distinct().order_by(actions.c.action)).all()


def _lines(tenant_id: int | None, filters: Filters, before: int | None, limit: int) -> Select[Any]:
    statement = (
        select(*table(AuditLine).c, Tenant.slug.label("tenant"))
        .outerjoin(Tenant, Tenant.id == AuditLine.tenant_id)
        .where(*_conditions(filters))
        .order_by(AuditLine.id.desc())
        .limit(limit)
    )
    if tenant_id is not None:
        statement = statement.where(AuditLine.tenant_id == tenant_id)
    return statement if before is None else statement.where(AuditLine.id < before)


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if filters.who:
        found.append(AuditLine.actor.icontains(filters.who, autoescape=True))
    if filters.action:
        found.append(AuditLine.action.startswith(filters.action, autoescape=True))
    if filters.since:
        found.append(AuditLine.at >= filters.since)
    if filters.until:
        found.append(AuditLine.at < filters.until)
    if filters.tenant:
        found.append(Tenant.slug == filters.tenant)
    return found
