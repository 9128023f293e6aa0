"""Evidence as a tree to read: what a verdict cites is marked, and never more is shown than a page holds."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from openremedy.classifier.pointers import escape

MAX_NODES = 600
MAX_TEXT = 1500  # characters of one value
MAX_CHARACTERS = 40_000  # of all values


@dataclass
class Node:
    """One place. `text` is its value, None for an object or a list; `left_out` says how much of it is not shown."""

    key: str
    pointer: str
    text: str | None = None
    kind: str = ""
    cited: bool = False
    opened: bool = True
    left_out: str = ""
    children: list["Node"] = field(default_factory=list)


class Budget:
    """What may still be shown."""

    def __init__(self) -> None:
        self.nodes = MAX_NODES
        self.characters = MAX_CHARACTERS


def tree(evidence: Any, cited: Collection[str] = ()) -> Node:
    """The root of the tree. `cited`: JSON pointers; the places they name and all inside are marked."""
    return _node("", "", evidence, frozenset(cited), Budget())


def _node(key: str, pointer: str, value: Any, cited: frozenset[str], budget: Budget) -> Node:
    budget.nodes -= 1
    node = Node(key, pointer, cited=pointer in cited)
    if isinstance(value, dict | list) and value:
        node.kind = f"{len(value)} {'entries' if len(value) != 1 else 'entry'}"
        node.opened = len(value) <= 30 or any(one.startswith(pointer + "/") for one in cited)
        node.children = list(_children(node, value, cited, budget))
    else:
        node.text, node.left_out = _text(value, budget)
        node.kind = {str: "text", bool: "yes or no", type(None): "nothing"}.get(type(value), "number")
    return node


def _children(node: Node, value: Any, cited: frozenset[str], budget: Budget) -> Iterator[Node]:
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    # What is cited is shown in any case: it is why the verdict says what it says.
    for position, (key, child) in enumerate(pairs):
        pointer = f"{node.pointer}/{escape(str(key))}"
        wanted = any(one == pointer or one.startswith(pointer + "/") for one in cited)
        if not wanted and (budget.nodes <= 0 or budget.characters <= 0):
            node.left_out = f"and {len(pairs) - position} more"
            if not any(one.startswith(node.pointer + "/") for one in cited):
                return
            continue
        yield _node(str(key), pointer, child, cited, budget)


def _text(value: Any, budget: Budget) -> tuple[str, str]:
    if isinstance(value, str):
        shown = value[:MAX_TEXT]
        budget.characters -= len(shown)
        return shown, f"… {len(value):,} characters in all" if len(value) > len(shown) else ""
    empty = "[]" if isinstance(value, list) else "{}"
    text = empty if isinstance(value, dict | list) else _WORDS.get(str(value), str(value))
    budget.characters -= len(text)
    return text, ""


_WORDS = {"True": "true", "False": "false", "None": "null"}
