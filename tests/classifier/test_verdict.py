import json
from typing import Any

import pytest

from openremedy.classifier.shapes import Citation
from openremedy.classifier.verdict import BadAnswer, parse_answer, recheck, response_schema

EVIDENCE = {"mount": "/", "percent": 93, "ratio": 0.5, "active": False, "owner": None, "files": ["/a"], "a/b": {"~": 1}}
SLUGS = ["disk-full", "cpu-high"]
GOOD: dict[str, Any] = {
    "recipe": "disk-full",
    "confidence": 0.8,
    "citations": [{"pointer": "/mount", "value": "/"}],
    "summary": "It is full.",
}


def parse(**changes: Any) -> Any:
    return parse_answer(json.dumps({**GOOD, **changes}), SLUGS, EVIDENCE)


def cite(pointer: Any, value: Any) -> Any:
    return parse(citations=[{"pointer": pointer, "value": value}])


def test_the_schema_admits_only_the_shortlist_and_none() -> None:
    schema = response_schema(["b", "a", "b"])
    assert schema["properties"]["recipe"]["enum"] == ["b", "a", "none"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["recipe", "confidence", "citations", "summary"]
    assert schema["properties"]["citations"]["items"]["required"] == ["pointer", "value"]


def test_a_good_answer_is_read() -> None:
    answer = parse()
    assert (answer.recipe, answer.confidence, answer.summary) == ("disk-full", 0.8, "It is full.")
    assert answer.citations == (Citation("/mount", "/"),)


def test_none_is_an_answer() -> None:
    assert parse(recipe="none", citations=[]).recipe is None


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n```JSON\n{}```\n"])
def test_a_fence_is_tolerated(fence: str) -> None:
    assert parse_answer(fence.replace("{}", json.dumps(GOOD)), SLUGS, EVIDENCE).recipe == "disk-full"


@pytest.mark.parametrize(
    "reply",
    [
        "<think>It may be\ncpu-high.</think>\n{}",
        "no beginning, as the template wrote it</think>{}",
        "<think>{}</think> so it is\n```json\n{}\n```\nas said",
        "<|channel|>analysis<|message|>We compare.<|end|><|start|>assistant<|channel|>final<|message|>{}",
        "Here it is:\n```\n{}\n```",
    ],
)
def test_the_thoughts_before_an_answer_and_the_words_around_its_fence_are_left_out(reply: str) -> None:
    assert parse_answer(reply.replace("{}", json.dumps(GOOD)), SLUGS, EVIDENCE).recipe == "disk-full"


def test_the_end_of_thoughts_inside_an_answer_is_a_part_of_its_text() -> None:
    assert parse(summary="</think>{}").summary == "</think>{}"


@pytest.mark.parametrize("reply", ["```json\n{}\n```\nor\n```json\n{}\n```", "{} {}", "<think>{}</think>", "<think>{}"])
def test_where_it_is_not_clear_which_answer_is_meant_there_is_none(reply: str) -> None:
    with pytest.raises(BadAnswer, match="not one JSON object"):
        parse_answer(reply.replace("{}", json.dumps(GOOD)), SLUGS, EVIDENCE)


@pytest.mark.parametrize(
    ("pointer", "value", "kept"),
    [
        ("/percent", 93, 93),
        ("/percent", 93.0, 93),
        ("/percent", "93", 93),
        ("/ratio", "0.5", 0.5),
        ("/active", False, False),
        ("/active", "false", False),
        ("/owner", None, None),
        ("/owner", "null", None),
        ("/files/0", "/a", "/a"),
        ("/a~1b/~0", 1, 1),
    ],
)
def test_a_citation_that_holds_is_kept_with_the_evidence_own_value(pointer: str, value: Any, kept: Any) -> None:
    (citation,) = cite(pointer, value).citations
    assert citation == Citation(pointer, kept)
    assert type(citation.value) is type(kept)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/nowhere", 1),
        ("mount", "/"),
        ("", EVIDENCE),
        ("/files", ["/a"]),
        ("/files/1", "/a"),
        ("/files/-", "/a"),
        ("/files/00", "/a"),
        ("/mount/0", "/"),
        ("/a~2b", 1),
        ("/percent", 92),
        ("/percent", True),
        ("/percent", "93%"),
        ("/mount", "/ "),
        ("/mount", ["/"]),
        ("/active", 0),
        ("/active", None),
        ("/owner", ""),
        ("/owner", False),
        (7, 1),
    ],
)
def test_a_citation_that_does_not_hold_is_refused(pointer: Any, value: Any) -> None:
    with pytest.raises(BadAnswer):
        cite(pointer, value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Sure, it is disk-full.", "not one JSON object"),
        ("", "not one JSON object"),
        ('{"recipe": "disk-f', "not one JSON object"),
        ("[]", "not one JSON object"),
        ("[" * 60000, "not one JSON object"),
        (json.dumps(GOOD) + json.dumps(GOOD), "not one JSON object"),
        ('{"recipe": "none", "confidence": NaN, "citations": [], "summary": ""}', "not one JSON object"),
        ('{"recipe": "none", "confidence": 1e999, "citations": [], "summary": ""}', "not between 0 and 1"),
        ('{"recipe": "none", "confidence": ' + "9" * 5000 + ', "citations": [], "summary": ""}', "not one JSON object"),
        (" " * 70000, "longer than 65536"),
        ("{}", '"recipe" is missing'),
    ],
)
def test_what_is_not_an_answer_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadAnswer, match=problem) as caught:
        parse_answer(text, SLUGS, EVIDENCE)
    assert caught.value.text == text[:65536]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"recipe": "wipe-disk"}, "wipe-disk.* not one of the recipes"),
        ({"recipe": "DISK-FULL"}, "not one of the recipes"),
        ({"recipe": None}, '"recipe" is missing or not text'),
        ({"recipe": ["disk-full"]}, '"recipe" is missing or not text'),
        ({"confidence": -0.01}, "not between 0 and 1"),
        ({"confidence": 1.01}, "not between 0 and 1"),
        ({"confidence": "0.9"}, "not a number"),
        ({"confidence": True}, "not a number"),
        ({"confidence": None}, "not a number"),
        ({"citations": None}, '"citations" is missing or not a list'),
        ({"citations": ["/mount"]}, "Each citation needs"),
        ({"citations": [{"pointer": "/mount"}]}, "Each citation needs"),
        ({"citations": [{"pointer": "/mount", "value": "/"}] * 21}, "More than 20 citations"),
        ({"summary": None}, '"summary" is missing or not text'),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadAnswer, match=problem):
        parse(**changes)


def test_the_summary_is_one_printable_line_of_at_most_500_characters() -> None:
    assert parse(summary="a\x1b[31mb\x00c\n\td\u202ee\u2028f").summary == "ab c d e f"
    assert len(parse(summary="x" * 9999).summary) == 500
    assert parse(summary="<script>alert(1)</script>").summary == "<script>alert(1)</script>"


def test_the_same_place_cited_twice_is_one_citation() -> None:
    assert len(parse(citations=[{"pointer": "/mount", "value": "/"}] * 2).citations) == 1


# ---- reuse


def test_reuse_keeps_what_still_holds_with_the_new_values() -> None:
    old = (
        Citation("/percent", 93),
        Citation("/title", "web-01 at 10.0.0.1 is 93% full"),
        Citation("/active", False),
        Citation("/owner", None),
    )
    new = {"percent": 99.5, "title": "web-07 at 10.9.0.3 is 97% full", "active": False, "owner": None}
    assert recheck(old, new) == (
        Citation("/percent", 99.5),
        Citation("/title", "web-07 at 10.9.0.3 is 97% full"),
        Citation("/active", False),
        Citation("/owner", None),
    )


@pytest.mark.parametrize(
    ("value", "evidence"),
    [
        (93, {}),
        (93, {"x": "93"}),
        (93, {"x": True}),
        (True, {"x": 1}),
        (True, {"x": False}),
        (None, {"x": 0}),
        ("nginx failed", {"x": "mysql failed"}),
        ("text", {"x": ["text"]}),
        ([1], {"x": [2]}),
    ],
)
def test_reuse_drops_what_no_longer_holds(value: Any, evidence: dict[str, Any]) -> None:
    kept = Citation("/kept", 1)
    assert recheck((Citation("/x", value), kept), {**evidence, "kept": 1}) == (kept,)
    assert recheck((Citation("/x", value),), evidence) is None


def test_a_verdict_without_citations_can_be_reused() -> None:
    assert recheck((), {"a": 1}) == ()


def test_reuse_compares_and_keeps_masked_values() -> None:
    old = (Citation("/password", "[masked:password]"),)
    assert recheck(old, {"password": "hunter2"}) == old
