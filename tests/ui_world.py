"""An installation with people and things in it, asked as each of them, and put back to how it was."""

import itertools
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from flask import Flask
from rq.job import Job
from sqlalchemy import Select, Table, select, type_coerce
from sqlalchemy.types import NullType
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from browser_client import Person
from cast import Tenant
from conftest import make_tenant
from openremedy import people, tenants
from openremedy.extensions import db, limiter
from openremedy.models import Base, Role
from openremedy.queue import interactive_queue, job_queue
from openremedy.services import services
from ui_routes import (
    ADMIN,
    ANYONE,
    EVERYBODY,
    NOBODY,
    OUTSIDER,
    RESPONDER,
    ROUTES,
    SIGNED_IN,
    SUPERADMIN,
    THINGS,
    VIEWER,
    Form,
    Page,
    Route,
    whom,
)

# Written without anybody having changed anything: when somebody or something was seen last.
_SEEN = {"sign_ins": {"seen_at"}, "api_tokens": {"last_used_at"}, "source_tokens": {"last_used_at"}}
Rows = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Visitor:
    """A browser: what it sends along and the token of its forms."""

    email: str
    cookie: str
    token: str


@dataclass
class Cast:
    """Who and what is there: things by the tenant's slug and their name in URLs."""

    app: Flask
    tenants: dict[str, Tenant]
    things: dict[str, dict[str, str]]


def fill(app: Flask) -> Cast:
    """Alice's tenant and Charlie's, their people and one thing of each kind in both."""
    made: dict[str, Tenant] = {}
    things: dict[str, dict[str, str]] = {}
    with app.app_context():
        people.create_user(db.session(), address(SUPERADMIN), "a long and good password", None, None)
        for slug in (ADMIN, OUTSIDER):
            made[slug] = make_tenant(app, slug)
            _member(slug, slug, Role.ADMIN)
        _member(VIEWER, ADMIN, Role.VIEWER)
        _member(RESPONDER, ADMIN, Role.RESPONDER)
    for slug, tenant in made.items():
        things[slug] = {name: _thing(app, make, tenant) for name, make in THINGS.items()}
    return Cast(app, made, things)


def _thing(app: Flask, make: Callable[[Tenant], str], tenant: Tenant) -> str:
    """In a context of its own: a transaction left open by the one before would hold SQLite."""
    with app.app_context():
        return make(tenant)


def address(name: str) -> str:
    """The e-mail address of one of the people."""
    return f"{name}@example.com"


def _member(name: str, slug: str, role: Role) -> None:
    people.create_user(db.session(), address(name), "a long and good password", slug, role)


class World:
    """A filled installation on SQLite or PostgreSQL; `rewind` needs SQLite."""

    def __init__(self, app: Flask, folder: Path) -> None:
        self.app = app
        with app.app_context():
            services().redis.delete(interactive_queue(services().redis).key)
        self.cast = fill(app)
        self.addresses = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))
        self.visitors = {name: self._visitor(name) for name in EVERYBODY}
        with app.app_context():
            services().tally.stop()  # from here on it writes when a test says so, not by its clock
        self._kept = folder / "kept.db"
        self._database = app.config["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
        self.on_sqlite = self._database.startswith("/")
        if self.on_sqlite:
            self._copy(self._database, self._kept)
        self.as_new = self.rows()

    def _visitor(self, name: str) -> Visitor:
        person = Person.known(self.app, address(name))
        if name != NOBODY:
            assert person.sign_in().status_code == 303
        token = person.token("/sign-in" if name == NOBODY else "/account")
        cookie = person.client.get_cookie(self.app.config["SESSION_COOKIE_NAME"])
        assert cookie
        return Visitor(person.email, f"{cookie.key}={cookie.value}", token)

    # ------------------------------------------------------------ the database

    def _copy(self, source: str | Path, target: str | Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            other.execute("PRAGMA synchronous = OFF")  # many times a test, and for no longer than it
            one.backup(other)

    def rewind(self) -> None:
        """Put the database, the queue and the counted passwords back to how they were."""
        with self.app.app_context():
            services().tally.flush()  # what waits belongs to what is thrown away
        self.drain()
        self._copy(self._kept, self._database)

    def drain(self) -> None:
        """Nothing is queued, no password was tried, and the try-outs among the things are not forgotten."""
        with self.app.app_context():
            redis = services().redis
            redis.delete(job_queue(redis).key, interactive_queue(redis).key)
            for things in self.cast.things.values():
                redis.persist(Job.key_for(things["job_id"]))
            limiter.reset()

    def rows(self) -> Rows:
        """Everything in the database, but for when somebody was seen last; what waits in memory is written first."""
        with self.app.app_context():
            services().tally.flush()
            return {table.name: _rows_of(_all_of(table)) for table in Base.metadata.sorted_tables}

    def rows_of(self, slug: str) -> Rows:
        """The rows of a tenant and whatever belongs to it, as far as keys tell."""
        with self.app.app_context():
            services().tally.flush()
            tenant_id = tenants.find_tenant(db.session(), slug).id
            return {table.name: found for table, found in _owned(tenant_id)}

    # ------------------------------------------------------------ asking

    def open(
        self,
        name: str,
        method: str,
        url: str,
        fields: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        """Ask as somebody; `token` "" sends none, another one sends that."""
        visitor = self.visitors[name]
        sent = dict(fields or {})
        if method not in ("GET", "HEAD", "OPTIONS") and token != "":
            sent["csrf_token"] = token or visitor.token
        return self.app.test_client(use_cookies=False).open(
            url,
            method=method,
            data=urlencode(sent, doseq=True, errors="surrogatepass") if sent else None,
            content_type="application/x-www-form-urlencoded" if sent else None,
            headers={"Accept": "text/html", "Cookie": visitor.cookie, **(headers or {})},
            environ_overrides={"REMOTE_ADDR": next(self.addresses)},
            buffered=True,
        )

    def rules(self, endpoint: str) -> list[Rule]:
        """The URLs of an endpoint."""
        return list(self.app.url_map.iter_rules(endpoint))

    def fields(self, route: Route, things: Mapping[str, str]) -> dict[str, str]:
        """The filled-in form of a route, with a number of its own."""
        if not isinstance(route, Form):
            return {}
        return {name: fill_in(text, things) for name, text in route.fields.items()} | {"form_id": str(uuid.uuid4())}

    def ask(self, name: str, endpoint: str, things: Mapping[str, str] | None = None, **how: Any) -> list[TestResponse]:
        """Use a route as its entry says, by each of its URLs, with Alice's things or the given ones."""
        route = ROUTES[endpoint]
        things = things or self.cast.things[ADMIN]
        method = "GET" if isinstance(route, Page) else "POST"
        fields = self.fields(route, things)
        return [self.open(name, method, url_of(rule, things), fields, **how) for rule in self.rules(endpoint)]


def url_of(rule: Rule, things: Mapping[str, str], at: Mapping[str, str] | None = None, *, query: bool = True) -> str:
    """The URL of a rule with these things in it; `at` instead of what its entry says."""
    route = ROUTES.get(rule.endpoint, Page())
    told = {name: fill_in(text, things) for name, text in (route.at if at is None else at).items()}
    parts = {name: quote(told.get(name) or things[name], safe="") for name in rule.arguments}
    path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", lambda found: parts[found[1]], rule.rule)
    asked = urlencode({name: text for name, text in told.items() if name not in parts})
    return f"{path}?{asked}" if asked and query else path


def fill_in(text: str, things: Mapping[str, str]) -> str:
    """The text with the things that it names. Raises KeyError."""
    return re.sub(r"\{(\w+)\}", lambda found: things[found[1]], text)


def may(name: str, endpoint: str) -> bool:
    """Whether somebody may use a route of Alice's tenant."""
    least = whom(endpoint)
    if least in (ANYONE, SIGNED_IN):
        return least == ANYONE or name != NOBODY
    members = (VIEWER, RESPONDER, ADMIN, SUPERADMIN)  # each may what those before it may
    return name in members[members.index(least) :]


def expected(name: str, endpoint: str) -> int:
    """The status that somebody gets from a route with Alice's things."""
    route = ROUTES[endpoint]
    if may(name, endpoint):
        return route.status_of.get(name, route.status)
    if name == NOBODY:
        return 302  # to the sign-in
    if whom(endpoint) == SUPERADMIN or name == OUTSIDER:
        return 404
    return 403


@cache
def _all_of(table: Table) -> Select[Any]:
    """Its rows as the database holds them: to compare them, nobody needs to know what they mean."""
    columns = [column for column in table.c if column.name not in _SEEN.get(table.name, ())]
    return select(*(type_coerce(column, NullType()) for column in columns)).order_by(*table.primary_key)


def _rows_of(statement: Select[Any]) -> list[tuple[Any, ...]]:
    return list(map(tuple, db.session.execute(statement)))


def _owned(tenant_id: int) -> Iterator[tuple[Table, list[tuple[Any, ...]]]]:
    """Tables of a tenant: by their own column, else by that of what they point to."""
    for table in Base.metadata.sorted_tables:
        if "tenant_id" in table.c:
            yield table, _rows_of(_all_of(table).where(table.c.tenant_id == tenant_id))
            continue
        for key in table.foreign_keys:
            if "tenant_id" in key.column.table.c:
                owner = key.column.table
                joined = _all_of(table).join(owner, key.parent == key.column).where(owner.c.tenant_id == tenant_id)
                yield table, _rows_of(joined)
                break
