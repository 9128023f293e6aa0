"""An identity provider that answers as it should but for one thing, which a real one would never do."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID = "openremedy"
KID = {"kid": "1"}


class Liar:
    """The lies: `claims`, `about` (what it tells of somebody), `metadata`, `answers` (by path: status and body)."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, KID)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.honest()

    def honest(self) -> None:
        """Lie no more."""
        self.nonce = ""
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.claims: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, Any]:
        self.asked.append(path)
        return self.answers.get(path) or (200, self._usual[path]())

    @property
    def _usual(self) -> dict[str, Callable[[], Any]]:
        return {
            "/.well-known/openid-configuration": self._discovery,
            "/jwks": lambda: {"keys": [self.key.as_dict(private=False)]},
            "/token": lambda: {"access_token": "a", "token_type": "Bearer", "id_token": self.sign(self._id_token())},
            "/me": lambda: {"sub": "1", "email": "alice@example.com", "email_verified": True} | self.about,
        }

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "userinfo_endpoint": f"{self.url}/me",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        } | self.metadata

    def _id_token(self) -> dict[str, Any]:
        now = int(time.time())
        right = {"iss": self.url, "sub": "1", "aud": CLIENT_ID, "iat": now, "exp": now + 600, "nonce": self.nonce}
        return {name: value for name, value in (right | self.claims).items() if value is not None}

    def signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256"} | KID, claims, self.key)

    def signed_by_nobody(self, claims: dict[str, Any]) -> str:
        return f"{_unsigned('none', claims)}."

    def signed_with_what_everybody_knows(self, claims: dict[str, Any]) -> str:
        text = _unsigned("HS256", claims)
        return f"{text}.{_base64(hmac.digest(self.key.as_pem(private=False), text.encode(), 'sha256'))}"


def _unsigned(algorithm: str, claims: dict[str, Any]) -> str:
    return ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": algorithm} | KID, claims))


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _handler(liar: Liar) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = liar.answer(self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def lying() -> Iterator[Liar]:
    liar = Liar()
    thread = threading.Thread(target=liar.server.serve_forever)
    thread.start()
    try:
        yield liar
    finally:
        liar.server.shutdown()
        thread.join()
        liar.server.server_close()
