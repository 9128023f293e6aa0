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

import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import Engine, bindparam, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from openremedy import signing
from openremedy.crypto import Vault
from openremedy.errors import Unauthorized, Unavailable
from openremedy.models import Tenant, WebhookSecret, now

log = structlog.get_logger()

MAX_AGE = 1.0  # seconds; a revoked secret works no longer than this
# Stands in for the secrets a tenant does not have. Nobody can sign with it: it is random per process.
_DUMMY = os.urandom(32)

_LIVE = (
    select(Tenant.id, Tenant.slug, WebhookSecret.id, WebhookSecret.locked, WebhookSecret.expires_at)
    .join(WebhookSecret, WebhookSecret.tenant_id == Tenant.id)
    .where(
        Tenant.disabled_at.is_(None),
        or_(WebhookSecret.expires_at.is_(None), WebhookSecret.expires_at > bindparam("moment")),
    )
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
        self._plain: dict[str, bytes | None] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def authenticate(self, slug: str, body: bytes, signature: str | None) -> Caller:
        """The caller whose live secret signed `body`. Raises Unauthorized, Unavailable."""
        began = time.monotonic()
        self._read_since(began - MAX_AGE)
        caller = self._check(slug, body, signature)
        if caller is None and self._read_since(began):
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

    def _read_since(self, moment: float) -> bool:
        """Read the database, unless what we know was read after `moment`; then False.

        One thread reads at a time and all that waited use what it found: a flood of wrong signatures is one query after
        another, never many at once.
        """
        if self._read_at >= moment:
            return False
        with self._lock:
            if self._read_at < moment:
                asked_at = time.monotonic()
                self._known = self._read()
                self._read_at = asked_at
            return True

    def _read(self) -> dict[str, _Known]:
        try:
            with self._engine.connect().execution_options(sqlite_readonly=True) as connection:
                rows = connection.execute(_LIVE, {"moment": now()}).all()
        except (DBAPIError, PoolTimeout) as error:
            raise Unavailable() from error
        known: dict[str, _Known] = {}
        plain: dict[str, bytes | None] = {}
        for tenant_id, slug, secret_id, locked, expires_at in rows:
            plain[locked] = self._unlocked(secret_id, locked)
            if value := plain[locked]:
                known.setdefault(slug, _Known(tenant_id)).secrets.append(Secret(secret_id, value, expires_at))
        self._plain = plain
        return known

    def _unlocked(self, secret_id: int, locked: str) -> bytes | None:
        """The secret in clear, or None where no key fits: one broken row must not close the door to all tenants."""
        if locked in self._plain:
            return self._plain[locked]
        try:
            return self._vault.unlock(locked).encode()
        except InvalidToken:
            log.error("secret.unreadable", secret=secret_id, advice="ENCRYPTION_KEYS lacks the key it was locked with")
            return None
