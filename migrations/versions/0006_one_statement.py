"""one statement

Why: the door writes a body, its alerts and their incidents in one statement where it can, and asks in it, by a
function made here, whether an identity still is as it believes. Both look-ups are by the identity alone: an index that
began with the tenant lost to others of the same beginning as long as the planner had seen no rows, and then each alert
read all incidents of its tenant. The release before works with either index.

Revision ID: 0006
Revises: 0005
"""

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As rows.STATE is now: a migration does not change with the code.
STATE = (
    "status severity occurrences first_seen last_seen recent_starts event_at event_digest fired_at sender_end "
    "expires_at acknowledged_at resolved_at ended_by sender_ended latest"
).split()
TYPES = {
    **dict.fromkeys(("status", "severity", "event_digest", "ended_by"), "varchar"),
    **dict.fromkeys(("sender_ended", "latest"), "boolean"),
    "occurrences": "integer",
    "recent_starts": "json",
}
CHANGING = [name for name in STATE if name not in ("first_seen", "recent_starts")]


def _typed(names: list[str]) -> str:
    return ", ".join(f"{name} {TYPES.get(name, 'timestamptz')}" for name in names)


def upgrade() -> None:
    _index("uq_incidents_identity", "incidents", ["identity", "tenant_id"], "latest", unique=True)
    _index("ix_alerts_orphans", "alerts", ["orphan_identity", "tenant_id"], "orphan_identity IS NOT NULL")
    op.drop_index("uq_incidents_latest", "incidents")
    op.drop_index("ix_alerts_orphan", "alerts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(DIFFERING)
        op.execute(CHANGE)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION openremedy_change")
        op.execute("DROP FUNCTION openremedy_differing")
    _index("ix_alerts_orphan", "alerts", ["tenant_id", "orphan_identity"], "orphan_identity IS NOT NULL")
    _index("uq_incidents_latest", "incidents", ["tenant_id", "identity"], "latest", unique=True)
    op.drop_index("ix_alerts_orphans", "alerts")
    op.drop_index("uq_incidents_identity", "incidents")


def _index(name: str, table: str, columns: list[str], where: str, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


# Volatile, so each query in it sees what was committed before it and not only before the statement that calls it: the
# gate would be of no use otherwise. The rows stay locked, in the order of `identities`, until the caller has written.
# `tenant_id + 0`: of all indexes only the one that begins with the identity is left to choose from. No scans of whole
# tables until the end of the transaction: the foreign keys are checked by plans that the session keeps, and one that
# was made while the table was small would read all of it for each alert of the storm that makes it large.
DIFFERING = f"""
CREATE FUNCTION openremedy_differing(gate bigint, tenant bigint, identities text[], versions text[])
RETURNS TABLE (identity text, version text, id uuid, {_typed(STATE)})
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock_shared(gate), set_config('enable_seqscan', 'off', true);
    RETURN QUERY
    SELECT asked.identity, found.xmin::text, found.id, {", ".join(f"found.{name}" for name in STATE)}
    FROM unnest(identities, versions) AS asked (identity, version)
    LEFT JOIN LATERAL (
        SELECT i.xmin, i.id, {", ".join(f"i.{name}" for name in STATE)} FROM incidents i
        WHERE i.identity = asked.identity AND i.latest AND i.tenant_id + 0 = tenant LIMIT 1 FOR UPDATE
    ) found ON true
    WHERE found.xmin::text IS DISTINCT FROM asked.version OR (found.xmin IS NULL AND (
        SELECT true FROM alerts a WHERE a.orphan_identity = asked.identity AND a.tenant_id + 0 = tenant LIMIT 1
    ));
END $$
"""  # nosec B608 # names of our own columns, no value

# One row after another: joined with them, a table that the planner takes for small would be read from end to end.
# What changed is out of the index of words until the scheduler puts it back, for that costs more than all the rest.
CHANGE = f"""
CREATE FUNCTION openremedy_change(changed json) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    new record;
    count integer := 0;
BEGIN
    FOR new IN SELECT * FROM json_to_recordset(changed) AS r (id uuid, evidence json, {_typed(CHANGING)}) LOOP
        UPDATE incidents SET {", ".join(f"{name} = new.{name}" for name in CHANGING)},
            evidence = coalesce(new.evidence, incidents.evidence), searchable = false
        WHERE incidents.id = new.id;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$
"""  # nosec B608 # names of our own columns, no value
