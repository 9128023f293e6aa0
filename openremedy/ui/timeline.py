"""What happened to an incident, in sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openremedy.ui.words import percent, plural, spoken

MOST_REPEATS = 3  # of the same kind in a row are shown; more become one line


@dataclass(frozen=True)
class Line:
    """One line: when, by whom, what; `strong` where the state changed."""

    at: str
    actor: str
    text: str
    strong: bool = False
    note: str = ""


def sentences(timeline: Sequence[dict[str, Any]]) -> list[Line]:
    """The lines of a timeline, newest first; a run of repetitions is one line."""
    lines: list[Line] = []
    run: list[dict[str, Any]] = []
    for entry in timeline:
        if entry["kind"] in ("repeated", "duplicate"):
            run.append(entry)
            continue
        lines += _repeats(run)
        run = []
        lines.append(_line(entry))
    return (lines + _repeats(run))[::-1]


def _repeats(run: Sequence[dict[str, Any]]) -> list[Line]:
    if len(run) <= MOST_REPEATS:
        return [_line(entry) for entry in run]
    return [
        Line(run[-1]["at"], run[-1]["actor"], f"{plural(len(run), 'repetition')} in a row, this is the last of them")
    ]


def _line(entry: dict[str, Any]) -> Line:
    kind, detail = entry["kind"], entry["detail"] or {}
    words = _WORDS.get(kind)
    text = words(detail) if words else spoken(kind).capitalize()
    return Line(entry["at"], entry["actor"], text, kind in _STRONG, str(detail.get("reason") or ""))


def _classified(detail: dict[str, Any]) -> str:
    by = f"{spoken(detail.get('tier'))}, {percent(detail.get('confidence'))}"
    early = ", for now" if detail.get("provisional") else ""
    recipe = detail.get("recipe")
    return f"Recipe {recipe} ({by}{early})" if recipe else f"No recipe ({by}{early})"


def _answered(detail: dict[str, Any]) -> str:
    recipe = detail.get("recipe")
    return {
        "confirm": f"Confirmed: {recipe}",
        "correct": f"Corrected to {recipe}",
        "none": "Said that no recipe fits",
    }.get(str(detail.get("answer")), "Answered")


_STRONG = {
    "opened",
    "still_firing",
    "acknowledged",
    "resolved",
    "stale",
    "severity_changed",
    "feedback",
    "needs_human",
    "handed_over",
    "hand_over_failed",
}
_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "opened": lambda detail: f"Opened, {detail.get('severity', '')}",
    "still_firing": lambda _detail: "Opened again: it still fires after it was closed",
    "flapping": lambda detail: f"Flapping: {detail.get('episodes')} times within {detail.get('minutes')} minutes",
    "acknowledged": lambda _detail: "Acknowledged",
    "resolved": lambda _detail: "Resolved",
    "stale": lambda _detail: "Closed: nothing was heard of it any more",
    "sender_resolved": lambda _detail: "The sender says that it is over, too",
    "severity_changed": lambda detail: f"Severity {detail.get('before')} → {detail.get('after')}",
    "classified": _classified,
    "needs_human": lambda _detail: "Needs a person",
    "reclassify": lambda _detail: "Asked for a fresh verdict",
    "feedback": _answered,
    "repeated": lambda _detail: "Fired again",
    "duplicate": lambda _detail: "The same alert once more",
    "ignored": lambda _detail: "An alert that changed nothing",
    "note": lambda _detail: "A note from the tool",
    "handed_over": lambda _detail: "Has taken the accepted recipe",
    "hand_over_failed": lambda _detail: "Could not be handed the accepted recipe",
    "enriched": lambda _detail: "More was read from the tool",
}
