"""What is counted while it happens, for /metrics.

A web process counts in memory; under gunicorn in files that its workers share (config/gunicorn.conf.py makes the
folder). Workers and schedulers have no port to be asked at, so they add what they have counted to a hash in Redis.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from redis import Redis
from redis.exceptions import RedisError

log = structlog.get_logger()

KEY = "openremedy:metrics"
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client gives it no types

OF_WEB = CollectorRegistry()
OF_WORKERS = CollectorRegistry()

REQUESTS = Histogram(
    "openremedy_request_seconds",
    "Time from the first look at a request to its answer, by what was asked: an adapter, the API, the pages.",
    ["part"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    registry=OF_WEB,
)
ANSWERS = Counter(
    "openremedy_answers", "Answered requests, by what was asked and the status.", ["part", "status"], registry=OF_WEB
)
ALERTS = Counter(
    "openremedy_alerts", "Alerts that were taken, and what became of each.", ["adapter", "outcome"], registry=OF_WEB
)
REFUSALS = Counter(
    "openremedy_refusals", "Deliveries that were refused, by the code of the answer.", ["adapter", "code"],
    registry=OF_WEB,
)  # fmt: skip

VERDICTS = Counter(
    "openremedy_verdicts", "Verdicts that were stored, by the tier that found them.", ["tier"], registry=OF_WORKERS
)
VERDICT_WAIT = Histogram(
    "openremedy_verdict_wait_seconds",
    "Time from when an incident began to wait for a verdict to when it was stored.",
    ["tier"],
    buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0),
    registry=OF_WORKERS,
)
MODEL_CALLS = Counter(
    "openremedy_model_calls",
    "Questions to the language model: answered, bad_answer, away, budget_spent (not asked at all).",
    ["outcome"],
    registry=OF_WORKERS,
)
MODEL_SECONDS = Histogram(
    "openremedy_model_seconds",
    "Time that the language model took for an answer, a second question included.",
    buckets=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
    registry=OF_WORKERS,
)
MODEL_TOKENS = Counter("openremedy_model_tokens", "Tokens of questions that were answered.", registry=OF_WORKERS)
SWEPT = Counter(
    "openremedy_swept", "What the scheduler's sweeps found, by kind; rounds counts them.", ["kind"], registry=OF_WORKERS
)
OUTGOING = Counter(
    "openremedy_outgoing_attempts",
    "Posts to endpoints of tenants: sent, failed (tried again), given_up.",
    ["outcome"],
    registry=OF_WORKERS,
)
PRUNED = Counter("openremedy_pruned_rows", "Rows that were deleted for their age.", ["kind"], registry=OF_WORKERS)
LAST_SWEEP = Gauge("openremedy_last_sweep_timestamp_seconds", "When a sweep ended last.", registry=OF_WORKERS)


@cache
def _of(meter: Any, *labels: str) -> Any:
    """The one of these labels; kept, for finding it costs as much as counting."""
    return meter.labels(*labels)


def answered(part: str, status: int, seconds: float) -> None:
    """A web process has answered."""
    _of(REQUESTS, part).observe(seconds)
    _of(ANSWERS, part, str(status)).inc()


def taken(adapter: str, outcome: str, number: int = 1) -> None:
    """Alerts are stored."""
    _of(ALERTS, adapter, outcome).inc(number)


def refused(adapter: str, code: str) -> None:
    """A delivery is not."""
    _of(REFUSALS, adapter, code).inc()


def decided(tier: str, waited: float) -> None:
    """A verdict is stored."""
    _of(VERDICTS, tier).inc()
    _of(VERDICT_WAIT, tier).observe(max(0.0, waited))


def asked_in_vain(outcome: str) -> None:
    """The model has no answer."""
    _of(MODEL_CALLS, outcome).inc()


def asked(tokens: int, milliseconds: int) -> None:
    """The model has one."""
    _of(MODEL_CALLS, "answered").inc()
    MODEL_TOKENS.inc(tokens)
    MODEL_SECONDS.observe(milliseconds / 1000)


def swept(found: dict[str, int], at: float) -> None:
    """A sweep is over."""
    for kind, number in {**found, "rounds": 1}.items():
        _of(SWEPT, kind).inc(number)
    LAST_SWEEP.set(at)


def pruned(found: dict[str, int]) -> None:
    """Old rows are gone."""
    for kind, number in found.items():
        _of(PRUNED, kind).inc(number)


def posted(outcome: str) -> None:
    """A message was tried."""
    _of(OUTGOING, outcome).inc()


# ---------------------------------------------------------------- from process to process


class Courier:
    """Adds what this process has counted to what all of them have. One per worker or scheduler."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._brought: dict[str, float] = {}

    def bring(self) -> None:
        """Add what is new since the last time; where Redis is away it comes along the next time."""
        counted = {
            _field(sample.name, sample.labels): (meter.type, sample.value)
            for meter in OF_WORKERS.collect()
            for sample in meter.samples
        }
        new = {field: one for field, one in counted.items() if one[1] != self._brought.get(field, 0.0)}
        try:
            with self._connection.pipeline(transaction=True) as pipeline:
                for field, (kind, value) in new.items():
                    if kind == "gauge":
                        pipeline.hset(KEY, field, str(value))
                    else:
                        pipeline.hincrbyfloat(KEY, field, value - self._brought.get(field, 0.0))
                pipeline.execute()
        except RedisError as error:
            log.warning("metrics.not_brought", error=type(error).__name__)
        else:
            self._brought |= {field: value for field, (_, value) in new.items()}


def _field(name: str, labels: dict[str, str]) -> str:
    return json.dumps([name, labels], sort_keys=True)


def of_web() -> Iterator[Metric]:
    """What the web processes of this host have counted."""
    if values.ValueClass is values.MutexValue:  # not under gunicorn
        yield from OF_WEB.collect()
        return
    shared = MultiProcessCollector(CollectorRegistry())  # type: ignore[no-untyped-call]  # nor its constructor
    ours = {meter.name for meter in OF_WEB.collect()}
    found = shared.collect()  # type: ignore[no-untyped-call]  # nor this method
    yield from (meter for meter in found if meter.name in ours)


def of_workers(connection: Redis) -> Iterator[Metric]:
    """What all workers and schedulers have brought. Raises RedisError."""
    brought: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    found: Any = connection.hgetall(KEY)
    for field, value in found.items():
        name, labels = json.loads(field)
        brought[name].append((labels, float(value)))
    for meter in OF_WORKERS.collect():
        known = Metric(meter.name, meter.documentation, meter.type)
        for name in (meter.name, *(f"{meter.name}_{suffix}" for suffix in ("total", "bucket", "sum", "count"))):
            for labels, value in sorted(brought[name], key=_place):
                known.add_sample(name, labels, value)
        yield known


def _place(sample: tuple[dict[str, str], float]) -> tuple[list[tuple[str, str]], float]:
    """By the labels, and the buckets of a histogram by their size."""
    labels, _ = sample
    return sorted((name, text) for name, text in labels.items() if name != "le"), float(labels.get("le", 0))
