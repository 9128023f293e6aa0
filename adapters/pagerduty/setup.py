"""How PagerDuty is connected, and an event to try it with."""

from datetime import datetime
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = (
    "PagerDuty's V3 webhooks, signed by PagerDuty. Incidents there and here open, are acknowledged and end together."
)
SETUP = (
    SetupStep(
        "Add a webhook in PagerDuty",
        "Integrations > Generic Webhooks (v3) > New Webhook. Event Subscription: all of incident.*. This is its URL:",
        "{url}",
    ),
    SetupStep(
        "Give its secret to this source",
        "The dialog that follows shows the webhook's secret once. Add it below as a signing secret of this source. "
        "Each webhook has its own; give all of them to one source.",
    ),
    SetupStep(
        "Send a test event", "The webhook's page in PagerDuty has a button for it: it ticks the list beside this."
    ),
    SetupStep(
        "Where a proxy changes bodies: use the token",
        "Then no signature can be right. Add this as a custom header of the webhook instead.",
        "X-OpenRemedy-Token: {token}",
    ),
)


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A V3 event of an incident."""
    number = int(at.timestamp())
    name = "resolved" if ended else "triggered"
    incident = {
        "id": f"QTEST{number}",
        "type": "incident",
        "self": "",
        "html_url": "",
        "number": number,
        "status": name,
        "incident_key": f"openremedy-test-{number}",
        "created_at": at.isoformat(),
        "title": f"Disk full on {hostname}: a test alert of OpenRemedy",
        "service": {"id": "PTEST", "type": "service_reference", "summary": "OpenRemedy test"},
        "urgency": "high",
        "priority": None,
    }
    event = {
        "id": f"01TEST{number}{name}",
        "event_type": f"incident.{name}",
        "resource_type": "incident",
        "occurred_at": at.isoformat(),
        "agent": None,
        "client": None,
        "data": incident,
    }
    return {"event": event}
