"""/metrics for Prometheus: what was counted, and how the database, the queue and the workers are at this moment."""

import hmac
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import structlog
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.exceptions import RedisError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from openremedy import __version__, meters, sources
from openremedy.errors import Unauthorized
from openremedy.extensions import db
from openremedy.models import (
    Incident,
    IncidentStatus,
    MessageState,
    ModelState,
    OutgoingEndpoint,
    OutgoingMessage,
    Source,
    Tenant,
    Triage,
    now,
)
from openremedy.services import services

log = structlog.get_logger()

blueprint = Blueprint("metrics", __name__)
WAITING = (Triage.PENDING, Triage.CLASSIFYING)


@blueprint.get("/metrics")
def metrics() -> Response:
    """In Prometheus' text format. What cannot be told (the database or Redis is away) is left out and says so."""
    if not _may_read(services().settings):
        raise Unauthorized("Metrics are for OPENREMEDY_METRICS_ALLOW and bearers of OPENREMEDY_METRICS_TOKEN.")
    registry = CollectorRegistry()
    registry.register(_Told())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _may_read(settings: Settings) -> bool:
    """By the token, or by the address; a proxy's address is not that of who asks through it."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if settings.metrics_token and scheme.lower() == "bearer":
        return hmac.compare_digest(token.strip().encode(), settings.metrics_token.encode())
    if "X-Forwarded-For" in request.headers and not settings.proxy_count:
        return False
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return any(address in network for network in settings.metrics_allow)


class _Told:
    """What is told at one scrape."""

    def collect(self) -> Iterator[Metric]:
        """Every family; called by prometheus_client."""
        yield from meters.of_web()
        yield _gauge("build_info", "Which release this is.", {"version": __version__}, 1)
        yield from _of_database()
        yield from _of_redis()


def _of_database() -> Iterator[Metric]:
    try:
        with db.engine.connect().execution_options(sqlite_readonly=True) as connection:
            found = [*_incidents(connection), _silent(connection), *_outgoing(connection), _model(connection)]
    except SQLAlchemyError as error:
        log.warning("metrics.database_away", error=type(error).__name__)
        found = []
    yield _gauge("database_up", "Whether the database answers.", {}, bool(found))
    yield from found


def _incidents(connection: Connection) -> Iterator[Metric]:
    """The open ones are in an index of their own, and so are those that wait, be they closed meanwhile or not."""
    by = (Incident.status, Incident.severity, Incident.triage)
    unresolved = select(*by, func.count()).where(Incident.status != IncidentStatus.RESOLVED).group_by(*by)
    standing: Counter[tuple[str, str]] = Counter()
    needing = 0
    for status, severity, triage, count in connection.execute(unresolved):
        standing[str(status), str(severity)] += count
        needing += count if triage == Triage.NEEDS_HUMAN else 0
    family = GaugeMetricFamily("openremedy_incidents", "Unresolved incidents.", labels=["status", "severity"])
    for labels, count in sorted(standing.items()):
        family.add_metric(labels, count)
    yield family
    yield _gauge("incidents_needing_human", "Unresolved incidents that a person has to look at.", {}, needing)
    waiting, since = [], []
    for triage in WAITING:  # two questions, for they are in two indexes
        found = select(func.count(), func.min(Incident.triage_since)).where(Incident.triage == triage)
        count, oldest = connection.execute(found).one()
        waiting.append(count)
        since += [oldest] if oldest else []
    yield _gauge("incidents_waiting", "Incidents without a verdict yet.", {}, sum(waiting))
    age = max(0.0, (now() - min(since)).total_seconds()) if since else 0.0
    yield _gauge("oldest_waiting_seconds", "For how long the oldest of them has waited.", {}, age)


def _silent(connection: Connection) -> Metric:
    """Only how many: which they are is their tenant's affair."""
    at = now()
    beats = (Source.heartbeat_at, Source.heartbeat_ended_at, Source.heartbeat_gap)
    known = select(*beats).where(Source.heartbeat_at.is_not(None), Source.disabled_at.is_(None))
    number = sum(bool(sources.silent(source, at)) for source in connection.execute(known))
    return _gauge("sources_silent", "Sources whose heartbeat has stopped.", {}, number)


def _outgoing(connection: Connection) -> Iterator[Metric]:
    """Of those that can be sent: what waits for an endpoint or a tenant to be switched on is nobody's trouble."""
    waiting = (
        select(func.count(), func.min(OutgoingMessage.since))
        .join(OutgoingEndpoint, OutgoingEndpoint.id == OutgoingMessage.endpoint_id)
        .join(Tenant, Tenant.id == OutgoingEndpoint.tenant_id)
        .where(OutgoingMessage.state == MessageState.PENDING)
        .where(OutgoingEndpoint.disabled_at.is_(None), Tenant.disabled_at.is_(None))
    )
    count, oldest = connection.execute(waiting).one()
    yield _gauge("outgoing_waiting", "Outgoing messages that are not sent yet.", {}, count)
    age = max(0.0, (now() - oldest).total_seconds()) if oldest else 0.0
    yield _gauge("oldest_outgoing_seconds", "For how long the oldest of them has waited.", {}, age)


def _model(connection: Connection) -> Metric:
    away = connection.execute(select(func.count()).where(ModelState.away_until.is_not(None))).scalar_one()
    return _gauge("model_away", "Whether the language model is left alone because it failed.", {}, bool(away))


def _of_redis() -> Iterator[Metric]:
    try:
        found = [*meters.of_workers(services().redis)]
    except RedisError as error:
        log.warning("metrics.redis_away", error=type(error).__name__)
        found = []
    queue = services().waker.state() if found else None
    yield _gauge("redis_up", "Whether Redis answers.", {}, queue is not None)
    yield from found
    if queue:
        yield _gauge("queue_jobs", "Jobs that wait for a worker.", {}, queue.waiting)
        yield _gauge("queue_failed_jobs", "Jobs that have failed.", {}, queue.failed)
        yield _gauge("workers", "Workers whose heartbeat is not older than 90 seconds.", {}, queue.workers)


def _gauge(name: str, words: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"openremedy_{name}", words, labels=[*labels])
    family.add_metric([*labels.values()], float(value))
    return family
