"""A real local HTTP server that takes spans as OpenTelemetry sends them (OTLP, protobuf over HTTP)."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HANG_SECONDS = 60.0


@dataclass(frozen=True)
class Told:
    """One span, with what it is a part of."""

    name: str
    trace: str
    id: str
    parent: str
    facts: dict[str, Any]
    of: dict[str, Any]  # the process
    links: tuple[str, ...]  # ids of spans
    error: str | None
    seconds: float


class Collector:
    """`hangs`: it takes a connection and never answers."""

    def __init__(self, hangs: bool = False) -> None:
        self.hangs = hangs
        self.released = threading.Event()
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.collector = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Told]:
        """All that has come so far."""
        found = []
        for raw in [*self.raw]:
            for batch in ExportTraceServiceRequest.FromString(raw).resource_spans:
                of = _facts(batch.resource.attributes)
                found += [_told(span, of) for scope in batch.scope_spans for span in scope.spans]
        return found

    def named(self, name: str) -> list[Told]:
        return [one for one in self.spans() if one.name == name]


class _Server(ThreadingHTTPServer):
    collector: Collector
    daemon_threads = True
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        collector = self.server.collector
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if collector.hangs:
            collector.released.wait(HANG_SECONDS)
        assert self.path == "/v1/traces"
        collector.headers.append(dict(self.headers))
        collector.raw.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _told(span: Any, of: dict[str, Any]) -> Told:
    return Told(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _facts(span.attributes),
        of,
        tuple(link.span_id.hex() for link in span.links),
        span.status.message if span.status.code == 2 else None,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _facts(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
