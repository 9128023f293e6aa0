"""The way out to an address that a tenant has chosen: to public addresses only, and never further than that.

The name is resolved here, each address is looked at, and the connection is made to the one that was looked at, so that
a name which changes its mind between two questions gains nothing. No redirects, no proxy, nothing of the answer is kept
but its status and Retry-After.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore2

from openremedy.addresses import is_public
from openremedy.clock import now

TIMEOUT = 15.0  # seconds for all of it
MAX_WAIT = 3600  # seconds of a Retry-After that are honoured


class NotPublic(Exception):
    """An address that nothing is sent to; the message is for people."""


@dataclass(frozen=True)
class Answer:
    """What came of one attempt; `error` where it did not go well."""

    status: int | None = None
    error: str | None = None
    retry_after: int | None = None
    # Nobody was asked, and trying again changes nothing.
    final: bool = False

    @property
    def well(self) -> bool:
        """Whether the other side has taken it."""
        return self.error is None


class _Guarded(httpcore2.AnyIOBackend):
    """Connects to what a name stands for, if all of that is public."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError("the name of the host cannot be resolved") from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        if not all(map(is_public, addresses)):
            raise NotPublic("the host is at a private address; OPENREMEDY_OUTGOING_ALLOW_PRIVATE would allow it")
        failed: httpcore2.ConnectError | None = None
        for address in addresses:  # a host of IPv4 alone may be told an IPv6 one first
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                failed = error
        raise failed or httpcore2.ConnectError("the name of the host stands for no address")


class OutgoingClient:
    """Posts; one per process, for its connections are kept."""

    def __init__(self, *, allow_private: bool, verify: ssl.SSLContext | None = None) -> None:
        self._allow_private = allow_private
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=verify or ssl.create_default_context(),
            max_connections=64,
            keepalive_expiry=10.0,
            network_backend=httpcore2.AnyIOBackend() if allow_private else _Guarded(),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post it once; whatever goes wrong is in the answer."""
        if not (self._allow_private or url.startswith("https://")):
            return Answer(error="its address is not https; OPENREMEDY_OUTGOING_ALLOW_PRIVATE would allow it")
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._post(url, headers, body)
        except NotPublic as error:
            return Answer(error=str(error))
        except (TimeoutError, httpcore2.TimeoutException):
            return Answer(error=f"no answer within {TIMEOUT:.0f} seconds")
        except httpcore2.ConnectError as error:
            return Answer(error=f"cannot be connected to: {_reason(error)}")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
            return Answer(error=f"the connection broke ({type(error).__name__})")  # OSError: TLS after its handshake

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        sent = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        # Its body is not read: nobody is shown it, for it may come from where only we can look.
        async with self._pool.stream("POST", url.encode("ascii"), headers=sent, content=body) as answer:
            told = {name.lower(): value for name, value in answer.headers}
            wait = _seconds(told.get(b"retry-after", b"").decode("latin-1"))
            if 200 <= answer.status < 300:
                return Answer(answer.status)
            moved = ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
            return Answer(answer.status, f"answered {answer.status}{moved}", wait)

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()


def _reason(error: BaseException) -> str:
    """What of an error may be shown: that of the certificate or of the name, no text of the other side."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not valid ({inner.verify_message})"
        if isinstance(inner, ConnectionRefusedError):
            return "it is refused"
        inner = inner.__cause__ or inner.__context__
    return str(error) or type(error).__name__


def _seconds(text: str) -> int | None:
    """The seconds of a Retry-After, which is a number of them or a date."""
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), MAX_WAIT)
    try:
        wait = (parsedate_to_datetime(text) - now()).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0, round(wait)), MAX_WAIT)
