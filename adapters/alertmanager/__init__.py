"""Alertmanager 0.25 and newer (webhook_config), and Prometheus posting to us as if we were an Alertmanager.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
https://prometheus.io/docs/alerting/latest/alerts_api/
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

from adapters.alertmanager.setup import HINTS, SETUP, SUMMARY, sample
from openremedy.adapter import (
    THINGS_OF,
    UNKNOWN_HOST,
    Adapter,
    Alert,
    AlertStatus,
    Format,
    Ignored,
    IncidentType,
    Items,
    Payload,
    Severity,
    Text,
    Texts,
    Translated,
    Translation,
    count_of,
    fingerprint,
    first_host,
    host_labels,
    incident_type_of,
    is_heartbeat,
    left_out,
    port_of,
    said_type,
    severity_of,
    time_of,
)

HOST_LABELS = ("instance", "node", "host", "hostname", "nodename", "pod")
SEVERITY_LABELS = ("severity", "priority", "level")
# The labels that exporters put it into, which tells one thing of a host from another.
THINGS = {
    "mount": ("mountpoint", "mount"),
    "service_name": ("service_name", "unit", "name", "service"),
    "port": ("port",),
}
SAID_ELSEWHERE = ("summary", "description", "runbook_url")
TOLD = ("summary", "description", "message")  # message: how rules of before said what the other two say now
_PORT = re.compile(r":(\d{1,5})(?:/|$)", re.ASCII)


class Notification(Payload):
    """The envelope of a webhook; new versions add keys, so that what is not read here is left alone."""

    alerts = Items()
    truncatedAlerts = Text()  # noqa: N815 - Alertmanager's spelling


class Entry(Payload):
    """One alert of a webhook, and of Prometheus, which sends no status and no fingerprint."""

    status = Text()
    labels = Texts()
    annotations = Texts()
    startsAt = Text()  # noqa: N815
    endsAt = Text()  # noqa: N815
    generatorURL = Text()  # noqa: N815
    fingerprint = Text()


def translate(entry: dict[str, Any], payload: dict[str, Any]) -> Translation:
    """One alert of a webhook: its own status decides, never that of the group."""
    resolved = entry["status"].strip().lower() == "resolved"
    if is_heartbeat(entry["labels"].get("alertname", "")):
        return Ignored("Heartbeat of this source, not an incident.", beat=not resolved)
    status = AlertStatus.RESOLVED if resolved else AlertStatus.FIRING
    moment = time_of(entry["endsAt"] if resolved else entry["startsAt"])
    severity = _severity(entry["labels"])
    alert = _alert(entry, status, severity, moment, count_of(payload["truncatedAlerts"]))
    return Translated(alert, severity_told=severity is not None)


def translate_prometheus(entry: dict[str, Any], _payload: dict[str, Any]) -> Translation:
    """One alert straight from Prometheus: it fires until `endsAt`, which each repetition moves on."""
    ends = time_of(entry["endsAt"])
    if is_heartbeat(entry["labels"].get("alertname", "")):
        return Ignored("Heartbeat of this source, not an incident.", beat=True, expires_at=ends)
    severity = _severity(entry["labels"])
    alert = _alert(entry, AlertStatus.FIRING, severity, time_of(entry["startsAt"]), 0)
    return Translated(alert, expires_at=ends, severity_told=severity is not None)


def _alert(
    entry: Mapping[str, Any], status: AlertStatus, severity: Severity | None, moment: datetime | None, truncated: int
) -> Alert:
    labels = entry["labels"]
    expression = _expression(entry["generatorURL"])
    incident_type = _incident_type(labels, entry["annotations"], expression)
    return Alert(
        hostname=_hostname(labels, entry["annotations"]),
        incident_type=incident_type,
        severity=severity or Severity.MEDIUM,
        evidence=_evidence(entry, expression, incident_type, truncated),
        status=status,
        dedup_key=entry["fingerprint"] or fingerprint(labels),
        occurred_at=moment,
    )


@lru_cache(256)  # one a rule
def _expression(generator_url: str) -> str:
    """The expression that fired, which Prometheus puts into the link to its own page."""
    try:
        return parse_qs(urlsplit(generator_url).query, max_num_fields=20).get("g0.expr", [""])[0]
    except ValueError:
        return ""


def _incident_type(labels: Mapping[str, str], annotations: Mapping[str, str], expression: str) -> IncidentType:
    said = said_type(said.get("incident_type", "") for said in (labels, annotations))
    texts = (annotations.get(name, "") for name in TOLD)
    return said or incident_type_of(labels.get("alertname", ""), expression, texts)


def _hostname(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    named = (
        annotations.get("hostname", ""),
        *(labels.get(name, "") for name in host_labels(HOST_LABELS, labels.get("job", ""))),
    )
    return first_host(named) or UNKNOWN_HOST


def _severity(labels: Mapping[str, str]) -> Severity | None:
    # A number by itself is a rank: `priority: 1` is P1.
    known = (
        severity_of(labels[name]) or severity_of(f"{name}:{labels[name]}") for name in SEVERITY_LABELS if name in labels
    )
    return next((severity for severity in known if severity), None)


def _evidence(entry: Mapping[str, Any], expression: str, incident_type: IncidentType, truncated: int) -> dict[str, Any]:
    """What an engineer looks at, without what differs between two notifications of the same state."""
    labels, annotations = entry["labels"], entry["annotations"]
    return {
        name: value
        for name, value in (
            ("alertname", labels.get("alertname")),
            *((name, annotations.get(name)) for name in SAID_ELSEWHERE),
            ("expression", expression),
            *_things(labels, incident_type),
            ("labels", labels),
            ("annotations", {name: text for name, text in annotations.items() if name not in SAID_ELSEWHERE}),
            ("generator_url", entry["generatorURL"]),
            ("truncated_alerts", truncated),
        )
        if value
    }


def _things(labels: Mapping[str, str], incident_type: IncidentType) -> Iterator[tuple[str, str | int]]:
    for thing in THINGS_OF.get(incident_type, ()):
        found = next((labels[name] for name in THINGS[thing] if labels.get(name)), "")
        if thing == "port":
            yield thing, port_of(found or next(iter(_PORT.findall(labels.get("instance", ""))), ""))
        else:
            yield thing, found


def remark(payload: dict[str, Any]) -> str | None:
    """Say what `max_alerts` has cut."""
    return left_out(count_of(payload["truncatedAlerts"]), "max_alerts")


adapter = Adapter(
    name="alertmanager",
    title="Prometheus Alertmanager",
    formats=(
        Format(
            payload=Notification(),
            alert=Entry(),
            translate=translate,
            remark=remark,
            repeats=True,
            advice="This is not Alertmanager's own notification: there is no list `alerts` in it. "
            "Remove `payload:` from the webhook_config; no template is needed.",
        ),
        Format(
            payload=Notification(),
            alert=Entry(),
            translate=translate_prometheus,
            path="/api/v2/alerts",
            array=True,
        ),
    ),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
