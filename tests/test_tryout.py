"""Try it: what a change of a recipe would do to the last incidents, asked of a worker and stored nowhere."""

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from sqlalchemy import func, select, text

from cast import Tenant
from config import Settings
from conftest import make_settings
from openremedy import cookbook, errands, tryout, tryout_queue
from openremedy.classifier.shapes import ANSWER_THRESHOLD
from openremedy.errands import State
from openremedy.errors import Unavailable
from openremedy.extensions import db
from openremedy.models import Base
from openremedy.queue import WAKE_KEY, interactive_queue, job_queue
from openremedy.recipes import RecipeSpec, parse
from openremedy.services import KEY, Services
from openremedy.tryout_queue import read_tryout, start_tryout
from services import RedisServer, until
from test_classification import LOG_DISK, classify
from test_cli import flask

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = parse("- {slug: own, title: Zzyzx quux, when: The zzyzx quux has failed, risk: low, steps: Look.}")[0]
UNHEARD_OF = {"hostname": "web-01", "incident_type": "custom", "evidence": {"check": "zzyzx quux"}}
NAMED = "log-partition-full"


def spec_of(tenant: Tenant, slug: str) -> RecipeSpec:
    tenant_id = tenant.id
    with tenant.app.app_context():
        return cookbook.spec_of(cookbook.find(db.session(), tenant_id, slug))


def try_out(tenant: Tenant, slug: str, spec: RecipeSpec | None) -> dict[str, Any]:
    tenant_id = tenant.id
    with tenant.app.app_context():
        return tryout.try_out(db.engine, tenant_id, slug, spec)


def totals(**counts: int) -> dict[str, int]:
    return dict.fromkeys(("same", "changed", "gained", "lost", "agrees", "disagrees"), 0) | counts


# ---------------------------------------------------------------- what it finds


def test_a_new_recipe_gains_the_incidents_that_it_fits(alice: Tenant) -> None:
    incident = alice.alert(UNHEARD_OF)["incident_id"]
    alice.alert(LOG_DISK)
    found = try_out(alice, "own", OWN)
    assert found["totals"] == totals(same=1, gained=1)
    other, gained = found["incidents"]
    assert (other["before"]["recipe"], other["after"], other["outcome"]) == (NAMED, other["before"], "same")
    assert gained["incident_id"] == incident
    assert (gained["hostname"], gained["incident_type"], gained["title"]) == ("web-01", "custom", "zzyzx quux")
    assert (gained["before"]["recipe"], gained["outcome"]) == (None, "gained")
    assert (gained["after"]["recipe"], gained["after"]["tier"]) == ("own", "lexical")
    assert (gained["answered"], gained["agrees"]) == (None, None)


def test_it_says_which_tiers_it_knows_and_which_it_leaves_out(alice: Tenant) -> None:
    found = try_out(alice, "own", OWN)
    assert (found["tiers"], found["left_out"]) == (("rule", "lexical"), ("reuse", "model"))
    assert (found["threshold"], found["complete"], found["incidents"]) == (ANSWER_THRESHOLD, True, [])


def test_a_rule_that_is_added_takes_an_incident_over(alice: Tenant) -> None:
    alice.alert()
    changed = replace(spec_of(alice, "inodes-exhausted"), match={"mount": "/var"})
    (found,) = try_out(alice, "inodes-exhausted", changed)["incidents"]
    assert (found["before"]["recipe"], found["before"]["tier"]) == ("disk-full", "lexical")
    assert found["after"] == {"recipe": "inodes-exhausted", "tier": "rule", "confidence": 1.0}
    assert found["outcome"] == "changed"


@pytest.mark.parametrize("how", ["deleted", "disabled"])
def test_a_recipe_that_goes_loses_its_incidents(alice: Tenant, how: str) -> None:
    alice.import_recipes([OWN])
    alice.alert(UNHEARD_OF)
    found = try_out(alice, "own", None if how == "deleted" else replace(OWN, enabled=False))
    assert found["totals"] == totals(lost=1)


def test_it_is_what_the_classifier_would_say(alice: Tenant) -> None:
    for number, evidence in enumerate(({"mount": "/var/log"}, {"mount": "/srv"}, {"mount": "/var/lib/docker"})):
        alice.alert(hostname=f"web-{number}", evidence=evidence)
    alice.alert(UNHEARD_OF)
    before = [one["before"] for one in try_out(alice, "own", OWN)["incidents"]]
    after = [one["after"] for one in try_out(alice, "own", OWN)["incidents"]]
    classify(alice.app)
    assert said(alice) == before
    alice.import_recipes([OWN])
    for one in alice.incidents():
        alice.post(f"/incidents/{one['id']}/reclassify")
    classify(alice.app)
    # A verdict that names what the one before it named is not written anew, so its confidence may be the older one.
    assert [one["recipe"] for one in said(alice)] == [one["recipe"] for one in after]
    assert after != before


def said(tenant: Tenant) -> list[dict[str, Any]]:
    """The verdicts in force, as a try-out tells them."""
    verdicts = [one["verdict"] for one in tenant.incidents()]
    return [{"recipe": v["recipe"], "tier": v["tier"], "confidence": round(v["confidence"], 4)} for v in verdicts]


def test_a_tenant_s_own_threshold_counts(alice: Tenant) -> None:
    alice.alert(UNHEARD_OF)
    with alice.app.app_context():
        db.session.execute(text("UPDATE tenants SET answer_threshold = 1"))
        db.session.commit()
    found = try_out(alice, "own", OWN)
    assert (found["threshold"], found["totals"]) == (1.0, totals(same=1))


def test_a_change_is_held_against_what_people_have_said(alice: Tenant) -> None:
    wanted, other, kept = [alice.alert(UNHEARD_OF, dedup_key=key)["incident_id"] for key in ("wanted", "other", "kept")]
    alice.import_recipes([OWN])
    answers = {wanted: {"answer": "none"}, other: {"answer": "correct", "recipe": "own"}}
    for incident, body in answers.items():
        alice.post(f"/incidents/{incident}/feedback", body)
    found = try_out(alice, "own", None)
    assert found["totals"] == totals(lost=3, agrees=1, disagrees=1)
    told = {one["incident_id"]: (one["answered"], one["agrees"]) for one in found["incidents"]}
    assert told == {
        wanted: ({"answer": "none", "recipe": None}, True),
        other: ({"answer": "correct", "recipe": "own"}, False),
        kept: (None, None),
    }
    assert try_out(alice, "own", OWN)["totals"] == totals(same=3), "what stays as it is agrees with nobody"


def test_the_last_answer_is_what_a_person_said(alice: Tenant) -> None:
    alice.import_recipes([OWN])
    incident = alice.alert(UNHEARD_OF)["incident_id"]
    alice.post(f"/incidents/{incident}/feedback", {"answer": "none"})
    alice.post(f"/incidents/{incident}/feedback", {"answer": "correct", "recipe": "own"})
    (found,) = try_out(alice, "own", None)["incidents"]
    assert found["answered"] == {"answer": "correct", "recipe": "own"}


def test_it_looks_at_the_last_incidents_of_this_tenant_alone(
    alice: Tenant, charlie: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryout, "INCIDENTS", 2)
    hers = [alice.alert(hostname=f"web-{number}")["incident_id"] for number in range(3)]
    charlie.alert()
    found = try_out(alice, "own", OWN)
    assert [one["incident_id"] for one in found["incidents"]] == [hers[2], hers[1]]


def test_when_its_time_is_over_it_tells_what_it_has(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    alice.alert()
    monkeypatch.setattr(tryout, "SECONDS", -1)
    found = try_out(alice, "own", OWN)
    assert (found["complete"], found["incidents"]) == (False, [])


def rows(app: Flask) -> dict[str, int]:
    with app.app_context():
        return {
            name: db.session.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in Base.metadata.tables.items()
        }


def test_nothing_is_stored(app: Flask, alice: Tenant) -> None:
    alice.alert(UNHEARD_OF)
    before = rows(app), alice.incidents(), alice.get("/recipes")
    try_out(alice, "own", OWN)
    try_out(alice, "disk-full", None)
    assert (rows(app), alice.incidents(), alice.get("/recipes")) == before


# ---------------------------------------------------------------- asked of a worker


@pytest.fixture
def settings(tmp_path: Any, database_url: str, redis_url: str) -> Settings:
    return make_settings(tmp_path, database_url, redis_url=redis_url)


@pytest.fixture
def room(app: Flask) -> Services:
    found: Services = app.extensions[KEY]
    return found


def work(settings: Settings) -> None:
    """A real worker until its queues are empty."""
    done = flask(settings, "worker", "--burst")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_worker_tries_it_and_the_asker_reads_what_it_found(settings: Settings, room: Services, alice: Tenant) -> None:
    alice.alert(UNHEARD_OF)
    job = start_tryout(room, alice.id, "own", OWN)
    gone = start_tryout(room, alice.id, "disk-full", None)
    pending = read_tryout(room, alice.id, job)
    assert pending is not None
    assert pending.state is State.PENDING
    work(settings)
    expected = json.loads(json.dumps(try_out(alice, "own", OWN)))
    for _ in range(2):  # reading it does not use it up
        found = read_tryout(room, alice.id, job)
        assert found is not None
        assert (found.state, found.result) == (State.DONE, expected)
    assert expected["totals"] == totals(gained=1)
    without = read_tryout(room, alice.id, gone)
    assert without is not None
    assert without.result is not None
    assert alice.incidents()[0]["classification"] == "needs_human", "the same worker does the other queue's work"
    assert 0 < room.redis.ttl(f"rq:job:{job}") <= errands.KEPT


@ONE_DATABASE
def test_a_worker_looks_at_what_somebody_waits_for_first(settings: Settings, room: Services, alice: Tenant) -> None:
    """Each of the two takes the other's place afterwards, so neither holds the other up."""
    alice.alert(UNHEARD_OF)
    (main,) = until(lambda: job_queue(room.redis).job_ids, "the alert has queued a job")
    asked = [start_tryout(room, alice.id, "own", OWN) for _ in range(2)]
    done = flask(settings, "worker", "--burst")
    assert done.returncode == 0, done.stderr[-2000:]
    started = {job: fetch(room.redis, job).started_at for job in asked}
    first, second = (started[job] for job in asked)
    assert first is not None
    assert second is not None
    classified = datetime.fromisoformat(alice.incidents()[0]["verdict"]["created_at"])
    assert first <= classified <= second
    assert main not in asked


@ONE_DATABASE
def test_another_tenant_s_try_out_is_not_found(room: Services, alice: Tenant, charlie: Tenant) -> None:
    job = start_tryout(room, alice.id, "own", OWN)
    assert read_tryout(room, charlie.id, job) is None


@ONE_DATABASE
@pytest.mark.parametrize("job_id", ["", "0" * 32, "../x", "a:b", "0" * 33, "é" * 32])
def test_an_id_that_nobody_was_given_is_not_found(room: Services, alice: Tenant, job_id: str) -> None:
    assert read_tryout(room, alice.id, job_id) is None


@ONE_DATABASE
def test_a_job_of_the_other_queue_is_no_try_out(room: Services, alice: Tenant) -> None:
    alice.alert()
    (job,) = until(lambda: job_queue(room.redis).job_ids, "the alert has queued a job")
    assert read_tryout(room, alice.id, job) is None


@ONE_DATABASE
def test_a_job_holds_this_recipe_and_nothing_else(room: Services, alice: Tenant) -> None:
    alice.alert(evidence={"mount": "/secret"})
    job = fetch(room.redis, start_tryout(room, alice.id, "own", OWN))
    stored = room.redis.hget(job.key, "data")
    assert isinstance(stored, bytes)
    arguments = [alice.id, "own", cookbook.as_json(OWN)]
    assert json.loads(zlib.decompress(stored)) == [tryout_queue.SORT.job, None, arguments, {}]
    assert job.timeout == errands.JOB_TIMEOUT > tryout.SECONDS


def fetch(redis: Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=redis, serializer=JSONSerializer)


@ONE_DATABASE
def test_asking_leaves_the_wake_up_of_the_classifier_alone(room: Services, alice: Tenant) -> None:
    start_tryout(room, alice.id, "own", OWN)
    assert not room.redis.exists(WAKE_KEY)
    assert job_queue(room.redis).count == 0
    assert room.waker.wake()
    assert job_queue(room.redis).count == 1


@ONE_DATABASE
def test_a_try_out_that_breaks_says_so_without_its_traceback(settings: Settings, room: Services, alice: Tenant) -> None:
    job = start_tryout(room, 10**9, "own", OWN)  # a tenant that is gone by the time it runs
    work(settings)
    found = read_tryout(room, 10**9, job)
    assert found is not None
    assert (found.state, found.reason, found.result) == (State.FAILED, tryout_queue.SORT.broke, None)


@ONE_DATABASE
def test_nobody_waits_for_ever_for_a_worker_that_is_not_there(room: Services, alice: Tenant) -> None:
    job = fetch(room.redis, start_tryout(room, alice.id, "own", OWN))
    assert job.enqueued_at is not None
    job.enqueued_at -= errands.PATIENCE + timedelta(seconds=1)
    for status in (JobStatus.QUEUED, JobStatus.STARTED):
        job.set_status(status)
        job.save()
        found = read_tryout(room, alice.id, job.id)
        assert found is not None
        assert (found.state, found.reason) == (State.FAILED, tryout_queue.SORT.nobody)


@ONE_DATABASE
def test_a_flood_of_try_outs_is_refused(room: Services, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "MAX_WAITING", 1)
    start_tryout(room, alice.id, "own", OWN)
    with pytest.raises(Unavailable, match="Too many"):
        start_tryout(room, alice.id, "own", OWN)
    assert interactive_queue(room.redis).count == 1


@ONE_DATABASE
def test_without_redis_the_asker_is_told_in_a_sentence(
    room: Services, alice: Tenant, redis_server: RedisServer
) -> None:
    with redis_server.paused():
        for ask in (
            lambda: start_tryout(room, 1, "own", OWN),
            lambda: read_tryout(room, 1, "0" * 32),
        ):
            with pytest.raises(Unavailable, match="the queue, which cannot be reached"):
                ask()


IMPORTS = """
import sys
import wsgi
from openremedy import tryout_queue, cookbook, scorecard, recipe_form, markdown
heavy = {"openai", "openremedy.classifier.lexical", "openremedy.classification", "openremedy.jobs"}
print(sorted(heavy & set(sys.modules)))
"""


@ONE_DATABASE
def test_a_web_process_imports_neither_the_matcher_nor_the_model_s_client(settings: Settings) -> None:
    from test_cli import ROOT, environment

    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
