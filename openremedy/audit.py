"""Who did what, when, from where: one line for every change that a person or a program makes, in its transaction."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from openremedy.models import AuditLine, now, table

MAX_TARGET = 300


@dataclass(frozen=True)
class Actor:
    """Who acts: `name` is an e-mail address, `token <name>`, or the command line."""

    name: str
    address: str = ""
    request_id: str = ""


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
