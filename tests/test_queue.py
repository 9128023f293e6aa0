"""Waking the workers: fast when Redis is away, and no incident that nobody is told of."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from redis import Redis
from redis.exceptions import ConnectionError
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer, PickleSerializer

from cast import Tenant
from config import Settings
from conftest import NOWHERE
from openremedy import claims, jobs, workers
from openremedy.classification import LEASE_MARGIN, RUN_SECONDS, Classifier
from openremedy.cli import SWEEP_SECONDS
from openremedy.extensions import db
from openremedy.meters import Courier
from openremedy.queue import JOB, PAUSE, QUEUE, WAKE_KEY, WAKE_SECONDS, Waker, job_queue, web_client, worker_client
from openremedy.services import JOB_MARGIN, KEY
from services import RedisServer, until
from test_cli import flask

JOB_TIMEOUT = 90
ONE_DATABASE = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with web_client(redis_url) as client:
        yield client


@pytest.fixture
def waker(redis: Redis) -> Waker:
    return Waker(redis, JOB_TIMEOUT)


def queued(redis: Redis) -> list[str]:
    return job_queue(redis).job_ids


@contextlib.contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit


# ---------------------------------------------------------------- what is queued


def test_many_wakings_queue_one_job(waker: Waker, redis: Redis) -> None:
    assert all(waker.wake() for _ in range(50))
    assert len(queued(redis)) == 1


def test_a_job_names_a_function_and_carries_nothing(waker: Waker, redis: Redis) -> None:
    waker.wake()
    job = Job.fetch(queued(redis)[0], connection=redis, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.kwargs, job.timeout) == (JOB, [], {}, JOB_TIMEOUT)
    assert job.id.replace("-", "").isalnum()
    stored = redis.hget(job.key, "data")
    assert isinstance(stored, bytes)
    assert json.loads(zlib.decompress(stored)) == [JOB, None, [], {}]


def test_the_key_that_says_queued_ends_by_itself(waker: Waker, redis: Redis) -> None:
    waker.wake()
    assert 0 < redis.ttl(WAKE_KEY) <= WAKE_SECONDS


def test_what_is_committed_after_the_worker_s_look_queues_the_next_job(waker: Waker, redis: Redis) -> None:
    waker.wake()
    waker.woken()
    assert waker.wake()
    assert len(queued(redis)) == 2


def test_a_flushed_redis_is_told_anew(waker: Waker, redis: Redis, redis_server: RedisServer) -> None:
    waker.wake()
    redis_server.flushall()
    assert waker.wake()
    assert len(queued(redis)) == 1


# ---------------------------------------------------------------- no Redis


def test_a_redis_that_refuses_costs_no_time() -> None:
    with web_client(NOWHERE) as client, seconds_at_most(0.5):
        assert Waker(client, JOB_TIMEOUT).wake() is False


def test_a_redis_that_hangs_costs_one_caller_half_a_second_and_the_next_nothing(
    waker: Waker, redis: Redis, redis_server: RedisServer
) -> None:
    redis.ping()
    with redis_server.paused():
        with seconds_at_most(1.4):
            assert waker.wake() is False
        with seconds_at_most(0.2):
            assert not any(waker.wake() for _ in range(20))


def test_a_redis_that_hangs_is_given_up_on_by_a_new_connection_too(redis_server: RedisServer) -> None:
    with redis_server.paused(), web_client(redis_server.url) as client, seconds_at_most(1.4):
        assert Waker(client, JOB_TIMEOUT).wake() is False


def test_a_full_redis_is_not_an_error_of_the_request(waker: Waker, redis: Redis, redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.config_set("maxmemory", "1")
        try:
            with seconds_at_most(0.5):
                assert waker.wake() is False
        finally:
            admin.config_set("maxmemory", "0")


def test_it_tries_again_after_the_pause(
    waker: Waker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server.paused():
        waker.wake()
    later = time.monotonic() + PAUSE + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    # The command that timed out may have been carried out after all; then the key is there and the sweep queues.
    assert waker.wake() is True


def test_the_job_looks_for_work_without_redis(app: Flask, alice: Tenant) -> None:
    alice.alert()
    run_job(app)
    assert alice.incidents()[0]["classification"] == "done"


def run_job(app: Flask) -> None:
    with app.app_context(), asyncio.Runner() as runner:
        app.extensions[jobs.RUNNER] = runner
        app.extensions[jobs.CLASSIFIER] = workers.classifier(app.extensions[KEY].settings)
        app.extensions[jobs.COURIER] = Courier(app.extensions[KEY].redis)
        jobs.classify_pending()


# ---------------------------------------------------------------- no lost wake-up


@ONE_DATABASE
def test_an_alert_stored_between_the_job_s_start_and_its_look_is_not_lost(
    app: Flask, alice: Tenant, waker: Waker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the key is deleted, the look comes, and the alert is committed right after it."""
    monkeypatch.setattr(app.extensions[KEY].door.waker, "wake", waker.wake)
    monkeypatch.setattr(app.extensions[KEY].waker, "woken", waker.woken)
    seen = Classifier.run

    async def run(self: Classifier) -> bool:
        more = await seen(self)
        alice.alert(hostname="late")
        return more

    monkeypatch.setattr(Classifier, "run", run)
    alice.alert()
    until(lambda: len(queued(redis)) == 1, "the alert has queued a job")
    run_job(app)
    assert [one["classification"] for one in alice.incidents()] == ["pending", "done"]
    until(lambda: len(queued(redis)) == 2, "the late one has queued a job of its own")


@ONE_DATABASE
def test_a_job_whose_time_is_over_queues_the_next_one(
    app: Flask, alice: Tenant, waker: Waker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.extensions[KEY].waker, "wake", waker.wake)
    monkeypatch.setattr("openremedy.classification.RUN_SECONDS", 0)
    alice.alert()
    until(lambda: queued(redis), "the alert has queued a job")
    redis.flushall()
    run_job(app)
    assert len(queued(redis)) == 1


@ONE_DATABASE
@pytest.mark.parametrize(("places", "jobs_queued"), [(2, 1), (3, 0)])
def test_of_more_than_one_worker_can_hold_another_is_told(
    app: Flask,
    alice: Tenant,
    waker: Waker,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    places: int,
    jobs_queued: int,
) -> None:
    monkeypatch.setattr(app.extensions[KEY].waker, "wake", waker.wake)
    monkeypatch.setattr("openremedy.classification.PLACES", places)
    for host in "abc":
        alice.alert(hostname=host)
    until(lambda: queued(redis), "the first alert has queued a job")
    time.sleep(0.3)  # the others are told as well
    redis.flushall()
    run_job(app)
    assert len(queued(redis)) == jobs_queued
    assert {one["classification"] for one in alice.incidents()} == {"done"}


# ---------------------------------------------------------------- jobs that somebody else has put there


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """With the Redis of the test where it has one."""
    if "redis_url" not in request.fixturenames:
        return settings
    return dataclasses.replace(settings, redis_url=request.getfixturevalue("redis_url"))


@ONE_DATABASE
def test_a_worker_calls_no_function_that_somebody_else_has_named(
    settings: Settings, redis: Redis, alice: Tenant, tmp_path: Path
) -> None:
    ours, pickled = job_queue(redis), Queue(QUEUE, connection=redis, serializer=PickleSerializer)
    mark = tmp_path / "mark"
    mark.mkdir()
    call = {"args": (str(mark),)}
    forged = [
        ours.enqueue("os.rmdir", **call),
        ours.enqueue("shutil.rmtree", **call),
        pickled.enqueue("os.rmdir", **call),
        # A module of ours is not one of our jobs, and neither is what hangs on one.
        ours.enqueue("openremedy.jobs.services", **call),
        ours.enqueue(f"{JOB}.__globals__", **call),
    ]
    done = flask(settings, "worker", "--burst")
    assert done.returncode == 0, done.stderr[-2000:]
    assert mark.exists()
    assert set(FailedJobRegistry(queue=ours).get_job_ids()) == {job.id for job in forged}

    alice.alert()
    assert flask(settings, "worker", "--burst").returncode == 0
    assert alice.incidents()[0]["classification"] == "done", "what is ours is done all the same"


@ONE_DATABASE
def test_a_worker_calls_nobody_and_posts_nowhere_after_a_job(settings: Settings, redis: Redis, alice: Tenant) -> None:
    """Whatever the job in Redis says about it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        posts = [{"url": f"http://127.0.0.1:{listener.getsockname()[1]}/", "job_status": "finished", "timeout": 1}]
        job = job_queue(redis).enqueue(JOB, result_ttl=60)
        after = dict.fromkeys(("success_callback_name", "failure_callback_name"), "os.rmdir")
        redis.hset(job.key, mapping=after | {"webhooks": json.dumps(posts)})
        assert flask(settings, "worker", "--burst").returncode == 0
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert job.get_status(refresh=True) is JobStatus.FINISHED, "a callback would have failed it"


# ---------------------------------------------------------------- the worker's own settings


def test_a_worker_may_use_a_unix_socket() -> None:
    """The embedded Redis has no other address; an option that sockets do not know would end every worker."""
    with (
        worker_client("unix:///nowhere/redis.sock?db=0") as client,
        pytest.raises(ConnectionError, match="No such file"),
    ):
        client.ping()


def test_a_job_has_time_for_its_work_and_one_whole_model_call() -> None:
    assert JOB_MARGIN >= RUN_SECONDS + LEASE_MARGIN


def test_after_the_worst_fault_a_verdict_takes_less_than_three_minutes() -> None:
    """Killed in the middle of a call: the lease runs out, a sweep finds it, a worker comes back, the call is made."""
    deadline = Settings.llm_timeout
    assert (deadline + LEASE_MARGIN) + SWEEP_SECONDS + workers.LONGEST_WAIT + deadline < 180
    assert workers.WORKER_TTL + SWEEP_SECONDS + deadline < 180


LATE = """
import time
from openremedy.workers import Watchdog
with Watchdog(1):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
IN_TIME = """
import time
from openremedy.workers import Watchdog
with Watchdog(1):
    pass
time.sleep(1.5)
"""


@pytest.mark.parametrize(("program", "code"), [(LATE, 1), (IN_TIME, 0)], ids=["late", "in time"])
def test_no_code_can_swallow_the_end_of_a_job_s_time(program: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert ("Timeout" in done.stderr) == bool(code), "it says where it hung"


def test_a_worker_that_starts_before_redis_waits_for_it(redis_server: RedisServer) -> None:
    with web_client(redis_server.url) as client:
        redis_server.kill()
        waiting = threading.Thread(target=workers.wait_for, args=(client,), daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        redis_server.start()
        until(lambda: not waiting.is_alive(), "the worker goes on")


def test_nothing_waits_is_told_without_a_lock(app: Flask) -> None:
    with app.app_context():
        assert claims.waiting(db.engine) is False
