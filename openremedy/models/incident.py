"""Deliveries, their alerts, the incidents they open, and what the classifier says about them."""

import uuid
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from openremedy.alerts import AlertStatus, IncidentType, Outcome, Severity
from openremedy.clock import now
from openremedy.ids import new_id
from openremedy.models.base import Base, BigId, words


class IncidentStatus(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class EndedBy(StrEnum):
    """Who or what ended an episode."""

    SENDER = "sender"
    PERSON = "person"
    STALE = "stale"


class Triage(StrEnum):
    """How far the classification of an incident has come."""

    PENDING = "pending"
    CLASSIFYING = "classifying"
    DONE = "done"
    NEEDS_HUMAN = "needs_human"


class Delivery(Base):
    """One HTTP body received, accepted or refused."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        # Bounds the samples of refusals: newest per reason.
        Index("ix_deliveries_refused", "tenant_id", "reason", "id", postgresql_where=text("NOT accepted")),
        Index("ix_deliveries_received_at", "received_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id", ondelete="SET NULL"))
    adapter: Mapped[str] = mapped_column(String(63))
    received_at: Mapped[datetime] = mapped_column(default=now)
    request_id: Mapped[str] = mapped_column(String(36))
    remote_addr: Mapped[str] = mapped_column(String(64))
    accepted: Mapped[bool]
    status_code: Mapped[int] = mapped_column(SmallInteger)
    reason: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None] = mapped_column(Text)
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    body_bytes: Mapped[int] = mapped_column(Integer)


class Incident(Base):
    """One episode of one identity, from its first firing to its end, and its verdict."""

    __tablename__ = "incidents"
    __table_args__ = (
        # DESIGN 6.2: the database itself refuses a second open incident of one identity.
        Index(
            "uq_incidents_open",
            "tenant_id",
            "identity",
            unique=True,
            postgresql_where=text("status <> 'resolved'"),
            sqlite_where=text("status <> 'resolved'"),
        ),
        # The newest episode of an identity: what the next alert is held against, found and locked at once.
        # By the identity first: no other index begins with it, so none is ever taken instead.
        Index(
            "uq_incidents_identity",
            "identity",
            "tenant_id",
            unique=True,
            postgresql_where=text("latest"),
            sqlite_where=text("latest"),
        ),
        # Every filter and order of the list is answered from this index alone, without the rows and their evidence.
        Index(
            "ix_incidents_list",
            "tenant_id",
            "id",
            postgresql_include=[
                *("status", "severity", "incident_type", "triage", "source_id", "adapter"),
                *("hostname", "occurrences", "last_seen", "verdict_id"),
            ],
        ),
        # What the index of words does not hold yet (docs/adr/0019); that index is made where the database can.
        Index(
            "ix_incidents_unsearchable",
            "tenant_id",
            "id",
            postgresql_where=text("NOT searchable"),
            sqlite_where=text("NOT searchable"),
        ),
        Index(
            "ix_incidents_pending",
            "tenant_id",
            "id",
            postgresql_where=text("triage = 'pending'"),
            sqlite_where=text("triage = 'pending'"),
        ),
        Index(
            "ix_incidents_leased",
            "lease_until",
            postgresql_where=text("triage = 'classifying'"),
            sqlite_where=text("triage = 'classifying'"),
        ),
        Index(
            "ix_incidents_provisional",
            "id",
            postgresql_where=text("provisional"),
            sqlite_where=text("provisional"),
        ),
        Index("ix_incidents_last_seen", "tenant_id", "last_seen"),
        Index(
            "ix_incidents_expires",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL AND status <> 'resolved'"),
            sqlite_where=text("expires_at IS NOT NULL AND status <> 'resolved'"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id", ondelete="SET NULL"))
    adapter: Mapped[str] = mapped_column(String(63))
    identity: Mapped[str] = mapped_column(String(64))
    latest: Mapped[bool] = mapped_column(default=True, server_default=true())
    dedup_key: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[IncidentStatus] = mapped_column(words(IncidentStatus))
    hostname: Mapped[str] = mapped_column(String(253))
    incident_type: Mapped[IncidentType] = mapped_column(words(IncidentType))
    severity: Mapped[Severity] = mapped_column(words(Severity))
    evidence: Mapped[dict[str, Any]]
    # What a worker read from the tool's own API. Apart from the evidence, which the next alert replaces.
    enrichment: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    occurrences: Mapped[int] = mapped_column(Integer, default=1)
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    # The sender's clock, never compared with ours.
    event_at: Mapped[datetime | None]
    event_digest: Mapped[str | None] = mapped_column(String(32))
    fired_at: Mapped[datetime | None]
    # The newest end the sender gave to any episode of this identity: a firing not later than it is a late one.
    sender_end: Mapped[datetime | None]
    # Over at this time unless its sender says before that it still fires (Prometheus without an Alertmanager).
    expires_at: Mapped[datetime | None]
    # Our clock and who did it.
    acknowledged_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    ended_by: Mapped[EndedBy | None] = mapped_column(words(EndedBy))
    # The sender says it is over, also where a person or the clock had closed it first.
    sender_ended: Mapped[bool] = mapped_column(default=False, server_default=false())
    previous_incident_id: Mapped[uuid.UUID | None]
    still_firing: Mapped[bool] = mapped_column(default=False, server_default=false())
    flapping: Mapped[bool] = mapped_column(default=False, server_default=false())
    # When the newest episodes of this identity began (our clock, seconds), newest last: what flapping is told by.
    recent_starts: Mapped[list[Any]]
    # Classification.
    triage: Mapped[Triage] = mapped_column(words(Triage), default=Triage.PENDING)
    triage_since: Mapped[datetime] = mapped_column(default=now)
    cause: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    claim: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    # While pending: not to be claimed before. While provisional: not to be redone before.
    retry_at: Mapped[datetime | None]
    # A person asked for a verdict that is not taken over from another incident.
    fresh: Mapped[bool] = mapped_column(default=False, server_default=false())
    provisional: Mapped[bool] = mapped_column(default=False, server_default=false())
    model_attempts: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    verdict_id: Mapped[uuid.UUID | None]
    # In the index of words, where there is one. Search is right whatever it says, only slower.
    searchable: Mapped[bool] = mapped_column(default=False, server_default=false())


class AlertRecord(Base):
    """One canonical event of a delivery and what became of it. Its body is the delivery's."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("ix_alerts_incident", "incident_id", "id"),
        Index("ix_alerts_delivery", "delivery_id"),
        # A retry of an older event of an open incident is found by what it said.
        Index(
            "ix_alerts_digest",
            "incident_id",
            "digest",
            postgresql_where=text("occurred_at IS NOT NULL"),
            sqlite_where=text("occurred_at IS NOT NULL"),
        ),
        # A resolve that arrived before its firing.
        Index(
            "ix_alerts_orphans",
            "orphan_identity",
            "tenant_id",
            postgresql_where=text("orphan_identity IS NOT NULL"),
            sqlite_where=text("orphan_identity IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    delivery_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"))
    incident_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("incidents.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(Integer)
    outcome: Mapped[Outcome] = mapped_column(words(Outcome))
    reason: Mapped[str | None] = mapped_column(Text)
    status: Mapped[AlertStatus | None] = mapped_column(words(AlertStatus))
    severity: Mapped[Severity | None] = mapped_column(words(Severity))
    occurred_at: Mapped[datetime | None]
    received_at: Mapped[datetime]
    digest: Mapped[str | None] = mapped_column(String(32))
    orphan_identity: Mapped[str | None] = mapped_column(String(64))


class TimelineEntry(Base):
    """One change of an incident, with who or what made it."""

    __tablename__ = "timeline"
    __table_args__ = (Index("ix_timeline_incident", "incident_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    incident_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("incidents.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]]


class Verdict(Base):
    """One answer about an incident: a recipe or none, by which tier, and why."""

    __tablename__ = "verdicts"
    __table_args__ = (
        Index("ix_verdicts_incident", "incident_id", "id"),
        # One claim of an incident gives one verdict, however often its job runs.
        UniqueConstraint("incident_id", "claim"),
        Index("ix_verdicts_cause", "tenant_id", "cause", "id"),
        # What other incidents may take over is little of it: a storm makes one such verdict and thousands of copies.
        Index(
            "ix_verdicts_reusable",
            "tenant_id",
            "cause",
            "id",
            postgresql_where=text("reusable"),
            sqlite_where=text("reusable"),
        ),
        Index("ix_verdicts_recipe", "tenant_id", "recipe", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    incident_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("incidents.id", ondelete="CASCADE"))
    claim: Mapped[uuid.UUID | None]
    recipe: Mapped[str | None] = mapped_column(String(100))
    tier: Mapped[str] = mapped_column(String(16))
    confidence: Mapped[float] = mapped_column(Float)
    provisional: Mapped[bool]
    # Of tier rule, model or person, and about this cause: other incidents may take it over.
    reusable: Mapped[bool]
    cause: Mapped[str] = mapped_column(String(64))
    catalogue_version: Mapped[int]
    prompt_version: Mapped[str] = mapped_column(String(32))
    model_version: Mapped[str] = mapped_column(String(200))
    runners_up: Mapped[list[Any]]
    citations: Mapped[list[Any]]
    summary: Mapped[str] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(String(200))
    tokens: Mapped[int] = mapped_column(Integer, default=0)
    latency_ms: Mapped[int] = mapped_column(Integer, default=0)
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Feedback(Base):
    """What a person said about a verdict: it stays when the verdict changes."""

    __tablename__ = "feedback"
    __table_args__ = (
        Index("ix_feedback_incident", "incident_id", "id"),
        Index("ix_feedback_tenant", "tenant_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    incident_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("incidents.id", ondelete="CASCADE"))
    answer: Mapped[str] = mapped_column(String(16))
    recipe: Mapped[str | None] = mapped_column(String(100))
    suggested: Mapped[str | None] = mapped_column(String(100))
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)


class CauseLease(Base):
    """The row that holds the one model call in flight for a cause."""

    __tablename__ = "cause_leases"

    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    cause: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime]
    # The model gave no usable answer for this cause: its other incidents do not ask again before.
    failed_until: Mapped[datetime | None]


class ModelState(Base):
    """One row: whether the model is away, why, and when to try it again."""

    __tablename__ = "model_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    away_until: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(Integer, default=0)


class TokenUsage(Base):
    """Model tokens of a tenant on one UTC day, those reserved for calls in flight included."""

    __tablename__ = "token_usage"

    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    tokens: Mapped[int] = mapped_column(BigId)


class RefusalCount(Base):
    """How many requests for a tenant were refused, by source, reason and minute."""

    __tablename__ = "refusal_counts"
    __table_args__ = (Index(None, "tenant_id", "minute"),)

    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    # 0 = the canonical endpoint; a primary key cannot hold NULL.
    source_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(64), primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
