"""Waking the workers after a commit. The database is the truth; Redis only says that there is something to look at."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

log = structlog.get_logger()

QUEUE = "classify"
INTERACTIVE = "openremedy-interactive"  # somebody sits before a page and waits for it
JOB = "openremedy.jobs.classify_pending"  # a string, so that the web process never imports it
WAKE_KEY = "openremedy:wake"
FOLLOW_UP_JOB = "openremedy.jobs.follow_up"
FOLLOW_UP_KEY = "openremedy:wake-follow-ups"
FOLLOW_UP_TIMEOUT = 60  # seconds; what one job does takes a third of it at most
WAKE_SECONDS = 5  # a lost job is missed no longer than this by those who come after it
WEB_TIMEOUT = 0.5  # seconds
BREATH = 0.1  # seconds between two wakes of one process
IDLE = 1.0  # seconds that its thread waits for the next who asks
PAUSE = 5.0  # seconds without trying after a failure, so that a hung Redis costs one request, not all


def web_client(url: str) -> Redis:
    """The Redis client of a request: gives up in half a second and does not try again."""
    return Redis.from_url(
        url,
        socket_timeout=WEB_TIMEOUT,
        socket_connect_timeout=WEB_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


def worker_client(url: str) -> Redis:
    """The Redis client of a worker, which blocks while it waits for a job; rq sets its timeout."""
    return Redis.from_url(url, socket_connect_timeout=5)


def job_queue(connection: Redis) -> Queue:
    """The queue of classification jobs; JSON, so that nobody with access to Redis can make a worker run pickles."""
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


def interactive_queue(connection: Redis) -> Queue:
    """The queue of jobs that somebody waits for; a worker looks at it before the other."""
    return Queue(INTERACTIVE, connection=connection, serializer=JSONSerializer)


@dataclass(frozen=True)
class QueueState:
    """Jobs that wait, workers that live, jobs that failed."""

    waiting: int
    workers: int
    failed: int


class Waker:
    """Queues a job that looks for pending incidents, or another that looks for work, unless one is queued already.

    The job deletes the key before it looks, so an incident committed after that look sets the key again and queues
    the next job: none is missed while Redis is there, and the sweep finds what it was not told of.
    """

    def __init__(self, connection: Redis, job_timeout: int, job: str = JOB, key: str = WAKE_KEY) -> None:
        self._connection = connection
        self._job = job
        self._key = key
        self._queue = job_queue(connection)
        self._job_timeout = job_timeout
        self._pause_until = 0.0
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._busy = False

    def soon(self) -> None:
        """The same as wake(), by a thread and once for all who ask within BREATH: no request waits for Redis.

        What was asked when the process is killed is missed as by a dead Redis: the sweep finds the work.
        """
        self._asked.set()
        with self._lock:
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._wake_all, name="waker").start()

    def _wake_all(self) -> None:
        """Ends a second after the last who asked, so that it holds up the end of the process no longer than that."""
        try:
            while self._asked.wait(IDLE):
                self._asked.clear()
                self.wake()
                time.sleep(BREATH)
        finally:
            with self._lock:
                self._busy = False
        if self._asked.is_set():  # by one who saw us at work
            self.soon()

    def wake(self) -> bool:
        """Make sure a job is queued. False when Redis could not be told; the sweep will find the work."""
        if time.monotonic() < self._pause_until:
            return False
        try:
            if self._connection.set(self._key, "1", nx=True, ex=WAKE_SECONDS):
                self._queue.enqueue(self._job, job_timeout=self._job_timeout, result_ttl=0, failure_ttl=24 * 3600)
        except RedisError as error:
            self._pause(error)
            return False
        return True

    def woken(self) -> None:
        """Called by the job before it looks for work. Without Redis it looks all the same: the key expires."""
        try:
            self._connection.delete(self._key)
        except RedisError as error:
            self._pause(error)

    def state(self) -> QueueState | None:
        """How the queue is; None when Redis is away, or was a moment ago."""
        if time.monotonic() < self._pause_until:
            return None
        try:
            return self._state()
        except RedisError as error:
            self._pause(error)
            return None

    def _state(self) -> QueueState:
        """Raises RedisError. Asked at once by the names of rq's keys; by its methods each is a round trip."""
        with self._connection.pipeline(transaction=False) as asked:
            asked.llen(self._queue.key)
            asked.zcard(self._queue.failed_job_registry.key)
            asked.smembers(WORKERS_BY_QUEUE_KEY % self._queue.name)
            waiting, failed, workers = asked.execute()
        # A worker that was killed stays on the list, but its own key expires.
        alive: Any = self._connection.exists(*workers) if workers else 0
        return QueueState(waiting, alive, failed)

    def _pause(self, error: RedisError) -> None:
        with self._lock:
            self._pause_until = time.monotonic() + PAUSE
        log.warning("queue.away", error=type(error).__name__, retry_in_seconds=PAUSE)
