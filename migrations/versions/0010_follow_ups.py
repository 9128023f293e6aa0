"""follow-ups

Why: a tool may ask to be answered by a request of ours, as Amazon SNS does before it delivers to a new address. A
worker does that, and what waits for one must survive a killed process and an absent Redis. The release before goes on
without knowing the table.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "follow_ups",
        sa.Column("id", BIG, nullable=False),
        sa.Column("tenant_id", BIG, nullable=False),
        sa.Column("source_id", BIG, nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done_at", TIME, nullable=True),
        sa.Column("words", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_follow_ups_source_id_sources"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_follow_ups_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_follow_ups")),
        sa.UniqueConstraint("source_id", "subject", name=op.f("uq_follow_ups_source_id_subject")),
    )
    op.create_index(op.f("ix_follow_ups_tenant_id"), "follow_ups", ["tenant_id"])
    op.create_index(op.f("ix_follow_ups_due_at"), "follow_ups", ["due_at"])


def downgrade() -> None:
    op.drop_table("follow_ups")
