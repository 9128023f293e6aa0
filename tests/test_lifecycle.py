"""DESIGN 3.4, alert by alert, without a database: what one identity's alerts do to its incident."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bodies import alert, minute
from openremedy import lifecycle
from openremedy.alerts import Alert
from openremedy.lifecycle import Entry, Episode, Result, Track

START = datetime(2026, 5, 5, tzinfo=UTC)  # our clock; on purpose far from the sender's


class Life:
    """The alerts of one identity, each in a body of its own; remembers between them what the store remembers."""

    def __init__(self) -> None:
        self.now = START
        self.episodes: list[Episode] = []
        self.entries: list[Entry] = []
        self.seen: dict[uuid.UUID, set[str]] = {}
        self.orphans: list[datetime] = []

    def track(self) -> Track:
        latest = next((one for one in self.episodes if one.latest), None)
        known = self.seen.get(latest.id, set()) if latest else set()
        return Track(latest=latest, known=set(known), orphan_end=max(self.orphans, default=None))

    def keep(self, track: Track) -> None:
        self.entries += track.entries
        self.episodes += [one for one in track.episodes if one.new]
        for one in track.episodes:
            one.new = one.changed = False

    def send(self, status: str = "firing", at: float | None = None, **changes: Any) -> Result:
        """One alert, a second after the one before it."""
        return self.body(alert(status, at, **changes))[0]

    def body(self, *alerts: Alert) -> list[Result]:
        """Several alerts in one body; their results in its order."""
        self.now += timedelta(seconds=1)
        track = self.track()
        results = {}
        for position, one in lifecycle.in_event_order(list(enumerate(alerts))):
            result = results[position] = lifecycle.apply(track, one, self.now)
            if one.occurred_at and result.episode:
                self.seen.setdefault(result.episode, set()).add(one.digest())
            if result.orphan and one.occurred_at:
                self.orphans.append(one.occurred_at)
        self.keep(track)
        return [results[position] for position in range(len(alerts))]

    def fire(self, at: float | None = None, **changes: Any) -> str:
        return str(self.send("firing", at, **changes).outcome)

    def resolve(self, at: float | None = None) -> str:
        return str(self.send("resolved", at).outcome)

    def close(self, ended_by: str = "person") -> None:
        self.now += timedelta(seconds=1)
        track = self.track()
        assert track.open
        assert lifecycle.close(track, track.open, self.now, ended_by=ended_by, actor="bob")
        self.keep(track)

    @property
    def latest(self) -> Episode:
        return next(one for one in self.episodes if one.latest)

    def kinds(self, episode: Episode | None = None) -> list[str]:
        wanted = episode or self.latest
        return [entry.kind for entry in self.entries if entry.episode == wanted.id]


@pytest.fixture
def life() -> Life:
    return Life()


# ---------------------------------------------------------------- firing


def test_the_first_firing_opens_an_episode(life: Life) -> None:
    assert life.fire(at=0, severity="high") == "created"
    assert (life.latest.status, life.latest.occurrences, life.latest.severity) == ("open", 1, "high")
    assert life.latest.first_seen == life.latest.last_seen == life.now
    assert (life.latest.previous, life.latest.still_firing, life.latest.flapping) == (None, False, False)
    assert life.kinds() == ["opened"]


def test_a_firing_without_a_time_is_a_new_observation_each_time(life: Life) -> None:
    assert [life.fire(), life.fire(), life.fire()] == ["created", "updated", "updated"]
    assert life.latest.occurrences == 3
    assert life.latest.last_seen == life.now


def test_the_same_event_again_is_a_duplicate_and_only_last_seen_moves(life: Life) -> None:
    life.fire(at=0, evidence={"a": 1})
    assert life.fire(at=0, evidence={"a": 1}) == "duplicate"
    assert life.latest.occurrences == 1
    assert life.latest.last_seen == life.now
    assert life.kinds() == ["opened"]


@pytest.mark.parametrize("change", [{"at": 1}, {"severity": "low"}, {"evidence": {"a": 2}}])
def test_another_time_severity_or_evidence_is_not_a_duplicate(life: Life, change: dict[str, Any]) -> None:
    life.send(at=0, evidence={"a": 1})
    assert life.send(**({"at": 0, "evidence": {"a": 1}} | change)).outcome == "updated"
    assert life.latest.occurrences == 2


def test_the_same_event_of_an_older_time_is_a_duplicate_too(life: Life) -> None:
    life.fire(at=0)
    life.fire(at=5)
    assert life.fire(at=0) == "duplicate"
    assert life.latest.occurrences == 2


def test_a_newer_firing_brings_its_severity_and_evidence(life: Life) -> None:
    life.fire(at=0, severity="medium", evidence={"percent": 91})
    newest = alert(at=5, severity="critical", evidence={"percent": 99})
    assert life.body(newest)[0].outcome == "updated"
    assert life.latest.severity == "critical"
    assert life.latest.newest is newest
    changed = life.entries[-1]
    assert (changed.kind, changed.detail) == ("severity_changed", {"before": "medium", "after": "critical"})


def test_an_older_event_counts_but_never_overwrites_a_newer_one(life: Life) -> None:
    life.fire(at=5, severity="critical", evidence={"percent": 99})
    newest = life.latest.newest
    result = life.send(at=0, severity="low", evidence={"percent": 10})
    assert result.outcome == "updated"
    assert "older" in str(result.reason)
    assert (life.latest.severity, life.latest.newest, life.latest.occurrences) == ("critical", newest, 2)
    assert life.kinds() == ["opened"]


def test_of_two_events_at_the_same_time_the_later_to_arrive_counts(life: Life) -> None:
    life.fire(at=5, severity="low")
    assert life.fire(at=5, severity="high") == "updated"
    assert life.latest.severity == "high"


def test_an_event_without_a_time_is_the_newest_when_it_arrives(life: Life) -> None:
    life.fire(at=5, severity="low")
    life.fire(severity="high")
    assert life.latest.severity == "high"


def test_a_firing_leaves_an_acknowledged_episode_acknowledged(life: Life) -> None:
    life.fire()
    life.send("acknowledged")
    assert life.fire() == "updated"
    assert life.latest.status == "acknowledged"


# ---------------------------------------------------------------- resolve


@pytest.mark.parametrize("at", [None, 0, 9], ids=["no time", "equal times", "later"])
def test_a_resolve_ends_the_episode(life: Life, at: float | None) -> None:
    life.fire(at=0)
    assert life.resolve(at) == "resolved"
    assert (life.latest.status, life.latest.ended_by, life.latest.resolved_at) == ("resolved", "sender", life.now)
    assert life.kinds() == ["opened", "resolved"]


def test_a_resolve_ends_an_acknowledged_episode(life: Life) -> None:
    life.fire()
    life.send("acknowledged")
    assert life.resolve() == "resolved"


def test_a_resolve_older_than_the_newest_firing_is_ignored(life: Life) -> None:
    life.fire(at=0)
    life.fire(at=5)
    result = life.send("resolved", at=3)
    assert (result.outcome, result.episode, result.orphan) == ("ignored", life.latest.id, False)
    assert life.latest.status == "open"


def test_the_newest_firing_counts_and_not_the_last_to_arrive(life: Life) -> None:
    life.fire(at=10)
    life.fire(at=5)
    assert life.resolve(at=7) == "ignored"


def test_the_newest_firing_counts_also_where_an_update_was_newer(life: Life) -> None:
    life.fire(at=0)
    life.send("update", at=10)
    life.fire(at=5, severity="low")
    assert life.resolve(at=3) == "ignored"
    assert life.resolve(at=5) == "resolved"


def test_a_resolve_with_nothing_open_is_recorded_and_ignored(life: Life) -> None:
    result = life.send("resolved", at=0)
    assert (result.outcome, result.episode, result.orphan) == ("ignored", None, True)
    assert life.episodes == []


def test_a_resolve_without_a_time_and_with_nothing_open_cannot_be_matched_later(life: Life) -> None:
    assert not life.send("resolved").orphan
    assert life.fire(at=0) == "created"
    assert life.latest.status == "open"


def test_a_second_resolve_is_ignored(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    assert life.resolve(at=5) == "ignored"
    assert life.kinds() == ["opened", "resolved"]


def test_a_replayed_resolve_does_not_end_a_newer_episode(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    life.fire(at=6)
    assert life.resolve(at=5) == "ignored"
    assert life.latest.status == "open"


def test_a_replayed_resolve_does_not_end_a_newer_episode_without_a_time(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    life.fire()
    assert life.resolve(at=5) == "ignored"
    assert life.latest.status == "open"


# ---------------------------------------------------------------- late and out of order


@pytest.mark.parametrize("late", [0, 3, 5], ids=["its firing", "a later one", "equal times"])
def test_a_late_firing_of_what_the_sender_resolved_opens_nothing(life: Life, late: float) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    result = life.send(at=late, evidence={"late": True})
    assert (result.outcome, result.episode) == ("duplicate", life.latest.id)
    assert (len(life.episodes), life.latest.occurrences) == (1, 1)


def test_a_firing_after_the_end_opens_the_next_episode(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    assert life.fire(at=5.01) == "created"


def test_a_resolve_without_a_time_counts_as_late_as_the_newest_firing(life: Life) -> None:
    life.fire(at=0)
    life.fire(at=4)
    life.resolve()
    assert [life.fire(at=0), life.fire(at=3), life.fire(at=4), life.fire(at=4.01)] == [
        *["duplicate"] * 3,
        "created",
    ]


@pytest.mark.parametrize("state", ["open", "resolved", "closed by a person"])
def test_a_late_firing_opens_nothing_episodes_later(life: Life, state: str) -> None:
    life.fire(at=0)
    life.resolve(at=1)
    life.fire(at=10)
    life.resolve(at=11)
    life.fire(at=20)
    if state == "resolved":
        life.resolve(at=21)
    if state == "closed by a person":
        life.close()
    assert [life.fire(at=0), life.fire(at=1), life.fire(at=10), life.fire(at=11)] == ["duplicate"] * 4
    assert (len(life.episodes), life.latest.occurrences) == (3, 1)


def test_a_late_firing_without_a_time_cannot_be_told_and_opens_one(life: Life) -> None:
    life.fire()
    life.resolve()
    assert life.fire() == "created"


def test_a_firing_whose_resolve_overtook_it_is_shown_and_over(life: Life) -> None:
    life.resolve(at=5)
    result = life.send(at=0)
    assert (result.outcome, life.latest.status, life.latest.ended_by) == ("created", "resolved", "sender")
    assert life.kinds() == ["opened", "resolved"]
    assert life.fire(at=0) == "duplicate"
    assert life.fire(at=5) == "duplicate"
    assert life.fire(at=6) == "created"
    assert life.latest.status == "open"


def test_a_firing_later_than_the_lone_resolve_stays_open(life: Life) -> None:
    life.resolve(at=5)
    life.fire(at=6)
    assert life.latest.status == "open"


def test_a_lone_resolve_of_a_later_episode_ends_it_when_it_comes(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    life.resolve(at=15)
    assert life.fire(at=10) == "created"
    assert (len(life.episodes), life.latest.status) == (2, "resolved")


def test_the_senders_times_are_never_held_against_our_clock(life: Life) -> None:
    years = 60 * 24 * 365 * 20.0
    assert [life.fire(at=years), life.resolve(at=years + 5)] == ["created", "resolved"]
    assert life.fire(at=years + 6) == "created"
    assert [life.resolve(at=years + 7), life.fire(at=-years)] == ["resolved", "duplicate"]


# ---------------------------------------------------------------- the next episode


def test_a_firing_after_a_resolve_links_to_the_episode_before(life: Life) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    life.fire(at=10)
    first, second = life.episodes
    assert (second.previous, second.still_firing) == (first.id, False)
    assert (first.latest, second.latest) == (False, True)
    assert life.entries[-1].detail["previous_incident_id"] == str(first.id)


@pytest.mark.parametrize("ended_by", ["person", "stale"])
@pytest.mark.parametrize("at", [None, 0, -5, 5])
def test_after_a_person_or_the_clock_the_next_firing_is_still_firing(
    life: Life, ended_by: str, at: float | None
) -> None:
    life.fire(at=0)
    life.close(ended_by)
    assert life.fire(at=at) == "created"
    first, second = life.episodes
    assert (second.previous, second.still_firing, second.status) == (first.id, True, "open")
    assert life.kinds() == ["still_firing"]


@pytest.mark.parametrize("end", [None, 5])
def test_it_is_not_still_firing_when_the_sender_confirmed_the_end(life: Life, end: float | None) -> None:
    life.fire(at=0)
    life.close()
    assert life.resolve(end) == "ignored"
    assert life.kinds() == ["opened", "resolved", "sender_resolved"]
    assert life.latest.ended_by == "person"
    assert life.fire(at=0) == "duplicate"
    assert life.fire(at=6) == "created"
    assert not life.latest.still_firing


def test_a_resolve_from_before_the_newest_firing_confirms_nothing(life: Life) -> None:
    life.fire(at=0)
    life.fire(at=5)
    life.close()
    assert life.resolve(at=3) == "ignored"
    life.fire(at=5)
    assert life.latest.still_firing


def test_a_person_ends_what_burns_on_again_and_again(life: Life) -> None:
    for _ in range(3):
        life.fire(at=0)
        life.close()
    assert [one.still_firing for one in life.episodes] == [False, True, True]


def test_a_person_cannot_end_an_episode_twice(life: Life) -> None:
    life.fire()
    life.close()
    assert not lifecycle.close(life.track(), life.latest, life.now, ended_by="person", actor="eve")
    assert life.kinds() == ["opened", "resolved"]


@pytest.mark.parametrize(("minutes", "flapping"), [(20, True), (59.9, True), (61, False)])
def test_three_episodes_begun_within_an_hour_of_our_clock_are_flapping(
    life: Life, minutes: float, flapping: bool
) -> None:
    begin = life.now
    for part in (0, 0.5, 1):
        life.now = begin + timedelta(minutes=minutes) * part
        life.fire()
        life.resolve()
    assert [one.flapping for one in life.episodes] == [False, False, flapping]
    assert ("flapping" in life.kinds()) is flapping


def test_flapping_ends_when_it_gets_quiet(life: Life) -> None:
    for _ in range(5):
        life.fire()
        life.resolve()
    life.now += timedelta(minutes=61)
    life.fire()
    assert [one.flapping for one in life.episodes] == [False, False, True, True, True, False]


def test_many_firings_of_one_episode_are_not_flapping(life: Life) -> None:
    for _ in range(10):
        life.fire()
    assert not life.latest.flapping


# ---------------------------------------------------------------- acknowledge, note, update


def test_an_acknowledge_acknowledges(life: Life) -> None:
    life.fire(at=0)
    assert life.send("acknowledged", at=1).outcome == "updated"
    assert (life.latest.status, life.latest.acknowledged_at) == ("acknowledged", life.now)
    assert life.kinds() == ["opened", "acknowledged"]


def test_it_is_acknowledged_once_however_often_the_sender_says_so(life: Life) -> None:
    life.fire()
    assert [life.send("acknowledged").outcome, life.send("acknowledged").outcome] == ["updated", "updated"]
    assert life.kinds() == ["opened", "acknowledged"]


def test_the_same_acknowledge_again_is_a_duplicate(life: Life) -> None:
    life.fire(at=0)
    life.send("acknowledged", at=1)
    assert life.send("acknowledged", at=1).outcome == "duplicate"
    assert life.kinds() == ["opened", "acknowledged"]


@pytest.mark.parametrize("status", ["acknowledged", "note", "update"])
def test_it_ignores_changes_with_nothing_open(life: Life, status: str) -> None:
    assert life.send(status).outcome == "ignored"
    life.fire(at=0)
    life.resolve(at=5)
    assert life.send(status, at=6).outcome == "ignored"
    assert life.latest.status == "resolved"
    assert len(life.episodes) == 1


@pytest.mark.parametrize("status", ["acknowledged", "note", "update"])
def test_a_late_change_of_an_earlier_episode_leaves_the_newer_alone(life: Life, status: str) -> None:
    life.fire(at=0)
    life.resolve(at=5)
    life.fire(at=10)
    assert life.send(status, at=3, severity="critical").outcome == "ignored"
    assert (life.latest.status, life.latest.severity) == ("open", "medium")


def test_a_note_is_put_on_the_timeline_and_changes_nothing_else(life: Life) -> None:
    life.fire(at=0)
    newest = life.latest.newest
    assert life.send("note", at=1, severity="critical", evidence={"text": "looking"}).outcome == "updated"
    assert life.entries[-1].kind == "note"
    assert life.entries[-1].detail == {"evidence": {"text": "looking"}}
    assert (life.latest.severity, life.latest.newest, life.latest.occurrences) == ("medium", newest, 1)


def test_an_update_changes_severity_and_evidence_and_is_no_occurrence(life: Life) -> None:
    life.fire(at=0)
    update = alert("update", at=1, severity="critical", evidence={"a": 1})
    assert life.body(update)[0].outcome == "updated"
    assert (life.latest.severity, life.latest.newest, life.latest.occurrences) == ("critical", update, 1)
    assert life.kinds() == ["opened", "severity_changed"]


@pytest.mark.parametrize("status", ["firing", "update"])
def test_an_older_event_never_overwrites_a_newer_update(life: Life, status: str) -> None:
    life.fire(at=0)
    life.send("update", at=10, severity="critical")
    life.send(status, at=5, severity="low")
    assert life.latest.severity == "critical"


# ---------------------------------------------------------------- several alerts in one body


def test_a_body_is_folded_in_the_order_of_its_events(life: Life) -> None:
    results = life.body(
        alert(at=10, evidence={"n": 3}), alert("resolved", at=5), alert(at=0, evidence={"n": 1}), alert(at=1)
    )
    assert [one.outcome for one in results] == ["created", "resolved", "created", "updated"]
    first, second = life.episodes
    assert (first.status, second.status) == ("resolved", "open")
    assert second.previous == first.id
    assert [result.episode for result in results] == [second.id, first.id, first.id, first.id]


def test_each_episode_of_a_body_keeps_its_own_evidence(life: Life) -> None:
    life.body(alert(at=0, evidence={"n": 1}), alert("resolved", at=5), alert(at=10, evidence={"n": 2}))
    assert [dict(one.newest.evidence) for one in life.episodes if one.newest] == [{"n": 1}, {"n": 2}]


def test_a_body_may_end_the_open_episode_and_begin_the_next(life: Life) -> None:
    life.fire(at=0)
    outcomes = [one.outcome for one in life.body(alert(at=10), alert("resolved", at=5))]
    assert outcomes == ["created", "resolved"]
    assert [one.status for one in life.episodes] == ["resolved", "open"]


def test_at_the_same_time_the_firing_comes_before_its_end(life: Life) -> None:
    results = life.body(alert("resolved", at=0), alert(at=0))
    assert [one.outcome for one in results] == ["resolved", "created"]
    assert life.latest.status == "resolved"


def test_the_same_alert_twice_in_a_body_counts_once(life: Life) -> None:
    assert [one.outcome for one in life.body(alert(at=0), alert(at=0))] == ["created", "duplicate"]


def test_alerts_without_a_time_keep_their_places(life: Life) -> None:
    results = life.body(alert(), alert("resolved"), alert(), alert("resolved"), alert())
    assert [one.outcome for one in results] == ["created", "resolved", "created", "resolved", "created"]
    assert [one.flapping for one in life.episodes] == [False, False, True]


def test_ordering_moves_only_the_alerts_that_have_a_time() -> None:
    body = list(enumerate([alert(at=9), alert(), alert(at=1), alert("resolved"), alert(at=4)]))
    assert [position for position, _ in lifecycle.in_event_order(body)] == [2, 1, 4, 3, 0]


def test_thousands_of_episodes_in_one_body_are_folded_in_no_time(life: Life) -> None:
    life.body(*[alert(status, at=2 * n + (status == "resolved")) for n in range(5000) for status in FIRE_AND_RESOLVE])
    assert len(life.episodes) == 5000
    assert sum(one.latest for one in life.episodes) == 1
    assert life.latest.sender_end == minute(9999)


FIRE_AND_RESOLVE = ("firing", "resolved")
