from pathlib import Path
from typing import Any

import pytest
import yaml

from openremedy.classifier import lexical
from openremedy.classifier.lexical import ANSWER_THRESHOLD, Index, _Spelling, _Vectors, lexical_answer, words_of
from openremedy.classifier.shapes import Candidate, Citation, Example, Recipe, Subject
from openremedy.classifier.words import grams_of
from tests.classifier.examples import CATALOGUE, USUAL_EVIDENCE, recipe, subject

INDEX = Index(CATALOGUE)
STARTER = Path(__file__).parents[2] / "config" / "recipes.yaml"
GENERAL = {
    "disk_full": "disk-full",
    "cpu_high": "cpu-high",
    "memory_high": "memory-high",
    "service_down": "service-down",
    "port_unavailable": "port-unavailable",
}
NONSENSE: list[dict[str, Any]] = [
    {},
    {"foo": "lorem ipsum dolor", "bar": "quux frobnicate"},
    {"title": "Coffee machine is out of beans", "room": "kitchen 3"},
    {"x": 1, "y": "hello world"},
    {"message": "zxcv qwer asdf"},
]


def starter() -> Index:
    rows = yaml.safe_load(STARTER.read_text())
    return Index(
        Recipe(row["slug"], row["title"], row["when"], tuple(row.get("applies_to", ())), {}, row["risk"], row["steps"],
               tuple(row.get("tags", ())))
        for row in rows
    )  # fmt: skip


@pytest.fixture(scope="module", params=["small", "starter"])
def index(request: pytest.FixtureRequest) -> Index:
    return INDEX if request.param == "small" else starter()


def answered(index: Index, incident: Subject) -> str | None:
    return lexical_answer(incident, index.rank(incident)).recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NodeFilesystemSpaceFillingUp", "node filesystem space fill"),
        ("disk_usage-percent/v2", "disk"),
        ("HTTPServerErrors on PostgreSQLReplica", "http server error postgresql replica"),
        ("Queries, disks, status, access, boxes", "queri disk access box"),
        ("5xx ratio of 12 requests", "5xx ratio request"),
        ("C a 42 the", ""),
        ("磁盘 full", "磁盘 full"),
    ],
)
def test_words_are_split_lowered_and_stemmed(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@pytest.mark.parametrize("kind", GENERAL)
@pytest.mark.parametrize("hostname", ["web-01", "db-02.example.com"])
def test_the_usual_evidence_of_a_type_gets_its_general_recipe(index: Index, kind: str, hostname: str) -> None:
    incident = subject(USUAL_EVIDENCE[kind], incident_type=kind, hostname=hostname)
    assert index.rank(incident)[0].recipe == GENERAL[kind]
    assert index is INDEX or answered(index, incident) == GENERAL[kind], "the small one is no real catalogue"


@pytest.mark.parametrize("kind", GENERAL)
def test_a_bare_body_gets_the_general_recipe_of_its_type(index: Index, kind: str) -> None:
    assert answered(index, subject({}, incident_type=kind)) == GENERAL[kind]


@pytest.mark.parametrize(
    "error",
    [
        "Connection refused",
        "connection refused (111) on port 5432",
        "upstream connect error: connection refused",
        "bind: address already in use",
    ],
)
@pytest.mark.parametrize("service", ["checkout", "billing", "mailer"])
def test_what_any_program_may_say_is_no_sign_of_one_of_them(service: str, error: str) -> None:
    evidence = {"service_name": service, "service_active": False, "error": error}
    assert answered(starter(), subject(evidence, incident_type="service_down")) in (None, "service-down")


@pytest.mark.parametrize("evidence", NONSENSE)
def test_nonsense_gets_none(index: Index, evidence: dict[str, Any]) -> None:
    incident = subject(evidence, incident_type="custom")
    answer = lexical_answer(incident, index.rank(incident))
    assert (answer.recipe, answer.tier, answer.citations) == (None, "lexical", ())
    assert answer.confidence < ANSWER_THRESHOLD
    assert answer.summary == "No recipe shares enough words with this incident."


@pytest.mark.parametrize(
    ("kind", "evidence", "slug"),
    [
        ("service_down", {"service_name": "postgresql"}, "postgresql-down"),
        ("disk_full", {"mount": "/var/lib/docker"}, "docker-disk-full"),
        ("custom", {"alertname": "CertificateExpiresSoon", "domain": "shop.example.com"}, "certificate-expiring"),
    ],
)
def test_what_the_evidence_names_beats_the_general_recipe(
    index: Index, kind: str, evidence: dict[str, Any], slug: str
) -> None:
    assert answered(index, subject(evidence, incident_type=kind)) == slug


def test_only_recipes_that_admit_the_type_are_ranked(index: Index) -> None:
    ranked = index.rank(subject({"title": "cpu high load, disk full"}, incident_type="memory_high"))
    assert ranked
    assert all(index.recipes[match.recipe].admits("memory_high") for match in ranked)


def test_the_best_comes_first_and_the_list_is_short(index: Index) -> None:
    ranked = index.rank(subject(), limit=3)
    assert len(ranked) == 3
    assert [match.confidence for match in ranked] == sorted((match.confidence for match in ranked), reverse=True)
    assert index.rank(subject(), limit=1) == ranked[:1]


def test_recipes_that_name_the_type_stay_at_the_end_even_without_a_shared_word() -> None:
    index = Index([recipe("alpha", applies_to=("custom",)), recipe("beta", applies_to=()), recipe("gamma")])
    ranked = index.rank(subject({"x": "gamma"}, incident_type="custom"))
    assert [match.recipe for match in ranked] == ["gamma", "alpha"]
    assert ranked[-1].confidence == 0


def test_what_a_recipe_is_not_for_does_not_draw_incidents_to_it() -> None:
    careful = recipe("alpha", when="For this. Not for exhausted inodes. And that.")
    index = Index([careful, recipe("beta", when="inodes")])
    assert index.rank(subject({"x": "exhausted inodes"}, incident_type="custom"))[0].recipe == "beta"


def test_an_answer_cites_what_matched_and_names_the_runners_up() -> None:
    incident = subject({"mount": "/var/lib/docker", "note": "nothing", "usage": "Images and the build cache 93 %"})
    answer = lexical_answer(incident, INDEX.rank(incident))
    assert answer.recipe == "docker-disk-full"
    assert {cited.pointer for cited in answer.citations} == {"/mount", "/usage"}
    assert Citation("/mount", "/var/lib/docker") in answer.citations
    assert answer.summary == "The incident and the recipe share the words: docker, images, build, cache."
    assert [type(other) for other in answer.runners_up] == [Candidate] * len(answer.runners_up)
    assert "disk-full" in [other.recipe for other in answer.runners_up]


def test_a_secret_is_cited_masked() -> None:
    incident = subject({"docker_password": "hunter2", "docker": "disk"})
    assert "hunter2" not in repr(lexical_answer(incident, INDEX.rank(incident)))


def test_it_stands_empty_catalogues_and_empty_recipes() -> None:
    assert Index([]).rank(subject()) == ()
    assert lexical_answer(subject(), ()).recipe is None
    assert Index([Recipe("", "", "")]).rank(subject()) == ()


def test_huge_evidence_is_read_to_a_bound() -> None:
    evidence = {f"key{number}": f"word{number:x} " * 500 for number in range(100)}
    assert INDEX.rank(subject(evidence))


def test_the_same_input_gives_the_same_list() -> None:
    again = Index(reversed(CATALOGUE))
    assert again.rank(subject()) == INDEX.rank(subject())


def test_pieces_of_words_that_are_added_up_by_word_are_as_alike_as_each_by_itself() -> None:
    documents = [words_of(text) for text in ("disk filling up", "disks of the filing cabinet", "banana banana", "")]
    idf = {gram: 1 + len(gram) / 10 for document in documents for gram in grams_of(document)}
    by_word, by_piece = _Spelling(documents, idf), _Vectors([grams_of(words) for words in documents], idf)
    for said in ("banana", "the disk fills, the disk fills again", "filing a banana banana banana", "nothing"):
        words = words_of(said)
        assert by_word.cosines(words) == pytest.approx(by_piece.cosines(grams_of(words)))
        assert by_word.cosines(words) == pytest.approx(by_piece.cosines(grams_of(words))), "the second time, too"


def test_incidents_that_say_the_same_have_one_ranking_until_people_said_something() -> None:
    first, second = (
        subject({"alertname": "DiskFull", "value": number}, incident_type="custom", hostname=f"web-{number}")
        for number in (1, 2)
    )
    index = Index(CATALOGUE)
    ranked = index.rank(first)
    assert index.rank(second) == ranked
    assert len(index._ranked) == 1
    assert index.rank(subject({"alertname": "CpuHigh"}, incident_type="custom")) != ranked
    last = index.recipes[ranked[-1].recipe].slug
    told = index.remembering([Example("1", first, last)])
    assert told.rank(second) != ranked
    assert index.rank(second) == ranked


def test_no_more_rankings_are_kept_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "_RANKINGS_KEPT", 3)
    index = Index(CATALOGUE)
    for word in "alpha bravo charlie delta echo".split():
        index.rank(subject({"alertname": word}, incident_type="custom"))
    assert len(index._ranked) == 3
