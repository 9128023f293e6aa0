"""native sources

Why: sources that tools post to need what an admin chose, counts of what came, heartbeats and the last refusal; an
incident needs the time it expires by and what a worker read from the tool's API. Every column has a default or may be
empty, so the code of the release before goes on without knowing them.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("incidents", schema=None) as batch_op:
        batch_op.add_column(sa.Column("enrichment", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index(
            "ix_incidents_expires",
            ["expires_at"],
            unique=False,
            postgresql_where=sa.text("expires_at IS NOT NULL AND status <> 'resolved'"),
            sqlite_where=sa.text("expires_at IS NOT NULL AND status <> 'resolved'"),
        )

    with op.batch_alter_table("source_secrets", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "kind",
                sa.Enum("signing", "api", name="secretkind", native_enum=False, length=32),
                server_default="signing",
                nullable=False,
            )
        )
        batch_op.add_column(sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))

    with op.batch_alter_table("sources", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rate_limit", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("options", sa.JSON(), server_default=sa.text("'{}'"), nullable=False))
        batch_op.add_column(
            sa.Column(
                "created_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(
            sa.Column(
                "updated_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(
            sa.Column(
                "resolved_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(
            sa.Column(
                "duplicate_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(
            sa.Column(
                "ignored_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(
            sa.Column(
                "rejected_count",
                sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
                server_default="0",
                nullable=False,
            )
        )
        batch_op.add_column(sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("heartbeat_gap", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("heartbeat_ended_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("last_refused_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("last_refusal_reason", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("last_refusal_message", sa.Text(), nullable=True))


def downgrade() -> None:
    # Without its kind a token for the tool's API would be taken for a secret that the tool signs with.
    op.execute("DELETE FROM source_secrets WHERE kind = 'api'")
    with op.batch_alter_table("sources", schema=None) as batch_op:
        batch_op.drop_column("last_refusal_message")
        batch_op.drop_column("last_refusal_reason")
        batch_op.drop_column("last_refused_at")
        batch_op.drop_column("heartbeat_ended_at")
        batch_op.drop_column("heartbeat_gap")
        batch_op.drop_column("heartbeat_at")
        batch_op.drop_column("rejected_count")
        batch_op.drop_column("ignored_count")
        batch_op.drop_column("duplicate_count")
        batch_op.drop_column("resolved_count")
        batch_op.drop_column("updated_count")
        batch_op.drop_column("created_count")
        batch_op.drop_column("options")
        batch_op.drop_column("rate_limit")

    with op.batch_alter_table("source_secrets", schema=None) as batch_op:
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("kind")

    with op.batch_alter_table("incidents", schema=None) as batch_op:
        batch_op.drop_index("ix_incidents_expires")
        batch_op.drop_column("expires_at")
        batch_op.drop_column("enrichment")
