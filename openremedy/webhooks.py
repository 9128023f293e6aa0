"""The canonical endpoint: reads bytes and a signature off the wire and hands them to the door."""

from functools import cache
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from limits import RateLimitItem, parse

from openremedy import edge
from openremedy.addresses import client_key
from openremedy.bundles import KEY_PREFIX, BundledMovingWindow
from openremedy.edge import Addressee
from openremedy.extensions import limiter
from openremedy.intake import CANONICAL, Receipt
from openremedy.services import services
from openremedy.signing import HEADER

blueprint = Blueprint("webhooks", __name__)


def _words(rate_limit: int) -> str:
    return f"{rate_limit} per minute"


@blueprint.url_value_preprocessor
def _address(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Before the limiter, so that what it refuses is remembered too."""
    edge.is_for(Addressee((values or {}).get("tenant", ""), CANONICAL, kept_headers=(HEADER,)))


@limiter.limit(lambda: _words(services().settings.rate_limit), exempt_when=lambda: services().settings.rate_limit == 0)
def _charge_caller() -> None:
    """Count a request of the caller."""


@cache
def _item(limit: str) -> RateLimitItem:
    return parse(limit)


def _in_stock(rate_limit: int) -> bool:
    """Whether this process keeps a hit for the caller: then the limiter need not find out what holds for whom.

    It takes longer for that than the alert takes from its bytes to its rows.
    """
    strategy = limiter.limiter
    return isinstance(strategy, BundledMovingWindow) and strategy.in_stock(
        _item(_words(rate_limit)), KEY_PREFIX, client_key(), request.endpoint or ""
    )


@blueprint.post("/api/v1/webhooks/alerts/<tenant>", provide_automatic_options=False)
def post_alert(tenant: str) -> ResponseReturnValue:
    """Take one canonical alert: 202 means it is committed."""
    ours = services()
    if not _in_stock(ours.settings.rate_limit):
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
