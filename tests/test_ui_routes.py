"""Every route of the web UI, walked as everybody: what is whose, who may what, and what no request may do.

The table is tests/ui_routes.py; a route without an entry there fails here.
"""

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.test import TestResponse
from werkzeug.wrappers import Request

import leaks
from answers import refused
from browser_client import PASSWORD, Person
from cast import DISK_FULL, sign
from config import Settings
from conftest import driver, make_settings
from openremedy import people
from openremedy.app import create_app
from openremedy.extensions import db
from openremedy.models import AuditLine, LinkPurpose, Membership, Role, SignIn, Tenant, User, now
from openremedy.services import KEY, services
from openremedy.ui import POLICY
from openremedy.ui.access import ACCESS, Access
from services import PostgresServer, RedisServer
from test_tenancy import LISTS, MAKING, OPEN, WITH_AN_ID
from ui_routes import (
    ADMIN,
    ANYONE,
    EVERYBODY,
    NOBODY,
    OUTSIDER,
    PUBLIC,
    RESPONDER,
    ROUTES,
    SIGNED_IN,
    SUPERADMIN,
    VIEWER,
    WHO,
    Form,
    Page,
    mark,
)
from ui_world import World, address, expected, fill_in, may, url_of

PAGES = sorted(name for name, route in ROUTES.items() if isinstance(route, Page))
FORMS = sorted(name for name, route in ROUTES.items() if isinstance(route, Form))
OF_A_TENANT = sorted(WHO[VIEWER] | WHO[RESPONDER] | WHO[ADMIN])
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORM = "application/x-www-form-urlencoded"
OVERRIDDEN = dict.fromkeys(("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"), "POST")

every_route = pytest.mark.parametrize("endpoint", sorted(ROUTES))
every_page = pytest.mark.parametrize("endpoint", PAGES)
every_form = pytest.mark.parametrize("endpoint", FORMS)
every_tenant_route = pytest.mark.parametrize("endpoint", OF_A_TENANT)


# What a person has to have typed wrongly for a page to show its secret again.
MISTYPED = {"ui.take_link": {"password": "short"}}


# ---------------------------------------------------------------- the ground


def _world(stack: ExitStack, folder: Path, url: str, redis_url: str) -> World:
    app = create_app(make_settings(folder, url, redis_url=redis_url))
    app.testing = False
    stack.callback(_close, app)
    return World(app, folder)


def _close(app: Flask) -> None:
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()


@pytest.fixture(scope="module")
def kept_world(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, redis_server: RedisServer
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(sqlite_template, folder / "openremedy.db")
    with ExitStack() as stack:
        yield _world(stack, folder, f"sqlite:///{folder / 'openremedy.db'}", redis_server.url)


@pytest.fixture
def world(kept_world: World) -> World:
    """Alice's tenant and Charlie's with their people, as new."""
    kept_world.rewind()
    return kept_world


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_any_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[World]:
    """The same on each database; what one test leaves is there for the next."""
    folder = tmp_path_factory.mktemp("any")
    with ExitStack() as stack:
        if request.param == "sqlite":
            shutil.copy(request.getfixturevalue("sqlite_template"), folder / "openremedy.db")
            yield _world(stack, folder, f"sqlite:///{folder / 'openremedy.db'}", redis_server.url)
            return
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = f"world_{uuid.uuid4().hex}"
        url = server.create_database(name, template=request.getfixturevalue("postgres_template"))
        stack.callback(server.drop_database, name)
        yield _world(stack, folder, driver(url), redis_server.url)


@pytest.fixture
def any_world(kept_any_world: World) -> World:
    """With an empty queue and no passwords counted."""
    kept_any_world.drain()
    return kept_any_world


def who_may(endpoint: str) -> str:
    """Somebody who may use the route and has no more rights than it needs."""
    return next(name for name in (NOBODY, VIEWER, RESPONDER, ADMIN, SUPERADMIN) if may(name, endpoint))


def without_id(answer: TestResponse) -> str:
    """A page without what differs from request to request."""
    return answer.text.replace(answer.headers["X-Request-ID"], "")


# ---------------------------------------------------------------- the table is complete


def test_every_route_of_the_ui_has_its_entry(world: World) -> None:
    rules = [rule for rule in world.app.url_map.iter_rules() if rule.endpoint.startswith("ui.")]
    assert {rule.endpoint for rule in rules} - {"ui.static"} == ROUTES.keys() == ACCESS.keys(), (
        "say in tests/ui_routes.py what the new route needs and answers"
    )
    for rule in rules:
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        wanted = {"POST"} if isinstance(ROUTES.get(rule.endpoint), Form) else {"GET"}
        assert methods == wanted, f"{rule.endpoint}: a function reads or changes, not both"


def test_every_route_says_that_it_is_for_whom_the_table_says(world: World) -> None:
    said = {
        ANYONE: Access("anyone"),
        SIGNED_IN: Access("signed_in"),
        VIEWER: Access("tenant", Role.VIEWER),
        RESPONDER: Access("tenant", Role.RESPONDER),
        ADMIN: Access("tenant", Role.ADMIN),
        SUPERADMIN: Access("superadmin"),
    }
    assert sum(map(len, WHO.values())) == len(ROUTES), "each route once"
    assert {name: said[least] for least, names in WHO.items() for name in names} == ACCESS


def test_what_is_not_of_the_ui_is_in_the_table_of_the_api(world: World) -> None:
    rules = [rule for rule in world.app.url_map.iter_rules() if not rule.endpoint.startswith(("ui.", "native_"))]
    named = {url for _, url in WITH_AN_ID | LISTS | MAKING}
    assert {rule.rule for rule in rules} == named | {url for _, url in OPEN}


# ---------------------------------------------------------------- E: across tenants, and who may what


@every_route
def test_each_person_gets_exactly_what_they_may_and_who_may_not_changes_nothing(world: World, endpoint: str) -> None:
    for name in EVERYBODY:
        if not may(name, endpoint):
            for answer in asked_as(name, world, endpoint):
                assert name != NOBODY or answer.location.startswith("/sign-in")
    assert _without_strays(world.rows()) == world.as_new
    for name in EVERYBODY:
        if may(name, endpoint):
            asked_as(name, world, endpoint)
            if endpoint in FORMS:
                world.rewind()


def asked_as(name: str, world: World, endpoint: str) -> list[TestResponse]:
    """The answers that somebody gets, with the status of the table and what every answer has."""
    answers = world.ask(name, endpoint)
    for answer in answers:
        assert answer.status_code == expected(name, endpoint), (name, answer.text[-1500:])
        check_headers(answer)
        if endpoint in PAGES:
            assert answer.headers["Cache-Control"] == "no-store", f"no cache keeps a page, not that of {name}"
            assert "Cookie" in answer.headers["Vary"], name
    return answers


@every_route
def test_a_method_that_a_route_does_not_have_is_refused_and_changes_nothing(world: World, endpoint: str) -> None:
    for rule in world.rules(endpoint):
        url = url_of(rule, world.cast.things[ADMIN])
        for method in METHODS:
            if not leads_somewhere(world.app, method, url):
                for name in (NOBODY, SUPERADMIN):
                    assert world.open(name, method, url).status_code == 405, (method, name)
    assert world.rows() == world.as_new


def leads_somewhere(app: Flask, method: str, url: str) -> bool:
    """Whether any route takes this method there; `/incidents/act` looks like an incident's page to a GET."""
    try:
        app.url_map.bind("localhost").match(urlsplit(url).path, method=method)
    except MethodNotAllowed:
        return False
    return True


def _without_strays(rows: dict[str, Any]) -> dict[str, Any]:
    return rows | {"audit_log": [row for row in rows["audit_log"] if "nothing.found" not in row]}


@every_tenant_route
def test_what_is_alices_is_for_charlie_what_does_not_exist(world: World, endpoint: str) -> None:
    hers, his = world.cast.things[ADMIN], world.cast.things[OUTSIDER]
    nothing = dict.fromkeys(hers, "987654321") | {"incident_id": str(uuid.uuid4()), "delivery_id": str(uuid.uuid4())}
    # At her address, and her things at his address.
    for mine, unreal in ((hers, nothing), (hers | _place(his), nothing | _place(his))):
        for rule in world.rules(endpoint):
            if mine["tenant_slug"] == his["tenant_slug"] and rule.arguments == {"tenant_slug"}:
                continue
            method, route = ("GET" if endpoint in PAGES else "POST"), ROUTES[endpoint]
            real = world.open(OUTSIDER, method, url_of(rule, mine), world.fields(route, mine))
            other = world.open(OUTSIDER, method, url_of(rule, unreal), world.fields(route, mine))
            assert real.status_code == other.status_code == 404, real.text[-1500:]
            assert without_id(real) == without_id(other)
            assert mark(ADMIN) not in real.text
    after = world.rows()
    assert _without_strays(after) == world.as_new
    strays = [row for row in after["audit_log"] if "nothing.found" in row]
    assert strays
    assert all(address(OUTSIDER) in row for row in strays)


def _place(things: dict[str, str]) -> dict[str, str]:
    return {"tenant_slug": things["tenant_slug"]}


@every_tenant_route
def test_ids_of_alices_in_charlies_forms_and_queries_change_and_show_nothing_of_hers(
    world: World, endpoint: str
) -> None:
    hers, his = world.cast.things[ADMIN], world.cast.things[OUTSIDER]
    before = world.rows_of(ADMIN)
    with world.app.app_context():
        tenant_id = str(db.session.scalar(select(Tenant.id).where(Tenant.slug == ADMIN)))
    planted = {name: value for name, value in hers.items() if name != "password"}
    planted |= {"tenant_id": tenant_id, "tenant": ADMIN, "id": hers["incident_id"], "recipe": hers["slug"]}
    route, method = ROUTES[endpoint], "GET" if endpoint in PAGES else "POST"
    asked = {name: fill_in(text, hers) for name, text in route.at.items()}
    for rule in world.rules(endpoint):
        url = url_of(rule, his, query=False)
        for fields, query in (
            (planted | world.fields(route, hers), {}),
            (world.fields(route, his) | planted, planted),
            (world.fields(route, his), planted | asked),
        ):
            sent = "&".join(f"{name}={quote(value)}" for name, value in query.items())
            answer = world.open(OUTSIDER, method, f"{url}?{sent}", fields if method == "POST" else None)
            assert answer.status_code < 500
            assert mark(ADMIN) not in answer.text
            assert f"host-only-of-{ADMIN}" not in answer.text
    assert world.rows_of(ADMIN) == before


def test_no_page_of_charlies_shows_a_mark_of_alices(world: World) -> None:
    his = world.cast.things[OUTSIDER]
    for endpoint in PAGES:
        if endpoint in WHO[SIGNED_IN] or endpoint in OF_A_TENANT:
            for answer in world.ask(OUTSIDER, endpoint, his):
                assert answer.status_code == ROUTES[endpoint].status_of.get(OUTSIDER, ROUTES[endpoint].status)
                assert mark(ADMIN) not in answer.text


@pytest.mark.parametrize("where", sorted(name for name in leaks.SHOWS if " ui." in name))
def test_what_may_show_a_secret_shows_each_kind_that_it_may(world: World, where: str) -> None:
    method, endpoint = where.split()
    things = world.cast.things[ADMIN]
    leaks.watch.shown.clear()
    for rule in world.rules(endpoint):
        fields = world.fields(ROUTES[endpoint], things) | MISTYPED.get(endpoint, {})
        world.open(who_may(endpoint), method, url_of(rule, things), fields)
    assert {kind for there, kind in leaks.watch.shown if there == where} == leaks.SHOWS[where]


@pytest.mark.parametrize("how", ["disabled", "removed", "signed_out"])
def test_who_is_removed_is_out_with_the_next_request(world: World, how: str) -> None:
    with world.app.app_context():
        bob = people.find_user(db.session(), address(RESPONDER))
        assert bob
        if how == "disabled":
            db.session.execute(update(User).where(User.id == bob.id).values(disabled_at=now()))
            db.session.commit()
        elif how == "removed":
            tenant_id = db.session.scalars(select(Membership.tenant_id).where(Membership.user_id == bob.id)).one()
            people.remove_member(db.session(), tenant_id, str(bob.id), people.Actor("test"))
        else:
            people.end_sign_ins(db.session(), bob.id)
            db.session.commit()
    before = world.rows()
    for endpoint in sorted(ROUTES):
        if endpoint not in WHO[ANYONE]:
            for answer in world.ask(RESPONDER, endpoint):
                assert answer.status_code == 401, endpoint
                assert 'action="/sign-in"' in answer.text
    assert world.rows() == before


def test_a_disabled_tenant_lets_nobody_in_with_the_next_request(world: World) -> None:
    with world.app.app_context():
        db.session.execute(update(Tenant).where(Tenant.slug == ADMIN).values(disabled_at=now()))
        db.session.commit()
    before = world.rows()
    for endpoint in OF_A_TENANT:
        for name in (VIEWER, RESPONDER, ADMIN):
            for answer in world.ask(name, endpoint):
                assert answer.status_code == 401, endpoint
                assert mark(ADMIN) not in answer.text
        for answer in world.ask(OUTSIDER, endpoint):
            assert answer.status_code == 404, endpoint
    assert _without_strays(world.rows()) == before


def test_a_part_of_a_page_tells_a_browser_whose_sign_in_has_ended_to_go_and_sign_in(world: World) -> None:
    for endpoint in PAGES:
        if endpoint not in WHO[ANYONE]:
            for answer in world.ask(NOBODY, endpoint, headers={"HX-Request": "true"}):
                assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/sign-in")


# ---------------------------------------------------------------- A29, F17: which credential opens what


def test_a_session_opens_neither_the_api_nor_a_webhook(world: World) -> None:
    before = world.rows()
    for rule in world.app.url_map.iter_rules():
        public = rule.rule in {url for method, url in OPEN if method == "GET"}
        if rule.endpoint.startswith("ui.") or public:
            continue
        url = re.sub(r"<[^>]+>", ADMIN, rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            answer = world.open(SUPERADMIN, method, url, {"hostname": "web-01"})
            assert answer.status_code == 401, (method, url)
            assert answer.get_json()["error"]["code"] == "unauthorized"
    rows = world.rows()
    assert rows["incidents"] == before["incidents"]
    assert rows["recipes"] == before["recipes"]


@every_route
def test_neither_an_api_token_nor_a_signature_opens_the_ui(world: World, endpoint: str) -> None:
    if endpoint in WHO[ANYONE]:
        return
    alice = world.cast.tenants[ADMIN]
    for headers in (
        alice.auth,
        {"X-OpenRemedy-Signature": sign(alice.secret, b"")},
        {"X-OpenRemedy-Token": alice.token},
    ):
        for answer in world.ask(NOBODY, endpoint, headers=headers):
            assert answer.status_code == 302
            assert answer.location.startswith("/sign-in")
    assert world.rows() == world.as_new


def test_without_a_credential_exactly_the_public_routes_answer(world: World) -> None:
    opened = set()
    for rule in world.app.url_map.iter_rules():
        if "GET" not in (rule.methods or set()):
            continue
        route = ROUTES.get(rule.endpoint)
        url = url_of(rule, world.cast.things[ADMIN]) if route or rule.endpoint == "ui.static" else rule.rule
        if world.open(NOBODY, "GET", url).status_code < 300:
            opened.add(rule.endpoint)
    open_to_all = {rule.endpoint for rule in world.app.url_map.iter_rules() if ("GET", rule.rule) in OPEN}
    assert opened == PUBLIC | open_to_all - {"metrics.metrics"}  # whose networks these visitors are not in


# ---------------------------------------------------------------- F04: what changes something


@every_form
def test_a_form_without_the_token_of_this_browser_changes_nothing(world: World, endpoint: str) -> None:
    name = who_may(endpoint)
    tokens = {
        "none": "",
        "wrong": world.visitors[name].token[:-2] + "xx",
        "of another browser": Person.known(world.app, address(ADMIN)).token("/sign-in"),
        "of another person": world.visitors[OUTSIDER].token,
    }
    for which, token in tokens.items():
        for answer in world.ask(name, endpoint, token=token):
            assert answer.status_code == 400, which
            assert "<h1>" in answer.text
    assert world.rows() == world.as_new


@every_form
def test_nothing_but_a_form_is_taken_for_one(world: World, endpoint: str) -> None:
    """Another site can have a browser send a query, and with some luck JSON or text."""
    name = who_may(endpoint)
    visitor, things = world.visitors[name], world.cast.things[ADMIN]
    for rule in world.rules(endpoint):
        url = url_of(rule, things)
        told = world.fields(ROUTES[endpoint], things) | {"csrf_token": visitor.token}
        client = world.app.test_client(use_cookies=False)
        headers = {"Cookie": visitor.cookie, "Accept": "text/html", "Origin": "https://evil.example"}
        for answer in (
            client.post(url, query_string=told, headers=headers),
            client.post(url, json=told, headers=headers),
            client.post(url, data=urlencode(told), content_type="text/plain", headers=headers),
            client.post(url, data=f"csrf_token=x&{urlencode(told)}", content_type=FORM, headers=headers),
            client.get(url, query_string=told | {"_method": "POST"}, headers=headers | OVERRIDDEN),
        ):
            assert answer.status_code in (200, 302, 400, 404, 405), answer.status_code
    assert _without_strays(world.rows()) == world.as_new


def test_of_a_form_that_a_stranger_sends_little_is_read(world: World) -> None:
    """To read megabytes of percent code takes a processor seconds, and nobody has to be known to send them."""
    client = world.app.test_client()
    for endpoint in sorted(WHO[ANYONE] & set(FORMS)):
        for rule in world.rules(endpoint):
            url = url_of(rule, world.cast.things[ADMIN])
            for kind in (FORM, "multipart/form-data; boundary=x"):
                answer = client.post(url, data=b"%" * 40_000, content_type=kind, headers={"Accept": "text/html"})
                assert answer.status_code == 413, (endpoint, kind)
                check_error_page(answer)
    assert attempt(world, address(ADMIN), "\U0001f98a" * 1000, "192.0.2.1").status_code == 401, (
        "the longest password fits"
    )


@every_form
def test_a_form_with_the_right_token_changes_something(world: World, endpoint: str) -> None:
    name = ADMIN if endpoint in ("ui.sign_out", "ui.sign_out_others") else who_may(endpoint)
    world.ask(name, endpoint)
    if not ROUTES[endpoint].changes_nothing:
        assert world.rows() != world.as_new


def test_reading_changes_nothing(world: World) -> None:
    before = world.rows()
    for endpoint in PAGES:
        for name in (who_may(endpoint), SUPERADMIN):
            world.ask(name, endpoint)
    for rule in world.app.url_map.iter_rules():
        if "GET" in (rule.methods or set()) and not rule.endpoint.startswith("ui."):
            things = world.cast.things[ADMIN]
            url = re.sub(r"<([^>]+)>", lambda found: things[found[1]], rule.rule)  # noqa: B023 - used at once
            assert world.open(ADMIN, "GET", url, headers=world.cast.tenants[ADMIN].auth).status_code < 500
    assert world.rows() == before


# ---------------------------------------------------------------- F05, F06, F08, F10: sessions


def cookie_of(client: FlaskClient) -> str:
    found = client.get_cookie(client.application.config["SESSION_COOKIE_NAME"])
    return found.value if found else ""


def test_signing_in_replaces_the_session_and_signing_out_ends_it(world: World) -> None:
    person = Person.known(world.app, address(ADMIN))
    token = person.token("/sign-in")
    planted = cookie_of(person.client)
    assert person.sign_in().status_code == 303
    live = cookie_of(person.client)
    assert live != planted
    assert person.token() != token
    assert person.get("/account").status_code == 200

    attacker = world.app.test_client()
    attacker.set_cookie("openremedy", planted)
    assert attacker.get("/account").status_code == 302, "the session from before was not lifted"
    data = {"csrf_token": token}
    assert person.client.post("/account/sign-out-others", data=data).status_code == 400, "nor does its token work"

    assert person.post("/sign-out").status_code == 303
    attacker.set_cookie("openremedy", live)
    assert attacker.get("/account").status_code == 401, "a copy of the cookie died with the sign-in"


def test_a_changed_or_forged_cookie_is_nobody(world: World) -> None:
    cookie = world.visitors[SUPERADMIN].cookie
    name, _, value = cookie.partition("=")
    forgeries = (value[:-3] + "aaa", value + "x", "", "{}", "eyJzaWduX2luIjoiMSJ9.aaaa.bbbb", "x" * 3000)
    for forged in forgeries:
        assert status_with(world, f"{name}={forged}") == 302


def test_the_cookie_of_another_installation_is_nobody(world: World) -> None:
    name, _, value = world.visitors[SUPERADMIN].cookie.partition("=")

    def serializer(secret_key: str) -> Any:
        app = Flask("elsewhere", static_folder=None)
        app.secret_key = secret_key
        return SecureCookieSessionInterface().get_signing_serializer(app)

    ours, theirs = serializer(world.app.config["SECRET_KEY"]), serializer(uuid.uuid4().hex * 2)
    held = ours.loads(value)
    assert status_with(world, f"{name}={ours.dumps(held)}") == 200
    assert status_with(world, f"{name}={theirs.dumps(held)}") == 302


def status_with(world: World, cookies: str) -> int:
    """What the page of one's own account answers to these cookies."""
    client = world.app.test_client(use_cookies=False)
    return client.get("/account", headers={"Cookie": cookies}).status_code


@pytest.fixture
def app_with(
    make_app: Callable[[Settings], Flask], tmp_path: Path, sqlite_template: Path, redis_server: RedisServer
) -> Callable[..., Flask]:
    """An application of its own, with other settings; on the same Redis, for all share one limiter."""

    def make(**changes: Any) -> Flask:
        url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'openremedy.db')}"
        return make_app(make_settings(tmp_path, url, redis_url=redis_server.url, **changes))

    return make


def test_the_cookie_over_https_is_bound_to_this_host_and_out_of_reach_of_scripts(
    app_with: Callable[..., Flask],
) -> None:
    client = app_with(public_url="https://remedy.example").test_client()
    answer = client.get("/sign-in", base_url="https://remedy.example")
    (morsel,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
    assert morsel.key == "__Host-openremedy"
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "Lax")
    assert (morsel["path"], morsel["domain"]) == ("/", "")


def test_the_cookie_over_http_is_out_of_reach_of_scripts_too(world: World) -> None:
    (morsel,) = SimpleCookie(world.app.test_client().get("/sign-in").headers["Set-Cookie"]).values()
    assert (morsel.key, morsel["secure"], morsel["httponly"], morsel["samesite"]) == ("openremedy", "", True, "Lax")


def attempt(world: World, email: str, password: str, where: str, **fields: str) -> TestResponse:
    """A try to sign in from an address."""
    person = Person.known(world.app, email)
    data = {"csrf_token": person.token("/sign-in"), "email": email, "password": password} | fields
    return person.client.post("/sign-in", data=data, environ_overrides={"REMOTE_ADDR": where})


def test_passwords_are_tried_ten_times_from_one_address_and_the_owner_is_not_locked_out(world: World) -> None:
    tried = [attempt(world, address(ADMIN), "wrong", "192.0.2.1").status_code for _ in range(11)]
    assert tried == [401] * 10 + [429]
    assert attempt(world, address(ADMIN), PASSWORD, "192.0.2.1").status_code == 429, "the right one neither, there"
    assert attempt(world, address(ADMIN), PASSWORD, "127.0.0.1").status_code == 303, "where she has signed in before"
    assert attempt(world, address(ADMIN), PASSWORD, "198.51.100.7").status_code == 303, "and elsewhere"


def test_an_account_is_counted_however_its_address_is_written(world: World) -> None:
    spellings = (
        "alice@example.com",
        "ALICE@EXAMPLE.COM",
        "Alice@example.com ",
        "\u00a0alice@example.com",
        "aLICE@example.com",
    )
    tried = [attempt(world, spelling, "wrong", "192.0.2.1").status_code for spelling in spellings * 2]
    assert tried == [401] * 10
    assert {attempt(world, spelling, PASSWORD, "192.0.2.1").status_code for spelling in spellings} == {429}


def test_nobody_uses_up_the_passwords_of_another_address_by_a_longer_account(world: World) -> None:
    hers, theirs = (address(ADMIN), "192.0.2.1"), (f"{address(ADMIN)}1", "92.0.2.1")
    assert "".join(hers) == "".join(theirs)
    assert [attempt(world, theirs[0], "wrong", theirs[1]).status_code for _ in range(11)] == [401] * 10 + [429]
    assert attempt(world, hers[0], PASSWORD, hers[1]).status_code == 303


def test_many_addresses_together_do_not_lock_the_owner_out(world: World) -> None:
    tried = [attempt(world, address(ADMIN), "wrong", f"192.0.2.{n}").status_code for n in range(1, 102)]
    assert tried == [401] * 100 + [429]
    assert attempt(world, address(ADMIN), PASSWORD, "127.0.0.1").status_code == 303


def test_guesses_through_a_link_count_for_whom_the_link_is(world: World) -> None:
    with world.app.app_context():
        token = people.make_link(db.session(), LinkPurpose.INVITE, people.Actor("test"), address(OUTSIDER))
    client = world.app.test_client()
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(f"/link/{token}").text)
    assert found
    data = {"csrf_token": found[1], "password": "wrong"}
    tried = [client.post(f"/link/{token}", data=data | {"email": f"{n}@example.com"}).status_code for n in range(11)]
    assert tried == [401] * 10 + [429]


def test_an_unknown_person_gets_the_same_answer_for_the_same_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    class Counting(PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:
            checked.append(hash.rsplit("$", 2)[0])
            return super().verify(hash, password)

    monkeypatch.setattr(people, "_hasher", Counting(time_cost=1, memory_cost=8, parallelism=1))
    known = attempt(world, address(ADMIN), "wrong", "192.0.2.1")
    unknown = attempt(world, "nobody@example.com", "wrong", "192.0.2.1")
    assert known.status_code == unknown.status_code == 401
    assert _without_form(known.text, address(ADMIN)) == _without_form(unknown.text, "nobody@example.com")
    assert len(checked) == 2, "one password hash each"
    assert checked[0] == checked[1], "of the same parameters"


def _without_form(text: str, email: str) -> str:
    return re.sub(r'name="csrf_token" value="[^"]+"', "", text).replace(email, "")


@pytest.mark.parametrize(
    "where",
    [
        *("//evil.example", "////evil.example", "/\\evil.example", "\\\\evil.example", "https:evil.example"),
        *("https://evil.example", "http:///evil.example", "javascript:alert(1)", "data:text/html,x", "evil.example"),
        *("\t//evil.example", "/\t/evil.example", "/\n/evil.example", " //evil.example", "/\r\nSet-Cookie: a=b", ""),
        *("/%5cevil.example\\", "//evil.example/%2f..", "/\u2215evil.example", "/\x00/evil", "@evil.example"),
    ],
)
def test_signing_in_leads_to_no_other_place(world: World, where: str) -> None:
    answer = attempt(world, address(ADMIN), PASSWORD, "127.0.0.1", next=where)
    assert (answer.status_code, answer.location) == (303, "/")
    signed_in = world.open(ADMIN, "GET", f"/sign-in?next={quote(where)}")
    assert (signed_in.status_code, signed_in.location) == (302, "/")
    page = unescape(world.open(NOBODY, "GET", f"/sign-in?next={quote(where)}").text)
    assert 'name="next"' not in page


@pytest.mark.parametrize("where", ["%2f%2fevil.example", "%2F%5Cevil.example", "%09//evil.example", "%00"])
def test_a_next_in_percent_code_leads_to_no_other_place_either(world: World, where: str) -> None:
    for twice in (where, where.replace("%", "%25")):
        assert world.open(ADMIN, "GET", f"/sign-in?next={twice}").location == "/"


@pytest.mark.parametrize("where", ["/account", "/t/alice/?q=a%20b&page=2", "/t/alice/#x"])
def test_signing_in_leads_back_to_a_path_of_ours(world: World, where: str) -> None:
    assert attempt(world, address(ADMIN), PASSWORD, "127.0.0.1", next=where).location == where


def test_who_must_sign_in_first_comes_back_to_where_they_were(world: World) -> None:
    answer = world.open(NOBODY, "GET", "/t/alice/?q=x")
    assert parse_qs(urlsplit(answer.location).query) == {"next": ["/t/alice/?q=x"]}


# ---------------------------------------------------------------- F11, F12, F15, F16: headers and errors


def check_headers(answer: TestResponse) -> None:
    headers = answer.headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Request-ID"]


def test_the_policy_allows_no_inline_script_and_no_frame() -> None:
    parts = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert parts["script-src"] == parts["style-src"] == parts["connect-src"] == "'self'"
    for part in ("default-src", "frame-ancestors", "base-uri", "object-src"):
        assert parts[part] == "'none'"
    assert "unsafe" not in POLICY


@every_page
def test_no_page_holds_inline_script_style_or_another_host(world: World, endpoint: str) -> None:
    for answer in world.ask(who_may(endpoint), endpoint):
        if not answer.mimetype.startswith("text/html"):
            continue
        assert not re.search(r"<script(?![^>]*\ssrc=)", answer.text)
        assert not re.search(r"<[^>]+\s(on\w+|style|hx-on[^=]*)\s*=", answer.text)
        assert not re.search(r'<(script|link|img|iframe|form)[^>]+(src|href|action)="(?!/[^/])(?!")', answer.text)
        assert "<style" not in answer.text


@every_page
def test_a_page_takes_no_address_from_the_host_header(world: World, endpoint: str) -> None:
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    for name in (who_may(endpoint), NOBODY):
        for answer in world.ask(name, endpoint, headers=evil):
            assert "evil.example" not in answer.text
            assert "evil.example" not in (answer.location or "")


@every_form
def test_what_a_form_answers_takes_no_address_from_the_host_header(world: World, endpoint: str) -> None:
    """Above all the links that are shown once: invitations and new passwords."""
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "/evil.example"}
    for answer in world.ask(who_may(endpoint), endpoint, headers=evil):
        assert answer.status_code == expected(who_may(endpoint), endpoint)
        assert "evil.example" not in answer.text
        assert "evil.example" not in (answer.location or "")
    if endpoint in ("ui.invite_member", "ui.admin_invite", "ui.admin_reset_link"):
        assert f"{world.app.extensions[KEY].settings.public_url}/link/" in answer.text


@pytest.mark.parametrize("host", ["..", ".a", "a..b", "x" * 64, "x" * 3000])
def test_a_host_that_can_be_none_is_refused_and_no_error(world: World, host: str) -> None:
    for path in ("/sign-in", "/", "/t/alice/", "/static/app.css", "/healthz", "/api/v1/incidents", "/nowhere"):
        answer = world.open(NOBODY, "GET", path, headers={"Host": host})
        refused(answer, 400, "validation_error")


def test_a_host_that_is_not_trusted_finds_nothing(app_with: Callable[..., Flask]) -> None:
    client = app_with(trusted_hosts=("remedy.example",)).test_client()
    assert client.get("/sign-in", headers={"Host": "remedy.example"}).status_code == 200
    for path in ("/sign-in", "/", "/t/alice/", "/account"):
        answer = client.get(path, headers={"Host": "evil.example", "Accept": "text/html"})
        assert answer.status_code == 404
        assert "evil.example" not in answer.text


def test_errors_are_pages_that_tell_the_request_and_nothing_of_the_inside(world: World) -> None:
    for method, path, status in (
        *(("GET", "/no/such/page", 404), ("GET", "/t/alice/nowhere", 404), ("GET", "/t/no-such-tenant/", 404)),
        *(("GET", "/sign-out", 405), ("DELETE", "/account", 405)),
        *(("POST", "/sign-out", 400), ("GET", "/link/no-such-token", 404)),
    ):
        answer = world.open(ADMIN, method, path, token="")
        assert answer.status_code == status, path
        check_error_page(answer)


def check_error_page(answer: TestResponse) -> None:
    check_headers(answer)
    assert answer.mimetype == "text/html"
    assert answer.headers["X-Request-ID"] in answer.text
    assert not re.search(r"Traceback|File \"|sqlalchemy|werkzeug|flask|SELECT |/openremedy/", answer.text, re.I)


def test_a_fault_of_ours_is_a_page_that_tells_the_request_and_nothing_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside: SELECT * FROM users")

    monkeypatch.setattr(people, "sign_ins", broken)
    answer = world.open(ADMIN, "GET", "/account")
    assert answer.status_code == 500
    check_error_page(answer)
    assert "secret of the inside" not in answer.text


@pytest.mark.parametrize("path", ["%2e%2e/app.py", "..%2f..%2fwsgi.py", "..%2f" * 12 + "etc/passwd", "%00"])
def test_only_files_of_the_static_folder_are_served(world: World, path: str) -> None:
    answer = world.open(NOBODY, "GET", f"/static/{path}")
    assert answer.status_code == 404
    assert answer.get_json()["error"]["code"] == "not_found"
    assert answer.headers["Cache-Control"] == "no-store", "it was not even looked at"


def test_a_program_that_loses_its_way_gets_json(world: World) -> None:
    for path in ("/no/such/page", "/api/v1/nothing"):
        answer = world.app.test_client().get(path)
        assert answer.get_json()["error"]["code"] == "not_found"
    assert world.app.test_client().get("/api/nothing", headers={"Accept": "text/html"}).is_json


# ---------------------------------------------------------------- nonsense

NONSENSE = [
    *("%00", "--1", "%ED%A0%80", "%FF%FE", "-1", "", "1" + "0" * 30, "9223372036854775808", "1e400", "a" * 5000),
    *("2026-99-99T99:99:99Z", "%27%22%3E%3Cb%3E", "%C2%B2", "..%2F..", "%7B%7B7*7%7D%7D", "[]", "%F0%9F%A6%8A" * 300),
]
# The rest of it is refused by code of ours, which does not know on what database it runs.
NONSENSE_TO_SQLITE = ["%00", "%ED%A0%80", "1" + "0" * 30, "9223372036854775808", "1e400"]
MORE_NONSENSE = ["=", "&&&", "%", "%zz", "=%00", "a[]=1&a[b]=2", ";".join(["a=1"] * 200), "x=" + "%00" * 1000]
leaks.watch.public.update(map(unquote, NONSENSE))


def nonsense(world: World) -> list[str]:
    """All of it on PostgreSQL, which is the stricter; on SQLite what its driver takes in its own way."""
    return NONSENSE_TO_SQLITE if world.on_sqlite else NONSENSE


class Asked(ImmutableMultiDict[str, str]):
    """Remembers which names of a query or a form a page looks at."""

    names: ClassVar[set[str]] = set()

    def get(self, key: str, *args: Any, **how: Any) -> Any:
        self.names.add(key)
        return super().get(key, *args, **how)

    def getlist(self, key: str, *args: Any, **how: Any) -> Any:
        self.names.add(key)
        return super().getlist(key, *args, **how)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names that pages looked at since."""
    monkeypatch.setattr(Request, "parameter_storage_class", Asked)
    Asked.names = set()
    return Asked.names


def names_of(world: World, endpoint: str, asked: set[str]) -> list[str]:
    """The names of the query or form that a route looks at, and those of its entry."""
    asked.clear()
    world.ask(who_may(endpoint), endpoint)
    route = ROUTES[endpoint]
    return sorted((asked | {*route.at, *(route.fields if isinstance(route, Form) else ())}) - {"csrf_token"})


@every_page
def test_no_query_breaks_a_page(any_world: World, endpoint: str, asked: set[str]) -> None:
    world, name = any_world, who_may(endpoint)
    names = names_of(world, endpoint, asked)
    queries = [f"{one}={value}" for one in names for value in nonsense(world)]
    queries += [f"{one}=1&{one}=2&{one}=%00" for one in names] + MORE_NONSENSE
    queries += ["&".join(f"{one}={value}" for one in names) for value in nonsense(world)]
    for rule in world.rules(endpoint):
        url = url_of(rule, world.cast.things[ADMIN], query=False)
        for query in queries:
            answer = world.open(name, "GET", f"{url}?{query}")
            assert answer.status_code < 500, query[:300]


@every_route
def test_no_value_in_a_url_breaks_a_route(any_world: World, endpoint: str) -> None:
    world, name = any_world, who_may(endpoint)
    things, route = world.cast.things[ADMIN], ROUTES[endpoint]
    method = "GET" if isinstance(route, Page) else "POST"
    for rule in world.rules(endpoint):
        for part in rule.arguments:
            for value in filter(None, nonsense(world)):
                parts = {one: quote(things.get(one, one), safe="") for one in rule.arguments} | {part: value}
                path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", lambda found: parts[found[1]], rule.rule)  # noqa: B023
                answer = world.open(name, method, path, world.fields(route, things))
                assert 400 <= answer.status_code < 500, (path[:300], answer.status_code)


@every_form
def test_no_field_breaks_a_form(any_world: World, endpoint: str, asked: set[str]) -> None:
    world, name = any_world, who_may(endpoint)
    things, route = world.cast.things[ADMIN], ROUTES[endpoint]
    names = names_of(world, endpoint, asked)
    for rule in world.rules(endpoint):
        url = url_of(rule, things)
        for one in names:
            for value in nonsense(world):
                fields = {key: quote(text) for key, text in world.fields(route, things).items()} | {one: value}
                answer = send_raw(world, name, url, fields)
                # A try-out is a job; no worker is here, so the queue of them is full before long.
                full = endpoint == "ui.try_recipe" and answer.status_code == 503
                assert answer.status_code < 500 or full, (one, value[:100])
        assert world.open(name, "POST", url).status_code < 500, "a form without any field"


def send_raw(world: World, name: str, url: str, fields: dict[str, str]) -> TestResponse:
    """Post fields that are in percent code already."""
    visitor = world.visitors[name]
    body = "&".join(f"{key}={value}" for key, value in (fields | {"csrf_token": quote(visitor.token)}).items())
    return world.app.test_client(use_cookies=False).post(
        url,
        data=body,
        content_type="application/x-www-form-urlencoded",
        headers={"Accept": "text/html", "Cookie": visitor.cookie},
        environ_overrides={"REMOTE_ADDR": next(world.addresses)},
    )


def test_no_kind_of_body_breaks_a_form(any_world: World) -> None:
    for endpoint in FORMS:
        name = who_may(endpoint)
        for rule in any_world.rules(endpoint):
            url = url_of(rule, any_world.cast.things[ADMIN])
            for kind in (
                "application/json",
                "multipart/form-data; boundary=x",
                "multipart/form-data",
                "text/plain",
                "\xff",
            ):
                answer = any_world.app.test_client(use_cookies=False).post(
                    url,
                    data=b'--x\r\nContent-Disposition: form-data; name="\xff\x00"\r\n\r\n\xff--x--{"a": NaN}',
                    headers={"Content-Type": kind, "Cookie": any_world.visitors[name].cookie, "Accept": "text/html"},
                )
                assert answer.status_code in (400, 413, 415), (endpoint, kind)


def test_a_deleted_sign_in_row_is_enough_to_be_out(world: World) -> None:
    with world.app.app_context():
        for row in db.session.scalars(select(SignIn)):
            db.session.delete(row)
        db.session.commit()
    assert world.open(ADMIN, "GET", "/account").status_code == 401


def test_a_stray_is_written_with_who_and_where(world: World) -> None:
    world.open(OUTSIDER, "GET", "/t/alice/")
    with world.app.app_context():
        services().tally.flush()
        line = db.session.scalars(select(AuditLine).where(AuditLine.action == "nothing.found")).one()
        assert (line.actor, line.target) == (address(OUTSIDER), "/t/<tenant_slug>/")
        assert line.address.startswith("10.")
        assert DISK_FULL["hostname"] not in str(line.detail)
