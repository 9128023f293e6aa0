"""JSON lines in and out. What is wrong is said with its file and line."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openremedy.errors import Invalid
from openremedy.evaluation.rows import Id, Prediction, Truth


class Line(dict[str, Any]):
    """One JSON object of a file."""

    def __init__(self, path: Path, number: int, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._place = f"{path}, line {number}"

    def wrong(self, what: str) -> Invalid:
        """The error to raise about this line."""
        return Invalid(f"{self._place}: {what}")

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(f"{name} must be a text that is not empty.")
        return value

    def optional(self, name: str) -> str | None:
        """A text or null; null where it is not there."""
        return None if self.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where it is not there."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(f"{name} must be a list of texts.")
        return tuple(value)

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object that must be there."""
        value = self.get(name)
        if not isinstance(value, dict):
            raise self.wrong(f"{name} must be a JSON object.")
        return value

    def chance(self, name: str) -> float:
        """A number from 0 to 1; 0 where it is not there."""
        value = self.get(name, 0.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= 1:
            raise self.wrong(f"{name} must be a number from 0 to 1.")
        return float(value)

    @property
    def id(self) -> Id:
        value = self.get("id")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.wrong("id must be a text or a whole number.")
        return value


def read(path: Path, key: str = "id") -> list[Line]:
    """The objects of a file, no two with the same `key`. Raises Invalid."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise Invalid(f"There is no file {path}.") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.") from error
    # Not splitlines(): a text may hold line ends that are none of JSON lines.
    numbered = ((number, text) for number, text in enumerate(raw.split(b"\n"), 1) if text.strip())
    return list(_different([_line(path, number, text) for number, text in numbered], key))


def _line(path: Path, number: int, text: bytes) -> Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{path}, line {number}: this is no JSON ({error}).") from error
    if not isinstance(value, dict):
        raise Invalid(f"{path}, line {number}: this is no JSON object.")
    return Line(path, number, value)


def _different(lines: Iterable[Line], key: str) -> Iterator[Line]:
    seen: set[Id] = set()
    for line in lines:
        value = line.id if key == "id" else line.text(key)
        if value in seen:
            raise line.wrong(f"{key} {value!r} stands here a second time.")
        seen.add(value)
        yield line


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a file. Raises Invalid."""
    try:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}.") from error


# ---------------------------------------------------------------- truths and predictions


def truth_of(line: Line) -> Truth:
    """A row of alerts_truth.jsonl."""
    if "recipe_slug" not in line:
        raise line.wrong("recipe_slug is missing; null says that no recipe fits.")
    return Truth(
        id=line.id,
        right=line.optional("recipe_slug"),
        accept=frozenset(line.texts("accept")),
        family=line.optional("family"),
        basis=line.optional("basis") or "",
        kind=line.optional("kind") or "",
        foreign=line.get("foreign") is True,
        opaque=line.optional("recipe_opaque"),
    )


def predictions(path: Path, known: Iterable[Id]) -> list[Prediction]:
    """What `classify eval --predictions` has written about these alerts; its rows about types are passed over."""
    ids = set(known)
    return [prediction_of(line, ids) for line in read(path) if "recipe_slug" in line or "incident_type" not in line]


def prediction_of(line: Line, known: set[Id]) -> Prediction:
    """One row of them. Raises Invalid for an alert that is not among `known`."""
    if line.id not in known:
        raise line.wrong(f"the truth knows no alert {line.id!r}.")
    if "recipe_slug" not in line:
        raise line.wrong("recipe_slug is missing; null says that no recipe fits.")
    recipe, confidence = line.optional("recipe_slug"), line.chance("confidence")
    score = confidence if recipe else None
    if "score_raw" in line:
        score = None if line["score_raw"] is None else line.chance("score_raw")
    return Prediction(line.id, recipe, confidence, line.texts("ranked"), score)


def prediction_rows(found: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Predictions as they are written."""
    return [
        {
            "id": one.id,
            "recipe_slug": one.recipe,
            "confidence": one.confidence,
            "ranked": list(one.ranked),
            "score_raw": one.score,
        }
        for one in found
    ]
