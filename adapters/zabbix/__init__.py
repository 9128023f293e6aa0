"""Zabbix by the media type that lies beside this (media_openremedy.yaml), and by those that people made for others.

The macros in its parameters: https://www.zabbix.com/documentation/current/en/manual/appendix/macros/supported_by_location
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import pre_load

from adapters.zabbix.setup import HINTS, SETUP, SUMMARY, sample
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
    incident_type_of,
    port_of,
    said_type,
    severity_of,
    text_of,
    time_of_epoch,
)

# What is read, and the names that the parameters of media types have for it: in lower case, letters only.
SPELLINGS = {
    "schema": "schema",
    "sent_at": "sentat",
    "local_now": "localnow",
    "zabbix_url": "zabbixurl zbxurl url",
    "alert_subject": "alertsubject subject title",
    "alert_message": "alertmessage message",
    "event_source": "eventsource source",
    "event_id": "eventid id",
    "event_value": "eventvalue value",
    "event_status": "eventstatus status",
    "event_name": "eventname name",
    "event_nseverity": "eventnseverity nseverity",
    "event_severity": "eventseverity severity",
    "event_tags": "eventtags eventtagsjson tags",
    "event_time": "eventtime",
    "event_timestamp": "eventtimestamp timestamp",
    "event_recovery_time": "eventrecoverytime",
    "event_recovery_timestamp": "eventrecoverytimestamp recoverytimestamp",
    "event_update_status": "eventupdatestatus updatestatus",
    "event_update_action": "eventupdateaction updateaction",
    "event_update_message": "eventupdatemessage updatemessage",
    "event_update_time": "eventupdatetime",
    "event_update_timestamp": "eventupdatetimestamp updatetimestamp",
    "event_update_user": "eventupdateuser updateuser",
    "host": "host hosthost",
    "host_name": "hostname",
    "host_ip": "hostip ip",
    "host_dns": "hostdns dns",
    "host_groups": "hostgroups triggerhostgroupname",
    "trigger_id": "triggerid",
    "trigger_description": "triggerdescription description",
    "trigger_expression": "triggerexpression expression",
    "trigger_url": "triggerurl",
    "item_name": "itemname",
    "item_key": "itemkey key",
    "item_value": "itemvalue",
    "service_name": "servicename",
    "service_tags": "servicetags",
    "service_rootcause": "servicerootcause",
    "discovery_rule": "discoveryrule",
    "discovery_ip": "discoveryip",
    "discovery_dns": "discoverydns",
    "discovery_device_status": "discoverydevicestatus",
    "discovery_service": "discoveryservice",
    "discovery_port": "discoveryport",
    "discovery_service_status": "discoveryservicestatus",
}
NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings.split()}
OUR_SCRIPT = "openremedy.zabbix/"
# One of these, or a body is no notification of Zabbix.
TELLING = ("event_id", "event_name", "trigger_id", "alert_subject", "alert_message", "trigger_description")

# {EVENT.SOURCE}; what says nothing of where it is from is about a trigger, as nearly everything is.
DISCOVERY, AUTOREGISTRATION, INTERNAL, SERVICE = "1", "2", "3", "4"
SOURCES = {"": "trigger", "0": "trigger", DISCOVERY: "discovery", INTERNAL: "internal", SERVICE: "service"}
# {EVENT.NSEVERITY}. Zabbix's own templates say Average of what has run out or is down; 0 is what nobody has classified.
SEVERITIES = {
    "1": Severity.INFO,
    "2": Severity.MEDIUM,
    "3": Severity.HIGH,
    "4": Severity.HIGH,
    "5": Severity.CRITICAL,
}
SEVERITY_WORDS = {"information": "1", "warning": "2", "average": "3", "high": "4", "disaster": "5"}
ENDED = ("ok", "resolved")
# An item whose key matches as a whole, where the name of the problem tells no type, and the expression that other tools
# would write for it: a name that is about something else still decides.
KEYS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"vfs\.fs\.(?:dependent\.)?(?:size|inode)(?:\[.*)?", re.DOTALL), "filesystem_used"),
    (re.compile(r"(?:vm\.v?memory\.(?:size|util\w*)|system\.swap\.\w+)(?:\[.*)?", re.DOTALL), "memory_used"),
    (re.compile(r"system\.cpu\.(?:util|load)(?:\[.*)?", re.DOTALL), "cpu_usage"),
    (re.compile(r"net\.(?:tcp|udp)\.(?:service|port|listen)(?:\[.*)?", re.DOTALL), "probe_success == 0"),
    (
        # Without the name of a process `proc.num` counts all of them.
        re.compile(
            r"(?:systemd\.unit\.|service\.info|service_state|icmpping$|icmpping\[|agent\.ping|web\.test\.fail"
            r"|proc\.num\[[^\],]|zabbix\[host,[^,\]]{0,20},available).*",
            re.DOTALL,
        ),
        "up == 0",
    ),
)
MOUNT_KEY = re.compile(r"vfs\.fs\.")
SERVICE_KEY = re.compile(r"proc\.num|systemd\.unit\.|service\.info|service_state|net\.(?:tcp|udp)\.service")
MOUNT_TAGS = ("filesystem", "mount", "mountpoint")
SERVICE_TAGS = ("service", "unit", "process")
PROTOCOLS = ("tcp", "udp")  # a check of a port alone, of no service
# Which parameter of a key is a port.
PORTS = {"net.tcp.service": 2, "net.udp.service": 2, "net.tcp.port": 1, "net.tcp.listen": 0, "net.udp.listen": 0}

TESTED = "Test notification received: this source is connected. A real problem will open an incident."
ADVICE = (
    "This is not a notification of Zabbix: there is no event, trigger, subject or message in it. Import the media type "
    "of adapters/zabbix/README.md, which sends everything that is read here."
)

# A macro that Zabbix had no value for stays as it is, or becomes *UNKNOWN*.
_ABSENT = re.compile(r"(?:\s*(?:\{[$#]?[A-Z][\w.]*(?::[^{}]*)?\}|\*UNKNOWN\*))*\s*", re.ASCII)
_NOT_LETTERS = re.compile(r"[^a-z]+")
_PARAMETERS = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*))\s*(?:,|$)', re.DOTALL)
_LOCAL = re.compile(r"(\d{4})\.(\d\d)\.(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?", re.ASCII)
# Zabbix's own message templates, which the media types for other receivers often send as all there is.
_HOST_LINE = re.compile(r"^Host: *([^\r\n]{1,253})", re.MULTILINE)
_SEVERITY_LINE = re.compile(r"^Severity: *([^\r\n]{1,50})", re.MULTILINE)
_AGE = re.compile(r" Age: [0-9yMwdhms ]{1,40}(?= Problem tags|$)", re.MULTILINE)
_QUARTER, _TOO_LATE, _FURTHEST = 15 * 60, 5 * 60, 15 * 3600  # seconds
MAX_TAGS = 50


# ---------------------------------------------------------------- the shape of a body


class Named(Payload):
    """A body whose keys are found whatever its media type calls them; what is not read stays in `others`."""

    others = Mapped()
    # The macro of the event's id stands there as it is: Zabbix resolves that one in every notification.
    unresolved = Text()

    @pre_load
    def by_name(self, body: Mapping[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The first value under each name; a macro without a value is not there."""
        found: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in body.items():
            name = NAMES.get(_NOT_LETTERS.sub("", key.lower()), "")
            text = _text(value)
            if name == "event_id" and isinstance(value, str) and value.strip().startswith("{") and not text:
                found["unresolved"] = "yes"
            if name and text and name not in found:
                found[name] = text
            elif text and found.get(name) != text:
                others[key] = value
        return {**found, "others": others}


Event = Named.from_dict({name: Text() for name in SPELLINGS}, name="Event")


def _text(value: Any) -> str:
    """A value as text, one that is no text as JSON; empty for what stands for none."""
    text = "" if value is None or value in ([], {}) else text_of(value).strip()
    return "" if _ABSENT.fullmatch(text) else text


def unwrap(payload: dict[str, Any], _options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one notification of a body. Raises Unsupported for what has nothing of Zabbix's."""
    ours = payload["schema"].startswith(OUR_SCRIPT) or payload["unresolved"]
    if not ours and not any(payload[name] for name in TELLING):
        raise Unsupported(ADVICE)
    return [payload]


# ---------------------------------------------------------------- the canonical alert


def translate(event: dict[str, Any], _payload: dict[str, Any]) -> Translation:
    """One notification: a problem, its end, or what people did to it."""
    if event["unresolved"]:
        return Ignored(TESTED)
    if event["event_source"] == AUTOREGISTRATION:
        return Ignored("A host has registered itself: nothing broke and nothing ended with that.")
    status = _status(event)
    tags = list(_tags(event))
    severity = _severity(event, tags)
    incident_type = _incident_type(event, tags)
    note = status is AlertStatus.NOTE
    alert = Alert(
        hostname=_hostname(event),
        incident_type=incident_type,
        severity=severity or Severity.MEDIUM,
        evidence=_present(_update(event)) if note else _evidence(event, tags, incident_type),
        status=status,
        dedup_key=_key(event),
        occurred_at=_occurred_at(event, status),
    )
    # An acknowledgement may be the first that is heard of a problem: of one whose own message did not get through.
    return Translated(alert, opens=status is AlertStatus.ACKNOWLEDGED, severity_told=severity is not None)


def _status(event: Mapping[str, str]) -> AlertStatus:
    if event["event_source"] == DISCOVERY:
        up = (event["discovery_service_status"] or event["discovery_device_status"]).upper() == "UP"
        return AlertStatus.RESOLVED if up else AlertStatus.FIRING
    value = event["event_value"]
    ended = value == "0" or (value != "1" and event["event_status"].lower() in ENDED)
    if _is_update(event):
        return _status_of_update(event, ended)
    return AlertStatus.RESOLVED if ended else AlertStatus.FIRING


def _is_update(event: Mapping[str, str]) -> bool:
    """By the status of an update; of media types without one, by what was done."""
    return event["event_update_status"] == "1" or (not event["event_update_status"] and _actions(event) != [])


def _actions(event: Mapping[str, str]) -> list[str]:
    """`acknowledged, commented and changed severity from Warning to High`, one by one."""
    found = re.split(r",| and ", event["event_update_action"][:500])
    return [one.strip().lower() for one in found if one.strip()]


def _status_of_update(event: Mapping[str, str], ended: bool) -> AlertStatus:
    """What a person did. Whoever closes a problem has ended it; the recovery that Zabbix tells as well is no news."""
    actions = _actions(event)
    if "closed" in actions:
        return AlertStatus.RESOLVED
    if ended:
        return AlertStatus.NOTE
    if "acknowledged" in actions:
        return AlertStatus.ACKNOWLEDGED
    changed = "unacknowledged" in actions or any(one.startswith("changed severity") for one in actions)
    return AlertStatus.UPDATE if changed or event["event_source"] == SERVICE else AlertStatus.NOTE


def _key(event: Mapping[str, str]) -> str:
    """The id of the problem's event, which its recovery and its updates carry too.

    Each discovery of a thing is another event, so there the thing itself is the key.
    """
    if event["event_source"] == DISCOVERY:
        place = event["discovery_ip"] or event["discovery_dns"]
        return f"discovery:{place}:{event['discovery_port']}:{event['discovery_service']}"
    if event["event_id"]:
        return f"event:{event['event_id']}"
    name = event["event_name"] or event["alert_subject"] or event["alert_message"]
    return f"trigger:{event['trigger_id'] or name}:{_hostname(event)}"


def _hostname(event: Mapping[str, str]) -> str:
    """The technical name before the visible one: it is what other tools call the host."""
    names = ("host", "host_name", "host_dns", "host_ip", "discovery_dns", "discovery_ip")
    told = next((event[name] for name in names if event[name]), "")
    if told or not event["service_name"]:
        return told or _line(_HOST_LINE, event) or UNKNOWN_HOST
    return f"service:{event['service_name']}"


def _line(pattern: re.Pattern[str], event: Mapping[str, str]) -> str:
    """What a line of the message says; some send the message as the description."""
    found = pattern.search(event["alert_message"][:4000]) or pattern.search(event["trigger_description"][:4000])
    return found[1].strip() if found else ""


def _severity(event: Mapping[str, str], tags: list[tuple[str, str]]) -> Severity | None:
    number = event["event_nseverity"]
    if number in SEVERITIES:
        return SEVERITIES[number]
    words = (
        event["event_severity"],
        _line(_SEVERITY_LINE, event),
        *(value for name, value in tags if name == "severity"),
    )
    said = (SEVERITIES.get(SEVERITY_WORDS.get(word.lower(), "")) or severity_of(word) for word in words)
    return next(filter(None, said), None)


# ---------------------------------------------------------------- times


def _occurred_at(event: Mapping[str, str], status: AlertStatus) -> datetime | None:
    """When it began, ended or was changed: as seconds from 7.0 on, before that as a local time."""
    if status is AlertStatus.FIRING or event["event_source"] == DISCOVERY:
        names = ["event"]
    elif status is AlertStatus.RESOLVED:
        names = ["event_recovery", "event_update"]
    else:
        names = ["event_update"]
    ahead = _ahead(event)
    told = (time_of_epoch(event[f"{name}_timestamp"]) or _utc(event[f"{name}_time"], ahead) for name in names)
    return next(filter(None, told), None)


def _ahead(event: Mapping[str, str]) -> timedelta | None:
    """How far the clock of the recipient's time zone is ahead of UTC, which Zabbix does not say.

    Told by what it was then for the recipient, and by the script's own seconds. A message that waited has no such two.
    """
    sent, then = time_of_epoch(event["sent_at"]), _utc(event["local_now"], timedelta(0))
    if not (sent and then):
        return None
    seconds = (then - sent).total_seconds()
    quarters = round(seconds / _QUARTER) * _QUARTER
    sure = abs(seconds - quarters) <= _TOO_LATE and abs(quarters) <= _FURTHEST
    return timedelta(seconds=quarters) if sure else None


def _utc(text: str, ahead: timedelta | None) -> datetime | None:
    found = _LOCAL.fullmatch(text)
    if not found or ahead is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC) - ahead
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- types


def _incident_type(event: Mapping[str, str], tags: list[tuple[str, str]]) -> IncidentType:
    if said := said_type(value for name, value in tags if name == "incident_type"):
        return said
    source = event["event_source"]
    if source == SERVICE:
        return IncidentType.SERVICE_DOWN
    if source == DISCOVERY:
        return IncidentType.PORT_UNAVAILABLE if event["discovery_port"] else IncidentType.SERVICE_DOWN
    if source == INTERNAL:  # about an item or a rule of Zabbix itself, whatever that measures
        return IncidentType.CUSTOM
    key = event["item_key"]
    measured = next((expression for pattern, expression in KEYS if pattern.fullmatch(key)), key)
    name = event["event_name"] or event["alert_subject"]
    return incident_type_of(name, measured, (event["trigger_description"], event["alert_message"]))


def _tags(event: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name and the value of each tag: of JSON, else of `scope:capacity, team`.

    Those that begin with two underlines are what media types wrote there themselves, ours too.
    """
    for text in dict.fromkeys((event["event_tags"], event["service_tags"])):
        for name, value in _tags_in(text):
            if name and not name.startswith("__"):
                yield name, value


def _tags_in(text: str) -> list[tuple[str, str]]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = None
    if isinstance(listed, list):
        pairs = [one for one in listed[:MAX_TAGS] if isinstance(one, dict)]
        return [(_string(one.get("tag")), _string(one.get("value"))) for one in pairs]
    split = (one.strip().partition(":") for one in text.split(",", MAX_TAGS)[:MAX_TAGS])
    return [(name.strip(), value.strip()) for name, _, value in split]


def _string(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


# ---------------------------------------------------------------- evidence


def _evidence(event: Mapping[str, Any], tags: list[tuple[str, str]], incident_type: IncidentType) -> dict[str, Any]:
    """What an engineer looks at; nothing that differs between two steps of an escalation.

    So the operational data is not in it, and the words of the message only where they are all there is.
    """
    named = event["event_name"]
    return _present(
        {
            "title": named or event["alert_subject"] or "A notification of Zabbix without a name",
            "description": event["trigger_description"],
            "message": "" if named else event["alert_message"],
            "item": event["item_name"],
            "key": event["item_key"],
            "value": _number(event["item_value"]),
            "expression": event["trigger_expression"],
            "severity": event["event_severity"],
            "host_name": event["host_name"],
            "host_ip": event["host_ip"] or event["discovery_ip"],
            "host_groups": [one.strip() for one in event["host_groups"].split(",") if one.strip()],
            "tags": [f"{name}:{value}" if value else name for name, value in tags],
            **_thing(event, tags, incident_type),
            "rootcause": _AGE.sub("", event["service_rootcause"]),
            "discovery_rule": event["discovery_rule"],
            "about": SOURCES.get(event["event_source"], ""),
            "event_id": event["event_id"],
            "trigger_id": event["trigger_id"],
            "trigger_url": event["trigger_url"],
            "link": _link(event),
            "update": _present(_update(event)) if _is_update(event) else {},
            "fields": event["others"],
        }
    )


def _present(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value not in ("", [], {})}


def _update(event: Mapping[str, str]) -> dict[str, str]:
    """What a person did and said."""
    return {
        "event": event["event_update_action"],
        "content": event["event_update_message"],
        "by": event["event_update_user"],
    }


def _number(text: str) -> float | str:
    """The value as the number that recipes compare with; one with a unit, or a text, stays as it is."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _link(event: Mapping[str, str]) -> str:
    """The event in Zabbix's own pages. For people to click on, so nothing but the web."""
    url, trigger, number = event["zabbix_url"].rstrip("/"), event["trigger_id"], event["event_id"]
    if not (url.startswith(("https://", "http://")) and trigger.isdecimal() and number.isdecimal()):
        return ""
    return f"{url}/tr_events.php?triggerid={trigger}&eventid={number}"


def _thing(event: Mapping[str, str], tags: list[tuple[str, str]], incident_type: IncidentType) -> dict[str, Any]:
    """The part of the host that is in trouble, from the key of the item and the tags."""
    key, parameters = _key_of_item(event["item_key"])
    first = parameters[0] if parameters else ""
    match incident_type:
        case IncidentType.DISK_FULL:
            return {"mount": _tag(tags, MOUNT_TAGS) or (first if MOUNT_KEY.match(key) else "")}
        case IncidentType.SERVICE_DOWN | IncidentType.PORT_UNAVAILABLE:
            service = first if SERVICE_KEY.match(key) and first not in PROTOCOLS else ""
            told = event["service_name"] or event["discovery_service"]
            return {
                "service_name": told or service or _tag(tags, SERVICE_TAGS),
                "port": port_of(event["discovery_port"] or _port(key, parameters)),
            }
        case _:
            return {}


def _key_of_item(text: str) -> tuple[str, list[str]]:
    """`vfs.fs.size["/srv/data",pused]` as its name and its parameters."""
    key, _, rest = text[:2000].partition("[")
    inner = rest.removesuffix("]")
    found = [quoted.replace('\\"', '"') or plain.strip() for quoted, plain in _PARAMETERS.findall(inner)]
    return key, found


def _port(key: str, parameters: list[str]) -> str:
    place = PORTS.get(key)
    return parameters[place] if place is not None and place < len(parameters) else ""


def _tag(tags: list[tuple[str, str]], names: tuple[str, ...]) -> str:
    return next((value for name, value in tags if name in names and value), "")


adapter = Adapter(
    name="zabbix",
    title="Zabbix",
    formats=(Format(payload=Event(), translate=translate, unwrap=unwrap, advice=ADVICE),),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
