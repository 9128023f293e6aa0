"""verdicts of a cause

Why: in a storm a worker looks for a verdict to take over again and again, and all that were taken over before stand in
the index of causes beside the one it looks for. Only a few of the verdicts can be taken over: their index is small, is
made in one pass over the table, and costs the others nothing. The release before goes on without knowing it.

Revision ID: 0007
Revises: 0006
"""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    reusable = text("reusable")
    op.create_index(
        "ix_verdicts_reusable",
        "verdicts",
        ["tenant_id", "cause", "id"],
        postgresql_where=reusable,
        sqlite_where=reusable,
    )


def downgrade() -> None:
    op.drop_index("ix_verdicts_reusable", "verdicts")
