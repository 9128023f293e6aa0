"""How long the pages of people take with 100,000 incidents of a tenant: `make bench-ui`, or with a number of incidents.

Starts a PostgreSQL of its own, fills two tenants, and times what the list, its filters, its search and the overview ask
the database. Prints the median, the 95th percentile and the longest time; ends with 1 when a 95th percentile is above
LIMIT_MS.
"""

import json
import random
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from openremedy.alerts import compact  # noqa: E402

LIMIT_MS = 150
ROUNDS = 100
DAYS = 90
HOSTS = 300
RECIPES = 30
IDENTITIES = 5000
TENANTS = ("alice", "charlie")
chance = random.Random(4)  # noqa: S311 - the same data at every run


# ---------------------------------------------------------------- what is in the database

SERVICES = "checkout payments search cart login mail images reports billing ledger inventory router cache queue".split()
MOUNTS = "/ /var /home /srv/data /var/lib/postgresql /boot /opt/backups /tmp".split()
SEVERITIES = ("critical", "high", "medium", "low")
TYPES = ("disk_full", "cpu_high", "memory_high", "service_down")
HOSTNAMES = [
    f"{chance.choice(SERVICES)}-{number:03}.{zone}.example.com"
    for number, zone in zip(range(HOSTS), "eu1 eu2 us1 ap1".split() * HOSTS, strict=False)
]
WORDS = [
    "".join(chance.choices("bcdfghjklmnpqrstvwxyz", k=2)) + "".join(chance.choices("aeiou", k=1)) + tail
    for tail in "tion ment ster line load node base ward less ring".split()
    for _ in range(300)
]
TITLES = {
    "disk_full": "Filesystem is filling up",
    "cpu_high": "CPU is busy",
    "memory_high": "Memory is nearly used",
    "service_down": "Target is not reachable",
}


def evidence(adapter: str, host: str, kind: str, number: int) -> dict[str, Any]:
    """0.5 to 3 KB as the adapters make it: labels, annotations, values, links."""
    service, mount = chance.choice(SERVICES), chance.choice(MOUNTS)
    title = f"{TITLES[kind]} on {host}"
    common = {
        "title": title,
        "summary": f"{title}: {' '.join(chance.choices(WORDS, k=chance.randint(8, 40)))}",
        "service": service,
        "mount": mount,
        "value": round(chance.uniform(50, 100), 3),
        "links": {
            "runbook": f"https://wiki.example.com/runbooks/{kind}/{service}",
            "dashboard": f"https://{adapter}.example.com/d/{chance.getrandbits(48):012x}/{service}?var-host={host}",
            "silence": f"https://{adapter}.example.com/silence/new?matcher=instance%3D{host}",
        },
        "fingerprint": f"{chance.getrandbits(64):016x}",
    }
    labels = {
        "alertname": f"{kind.title().replace('_', '')}{service.title()}",
        "instance": f"{host}:9100",
        "job": f"{service}-exporter",
        "cluster": host.split(".")[1],
        "namespace": f"{service}-prod",
        "pod": f"{service}-{chance.getrandbits(40):010x}",
        "device": f"/dev/nvme{chance.randint(0, 9)}n1p{chance.randint(1, 4)}",
    }
    extra = {
        f"{chance.choice(WORDS)}_{chance.choice(WORDS)}": " ".join(chance.choices(WORDS, k=6))
        for _ in range(chance.randint(0, 26))
    }
    needle = {"ticket": f"OPS-{number:06}"} if number % 50 == 0 else {}
    return common | {"labels": labels, "annotations": extra} | needle


def id_at(moment: datetime) -> uuid.UUID:
    """An identifier as ids.new_id() makes it, of another time."""
    random_bits = chance.getrandbits(62)
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | random_bits)


def copy(connection: psycopg.Connection[Any], name: str, columns: str, rows: Iterator[Sequence[Any]]) -> None:
    """Write rows as fast as PostgreSQL takes them."""
    with connection.cursor().copy(f"COPY {name} ({columns}) FROM STDIN") as writer:
        for row in rows:
            writer.write_row(row)
    connection.commit()


INCIDENT = (
    "id tenant_id source_id adapter identity latest dedup_key status hostname incident_type severity evidence "
    "occurrences first_seen last_seen resolved_at ended_by recent_starts triage triage_since cause verdict_id"
).split()
VERDICT = (
    "id tenant_id incident_id recipe tier confidence provisional reusable cause catalogue_version prompt_version "
    "model_version runners_up citations summary tokens latency_ms actor created_at"
).split()
TIERS = ("rule", "reuse", "model", "lexical", "person")
ADAPTERS = ("alertmanager", "grafana", "datadog", "pagerduty")


def incident(tenant_id: int, sources: list[int], number: int, count: int, end: datetime) -> dict[str, Any]:
    """A row; the number says how far it lies between the beginning and the present."""
    begun = end - timedelta(days=DAYS) * (1 - (number + 1) / (count + 1))
    place = number % IDENTITIES
    newest = number + IDENTITIES >= count
    host = HOSTNAMES[place % HOSTS]
    kind = TYPES[place % len(TYPES)] if place % 7 else "custom"
    status = chance.choices(("open", "acknowledged", "resolved"), (45, 15, 40))[0] if newest else "resolved"
    ended = begun + timedelta(minutes=chance.expovariate(1 / 45))
    source = place % (len(sources) + 1)
    adapter = ADAPTERS[source % 4] if source < len(sources) else "canonical"
    triage = "done" if chance.random() < 0.93 else "needs_human"
    fresh = number + 40 >= count
    return {
        "id": id_at(begun),
        "tenant_id": tenant_id,
        "source_id": sources[source] if source < len(sources) else None,
        "adapter": adapter,
        "identity": f"{place:064x}",
        "latest": newest,
        "dedup_key": f"{host}/{kind}/{place}" if place % 3 == 0 else None,
        "status": status,
        "hostname": host,
        "incident_type": kind,
        "severity": chance.choices(SEVERITIES, (8, 22, 45, 25))[0],
        "evidence": compact(evidence(adapter, host, kind if kind != "custom" else "cpu_high", number)),
        "occurrences": 1 + int(chance.expovariate(0.2)),
        "first_seen": begun,
        "last_seen": min(ended, end),
        "resolved_at": ended if status == "resolved" else None,
        "ended_by": "sender" if status == "resolved" else None,
        "recent_starts": "[]",
        "triage": "pending" if fresh else triage,
        "triage_since": begun,
        "cause": f"{place % 800:064x}",
        "verdict_id": None if fresh else id_at(begun + timedelta(seconds=3)),
    }


def verdict(row: dict[str, Any], recipe: str | None) -> dict[str, Any]:
    """The verdict of an incident."""
    return {
        "id": row["verdict_id"],
        "tenant_id": row["tenant_id"],
        "incident_id": row["id"],
        "recipe": recipe,
        "tier": chance.choice(TIERS),
        "confidence": round(chance.random(), 3),
        "provisional": False,
        "reusable": False,
        "cause": row["cause"],
        "catalogue_version": 1,
        "prompt_version": "1",
        "model_version": "none",
        "runners_up": "[]",
        "citations": json.dumps([{"pointer": "/service", "value": "checkout"}]),
        "summary": " ".join(chance.choices(WORDS, k=25)),
        "tokens": 0,
        "latency_ms": 0,
        "actor": "classifier",
        "created_at": row["first_seen"],
    }


def values(rows: list[dict[str, Any]], names: Sequence[str]) -> Iterator[list[Any]]:
    """The rows as COPY takes them."""
    return ([row[name] for name in names] for row in rows)


def fill(connection: psycopg.Connection[Any], tenant_id: int, count: int) -> None:
    """A tenant with sources, incidents, verdicts, alerts, timeline and refusals."""
    end = datetime.now(UTC)
    sources = [_source(connection, tenant_id, adapter) for adapter in ADAPTERS]
    recipes = [row[0] for row in connection.execute("SELECT slug FROM recipes WHERE tenant_id = %s", [tenant_id])]
    rows = [incident(tenant_id, sources, number, count, end) for number in range(count)]
    copy(connection, "incidents", ", ".join(INCIDENT), values(rows, INCIDENT))
    known = recipes[:RECIPES]
    verdicts = [
        verdict(row, chance.choice(known) if row["triage"] == "done" else None) for row in rows if row["verdict_id"]
    ]
    copy(connection, "verdicts", ", ".join(VERDICT), values(verdicts, VERDICT))
    _history(connection, tenant_id, rows)
    _refusals(connection, tenant_id, sources, end)


def _source(connection: psycopg.Connection[Any], tenant_id: int, adapter: str) -> int:
    statement = """
        INSERT INTO sources (tenant_id, adapter, name, created_at, last_seen_at, created_count, updated_count)
        VALUES (%s, %s, %s, now(), now(), 20000, 40000) RETURNING id
    """
    row = connection.execute(statement, [tenant_id, adapter, adapter.title()]).fetchone()
    assert row  # noqa: S101 - an INSERT that returned nothing has failed already
    return int(row[0])


def _history(connection: psycopg.Connection[Any], tenant_id: int, rows: list[dict[str, Any]]) -> None:
    """A delivery for each 50 alerts; an alert and a half and as many entries of the timeline for each incident."""
    deliveries = [(id_at(rows[place]["first_seen"]), rows[place]["first_seen"]) for place in range(0, len(rows), 50)]
    copy(
        connection,
        "deliveries",
        "id, tenant_id, adapter, received_at, request_id, remote_addr, accepted, status_code, headers, body, body_bytes",
        ((one, tenant_id, "grafana", at, one.hex, "192.0.2.1", True, 202, "{}", b"{}", 2) for one, at in deliveries),
    )
    twice = [(place, row) for place, row in enumerate(rows) for _ in range(1 + place % 2)]
    copy(
        connection,
        "alerts",
        "tenant_id, delivery_id, incident_id, position, outcome, status, severity, received_at",
        (
            (
                tenant_id,
                deliveries[place // 50][0],
                row["id"],
                place % 50,
                "created",
                "firing",
                "high",
                row["last_seen"],
            )
            for place, row in twice
        ),
    )
    copy(
        connection,
        "timeline",
        "tenant_id, incident_id, at, kind, actor, detail",
        ((tenant_id, row["id"], row["last_seen"], "opened", "sender", "{}") for _, row in twice),
    )


def _refusals(connection: psycopg.Connection[Any], tenant_id: int, sources: list[int], end: datetime) -> None:
    minute = end.replace(second=0, microsecond=0)
    copy(
        connection,
        "refusal_counts",
        "tenant_id, source_id, reason, minute, count",
        (
            (tenant_id, source, reason, minute - timedelta(minutes=7 * number), number % 9 + 1)
            for source in (0, *sources)
            for reason in ("unauthorized", "rate_limited", "invalid_json")
            for number in range(2000)
        ),
    )
