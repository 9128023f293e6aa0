"""Tenants, the people and programs that may act for them, and the sources that send to them."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, false, text, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from openremedy.clock import now
from openremedy.models.base import Base, BigId, words


class Role(StrEnum):
    """What a person or token may do in a tenant, least first."""

    VIEWER = "viewer"
    RESPONDER = "responder"
    ADMIN = "admin"

    def may(self, needed: "Role") -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Tenant(Base):
    """One customer or team; nothing of it is ever seen by another."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    slug: Mapped[str] = mapped_column(String(63), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    # Raised with every change of the recipes, so that a cached verdict or index of the old ones is not used.
    catalogue_version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    model_allowed: Mapped[bool] = mapped_column(default=True, server_default=true())
    # What an admin chose for the tenant; None = as the installation has it.
    answer_threshold: Mapped[float | None] = mapped_column(Float)
    daily_tokens: Mapped[int | None] = mapped_column(Integer)
    retention_days: Mapped[int | None] = mapped_column(Integer)

    secrets: Mapped[list["WebhookSecret"]] = relationship(order_by="WebhookSecret.id", passive_deletes=True)


class WebhookSecret(Base):
    """A secret that signs canonical alerts; several live while one is being rotated out."""

    __tablename__ = "webhook_secrets"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    locked: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    used_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")


class User(Base):
    """A person who signs in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    # None: signs in by the identity provider alone.
    password_hash: Mapped[str | None] = mapped_column(Text)
    # Who it is at the identity provider: its issuer and subject, which never change as an address may.
    oidc_subject: Mapped[str | None] = mapped_column(String(512), unique=True)
    superadmin: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    last_sign_in_at: Mapped[datetime | None]


class Membership(Base):
    """What a user may do in one tenant."""

    __tablename__ = "memberships"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[Role] = mapped_column(words(Role))


class SignIn(Base):
    """A browser that somebody has signed in with; ending it is deleting the row."""

    __tablename__ = "sign_ins"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    # When the password was given last: what shows a secret asks for it again.
    confirmed_at: Mapped[datetime] = mapped_column(default=now)
    address: Mapped[str] = mapped_column(String(64))
    user_agent: Mapped[str] = mapped_column(String(200))


class LinkPurpose(StrEnum):
    """What a one-time link is for."""

    SETUP = "setup"  # the first person of an installation
    INVITE = "invite"  # a new member of a tenant, or a new superadmin
    RESET = "reset"  # a new password for somebody who exists


class Link(Base):
    """A link that works once and not for long; only the hash of its token is kept."""

    __tablename__ = "links"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    purpose: Mapped[LinkPurpose] = mapped_column(words(LinkPurpose))
    email: Mapped[str | None] = mapped_column(String(254))
    tenant_id: Mapped[int | None] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    role: Mapped[Role | None] = mapped_column(words(Role))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Submission(Base):
    """A form that was sent; the same one sent again finds its row and changes nothing."""

    __tablename__ = "submissions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now, index=True)


class AuditLine(Base):
    """Who did what, when, from where. The database itself refuses to change or delete one."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    # None: of the installation, for superadmins alone.
    tenant_id: Mapped[int | None] = mapped_column(ForeignKey("tenants.id"))
    actor: Mapped[str] = mapped_column(String(300))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(300))
    detail: Mapped[dict[str, Any]]
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(36))


class ApiToken(Base):
    """A bearer token of a tenant; only its hash is kept."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[Role] = mapped_column(words(Role))
    name: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SecretKind(StrEnum):
    """What a source's secret is for."""

    SIGNING = "signing"  # the tool signs its bodies with it
    API = "api"  # a read-only token for the tool's own API, which a worker asks for more


class Source(Base):
    """One configured sender of a tenant: an adapter and its credentials, and what came of what it sent."""

    __tablename__ = "sources"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    adapter: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    # Seconds without news after which an open incident of this source is closed as stale; None = never.
    stale_after: Mapped[int | None]
    # Requests a minute; None = the setting of the installation, 0 = no limit.
    rate_limit: Mapped[int | None]
    # What the adapter lets an admin choose, as its own schema has checked it.
    options: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    # Alerts by outcome, counted in the transaction that stores them.
    created_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    updated_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    resolved_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    duplicate_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    ignored_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    rejected_count: Mapped[int] = mapped_column(BigId, default=0, server_default="0")
    # The alert that always fires (Watchdog): when it came last, seconds between the last two, when it was said to end.
    heartbeat_at: Mapped[datetime | None]
    heartbeat_gap: Mapped[int | None]
    heartbeat_ended_at: Mapped[datetime | None]
    last_refused_at: Mapped[datetime | None]
    last_refusal_reason: Mapped[str | None] = mapped_column(String(64))
    last_refusal_message: Mapped[str | None] = mapped_column(Text)

    tokens: Mapped[list["SourceToken"]] = relationship(order_by="SourceToken.id", passive_deletes=True)
    secrets: Mapped[list["SourceSecret"]] = relationship(order_by="SourceSecret.id", passive_deletes=True)


class SourceToken(Base):
    """The token a source's tool sends; only its hash is kept, two live during rotation."""

    __tablename__ = "source_tokens"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class SourceSecret(Base):
    """A secret that the tool itself made: to sign with (PagerDuty, Grafana), or for its API; several may live."""

    __tablename__ = "source_secrets"
    __table_args__ = (Index(None, "source_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"))
    locked: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[SecretKind] = mapped_column(
        words(SecretKind), default=SecretKind.SIGNING, server_default=SecretKind.SIGNING.value
    )
    last_used_at: Mapped[datetime | None]


class FollowUpRecord(Base):
    """What a tool asked us to answer by a request of ours, once for each thing it asked about. A worker sends it."""

    __tablename__ = "follow_ups"
    __table_args__ = (UniqueConstraint("source_id", "subject"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"))
    subject: Mapped[str] = mapped_column(String(300))
    # The newest body that asks for it. No foreign key: what has become old is deleted, whoever still points there.
    delivery_id: Mapped[uuid.UUID]
    created_at: Mapped[datetime]
    # When a worker may take it, or may take it again if nothing was heard of the one who has; None: nothing to do.
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    done_at: Mapped[datetime | None]
    # For people: why not, where it was not done.
    words: Mapped[str | None] = mapped_column(Text)
