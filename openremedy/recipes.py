"""Recipes as YAML: a file becomes checked recipes, or the list of everything wrong with it, line by line."""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from openremedy.alerts import IncidentType
from openremedy.classifier.rules import check_match

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_TITLE = 200
MAX_SLUG = 100
MAX_WHEN = 4000
MAX_STEPS = 20_000
MAX_TAGS = 20
MAX_TAG = 40
NO_RECIPE = "none"
RISKS = ("low", "medium", "high")
FIELDS = ("slug", "title", "when", "applies_to", "match", "risk", "tags", "enabled", "steps")
REQUIRED = ("slug", "title", "when", "risk", "steps")

_TYPES = tuple(kind.value for kind in IncidentType)
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.+/-]*")
# Control characters, the Unicode line breaks that YAML 1.1 and editors count differently, surrogates,
# byte order marks and non-characters. Tab and line feed are the only ones with a place in a recipe.
_FORBIDDEN = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# YAML 1.1 tools read these plain words as true and false; in a condition the difference would be silent.
_AMBIGUOUS = frozenset({"yes", "no", "on", "off", "y", "n"})
_MAX_DEPTH = 8  # a valid file needs five
_MAX_DIGITS = 40
_MAX_PROBLEMS = 200
_WIDTH = 96
_NEVER_WRAP = 10**9


@dataclass(frozen=True)
class RecipeSpec:
    """One recipe as a person writes it; `applies_to` empty means every incident type."""

    slug: str
    title: str
    when: str
    applies_to: tuple[str, ...]
    match: Mapping[str, Any]
    risk: str
    steps: str
    tags: tuple[str, ...] = ()
    enabled: bool = True


class RecipeFileError(ValueError):
    """A recipe file that was refused; `problems` holds one sentence for each thing to correct."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse(text: str | bytes) -> list[RecipeSpec]:
    """The recipes of a file, all of them valid; otherwise RecipeFileError with every problem found."""
    problems = _Problems()
    root = _compose(_clean(_decode(text), problems), problems)
    specs = _recipes(root, problems)
    problems.raise_if_any()
    return specs


def dump(recipes: Iterable[RecipeSpec]) -> str:
    """YAML that `parse` reads back as the same recipes: one key order, long texts as block scalars."""
    return "\n".join(map(_entry, recipes)) or "[]\n"


def condition_text(match: Mapping[str, Any]) -> str:
    """The conditions of a recipe as a person writes them under `match`, one to a line; empty for none."""
    if not match:
        return ""
    return str(
        yaml.dump(
            dict(match),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=_NEVER_WRAP,
            default_flow_style=False,
        )
    )


class _Problems:
    """Everything wrong so far. One report is worth more than one error per attempt."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, line: int, message: str, column: int | None = None) -> None:
        where = f"line {line}" if column is None else f"line {line}, column {column}"
        self._found.append((line, f"{where}: {message}"))

    def raise_if_any(self) -> None:
        if self._found:
            self.stop()

    def stop(self) -> NoReturn:
        lines = [message for _, message in sorted(self._found, key=lambda found: found[0])]
        if len(lines) > _MAX_PROBLEMS:
            rest = len(lines) - _MAX_PROBLEMS
            lines = [*lines[:_MAX_PROBLEMS], f"and {rest} more; correct these first"]
        raise RecipeFileError(lines)


# --- from bytes to YAML nodes ---------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """The safe loader with the scalars of YAML 1.2: no dates, no base 60, no `no` that means false."""


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or `_Loader` would read as something other than text."""


_Loader.yaml_implicit_resolvers = {}
_NULL, _BOOL, _INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
for _tag, _pattern, _first in (
    (_NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (_INT, r"[-+]?(?:0|[1-9][0-9]*)\Z", list("-+0123456789")),
    (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _decode(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_BYTES:
        raise RecipeFileError([f"line 1: the file has {size} bytes; the limit is {MAX_FILE_BYTES}"])
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise RecipeFileError([f"line {line}: the file is not UTF-8"]) from error


def _clean(text: str, problems: _Problems) -> str:
    """Name the line of every forbidden character, and take it out so that the rest can still be checked."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not _FORBIDDEN.search(text):
        return text
    for number, line in enumerate(text.split("\n"), start=1):
        if found := _FORBIDDEN.search(line):
            problems.add(number, f"the control character {_code_point(found)} is not allowed")
    return _FORBIDDEN.sub("\ufffd", text)


def _compose(text: str, problems: _Problems) -> Node | None:
    try:
        _check_events(text, problems)
        root: Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        _add_syntax_error(error, problems)
        problems.stop()
    return root


def _check_events(text: str, problems: _Problems) -> None:
    """Refuse aliases, tags and deep nesting before anything is built: they expand or recurse in there."""
    depth, refused = 0, False
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        reason = _event_problem(event, depth)
        if reason is not None:
            refused = True
            problems.add(_line(event), reason)
        if depth > _MAX_DEPTH:
            break
    if refused:
        problems.stop()


def _event_problem(event: yaml.Event, depth: int) -> str | None:
    if depth > _MAX_DEPTH:
        return f"nested deeper than {_MAX_DEPTH} levels"
    if getattr(event, "anchor", None) is not None:
        return "anchors (&name) and aliases (*name) are not allowed; write the value out"
    tag = getattr(event, "tag", None)
    return None if tag is None else f"the tag {_shown(tag)} is not allowed; put text in quotes instead"


def _add_syntax_error(error: yaml.MarkedYAMLError, problems: _Problems) -> None:
    mark = error.problem_mark or error.context_mark
    message = ", ".join(part for part in (error.context, error.problem) if part)
    if error.context_mark and mark and error.context_mark.line < mark.line:
        message += f" (begun in line {error.context_mark.line + 1})"
    problems.add(mark.line + 1 if mark else 1, f"not valid YAML: {message}", mark.column + 1 if mark else None)


# --- from YAML nodes to recipes -------------------------------------------------------------------


def _recipes(root: Node | None, problems: _Problems) -> list[RecipeSpec]:
    if root is None:
        problems.add(1, "the file is empty; an empty catalogue is written []")
        return []
    if not isinstance(root, SequenceNode):
        problems.add(_line(root), "the file must be a list of recipes, each beginning with '- slug: ...'")
        return []
    entries = list(_entries(root, problems))
    _refuse_repeated_slugs(entries, problems)
    return [entry.spec() for entry in entries]


def _entries(root: SequenceNode, problems: _Problems) -> Iterator[_Entry]:
    for number, node in enumerate(root.value, start=1):
        if isinstance(node, MappingNode):
            yield _Entry(node, number, problems)
        else:
            problems.add(_line(node), f"recipe number {number}: must be a mapping of {', '.join(FIELDS)}")


def _refuse_repeated_slugs(entries: list[_Entry], problems: _Problems) -> None:
    first: dict[str, int] = {}
    for entry in entries:
        line = entry.line_of("slug")
        if entry.slug in first:
            problems.add(line, f"recipe '{entry.slug}': the slug is already taken in line {first[entry.slug]}")
        elif entry.slug:
            first[entry.slug] = line


class _Entry:
    """One mapping of the file. Each reader returns a usable value even where it noted a problem, so that
    all fields are looked at; a spec made from such values is never handed out."""

    def __init__(self, node: MappingNode, number: int, problems: _Problems) -> None:
        self._line, self._problems = _line(node), problems
        self._name = _name(node, number)
        self._fields = {key: (line, value) for key, line, value in self._pairs(node)}
        self.slug = self._slug()

    def spec(self) -> RecipeSpec:
        self._check_keys()
        return RecipeSpec(
            slug=self.slug,
            title=self._text("title", MAX_TITLE, one_line=True),
            when=self._text("when", MAX_WHEN),
            applies_to=self._words("applies_to", self._type_problem),
            match=self._match(),
            risk=self._risk(),
            steps=self._text("steps", MAX_STEPS),
            tags=self._tags(),
            enabled=self._enabled(),
        )

    def line_of(self, key: str) -> int:
        return self._fields[key][0] if key in self._fields else self._line

    def _wrong(self, line: int, message: str) -> None:
        self._problems.add(line, f"{self._name}: {message}")

    def _check_keys(self) -> None:
        for key, (line, _) in self._fields.items():
            if key not in FIELDS:
                self._wrong(line, f"unknown key {_shown(key)}{_suggestion(key, FIELDS)}")
        for key in REQUIRED:
            if key not in self._fields:
                self._wrong(self._line, f"{key} is missing")

    def _slug(self) -> str:
        value = self._text("slug", MAX_SLUG, one_line=True)
        if value == NO_RECIPE:
            self._wrong(self.line_of("slug"), f"slug must not be {NO_RECIPE!r}: it is the answer that no recipe fits")
            return ""
        if not value or _SLUG.fullmatch(value):
            return value
        self._wrong(
            self.line_of("slug"),
            f"slug must be lower-case letters and digits joined by single hyphens, not {_shown(value)}",
        )
        return ""

    def _text(self, key: str, limit: int, *, one_line: bool = False) -> str:
        if key not in self._fields:
            return ""
        line, node = self._fields[key]
        value = self._single(node)
        reason = _text_problem(value, limit, one_line)
        if reason is not None:
            self._wrong(line, f"{key} {reason}")
        return value if isinstance(value, str) and reason is None else ""

    def _risk(self) -> str:
        value = self._text("risk", MAX_TITLE)
        if value and value not in RISKS:
            self._wrong(self.line_of("risk"), f"risk must be one of {', '.join(RISKS)}, not {_shown(value)}")
        return value

    def _enabled(self) -> bool:
        if "enabled" not in self._fields:
            return True
        line, node = self._fields["enabled"]
        value = self._single(node)
        if not isinstance(value, bool):
            self._wrong(line, f"enabled must be true or false, not {_shown(value)}")
        return value is True

    def _tags(self) -> tuple[str, ...]:
        tags = self._words("tags", _tag_problem)
        if len(tags) > MAX_TAGS:
            self._wrong(self.line_of("tags"), f"tags has {len(tags)} words; the limit is {MAX_TAGS}")
        return tags

    def _words(self, key: str, problem_of: Callable[[object], str | None]) -> tuple[str, ...]:
        """A list of distinct words; the key with nothing after it is an empty list."""
        found: list[str] = []
        for node in self._items(key):
            value = self._single(node)
            reason = f"lists {_shown(value)} twice" if value in found else problem_of(value)
            if reason is not None:
                self._wrong(_line(node), f"{key} {reason}")
            elif isinstance(value, str):
                found.append(value)
        return tuple(found)

    def _items(self, key: str) -> list[Node]:
        line, node = self._fields.get(key, (0, None))
        if node is None or node.tag == _NULL:
            return []
        if not isinstance(node, SequenceNode):
            self._wrong(line, f"{key} must be a list, for example [{_EXAMPLE[key]}]")
            return []
        return list(node.value)

    def _type_problem(self, value: object) -> str | None:
        if value in _TYPES:
            return None
        return f"may hold {', '.join(_TYPES)}, not {_shown(value)}{_suggestion(value, _TYPES)}"

    def _match(self) -> dict[str, Any]:
        line, node = self._fields.get("match", (0, None))
        if node is None or node.tag == _NULL:
            return {}
        if not isinstance(node, MappingNode):
            self._wrong(line, "match must be a mapping of conditions, for example {port: 22}")
            return {}
        return dict(self._conditions(node))

    def _conditions(self, node: MappingNode) -> Iterator[tuple[str, Any]]:
        for key, line, child in self._pairs(node, "match: "):
            value = self._json(child)
            for problem in check_match({key: value}):
                self._wrong(line, problem.rstrip("."))
            yield key, value

    def _json(self, node: Node) -> Any:
        """A condition as JSON values; the depth was bounded before anything was composed."""
        if isinstance(node, SequenceNode):
            return [self._json(child) for child in node.value]
        if isinstance(node, MappingNode):
            return {key: self._json(child) for key, _, child in self._pairs(node, "match: ")}
        if isinstance(node, ScalarNode) and not node.style and node.value.lower() in _AMBIGUOUS:
            self._wrong(_line(node), f"match: write true or false, or put {_shown(node.value)} in quotes")
        return self._single(node)

    def _single(self, node: Node) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        return {} if isinstance(node, MappingNode) else []

    def _pairs(self, node: MappingNode, where: str = "") -> Iterator[tuple[str, int, Node]]:
        """Key, line and value of each pair with a new text key; the others are noted and left out."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, ScalarNode) or key_node.tag != _STR:
                self._wrong(line, f"{where}a key must be text; put it in quotes")
                continue
            key = str(self._scalar(key_node))
            if key in seen:
                self._wrong(line, f"{where}the key {_shown(key)} is already in line {seen[key]}")
                continue
            seen[key] = line
            yield key, line, value_node

    def _scalar(self, node: ScalarNode) -> str | int | float | bool | None:
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return bool(node.value.lower() == "true")
        if node.tag in (_INT, _FLOAT):
            return self._number(node)
        # Only an escape in a quoted text can still hold one: the raw text has been cleaned.
        if found := _FORBIDDEN.search(node.value):
            self._wrong(_line(node), f"the control character {_code_point(found)} is not allowed")
        return str(node.value)

    def _number(self, node: ScalarNode) -> int | float:
        value = float(node.value)
        if len(node.value) > _MAX_DIGITS or not math.isfinite(value):
            self._wrong(_line(node), f"the number {_shown(node.value)} is too large")
            return 0
        return int(node.value) if node.tag == _INT else value


def _name(node: MappingNode, number: int) -> str:
    """How the problems of this recipe name it: its slug if there is a usable one."""
    for key, value in node.value:
        if key.value == "slug" and isinstance(value, ScalarNode) and _SLUG.fullmatch(value.value):
            return f"recipe '{value.value[:MAX_SLUG]}'"
    return f"recipe number {number}"


_EXAMPLE = {"applies_to": "disk_full, custom", "tags": "disk, linux"}


def _text_problem(value: object, limit: int, one_line: bool) -> str | None:
    if not isinstance(value, str):
        return "must be text; put it in quotes" if isinstance(value, int | float) else "must be text"
    if not value.strip():
        return "must not be empty"
    if len(value) > limit:
        return f"has {len(value)} characters; the limit is {limit}"
    if one_line and ("\n" in value or "\t" in value):
        return "must be one line without tabs"
    return None


def _tag_problem(value: object) -> str | None:
    if isinstance(value, str) and len(value) <= MAX_TAG and _TAG.fullmatch(value):
        return None
    hint = "" if isinstance(value, str) else " (put it in quotes)"
    return f"must be single words of at most {MAX_TAG} characters, not {_shown(value)}{hint}"


def _line(place: Node | yaml.Event) -> int:
    mark = place.start_mark
    return mark.line + 1 if mark else 1


def _shown(value: object) -> str:
    return repr(textwrap.shorten(str(value), 60, placeholder="...")) if isinstance(value, str) else repr(value)[:60]


def _suggestion(value: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(value)[:MAX_SLUG].lower(), list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _code_point(found: re.Match[str]) -> str:
    return f"U+{ord(found.group()):04X}"


# --- from recipes to YAML -------------------------------------------------------------------------


def _entry(recipe: RecipeSpec) -> str:
    lines = [
        _field("slug", recipe.slug),
        _field("title", recipe.title),
        _long("when", recipe.when),
        _field("applies_to", list(recipe.applies_to)),
        _field("match", dict(recipe.match)) if recipe.match else "",
        _field("risk", recipe.risk),
        _field("tags", list(recipe.tags)) if recipe.tags else "",
        "" if recipe.enabled else _field("enabled", False),
        _long("steps", recipe.steps),
    ]
    return "- " + "".join(lines).removeprefix("  ")


def _field(key: str, value: Any) -> str:
    flow = None if isinstance(value, list | dict) else False
    text = yaml.dump(
        {key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_NEVER_WRAP, default_flow_style=flow
    )
    return textwrap.indent(text, "  ")


def _long(key: str, text: str) -> str:
    """A literal block, or a folded one where folding loses nothing; short texts stay on their line."""
    # Blank lines at the end are quoted: a file that is saved or piped loses them.
    if text.endswith("\n\n") or (len(text) <= _WIDTH - len(key) and "\n" not in text):
        return _field(key, text)
    if " ".join(text.split()) == text:
        lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
        return f"  {key}: >-\n" + _indented("\n".join(lines))
    # Written out by hand: PyYAML falls back to one quoted line at the first tab or trailing space.
    indent = "2" if text[0] in " \t\n" else ""
    chomp = "" if text.endswith("\n") else "-"
    return f"  {key}: |{indent}{chomp}\n" + _indented(text)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.removesuffix("\n").split("\n"))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    style = '"' if "\n" in text or "\t" in text or text.lower() in _AMBIGUOUS else None
    return dumper.represent_scalar(_STR, text, style=style)


_Dumper.add_representer(str, _represent_text)
