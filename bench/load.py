"""What sends: as fast as it is answered (wrk), or at a fixed rate whatever the answers (an own open loop)."""

import asyncio
import itertools
import json
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "post.lua"
# Twice the threads of gunicorn as shipped: with fewer, one of its processes may get nearly all of them.
CONNECTIONS = 32


def raw_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST as it is on the wire."""
    head = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def prepare(file: Path, requests: Iterable[bytes]) -> None:
    """Write requests for `as_fast_as_possible`."""
    with file.open("wb") as out:
        for request in requests:
            out.write(b"%08d" % len(request) + request)


def prepared(file: Path) -> Iterator[bytes]:
    """The same, read again."""
    with file.open("rb") as source:
        while size := source.read(8):
            yield source.read(int(size))


@dataclass(frozen=True)
class Load:
    """What one run of a sender saw. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class BrokenLoad(Exception):
    """A run that says nothing: an answer was no success, or there was nothing left to send."""


def as_fast_as_possible(url: str, file: Path, seconds: float, connections: int | None = None) -> Load:
    """Post the prepared requests over a few connections, each as soon as the last is answered. Raises BrokenLoad."""
    command = ["wrk", "-t1", f"-c{connections or CONNECTIONS}", f"-d{seconds:.0f}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), url]
    done = subprocess.run([*command, "--", str(file)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["refused"] or found["broken"] or found["short"] or not found["requests"]:
        raise BrokenLoad(f"{url}: {found}")
    return Load(found["requests"], found["micros"] / 1e6, found["p50"] / 1e3, found["p99"] / 1e3)


def at_a_rate(port: int, requests: Iterable[bytes], rate: float, seconds: float) -> Load:
    """Post `rate` requests a second, each at its moment, over as many connections as that takes.

    A latency counts from the moment at which a request was due, so that a stall shows in all that came in it.
    Raises BrokenLoad.
    """
    return asyncio.run(_at_a_rate(port, requests, rate, seconds))


async def _at_a_rate(port: int, requests: Iterable[bytes], rate: float, seconds: float) -> Load:
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies: list[float] = []
    began = time.perf_counter() + 0.1

    async def post(request: bytes, due: float) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length[15:]))
        latencies.append(time.perf_counter() - due)
        idle.append((reader, writer))
        if not head.startswith(b"HTTP/1.1 2"):
            raise BrokenLoad(head.splitlines()[0].decode())

    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(itertools.islice(requests, int(rate * seconds))):
            due = began + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            group.create_task(post(request, due))
    lasted = time.perf_counter() - began
    for _, writer in idle:
        writer.close()
    latencies.sort()
    at = [latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000 for share in (0.5, 0.99)]
    return Load(len(latencies), lasted, *at)
