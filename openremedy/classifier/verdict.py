"""What a model may answer, and the check that it did; also the second look at a reused verdict's citations."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cause import blur
from .masking import mask
from .pointers import NoSuchPlace, resolve
from .shapes import Citation
from .trouble import BadAnswer as BadAnswer

NONE = "none"
SUMMARY_LIMIT = 500
TEXT_LIMIT = 64 * 1024
CITATION_LIMIT = 20

_FENCED = re.compile(r"```[a-zA-Z]{0,10}\s{0,9}\n(.*?)```", re.DOTALL)
# Where a reasoning model's thoughts end; the chat templates of some write the beginning themselves.
_THOUGHTS_END = re.compile(r"</(?:think|thinking|reasoning|thought)>|<\|channel\|>final<\|message\|>")
_ANSI = re.compile(r"\x1b\[[0-?]{0,32}[ -/]{0,8}[@-~]")
# Control characters, and what turns or hides text on a page.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class ModelAnswer:
    recipe: str | None
    confidence: float
    citations: tuple[Citation, ...]
    summary: str


def response_schema(slugs: Iterable[str]) -> dict[str, Any]:
    """The JSON schema of an answer.

    It keeps to the keywords that all strict modes know: several refuse maxLength, minimum and maximum
    (developers.openai.com/api/docs/guides/structured-outputs); `parse_answer` checks the rest.
    """
    citation = {
        "pointer": {"type": "string", "description": "JSON pointer into the evidence, such as /mount"},
        "value": {"type": ["string", "number", "boolean", "null"], "description": "exactly what stands there"},
    }
    return _closed(
        {
            "recipe": {"type": "string", "enum": [*dict.fromkeys(slugs), NONE]},
            "confidence": {"type": "number", "description": "from 0 to 1"},
            "citations": {"type": "array", "items": _closed(citation)},
            "summary": {"type": "string", "description": f"one sentence, at most {SUMMARY_LIMIT} characters"},
        }
    )


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_answer(text: str, slugs: Iterable[str], evidence: Mapping[str, Any]) -> ModelAnswer:
    """The answer, if it is one; `evidence` is what the model was shown (masked and cut)."""
    try:
        reply = _load(text)
        return ModelAnswer(
            recipe=_recipe(reply, set(slugs)),
            confidence=_confidence(reply),
            citations=_citations(reply, evidence),
            summary=clean(_field(reply, "summary", str, "text"), SUMMARY_LIMIT),
        )
    except BadAnswer as bad:
        bad.text = text[:TEXT_LIMIT]
        raise


def clean(text: str, limit: int) -> str:
    """One line of printable text."""
    return " ".join(_UNPRINTABLE.sub(" ", _ANSI.sub("", text)).split())[:limit]


def _load(text: str) -> dict[str, Any]:
    if len(text) > TEXT_LIMIT:
        raise BadAnswer(f"The reply is longer than {TEXT_LIMIT} characters.")
    reply = _json(text)
    if reply is None:
        reply = _json(_without_thoughts(text))
    if not isinstance(reply, dict):
        raise BadAnswer("The reply is not one JSON object.")
    return reply


def _without_thoughts(text: str) -> str:
    """What a reasoning model said in the end, out of its code fence. Two fences are no answer: which one is meant?"""
    said = _THOUGHTS_END.split(text)[-1]
    fenced = _FENCED.findall(said)
    return fenced[0] if len(fenced) == 1 else said


def _json(text: str) -> Any:
    """The JSON value, or None when the text is none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _field(reply: Mapping[str, Any], name: str, kind: type, word: str) -> Any:
    if not isinstance(reply.get(name), kind):
        raise BadAnswer(f'"{name}" is missing or not {word}.')
    return reply[name]


def _recipe(reply: Mapping[str, Any], slugs: set[str]) -> str | None:
    name: str = _field(reply, "recipe", str, "text")
    if name in slugs:
        return name
    if name == NONE:
        return None
    raise BadAnswer(f'"{clean(name, 80)}" is not one of the recipes of the list, nor "{NONE}".')


def _confidence(reply: Mapping[str, Any]) -> float:
    value = reply.get("confidence")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswer('"confidence" is missing or not a number.')
    if not 0 <= value <= 1:
        raise BadAnswer('"confidence" is not between 0 and 1.')
    return float(value)


def _citations(reply: Mapping[str, Any], evidence: Mapping[str, Any]) -> tuple[Citation, ...]:
    items = _field(reply, "citations", list, "a list")
    if len(items) > CITATION_LIMIT:
        raise BadAnswer(f"More than {CITATION_LIMIT} citations.")
    # The same place named twice is one citation.
    return tuple({cited.pointer: cited for cited in (_citation(item, evidence) for item in items)}.values())


def _citation(item: Any, evidence: Mapping[str, Any]) -> Citation:
    if not isinstance(item, dict) or not isinstance(item.get("pointer"), str) or "value" not in item:
        raise BadAnswer('Each citation needs "pointer" (text) and "value".')
    pointer = item["pointer"]
    shown = clean(pointer, 120)
    try:
        value = resolve(evidence, pointer)
    except NoSuchPlace as error:
        raise BadAnswer(f'The evidence has nothing at the pointer "{shown}".') from error
    if isinstance(value, Mapping | list):
        raise BadAnswer(f'The pointer "{shown}" names a whole {json_kind(value)}; cite a single value.')
    if not _same(item["value"], value):
        raise BadAnswer(f'The evidence does not hold the cited value at "{shown}".')
    return Citation(pointer, value)


def _same(cited: Any, actual: Any) -> bool:
    if isinstance(cited, dict | list):
        return False
    if json_kind(cited) == json_kind(actual):
        return bool(cited == actual)
    # Models often quote a number or a truth value as text.
    return isinstance(cited, str) and cited in (str(actual), json.dumps(actual))


def json_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number" if math.isfinite(value) else "text"
    if isinstance(value, str):
        return "text"
    return "object" if isinstance(value, Mapping) else "array"


def recheck(citations: Sequence[Citation], evidence: Mapping[str, Any]) -> tuple[Citation, ...] | None:
    """The citations of an earlier verdict that the new evidence bears out, with its values; None if none does."""
    if not citations:
        return ()
    shown = mask(evidence)
    kept = tuple(cited for old in citations if (cited := _still(old, shown)))
    return kept or None


def _still(old: Citation, evidence: Mapping[str, Any]) -> Citation | None:
    try:
        value = resolve(evidence, old.pointer)
    except NoSuchPlace:
        return None
    return Citation(old.pointer, value) if _alike(mask(old.value), value) else None


def _alike(old: Any, new: Any) -> bool:
    kind = json_kind(old)
    if kind != json_kind(new):
        return False
    if kind == "number":
        return True
    return blur(old) == blur(new) if kind == "text" else bool(old == new)
