from typing import Any

import pytest

from openremedy.classifier.masking import mask
from openremedy.classifier.restoring import Restorer

EVIDENCE: dict[str, Any] = {
    "log": ["login failed with password=one", "it is down"],
    "url": "postgres://app:two@db/x",
    "n": {"api_key": 7},
}


def test_a_text_shows_what_stood_behind_the_mask() -> None:
    said = "The login with [masked:password] failed; [masked:credential] and [masked:api_key] may be old."
    assert Restorer(EVIDENCE).text(said) == "The login with one failed; app:two and 7 may be old."


def test_of_two_secrets_of_a_kind_none_is_guessed() -> None:
    evidence = {**EVIDENCE, "other": "password=three"}
    assert Restorer(evidence).text("[masked:password] of [masked:credential]") == "[masked:password] of app:two"


@pytest.mark.parametrize("text", ["[masked:unknown]", "[masked:]", "[masked:jwt] [masked", "nothing"])
def test_what_is_not_known_stays(text: str) -> None:
    assert Restorer(EVIDENCE).text(text) == text


def test_a_very_long_secret_stays_masked_in_a_sentence() -> None:
    assert Restorer({"password": "x" * 201}).text("[masked:password]") == "[masked:password]"


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("/log/0", EVIDENCE["log"][0]), ("/url", EVIDENCE["url"]), ("/n/api_key", 7), ("/log/1", "it is down")],
)
def test_a_citation_shows_the_evidence_s_own_value(pointer: str, value: Any) -> None:
    place: Any = mask(EVIDENCE)
    for step in pointer.split("/")[1:]:
        place = place[int(step) if isinstance(place, list) else step]
    assert Restorer(EVIDENCE).citation({"pointer": pointer, "value": place}) == {"pointer": pointer, "value": value}


@pytest.mark.parametrize(
    "cited",
    [
        {"pointer": "/log/0", "value": "another text with [masked:password]"},
        {"pointer": "/gone", "value": "[masked:password]"},
        {"pointer": "/log/1", "value": "[masked:password]"},
        {"pointer": "/n", "value": "[masked:api_key]"},
    ],
)
def test_a_citation_of_what_is_not_there_any_more_stays_masked(cited: dict[str, Any]) -> None:
    assert Restorer(EVIDENCE).citation(cited) == cited
