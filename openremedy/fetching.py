"""One GET of a document over https, from an address that the caller has checked: no redirects, no proxy, bounded."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 5.0  # seconds for each step, and once more for all of them together
MAX_DOCUMENT = 64 * 1024  # bytes


class NoDocument(Exception):
    """Nothing came that can be used; the message is for people."""


@dataclass(frozen=True)
class Fetched:
    """What was answered."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Fetcher:
    """What fetches. `transport` makes the way to the other side; a test has one to a stand-in of its own."""

    transport: "Callable[[], httpx2.BaseTransport] | None" = None

    def get(self, url: str) -> Fetched:
        """The answer, whatever its status. Raises NoDocument."""
        import httpx2  # costs a tenth of a second, and most processes never fetch anything

        if not url.startswith("https://"):
            raise NoDocument("only https is asked")
        began = time.monotonic()
        client = httpx2.Client(
            timeout=TIMEOUT,
            trust_env=False,
            follow_redirects=False,
            # Not compressed, for the bound on its size is a bound on what is read.
            headers={"Accept-Encoding": "identity"},
            transport=self.transport() if self.transport else None,
        )
        try:
            with client, client.stream("GET", url) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > MAX_DOCUMENT:
                        raise NoDocument("the answer is too large")
                    if time.monotonic() - began > TIMEOUT:
                        raise NoDocument(f"the answer was not there after {TIMEOUT:.0f} seconds")
                return Fetched(answer.status_code, body)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NoDocument(f"it cannot be reached ({type(error).__name__})") from error
