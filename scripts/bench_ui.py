"""How long the pages of people take with 100,000 incidents of a tenant: `make bench-ui`, or with a number of incidents.

Starts a PostgreSQL of its own, fills two tenants, and times what the list, its filters, its search and the overview ask
the database. Prints the median, the 95th percentile and the longest time; ends with 1 when a 95th percentile is above
LIMIT_MS.
"""

import json
import logging
import os
import random
import secrets
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import flask_migrate
import psycopg
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import select

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import services as servers  # noqa: E402
from config import load  # noqa: E402
from openremedy import cookbook, incidents, overview, search, tenants  # noqa: E402
from openremedy.alerts import compact  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from openremedy.incidents import Filters, Sort  # noqa: E402
from openremedy.models import Recipe, Source, Tenant  # noqa: E402
from openremedy.recipes import parse  # noqa: E402
from openremedy.services import services  # noqa: E402

LIMIT_MS = 150
ROUNDS = 100
DAYS = 90
HOSTS = 300
RECIPES = 30
IDENTITIES = 5000
TENANTS = ("alice", "charlie")
# Of each tenant the newest so many are in the index of words, for making all of it would take most of the time.
INDEXED = {1: 10**9, 2: 25_000}
chance = random.Random(4)  # nosec B311 # noqa: S311 - the same data at every run


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
    """0.6 to 3 KB as the adapters make it: labels, annotations, values, links; most of them nearer to the least."""
    service = chance.choice(SERVICES)
    title = f"{TITLES[kind]} on {host}"
    annotations = {
        f"{chance.choice(WORDS)}_{chance.choice(WORDS)}": " ".join(chance.choices(WORDS, k=6))
        for _ in range(min(int(chance.expovariate(0.2)), 28))
    }
    needle = {"ticket": f"OPS-{number:06}"} if number % 50 == 0 else {}
    return needle | {
        "title": title,
        "summary": f"{title}: {' '.join(chance.choices(WORDS, k=chance.randint(4, 16)))}",
        "service": service,
        "mount": chance.choice(MOUNTS),
        "value": round(chance.uniform(50, 100), 3),
        "links": {
            "runbook": f"https://wiki.example.com/runbooks/{kind}/{service}",
            "dashboard": f"https://{adapter}.example.com/d/{chance.getrandbits(48):012x}/{service}?var-host={host}",
        },
        "fingerprint": f"{chance.getrandbits(64):016x}",
        "labels": {
            "alertname": f"{kind.title().replace('_', '')}{service.title()}",
            "instance": f"{host}:9100",
            "job": f"{service}-exporter",
            "cluster": host.split(".")[1],
            "pod": f"{service}-{chance.getrandbits(40):010x}",
        },
        "annotations": annotations,
    }


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
    "occurrences first_seen last_seen resolved_at ended_by recent_starts triage triage_since cause verdict_id "
    "searchable"
).split()
VERDICT = (
    "id tenant_id incident_id recipe tier confidence provisional reusable cause catalogue_version prompt_version "
    "model_version runners_up citations summary tokens latency_ms actor created_at"
).split()
DELIVERY = (
    "id tenant_id adapter received_at request_id remote_addr accepted status_code headers body body_bytes".split()
)
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
        # As the scheduler leaves it: all that have their verdict and were not seen for ten minutes.
        "searchable": not fresh and INDEXED[tenant_id] >= count - number > 60,
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


def fill(url: str, slug: str, count: int) -> None:
    """A tenant with sources, incidents, verdicts, alerts, timeline and refusals."""
    chance.seed(slug)
    end = datetime.now(UTC)
    with psycopg.connect(url) as connection:
        tenant_id = _value(connection, "SELECT id FROM tenants WHERE slug = %s", slug)
        # References are right by construction, and looking each one up takes as long as the rest.
        connection.execute("SET session_replication_role = replica")
        _fill(connection, tenant_id, count, end)


def _value(connection: psycopg.Connection, query: LiteralString, *values: str) -> Any:
    """The one value that a query finds. Raises LookupError."""
    row = connection.execute(query, values).fetchone()
    if row is None:
        raise LookupError(query)
    return row[0]


def _fill(connection: psycopg.Connection[Any], tenant_id: int, count: int, end: datetime) -> None:
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
    assert row  # nosec B101 # noqa: S101 - an INSERT that returned nothing has failed already
    return int(row[0])


def _history(connection: psycopg.Connection[Any], tenant_id: int, rows: list[dict[str, Any]]) -> None:
    """A delivery for each 50 alerts; an alert and a half and as many entries of the timeline for each incident."""
    deliveries = [(id_at(rows[place]["first_seen"]), rows[place]["first_seen"]) for place in range(0, len(rows), 50)]
    copy(
        connection,
        "deliveries",
        ", ".join(DELIVERY),
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
    rows = (
        (tenant_id, source, reason, minute - timedelta(minutes=7 * number), number % 9 + 1)
        for source in (0, *sources)
        for reason in ("unauthorized", "rate_limited", "invalid_json")
        for number in range(2000)
    )
    copy(connection, "refusal_counts", "tenant_id, source_id, reason, minute, count", rows)


def filled(app: Flask, url: str, count: int) -> None:
    """Both tenants, and the statistics by which the database plans."""
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        for slug in TENANTS:
            tenants.create_tenant(db.session(), services().vault, slug)
            tenant_id = tenants.find_tenant(db.session(), slug).id
            cookbook.import_recipes(db.session(), tenant_id, parse(tenants.STARTER_RECIPES.read_text()))
        db.session.remove()
    with psycopg.connect(url, autocommit=True) as connection:
        words = _value(connection, "SELECT pg_get_indexdef('ix_incidents_words'::regclass)")
        connection.execute("DROP INDEX ix_incidents_words")
        with ProcessPoolExecutor(len(TENANTS)) as pool:
            list(pool.map(fill, [url] * len(TENANTS), TENANTS, [count] * len(TENANTS)))
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(words)
        connection.execute("VACUUM ANALYZE")


# ---------------------------------------------------------------- what is timed


def cases(app: Flask, session: Any, tenant_id: int) -> dict[str, Callable[[int], Any]]:
    """What each page asks for, by name; the number makes each time another one."""
    recipes = [one for (one,) in session.execute(select(Recipe.slug).where(Recipe.tenant_id == tenant_id))]
    source_ids = list(session.scalars(select(Source.id).where(Source.tenant_id == tenant_id)))
    newest = incidents.matching_ids(session, tenant_id, Filters(), 1000)
    cursors = _cursors(session, tenant_id)

    def listed(sort: Sort = Sort.NEWEST, cursor: str | None = None, **filters: Any) -> int:
        return len(incidents.listed(session, tenant_id, Filters(**filters), sort=sort, cursor=cursor).items)

    def pick(of: Sequence[Any], number: int) -> Any:
        return of[number % len(of)]

    def count(**filters: Any) -> int:
        return incidents.count_up_to(session, tenant_id, Filters(**filters)).number

    return {
        "newest": lambda n: listed(),
        "newest, a page far down": lambda n: listed(cursor=pick(cursors[Sort.NEWEST], n)),
        **{f"by {sort}": lambda n, sort=sort: listed(sort) for sort in Sort if sort != Sort.NEWEST},
        **{
            f"by {sort}, a page far down": lambda n, sort=sort: listed(sort, pick(cursors[sort], n))
            for sort in Sort
            if sort != Sort.NEWEST
        },
        "open": lambda n: listed(pick(list(Sort), n), open_only=True),
        "status": lambda n: listed(status=pick(("open", "acknowledged", "resolved"), n)),
        "severity": lambda n: listed(severity=pick((*SEVERITIES, "info"), n)),
        "type": lambda n: listed(incident_type=pick((*TYPES, "custom", "port_unavailable"), n)),
        "classification": lambda n: listed(classification=pick(("pending", "needs_human", "done", "classifying"), n)),
        "host": lambda n: listed(hostname=pick((*HOSTNAMES, "nowhere"), n)),
        "recipe": lambda n: listed(recipe=pick((*recipes, "none"), n)),
        "source": lambda n: listed(source_id=pick((*source_ids, 0), n)),
        "since": lambda n: listed(since=datetime.now(UTC) - timedelta(hours=n)),
        "many filters": lambda n: listed(
            pick(list(Sort), n), severity=("critical", "high"), status=("open", "acknowledged"), adapter="grafana"
        ),
        "search: frequent": lambda n: listed(q=pick(SERVICES, n)),
        "search: in some of 100": lambda n: listed(q=pick(WORDS, n)),
        "search: part of a host": lambda n: listed(q=pick(HOSTNAMES, n)[:-4]),
        "search: rare": lambda n: listed(q=f"OPS-{n * 950 % 100_000:06}"),
        "search: nowhere": lambda n: listed(q=f"nosuchthing{n}"),
        "search: two words": lambda n: listed(q=f"{pick(WORDS, n)} {pick(WORDS, n * 7 + 1)}"),
        "search: word and filter": lambda n: listed(q=pick(WORDS, n), severity="critical", open_only=True),
        "search: by severity": lambda n: listed(Sort.SEVERITY, q=pick(WORDS, n)),
        "count": lambda n: count(severity=pick(SEVERITIES, n)),
        "count of few": lambda n: count(hostname=pick(HOSTNAMES, n)),
        "count of a search": lambda n: count(q=pick(WORDS, n)),
        "overview": lambda n: len(overview.overview(session, services(), tenant_id).hours),
        "related": lambda n: len(overview.related(session, tenant_id, pick(newest, n * 9)).same_host),
    }


def _cursors(session: Any, tenant_id: int) -> dict[Sort, list[str]]:
    """Places throughout each order."""
    found = {}
    for sort in Sort:
        every = search.places(session, tenant_id, Filters(), sort, None, 90_000)
        found[sort] = [one.cursor() for one in every[500::997]]
    return found


def timed(session: Any, case: Callable[[int], Any]) -> tuple[list[float], float, int]:
    """Milliseconds of each round, sorted; those of CPU in this process, on average; how many rows came in all."""
    times, rows = [], 0
    for number in range(-5, ROUNDS):  # the first ones warm up
        if number == 0:
            busy = time.process_time()
        began = time.perf_counter()
        count = case(abs(number))
        took = (time.perf_counter() - began) * 1000
        session.rollback()
        if number >= 0:
            times.append(took)
            rows += count
    return sorted(times), (time.process_time() - busy) / ROUNDS * 1000, rows


def measure(app: Flask) -> list[str]:
    """Print a line for each case; the names of those that take too long."""
    slow = []
    with app.test_request_context():
        session = db.session()
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.slug == TENANTS[0])).one()
        print(f"{'':30}{'median':>8}{'p95':>8}{'max':>8}{'own CPU':>9}   rows")
        for name, case in cases(app, session, tenant_id).items():
            times, busy, rows = timed(session, case)
            p95 = times[int(len(times) * 0.95) - 1]
            median = statistics.median(times)
            print(f"{name:30}{median:8.1f}{p95:8.1f}{times[-1]:8.1f}{busy:9.1f}{rows:7}", flush=True)
            slow += [name] if p95 > LIMIT_MS else []
        db.session.remove()
        db.engine.dispose()
    return slow


def main(count: int = 100_000) -> int:
    """Print the table; 1 when something takes too long."""
    began = time.monotonic()
    with servers.postgres() as postgres, servers.redis() as redis:
        url = postgres.create_database("bench")
        os.environ |= {
            "DATABASE_URL": url,
            "REDIS_URL": redis.url,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        }
        app = create_app(load())
        logging.disable(logging.WARNING)
        filled(app, url, count)
        print(f"{count} incidents in each of {len(TENANTS)} tenants, filled in {time.monotonic() - began:.0f} s; ms:")
        slow = measure(app)
    print(f"above {LIMIT_MS} ms: {', '.join(slow) or 'nothing'}; {time.monotonic() - began:.0f} s in all")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
