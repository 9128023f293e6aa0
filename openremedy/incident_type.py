"""What kind of thing broke, told from what an alert says where its sender does not say. Pure.

The precedence; the first of these that decides is the type, and where none does it is custom:

1. What the sender said: a label, tag or field `incident_type`. The adapters look for it (said_type).
2. The name of the alert (alertname, title of a monitor, of an incident).
3. The metric: the expression, query or service check that fired.
4. The text: summary, then description, sentence by sentence.

A name that is about something else (latency, a queue, a certificate) decides as well: it is custom, and neither metric
nor text are looked at. Within a step the rules hold in the order they are written: disk_full, memory_high, cpu_high,
port_unavailable, service_down. What runs out comes before what is down because of it.

Names and sentences are read as words. A sentence needs more of them than a name: whoever names an alert `Memory` means
that it is high, whoever explains one may mention memory for any reason.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from openremedy.alerts import IncidentType

MAX_LOOKED_AT = 4000  # characters of a name or an expression
MAX_READ = 400  # characters of a text: what it is about stands at its beginning
MAX_LEVELS = 4  # of evidence, looked through for what its sender said
_WORD = re.compile(r"[A-Z]{2,}s?(?![a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_GLUED = re.compile(
    r"(disk|filesystem|inodes?|mem(?:ory)?|heap|swap|cpu)(full|free|high|load|low|space|us(?:age|ed)|util\w*)"
)
_SENTENCE = re.compile(r"[.!?;]\s|\n")

# ---------------------------------------------------------------- names

_DISK = (
    "disk disks filesystem filesystems fs volume volumes storage tablespace inode inodes partition datastore pvc "
    "persistentvolume persistentvolumeclaim root"
)
_SPACE = (
    "full fill filling space usage used low out capacity free running almost nearly quota threshold utilization "
    "critical pressure watermark exhausted exhaustion exceeded"
)
_MEMORY = "memory mem heap ram swap oom outofmemory oomkilled oomkiller metaspace"
_CPU = "cpu cpus vcore vcpu cpuutilization"
_PORT = "port ports tcp udp socket probe icmp ping"
_GONE = (
    "down absent unavailable unreachable offline unresponsive crash crashed crashes crashing crashloop crashlooping "
    "crashloopbackoff dead died missing unhealthy stopped inactive disappeared restarted restarting restart restarts "
    "rebooted outage disconnected panic panics panicked healthcheck"
)
# What these are about is not that the thing itself is full, busy or gone.
_NOT_FULL = (
    "io iops read reads write writes latency offline smart raid temperature error errors down saturation busy "
    "throughput await"
)
_NOT_BUSY = (
    "request requests overcommit overcommitted fragmentation reserved quota mismatch underutilized iowait gc map maps "
    "temperature fan ecc edac dimm correctable uncorrectable"
)
_NOT_GONE = (
    "replication scale scaled slow slowing request requests tuples messages letter switch backup certificate "
    "certificates smart"
)
# A name of these is about something that is none of our types.
_SOMETHING_ELSE = (
    "latency lag delay slow timeout timeouts queue backlog certificate certificates cert expiry expiring expired "
    "replication backup backups snapshot snapshots descriptors fds temperature skew drift ntp config configuration "
    "mismatch job jobs cronjob build builds shards compaction iops fragmentation deadlock deadlocks cardinality "
    "authentication login logins gc smart"
)

Rule = tuple[IncidentType, tuple[str, ...], str]
# (all of these sets have a word in it, none of these), in this order.
_NAME_RULES: tuple[Rule, ...] = (
    # What is hardly used is not high, and `LowMemory` is.
    (IncidentType.CUSTOM, (f"{_MEMORY} {_CPU}", "low under", "usage utilization utilisation util load"), ""),
    (IncidentType.DISK_FULL, (_DISK, _SPACE), _NOT_FULL),
    (
        IncidentType.DISK_FULL,
        ("space", "left low free full available running insufficient usage used"),
        f"{_NOT_FULL} {_MEMORY} address",
    ),
    (IncidentType.MEMORY_HIGH, (_MEMORY,), _NOT_BUSY),
    (IncidentType.CPU_HIGH, (_CPU,), _NOT_BUSY),
    (IncidentType.CPU_HIGH, ("load", "high average avg too"), "balancer balancing time page limit test"),
    (
        IncidentType.PORT_UNAVAILABLE,
        (_PORT, "down closed unreachable unavailable failed failing refused"),
        "liveness readiness startup",
    ),
    (IncidentType.SERVICE_DOWN, (_GONE,), _NOT_GONE),
    (
        IncidentType.SERVICE_DOWN,
        ("service unit systemd process daemon node server pod container instance host agent", "failed lost ready out"),
        _NOT_GONE,
    ),
    (
        IncidentType.SERVICE_DOWN,
        ("no not lost without insufficient", "leader master primary ready running online backends members quorum"),
        _NOT_GONE,
    ),
    (IncidentType.SERVICE_DOWN, ("not cannot", "responding reachable reached available healthy alive"), _NOT_GONE),
    (IncidentType.SERVICE_DOWN, ("cluster", "red health unhealthy"), "score"),
    (IncidentType.CUSTOM, (_SOMETHING_ELSE,), ""),
    (IncidentType.CUSTOM, (_DISK, _NOT_FULL), ""),
    (IncidentType.CUSTOM, (f"{_MEMORY} {_CPU}", _NOT_BUSY), ""),
)

# ---------------------------------------------------------------- metrics

_NOT_ONE = r"\b\)? {0,3}(?:== {0,3}0|< {0,3}1|!= {0,3}1)(?![\d.])"
# Of an expression without its labels: a metric that is 0 where 1 is good.
_COMPARISONS: tuple[tuple[IncidentType, re.Pattern[str]], ...] = (
    (IncidentType.PORT_UNAVAILABLE, re.compile(rf"\bprobe_success{_NOT_ONE}")),
    (IncidentType.SERVICE_DOWN, re.compile(rf"(?:\b|_)up{_NOT_ONE}")),
    (IncidentType.SERVICE_DOWN, re.compile(r"\babsent(?:_over_time)?\( {0,3}up\b")),
)
_FAILED_UNIT = re.compile(r"systemd_unit_state\{[^{}]*failed")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_BRACED = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_METRIC = re.compile(r"[A-Za-z_][\w.:/]{2,200}")
_MUCH = "used usage use utilization utilisation utilized percent pct ratio"
_LEFT = "free avail available"
_METRIC_RULES: tuple[Rule, ...] = (
    (
        IncidentType.DISK_FULL,
        (
            "disk filesystem fs volume tablespace inode inodes partition datastore storage bookie",
            f"{_MUCH} {_LEFT} capacity",
        ),
        f"{_NOT_FULL} time reserved memory mem",
    ),
    (
        IncidentType.MEMORY_HIGH,
        ("memory mem heap ram swap", f"{_MUCH} {_LEFT} working rss resident"),
        f"{_NOT_BUSY} limit limits",
    ),
    (IncidentType.CPU_HIGH, ("cpu", f"{_MUCH} seconds system user idle load throttled"), f"{_NOT_BUSY} limit limits"),
    (IncidentType.CPU_HIGH, ("load", "1 5 15 avg average"), ""),
)

# ---------------------------------------------------------------- sentences

_HIGH = (
    "usage use used using utilization utilisation high above over exceeds exceeded exceeding consumption saturated "
    "percent too"
)
_TEXT_RULES: tuple[Rule, ...] = (
    (IncidentType.CUSTOM, (f"{_MEMORY} {_CPU}", "low under", "usage utilization utilisation util load"), ""),
    (
        IncidentType.DISK_FULL,
        (
            "disk disks filesystem filesystems volume tablespace inode inodes partition datastore pvc storage",
            "full filling fill space usage used capacity free exhausted",
        ),
        _NOT_FULL,
    ),
    (
        IncidentType.MEMORY_HIGH,
        ("memory heap ram swap oom oomkilled", f"{_HIGH} pressure exhausted out full killed low free limit"),
        _NOT_BUSY,
    ),
    (IncidentType.CPU_HIGH, ("cpu cpus", f"{_HIGH} load throttled throttling"), _NOT_BUSY),
    (IncidentType.CPU_HIGH, ("load", "average avg"), "balancer balancing time page"),
    (
        IncidentType.PORT_UNAVAILABLE,
        ("port tcp", "closed unreachable unavailable refused listening responding"),
        "",
    ),
    (
        IncidentType.SERVICE_DOWN,
        (
            "is are has have was been cannot",
            "down unreachable offline unresponsive unhealthy crashed crashing crashlooping looping disappeared dead "
            "stopped restarted notrunning notresponding notrespond notreachable nothealthy notalive notreached",
        ),
        f"{_NOT_GONE} may might could if metric metrics rule rules",
    ),
)
# What a service is not any more, as one word, and never words of two different statements.
_NOT = re.compile(r"\b(?:is|are|was|does|can?)?n(?:ot|'t) +(?:be +|yet +|been +)?(?=[a-z])", re.IGNORECASE)


Compiled = tuple[tuple[IncidentType, tuple[frozenset[str], ...], frozenset[str]], ...]


def _compiled(rules: Sequence[Rule]) -> Compiled:
    return tuple(
        (incident_type, tuple(frozenset(words.split()) for words in needed), frozenset(unless.split()))
        for incident_type, needed, unless in rules
    )


_NAMED, _MEASURED, _TOLD = _compiled(_NAME_RULES), _compiled(_METRIC_RULES), _compiled(_TEXT_RULES)

# ---------------------------------------------------------------- an alert that does not say its type


def words_of(text: str) -> list[str]:
    """`NodeFilesystemSpaceFillingUp` and `node_filesystem_avail_bytes` as lower-case words."""
    return [part for word in _WORD.findall(text[:MAX_LOOKED_AT]) for part in _taken_apart(word.lower())]


def _taken_apart(word: str) -> tuple[str, ...]:
    """`diskspace` is two words as well."""
    found = _GLUED.fullmatch(word)
    return found.groups() if found else (word,)


_BY_WORD: dict[str, IncidentType] = {str(one): one for one in IncidentType}


def said_type(words: Iterable[str]) -> IncidentType | None:
    """The first of these words that is one of our types, in upper or lower case; None where none is."""
    known = (_BY_WORD.get(word.strip().lower()) for word in words if word)
    return next((one for one in known if one), None)


def incident_type_of(name: str, expression: str = "", texts: Iterable[str] = ()) -> IncidentType:
    """The type that the name of an alert speaks of, or else its expression, or else the first of its texts that does.

    Custom when none does.
    """
    return next(_spoken_of(name, expression, texts), IncidentType.CUSTOM)


def _spoken_of(name: str, expression: str, texts: Iterable[str]) -> Iterator[IncidentType]:
    """Every type that is spoken of, those of the step that decides first; custom among them for something else."""
    yield from _named(name[:MAX_LOOKED_AT])
    yield from _measured(expression[:MAX_LOOKED_AT])
    for text in texts:
        for sentence in _SENTENCE.split(text[:MAX_READ]):
            yield from _fitting(_TOLD, words_of(_NOT.sub("is not", sentence)))


def _fitting(rules: Compiled, words: Iterable[str]) -> Iterator[IncidentType]:
    said = frozenset(words)
    for incident_type, needed, unless in rules:
        if said.isdisjoint(needed[0]) or not said.isdisjoint(unless):
            continue
        if not any(said.isdisjoint(words) for words in needed[1:]):
            yield incident_type


@lru_cache(1024)  # a storm is many alerts of few rules
def _named(name: str) -> tuple[IncidentType, ...]:
    """What the name of an alert says."""
    return tuple(_fitting(_NAMED, words_of(name)))


@lru_cache(1024)
def _measured(expression: str) -> tuple[IncidentType, ...]:
    return tuple(_types_measured(expression))


def _types_measured(expression: str) -> Iterator[IncidentType]:
    """What is compared, then what its metrics measure; labels and texts in it are not read."""
    if _FAILED_UNIT.search(expression):
        yield IncidentType.SERVICE_DOWN
    bare = _BRACED.sub("", _QUOTED.sub("", expression))
    yield from (found for found, pattern in _COMPARISONS if pattern.search(bare))
    metrics = [words_of(metric) for metric in dict.fromkeys(_METRIC.findall(bare))]
    yield from (found for rule in _MEASURED for words in metrics for found in _fitting((rule,), words))


# ---------------------------------------------------------------- an alert of any shape

NAMES = "alertname rulename monitor title alerttitle alarmname conditionname triggername check name".split()
METRICS = "expression expr query alertquery metric metricname check".split()
TEXTS = "summary subject description alarmdescription message".split()
SAID = "incident_type"
# Whoever watches a port calls it down, and whoever watches a service says that its port does not answer.
_AKIN = frozenset((IncidentType.SERVICE_DOWN, IncidentType.PORT_UNAVAILABLE))


def type_in(evidence: Mapping[str, Any]) -> IncidentType:
    """The type that an alert of any shape speaks of, by the keys that tools put names, metrics and texts under."""
    return next(_spoken_of(*_read(evidence)), IncidentType.CUSTOM)


def other_opinion(said: IncidentType, evidence: Mapping[str, Any], *, by_sender: bool) -> IncidentType | None:
    """The type that the alert reads like, where its sender said another one; None where there is no clear difference.

    A type that we told ourselves is no opinion of somebody else: unless `by_sender`, the evidence must hold what the
    sender said. There is no difference either where the alert speaks of the sender's type too.
    """
    if not by_sender and said_type(_said(evidence, MAX_LEVELS)) is not said:
        return None
    read = list(_spoken_of(*_read(evidence)))
    ours = read[0] if read else IncidentType.CUSTOM
    agreed = said in read or {said, ours} == _AKIN
    return None if agreed or ours is IncidentType.CUSTOM else ours


def _read(evidence: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """Name, metrics and texts."""
    found: dict[str, str] = {}
    for key, text in _leaves(evidence, MAX_LEVELS):
        found.setdefault(key, text)
    names, metrics, texts = ([found[key] for key in keys if key in found] for keys in (NAMES, METRICS, TEXTS))
    return " ".join(names[:1]), " ".join(metrics), texts


def _leaves(value: Any, levels: int, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts in evidence with their keys in small letters, those of the outermost level first."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict) and levels:
        entries = sorted(value.items(), key=lambda entry: not isinstance(entry[1], str))
        for name, one in entries:
            yield from _leaves(one, levels - 1, name.lower().replace("_", ""))
    elif isinstance(value, list) and levels:
        for one in value:
            yield from _leaves(one, levels - 1, key)


def _said(evidence: Any, levels: int) -> Iterator[str]:
    """The values of every label, field or tag `incident_type`."""
    for key, text in _leaves(evidence, levels):
        name, sign, value = text.partition(":")
        if key.rpartition(".")[2] == SAID.replace("_", ""):
            yield text
        elif sign and name == SAID:
            yield value
