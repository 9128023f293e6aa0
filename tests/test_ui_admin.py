"""What superadmins do: tenants, users, health, the queue; nobody else sees that these pages exist."""

import dataclasses
import re
from typing import Any

import pytest
from flask import Flask
from rq import Queue
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from sqlalchemy import select

from browser_client import PASSWORD, Person
from cast import Tenant
from config import Settings
from openremedy import audit, backlog, doctor, people, tenants
from openremedy.audit import Filters
from openremedy.errors import NotFound
from openremedy.extensions import db
from openremedy.models import Recipe, Role
from openremedy.queue import interactive_queue, job_queue, web_client
from services import RedisServer

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SECRET = re.compile(r"orwh_[\w-]{40,}")
LINK = re.compile(r"http://127\.0\.0\.1:8000(/link/[\w-]+)")
PAGES = ("tenants", "users", "health", "queue", "audit", "audit.csv")
POSTS = (
    *("tenants", "tenants/alice/disable", "tenants/alice/enable", "users/invite", "users/invitations/1/revoke"),
    *("users/1/link", "users/1/disable", "users/1/enable", "users/1/superadmin"),
    *("queue/requeue", "queue/delete", "queue/sweep"),
)


@pytest.fixture
def root(app: Flask) -> Person:
    return Person(app, "root@example.com")


def lines(app: Flask, action: str) -> list[Any]:
    with app.app_context():
        return [dict(one) for one in audit.every(db.engine, None, Filters(action=action))]


def id_of(app: Flask, email: str) -> int:
    with app.app_context():
        user = people.find_user(db.session(), email)
        assert user
        return user.id


@ON_ONE
def test_for_everybody_else_these_pages_do_not_exist(app: Flask, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    for page in PAGES:
        assert ann.get(f"/admin/{page}").status_code == 404
    for path in POSTS:
        assert ann.post(f"/admin/{path}", superadmin="yes", slug="x").status_code == 404
    assert "/admin/" not in ann.get().text
    anonymous = app.test_client()
    assert {anonymous.get(f"/admin/{page}").status_code for page in PAGES} == {302}


@ON_ONE
def test_every_page_of_superadmins_is_among_those_that_are_tested(app: Flask) -> None:
    rules = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    pages = {rule.removeprefix("/admin/") for rule, method in rules if rule.startswith("/admin/") and method == "GET"}
    assert pages == set(PAGES)
    posts = {rule.removeprefix("/admin/") for rule, method in rules if rule.startswith("/admin/") and method == "POST"}
    known = {re.sub(r"/(alice|1)/", "/ID/", path) for path in POSTS}
    assert {re.sub(r"<[^>]+>", "ID", rule) for rule in posts} == known


# ---------------------------------------------------------------- tenants


def test_a_tenant_is_made_with_its_recipes_and_its_secret_shown_once(app: Flask, root: Person) -> None:
    fields = {"form_id": root.form_id("/admin/tenants"), "slug": "acme", "name": "Acme Corp", "starter": "yes"}
    answer = root.post("/admin/tenants", **fields)
    assert answer.status_code == 200
    (secret,) = SECRET.findall(answer.text)
    body = b'{"hostname": "h", "incident_type": "custom"}'
    assert Tenant(app, "acme", secret, "").send(body).status_code == 202
    page = root.get("/admin/tenants").text
    assert "Acme Corp" in page
    assert secret not in page
    with app.app_context():
        assert len(db.session.scalars(select(Recipe.id)).all()) > 10
    again = root.post("/admin/tenants", **fields)
    assert again.status_code == 409
    assert not SECRET.findall(again.text)


def test_a_tenant_is_made_without_recipes_where_nobody_wants_them(app: Flask, root: Person) -> None:
    assert root.post("/admin/tenants", form_id=root.form_id("/admin/tenants"), slug="bare").status_code == 200
    with app.app_context():
        assert db.session.scalars(select(Recipe.id)).all() == []


def test_a_slug_that_is_taken_makes_nothing(app: Flask, root: Person, alice: Tenant) -> None:
    for starter in ({}, {"starter": "yes"}):
        answer = root.post(
            "/admin/tenants", form_id=root.form_id("/admin/tenants"), slug="alice", name="Other", **starter
        )
        assert answer.status_code == 409
        assert not SECRET.findall(answer.text)
    assert len(lines(app, "tenant.created")) == 1


@ON_ONE
@pytest.mark.parametrize("slug", ["", "Acme", "-acme", "a b", "<b>", "x" * 64, "a\0b"])
def test_a_slug_that_is_none_is_said_at_its_field(root: Person, slug: str) -> None:
    answer = root.post("/admin/tenants", form_id=root.form_id("/admin/tenants"), slug=slug, name="Kept")
    assert answer.status_code == 422
    assert 'id="e-slug"' in answer.text
    assert 'value="Kept"' in answer.text


def test_the_list_counts_what_each_tenant_has(app: Flask, root: Person, alice: Tenant, charlie: Tenant) -> None:
    for host in ("a", "b", "c"):
        alice.alert(hostname=host)
    alice.alert(hostname="c", status="resolved")
    alice.source("grafana")
    Person(app, "ann@example.com", "alice", signed_in=False)
    with app.app_context():
        found = {
            one.tenant.slug: (one.open_incidents, one.sources, one.members) for one in tenants.all_tenants(db.session())
        }
    assert found == {"alice": (2, 1, 1), "charlie": (0, 0, 0)}
    assert 'data-label="Open incidents">2<' in root.get("/admin/tenants").text


def test_a_disabled_tenant_is_refused_at_the_door_and_to_its_members(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    assert root.post("/admin/tenants/alice/disable").status_code == 303
    assert root.post("/admin/tenants/alice/disable").status_code == 303
    assert alice.send(b'{"hostname": "h", "incident_type": "custom"}').status_code == 401
    assert ann.get().status_code == 401
    assert ann.post("members/invite").status_code == 401
    assert root.get("/t/alice/").status_code == 200
    assert root.post("/admin/tenants/alice/enable").status_code == 303
    assert ann.get().status_code == 200
    assert [len(lines(app, f"tenant.{verb}")) for verb in ("disabled", "enabled")] == [1, 1]
    assert root.post("/admin/tenants/nobody/disable").status_code == 404
    assert root.post("/admin/tenants/%00/disable").status_code == 404


# ---------------------------------------------------------------- users


def test_a_superadmin_is_invited(app: Flask, root: Person) -> None:
    fields = {"form_id": root.form_id("/admin/users"), "email": "second@example.com"}
    (path,) = LINK.findall(root.post("/admin/users/invite", **fields).text)
    assert root.post("/admin/users/invite", **fields).status_code == 409
    assert path not in root.get("/admin/users").text
    second = app.test_client()
    token = second.get(path).text.split('name="csrf_token" value="')[1].split('"')[0]
    assert second.post(path, data={"csrf_token": token, "email": "", "password": PASSWORD}).status_code == 303
    assert second.get("/admin/users").status_code == 200


@ON_ONE
def test_the_invitation_of_a_superadmin_is_taken_back(app: Flask, root: Person) -> None:
    answer = root.post("/admin/users/invite", form_id=root.form_id("/admin/users"), email="second@example.com")
    (path,) = LINK.findall(answer.text)
    (revoke,) = re.findall(r"/admin/users/invitations/\d+/revoke", root.get("/admin/users").text)
    assert root.post(revoke).status_code == 303
    assert app.test_client().get(path).status_code == 404


def test_a_link_for_a_new_password_is_shown_once(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    path = f"/admin/users/{id_of(app, ann.email)}/link"
    fields = {"form_id": root.form_id("/admin/users")}
    first, again = root.post(path, **fields), root.post(path, **fields)
    assert (first.status_code, again.status_code) == (200, 409)
    (link,) = LINK.findall(first.text)
    assert link not in again.text + root.get("/admin/users").text + repr(lines(app, "link."))
    assert app.test_client().get(link).status_code == 200


def test_a_disabled_user_is_out_and_comes_back(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    path = f"/admin/users/{id_of(app, ann.email)}"
    assert root.post(f"{path}/disable").status_code == 303
    assert ann.get().status_code == 401
    assert ann.sign_in().status_code == 401
    assert root.post(f"{path}/enable").status_code == 303
    assert ann.sign_in().status_code == 303


def test_the_last_superadmin_stays(app: Flask, root: Person) -> None:
    path = f"/admin/users/{id_of(app, root.email)}"
    for answer in (root.post(f"{path}/disable"), root.post(f"{path}/superadmin", superadmin="no")):
        assert answer.status_code == 409
        assert "last superadmin" in answer.text
    assert root.get("/admin/users").status_code == 200


def test_the_rights_of_a_superadmin_are_given_and_taken(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice", Role.VIEWER)
    path = f"/admin/users/{id_of(app, ann.email)}/superadmin"
    assert root.post(path, superadmin="yes").status_code == 303
    assert ann.get("/admin/tenants").status_code == 200
    assert root.post(path, superadmin="no").status_code == 303
    assert ann.get("/admin/tenants").status_code == 404
    assert [line["detail"]["after"] for line in lines(app, "user.superadmin")] == [False, True]


@ON_ONE
def test_an_older_invitation_gives_no_rights_back_that_were_taken(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    answer = root.post("/admin/users/invite", form_id=root.form_id("/admin/users"), email=ann.email)
    (path,) = LINK.findall(answer.text)
    for wanted in ("yes", "no"):
        assert root.post(f"/admin/users/{id_of(app, ann.email)}/superadmin", superadmin=wanted).status_code == 303
    assert app.test_client().get(path).status_code == 404


@ON_ONE
def test_a_password_link_ends_with_the_user_and_with_another_password(app: Flask, root: Person, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    path = f"/admin/users/{id_of(app, ann.email)}"

    def made() -> str:
        answer = root.post(f"{path}/link", form_id=root.form_id("/admin/users"))
        (link,) = LINK.findall(answer.text)
        assert app.test_client().get(link).status_code == 200
        return str(link)

    before = made()
    assert ann.post("/account/password", current=PASSWORD, password="quite another one").status_code == 303
    assert app.test_client().get(before).status_code == 404
    before = made()
    for change in ("disable", "enable"):
        assert root.post(f"{path}/{change}").status_code == 303
        assert app.test_client().get(before).status_code == 404


@ON_ONE
def test_users_are_found_by_a_part_of_their_address(app: Flask, root: Person, alice: Tenant) -> None:
    Person(app, "ann_b@example.com", "alice", signed_in=False)
    Person(app, "annxb@example.com", "alice", signed_in=False)
    page = root.get("/admin/users", q="N_B").text
    assert "ann_b@example.com" in page
    assert "annxb@example.com" not in page
    assert "alice" in page
    for nonsense in ("\0", "x" * 9999, "%"):
        assert root.get("/admin/users", q=nonsense).status_code == 200
    for user_id in ("0", "x", "9" * 30):
        assert root.post(f"/admin/users/{user_id}/disable").status_code == 404


# ---------------------------------------------------------------- the audit log of everything


def test_superadmins_see_the_lines_of_every_tenant_and_of_none(app: Flask, root: Person, alice: Tenant) -> None:
    root.post("/t/alice/settings", name="Renamed")
    page = root.get("/admin/audit").text
    assert "user.signed_in" in page
    assert ">installation</td>" in page
    assert ">alice</td>" in page
    assert '<span class="badge plain">superadmin</span>' in page
    assert ">installation</td>" not in root.get("/admin/audit", tenant="alice").text
    assert "tenant.changed,alice" in root.get("/admin/audit.csv", tenant="alice").text


# ---------------------------------------------------------------- health


@ON_ONE
def test_health_says_what_is_wrong_and_what_to_do(root: Person) -> None:
    answer = root.get("/admin/health")
    assert answer.status_code == 200
    assert "1 check failed." in answer.text
    assert "does REDIS_URL name it?" in answer.text
    for name in ("alertmanager", "datadog", "grafana", "pagerduty", "uptimekuma", "zabbix"):
        assert f">{name}<" in answer.text


@ON_ONE
def test_the_settings_of_the_health_page_hold_no_secret(make_app: Any, settings: Settings) -> None:
    hidden = {
        "openai_api_key": "sk-hidden-1",
        "metrics_token": "hidden-2-token",
        "openai_base_url": "http://127.0.0.1:9/hidden-3",
        "redis_url": "redis://:hidden-4@127.0.0.1:1/0",
    }
    app = make_app(dataclasses.replace(settings, **hidden))
    page = Person(app, "root@example.com").get("/admin/health").text
    table = page.split("<h2>Settings</h2>")[1]
    assert "127.0.0.1" in table
    assert "hidden" not in table
    assert settings.secret_key not in page
    assert settings.encryption_keys[0] not in page
    assert "hidden-1" not in page
    assert "hidden-4" not in page


@ON_ONE
def test_every_setting_is_shown_or_left_out_on_purpose(settings: Settings) -> None:
    shown = {name.removeprefix("OPENREMEDY_").lower() for name, _ in doctor.configuration(settings)}
    of_others = {"otel_exporter_otlp_endpoint": "traces_endpoint"}
    shown = {of_others.get(name, name) for name in shown}
    left_out = {"secret_key", "encryption_keys", "data_dir", "redis_socket", "embedded_database", "port"}
    assert {field.name for field in dataclasses.fields(Settings)} - left_out == shown


# ---------------------------------------------------------------- the queue


@pytest.fixture
def queued(make_app: Any, settings: Settings, redis_url: str) -> Person:
    """A superadmin of an installation with a Redis."""
    app = make_app(dataclasses.replace(settings, redis_url=redis_url))
    return Person(app, "root@example.com")


def fail_a_job(url: str, queue: Queue | None = None) -> str:
    """A job of which rq has written that it failed."""
    connection = web_client(url)
    queue = queue or job_queue(connection)
    job = queue.enqueue("openremedy.jobs.there_is_no_such_job", failure_ttl=3600)
    worker = SimpleWorker([queue], connection=connection, serializer=JSONSerializer)
    worker.work(burst=True, logging_level="CRITICAL")
    assert job.id in FailedJobRegistry(queue=queue)
    return str(job.id)


@ON_ONE
def test_the_queue_shows_what_waits_who_works_and_what_failed(queued: Person, redis_url: str) -> None:
    assert "No job has failed" in queued.get("/admin/queue").text
    job_id = fail_a_job(redis_url)
    connection = web_client(redis_url)
    job_queue(connection).enqueue("openremedy.jobs.classify_pending")
    worker = SimpleWorker([job_queue(connection)], name="worker-1", connection=connection, serializer=JSONSerializer)
    worker.register_birth()
    found = backlog.look(connection)
    assert (found.waiting, found.failed_count, [one.name for one in found.workers]) == (1, 1, ["worker-1"])
    assert found.workers[0].heartbeat_at
    assert found.workers[0].heartbeat_at.tzinfo
    page = queued.get("/admin/queue").text
    assert job_id in page
    assert "there_is_no_such_job" in page
    assert "AttributeError" in page or "Invalid attribute name" in page
    assert "worker-1" in page
    worker.register_death()


@ON_ONE
def test_a_failed_job_is_queued_again_or_deleted(queued: Person, redis_url: str) -> None:
    first, second = fail_a_job(redis_url), fail_a_job(redis_url)
    queue = job_queue(web_client(redis_url))
    assert queued.post("/admin/queue/requeue", job_id=first).status_code == 303
    assert queue.get_job_ids() == [first]
    assert queued.post("/admin/queue/requeue", job_id=first).status_code == 404
    assert queued.post("/admin/queue/delete", job_id=second).status_code == 303
    assert queued.post("/admin/queue/delete", job_id=second).status_code == 404
    assert queue.fetch_job(second) is None
    assert [line["target"] for line in lines(queued.app, "job.")] == [second, first]


@ON_ONE
def test_all_failed_jobs_at_once(queued: Person, redis_url: str) -> None:
    connection = web_client(redis_url)
    queue, other = job_queue(connection), interactive_queue(connection)
    ids = {fail_a_job(redis_url) for _ in range(2)}
    of_the_other = fail_a_job(redis_url, other)
    assert of_the_other in queued.get("/admin/queue").text
    assert queued.post("/admin/queue/requeue").status_code == 303
    assert (set(queue.get_job_ids()), other.get_job_ids()) == (ids, [of_the_other])
    queue.empty()
    fail_a_job(redis_url)
    assert queued.post("/admin/queue/delete").status_code == 303
    assert len(FailedJobRegistry(queue=queue)) == 0
    assert [line["detail"]["count"] for line in lines(queued.app, "job.")] == [1, 3]


@ON_ONE
def test_a_job_that_somebody_else_wrote_does_not_break_the_page(queued: Person, redis_url: str) -> None:
    job_id = fail_a_job(redis_url)
    web_client(redis_url).hset(f"rq:job:{job_id}", "data", b"\x80\x04no json")
    assert "not written by us" in queued.get("/admin/queue").text


@ON_ONE
def test_looking_changes_nothing_in_redis(queued: Person, redis_url: str) -> None:
    fail_a_job(redis_url)
    connection = web_client(redis_url)
    for registry in (FailedJobRegistry, StartedJobRegistry):  # what rq would tidy up
        connection.zadd(registry(queue=job_queue(connection)).key, {"long-gone:1": 1})

    def everything() -> dict[bytes, Any]:
        return {key: connection.dump(key) for key in connection.scan_iter()}

    before = everything()
    queued.get("/admin/queue")
    assert everything() == before


@ON_ONE
def test_without_redis_the_page_says_so_and_nothing_is_lost(app: Flask, root: Person) -> None:
    answer = root.get("/admin/queue")
    assert answer.status_code == 200
    assert "Redis does not answer." in answer.text
    for path in ("requeue", "delete"):
        refused = root.post(f"/admin/queue/{path}")
        assert refused.status_code == 503
        assert "nothing was changed" in refused.text
    assert lines(app, "job.") == []
    assert root.post("/admin/queue/sweep").status_code == 303


@ON_ONE
def test_a_hung_redis_costs_the_page_one_wait(
    queued: Person, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    look = backlog.look

    def counted(connection: Any) -> Any:
        send = connection.execute_command

        def execute(*words: Any, **options: Any) -> Any:
            waits.append(words[0])
            return send(*words, **options)

        monkeypatch.setattr(connection, "execute_command", execute)
        return look(connection)

    monkeypatch.setattr(backlog, "look", counted)
    with redis_server.paused():
        answer = queued.get("/admin/queue")
    assert answer.status_code == 200
    assert "Redis does not answer." in answer.text
    assert len(waits) == 1


def test_a_sweep_is_started_by_hand(app: Flask, root: Person, alice: Tenant) -> None:
    alice.alert()
    answer = root.post("/admin/queue/sweep")
    assert answer.status_code == 303
    assert "Swept: 0 requeued" in root.get("/admin/queue").text
    (line,) = lines(app, "queue.swept")
    assert set(line["detail"]) == {"requeued", "given_up", "stale", "redone", "indexed"}


def test_a_job_that_is_gone_is_not_found(redis_url: str) -> None:
    connection = web_client(redis_url)
    for change in (backlog.requeue, backlog.delete_failed):
        with pytest.raises(NotFound):
            backlog.each_failed(connection, "gone", change)
