"""JSON pointers (RFC 6901) into evidence, strict: no "-", no leading zeros, no walking into text."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_STRAY_TILDE = re.compile(r"~(?![01])")


class NoSuchPlace(LookupError):
    """The pointer names nothing in this document."""


def escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def problem(pointer: str) -> str | None:
    if pointer and not pointer.startswith("/"):
        return "a JSON pointer starts with /"
    if _STRAY_TILDE.search(pointer):
        return "in a JSON pointer ~ is written ~0 and / is written ~1"
    return None


def resolve(document: Any, pointer: str) -> Any:
    if problem(pointer):
        raise NoSuchPlace(pointer)
    place = document
    for part in pointer.split("/")[1:]:
        place = _step(place, part.replace("~1", "/").replace("~0", "~"), pointer)
    return place


def _step(place: Any, part: str, pointer: str) -> Any:
    if isinstance(place, Mapping) and part in place:
        return place[part]
    if isinstance(place, list) and _INDEX.fullmatch(part) and int(part) < len(place):
        return place[int(part)]
    raise NoSuchPlace(pointer)


def scalars(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every text, number, bool and null in the document with its pointer, in document order."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from scalars(inner, f"{pointer}/{escape(str(key))}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from scalars(inner, f"{pointer}/{index}")
    else:
        yield pointer, value
