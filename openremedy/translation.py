"""What an adapter says of a tool's own alert, and the readings that all tools need. Pure."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields

from openremedy.alerts import (
    MAX_EVIDENCE_BYTES,
    MAX_EVIDENCE_DEPTH,
    MAX_TIME,
    Alert,
    IncidentType,
    Severity,
    compact,
    hashed,
    rfc3339,
    storable,
)

UNKNOWN_HOST = "unknown"
MAX_HOST = 253
MAX_KEY = 255
LONGEST_REMEMBERED = 100  # characters of a text whose meaning is kept for the next alert with it
CUTS = (64 * 1024, 8 * 1024, 1024, 128)  # lengths that texts and lists are cut to, until the evidence fits
CUT = "… [cut by OpenRemedy]"
_UNSTORABLE_JSON = re.compile(r"\\u0000|[\ud800-\udfff]")


# ---------------------------------------------------------------- what a native alert becomes


@dataclass(frozen=True)
class Translated:
    """A native alert in canonical form. `alert.dedup_key` is the tool's own key, of any length.

    `opens`: an acknowledgement opens an incident where none is open. `expires_at`: a firing that is over at that time
    unless the tool says again that it fires; one that had expired when it came is a resolve of that time.
    `severity_told`: whether something in the alert says how bad it is; None where the adapter does not tell.
    """

    alert: Alert
    opens: bool = False
    expires_at: datetime | None = None
    severity_told: bool | None = None


@dataclass(frozen=True)
class Ignored:
    """Understood, and by design nothing to be seen: a test, a ping, an event we do not follow.

    `beat`: the alert that always fires and proves that its source is alive (True), or its end (False); a beat whose
    `expires_at` has passed when it comes is its end.
    """

    reason: str
    beat: bool | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Rejected:
    """Cannot be an alert at all."""

    reason: str


Translation = Translated | Ignored | Rejected


def as_json(one: Translation) -> dict[str, Any]:
    """A translation for people and tests: the canonical alert and what goes with it, or why it is none."""
    match one:
        case Translated():
            found: dict[str, Any] = json.loads(fit(one.alert).to_bytes())
            found |= {"opens": True} if one.opens else {}
            return found | ({"expires_at": one.expires_at.isoformat()} if one.expires_at else {})
        case Ignored():
            return {"ignored": one.reason} | ({} if one.beat is None else {"beat": one.beat})
        case Rejected():
            return {"rejected": one.reason}


class Unsupported(Exception):
    """The envelope is not one we take; the message tells the operator what to do."""


# ---------------------------------------------------------------- shapes


class Payload(Schema):
    """The part of a body that an adapter reads. With the fields below only a missing list can fail: whatever is strange
    in the rest becomes empty, because a strange alert is still an alert.
    """

    class Meta:
        unknown = EXCLUDE

    def load(self, data: Any, **kwargs: Any) -> Any:
        """The part of `data` that is declared. Of what is plainly right this takes a tenth of the schema's own time."""
        plain = None if kwargs or type(data) is not dict else self._plainly_right(data)
        return super().load(data, **kwargs) if plain is None else plain

    def _plainly_right(self, data: dict[str, Any]) -> dict[str, Any] | None:
        found = {}
        for name, key, is_plain in self._readings:
            value = data.get(key)
            if not is_plain(value):
                return None
            found[name] = value
        return found

    @cached_property
    def _readings(self) -> list[tuple[str, str, Callable[[Any], bool]]]:
        """Each field, its key in the body, and what knows a plain value of it; of other fields none is plain."""
        return [
            (name, field.data_key or name, field.is_plain if isinstance(field, Plain) else lambda _value: False)
            for name, field in self.load_fields.items()
        ]


class Plain(ABC):
    """A field that knows a value with which nothing is to be done."""

    @abstractmethod
    def is_plain(self, value: Any) -> bool:
        """Whether `value` is taken as it is; of one that is not nothing is said."""


class Text(fields.Field[str], Plain):
    """Text; a number or a truth value is read as text, null and everything else as empty."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("load_default", "")
        super().__init__(allow_none=True, **kwargs)

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        """The value as text."""
        return super().deserialize(value, *args, **kwargs) or ""

    def is_plain(self, value: Any) -> bool:
        """A text."""
        return type(value) is str

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return text_of(value) if isinstance(value, str | int | float) else ""


class Mapped(fields.Field[dict[str, Any]], Plain):
    """A JSON object as it is; anything else is read as an empty one."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("load_default", dict)
        super().__init__(allow_none=True, **kwargs)

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The value as a dict."""
        return super().deserialize(value, *args, **kwargs) or {}

    def is_plain(self, value: Any) -> bool:
        """A JSON object."""
        return type(value) is dict

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        return value if isinstance(value, dict) else {}


class Texts(Mapped):
    """A JSON object of texts, as labels are; values of other kinds are read as text, null is left out."""

    def is_plain(self, value: Any) -> bool:
        """A JSON object of texts alone."""
        return type(value) is dict and set(map(type, value.values())) <= {str}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        found = super()._deserialize(value, attr, data, **kwargs)
        return {name: text_of(one) for name, one in found.items() if one is not None}


class Items(fields.Field[list[Any]], Plain):
    """The list of alerts: the one thing without which a body is not an envelope."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=True, **kwargs)

    def is_plain(self, value: Any) -> bool:
        """A list."""
        return type(value) is list

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        return value


def text_of(value: Any) -> str:
    """Any JSON value as text."""
    return value if isinstance(value, str) else compact(value)


# ---------------------------------------------------------------- words


# What people and tools call it, in lower case.
SEVERITY_WORDS: Mapping[str, Severity] = {
    word: severity
    for severity, words in {
        Severity.CRITICAL: "critical crit fatal emergency emerg alert disaster page paging pager blocker outage",
        Severity.HIGH: "high error err major severe urgent danger",
        Severity.MEDIUM: "medium med warning warn moderate average ticket normal",
        Severity.LOW: "low minor notice notify trivial",
        Severity.INFO: "info information informational none ok debug success",
    }.items()
    for word in words.split()
}
_RANKS = tuple(Severity)
# P1, P1 - Critical, SEV-2, sev 2, S3, priority:4. Zero is worse than one and we have nothing worse than critical.
_RANKED = re.compile(r"(?:priority|severity|prio|sev|p|s)[\s:_-]*([0-5])(?![\w.])", re.ASCII)


def severity_of(word: str) -> Severity | None:
    """What a word means, such as `warning`, `page` or `P1`; None when it is none we know."""
    return _severity_of(word) if len(word) <= LONGEST_REMEMBERED else _severity_of.__wrapped__(word)


@lru_cache(1024)
def _severity_of(word: str) -> Severity | None:
    word = word.strip().lower()
    if found := _RANKED.match(word):
        return _RANKS[max(int(found[1]) - 1, 0)]
    return SEVERITY_WORDS.get(word) or SEVERITY_WORDS.get(re.split(r"[^a-z]", word, maxsplit=1)[0])


# ---------------------------------------------------------------- what all who speak of labels share


# Alerts that always fire, to prove that the way from the rule to the receiver works.
HEARTBEATS = ("watchdog", "deadmansswitch", "deadmanswitch")
# Evidence that tells one thing of a host from another, and the incident types that are about one. Only there: a label
# `service` is on nearly every alert of a Kubernetes cluster.
THINGS_OF: Mapping[IncidentType, tuple[str, ...]] = {
    IncidentType.DISK_FULL: ("mount",),
    IncidentType.SERVICE_DOWN: ("service_name",),
    IncidentType.PORT_UNAVAILABLE: ("port", "service_name"),
}


def is_heartbeat(alertname: str) -> bool:
    """Whether an alert of this name is the heartbeat of its source, as in Ignored(beat=…)."""
    return alertname.strip().lower() in HEARTBEATS


def count_of(text: str) -> int:
    """A number of something, 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


def port_of(text: str) -> int | str:
    """A port as the number that recipes compare with; a name of one stays a name."""
    return count_of(text) if count_of(text) and len(text) <= 5 else text


def left_out(count: int, setting: str) -> str | None:
    """The remark about alerts that a setting of the tool has cut; they are never sent."""
    return f"{count} more alerts were left out by the sender ({setting})." if count else None


# ---------------------------------------------------------------- hosts


_BRACKETED = re.compile(r"\[([^\]]*)\](?::\d+)?")
_WITH_PORT = re.compile(r"([^:\s]+):\d*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def host_of(text: str) -> str:
    """The host in `web-01:9100`, `[2001:db8::1]:9100`, `2001:db8::1` or `https://user@example.com:8443/health`.

    Empty when there is none.
    """
    text = text.strip()
    if "://" in text and _SCHEME.match(text):
        return _host_of_url(text) or text
    text = text.split("/", 1)[0] if "/" in text and not text.startswith("/") else text
    found = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    return found[1] if found else text


def _host_of_url(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


# What stands where a template has found nothing or has failed: Prometheus puts its error into the annotation.
_NOT_RENDERED = re.compile(r"<error expanding template|\{\{|<no value>|\[no value\]|^\s*n/a\s*$", re.IGNORECASE)


def first_host(candidates: Iterable[str]) -> str:
    """The first of these that names a host, without its port; empty when none does."""
    named = (host_of(text) for text in candidates if text and not _NOT_RENDERED.search(text))
    return next(filter(None, named), "")


_TELLS_OF_OTHERS = "kube-state-metrics"  # an exporter: the address that it has itself is no host of what it says


def host_labels(names: Sequence[str], job: str) -> Sequence[str]:
    """The labels that may hold a host, in their order; of an exporter that tells of others its own address is last."""
    return (*(name for name in names if name != "instance"), "instance") if _TELLS_OF_OTHERS in job else names


# ---------------------------------------------------------------- times


NO_TIME_BEFORE = datetime(1970, 1, 2, tzinfo=UTC)  # tools write the year 1 or the second 0 for "none"


def time_of(text: str) -> datetime | None:
    """An RFC 3339 time, or None for what is none or stands for none (Go's year 1)."""
    moment = rfc3339(text) if len(text) <= MAX_TIME else None
    return moment if moment and moment >= NO_TIME_BEFORE else None


def time_of_epoch(text: str) -> datetime | None:
    """Seconds or milliseconds since 1970 as text, or None."""
    if not re.fullmatch(r"\d{9,14}", text.strip(), re.ASCII):
        return None
    number = int(text)
    return datetime.fromtimestamp(number / 1000 if number > 10**11 else number, UTC)


# ---------------------------------------------------------------- keys


_FNV_OFFSET, _FNV_PRIME, _FNV_MASK = 14695981039346656037, 1099511628211, 2**64 - 1


def fingerprint(labels: Mapping[str, str]) -> str:
    """The fingerprint that Prometheus and Alertmanager give these labels, 16 hex digits.

    FNV-1a over the sorted names and values, each followed by a byte 255:
    https://github.com/prometheus/common/blob/main/model/fingerprinting.go
    """
    parts = (text.encode("utf-8", "surrogatepass") for pair in sorted(labels.items()) for text in pair)
    value = _FNV_OFFSET
    for byte in b"\xff".join(parts) + (b"\xff" if labels else b""):
        value = ((value ^ byte) * _FNV_PRIME) & _FNV_MASK
    return f"{value:016x}"


# ---------------------------------------------------------------- made fit for the door


_UNSTORABLE_ESCAPE = re.compile(rb"\\u(?:0000|d[89a-f])")  # half of a pair among them: that is looked at closely


def canonical(alert: Alert) -> bytes:
    """The canonical bytes of an alert, made fit for the door; one that plainly is is written once."""
    body = alert.to_bytes()
    return body if _plainly_fits(alert, body) else fit(alert).to_bytes()


def _plainly_fits(alert: Alert, body: bytes) -> bool:
    named = (
        len(alert.hostname) <= MAX_HOST and alert.hostname.isprintable() and alert.hostname == alert.hostname.strip()
    )
    key = alert.dedup_key
    keyed = key is None or (len(key) <= MAX_KEY and key.isprintable() and not key.isspace())
    # The alert itself is one of the braces.
    small = len(body) <= MAX_EVIDENCE_BYTES and body.count(b"{") + body.count(b"[") <= MAX_EVIDENCE_DEPTH
    kept = b"\\u" not in body or not _UNSTORABLE_ESCAPE.search(body)
    return bool(alert.hostname and named and key != "" and keyed) and small and kept


def fit(alert: Alert) -> Alert:
    """The alert within the limits of the canonical format: nothing of a tool's own may keep an alert out."""
    return replace(
        alert,
        hostname=_fit_host(alert.hostname),
        dedup_key=_fit_key(alert.dedup_key),
        evidence=_fit_evidence(alert.evidence),
    )


def _printable(text: str) -> bool:
    return not any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in text)


def _fit_host(host: str) -> str:
    host = host[: 2 * MAX_HOST]
    if not _printable(host):
        host = "".join(char if _printable(char) else "\N{REPLACEMENT CHARACTER}" for char in host)
    return host.strip()[:MAX_HOST].strip() or UNKNOWN_HOST


def _fit_key(key: str | None) -> str | None:
    if key is None:
        return None
    fits = key.strip() and len(key) <= MAX_KEY and _printable(key)
    return key if fits else hashed("key", key)


def _fit_evidence(evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    text = compact(evidence)
    deep = text.count("{") + text.count("[") > MAX_EVIDENCE_DEPTH  # cheap, and settles nearly every alert
    unstorable = _UNSTORABLE_JSON.search(text)
    if not (deep or unstorable or _too_large(text)):
        return evidence
    fitting: dict[str, Any] = _cut(dict(evidence), MAX_EVIDENCE_BYTES, MAX_EVIDENCE_DEPTH)
    if unstorable:
        fitting = storable(fitting)[0]  # before it is measured: keys that become equal grow
    cuts = iter(CUTS)
    while _too_large(compact(fitting)):
        longest = next(cuts, None)
        fitting = _cut(fitting, longest, MAX_EVIDENCE_DEPTH) if longest else _small_part(fitting)
    return fitting


def _too_large(text: str) -> bool:
    # A character is four bytes at most.
    return len(text) * 4 > MAX_EVIDENCE_BYTES and len(text.encode("utf-8", "surrogatepass")) > MAX_EVIDENCE_BYTES


def _size(value: Any) -> int:
    return len(compact(value).encode("utf-8", "surrogatepass"))


def _cut(value: Any, longest: int, levels: int) -> Any:
    """`value` with every text, list and object cut to `longest`, and nothing deeper than `levels`."""
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}{CUT}"
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        return CUT
    if isinstance(value, list):
        return [_cut(one, longest, levels - 1) for one in value[:longest]] + ([CUT] if len(value) > longest else [])
    kept = {_cut(name, longest, 1): _cut(one, longest, levels - 1) for name, one in list(value.items())[:longest]}
    return kept | ({CUT: len(value) - len(kept)} if len(value) > len(kept) else {})


def _small_part(evidence: dict[str, Any]) -> dict[str, Any]:
    """Its smallest entries, and the names of those that are left out."""
    kept: dict[str, Any] = {}
    room = MAX_EVIDENCE_BYTES // 2
    for name, value in sorted(evidence.items(), key=lambda item: _size(item[1])):
        room -= _size({name: value})
        kept[name] = value if room > 0 else CUT
    return kept if _size(kept) <= MAX_EVIDENCE_BYTES else {CUT: len(evidence)}
