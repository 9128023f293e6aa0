"""lists for people

Why: pages list, filter, search and count 100,000 incidents of a tenant while somebody waits. One index answers every
filter and order without the rows; another, of words, is filled in the background (docs/adr/0019). Where the account
may not create the extension pg_trgm there is no index of words, and search reads the evidence itself. The new column
has a default, so the code of the release before goes on without knowing it. Writers wait while the indexes are made:
about a second for 300,000 incidents; the index of words is empty at first.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INCLUDED = "status severity incident_type triage source_id adapter hostname occurrences last_seen verdict_id".split()
# As openremedy/search.py spells it: an expression is found in an index only when it is the same.
WORDS = """
    CREATE INDEX ix_incidents_words ON incidents USING gin (lower(
        hostname || ' ' || coalesce(dedup_key, '') || ' ' || incident_type || ' ' || CAST(evidence AS TEXT)
    ) gin_trgm_ops) WHERE searchable
"""


def upgrade() -> None:
    op.add_column("incidents", sa.Column("searchable", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.drop_index("ix_incidents_tenant_id", "incidents")
    op.create_index("ix_incidents_list", "incidents", ["tenant_id", "id"], postgresql_include=INCLUDED)
    unsearchable = sa.text("NOT searchable")
    op.create_index(
        "ix_incidents_unsearchable",
        "incidents",
        ["tenant_id", "id"],
        postgresql_where=unsearchable,
        sqlite_where=unsearchable,
    )
    op.create_index("ix_verdicts_recipe", "verdicts", ["tenant_id", "recipe", "id"])
    op.create_index(op.f("ix_refusal_counts_tenant_id_minute"), "refusal_counts", ["tenant_id", "minute"])
    if op.get_bind().dialect.name == "postgresql" and _trigrams():
        op.execute(WORDS)


def _trigrams() -> bool:
    """Whether the extension is there by now; a missing right or package must not stop the upgrade."""
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except DBAPIError:
        return False
    return True


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_incidents_words")  # the extension stays: others may use it
    op.drop_index("ix_refusal_counts_tenant_id_minute", "refusal_counts")
    op.drop_index("ix_verdicts_recipe", "verdicts")
    op.drop_index("ix_incidents_unsearchable", "incidents")
    op.drop_index("ix_incidents_list", "incidents")
    op.create_index("ix_incidents_tenant_id", "incidents", ["tenant_id", "id"])
    with op.batch_alter_table("incidents", schema=None) as batch_op:
        batch_op.drop_column("searchable")
