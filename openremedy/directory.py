"""Who may send, in memory for at most a second: tenants with their webhook secrets, sources with their credentials.

Known and unknown tenants cost the same: every failing check computes as many HMACs as the tenant (or source) with most
live secrets has, and a failing check always looks at the database once more before it says no, so that a tenant or a
secret made a moment ago works at once.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import Connection, Engine, bindparam, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from openremedy import crypto, signing
from openremedy.crypto import Vault
from openremedy.errors import Unauthorized, Unavailable
from openremedy.fetching import Fetcher, NoDocument
from openremedy.models import SecretKind, Source, SourceSecret, SourceToken, Tenant, WebhookSecret, now

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
_LIVE_SOURCES = (
    select(
        Source.id,
        Source.tenant_id,
        Tenant.slug.label("tenant"),
        Source.adapter,
        Source.name,
        Source.rate_limit,
        Source.options,
    )
    .join(Tenant, Tenant.id == Source.tenant_id)
    .where(Tenant.disabled_at.is_(None), Source.disabled_at.is_(None))
    .order_by(Source.id)
)
_LIVE_TOKENS = select(SourceToken.id, SourceToken.source_id, SourceToken.token_hash, SourceToken.expires_at).where(
    or_(SourceToken.expires_at.is_(None), SourceToken.expires_at > bindparam("moment"))
)
_LIVE_SIGNING = (
    select(SourceSecret.id, SourceSecret.source_id, SourceSecret.locked)
    .where(SourceSecret.kind == SecretKind.SIGNING)
    .order_by(SourceSecret.id)
)

T = TypeVar("T")


class Fresh(Generic[T]):
    """Something read from the database and kept, with the moment it was asked for; safe to use from several threads."""

    def __init__(self, engine: Engine, read: Callable[[Connection], T], nothing: T) -> None:
        self._engine = engine
        self._read = read
        self._read_at = float("-inf")
        self._lock = threading.Lock()
        self.value = nothing

    def since(self, moment: float) -> bool:
        """Read the database, unless what we know was read after `moment`; then False. Raises Unavailable.

        One thread reads at a time and all that waited use what it found: a flood of wrong signatures is one query after
        another, never many at once.
        """
        if self._read_at >= moment:
            return False
        with self._lock:
            if self._read_at < moment:
                asked_at = time.monotonic()
                self.value = self._ask()
                self._read_at = asked_at
            return True

    def _ask(self) -> T:
        try:
            with self._engine.connect().execution_options(sqlite_readonly=True) as connection:
                return self._read(connection)
        except (DBAPIError, PoolTimeout) as error:
            raise Unavailable() from error


class Opened:
    """Secrets in clear, each decrypted once for as long as it is read."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._plain: dict[str, bytes | None] = {}

    def open(self, rows: Sequence[tuple[int, str]]) -> dict[int, bytes]:
        """The secrets of these (id, ciphertext) that a key of ours opens, by id; all others are forgotten."""
        self._plain = {locked: self._unlocked(secret_id, locked) for secret_id, locked in rows}
        return {secret_id: value for secret_id, locked in rows if (value := self._plain[locked])}

    def _unlocked(self, secret_id: int, locked: str) -> bytes | None:
        """The secret in clear, or None where no key fits: one broken row must not close the door to all tenants."""
        if locked in self._plain:
            return self._plain[locked]
        try:
            return self._vault.unlock(locked).encode()
        except InvalidToken:
            log.error("secret.unreadable", secret=secret_id, advice="ENCRYPTION_KEYS lacks the key it was locked with")
            return None


@dataclass(frozen=True)
class Secret:
    """One secret, decrypted."""

    id: int
    value: bytes = field(repr=False)
    expires_at: datetime | None = None

    def live(self, moment: datetime) -> bool:
        """Whether it may still be used."""
        return self.expires_at is None or self.expires_at > moment


# ---------------------------------------------------------------- tenants


@dataclass
class _Known:
    tenant_id: int
    secrets: list[Secret] = field(default_factory=list)


@dataclass(frozen=True)
class _Tenants:
    by_slug: Mapping[str, _Known] = field(default_factory=dict)
    most: int = 1  # secrets of the tenant that has most of them


@dataclass(frozen=True)
class Caller:
    """Who signed: the tenant and which of its secrets."""

    tenant_id: int
    secret_id: int


class Directory:
    """The tenants that one process knows."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._opened = Opened(vault)
        self._known: Fresh[_Tenants] = Fresh(engine, self._read, _Tenants())

    def authenticate(self, slug: str, signed: Sequence[tuple[bytes, str | None]]) -> Caller:
        """The caller whose live secrets signed all of these (body, signature). Raises Unauthorized, Unavailable."""
        began = time.monotonic()
        self._known.since(began - MAX_AGE)
        caller = self._check(slug, signed)
        if caller is None and self._known.since(began):
            caller = self._check(slug, signed)
        if caller is None:
            raise Unauthorized("The signature is missing or wrong.")
        return caller

    def knows(self, slug: str) -> bool:
        """Whether a tenant of this name was there when it was looked last; asks no database."""
        return slug in self._known.value.by_slug

    def signer(self, slug: str) -> Callable[[bytes], str]:
        """What signs a body with the tenant's newest secret, for what an adapter has translated.

        Signs with nothing for a tenant that has none any more: that fails at the door as every wrong one.
        """
        self._known.since(time.monotonic() - MAX_AGE)
        known = self._known.value.by_slug.get(slug)
        live = [one for one in known.secrets if one.live(now())] if known else []
        return partial(signing.sign, live[-1].value) if live else lambda _body: ""

    def _check(self, slug: str, signed: Sequence[tuple[bytes, str | None]]) -> Caller | None:
        moment = now()
        known = self._known.value.by_slug.get(slug)
        live = [one for one in known.secrets if one.live(moment)] if known else []
        values = [one.value for one in live] + [_DUMMY] * (self._known.value.most - len(live))
        positions = [signing.matching(values, body, signature) for body, signature in signed]
        fitting = [live[one].id for one in positions if one is not None and one < len(live)]
        return Caller(known.tenant_id, fitting[-1]) if known and len(fitting) == len(positions) else None

    def _read(self, connection: Connection) -> _Tenants:
        rows = connection.execute(_LIVE, {"moment": now()}).all()
        values = self._opened.open([(secret_id, locked) for _, _, secret_id, locked, _ in rows])
        known: dict[str, _Known] = {}
        for tenant_id, slug, secret_id, _, expires_at in rows:
            if secret_id in values:
                secret = Secret(secret_id, values[secret_id], expires_at)
                known.setdefault(slug, _Known(tenant_id)).secrets.append(secret)
        return _Tenants(known, max((len(one.secrets) for one in known.values()), default=1))


# ---------------------------------------------------------------- sources


# (secret, body, headers by lower-case name, options of the source, seconds since 1970): whether the tool signed this.
Verify = Callable[[bytes, bytes, Mapping[str, str], Mapping[str, Any], float], bool]


@dataclass(frozen=True)
class Published:
    """How a tool signs that shares no secret with anybody: with a key that it publishes.

    `url(body, headers, options)`: where the key of this body lies, by its whole address one of the tool's own; empty
    for what is not from a sender that the options of the source name, so that nobody else makes us fetch anything.
    `read(document)`: the key, kept and never changed; raises ValueError. `verify(key, body, headers, seconds since
    1970)`: whether it signed this.
    """

    url: Callable[[bytes, Mapping[str, str], Mapping[str, Any]], str]
    read: Callable[[bytes], Any]
    verify: Callable[[Any, bytes, Mapping[str, str], float], bool]


KEYS_KEPT = 64
KEYS_AT_ONCE = 2  # fetches in one process; who asks for a third key is told to come again
KEY_WAIT = 6.0  # seconds
KEY_PAUSE = 5.0  # seconds without trying again after a failure


class PublishedKeys:
    """The keys that one process has fetched, the least used forgotten first; each by one thread, whoever waits."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._pool = ThreadPoolExecutor(KEYS_AT_ONCE, thread_name_prefix="keys")
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._asked: dict[str, Future[Any]] = {}
        self._failed: dict[str, float] = {}

    def get(self, url: str, read: Callable[[bytes], Any]) -> Any:
        """The key at this address. Raises Unavailable: its sender must try again, for nothing is known of it yet."""
        with self._lock:
            if url in self._kept:
                self._kept.move_to_end(url)
                return self._kept[url]
            asked = self._asked.get(url) or self._ask(url, read)
        try:
            return asked.result(KEY_WAIT)
        except (NoDocument, ValueError, TimeoutError) as error:
            raise _keyless() from error

    def _ask(self, url: str, read: Callable[[bytes], Any]) -> "Future[Any]":
        failed = time.monotonic() - self._failed.get(url, float("-inf")) < KEY_PAUSE
        if failed or len(self._asked) >= KEYS_AT_ONCE:
            raise _keyless()
        asked = self._asked[url] = self._pool.submit(self._fetch, url, read)
        return asked

    def _fetch(self, url: str, read: Callable[[bytes], Any]) -> Any:
        key, failed = None, True
        try:
            answer = self._fetcher.get(url)
            if answer.status != 200:
                raise NoDocument(f"the answer was {answer.status}")
            key, failed = read(answer.body), False
        except (NoDocument, ValueError) as error:
            log.warning("key.not_fetched", url=url, reason=str(error)[:200])
            raise
        finally:
            self._settle(url, key, failed)
        return key

    def _settle(self, url: str, key: Any, failed: bool) -> None:
        with self._lock:
            del self._asked[url]
            if failed:
                if len(self._failed) >= KEYS_KEPT:
                    self._failed.clear()
                self._failed[url] = time.monotonic()
                return
            self._kept[url] = key
            if len(self._kept) > KEYS_KEPT:
                self._kept.popitem(last=False)


def _keyless() -> Unavailable:
    return Unavailable(
        "The key that this was signed with cannot be read just now. Nothing was kept; please send it again."
    )


@dataclass(frozen=True)
class Sender:
    """A source that may send."""

    id: int
    tenant_id: int
    tenant: str
    adapter: str
    name: str
    rate_limit: int | None
    options: Mapping[str, Any]
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What a request brings along to say who it is from."""

    tokens: Sequence[str] = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Admitted:
    """The source a request is from, and by which of its credentials."""

    sender: Sender
    token_id: int | None = None
    secret_id: int | None = None


@dataclass(frozen=True)
class _Token:
    id: int
    expires_at: datetime | None
    sender: Sender

    def opens(self, slug: str, adapter: str, moment: datetime) -> bool:
        """Whether it is good for this URL now."""
        live = self.expires_at is None or self.expires_at > moment
        return live and (self.sender.tenant, self.sender.adapter) == (slug, adapter)


@dataclass(frozen=True)
class _Sources:
    by_token: Mapping[str, _Token] = field(default_factory=dict)
    senders: Mapping[tuple[str, str], Sequence[Sender]] = field(default_factory=dict)  # by tenant and adapter
    signing: Mapping[tuple[str, str], Sequence[Sender]] = field(default_factory=dict)  # those with secrets
    most: Mapping[str, int] = field(default_factory=dict)  # signing secrets of the tenant with most, by adapter


class SourceDirectory:
    """The sources that one process knows."""

    def __init__(self, engine: Engine, vault: Vault, keys: PublishedKeys) -> None:
        self._opened = Opened(vault)
        self._keys = keys
        self._known: Fresh[_Sources] = Fresh(engine, self._read, _Sources())

    def authenticate(
        self, slug: str, adapter: str, proof: Proof, verify: Verify | None, published: Published | None = None
    ) -> Admitted:
        """The source of this tenant and adapter that the request is from. Raises Unauthorized, Unavailable."""
        began = time.monotonic()
        self._known.since(began - MAX_AGE)
        admitted = self._check(slug, adapter, proof, verify, published)
        if admitted is None and self._known.since(began):
            admitted = self._check(slug, adapter, proof, verify, published)
        if admitted is None:
            # Amazon SNS sends its password only to who asks for one.
            challenge = {"WWW-Authenticate": 'Basic realm="OpenRemedy"'}
            raise Unauthorized("The source's token or signature is missing or wrong.", headers=challenge)
        return admitted

    def _check(
        self, slug: str, adapter: str, proof: Proof, verify: Verify | None, published: Published | None
    ) -> Admitted | None:
        moment = now()
        for value in proof.tokens:
            # Found by its hash: how long that takes tells nothing about a token that is close to a right one.
            token = self._known.value.by_token.get(crypto.hashed(value))
            if token and token.opens(slug, adapter, moment):
                return Admitted(token.sender, token_id=token.id)
        if published:
            return self._by_published_key(slug, adapter, proof, published, moment)
        return self._signed(slug, adapter, proof, verify, moment) if verify else None

    def _by_published_key(
        self, slug: str, adapter: str, proof: Proof, published: Published, moment: datetime
    ) -> Admitted | None:
        """The first of the tenant's sources that takes what is from this sender; no key is fetched for the others."""
        nobody = Sender(0, 0, slug, adapter, "", None, {})
        for sender in self._known.value.senders.get((slug, adapter), (nobody,)):
            url = published.url(proof.body, proof.headers, sender.options)
            if not url:
                continue
            key = self._keys.get(url, published.read)
            if published.verify(key, proof.body, proof.headers, moment.timestamp()):
                return Admitted(sender)
        return None

    def _signed(self, slug: str, adapter: str, proof: Proof, verify: Verify, moment: datetime) -> Admitted | None:
        senders = self._known.value.signing.get((slug, adapter), ())
        found: Admitted | None = None
        tried = 0
        for sender in senders:
            for secret in sender.secrets:
                tried += 1
                signed = verify(secret.value, proof.body, proof.headers, sender.options, moment.timestamp())
                if signed:
                    found = Admitted(sender, secret_id=secret.id)
        for _ in range(self._known.value.most.get(adapter, 1) - tried):
            verify(_DUMMY, proof.body, proof.headers, {}, moment.timestamp())
        return found

    def _read(self, connection: Connection) -> _Sources:
        moment = {"moment": now()}
        rows = connection.execute(_LIVE_SIGNING).all()
        values = self._opened.open([(secret_id, locked) for secret_id, _, locked in rows])
        secrets: dict[int, list[Secret]] = {}
        for secret_id, source_id, _ in rows:
            if secret_id in values:
                secrets.setdefault(source_id, []).append(Secret(secret_id, values[secret_id]))
        senders = {
            row.id: Sender(**row._mapping, secrets=tuple(secrets.get(row.id, ())))
            for row in connection.execute(_LIVE_SOURCES)
        }
        by_token = {
            row.token_hash: _Token(row.id, row.expires_at, senders[row.source_id])
            for row in connection.execute(_LIVE_TOKENS, moment)
            if row.source_id in senders
        }
        by_place: dict[tuple[str, str], list[Sender]] = {}
        signing_ones: dict[tuple[str, str], list[Sender]] = {}
        for sender in senders.values():
            by_place.setdefault((sender.tenant, sender.adapter), []).append(sender)
            if sender.secrets:
                signing_ones.setdefault((sender.tenant, sender.adapter), []).append(sender)
        most: dict[str, int] = {}
        for (_, adapter), found in signing_ones.items():
            most[adapter] = max(most.get(adapter, 1), sum(len(one.secrets) for one in found))
        return _Sources(by_token, by_place, signing_ones, most)
