"""outgoing messages

Why: a tenant can have what happens to its incidents posted to an address of its own. All of that stands in the
timeline, written by the transaction in which it happens; a trigger there adds the message to the same transaction, so
none is missed or sent of what was rolled back, whoever wrote it, the release before included. Where no endpoint wants
anything it costs an insert a look at a small table.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)

# A line of the timeline as the event that it is; NULL: as none.
EVENT = """CASE
    WHEN {line}.kind IN ('opened', 'still_firing') THEN 'created'
    WHEN {line}.kind IN ('resolved', 'stale') THEN 'resolved'
    WHEN {line}.kind IN ('classified', 'needs_human', 'acknowledged') THEN {line}.kind
    WHEN {line}.kind = 'feedback' AND {accepted} THEN 'accepted'
END"""

INTO = """INSERT INTO outgoing_messages
    (id, tenant_id, endpoint_id, incident_id, timeline_id, event, created_at, state, attempts, since, next_at, log)"""

# The door forbids scans of whole tables for its transaction, which makes that of a small one look so dear that it would
# be compiled first, for tens of milliseconds: hence the index of the live ones.
POSTGRESQL = [
    f"""
    CREATE FUNCTION openremedy_outgoing() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM outgoing_endpoints WHERE disabled_at IS NULL) THEN
            {INTO}
            SELECT gen_random_uuid(), endpoint.tenant_id, endpoint.id, line.incident_id, line.id, happened.event,
                line.at, 'pending', 0, line.at, line.at, '[]'
            FROM lines line
            CROSS JOIN LATERAL (
                SELECT {EVENT.format(line="line", accepted="line.detail ->> 'accepted' = 'true'")} AS event
            ) happened
            JOIN outgoing_endpoints endpoint ON endpoint.tenant_id = line.tenant_id
                AND endpoint.disabled_at IS NULL AND endpoint.events::jsonb ? happened.event;
        END IF;
        RETURN NULL;
    END $$
    """,  # nosec B608 # parts of this file, no value
    """
    CREATE TRIGGER timeline_outgoing AFTER INSERT ON timeline REFERENCING NEW TABLE AS lines
    FOR EACH STATEMENT EXECUTE FUNCTION openremedy_outgoing()
    """,
]

_OF_NEW = EVENT.format(line="NEW", accepted="json_extract(NEW.detail, '$.accepted')")
SQLITE = [
    f"""
    CREATE TRIGGER timeline_outgoing AFTER INSERT ON timeline
    WHEN EXISTS (SELECT 1 FROM outgoing_endpoints WHERE tenant_id = NEW.tenant_id AND disabled_at IS NULL)
    BEGIN
        {INTO}
        SELECT lower(hex(randomblob(16))), tenant_id, id, NEW.incident_id, NEW.id,
            {_OF_NEW}, NEW.at, 'pending', 0, NEW.at, NEW.at, '[]'
        FROM outgoing_endpoints
        WHERE tenant_id = NEW.tenant_id AND disabled_at IS NULL AND EXISTS (
            SELECT 1 FROM json_each(outgoing_endpoints.events)
            WHERE value = {_OF_NEW}
        );
    END
    """,  # nosec B608 # parts of this file, no value
]


def upgrade() -> None:
    op.create_table(
        "outgoing_endpoints",
        sa.Column("id", BIG, nullable=False),
        sa.Column("tenant_id", BIG, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("shape", sa.String(length=32), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("locked_url", sa.Text(), nullable=False),
        sa.Column("locked_secret", sa.Text(), nullable=False),
        sa.Column("locked_previous", sa.Text(), nullable=True),
        sa.Column("previous_until", MOMENT, nullable=True),
        sa.Column("locked_header", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", MOMENT, nullable=True),
        sa.Column("retry_at", MOMENT, nullable=True),
        sa.Column("last_sent_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_outgoing_endpoints_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outgoing_endpoints")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_outgoing_endpoints_tenant_id_name")),
    )
    op.create_table(
        "outgoing_messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", BIG, nullable=False),
        sa.Column("endpoint_id", BIG, nullable=False),
        sa.Column("incident_id", sa.Uuid(), nullable=True),
        sa.Column("timeline_id", BIG, nullable=True),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("next_at", MOMENT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("log", sa.JSON(), server_default=sa.text("'[]'"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_outgoing_messages_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outgoing_messages")),
    )
    live, pending = sa.text("disabled_at IS NULL"), sa.text("state = 'pending'")
    op.create_index(
        "ix_outgoing_endpoints_live", "outgoing_endpoints", ["tenant_id"], postgresql_where=live, sqlite_where=live
    )
    op.create_index(
        "ix_outgoing_messages_due",
        "outgoing_messages",
        ["endpoint_id", "next_at"],
        postgresql_where=pending,
        sqlite_where=pending,
    )
    op.create_index(
        op.f("ix_outgoing_messages_endpoint_id_created_at"), "outgoing_messages", ["endpoint_id", "created_at"]
    )
    op.create_index(op.f("ix_outgoing_messages_created_at"), "outgoing_messages", ["created_at"])
    op.create_index(op.f("ix_outgoing_messages_tenant_id"), "outgoing_messages", ["tenant_id"])
    for statement in POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER timeline_outgoing ON timeline")
        op.execute("DROP FUNCTION openremedy_outgoing()")
    else:
        op.execute("DROP TRIGGER timeline_outgoing")
    op.drop_table("outgoing_messages")
    op.drop_table("outgoing_endpoints")
