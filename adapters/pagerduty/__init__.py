"""PagerDuty's V3 webhooks (webhook subscriptions), and its legacy V2 where a source asks for them.

https://developer.pagerduty.com/docs/webhooks-overview
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import fields

from adapters.pagerduty.details import (
    custom_fields,
    flat,
    host_in,
    host_in_text,
    listed,
    named_host,
    named_type,
    summary_of,
    text_in,
)
from adapters.pagerduty.enrichment import alerts_of_incident
from adapters.pagerduty.legacy import as_event, is_v1
from openremedy.adapter import (
    UNKNOWN_HOST,
    Adapter,
    Alert,
    AlertStatus,
    Format,
    Ignored,
    IncidentType,
    Mapped,
    Payload,
    Rejected,
    Severity,
    Text,
    Translated,
    Translation,
    Unsupported,
    incident_type_of,
    severity_of,
    time_of,
)

SIGNATURE = "X-PagerDuty-Signature"
NEW_WEBHOOK = "Create a V3 webhook in PagerDuty: Integrations > Generic Webhooks (v3) > New Webhook."
NOT_V3 = f"This is not a PagerDuty V3 webhook: it has no object `event` with an `event_type`. {NEW_WEBHOOK}"
NOT_V2 = (
    f"This is a legacy V2 webhook of PagerDuty. {NEW_WEBHOOK} "
    "Or let this source take V2: flask source edit TENANT SOURCE --option legacy_v2=true"
)
NOT_V1 = f"This is a V1 webhook of PagerDuty, which is not taken. {NEW_WEBHOOK}"

STATUSES: Mapping[str, AlertStatus] = {
    f"incident.{name}": status
    for status, names in {
        AlertStatus.FIRING: "triggered reopened",
        AlertStatus.ACKNOWLEDGED: "acknowledged",
        AlertStatus.RESOLVED: "resolved",
        AlertStatus.UPDATE: "unacknowledged escalated delegated reassigned priority_updated service_updated "
        "incident_type.changed",
        AlertStatus.NOTE: "annotated status_update_published custom_field_values.updated",
    }.items()
    for name in names.split()
}
URGENCIES = {"high": Severity.HIGH, "low": Severity.LOW}
MERGED = "merge_resolve_reason"
# Whoever sends our incidents on to PagerDuty names this as the client and begins the incident key with it and a colon.
OURS = "openremedy"
MAX_LISTED = 20
MAX_NOTE = 8000


class Envelope(Payload):
    """The body: V3 has one event in it, V2 and V1 a list of messages."""

    event = Mapped()
    messages = fields.Raw(load_default=None, allow_none=True)


class Event(Payload):
    """What happened, when, and by whom."""

    event_type = Text()
    occurred_at = Text()
    agent = Mapped()
    client = Mapped()
    data = Mapped()


class Data(Payload):
    """What it happened to: an incident, or something of an incident. Captures of 2021 lack some of these."""

    id = Text()
    type = Text()
    html_url = Text()
    number = Text()
    status = Text()
    incident_key = Text()
    created_at = Text()
    reopened_at = Text()
    title = Text()
    summary = Text()
    urgency = Text()
    incident_type = Mapped()
    service = Mapped()
    escalation_policy = Mapped()
    priority = Mapped()
    resolve_reason = Mapped()
    assignees = fields.Raw(load_default=None, allow_none=True)
    teams = fields.Raw(load_default=None, allow_none=True)
    custom_fields = fields.Raw(load_default=None, allow_none=True)
    changed_custom_fields = fields.Raw(load_default=None, allow_none=True)
    details = Mapped()  # of V2
    incident = Mapped()
    content = Text()
    message = Text()


class Options(Payload):
    """What an admin may choose for a source of this adapter."""

    legacy_v2 = fields.Boolean(load_default=False)


_EVENT, _DATA, _OPTIONS = Event(), Data(), Options()


# ---------------------------------------------------------------- the envelope


def verify(secret: bytes, body: bytes, headers: Mapping[str, str], _options: Mapping[str, Any], _now: float) -> bool:
    """Whether one of the `v1=` signatures is of this body; PagerDuty sends several while a secret is rotated.

    The secret looks like base64 and is used as the text it is.
    https://developer.pagerduty.com/docs/verifying-webhook-signatures
    """
    expected = hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    found = False
    for offered in headers.get(SIGNATURE.lower(), "").split(","):
        version, _, value = offered.strip().partition("=")
        given = value.strip().lower().encode("utf-8", "replace")
        found |= hmac.compare_digest(given, expected) and version.strip() == "v1"
    return found


def unwrap(payload: dict[str, Any], options: Mapping[str, Any]) -> Sequence[Any]:
    """The one event of V3, or the messages of V2 where the source takes them. Raises Unsupported."""
    if payload["event"]:
        if not text_in(payload["event"], "event_type"):
            raise Unsupported(NOT_V3)
        return [payload["event"]]
    messages = payload["messages"]
    if not isinstance(messages, list):
        raise Unsupported(NOT_V3)
    if is_v1(messages):
        raise Unsupported(NOT_V1)
    if not _OPTIONS.load(dict(options))["legacy_v2"]:
        raise Unsupported(NOT_V2)
    return messages


# ---------------------------------------------------------------- one event


def translate(entry: dict[str, Any], payload: dict[str, Any]) -> Translation:
    """One event: which incident it is about is told by the type of its data, never by its id alone."""
    event = _EVENT.load(entry if payload["event"] else as_event(entry))
    data = _DATA.load(event["data"])
    name = event["event_type"].strip()
    if name == "pagey.ping":
        return Ignored("Test notification received: this source is connected. No incident was opened.")
    status = STATUSES.get(name)
    if status is None:
        return Ignored(f"PagerDuty's event {name[:60]!r} changes no incident here.")
    if _is_ours(event, data):
        return Ignored("This incident came to PagerDuty from OpenRemedy itself.")
    if status is AlertStatus.NOTE:
        return _note(event, data)
    return _incident(event, _incident_in(data), status)


def _is_ours(event: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether OpenRemedy itself is the origin. A service may be called so, and then it is one that somebody watches."""
    agent = {} if text_in(event["agent"], "type") == "service_reference" else event["agent"]
    names = (summary_of(event["client"]).lower(), summary_of(agent).lower())
    return OURS in names or data["incident_key"].lower().startswith(f"{OURS}:")


def _incident_in(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The incident: `data` itself, or a reference in it, and then `data.id` is of something else."""
    if data["type"] == "incident" or not (data["type"] or data["incident"]):
        return data
    found: Mapping[str, Any] = _DATA.load(data["incident"])
    return found


def _note(event: Mapping[str, Any], data: Mapping[str, Any]) -> Translation:
    incident_id = text_in(data["incident"], "id")
    if not incident_id:
        return Rejected("This event names no incident: its `data.incident.id` is missing.")
    said = {
        "event": event["event_type"],
        "content": (data["content"] or data["message"])[:MAX_NOTE],
        "by": summary_of(event["agent"]),
        "custom_fields": custom_fields(data["custom_fields"]),
        "before": custom_fields(data["changed_custom_fields"]),
    }
    alert = Alert(
        hostname=UNKNOWN_HOST,
        incident_type=IncidentType.CUSTOM,
        evidence={key: value for key, value in said.items() if value},
        status=AlertStatus.NOTE,
        dedup_key=incident_id,
        occurred_at=time_of(event["occurred_at"]),
    )
    return Translated(alert)


def _incident(event: Mapping[str, Any], incident: Mapping[str, Any], status: AlertStatus) -> Translation:
    hostname, source = _host(incident)
    resolution = _resolution(incident) if status is AlertStatus.RESOLVED else {}
    alert = Alert(
        hostname=hostname,
        incident_type=_incident_type(incident),
        severity=_severity(incident),
        evidence=_evidence(event, incident) | {"hostname_source": source} | resolution,
        status=status,
        dedup_key=_key(incident),
        occurred_at=time_of(event["occurred_at"]),
    )
    return Translated(alert, opens=status is AlertStatus.ACKNOWLEDGED)


def _key(incident: Mapping[str, Any]) -> str | None:
    """Its id. Without one the key that its sender chose, and without that its title tells it from others."""
    incident_key = incident["incident_key"].strip()
    return incident["id"].strip() or (f"incident_key:{incident_key}" if incident_key else None)


def _host(incident: Mapping[str, Any]) -> tuple[str, str]:
    """The host and where it was found: V3 has no field for it."""
    service = summary_of(incident["service"])
    candidates = (
        (named_host(custom_fields(incident["custom_fields"])), "custom_field"),
        (host_in(flat(incident["details"])), "details"),
        (host_in_text(incident["title"]), "title"),
        (f"service:{service}" if service else "", "service"),
    )
    return next(((host, source) for host, source in candidates if host), (UNKNOWN_HOST, "none"))


def _incident_type(incident: Mapping[str, Any]) -> IncidentType:
    """As a custom field, the incident's type in PagerDuty or the details name it, else as its title sounds."""
    named = {"incident_type": text_in(incident["incident_type"], "name")}
    said = (custom_fields(incident["custom_fields"]), named, flat(incident["details"]))
    return next(filter(None, map(named_type, said)), None) or incident_type_of(incident["title"])


def _severity(incident: Mapping[str, Any]) -> Severity:
    """As the priority says; the urgency only tells how loudly PagerDuty rings."""
    by_urgency = URGENCIES.get(incident["urgency"].strip().lower(), Severity.MEDIUM)
    return severity_of(summary_of(incident["priority"])) or by_urgency


def _resolution(incident: Mapping[str, Any]) -> dict[str, Any]:
    """That it went up in another incident, which is not the same as fixed."""
    if text_in(incident["resolve_reason"], "type") != MERGED:
        return {}
    into = _DATA.load({"incident": incident["resolve_reason"].get("incident")})["incident"]
    said = {
        "reason": "merged",
        "into": text_in(into, "id"),
        "title": summary_of(into),
        "url": _link(text_in(into, "html_url")),
    }
    return {"resolution": {key: value for key, value in said.items() if value}}


def _evidence(event: Mapping[str, Any], incident: Mapping[str, Any]) -> dict[str, Any]:
    """What an engineer looks at; nothing that differs between two deliveries of one event."""
    said = {
        "title": incident["title"] or incident["summary"],
        "service": summary_of(incident["service"]),
        "priority": summary_of(incident["priority"]),
        **{name: incident[name] for name in ("urgency", "status", "number", "incident_key")},
        "incident_id": incident["id"].strip(),
        "link": _link(incident["html_url"]),
        "escalation_policy": summary_of(incident["escalation_policy"]),
        "assignees": _names(incident["assignees"]),
        "teams": _names(incident["teams"]),
        "custom_fields": custom_fields(incident["custom_fields"]),
        "details": flat(incident["details"]),
        "created_at": incident["created_at"],
        "reopened_at": incident["reopened_at"],
        "event": event["event_type"],
        "by": summary_of(event["agent"]),
    }
    return {key: value for key, value in said.items() if value}


def _names(references: Any) -> list[str]:
    return [name for one in listed(references)[:MAX_LISTED] if (name := summary_of(one))]


def _link(url: str) -> str:
    """For people to click on, so nothing but the web."""
    return url if url.startswith(("https://", "http://")) else ""


adapter = Adapter(
    name="pagerduty",
    title="PagerDuty",
    formats=(Format(payload=Envelope(), unwrap=unwrap, translate=translate, advice=NOT_V3),),
    retries_429=True,
    verify=verify,
    kept_headers=(SIGNATURE, "X-Webhook-Id", "X-Webhook-Subscription"),
    options=Options(),
    enrichment=alerts_of_incident,
)
