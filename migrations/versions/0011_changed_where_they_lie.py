"""changed where they lie

Why: the door changed incidents one after another, each by a statement of its own, for one that joins them by their
identifier may be planned, while the table is nearly empty, as a walk through all of it. Now it looks up where each row
lies and changes all at once by that: a place can be nothing but gone to, whatever the planner believes of the table.
The rows are locked before (openremedy_differing), so they do not move in between.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# As rows.DECIDING is now: a migration does not change with the code.
DECIDING = (
    "status severity event_at event_digest fired_at sender_end expires_at acknowledged_at resolved_at ended_by "
    "sender_ended latest"
).split()
TYPES = {
    **dict.fromkeys(("status", "severity", "event_digest", "ended_by"), "varchar"),
    **dict.fromkeys(("sender_ended", "latest"), "boolean"),
}
COLUMNS = "id uuid, evidence json, more integer, last_seen timestamptz, "
COLUMNS += ", ".join(f"{name} {TYPES.get(name, 'timestamptz')}" for name in DECIDING)
CHANGES = f"""{", ".join(f"{name} = new.{name}" for name in DECIDING)},
        occurrences = incidents.occurrences + new.more, last_seen = greatest(incidents.last_seen, new.last_seen),
        evidence = coalesce(new.evidence, incidents.evidence), searchable = false"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(AT_ONCE)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(ONE_BY_ONE)


# `LIMIT 1`, so that the look-up is not joined with the rest: it is one by the primary key for each row.
AT_ONCE = f"""
CREATE OR REPLACE FUNCTION openremedy_add(changed json) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    count integer;
BEGIN
    UPDATE incidents SET {CHANGES}
    FROM json_to_recordset(changed) AS new ({COLUMNS})
    CROSS JOIN LATERAL (SELECT i.ctid AS tuple FROM incidents i WHERE i.id = new.id LIMIT 1) found
    WHERE incidents.ctid = found.tuple;
    GET DIAGNOSTICS count = ROW_COUNT;
    RETURN count;
END $$
"""  # nosec B608 # names of our own columns, no value

# As in 0008.
ONE_BY_ONE = f"""
CREATE OR REPLACE FUNCTION openremedy_add(changed json) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    new record;
    count integer := 0;
BEGIN
    FOR new IN SELECT * FROM json_to_recordset(changed) AS r ({COLUMNS}) LOOP
        UPDATE incidents SET {CHANGES} WHERE incidents.id = new.id;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$
"""  # nosec B608 # names of our own columns, no value
