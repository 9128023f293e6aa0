from typing import Any

import pytest

from openremedy.classifier.rules import check_match, match
from openremedy.classifier.shapes import Citation
from tests.classifier.examples import recipe, subject

EVIDENCE: dict[str, Any] = {
    "mount": "/var/LOG/app",
    "percent": 93,
    "as_text": " 92.5 ",
    "active": False,
    "owner": None,
    "files": ["/a.log", "/b.dat"],
    "nested": {"a/b": [{"port": 443}]},
    "hostname": "in-evidence",
    "zero": 0,
}


def fits(condition: dict[str, Any], **changes: Any) -> bool:
    return match(subject(EVIDENCE, **changes), [recipe(match=condition)]) is not None


@pytest.mark.parametrize(
    "condition",
    [
        {"mount": "/VAR/log/app"},
        {"percent": 93},
        {"percent": 93.0},
        {"percent": "93"},
        {"active": False},
        {"owner": None},
        {"mount": ["/x", "/var/log/app"]},
        {"percent": {"gte": 93, "lt": 94}},
        {"as_text": {"gt": 92, "lte": 92.5}},
        {"mount": {"contains": "LOG"}},
        {"files": {"contains": ".LOG"}},
        {"percent": {"contains": "9"}},
        {"mount": {"glob": "/var/*/app"}},
        {"files": {"glob": "*.log"}},
        {"mount": {"present": True}},
        {"missing": {"present": False}},
        {"/nested/a~1b/0/port": 443},
        {"hostname": {"glob": "web-*"}},
        {"/hostname": "in-evidence"},
        {"severity": ["critical", "HIGH"]},
        {"owner": {"present": True}},
    ],
)
def test_a_condition_holds(condition: dict[str, Any]) -> None:
    assert fits(condition)


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"percent": 92},
        {"percent": True},
        {"zero": False},
        {"active": 0},
        {"active": "false"},
        {"owner": ""},
        {"missing": None},
        {"missing": {"gte": 0}},
        {"missing": {"present": True}},
        {"mount": {"present": False}},
        {"percent": {"gte": 93, "lt": 93}},
        {"active": {"lte": 1}},
        {"mount": {"gte": 1}},
        {"as_text": {"gte": 93}},
        {"mount": {"contains": "none"}},
        {"nested": {"contains": "port"}},
        {"mount": {"glob": "/var"}},
        {"mount": {"unheard_of": 1}},
        {"mount": {}},
        {"hostname": "in-evidence"},
        {"/nested/a~1b/1/port": 443},
        {"/files/-": "/b.dat"},
        {"/files/00": "/a.log"},
        {"percent": 93, "mount": "/"},
    ],
)
def test_a_condition_does_not_hold(condition: dict[str, Any]) -> None:
    assert not fits(condition)


def test_it_answers_with_the_evidence_that_was_read_and_a_sentence() -> None:
    conditions: dict[str, Any] = {"percent": {"gte": 90}, "/files/0": {"glob": "*.log"}}
    conditions |= {"hostname": "web-01", "gone": {"present": False}}
    answer = match(subject(EVIDENCE), [recipe(match=conditions), recipe("other", match={"percent": 1})])
    assert answer
    assert (answer.recipe, answer.tier, answer.confidence) == ("disk-full", "rule", 1.0)
    assert answer.citations == (Citation("/percent", 93), Citation("/files/0", "/a.log"))
    assert answer.summary == (
        "The recipe's own conditions hold: percent is 93 (at least 90); /files/0 is /a.log (like *.log); "
        "hostname is web-01; gone is absent."
    )


def test_two_fitting_recipes_are_no_answer() -> None:
    two = [recipe("a", match={"percent": 93}), recipe("b", match={"percent": {"gt": 1}})]
    assert match(subject(EVIDENCE), two) is None
    assert match(subject(EVIDENCE), two[:1]) is not None


def test_applies_to_is_strict() -> None:
    only_disk = recipe(applies_to=("disk_full",), match={"percent": 93})
    assert match(subject(EVIDENCE), [only_disk])
    assert match(subject(EVIDENCE, incident_type="custom"), [only_disk]) is None


def test_a_secret_is_cited_masked() -> None:
    answer = match(subject({"password": "hunter2"}), [recipe(match={"password": {"present": True}})])
    assert answer
    assert "hunter2" not in repr(answer)
    assert answer.citations == (Citation("/password", "[masked:password]"),)


def test_a_well_formed_match_has_no_problems() -> None:
    good = {"a": 1, "b": ["x", 2, None], "/c/0": {"gte": 1, "present": True}, "hostname": {"glob": "web-*"}}
    assert check_match(good) == []
    assert check_match({}) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["a"], "match must be a mapping"),
        ({3: 1}, "the key 3 must be text"),
        ({"": 1}, "the key '' must be text"),
        ({"/a~2": 1}, "match: /a~2: in a JSON pointer ~ is written ~0"),
        ({"a": {}}, "match: a: the condition is empty"),
        ({"a": []}, "match: a: a list must hold one or more plain values"),
        ({"a": [[1]]}, "match: a: a list must hold"),
        ({"a": {"min": 1}}, "match: a: unknown operator 'min'; known are gte, gt, lte, lt, contains, glob, present."),
        ({"a": {"gte": "many"}}, "match: a: gte needs a number."),
        ({"a": {"lt": True}}, "match: a: lt needs a number."),
        ({"a": {"glob": ""}}, "match: a: glob needs a text."),
        ({"a": {"contains": ["x"]}}, "match: a: contains needs a text."),
        ({"a": {"present": "yes"}}, "match: a: present must be true or false."),
        ({"a": float("nan")}, "match: a: float is not a condition."),
    ],
)
def test_a_wrong_match_is_told_by_its_key(bad: Any, said: str) -> None:
    assert said in "\n".join(check_match(bad))
