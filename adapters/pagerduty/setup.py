"""What the page of a source of PagerDuty says and shows."""

from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "V3 webhooks, signed by PagerDuty: its incidents and those here open, are acknowledged and end together."
SETUP = (
    SetupStep(
        "Add a webhook in PagerDuty",
        "Integrations > Generic Webhooks (v3) > New Webhook. Event Subscription: all of incident.*. Webhook URL:",
        "{url}",
    ),
    SetupStep(
        "Give its secret to this source",
        "The dialog that follows shows the secret of the webhook, this once. Add it to the signing secrets of this "
        "source, on this page. Each webhook has a secret of its own; give all of them to one source.",
    ),
    SetupStep(
        "Send Test Event", "The page of the webhook in PagerDuty has a button for it. It opens no incident here."
    ),
    SetupStep(
        "For hosts and details: a read-only API token",
        "A V3 webhook names neither the host nor what the monitoring tool said. In Integrations > API Access Keys > "
        "Create New API Key, tick Read-only API Key, and give the key to this source, on this page.",
    ),
    SetupStep(
        "Or: the token, where a proxy changes bodies on their way",
        "Then no signature can be right. Add this as a Custom Header of the webhook instead of the secret.",
        "X-OpenRemedy-Token: {token}",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Press Send Test Event on the page of the webhook in PagerDuty.",
    "host": "PagerDuty's webhooks name no host. With a read-only API token it is read from PagerDuty; a custom field "
    "hostname, or a title such as Disk full on web-01.example.com, does as well.",
    "type": "Every incident so far is of the type custom. Its title, or a custom field incident_type, says what broke.",
    "severity": "No incident so far has a priority or an urgency, so each counts as medium.",
    "recovery": "No incident has been resolved in PagerDuty yet. Is incident.resolved among the subscribed events?",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A V3 event of an incident."""
    number = int(at.timestamp() * 1_000_000)
    name = "resolved" if ended else "triggered"
    incident = {
        "id": f"test-{number}",  # in small letters, so that a worker does not ask PagerDuty about it
        "type": "incident",
        "self": "",
        "html_url": "",
        "number": number,
        "status": name,
        "incident_key": f"openremedy-test-{number}",
        "created_at": at.isoformat(),
        "title": f"[Triggered on {{host:{hostname}}}] Disk full: a test alert of OpenRemedy",
        "service": {"id": "PTEST", "type": "service_reference", "summary": "OpenRemedy test"},
        "urgency": "high",
        "priority": None,
    }
    event = {
        "id": f"01TEST{number}{name}",
        "event_type": f"incident.{name}",
        "resource_type": "incident",
        "occurred_at": (at + timedelta(seconds=ended)).isoformat(),
        "agent": None,
        "client": None,
        "data": incident,
    }
    return {"event": event}
