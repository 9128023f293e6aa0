"""The suite of faults itself (`make faults`): that what it looks for is still there."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from faults import attacks, scene
from faults.__main__ import HEAD, TABLE
from faults.catalogue import FAULTS
from faults.proof import MECHANISMS, Mechanism
from faults.scene import STAGES, Found, Stage
from faults.senders import INTAKES, Tenant, message, name_of, number_in
from faults.stream import Record
from stack import ROOT

TENANT = Tenant("alice", "secret", "token", dict.fromkeys(("alertmanager", "grafana", "datadog"), "token"), "signing")


def test_there_are_forty_faults_and_each_has_a_name_and_a_stage_of_its_own() -> None:
    assert len({one.name for one in FAULTS}) == len(FAULTS) >= 40
    assert {one.stage for one in FAULTS} == set(STAGES)
    assert 5 <= sum(one.short for one in FAULTS) <= 10


def test_the_table_of_the_documentation_has_every_fault_and_nothing_was_lost_or_doubled() -> None:
    table = (ROOT / "docs/reliability.md").read_text().partition(TABLE)[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert tuple(rows[0]) == HEAD
    assert [row[0] for row in rows[2:]] == [one.name for stage in STAGES for one in FAULTS if one.stage == stage]
    assert sum(int(row[1]) for row in rows[2:]) >= 20_000
    assert {(row[4], row[5]) for row in rows[2:]} == {("0", "0")}


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda one: one.name)
def test_what_the_proof_switches_off_is_where_it_looks_for_it(mechanism: Mechanism) -> None:
    for file, old, new in mechanism.edits:
        assert (ROOT / file).read_text().count(old) == 1
        assert old != new
    assert mechanism.fault in {one.name for one in FAULTS}


@pytest.mark.parametrize("intake", INTAKES)
def test_an_alert_is_the_same_bytes_each_time_and_no_two_numbers_have_the_same(intake: str) -> None:
    first, second = message(intake, 41, TENANT), message(intake, 42, TENANT)
    assert first == message(intake, 41, TENANT)
    assert first.body != second.body
    assert name_of(41, "alice").replace("-", "") in json.dumps(json.loads(first.body)).lower().replace("-", "")


def test_a_number_is_told_from_the_host_or_from_what_the_tool_calls_it() -> None:
    assert number_in({"hostname": "n0000041-alice:9100", "dedup_key": None}) == (41, "alice")
    assert number_in({"hostname": "unknown", "dedup_key": "QN0000042BOB"}) == (42, "bob")
    assert number_in({"hostname": "web-01", "dedup_key": None}) is None


class Page(Stage):
    """What an API would show of one alert, number 5 of alice, which is a canonical one."""

    def __init__(self, **changes: Any) -> None:
        super().__init__("http://nowhere")
        self.tenants = [TENANT]
        verdict = {"recipe": "alice-disk-full"}
        usual = {"id": "i", "hostname": name_of(5, "alice"), "dedup_key": None, "occurrences": 2}
        self.incident = usual | {"classification": "done", "verdict": verdict} | changes

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def _listed(self, tenant: Tenant, first: int) -> Iterator[dict[str, Any]]:
        yield self.incident


def judged(page: Page, **changes: Any) -> Found:
    """What the suite makes of it where the alert was sent twice and taken twice."""
    record = Record(sent={5}, accepted={5: "alice"}, incidents={5: {"i"}})
    record.tries.update({5: 2})
    record.taken.update({5: 2})
    record.answers.update({"202": 2})
    for name, value in changes.items():
        setattr(record, name, value)
    return page._judged("none", record, {}, time.monotonic() - scene.RECOVERY)


def test_what_is_as_it_should_be_holds() -> None:
    assert judged(Page()).holds
    assert judged(Page(classification="needs_human", verdict={"recipe": None})).holds


@pytest.mark.parametrize(
    ("page", "record", "sign"),
    [
        ({"hostname": "web-01"}, {}, "lost"),
        ({}, {"sent": {5, 6}}, "lost"),  # a sender that broke before it had an answer
        ({}, {"incidents": {5: {"i", "j"}}}, "doubled"),
        ({"hostname": name_of(5, "bob")}, {}, "strayed"),
        ({"occurrences": 1}, {}, "miscounted"),  # what was taken last is not there
        ({"occurrences": 3}, {}, "miscounted"),
        ({"verdict": None, "classification": "needs_human"}, {}, "misjudged"),
        ({"verdict": {"recipe": "bob-disk-full"}}, {}, "misjudged"),
        ({"verdict": {"recipe": "wipe_disk"}}, {}, "misjudged"),
        ({"verdict": None, "classification": "pending"}, {}, "waiting"),
        ({}, {"answers": Counter({"202": 2, "500": 1})}, "undocumented"),
        ({}, {"answers": Counter({"202": 2, "503 without Retry-After": 1})}, "undocumented"),
    ],
)
def test_whatever_goes_wrong_is_seen(page: dict[str, Any], record: dict[str, Any], sign: str) -> None:
    found = judged(Page(**page), **record)
    assert getattr(found, sign)
    assert not found.holds


def test_a_round_in_which_nothing_was_sent_holds_nothing() -> None:
    assert not Found("none", sent=0, accepted=0, refused=0).holds


def test_an_attack_that_meets_something_else_is_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([b"413", b"", *[b"401"] * 1000])
    monkeypatch.setattr(attacks, "_answer", lambda *_: next(answers, b"401"))
    assert attacks.flood("", [list], 0.05, 413, 400) == ["an attacker was answered 401", "nobody was answered 400"]
