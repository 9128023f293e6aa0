"""V2 webhooks (generic extensions, out of PagerDuty's support since October 2022) as the V3 events they would be.

https://developer.pagerduty.com/docs/webhooks-v2-overview
"""

from collections.abc import Sequence
from typing import Any

from adapters.pagerduty.details import event_details, listed, mapped, text_in

EVENTS = {
    "incident.trigger": "incident.triggered",
    "incident.acknowledge": "incident.acknowledged",
    "incident.unacknowledge": "incident.unacknowledged",
    "incident.resolve": "incident.resolved",
    "incident.assign": "incident.reassigned",
    "incident.escalate": "incident.escalated",
    "incident.delegate": "incident.delegated",
    "incident.annotate": "incident.annotated",
}


def is_v1(messages: Sequence[Any]) -> bool:
    """Whether these are messages of V1, which have a `type` where V2 has an `event`."""
    found = [one for one in messages if isinstance(one, dict)]
    return any("event" not in one and ("type" in one or "incident" in mapped(one.get("data"))) for one in found)


def as_event(message: dict[str, Any]) -> dict[str, Any]:
    """The V3 event that says the same."""
    name = text_in(message, "event")
    entry = mapped(next(iter(listed(message.get("log_entries"))), None))
    channel = mapped(entry.get("channel"))
    incident = mapped(message.get("incident"))
    note = name == "incident.annotate"
    return {
        "event_type": EVENTS.get(name, name),
        "occurred_at": text_in(message, "created_on") or text_in(entry, "created_at"),
        "agent": entry.get("agent"),
        "client": {"name": text_in(channel, "client") or text_in(channel.get("cef_details"), "client")},
        "data": _note(incident, entry, channel) if note else _incident(incident, channel),
    }


def _note(incident: dict[str, Any], entry: dict[str, Any], channel: dict[str, Any]) -> dict[str, Any]:
    content = text_in(channel, "content", "summary") or text_in(entry, "summary")
    return {"type": "incident_note", "incident": incident, "content": content}


def _incident(incident: dict[str, Any], channel: dict[str, Any]) -> dict[str, Any]:
    return incident | {
        "type": "incident",
        "number": incident.get("incident_number"),
        "title": text_in(incident, "title", "description", "summary"),
        "assignees": [mapped(one).get("assignee") for one in listed(incident.get("assignments"))],
        "details": event_details(channel),
    }
