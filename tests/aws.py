"""A stand-in for Amazon SNS: it signs, publishes its certificates over real TLS, and is asked to confirm.

Its hosts have their real names, certified by an authority of its own that only the way made here believes in; nothing
of the service itself is loosened. As a program (`python tests/aws.py PORT FILE`) it is a worker with that way.
"""

import base64
import json
import ssl
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from openremedy.fetching import Fetcher

REGION = "eu-central-1"
HOST = f"sns.{REGION}.amazonaws.com"
TOPIC = f"arn:aws:sns:{REGION}:210987654321:oncall"
NAME = "SimpleNotificationService-00112233445566778899aabbccddeeff.pem"
NOTIFICATION = "Message MessageId Subject Timestamp TopicArn Type".split()
ASKING = "Message MessageId SubscribeURL Timestamp Token TopicArn Type".split()
TOKEN = "2336412f37fb687f5d51e6e241d638b0" + "0a" * 40
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def way(port: int, authority: bytes) -> Fetcher:
    """Every host is the stand-in on this port, which must prove its name as AWS would have to."""

    class ToStandIn(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            request.extensions = {**request.extensions, "sni_hostname": request.url.host}
            request.url = request.url.copy_with(host="127.0.0.1", port=port)
            return super().handle_request(request)

    context = ssl.create_default_context(cadata=authority.decode())
    return Fetcher(lambda: ToStandIn(verify=context))


def certificate(
    name: str,
    key: Key,
    issuer: tuple[x509.Name, rsa.RSAPrivateKey] | None = None,
    ended: bool = False,
    alternative: str | None = None,
) -> bytes:
    """As PEM, for this name; of one that has `ended` yesterday, or signed by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0] if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=-1 if ended else 30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(alternative or name)]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


class Aws:
    """One region's SNS."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.authority = certificate("An authority of the tests", self.key)
        self.issuer = (x509.load_pem_x509_certificate(self.authority).subject, self.key)
        self.authority_file = folder / "authority.pem"
        self.authority_file.write_bytes(self.authority)
        self.documents: dict[str, bytes] = {f"/{NAME}": certificate("sns.amazonaws.com", self.key, self.issuer)}
        self.status, self.headers, self.before = 200, dict[str, str](), lambda: None
        self.asked: list[tuple[str, str]] = []
        self.server = self._serve(folder)
        self.port = self.server.server_port
        self.fetcher = way(self.port, self.authority)

    def _serve(self, folder: Path) -> ThreadingHTTPServer:
        aws = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                aws.asked.append((self.headers["Host"], self.path))
                aws.before()
                found = aws.documents.get(self.path)
                body = found or b"<ConfirmSubscriptionResponse/>"
                known = found is not None or self.path.startswith("/?Action=ConfirmSubscription&")
                self.send_response(aws.status if known else 403)
                for name, value in aws.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = folder / "host.pem"
        own = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.write_bytes(own + certificate(HOST, self.key, self.issuer))
        context.load_cert_chain(chain)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def confirmed(self) -> list[tuple[str, str]]:
        """What it was asked to confirm."""
        return [one for one in self.asked if "Action=" in one[1]]

    # ------------------------------------------------------------ what it posts

    def notification(self, message: Any, topic: str = TOPIC, version: str = "2", **changes: Any) -> dict[str, Any]:
        """Signed; of the changes a None leaves a field out."""
        body = {
            "Type": "Notification",
            "MessageId": "5b1c0e9a-7d44-5f0e-9c1e-000000000001",
            "TopicArn": topic,
            "Subject": "Something is wrong",
            "Message": message if isinstance(message, str) else json.dumps(message),
            "Timestamp": "2026-03-02T08:15:31.204Z",
        }
        return self.signed(body | changes, NOTIFICATION, version)

    def question(self, kind: str = "SubscriptionConfirmation", topic: str = TOPIC, **changes: Any) -> dict[str, Any]:
        """Whether the address wants to be subscribed, or that it is not any more."""
        url = f"https://{HOST}/?Action=ConfirmSubscription&TopicArn={topic}&Token={TOKEN}"
        body = {
            "Type": kind,
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "Token": TOKEN,
            "TopicArn": topic,
            "Message": "You have chosen to subscribe.\nVisit the SubscribeURL.",
            "SubscribeURL": url,
            "Timestamp": "2026-03-02T08:00:00.000Z",
        }
        return self.signed(body | changes, ASKING, "2")

    def signed(
        self, body: Mapping[str, Any], names: list[str], version: str, key: rsa.RSAPrivateKey | None = None
    ) -> dict[str, Any]:
        """The body as it is sent; what is signed is put together here on purpose and not by the adapter."""
        body = {name: value for name, value in body.items() if value is not None}
        text = "".join(f"{name}\n{body[name]}\n" for name in names if name in body)
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303 - what SNS calls version 1
        signature = (key or self.key).sign(text.encode(), padding.PKCS1v15(), algorithm)
        return (
            {"SigningCertURL": f"https://{HOST}/{NAME}"}
            | body
            | {
                "SignatureVersion": version,
                "Signature": base64.b64encode(signature).decode(),
            }
        )


def headers(body: Mapping[str, Any], **changes: str) -> dict[str, str]:
    """Those that SNS sends."""
    return {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-Amz-Sns-Message-Type": str(body.get("Type")),
        "X-Amz-Sns-Message-Id": str(body.get("MessageId")),
        "X-Amz-Sns-Topic-Arn": str(body.get("TopicArn")),
        "User-Agent": "Amazon Simple Notification Service Agent",
    } | changes


def worker(port: int, authority: Path) -> None:
    """A worker as it is, but for its way to AWS and for how long it keeps what it has taken."""
    from openremedy import follow_ups, workers
    from openremedy.app import create_app
    from openremedy.services import services

    follow_ups.LEASE = timedelta(seconds=3)
    follow_ups.FIRST_PAUSE = timedelta(seconds=1)
    app = create_app(fetcher=way(port, authority.read_bytes()))
    with app.app_context():
        workers.run(services().settings, burst=False)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
