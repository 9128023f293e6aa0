"""Small facts written after the answer: who was refused and why, and which secret was used.

Requests only put a fact into memory; a thread writes them once a second, many at a time. So a refusal costs the same
whether its tenant exists or not, and a flood of them costs the database little. What a killed process had not yet
written (up to a second of refusals) is gone; accepted alerts never come through here.
"""

import atexit
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from openremedy.ids import new_id
from openremedy.models import ApiToken, Delivery, RefusalCount, Tenant, WebhookSecret, now, table

log = structlog.get_logger()

INTERVAL = 1.0  # seconds
MAX_WAITING = 2000  # refusals in memory; beyond it only their number is kept
MAX_SAMPLE_BYTES = 64 * 1024
SAMPLES_AN_HOUR = 20  # per tenant and reason
SAMPLES_KEPT = 500  # per tenant
CANONICAL = 0

_deliveries = table(Delivery)
_counts = table(RefusalCount)


@dataclass(frozen=True)
class Refusal:
    """A request that was not accepted. `body` is cut already, `headers` hold no credential but the signature."""

    slug: str
    reason: str
    status_code: int
    message: str
    request_id: str
    remote_addr: str
    body: bytes
    body_bytes: int
    headers: dict[str, str]
    adapter: str = "canonical"
    source_id: int | None = None
    at: datetime = field(default_factory=now)


class Tally:
    """One per process; its thread starts with the first fact, so it survives a fork of the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._refusals: deque[Refusal] = deque(maxlen=MAX_WAITING)
        self._uses: Counter[int] = Counter()
        self._tokens: set[int] = set()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def refused(self, refusal: Refusal) -> None:
        """Remember a refusal; the oldest unwritten one goes when there are too many."""
        with self._lock:
            self._refusals.append(refusal)
        self._start()

    def used(self, secret_id: int) -> None:
        """Remember that a webhook secret signed something."""
        with self._lock:
            self._uses[secret_id] += 1
        self._start()

    def token_used(self, token_id: int) -> None:
        """Remember that an API token was used."""
        with self._lock:
            self._tokens.add(token_id)
        self._start()

    def _start(self) -> None:
        if self._thread and self._thread.is_alive():
            return
        with self._lock:
            if not (self._thread and self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="tally", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.flush()

    def stop(self) -> None:
        """Write what waits and end the thread."""
        self._stopped.set()
        self.flush()

    def flush(self) -> None:
        """Write what waits. What cannot be written is dropped and said so: it must never hold a request."""
        with self._flushing:
            with self._lock:
                refusals, uses, tokens = list(self._refusals), dict(self._uses), sorted(self._tokens)
                self._refusals.clear()
                self._uses.clear()
                self._tokens.clear()
            if not (refusals or uses or tokens):
                return
            try:
                with self._engine.begin() as connection:
                    _write_uses(connection, uses, tokens)
                    _write_refusals(connection, refusals)
            except SQLAlchemyError as error:
                log.warning("tally.lost", refusals=len(refusals), uses=len(uses), error=type(error).__name__)


def _write_uses(connection: Connection, uses: dict[int, int], tokens: list[int]) -> None:
    if tokens:
        connection.execute(update(table(ApiToken)).where(ApiToken.id.in_(tokens)).values(last_used_at=now()))
    rows = [{"b_id": secret_id, "b_count": count, "b_at": now()} for secret_id, count in sorted(uses.items())]
    if rows:
        statement = (
            update(table(WebhookSecret))
            .where(WebhookSecret.id == bindparam("b_id"))
            .values(last_used_at=bindparam("b_at"), used_count=WebhookSecret.used_count + bindparam("b_count"))
        )
        connection.execute(statement, rows)


def _write_refusals(connection: Connection, refusals: list[Refusal]) -> None:
    slugs = {refusal.slug for refusal in refusals}
    found = connection.execute(select(Tenant.slug, Tenant.id).where(Tenant.slug.in_(slugs))) if slugs else ()
    tenants = {slug: tenant_id for slug, tenant_id in found}
    known = [(tenants[refusal.slug], refusal) for refusal in refusals if refusal.slug in tenants]
    counts = Counter(
        (tenant_id, refusal.source_id or CANONICAL, refusal.reason, refusal.at.replace(second=0, microsecond=0))
        for tenant_id, refusal in known
    )
    for key, count in sorted(counts.items()):
        _count(connection, key, count)
    for tenant_id in sorted({tenant_id for tenant_id, _ in known}):
        _sample(connection, tenant_id, [refusal for owner, refusal in known if owner == tenant_id])


def _count(connection: Connection, key: tuple[int, int, str, datetime], count: int) -> None:
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    tenant_id, source_id, reason, minute = key
    statement = kind.insert(_counts).values(
        tenant_id=tenant_id, source_id=source_id, reason=reason, minute=minute, count=count
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "source_id", "reason", "minute"],
            set_={"count": _counts.c.count + statement.excluded.count},
        )
    )


def _sample(connection: Connection, tenant_id: int, refusals: list[Refusal]) -> None:
    """Keep a few of the refused bodies: so many an hour and reason, so many in all."""
    refused = (_deliveries.c.tenant_id == tenant_id, _deliveries.c.accepted.is_(False))
    recent = select(_deliveries.c.reason, func.count()).where(
        *refused, _deliveries.c.received_at > now() - timedelta(hours=1)
    )
    taken: Counter[str] = Counter(dict(connection.execute(recent.group_by(_deliveries.c.reason)).all()))
    kept = []
    for refusal in refusals:
        if taken[refusal.reason] < SAMPLES_AN_HOUR:
            taken[refusal.reason] += 1
            kept.append(_row(tenant_id, refusal))
    if kept:
        connection.execute(insert(_deliveries), kept)
        oldest = select(_deliveries.c.id).where(*refused).order_by(_deliveries.c.id.desc()).offset(SAMPLES_KEPT)
        connection.execute(delete(_deliveries).where(_deliveries.c.id.in_(oldest)))


def _row(tenant_id: int, refusal: Refusal) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "source_id": refusal.source_id,
        "adapter": refusal.adapter,
        "received_at": refusal.at,
        "request_id": refusal.request_id,
        "remote_addr": refusal.remote_addr,
        "accepted": False,
        "status_code": refusal.status_code,
        "reason": refusal.reason,
        "message": refusal.message,
        "headers": refusal.headers,
        "body": refusal.body[:MAX_SAMPLE_BYTES],
        "body_bytes": refusal.body_bytes,
    }
