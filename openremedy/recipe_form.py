"""A recipe as a form has it: one text a field, held to the rules of the YAML file; and two recipes side by side."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from openremedy.errors import Invalid
from openremedy.recipes import FIELDS, RecipeFileError, RecipeSpec, condition_text, parse

MAX_CHARACTERS = 256 * 1024  # of all fields; the longest recipe that a file may hold is far below
MAX_DIFF_LINES = 2000

_LAST = "match"  # many lines, and what is not closed in it may swallow what follows
_LINES = [name for name in FIELDS if name != _LAST]
_KEY_LINE = len(_LINES) + 1
_WORDS = re.compile(r"[\s,]+")
_WHERE = re.compile(r"line (\d+)(, column \d+)?: ")
_NAMED = re.compile(r"recipe (?:'[a-z0-9-]*'|number 1): ")
_OTHER_LINE = re.compile(r"in line (\d+)")
_TRUE, _FALSE = ("true", "on"), ("", "false")


def spec_from_form(values: Mapping[str, str]) -> RecipeSpec:
    """The recipe that a form holds.

    slug, title, when, risk, steps: text. applies_to, tags: words with blanks or commas between. match: conditions in
    YAML or JSON. enabled: "true" or "on"; "false", empty or absent is no. Raises Invalid with a list of sentences
    for each wrong field.
    """
    texts = {name: _unix(values.get(name, "")) for name in FIELDS}
    if sum(map(len, texts.values())) > MAX_CHARACTERS:
        longest = max(texts, key=lambda name: len(texts[name]))
        raise Invalid(fields={longest: ["is far too long"]})
    try:
        (spec,) = parse(_yaml(texts))
    except RecipeFileError as error:
        raise Invalid("The recipe has mistakes.", fields=_by_field(error.problems)) from error
    return spec


def form_of(spec: RecipeSpec) -> dict[str, str]:
    """What a form shows of a recipe; taken back unchanged it is the same recipe."""
    return {
        "slug": spec.slug,
        "title": spec.title,
        "when": spec.when,
        "applies_to": " ".join(spec.applies_to),
        "match": condition_text(spec.match),
        "risk": spec.risk,
        "tags": " ".join(spec.tags),
        "enabled": "true" if spec.enabled else "false",
        "steps": spec.steps,
    }


def _unix(text: str) -> str:
    """Browsers send the line ends of Windows."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _yaml(texts: Mapping[str, str]) -> str:
    """A file with this one recipe: each field on a line of its own, so that the line of a problem tells its field."""
    lines = [f"  {name}: {_value(name, texts[name])}" for name in _LINES]
    if texts[_LAST].strip():
        lines += [f"  {_LAST}:", *(f"    {line}" for line in texts[_LAST].split("\n"))]
    return "-" + "\n".join(lines)[1:]


def _value(name: str, text: str) -> str:
    if name in ("applies_to", "tags"):
        return _json([word for word in _WORDS.split(text) if word])
    if name == "enabled" and text in _TRUE + _FALSE:
        return "true" if text in _TRUE else "false"
    return _json(text.strip() if name == "slug" else text)


def _json(value: object) -> str:
    """JSON is YAML; letters are written as they are, for YAML reads an escaped pair of surrogates as two letters."""
    return json.dumps(value, ensure_ascii=False)


def _by_field(problems: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in problems:
        where = _WHERE.match(problem)
        line = int(where[1]) if where else _KEY_LINE
        name = _LINES[line - 1] if line < _KEY_LINE else _LAST
        message = _NAMED.sub("", _WHERE.sub("", problem, count=1), count=1).removeprefix(f"{name} ")
        found.setdefault(name, []).append(_placed(message, line - _KEY_LINE))
    return found


def _placed(message: str, line: int) -> str:
    """Lines are counted within the conditions; every other field is one line of ours."""
    if line < 1:
        return message
    return f"line {line}: " + _OTHER_LINE.sub(lambda other: f"in line {max(int(other[1]) - _KEY_LINE, 1)}", message)


# ---------------------------------------------------------------- two recipes side by side


@dataclass(frozen=True)
class FieldChange:
    """One field that differs: its text before and after, and the lines of a unified diff ("-old", "+new", " same")."""

    field: str
    before: str
    after: str
    lines: tuple[str, ...]


def diff(old: RecipeSpec | None, new: RecipeSpec | None) -> list[FieldChange]:
    """What differs, field by field; None is a recipe that is not there."""
    before, after = (form_of(spec) if spec else dict.fromkeys(FIELDS, "") for spec in (old, new))
    return [
        FieldChange(name, before[name], after[name], tuple(_lines(before[name], after[name])))
        for name in FIELDS
        if before[name] != after[name]
    ]


def _lines(before: str, after: str) -> list[str]:
    old, new = (text.split("\n") if text else [] for text in (before, after))
    if len(old) + len(new) > MAX_DIFF_LINES:  # the time goes with the square
        return [f"-{line}" for line in old] + [f"+{line}" for line in new]
    return list(difflib.unified_diff(old, new, lineterm=""))[2:]  # without the names of the files
