"""What the lexical tier has learnt: the shipped file, incidents it has not seen, and what people said."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from openremedy.classifier.lexical import CONFIDENCE_FEATURES, FEATURES, MATCHER, Index, lexical_answer, swayed
from openremedy.classifier.query import query_of
from openremedy.classifier.shapes import ANSWER_THRESHOLD, Example, Recipe, Subject
from openremedy.classifier.words import masked, words_of
from tests.classifier.examples import CATALOGUE, recipe, subject

ROOT = Path(__file__).parents[2]
SHIPPED: dict[str, Any] = json.loads((ROOT / "openremedy" / "classifier" / "matcher.json").read_text())
HELD_OUT = yaml.safe_load((ROOT / "tests" / "classifier" / "incidents.yaml").read_text())


def starter() -> Index:
    rows = yaml.safe_load((ROOT / "config" / "recipes.yaml").read_text())
    return Index(
        Recipe(row["slug"], row["title"], row["when"], tuple(row.get("applies_to", ())), {}, row["risk"], row["steps"],
               tuple(row.get("tags", ())))
        for row in rows
    )  # fmt: skip


def test_the_shipped_file_has_a_number_for_each_feature_and_no_other() -> None:
    assert tuple(SHIPPED["weights"]) == FEATURES
    assert set(SHIPPED["confidence"]) == {"few", "many", "untitled"}
    for outcomes in SHIPPED["confidence"].values():
        assert set(outcomes) == {"right", "wrong", "none"}
        assert all(tuple(row) == ("intercept", *CONFIDENCE_FEATURES) for row in outcomes.values())
    assert min(MATCHER.weights) >= 0


def test_the_threshold_is_the_one_that_was_learnt() -> None:
    assert SHIPPED["threshold"] == ANSWER_THRESHOLD


def test_incidents_that_nothing_was_learnt_from_are_answered_rightly_or_not_at_all() -> None:
    index = starter()
    first = answered = right = silent = 0
    fitting = [row for row in HELD_OUT if row["recipe"]]
    for row in HELD_OUT:
        incident = Subject(row["incident_type"], row["hostname"], row["severity"], row["evidence"])
        ranked = index.rank(incident)
        answer = lexical_answer(incident, ranked).recipe
        first += bool(row["recipe"] and ranked and ranked[0].recipe == row["recipe"])
        answered += answer is not None
        right += answer is not None and answer == row["recipe"]
        silent += not row["recipe"] and answer is None
    assert first / len(fitting) >= 0.8
    assert right / answered >= 0.95
    assert answered / len(fitting) >= 0.5
    assert silent / (len(HELD_OUT) - len(fitting)) >= 0.95


def test_the_chances_of_all_candidates_and_of_none_are_together_one() -> None:
    ranked = Index(CATALOGUE).rank(subject({"mount": "/var/lib/docker"}), limit=99)
    assert sum(match.confidence for match in ranked) + ranked[0].none == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [1, 50, 99, 200, 400])
def test_confidence_does_not_jump_with_the_size_of_the_catalogue(size: int) -> None:
    values = [0.5] * len(CONFIDENCE_FEATURES)
    here, more = (MATCHER.chances(values, recipes, True) for recipes in (size, size + 1))
    assert sum(here) == pytest.approx(1)
    assert max(abs(a - b) for a, b in zip(here, more, strict=True)) < 0.05


# ---------------------------------------------------------------- what is read of an incident


def test_what_tells_machines_apart_is_masked() -> None:
    text = "Pod shop/api-6b8c5d7f4-kq8mz on 192.0.2.7:9100 and db-1.example.com:5432, see https://example.com/a?b"
    assert words_of(masked(f"{text} VALUE = 3 LABELS = map[a:b]", ["shop"])) == ["pod"]


def test_two_hosts_with_the_same_trouble_are_asked_the_same() -> None:
    def asked(host: str) -> Any:
        labels = {"instance": f"{host}:9100", "pod": f"{host}-0", "job": "node"}
        said = {"alertname": "RaidDegraded", "summary": f"An array of {host} is degraded", "labels": labels}
        return query_of(subject(said, incident_type="custom", hostname=host))

    assert asked("storage-17.example.com") == asked("archive-3.example.org")


def test_metrics_are_read_and_functions_are_not() -> None:
    asked = query_of(subject({"expression": 'sum by (instance) (rate(smtp_bounces_total{queue="slow"}[5m])) > 3'}))
    assert asked.expression == [["smtp", "bounc"]]
    assert asked.other == [["slow"]]


def test_a_port_says_what_listens_there() -> None:
    index = Index([recipe("mail-down", title="Mail does not arrive"), recipe("shop-down", title="The shop is away")])
    assert index.rank(subject({"port": 587}, incident_type="custom"))[0].recipe == "mail-down"


def test_contradictions_count_against_a_recipe() -> None:
    index = Index(
        [recipe("transmit-errors", title="NIC transmit errors"), recipe("receive-errors", title="NIC receive errors")]
    )
    said = {"alertname": "NicErrors", "summary": "The interface has trouble with inbound frames, rx errors grow"}
    assert index.rank(subject(said, incident_type="custom"))[0].recipe == "receive-errors"


def test_a_stage_of_a_trouble_goes_by_the_severity() -> None:
    index = Index([recipe("lag-critical", title="Lag critical"), recipe("lag-warning", title="Lag warning")])
    for severity, slug in (("critical", "lag-critical"), ("medium", "lag-warning")):
        incident = subject({"title": "Replication lag"}, incident_type="custom", severity=severity)
        assert index.rank(incident)[0].recipe == slug


def test_a_host_named_like_its_software_hides_nothing() -> None:
    said = {"service_name": "postgresql", "message": "postgres is down, connection refused"}
    index = starter()
    asked_of = [
        index.rank(subject(said, incident_type="service_down", hostname=host))[0] for host in ("web-1", "postgres")
    ]
    assert {match.recipe for match in asked_of} == {"postgresql-down"}


@pytest.mark.parametrize("mount", ["/data", "/srv/data", "/home", "/"])
def test_a_plain_mount_gets_the_general_recipe(mount: str) -> None:
    incident = subject({"mount": mount, "disk_usage_percent": 94})
    assert lexical_answer(incident, starter().rank(incident)).recipe == "disk-full"


# ---------------------------------------------------------------- what people said

STRANGE = {"title": "Frobnicator 7 jams", "message": "The left lever of the frobnicator does not move any more"}
OTHERS = (
    recipe("oil-the-lever", title="Oil it"),
    recipe("call-the-smith", title="Call somebody"),
    recipe("send-a-drone"),
)


def asked(text: str = "Frobnicator 9 jams", **more: Any) -> Subject:
    return subject({**STRANGE, "title": text, **more}, incident_type="custom")


def answered(index: Index, incident: Subject | None = None) -> str | None:
    incident = incident or asked()
    return lexical_answer(incident, index.rank(incident)).recipe


def index_with(*examples: Example) -> Index:
    return Index([*OTHERS, *CATALOGUE]).remembering(examples)


def test_an_incident_like_one_that_a_person_answered_gets_the_same_recipe() -> None:
    assert answered(index_with()) is None
    taught = index_with(Example("a", subject(STRANGE, incident_type="custom"), "call-the-smith"))
    assert answered(taught) == "call-the-smith"
    stranger = subject({"title": "Cron is late"}, incident_type="custom")
    assert taught.rank(stranger) == index_with().rank(stranger)


def test_the_nearest_answer_counts_whatever_others_said_of_other_things() -> None:
    near = Example("a", subject(STRANGE, incident_type="custom"), "call-the-smith")
    far = [  # alike in a word
        Example(
            str(number),
            subject({"title": f"Pump {number} is loud", "message": "It jams"}, incident_type="custom"),
            "oil-the-lever",
        )
        for number in range(50)
    ]
    assert index_with(*far, near).rank(asked())[0].recipe == "call-the-smith"


@pytest.mark.parametrize(
    "changed",
    [{"incident_type": "cpu_high"}, {"evidence": {**STRANGE, "mount": "/other"}}, {"evidence": {"port": 9999}}],
)
def test_what_people_said_of_another_trouble_decides_nothing(changed: dict[str, Any]) -> None:
    example = Example("a", subject(STRANGE, incident_type="custom"), "call-the-smith")
    thin = Example("b", subject({"port": 3000}, incident_type="custom"), "call-the-smith")
    other = subject(**{"incident_type": "custom", "evidence": STRANGE, **changed})
    assert answered(index_with(example, thin), other) == answered(index_with(), other)


def test_none_fits_makes_the_next_one_less_sure() -> None:
    docker = {"mount": "/var/lib/docker", "message": "Images and the build cache fill the disk of the runner"}
    before = Index(CATALOGUE).rank(subject(docker))[0]
    index = Index(CATALOGUE).remembering([Example("a", subject(docker, hostname="web-02"), None)])
    taught = index.rank(subject(docker))[0]
    assert taught.recipe == before.recipe
    assert taught.none > 0.9
    assert taught.confidence < 0.1 < before.confidence
    assert lexical_answer(subject(docker), index.rank(subject(docker))).recipe is None


def test_of_two_people_who_disagree_neither_is_believed_blindly() -> None:
    both = [Example("a", asked(), "send-a-drone"), Example("b", asked(), "call-the-smith")]
    assert answered(index_with(*both)) is None
    assert answered(index_with(*both[:1])) == "send-a-drone"


def test_what_people_said_moves_the_chances_within_their_bounds() -> None:
    for sway in (-1.0, -0.4, 0.0, 0.4, 1.0):
        assert sum(swayed((0.5, 0.3, 0.2), sway)) == pytest.approx(1)
    assert swayed((0.5, 0.3, 0.2), -1.0) == (0.0, 0.3, 0.7)
    assert swayed((0.5, 0.3, 0.2), 1.0) == (1.0, 0.0, 0.0)


def test_an_answer_to_the_incident_itself_can_be_forgotten() -> None:
    taught = index_with(Example("a", asked(), "oil-the-lever"))
    assert taught.rank(asked(), without="a") == index_with().rank(asked())
    assert taught.nearest(asked(), 3, without="a") == []


def test_an_answer_for_a_recipe_that_is_gone_or_of_another_type_moves_nothing() -> None:
    gone = Example("a", asked(), "deleted-recipe")
    other_type = Example("b", asked(), "memory-high")
    assert index_with(gone, other_type).rank(asked()) == index_with().rank(asked())


def test_answers_are_learnt_without_reading_the_recipes_again() -> None:
    index = Index(CATALOGUE)
    index.rank(subject())
    taught = index.remembering([Example("a", asked(), None)])
    assert taught._scopes is index._scopes
    assert not index._remembered


def test_the_nearest_examples_are_shown_and_no_strangers() -> None:
    near = Example("near", asked("Frobnicator 1 jams"), "oil-the-lever")
    far = Example("far", subject({"title": "Certificate expires"}, incident_type="custom"), None)
    assert index_with(far, near).nearest(asked(), 3) == [near]
