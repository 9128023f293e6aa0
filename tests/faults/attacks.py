"""What attackers send to the documented proxy while the alerts of others must get through."""

import gzip
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from urllib.parse import urlsplit

from cast import sign
from faults.senders import Tenant

AT_ONCE = 8  # attackers of a flood
TIMEOUT = 20.0  # seconds
MEGABYTE = 1 << 20

Request = Callable[[], Iterable[bytes]]


@contextmanager
def idle(url: str, count: int) -> Iterator[None]:
    """So many connections that are opened and say nothing; whom the proxy puts out comes back each second."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ended = threading.Event()
    with ExitStack() as kept:
        held = [kept.enter_context(_connection(url)) for _ in range(count)]

        def come_back() -> None:
            while not ended.wait(1):
                for number, one in enumerate(held):
                    if _put_out(one):
                        one.close()
                        held[number] = kept.enter_context(_connection(url))

        thread = threading.Thread(target=come_back)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _put_out(one: socket.socket) -> bool:
    try:
        return one.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def dribble(url: str, count: int, seconds: float) -> None:
    """Half of them send a header, half a body, a byte a second; whom the proxy puts out is gone."""
    header = b"POST /api/v1/webhooks/alerts/alice HTTP/1.1\r\nHost: openremedy\r\n"
    body = header + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with ExitStack() as kept:
        held = [kept.enter_context(_connection(url)) for _ in range(count)]
        for number, one in enumerate(held):
            one.sendall(header + b"X-Slow: " if number % 2 else body)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for one in held:
                with suppress(OSError):
                    one.sendall(b"x")
            time.sleep(1)


def flood(url: str, requests: Iterable[Request], seconds: float, *expected: int) -> list[str]:
    """One request after another by several at once; returns a remark on every answer that is not expected, and where
    none is: then the attack has met something else than what it was made for.
    """
    kinds = list(requests)
    until = time.monotonic() + seconds
    answers: list[bytes] = []

    def attack(start: int) -> None:
        for request in cycle(kinds[start % len(kinds) :] + kinds[: start % len(kinds)]):
            if time.monotonic() > until:
                return
            answers.append(_answer(url, request))

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(AT_ONCE)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    right = {b"%d" % status for status in expected}
    remarks = [f"an attacker was answered {one.decode()}" for one in sorted({*answers} - right - {b""})]
    return remarks + [f"nobody was answered {one.decode()}" for one in sorted(right - {*answers})]


def _answer(url: str, request: Request) -> bytes:
    """The status, or nothing where the connection was closed before there was one."""
    with _connection(url) as one, suppress(OSError):
        with suppress(OSError):  # closed while we still send: the answer may stand there all the same
            for piece in request():
                one.sendall(piece)
        return one.recv(12)[9:12]
    return b""


def _connection(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((str(where.hostname), where.port or 80), timeout=TIMEOUT)


# ---------------------------------------------------------------- requests


def _post(tenant: str, *lines: str) -> bytes:
    first = f"POST /api/v1/webhooks/alerts/{tenant} HTTP/1.1"
    return "\r\n".join((first, "Host: openremedy", "Content-Type: application/json", *lines, "", "")).encode()


def headers() -> list[Request]:
    """Many, long, one endless, and a long address."""
    many = _post("alice", "Content-Length: 0", *(f"X-Flood-{number}: {'x' * 60}" for number in range(400)))
    long = _post("alice", "Content-Length: 0", *(f"X-Flood-{number}: {'x' * 7_000}" for number in range(4)))
    address = _post("a" * 7_500, "Content-Length: 0")
    return [lambda: [many], lambda: [long], lambda: [address], lambda: [many[:-4], *[b"x" * 65_536] * 16]]


def bodies() -> list[Request]:
    """Too large by a little and by far, with the length told and with chunks."""
    little, far = MEGABYTE * 11 // 2, MEGABYTE * 64
    chunk = b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE)
    chunked = _post("alice", "Transfer-Encoding: chunked")
    return [
        lambda: [_post("alice", f"Content-Length: {little}"), *[b" " * (MEGABYTE // 2)] * 11],
        lambda: [_post("alice", f"Content-Length: {far}"), *[b" " * MEGABYTE] * 64],
        lambda: [chunked, *[chunk] * 64, b"0\r\n\r\n"],
    ]


def bombs(tenant: Tenant) -> list[Request]:
    """A hundred megabytes in a hundred kilobytes."""
    bomb = gzip.compress(bytes(100 * MEGABYTE))
    return [_whole(tenant, bomb, f"Content-Encoding: {coding}") for coding in ("gzip", "deflate", "br", "zstd")]


def nonsense(tenant: Tenant) -> list[Request]:
    """Deep, wide, long and not even text."""
    return [
        _whole(tenant, raw)
        for raw in (
            b"[" * 1_000_000,
            b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
            b'{"evidence":{"n":' + b"9" * 1_000_000 + b"}}",
            json.dumps({f"k{number}": number for number in range(200_000)}).encode(),
            b'{"hostname":"' + b"\\u0000" * 500_000 + b'"}',
            os.urandom(MEGABYTE),
        )
    ]


def forged(tenant: Tenant) -> list[Request]:
    """A right body with somebody else's signature, for a tenant that is there and one that is not."""
    raw = b'{"hostname":"forged","incident_type":"disk_full","evidence":{}}'
    wrong = f"X-OpenRemedy-Signature: {sign('of nobody', raw)}"
    posts = [_post(slug, f"Content-Length: {len(raw)}", wrong) + raw for slug in (tenant.slug, "nobody-at-all")]
    return [partial(list, [one]) for one in posts]


def _whole(tenant: Tenant, raw: bytes, *lines: str) -> Request:
    signature = f"X-OpenRemedy-Signature: {sign(tenant.secret, raw)}"
    return lambda: [_post(tenant.slug, f"Content-Length: {len(raw)}", signature, *lines), raw]
