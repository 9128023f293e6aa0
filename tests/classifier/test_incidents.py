"""The labelled incidents for a small catalogue are sound: the door takes them and the catalogue holds their labels."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from openremedy.alerts import IncidentType, parse_alert
from openremedy.classifier.rules import match
from openremedy.classifier.shapes import Recipe, Subject

ROOT = Path(__file__).parents[2]
FILES = {
    "training": ROOT / "training" / "incidents.yaml",
    "held_out": Path(__file__).with_name("incidents.yaml"),
}
LEAST_FOR_EACH_RECIPE = {"training": 3, "held_out": 1}
POSITIVE, NEGATIVE = {"plain", "other_words"}, {"near_negative", "far_negative"}
GENERAL = {
    IncidentType.DISK_FULL: "disk-full",
    IncidentType.CPU_HIGH: "cpu-high",
    IncidentType.MEMORY_HIGH: "memory-high",
    IncidentType.SERVICE_DOWN: "service-down",
    IncidentType.PORT_UNAVAILABLE: "port-unavailable",
    IncidentType.CUSTOM: None,
}
ALERT_FIELDS = ("incident_type", "hostname", "severity", "evidence")
ALL_FIELDS = {"id", "recipe", "kind", *ALERT_FIELDS}


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)


@pytest.fixture(scope="module")
def catalogue() -> dict[str, Recipe]:
    return {
        row["slug"]: Recipe(row["slug"], row["title"], row["when"], tuple(row["applies_to"]), row.get("match", {}))
        for row in load(ROOT / "config" / "recipes.yaml")
    }


@pytest.fixture(scope="module")
def incidents() -> dict[str, list[dict[str, Any]]]:
    return {name: load(path) for name, path in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_each_labelled_incident_has_all_fields_and_the_door_takes_it_as_it_is(
    incidents: dict[str, list[dict[str, Any]]], name: str
) -> None:
    for incident in incidents[name]:
        assert set(incident) == ALL_FIELDS, incident["id"]
        alert, warnings = parse_alert(json.dumps({field: incident[field] for field in ALERT_FIELDS}).encode())
        assert alert.evidence == incident["evidence"], incident["id"]
        assert warnings == [], incident["id"]


@pytest.mark.parametrize("name", FILES)
def test_each_label_is_a_recipe_that_admits_the_type_or_none_as_its_kind_says(
    incidents: dict[str, list[dict[str, Any]]], name: str, catalogue: dict[str, Recipe]
) -> None:
    for incident in incidents[name]:
        label, kind, incident_type = incident["recipe"], incident["kind"], incident["incident_type"]
        assert label is None or catalogue[label].admits(incident_type), incident["id"]
        if kind == "bare":
            assert label == GENERAL[incident_type], incident["id"]
        else:
            assert kind in (NEGATIVE if label is None else POSITIVE), incident["id"]


@pytest.mark.parametrize("name", FILES)
def test_no_label_contradicts_the_conditions_of_a_recipe(
    incidents: dict[str, list[dict[str, Any]]], name: str, catalogue: dict[str, Recipe]
) -> None:
    for incident in incidents[name]:
        answer = match(Subject(**{field: incident[field] for field in ALERT_FIELDS}), catalogue.values())
        assert answer is None or answer.recipe == incident["recipe"], incident["id"]


@pytest.mark.parametrize("name", FILES)
def test_every_recipe_and_every_bare_type_has_its_labelled_incidents(
    incidents: dict[str, list[dict[str, Any]]], name: str, catalogue: dict[str, Recipe]
) -> None:
    positives = Counter(incident["recipe"] for incident in incidents[name] if incident["kind"] in POSITIVE)
    assert {slug for slug in catalogue if positives[slug] < LEAST_FOR_EACH_RECIPE[name]} == set()
    assert {incident["incident_type"] for incident in incidents[name] if incident["kind"] == "bare"} == set(GENERAL)


def test_no_labelled_incident_stands_twice_in_one_file_or_in_both(incidents: dict[str, list[dict[str, Any]]]) -> None:
    everything = [incident for rows in incidents.values() for incident in rows]
    assert _twice(incident["id"] for incident in everything) == []
    # The bare ones say nothing, and so they say the same.
    assert _twice(_content(incident) for incident in everything if incident["kind"] != "bare") == []


def _content(incident: dict[str, Any]) -> str:
    return json.dumps(incident["evidence"], sort_keys=True)


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, times in Counter(values).items() if times > 1]
