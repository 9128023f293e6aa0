"""What is left out says nothing new, and what stays stands where it stood."""

import base64
import json
import os
from typing import Any

import pytest

from openremedy.classifier.condense import condense
from openremedy.classifier.pointers import resolve, scalars
from openremedy.classifier.prompt import CUT, EVIDENCE_BYTES, shown_evidence
from tests.classifier.examples import USUAL_EVIDENCE

SENTENCE = "The file system /srv of the host has only 3.2 % of its space left."
BLOB = base64.b64encode(bytes(range(256)) * 2).decode()
PAGE = f"""<!DOCTYPE html><html><head><title>502</title><style>p {{ color: red }}</style></head>
<body><script>if (1 < 2) {{ alert("x") }}</script><p>{SENTENCE}</p><b>Bad&nbsp;gateway</b></body></html>"""


@pytest.mark.parametrize(
    "evidence", [*USUAL_EVIDENCE.values(), {"labels": {"job": "node"}, "n": 1.5, "list": [None, True]}]
)
def test_usual_evidence_stays_as_it_is(evidence: dict[str, Any]) -> None:
    assert condense(evidence) == evidence


def test_a_text_under_a_second_key_is_told_once() -> None:
    shown = condense({"a/b": {"summary": SENTENCE}, "copy": [SENTENCE], "alertname": "Disk", "name": "Disk"})
    assert shown["a/b"]["summary"] == SENTENCE
    assert shown["copy"] == ["[same as /a~1b/summary]"]
    assert (shown["alertname"], shown["name"]) == ("Disk", "Disk")


def test_of_log_lines_that_differ_in_times_and_numbers_the_first_and_the_last_are_kept() -> None:
    lines = [
        f"2026-03-02T08:15:{number:02} worker-{number} lost its connection to the database" for number in range(30)
    ]
    text = condense({"log": "\n".join([*lines, "FATAL: the pool is exhausted, giving up after 30 attempts"])})["log"]
    assert text.splitlines() == [
        lines[0],
        "[28 lines like these]",
        lines[29],
        "FATAL: the pool is exhausted, giving up after 30 attempts",
    ]


def test_a_list_of_log_lines_keeps_every_index() -> None:
    lines = [f"08:15:{number:02} cannot reach 10.0.0.{number} at its port for the third time" for number in range(9)]
    shown = condense({"log": [*lines, "gave up"]})["log"]
    assert (shown[0], shown[8], shown[9]) == (lines[0], lines[8], "gave up")
    assert shown[1:8] == ["[like these]"] * 7


@pytest.mark.parametrize(
    "items",
    [
        [f"/dev/sd{name} {number}%" for number, name in enumerate("abcdefgh")],
        [
            f"/var/lib/app/{name}/data.bin 4.{number}G"
            for number, name in enumerate(["one", "two", "six", "ten", "red"])
        ],
        [1, 2, 3, 4, 5, 6],
        [f"{number} bottles of beer on the wall, {number} bottles of beer" for number in range(4)],
    ],
)
def test_short_lines_measurements_and_few_repetitions_are_kept(items: list[Any]) -> None:
    assert condense({"x": items}) == {"x": items}
    assert condense({"x": "\n".join(map(str, items))}) == {"x": "\n".join(map(str, items))}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"core dump: {BLOB} end", f"core dump: [{len(BLOB)} encoded characters] end"),
        (f"![graph](data:image/png;base64,{BLOB}) seen", "seen"),
        (f"picture data:image/png;base64,{BLOB}", f"picture  [{len(BLOB)} encoded characters]"),
        (f"%%%\n{SENTENCE}\n%%%", SENTENCE),
        (f"[Runbook]({'https://wiki.example.org/' + 'x' * 60})", "Runbook"),
    ],
)
def test_blobs_and_what_templates_add_are_left_out(text: str, left: str) -> None:
    assert condense({"x": text})["x"].strip() == left.strip()


def test_labels_in_a_text_are_left_out_only_where_they_stand_elsewhere_too() -> None:
    text = f"{SENTENCE}\n VALUE = 0.08\n LABELS = map[instance:web-01 job:node]"
    assert condense({"x": text, "labels": {"job": "node"}})["x"] == text
    shown = condense({"x": text, "labels": {"instance": "web-01", "job": "node"}})["x"]
    assert shown.strip() == f"{SENTENCE}\n VALUE = 0.08"


@pytest.mark.parametrize(
    "text",
    [
        "/Users/Shared/Backups2026/Data/Archive/Old/Things/Nobody/Needs/And/More/Of/Them/Here/Core1",
        "sum by (instance) (rate(node_network_receive_errs_total{device!~'lo|veth.*'}[5m])) / 100 > 0.05",
        "a" * 100,
        "image sha256:" + "deadbeef" * 12,
        "if disk < 10 and load > 5 then a page goes to the people who are on call this week",
        "see [the runbook](https://wiki.example.org/x)" + " and the dashboard" * 3,
    ],
)
def test_long_names_expressions_and_links_are_kept(text: str) -> None:
    assert condense({"x": text}) == {"x": text}


def test_of_a_web_page_the_words_are_kept() -> None:
    text = condense({"body": PAGE})["body"]
    assert SENTENCE in text
    assert "Bad\N{NO-BREAK SPACE}gateway" in text
    assert not any(mark in text for mark in ("<", "alert(", "color"))


def test_every_place_that_is_shown_is_a_place_of_the_evidence() -> None:
    evidence = {"a~b/c": [SENTENCE, {"d": PAGE}, SENTENCE], "log": "\n".join([SENTENCE] * 20), "labels": {"x": BLOB}}
    assert [pointer for pointer, _ in scalars(condense(evidence))] == [pointer for pointer, _ in scalars(evidence)]


def test_it_does_not_change_its_argument() -> None:
    evidence = {"a": [SENTENCE, SENTENCE]}
    condense(evidence)
    assert evidence == {"a": [SENTENCE, SENTENCE]}


def noise(size: int) -> str:
    """Text in which nothing repeats."""
    return base64.b32encode(os.urandom(size)).decode().lower().replace("a", " ")


def test_labels_numbers_and_names_survive_where_much_must_go() -> None:
    labels = {f"label_{number}": f"value {number}" for number in range(60)}
    evidence = {
        **{f"noise_{number}": noise(2000) for number in range(60)},
        "labels": labels,
        "alertname": "DiskFull",
        "value": 97.3,
        "summary": SENTENCE,
        "log": [noise(500) for _ in range(40)] + ["the end"],
    }
    shown = shown_evidence(evidence)
    assert len(json.dumps(shown)) <= EVIDENCE_BYTES
    assert (shown["labels"], shown["alertname"], shown["value"], shown["summary"]) == (
        labels,
        "DiskFull",
        97.3,
        SENTENCE,
    )


def test_a_log_that_must_be_cut_keeps_its_end() -> None:
    shown = shown_evidence({"log": noise(40_000) + " PANIC: out of memory"})
    assert shown["log"].endswith("PANIC: out of memory")
    assert CUT in shown["log"]


@pytest.mark.parametrize("deep", [False, True])
def test_of_too_many_keys_the_telling_ones_are_kept(deep: bool) -> None:
    many = {**{f"k{number}": f"some text {number}" for number in range(6000)}, "error": "No space left on device"}
    evidence = {"labels": many} if deep else many
    shown = shown_evidence(evidence)
    assert (shown["labels"] if deep else shown)["error"] == "No space left on device"
    for pointer, value in scalars(shown):
        assert CUT in pointer or resolve(evidence, pointer) == value


@pytest.mark.parametrize(
    "piece",
    ["<script>", "<script ", "</p><", "[a](", "![", "LABELS = map[", "%%%\n", "data:image/png;base64,", "A1a", "\n",
     "1", "<p>x</p>", "&amp;", "<!--", "a" * 39 + "\n"],
)  # fmt: skip
def test_256_kib_of_hostile_text_is_done_in_one_pass(piece: str) -> None:
    assert isinstance(condense({"x": (piece * (262144 // len(piece) + 1))[:262144] + "</p>"})["x"], str)


def test_a_letter_with_a_number_too_long_to_be_one_stays_one_text() -> None:
    assert SENTENCE in condense({"page": f"<html><p>{SENTENCE}</p>&#{'1' * 5000};</html>"})["page"]
