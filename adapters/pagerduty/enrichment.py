"""What a worker asks PagerDuty's REST API about a new incident: the alerts in it, which its webhooks leave out.

https://developer.pagerduty.com/api-reference/4bc42e7ac0c59-list-alerts-for-an-incident
"""

import re
from collections.abc import Mapping
from typing import Any

from adapters.pagerduty.details import event_details, host_in, listed, mapped, named_type, text_in
from openremedy.adapter import Enrichment

# https://support.pagerduty.com/main/docs/service-regions
BASES = {"us": "https://api.pagerduty.com", "eu": "https://api.eu.pagerduty.com"}
MAX_ALERTS = 3
MAX_SUMMARY = 1000
_ID = re.compile(r"[A-Z0-9]{1,40}", re.ASCII)


def path(evidence: Mapping[str, Any]) -> str | None:
    """Where the alerts of the incident are; only the id is taken from what was sent, never a URL."""
    incident_id = evidence.get("incident_id")
    if not isinstance(incident_id, str) or not _ID.fullmatch(incident_id):
        return None
    return f"/incidents/{incident_id}/alerts?include[]=first_trigger_log_entries&limit={MAX_ALERTS}"


def read(answer: Any) -> dict[str, Any]:
    """The first alerts with their details, and the host and the incident type that these name."""
    alerts = [_alert(one) for one in listed(mapped(answer).get("alerts"))[:MAX_ALERTS]]
    details = [mapped(alert.get("details")) for alert in alerts]
    found = {
        "alerts": [alert for alert in alerts if alert],
        "hostname": next(filter(None, map(host_in, details)), ""),
        "incident_type": next(filter(None, map(named_type, details)), ""),
    }
    return {name: value for name, value in found.items() if value}


def _alert(alert: Any) -> dict[str, Any]:
    channel = mapped(mapped(alert).get("first_trigger_log_entry")).get("channel")
    found = {
        "summary": text_in(alert, "summary")[:MAX_SUMMARY],
        "severity": text_in(alert, "severity")[:MAX_SUMMARY],
        # The alert's own body is the newer of the two.
        "details": event_details(channel) | event_details(mapped(alert).get("body")),
    }
    return {name: value for name, value in found.items() if value}


alerts_of_incident = Enrichment(
    base=lambda options: BASES.get(str(options.get("region")), BASES["us"]),
    path=path,
    read=read,
    authorization=lambda token: f"Token token={token}",
    headers={"Accept": "application/vnd.pagerduty+json;version=2"},
)
