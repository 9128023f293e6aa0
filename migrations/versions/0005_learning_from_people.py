"""learning from people

Why: before each incident a worker asks what people of the tenant said last, and what is new it takes into its matching.
The table is small (one row per answer of a person), so the index is made in an instant; the code of the release before
goes on without knowing it.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_feedback_tenant", "feedback", ["tenant_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_feedback_tenant", "feedback")
