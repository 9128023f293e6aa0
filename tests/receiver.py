"""A real local HTTP server that takes outgoing messages: a stand-in for a chat or an automation engine."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answering = Callable[[int], tuple[int, dict[str, str]]]  # the number of the request: the status and headers


@dataclass(frozen=True)
class Taken:
    """One request."""

    path: str
    headers: dict[str, str]  # by lower-case name
    body: bytes


class Receiver:
    """`answers` says what is answered; `held` makes requests wait until it is set."""

    def __init__(self, answers: Answering = lambda _number: (204, {})) -> None:
        self.answers = answers
        self.held: threading.Event | None = None
        self.taken: list[Taken] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str]]:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        with self._lock:
            self.taken.append(Taken(request.path, headers, body))
            number = len(self.taken)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        if self.held:
            self.held.wait(30)
        with self._lock:
            self._at_once -= 1
        return self.answers(number)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                status, headers = receiver.take(self)
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests look at `taken`."""

        return Handler
