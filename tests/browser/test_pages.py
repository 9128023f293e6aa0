"""Every page there is, wide and on a phone, light and dark: accessible, light, and quiet in the console."""

from collections.abc import Callable

import pytest

from browser import axe, looking
from browser.ground import Ground
from browser.pages import INSTEAD, PAGES, Shown
from browser.tabs import PHONE_LIGHT, WIDE_LIGHT, Look, Tab


@pytest.mark.parametrize("look", [WIDE_LIGHT, PHONE_LIGHT], ids=lambda look: look.name)
@pytest.mark.parametrize("shown", [*PAGES, *INSTEAD], ids=lambda shown: shown.name)
def test_a_page_is_as_every_page_must_be(ground: Ground, browse: Callable[..., Tab], look: Look, shown: Shown) -> None:
    tab = browse(shown.who, look)
    for path in shown.paths(ground.app, ground.things):
        with looking.weighed(tab.page) as bytes_of:
            tab.open(path, shown.status)
        assert sum(bytes_of) < looking.MOST_BYTES
        assert bytes_of, "nothing was weighed"
        assert not (found := looking.without_head(tab.page) + looking.too_wide(tab.page)), "\n".join(found)
        assert not (found := looking.foreign(tab.page)), "\n".join(found)
        assert not (found := axe.violations(tab.page)), "\n".join(found)
        with tab.in_the_dark():
            assert not (found := axe.violations(tab.page, axe.OF_COLOURS)), "\n".join(["in the dark:", *found])
