"""What is left after the worst: a dump restored elsewhere, Redis empty, keys that are new, keys that are gone."""

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from cryptography.fernet import Fernet

from conftest import driver
from services import PostgresServer, RedisServer
from stack import Stack

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
ANOTHER = "another-long-and-random-text-of-more-than-32-characters-0123"
WAITING = 5
Installed = Callable[..., Stack]


@pytest.fixture
def installed(
    tmp_path: Path, postgres_server: PostgresServer, postgres_template: str, redis_server: RedisServer
) -> Iterator[Installed]:
    """Makes an installation with a folder of its own, on a database of this name."""
    made: list[tuple[Stack, str]] = []

    def install(name: str, keys: str = OLD, template: str | None = postgres_template) -> Stack:
        name = f"{name}_{uuid.uuid4().hex}"
        postgres_server.create_database(name, **({"template": template} if template else {}))
        folder = tmp_path / name
        folder.mkdir()
        made.append((Stack(folder, driver(postgres_server.url_of(name)), redis_server.url, keys), name))
        return made[-1][0]

    redis_server.flushall()
    yield install
    for stack, _ in made:
        stack.stop()
    for _, name in made:
        postgres_server.drop_database(name)


def database(stack: Stack) -> str:
    """Its URL as the programs of PostgreSQL take it."""
    return stack.environment["DATABASE_URL"].replace("postgresql+psycopg:", "postgresql:")


def inherit(heir: Stack, stack: Stack) -> None:
    """Its tools and its people are those of the one before."""
    heir.slug, heir.secret, heir.token = stack.slug, stack.secret, stack.token
    heir.environment["SECRET_KEY"] = stack.environment["SECRET_KEY"]


def test_a_dump_restored_elsewhere_goes_on_where_it_was(
    installed: Installed, postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    first = installed("first")
    (source,) = first.create_tenant("grafana")
    first.start("web")  # and no worker: what comes waits
    ids = {first.send(hostname=f"web-{number}").json()["incident_id"] for number in range(WAITING)}
    dump = str(tmp_path / "openremedy.dump")
    dumped = [postgres_server.programs / "pg_dump", "--format=custom", f"--file={dump}", database(first)]
    subprocess.run(dumped, check=True)
    first.stop()
    redis_server.flushall()

    second = installed("second", template=None)
    inherit(second, first)
    restored = [postgres_server.programs / "pg_restore", "--no-owner", f"--dbname={database(second)}", dump]
    subprocess.run(restored, check=True)
    second.start("web", "worker", "scheduler")
    found = second.classified(WAITING, seconds=90)
    assert {one["id"] for one in found} == ids
    assert {one["classification"] for one in found} == {"done"}
    again = second.send(hostname="web-0")
    assert (again.status_code, again.json()["outcome"]) == (202, "updated"), "the secret could be read"
    assert again.json()["incident_id"] in ids
    posted = requests.post(
        f"{second.url}/api/v1/webhooks/grafana/{second.slug}",
        json={"alerts": []},
        headers={"Authorization": f"Bearer {source['token']}"},
        timeout=30,
    )
    assert posted.status_code == 202, "the token of the source is known"


def test_new_keys_in_front_read_what_the_old_ones_wrote(installed: Installed) -> None:
    stack = installed("keys")
    stack.create_tenant()
    old_secret = stack.secret
    stack.environment["ENCRYPTION_KEYS"] = f"{NEW},{OLD}"
    stack.start("web")
    assert stack.send().status_code == 202
    stack.secret = stack.flask("tenant", "rotate-secret", stack.slug)["webhook_secret"]
    assert stack.send().status_code == 202
    # The old key goes: what was made with it is gone with it, and said so; what is new stays.
    stack.end("web")
    stack.environment["ENCRYPTION_KEYS"] = NEW
    stack.start("web")
    assert stack.send().status_code == 202
    stack.secret = old_secret
    assert stack.send().status_code == 401
    assert "secret.unreadable" in stack.log("web")
    assert old_secret not in stack.log("web")


def change_keys(stack: Stack, secret_key: str, *fallbacks: str) -> None:
    """As an operator does: other settings, and a restart."""
    stack.end("web")
    stack.environment |= {"SECRET_KEY": secret_key, "SECRET_KEY_FALLBACKS": ",".join(fallbacks)}
    stack.start("web")


def form(browser: requests.Session, url: str) -> dict[str, str]:
    """The token of a page that somebody has open."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(url, timeout=30).text)
    assert found, f"{url} has no form"
    return {"csrf_token": found[1]}


def signed_in(browser: requests.Session, stack: Stack) -> bool:
    return browser.get(f"{stack.url}/account", allow_redirects=False, timeout=30).status_code == 200


def test_a_former_secret_key_goes_on_counting_until_it_is_dropped(installed: Installed) -> None:
    stack = installed("fallbacks")
    stack.create_tenant()
    stack.flask("user", "create", "bob@example.com", "--tenant", stack.slug, text="a long and good password\n")
    who = {"email": "bob@example.com", "password": "a long and good password"}
    stack.start("web")
    bob, newcomer, idle = requests.Session(), requests.Session(), requests.Session()
    sign_in, action = f"{stack.url}/sign-in", f"{stack.url}/account/sign-out-others"
    assert bob.post(sign_in, form(bob, sign_in) | who, timeout=30).ok
    open_form, open_sign_in = form(bob, f"{stack.url}/account"), form(newcomer, sign_in)
    idle.cookies.update(bob.cookies)  # the same sign-in, whose cookie nothing will sign anew
    link = stack.flask("user", "link", who["email"])["url"]
    former = stack.environment["SECRET_KEY"]

    change_keys(stack, ANOTHER, former)
    assert signed_in(idle, stack)
    assert bob.post(action, open_form, timeout=30).ok, "a form that was open"
    newcomer.post(sign_in, open_sign_in | who, timeout=30)
    assert signed_in(newcomer, stack), "also one of somebody who was not signed in yet"
    assert form(requests.Session(), link)

    change_keys(stack, ANOTHER)
    assert not signed_in(idle, stack)
    assert signed_in(bob, stack), "his form was answered with a cookie of the new key"
    assert bob.post(action, open_form, timeout=30).status_code == 400
    invited = requests.Session()
    invited.post(link, form(invited, link) | {"password": "another long and good one"}, timeout=30)
    assert signed_in(invited, stack), "a link does not rest on the key"


def test_another_secret_key_ends_sign_ins_and_nothing_else(installed: Installed) -> None:
    stack = installed("sessions")
    stack.create_tenant()
    stack.start("web")
    assert stack.send().status_code == 202
    stack.end("web")
    stack.environment["SECRET_KEY"] = ANOTHER
    stack.start("web")
    assert stack.send().status_code == 202
    assert len(stack.incidents()) == 1, "tokens of the API are none of its business"
