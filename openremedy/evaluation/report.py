"""Figures as text, for people. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_CONFUSED = 20
INTERVAL = "_ci"
WIDTH = 28


def figures(found: Mapping[str, Any]) -> str:
    """One line a figure, its interval behind it; then calibration, subsets, types, and what was confused with what."""
    parts = ["\n".join(_lines(found))]
    if rows := found.get("reliability"):
        parts.append("\n".join(["reliability", *map(_reliability, rows)]))
    parts += ["\n".join([f"subset {name}", *_lines(part)]) for name, part in (found.get("subsets") or {}).items()]
    if per_type := found.get("per_type"):
        parts.append("\n".join(["per_type", *(_type(name, part) for name, part in per_type.items())]))
    parts += [_confusion(name, found[name]) for name in ("confusion", "type_confusion") if found.get(name)]
    return "\n\n".join(parts)


def comparison(found: Mapping[str, Any]) -> str:
    """Both runs side by side, with b - a."""
    lines = [f"{'alerts':{WIDTH}} {found['alerts']}", f"{'':{WIDTH}} {'a':>8} {'b':>8} {'b - a':>8}"]
    for name, row in found["figures"].items():
        values = " ".join(f"{_value(row[key]):>8}" for key in ("a", "b", "difference"))
        lines.append(f"{name:{WIDTH}} {values}  {_interval(row['difference_ci'])}".rstrip())
    for name, row in found["mcnemar"].items():
        only = f"only a right {row['only_a']}, only b right {row['only_b']}"
        lines.append(f"{f'mcnemar {name}':{WIDTH}} {only}, p {row['p']:.4g}")
    for name in ("gained", "lost"):
        lines.append(f"{name:{WIDTH}} {len(found[name])}: {_some(found[name])}".rstrip(": "))
    return "\n".join(lines)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if name.endswith(INTERVAL) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            continue
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            continue
        yield f"{name:{WIDTH}} {_value(value)}  {_interval(found.get(name + INTERVAL))}".rstrip()


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _interval(ends: Any) -> str:
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]" if ends else ""


def _reliability(row: Mapping[str, Any]) -> str:
    sure = f"{row['from']:.1f}-{row['to']:.1f}  {row['count']:5d} said, sure {row['confidence']:.3f}"
    return f"  {sure}, right {row['correct']:.3f}  {_interval(row['correct_ci'])}"


def _type(name: str, row: Mapping[str, Any]) -> str:
    values = "  ".join(f"{key} {_value(row[key])}" for key in ("precision", "recall", "f1"))
    return f"  {name:{WIDTH - 2}} {row['count']:5d}  {values}"


def _confusion(name: str, rows: list[Mapping[str, Any]]) -> str:
    lines = [
        f"{row['count']:5d}  {row['expected'] or 'none'} -> {row['got'] or 'none'}  {_some(row['ids'])}" for row in rows
    ]
    more = [f"       and {len(rows) - MOST_CONFUSED} more, see --json"] if len(rows) > MOST_CONFUSED else []
    return "\n".join([f"{name} (expected -> got)", *lines[:MOST_CONFUSED], *more])


def _some(ids: list[Any]) -> str:
    return " ".join(map(str, ids[:5])) + (" ..." if len(ids) > 5 else "")
