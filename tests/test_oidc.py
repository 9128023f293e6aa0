"""Single sign-on against a real provider (tests/oidc), and against one that lies as a real one never would."""

import dataclasses
import html
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
import requests
import time_machine
from flask import Flask, g, render_template_string, session
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from browser_client import PASSWORD
from config import Settings
from liar import Liar, lying
from openremedy import identity, people
from openremedy.audit import COMMAND_LINE, Actor
from openremedy.errors import Conflict, Forbidden
from openremedy.extensions import db
from openremedy.models import AuditLine, Link, LinkPurpose, Membership, Role, SignIn, Tenant, User, now
from openremedy.people import Identity
from openremedy.ui import oidc
from openremedy.ui.access import Visitor
from openremedy.ui.sign_in import check_again
from services import IdentityProvider, free_port, identity_provider, missing

ROOT = Path(__file__).parent.parent
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CALLBACK = "http://127.0.0.1:8000/sign-in/oidc/callback"
BROWSER_PORT = free_port()
ACCOUNTS: dict[str, Any] = {
    "alice": {"email": "Alice@Example.com", "email_verified": True},
    "twin": {"email": "alice@example.com", "email_verified": True},
    "mallory": {"email": "alice@example.com", "email_verified": False},
    "nina": {"email": "nina@example.com", "email_verified": True},
    "uma": {"email": "uma@example.com", "email_verified": True},
    "kelvin": {"email": "\u212aate@example.com", "email_verified": True},
    "nameless": {},
    "nonsense": {"email": "nobody\0 at all", "email_verified": True},
}
UNDER_WAY = "This sign-in was not started in this browser, took too long, or has been used. Please start again."
NOT_CONFIRMED = identity.NotConfirmed.message
AWAY = identity.ProviderAway.message


# ---------------------------------------------------------------- the provider, and somebody who uses it


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """Everything here needs it, the liar's tests too: without it they would look like the whole."""
    of_browser = f"http://127.0.0.1:{BROWSER_PORT}/sign-in/oidc/callback"
    with identity_provider(ACCOUNTS, [CALLBACK, of_browser]) as running:
        yield running


def with_provider(settings: Settings, url: str, **changes: Any) -> Settings:
    secret = IdentityProvider.client_secret
    known = {"oidc_issuer": url, "oidc_client_id": IdentityProvider.client_id, "oidc_client_secret": secret}
    return dataclasses.replace(settings, **known, oidc_name="Acme ID", **changes)


@pytest.fixture
def app(make_app: Callable[[Settings], Flask], settings: Settings, provider: IdentityProvider) -> Flask:
    return make_app(with_provider(settings, provider.url))


class Somebody:
    """Somebody with a browser that knows cookies, ours and the provider's."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client = app.test_client()
        self.there = requests.Session()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers={"Accept": "text/html"})

    def leave(self, page: str = "/sign-in", **fields: str) -> TestResponse:
        """Press the button on a page, with what its form holds."""
        form = form_to("/sign-in/oidc", self.get(page).text)
        return self.client.post("/sign-in/oidc", data=form | fields, headers={"Accept": "text/html"})

    def way(self, page: str = "/sign-in", **fields: str) -> str:
        """Where the button leads."""
        answer = self.leave(page, **fields)
        assert answer.status_code == 200, answer.text
        found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', answer.text)
        assert found
        return html.unescape(found[1])

    def at_provider(self, url: str, login: str) -> str:
        """Go there, sign in and consent where it asks; the way back."""
        answer = self.there.get(url, allow_redirects=False)
        while True:
            if answer.is_redirect:
                target = urljoin(answer.url, answer.headers["Location"])
                if target.startswith(CALLBACK):
                    return target.removeprefix("http://127.0.0.1:8000")
                answer = self.there.get(target, allow_redirects=False)
                continue
            found = re.search(
                r'action="([^"]+)" method="post">\s*<input type="hidden" name="prompt" value="(\w+)"', answer.text
            )
            assert found, answer.text
            data = {"prompt": found[2], "login": login, "password": "any"}
            answer = self.there.post(found[1], data=data, allow_redirects=False)

    def sign_in(self, login: str, page: str = "/sign-in", **fields: str) -> TestResponse:
        return self.get(self.at_provider(self.way(page, **fields), login))

    @property
    def email(self) -> str | None:
        """Who is signed in here."""
        found = re.search(r'href="/account" class="wrap">([^<]+)<', self.get("/account").text)
        return found[1] if found else None


def form_to(action: str, page: str) -> dict[str, str]:
    found = re.search(rf'<form method="post" action="{action}">(.*?)</form>', page, re.DOTALL)
    assert found, f"no form to {action}"
    pairs = re.findall(r'name="(\w+)" value="([^"]*)"', found[1])
    return {name: html.unescape(value) for name, value in pairs}


@pytest.fixture
def somebody(app: Flask) -> Somebody:
    return Somebody(app)


@pytest.fixture
def alice(app: Flask) -> Iterator[None]:
    """A user with a password, an admin of the tenant `alice`."""
    with app.app_context():
        db.session.add(Tenant(slug="alice", name="Alice"))
        db.session.commit()
        people.create_user(db.session(), "alice@example.com", PASSWORD, "alice", Role.ADMIN)
    return


def user_of(app: Flask, email: str) -> User | None:
    with app.app_context():
        return people.find_user(db.session(), email)


def lines(app: Flask, action: str) -> list[AuditLine]:
    with app.app_context():
        return list(db.session.scalars(select(AuditLine).where(AuditLine.action == action).order_by(AuditLine.id)))


def invite(app: Flask, email: str, slug: str | None, role: Role | None, hours: float = 72) -> str:
    with app.app_context():
        tenant = db.session.scalar(select(Tenant).where(Tenant.slug == slug)) if slug else None
        return people.make_link(
            db.session(), LinkPurpose.INVITE, COMMAND_LINE, email, tenant.id if tenant else None, role, hours
        )


def said(answer: TestResponse) -> str:
    """The one sentence on the sign-in page."""
    assert "<h1>Sign in</h1>" in answer.text
    found = re.findall(r'role="alert">([^<]+)<', answer.text)
    assert len(found) == 1
    return html.unescape(found[0])


def refused(answer: TestResponse, status: int, sentence: str) -> None:
    assert (answer.status_code, said(answer)) == (status, sentence)


# ---------------------------------------------------------------- not configured


@ON_ONE
def test_without_a_provider_there_is_no_button_and_no_route(
    make_app: Callable[[Settings], Flask], settings: Settings
) -> None:
    client = make_app(settings).test_client()
    page = client.get("/sign-in").text
    assert "oidc" not in page
    token = form_to("/sign-in", page)["csrf_token"]
    assert client.post("/sign-in/oidc", data={"csrf_token": token}).status_code == 404
    assert client.get("/sign-in/oidc/callback?code=a&state=b").status_code == 404


@ON_ONE
def test_an_application_without_a_provider_never_loads_its_libraries(settings: Settings) -> None:
    code = """
import os, sys
from openremedy.app import create_app
app = create_app()
assert app.test_client().get("/sign-in").status_code == 200
assert not {"authlib", "joserfc", "requests"} & set(sys.modules)
"""
    environment = {"PATH": "", "OPENREMEDY_DATA_DIR": str(settings.data_dir)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the way there


@ON_ONE
def test_the_way_there_carries_state_nonce_and_a_challenge(somebody: Somebody, provider: IdentityProvider) -> None:
    url = somebody.way()
    assert url.startswith(f"{provider.url}/auth?")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["response_type"] == "code"
    assert query["redirect_uri"] == CALLBACK
    assert query["scope"] == "openid email"
    assert query["code_challenge_method"] == "S256"
    assert all(len(query[name]) >= 20 for name in ("state", "nonce", "code_challenge"))
    assert "prompt" not in query
    assert url != somebody.way(), "each time others"


@ON_ONE
def test_nobody_is_sent_there_by_another_site(app: Flask) -> None:
    answer = app.test_client().post("/sign-in/oidc", headers={"Accept": "text/html"})
    assert answer.status_code == 400
    assert "refresh" not in answer.text


# ---------------------------------------------------------------- who it is


def test_a_user_of_the_same_confirmed_address_is_linked_and_known_by_the_subject_from_then_on(
    app: Flask, alice: None, somebody: Somebody, provider: IdentityProvider
) -> None:
    answer = somebody.sign_in("alice")
    assert (answer.status_code, answer.location) == (303, "/")
    assert somebody.email == "alice@example.com"
    user = user_of(app, "alice@example.com")
    assert user
    assert user.oidc_subject == f"{provider.url} alice"
    assert user.password_hash, "the password goes on working"
    assert [(line.actor, line.target) for line in lines(app, "user.linked")] == [("alice@example.com",) * 2]
    with app.app_context():
        people.get_user(db.session(), str(user.id)).email = "alice@elsewhere.example"
        db.session.commit()
    assert Somebody(app).sign_in("alice").status_code == 303
    assert len(lines(app, "user.linked")) == 1
    assert [line.detail["how"] for line in lines(app, "user.signed_in")] == ["by single sign-on"] * 2


def test_an_address_that_the_provider_does_not_confirm_lets_nobody_in(
    app: Flask, alice: None, somebody: Somebody
) -> None:
    sentence = (
        "The identity provider does not confirm that alice@example.com is yours. Without that nobody here can know you."
    )
    refused(somebody.sign_in("mallory"), 403, sentence)
    user = user_of(app, "alice@example.com")
    assert user
    assert user.oidc_subject is None
    assert somebody.email is None


@ON_ONE
def test_an_address_that_only_looks_the_same_in_lower_case_lets_nobody_in(app: Flask, somebody: Somebody) -> None:
    with app.app_context():
        people.create_user(db.session(), "kate@example.com", PASSWORD, None, None)
    assert somebody.sign_in("kelvin").status_code == 403
    user = user_of(app, "kate@example.com")
    assert user
    assert user.oidc_subject is None


@ON_ONE
@pytest.mark.parametrize("login", ["nameless", "nonsense"])
def test_an_account_without_an_address_lets_nobody_in(somebody: Somebody, login: str) -> None:
    answer = somebody.sign_in(login)
    assert answer.status_code == 403
    assert said(answer).startswith("The identity provider does not confirm")


def test_a_second_account_of_the_same_address_is_not_the_user(app: Flask, alice: None, somebody: Somebody) -> None:
    assert somebody.sign_in("alice").status_code == 303
    answer = Somebody(app).sign_in("twin")
    refused(answer, 403, "alice@example.com belongs to another account of the identity provider. Ask an admin.")
    with app.app_context():
        people.unlink(db.session(), "alice@example.com", COMMAND_LINE)
    assert somebody.email is None, "signed out with it"
    assert Somebody(app).sign_in("twin").status_code == 303


@ON_ONE
def test_an_account_is_unlinked_on_the_command_line(app: Flask, alice: None, somebody: Somebody) -> None:
    somebody.sign_in("alice")
    runner = app.test_cli_runner()
    for _ in range(2):
        done = runner.invoke(args=["user", "unlink", "alice@example.com", "--json"])
        assert (done.exit_code, done.output) == (0, '{"email": "alice@example.com"}\n')
    user = user_of(app, "alice@example.com")
    assert user
    assert user.oidc_subject is None
    assert [(line.actor, line.target) for line in lines(app, "user.unlinked")] == [
        ("command line", "alice@example.com")
    ]
    assert runner.invoke(args=["user", "unlink", "nobody@example.com"]).exit_code == 1


def test_whom_nobody_knows_is_told_so(app: Flask, somebody: Somebody) -> None:
    refused(somebody.sign_in("uma"), 403, "Nobody here knows uma@example.com. Ask an admin to invite you.")
    assert user_of(app, "uma@example.com") is None


def test_whom_an_invitation_waits_for_joins_with_its_role(app: Flask, alice: None, somebody: Somebody) -> None:
    token = invite(app, "nina@example.com", "alice", Role.RESPONDER)
    assert somebody.sign_in("nina", f"/link/{token}").status_code == 303
    user = user_of(app, "nina@example.com")
    assert user
    assert (user.password_hash, user.superadmin) == (None, False)
    with app.app_context():
        roles = [one.role for one in db.session.scalars(select(Membership).where(Membership.user_id == user.id))]
        assert roles == [Role.RESPONDER]
        assert people.find_link(db.session(), token) is None, "the link has been used"
    used = lines(app, "link.used")
    assert [(line.actor, line.target, line.tenant_id is not None) for line in used] == [
        ("nina@example.com",) * 2 + (True,)
    ]
    assert len(lines(app, "user.linked")) == 1


@ON_ONE
def test_who_has_no_password_takes_a_later_invitation_by_signing_in(
    app: Flask, alice: None, somebody: Somebody
) -> None:
    invite(app, "nina@example.com", "alice", Role.VIEWER)
    assert somebody.sign_in("nina").status_code == 303
    invite(app, "nina@example.com", None, None)
    user = user_of(app, "nina@example.com")
    assert user
    assert not user.superadmin
    assert Somebody(app).sign_in("nina").status_code == 303
    user = user_of(app, "nina@example.com")
    assert user
    assert user.superadmin
    assert len(lines(app, "link.used")) == 2


@ON_ONE
@pytest.mark.parametrize(("email", "password"), [("nina@example.com", False), ("alice@example.com", True)])
def test_an_invitation_asks_for_a_password_only_who_has_one(
    app: Flask, alice: None, somebody: Somebody, email: str, password: bool
) -> None:
    invite(app, "nina@example.com", "alice", Role.VIEWER)
    assert somebody.sign_in("nina").status_code == 303
    page = Somebody(app).get(f"/link/{invite(app, email, None, None)}").text
    assert ("give its password" in page, 'autocomplete="current-password"' in page) == (password, password)
    assert ('action="/sign-in/oidc"' in page) is not password


@ON_ONE
def test_who_has_a_password_takes_an_invitation_with_it_and_not_by_the_way(
    app: Flask, alice: None, somebody: Somebody
) -> None:
    invite(app, "alice@example.com", None, None)
    assert somebody.sign_in("alice").status_code == 303
    user = user_of(app, "alice@example.com")
    assert user
    assert not user.superadmin


@ON_ONE
def test_an_invitation_that_is_over_or_used_lets_nobody_in(app: Flask, alice: None, somebody: Somebody) -> None:
    invite(app, "nina@example.com", "alice", Role.VIEWER, hours=-1)
    assert somebody.sign_in("nina").status_code == 403
    invite(app, "nina@example.com", "alice", Role.VIEWER)
    with app.app_context():
        for link in db.session.scalars(select(Link)):
            link.used_at = now()
        db.session.commit()
    assert somebody.sign_in("nina").status_code == 403
    assert user_of(app, "nina@example.com") is None


def test_a_disabled_user_stays_out_linked_or_not(app: Flask, alice: None, somebody: Somebody) -> None:
    set_disabled(app, True)
    refused(somebody.sign_in("alice"), 403, "Your account here is disabled. Ask whoever runs this installation.")
    user = user_of(app, "alice@example.com")
    assert user
    assert user.oidc_subject is None
    set_disabled(app, False)
    assert somebody.sign_in("alice").status_code == 303
    set_disabled(app, True)
    assert somebody.email is None
    assert Somebody(app).sign_in("alice").status_code == 403


def set_disabled(app: Flask, disabled: bool) -> None:
    user = user_of(app, "alice@example.com")
    assert user
    with app.app_context():
        people.set_disabled(db.session(), str(user.id), disabled, COMMAND_LINE)


def test_two_who_come_in_as_the_same_new_user_make_one(app: Flask, alice: None) -> None:
    nina = Identity("https://id.example 1", "nina@example.com", True, None)
    invite(app, "nina@example.com", "alice", Role.VIEWER)
    gate = threading.Barrier(2)
    outcomes: list[str] = []

    def come() -> None:
        with app.app_context():
            gate.wait()
            try:
                outcomes.append(people.arrive(db.session(), nina, COMMAND_LINE).email)
            except Conflict as problem:
                outcomes.append(problem.message)

    both = [threading.Thread(target=come) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert "nina@example.com" in outcomes
    assert set(outcomes) <= {"nina@example.com", "You came in twice at the same moment. Please start again."}
    assert len(lines(app, "link.used")) == 1
    assert len(lines(app, "user.linked")) == 1


@pytest.mark.parametrize("invited", [True, False])
def test_who_came_in_by_another_window_a_moment_ago_is_known(
    invited: bool, app: Flask, alice: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nina = Identity("https://id.example 1", "nina@example.com", True, None)
    if invited:
        invite(app, "nina@example.com", "alice", Role.VIEWER)
    else:
        with app.app_context():
            people.create_user(db.session(), "nina@example.com", PASSWORD, "alice", Role.VIEWER)
    link = people._link

    def after_the_other(its: Session, identity: Identity, actor: Actor) -> User:
        its.rollback()  # SQLite would hold its view of before
        monkeypatch.setattr(people, "_link", link)
        with app.app_context():
            people.arrive(db.session(), nina, COMMAND_LINE)
        return link(its, identity, actor)

    monkeypatch.setattr(people, "_link", after_the_other)
    with app.app_context():
        assert people.arrive(db.session(), nina, COMMAND_LINE).email == "nina@example.com"
    assert len(lines(app, "user.linked")) == 1


# ---------------------------------------------------------------- the session


@ON_ONE
def test_where_somebody_wanted_to_go_survives_the_way(alice: None, somebody: Somebody) -> None:
    answer = somebody.get("/t/alice/?since=yesterday")
    url = somebody.way(answer.location)
    assert "yesterday" not in url
    callback = somebody.at_provider(url, "alice")
    assert "yesterday" not in callback
    assert somebody.get(callback).location == "/t/alice/?since=yesterday"


@ON_ONE
@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "/" + "a" * 4000])
def test_the_way_never_ends_on_another_site(alice: None, somebody: Somebody, elsewhere: str) -> None:
    callback = somebody.at_provider(somebody.way(next=elsewhere), "alice")
    assert somebody.get(f"{callback}&next=//evil.example").location == "/"


@ON_ONE
def test_nothing_of_the_session_before_stays(alice: None, somebody: Somebody) -> None:
    somebody.get("/sign-in")
    with somebody.client.session_transaction() as planted:
        planted["planted"] = "by somebody else"
    somebody.sign_in("alice")
    with somebody.client.session_transaction() as after:
        assert set(after) == {"sign_in", "_permanent"}


@ON_ONE
def test_what_is_kept_meanwhile_does_not_grow_with_every_start(somebody: Somebody) -> None:
    for _ in range(5):
        somebody.way()
    with somebody.client.session_transaction() as kept:
        assert set(kept) == {"csrf_token", "oidc"}


@ON_ONE
def test_signing_out_ends_the_sign_in_here(alice: None, somebody: Somebody) -> None:
    somebody.sign_in("alice")
    form = form_to("/sign-out", somebody.get("/account").text.replace(' class="inline"', ""))
    somebody.client.post("/sign-out", data=form)
    assert somebody.email is None
    assert somebody.get(somebody.at_provider(somebody.way(), "unused: still signed in there")).status_code == 303


# ---------------------------------------------------------------- ways back that are none


def test_a_way_back_works_once(app: Flask, alice: None, somebody: Somebody) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    assert somebody.get(callback).status_code == 303
    refused(somebody.get(callback), 400, UNDER_WAY)
    assert somebody.email == "alice@example.com", "and it ends nothing"


@ON_ONE
def test_a_code_works_once_whatever_the_session_says(alice: None, somebody: Somebody) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    with somebody.client.session_transaction() as before:
        kept = dict(before)
    assert somebody.get(callback).status_code == 303
    with somebody.client.session_transaction() as again:
        again.clear()
        again.update(kept)
    refused(somebody.get(callback), 401, NOT_CONFIRMED)


@ON_ONE
def test_a_way_back_works_in_the_browser_that_began_it_alone(app: Flask, alice: None, somebody: Somebody) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    victim = Somebody(app)
    refused(victim.get(callback), 400, UNDER_WAY)
    victim.way()
    refused(victim.get(callback), 400, UNDER_WAY)
    assert victim.email is None


@ON_ONE
@pytest.mark.parametrize(
    "query", ["", "?code=a", "?state=", "?code=a&state=wrong", "?error=access_denied", "?state=%ff%00\u212a"]
)
def test_a_wrong_state_is_refused_and_ends_nothing(alice: None, somebody: Somebody, query: str) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    refused(somebody.get(f"/sign-in/oidc/callback{query}"), 400, UNDER_WAY)
    assert somebody.get(callback).status_code == 303


@ON_ONE
def test_a_way_back_that_took_too_long_is_refused(alice: None, somebody: Somebody) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    with time_machine.travel(now() + oidc.LONGEST + timedelta(seconds=1)):
        refused(somebody.get(callback), 400, UNDER_WAY)


@ON_ONE
def test_who_turns_back_at_the_provider_is_on_the_sign_in_page(alice: None, somebody: Somebody) -> None:
    url = somebody.way(next="/account")
    page = somebody.there.get(url)
    abort = re.search(r'href="([^"]+/abort)"', page.text)
    assert abort
    answer = somebody.there.get(abort[1], allow_redirects=False)
    while not answer.headers["Location"].startswith(CALLBACK):
        answer = somebody.there.get(answer.headers["Location"], allow_redirects=False)
    callback = answer.headers["Location"].removeprefix("http://127.0.0.1:8000")
    assert "error=access_denied" in callback
    back = somebody.get(callback)
    refused(back, 401, NOT_CONFIRMED)
    assert form_to("/sign-in/oidc", back.text)["next"] == "/account"
    assert "aborted" not in back.text


@ON_ONE
@pytest.mark.parametrize("error", ["temporarily_unavailable", "server_error", "unauthorized_client"])
def test_an_error_that_is_not_the_persons_is_told_as_one(somebody: Somebody, error: str) -> None:
    state = parse_qs(urlsplit(somebody.way()).query)["state"][0]
    assert somebody.get(f"/sign-in/oidc/callback?state={state}&error={error}").status_code == 503


@ON_ONE
def test_another_nonce_than_ours_is_refused(alice: None, somebody: Somebody) -> None:
    url = re.sub(r"nonce=[^&]+", "nonce=of-somebody-else", somebody.way())
    callback = somebody.at_provider(url, "alice")
    refused(somebody.get(callback), 401, NOT_CONFIRMED)
    refused(somebody.get(callback), 400, UNDER_WAY)


@ON_ONE
def test_a_code_without_our_verifier_is_refused(alice: None, somebody: Somebody) -> None:
    """As one is that somebody else began and had sent to us."""
    url = re.sub(r"code_challenge=[^&]+", f"code_challenge={'E' * 43}", somebody.way())
    refused(somebody.get(somebody.at_provider(url, "alice")), 401, NOT_CONFIRMED)


@ON_ONE
def test_a_token_that_another_key_signed_is_refused(make_app: Callable[[Settings], Flask], settings: Settings) -> None:
    with identity_provider(ACCOUNTS, [CALLBACK], other_keys=True) as forging:
        somebody = Somebody(make_app(with_provider(settings, forging.url)))
        refused(somebody.sign_in("alice"), 401, NOT_CONFIRMED)


@ON_ONE
def test_a_wrong_client_secret_is_nobodys_fault_who_signs_in(
    make_app: Callable[[Settings], Flask],
    settings: Settings,
    provider: IdentityProvider,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = dataclasses.replace(with_provider(settings, provider.url), oidc_client_secret="not the one")
    refused(
        Somebody(make_app(wrong)).sign_in("alice"),
        503,
        "The identity provider does not take this service. Tell whoever runs it.",
    )
    assert "oidc.client_refused" in capfd.readouterr().err


@ON_ONE
def test_a_provider_that_is_stopped_or_hangs_is_told_and_comes_back(
    make_app: Callable[[Settings], Flask], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "TIMEOUT", 0.2)
    with identity_provider(ACCOUNTS, [CALLBACK]) as mine:
        somebody = Somebody(make_app(with_provider(settings, mine.url)))
        with mine.paused():
            refused(somebody.leave(), 503, AWAY)
        mine.stop()
        refused(somebody.leave(), 503, AWAY)
        mine.start()
        callback = somebody.at_provider(somebody.way(), "uma")
        with mine.paused():
            refused(somebody.get(callback), 503, AWAY)


@ON_ONE
def test_every_call_to_the_provider_ends(
    app: Flask, alice: None, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    send = requests.Session.send

    def watched(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if self is not somebody.there:
            asked[urlsplit(str(request.url)).path] = options["timeout"]
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", watched)
    assert somebody.sign_in("alice").status_code == 303
    assert asked == dict.fromkeys(("/.well-known/openid-configuration", "/token", "/jwks", "/me"), identity.TIMEOUT)


@ON_ONE
def test_no_transaction_waits_for_the_provider(
    app: Flask, nina: Somebody, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite one that has read and then writes fails when another wrote in between."""
    waiting: list[bool] = []
    known = identity.Provider._known

    def watched(self: identity.Provider) -> Any:
        waiting.append(db.session().in_transaction())
        return known(self)

    monkeypatch.setattr(identity.Provider, "_known", watched)
    assert somebody.sign_in("nina").status_code == 303
    assert nina.sign_in("nina", "/account").status_code == 303
    assert waiting == [False] * 4


@ON_ONE
def test_a_provider_that_hangs_holds_a_few_threads_and_no_more(
    app: Flask, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "PATIENCE", 0)
    with app.app_context():
        known = oidc.provider()
    for _ in range(identity.AT_ONCE):
        known._free.acquire()
    refused(somebody.leave(), 503, AWAY)
    known._free.release()
    assert somebody.leave().status_code == 200
    assert somebody.leave().status_code == 200, "and each gives back what it took"


@ON_ONE
def test_ways_back_are_counted_with_the_passwords_of_an_address(app: Flask, alice: None, somebody: Somebody) -> None:
    callback = somebody.at_provider(somebody.way(), "alice")
    elsewhere = {"REMOTE_ADDR": "192.0.2.77"}
    statuses = [
        app.test_client().get("/sign-in/oidc/callback?state=x", environ_overrides=elsewhere).status_code
        for _ in range(61)
    ]
    assert statuses == [400] * 60 + [429]
    answer = somebody.client.get(callback, environ_overrides=elsewhere)
    refused(answer, 429, "Too many sign-ins were tried. Wait a quarter of an hour, then try again.")
    assert somebody.get(callback).status_code == 303, "from another address"


@ON_ONE
def test_no_code_token_or_secret_is_in_the_log_or_on_the_page(
    app: Flask, alice: None, somebody: Somebody, capsys: pytest.CaptureFixture[str]
) -> None:
    url = re.sub(r"nonce=[^&]+", "nonce=of-somebody-else", somebody.way())
    with somebody.client.session_transaction() as kept:
        verifier = kept["oidc"]["verifier"]
    callback = somebody.at_provider(url, "alice")
    answer = somebody.get(callback)
    assert answer.status_code == 401
    somebody.sign_in("alice")
    told = answer.text + capsys.readouterr().err
    query = parse_qs(urlsplit(callback).query)
    for secret in (*query["code"], *query["state"], verifier, IdentityProvider.client_secret, "eyJ"):
        assert secret not in told
    assert "oidc.token_refused" in told


# ---------------------------------------------------------------- once more, before a secret is shown


@pytest.fixture
def nina(app: Flask, alice: None) -> Somebody:
    """Without a password, signed in: and not just now, for all that we know."""
    invite(app, "nina@example.com", "alice", Role.ADMIN)
    somebody = Somebody(app)
    assert somebody.sign_in("nina").status_code == 303
    return somebody


def confirmed(app: Flask) -> bool:
    with app.app_context():
        return people.confirmed(db.session.scalars(select(SignIn).order_by(SignIn.id)).all()[0])


def test_who_is_signed_in_at_the_provider_already_has_shown_nothing_just_now(app: Flask, nina: Somebody) -> None:
    assert not confirmed(app)


def test_signing_in_again_counts_for_ten_minutes(app: Flask, nina: Somebody) -> None:
    url = nina.way("/account", next="/t/alice/")
    query = parse_qs(urlsplit(url).query)
    assert (query["prompt"], query["max_age"]) == (["login"], ["0"])
    answer = nina.get(nina.at_provider(url, "nina"))
    assert (answer.status_code, answer.location) == (303, "/t/alice/")
    assert confirmed(app)
    assert "you have done so within the last ten minutes" in nina.get("/account").text
    assert [(line.actor, line.target) for line in lines(app, "user.confirmed")] == [("nina@example.com",) * 2]
    with time_machine.travel(now() + people.RECENT + timedelta(seconds=1)):
        assert not confirmed(app)


@ON_ONE
def test_the_page_of_the_webhook_secret_sends_who_has_no_password_to_sign_in_again(app: Flask, nina: Somebody) -> None:
    page = nina.get("/t/alice/settings").text
    assert 'formaction="/sign-in/oidc"' in page
    assert 'name="next" value="/t/alice/settings"' in page
    nina.get(nina.at_provider(nina.way("/account", next="/t/alice/settings"), "nina"))
    page = nina.get("/t/alice/settings").text
    assert "You have just signed in with Acme ID; that is enough." in page


@ON_ONE
def test_signing_in_again_as_somebody_else_confirms_nothing(app: Flask, nina: Somebody) -> None:
    nina.there = requests.Session()
    answer = nina.sign_in("alice", "/account")
    refused(answer, 403, "There you signed in as somebody else than nina@example.com.")
    assert not confirmed(app)
    assert nina.email == "nina@example.com"


@ON_ONE
def test_a_provider_that_does_not_ask_again_confirms_nothing(app: Flask, nina: Somebody) -> None:
    url = re.sub(r"&?(prompt|max_age)=[^&]+", "", nina.way("/account"))
    answer = nina.get(nina.at_provider(url, "nina"))
    refused(answer, 403, "The identity provider did not ask you for your password again.")
    assert not confirmed(app)


@ON_ONE
def test_an_old_sign_in_at_the_provider_confirms_nothing(app: Flask, nina: Somebody) -> None:
    user = user_of(app, "nina@example.com")
    assert user
    old = Identity(str(user.oidc_subject), user.email, True, now() - timedelta(minutes=2))
    with app.app_context(), pytest.raises(Forbidden, match="did not ask you"):
        people.confirm_at_provider(db.session(), the_sign_in(), old, now(), COMMAND_LINE)
    assert not confirmed(app)


def the_sign_in() -> int:
    return db.session.scalars(select(SignIn.id)).one()


@ON_ONE
def test_nobody_signs_in_again_who_is_not_signed_in(app: Flask, nina: Somebody, somebody: Somebody) -> None:
    refused(somebody.leave(again="1"), 401, "Your sign-in has ended. Please sign in again.")
    callback = nina.at_provider(nina.way("/account"), "nina")
    with app.app_context():
        user = people.find_user(db.session(), "nina@example.com")
        assert user
        people.end_sign_ins(db.session(), user.id)
        db.session.commit()
    refused(nina.get(callback), 401, "Your sign-in has ended. Please sign in again.")


@ON_ONE
@pytest.mark.parametrize("fresh", [True, False])
def test_a_secret_is_shown_after_a_fresh_sign_in_alone(app: Flask, fresh: bool) -> None:
    with app.test_request_context("/"):
        g.visitor = Visitor(1, "nina@example.com", False, False, 1, fresh)
        form = render_template_string(
            "{% import 'ui/macros.html' as ui with context %}{{ ui.password_again('/t/alice/settings') }}"
        )
        if fresh:
            check_again("")
            assert "<input" not in form
        else:
            with pytest.raises(Forbidden, match="Sign in again with Acme ID first"):
                check_again(PASSWORD)
            assert 'formaction="/sign-in/oidc"' in form
            assert 'name="next" value="/t/alice/settings"' in form
        assert "password" not in session


# ---------------------------------------------------------------- a provider that lies


@pytest.fixture(scope="module")
def one_liar(provider: IdentityProvider) -> Iterator[Liar]:
    with lying() as liar:
        yield liar


@pytest.fixture
def liar(one_liar: Liar) -> Liar:
    one_liar.honest()
    return one_liar


@pytest.fixture
def back_from(liar: Liar, make_app: Callable[[Settings], Flask], settings: Settings) -> Callable[[], TestResponse]:
    """Goes to the liar and comes back."""
    somebody = Somebody(make_app(with_provider(settings, liar.url)))
    with somebody.app.app_context():
        people.create_user(db.session(), "alice@example.com", PASSWORD, None, None)

    def go() -> TestResponse:
        left = somebody.leave()
        if left.status_code != 200:
            return left
        query = parse_qs(urlsplit(html.unescape(re.findall(r'href="(http[^"]+)"', left.text)[0])).query)
        liar.nonce = query["nonce"][0]
        return somebody.get(f"/sign-in/oidc/callback?code=c&state={query['state'][0]}")

    return go


@ON_ONE
def test_a_liar_that_does_not_lie_lets_in(liar: Liar, back_from: Callable[[], TestResponse]) -> None:
    assert back_from().status_code == 303
    assert liar.asked == ["/.well-known/openid-configuration", "/token", "/jwks", "/me"]


@ON_ONE
def test_an_address_in_the_token_itself_needs_no_further_call(
    liar: Liar, back_from: Callable[[], TestResponse]
) -> None:
    liar.claims = {"email": "alice@example.com", "email_verified": "true"}
    assert back_from().status_code == 303
    assert "/me" not in liar.asked


@ON_ONE
@pytest.mark.parametrize("word", ["false", 0, None, "yes", ["true"]])
def test_only_true_is_a_confirmed_address(liar: Liar, back_from: Callable[[], TestResponse], word: object) -> None:
    liar.about = {"email_verified": word}
    assert back_from().status_code == 403


TOKENS: dict[str, dict[str, Any]] = {
    "for another service": {"aud": "another"},
    "for another service, by way of us": {"aud": ["another"], "azp": "openremedy"},
    "for us, by way of another service": {"azp": "another"},
    "of another issuer": {"iss": "https://elsewhere.example"},
    "over": {"exp": 1_000_000_000},
    "from the future": {"iat": 4_000_000_000},
    "of another sign-in": {"nonce": "another"},
    "of no sign-in": {"nonce": None},
    "without a subject": {"sub": None},
    "with an empty subject": {"sub": ""},
    "with a subject that is too long": {"sub": "1" * 256},
    "with a subject that is no text": {"sub": 1},
    "with a subject of other letters": {"sub": "\u212a"},
    "about another subject": {"sub": "2"},
}


@ON_ONE
@pytest.mark.parametrize("claims", TOKENS.values(), ids=TOKENS.keys())
def test_a_token_is_refused(liar: Liar, back_from: Callable[[], TestResponse], claims: dict[str, Any]) -> None:
    liar.claims = claims
    if "sub" in claims and claims["sub"] != "2":
        liar.about = {"sub": claims["sub"]}
    refused(back_from(), 401, NOT_CONFIRMED)


@ON_ONE
@pytest.mark.parametrize("how", ["signed_by_nobody", "signed_with_what_everybody_knows"])
def test_a_token_that_is_not_signed_with_the_private_key_is_refused(
    liar: Liar, back_from: Callable[[], TestResponse], how: str
) -> None:
    liar.sign = getattr(liar, how)
    refused(back_from(), 401, NOT_CONFIRMED)


@ON_ONE
def test_an_answer_without_a_token_is_refused(liar: Liar, back_from: Callable[[], TestResponse]) -> None:
    told = {"sub": "1", "email": "alice@example.com", "email_verified": True}
    liar.answers["/token"] = 200, {"access_token": "a", "token_type": "Bearer", "userinfo": told}
    refused(back_from(), 401, NOT_CONFIRMED)


DISCOVERY = "/.well-known/openid-configuration"
NONSENSE: list[tuple[str, int, Any]] = [
    (DISCOVERY, 500, {}),
    (DISCOVERY, 200, b"<html>please sign in to this network</html>"),
    (DISCOVERY, 200, []),
    (DISCOVERY, 200, {"issuer": "https://elsewhere.example"}),
    (DISCOVERY, 200, {"issuer": None}),
    (DISCOVERY, 200, {}),
    ("/token", 500, {"error": "server_error"}),
    ("/token", 502, b"<html>"),
    ("/token", 200, []),
    ("/token", 401, {"error": "invalid_client"}),
    ("/jwks", 404, {}),
    ("/jwks", 200, {}),
    ("/jwks", 200, {"keys": 1}),
    ("/jwks", 200, []),
    ("/me", 500, {}),
    ("/me", 200, "sub"),
    ("/me", 200, b"a.b.c"),
]


@ON_ONE
@pytest.mark.parametrize(("path", "status", "body"), NONSENSE, ids=lambda part: str(part)[:30])
def test_nonsense_from_the_provider_is_no_error_of_ours(
    liar: Liar, back_from: Callable[[], TestResponse], path: str, status: int, body: Any
) -> None:
    liar.answers[path] = status, body
    answer = back_from()
    assert (answer.status_code, bool(said(answer))) == (503, True)


@ON_ONE
@pytest.mark.parametrize("auth_time", ["now", -1, 10**30, float("nan"), None, True])
def test_a_nonsensical_time_of_the_sign_in_confirms_nothing(
    liar: Liar, back_from: Callable[[], TestResponse], auth_time: Any
) -> None:
    liar.claims = {"auth_time": auth_time}
    assert back_from().status_code in (303, 401)


@ON_ONE
def test_its_keys_and_addresses_are_read_again_after_an_hour(
    liar: Liar, back_from: Callable[[], TestResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(identity, "time", SimpleNamespace(monotonic=lambda: clock.now, time=identity.time.time))
    liar.about = {"email_verified": False}
    assert [back_from().status_code for _ in range(2)] == [403, 403]
    assert liar.asked.count(DISCOVERY) == liar.asked.count("/jwks") == 1
    clock.now += identity.KEPT + 1
    back_from()
    assert liar.asked.count(DISCOVERY) == liar.asked.count("/jwks") == 2


# ---------------------------------------------------------------- in a real browser


@pytest.fixture
def in_browser(make_app: Callable[[Settings], Flask], settings: Settings, provider: IdentityProvider) -> Iterator[Any]:
    """A page of Chromium, at an application that another site signs in to."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
    if chromium is None:
        missing("chromium", "single sign-on in a real browser; on Debian and Ubuntu: apt-get install chromium")
    url = f"http://127.0.0.1:{BROWSER_PORT}"
    app = make_app(with_provider(settings, provider.url, public_url=url))
    with app.app_context():
        people.create_user(db.session(), "alice@example.com", PASSWORD, None, None)
    server = make_server("127.0.0.1", BROWSER_PORT, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(base_url=url)
            # The provider's own pages ask for a font from elsewhere.
            page.route(re.compile(r"^https?://(?!127\.0\.0\.1|localhost)"), lambda route: route.abort())
            yield page
            browser.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@ON_ONE
def test_a_real_browser_goes_there_and_comes_back(in_browser: Any, provider: IdentityProvider) -> None:
    complaints: list[str] = []
    in_browser.on("console", lambda message: complaints.append(message.text) if "127.0.0.1" in in_browser.url else None)
    in_browser.on("pageerror", lambda error: complaints.append(str(error)))
    in_browser.goto("/account")
    in_browser.get_by_role("button", name="Continue with Acme ID").click()
    in_browser.wait_for_url(f"{provider.url}/interaction/*")
    in_browser.fill("[name=login]", "alice")
    in_browser.fill("[name=password]", "any")
    in_browser.click("[type=submit]")
    in_browser.get_by_role("button", name="Continue").click()
    in_browser.wait_for_url("**/account")
    assert in_browser.get_by_role("heading", name="Your account").is_visible()
    assert complaints == []
