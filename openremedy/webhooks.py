"""The canonical endpoint: reads bytes and a signature off the wire and hands them to the door."""

from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from openremedy import edge
from openremedy.addresses import client_key
from openremedy.edge import Addressee
from openremedy.extensions import in_stock, limiter, per_minute
from openremedy.intake import CANONICAL, Receipt
from openremedy.services import services
from openremedy.signing import HEADER

blueprint = Blueprint("webhooks", __name__)


@blueprint.url_value_preprocessor
def _address(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Before the limiter, so that what it refuses is remembered too."""
    edge.is_for(Addressee((values or {}).get("tenant", ""), CANONICAL, kept_headers=(HEADER,)))


@limiter.limit(
    lambda: per_minute(services().settings.rate_limit), exempt_when=lambda: services().settings.rate_limit == 0
)
def _charge_caller() -> None:
    """Count a request of the caller."""


@blueprint.post("/api/v1/webhooks/alerts/<tenant>", provide_automatic_options=False)
def post_alert(tenant: str) -> ResponseReturnValue:
    """Take one canonical alert: 202 means it is committed."""
    ours = services()
    if not in_stock(ours.settings.rate_limit, client_key(), request.endpoint or ""):
        _charge_caller()
    body = edge.read_body()
    edge.refuse_compression()
    receipt = ours.door.accept(tenant, body, edge.header(HEADER), edge.origin())
    return edge.accepted(_answer(receipt))


def _answer(receipt: Receipt) -> dict[str, object]:
    stored = receipt.outcomes[0]
    return {
        "delivery_id": receipt.delivery_id,
        "outcome": stored.outcome,
        "incident_id": stored.incident_id,
        "warnings": receipt.warnings,
    }
