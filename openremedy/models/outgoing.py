"""Where a tenant wants to hear what happens to its incidents, and each event on its way there."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from openremedy.clock import now
from openremedy.models.base import Base, BigId, words


class Event(StrEnum):
    """What an endpoint can ask for; `incident.` before it in the body. The trigger of migration 0009 knows them too."""

    CREATED = "created"
    CLASSIFIED = "classified"
    NEEDS_HUMAN = "needs_human"
    ACCEPTED = "accepted"  # a person says which recipe is right while the incident is open
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Shape(StrEnum):
    """What an endpoint is sent."""

    STANDARD = "standard"  # our own JSON, also for Rundeck and StackStorm
    SLACK = "slack"  # and what reads the same: Mattermost, Rocket.Chat
    AWX = "awx"  # extra_vars of a job template
    GITHUB = "github"  # repository_dispatch


class MessageState(StrEnum):
    """How far a message is."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # given up


class OutgoingEndpoint(Base):
    """A URL of a tenant that its events are posted to."""

    __tablename__ = "outgoing_endpoints"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        Index(
            "ix_outgoing_endpoints_live",
            "tenant_id",
            postgresql_where=text("disabled_at IS NULL"),
            sqlite_where=text("disabled_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    shape: Mapped[Shape] = mapped_column(words(Shape))
    events: Mapped[list[Any]]
    # A URL of Slack or Rundeck is itself a secret: only its host is ever shown.
    host: Mapped[str] = mapped_column(String(300))
    locked_url: Mapped[str] = mapped_column(Text)
    locked_secret: Mapped[str] = mapped_column(Text)
    # The secret of before signs as well until then.
    locked_previous: Mapped[str | None] = mapped_column(Text)
    previous_until: Mapped[datetime | None]
    # A header that the other side wants, `Name: value`.
    locked_header: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    # Why it was switched off, where nobody did.
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    # Failures in a row, since when, and when to try again.
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    failing_since: Mapped[datetime | None]
    retry_at: Mapped[datetime | None]
    last_sent_at: Mapped[datetime | None]


class OutgoingMessage(Base):
    """One event for one endpoint. The database itself adds it in the transaction that the event is part of."""

    __tablename__ = "outgoing_messages"
    __table_args__ = (
        Index(
            "ix_outgoing_messages_due",
            "endpoint_id",
            "next_at",
            postgresql_where=text("state = 'pending'"),
            sqlite_where=text("state = 'pending'"),
        ),
        Index(None, "endpoint_id", "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    # Without a foreign key: whoever removes an endpoint must neither hold up an alert nor have one refused.
    endpoint_id: Mapped[int] = mapped_column(BigId)
    # None: a test.
    incident_id: Mapped[uuid.UUID | None]
    timeline_id: Mapped[int | None] = mapped_column(BigId)
    event: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=now)
    state: Mapped[MessageState] = mapped_column(words(MessageState), default=MessageState.PENDING)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    # Since when it is tried, and not before when it is tried again.
    since: Mapped[datetime] = mapped_column(default=now)
    next_at: Mapped[datetime] = mapped_column(default=now)
    # What is sent, made when it is sent first: each attempt sends the same bytes.
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    # What came of the newest attempts: at, status, error, milliseconds.
    log: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
