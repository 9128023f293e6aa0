"""PagerDuty's V3 webhooks (webhook subscriptions), and its legacy V2 where a source asks for them.

https://developer.pagerduty.com/docs/webhooks-overview
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import fields, validate

from adapters.pagerduty.details import (
    called,
    custom_fields,
    flat,
    host_in,
    host_in_text,
    listed,
    mapped,
    named_host,
    named_type,
    summary_of,
    text_in,
)
from adapters.pagerduty.enrichment import BASES, alerts_of_incident
from adapters.pagerduty.legacy import as_event, is_v1
from adapters.pagerduty.setup import HINTS, SETUP, SUMMARY, sample
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
TITLE = ("title", "summary")
# Where the tool behind an incident tells in its details what it measures and what that means.
METRICS = ("expression", "expr", "query", "metric")
TEXTS = ("summary", "description", "message")
KEPT = ("urgency", "status", "number", "incident_key", "created_at", "reopened_at")
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


class Options(Payload):
    """What an admin may choose for a source of this adapter."""

    legacy_v2 = fields.Boolean(
        load_default=False,
        metadata={
            "title": "Take legacy V2 webhooks",
            "description": "They are not signed: give the extension the token of this source as a custom header.",
        },
    )
    region = fields.String(
        load_default="us",
        validate=validate.OneOf(list(BASES)),
        metadata={"title": "Service region", "description": "Where its API is asked about new incidents."},
    )


_EVENT, _OPTIONS = Event(), Options()


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
    name = event["event_type"].strip()
    if not name:
        return Rejected("This message has no `event`.")
    if name == "pagey.ping":
        return Ignored("Test notification received: this source is connected. No incident was opened.")
    status = STATUSES.get(name)
    if status is None:
        return Ignored(f"PagerDuty's event {name[:60]!r} changes no incident here.")
    incident = _incident_in(event["data"])
    if _is_ours(event, incident):
        return Ignored("This incident came to PagerDuty from OpenRemedy itself.")
    return _note(event) if status is AlertStatus.NOTE else _incident(event, incident, status)


def _incident_in(data: dict[str, Any]) -> dict[str, Any]:
    """The incident: `data` itself, or a reference in it, and then `data.id` is of something else."""
    kind, reference = text_in(data, "type"), mapped(data.get("incident"))
    return data if kind == "incident" or not (kind or reference) else reference


def _is_ours(event: Mapping[str, Any], incident: Mapping[str, Any]) -> bool:
    """Whether OpenRemedy itself is the origin. A service may be called so, and then it is one that somebody watches."""
    agent = {} if text_in(event["agent"], "type") == "service_reference" else event["agent"]
    names = (summary_of(event["client"]).lower(), summary_of(agent).lower())
    return OURS in names or text_in(incident, "incident_key").lower().startswith(f"{OURS}:")


def _note(event: Mapping[str, Any]) -> Translation:
    data = event["data"]
    incident_id = text_in(data.get("incident"), "id")
    if not incident_id:
        return Rejected("This event names no incident: its `data.incident.id` is missing.")
    evidence = _present(
        event=event["event_type"],
        content=text_in(data, "content", "message")[:MAX_NOTE],
        by=summary_of(event["agent"]),
        custom_fields=custom_fields(data.get("custom_fields")),
        before=custom_fields(data.get("changed_custom_fields")),
    )
    alert = Alert(
        hostname=UNKNOWN_HOST,
        incident_type=IncidentType.CUSTOM,
        evidence=evidence,
        status=AlertStatus.NOTE,
        dedup_key=incident_id,
        occurred_at=time_of(event["occurred_at"]),
    )
    return Translated(alert)


def _incident(event: Mapping[str, Any], incident: dict[str, Any], status: AlertStatus) -> Translation:
    hostname, source = _host(incident)
    merged = _merged(incident) if status is AlertStatus.RESOLVED else {}
    severity = _severity(incident)
    alert = Alert(
        hostname=hostname,
        incident_type=_incident_type(incident),
        severity=severity or Severity.MEDIUM,
        evidence=_evidence(event, incident) | {"hostname_source": source} | merged,
        status=status,
        dedup_key=_key(incident),
        occurred_at=time_of(event["occurred_at"]),
    )
    return Translated(alert, opens=status is AlertStatus.ACKNOWLEDGED, severity_told=severity is not None)


def _key(incident: dict[str, Any]) -> str | None:
    """Its id. Without one the key that its sender chose, and without that its title tells it from others."""
    incident_key = text_in(incident, "incident_key")
    return text_in(incident, "id") or (f"incident_key:{incident_key}" if incident_key else None)


def _host(incident: dict[str, Any]) -> tuple[str, str]:
    """The host and where it was found: V3 has no field for it."""
    service = summary_of(incident.get("service"))
    candidates = (
        (named_host(custom_fields(incident.get("custom_fields"))), "custom_field"),
        (host_in(flat(incident.get("details"))), "details"),
        (host_in_text(text_in(incident, *TITLE)), "title"),
        (f"service:{service}" if service else "", "service"),
    )
    return next(((host, source) for host, source in candidates if host), (UNKNOWN_HOST, "none"))


def _incident_type(incident: dict[str, Any]) -> IncidentType:
    """As its sender says, else as its title sounds, else as the metric or the text in its details does."""
    details = flat(incident.get("details"))
    told = incident_type_of(text_in(incident, *TITLE), " ".join(called(METRICS, details)), called(TEXTS, details))
    return _said_type(incident) or told


def _said_type(incident: dict[str, Any]) -> IncidentType | None:
    """The type that a custom field, the incident's type in PagerDuty or the details name."""
    own = {"incident_type": text_in(incident.get("incident_type"), "name")}
    said = (custom_fields(incident.get("custom_fields")), own, flat(incident.get("details")))
    return next(filter(None, map(named_type, said)), None)


def _severity(incident: dict[str, Any]) -> Severity | None:
    """As the priority says; the urgency only tells how loudly PagerDuty rings."""
    return severity_of(summary_of(incident.get("priority"))) or URGENCIES.get(text_in(incident, "urgency").lower())


def _merged(incident: dict[str, Any]) -> dict[str, Any]:
    """That it went up in another incident, which is not the same as fixed."""
    reason = mapped(incident.get("resolve_reason"))
    if text_in(reason, "type") != "merge_resolve_reason":
        return {}
    into = reason.get("incident")
    return {"resolution": _present(reason="merged", into=text_in(into, "id"), title=summary_of(into), url=_link(into))}


def _evidence(event: Mapping[str, Any], incident: dict[str, Any]) -> dict[str, Any]:
    """What an engineer looks at; nothing that differs between two deliveries of one event."""
    return _present(
        title=text_in(incident, *TITLE),
        **{name: summary_of(incident.get(name)) for name in ("service", "priority", "escalation_policy")},
        **{name: text_in(incident, name) for name in KEPT},
        incident_type=_said_type(incident),
        incident_id=text_in(incident, "id"),
        link=_link(incident),
        assignees=_names(incident.get("assignees")),
        teams=_names(incident.get("teams")),
        custom_fields=custom_fields(incident.get("custom_fields")),
        details=flat(incident.get("details")),
        event=event["event_type"],
        by=summary_of(event["agent"]),
    )


def _present(**said: Any) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value}


def _names(references: Any) -> list[str]:
    return [name for one in listed(references)[:MAX_LISTED] if (name := summary_of(one))]


def _link(incident: Any) -> str:
    """For people to click on, so nothing but the web."""
    url = text_in(incident, "html_url")
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
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
