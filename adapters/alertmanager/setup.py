"""What the page of a source of Alertmanager, or of Prometheus alone, says and shows."""

from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "Alertmanager 0.25 and newer posts its own notifications, and so does Prometheus without one. No template."
SETUP = (
    SetupStep(
        "Add the receiver to alertmanager.yml",
        "Better than in this file the token lies in one of its own, without a line break at its end: then write "
        "credentials_file with its path in place of credentials.",
        """receivers:
  - name: openremedy
    webhook_configs:
      - url: {url}
        send_resolved: true
        http_config:
          authorization:
            credentials: {token}
""",
    ),
    SetupStep(
        "Route to it",
        "Alertmanager gives up on what fires and ends while we cannot be reached, so keep group_interval short.",
        """route:
  receiver: openremedy
  group_by: [alertname, instance]
  group_wait: 10s
  group_interval: 1m
  repeat_interval: 4h
""",
    ),
    SetupStep("Check it, then send Alertmanager a SIGHUP", "", "amtool check-config alertmanager.yml"),
    SetupStep(
        "Let the Watchdog through",
        "An alert that always fires, Watchdog or DeadMansSwitch, opens no incident here. It is the heartbeat of this "
        "source: when it stops, the source is shown as silent.",
    ),
    SetupStep(
        "Or: Prometheus without an Alertmanager",
        "Instead of all this, name OpenRemedy as the Alertmanager in prometheus.yml.",
        """alerting:
  alertmanagers:
    - scheme: {scheme}
      path_prefix: {path}
      authorization:
        credentials: {token}
      static_configs:
        - targets: ["{host}"]
""",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Alertmanager sends the first notification of a group after group_wait. Has it "
    "been reloaded, and does a route lead to this receiver?",
    "host": "No alert so far names its host. It is read from the label instance, node, host or pod, and from the "
    "annotation hostname; a rule that sums the label away loses it.",
    "type": "Every alert so far is of the type custom. Give the rules a label incident_type, such as disk_full.",
    "severity": "No alert so far says how bad it is, so each counts as medium. Give the rules a label severity.",
    "recovery": "No alert has ended yet. Alertmanager says so a group_interval later, and only with send_resolved on.",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of one alert."""
    labels = {"alertname": "DiskFull", "instance": f"{hostname}:9100", "severity": "warning", "mountpoint": "/var"}
    state = "resolved" if ended else "firing"
    alert = {
        "status": state,
        "labels": labels,
        "annotations": {"summary": f"/var of {hostname} is 94 % full", "description": "A test alert of OpenRemedy."},
        "startsAt": at.isoformat(),
        "endsAt": (at + timedelta(seconds=1)).isoformat() if ended else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": f"{int(at.timestamp() * 1_000_000):016x}",
    }
    return {
        "version": "4",
        "groupKey": '{}:{alertname="DiskFull"}',
        "truncatedAlerts": 0,
        "status": state,
        "receiver": "openremedy",
        "groupLabels": {"alertname": "DiskFull"},
        "commonLabels": labels,
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
        "alerts": [alert],
    }
