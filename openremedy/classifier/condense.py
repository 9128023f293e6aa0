"""Evidence without what says nothing new: repeated texts and lines, encoded blobs, markup, what templates add.

Every key and index stays where it was, so a JSON pointer into the result is one into the evidence. Labels, numbers and
names are short and stay as they are. Patterns match in one pass: evidence may be hostile.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .foreign import without_entities
from .pointers import escape, scalars

LONG = 40  # shorter texts cost less than saying that they were left out
REPEATS = 5  # lines of one shape, from which on only the first and the last are kept

# What the templates of monitoring tools put around a message, and what it repeats of the labels.
_BOILERPLATE = re.compile(
    r"(?m)^%%%$|!\[[^\[\]]{0,200}+\]\([^()\s]{0,2000}+\)|\[(?P<link>[^\[\]]{1,200}+)\]\([^()\s]{60,2000}+\)|"
    r"(?i:\bdata:[a-z]{1,20}/[a-z0-9.+-]{1,40};base64,)"
)
_LABELS = re.compile(r"\bLABELS ?[:=] ?map\[([^\[\]]{0,4000}+)\]")
_BLOB = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{80,}+={0,2}")
_IS_HTML = re.compile(
    r"(?i)</(?:html|head|body|div|p|table|tr|td|th|ul|ol|li|span|a|b|strong|em|pre|code|h[1-6])\s{0,9}>"
)
_UNSEEN = re.compile(r"(?is)<(script|style)\b[^<>]{0,500}+>(?:[^<]++|<(?!/\1))*+(?:</\1\s{0,9}>?|\Z)")
_TAG = re.compile(r"<[a-zA-Z/!][^<>]{0,4000}+>")
_SPACES = re.compile(r"[ \t\r\f\v]{2,}+")
_EMPTY_LINES = re.compile(r"\n\s++")
# Times, numbers, addresses and ids are what differs between two lines that say the same.
_VARIES = re.compile(r"(?<![a-fA-F])[a-fA-F]*+[0-9][0-9a-fA-F:.,Z-]*")


def condense(value: Any) -> Any:
    """The same JSON value, shorter. Never changes its argument."""
    return _Condenser(value).condensed(value, "")


class _Condenser:
    """Knows what the whole evidence says and which long texts were told already."""

    def __init__(self, evidence: Any) -> None:
        self._said = {text for _, text in scalars(evidence) if isinstance(text, str) and len(text) < LONG}
        self._told: dict[str, str] = {}

    def condensed(self, value: Any, pointer: str) -> Any:
        if isinstance(value, Mapping):
            return {key: self.condensed(inner, f"{pointer}/{escape(str(key))}") for key, inner in value.items()}
        if isinstance(value, list):
            return [self.condensed(item, f"{pointer}/{index}") for index, item in enumerate(_items(value))]
        return self._text(value, pointer) if isinstance(value, str) else value

    def _text(self, text: str, pointer: str) -> str:
        if len(text) < LONG:
            return text
        plain = _BOILERPLATE.sub(_link, _without_markup(text))
        plain = _lines(_BLOB.sub(_blob, _LABELS.sub(self._labels, plain)))
        first = self._told.setdefault(plain, pointer)
        marker = f"[same as {first}]"
        return marker if first != pointer and len(marker) < len(plain) else plain

    def _labels(self, found: re.Match[str]) -> str:
        """Nothing, where each of the labels stands elsewhere too."""
        values = {pair.partition(":")[2] for pair in found[1].split()}
        return "" if values <= self._said else found[0]


def _link(found: re.Match[str]) -> str:
    return found["link"] or " "


def _without_markup(text: str) -> str:
    if not _IS_HTML.search(text):
        return text
    words = without_entities(_TAG.sub(" ", _UNSEEN.sub(" ", text)))
    return _EMPTY_LINES.sub("\n", _SPACES.sub(" ", words)).strip()


def _blob(found: re.Match[str]) -> str:
    blob = found[0]
    # A path has many slashes, a word of one case is a word; what was encoded has everything.
    if blob.count("/") * 20 > len(blob) or not all(any(map(test, blob)) for test in (str.isupper, str.isdigit)):
        return blob
    return f"[{len(blob)} encoded characters]"


def _lines(text: str) -> str:
    lines = text.split("\n")
    if len(lines) < REPEATS:
        return text
    return "\n".join(_told(lines, _kept(lines)))


def _told(lines: Sequence[str], kept: Sequence[bool]) -> Iterator[str]:
    """The lines that are kept, and where others stood how many."""
    left_out = 0
    for line, keep in zip(lines, kept, strict=True):
        if keep and left_out:
            yield f"[{left_out} lines like these]"
            left_out = 0
        if keep:
            yield line
        else:
            left_out += 1


def _items(items: Sequence[Any]) -> list[Any]:
    """A list of log lines; an item that is left out keeps its place."""
    if len(items) < REPEATS or not all(isinstance(item, str) for item in items):
        return list(items)
    return [item if keep else "[like these]" for item, keep in zip(items, _kept(items), strict=True)]


def _kept(lines: Sequence[str]) -> list[bool]:
    """The first and the last of the lines of one shape; all of a shape that is rare, and short lines."""
    shapes = [_VARIES.sub("#", line) if len(line) >= LONG else "" for line in lines]
    times = Counter(shapes)
    firsts = {shape: number for number, shape in reversed(list(enumerate(shapes)))}
    lasts = {shape: number for number, shape in enumerate(shapes)}
    return [
        not shape or times[shape] < REPEATS or number in (firsts[shape], lasts[shape])
        for number, shape in enumerate(shapes)
    ]
