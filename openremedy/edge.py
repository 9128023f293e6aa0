"""What every intake endpoint reads off the wire: the body, who sent it, and what is kept when it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from flask import Response, g
from flask.globals import app_ctx, request_ctx
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from openremedy import meters
from openremedy.addresses import client_key
from openremedy.errors import BadBody, Problem, RateLimited, TooLarge, UnsupportedEncoding
from openremedy.intake import Origin
from openremedy.services import services
from openremedy.tally import MAX_SAMPLE_BYTES, Refusal

KEPT_HEADERS = ("Content-Type", "Content-Length", "Content-Encoding", "User-Agent")
MAX_KEPT_HEADER = 500


@dataclass
class Addressee:
    """Whom the request is for; a refusal is theirs to see. `kept_headers` names what is kept beyond the usual."""

    tenant: str
    adapter: str
    kept_headers: Sequence[str] = ()
    source_id: int | None = None
    token_hashes: Sequence[str] = ()


def is_for(addressee: Addressee) -> None:
    """Say whom this request is for; from here on a refusal is remembered."""
    g.addressee = addressee


def origin() -> Origin:
    """Where this request comes from."""
    kept = app_ctx.g
    return Origin(kept.request_id, client_key(), _kept_headers(kept.addressee))


def read_body() -> bytes:
    """The raw body, never more of it than the limit. Raises TooLarge by the declared, then by the real length."""
    limit = services().settings.max_body_bytes
    asked = request_ctx.request  # itself: flask.request is found anew each time that it is named
    # One byte more than allowed: Werkzeug would cut a chunked body silently at its own limit.
    asked.max_content_length = limit + 1
    try:
        if (asked.content_length or 0) > limit:
            raise _too_large(limit)
        body = asked.stream.read(limit + 1)
    except RequestEntityTooLarge as error:
        raise _too_large(limit) from error
    except (ClientDisconnected, ParseException) as error:  # gunicorn reads the chunks of a body when we do
        raise BadBody("The body did not arrive whole.") from error
    g.body = body
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes.")


def refuse_compression() -> None:
    """Raise UnsupportedEncoding for a compressed body; inflating one would have no bound."""
    named = (header(name) or "" for name in ("Content-Encoding", "Transfer-Encoding"))
    if {coding.strip().lower() for coding in ",".join(named).split(",")} - {"", "identity", "chunked"}:
        raise UnsupportedEncoding("Send the body uncompressed: content and transfer codings are not supported.")


def header(name: str) -> str | None:
    """A header of this request. Werkzeug's own look-up raises and catches an exception for each that is not there."""
    found: str | None = request_ctx.request.environ.get(_variable(name))
    return found


@cache
def _variable(header: str) -> str:
    """What WSGI calls a header (PEP 3333)."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def _kept_headers(addressee: Addressee) -> dict[str, str]:
    """What is kept of the headers: no credential but the signature, which tells nothing without the secret."""
    environ = request_ctx.request.environ
    return {
        name: value.encode("ascii", "backslashreplace").decode()[:MAX_KEPT_HEADER]
        for name in (*KEPT_HEADERS, *addressee.kept_headers)
        if (value := environ.get(_variable(name))) is not None
    }


def accepted(answer: dict[str, Any]) -> Response:
    """That a body is committed, and what became of it."""
    return Response(orjson.dumps(answer) + b"\n", 202, content_type="application/json")


def remember_refusal(problem: Problem) -> None:
    """Keep a refused delivery, if the request was one: counted, and a sample of it. Called by the error handler."""
    addressee: Addressee | None = g.get("addressee")
    if addressee:
        meters.refused(addressee.adapter, problem.code)
    if addressee is None or (problem.status >= 500 and not isinstance(problem, RateLimited)):
        return
    body: bytes = g.get("body", b"")
    refusal = Refusal(
        slug=addressee.tenant,
        adapter=addressee.adapter,
        source_id=addressee.source_id,
        token_hashes=tuple(addressee.token_hashes),
        reason=problem.code,
        status_code=problem.status,
        message=problem.message,
        request_id=g.request_id,
        remote_addr=client_key(),
        body=body[:MAX_SAMPLE_BYTES],
        body_bytes=request_ctx.request.content_length or len(body),
        headers=_kept_headers(addressee),
    )
    services().tally.refused(refusal)
