"""How good the classifier is: figures by hand, folders of alerts, a tenant's answered incidents, two runs compared."""

import asyncio
import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from cast import Tenant
from config import Settings
from conftest import make_settings
from openremedy import benchmark, jobs, registry, workers
from openremedy.benchmark import Wanted
from openremedy.classification import Catalogue
from openremedy.classifier.client import ModelClient
from openremedy.classifier.lexical import Index
from openremedy.classifier.shapes import Answer, Example, Recipe, Subject
from openremedy.errors import Invalid
from openremedy.evaluation import comparing, confirmed, figures, kinds, lines, report
from openremedy.evaluation.confirmed import Means, Setting
from openremedy.evaluation.intervals import Resampling, mcnemar, wilson
from openremedy.evaluation.kinds import Kind
from openremedy.evaluation.rows import Judged, Prediction, Truth, judged
from openremedy.evaluation.running import Case, ask_all
from openremedy.extensions import db
from openremedy.incidents import subject_of
from openremedy.models import Incident, TokenUsage, table
from openremedy.recipes import parse
from stub_model import StubModel
from test_cli import Shell, flask


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """SQLite alone: which database it is matters to nothing here."""
    path = tmp_path / "openremedy.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


# ---------------------------------------------------------------- figures by hand

TRUTHS = (
    Truth("a", "disk", frozenset({"disk"})),
    Truth("b", "memory", frozenset({"memory", "swap"})),
    Truth("c", "swap", frozenset({"swap"})),
    Truth("d", None),
    Truth("e", None),
    Truth("f", "tls", frozenset({"tls"})),
)
PREDICTIONS = (
    Prediction("a", "disk", 0.9, ("disk", "memory"), 0.9),
    Prediction("b", "swap", 0.8, ("swap", "memory"), 0.8),
    Prediction("c", None, 0.7, ("disk", "memory", "swap"), 0.3),
    Prediction("d", None, 0.8, ("disk",), 0.2),
    Prediction("e", "memory", 0.6, ("memory",), 0.6),
)
# Worked out on paper. Of f nothing was predicted: an abstention without confidence.
BY_HAND = {
    "alerts": 6,
    "with_recipe": 4,
    "without_recipe": 2,
    "top1": 1 / 4,
    "top3": 3 / 4,
    "mrr": (1 + 1 / 2 + 1 / 3) / 4,
    "shortlist_recall": 3 / 4,
    "top1_lenient": 2 / 4,
    "top1_after_abstain": 1 / 4,
    "answered": 3 / 6,
    "precision": 1 / 3,
    "precision_lenient": 2 / 3,
    "abstain_precision": 1 / 3,
    "abstain_recall": 1 / 2,
    "accuracy": 2 / 6,
    "cov90": 1 / 4,
    "cov95": 1 / 4,
    "cov99": 1 / 4,
    "cov95_lenient": 2 / 4,
    "thr95": 0.9,
    "ece": (0.1 + (0.8 - 0.2) + 0.7 + 0.6 + 0) / 6,
}


def test_every_figure_is_what_one_works_out_on_paper() -> None:
    found = figures.figures(judged(TRUTHS, PREDICTIONS))
    assert {name: found[name] for name in BY_HAND} == {
        name: pytest.approx(value, abs=5e-5) for name, value in BY_HAND.items()
    }


def test_every_share_has_an_interval_around_it() -> None:
    found = figures.figures(judged(TRUTHS, PREDICTIONS))
    for name in [*figures.SHARES, "cov90", "cov95", "cov99", "ece"]:
        low, high = found[f"{name}_ci"]
        assert 0 <= low <= found[name] <= high <= 1, name


def test_what_has_one_score_is_named_together_or_not_at_all() -> None:
    truths = [Truth(number, "disk" if number < 3 else None) for number in range(4)]
    same = [Prediction(number, "disk", 0.9, ("disk",), 0.9) for number in range(4)]
    assert figures.Curves(judged(truths, same)).once()["cov95"] == 0
    apart = [*same[:3], Prediction(3, "disk", 0.8, ("disk",), 0.8)]
    assert figures.Curves(judged(truths, apart)).once()["cov95"] == 1


def test_the_order_counts_also_where_no_answer_was_given() -> None:
    silent = Prediction("a", None, 0.6, ("disk",), 0.4)
    rows = judged([Truth("a", "disk")], [silent])
    assert figures.Curves(rows).once()["cov95"] == 1
    without = judged([Truth("a", "disk")], [dataclasses.replace(silent, score=None)])
    assert figures.Curves(without).once()["cov95"] == 0


def test_an_opaque_name_is_the_recipe_s_own_one() -> None:
    truth = Truth("a", "disk", frozenset({"disk"}), opaque="rb-1")
    (row,) = judged([truth], [Prediction("a", "rb-1", 0.9, ("rb-1", "rb-2"), 0.9)])
    assert (row.correct, row.place, row.best) == (True, 1, "disk")


def test_what_was_confused_is_told_with_its_alerts() -> None:
    found = figures.figures(judged(TRUTHS, PREDICTIONS))["confusion"]
    assert {(row["expected"], row["got"], row["count"], *row["ids"]) for row in found} == {
        ("memory", "swap", 1, "b"),
        ("swap", None, 1, "c"),
        (None, "memory", 1, "e"),
        ("tls", None, 1, "f"),
    }


def test_calibration_is_told_by_tenths() -> None:
    found = figures.figures(judged(TRUTHS, PREDICTIONS))["reliability"]
    assert [(row["from"], row["count"], row["correct"]) for row in found] == [
        *((0.0, 1, 0.0), (0.6, 1, 0.0), (0.7, 1, 0.0), (0.8, 2, 0.5), (0.9, 1, 1.0)),
    ]


def test_subsets_are_there_where_the_truth_says_whence_it_is() -> None:
    truths = [
        Truth("a", "disk", basis="runbook_url", kind="positive"),
        Truth("b", "memory", basis="hand_crosswalk", kind="positive", foreign=True),
        Truth("d", None, basis="neg_near", kind="neg_near"),
        Truth("e", None, basis="neg_far", kind="neg_far"),
    ]
    found = figures.figures(judged(truths, PREDICTIONS[:2] + PREDICTIONS[3:]))["subsets"]
    sizes = {name: (part["with_recipe"], part["without_recipe"]) for name, part in found.items()}
    assert sizes == {
        "authors_linked": (1, 2),
        "hand_crosswalk": (1, 2),
        "foreign": (1, 2),
        "near_negatives": (2, 1),
        "far_negatives": (2, 1),
    }
    assert (found["authors_linked"]["top1"], found["foreign"]["top1"]) == (1, 0)
    assert (found["near_negatives"]["abstain_recall"], found["far_negatives"]["abstain_recall"]) == (1, 0)
    assert figures.figures(judged(TRUTHS, PREDICTIONS))["subsets"] == {}


def test_of_nothing_there_are_no_figures() -> None:
    found = figures.figures([])
    assert (found["alerts"], found["top1"], found["top1_ci"], found["ece"], found["cov95"]) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert report.figures(found)


# ---------------------------------------------------------------- chance


def test_an_interval_of_independent_cases_is_wilson_s() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) is None


def test_alerts_of_one_family_are_no_independent_evidence() -> None:
    parts = [1.0] * 20 + [0.0] * 20
    families = Resampling(["easy"] * 20 + ["hard"] * 20).of_share(parts)
    alone = Resampling(range(40)).of_share(parts)
    assert families == (0.0, 1.0)
    assert alone is not None
    assert 0.3 < alone[0] < 0.5 < alone[1] < 0.7


def test_a_perfect_share_of_few_families_is_not_taken_for_certain() -> None:
    found = Resampling(["one"] * 50 + ["other"] * 50).of_share([1.0] * 100)
    assert found == wilson(2, 2)


def test_a_truth_with_families_is_drawn_by_them() -> None:
    rows = judged([Truth(number, "disk", family="one") for number in range(9)], [])
    assert figures.figures(rows)["intervals_by"] == "family"
    assert figures.figures(judged(TRUTHS, PREDICTIONS))["intervals_by"] == "alert"


@pytest.mark.parametrize(
    ("one", "other", "chance"), [(0, 0, 1.0), (1, 9, 22 / 1024), (9, 1, 22 / 1024), (5, 5, 1.0), (0, 1, 1.0)]
)
def test_a_split_is_tested_exactly(one: int, other: int, chance: float) -> None:
    assert mcnemar(one, other) == pytest.approx(chance)


def test_thousands_of_differences_can_be_tested() -> None:
    assert 0 < mcnemar(4900, 5100) < 0.05


# ---------------------------------------------------------------- two runs


def test_the_difference_of_two_runs_is_that_of_the_same_alerts() -> None:
    better = (*PREDICTIONS[:2], Prediction("c", "swap", 0.9, ("swap",), 0.9), *PREDICTIONS[3:4])
    found = comparing.compare(judged(TRUTHS, PREDICTIONS), judged(TRUTHS, better))
    top1 = found["figures"]["top1"]
    assert (top1["a"], top1["b"], top1["difference"]) == (0.25, 0.5, 0.25)
    assert top1["difference_ci"][0] <= 0.25 <= top1["difference_ci"][1]
    assert found["mcnemar"]["accuracy"] == {"only_a": 0, "only_b": 2, "p": 0.5}
    assert (found["gained"], found["lost"]) == (["c", "e"], [])
    assert "top1" in report.comparison(found)


def test_what_is_hard_for_both_is_no_chance_between_them() -> None:
    truths = [Truth(number, "disk") for number in range(40)]
    both = [Prediction(number, "disk", 0.9, ("disk",), 0.9) for number in range(0, 40, 2)]
    found = comparing.compare(judged(truths, both), judged(truths, both))
    assert {tuple(row["difference_ci"]) for row in found["figures"].values() if row["difference_ci"]} == {(0.0, 0.0)}


# ---------------------------------------------------------------- types


def test_types_are_measured_as_means_over_the_types_that_there_are() -> None:
    right = [Kind(1, "cpu_high", "high"), Kind(2, "custom"), Kind(3, "custom"), Kind(4, "port_unavailable", "low")]
    told = {1: Kind(1, "cpu_high", "high"), 2: Kind(2, "cpu_high"), 4: Kind(4, "port_unavailable", "high")}
    found = kinds.figures(right, told)
    f1 = {"cpu_high": 2 / 3, "custom": 2 / 3, "port_unavailable": 1.0}
    assert found["type_accuracy"] == 0.75
    assert found["type_macro_f1"] == pytest.approx(sum(f1.values()) / 3, abs=5e-5)
    assert found["type_macro_f1_without_port"] == pytest.approx(2 / 3, abs=5e-5)
    assert found["severity_accuracy"] == 0.5
    assert {name: row["f1"] for name, row in found["per_type"].items() if row["count"]} == {
        name: pytest.approx(value, abs=5e-5) for name, value in f1.items()
    }
    assert found["type_confusion"] == [{"expected": "custom", "got": "cpu_high", "count": 1, "ids": [2]}]


# ---------------------------------------------------------------- a folder

DISK_ALERT = {
    "status": "firing",
    "labels": {"alertname": "OrchardDiskFull", "instance": "press-07:9100", "severity": "page", "mountpoint": "/cider"},
    "annotations": {"summary": "The disk of the cider press is full"},
    "startsAt": "2026-02-03T04:05:06Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=node_filesystem_avail_bytes+%3C+1",
    "fingerprint": "00ff00ff00ff00ff",
}
ALERTS: list[dict[str, Any]] = [
    {"id": "a1", "alert": DISK_ALERT},
    {"id": "a2", "alert": {"labels": {"alertname": "OrchardCertificateExpired"}, "annotations": {"summary": "TLS"}}},
    {"id": "a3", "alert": {"labels": {"alertname": "Qwzx"}, "annotations": {}}},
    {"id": "a4", "alert": {"labels": {"alertname": "Watchdog"}, "annotations": {}}},
]
RECIPES: list[dict[str, Any]] = [
    {
        "slug": "disk-full",
        "title": "Disk full",
        "when_to_use": "A file system is full",
        "description": None,
        "mitigation": "Delete what nobody needs.",
        "tags": ["disk"],
    },
    {"slug": "certificate-expired", "title": "Certificate expired", "when_to_use": "A TLS certificate has expired"},
]
TRUTH: list[dict[str, Any]] = [
    {"id": "a1", "recipe_slug": "disk-full", "recipe_opaque": "rb-1", "accept": ["disk-full"], "family": "disk"},
    {"id": "a2", "recipe_slug": "certificate-expired", "recipe_opaque": "rb-2", "accept": [], "family": "tls"},
    {"id": "a3", "recipe_slug": None, "recipe_opaque": None, "accept": [], "family": "qwzx"},
    {"id": "a4", "recipe_slug": None, "recipe_opaque": None, "accept": [], "family": "watchdog"},
]
TYPES: list[dict[str, Any]] = [
    {"id": "t1", "tool": "alertmanager", "payload": DISK_ALERT},
    {"id": "t2", "tool": "datadog", "payload": {"title": "[Triggered] Press is busy", "alert_type": "error"}},
    {"id": "t3", "tool": "tool-of-nobody", "payload": {"what": "ever"}},
]
TYPES_TRUTH: list[dict[str, Any]] = [
    {"id": "t1", "incident_type": "disk_full", "severity": "critical"},
    {"id": "t2", "incident_type": "custom", "severity": "high"},
    {"id": "t3", "incident_type": "cpu_high", "severity": None},
]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny benchmark of our own."""
    where = tmp_path / "orchard"
    where.mkdir()
    opaque = [{**row, "slug": f"rb-{number}", "title": ""} for number, row in enumerate(RECIPES, 1)]
    write(where / "recipes.jsonl", RECIPES)
    write(where / "recipes_opaque.jsonl", opaque)
    write(where / "alerts_named.jsonl", ALERTS)
    write(where / "alerts_hidden.jsonl", ALERTS)
    write(where / "alerts_truth.jsonl", TRUTH)
    write(where / "types.jsonl", TYPES)
    write(where / "types_truth.jsonl", TYPES_TRUTH)
    return where


@pytest.fixture
def shell(app: Flask) -> Shell:
    return Shell(app)


@cache
def adapters() -> dict[str, Any]:
    return registry.discover()


def measure(where: Path, model: StubModel | None = None, **wanted: Any) -> dict[str, Any]:
    """What the command does, without an application around it."""

    async def run() -> dict[str, Any]:
        client = ModelClient(model.url, None, "stub-1", timeout=5) if model else None
        try:
            return await benchmark.evaluate(Wanted(where, **wanted), adapters(), Means(client, 5, 3, 0))
        finally:
            if client:
                await client.close()

    return asyncio.run(run())


def read(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def test_predictions_are_written_as_the_scorer_reads_them(shell: Shell, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    shell.json("classify", "eval", str(folder), "--predictions", str(out))
    found = read(out)
    assert list(found) == ["a1", "a2", "a3", "a4", "t1", "t2", "t3"]
    assert found["a1"]["recipe_slug"] == found["a1"]["ranked"][0] == "disk-full"
    assert found["a1"]["confidence"] == found["a1"]["score_raw"]
    assert found["a3"]["recipe_slug"] is None
    assert 0 < found["a3"]["confidence"] <= 1 - found["a3"]["score_raw"], "that none fits, not that the best is wrong"
    assert found["a4"]["recipe_slug"] is None, "a heartbeat, which is compared like any alert here"
    assert found["t1"] == {"id": "t1", "incident_type": "disk_full", "severity": "critical"}
    assert found["t3"] == {"id": "t3", "incident_type": "custom", "severity": "medium"}


def test_an_abstention_keeps_its_ranking_and_says_how_sure_none_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    told = measure(folder, threshold=1.0, predictions=out)
    assert (told["threshold"], told["answered"], told["top1"]) == (1.0, 0.0, 1.0)
    row = read(out)["a1"]
    assert (row["recipe_slug"], row["ranked"][0]) == (None, "disk-full")
    assert 0 <= row["confidence"] <= 1 - row["score_raw"]


def test_the_written_predictions_give_the_same_figures_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    told = measure(folder, predictions=out)
    truths = benchmark.truths_of(folder / "alerts_truth.jsonl")
    again = figures.figures(judged(truths, lines.predictions(out, [truth.id for truth in truths])))
    assert {name: told[name] for name in again} == again


STRANGE = {"labels": {"alertname": "Odd", "instance": "x" * 400}, "annotations": {"summary": "nul \0 and \ud800"}}


@pytest.mark.parametrize("alert", [DISK_ALERT, STRANGE], ids=["usual", "strange"])
def test_an_alert_is_seen_as_the_service_would_see_it(alice: Tenant, app: Flask, alert: dict[str, Any]) -> None:
    """The same alert through the real endpoint and through the folder."""
    alice.source("alertmanager").alerts({"alerts": [alert]})
    with app.app_context():
        stored = subject_of(db.session.execute(select(table(Incident))).mappings().one())
    row = lines.Line(Path("alerts.jsonl"), 1, {"id": "a1", "alert": alert})
    assert benchmark._subject(row, adapters()) == stored
    if alert is DISK_ALERT:
        assert (stored.incident_type, stored.severity, stored.hostname) == ("disk_full", "critical", "press-07")


def test_types_of_a_folder_are_told_by_the_adapters(folder: Path) -> None:
    told = measure(folder)
    assert (told["types"], told["type_accuracy"], told["severity_accuracy"]) == (3, pytest.approx(2 / 3, abs=1e-4), 1.0)
    (folder / "types.jsonl").unlink()
    assert "types" not in measure(folder)


def test_blind_means_no_names_on_either_side(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    told = measure(folder, variant="blind", predictions=out)
    assert told["top1"] == 1.0
    assert read(out)["a1"]["ranked"][0] == "rb-1"


def test_without_a_truth_it_only_predicts(folder: Path, tmp_path: Path) -> None:
    (folder / "alerts_truth.jsonl").unlink()
    (folder / "types_truth.jsonl").unlink()
    out = tmp_path / "out.jsonl"
    told = measure(folder, predictions=out)
    assert not {"top1", "type_accuracy"} & told.keys()
    assert {"alerts", "tokens", "ms_p50"} <= told.keys()
    assert len(read(out)) == 7


def test_it_needs_no_database_and_no_redis(make_app: Any, tmp_path: Path, folder: Path) -> None:
    app = make_app(make_settings(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:1/nothing"))
    assert Shell(app).json("classify", "eval", str(folder))["top1"] == 1.0


def test_a_catalogue_of_one_s_own_can_be_measured(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "- {slug: disk-full, title: Disk full, when: full, risk: low, steps: none}\n"
        "- {slug: certificate-expired, title: Certificate expired, when: TLS, risk: low, steps: none}\n"
        "- {slug: frob, title: Frob, when: frob, risk: low, steps: none}\n"
        "- {slug: off, title: Certificate expired, when: TLS, risk: low, steps: none, enabled: false}\n"
    )
    told = measure(folder, recipes=own)
    assert (told["recipes"], told["top1"]) == (3, 1.0)
    own.write_text("- {slug: disk-full}\n")
    with pytest.raises(Invalid, match=r"own\.yaml"):
        measure(folder, recipes=own)


BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON": ("alerts_named.jsonl", '{"id": "a1", "alert": {}}\n{"id": ', "line 2: this is no JSON"),
    "no object": ("alerts_named.jsonl", "[1]", "line 1: this is no JSON object"),
    "no UTF-8": ("alerts_named.jsonl", b'{"id": "\xff"}', "line 1: this is no JSON"),
    "no id": ("alerts_named.jsonl", '{"alert": {}}', "line 1: id must be"),
    "no alert": ("alerts_named.jsonl", '{"id": "a1", "alert": 5}', "line 1: alert must be a JSON object"),
    "an infinite number": ("alerts_named.jsonl", '{"id": "a1", "alert": {"labels": {"x": Infinity}}}', "line 1: "),
    "the same alert twice": ("alerts_named.jsonl", '{"id": "a1", "alert": {}}\n' * 2, "line 2: id 'a1' stands here"),
    "an alert without truth": ("alerts_named.jsonl", '{"id": "zz", "alert": {}}', "no row for the alert 'zz'"),
    "the same truth twice": ("alerts_truth.jsonl", '{"id": "a1", "recipe_slug": null}\n' * 2, "line 2: id 'a1'"),
    "a truth that says nothing": ("alerts_truth.jsonl", '{"id": "a1"}', "line 1: recipe_slug is missing"),
    "a truth about no recipe": ("alerts_truth.jsonl", '{"id": "a1", "recipe_slug": "x"}', "line 1: there is no recipe"),
    "the same recipe twice": ("recipes.jsonl", '{"slug": "x"}\n' * 2, "line 2: slug 'x' stands here a second time"),
    "a recipe without slug": ("recipes.jsonl", '{"title": "x"}', "line 1: slug must be"),
    "a type without truth": ("types.jsonl", '{"id": "x", "tool": "frob", "payload": {}}', "no row for 'x'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_folder_is_said_with_its_place(folder: Path, case: str) -> None:
    name, content, said = BROKEN[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Invalid, match=re.escape(said)) as caught:
        measure(folder)
    assert name in caught.value.message


def test_a_type_that_does_not_exist_is_no_truth(folder: Path) -> None:
    write(folder / "types_truth.jsonl", [*TYPES_TRUTH[:2], {"id": "t3", "incident_type": "fire"}])
    with pytest.raises(Invalid, match="line 3: there is no incident type 'fire'"):
        measure(folder)


def test_a_line_end_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "text": "one\u2028two"}\n', "utf-8")
    assert len(lines.read(path)) == 1


def test_predictions_that_cannot_be_written_are_an_error(folder: Path) -> None:
    with pytest.raises(Invalid, match="cannot be written"):
        measure(folder, predictions=folder / "absent" / "out.jsonl")


def test_a_folder_and_a_tenant_are_one_too_many(shell: Shell, folder: Path) -> None:
    shell.refused("classify", "eval", code=2)
    shell.refused("classify", "eval", str(folder), "--tenant", "alice", code=2)
    assert "no tenant" in shell.refused("classify", "eval", "--tenant", "nobody").lower()


# ---------------------------------------------------------------- with a model


@pytest.fixture
def stub() -> Iterator[StubModel]:
    with StubModel("good") as running:
        yield running


@pytest.fixture
def modelled(make_app: Any, settings: Settings, stub: StubModel) -> Shell:
    """With the stub as the configured model."""
    changes: dict[str, Any] = {"openai_base_url": stub.url, "model": "stub-1", "llm_timeout": 5, "llm_concurrency": 3}
    return Shell(make_app(dataclasses.replace(settings, **changes)))


def test_the_model_is_asked_with_the_real_client_and_its_tokens_are_counted(
    modelled: Shell, stub: StubModel, folder: Path
) -> None:
    told = modelled.json("classify", "eval", str(folder), "--tier", "model", "--price-per-million", "2.5")
    assert told["by_tier"]["model"] == told["model_asked"] == stub.calls > 0
    assert (told["model_in_vain"], told["models"]) == ({}, ["stub-1"])
    assert told["tokens"] == 120 * stub.calls
    assert told["cost"] == pytest.approx(told["tokens"] * 2.5 / 1_000_000)
    assert told["prompt_version"]
    assert told["top1"] == 1.0
    assert "cost" not in modelled.json("classify", "eval", str(folder), "--tier", "model")


def test_the_calls_run_at_once_but_not_more_than_is_set(stub: StubModel, folder: Path) -> None:
    write(folder / "alerts_named.jsonl", [{"id": number, "alert": DISK_ALERT} for number in range(12)])
    (folder / "alerts_truth.jsonl").unlink()
    stub.control({"together": 3, "delay": 0.05})
    measure(folder, stub, tier="model")
    assert stub.max_concurrent == 3


@pytest.mark.parametrize(("behaviour", "trouble"), [("500", "away"), ("garbage", "bad answer")])
def test_where_the_model_cannot_answer_the_words_do_and_it_is_counted(
    stub: StubModel, folder: Path, behaviour: str, trouble: str
) -> None:
    stub.control({"behaviour": behaviour})
    told = measure(folder, stub, tier="model")
    assert told["model_in_vain"] == {trouble: told["model_asked"]}
    assert "model" not in told["by_tier"]
    assert told["top1"] == measure(folder)["top1"]
    assert (told["tokens"] > 0) == (trouble == "bad answer")


def test_an_error_in_one_question_leaves_no_other_in_flight() -> None:
    """The loop of a worker goes on, and so would the questions."""
    recipe = Recipe("disk-full", "Disk full", "A disk is full")
    catalogue = Catalogue(0, (recipe,), Index([recipe]))
    cases = [Case(number, Subject("disk_full", "web-01", "high", {"title": "Disk full"})) for number in range(3)]

    async def ask(_subject: Subject, _shortlist: Sequence[Recipe], _examples: Sequence[Example]) -> Answer:
        asked.append(1)
        await asyncio.sleep(60 if len(asked) < 3 else 0)
        raise ZeroDivisionError

    async def run() -> int:
        with pytest.raises(ZeroDivisionError):
            await ask_all(cases, catalogue, ask, 3)
        return len(asyncio.all_tasks())

    asked: list[int] = []
    assert asyncio.run(run()) == 1
    assert len(asked) == 3


def test_a_model_that_says_none_is_as_sure_of_that_as_it_says(stub: StubModel, folder: Path, tmp_path: Path) -> None:
    stub.control({"behaviour": "none"})
    out = tmp_path / "out.jsonl"
    measure(folder, stub, tier="model", predictions=out)
    row = read(out)["a1"]
    assert (row["recipe_slug"], row["confidence"], row["score_raw"]) == (None, 0.8, pytest.approx(0.2))
    assert row["ranked"][0] == "disk-full"


def test_a_model_s_doubtful_recipe_is_no_answer(stub: StubModel, folder: Path, tmp_path: Path) -> None:
    stub.control({"recipe": "certificate-expired"})
    out = tmp_path / "out.jsonl"
    measure(folder, stub, tier="model", predictions=out, threshold=0.95)
    row = read(out)["a2"]
    assert (row["recipe_slug"], row["ranked"][0]) == (None, "certificate-expired")
    assert (0 < row["confidence"] <= 0.1, row["score_raw"]) == (True, 0.9)
    measure(folder, stub, tier="model", predictions=out, threshold=0.9)
    assert read(out)["a2"]["recipe_slug"] == "certificate-expired"


def test_without_a_model_its_tier_cannot_be_measured(shell: Shell, folder: Path) -> None:
    assert "No model is connected" in shell.refused("classify", "eval", str(folder), "--tier", "model")


# ---------------------------------------------------------------- two files of predictions


def test_two_files_of_predictions_are_compared(shell: Shell, folder: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    shell.json("classify", "eval", str(folder), "--threshold", "1", "--predictions", str(one))
    shell.json("classify", "eval", str(folder), "--predictions", str(other))
    truth = str(folder / "alerts_truth.jsonl")
    told = shell.json("classify", "compare", str(one), str(other), "--truth", truth)
    assert (told["figures"]["answered"]["a"], told["figures"]["answered"]["b"]) == (0.0, 0.5)
    assert (told["gained"], told["lost"]) == (["a1", "a2"], [])
    assert told["mcnemar"]["accuracy"] == {"only_a": 0, "only_b": 2, "p": 0.5}
    assert "b - a" in shell.run("classify", "compare", str(one), str(other), "--truth", truth).stdout
    shell.refused("classify", "compare", str(one), str(other), code=2)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "zz", "recipe_slug": None}, "the truth knows no alert 'zz'"),
        ({"id": "a1", "recipe_slug": 5}, "recipe_slug must be a text"),
        ({"id": "a1", "recipe_slug": None, "confidence": 2}, "confidence must be a number from 0 to 1"),
        ({"id": "a1", "recipe_slug": None, "confidence": float("nan")}, "confidence must be a number"),
        ({"id": "a1", "recipe_slug": None, "ranked": "disk"}, "ranked must be a list"),
        ({"id": "a1"}, "recipe_slug is missing"),
    ],
)
def test_a_prediction_that_cannot_be_is_an_error_with_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "p.jsonl"
    write(path, [{"id": "a2", "recipe_slug": None}, row])
    with pytest.raises(Invalid, match=f"line 2: {said}"):
        lines.predictions(path, ["a1", "a2"])


def test_a_prediction_without_a_raw_score_is_ordered_by_its_confidence(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    answer = {"recipe_slug": "disk", "confidence": 0.7}
    write(
        path,
        [{"id": 1} | answer, {"id": 2, "recipe_slug": None, "confidence": 0.7}, {"id": 3, "score_raw": None} | answer],
    )
    assert [one.score for one in lines.predictions(path, [1, 2, 3])] == [0.7, None, None]


# ---------------------------------------------------------------- a tenant's own incidents

OWN = parse("- {slug: own, title: Zzyzx quux, when: The zzyzx quux has failed, risk: low, steps: Look.}")
CHECKS = {"quux": "zzyzx quux has failed", "frob": "frobnitz", "other": "zzyzx quux of another sort"}


@pytest.fixture
def answered(alice: Tenant) -> dict[str, str]:
    """Three incidents: people say of the first that own is right, of the others that none fits."""
    alice.import_recipes(OWN)
    ids = {name: _incident(alice, name, check) for name, check in CHECKS.items()}
    alice.post(f"/incidents/{ids['quux']}/feedback", {"answer": "correct", "recipe": "own"})
    for name in ("frob", "other"):
        alice.post(f"/incidents/{ids[name]}/feedback", {"answer": "none"})
    _incident(alice, "unanswered", "zzyzx")
    return ids


def _incident(tenant: Tenant, name: str, check: str) -> str:
    body = {"hostname": f"web-{name}", "incident_type": "custom", "evidence": {"check": check}}
    return str(tenant.alert(body)["incident_id"])


def evaluate(tenant: Tenant, setting: Setting, against: Setting | None = None, **means: Any) -> dict[str, Any]:
    tenant_id = tenant.id
    known = Means(None, 5, 3, 0)
    with tenant.app.app_context():
        return asyncio.run(
            confirmed.evaluate(db.engine, tenant_id, setting, against, dataclasses.replace(known, **means))
        )


def test_what_people_have_answered_is_the_truth(shell: Shell, alice: Tenant, answered: dict[str, str]) -> None:
    told = shell.json("classify", "eval", "--tenant", "alice")
    assert (told["alerts"], told["with_recipe"], told["without_recipe"]) == (3, 1, 2)
    assert (told["top1"], told["tier"], told["right_recipe_gone"]) == (1.0, "lexical", 0)
    assert told["intervals_by"] == "family"
    (wrong,) = told["confusion"]
    assert (wrong["expected"], wrong["got"], wrong["ids"]) == (None, "own", [answered["other"]])


def test_what_people_said_of_an_incident_is_no_help_for_itself(alice: Tenant, answered: dict[str, str]) -> None:
    alice.post(f"/incidents/{answered['frob']}/feedback", {"answer": "correct", "recipe": "own"})
    told = evaluate(alice, Setting())
    assert (told["with_recipe"], told["top1"]) == (2, 0.5), "the words know nothing of it"
    assert set(told["by_tier"]) == {"lexical"}


def test_the_last_answer_of_a_person_counts(alice: Tenant, answered: dict[str, str]) -> None:
    alice.post(f"/incidents/{answered['quux']}/feedback", {"answer": "none"})
    assert evaluate(alice, Setting())["with_recipe"] == 0


def test_conditions_of_recipes_come_first_as_in_the_cascade(alice: Tenant, answered: dict[str, str]) -> None:
    alice.import_recipes(
        [dataclasses.replace(OWN[0], title="Nothing", when="nothing", match={"check": CHECKS["quux"]})]
    )
    told = evaluate(alice, Setting())
    assert told["by_tier"]["rule"] == 1
    assert told["top1"] == 1.0


def test_an_incident_whose_right_recipe_is_gone_is_left_out(alice: Tenant, answered: dict[str, str]) -> None:
    alice.import_recipes([dataclasses.replace(OWN[0], enabled=False)])
    told = evaluate(alice, Setting())
    assert (told["alerts"], told["right_recipe_gone"], told["complete"]) == (2, 1, True)


def test_nobody_is_measured_by_another_s_answers(
    alice: Tenant, charlie: Tenant, answered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(charlie, Setting())["alerts"] == 0
    charlie.post(f"/incidents/{_incident(charlie, 'his', 'frobnitz')}/feedback", {"answer": "none"})
    monkeypatch.setattr(confirmed, "NEWEST", 3)
    assert evaluate(alice, Setting())["alerts"] == 3, "his newer answer takes none of her places"


def test_two_settings_are_compared_on_the_same_incidents(alice: Tenant, answered: dict[str, str]) -> None:
    told = evaluate(alice, Setting(threshold=1.0), Setting())
    assert (told["threshold"], told["answered"]) == (1.0, 0.0)
    assert told["against"]["answered"] == pytest.approx(2 / 3, abs=1e-4)
    answers = told["comparison"]["figures"]["answered"]
    assert (answers["a"], answers["b"]) == (told["against"]["answered"], 0.0)
    assert (told["comparison"]["gained"], told["comparison"]["lost"]) == ([answered["other"]], [answered["quux"]])


def test_a_tenant_s_runs_can_be_kept_and_compared(
    shell: Shell, alice: Tenant, answered: dict[str, str], tmp_path: Path
) -> None:
    one, other = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    shell.json("classify", "eval", "--tenant", "alice", "--predictions", one)
    shell.json("classify", "eval", "--tenant", "alice", "--predictions", other, "--threshold", "1")
    told = shell.json("classify", "compare", one, other, "--tenant", "alice")
    assert (told["alerts"], told["lost"]) == (3, [answered["quux"]])


def test_when_its_time_is_over_it_says_that_it_is_not_complete(
    alice: Tenant, answered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmed, "SECONDS", -1)
    told = evaluate(alice, Setting(), Setting())
    assert (told["alerts"], told["complete"], told["comparison"]["alerts"]) == (0, False, 0)


def test_only_the_newest_answers_are_looked_at_while_somebody_waits(
    alice: Tenant, answered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmed, "NEWEST", 2)
    assert (evaluate(alice, Setting())["alerts"], evaluate(alice, Setting())["with_recipe"]) == (2, 0)


class Clients:
    """The real client against a stub, within one event loop."""

    def __init__(self, tenant: Tenant, stub: StubModel) -> None:
        self.tenant, self.stub = tenant, stub

    def evaluate(self, daily_tokens: int = 0) -> dict[str, Any]:
        tenant_id = self.tenant.id

        async def run() -> dict[str, Any]:
            client = ModelClient(self.stub.url, None, "stub-1", timeout=5)
            try:
                means = Means(client, 5, 3, daily_tokens)
                return await confirmed.evaluate(db.engine, tenant_id, Setting("model"), None, means)
            finally:
                await client.close()

        with self.tenant.app.app_context():
            return asyncio.run(run())

    def spent(self) -> int:
        with self.tenant.app.app_context():
            return sum(db.session.scalars(select(TokenUsage.tokens)))


def test_a_model_is_asked_within_the_tenant_s_budget(alice: Tenant, answered: dict[str, str], stub: StubModel) -> None:
    clients = Clients(alice, stub)
    told = clients.evaluate()
    assert told["by_tier"] == {"model": 3}
    assert told["tokens"] == clients.spent() == 360
    told = clients.evaluate(daily_tokens=361)
    assert told["model_in_vain"] == {"no budget": 3}
    assert (clients.spent(), stub.calls) == (360, 3)


def test_what_a_model_could_not_answer_costs_only_what_it_cost(
    alice: Tenant, answered: dict[str, str], stub: StubModel
) -> None:
    stub.control({"behaviour": "500"})
    clients = Clients(alice, stub)
    assert clients.evaluate()["model_in_vain"] == {"away": 3}
    assert clients.spent() == 0


def test_a_tenant_that_wants_no_model_gets_none(alice: Tenant, answered: dict[str, str], stub: StubModel) -> None:
    with alice.app.app_context():
        db.session.execute(text("UPDATE tenants SET model_allowed = false"))
        db.session.commit()
    with pytest.raises(Exception, match="does not let its evidence go to a model"):
        Clients(alice, stub).evaluate()
    assert stub.calls == 0


# ---------------------------------------------------------------- behind the API


@pytest.fixture
def settings(tmp_path: Path, database_url: str, redis_url: str, request: pytest.FixtureRequest) -> Settings:
    return make_settings(tmp_path, database_url, redis_url=redis_url)


def post(tenant: Tenant, body: Any, status: int = 202) -> dict[str, Any]:
    answer = tenant.app.test_client().post("/api/v1/evaluations", json=body, headers=tenant.auth)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def test_an_admin_has_a_worker_evaluate_and_reads_the_figures(
    settings: Settings, alice: Tenant, answered: dict[str, str]
) -> None:
    asked = post(alice, {"threshold": 1, "against": {}})
    assert asked == {"id": asked["id"], "state": "pending", "reason": None, "result": None}
    assert alice.get(f"/evaluations/{asked['id']}")["state"] == "pending"
    done = flask(settings, "worker", "--burst")
    assert done.returncode == 0, done.stderr[-2000:]
    found = alice.get(f"/evaluations/{asked['id']}")
    assert (found["state"], found["reason"]) == ("done", None)
    result = found["result"]
    assert (result["alerts"], result["threshold"], result["complete"]) == (3, 1.0, True)
    assert result["comparison"]["lost"] == [answered["quux"]]


def test_a_job_measures_with_what_the_worker_classifies_with(
    make_app: Any, settings: Settings, alice: Tenant, answered: dict[str, str], stub: StubModel
) -> None:
    app = make_app(dataclasses.replace(settings, openai_base_url=stub.url, model="stub-1"))
    tenant_id = alice.id
    with app.app_context(), asyncio.Runner() as runner:
        app.extensions[jobs.RUNNER] = runner
        app.extensions[jobs.CLASSIFIER] = workers.classifier(
            settings=dataclasses.replace(settings, openai_base_url=stub.url)
        )
        told = jobs.evaluate(tenant_id, {"tier": "model", "threshold": None}, None)
        runner.run(app.extensions[jobs.CLASSIFIER].model.close())
    assert told["by_tier"] == {"model": 3}
    assert json.loads(json.dumps(told)) == told, "rq keeps it as JSON"


@pytest.mark.parametrize(
    "body", [{"tier": "guess"}, {"threshold": 2}, {"threshold": "x"}, {"against": 5}, {"against": {"tier": "guess"}}]
)
def test_a_setting_that_cannot_be_is_refused(alice: Tenant, body: dict[str, Any]) -> None:
    assert post(alice, body, 422)["error"]["fields"].keys() == body.keys()


def test_a_model_that_is_not_there_is_said_at_once(make_app: Any, settings: Settings, alice: Tenant) -> None:
    for body in ({"tier": "model"}, {"against": {"tier": "model"}}):
        assert post(alice, body, 422)["error"]["fields"] == {"tier": ["No model is connected."]}
    with_model = make_app(dataclasses.replace(settings, openai_base_url="http://127.0.0.1:1/v1"))
    with with_model.app_context():
        db.session.execute(text("UPDATE tenants SET model_allowed = false"))
        db.session.commit()
    error = post(dataclasses.replace(alice, app=with_model), {"tier": "model"}, 409)["error"]
    assert "does not let its evidence go" in error["message"]


def test_one_tenant_cannot_fill_the_queue_with_evaluations(alice: Tenant, charlie: Tenant) -> None:
    for _ in range(2):
        post(alice, {})
    assert "waiting already" in post(alice, {}, 409)["error"]["message"]
    post(charlie, {})


def test_without_redis_the_asker_is_told_in_a_sentence(
    make_app: Any, tmp_path: Path, database_url: str, alice: Tenant
) -> None:
    without = make_app(make_settings(tmp_path, database_url))
    error = post(dataclasses.replace(alice, app=without), {}, 503)["error"]
    assert "An evaluation needs the queue" in error["message"]


def test_what_is_no_evaluation_of_the_tenant_is_not_found(alice: Tenant, charlie: Tenant) -> None:
    mine = post(alice, {})["id"]
    for which in ("0" * 32, "x", mine):
        answer = charlie.app.test_client().get(f"/api/v1/evaluations/{which}", headers=charlie.auth)
        assert answer.status_code == 404


def test_a_judged_row_without_prediction_is_an_abstention() -> None:
    (row,) = judged([Truth("a", None)], [])
    assert isinstance(row, Judged)
    assert (row.answered, row.correct, row.prediction.confidence) == (False, True, 0.0)


# ---------------------------------------------------------------- make eval

SCORER = """
import json, sys
print(json.dumps({"all": {"top1": 1.0, "ece": 0.999, "n_pos": 2, "something_else": 3}}))
"""


@pytest.fixture
def script() -> Any:
    """scripts/eval.py as a module."""
    spec = importlib.util.spec_from_file_location("eval_script", Path(__file__).parents[1] / "scripts" / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_make_eval_prints_figures_under_their_commands_and_asks_the_scorer(
    script: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "score.py").write_text(SCORER)
    # Told as they are; they are too long for a test, and training needs libraries of its own.
    monkeypatch.setattr(script, "reports", lambda *_: [("A report", ("scripts/report.py", "told"))])
    monkeypatch.setattr(script, "ROOT", folder)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "report.py").write_text("import sys; print('this is', *sys.argv[1:])")
    (folder / "wsgi.py").symlink_to(Path(__file__).parents[1] / "wsgi.py")
    monkeypatch.setattr(sys, "argv", ["eval.py", str(folder)])
    assert script.main() == 1, "its scorer says something else of the calibration"
    out = capsys.readouterr().out
    for variant in ("named", "hidden", "blind"):
        assert f"--variant {variant}" in out
    assert "aim >= 0.95: reached" in out
    assert out.count("score.py says the same of 2 figures, not of ece") == 3
    assert "--predictions" not in out
    assert "A report\n$ python scripts/report.py told\nthis is told\n" in out


def test_make_eval_without_a_benchmark_says_where_to_put_it(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["eval.py", str(tmp_path / "absent")])
    assert script.main() == 1
    assert "There is no file" in capsys.readouterr().err


def test_an_aim_is_reached_or_missed(script: Any) -> None:
    least, most = script.Figure("x", "a.b", 0.9), script.Figure("x", "a.b", 0.05, at_most=True)
    assert "aim >= 0.9: reached" in least.line({"a": {"b": 0.9, "b_ci": [0.8, 1.0]}})
    assert "[0.8000, 1.0000]" in least.line({"a": {"b": 0.9, "b_ci": [0.8, 1.0]}})
    assert "aim >= 0.9: MISSED" in least.line({"a": {"b": 0.89}})
    assert "aim <= 0.05: MISSED" in most.line({"a": {"b": 0.06}})
    assert "aim" not in least.line({})
