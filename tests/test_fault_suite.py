"""The suite of faults itself (`make faults`): that what it looks for is still there."""

import json

import pytest

from faults.__main__ import HEAD, TABLE
from faults.catalogue import FAULTS
from faults.proof import MECHANISMS, Mechanism
from faults.scene import STAGES
from faults.senders import INTAKES, Tenant, message, name_of, number_in
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
