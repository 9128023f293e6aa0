"""Tenants and their live webhook secrets, kept in memory for at most a second.

Known and unknown tenants cost the same: every failing check computes as many HMACs as the tenant with most live
secrets has, and a failing check always looks at the database once more before it says no, so that a tenant or a
secret made a moment ago works at once.
"""

import os
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from openremedy import signing
from openremedy.crypto import Vault
from openremedy.errors import Unauthorized, Unavailable
from openremedy.models import Tenant, WebhookSecret, now

MAX_AGE = 1.0  # seconds; a revoked secret works no longer than this
# A wrong signature asks the database again, but a flood of them does so no more often than this (seconds).
MIN_AGE = 0.05
# Stands in for the secrets a tenant does not have. Nobody can sign with it: it is random per process.
_DUMMY = os.urandom(32)

_LIVE = (
    select(Tenant.id, Tenant.slug, WebhookSecret.id, WebhookSecret.locked, WebhookSecret.expires_at)
    .join(WebhookSecret, WebhookSecret.tenant_id == Tenant.id)
    .where(Tenant.disabled_at.is_(None))
    .order_by(WebhookSecret.id)
)


@dataclass(frozen=True)
class Secret:
    """One webhook secret, decrypted."""

    id: int
    value: bytes
    expires_at: datetime | None


@dataclass
class _Known:
    tenant_id: int
    secrets: list[Secret] = field(default_factory=list)


@dataclass(frozen=True)
class Caller:
    """Who signed: the tenant and which of its secrets."""

    tenant_id: int
    secret_id: int


class Directory:
    """The cache of one process; safe to use from several threads."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault
        self._known: dict[str, _Known] = {}
        self._plain: dict[str, bytes] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def authenticate(self, slug: str, body: bytes, signature: str | None) -> Caller:
        """The caller whose live secret signed `body`. Raises Unauthorized, Unavailable."""
        self._refresh(MAX_AGE)
        caller = self._check(slug, body, signature)
        if caller is None:
            self._refresh(MIN_AGE)
            caller = self._check(slug, body, signature)
        if caller is None:
            raise Unauthorized("The signature is missing or wrong.")
        return caller

    def _check(self, slug: str, body: bytes, signature: str | None) -> Caller | None:
        moment = now()
        known = self._known.get(slug)
        live = [one for one in known.secrets if one.expires_at is None or one.expires_at > moment] if known else []
        most = max((len(one.secrets) for one in self._known.values()), default=1)
        values = [one.value for one in live] + [_DUMMY] * (most - len(live))
        position = signing.matching(values, body, signature)
        if known is None or position is None or position >= len(live):
            return None
        return Caller(known.tenant_id, live[position].id)

    def _refresh(self, max_age: float) -> None:
        if time.monotonic() - self._read_at < max_age:
            return
        with self._lock:
            if time.monotonic() - self._read_at < max_age:
                return
            asked_at = time.monotonic()
            self._known = self._read()
            self._read_at = asked_at

    def _read(self) -> dict[str, _Known]:
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(_LIVE).all()
        except (DBAPIError, PoolTimeout) as error:
            raise Unavailable() from error
        known: dict[str, _Known] = {}
        plain: dict[str, bytes] = {}
        for tenant_id, slug, secret_id, locked, expires_at in rows:
            plain[locked] = self._plain.get(locked) or self._vault.unlock(locked).encode()
            entry = known.setdefault(slug, _Known(tenant_id))
            entry.secrets.append(Secret(secret_id, plain[locked], expires_at))
        self._plain = plain
        return known
