"""axe-core on a page: no violation of any of its rules."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from playwright.sync_api import Page

# The rules of axe-core that look at colours. What else it finds is the same in the light and in the dark.
OF_COLOURS = ("color-contrast", "link-in-text-block")


@cache
def _source() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def violations(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe-core finds, in words, by all its rules or by these.

    Its script comes in by the debugger, which no policy of the page stops.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_source())
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("(options) => axe.run(document, options)", options)
    return [_words(one) for one in found["violations"]]


def _words(violation: dict[str, Any]) -> str:
    nodes = "\n".join(
        f"    {' '.join(map(str, node['target']))}\n      {_summary(node)}" for node in violation["nodes"]
    )
    return f"{violation['id']} ({violation['impact']}): {violation['help']}\n{nodes}"


def _summary(node: dict[str, Any]) -> str:
    return "; ".join(line.strip() for line in node["failureSummary"].splitlines()[1:]) + f"\n      {node['html'][:200]}"
