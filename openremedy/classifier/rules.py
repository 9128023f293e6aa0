"""Tier 1: the tenant's own conditions; an answer only when exactly one recipe's conditions all hold."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from .masking import mask
from .pointers import NoSuchPlace, escape, problem, resolve
from .shapes import Answer, Citation, Recipe, Subject

SUMMARY_LIMIT = 500
_SHOWN = 80
_NUMBER = re.compile(r"\s{0,8}[-+]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?\s{0,8}")
_MISSING = object()
# These two words name the incident itself; evidence of the same name is reached as "/hostname".
_OWN_WORDS = ("hostname", "severity")


def match(subject: Subject, recipes: Iterable[Recipe]) -> Answer | None:
    fitting = [recipe for recipe in recipes if _fits(subject, recipe)]
    if len(fitting) != 1:
        return None
    recipe = fitting[0]
    return Answer(
        recipe=recipe.slug,
        tier="rule",
        confidence=1.0,
        citations=_citations(subject, recipe.match),
        summary=_summary(subject, recipe.match),
    )


def check_match(match: Any) -> list[str]:
    """What is wrong with a recipe's `match`, one sentence each; empty when nothing is."""
    if not isinstance(match, Mapping):
        return ["match must be a mapping from an evidence key to a condition."]
    problems: list[str] = []
    for key, condition in match.items():
        problems += _key_problems(key) or _condition_problems(key, condition)
    return problems


# ---- does a recipe fit


def _fits(subject: Subject, recipe: Recipe) -> bool:
    if not recipe.match or not recipe.admits(subject.incident_type):
        return False
    return all(_holds(_read(subject, key), condition) for key, condition in recipe.match.items())


def _read(subject: Subject, key: str) -> Any:
    if key in _OWN_WORDS:
        return getattr(subject, key)
    try:
        return resolve(subject.evidence, _pointer(key))
    except NoSuchPlace:
        return _MISSING


def _pointer(key: str) -> str:
    return key if key.startswith("/") else f"/{escape(key)}"


def _holds(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        return bool(condition) and all(_operator_holds(value, *pair) for pair in condition.items())
    if value is _MISSING:
        return False
    if isinstance(condition, list):
        return any(_equal(value, wanted) for wanted in condition)
    return _equal(value, condition)


def _operator_holds(value: Any, name: str, operand: Any) -> bool:
    if name == "present":
        return (value is not _MISSING) is operand
    operator = _OPERATORS.get(name)
    return operator is not None and value is not _MISSING and operator(value, operand)


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, str) and isinstance(wanted, str):
        return value.casefold() == wanted.casefold()
    left, right = _number(value), _number(wanted)
    return left is not None and right is not None and left == right


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return None


def _compare(test: Callable[[float, float], bool]) -> Callable[[Any, Any], bool]:
    def compare(value: Any, operand: Any) -> bool:
        left, right = _number(value), _number(operand)
        return left is not None and right is not None and test(left, right)

    return compare


def _texts(value: Any) -> list[str]:
    """What `contains` and `glob` look at: text, a number as text, or the texts of a list."""
    if isinstance(value, list):
        return [item.casefold() for item in value if isinstance(item, str)]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return [str(value).casefold()]
    return []


def _contains(value: Any, part: Any) -> bool:
    return any(str(part).casefold() in text for text in _texts(value))


def _glob(value: Any, pattern: Any) -> bool:
    return any(fnmatchcase(text, str(pattern).casefold()) for text in _texts(value))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gte": _compare(lambda left, right: left >= right),
    "gt": _compare(lambda left, right: left > right),
    "lte": _compare(lambda left, right: left <= right),
    "lt": _compare(lambda left, right: left < right),
    "contains": _contains,
    "glob": _glob,
}


# ---- why it fits


def _citations(subject: Subject, conditions: Mapping[str, Any]) -> tuple[Citation, ...]:
    evidence = mask(subject.evidence)
    cited = []
    for key in conditions:
        try:
            value = resolve(evidence, _pointer(key))
        except NoSuchPlace:
            continue
        if key not in _OWN_WORDS:
            cited.append(Citation(_pointer(key), value))
    return tuple(cited)


def _summary(subject: Subject, conditions: Mapping[str, Any]) -> str:
    evidence = mask(subject.evidence)
    masked = Subject(subject.incident_type, subject.hostname, subject.severity, evidence)
    said = [_say(key, _read(masked, key), condition) for key, condition in conditions.items()]
    sentence = "; ".join(said)
    return f"The recipe's own conditions hold: {sentence}"[: SUMMARY_LIMIT - 1].rstrip(".") + "."


def _say(key: str, value: Any, condition: Any) -> str:
    if value is _MISSING:
        return f"{key} is absent"
    asked = ", ".join(_ask(*pair) for pair in condition.items()) if isinstance(condition, Mapping) else ""
    return f"{key} is {_show(value)}" + (f" ({asked})" if asked else "")


def _ask(name: str, operand: Any) -> str:
    words = {"gte": "at least", "gt": "more than", "lte": "at most", "lt": "less than", "glob": "like"}
    return "present" if name == "present" else f"{words.get(name, name)} {_show(operand)}"


def _show(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "a mapping" if isinstance(value, Mapping) else f"a list of {len(value)}"
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


# ---- is a match well formed


def _key_problems(key: Any) -> list[str]:
    if not isinstance(key, str) or not key:
        return [f"match: the key {key!r} must be text."]
    trouble = problem(key) if key.startswith("/") else None
    return [f"match: {key}: {trouble}."] if trouble else []


def _condition_problems(key: str, condition: Any) -> list[str]:
    if isinstance(condition, Mapping):
        if not condition:
            return [f"match: {key}: the condition is empty."]
        found = [_operator_problem(name, operand) for name, operand in condition.items()]
        return [f"match: {key}: {text}" for text in found if text]
    if isinstance(condition, list):
        if condition and all(_is_scalar(item) for item in condition):
            return []
        return [f"match: {key}: a list must hold one or more plain values."]
    return [] if _is_scalar(condition) else [f"match: {key}: {type(condition).__name__} is not a condition."]


def _operator_problem(name: Any, operand: Any) -> str | None:
    if name == "present":
        return None if isinstance(operand, bool) else "present must be true or false."
    if name in ("contains", "glob"):
        plain = isinstance(operand, str | int | float) and not isinstance(operand, bool)
        return None if plain and str(operand) else f"{name} needs a text."
    if name in _OPERATORS:
        return None if _number(operand) is not None else f"{name} needs a number."
    known = ", ".join([*_OPERATORS, "present"])
    return f"unknown operator {name!r}; known are {known}."


def _is_scalar(value: Any) -> bool:
    finite = not isinstance(value, float) or value - value == 0
    return finite and (value is None or isinstance(value, str | int | float))
