"""How well incident type and severity are told from a tool's own alert. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openremedy.alerts import IncidentType
from openremedy.evaluation.figures import both_rounded, confusion, rounded
from openremedy.evaluation.intervals import Resampling
from openremedy.evaluation.rows import Id

RARE = IncidentType.PORT_UNAVAILABLE  # too few rows of the benchmark to mean anything


@dataclass(frozen=True)
class Kind:
    """Incident type and severity of one alert; no severity where none is known."""

    id: Id
    incident_type: str
    severity: str | None = None
    family: str | None = None


Pair = tuple[Kind, Kind]
Table = Counter[tuple[str, str]]


def figures(right: Sequence[Kind], told: Mapping[Id, Kind]) -> dict[str, Any]:
    """A key per figure. What was not told counts as custom."""
    pairs = [(one, told.get(one.id, Kind(one.id, IncidentType.CUSTOM))) for one in right]
    once = [1] * len(pairs)
    chances = Resampling([one.family or (one.id,) for one in right]).of(lambda times: _means(pairs, times))
    found: dict[str, Any] = {"types": len(pairs)}
    for name, value in _means(pairs, once).items():
        found[name] = rounded(value)
        found[f"{name}_ci"] = both_rounded(chances.get(name))
    table = _table(pairs, once)
    found["per_type"] = {one: _counts(table, one) for one in map(str, IncidentType)}
    found["type_confusion"] = confusion([(a.incident_type, b.incident_type, a.id) for a, b in pairs])
    return found


def _table(pairs: Sequence[Pair], times: Sequence[int]) -> Table:
    """How often each type (the first) was told to be each (the second), where each alert counts that often."""
    table: Table = Counter()
    for (a, b), count in zip(pairs, times, strict=True):
        table[a.incident_type, b.incident_type] += count
    return table


def _means(pairs: Sequence[Pair], times: Sequence[int]) -> dict[str, float | None]:
    table = _table(pairs, times)
    there = {right for (right, _), count in table.items() if count}
    f1 = {one: _f1(table, one) for one in there}
    severities = [
        (a.severity == b.severity, n) for (a, b), n in zip(pairs, times, strict=True) if a.severity and b.severity
    ]
    return {
        "type_accuracy": _share(sum(count for (right, said), count in table.items() if right == said), table.total()),
        "type_macro_f1": _share(sum(f1.values()), len(f1)),
        "type_macro_f1_without_port": _share(sum(f1.values()) - f1.get(RARE, 0.0), len(f1.keys() - {RARE})),
        "severity_accuracy": _share(sum(n for same, n in severities if same), sum(n for _, n in severities)),
    }


def _f1(table: Table, incident_type: str) -> float:
    both, wanted, said = _hits(table, incident_type)
    return 2 * both / (wanted + said)


def _counts(table: Table, incident_type: str) -> dict[str, Any]:
    both, wanted, said = _hits(table, incident_type)
    return {
        "count": wanted,
        "precision": rounded(_share(both, said)),
        "recall": rounded(_share(both, wanted)),
        "f1": rounded(_share(2 * both, wanted + said)),
    }


def _hits(table: Table, incident_type: str) -> tuple[int, int, int]:
    """How many are of the type and were told so, are of it, were told to be of it."""
    wanted = sum(count for (right, _), count in table.items() if right == incident_type)
    said = sum(count for (_, said), count in table.items() if said == incident_type)
    return table[incident_type, incident_type], wanted, said


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
