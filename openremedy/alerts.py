"""The canonical alert: strict JSON in, one checked Alert out. Pure."""

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, NoReturn

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from openremedy.errors import BadBody, Invalid

MAX_EVIDENCE_BYTES = 256 * 1024
MAX_EVIDENCE_DEPTH = 32
MAX_GROWTH = 4  # of a text that is written again: 1e15 becomes 1000000000000000.0
MAX_NUMBER_DIGITS = 64
MAX_NAMED_UNKNOWN = 20
# Evidence about the body that an alert came in: another value of it is no other alert.
NO_NEWS = ("truncated_alerts",)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# RFC 3339 section 5.6; the fraction may have any number of digits, we keep microseconds.
MAX_TIME = 64  # characters; more digits than the pattern takes
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class IncidentType(StrEnum):
    """What kind of thing broke."""

    SERVICE_DOWN = "service_down"
    DISK_FULL = "disk_full"
    CPU_HIGH = "cpu_high"
    MEMORY_HIGH = "memory_high"
    PORT_UNAVAILABLE = "port_unavailable"
    CUSTOM = "custom"


class Severity(StrEnum):
    """How bad it is, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class AlertStatus(StrEnum):
    """What an alert says about its incident; NOTE and UPDATE come from adapters only."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    NOTE = "note"
    UPDATE = "update"


class Outcome(StrEnum):
    """What became of one alert."""

    CREATED = "created"
    UPDATED = "updated"
    RESOLVED = "resolved"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    REJECTED = "rejected"


# Made once: json.dumps() makes one for each value.
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
_ASCII = json.JSONEncoder(separators=(",", ":"))
PUBLIC_STATUSES = (AlertStatus.FIRING, AlertStatus.ACKNOWLEDGED, AlertStatus.RESOLVED)


@dataclass(frozen=True)
class Alert:
    """One canonical event. `occurred_at` is the sender's clock (aware, UTC) and may be unknown."""

    hostname: str
    incident_type: IncidentType
    severity: Severity = Severity.MEDIUM
    evidence: Mapping[str, Any] = field(default_factory=dict)
    status: AlertStatus = AlertStatus.FIRING
    dedup_key: str | None = None
    occurred_at: datetime | None = None

    def digest(self) -> str:
        """Equal for two alerts that say the same: status, event time, severity and evidence. Worked out once."""
        kept = vars(self).get("_digest")
        if kept is None:
            evidence = self.evidence
            if any(name in evidence for name in NO_NEWS):
                evidence = {name: value for name, value in evidence.items() if name not in NO_NEWS}
            said = [self.status, str(self.occurred_at), self.severity, evidence]
            kept = vars(self)["_digest"] = hashlib.sha256(_sorted(said)).hexdigest()[:32]
        return str(kept)

    def to_bytes(self) -> bytes:
        """The canonical body of this alert; what UTF-8 cannot carry goes as an escape."""
        body: dict[str, Any] = {
            "hostname": self.hostname,
            "incident_type": self.incident_type,
            "severity": self.severity,
            "status": self.status,
            "evidence": self.evidence,
        }
        if self.dedup_key is not None:
            body["dedup_key"] = self.dedup_key
        if self.occurred_at is not None:
            body["occurred_at"] = self.occurred_at.isoformat()
        try:
            return orjson.dumps(body)
        except TypeError:  # half of a surrogate pair, an integer of more than 64 bits
            return _ASCII.encode(body).encode()


# ---------------------------------------------------------------- bytes to JSON


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, refusing what Python's decoder would let through. Raises BadBody."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise BadBody("The body must be a JSON object.", code="not_an_object")
    return value


def parse_json(body: bytes) -> Any:
    """Whatever JSON is in `body`, read as strictly. Raises BadBody."""
    plain = _read_back(body)
    try:
        value = _DECODER.decode(body.decode("utf-8")) if plain is None else plain
    except UnicodeDecodeError as error:
        raise BadBody(f"The body is not UTF-8: byte {error.start} cannot be read.") from error
    except json.JSONDecodeError as error:
        raise BadBody(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from error
    except RecursionError as error:
        raise _too_deep() from error
    # Counting brackets is cheap and settles nearly every body; only a suspicious one is walked.
    if body.count(b"{") + body.count(b"[") > MAX_EVIDENCE_DEPTH and _deeper_than(value, MAX_EVIDENCE_DEPTH + 1):
        raise _too_deep()
    return value


def _read_back(body: bytes) -> Any:
    """What orjson reads in `body` if it writes the same bytes again, or None.

    Nothing that must be refused comes back as it was: a key that stands twice, a number that is too large, bytes that
    are no UTF-8. Programs that write JSON without blanks are read in a tenth of the time, Alertmanager among them.
    """
    try:
        value = orjson.loads(body)
        again = orjson.dumps(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if again != body:
        # As Go spells them.
        again = again.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return value if again == body else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadBody(f"The key {shown(twice)} stands twice in one object.", code="duplicate_key")
    return result


def _no_number(text: str) -> NoReturn:
    raise BadBody(f"{text} is not a JSON number.", code="invalid_number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadBody("A number is too large.", code="invalid_number")
    return value


def _short_integer(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_NUMBER_DIGITS:
        raise BadBody(f"An integer has more than {MAX_NUMBER_DIGITS} digits.", code="invalid_number")
    return int(text)


# Made once: json.loads() makes one for each body.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite, parse_int=_short_integer
)


def _too_deep() -> BadBody:
    return BadBody(f"The body is nested deeper than {MAX_EVIDENCE_DEPTH} levels.", code="too_deep")


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether a list or an object stands `limit` levels down; only these are followed."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        children = (one.values() if type(one) is dict else one for one in level)
        level = [child for found in children for child in found if type(child) is dict or type(child) is list]
    return bool(level)


class Rfc3339(fields.Field[datetime]):
    """An RFC 3339 time with its zone, returned as aware UTC in microseconds."""

    default_error_messages = {  # noqa: RUF012 - marshmallow reads a plain dict
        "invalid": "Not an RFC 3339 time such as 2026-01-31T12:00:00Z."
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        moment = rfc3339(value) if isinstance(value, str) and len(value) <= MAX_TIME else None
        if moment is None:
            raise self.make_error("invalid")
        return moment


@lru_cache(1024)  # the alerts of a body often began together
def rfc3339(text: str) -> datetime | None:
    """The moment that an RFC 3339 time names, aware and in UTC; None for what is none."""
    found = _RFC3339.fullmatch(text)
    if not found:
        return None
    day, clock, fraction, zone = found.groups()
    leap = clock.endswith(":60")  # a leap second; the second before is near enough
    plain = f"{day}T{clock[:-2] + '59' if leap else clock}.{(fraction or '0')[:6].ljust(6, '0')}"
    try:
        return datetime.fromisoformat(plain + ("+00:00" if zone in "Zz" else zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _printable(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ValidationError("Must not contain control characters.")


class AlertSchema(Schema):
    """The canonical body; field by field as the API reference has it."""

    class Meta:
        unknown = EXCLUDE

    hostname = fields.String(required=True, validate=[validate.Length(1, 253), _printable])
    incident_type = fields.Enum(IncidentType, by_value=fields.String(), required=True)
    severity = fields.Enum(Severity, by_value=fields.String(), load_default=Severity.MEDIUM)
    evidence = fields.Dict(keys=fields.String(), load_default=dict)
    status = fields.Enum(AlertStatus, by_value=fields.String(), load_default=AlertStatus.FIRING)
    dedup_key = fields.String(load_default=None, allow_none=False, validate=[validate.Length(1, 255), _printable])
    occurred_at = Rfc3339(load_default=None, allow_none=False)


_SCHEMA = AlertSchema()  # building one costs more than using it


def parse_alert(body: bytes, statuses: Iterable[AlertStatus] = PUBLIC_STATUSES) -> tuple[Alert, list[str]]:
    """The alert in `body` and the warnings about it. Raises BadBody, Invalid."""
    values = parse_object(body)
    warnings = _unknown_fields(values)
    loaded = _load(values, statuses)
    replaced = False
    if b"\\u" in body:  # only an escape can carry what UTF-8 cannot
        loaded["evidence"], replaced = storable(loaded["evidence"])
        if replaced:
            warnings.append("evidence: NUL characters and lone surrogates were replaced by U+FFFD")
    # Keys that became equal have grown.
    if replaced or len(body) * MAX_GROWTH > MAX_EVIDENCE_BYTES:
        _check_evidence_size(loaded["evidence"])
    return Alert(**loaded), warnings


def _load(values: dict[str, Any], statuses: Iterable[AlertStatus]) -> dict[str, Any]:
    plain = _plainly_right(values)
    if plain and plain["status"] in statuses:
        return plain
    try:
        loaded: dict[str, Any] = _SCHEMA.load(values)
    except ValidationError as error:
        raise Invalid(fields=_named(error.messages_dict) | _not_from_here(values.get("status"), statuses)) from error
    if refused := _not_from_here(loaded["status"], statuses):
        raise Invalid(fields=refused)
    return loaded


_TYPES: dict[Any, IncidentType] = {str(one): one for one in IncidentType}
_SEVERITIES: dict[Any, Severity] = {str(one): one for one in Severity}
_STATUSES: dict[Any, AlertStatus] = {str(one): one for one in AlertStatus}


def _plainly_right(values: dict[str, Any]) -> dict[str, Any] | None:
    """What the schema makes of an alert at which nothing is strange, in a tenth of the time; None says nothing."""
    evidence = values.get("evidence", {})
    key = values.get("dedup_key", "-")
    moment = values.get("occurred_at", "")
    if type(moment) is not str:
        return None
    try:
        found = {
            "hostname": values.get("hostname"),
            "incident_type": _TYPES.get(values.get("incident_type")),
            "severity": _SEVERITIES.get(values.get("severity", Severity.MEDIUM)),
            "evidence": evidence,
            "status": _STATUSES.get(values.get("status", AlertStatus.FIRING)),
            "dedup_key": values.get("dedup_key"),
            "occurred_at": rfc3339(moment[:MAX_TIME]) if "occurred_at" in values else None,
        }
    except TypeError:  # a list or an object where a word belongs
        return None
    named = _plain(found["hostname"], 253) and _plain(key, 255) and type(evidence) is dict
    known = found["incident_type"] and found["severity"] and found["status"]
    timed = found["occurred_at"] or "occurred_at" not in values
    return found if named and known and timed else None


def _plain(text: Any, longest: int) -> bool:
    return type(text) is str and len(text) <= longest and text.isprintable() and not text.isspace() and text != ""


def _not_from_here(status: Any, statuses: Iterable[AlertStatus]) -> dict[str, Any]:
    """The message about a status that exists, but not for this sender."""
    known = isinstance(status, str) and status in list(AlertStatus)
    return {"status": [f"Must be one of: {', '.join(statuses)}."]} if known and status not in statuses else {}


def _named(messages: Mapping[str, Any]) -> dict[str, Any]:
    """Only `evidence` has keys of the sender's own; its messages are about the object as a whole."""
    return {name: found if isinstance(found, list) else ["Not a valid object."] for name, found in messages.items()}


def _unknown_fields(values: Mapping[str, Any]) -> list[str]:
    if values.keys() <= _SCHEMA.fields.keys():
        return []
    unknown = [name for name in values if name not in _SCHEMA.fields]
    warnings = [f"unknown field {shown(name)} was ignored" for name in unknown[:MAX_NAMED_UNKNOWN]]
    if len(unknown) > MAX_NAMED_UNKNOWN:
        warnings.append(f"{len(unknown) - MAX_NAMED_UNKNOWN} more unknown fields were ignored")
    return warnings


def _check_evidence_size(evidence: Mapping[str, Any]) -> None:
    size = len(compact(evidence).encode())
    if size > MAX_EVIDENCE_BYTES:
        message = f"Is {size} bytes as JSON; at most {MAX_EVIDENCE_BYTES} are kept."
        raise Invalid("The evidence is too large.", code="evidence_too_large", fields={"evidence": [message]})


def storable(value: Any) -> tuple[Any, bool]:
    """A JSON value without what PostgreSQL refuses, and whether anything was replaced.

    Keys that become equal keep their values: a later one gets another replacement character and a number.
    """
    if isinstance(value, str):
        clean = _UNSTORABLE.sub(REPLACEMENT, value)
        return clean, clean != value
    if isinstance(value, list):
        items = [storable(item) for item in value]
        return [item for item, _ in items], any(changed for _, changed in items)
    if not isinstance(value, dict):
        return value, False
    result: dict[str, Any] = {}
    taken: Counter[str] = Counter()  # how often a key was met: looking for a free one must not begin anew each time
    replaced = False
    for key, item in value.items():
        plain, changed_key = storable(key)
        clean_key = plain
        while clean_key in result:
            taken[plain] += 1
            clean_key = f"{plain}{REPLACEMENT}{taken[plain]}"
        result[clean_key], changed = storable(item)
        replaced = replaced or changed or changed_key
    return result, replaced


# ---------------------------------------------------------------- words other rooms need


def compact(value: Any) -> str:
    """`value` as JSON in its shortest and only spelling."""
    return _COMPACT.encode(value)


def _sorted(value: Any) -> bytes:
    """Equal for equal values, whatever the order of their keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return compact(value).encode("utf-8", "surrogatepass")


def shown(text: str, limit: int = 100) -> str:
    """Foreign text fit for a message: quoted, one line, short; what cannot be printed is escaped."""
    return repr(text[:limit]) + ("…" if len(text) > limit else "")


THE_THING: Mapping[IncidentType, tuple[str, ...]] = {
    IncidentType.DISK_FULL: ("mount",),
    IncidentType.SERVICE_DOWN: ("service_name",),
    IncidentType.PORT_UNAVAILABLE: ("port",),
    IncidentType.CUSTOM: ("alertname", "title", "check", "name"),
}


CANONICAL_SPACE = ("canonical",)


def identity(alert: Alert, space: tuple[str, ...] = CANONICAL_SPACE) -> str:
    """What makes two alerts of one name space the same incident, hashed (64 hex digits).

    The spaces never meet: one is the canonical endpoint, every source has its own.
    """
    if alert.dedup_key is not None:
        return hashed(*space, "key", alert.dedup_key)
    return hashed(*space, "thing", alert.incident_type, alert.hostname.lower(), _thing(alert))


def hashed(*parts: str) -> str:
    """One hash (64 hex digits) of several texts that cannot run into each other."""
    return hashlib.sha256(_sorted(parts)).hexdigest()


def _thing(alert: Alert) -> str:
    return next(_present(alert.evidence, THE_THING.get(alert.incident_type, ())), "")


def _present(evidence: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = evidence.get(name)
        if value is not None and value != "":
            yield value if isinstance(value, str) else compact(value)
