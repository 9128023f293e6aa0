"""Deliveries as people and programs read them: what came in, what became of it, why it was refused."""

import dataclasses
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from openremedy import incidents, signature_doctor, signing
from openremedy.alerts import Outcome
from openremedy.crypto import Vault
from openremedy.errors import Conflict, NotFound
from openremedy.incidents import stamp
from openremedy.models import AlertRecord, Delivery, Source, WebhookSecret, table
from openremedy.signature_doctor import Finding, Key, Refused

log = structlog.get_logger()

HIDDEN_HEADERS = "signature"  # a header named like this: with the body it could be sent again


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; None = everything. `outcome`: at least one alert in it has this outcome."""

    accepted: bool | None = None
    reason: str | None = None
    source_id: int | None = None
    adapter: str | None = None
    outcome: Outcome | None = None


# ---------------------------------------------------------------- read


def page(
    session: Session, tenant_id: int, filters: Filters, before: uuid.UUID | None, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` deliveries of the tenant, newest first, older than `before`; without their bodies."""
    statement = _of_tenant(tenant_id).where(*_conditions(filters))
    if before:
        statement = statement.where(Delivery.id < before)
    rows = session.execute(statement.order_by(Delivery.id.desc()).limit(limit)).mappings()
    return [_as_json(row) for row in rows]


def _of_tenant(tenant_id: int) -> Select[Any]:
    columns = [column for column in table(Delivery).c if column.name != "body"]
    return (
        select(*columns, Source.name.label("source_name"))
        .outerjoin(Source, Source.id == Delivery.source_id)
        .where(Delivery.tenant_id == tenant_id)
    )


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    equal = {
        Delivery.reason: filters.reason,
        Delivery.source_id: filters.source_id,
        Delivery.adapter: filters.adapter,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if filters.accepted is not None:
        conditions.append(Delivery.accepted.is_(filters.accepted))
    if filters.outcome is not None:
        theirs = select(AlertRecord.id).where(AlertRecord.delivery_id == Delivery.id)
        conditions.append(theirs.where(AlertRecord.outcome == filters.outcome).exists())
    return conditions


def detail(session: Session, tenant_id: int, delivery_id: uuid.UUID) -> dict[str, Any]:
    """One delivery as the list has it, and `source_id`, `body` (bytes), `cut` (it is only the first part of what came)
    and `alerts`: position, outcome, reason, incident_id, status and severity of each. Raises NotFound.
    """
    statement = _of_tenant(tenant_id).add_columns(Delivery.body).where(Delivery.id == delivery_id)
    row = session.execute(statement).mappings().first()
    if row is None:
        raise NotFound()
    alerts = session.scalars(
        select(AlertRecord).where(AlertRecord.delivery_id == delivery_id).order_by(AlertRecord.position)
    )
    return _as_json(row) | {
        "source_id": row["source_id"],
        "body": row["body"],
        "cut": row["body_bytes"] > len(row["body"]),
        "alerts": [_alert_json(alert) for alert in alerts],
    }


def _alert_json(alert: AlertRecord) -> dict[str, Any]:
    return {
        "position": alert.position,
        "outcome": alert.outcome,
        "incident_id": str(alert.incident_id) if alert.incident_id else None,
        "reason": alert.reason,
        "status": alert.status,
        "severity": alert.severity,
    }


def _as_json(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "adapter": row["adapter"],
        "source": row["source_name"] or incidents.CANONICAL,
        "received_at": stamp(row["received_at"]),
        "accepted": row["accepted"],
        "status_code": row["status_code"],
        "reason": row["reason"],
        "message": row["message"],
        "remote_addr": row["remote_addr"],
        "request_id": row["request_id"],
        "headers": shown(row["headers"]),
        "body_bytes": row["body_bytes"],
    }


def shown(headers: dict[str, str]) -> dict[str, str]:
    """The kept headers without a signature among them."""
    return {name: value for name, value in headers.items() if HIDDEN_HEADERS not in name.lower()}


def find(session: Session, tenant_id: int, delivery_id: uuid.UUID) -> Delivery:
    """A delivery of the tenant. Raises NotFound."""
    delivery = session.scalar(select(Delivery).where(Delivery.tenant_id == tenant_id, Delivery.id == delivery_id))
    if delivery is None:
        raise NotFound()
    return delivery


def tenant_of(session: Session, delivery_id: uuid.UUID) -> int:
    """The tenant that a delivery belongs to, for who may see every tenant. Raises NotFound."""
    tenant_id = session.scalar(select(Delivery.tenant_id).where(Delivery.id == delivery_id))
    if tenant_id is None:
        raise NotFound("There is no such delivery.")
    return tenant_id


def whole(delivery: Delivery) -> bool:
    """Whether all of its body was kept."""
    return delivery.body_bytes <= len(delivery.body)


# ---------------------------------------------------------------- why it was refused


def diagnose(session: Session, vault: Vault, tenant_id: int, delivery_id: uuid.UUID) -> Finding:
    """What was wrong with the signature of a refused canonical delivery: for an admin of the tenant, never its sender.

    Raises NotFound, Conflict.
    """
    delivery = find(session, tenant_id, delivery_id)
    if delivery.accepted or delivery.adapter != incidents.CANONICAL:
        raise Conflict("Only a refused delivery of the canonical endpoint has a signature to look into.")
    refused = Refused(
        body=delivery.body,
        cut=not whole(delivery),
        header=delivery.headers.get(signing.HEADER),
        reason=delivery.reason or "",
        received_at=delivery.received_at,
    )
    keys, unreadable = _keys(session, vault, tenant_id)
    finding = signature_doctor.examine(refused, keys)
    if not unreadable:
        return finding
    lost = f"{unreadable} of your secrets could not be tried: ENCRYPTION_KEYS lacks the key they were locked with."
    return dataclasses.replace(finding, advice=f"{finding.advice} {lost}")


def _keys(session: Session, vault: Vault, tenant_id: int) -> tuple[Sequence[Key], int]:
    """Every secret that the tenant has or had, and how many of them no key of ours opens."""
    rows = session.scalars(select(WebhookSecret).where(WebhookSecret.tenant_id == tenant_id)).all()
    keys = []
    for row in rows:
        try:
            keys.append(Key(vault.unlock(row.locked), row.created_at, row.expires_at))
        except InvalidToken:
            log.error("secret.unreadable", secret=row.id)
    return keys, len(rows) - len(keys)
