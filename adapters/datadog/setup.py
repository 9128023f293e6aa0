"""How Datadog is connected, and an event to try it with."""

import json
from datetime import datetime
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
        "Integrations, Webhooks. Under Custom Variables add OPENREMEDY_TOKEN with this value; choose Hide from view.",
        "{token}",
    ),
    SetupStep("Add a webhook called openremedy", "On the same page. This is its URL:", "{url}"),
    SetupStep("Its payload", "", json.dumps(PAYLOAD, indent=2)),
    SetupStep("Its custom headers", "", '{"Authorization": "Bearer $OPENREMEDY_TOKEN"}'),
    SetupStep(
        "Notify it",
        "Mention it in the message of a monitor, outside of any condition, so that the recovery comes too. Test "
        "Notifications sends a test that ticks the list beside this and opens nothing.",
        "@webhook-openremedy",
    ),
)


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """An event as our payload has it."""
    told = {
        "id": str(int(at.timestamp())),
        "event_type": "query_alert_monitor",
        "title": f"[{'Recovered' if ended else 'Triggered'} on {{host:{hostname}}}] Disk is filling",
        "message": "A test alert of OpenRemedy: the disk is 94 % full.",
        "date": str(int(at.timestamp() * 1000)),
        "last_updated": str(int(at.timestamp() * 1000)),
        "hostname": hostname,
        "tags": f"host:{hostname},openremedy:test",
        "aggreg_key": f"openremedy-{int(at.timestamp())}",
        "alert_id": "1",
        "alert_cycle_key": f"openremedy-{int(at.timestamp())}",
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
    return {name: told.get(name, "") for name in PAYLOAD} | {"schema": PAYLOAD["schema"]}
