"""axe-core on a page: no violation of any of its rules."""

from functools import cache
from importlib.resources import files
from typing import Any

from playwright.sync_api import Page


@cache
def _source() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def violations(page: Page) -> list[str]:
    """What axe-core finds, in words; its script comes in by the debugger, which no policy of the page stops."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_source())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [_words(one) for one in found["violations"]]


def _words(violation: dict[str, Any]) -> str:
    nodes = "\n".join(
        f"    {' '.join(map(str, node['target']))}\n      {_summary(node)}" for node in violation["nodes"]
    )
    return f"{violation['id']} ({violation['impact']}): {violation['help']}\n{nodes}"


def _summary(node: dict[str, Any]) -> str:
    return "; ".join(line.strip() for line in node["failureSummary"].splitlines()[1:]) + f"\n      {node['html'][:200]}"
