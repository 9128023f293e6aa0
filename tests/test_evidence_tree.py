"""Evidence as a tree to read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from openremedy.evidence_tree import MAX_CHARACTERS, MAX_NODES, MAX_TEXT, Node, tree

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
)


def nodes(root: Node) -> list[Node]:
    return [root, *[one for child in root.children for one in nodes(child)]]


def by_pointer(evidence: Any, *cited: str) -> dict[str, Node]:
    return {one.pointer: one for one in nodes(tree(evidence, cited))}


def test_every_place_has_its_pointer_and_its_value_as_json_writes_it() -> None:
    found = by_pointer({"mount": "/var", "a/b~c": [1.5, True, None, {}], "empty": []})
    assert {pointer: one.text for pointer, one in found.items()} == {
        "": None,
        "/mount": "/var",
        "/a~1b~0c": None,
        "/a~1b~0c/0": "1.5",
        "/a~1b~0c/1": "true",
        "/a~1b~0c/2": "null",
        "/a~1b~0c/3": "{}",
        "/empty": "[]",
    }


def test_what_a_verdict_cites_is_marked_and_nothing_else() -> None:
    found = by_pointer({"a": {"b": 1, "c": 2}, "d": 3}, "/a/b", "/d")
    assert [pointer for pointer, one in found.items() if one.cited] == ["/a/b", "/d"]


def test_a_long_text_is_cut_and_says_how_long_it_is() -> None:
    (child,) = tree({"log": "x" * (MAX_TEXT + 1)}).children
    assert child.text == "x" * MAX_TEXT
    assert f"{MAX_TEXT + 1:,} characters" in child.left_out


def test_never_more_is_shown_than_a_page_holds_and_it_says_how_much_is_missing() -> None:
    root = tree({f"k{number}": "v" for number in range(MAX_NODES * 2)})
    assert len(root.children) < MAX_NODES
    assert root.left_out == f"and {MAX_NODES * 2 - len(root.children)} more"
    wide = tree({f"k{number}": "v" * 1000 for number in range(400)})
    assert sum(len(one.text or "") for one in nodes(wide)) <= MAX_CHARACTERS + 1000


def test_what_is_cited_is_shown_however_much_stands_before_it() -> None:
    evidence = {f"k{number}": "v" for number in range(MAX_NODES * 2)} | {"deep": {"cause": "here"}}
    found = by_pointer(evidence, "/deep/cause")
    assert found["/deep/cause"].text == "here"


@given(JSON)
def test_any_evidence_becomes_a_tree(evidence: Any) -> None:
    assert nodes(tree(evidence))
