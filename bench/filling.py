"""A database that has seen a year: incidents, their alerts and deliveries, written by the database itself."""

import time

import psycopg

SPAN = 347 * 86_400  # seconds


def _id(kind: str, number: str, made: str) -> str:
    """SQL for the UUID of version 7 of row `number`, `made` at an epoch in seconds; the same wherever it is named."""
    digits = f"lpad(to_hex(({made} * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(mod({number}, 4096)), 3, '0')"
    return f"({digits} || '8' || substr(md5('{kind}' || {number}), 1, 15))::uuid"


def _made(number: str, count: str) -> str:
    """SQL for when row `number` of `count` was made; the first is the newest."""
    return f"(%(now)s::float8 - {number} * ({SPAN}::float8 / %({count})s))"


_INCIDENT_MADE, _DELIVERY_MADE = _made("n", "incidents"), _made("n", "deliveries")
_INCIDENT_ID, _DELIVERY_ID = _id("i", "n", _INCIDENT_MADE), _id("d", "n", _DELIVERY_MADE)
# Rows of the shape that the door writes; most of them are over, each an hour after it began.
_INCIDENTS = f"""
INSERT INTO incidents (id, tenant_id, adapter, identity, latest, status, hostname, incident_type, severity, evidence,
    occurrences, first_seen, last_seen, recent_starts, triage, triage_since, searchable, resolved_at, ended_by)
SELECT {_INCIDENT_ID}, t.id, 'canonical', md5('a' || n) || md5('b' || n), true,
    CASE WHEN mod(n, 20) = 0 THEN 'open' ELSE 'resolved' END, 'host-' || mod(n, 5000), 'disk_full', 'high',
    json_build_object('mount', '/srv/' || mod(n, 50), 'used_percent', 90 + mod(n, 10),
        'summary', 'The volume is nearly full.'),
    1 + mod(n, 7), to_timestamp({_INCIDENT_MADE}), to_timestamp({_INCIDENT_MADE}), '[]', 'done',
    to_timestamp({_INCIDENT_MADE}), true,
    CASE WHEN mod(n, 20) = 0 THEN NULL ELSE to_timestamp({_INCIDENT_MADE} + 3600) END,
    CASE WHEN mod(n, 20) = 0 THEN NULL ELSE 'sender' END
FROM generate_series(%(first)s::bigint, %(last)s) n, tenants t
"""
_DELIVERIES = f"""
INSERT INTO deliveries (id, tenant_id, adapter, received_at, request_id, remote_addr, accepted, status_code, headers,
    body, body_bytes)
SELECT {_DELIVERY_ID}, t.id, 'canonical', to_timestamp({_DELIVERY_MADE}), md5(n::text), '192.0.2.1', true, 202,
    json_build_object('Content-Type', 'application/json'),
    convert_to(repeat('hostname: host-' || n || ', ', 9), 'UTF8'), 270
FROM generate_series(%(first)s::bigint, %(last)s) n, tenants t
"""
_ALERTS = f"""
INSERT INTO alerts (tenant_id, delivery_id, incident_id, position, outcome, status, severity, received_at)
SELECT t.id, {_DELIVERY_ID}, {_id("i", "i", _made("i", "incidents"))}, 0, 'created', 'firing', 'high',
    to_timestamp({_DELIVERY_MADE})
FROM generate_series(%(first)s::bigint, %(last)s) n,
    LATERAL (SELECT 1 + mod(n, %(incidents)s::bigint) AS i) one, tenants t
"""
STEP = 250_000


def fill(url: str, incidents: int, deliveries: int) -> None:
    """Write that many; the alerts are as many as the deliveries."""
    values = {"now": time.time(), "incidents": incidents, "deliveries": deliveries}
    with psycopg.connect(url, autocommit=True) as connection:
        # As by `pg_restore`: what is written here need not survive a crash, nor be checked row by row.
        connection.execute("SET synchronous_commit = off; SET session_replication_role = replica")
        for statement, count in ((_INCIDENTS, incidents), (_DELIVERIES, deliveries), (_ALERTS, deliveries)):
            for first in range(1, count + 1, STEP):
                connection.execute(statement, values | {"first": first, "last": min(first + STEP - 1, count)})
        connection.execute("VACUUM ANALYZE")
