"""The web's side of a try-out: ask a worker for one, and read what it found. Knows nothing of the classifier."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from openremedy.cookbook import as_json
from openremedy.errors import Unavailable
from openremedy.queue import interactive_queue
from openremedy.recipes import RecipeSpec
from openremedy.services import Services

log = structlog.get_logger()

JOB = "openremedy.jobs.try_recipe"  # a string, so that the web process never imports it
JOB_TIMEOUT = 120  # seconds; a job ends itself long before
KEPT = 600  # seconds
PATIENCE = timedelta(seconds=180)  # a worker that takes longer is not there, or was killed
MAX_WAITING = 50
AWAY = (
    "A try-out needs the queue, which cannot be reached just now. Saving a recipe does not; try it again in a moment."
)
FULL = "Too many try-outs are waiting. Try it again in a moment."
BROKE = "The try-out ended with an error. The worker's log says why."
NOBODY = "No worker has taken the try-out up. Is one running?"
_ID = re.compile(r"[0-9a-f]{32}")


class State(StrEnum):
    """How far a try-out is."""

    PENDING = "pending"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True)
class Tryout:
    """`reason` is a sentence when it failed, `result` what tryout.try_out() returns when it is done."""

    state: State
    reason: str | None = None
    result: dict[str, Any] | None = None


def start_tryout(services: Services, tenant_id: int, slug: str, spec: RecipeSpec | None) -> str:
    """Queue a try-out of `spec` in place of the recipe `slug` (None: as if it were deleted); returns the job's id.

    Raises Unavailable.
    """
    queue = interactive_queue(services.redis)
    try:
        if queue.count >= MAX_WAITING:
            raise Unavailable(FULL)
        job = queue.enqueue(
            JOB,
            args=(tenant_id, slug, as_json(spec) if spec else None),
            job_id=secrets.token_hex(16),
            job_timeout=JOB_TIMEOUT,
            ttl=KEPT,
            result_ttl=KEPT,
            failure_ttl=KEPT,
            meta={"tenant_id": tenant_id},
        )
    except RedisError as error:
        raise _away(error) from error
    return str(job.id)


def read_tryout(services: Services, tenant_id: int, job_id: str) -> Tryout | None:
    """How far a try-out of this tenant is; None when there is none of this id, or no longer. Raises Unavailable."""
    if not _ID.fullmatch(job_id):
        return None
    try:
        job = Job.fetch(job_id, connection=services.redis, serializer=JSONSerializer)
        return _read(job) if job.meta.get("tenant_id") == tenant_id else None
    except NoSuchJobError:
        return None
    except RedisError as error:
        raise _away(error) from error


def _read(job: Job) -> Tryout:
    status = job.get_status(refresh=False)
    if status == JobStatus.FINISHED:
        return Tryout(State.DONE, result=job.return_value())
    if status in (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED):
        return Tryout(State.FAILED, BROKE)
    asked_at = (job.enqueued_at or job.created_at).replace(tzinfo=UTC)
    return Tryout(State.FAILED, NOBODY) if datetime.now(UTC) - asked_at > PATIENCE else Tryout(State.PENDING)


def _away(error: RedisError) -> Unavailable:
    log.warning("queue.away", error=type(error).__name__)
    return Unavailable(AWAY)
