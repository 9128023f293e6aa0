"""Alerts handed to the store as the door does it, without HTTP: for tests about what the database holds afterwards."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, select, text

from openremedy import store
from openremedy.alerts import Alert, AlertStatus, IncidentType, Severity, identity
from openremedy.ids import new_id
from openremedy.models import Tenant
from openremedy.rows import Arrival, Stored

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def minute(minutes: float) -> datetime:
    """A time by the sender's clock."""
    return NOON + timedelta(minutes=minutes)


def alert(status: str = "firing", at: float | None = None, **changes: Any) -> Alert:
    """An alert of one and the same thing, `at` minutes past noon by the sender's clock."""
    values = {"hostname": "web-01", "incident_type": "disk_full", "severity": "medium", "evidence": {}} | changes
    return Alert(
        hostname=values["hostname"],
        incident_type=IncidentType(values["incident_type"]),
        severity=Severity(values["severity"]),
        evidence=values["evidence"],
        status=AlertStatus(status),
        dedup_key=values.get("dedup_key"),
        occurred_at=None if at is None else minute(at),
    )


def tenant_id(engine: Engine, slug: str) -> int:
    with engine.connect() as connection:
        return connection.execute(select(Tenant.id).where(Tenant.slug == slug)).scalar_one()


def delivery(tenant: int, **changes: Any) -> dict[str, Any]:
    """The row of a delivery."""
    return {
        "id": new_id(),
        "tenant_id": tenant,
        "source_id": None,
        "adapter": "canonical",
        "received_at": datetime.now(UTC),
        "request_id": uuid.uuid4().hex,
        "remote_addr": "127.0.0.1",
        "accepted": True,
        "status_code": 202,
        "reason": None,
        "message": None,
        "headers": {},
        "body": b"{}",
        "body_bytes": 2,
        **changes,
    }


def arrivals(*alerts: Alert) -> list[Arrival]:
    return [Arrival(position, one, identity(one)) for position, one in enumerate(alerts)]


def put(engine: Engine, tenant: int, *alerts: Alert, **changes: Any) -> list[Stored]:
    """Store one body."""
    return store.store(engine, delivery(tenant, **changes), arrivals(*alerts))


def outcomes(stored: list[Stored]) -> list[str]:
    return [str(one.outcome) for one in stored]


def many_pending(connection: Connection, tenant: int, count: int) -> None:
    """So many open incidents that nobody has looked at, as PostgreSQL makes them: the planner knows nothing of them."""
    copies = text(
        """INSERT INTO incidents (id, tenant_id, adapter, identity, status, hostname, incident_type, severity, evidence,
            occurrences, first_seen, last_seen, recent_starts, triage, triage_since)
        SELECT gen_random_uuid(), :tenant, 'canonical', gen_random_uuid()::text, 'open', 'web', 'custom', 'low', '{}',
            1, now(), now(), '[]', 'pending', now() FROM generate_series(1, :count)"""
    )
    connection.execute(copies, {"tenant": tenant, "count": count})
