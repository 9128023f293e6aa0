"""How a tool is connected, in words and in what is pasted: what an adapter brings for the page of a source. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

PORTS = {"https": 443, "http": 80}
PLACEHOLDER = "YOUR-TOKEN"
TEST_HOST = "openremedy-test"  # of which every test alert is
_PLACE = re.compile(r"\{(?:url|scheme|host|path|token)\}")

# (host name, time, whether it is the end): a body as the tool sends it, of one alert that begins, or that began then
# and is over. Two of different times are two alerts.
Sample = Callable[[str, datetime, bool], dict[str, Any]]


@dataclass(frozen=True)
class SetupStep:
    """One step of connecting the tool. `snippet` is what is pasted, `text` what to know about it.

    In both, these are replaced by what they are for the source, as plain text: {url} where the tool posts to,
    {scheme}, {host} (with its port) and {path} of it, and {token}. Every other brace stays as it is.
    """

    title: str
    text: str = ""
    snippet: str = ""


# What is true of every adapter.
ANY_TOOL = (
    SetupStep("Let the tool post its own notifications to this address", "", "{url}"),
    SetupStep(
        "Give it the token",
        "As a bearer token, as below; as the password of HTTP Basic with any user; or in the header "
        "X-OpenRemedy-Token. Never in the URL.",
        "Authorization: Bearer {token}",
    ),
)


def places(url: str, token: str | None = None) -> Mapping[str, str]:
    """What stands for each place in the steps of a source with this address."""
    parts = urlsplit(url)
    host = parts.netloc if parts.port else f"{parts.netloc}:{PORTS[parts.scheme]}"
    return {
        "{url}": url,
        "{scheme}": parts.scheme,
        "{host}": host,
        "{path}": parts.path,
        "{token}": token or PLACEHOLDER,
    }


def filled(steps: Iterable[SetupStep], known: Mapping[str, str]) -> list[SetupStep]:
    """The steps with what is known put in, once: what was put in is not looked at again."""

    def put(text: str) -> str:
        return _PLACE.sub(lambda found: known[found[0]], text)

    return [replace(one, text=put(one.text), snippet=put(one.snippet)) for one in steps]
