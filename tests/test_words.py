"""How pages write times, numbers and the words of the service."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from openremedy.overview import Hour
from openremedy.ui import words
from openremedy.ui.overview import ceiling
from openremedy.ui.timeline import sentences

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"),
        (1, "just now"),
        (2, "2 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86400 * 1200, "1,200 days ago"),
        (-120, "in 2 minutes"),
    ],
)
@time_machine.travel(NOON, tick=False)
def test_a_time_is_relative_with_the_exact_one_and_its_zone_behind_it(seconds: int, said: str) -> None:
    moment = NOON - timedelta(seconds=seconds)
    found = str(words.ago(moment))
    assert f">{said}<" in found
    assert f'datetime="{moment.isoformat(timespec="seconds")}"' in found
    assert "UTC" in found


def test_no_time_is_said_in_a_word() -> None:
    assert words.ago(None) == "never"
    assert words.at(None, "not yet") == "not yet"


def test_times_as_the_api_writes_them_are_understood() -> None:
    assert ">25 Nov 2026, 12:00:00 UTC<" in str(words.at("2026-11-25T12:00:00.000000Z"))


@pytest.mark.parametrize(("count", "said"), [(0, "0 incidents"), (1, "1 incident"), (12345, "12,345 incidents")])
def test_numbers_and_plurals_are_right(count: int, said: str) -> None:
    assert words.plural(count, "incident") == said


@pytest.mark.parametrize(("value", "said"), [(0, "0 %"), (0.994, "99 %"), (0.9999, "99 %"), (1, "100 %"), (None, "-")])
def test_what_is_not_sure_is_never_a_hundred_percent(value: float | None, said: str) -> None:
    assert words.percent(value) == said


@pytest.mark.parametrize(
    ("count", "said"), [(1023, "1,023 bytes"), (1536, "1.5 KiB"), (5 * 1024 * 1024, "5.0 MiB"), (None, "-")]
)
def test_sizes_have_their_unit(count: int | None, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize("text", ["https://wiki.example.com/x?y=1#z", "http://10.0.0.1:9090/graph"])
def test_a_web_address_may_become_a_link(text: str) -> None:
    assert words.safe_url(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "javascript:alert(1)",
        "JaVaScRiPt://x/%0aalert(1)",
        "data:text/html,<script>",
        "//evil.example.com",
        "https:evil",
        "http://a b",
        "http://x\ny",
        "ftp://x",
        "http://[",
        "",
        None,
        7,
    ],
)
def test_nothing_else_does(text: object) -> None:
    assert words.safe_url(text) is None


def entry(kind: str, at: int = 0, **detail: object) -> dict[str, object]:
    return {"at": f"2026-11-25T12:{at:02}:00Z", "kind": kind, "actor": "sender", "detail": detail}


def test_a_timeline_reads_newest_first_in_sentences() -> None:
    lines = sentences(
        [
            entry("opened", 1, severity="high"),
            entry("classified", 2, tier="lexical", confidence=0.98, recipe="disk-full", provisional=True),
            entry("severity_changed", 3, before="high", after="critical"),
            entry("feedback", 4, answer="correct", recipe="log-partition-full"),
            entry("needs_human", 5, reason="no recipe fits"),
        ]
    )
    assert [line.text for line in lines] == [
        "Needs a person",
        "Corrected to log-partition-full",
        "Severity high → critical",
        "Recipe disk-full (words, 98 %, for now)",
        "Opened, high",
    ]
    assert lines[0].note == "no recipe fits"


def test_many_repetitions_in_a_row_are_one_line() -> None:
    lines = sentences([entry("opened", 0, severity="low"), *[entry("repeated", at) for at in range(1, 9)]])
    assert [line.text for line in lines] == ["8 repetitions in a row, this is the last of them", "Opened, low"]


def test_a_kind_that_nobody_has_put_into_words_is_still_said() -> None:
    assert sentences([entry("something_new")])[0].text == "Something new"


@pytest.mark.parametrize("most", [0, 3, 5, 7, 11, 45, 61, 999, 20_000_000])
def test_the_scale_of_the_chart_holds_the_busiest_hour_and_halves_to_a_whole_number(most: int) -> None:
    top = ceiling([Hour(NOON, {"disk_full": most})])
    assert top >= most
    assert top % 2 == 0
