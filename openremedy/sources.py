"""Sources: the tools that send to a tenant, their credentials, what an admin chose for them, and how they are."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from openremedy import audit, crypto, heartbeat
from openremedy.alerts import Outcome
from openremedy.audit import Actor
from openremedy.crypto import Vault
from openremedy.errors import Conflict, Invalid, NotFound
from openremedy.incidents import stamp
from openremedy.models import SecretKind, Source, SourceSecret, SourceToken, now
from openremedy.tenants import MAX_LIVE_SECRETS, called, find_tenant, given, label, unique

MAX_STALE_AFTER = 366 * 24 * 3600
MAX_RATE_LIMIT = 1_000_000
UNCHANGED: Any = object()


def add_source(
    session: Session,
    vault: Vault,
    slug: str,
    adapter: str,
    name: str = "",
    signing_secret: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    shape: Schema | None = None,
    actor: Actor | None = None,
) -> tuple[Source, str]:
    """Add a source and return it with its token, shown this once.

    `options` are checked by `shape`, the adapter's schema. With an `actor` the audit log says who did it.
    Raises Invalid, Conflict, NotFound.
    """
    tenant = find_tenant(session, slug)
    token = crypto.generate(crypto.SOURCE_TOKEN)
    name = label(name, 100) or _free_name(session, tenant.id, adapter)
    source = Source(tenant_id=tenant.id, adapter=adapter, name=name)
    if options and shape:
        source.options = _options(shape, options)
    source.tokens.append(SourceToken(token_hash=crypto.hashed(token)))
    if signing_secret is not None:
        source.secrets.append(_secret(vault, signing_secret, SecretKind.SIGNING))
    with unique(session, f"There is a source {name!r} already."):
        session.add(source)
        if actor:
            session.add(audit.line(actor, tenant.id, "source.added", name, adapter=adapter))
    return source, token


def _secret(vault: Vault, value: str, kind: SecretKind) -> SourceSecret:
    return SourceSecret(locked=vault.lock(given(value)), kind=kind)


def _free_name(session: Session, tenant_id: int, adapter: str) -> str:
    """The adapter's name, numbered when it is taken; the unique index catches two at once."""
    taken = set(session.scalars(select(Source.name).where(Source.tenant_id == tenant_id)))
    numbered = (f"{adapter}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (adapter, *numbered) if name not in taken)


def list_sources(session: Session, tenant_id: int) -> Sequence[Source]:
    """The sources of a tenant, oldest first."""
    credentials = (selectinload(Source.tokens), selectinload(Source.secrets))
    statement = select(Source).where(Source.tenant_id == tenant_id).options(*credentials).order_by(Source.id)
    return session.scalars(statement).all()


def find_source(session: Session, slug: str, source: str) -> Source:
    """A tenant's source by its id or name. Raises NotFound."""
    if found := called(list_sources(session, find_tenant(session, slug).id), source):
        return found
    raise NotFound(f"{slug!r} has no source {source!r}.")


def get_source(session: Session, tenant_id: int, source_id: str) -> Source:
    """A tenant's source by its id. Raises NotFound."""
    if not (source_id.isascii() and source_id.isdigit() and len(source_id) <= 18):
        raise NotFound()
    source = session.scalar(select(Source).where(Source.tenant_id == tenant_id, Source.id == int(source_id)))
    if source is None:
        raise NotFound()
    return source


# ---------------------------------------------------------------- credentials


def rotate_source(session: Session, source: Source, grace: timedelta) -> tuple[str, datetime]:
    """Give a source a new token; the newest of before lives on for `grace`, older ones end now.

    Returns the token and the moment the previous one ends.
    """
    _lock(session, source)
    moment = now()
    until = moment + grace
    live = [one for one in source.tokens if one.expires_at is None or one.expires_at > moment]
    for one in live[:-1]:
        one.expires_at = moment
    for one in live[-1:]:
        one.expires_at = min(one.expires_at or until, until)
    token = crypto.generate(crypto.SOURCE_TOKEN)
    source.tokens.append(SourceToken(token_hash=crypto.hashed(token)))
    session.commit()
    return token, until


def signing_secrets(source: Source) -> list[SourceSecret]:
    """The secrets with which the tool may sign, oldest first."""
    return [one for one in source.secrets if one.kind is SecretKind.SIGNING]


def _add_signing_secret(vault: Vault, source: Source, value: str) -> None:
    secret = _secret(vault, value, SecretKind.SIGNING)
    if len(signing_secrets(source)) >= MAX_LIVE_SECRETS:
        raise Conflict(f"This source has {MAX_LIVE_SECRETS} signing secrets already; remove one that is not used.")
    source.secrets.append(secret)


def _remove_signing_secret(session: Session, source: Source, secret_id: str) -> None:
    secret = next((one for one in signing_secrets(source) if str(one.id) == secret_id), None)
    if secret is None:
        raise NotFound("This source has no such signing secret.")
    source.secrets.remove(secret)
    session.delete(secret)


def _set_api_token(session: Session, vault: Vault, source: Source, value: str) -> None:
    """Keep the token with which a worker may read the tool's own API; an empty one ends it. Raises Invalid."""
    if not value.isascii():  # it goes into a header
        _refused("api_token", "Must be printable ASCII.")
    secret = _secret(vault, value, SecretKind.API) if value else None
    for one in [one for one in source.secrets if one.kind is SecretKind.API]:
        source.secrets.remove(one)
        session.delete(one)
    if secret:
        source.secrets.append(secret)


def _lock(session: Session, source: Source) -> None:
    """Two changes at once follow each other, and the second sees what the first has done."""
    session.execute(select(Source.id).where(Source.id == source.id).with_for_update())
    session.refresh(source)


# ---------------------------------------------------------------- settings of one source


def edit_source(
    session: Session,
    vault: Vault,
    source: Source,
    shape: Schema,
    *,
    name: str = UNCHANGED,
    stale_after: int | None = UNCHANGED,
    rate_limit: int | None = UNCHANGED,
    disabled: bool = UNCHANGED,
    options: Mapping[str, Any] = UNCHANGED,
    api_token: str = UNCHANGED,
    remove_signing_secret: str = UNCHANGED,
    add_signing_secret: str = UNCHANGED,
) -> None:
    """Change what is given, all of it or nothing.

    `options` are merged into those there are and checked by `shape`, the adapter's schema. An empty `api_token` ends
    the one there is. A signing secret is added by its value, beside those there are, and removed by its id.
    Raises Invalid, Conflict, NotFound.
    """
    _lock(session, source)
    with unique(session, "There is a source of this name already."):
        if name is not UNCHANGED:
            source.name = label(name, 100) or _refused("name", "Must not be empty.")
        if stale_after is not UNCHANGED:
            source.stale_after = _within("stale_after", stale_after, 1, MAX_STALE_AFTER)
        if rate_limit is not UNCHANGED:
            source.rate_limit = _within("rate_limit", rate_limit, 0, MAX_RATE_LIMIT)
        if disabled is not UNCHANGED:
            source.disabled_at = (source.disabled_at or now()) if disabled else None
        if options is not UNCHANGED:
            source.options = _options(shape, {**source.options, **options})
        if api_token is not UNCHANGED:
            _set_api_token(session, vault, source, api_token)
        if remove_signing_secret is not UNCHANGED:
            _remove_signing_secret(session, source, remove_signing_secret)
        if add_signing_secret is not UNCHANGED:
            _add_signing_secret(vault, source, add_signing_secret)


def told(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of edit_source() as the audit log may hold them: of a credential only that it changed."""
    secret = ("api_token", "add_signing_secret")
    return {name: "changed" if name in secret else value for name, value in changes.items()}


def _within(field: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        _refused(field, f"Must be between {least} and {most}.")
    return value


def _options(shape: Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the adapter's schema takes them; null takes one back to its default."""
    chosen = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(chosen) - set(shape.fields)):
        known = f"There are {', '.join(sorted(shape.fields))}." if shape.fields else "This adapter has none."
        _refused("options", f"There is no option {', '.join(map(repr, unknown))}. {known}")
    try:
        shape.load(chosen)
    except ValidationError as error:
        wrong = [f"{name}: {' '.join(map(str, found))}" for name, found in error.messages_dict.items()]
        raise Invalid(fields={"options": wrong}) from error
    return chosen


def _refused(field: str, words: str) -> Any:
    raise Invalid(fields={field: [words]})


# ---------------------------------------------------------------- as others see it


def silent(source: Any, moment: datetime) -> bool | None:
    """Whether the heartbeat has stopped of a source, or of a row with its three columns; None if it never had one."""
    if source.heartbeat_at is None:
        return None
    if source.heartbeat_ended_at:
        return True
    return bool((moment - source.heartbeat_at).total_seconds() > heartbeat.allowed(source.heartbeat_gap))


def url_of(public_url: str, slug: str, adapter: str) -> str:
    """Where a tool posts to."""
    return f"{public_url}/api/v1/webhooks/{adapter}/{slug}"


def as_json(source: Source, url: str) -> dict[str, Any]:
    """The source without any of its credentials."""
    refused_at = source.last_refused_at
    moment = now()
    return {
        "id": str(source.id),
        "adapter": source.adapter,
        "name": source.name,
        "url": url,
        "disabled": source.disabled_at is not None,
        "created_at": stamp(source.created_at),
        "last_seen": stamp(source.last_seen_at),
        "stale_after": source.stale_after,
        "rate_limit": source.rate_limit,
        "options": source.options,
        "outcomes": {str(one): getattr(source, f"{one}_count") for one in Outcome},
        "heartbeat_at": stamp(source.heartbeat_at),
        "silent": silent(source, moment),
        "last_refusal": {
            "at": stamp(refused_at),
            "reason": source.last_refusal_reason,
            "message": source.last_refusal_message,
        }
        if refused_at
        else None,
        "tokens": [
            _used(one) | {"expires_at": stamp(one.expires_at)}
            for one in source.tokens
            if one.expires_at is None or one.expires_at > moment
        ],
        "signing_secrets": [{"id": str(one.id)} | _used(one) for one in signing_secrets(source)],
        "api_token": any(one.kind is SecretKind.API for one in source.secrets),
    }


def _used(one: SourceToken | SourceSecret) -> dict[str, Any]:
    return {"created_at": stamp(one.created_at), "last_used": stamp(one.last_used_at)}
