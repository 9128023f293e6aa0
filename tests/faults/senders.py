"""What the tools post about one numbered trouble, and how each says who it is; the adapters' own fixtures, changed."""

import copy
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cast import sign

FIXTURES = Path(__file__).parents[2] / "adapters"
SHARED = 20  # alerts that have a cause in common
_NUMBER = re.compile(r"n(\d{7})-?(alice|bob)")


@dataclass
class Tenant:
    """A tenant as its tools know it: its address, its secrets, the tokens of its sources."""

    slug: str
    secret: str
    token: str
    tokens: dict[str, str]
    pagerduty_secret: str


@dataclass(frozen=True)
class Message:
    """A request to be posted: its path under the service's address, its bytes and its headers."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def name_of(number: int, tenant: str) -> str:
    """The host that an alert is about; whose it is and which one can be told from every page that shows it."""
    return f"n{number:07d}-{tenant}"


def number_in(incident: Mapping[str, Any]) -> tuple[int, str] | None:
    """The number and the tenant that an incident's alert was given, or None for an alert that nobody numbered."""
    found = _NUMBER.search(f"{incident['hostname']} {incident['dedup_key'] or ''}".lower())
    return (int(found[1]), found[2]) if found else None


def _word(number: int) -> str:
    """A word that few alerts share: what says the same has one cause, and no model is asked about a known cause."""
    letters = "abcdefghijklmnoprstuvwyz"
    rest, word = number // SHARED, ""
    for _ in range(5):
        rest, position = divmod(rest, len(letters))
        word += letters[position]
    return f"vol{word}"


def message(intake: str, number: int, tenant: Tenant) -> Message:
    """The alert of this number as `intake` sends it: the same bytes each time."""
    return _MESSAGES[intake](number, tenant)


@cache
def _text(adapter: str, name: str) -> str:
    return (FIXTURES / adapter / "fixtures" / f"{name}.json").read_text("utf-8")


def _fixture(adapter: str, name: str) -> Any:
    return json.loads(_text(adapter, name))


def _native(adapter: str, tenant: Tenant, body: Any, **headers: str) -> Message:
    credential = {"Authorization": f"Bearer {tenant.tokens[adapter]}"} if not headers else {}
    return Message(f"/api/v1/webhooks/{adapter}/{tenant.slug}", _bytes(body), credential | headers)


def _bytes(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _canonical(number: int, tenant: Tenant) -> Message:
    evidence = {"mount": "/var", "used_percent": 90 + number % 10, "summary": f"{_word(number)} is nearly full"}
    raw = _bytes({"hostname": name_of(number, tenant.slug), "incident_type": "disk_full", "evidence": evidence})
    signature = {"X-OpenRemedy-Signature": sign(tenant.secret, raw)}
    return Message(f"/api/v1/webhooks/alerts/{tenant.slug}", raw, signature)


def _labels(number: int, tenant: Tenant) -> dict[str, str]:
    return {"alertname": "HostDiskFilling", "instance": f"{name_of(number, tenant.slug)}:9100", "severity": "warning"}


def alertmanager_alert(number: int, tenant: Tenant) -> dict[str, Any]:
    """As Prometheus hands it to an Alertmanager."""
    return {"labels": _labels(number, tenant), "annotations": {"summary": f"Disk {_word(number)} is filling"}}


def _alertmanager(number: int, tenant: Tenant) -> Message:
    body = _fixture("alertmanager", "v0.33_mixed")
    entry = copy.deepcopy(body["alerts"][0]) | alertmanager_alert(number, tenant)
    body["alerts"] = [entry | {"fingerprint": f"{number:016x}"}]
    return _native("alertmanager", tenant, body)


def _grafana(number: int, tenant: Tenant) -> Message:
    body = _fixture("grafana", "v12_firing")
    labels = _labels(number, tenant) | {"grafana_folder": "Hosts"}
    body["alerts"] = [body["alerts"][0] | {"labels": labels, "fingerprint": f"{number:016x}"}]
    return _native("grafana", tenant, body)


def _datadog(number: int, tenant: Tenant) -> Message:
    host = name_of(number, tenant.slug)
    changed = {
        "id": f"84{number:017d}",
        "hostname": host,
        "title": f"[P2] [Triggered on {{host:{host}}}] Disk {_word(number)} is filling",
        "tags": f"env:prod,host:{host},monitor",
        "aggreg_key": f"{number:032x}",
        "alert_id": str(10**8 + number),
        "alert_cycle_key": f"85{number:017d}",
        "alert_scope": f"host:{host}",
    }
    return _native("datadog", tenant, _fixture("datadog", "template_triggered") | changed)


def _pagerduty(number: int, tenant: Tenant) -> Message:
    body = _fixture("pagerduty", "triggered_v3")
    event = body["event"]
    event["id"] = f"01E{number:023d}"
    page = f"Q{name_of(number, tenant.slug).replace('-', '')}".upper()
    event["data"] |= {"title": f"Volume {_word(number)} almost full", "id": page, "incident_key": f"{number:032x}"}
    raw = _bytes(body)
    proof = hmac.new(tenant.pagerduty_secret.encode(), raw, hashlib.sha256).hexdigest()
    path = f"/api/v1/webhooks/pagerduty/{tenant.slug}"
    return Message(path, raw, {"X-PagerDuty-Signature": f"v1={proof}"})


_MESSAGES: Mapping[str, Callable[[int, Tenant], Message]] = {
    "canonical": _canonical,
    "alertmanager": _alertmanager,
    "grafana": _grafana,
    "datadog": _datadog,
    "pagerduty": _pagerduty,
}
INTAKES = tuple(_MESSAGES)
