"""Reads what CloudWatch says of an alarm: what it watches, on what, and how bad that is. Pure, and never raises.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Notify_Users_Alarm_Changes.html
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from openremedy.adapter import (
    THINGS_OF,
    IncidentType,
    Severity,
    host_of,
    incident_type_of,
    said_type,
    severity_of,
    text_of,
)

# Of which dimension the value is the thing that broke, the most exact first.
HOST_NAMES = (
    "host hostname Hostname InstanceId DBInstanceIdentifier DBClusterIdentifier CacheClusterId ReplicationGroupId "
    "BrokerID Broker DomainName FunctionName LoadBalancerName LoadBalancer AutoScalingGroupName ClusterName "
    "ClusterIdentifier FileSystemId VolumeId NatGatewayId VpnId HealthCheckId"
).split()
# They say what of it is meant, and never what it is.
NO_THINGS = "Currency ImageId InstanceType objectname device fstype StorageType Stage Method Resource".split()
_PATH_OF_A_BALANCER = re.compile(r"(?:app|net|gwy|targetgroup)/([\w.-]{1,253})/[0-9a-f]{1,64}")
MAX_DIMENSIONS = 30

# Metrics in small letters without `_`, `-` and blanks, and which way is bad.
_RISING: Mapping[str, IncidentType] = {
    name: incident_type
    for incident_type, names in {
        IncidentType.CPU_HIGH: "cpuutilization enginecpuutilization cpuutilized cpuusageactive cpuusageuser "
        "cpuusagesystem nodecpuutilization podcpuutilization processor%processortime",
        IncidentType.MEMORY_HIGH: "memusedpercent memusedpercentage memoryutilization memoryutilized memused swapusage "
        "swapusedpercent databasememoryusagepercentage nodememoryutilization podmemoryutilization "
        "memory%committedbytesinuse jvmmemorypressure",
        IncidentType.DISK_FULL: "diskusedpercent diskinodesused nodefilesystemutilization diskspaceutilization "
        "percentagediskspaceused kafkadatalogsdiskused",
        IncidentType.SERVICE_DOWN: "statuscheckfailed statuscheckfailedinstance statuscheckfailedsystem "
        "statuscheckfailedattachedebs unhealthyhostcount unhealthyroutinghostcount clusterstatus.red",
    }.items()
    for name in names.split()
}
_FALLING: Mapping[str, IncidentType] = {
    name: incident_type
    for incident_type, names in {
        IncidentType.CPU_HIGH: "cpuusageidle",
        IncidentType.MEMORY_HIGH: "freeablememory memavailablepercent memavailable memfree memoryavailablemb",
        IncidentType.DISK_FULL: "freestoragespace freelocalstorage diskfree diskinodesfree logicaldisk%freespace",
        IncidentType.SERVICE_DOWN: "healthyhostcount healthcheckstatus tunnelstate",
    }.items()
    for name in names.split()
}
NOTHING_CAME = "no datapoints were received"
# Words of a name that say how bad it is. `HighCPU` and `low-disk` say which way something went.
_LOUD = frozenset(
    "critical crit fatal emergency disaster major urgent warning warn minor info p1 p2 p3 p4 p5 sev1 sev2 sev3 sev4 "
    "sev5".split()
)
_SAID = re.compile(r"\b(severity|priority|incident_type)\s{0,3}[:=]\s{0,3}([\w-]{1,30})", re.IGNORECASE | re.ASCII)
MAX_READ = 4000  # characters of a description


@dataclass(frozen=True)
class Measured:
    """What an alarm watches: one metric, or the first of those that it calculates with."""

    namespace: str
    metric: str
    dimensions: Mapping[str, str]
    expression: str


def mapped(value: Any) -> dict[str, Any]:
    """A JSON object as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def text_in(value: Any, *names: str) -> str:
    """The first of these keys that holds a text or a number, as text."""
    found = (mapped(value).get(name) for name in names)
    texts = (text_of(one).strip() for one in found if isinstance(one, str | int | float))
    return next(filter(None, texts), "")


def measured(trigger: Any) -> Measured:
    """Of one metric the trigger tells it itself, of several each has an entry in `Metrics`."""
    entries = mapped(trigger).get("Metrics")
    entries = entries[:MAX_DIMENSIONS] if isinstance(entries, list) else []
    metrics = [mapped(mapped(mapped(one).get("MetricStat")).get("Metric")) for one in entries]
    first = next(filter(None, metrics), {}) if entries else mapped(trigger)
    return Measured(
        namespace=text_in(first, "Namespace"),
        metric=text_in(first, "MetricName"),
        dimensions=dict(_dimensions(first.get("Dimensions"))),
        expression="; ".join(filter(None, (text_in(one, "Expression") for one in entries))),
    )


def _dimensions(value: Any) -> Iterator[tuple[str, str]]:
    """In either spelling: CloudWatch's own are in small letters, those of its API are not."""
    for one in value[:MAX_DIMENSIONS] if isinstance(value, list) else ():
        name, said = text_in(one, "name", "Name"), text_in(one, "value", "Value")
        if name and said:
            yield name, said


def host(dimensions: Mapping[str, str]) -> tuple[str, str]:
    """The thing that broke, and which dimension names it. What is none of the known ones is named as a service is."""
    for name in HOST_NAMES:
        if said := dimensions.get(name):
            return _thing(said), name
    others = ((name, said) for name, said in dimensions.items() if name not in NO_THINGS)
    name, said = next(others, ("", ""))
    return (f"service:{_thing(said)}" if said else ""), name


def things(found: IncidentType, dimensions: Mapping[str, str]) -> dict[str, str]:
    """Which disk or service of the host it is, for incidents that are about one."""
    service = dimensions.get("ServiceName") or _thing(dimensions.get("TargetGroup", ""))
    known = {"mount": dimensions.get("path") or dimensions.get("instance") or "", "service_name": service}
    return {thing: said for thing, said in known.items() if said and thing in THINGS_OF.get(found, ())}


def _thing(said: str) -> str:
    """`app/shop/50dc6c495c0c9188` is the balancer called shop."""
    found = _PATH_OF_A_BALANCER.fullmatch(said)
    return found[1] if found else host_of(said) or said


def incident_type(name: str, description: str, trigger: Any, what: Measured) -> IncidentType:
    """What the description says, else what the metric is about if it went the bad way, else as the name sounds."""
    said = said_type([_said(description).get("incident_type", "")])
    if said:
        return said
    comparison = text_in(trigger, "ComparisonOperator")
    metric = re.sub(r"[\s_-]", "", what.metric).lower()
    rising, falling = (
        "Less" not in comparison or "Greater" in comparison,
        "Greater" not in comparison or "Less" in comparison,
    )
    if metric in _RISING:
        return _RISING[metric] if rising else IncidentType.CUSTOM
    if metric in _FALLING:
        return _FALLING[metric] if falling else IncidentType.CUSTOM
    return incident_type_of(name, what.expression, (description,))


def severity(name: str, description: str) -> Severity | None:
    """As the description says with `severity: high` or `priority=P2`, else a word of the name that means only that."""
    said = _said(description)
    for key in ("severity", "priority"):
        if found := severity_of(said.get(key, "")):
            return found
    words = re.split(r"[^a-z0-9]+", name[:MAX_READ].lower())
    return next((severity_of(word) for word in words if word in _LOUD), None)


def _said(description: str) -> dict[str, str]:
    return {name.lower(): word for name, word in reversed(_SAID.findall(description[:MAX_READ]))}


def link(region: str, partition: str, name: str) -> str:
    """Where people look at the alarm."""
    if partition != "aws" or not name:
        return ""
    return (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#alarmsV2:alarm/{quote(name, safe='')}"
    )
