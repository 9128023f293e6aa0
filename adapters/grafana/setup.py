"""What the page of a source of Grafana says and shows."""

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
        "Test, then Save contact point, then choose it in Notification policies",
        "The test opens no incident here. Grafana makes one attempt for each notification, so keep the group interval "
        "short: 1 minute.",
    ),
    SetupStep(
        "Or: a file for its provisioning/alerting folder",
        "In place of the steps before. The token is OPENREMEDY_TOKEN in the environment of Grafana. The part policies "
        "replaces the whole tree of notification policies: leave it out where you have one.",
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
    SetupStep(
        "Or: let Grafana sign, from 12.0 on",
        "No token is sent then. In HMAC Signature enter a secret of your own, X-Grafana-Alerting-Signature as Header "
        "and X-Grafana-Alerting-Timestamp as Timestamp header. Give the same secret to this source as a signing "
        "secret, and name the timestamp header in its settings. This makes a good secret:",
        "openssl rand -hex 32",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Press Test in the contact point: that ticks the first three lines.",
    "host": "No alert so far names its host. It is read from the label instance, host or node and from the annotation "
    "hostname; a rule that sums the label away loses it.",
    "type": "Every alert so far is of the type custom. Give the rules a label incident_type, such as disk_full.",
    "severity": "No alert so far says how bad it is, so each counts as medium. Give the rules a label severity.",
    "recovery": "No alert has ended yet. Grafana says so a group interval later, if Disable resolved message is off.",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of one alert."""
    labels = {"alertname": "Disk is filling", "instance": hostname, "severity": "high", "grafana_folder": "Hosts"}
    state = "resolved" if ended else "firing"
    alert = {
        "status": state,
        "labels": labels,
        "annotations": {"summary": f"The disk of {hostname} is 94 % full: a test alert of OpenRemedy"},
        "startsAt": at.isoformat(),
        "endsAt": (at + timedelta(seconds=1)).isoformat() if ended else "0001-01-01T00:00:00Z",
        "fingerprint": f"{int(at.timestamp() * 1_000_000):016x}",
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
