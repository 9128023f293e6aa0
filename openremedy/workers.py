"""The worker process: one RQ worker that classifies batches, with many model calls in flight."""

import asyncio
import time

import structlog
from flask import current_app
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from config import Settings
from openremedy import jobs
from openremedy.classification import Classifier, Limits
from openremedy.extensions import db
from openremedy.queue import job_queue, worker_client

log = structlog.get_logger()

LONGEST_WAIT = 10  # seconds between two looks for an absent Redis


def run(settings: Settings, *, burst: bool) -> None:
    """Work until stopped. A worker does not fork per job: batches keep its indexes and connections warm, and what

    kills it costs the batch one attempt, after which the supervisor starts the next worker.
    """
    connection = worker_client(settings.redis_url)
    wait_for(connection)
    current_app.extensions[jobs.RUNNER] = asyncio.Runner()
    current_app.extensions[jobs.CLASSIFIER] = classifier(settings)
    worker = SimpleWorker([job_queue(connection)], connection=connection, serializer=JSONSerializer)
    worker.work(burst=burst, logging_level="WARNING", with_scheduler=False)


def classifier(settings: Settings) -> Classifier:
    """The classifier with the model that is configured, or without one."""
    limits = Limits(
        llm_timeout=settings.llm_timeout,
        llm_concurrency=settings.llm_concurrency,
        llm_daily_tokens=settings.llm_daily_tokens,
        model_name=f"{settings.model_host} {settings.model or ''}" if settings.model_enabled else "",
    )
    if not settings.model_enabled:
        return Classifier(db.engine, limits, None)
    # Imported here: it takes a second, and a worker without a model does not need it.
    from openremedy.classifier.client import ModelClient

    log.info("model.on", evidence_goes_to=settings.model_host, model=settings.model)
    client = ModelClient(
        base_url=settings.model_host,
        api_key=settings.openai_api_key or "none",
        model=settings.model,
        timeout=settings.llm_timeout,
    )
    return Classifier(db.engine, limits, client)


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
