"""Texts that want to be more than text, in every place that foreign text can get to, opened in the browser.

What they could have become if one page took one of them for markup is what `looking.foreign` and the tab notice.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import select

from browser import looking
from browser.ground import Ground, ground_of
from browser.pages import PAGES, Shown
from browser.tabs import Tab
from hostile import HOSTILE, World, hostile_world
from openremedy.extensions import db
from openremedy.models import Delivery, Incident, Tenant
from services import RedisServer
from ui_routes import ADMIN

ADAPTERS = ("canonical", "alertmanager", "grafana", "datadog", "pagerduty")
PLAIN = [text for text in HOSTILE if text.isprintable()]
Browse = Callable[..., Tab]


@pytest.fixture(scope="module")
def ground(
    browser: Browser, redis_server: RedisServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """Without a worker: some verdicts are as a model could have written them."""
    folder = tmp_path_factory.mktemp("hostile")
    with ground_of(browser, redis_server, sqlite_template, folder, "web") as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def world(ground: Ground) -> World:
    """Alice's tenant, full of them."""
    with ThreadPoolExecutor(1) as aside:  # in this thread runs the loop of the browser's driver
        return aside.submit(hostile_world, ground.cast.tenants[ADMIN]).result()


def _hers() -> int:
    return int(db.session.scalars(select(Tenant.id).where(Tenant.slug == ADMIN)).one())


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
def test_no_page_takes_a_text_for_markup_and_none_is_wider_than_a_phone_for_it(
    ground: Ground, browse: Browse, shown: Shown
) -> None:
    tab = browse(shown.who)
    for path in shown.paths(ground.app, ground.things):
        tab.open(path, shown.status)
        check(tab)
        with tab.as_on_a_phone():
            check(tab)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_incident_through_each_adapter_shows_the_texts_as_they_are(
    ground: Ground, browse: Browse, adapter: str
) -> None:
    with ground.app.app_context():
        found = select(Incident.id).where(Incident.tenant_id == _hers(), Incident.adapter == adapter)
        ids = db.session.scalars(found.order_by(Incident.id)).all()
    assert len(ids) >= len(HOSTILE)
    tab, seen = browse(ADMIN), ""
    for incident_id in ids:
        tab.open(f"/t/{ADMIN}/incidents/{incident_id}")
        seen += check(tab)
    assert [text for text in PLAIN if text.strip() not in seen] == []


def test_a_recipe_shows_the_texts_as_they_are(world: World, browse: Browse) -> None:
    tab, seen = browse(ADMIN), ""
    for slug in world.recipes:
        for page in ("", "/edit"):
            tab.open(f"/t/{ADMIN}/recipes/{slug}{page}")
            seen += check(tab)
    assert [text for text in PLAIN if text.strip() not in seen] == []


def test_a_source_of_a_hostile_name_shows_it_as_it_is(world: World, browse: Browse) -> None:
    tab = browse(ADMIN)
    for source_id in world.sources:
        tab.open(f"/t/{ADMIN}/sources/{source_id}")
        check(tab)


def test_an_outgoing_message_shows_names_bodies_and_reasons_as_they_are(world: World, browse: Browse) -> None:
    tab, seen = browse(ADMIN), ""
    assert world.messages
    for path in world.messages:
        for one in (path, path.partition("/messages/")[0]):
            tab.open(f"/t/{ADMIN}/{one}")
            seen += check(tab)
    assert "evil.example" in seen


def test_a_delivery_shows_bodies_and_headers_as_they_are(ground: Ground, browse: Browse) -> None:
    with ground.app.app_context():
        found = select(Delivery.id).where(Delivery.tenant_id == _hers())
        refused = db.session.scalars(found.where(Delivery.accepted.is_(False))).all()
        taken = db.session.scalars(found.where(Delivery.accepted).limit(20)).all()
    tab, seen = browse(ADMIN), ""
    for delivery_id in [*refused, *taken]:
        tab.open(f"/t/{ADMIN}/deliveries/{delivery_id}")
        seen += check(tab)
    assert [text for text in HOSTILE[:18] if text not in seen and text.isprintable()] == []


def check(tab: Tab) -> str:
    """Nothing on the page is more than text, and nothing makes it scroll sideways; returns what there is to read."""
    found = looking.foreign(tab.page) + looking.too_wide(tab.page)
    assert not found, "\n".join([tab.path, *found])
    tab.check()
    read: str = tab.page.evaluate(
        "() => document.body.textContent + [...document.querySelectorAll('input, textarea')].map((e) => e.value).join()"
    )
    return read


def test_a_text_that_turns_the_direction_turns_none_of_our_words(ground: Ground, browse: Browse) -> None:
    evil = "evil\u202egpj.exe"
    for kind in ("disk_full", "cpu_high"):
        evidence = {"mount\u202e": "/var", "list\u202e": [1]}
        sent = ground.stack_send(hostname=evil, incident_type=kind, severity="high", evidence=evidence)
    tab, seen = browse(ADMIN), ""
    for path in (f"incidents/{sent['incident_id']}", "incidents?q=evil", "deliveries"):
        tab.open(f"/t/{ADMIN}/{path}")
        seen += tab.page.inner_text("body")
        for words in ("disk full", "CPU high", "entry", "ago"):
            assert not (found := looking.backwards(tab.page, words)), "\n".join([path, words, *found])
    assert f"{evil}: disk full" in seen, "among the related"
