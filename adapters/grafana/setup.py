"""How Grafana is connected, and a notification to try it with."""

from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "A webhook contact point of Grafana 8 and newer. By token, or from 12.0 on by its own HMAC signature."
SETUP = (
    SetupStep(
        "Add a contact point",
        "Alerts & IRM → Alerting → Contact points (from 13.0: Notification configuration), + Add contact point, "
        "integration Webhook. This is its URL:",
        "{url}",
    ),
    SetupStep(
        "Give it the token",
        "Optional Webhook settings, Authorization Header - Credentials. (Grafana 8: HTTP Basic Authentication, any "
        "user, the token as password.) Leave Disable resolved message off, Max Alerts at 0 and Custom Payload empty.",
        "{token}",
    ),
    SetupStep(
        "Test it, save it, and choose it in Notification policies",
        "Grafana makes one attempt for each notification, so keep the group interval short: 1 minute.",
    ),
    SetupStep(
        "Or: provision it",
        "A file for Grafana's provisioning/alerting folder; the token comes from its environment.",
        """apiVersion: 1
contactPoints:
  - orgId: 1
    name: OpenRemedy
    receivers:
      - uid: openremedy
        type: webhook
        disableResolveMessage: false
        settings:
          url: {url}
          httpMethod: POST
          authorization_scheme: Bearer
          authorization_credentials: $OPENREMEDY_TOKEN
policies:
  - orgId: 1
    receiver: OpenRemedy
    group_by: [grafana_folder, alertname]
    group_wait: 10s
    group_interval: 1m
    repeat_interval: 4h
""",
    ),
)


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of one alert."""
    labels = {"alertname": "Disk is filling", "instance": hostname, "severity": "high", "grafana_folder": "Hosts"}
    state = "resolved" if ended else "firing"
    alert = {
        "status": state,
        "labels": labels,
        "annotations": {"summary": f"The disk of {hostname} is 94 % full: a test alert of OpenRemedy"},
        "startsAt": at.isoformat(),
        "endsAt": (at + timedelta(minutes=1)).isoformat() if ended else "0001-01-01T00:00:00Z",
        "fingerprint": f"{int(at.timestamp()) & 0xFFFFFFFFFFFFFFFF:016x}",
        "values": {"A": 94},
    }
    return {
        "receiver": "OpenRemedy",
        "status": state,
        "orgId": 1,
        "alerts": [alert],
        "groupLabels": {"alertname": "Disk is filling"},
        "commonLabels": labels,
        "commonAnnotations": {},
        "externalURL": "",
        "version": "1",
        "groupKey": "openremedy-test",
        "truncatedAlerts": 0,
        "title": f"[{state.upper()}:1] Disk is filling",
        "state": "ok" if ended else "alerting",
    }
