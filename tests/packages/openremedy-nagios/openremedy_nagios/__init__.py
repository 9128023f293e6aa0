"""An adapter as somebody else ships it: a package of its own, found by its entry point. Also the example of the docs.

The body is what a Nagios `notify-by-curl` command would send: {"host", "service", "state", "output", "time"}.
"""

from typing import Any

from openremedy.adapter import (
    Adapter,
    Alert,
    AlertStatus,
    Format,
    Payload,
    Severity,
    Text,
    Translated,
    Translation,
    Unsupported,
    incident_type_of,
    time_of_epoch,
)

SEVERITIES = {"CRITICAL": Severity.CRITICAL, "DOWN": Severity.CRITICAL, "WARNING": Severity.MEDIUM}
OVER = ("OK", "UP", "RECOVERY")


class Notification(Payload):
    """The fields that are read; whatever is strange in them becomes empty."""

    host = Text()
    service = Text()
    state = Text()
    output = Text()
    time = Text()


def the_one(payload: dict[str, Any], _options: Any) -> list[Any]:
    """The body is the alert."""
    if not (payload["host"] or payload["service"]):
        raise Unsupported("This is no Nagios notification: send `host` and `service` with your notify command.")
    return [payload]


def translate(alert: dict[str, Any], _payload: dict[str, Any]) -> Translation:
    """A host or service of Nagios."""
    state = alert["state"].upper()
    return Translated(
        Alert(
            hostname=alert["host"],
            incident_type=incident_type_of(f"{alert['service']} {state.lower()}"),
            severity=SEVERITIES.get(state, Severity.MEDIUM),
            evidence={"check": alert["service"], "output": alert["output"], "state": state},
            status=AlertStatus.RESOLVED if state in OVER else AlertStatus.FIRING,
            dedup_key=f"{alert['host']}/{alert['service']}",
            occurred_at=time_of_epoch(alert["time"]),
        )
    )


adapter = Adapter(name="nagios", title="Nagios", formats=(Format(Notification(), translate, unwrap=the_one),))
