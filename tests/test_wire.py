"""The canonical endpoint behind its real server: what no test client can send, byte by byte."""

import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
import requests
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, text

from cast import DISK_FULL, sign
from openremedy.tether import die_with_parent
from services import RedisServer, children, free_port, until
from stack import ROOT, Stack

MAX_BODY = 2000
BODY = json.dumps(DISK_FULL).encode()
PATH = "/api/v1/webhooks/alerts/alice"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, redis_server: RedisServer
) -> Iterator[Stack]:
    """One gunicorn for all tests here; its worker and scheduler are not needed."""
    folder = tmp_path_factory.mktemp("wire")
    database = copy(sqlite_template, folder / "openremedy.db")
    running = Stack(folder, f"sqlite:///{database}", redis_server.url, Fernet.generate_key().decode())
    running.environment["OPENREMEDY_MAX_BODY_BYTES"] = str(MAX_BODY)
    running.secret = running.flask("tenant", "create", "alice")["webhook_secret"]
    running.start("web")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _server_outlives_it(server: Stack) -> Iterator[None]:
    yield
    assert send(server, BODY).startswith(b"HTTP/1.1 202"), "the server takes alerts afterwards"


def connect(server: Stack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def talk(server: Stack, sent: bytes) -> bytes:
    """Everything the server says to these bytes until it closes the connection."""
    with connect(server) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        return hear(connection)


def hear(connection: socket.socket, whole: bool = True) -> bytes:
    """What comes until the connection is closed, or until one answer is complete."""
    heard = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            heard += part
            headers, _, body = heard.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", headers)
            if not whole and length and len(body) >= int(length[1]):
                break
    return heard


def head(*lines: str | bytes, target: str = PATH, version: str = "1.1", close: bool = True) -> bytes:
    """The head of a POST with these header lines."""
    wanted = [f"POST {target} HTTP/{version}", "Host: localhost", *(["Connection: close"] if close else []), *lines]
    return b"\r\n".join(line.encode() if isinstance(line, str) else line for line in wanted) + b"\r\n\r\n"


def signature(server: Stack, body: bytes) -> str:
    return f"X-OpenRemedy-Signature: {sign(server.secret, body)}"


def send(server: Stack, body: bytes, *lines: str | bytes) -> bytes:
    return talk(server, head(signature(server, body), f"Content-Length: {len(body)}", *lines) + body)


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error(answer: bytes) -> dict[str, object]:
    """The error in an answer of ours (and not of the server before us)."""
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in headers
    found: dict[str, object] = json.loads(body)["error"]
    return found


# ---------------------------------------------------------------- chunked bodies


def test_a_chunked_body_is_taken(server: Stack) -> None:
    sent = head(signature(server, BODY), "Transfer-Encoding: chunked") + chunked(BODY[:10], BODY[10:11], BODY[11:])
    assert status(talk(server, sent)) == 202


def test_a_chunked_body_at_the_limit_is_taken(server: Stack) -> None:
    body = BODY.ljust(MAX_BODY)
    sent = head(signature(server, body), "Transfer-Encoding: chunked") + chunked(body)
    assert status(talk(server, sent)) == 202


@pytest.mark.parametrize("length", [MAX_BODY + 1, MAX_BODY + 2, 10 * MAX_BODY, 1_000_000])
def test_a_chunked_body_over_the_limit_is_413_and_not_cut(server: Stack, length: int) -> None:
    # The signature is right for what is left when the body is cut at the limit.
    body = BODY.ljust(length)
    sent = head(signature(server, body[:MAX_BODY]), "Transfer-Encoding: chunked") + chunked(body)
    answer = talk(server, sent)
    assert status(answer) == 413
    assert error(answer)["code"] == "too_large"


def test_a_declared_length_over_the_limit_is_413_before_the_body_is_there(server: Stack) -> None:
    with connect(server) as connection:
        connection.sendall(head("Content-Length: 10000000", close=False))
        answer = hear(connection, whole=False)
    assert status(answer) == 413
    assert error(answer)["code"] == "too_large"


@pytest.mark.parametrize(("target", "answered"), [(PATH, 413), ("/healthz", 405), ("/nowhere", 404)])
def test_who_sends_everything_before_it_listens_hears_the_refusal_and_may_go_on(
    server: Stack, target: str, answered: int
) -> None:
    """As nginx does: a connection that breaks while it sends is a dead host to it, and the hosts are soon all dead."""
    raw = b" " * 6_000_000
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(head(f"Content-Length: {len(raw)}", target=target, close=False) + raw)
            assert status(hear(connection, whole=False)) == answered


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhel",
        b"5\r\nhello!!\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_broken_chunks_are_400(server: Stack, body: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + body)
        connection.shutdown(socket.SHUT_WR)
        answer = hear(connection, whole=False)
    assert status(answer) in (400, 413)
    assert error(answer)["code"] in ("invalid_json", "too_large")


def test_a_body_that_breaks_off_is_refused(server: Stack) -> None:
    with connect(server) as connection:
        connection.sendall(head(signature(server, BODY), f"Content-Length: {len(BODY)}") + BODY[:20])
        connection.shutdown(socket.SHUT_WR)
        answer = hear(connection, whole=False)
    assert status(answer) in (400, 401)


def test_neither_length_nor_chunks_is_an_empty_body(server: Stack) -> None:
    answer = talk(server, head(signature(server, b"")))
    assert status(answer) == 400
    assert error(answer)["code"] == "invalid_json"


# ---------------------------------------------------------------- heads that smuggle


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5, 6",),
        ("Content-Length: -1",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length: five",),
        ("Content-Length : 5",),
        ("Content-Length: 5", " folded: line"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Bad Header: x", "Content-Length: 0"),
        (b"X-Nul: a\x00b", "Content-Length: 0"),
        (b"X-Return: a\rb", "Content-Length: 0"),
        ("Expect: 200-ok", "Content-Length: 0"),
        ("no colon at all",),
    ],
)
def test_an_ambiguous_head_is_refused(server: Stack, lines: tuple[str | bytes, ...]) -> None:
    # A second request hides in the body; exactly one answer may come back.
    answer = talk(server, head(*lines, close=False) + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert 400 <= status(answer) < 502
    assert status(answer) != 500
    assert answer.count(b"HTTP/1.1 ") == 1


def asked(server: Stack, *lines: str) -> bytes:
    """What a page that wants a sign-in answers, but for what is another each time."""
    sent = "\r\n".join(["GET /account HTTP/1.1", "Host: localhost", "Connection: close", *lines])
    answer = talk(server, sent.encode() + b"\r\n\r\n")
    return re.sub(rb"(Date|X-Request-ID): [^\r]*", b"", answer)


@pytest.mark.parametrize(
    "lines",
    [
        ("SCRIPT_NAME: /evil",),
        ("PATH_INFO: /healthz",),
        ("REMOTE_USER: root", "REMOTE_ADDR: 192.0.2.1"),
        ("X-Script-Name: /evil", "X-Forwarded-Prefix: /evil", "X-Forwarded-Port: 1"),
        ("X-Forwarded-Host: evil.example", "X-Forwarded-Server: evil.example"),
        ("Forwarded: for=192.0.2.1;host=evil.example;proto=https",),
        ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
        ("X-Forwarded-Protocol: ssl",),
        ("X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"),
        ("X-Request-ID: 00000000000000000000000000000000", "X-Correlation-ID: 0"),
    ],
)
def test_no_header_leads_a_request_elsewhere_or_speaks_for_a_proxy(server: Stack, lines: tuple[str, ...]) -> None:
    plain = asked(server)
    assert status(plain) == 302
    assert asked(server, *lines) == plain
    assert b"0" * 32 not in talk(server, head(*lines, "Content-Length: 0"))


def test_a_signature_behind_the_body_is_none(server: Stack) -> None:
    """In a trailer it comes when the body has been read."""
    for name in ("X-OpenRemedy-Signature", "Content-Length"):
        line = signature(server, BODY).replace("X-OpenRemedy-Signature", name)
        body = chunked(BODY).removesuffix(b"\r\n") + line.encode() + b"\r\n\r\n"
        assert status(talk(server, head("Transfer-Encoding: chunked", f"Trailer: {name}") + body)) in (400, 401)


def test_a_coded_transfer_is_refused(server: Stack) -> None:
    answer = talk(server, head(signature(server, BODY), "Transfer-Encoding: gzip, chunked") + chunked(BODY))
    assert status(answer) == 415


@pytest.mark.parametrize("count", [65, 1000])
def test_too_many_headers_are_refused(server: Stack, count: int) -> None:
    assert status(talk(server, head(*[f"X-{number}: y" for number in range(count)]))) in (400, 431)


def test_a_header_of_ten_kilobytes_is_refused(server: Stack) -> None:
    assert status(talk(server, head("X-OpenRemedy-Signature: sha256=" + "f" * 10_000))) in (400, 431)


def test_a_very_long_path_is_refused(server: Stack) -> None:
    assert status(talk(server, head(target="/" + "x" * 100_000))) in (400, 414)


# ---------------------------------------------------------------- odd but legal


def test_signatures_sent_twice_are_401_even_when_one_is_right(server: Stack) -> None:
    right, wrong = signature(server, BODY), signature(server, b"other")
    length = f"Content-Length: {len(BODY)}"
    for lines in ((right, wrong), (wrong, right), (right, right)):
        assert status(talk(server, head(*lines, length) + BODY)) == 401


def test_a_header_with_underscores_is_not_the_signature(server: Stack) -> None:
    line = signature(server, BODY).replace("X-OpenRemedy-Signature", "X_OpenRemedy_Signature")
    assert status(talk(server, head(line, f"Content-Length: {len(BODY)}") + BODY)) in (400, 401)


def test_bytes_beyond_ascii_in_the_signature_are_401(server: Stack) -> None:
    for value in (b"sha256=\xc3\xa9", b"sha256=\xff\xfe", b"\xed\xa0\x80"):
        answer = talk(server, head(b"X-OpenRemedy-Signature: " + value, f"Content-Length: {len(BODY)}") + BODY)
        assert status(answer) == 401


def test_http_1_0_is_served(server: Stack) -> None:
    sent = head(signature(server, BODY), f"Content-Length: {len(BODY)}", version="1.0") + BODY
    assert status(talk(server, sent)) == 202
    bare = f"POST {PATH} HTTP/1.0\r\n{signature(server, BODY)}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    assert status(talk(server, bare.encode() + BODY)) == 202


def test_an_absolute_target_is_the_same_endpoint(server: Stack) -> None:
    sent = head(signature(server, BODY), f"Content-Length: {len(BODY)}", target=f"http://evil.example{PATH}") + BODY
    assert status(talk(server, sent)) in (202, 400)


@pytest.mark.parametrize("path", [f"{PATH}/", f"{PATH}%2f", "/api/v1/webhooks/alerts/%61lice"])
def test_an_encoded_path_is_the_same_endpoint(server: Stack, path: str) -> None:
    answer = talk(server, head(signature(server, BODY), f"Content-Length: {len(BODY)}", target=path) + BODY)
    assert status(answer) == 202


@pytest.mark.parametrize("slug", ["ALICE", "..", "%00", "%ff", "x" * 300, "alice%0d%0aX-Evil: 1", "%D0%B0lice"])
def test_a_strange_slug_never_fails_or_redirects(server: Stack, slug: str) -> None:
    target = f"/api/v1/webhooks/alerts/{slug}".replace(" ", "%20")
    answer = talk(server, head(signature(server, BODY), f"Content-Length: {len(BODY)}", target=target) + BODY)
    assert status(answer) in (400, 401, 404)
    assert b"X-Evil" not in answer


def test_a_sender_that_asks_first_is_told_to_continue(server: Stack) -> None:
    with connect(server) as connection:
        lines = (signature(server, BODY), f"Content-Length: {len(BODY)}", "Expect: 100-continue")
        connection.sendall(head(*lines))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(BODY)
        assert status(hear(connection, whole=False)) == 202


def test_a_connection_takes_one_request_after_another(server: Stack) -> None:
    with requests.Session() as session:
        found = [
            session.post(server.url + PATH, data=body, headers={"X-OpenRemedy-Signature": sign(server.secret, BODY)})
            for body in (BODY, b"x", BODY, b"y" * (MAX_BODY + 1), BODY)
        ]
    assert [answer.status_code for answer in found] == [202, 401, 202, 413, 202]


def test_pipelined_requests_are_answered_apart(server: Stack) -> None:
    one = head(signature(server, BODY), f"Content-Length: {len(BODY)}", close=False) + BODY
    last = head("Content-Length: 0")
    answer = talk(server, one + last)
    assert [answer.count(b" 202 "), answer.count(b" 401 ")] == [1, 1]


# ---------------------------------------------------------------- slow and silent


def test_silent_and_slow_senders_do_not_hold_up_others(server: Stack) -> None:
    with contextlib.ExitStack() as open_sockets:
        # Each holds a thread; twelve of them stop a worker, which is why a buffering proxy belongs in front.
        for said in (b"", b"POST /api/v1/webhooks", head("Content-Length: 100", close=False) + b"{}") * 2:
            open_sockets.enter_context(connect(server)).sendall(said)
        began = time.monotonic()
        for _ in range(5):
            assert send(server, BODY).startswith(b"HTTP/1.1 202")
        assert time.monotonic() - began < 4


# ---------------------------------------------------------------- between the processes


def sockets(server: Stack) -> dict[int, int]:
    """How many each web process has."""
    found = dict.fromkeys(children(server.processes["web"].pid), 0)
    for pid in found:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found[pid] += str(link.readlink()).startswith("socket:")
    return found


@contextlib.contextmanager
def connected(server: Stack, count: int) -> Iterator[list[socket.socket]]:
    """Connections that came at once and stay open, each with a request behind it."""
    with contextlib.ExitStack() as kept:
        found = [kept.enter_context(connect(server)) for _ in range(count)]
        for one in found:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all(hear(one, whole=False).startswith(b"HTTP/1.1 200") for one in found)
        yield found


def spread(server: Stack, count: int) -> list[int]:
    """How many of so many connections each process took."""
    before = sockets(server)
    with connected(server, count):
        taken = sorted(held - before[pid] for pid, held in sockets(server).items())
    # One more may be the first to Redis.
    until(lambda: all(held <= before[pid] + 1 for pid, held in sockets(server).items()), "they are closed here, too")
    return taken


def test_connections_that_stay_are_shared_by_the_processes(server: Stack) -> None:
    """Otherwise a processor idles while alerts wait: one process often took nearly all of them."""
    until(lambda: spread(server, 16)[0], "both have started")
    # One that is kept from its processor for a while gets fewer; that is nothing to wait for.
    assert statistics.median(min(spread(server, 32)) for _ in range(7)) >= 12


@contextlib.contextmanager
def only_one(server: Stack) -> Iterator[None]:
    """The other process stands still."""
    still = min(children(server.processes["web"].pid))
    os.kill(still, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(still, signal.SIGCONT)


def test_a_process_that_stands_still_is_not_waited_for(server: Stack) -> None:
    with only_one(server), connected(server, 20):
        pass


def test_nothing_waits_at_a_process_that_is_busy_while_another_is_not(server: Stack) -> None:
    """Also where that has more connections, which come one after another and stay."""
    with contextlib.ExitStack() as slow:
        with only_one(server):
            for _ in range(12):
                slow.enter_context(connect(server)).sendall(head("Content-Length: 100", close=False) + b"{}")
            time.sleep(0.5)  # until they have their threads
        for _ in range(30):
            slow.enter_context(connected(server, 1))


def test_a_process_that_takes_the_place_of_a_dead_one_gets_its_share(server: Stack) -> None:
    with connected(server, 8):
        dead = min(children(server.processes["web"].pid))
        os.kill(dead, signal.SIGKILL)
        until(lambda: dead not in children(server.processes["web"].pid), "it is gone")
    until(lambda: len(children(server.processes["web"].pid)) == 2, "another one is there")
    until(lambda: spread(server, 16)[0] >= 6, "it takes part")


BREAKS = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    yield b"begun"
    raise RuntimeError("in the middle of an answer")
"""
COUNTS = f"""
import runpy
globals().update(runpy.run_path({str(ROOT / "bench/gunicorn.conf.py")!r}))
workers = 1
def pre_request(worker, _request):
    print("held", worker.nr_conns, flush=True)
"""


def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_counted_once(tmp_path: Path) -> None:
    """Gunicorn itself comes to less than none: that process would look idle, and stop with requests in hand."""
    port = free_port()
    (tmp_path / "breaks.py").write_text(BREAKS)
    (tmp_path / "counts.conf.py").write_text(COUNTS)
    command = [sys.executable, "-m", "gunicorn", "--config", "counts.conf.py", "--bind", f"127.0.0.1:{port}"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, "breaks:app"], cwd=tmp_path, stdout=out, stderr=out, preexec_fn=die_with_parent
        )
    url = f"http://127.0.0.1:{port}/"

    def held() -> list[int]:
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=5)
        return [int(count) for count in re.findall(r"held (-?\d+)", (tmp_path / "out").read_text())]

    try:
        until(lambda: len(held()) >= 6, "it has broken six answers")
    finally:
        process.terminate()
        process.wait()
    assert min(held()) >= 1, "each request counts its own connection"


# ---------------------------------------------------------------- afterwards


def test_the_log_tells_no_secret_and_no_body(server: Stack) -> None:
    marker = "HUSH-7f3a"
    body = json.dumps(DISK_FULL | {"evidence": {"text": marker}, marker: 1}).encode()
    talk(server, head("Content-Length: 3", f"Authorization: Bearer {marker}", f"Cookie: {marker}") + b"abc")
    talk(server, head(f"Content-Length: {len(body)}", target=f"{PATH}?token={marker}") + body)
    assert status(send(server, body)) == 202
    log = until(lambda: server.log("web"), "the log is written")
    assert marker not in log
    assert server.secret not in log
    assert sign(server.secret, body).removeprefix("sha256=") not in log
    assert '"event": "request.done"' in log
    assert "Traceback" not in log


def test_a_stop_writes_the_refusals_that_wait(server: Stack) -> None:
    def counted() -> int:
        engine = create_engine(server.environment["DATABASE_URL"])
        with engine.connect() as connection:
            found: int = connection.execute(
                text("SELECT coalesce(sum(count), 0) FROM refusal_counts WHERE reason = 'unauthorized'")
            ).scalar_one()
        engine.dispose()
        return found

    before = until(lambda: counted() or None, "earlier refusals are written")
    for _ in range(10):
        talk(server, head("Content-Length: 0"))
    assert server.end("web") == 0
    found = counted()
    server.start("web")
    assert found >= before + 10
