"""The worker process: one RQ worker that classifies batches, with many model calls in flight."""

import asyncio
import faulthandler
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
from flask import current_app
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import SimpleWorker, worker_registration
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import DequeueStrategy

from config import Settings
from openremedy import evaluation_queue, jobs, tryout_queue
from openremedy.classification import Classifier, Limits
from openremedy.enrichment import Enricher
from openremedy.extensions import db
from openremedy.follow_up_worker import FollowUps
from openremedy.meters import Courier
from openremedy.queue import FOLLOW_UP_JOB, JOB, interactive_queue, job_queue, worker_client
from openremedy.registry import adapters
from openremedy.services import services

if TYPE_CHECKING:
    from openremedy.classifier.client import ModelClient

log = structlog.get_logger()

LONGEST_WAIT = 10.0  # seconds between two looks for an absent Redis
# Seconds after which rq counts a silent worker as gone. It also bounds how long an idle one waits on a connection
# whose other end has vanished; rq's own 420 would be longer than a verdict may take.
WORKER_TTL = 90
JOBS = frozenset((JOB, FOLLOW_UP_JOB, tryout_queue.SORT.job, evaluation_queue.SORT.job))


class Watchdog(BaseDeathPenalty):
    """Ends the process when a job overstays its time, and says where every thread was.

    Everything in a job has a deadline of its own, so a job that is late hangs where no exception helps: raised inside
    an event loop it may be swallowed by it, and the rest of the job would go on without a limit. The supervisor
    starts the next worker and the leases give the incidents back.
    """

    def setup_death_penalty(self) -> None:
        faulthandler.dump_traceback_later(self._timeout, exit=True)

    def cancel_death_penalty(self) -> None:
        faulthandler.cancel_dump_traceback_later()


class OwnJob(Job):
    """A job of ours, or one that fails: rq would call any function that whoever can write to Redis has named."""

    @property
    def func(self) -> Callable[..., Any]:
        """What to call. Raises PermissionError."""
        if self.instance is not None or self.func_name not in JOBS:
            raise PermissionError("This is none of our jobs.")
        found: Callable[..., Any] = super().func
        return found

    def restore(self, raw_data: dict[Any, bytes]) -> None:
        """Read it, without what rq would call or send to afterwards: none of ours has any of that."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []


class Worker(SimpleWorker):
    """An rq worker that does not fork per job: batches keep its indexes and connections warm, and what kills it costs
    its incidents one attempt, after which the supervisor starts the next one.
    """

    death_penalty_class = Watchdog
    job_class = OwnJob
    max_connection_wait_time = LONGEST_WAIT
    asked_to_stop = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # this one of rq has no types

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Also puts itself on rq's list of workers again: a flushed Redis has forgotten who is alive."""
        super().heartbeat(timeout, pipeline)
        worker_registration.register(self, pipeline)

    def set_shutdown_requested_date(self) -> None:
        """Nothing: rq would write to Redis from a signal handler, in the middle of whatever the job does."""


def run(settings: Settings, *, burst: bool) -> None:
    """Work until stopped. Raises SystemExit when the worker ended of itself, so that a supervisor notices."""
    wait_for(services().redis)
    connection = worker_client(settings.redis_url)
    queues = [interactive_queue(connection), job_queue(connection)]
    worker = Worker(queues, connection=connection, serializer=JSONSerializer, worker_ttl=WORKER_TTL)
    with asyncio.Runner() as runner:
        current_app.extensions[jobs.RUNNER] = runner
        current_app.extensions[jobs.CLASSIFIER] = classifier(settings)
        current_app.extensions[jobs.COURIER] = Courier(services().redis)
        current_app.extensions[jobs.FOLLOW_UPS] = FollowUps(db.engine, services().fetcher, adapters())
        # In turn: what people ask for goes first, but however much they ask, incidents are classified between.
        worker.work(
            burst=burst,
            logging_level="WARNING",
            with_scheduler=False,
            dequeue_strategy=DequeueStrategy.ROUND_ROBIN,
        )
    if not (burst or worker.asked_to_stop):
        raise SystemExit(1)


def classifier(settings: Settings) -> Classifier:
    """The classifier with the model that is configured, or without one."""
    limits = Limits(
        llm_timeout=settings.llm_timeout,
        llm_concurrency=settings.llm_concurrency,
        llm_daily_tokens=settings.llm_daily_tokens,
        model_name=f"{settings.model_host} {settings.model or ''}" if settings.model_enabled else "",
    )
    enrich = Enricher(db.engine, services().vault, adapters())
    return Classifier(db.engine, limits, model_client(settings), enrich)


def model_client(settings: Settings) -> "ModelClient | None":
    """The client of the model that is configured, or None."""
    if not settings.model_enabled:
        return None
    # Imported here: it takes a second, and a worker without a model does not need it.
    from openremedy.classifier.client import ModelClient

    log.info("model.on", evidence_goes_to=settings.model_host, model=settings.model)
    return ModelClient(
        base_url=settings.model_host,
        api_key=settings.openai_api_key or "none",
        model=settings.model,
        timeout=settings.llm_timeout,
    )


def wait_for(connection: Redis) -> None:
    """Return when Redis answers; a worker that starts before it waits instead of dying."""
    pause = 0.5
    while True:
        try:
            connection.ping()
            return
        except RedisError as error:
            log.warning("worker.waits_for_redis", error=type(error).__name__, seconds=pause)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_WAIT)
