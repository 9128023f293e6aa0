"""What the page of a source of Datadog says and shows."""

import json
from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "Datadog's Webhooks integration posts whatever a monitor notifies."
PAYLOAD = {
    "schema": "openremedy.datadog/1",
    "id": "$ID",
    "event_type": "$EVENT_TYPE",
    "title": "$EVENT_TITLE",
    "message": "$TEXT_ONLY_MSG",
    "date": "$DATE",
    "last_updated": "$LAST_UPDATED",
    "hostname": "$HOSTNAME",
    "tags": "$TAGS",
    "link": "$LINK",
    "snapshot": "$SNAPSHOT",
    "aggreg_key": "$AGGREG_KEY",
    "alert_id": "$ALERT_ID",
    "alert_cycle_key": "$ALERT_CYCLE_KEY",
    "alert_title": "$ALERT_TITLE",
    "alert_transition": "$ALERT_TRANSITION",
    "alert_type": "$ALERT_TYPE",
    "alert_priority": "$ALERT_PRIORITY",
    "alert_status": "$ALERT_STATUS",
    "alert_metric": "$ALERT_METRIC",
    "alert_query": "$ALERT_QUERY",
    "alert_scope": "$ALERT_SCOPE",
    "incident_type": "$TAGS[incident_type]",
    "org_id": "$ORG_ID",
    "org_name": "$ORG_NAME",
}
SETUP = (
    SetupStep(
        "Keep the token as a custom variable",
        "In Integrations, Webhooks (install it if it is not there). Under Custom Variables add OPENREMEDY_TOKEN with "
        "this value, and choose Hide from view.",
        "{token}",
    ),
    SetupStep("Add a webhook called openremedy", "On the same page. This is its URL:", "{url}"),
    SetupStep(
        "Its Payload",
        "Keep every variable inside its quotes, and add what you like: it comes into the evidence.",
        json.dumps(PAYLOAD, indent=2),
    ),
    SetupStep(
        "Its Custom Headers",
        "Leave Encode as form off.",
        '{"Authorization": "Bearer $OPENREMEDY_TOKEN"}',
    ),
    SetupStep(
        "Write it into the message of each monitor that is to open incidents",
        "Outside of {{#is_alert}}, so that the recovery is sent as well. Test Notifications of the monitor opens no "
        "incident here.",
        "@webhook-openremedy",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Does the message of a monitor mention @webhook-openremedy? Its Test "
    "Notifications ticks the first three lines.",
    "host": "No alert so far names its host. Group the monitors by host, or tag what they watch with host.",
    "type": "Every alert so far is of the type custom. Tag the monitors with incident_type, such as "
    "incident_type:disk_full.",
    "severity": "No alert so far says how bad it is, so each counts as medium. Give the monitors a priority.",
    "recovery": "No alert has recovered yet. The mention @webhook-openremedy must stand outside of {{#is_alert}}.",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """An event as our payload has it."""
    number = str(int(at.timestamp() * 1_000_000))
    date = str(int((at + timedelta(seconds=ended)).timestamp() * 1000))
    told = {
        "schema": PAYLOAD["schema"],
        "id": f"{number}{int(ended)}",
        "event_type": "query_alert_monitor",
        "title": f"[{'Recovered' if ended else 'Triggered'} on {{host:{hostname}}}] Disk is filling",
        "message": "A test alert of OpenRemedy: the disk is 94 % full.",
        "date": date,
        "last_updated": date,
        "hostname": hostname,
        "tags": f"host:{hostname},openremedy:test",
        "aggreg_key": f"openremedy-{number}",
        "alert_id": "1",
        "alert_cycle_key": f"openremedy-{number}",
        "alert_title": f"Disk is filling on {hostname}",
        "alert_transition": "Recovered" if ended else "Triggered",
        "alert_type": "success" if ended else "error",
        "alert_priority": "P2",
        "alert_metric": "system.disk.in_use",
        "alert_query": "avg(last_5m):avg:system.disk.in_use{*} by {host} > 0.9",
        "alert_scope": f"host:{hostname}",
        "org_id": "0",
        "org_name": "OpenRemedy test",
    }
    return {name: told.get(name, "") for name in PAYLOAD}
