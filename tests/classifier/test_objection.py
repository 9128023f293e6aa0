import pytest

from openremedy.classifier.objection import objection
from openremedy.classifier.shapes import Candidate


def ranked(**confidences: float) -> list[Candidate]:
    return [Candidate(slug, confidence) for slug, confidence in confidences.items()]


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        (ranked(a=0.9, b=0.2), "a"),
        (ranked(a=0.2, b=0.1), "a"),
        (ranked(a=0.29, b=0.2), "b"),
        (ranked(a=0.2, b=0.02), "b"),
    ],
    ids=["agreed", "agreed, not sure", "not sure of another", "some support"],
)
def test_where_the_words_are_silent_or_agree_the_model_decides(candidates: list[Candidate], chosen: str) -> None:
    assert objection(chosen, candidates) is None


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (ranked(a=0.9, b=0.8), "the model chose b, the words say a (0.90)"),
        (ranked(a=0.3, b=0.3), "the model chose b, the words say a (0.30)"),
        (ranked(a=0.2, b=0.001), "the model chose b, for which the words hardly speak"),
        (ranked(a=0.0, b=0.0), "the model chose b, which shares no words with the incident"),
        (ranked(a=0.1), "the model chose b, which shares no words with the incident"),
        ([], "the model chose b, which shares no words with the incident"),
    ],
)
def test_where_the_words_contradict_a_person_has_to_look(candidates: list[Candidate], reason: str) -> None:
    assert objection("b", candidates) == reason
