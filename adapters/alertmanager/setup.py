"""How Alertmanager, or Prometheus alone, is connected, and a notification to try it with."""

from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = (
    "Alertmanager 0.25 and newer, or Prometheus without one, posts its own notifications. No sidecar, no template."
)
SETUP = (
    SetupStep(
        "Add the receiver to alertmanager.yml",
        "Better than in the file itself the token lies in one of its own: credentials_file instead of credentials.",
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
        "A short group_interval, because Alertmanager gives up on what fires and ends while we cannot be reached.",
        """route:
  receiver: openremedy
  group_by: [alertname, instance]
  group_wait: 10s
  group_interval: 1m
  repeat_interval: 4h
""",
    ),
    SetupStep(
        "Check, and reload",
        "Then send Alertmanager a SIGHUP. An alert that always fires (Watchdog) is the heartbeat of this source: "
        "when it stops, the source is shown as silent.",
        "amtool check-config alertmanager.yml",
    ),
    SetupStep(
        "Or: Prometheus straight to us",
        "Where there is no Alertmanager, name OpenRemedy in its place in prometheus.yml.",
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


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of one alert."""
    labels = {"alertname": "DiskFull", "instance": f"{hostname}:9100", "severity": "warning", "mountpoint": "/var"}
    alert = {
        "status": "resolved" if ended else "firing",
        "labels": labels,
        "annotations": {"summary": f"/var of {hostname} is 94 % full", "description": "A test alert of OpenRemedy."},
        "startsAt": at.isoformat(),
        "endsAt": (at + timedelta(minutes=1)).isoformat() if ended else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": f"{int(at.timestamp()) & 0xFFFFFFFFFFFFFFFF:016x}",
    }
    return {
        "version": "4",
        "groupKey": '{}:{alertname="DiskFull"}',
        "truncatedAlerts": 0,
        "status": alert["status"],
        "receiver": "openremedy",
        "groupLabels": {"alertname": "DiskFull"},
        "commonLabels": labels,
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": [alert],
    }
