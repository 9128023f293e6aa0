"""Uptime Kuma's Webhook notification, of 1.x and 2.x.

https://github.com/louislam/uptime-kuma/blob/master/server/notification-providers/webhook.js
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from marshmallow import fields

from adapters.uptimekuma.setup import HINTS, SETUP, SUMMARY, sample
from openremedy.adapter import (
    UNKNOWN_HOST,
    Adapter,
    Alert,
    AlertStatus,
    Format,
    Ignored,
    IncidentType,
    Mapped,
    Payload,
    Severity,
    Text,
    Translated,
    Translation,
    Unsupported,
    first_host,
    incident_type_of,
    port_of,
    said_type,
    severity_of,
    time_of,
)

STATUSES = {"0": AlertStatus.FIRING, "1": AlertStatus.RESOLVED}
# Both leave it open whether the monitor is down: what comes after them says so.
UNDECIDED = {"2": "pending", "3": "under maintenance"}
# What a monitor checks by its type; every other type, one of tomorrow too, finds that something does not answer.
TYPES = {"port": IncidentType.PORT_UNAVAILABLE}
# They are down because of a value or by hand: their names say what broke, if anything does.
TOLD_BY_NAME = ("snmp", "manual")
# Where a monitor says whom it asks, the first that does.
HOSTS = ("hostname", "url", "grpcUrl")
SEVERITY_TAGS = ("severity", "priority")
# Tags that need no value to be understood: whoever calls one `production` has said nothing of a severity.
_PLAIN_SEVERITY = re.compile(r"critical|high|medium|low|info|(?:p|sev)[1-5]", re.IGNORECASE)
SHOWN = {
    "type": "type",
    "description": "description",
    "keyword": "keyword",
    "pathName": "path",
    "docker_container": "docker_container",
    "system_service_name": "system_service_name",
    "mqttTopic": "mqtt_topic",
    "grpcServiceName": "grpc_service_name",
}
# The names of what is watched in words of its own host, before the name that people gave the monitor.
SERVICES = ("docker_container", "system_service_name", "grpcServiceName", "name")
NO_ADDRESS = ("", "https://", "http://")  # what the form of a monitor without an address holds

TESTED = "Test notification received: this source is connected. A monitor that goes down will open an incident."
ADVICE = (
    "This is not a notification of Uptime Kuma: there is no heartbeat, monitor or msg in it. Choose "
    "Preset - application/json as the Request Body of the notification; no custom body is needed."
)

# `[Shop] [🔴 Down] connect ECONNREFUSED`, where nothing else tells the status.
_MESSAGE = re.compile(r"\[(?P<name>[^\]]{1,200})\] ?\[[^\]\w]{0,4}(?P<status>Up|Down)\]")
# `[Shop][https://shop.example.com] server certificate shop.example.com will expire in 7 days`; of 1.x: be expired.
_NOTICE = re.compile(r"\[(?P<name>[^\]]{1,200})\]\[(?P<url>[^\]]{0,2000})\]")
_DOMAIN = re.compile(r"Domain name (?P<url>[\w.-]{1,253}) ")
_DAYS = re.compile(r"\bin (-?\d{1,5}) days?\b")


class Notification(Payload):
    """The body: heartbeat and monitor are null in tests and in notices about certificates and domains."""

    heartbeat = Mapped()
    monitor = Mapped()
    msg = Text()


class Heartbeat(Payload):
    """What a check has found; how long it took, how often it was tried and what was answered differ each time."""

    monitor_id = Text(data_key="monitorID")
    status = Text()
    time = Text()
    msg = Text()


class Monitor(Payload):
    """What is watched. The names are Uptime Kuma's own."""

    id = Text()
    name = Text()
    port = Text()
    tags = fields.Raw(load_default=None, allow_none=True)


# Beside what has a field of its own, everything that is shown or looked at is plain text.
_MONITOR = Monitor.from_dict({name: Text() for name in {*SHOWN, *HOSTS, *SERVICES}}, name="Monitor")()
_HEARTBEAT = Heartbeat()


def unwrap(payload: dict[str, Any], _options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one notification of a body. Raises Unsupported for what has nothing of Uptime Kuma's."""
    if not (payload["heartbeat"] or payload["monitor"] or payload["msg"].strip()):
        raise Unsupported(ADVICE)
    return [payload]


def translate(notification: dict[str, Any], _payload: dict[str, Any]) -> Translation:
    """One notification: of a monitor, a notice without one, or a test."""
    message = notification["msg"].strip()
    if notification["heartbeat"] or notification["monitor"] or _MESSAGE.match(message):
        return _of_monitor(notification, message)
    return Ignored(TESTED) if message.rpartition(" ")[2] == "Testing" else _notice(message)


# ---------------------------------------------------------------- a monitor


def _of_monitor(notification: dict[str, Any], message: str) -> Translation:
    heartbeat, monitor = _HEARTBEAT.load(notification["heartbeat"]), _MONITOR.load(notification["monitor"])
    told = _MESSAGE.match(message)
    monitor["name"] = monitor["name"].strip() or (told["name"] if told else "")
    if undecided := UNDECIDED.get(heartbeat["status"]):
        return Ignored(f"The monitor is {undecided}: nothing begins and nothing ends with that.")
    ended = told is not None and told["status"] == "Up"
    status = STATUSES.get(heartbeat["status"], AlertStatus.RESOLVED if ended else AlertStatus.FIRING)
    tags = dict(_tags(monitor["tags"]))
    incident_type = _incident_type(monitor, tags, heartbeat["msg"])
    severity = _severity(tags)
    alert = Alert(
        hostname=_hostname(monitor),
        incident_type=incident_type,
        severity=severity or Severity.MEDIUM,
        evidence=_evidence(monitor, tags, heartbeat["msg"] or message, incident_type),
        status=status,
        dedup_key=_key(heartbeat, monitor),
        occurred_at=_utc(heartbeat["time"]),
    )
    return Translated(alert, severity_told=severity is not None)


def _key(heartbeat: Mapping[str, str], monitor: Mapping[str, Any]) -> str:
    number = monitor["id"] or heartbeat["monitor_id"]
    return f"monitor:{number}" if number else f"name:{monitor['name']}"


def _utc(text: str) -> datetime | None:
    """`2026-03-02 08:15:30.412`, which is UTC whatever the time zone of the server."""
    return time_of(text.strip().replace(" ", "T", 1) + "Z") or time_of(text)


def _tags(tags: Any) -> Iterator[tuple[str, str]]:
    """The name and the value of each tag; one without a value has an empty one."""
    for tag in tags if isinstance(tags, list) else ():
        if isinstance(tag, dict) and isinstance(tag.get("name"), str):
            value = tag.get("value")
            yield tag["name"].strip(), value.strip() if isinstance(value, str) else ""


def _incident_type(monitor: Mapping[str, Any], tags: Mapping[str, str], message: str) -> IncidentType:
    kind = monitor["type"].lower()
    said = said_type(value for name, value in tags.items() if name.lower() == "incident_type")
    if said or not kind or kind in TOLD_BY_NAME:
        return said or incident_type_of(monitor["name"], "", (message,))
    return TYPES.get(kind, IncidentType.SERVICE_DOWN)


def _severity(tags: Mapping[str, str]) -> Severity | None:
    """As a tag `severity:high` says, or one that is called `critical` itself."""
    said = (severity_of(value) for name, value in tags.items() if name.lower() in SEVERITY_TAGS)
    plain = (severity_of(name) for name, value in tags.items() if not value and _PLAIN_SEVERITY.fullmatch(name))
    return next(filter(None, (*said, *plain)), None)


def _hostname(monitor: Mapping[str, Any]) -> str:
    host = first_host(monitor[name] for name in HOSTS if monitor[name].strip() not in NO_ADDRESS)
    return host or (f"service:{monitor['name']}" if monitor["name"] else UNKNOWN_HOST)


def _evidence(
    monitor: Mapping[str, Any], tags: Mapping[str, str], message: str, incident_type: IncidentType
) -> dict[str, Any]:
    """What an engineer looks at; nothing that differs between two notifications of one outage."""
    service = next((monitor[name] for name in SERVICES if monitor[name]), "")
    evidence = {
        "monitor": monitor["name"],
        "monitor_id": monitor["id"],
        "message": message,
        "url": monitor["url"] if monitor["url"].strip() not in NO_ADDRESS else "",
        "port": port_of(monitor["port"]),
        "service_name": service if incident_type is IncidentType.SERVICE_DOWN else "",
        **{shown: monitor[name] for name, shown in SHOWN.items()},
        "tags": tags,
    }
    return {name: value for name, value in evidence.items() if value not in ("", {})}


# ---------------------------------------------------------------- a notice


def _notice(message: str) -> Translation:
    """A certificate or a domain that will expire, or whatever else comes without a monitor: never dropped.

    Fewer days are news of the same incident.
    """
    named = _NOTICE.match(message) or _DOMAIN.match(message)
    found = named.groupdict() if named else {}
    days = _DAYS.search(message)
    evidence = {
        "monitor": found.get("name", ""),
        "title": _DAYS.sub("soon", message),
        "message": message,
        "url": found.get("url", ""),
        "days_left": int(days[1]) if days else "",
    }
    alert = Alert(
        hostname=first_host([found.get("url", "")]) or UNKNOWN_HOST,
        incident_type=IncidentType.CUSTOM,
        evidence={name: value for name, value in evidence.items() if value != ""},
        dedup_key=f"notice:{_DAYS.sub('', message)}",
    )
    return Translated(alert, severity_told=False)


adapter = Adapter(
    name="uptimekuma",
    title="Uptime Kuma",
    formats=(Format(payload=Notification(), translate=translate, unwrap=unwrap, advice=ADVICE, form_field="data"),),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
