"""People: links that let in once, the last admin, sign-ins that end, and how often a password may be tried."""

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY
from flask import Flask
from sqlalchemy import select, update

from browser_client import PASSWORD, Person
from cast import Tenant
from config import Settings
from openremedy import people, tenants
from openremedy.audit import COMMAND_LINE, Actor
from openremedy.errors import Conflict, Invalid, NotFound, Problem, Unauthorized
from openremedy.extensions import db, limiter
from openremedy.models import Link, LinkPurpose, Membership, Role, SignIn, User, now

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ANN = Actor("ann@example.com")
AS_SHIPPED = people._hasher  # the tests have a cheaper one


@pytest.fixture
def inside(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def at_once(app: Flask, *calls: Callable[[], Any]) -> list[Any]:
    """What each call gave or raised, all of them begun together in threads of their own."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        with app.app_context():
            barrier.wait()
            try:
                return call()
            except Problem as problem:
                return problem

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def member(slug: str, email: str, role: Role = Role.ADMIN) -> User:
    people.create_user(db.session(), email, PASSWORD, slug, role)
    user = people.find_user(db.session(), email)
    assert user
    return user


def link(purpose: LinkPurpose, email: str | None = None, **more: Any) -> str:
    return people.make_link(db.session(), purpose, COMMAND_LINE, email, **more)


def use(token: str, email: str = "new@example.com", password: str = PASSWORD) -> User:
    return people.use_link(db.session(), token, email, password, Actor(email))


# ---------------------------------------------------------------- links


def test_a_set_up_link_makes_the_first_superadmin_and_nobody_else(app: Flask, inside: None) -> None:
    assert use(link(LinkPurpose.SETUP)).superadmin
    with pytest.raises(NotFound):
        use(link(LinkPurpose.SETUP), "second@example.com")
    assert len(people.users(db.session())) == 1


def test_a_new_link_makes_the_one_before_void(app: Flask, inside: None) -> None:
    first, second = link(LinkPurpose.SETUP), link(LinkPurpose.SETUP)
    with pytest.raises(NotFound):
        use(first)
    use(second)


def test_a_link_that_two_take_at_once_lets_one_in(app: Flask, alice: Tenant) -> None:
    with app.app_context():
        token = link(LinkPurpose.SETUP)
    found = at_once(app, *[lambda email=f"{one}@example.com": use(token, email).email for one in range(4)])
    assert sorted(type(one).__name__ for one in found) == ["NotFound"] * 3 + ["str"]
    with app.app_context():
        assert len(people.users(db.session())) == 1


@ON_ONE
def test_a_link_ends_after_its_hours(app: Flask, inside: None) -> None:
    token = link(LinkPurpose.SETUP, hours=-1)
    assert people.find_link(db.session(), token) is None
    with pytest.raises(NotFound):
        use(token)


def test_an_invitation_is_for_its_address_whatever_the_form_says(app: Flask, alice: Tenant, inside: None) -> None:
    tenant = tenants.find_tenant(db.session(), "alice")
    token = people.invite(db.session(), "Carol@Example.com", tenant.id, Role.RESPONDER, ANN)
    user = use(token, "mallory@example.com")
    assert user.email == "carol@example.com"
    assert not user.superadmin
    assert [(one.email, role) for one, role in people.members(db.session(), tenant.id)] == [
        ("carol@example.com", Role.RESPONDER)
    ]


def test_an_invitation_needs_the_password_of_somebody_who_has_an_account(
    app: Flask, alice: Tenant, charlie: Tenant, inside: None
) -> None:
    member("charlie", "carol@example.com")
    tenant = tenants.find_tenant(db.session(), "alice")
    token = people.invite(db.session(), "carol@example.com", tenant.id, Role.VIEWER, ANN)
    with pytest.raises(Unauthorized):
        use(token, password="chosen by a thief of the link")
    assert people.members(db.session(), tenant.id) == []
    use(token)  # and the wrong password has not used it up
    assert len(people.members(db.session(), tenant.id)) == 1


@ON_ONE
def test_a_member_is_not_invited_again(app: Flask, alice: Tenant, inside: None) -> None:
    member("alice", "ann@example.com")
    with pytest.raises(Invalid, match="fit") as refused:
        people.invite(db.session(), "ANN@example.com", tenants.find_tenant(db.session(), "alice").id, Role.VIEWER, ANN)
    assert refused.value.fields == {"email": ["Is a member already; change the role in the list."]}


def test_a_reset_link_changes_the_password_and_ends_every_sign_in(app: Flask, alice: Tenant) -> None:
    ann = Person(app, "ann@example.com", "alice")
    with app.app_context():
        user = people.find_user(db.session(), ann.email)
        assert user
        use(people.reset_link(db.session(), user, COMMAND_LINE), ann.email, "an altogether new one")
    assert ann.get("/account").status_code == 401
    assert ann.sign_in().status_code == 401
    assert ann.sign_in("an altogether new one").status_code == 303


@ON_ONE
def test_a_disabled_user_gets_no_reset_link(app: Flask, alice: Tenant, inside: None) -> None:
    user = member("alice", "ann@example.com")
    people.set_disabled(db.session(), str(user.id), True, COMMAND_LINE)
    with pytest.raises(Conflict):
        people.reset_link(db.session(), user, COMMAND_LINE)


@ON_ONE
def test_only_the_hash_of_a_link_is_kept(app: Flask, inside: None) -> None:
    token = link(LinkPurpose.SETUP)
    (row,) = db.session.scalars(select(Link)).all()
    assert token not in repr(vars(row))


# ---------------------------------------------------------------- the last admin


def test_the_last_admin_stays_one(app: Flask, alice: Tenant, inside: None) -> None:
    ann = member("alice", "ann@example.com")
    member("alice", "bob@example.com", Role.RESPONDER)
    tenant = tenants.find_tenant(db.session(), "alice")
    for change in (
        lambda: people.set_role(db.session(), tenant.id, str(ann.id), Role.VIEWER, ANN),
        lambda: people.remove_member(db.session(), tenant.id, str(ann.id), ANN),
    ):
        with pytest.raises(Conflict):
            change()
        db.session.rollback()
    assert (ann, Role.ADMIN) in people.members(db.session(), tenant.id)


def test_an_admin_who_is_disabled_does_not_count_as_another_one(app: Flask, alice: Tenant, inside: None) -> None:
    ann, other = member("alice", "ann@example.com"), member("alice", "other@example.com")
    people.set_disabled(db.session(), str(other.id), True, COMMAND_LINE)
    with pytest.raises(Conflict):
        people.remove_member(db.session(), tenants.find_tenant(db.session(), "alice").id, str(ann.id), ANN)


def test_two_admins_who_remove_each_other_at_once_leave_one(app: Flask, alice: Tenant) -> None:
    with app.app_context():
        ids = [str(member("alice", f"{name}@example.com").id) for name in ("ann", "bea")]
        tenant_id = tenants.find_tenant(db.session(), "alice").id
    found = at_once(
        app, *[lambda one=one: people.remove_member(db.session(), tenant_id, one, COMMAND_LINE) for one in ids]
    )
    assert sorted(type(one).__name__ for one in found) == ["Conflict", "NoneType"]


def test_two_superadmins_who_disable_each_other_at_once_leave_one(app: Flask) -> None:
    with app.app_context():
        for name in ("ann", "bea"):
            people.create_user(db.session(), f"{name}@example.com", PASSWORD, None, None)
        ids = [str(user.id) for user in people.users(db.session())]
    found = at_once(app, *[lambda one=one: people.set_disabled(db.session(), one, True, COMMAND_LINE) for one in ids])
    assert sorted(type(one).__name__ for one in found) == ["Conflict", "NoneType"]


@ON_ONE
def test_another_tenants_member_is_not_there(app: Flask, alice: Tenant, charlie: Tenant, inside: None) -> None:
    ann = member("alice", "ann@example.com")
    elsewhere = tenants.find_tenant(db.session(), "charlie").id
    for change in (
        lambda: people.set_role(db.session(), elsewhere, str(ann.id), Role.VIEWER, ANN),
        lambda: people.remove_member(db.session(), elsewhere, str(ann.id), ANN),
    ):
        with pytest.raises(NotFound):
            change()
    assert db.session.scalars(select(Membership.role)).all() == [Role.ADMIN]


# ---------------------------------------------------------------- sign-ins that end


def test_a_change_of_the_password_ends_every_other_sign_in(app: Flask, alice: Tenant) -> None:
    here = Person(app, "ann@example.com", "alice")
    there = copy.copy(here)
    there.client = app.test_client()
    assert there.sign_in().status_code == 303
    done = here.post("/account/password", current=PASSWORD, password="an altogether new one")
    assert done.status_code == 303
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 401


def test_a_removed_member_and_a_disabled_user_are_out_with_the_next_request(app: Flask, alice: Tenant) -> None:
    ann, bob = Person(app, "ann@example.com", "alice"), Person(app, "bob@example.com", "alice", Role.VIEWER)
    with app.app_context():
        ids = {user.email: str(user.id) for user in people.users(db.session())}
        people.remove_member(db.session(), tenants.find_tenant(db.session(), "alice").id, ids[bob.email], ANN)
        people.set_disabled(db.session(), ids[ann.email], True, COMMAND_LINE)
    assert bob.get().status_code == 401
    assert ann.get().status_code == 401
    assert ann.sign_in().status_code == 401


@ON_ONE
@pytest.mark.parametrize("moment", ["created_at", "seen_at"])
def test_a_sign_in_ends_by_itself(app: Flask, alice: Tenant, moment: str) -> None:
    ann = Person(app, "ann@example.com", "alice")
    longest = {"created_at": people.LONGEST_SIGN_IN, "seen_at": people.LONGEST_IDLE}[moment]
    with app.app_context():
        db.session.execute(update(SignIn).values({moment: now() - longest}))
        db.session.commit()
    assert ann.get("/account").status_code == 401


# ---------------------------------------------------------------- how often a password may be tried


@pytest.fixture
def limited(make_app: Any, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """With a Redis of its own, so that nothing was counted before."""
    # One that is late on a busy machine would be left for the memory, which counts anew.
    monkeypatch.setattr("openremedy.app.LIMITER_TIMEOUT", 10)
    app: Flask = make_app(dataclasses.replace(settings, redis_url=redis_url))
    # The limiter is the process's: one that a test before has left without a Redis would count in memory at first.
    monkeypatch.setattr(limiter, "_storage_dead", False)
    with app.app_context():
        people.create_user(db.session(), "root@example.com", PASSWORD, None, None)
    return app


def browser_at(app: Flask, address: str) -> Any:
    """Sends the sign-in form from an address; gives the status."""
    client = app.test_client()
    client.environ_base["REMOTE_ADDR"] = address
    token = client.get("/sign-in").text.split('name="csrf_token" value="')[1].split('"')[0]

    def send(email: str, password: str) -> int:
        fields = {"csrf_token": token, "email": email, "password": password}
        return client.post("/sign-in", data=fields).status_code

    return send


@ON_ONE
def test_ten_wrong_passwords_of_an_account_and_then_not_even_the_right_one(limited: Flask) -> None:
    send = browser_at(limited, "192.0.2.1")
    assert [send("root@example.com", "wrong") for _ in range(10)] == [401] * 10
    assert send("root@example.com", PASSWORD) == 429
    assert browser_at(limited, "192.0.2.2")("root@example.com", PASSWORD) == 303  # no lock-out of anybody else


@ON_ONE
def test_an_address_may_not_try_account_after_account(limited: Flask) -> None:
    send = browser_at(limited, "192.0.2.1")
    found = [send(f"{number}@example.com", "wrong") for number in range(61)]
    assert found == [401] * 60 + [429]


@ON_ONE
def test_the_owner_signs_in_from_a_known_address_while_strangers_hammer_the_account(limited: Flask) -> None:
    home = browser_at(limited, "198.51.100.7")
    assert home("root@example.com", PASSWORD) == 303
    strangers = [browser_at(limited, f"192.0.2.{number}") for number in range(1, 11)]
    found = [send("root@example.com", "wrong") for send in strangers for _ in range(10)]
    assert found == [401] * 99 + [429]  # the first sign-in at home was the first of a hundred
    assert browser_at(limited, "198.51.100.7")("root@example.com", PASSWORD) == 303


def test_a_password_costs_what_argon2_recommends() -> None:
    assert extract_parameters(AS_SHIPPED.hash(PASSWORD)) == RFC_9106_LOW_MEMORY


@ON_ONE
def test_a_password_costs_the_same_for_nobody_as_for_somebody(limited: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:
            try:
                return super().verify(hash, password)
            except VerifyMismatchError:  # what cannot be read costs nothing and is another error
                compared.append(hash.rpartition("$")[0].rpartition("$")[0])
                raise

    monkeypatch.setattr(people, "_hasher", Counting(time_cost=1, memory_cost=8, parallelism=1))
    send = browser_at(limited, "192.0.2.1")
    with limited.app_context():
        people.create_user(db.session(), "off@example.com", PASSWORD, None, None)
        user = people.find_user(db.session(), "off@example.com")
        assert user
        people.set_disabled(db.session(), str(user.id), True, COMMAND_LINE)
    for email in ("root@example.com", "nobody@example.com", "off@example.com"):
        assert send(email, "wrong") == 401
    assert compared == ["$argon2id$v=19$m=8,t=1,p=1"] * 3


@ON_ONE
def test_the_answer_does_not_tell_whether_there_is_such_an_account(limited: Flask) -> None:
    client = limited.test_client()
    pages = []
    for email in ("root@example.com", "nobo@example.com"):
        token = client.get("/sign-in").text.split('name="csrf_token" value="')[1].split('"')[0]
        page = client.post("/sign-in", data={"csrf_token": token, "email": email, "password": "wrong"}).text
        pages.append(page.replace(email, "X").split("<form")[0])
    assert pages[0] == pages[1]
