"""PUBLIC: all that an adapter may import. What an adapter is, and the endpoint that every adapter gets.

An adapter declares the shape of its tool's bodies and translates one native alert at a time; authentication, limits,
atomicity, signing and answers are the same for all of them and live here.
"""

import base64
import binascii
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

import structlog
from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue
from flask_limiter.errors import RateLimitExceeded
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from openremedy import crypto, edge
from openremedy.alerts import Alert, AlertStatus, IncidentType, Outcome, Severity, compact, parse_json, parse_object
from openremedy.directory import Admitted, Proof, Published, Sender, Verify
from openremedy.edge import Addressee
from openremedy.errors import BadBody, Invalid, RateLimited, TooLarge, TryAgainSoon, Unauthorized, Unavailable
from openremedy.extensions import in_stock, limiter, per_minute
from openremedy.incident_type import incident_type_of, said_type
from openremedy.instructions import ANY_TOOL, Sample, SetupStep
from openremedy.intake import Bundle, Origin, Receipt, Signed, Wanted
from openremedy.models import now
from openremedy.rows import Unplaced
from openremedy.services import services
from openremedy.translation import (
    THINGS_OF,
    UNKNOWN_HOST,
    Ignored,
    Items,
    Mapped,
    Payload,
    Rejected,
    Text,
    Texts,
    Translated,
    Translation,
    Unsupported,
    canonical,
    count_of,
    fingerprint,
    first_host,
    host_labels,
    host_of,
    is_heartbeat,
    left_out,
    port_of,
    severity_of,
    text_of,
    time_of,
    time_of_epoch,
)

__all__ = [
    "ANY_TOOL",
    "THINGS_OF",
    "UNKNOWN_HOST",
    "Adapter",
    "Alert",
    "AlertStatus",
    "Enrichment",
    "FollowUp",
    "Format",
    "Ignored",
    "IncidentType",
    "Items",
    "Mapped",
    "Payload",
    "Published",
    "Rejected",
    "Sample",
    "SetupStep",
    "Severity",
    "Text",
    "Texts",
    "Translated",
    "Translation",
    "Unsupported",
    "count_of",
    "fingerprint",
    "first_host",
    "host_labels",
    "host_of",
    "incident_type_of",
    "is_heartbeat",
    "left_out",
    "object_in",
    "port_of",
    "said_type",
    "severity_of",
    "text_of",
    "time_of",
    "time_of_epoch",
]

log = structlog.get_logger()

TOKEN = "X-OpenRemedy-Token"  # nosec B105 # noqa: S105 - the name of a header
FAILURES = "60 per minute"  # failed authentications of an address
BODIES = "source"  # the limit of how many come from each
MAX_ALERTS = 25_000  # in a body; a body of Alertmanager at the size limit holds some ten thousand
MAX_PARTS = 100  # of a body in several parts
WEBHOOKS = "/api/v1/webhooks"


# ---------------------------------------------------------------- what an adapter declares


def listed(payload: dict[str, Any], _options: Mapping[str, Any]) -> Sequence[Any]:
    """The alerts of an envelope that has them in a list `alerts`."""
    found: Sequence[Any] = payload["alerts"]
    return found


def single(payload: dict[str, Any], _options: Mapping[str, Any]) -> Sequence[Any]:
    """The one alert of a body that is an alert itself."""
    return [payload]


def object_in(body: bytes) -> dict[str, Any]:
    """The JSON object in some bytes, as the door reads it; an empty one for what is none."""
    try:
        return parse_object(body)
    except BadBody:
        return {}


@dataclass(frozen=True)
class FollowUp:
    """That the tool wants to be answered by a request of ours: a worker gets `url` until it is answered with a 200.

    `subject`: what it is about, for people, and once for each of them. `url` is by its whole address one of the tool's
    own; every part of it that comes from the body must be checked. Without one nothing is done, and `words` are shown.
    """

    subject: str
    url: str = field(default="", repr=False)
    words: str = ""


@dataclass(frozen=True)
class Format:
    """One shape of body that a tool posts.

    `payload` declares the fields of the envelope that are read, `alert` those of each alert in it (None: it is given
    as it is). `unwrap(payload, options)` finds the alerts and raises Unsupported with advice for an envelope that is
    none. `translate(alert, payload)` is pure: no request, no database, no clock.
    """

    payload: Schema
    translate: Callable[[Any, dict[str, Any]], Translation]
    unwrap: Callable[[dict[str, Any], Mapping[str, Any]], Sequence[Any]] = listed
    alert: Schema | None = None
    # What an operator should look at when the envelope is not this one.
    advice: str = ""
    # A sentence for people about the body as a whole, such as alerts that the tool has left out of it.
    remark: Callable[[dict[str, Any]], str | None] = lambda _payload: None
    # What a worker does after the body was stored; asked again when it does, with the options of that time.
    follow_up: Callable[[dict[str, Any], Mapping[str, Any]], FollowUp | None] = lambda _payload, _options: None
    # The tool says again that an alert fires, with the start it had, for as long as it does: one that comes long after
    # its end was said burns.
    repeats: bool = False
    # Behind /api/v1/webhooks/<adapter>/<tenant>.
    path: str = ""
    methods: tuple[str, ...] = ("POST",)
    # The body is a JSON list: it becomes the `alerts` of the envelope.
    array: bool = False
    # The tool can be told to send the top level of the body as a form.
    form: bool = False
    # The tool can be told to send the body as JSON in this field of a form of several parts (multipart/form-data).
    form_field: str = ""


@dataclass(frozen=True)
class Enrichment:
    """What a worker asks the tool's own API about a new incident, with a token of the source that may only read.

    `base(options)` is one of the tool's own addresses, never one out of an alert. `path(evidence)` is the path of the
    request, or None when there is nothing to ask; it must check every part that it takes from the evidence.
    `read(answer)` gives what is to be kept; a `hostname` in it becomes the incident's.
    """

    base: Callable[[Mapping[str, Any]], str]
    path: Callable[[Mapping[str, Any]], str | None]
    read: Callable[[Any], dict[str, Any]]
    authorization: Callable[[str], str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """A monitoring tool whose own webhooks we take. `name` is its folder and the word in its URL."""

    name: str
    title: str
    formats: tuple[Format, ...]
    # Whether the tool takes a 429 for "later"; to the others the same is said with 503.
    retries_429: bool = False
    # The tool's own signature, instead of a token.
    verify: Verify | None = None
    # The same where the tool signs with a key that it publishes. One of both.
    published: Published | None = None
    # Headers kept with a delivery beyond the usual; no credential but a signature.
    kept_headers: tuple[str, ...] = ()
    # What an admin may choose per source; every field has a default.
    options: Schema = field(default_factory=Payload)
    enrichment: Enrichment | None = None
    # For the pages of its sources: the tool in a sentence, how it is connected, what to do where a line of the
    # checklist (by its name in openremedy/checklist.py) stays open, and a body for the test alert (None: no test).
    summary: str = "Posts its own notifications."
    setup: tuple[SetupStep, ...] = ANY_TOOL
    hints: Mapping[str, str] = field(default_factory=dict)
    sample: Sample | None = None

    @property
    def blueprint_name(self) -> str:
        """The name of its blueprint, which no other part of the application has."""
        return f"native_{self.name}"

    def blueprint(self) -> Blueprint:
        """The endpoint of this adapter, one rule for each of its formats."""
        blueprint = Blueprint(self.blueprint_name, __name__)
        blueprint.url_value_preprocessor(self._address)
        for number, shape in enumerate(self.formats):
            blueprint.add_url_rule(
                f"{WEBHOOKS}/{self.name}/<tenant>{shape.path}",
                endpoint=f"post_{number}",
                view_func=self._view(shape),
                methods=shape.methods,
                provide_automatic_options=False,
            )
        return blueprint

    def _address(self, _endpoint: str | None, values: dict[str, Any] | None) -> None:
        edge.is_for(Addressee((values or {}).get("tenant", ""), self.name, self.kept_headers))

    def _view(self, shape: Format) -> Callable[[str], ResponseReturnValue]:
        def post(tenant: str) -> ResponseReturnValue:
            return self._receive(shape, tenant)

        return post

    # ------------------------------------------------------------ the way of a body

    def _receive(self, shape: Format, tenant: str) -> ResponseReturnValue:
        """Take one body of the tool: 202 means that all of it is committed."""
        body = edge.read_body()
        edge.refuse_compression()
        admitted = self._admit(tenant, body)
        g.sender = admitted.sender
        if not in_stock(_source_limit(), _source_key(), BODIES):
            _limited(_charge_source, RateLimited if self.retries_429 else TryAgainSoon, "bodies of this source")
        reading = read(shape, body, request.mimetype, admitted.sender.options)
        return edge.accepted(answer(hand_over(admitted.sender, body, reading, edge.origin())))

    def _admit(self, tenant: str, body: bytes) -> Admitted:
        headers = {name.lower(): value for name, value in request.headers}
        proof = Proof(list(_tokens()), body, headers)
        try:
            admitted = services().sources.authenticate(tenant, self.name, proof, self.verify, self.published)
        except Unauthorized:
            g.addressee.token_hashes = [crypto.hashed(token) for token in proof.tokens]
            _limited(_charge_failure, RateLimited, "failed authentications from this address")
            raise
        g.addressee.source_id = admitted.sender.id
        services().tally.source_used(admitted.token_id, admitted.secret_id)
        return admitted


def _limited(charge: Callable[[], None], refusal: type[RateLimited], what: str) -> None:
    """Charge a limit. Raises `refusal` when there were too many of `what`."""
    try:
        charge()
    except RateLimitExceeded as error:
        reset = limiter.current_limit.reset_at if limiter.current_limit else time.time()
        wait = {"Retry-After": str(max(1, int(reset - time.time()) + 1))}
        raise refusal(f"Too many {what}; see Retry-After.", headers=wait) from error


def _tokens() -> Iterator[str]:
    """Every token that the request brings: as bearer, as the password of Basic, in our own header."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    elif scheme.lower() == "basic":
        yield from _password(value)
    if token := request.headers.get(TOKEN, "").strip():
        yield token


def _password(encoded: str) -> Iterator[str]:
    """What comes after the first colon; the password may hold more of them."""
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return
    yield text.partition(":")[2]


def _source_limit() -> int:
    sender: Sender | None = g.get("sender")  # the limiter also asks before there is one, and does not use the answer
    own = sender.rate_limit if sender else None
    return services().settings.source_rate_limit if own is None else own


def _source_key() -> str:
    return str(g.sender.id)


@limiter.shared_limit(
    lambda: per_minute(_source_limit()),
    scope=BODIES,
    key_func=_source_key,
    exempt_when=lambda: _source_limit() == 0,
)
def _charge_source() -> None:
    """Count a body of the source."""


@limiter.shared_limit(FAILURES, scope="failed-authentication")
def _charge_failure() -> None:
    """Count a failed authentication of the address. A good token behind the same address never comes here."""


# ---------------------------------------------------------------- bytes to translations


@dataclass(frozen=True)
class Reading:
    """What an adapter makes of one body: its alerts in their order, a remark about the whole for people, and what it
    asks us to do.
    """

    translations: Sequence[Translation]
    remark: str | None
    follow_up: FollowUp | None = None
    repeats: bool = False


def read(shape: Format, body: bytes, mimetype: str, options: Mapping[str, Any]) -> Reading:
    """Translate a body of this shape, with the options of its source. Raises BadBody, Invalid, TooLarge."""
    payload, entries = _open(shape, body, mimetype, options)
    if len(entries) > MAX_ALERTS:
        raise TooLarge(f"The body holds {len(entries)} alerts; at most {MAX_ALERTS} are taken at once.")
    translations = [translate_entry(shape, entry, payload) for entry in entries]
    return Reading(translations, shape.remark(payload), shape.follow_up(payload, options), shape.repeats)


def _open(
    shape: Format, body: bytes, mimetype: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Sequence[Any]]:
    """The envelope and the alerts in it. Raises BadBody, Invalid."""
    body = _part_of(body, mimetype, shape.form_field) or body
    value: Any = (_form_of(body, mimetype) if shape.form else None) or parse_json(body)
    if shape.array and isinstance(value, list):
        value = {"alerts": value}
    elif shape.array or not isinstance(value, dict):
        raise BadBody(f"The body must be a JSON {'list' if shape.array else 'object'}.", code="not_an_object")
    try:
        payload: dict[str, Any] = shape.payload.load(value)
        return payload, shape.unwrap(payload, options)
    except ValidationError as error:
        raise Invalid(shape.advice or None, code="unsupported_envelope", fields=error.messages_dict) from error
    except Unsupported as error:
        raise Invalid(str(error), code="unsupported_envelope") from error


def _form_of(body: bytes, mimetype: str) -> dict[str, str] | None:
    """The fields of a form, or None for what is none. JSON is JSON, whatever its Content-Type says."""
    if mimetype != "application/x-www-form-urlencoded" or body.lstrip()[:1] in (b"{", b"["):
        return None
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)) or None


def _part_of(body: bytes, mimetype: str, name: str) -> bytes | None:
    """The part of that name in a body of several parts, or None where there is none.

    The boundary is read from the body, because a replay has no more of the Content-Type than its first word.
    """
    if not name or mimetype != "multipart/form-data":
        return None
    boundary = body.partition(b"\r\n")[0].removeprefix(b"--")
    try:
        parser = MultiPartParser(stream_factory=_in_memory, max_form_parts=MAX_PARTS)
        form, _ = parser.parse(BytesIO(body), boundary, len(body))
    except (ValueError, RequestEntityTooLarge):  # it is said of it that it is not JSON
        return None
    return form.get(name, "").encode("utf-8", "surrogatepass") or None


def _in_memory(*_about: object, **_more: object) -> BytesIO:
    """Where a file among the parts goes: the whole body is in memory already, and the disk may be read-only."""
    return BytesIO()


def translate_entry(shape: Format, entry: Any, payload: dict[str, Any]) -> Translation:
    """One alert by itself: what is wrong with it costs none of its siblings."""
    if not isinstance(entry, dict):
        kind = {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(entry), "a number")
        return Rejected(f"An alert is a JSON object, this one is {kind}.")
    try:
        return shape.translate(shape.alert.load(entry) if shape.alert else entry, payload)
    except Unsupported as error:
        return Rejected(str(error))
    except Exception as error:  # the edge to the adapters: recorded, and the page is not dropped
        log.exception("adapter.failed", error=type(error).__name__)
        return Translated(_untranslated(entry))


def _untranslated(entry: dict[str, Any]) -> Alert:
    """Better a strange page than none."""
    key = sha256(compact(entry).encode("utf-8", "surrogatepass")).hexdigest()
    evidence = {"title": "An alert that could not be translated", "alert": entry}
    return Alert(UNKNOWN_HOST, IncidentType.CUSTOM, evidence=evidence, dedup_key=f"untranslated:{key}")


# ---------------------------------------------------------------- translations to the door


def hand_over(sender: Sender, body: bytes, reading: Reading, origin: Origin) -> Receipt:
    """Sign what is to be stored and go through the door. Raises Unavailable.

    A secret that is revoked between signing and checking is no fault of the tool: then it is signed anew.
    """
    bodies = list(_canonical(reading.translations))
    unplaced = list(_unplaced(reading.translations, now()))
    wanted = Wanted(reading.follow_up.subject, reading.follow_up.words) if reading.follow_up else None
    for _ in range(2):
        sign = services().directory.signer(sender.tenant)
        signed = [Signed(number, raw, sign(raw), one.opens, one.expires_at) for number, raw, one in bodies]
        try:
            bundle = Bundle(body, signed, unplaced, reading.remark, wanted, reading.repeats)
            return services().door.accept_native(sender, bundle, origin)
        except Unauthorized:
            log.warning("adapter.signed_in_vain", tenant=sender.tenant)
    raise Unavailable()


def _canonical(translations: Sequence[Translation]) -> Iterator[tuple[int, bytes, Translated]]:
    """The alerts among them, each serialised once."""
    for number, one in enumerate(translations):
        if isinstance(one, Translated):
            yield number, canonical(one.alert), one


def _unplaced(translations: Sequence[Translation], at: datetime) -> Iterator[Unplaced]:
    """What is no alert among them."""
    for number, one in enumerate(translations):
        if isinstance(one, Ignored):
            over = one.beat and one.expires_at and one.expires_at <= at
            yield Unplaced(number, Outcome.IGNORED, one.reason, False if over else one.beat)
        elif isinstance(one, Rejected):
            yield Unplaced(number, Outcome.REJECTED, one.reason)


def answer(receipt: Receipt) -> dict[str, Any]:
    """What the sender of a native body is told."""
    return {
        "delivery_id": str(receipt.delivery_id),
        "alerts": [
            {
                "outcome": stored.outcome,
                "incident_id": str(stored.incident_id) if stored.incident_id else None,
                "reason": stored.reason,
            }
            for stored in receipt.outcomes
        ],
    }
