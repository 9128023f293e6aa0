"""decided by state

Why: the door believed an incident to be as it had left it while its row had the same version, and each repetition that
another process had taken made a new one: with two processes half of all repetitions took a second turn. What the
lifecycle decides by is compared itself now, and what only adds up is added. The functions of the release before stay
for it.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# As rows.STATE and rows.DECIDING are now: a migration does not change with the code.
STATE = (
    "status severity occurrences first_seen last_seen recent_starts event_at event_digest fired_at sender_end "
    "expires_at acknowledged_at resolved_at ended_by sender_ended latest"
).split()
DECIDING = [name for name in STATE if name not in ("occurrences", "first_seen", "last_seen", "recent_starts")]
TYPES = {
    **dict.fromkeys(("status", "severity", "event_digest", "ended_by"), "varchar"),
    **dict.fromkeys(("sender_ended", "latest"), "boolean"),
    "occurrences": "integer",
    "recent_starts": "json",
}


def _typed(names: list[str]) -> str:
    return ", ".join(f"{name} {TYPES.get(name, 'timestamptz')}" for name in names)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(DIFFERING)
        op.execute(ADD)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION openremedy_add(json)")
        op.execute("DROP FUNCTION openremedy_differing(bigint, bigint, json)")


# The rest as in 0006: volatile, so that it sees what was committed before it passed the gate; `tenant_id + 0` and no
# scans of whole tables, so that the identity's own index is taken whatever the planner believes of the tables.
DIFFERING = f"""
CREATE FUNCTION openremedy_differing(gate bigint, tenant bigint, believed json)
RETURNS TABLE (identity text, id uuid, {_typed(STATE)})
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock_shared(gate), set_config('enable_seqscan', 'off', true);
    RETURN QUERY
    SELECT asked.identity, found.id, {", ".join(f"found.{name}" for name in STATE)}
    FROM json_to_recordset(believed) AS asked (identity text, id uuid, {_typed(DECIDING)})
    LEFT JOIN LATERAL (
        SELECT i.id, {", ".join(f"i.{name}" for name in STATE)} FROM incidents i
        WHERE i.identity = asked.identity AND i.latest AND i.tenant_id + 0 = tenant LIMIT 1 FOR UPDATE
    ) found ON true
    WHERE (found.id, {", ".join(f"found.{name}" for name in DECIDING)})
        IS DISTINCT FROM (asked.id, {", ".join(f"asked.{name}" for name in DECIDING)})
        OR (found.id IS NULL AND (
            SELECT true FROM alerts a WHERE a.orphan_identity = asked.identity AND a.tenant_id + 0 = tenant LIMIT 1
        ));
END $$
"""  # nosec B608 # names of our own columns, no value

# One row after another, as in 0006. `more` is how often it was repeated since it was believed.
ADD = f"""
CREATE FUNCTION openremedy_add(changed json) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    new record;
    count integer := 0;
BEGIN
    FOR new IN SELECT * FROM json_to_recordset(changed)
        AS r (id uuid, evidence json, more integer, last_seen timestamptz, {_typed(DECIDING)}) LOOP
        UPDATE incidents SET {", ".join(f"{name} = new.{name}" for name in DECIDING)},
            occurrences = incidents.occurrences + new.more, last_seen = greatest(incidents.last_seen, new.last_seen),
            evidence = coalesce(new.evidence, incidents.evidence), searchable = false
        WHERE incidents.id = new.id;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$
"""  # nosec B608 # names of our own columns, no value
