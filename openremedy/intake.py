"""The single door: raw signed bytes in, one stored delivery with its incidents and a woken worker out."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Engine

from openremedy import store
from openremedy.alerts import identity, parse_alert
from openremedy.directory import Directory
from openremedy.ids import new_id
from openremedy.models import now
from openremedy.queue import Waker
from openremedy.store import Arrival, Stored
from openremedy.tally import Tally

log = structlog.get_logger()

CANONICAL = "canonical"


@dataclass(frozen=True)
class Origin:
    """Where a body came from."""

    request_id: str
    remote_addr: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What the sender is told: the delivery, and the outcome of its alert."""

    delivery_id: uuid.UUID
    outcomes: list[Stored]
    warnings: list[str]


@dataclass(frozen=True)
class Door:
    """Everything the door needs; one per application."""

    engine: Engine
    directory: Directory
    tally: Tally
    waker: Waker

    def accept(self, tenant: str, body: bytes, signature: str | None, origin: Origin) -> Receipt:
        """Verify, parse and store one canonical body, then wake a worker.

        Nothing is parsed before it is authenticated, and nothing is queued before it is committed.
        Raises Unauthorized, BadBody, Invalid, Unavailable; then nothing was stored.
        """
        caller = self.directory.authenticate(tenant, body, signature)
        alert, warnings = parse_alert(body)
        self.tally.used(caller.secret_id)
        delivery = _delivery(caller.tenant_id, body, origin)
        outcomes = store.store(self.engine, delivery, [Arrival(0, alert, identity(alert))])
        self._wake(outcomes)
        log.info(
            "alert.accepted",
            tenant=tenant,
            delivery=str(delivery["id"]),
            outcome=str(outcomes[0].outcome),
            incident=str(outcomes[0].incident_id),
        )
        return Receipt(delivery["id"], outcomes, warnings)

    def _wake(self, outcomes: Sequence[Stored]) -> None:
        if any(stored.outcome == "created" for stored in outcomes):
            self.waker.wake()


def _delivery(tenant_id: int, body: bytes, origin: Origin) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "source_id": None,
        "adapter": CANONICAL,
        "received_at": now(),
        "request_id": origin.request_id,
        "remote_addr": origin.remote_addr,
        "accepted": True,
        "status_code": 202,
        "reason": None,
        "message": None,
        "headers": origin.headers,
        "body": body,
        "body_bytes": len(body),
    }
