"""Which pages the browser opens: every page of the table in tests/ui_routes.py, and what is shown in place of one."""

from collections.abc import Mapping
from dataclasses import dataclass

from flask import Flask

from ui_routes import ADMIN, ANYONE, NOBODY, ROUTES, SUPERADMIN, Page, whom
from ui_world import expected, fill_in, url_of


@dataclass(frozen=True)
class Shown:
    """A page to open: who opens it and where it is; the address may name things."""

    name: str
    who: str
    endpoint: str | None = None
    path: str = ""
    status: int = 200

    def paths(self, app: Flask, things: Mapping[str, str]) -> list[str]:
        """Its addresses with these things in them. Raises KeyError where one is missing."""
        return [self.path_of(app, things, way) for way in self.ways()]

    def ways(self) -> list[Mapping[str, str]]:
        """What its entry says of it, and what else it says to look at."""
        route = ROUTES.get(self.endpoint or "", Page())
        return [route.at, *(route.also if isinstance(route, Page) else ())]

    def path_of(self, app: Flask, things: Mapping[str, str], way: Mapping[str, str]) -> str:
        """Its address in one of these ways."""
        if self.endpoint is None:
            return fill_in(self.path, things)
        (rule,) = app.url_map.iter_rules(self.endpoint)
        return url_of(rule, things, way)


def _who(endpoint: str) -> str:
    """Who sees the most of it. Some pages lead those on who have nothing to choose there."""
    order = (NOBODY, ADMIN, SUPERADMIN) if whom(endpoint) == ANYONE else (ADMIN, SUPERADMIN)
    return next(name for name in order if expected(name, endpoint) == 200)


PAGES = [
    Shown(endpoint.removeprefix("ui."), _who(endpoint), endpoint)
    for endpoint, route in sorted(ROUTES.items())
    if isinstance(route, Page) and not route.not_a_page
]
INSTEAD = [
    Shown("not-found", ADMIN, path="/t/{tenant_slug}/no/such/page", status=404),
    Shown("link-used-up", NOBODY, path="/link/no-such-token", status=404),
]
