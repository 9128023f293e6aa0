"""What kind of thing broke, told from an alert's name and expression where its sender does not say. Pure.

The name is looked at first, then the expression, each with the rules in the order they are written; the first that
holds decides, and where none does the type is custom.
"""

import re
from collections.abc import Iterable

from openremedy.alerts import IncidentType

MAX_LOOKED_AT = 4000  # characters of a name or an expression
_WORD = re.compile(r"[A-Z]{2,}s?(?![a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

_DISK = "disk disks filesystem fs volume storage tablespace inode inodes partition datastore pvc persistentvolume root"
_SPACE = "full fill filling space usage used low out capacity free running almost quota threshold utilization critical"
_MEMORY = "memory mem heap oom ram swap outofmemory"
_CPU = "cpu cpus cpuutilization vcore vcpu"
_PORT = "port ports tcp udp socket probe icmp ping"
_GONE = (
    "down absent unavailable unreachable offline crash crashed crashing crashloop crashlooping dead missing unhealthy "
    "stopped inactive disappeared restarted restarting restart restarts outage disconnected panic panics panicked "
    "healthcheck"
)
# What these are about is not that the thing itself is full, busy or gone.
_NOT_FULL = "io iops read reads write writes latency offline smart raid temperature error errors down saturation"
_NOT_BUSY = "request requests overcommit fragmentation reserved quota mismatch underutilized iowait gc map maps"
_NOT_GONE = "replication scale scaled slow slowing request requests tuples messages letter switch backup certificate"

# (all of these sets have a word in it, none of these), in this order.
_NAME_RULES: tuple[tuple[IncidentType, tuple[str, ...], str], ...] = (
    (IncidentType.DISK_FULL, (_DISK, _SPACE), _NOT_FULL),
    (IncidentType.MEMORY_HIGH, (_MEMORY,), _NOT_BUSY),
    (IncidentType.CPU_HIGH, (_CPU,), _NOT_BUSY),
    (IncidentType.CPU_HIGH, ("load throttle throttling", "high average avg too rate"), "balancer time page limit"),
    (IncidentType.PORT_UNAVAILABLE, (_PORT, "down closed unreachable unavailable failed failing refused"), ""),
    (IncidentType.SERVICE_DOWN, (_GONE,), _NOT_GONE),
    (
        IncidentType.SERVICE_DOWN,
        ("service unit systemd process daemon node server", "failed lost ready out"),
        _NOT_GONE,
    ),
    (
        IncidentType.SERVICE_DOWN,
        ("no not lost without insufficient", "leader master primary ready running online backends members quorum"),
        _NOT_GONE,
    ),
)
_NAMED = tuple(
    (incident_type, [frozenset(words.split()) for words in needed], frozenset(unless.split()))
    for incident_type, needed, unless in _NAME_RULES
)
_EXPRESSION_RULES: tuple[tuple[IncidentType, re.Pattern[str]], ...] = tuple(
    (incident_type, re.compile(pattern))
    for incident_type, pattern in (
        (IncidentType.PORT_UNAVAILABLE, r"\bprobe_success(?:\{[^}]{0,200}\})? ?== ?0"),
        (IncidentType.SERVICE_DOWN, r"\b(?:up|[a-z_]+_up)(?:\{[^}]{0,200}\})? ?== ?0"),
        (IncidentType.SERVICE_DOWN, r"\babsent(?:_over_time)?\( ?up\b"),
        (IncidentType.SERVICE_DOWN, r"systemd_unit_state\{[^}]{0,200}failed"),
        (IncidentType.DISK_FULL, r"filesystem_(?:avail|free|files_free)\w*|logical_disk_free|volume_stats_available"),
        (
            IncidentType.MEMORY_HIGH,
            r"memory_MemAvailable|memory_working_set|jvm_memory_(?:bytes_)?used|physical_memory_free",
        ),
        (
            IncidentType.CPU_HIGH,
            r"\bnode_cpu_seconds_total\{[^}]{0,200}idle|windows_cpu_time_total|\bnode_load(?:1|5|15)\b",
        ),
    )
)


def words_of(text: str) -> list[str]:
    """`NodeFilesystemSpaceFillingUp` and `node_filesystem_avail_bytes` as lower-case words."""
    return [word.lower() for word in _WORD.findall(text[:MAX_LOOKED_AT])]


def said_type(words: Iterable[str]) -> IncidentType | None:
    """The first of these words that is one of our types, in upper or lower case; None where none is."""
    known = (word.strip().lower() for word in words)
    return next((IncidentType(word) for word in known if word in list(IncidentType)), None)


def incident_type_of(name: str, expression: str = "") -> IncidentType:
    """The incident type that the name of an alert, or else its expression, speaks of; custom when neither does."""
    return _by_name(words_of(name)) or _by_expression(expression[:MAX_LOOKED_AT]) or IncidentType.CUSTOM


def _by_name(words: Iterable[str]) -> IncidentType | None:
    said = set(words)
    for incident_type, needed, unless in _NAMED:
        if all(said & words for words in needed) and not said & unless:
            return incident_type
    return None


def _by_expression(expression: str) -> IncidentType | None:
    return next((found for found, pattern in _EXPRESSION_RULES if pattern.search(expression)), None)
