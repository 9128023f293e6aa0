"""Small facts written after the answer: who was refused and why, and which secret was used.

Requests only put a fact into memory; a thread writes them once a second, many at a time. So a refusal costs the same
whether its tenant exists or not, and a flood of them costs neither the database nor the memory much. What a killed
process had not yet written (up to a second of refusals) is gone; accepted alerts never come through here.
"""

import atexit
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from openremedy import audit
from openremedy.audit import Actor
from openremedy.ids import new_id
from openremedy.models import (
    ApiToken,
    AuditLine,
    Base,
    Delivery,
    RefusalCount,
    SignIn,
    Source,
    SourceSecret,
    SourceToken,
    Tenant,
    WebhookSecret,
    now,
    table,
)

log = structlog.get_logger()

INTERVAL = 1.0  # seconds
MAX_WAITING = 500  # different refusals between two writes: by slug, adapter, source, reason, minute
MAX_SAMPLES_WAITING = 200  # with 64 KiB each
MAX_SLUG = 63
MAX_INTEGER = 2**31 - 1  # a declared length may be anything
MAX_SAMPLE_BYTES = 64 * 1024
SAMPLES_AN_HOUR = 20  # per tenant and reason
SAMPLES_KEPT = 500  # per tenant
MAX_STRAYS = 100  # between two writes
STRAYS_AN_HOUR = 60  # of one person on one route; nothing ever leaves the log, so nobody may fill it
CANONICAL = 0

# Slug (or tenant), adapter, source, reason, minute.
_Waiting = tuple[str, str, int, str, datetime]
_Counted = tuple[int, int, str, datetime]

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
    # Of the tokens it brought: one that has expired or is of a disabled source tells which source this is.
    token_hashes: tuple[str, ...] = ()
    at: datetime = field(default_factory=now)

    @property
    def kind(self) -> _Waiting:
        """What it is counted by."""
        minute = self.at.replace(second=0, microsecond=0)
        return self.slug, self.adapter, self.source_id or CANONICAL, self.reason, minute


class Tally:
    """One per process; its thread starts with the first fact, so it survives a fork of the server."""

    def __init__(self, engine: Engine, is_tenant: Callable[[str], bool]) -> None:
        """`is_tenant`: whether a slug is known to be one, told from memory; made-up ones must not crowd it out."""
        self._engine = engine
        self._is_tenant = is_tenant
        self._counts: Counter[_Waiting] = Counter()
        self._samples: list[Refusal] = []
        self._uncounted = 0
        self._uses: Counter[int] = Counter()
        self._tokens: set[int] = set()
        self._source_tokens: set[int] = set()
        self._source_secrets: set[int] = set()
        self._sign_ins: set[int] = set()
        self._strays: list[dict[str, Any]] = []
        self._strayed: Counter[tuple[str, int | None, str]] = Counter()
        self._strayed_in = now()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def refused(self, refusal: Refusal) -> None:
        """Remember a refusal, and its body while there are few of its kind."""
        kind = refusal.kind
        part = 1 if self._is_tenant(refusal.slug) else 2  # the second half of the room is for known tenants alone
        with self._lock:
            full = kind not in self._counts and len(self._counts) >= MAX_WAITING // part
            if full or not _may_be_tenant(refusal.slug):
                self._uncounted += 1
            else:
                self._counts[kind] += 1
                if self._counts[kind] <= SAMPLES_AN_HOUR and len(self._samples) < MAX_SAMPLES_WAITING // part:
                    self._samples.append(refusal)
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

    def source_used(self, token_id: int | None, secret_id: int | None) -> None:
        """Remember by which of its credentials a source came."""
        with self._lock:
            if token_id is not None:
                self._source_tokens.add(token_id)
            if secret_id is not None:
                self._source_secrets.add(secret_id)
        self._start()

    def seen(self, sign_in_id: int) -> None:
        """Remember that somebody was here."""
        with self._lock:
            self._sign_ins.add(sign_in_id)
        self._start()

    def strayed(self, actor: Actor, tenant_id: int | None, route: str) -> None:
        """Remember that somebody known asked for what is not there, or not theirs, unless they do so all the time."""
        who = (actor.name, tenant_id, route)
        with self._lock:
            if now() - self._strayed_in > timedelta(hours=1):
                self._strayed.clear()
                self._strayed_in = now()
            self._strayed[who] += 1
            if self._strayed[who] <= STRAYS_AN_HOUR and len(self._strays) < MAX_STRAYS:
                self._strays.append(audit.row(actor, tenant_id, "nothing.found", route))
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
                counts, self._counts = self._counts, Counter()
                samples, self._samples = self._samples, []
                uses, self._uses = self._uses, Counter()
                seen = {ApiToken: self._tokens, SourceToken: self._source_tokens, SourceSecret: self._source_secrets}
                self._tokens, self._source_tokens, self._source_secrets = set(), set(), set()
                sign_ins, self._sign_ins = self._sign_ins, set()
                strays, self._strays = self._strays, []
                uncounted, self._uncounted = self._uncounted, 0
            if uncounted:
                log.info("tally.uncounted", refusals=uncounted)
            # Two transactions: a rotation locks the tenant and then its secrets, one of both would cross it.
            if counts:
                self._write(lambda connection: _write_refusals(connection, counts, samples), refusals=counts.total())
            if uses or any(seen.values()):
                self._write(lambda connection: _write_uses(connection, uses, seen), uses=uses.total())
            if sign_ins or strays:
                self._write(lambda connection: _write_people(connection, sign_ins, strays), strays=len(strays))

    def _write(self, write: Callable[[Connection], None], **lost: int) -> None:
        try:
            with self._engine.begin() as connection:
                write(connection)
        except SQLAlchemyError as error:
            log.warning("tally.lost", error=type(error).__name__, **lost)


def _may_be_tenant(slug: str) -> bool:
    """Spares the database what it could not even be asked for."""
    return len(slug) <= MAX_SLUG and slug.isascii() and slug.isprintable()


def _write_uses(connection: Connection, uses: Counter[int], seen: Mapping[type[Base], set[int]]) -> None:
    for model, ids in seen.items():
        if ids:
            used = table(model)
            connection.execute(update(used).where(used.c.id.in_(sorted(ids))).values(last_used_at=now()))
    rows = [{"b_id": secret_id, "b_count": count, "b_at": now()} for secret_id, count in sorted(uses.items())]
    if rows:
        statement = (
            update(table(WebhookSecret))
            .where(WebhookSecret.id == bindparam("b_id"))
            .values(last_used_at=bindparam("b_at"), used_count=WebhookSecret.used_count + bindparam("b_count"))
        )
        connection.execute(statement, rows)


def _write_people(connection: Connection, sign_ins: set[int], strays: list[dict[str, Any]]) -> None:
    if sign_ins:
        connection.execute(update(table(SignIn)).where(SignIn.id.in_(sorted(sign_ins))).values(seen_at=now()))
    if strays:
        connection.execute(insert(table(AuditLine)), strays)


def _write_refusals(connection: Connection, waiting: Counter[_Waiting], samples: list[Refusal]) -> None:
    # Locked against other processes that would count the samples of a tenant at the same time. Not against rows that
    # refer to it: that would hold up the door.
    found = (
        select(Tenant.slug, Tenant.id)
        .where(Tenant.slug.in_({slug for slug, *_ in waiting}))
        .order_by(Tenant.id)
        .with_for_update(key_share=True)
    )
    tenants = {row.slug: row.id for row in connection.execute(found)}
    samples = [_with_source(connection, tenants[one.slug], one) for one in samples if one.slug in tenants]
    for key, count in sorted(_by_source(connection, tenants, waiting).items()):
        _count(connection, key, count)
    for slug, tenant_id in sorted(tenants.items()):
        _sample(connection, tenant_id, [refusal for refusal in samples if refusal.slug == slug])
    _tell_sources(connection, samples)


def _by_source(connection: Connection, tenants: Mapping[str, int], waiting: Counter[_Waiting]) -> Counter[_Counted]:
    """The counts of known tenants; those of no source are of the only one that the tenant has of that kind."""
    counts: Counter[_Counted] = Counter()
    for (slug, adapter, source_id, reason, minute), count in waiting.items():
        if slug in tenants:
            known = source_id or _only_source(connection, tenants[slug], adapter) or CANONICAL
            counts[tenants[slug], known, reason, minute] += count
    return counts


def _only_source(connection: Connection, tenant_id: int, adapter: str) -> int | None:
    if adapter == "canonical":
        return None
    theirs = select(Source.id).where(Source.tenant_id == tenant_id, Source.adapter == adapter)
    only = list(connection.scalars(theirs.limit(2)))
    return only[0] if len(only) == 1 else None


def _with_source(connection: Connection, tenant_id: int, refusal: Refusal) -> Refusal:
    """The refusal with the source it is about, as far as that can be told: by a token that was good once, or because
    the tenant has one source of this kind.
    """
    if refusal.source_id is not None or refusal.adapter == "canonical":
        return refusal
    theirs = select(Source.id).where(Source.tenant_id == tenant_id, Source.adapter == refusal.adapter)
    known = theirs.join(SourceToken).where(SourceToken.token_hash.in_(refusal.token_hashes)).limit(1)
    source_id = connection.scalar(known) or _only_source(connection, tenant_id, refusal.adapter)
    return replace(refusal, source_id=source_id)


def _tell_sources(connection: Connection, refusals: list[Refusal]) -> None:
    """Put the newest refusal on each source."""
    newest = {one.source_id: one for one in sorted(refusals, key=lambda one: one.at) if one.source_id is not None}
    for source_id, refusal in sorted(newest.items()):
        values = {
            "last_refused_at": refusal.at,
            "last_refusal_reason": refusal.reason,
            "last_refusal_message": refusal.message,
        }
        connection.execute(update(table(Source)).where(Source.id == source_id).values(values))


def _count(connection: Connection, key: _Counted, count: int) -> None:
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
        "body_bytes": min(refusal.body_bytes, MAX_INTEGER),
    }
