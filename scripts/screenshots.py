"""Pictures of every page with real, empty and hostile data: `make screenshots`.

    .venv/bin/python scripts/screenshots.py [--only real|empty|hostile] [--folder FOLDER]

Starts a service of its own for each of the three, opens every page of tests/ui_routes.py in Chromium, wide and on a
phone, light and dark, and puts the pictures into FOLDER (a new temporary one) for people to look through. Those that
the README shows are written to docs/screenshots as well. Ends with 1 when something was wrong on a page or one of those
is larger than MOST_BYTES.
"""

import argparse
import base64
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask_migrate
from flask import Flask
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import ColumnElement, func, select

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import services as servers  # noqa: E402
from browser.pages import PAGES, Shown  # noqa: E402
from browser.people import fill_sign_in  # noqa: E402
from browser.tabs import LOOKS, Look, Tab, launch_options, new_tab  # noqa: E402
from browser_client import PASSWORD  # noqa: E402
from cast import Tenant  # noqa: E402
from conftest import ENCRYPTION_KEY, make_settings, make_tenant  # noqa: E402
from hostile import hostile_world  # noqa: E402
from openremedy import models, people, tenants  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.audit import COMMAND_LINE  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from openremedy.models import (  # noqa: E402
    Delivery,
    Incident,
    LinkPurpose,
    OutgoingEndpoint,
    OutgoingMessage,
    Recipe,
    Role,
    Source,
    Verdict,
)
from openremedy.recipes import parse  # noqa: E402
from openremedy.services import services  # noqa: E402
from openremedy.tryout_queue import start_tryout  # noqa: E402
from stack import Stack  # noqa: E402
from ui_routes import NOBODY, SUPERADMIN  # noqa: E402

SHOWN_IN_README = ROOT / "docs" / "screenshots"
MOST_BYTES = 120_000
TALLEST = 4000  # of a picture to look through
QUALITY = 82
BOSS = "boss@example.com"
# What the README shows: page, look.
CURATED = (
    *(("overview", "wide-light"), ("overview", "phone-dark"), ("incidents", "wide-light"), ("incident", "wide-light")),
    *(("incident", "wide-dark"), ("incident", "phone-light"), ("review", "wide-light"), ("recipe", "wide-light")),
    *(("source", "wide-light"), ("delivery-2", "wide-light")),
)


@dataclass
class World:
    """A service with one of the three kinds of data in it: what the URLs need, and who looks at it."""

    name: str
    stack: Stack
    app: Flask
    things: dict[str, str]
    admin: tuple[str, str]


# ---------------------------------------------------------------- the three worlds


def real(stack: Stack, app: Flask) -> tuple[dict[str, str], tuple[str, str]]:
    """What `flask demo` makes."""
    told = stack.flask("demo", "--yes")
    admin = next(one for one in told["members"] if one["role"] == Role.ADMIN)
    return things_of(app, told["tenant"]), (admin["email"], admin["password"])


def empty(_stack: Stack, app: Flask) -> tuple[dict[str, str], tuple[str, str]]:
    """A tenant to which nothing has happened yet."""
    with app.app_context():
        tenants.create_tenant(db.session(), services().vault, "new")
        people.create_user(db.session(), "first@example.com", PASSWORD, "new", Role.ADMIN)
    return things_of(app, "new"), ("first@example.com", PASSWORD)


def hostile(_stack: Stack, app: Flask) -> tuple[dict[str, str], tuple[str, str]]:
    """Every text that wants to be more, in every place."""
    tenant: Tenant = make_tenant(app, "alice")
    with app.app_context():
        people.create_user(db.session(), "alice@example.com", PASSWORD, "alice", Role.ADMIN)
    with ThreadPoolExecutor(1) as aside:  # in this thread runs the loop of the browser's driver
        aside.submit(hostile_world, tenant).result()
    return things_of(app, "alice"), ("alice@example.com", PASSWORD)


WORLDS: dict[str, Callable[[Stack, Flask], tuple[dict[str, str], tuple[str, str]]]] = {
    "real": real,
    "empty": empty,
    "hostile": hostile,
}


def things_of(app: Flask, tenant: str) -> dict[str, str]:
    """What the URLs need of what is there; what is not there is left out, and with it the pages of it."""
    with app.app_context():
        tenant_id = db.session.scalars(select(models.Tenant.id).where(models.Tenant.slug == tenant)).one()
        found = {"tenant_slug": tenant, **dict(_ids(tenant_id))}
        found["token"] = _link(tenant_id)
        db.session.rollback()
        if found["slug"]:
            slug = json.dumps(found["slug"])
            (spec,) = parse(f"- {{slug: {slug}, title: Tried, when: x, applies_to: [disk_full], risk: low, steps: x}}")
            found["job_id"] = start_tryout(services(), tenant_id, spec.slug, spec)
        return {name: value for name, value in found.items() if value}


def _ids(tenant_id: int) -> Iterator[tuple[str, str]]:
    def newest(model: Any, *conditions: ColumnElement[bool]) -> str:
        found = select(model.id).where(model.tenant_id == tenant_id, *conditions).order_by(model.id.desc())
        return str(db.session.scalar(found.limit(1)) or "")

    cited = select(Verdict.incident_id).where(Verdict.tenant_id == tenant_id, func.length(Verdict.summary) > 0)
    yield "incident_id", newest(Incident, Incident.id.in_(cited), Incident.status == "open") or newest(Incident)
    yield "native_incident_id", newest(Incident, Incident.adapter == "alertmanager")
    yield "delivery_id", newest(Delivery, Delivery.accepted, Delivery.adapter == "canonical")
    yield "native_delivery_id", newest(Delivery, Delivery.accepted, Delivery.adapter == "alertmanager")
    yield "refused_delivery_id", newest(Delivery, Delivery.accepted.is_(False))
    unsigned = (Delivery.adapter == "canonical", Delivery.reason == "unauthorized")
    yield "unsigned_delivery_id", newest(Delivery, *unsigned)
    used = select(Verdict.recipe).where(Verdict.tenant_id == tenant_id, Verdict.recipe.is_not(None))
    most = used.join(Recipe, (Recipe.slug == Verdict.recipe) & (Recipe.tenant_id == tenant_id))
    slug = db.session.scalar(most.group_by(Verdict.recipe).order_by(func.count().desc()).limit(1))
    yield "slug", slug or ""
    yield "version", "1" if slug else ""
    yield "starter_slug", "disk-full" if slug else ""
    yield "endpoint_id", newest(OutgoingEndpoint)
    message = select(OutgoingMessage.id).where(OutgoingMessage.tenant_id == tenant_id)
    yield "message_id", str(db.session.scalar(message.order_by(OutgoingMessage.endpoint_id.desc()).limit(1)) or "")
    for adapter in ("grafana", "alertmanager", "pagerduty"):
        name = "source_id" if adapter == "grafana" else f"{adapter}_source_id"
        yield name, newest(Source, Source.adapter == adapter, Source.disabled_at.is_(None))


def _link(tenant_id: int) -> str:
    return people.make_link(
        db.session(), LinkPurpose.INVITE, COMMAND_LINE, "new@example.com", tenant_id, Role.RESPONDER
    )


# ---------------------------------------------------------------- the pictures


def pictures(browser: Browser, world: World, folder: Path) -> list[str]:
    """Every page of a world; returns what was wrong."""
    states = {SUPERADMIN: _state(browser, world, BOSS, PASSWORD), NOBODY: None}
    admin = _state(browser, world, *world.admin)
    wrong: list[str] = []
    for look in LOOKS:
        for shown in PAGES:
            with new_tab(browser, world.stack.url, look, states.get(shown.who, admin)) as tab:
                for number, path in _paths(world, shown):
                    name = f"{shown.name}-{number}" if number else shown.name
                    wrong += _picture(tab, path, folder / world.name / f"{name}-{look.name}.webp")
                    if world.name == "real" and (name, look.name) in CURATED:
                        wrong += _for_readme(tab, name, look)
                wrong += [f"{world.name} {shown.name} {look.name}: {one}" for one in tab.problems]
    return wrong


def _paths(world: World, shown: Shown) -> list[tuple[int, str]]:
    """Its addresses by their number, as far as this world has what they name."""
    found = []
    for number, way in enumerate(shown.ways()):
        with suppress(KeyError):
            found.append((number, shown.path_of(world.app, world.things, way)))
    return found


def _state(browser: Browser, world: World, email: str, password: str) -> Any:
    with new_tab(browser, world.stack.url) as tab:
        tab.open("/sign-in")
        fill_sign_in(tab.page, email, password)
        tab.page.wait_for_url(lambda url: "/sign-in" not in url)
        return tab.page.context.storage_state()


def _picture(tab: Tab, path: str, file: Path) -> list[str]:
    answer = tab.page.goto(tab.base + path)
    tab.page.wait_for_load_state("networkidle")
    height = min(TALLEST, tab.page.evaluate("document.documentElement.scrollHeight"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_webp(tab.page, height))
    return [] if answer and answer.ok else [f"{path}: {answer and answer.status}"]


def _for_readme(tab: Tab, name: str, look: Look) -> list[str]:
    SHOWN_IN_README.mkdir(exist_ok=True)
    file = SHOWN_IN_README / f"{name.partition('-')[0]}-{look.name}.webp"
    file.write_bytes(_webp(tab.page, look.viewport["height"]))
    size = file.stat().st_size
    return [f"{file.name} has {size} bytes, more than {MOST_BYTES}"] if size > MOST_BYTES else []


def _webp(page: Page, height: int) -> bytes:
    """Playwright itself writes no WebP, which is a third of a PNG."""
    wire = page.context.new_cdp_session(page)
    wide = page.evaluate("document.documentElement.clientWidth")
    clip = {"x": 0, "y": 0, "width": wide, "height": height, "scale": 1}
    asked = {"format": "webp", "quality": QUALITY, "captureBeyondViewport": True, "clip": clip}
    taken = wire.send("Page.captureScreenshot", asked)
    wire.detach()
    return base64.b64decode(taken["data"])


# ---------------------------------------------------------------- starting and ending


def service(name: str, redis: servers.RedisServer, ending: ExitStack) -> World:
    """A service of its own on SQLite, filled."""
    folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="openremedy-screens-")))
    redis.flushall()
    url = f"sqlite:///{folder / 'openremedy.db'}"
    stack = Stack(folder, url, redis.url, ENCRYPTION_KEY)
    secret_key = stack.environment["SECRET_KEY"]
    app = create_app(make_settings(folder, url, redis_url=redis.url, secret_key=secret_key))
    logging.disable(logging.WARNING)
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        people.create_user(db.session(), BOSS, PASSWORD, None, None)
    ending.callback(stack.stop)
    things, admin = WORLDS[name](stack, app)
    # The texts of the hostile world wait for nobody's verdict but those that it brought.
    stack.start("web", *(() if name == "hostile" else ("worker",)))
    return World(name, stack, app, things, admin)


def main() -> int:
    """All three worlds, or one; 1 when something was wrong."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--only", choices=WORLDS)
    asked.add_argument("--folder", type=Path)
    told = asked.parse_args()
    folder: Path = told.folder or Path(tempfile.mkdtemp(prefix="openremedy-screenshots-"))
    program = shutil.which("chromium") or servers.missing("chromium", "apt-get install chromium")
    wrong: list[str] = []
    with servers.redis() as redis, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(program))
        for name in [told.only] if told.only else WORLDS:
            with ExitStack() as ending:
                wrong += pictures(browser, service(name, redis, ending), folder)
        browser.close()
    print("\n".join(wrong))
    print(f"{len(list(folder.glob('*/*')))} pictures are in {folder}; {len(wrong)} things were wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
