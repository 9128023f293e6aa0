"""The canonical endpoint: reads bytes and a signature off the wire and hands them to the door."""

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from openremedy.addresses import client_key
from openremedy.errors import BadBody, Problem, TooLarge, UnsupportedEncoding
from openremedy.extensions import limiter
from openremedy.intake import Origin, Receipt
from openremedy.services import services
from openremedy.tally import MAX_SAMPLE_BYTES, Refusal

SIGNATURE = "X-OpenRemedy-Signature"
KEPT_HEADERS = ("Content-Type", "Content-Length", "Content-Encoding", "User-Agent", SIGNATURE)
MAX_KEPT_HEADER = 500

blueprint = Blueprint("webhooks", __name__)


def _limit() -> str:
    return f"{services().settings.rate_limit} per minute"


# On the blueprint and not on the view: a limit on the view would run after a before_request of the blueprint.
limiter.limit(_limit, exempt_when=lambda: services().settings.rate_limit == 0)(blueprint)


@blueprint.post("/api/v1/webhooks/alerts/<tenant>", provide_automatic_options=False)
def post_alert(tenant: str) -> ResponseReturnValue:
    """Take one canonical alert: 202 means it is committed."""
    body = read_body()
    refuse_compression()
    receipt = services().door.accept(tenant, body, request.headers.get(SIGNATURE), _origin())
    return _answer(receipt), 202


def read_body() -> bytes:
    """The raw body, never more of it than the limit. Raises TooLarge by the declared, then by the real length."""
    limit = services().settings.max_body_bytes
    # One byte more than allowed: Werkzeug would cut a chunked body silently at its own limit.
    request.max_content_length = limit + 1
    try:
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        body = request.stream.read(limit + 1)
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
    codings = ",".join(request.headers.get(name, "") for name in ("Content-Encoding", "Transfer-Encoding"))
    if {coding.strip().lower() for coding in codings.split(",")} - {"", "identity", "chunked"}:
        raise UnsupportedEncoding("Send the body uncompressed: content and transfer codings are not supported.")


def _origin() -> Origin:
    return Origin(g.request_id, client_key(), _kept_headers())


def _kept_headers() -> dict[str, str]:
    """What is kept of the headers: no credential but the signature, which tells nothing without the secret."""
    return {
        name: request.headers[name].encode("ascii", "backslashreplace").decode()[:MAX_KEPT_HEADER]
        for name in KEPT_HEADERS
        if name in request.headers
    }


def _answer(receipt: Receipt) -> dict[str, object]:
    stored = receipt.outcomes[0]
    return {
        "delivery_id": str(receipt.delivery_id),
        "outcome": stored.outcome,
        "incident_id": str(stored.incident_id) if stored.incident_id else None,
        "warnings": receipt.warnings,
    }


def remember_refusal(problem: Problem) -> None:
    """Keep a refused delivery, if the request was one: counted, and a sample of it. Called by the error handler."""
    tenant = (request.view_args or {}).get("tenant")
    if request.endpoint != "webhooks.post_alert" or tenant is None or problem.status >= 500:
        return
    body: bytes = g.get("body", b"")
    refusal = Refusal(
        slug=tenant,
        reason=problem.code,
        status_code=problem.status,
        message=problem.message,
        request_id=g.request_id,
        remote_addr=client_key(),
        body=body[:MAX_SAMPLE_BYTES],
        body_bytes=request.content_length or len(body),
        headers=_kept_headers(),
    )
    services().tally.refused(refusal)
