"""What the page of a source of Uptime Kuma says and shows."""

from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "The Webhook notification of Uptime Kuma 1.x and 2.x tells when a monitor is down and when it is up again."
SETUP = (
    SetupStep(
        "Add a notification",
        "Settings > Notifications > Setup Notification, Notification Type: Webhook. HTTP Method, where there is one: "
        "POST. Request Body (Content Type in 1.x): Preset - application/json. This is its Post URL:",
        "{url}",
    ),
    SetupStep(
        "Give it the token",
        "Switch Additional Headers on and paste this.",
        '{"Authorization": "Bearer {token}"}',
    ),
    SetupStep(
        "Test, then switch it on for the monitors",
        "The test opens no incident here. Default enabled is for monitors of tomorrow, Apply on all existing monitors "
        "for those of today.",
    ),
    SetupStep(
        "Let it repeat",
        "Uptime Kuma tells an outage once and does not try again where that fails. In each monitor set Resend "
        "Notification if Down X times consecutively, to 5 for example: then the next repetition opens the incident.",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Press Test in the notification: that ticks the first three lines.",
    "host": "No monitor so far names its host. Those with a hostname or a URL do; others, such as push and docker, "
    "appear as service: and the monitor's name.",
    "type": "Every incident so far is of the type custom. A monitor with a type of its own, or a tag incident_type "
    "with a value such as disk_full, says what broke.",
    "severity": "No monitor so far says how bad it is, so each counts as medium. Give them a tag severity with the "
    "value critical, high, medium, low or info.",
    "recovery": "No monitor is up again yet. Uptime Kuma says so by the same notification.",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of a monitor."""
    number = int(at.timestamp() * 1_000_000)
    text = "200 - OK" if ended else "94 is not below 90: a test alert of OpenRemedy"
    return {
        "heartbeat": {
            "monitorID": number,
            "status": int(ended),
            "time": (at + timedelta(seconds=ended)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            "msg": text,
            "important": True,
            "duration": 60,
        },
        "monitor": {
            "id": number,
            "name": "Disk of the OpenRemedy test",
            "url": f"https://{hostname}/disk",
            "hostname": None,
            "port": None,
            "type": "json-query",
            "interval": 60,
            "resendInterval": 0,
            "tags": [{"name": "severity", "value": "high"}, {"name": "incident_type", "value": "disk_full"}],
        },
        "msg": f"[Disk of the OpenRemedy test] [{'✅ Up' if ended else '🔴 Down'}] {text}",
    }
