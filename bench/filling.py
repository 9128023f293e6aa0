"""A database that has seen years: incidents, their alerts and deliveries, written by the database itself."""

import psycopg


def _id(kind: str, number: str) -> str:
    """SQL for a UUID of version 7 that both tables agree on."""
    digits = f"'018' || lpad(to_hex({number}), 9, '0') || '7' || lpad(to_hex(mod({number}, 4096)), 3, '0') || '8'"
    return f"({digits} || substr(md5('{kind}' || {number}), 1, 15))::uuid"


# Rows of the shape that the door writes; spread over a year, most of them over.
_INCIDENTS = f"""
INSERT INTO incidents (id, tenant_id, adapter, identity, latest, status, hostname, incident_type, severity, evidence,
    occurrences, first_seen, last_seen, recent_starts, triage, triage_since, searchable, resolved_at, ended_by)
SELECT {_id("i", "n")}, t.id, 'canonical', md5('a' || n) || md5('b' || n), true,
    CASE WHEN mod(n, 20) = 0 THEN 'open' ELSE 'resolved' END, 'host-' || mod(n, 5000), 'disk_full', 'high',
    json_build_object('mount', '/srv/' || mod(n, 50), 'used_percent', 90 + mod(n, 10),
        'summary', 'The volume is nearly full.'),
    1 + mod(n, 7), now() - n * interval '30 seconds', now() - n * interval '30 seconds', '[]', 'done',
    now() - n * interval '30 seconds', true, CASE WHEN mod(n, 20) = 0 THEN NULL ELSE now() END,
    CASE WHEN mod(n, 20) = 0 THEN NULL ELSE 'sender' END
FROM generate_series(%(first)s::bigint, %(last)s) n, tenants t
"""
_DELIVERIES = f"""
INSERT INTO deliveries (id, tenant_id, adapter, received_at, request_id, remote_addr, accepted, status_code, headers,
    body, body_bytes)
SELECT {_id("d", "n")}, t.id, 'canonical', now() - n * interval '6 seconds', md5(n::text), '192.0.2.1', true, 202,
    json_build_object('Content-Type', 'application/json'),
    convert_to(repeat('hostname: host-' || n || ', ', 9), 'UTF8'), 270
FROM generate_series(%(first)s::bigint, %(last)s) n, tenants t
"""
_ALERTS = f"""
INSERT INTO alerts (tenant_id, delivery_id, incident_id, position, outcome, status, severity, received_at)
SELECT t.id,
    {_id("d", "n")},
    {_id("i", "i")}, 0, 'created', 'firing', 'high', now() - n * interval '6 seconds'
FROM generate_series(%(first)s::bigint, %(last)s) n, LATERAL (SELECT 1 + mod(n, %(incidents)s) AS i) one, tenants t
"""
STEP = 250_000


def fill(url: str, incidents: int, deliveries: int) -> None:
    """Write that many; the alerts are as many as the deliveries."""
    with psycopg.connect(url, autocommit=True) as connection:
        # As by `pg_restore`: what is written here need not survive a crash, nor be checked row by row.
        connection.execute("SET synchronous_commit = off; SET session_replication_role = replica")
        for statement, count in ((_INCIDENTS, incidents), (_DELIVERIES, deliveries), (_ALERTS, deliveries)):
            for first in range(1, count + 1, STEP):
                values = {"first": first, "last": min(first + STEP - 1, count), "incidents": incidents}
                connection.execute(statement, values)
        connection.execute("VACUUM ANALYZE")
