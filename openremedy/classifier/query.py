"""What an incident says, by the part it plays: its name, its sentences, its expression, everything else. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from .pointers import scalars
from .shapes import Subject
from .vocabulary import PORTS
from .words import masked, pairs_of, stem, words_of

TYPE_WORDS = {
    "disk_full": "disk full filesystem space",
    "cpu_high": "cpu high load",
    "memory_high": "memory high ram oom",
    "service_down": "service down unit process failed",
    "port_unavailable": "port unavailable connection refused listen",
}

_NAME_KEYS = frozenset(
    "alertname alert_name rule rulename rule_name monitor monitor_name check check_name title event_title".split()
)
_LINK_KEYS = frozenset("runbook_url runbook dashboard_url".split())  # the last step of the path names the thing
_EXPRESSION_KEYS = frozenset("expression expr query promql".split())
# These tell one machine, pod or tenant from another, and nothing about what is wrong with it.
_IDENTITY_KEYS = frozenset(
    "instance exported_instance pod namespace node host hostname nodename cluster cluster_id installation pipeline "
    "provider prometheus container endpoint uid id device fingerprint replica ip generator_url severity".split()
)
# What a script adds for the reader: a hint at most, and often a name that no recipe knows.
_DETAIL_KEYS = frozenset("top_process top_processes largest_files".split())
_PORT_KEYS = frozenset("port dport tcp_port".split())
_LOW_SHARE = 30  # percent
_SENTENCE = 3  # words
_READ_CHARACTERS = 32 * 1024
_VALUE_CHARACTERS = 2000
_WORDS = 400  # of one part
_NAMES = 50
_PROPER = re.compile(r"[0-9.-]")  # a host called `postgres` must not hide what runs there
_SHORTEST_NAME = 4  # characters

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s{0,4}\([^)]{0,500}\)")
_SELECTOR = re.compile(r"\{[^}]{0,2000}\}")
_MATCHED = re.compile(r"=~?\s{0,4}\"([^\"]{0,500})\"")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True)
class Query:
    """The words of each part; `kind` those of the incident's type, none where that is custom."""

    name: list[list[str]]
    text: list[list[str]]
    expression: list[list[str]]
    other: list[list[str]]
    kind: list[str]
    severity: str  # "critical" or "warning", as recipes tell two stages of one trouble apart

    def beyond_type(self) -> "Query":
        """Without the words of the incident's type: among recipes for that type they tell nothing."""
        own = frozenset(self.kind)
        name, text, expression, other = (
            [kept for words in part if (kept := [word for word in words if word not in own])]
            for part in (self.name, self.text, self.expression, self.other)
        )
        return Query(name, text, expression, other, self.kind, self.severity)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for incidents that say the same."""
        parts = (self.name, self.text, self.expression, self.other)
        return *(tuple(map(tuple, part)) for part in parts), tuple(self.kind), self.severity

    @property
    def said(self) -> list[str]:
        """What the sender put into words: name, sentences and metrics."""
        return _joined([*self.name, *self.text, *self.expression])

    @property
    def everything(self) -> list[str]:
        return _joined([*self.name, *self.expression, *self.text, *self.other])

    @property
    def terms(self) -> list[str]:
        return terms_in([*self.name, *self.expression, *self.text, *self.other])


def terms_in(groups: list[list[str]]) -> list[str]:
    """Words and pairs; the words of two groups do not stand side by side."""
    return _joined([[*words, *pairs_of(words)] for words in groups])


def _joined(groups: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(groups))


def query_of(subject: Subject) -> Query:
    kind = (
        words_of(f"{subject.incident_type} {TYPE_WORDS[subject.incident_type]}")
        if subject.incident_type in TYPE_WORDS
        else []
    )
    query = Query([], [], [], [], kind, stem("critical" if subject.severity == "critical" else "warning"))
    names = _identities(subject)
    seen: set[tuple[str, str]] = set()
    for leaf in _leaves(subject.evidence):
        if (leaf.key, str(leaf.value)) not in seen:
            seen.add((leaf.key, str(leaf.value)))
            _sort_in(query, leaf, names)
    return query


@dataclass(frozen=True)
class _Leaf:
    """A value with the nearest key; `top`: it stands in the evidence itself, not in labels or the like."""

    key: str
    top: bool
    value: object


def _leaves(evidence: Mapping[str, object]) -> Iterator[_Leaf]:
    """Every place, up to a bound; what stands in a list has the key of the list."""
    left = _READ_CHARACTERS
    for pointer, value in scalars(evidence):
        left -= len(pointer) + (min(len(value), _VALUE_CHARACTERS) if isinstance(value, str) else 0)
        if left < 0:
            return
        steps = [step for step in pointer.split("/")[1:] if not step.isdigit()]
        yield _Leaf(
            steps[-1] if steps else "", len(steps) < 2, value[:_VALUE_CHARACTERS] if isinstance(value, str) else value
        )


def _identities(subject: Subject) -> list[str]:
    """What the machine and its like are called, longest first."""
    names = {subject.hostname, subject.hostname.split(".")[0]}
    names |= {
        leaf.value
        for leaf in _leaves(subject.evidence)
        if leaf.key.lower() in _IDENTITY_KEYS and isinstance(leaf.value, str)
    }
    own = (name for name in names if _SHORTEST_NAME <= len(name) <= 253 and _PROPER.search(name))
    return sorted(own, key=lambda name: (-len(name), name))[:_NAMES]


def _sort_in(query: Query, leaf: _Leaf, names: list[str]) -> None:
    key, value = leaf.key.lower(), leaf.value
    if key in _IDENTITY_KEYS:
        return
    if key in _PORT_KEYS and str(value) in PORTS:
        _add(query.text, words_of(PORTS[str(value)]))
    if not isinstance(value, str):
        _add(query.expression if _is_measure(leaf) else query.other, words_of(leaf.key))
    elif key in _NAME_KEYS:
        _add(query.name, words_of(masked(value, names)))
    elif key in _LINK_KEYS:
        _add(query.name, words_of(re.split(r"[?#]", value)[0].rstrip("/").rpartition("/")[2]))
    elif key in _EXPRESSION_KEYS:
        _add_expression(query, value)
    else:
        _add_value(query, leaf, words_of(masked(value, names)))


def _is_measure(leaf: _Leaf) -> bool:
    """A number that a script measured; a low share is what it measured beside what is wrong."""
    number = isinstance(leaf.value, int | float) and not isinstance(leaf.value, bool)
    share = "percent" in leaf.key.lower() or leaf.key.lower().endswith("pct")
    return leaf.top and number and not (share and isinstance(leaf.value, int | float) and leaf.value < _LOW_SHARE)


def _add_value(query: Query, leaf: _Leaf, words: list[str]) -> None:
    """A sentence, or what a small script puts right into its evidence, is said; a label is only there."""
    sentence = len(words) >= _SENTENCE and " " in str(leaf.value).strip()
    if leaf.key.lower() in _DETAIL_KEYS:
        _add(query.other, words)
    elif leaf.top or sentence:
        _add(query.text, words)
        _add(query.other, words_of(leaf.key))
    else:
        _add(query.other, words_of(leaf.key) + words)


def _add(part: list[list[str]], words: list[str]) -> None:
    room = _WORDS - sum(map(len, part))
    if words and room > 0:
        part.append(words[:room])


def _add_expression(query: Query, expression: str) -> None:
    """The metrics, and what is asked of their labels; not the functions around them."""
    plain = _SELECTOR.sub(" ", _GROUPING.sub(" ", expression))
    metrics = [name for name in _METRIC.findall(plain) if "_" in name or ":" in name or name == "up"]
    for name in metrics:
        _add(query.expression, words_of(name))
    for value in _MATCHED.findall(expression):
        _add(query.other, words_of(masked(value)))
