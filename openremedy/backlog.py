"""What is queued, who works on it and what failed, as Redis tells it; and giving failed jobs another try."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from openremedy.errors import NotFound
from openremedy.queue import interactive_queue, job_queue

MOST = 100  # jobs that are shown of a kind
MAX_REASON = 300


@dataclass(frozen=True)
class WorkerSeen:
    """A worker process as it last said of itself."""

    name: str
    host: str
    state: str
    job_ids: Sequence[str]
    born_at: datetime | None
    heartbeat_at: datetime | None


@dataclass(frozen=True)
class StartedJob:
    """A job that a worker has in hand."""

    id: str
    task: str
    worker: str
    started_at: datetime | None


@dataclass(frozen=True)
class FailedJob:
    """A job that ended with an exception; `reason` is its last line."""

    id: str
    task: str
    reason: str
    failed_at: datetime | None


@dataclass(frozen=True)
class Backlog:
    """All of it; of long lists the newest."""

    waiting: int
    workers: Sequence[WorkerSeen]
    started: Sequence[StartedJob]
    failed: Sequence[FailedJob]
    failed_count: int


def look(connection: Redis) -> Backlog:
    """Changes nothing, not even what rq would tidy up on the way. Raises RedisError."""
    queues = _queues(connection)
    failed = [FailedJobRegistry(queue=queue) for queue in queues]
    started = [StartedJobRegistry(queue=queue) for queue in queues]
    return Backlog(
        waiting=sum(queue.count for queue in queues),
        workers=sorted(map(_worker, Worker.all(connection, serializer=JSONSerializer)), key=lambda one: one.name),
        started=[_started(job) for registry in started for job in _jobs(connection, registry)],
        failed=[_failed(job) for registry in failed for job in _jobs(connection, registry)],
        failed_count=sum(registry.get_job_count(cleanup=False) for registry in failed),
    )


def _queues(connection: Redis) -> tuple[Queue, Queue]:
    """In the order in which workers look at them."""
    return interactive_queue(connection), job_queue(connection)


def _jobs(connection: Redis, registry: FailedJobRegistry | StartedJobRegistry) -> list[Job]:
    ids = registry.get_job_ids(0, MOST - 1, desc=True, cleanup=False)
    found = Job.fetch_many(ids, connection=connection, serializer=JSONSerializer)
    return [job for job in found if job]  # one that has just ended is not there any more


def _worker(worker: BaseWorker) -> WorkerSeen:
    return WorkerSeen(
        name=worker.name,
        host=f"{worker.hostname or ''} {worker.pid or ''}".strip(),
        state=str(worker.get_state()),
        job_ids=[one.job_id for one in worker.get_current_executions()],
        born_at=_moment(worker.birth_date),
        heartbeat_at=_moment(worker.last_heartbeat),
    )


def _started(job: Job) -> StartedJob:
    return StartedJob(job.id, _task(job), job.worker_name or "", _moment(job.started_at))


def _failed(job: Job) -> FailedJob:
    result = job.latest_result()
    lines = ((result.exc_string if result else None) or "").strip().splitlines()
    reason = lines[-1] if lines else "it left no reason"
    return FailedJob(job.id, _task(job), reason[:MAX_REASON], _moment(job.ended_at))


def _task(job: Job) -> str:
    try:
        return job.func_name or ""
    except DeserializationError:
        return "unreadable: not written by us"


def _moment(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


# ---------------------------------------------------------------- failed jobs


def each_failed(connection: Redis, job_id: str | None, change: Callable[[FailedJobRegistry, str], None]) -> int:
    """Do it to one failed job, or to all there are (None); returns to how many. Raises NotFound, RedisError."""
    count = 0
    for queue in _queues(connection):
        registry = FailedJobRegistry(queue=queue)
        for one in registry.get_job_ids(cleanup=False):
            if job_id in (None, one):
                with suppress(InvalidJobOperation, NoSuchJobError):  # somebody else was faster
                    change(registry, one)
                    count += 1
    if job_id and not count:
        raise NotFound("This job is not among the failed ones any more.")
    return count


def requeue(registry: FailedJobRegistry, job_id: str) -> None:
    """Queue a failed job once more."""
    registry.requeue(job_id)


def delete_failed(registry: FailedJobRegistry, job_id: str) -> None:
    """Forget a failed job."""
    registry.remove(job_id)
    with suppress(NoSuchJobError):
        Job.fetch(job_id, connection=registry.connection, serializer=JSONSerializer).delete()
