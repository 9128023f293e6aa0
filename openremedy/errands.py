"""What a worker does while somebody waits for it: ask for it, and read what came of it. Knows nothing of the work."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from openremedy.errors import Conflict, Unavailable
from openremedy.queue import interactive_queue
from openremedy.services import Services

log = structlog.get_logger()

JOB_TIMEOUT = 120  # seconds; a job ends itself long before
KEPT = 600  # seconds
PATIENCE = timedelta(seconds=180)  # a worker that takes longer is not there, or was killed
MAX_WAITING = 50
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Sort:
    """A sort of errand: the job that does it, what people call it, and what they are told when it cannot be asked for.

    `at_once`: how many of them one tenant may have waiting; None = as many as fit.
    """

    job: str
    name: str
    away: str
    at_once: int | None = None

    @property
    def full(self) -> str:
        return f"Too many {self.name}s are waiting. Try it again in a moment."

    @property
    def broke(self) -> str:
        return f"The {self.name} ended with an error. The worker's log says why."

    @property
    def nobody(self) -> str:
        return f"No worker has taken the {self.name} up. Is one running?"


class State(StrEnum):
    """How far an errand is."""

    PENDING = "pending"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True)
class Errand:
    """`reason` is a sentence when it failed, `result` what the job returned when it is done."""

    state: State
    reason: str | None = None
    result: dict[str, Any] | None = None


def start(services: Services, sort: Sort, tenant_id: int, arguments: Sequence[Any]) -> str:
    """Queue a job for a tenant, whose id is its first argument; returns the job's id. Raises Unavailable, Conflict."""
    queue = interactive_queue(services.redis)
    try:
        _make_room(queue, sort, tenant_id)
        job = queue.enqueue(
            sort.job,
            args=(tenant_id, *arguments),
            job_id=secrets.token_hex(16),
            job_timeout=JOB_TIMEOUT,
            ttl=KEPT,
            result_ttl=KEPT,
            failure_ttl=KEPT,
            meta={"tenant_id": tenant_id, "job": sort.job},
        )
    except RedisError as error:
        raise _away(sort, error) from error
    return str(job.id)


def _make_room(queue: Queue, sort: Sort, tenant_id: int) -> None:
    if queue.count >= MAX_WAITING:
        raise Unavailable(sort.full)
    if sort.at_once is None:
        return
    waiting = Job.fetch_many(queue.job_ids, connection=queue.connection, serializer=JSONSerializer)
    if sum(_belongs(job, sort, tenant_id) for job in waiting if job) >= sort.at_once:
        raise Conflict(f"{sort.at_once} {sort.name}s of this tenant are waiting already.")


def read(services: Services, sort: Sort, tenant_id: int, job_id: str) -> Errand | None:
    """How far an errand of this tenant is; None when there is none of this id, or no longer. Raises Unavailable."""
    if not _ID.fullmatch(job_id):
        return None
    try:
        job = Job.fetch(job_id, connection=services.redis, serializer=JSONSerializer)
        return _read(job, sort) if _belongs(job, sort, tenant_id) else None
    except NoSuchJobError:
        return None
    except RedisError as error:
        raise _away(sort, error) from error


def _belongs(job: Job, sort: Sort, tenant_id: int) -> bool:
    return (job.meta.get("tenant_id"), job.meta.get("job")) == (tenant_id, sort.job)


def _read(job: Job, sort: Sort) -> Errand:
    status = job.get_status(refresh=False)
    if status == JobStatus.FINISHED:
        return Errand(State.DONE, result=job.return_value())
    if status in (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED):
        return Errand(State.FAILED, sort.broke)
    asked_at = (job.enqueued_at or job.created_at).replace(tzinfo=UTC)
    return Errand(State.FAILED, sort.nobody) if datetime.now(UTC) - asked_at > PATIENCE else Errand(State.PENDING)


def _away(sort: Sort, error: RedisError) -> Unavailable:
    log.warning("queue.away", error=type(error).__name__)
    return Unavailable(sort.away)
