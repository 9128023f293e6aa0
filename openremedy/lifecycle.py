"""What one alert does to its incident: pure decisions, one identity at a time. DESIGN 3.4 in code.

The store loads and locks the newest episode of an identity, hands it here alert by alert, and writes what changed.
The sender's times are compared with each other only, never with our clock.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from openremedy.alerts import Alert, AlertStatus, Outcome
from openremedy.ids import new_id

FLAPPING_WINDOW = timedelta(minutes=60)
FLAPPING_EPISODES = 3
# An alert that its sender repeats as long as it fires, and still does so long after its end, burns. Until then it may
# be the other one of a pair that has not seen the end yet.
AFTERMATH = timedelta(minutes=5)
SENDER = "sender"
HOW = "resolution"  # evidence of a resolve that belongs on the timeline: how it ended, where that is not plain
NOTHING_TO_ACKNOWLEDGE = "nothing is open to acknowledge"


@dataclass(eq=False)
class Episode:
    """An incident as the lifecycle sees it; `changed` and `new` tell the store what to write."""

    id: uuid.UUID
    status: str  # open, acknowledged, resolved
    severity: str
    occurrences: int
    last_seen: datetime
    recent_starts: list[float]  # seconds of our clock, newest last
    first_seen: datetime
    event_at: datetime | None = None  # of the newest event that set severity and evidence
    event_digest: str | None = None
    fired_at: datetime | None = None  # newest firing, also one that came after a newer update
    sender_end: datetime | None = None
    expires_at: datetime | None = None
    acknowledged_at: datetime | None = None
    resolved_at: datetime | None = None
    ended_by: str | None = None
    sender_ended: bool = False
    latest: bool = True
    # Only of an episode that begins here.
    previous: uuid.UUID | None = None
    still_firing: bool = False
    flapping: bool = False
    # Bookkeeping for the store.
    new: bool = False
    changed: bool = False
    newest: Alert | None = None  # its severity and evidence are to be written

    def as_stored(self) -> "Episode":
        """Another, as it would be read again: nothing of it is to be written. A tenth of the time of copy.copy()."""
        other: Episode = object.__new__(Episode)
        vars(other).update(vars(self), new=False, changed=False, newest=None)
        return other


@dataclass(frozen=True)
class Entry:
    """One line of the timeline to be written."""

    episode: uuid.UUID
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    actor: str = SENDER


class Result(NamedTuple):
    """What became of an alert. `orphan`: a resolve to be remembered because its firing may still come."""

    outcome: Outcome
    episode: uuid.UUID | None = None
    reason: str | None = None
    orphan: bool = False
    said: Alert | None = None  # what the alert was taken for, where that is not what it was sent as


@dataclass
class Track:
    """One identity while a body is applied to it."""

    latest: Episode | None = None
    known: set[str] = field(default_factory=set)  # digests of timed alerts the open episode has seen
    orphan_end: datetime | None = None  # newest resolve that found nothing to close
    episodes: list[Episode] = field(default_factory=list)  # touched or begun, oldest first
    entries: list[Entry] = field(default_factory=list)

    @property
    def open(self) -> Episode | None:
        """The open episode, if there is one."""
        return self.latest if self.latest and self.latest.status != "resolved" else None

    def say(self, episode: Episode, kind: str, **detail: Any) -> None:
        """Put a line on the timeline."""
        self.entries.append(Entry(episode.id, kind, detail))


def in_event_order(alerts: Sequence[tuple[int, Alert]]) -> list[tuple[int, Alert]]:
    """Alerts of one identity in the order their events happened; one without a time keeps its place in the body.

    Sorting only the timed ones among themselves keeps the order total.
    """
    if len(alerts) == 1:
        return list(alerts)
    timed = iter(sorted((pair for pair in alerts if pair[1].occurred_at), key=_event_key))
    return [next(timed) if pair[1].occurred_at else pair for pair in alerts]


def _event_key(pair: tuple[int, Alert]) -> tuple[datetime | None, bool, int]:
    # At the same instant the firing comes before its end.
    return pair[1].occurred_at, pair[1].status is AlertStatus.RESOLVED, pair[0]


def apply(
    track: Track,
    alert: Alert,
    at: datetime,
    *,
    opens: bool = False,
    expires_at: datetime | None = None,
    repeats: bool = False,
) -> Result:
    """Apply one alert received `at` (our clock) and return what became of it.

    `opens`: an acknowledgement opens an incident where none is open. `expires_at`: until when a firing holds; one that
    had expired when it came says that it is over since then. `repeats`: its sender says again that it fires as long as
    it does, as every one does whose firings expire.
    """
    match alert.status:
        case AlertStatus.FIRING if expires_at and expires_at <= at:
            return _over(track, alert, at, expires_at)
        case AlertStatus.FIRING:
            result = _fire(track, alert, at, repeated=repeats or expires_at is not None)
            _renew(track, result, expires_at)
            return result
        case AlertStatus.ACKNOWLEDGED:
            return _acknowledge(track, alert, at, opens)
        case AlertStatus.RESOLVED:
            return _resolve(track, alert, at)
        case AlertStatus.NOTE | AlertStatus.UPDATE:
            return _change(track, alert, at)


def _fire(track: Track, alert: Alert, at: datetime, repeated: bool) -> Result:
    latest = track.latest
    if latest and _not_later(alert.occurred_at, latest.sender_end):
        if repeated and latest.resolved_at and at - latest.resolved_at > AFTERMATH:
            episode = _begin(track, alert, at, burning=True)
            return Result(Outcome.CREATED, episode.id, "still repeated long after its end was said")
        return Result(Outcome.DUPLICATE, latest.id, "not later than the end the sender gave to an earlier episode")
    if track.open:
        return _repeat(track, track.open, alert, at)
    episode = _begin(track, alert, at)
    if _not_later(alert.occurred_at, track.orphan_end):
        # Its resolve overtook it. It is shown, and it is over.
        _end(track, episode, at, track.orphan_end)
        return Result(Outcome.CREATED, episode.id, "its resolve had arrived before it")
    return Result(Outcome.CREATED, episode.id)


def _over(track: Track, alert: Alert, at: datetime, end: datetime) -> Result:
    """A firing that had expired when it came: its end, where it is not only late."""
    episode = track.open
    if episode and episode.expires_at and end >= episode.expires_at:
        # An alert ends before the time that it had promised to hold. This repetition was long on its way.
        _touch(track, episode, at)
        return Result(Outcome.DUPLICATE, episode.id, "a repetition that came too late to hold")
    ended = replace(alert, status=AlertStatus.RESOLVED, occurred_at=end)
    # Not remembered where nothing is open: its firing cannot come later, and a clock that is off must hide nothing.
    return _resolve(track, ended, at)._replace(orphan=False, said=ended)


def _renew(track: Track, result: Result, expires_at: datetime | None) -> None:
    """The open episode holds as long as any of its firings says; one that says nothing holds for ever."""
    episode = track.open
    if episode is None or episode.id != result.episode:
        return
    if result.outcome is not Outcome.CREATED:
        expires_at = max(episode.expires_at, expires_at) if episode.expires_at and expires_at else None
    if episode.expires_at != expires_at:
        _touch(track, episode, episode.last_seen)
        episode.expires_at = expires_at


def _not_later(moment: datetime | None, end: datetime | None) -> bool:
    return moment is not None and end is not None and moment <= end


def _repeat(track: Track, episode: Episode, alert: Alert, at: datetime) -> Result:
    _touch(track, episode, at)
    if _seen(track, alert):
        return Result(Outcome.DUPLICATE, episode.id)
    episode.occurrences += 1
    if alert.occurred_at:
        episode.fired_at = max(episode.fired_at or alert.occurred_at, alert.occurred_at)
    if _older(alert, episode):
        return Result(Outcome.UPDATED, episode.id, "older than the newest event; severity and evidence were kept")
    _take_over(track, episode, alert)
    return Result(Outcome.UPDATED, episode.id)


def _older(alert: Alert, episode: Episode) -> bool:
    return bool(alert.occurred_at and episode.event_at and alert.occurred_at < episode.event_at)


def _take_over(track: Track, episode: Episode, alert: Alert) -> None:
    if alert.severity != episode.severity:
        track.say(episode, "severity_changed", before=str(episode.severity), after=str(alert.severity))
    episode.severity = alert.severity
    episode.event_at = alert.occurred_at or episode.event_at
    episode.event_digest = alert.digest() if alert.occurred_at else None
    episode.newest = alert


def _touch(track: Track, episode: Episode, at: datetime) -> None:
    if not episode.new and not episode.changed:
        track.episodes.append(episode)
    episode.last_seen = max(episode.last_seen, at)
    episode.changed = True


def _begin(track: Track, alert: Alert, at: datetime, burning: bool = False) -> Episode:
    """`burning`: the end that its sender gave to the last episode was none."""
    before = track.latest
    episode = Episode(
        id=new_id(),
        status="open",
        severity=alert.severity,
        occurrences=1,
        first_seen=at,
        last_seen=at,
        recent_starts=_recent_starts(before, at),
        event_at=alert.occurred_at,
        event_digest=alert.digest() if alert.occurred_at else None,
        fired_at=alert.occurred_at,
        sender_end=before.sender_end if before and not burning else None,
        previous=before.id if before else None,
        still_firing=burning or (before is not None and not before.sender_ended),
        newest=alert,
        new=True,
    )
    episode.flapping = len(episode.recent_starts) >= FLAPPING_EPISODES
    if before:
        _touch(track, before, before.last_seen)
        before.latest = False
    track.latest = episode
    track.episodes.append(episode)
    track.known = {episode.event_digest} if episode.event_digest else set()
    _say_begun(track, episode)
    return episode


def _recent_starts(before: Episode | None, at: datetime) -> list[float]:
    if before is None:
        return [at.timestamp()]
    since = (at - FLAPPING_WINDOW).timestamp()
    earlier = [start for start in before.recent_starts if start > since]
    return [*earlier[-(FLAPPING_EPISODES - 1) :], at.timestamp()]


def _say_begun(track: Track, episode: Episode) -> None:
    detail: dict[str, Any] = {"severity": str(episode.severity)}
    if episode.previous:
        detail["previous_incident_id"] = str(episode.previous)
    track.say(episode, "still_firing" if episode.still_firing else "opened", **detail)
    if episode.flapping:
        minutes = int(FLAPPING_WINDOW.total_seconds() // 60)
        track.say(episode, "flapping", episodes=len(episode.recent_starts), minutes=minutes)


def _acknowledge(track: Track, alert: Alert, at: datetime, opens: bool) -> Result:
    episode = track.open
    if not episode:
        return _open_acknowledged(track, alert, at) if opens else Result(Outcome.IGNORED, reason=NOTHING_TO_ACKNOWLEDGE)
    if _not_later(alert.occurred_at, episode.sender_end):
        return Result(Outcome.IGNORED, episode.id, "it acknowledges an earlier episode")
    _touch(track, episode, at)
    if _seen(track, alert):
        return Result(Outcome.DUPLICATE, episode.id)
    acknowledge(track, episode, at, SENDER)
    return Result(Outcome.UPDATED, episode.id)


def _open_acknowledged(track: Track, alert: Alert, at: datetime) -> Result:
    """Somebody is at it in the tool, and its firing was never seen here."""
    latest = track.latest
    if latest and _not_later(alert.occurred_at, latest.sender_end):
        return Result(Outcome.IGNORED, latest.id, "it acknowledges an earlier episode")
    if _not_later(alert.occurred_at, track.orphan_end):
        return Result(Outcome.IGNORED, None, "its resolve had arrived before it")
    if latest and not latest.sender_ended and _not_later(alert.occurred_at, latest.event_at):
        return Result(Outcome.IGNORED, latest.id, "it acknowledges an episode that was closed here")
    episode = _begin(track, alert, at)
    acknowledge(track, episode, at, SENDER)
    return Result(Outcome.CREATED, episode.id)


def _seen(track: Track, alert: Alert) -> bool:
    """Whether the open episode has this very event; from now on it has."""
    if not alert.occurred_at:
        return False
    digest = alert.digest()
    seen = digest in track.known
    track.known.add(digest)
    return seen


def acknowledge(track: Track, episode: Episode, at: datetime, actor: str) -> bool:
    """Acknowledge an open episode; False when there is nothing to change."""
    if episode.status != "open":
        return False
    _touch(track, episode, episode.last_seen)
    episode.status = "acknowledged"
    episode.acknowledged_at = at
    track.entries.append(Entry(episode.id, "acknowledged", actor=actor))
    return True


def _resolve(track: Track, alert: Alert, at: datetime) -> Result:
    episode = track.open
    if not episode:
        return _late_resolve(track, alert)
    if _not_later(alert.occurred_at, episode.sender_end):
        return Result(Outcome.IGNORED, episode.id, "it ends an earlier episode")
    if alert.occurred_at and episode.fired_at and alert.occurred_at < episode.fired_at:
        return Result(Outcome.IGNORED, episode.id, "older than the newest firing")
    episode.last_seen = max(episode.last_seen, at)
    how = {HOW: alert.evidence[HOW]} if HOW in alert.evidence else {}
    _end(track, episode, at, alert.occurred_at, **how)
    return Result(Outcome.RESOLVED, episode.id)


def _end(track: Track, episode: Episode, at: datetime, sender_end: datetime | None, **detail: Any) -> None:
    """The sender says it is over."""
    close(track, episode, at, ended_by=SENDER, actor=SENDER, **detail)
    _remember_end(episode, sender_end)


def _remember_end(episode: Episode, sender_end: datetime | None) -> None:
    episode.sender_ended = True
    # Without a time of its own the end is as late as the newest firing.
    times = [moment for moment in (episode.sender_end, sender_end or episode.fired_at) if moment]
    episode.sender_end = max(times, default=None)


def close(track: Track, episode: Episode, at: datetime, *, ended_by: str, actor: str, **detail: Any) -> bool:
    """End an episode by its sender, a person or the clock; False when it has ended already."""
    if episode.status == "resolved":
        return False
    _touch(track, episode, episode.last_seen)
    episode.status = "resolved"
    episode.resolved_at = at
    episode.ended_by = ended_by
    track.entries.append(Entry(episode.id, "stale" if ended_by == "stale" else "resolved", detail, actor))
    return True


def _late_resolve(track: Track, alert: Alert) -> Result:
    latest = track.latest
    if latest and _not_later(alert.occurred_at, latest.sender_end):
        return Result(Outcome.IGNORED, latest.id, "nothing is open; this end was known")
    before_firing = latest and alert.occurred_at and latest.fired_at and alert.occurred_at < latest.fired_at
    if latest and not latest.sender_ended and not before_firing:
        # A person or the clock was faster. Now the sender agrees, so a late copy of its firing opens nothing.
        _touch(track, latest, latest.last_seen)
        _remember_end(latest, alert.occurred_at)
        track.say(latest, "sender_resolved")
        return Result(Outcome.IGNORED, latest.id, "nothing is open; the sender confirms the end")
    return Result(Outcome.IGNORED, None, "nothing is open to resolve", orphan=alert.occurred_at is not None)


def _change(track: Track, alert: Alert, at: datetime) -> Result:
    """`note` and `update`, from adapters only: they change the open incident and never open one."""
    episode = track.open
    if not episode:
        return Result(Outcome.IGNORED, reason="nothing is open to change")
    if _not_later(alert.occurred_at, episode.sender_end):
        return Result(Outcome.IGNORED, episode.id, "it changes an earlier episode")
    _touch(track, episode, at)
    if _seen(track, alert):
        return Result(Outcome.DUPLICATE, episode.id)
    if alert.status is AlertStatus.NOTE:
        track.say(episode, "note", evidence=dict(alert.evidence))
    elif not _older(alert, episode):
        _take_over(track, episode, alert)
    return Result(Outcome.UPDATED, episode.id)
