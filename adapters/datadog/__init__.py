"""Datadog's webhook: our payload template, the default payload, and the templates that people made for other receivers.

The variables of a template: https://docs.datadoghq.com/integrations/webhooks/#variables
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from marshmallow import pre_load

from adapters.datadog.setup import HINTS, SETUP, SUMMARY, sample
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

# What is read, and the keys that templates put it under: in lower case, letters only, `org: {id}` as `orgid`.
SPELLINGS = {
    "schema": "schema",
    "event_id": "id eventid",
    "event_type": "eventtype",
    "title": "title eventtitle",
    "alert_title": "alerttitle monitortitle monitorname",
    "message": "message textonlymsg textmsg text eventmessage",
    "body": "body eventmsg msg",
    "date": "date dateposix",
    "last_updated": "lastupdated lastupdatedposix",
    "hostname": "hostname host",
    "tags": "tags eventtags",
    "link": "link url eventlink eventurl alerturl",
    "snapshot": "snapshot snapshoturl",
    "aggreg_key": "aggregkey aggregate aggregationkey",
    "monitor_id": "alertid monitorid",
    "cycle_key": "alertcyclekey cyclekey alertcycleid",
    "transition": "alerttransition transition",
    "alert_type": "alerttype",
    "alert_priority": "alertpriority monitorpriority",
    # $PRIORITY is the event's (normal or low), but some put $ALERT_PRIORITY under this name or under `severity`.
    "priority": "priority",
    "severity": "severity",
    "alert_status": "alertstatus",
    "metric": "alertmetric metric",
    "query": "alertquery query",
    "scope": "alertscope scope scopes",
    "incident_type": "incidenttype",
    "org_id": "orgid",
    "org_name": "orgname org",
}
NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings.split()}
OUR_TEMPLATE = "openremedy.datadog/"
# One of these, or a body is no event of Datadog.
TELLING = (
    *("title", "alert_title", "message", "body", "event_id", "event_type", "monitor_id", "transition"),
    *("alert_status", "metric", "query", "cycle_key", "aggreg_key"),
)
# Kept in the evidence as they came.
SHOWN = (
    *("incident_type", "alert_type", "event_type", "alert_status", "query", "event_id", "org_id", "org_name"),
    *("link", "snapshot"),
)
UNTITLED = "An event of Datadog without a title"

PRIORITIES = {"1": Severity.CRITICAL, "2": Severity.HIGH, "3": Severity.MEDIUM, "4": Severity.LOW, "5": Severity.INFO}
ALERT_TYPES = {"error": Severity.HIGH, "warning": Severity.MEDIUM, "success": Severity.INFO, "info": Severity.INFO}
STEP_DOWN = {Severity.CRITICAL: Severity.HIGH, Severity.HIGH: Severity.MEDIUM}

# Names of Datadog's own metrics and service checks, as integrations-core has them in metadata.csv and
# assets/service_checks.json. What a disk does (system.disk.read_time_pct) says nothing of how full it is.
METRIC_TYPES = (
    (re.compile(r"^system\.(?:disk\.(?:free|in_use|used|utilized)$|fs\.inodes\.)"), IncidentType.DISK_FULL),
    (re.compile(r"^system\.(?:cpu|load)\.|^(?!.*(?:requests|limits)).*cpu"), IncidentType.CPU_HIGH),
    (re.compile(r"^system\.(?:mem|swap)\.|^(?!.*(?:requests|limits)).*memory"), IncidentType.MEMORY_HIGH),
)
CHECK_TYPES = (
    (re.compile(r"^(?:tcp|http|dns)\.can_(?:connect|resolve)$"), IncidentType.PORT_UNAVAILABLE),
    (
        re.compile(
            r"^(?:datadog\.agent\.up|process\.up|systemd\.unit\.active_state|windows_service\.state)$|\.can_connect$"
        ),
        IncidentType.SERVICE_DOWN,
    ),
)
EVENT_TYPES = {"process_alert": IncidentType.SERVICE_DOWN}
DATADOGS_OWN = "system."  # metrics of which the table above is complete
AGENT_UP = "datadog.agent.up"

SERVICE_TAGS = ("unit", "process", "process_name", "windows_service")
MOUNT_TAGS = ("mount", "mount_point", "mountpoint")

TESTED = "Test notification received: this source is connected. A real alert of the monitor will open an incident."
ADVICE = (
    "This is not an event of Datadog: there is no title, message, event or monitor in it, or none of its variables was "
    "replaced. Paste the payload of adapters/datadog/README.md into the webhook, or leave its payload empty."
)

# A variable that Datadog had no value for stays as it is, or comes as one of these words.
_ABSENT = re.compile(r"(?:\$[A-Z][A-Z0-9_]*(?:\[[^\]]*\])?|(?i:null|none|n/a))?")
_NOT_LETTERS = re.compile(r"[^a-z]+")
_PRIORITY = re.compile(r"P([1-5])(?!\d)", re.IGNORECASE)
# What Datadog writes before a monitor's own title: [P2] [TEST] [Triggered on {host:web-01,device:/dev/sda1}].
_PREFIX = re.compile(
    r"\s*\[(?:(?P<priority>P[1-5])|(?P<test>TEST)|(?P<transition>(?:Re-)?(?:Triggered|Recovered|Warn|No Data|Renotify)"
    r"|[^\[\]{}]{1,40}?(?= on \{))(?: on (?:\{(?P<scope>[^}]*)\})?[^\]]*)?)\]",
    re.IGNORECASE,
)
# [Monitor Status](https://app.datadoghq.com/monitors/1234?group=host%3Aweb-01); in older ones monitors#1234?group=...
_MONITOR_LINK = re.compile(r"\]\([^\s()]{0,100}?/monitors[/#](\d{1,20})(?!\d)([^\s()]*)")
_SERVICE_CHECK = re.compile(r'"([\w.-]{1,200})"\.over\(')
_QUERIED = re.compile(r"(?<=:)([A-Za-z][\w.]{0,200})\{")
_WORDED = re.compile(r"(?:^|\*\*)([A-Za-z]\w{0,100}\.[\w.]{1,200})(?:\*\*)? over\b")
_NUMBER = r"(-?\d{1,30}(?:\.\d{1,30})?(?:e[+-]?\d{1,2})?)(?![\d.]*\d)(?!,\d)"
_VALUE = re.compile(rf"\bvalue\b ?[:=] ?\*{{0,2}}{_NUMBER}", re.IGNORECASE)
_THRESHOLD = re.compile(rf"\bthreshold\b ?[:=] ?\*{{0,2}}{_NUMBER}", re.IGNORECASE)
_WAS = re.compile(rf"\bwas \*{{0,2}}[<>]=? ?{_NUMBER}")
_COMPARED = re.compile(rf"[<>]=? ?{_NUMBER}\s{{0,9}}$")


# ---------------------------------------------------------------- the shape of a body


class Named(Payload):
    """A body whose keys are found whatever its template calls them; what is not read stays in `others`."""

    others = Mapped()

    @pre_load
    def by_name(self, body: Mapping[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The first value under each name; a variable without a value is not there."""
        found: dict[str, str] = {}
        others: dict[str, Any] = {}
        for key, spelling, value in _entries(body):
            name = NAMES.get(spelling, "")
            text = _text(value, a_list=name == "tags")
            if name and text and name not in found:
                found[name] = text
            elif text or (name != "tags" and isinstance(value, list | dict) and value):
                others[key] = value
        return {**found, "others": others}


Event = Named.from_dict({name: Text() for name in SPELLINGS}, name="Event")


def _entries(body: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Each key with its spelling and its value; an object gives those in it: `alert: {id}` is `alert_id`."""
    for key, value in body.items():
        outer = _spelling(key)
        if not isinstance(value, dict):
            yield key, outer, value
            continue
        for inner, one in value.items():
            own = _spelling(inner)
            yield f"{key}.{inner}", own if own.startswith(outer) else outer + own, one


def _spelling(key: str) -> str:
    return _NOT_LETTERS.sub("", key.lower())


def _text(value: Any, a_list: bool = False) -> str:
    """A value as text; empty for what stands for none."""
    if a_list and isinstance(value, list):
        return ",".join(filter(None, map(_text, value)))
    text = text_of(value).strip() if isinstance(value, str | int | float) else ""
    return "" if _ABSENT.fullmatch(text) else text


def unwrap(payload: dict[str, Any], _options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one event of a body. Raises Unsupported for what has nothing of Datadog's."""
    if not payload["schema"].startswith(OUR_TEMPLATE) and not any(payload[name] for name in TELLING):
        raise Unsupported(ADVICE)
    return [payload]


# ---------------------------------------------------------------- what an event says


class Reading:
    """An event of Datadog with what its title, tags, links and text say besides its own fields."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.event = event
        self.title: str = event["title"] or event["alert_title"]
        self.message: str = (event["message"] or event["body"]).replace("%%%", "").strip()
        self.prefixes, self.monitor = _taken_apart(self.title)
        self.transition: str = event["transition"] or self.prefixes.get("transition", "")
        self.linked_monitor, self.linked_group = _linked(event["body"] or event["message"])
        self.check = _first(_SERVICE_CHECK, event["query"])

    @property
    def is_test(self) -> bool:
        """By a prefix: a monitor whose own name speaks of a test is none."""
        return "test" in self.prefixes or "test" in _taken_apart(self.event["alert_title"])[0]

    @property
    def no_data(self) -> bool:
        return "no data" in self.transition.lower()

    @cached_property
    def metric(self) -> str:
        event = self.event
        worded = _first(_WORDED, event["alert_status"]) or _first(_WORDED, self.message)
        return event["metric"] or _first(_QUERIED, event["query"]) or ("" if self.check else worded)

    @property
    def measured(self) -> str:
        """The service check or the metric that the monitor looks at."""
        return self.check or self.metric

    @property
    def scope(self) -> str:
        return self.event["scope"] or self.prefixes.get("scope", "") or self.linked_group

    @cached_property
    def tags(self) -> list[tuple[str, str, str]]:
        """Where each tag was found, its key and its value; those of the alerting group come first."""
        places = {
            "scope": self.event["scope"],
            "title": self.prefixes.get("scope", ""),
            "tags": self.event["tags"],
            "link": self.linked_group,
        }
        split = ((place, *tag.partition(":")) for place, text in places.items() for tag in _tags(text))
        return [(place, key, value) for place, key, _, value in split if value not in ("", "*")]

    def tag(self, *names: str) -> str:
        """The value of the first tag of that name."""
        return next((value for _, key, value in self.tags if key in names), "")


def _taken_apart(title: str) -> tuple[dict[str, str], str]:
    """What the prefixes of a title say, and the monitor's own title behind them."""
    found: dict[str, str] = {}
    end = 0
    while prefix := _PREFIX.match(title, end):
        found = {name: text for name, text in prefix.groupdict().items() if text} | found
        end = prefix.end()
    return found, title[end:].strip()


def _linked(text: str) -> tuple[str, str]:
    """The monitor and its group in the links that Datadog puts under a message, after those that people put into it."""
    links = _MONITOR_LINK.findall(text)
    if not links:
        return "", ""
    monitor = links[-1][0]
    groups = (_group(rest) for number, rest in reversed(links) if number == monitor)
    return monitor, next(filter(None, groups), "")


def _group(rest: str) -> str:
    return dict(parse_qsl(rest.partition("?")[2])).get("group", "")


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


# ---------------------------------------------------------------- the canonical alert


def translate(event: dict[str, Any], _payload: dict[str, Any]) -> Translation:
    """One notification of a monitor, or an event that somebody posted and that mentions the webhook."""
    reading = Reading(event)
    if reading.is_test:
        return Ignored(TESTED)
    incident_type = _incident_type(reading)
    hostname, source = _hostname(reading)
    alert = Alert(
        hostname=hostname,
        incident_type=incident_type,
        severity=_severity(reading),
        evidence=_evidence(reading, incident_type, source),
        status=_status(reading),
        dedup_key=_key(reading),
        occurred_at=_occurred_at(event),
    )
    return Translated(alert, severity_told=_said_severity(reading) is not None)


def _status(reading: Reading) -> AlertStatus:
    """Every transition but a recovery fires, also one that is not known yet.

    Without any transition `success` is an end: it may close what an earlier `error` of the same title opened, and
    never stands for something that burns.
    """
    ended = "recovered" in reading.transition.lower()
    succeeded = not reading.transition and reading.event["alert_type"].lower() == "success"
    return AlertStatus.RESOLVED if ended or succeeded else AlertStatus.FIRING


def _occurred_at(event: Mapping[str, Any]) -> datetime | None:
    """The later of both times: they differ only where Datadog went on with an older event, and that is news."""
    times = (time_of_epoch(event["date"]), time_of_epoch(event["last_updated"]))
    return max((time for time in times if time), default=None)


def _key(reading: Reading) -> str:
    """The tool's own key, equal for an alert and its recovery and different for two monitors."""
    event = reading.event
    scope = ",".join(sorted(tag for tag in _tags(reading.scope) if tag != "*"))
    org = event["org_id"] or event["org_name"]
    if event["cycle_key"]:
        return f"cycle:{org}:{event['monitor_id']}:{event['cycle_key']}:{scope}"
    if event["aggreg_key"]:
        return f"aggregate:{org}:{event['aggreg_key']}:{scope}"
    if monitor := event["monitor_id"] or reading.linked_monitor:
        return f"monitor:{org}:{monitor}:{scope}"
    return f"title:{org}:{reading.monitor or reading.measured or event['event_id']}:{scope}"


def _severity(reading: Reading) -> Severity:
    severity = _said_severity(reading) or Severity.MEDIUM
    return STEP_DOWN.get(severity, severity) if "warn" in reading.transition.lower() else severity


def _said_severity(reading: Reading) -> Severity | None:
    return _monitors_severity(reading) or ALERT_TYPES.get(reading.event["alert_type"].lower())


def _monitors_severity(reading: Reading) -> Severity | None:
    """What the monitor's owner chose: its priority, else a word in the payload or a tag."""
    priority = _priority(reading)
    if priority:
        return PRIORITIES[priority]
    return severity_of(reading.event["severity"]) or severity_of(reading.tag("severity"))


def _priority(reading: Reading) -> str:
    event = reading.event
    places = (event["alert_priority"], event["severity"], event["priority"], reading.prefixes.get("priority", ""))
    return next((found[1] for found in map(_PRIORITY.match, places) if found), "")


def _incident_type(reading: Reading) -> IncidentType:
    if said := said_type((reading.event["incident_type"], reading.tag("incident_type"))):
        return said
    # A metric that has stopped coming says nothing of how full or busy its host is: mostly the agent is away.
    return (
        (None if reading.no_data else _in_table(METRIC_TYPES, reading.metric.lower()))
        or _in_table(CHECK_TYPES, reading.measured.lower())
        or EVENT_TYPES.get(reading.event["event_type"].lower())
        or _from_words(reading)
    )


def _in_table(table: tuple[tuple[re.Pattern[str], IncidentType], ...], name: str) -> IncidentType | None:
    return next((incident_type for pattern, incident_type in table if pattern.search(name)), None)


def _from_words(reading: Reading) -> IncidentType:
    if reading.no_data or reading.metric.startswith(DATADOGS_OWN):
        return IncidentType.CUSTOM
    return incident_type_of(reading.monitor, f"{reading.measured} {reading.event['query']}", (reading.message,))


def _hostname(reading: Reading) -> tuple[str, str]:
    """The host, and where its name was found."""
    if reading.event["hostname"]:
        return reading.event["hostname"], "hostname"
    for place, key, value in reading.tags:
        if key == "host":
            return value, place
    service = reading.tag("service")
    return (f"service:{service}", "service") if service else (UNKNOWN_HOST, "none")


# ---------------------------------------------------------------- evidence


def _evidence(reading: Reading, incident_type: IncidentType, hostname_source: str) -> dict[str, Any]:
    """What an engineer looks at. `monitor` is what all hosts of a monitor have in common."""
    event = reading.event
    priority = _priority(reading)
    evidence = {
        "monitor": reading.monitor or reading.measured,
        "title": reading.title or UNTITLED,
        "message": reading.message,
        "metric": reading.metric,
        "check": reading.check,
        "value": _number(_first(_VALUE, reading.message)),
        "threshold": _threshold(reading),
        "transition": reading.transition,
        "priority": f"P{priority}" if priority else "",
        "scope": reading.scope,
        "monitor_id": event["monitor_id"] or reading.linked_monitor,
        **{name: event[name] for name in SHOWN},
        "tags": _tags(event["tags"]),
        **_thing(reading, incident_type),
        "no_data": reading.no_data or None,
        "hostname_source": hostname_source,
        "fields": event["others"],
    }
    return {name: value for name, value in evidence.items() if value not in ("", None, [], {})}


def _threshold(reading: Reading) -> float | None:
    event = reading.event
    return _number(
        _first(_THRESHOLD, reading.message)
        or _first(_WAS, event["alert_status"])
        or _first(_WAS, reading.message)
        or _first(_COMPARED, event["query"][-100:])
    )


def _number(text: str) -> float | None:
    if not text:
        return None
    return float(text) if "." in text or "e" in text.lower() else int(text)


def _thing(reading: Reading, incident_type: IncidentType) -> dict[str, Any]:
    """The part of the host that is in trouble, from the tags."""
    match incident_type:
        case IncidentType.DISK_FULL:
            return _disk(reading)
        case IncidentType.SERVICE_DOWN:
            return {"service_name": _service(reading), "port": port_of(reading.tag("port"))}
        case IncidentType.PORT_UNAVAILABLE:
            return {"port": port_of(reading.tag("port"))}
        case _:
            return {}


def _disk(reading: Reading) -> dict[str, str]:
    """With `use_mount` in the agent's disk check the tag `device` holds the mount point."""
    device = reading.tag("device")
    is_mount = device.startswith("/") and not device.startswith("/dev/")
    return {"mount": reading.tag(*MOUNT_TAGS) or (device if is_mount else ""), "device": "" if is_mount else device}


def _service(reading: Reading) -> str:
    if reading.measured == AGENT_UP:
        return "datadog-agent"
    product, _, aspect = reading.measured.partition(".")
    return reading.tag(*SERVICE_TAGS) or (product if aspect == "can_connect" else "") or reading.tag("service")


adapter = Adapter(
    name="datadog",
    title="Datadog",
    # Datadog sends again after a 5xx only: https://docs.datadoghq.com/integrations/webhooks/#usage
    retries_429=False,
    formats=(Format(payload=Event(), translate=translate, unwrap=unwrap, advice=ADVICE, form=True),),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
