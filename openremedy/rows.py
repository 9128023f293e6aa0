"""What the door writes: the rows of a body's alerts, of their incidents and of the timeline."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from openremedy import lifecycle
from openremedy.alerts import Alert, AlertStatus, Outcome
from openremedy.lifecycle import Episode, Result, Track
from openremedy.models import Triage

GATE = 0x6F72 << 48  # with a tenant's number added: the advisory lock that is its gate
STATE = (
    "status severity occurrences first_seen last_seen recent_starts event_at event_digest fired_at sender_end "
    "expires_at acknowledged_at resolved_at ended_by sender_ended latest"
).split()
CHANGING = [name for name in STATE if name not in ("first_seen", "recent_starts")]
# What the lifecycle decides by, of all that can change; the others only add up.
DECIDING = [name for name in CHANGING if name not in ("occurrences", "last_seen")]


class Arrival(NamedTuple):
    """An alert at its place in the body, with the identity it belongs to; the rest as lifecycle.apply() has it."""

    position: int
    alert: Alert
    identity: str
    opens: bool = False
    expires_at: datetime | None = None
    repeats: bool = False


@dataclass(frozen=True)
class Unplaced:
    """What belongs to no incident, beside siblings that do: it was rejected, or is ignored by design.

    `beat`: the alert that always fires (True), or its end (False).
    """

    position: int
    outcome: Outcome
    reason: str
    beat: bool | None = None


class Stored(NamedTuple):
    """The outcome of one alert, and whether its incident waits to be classified."""

    outcome: Outcome
    incident_id: uuid.UUID | None
    reason: str | None = None


# Columns of a new incident, of an alert and of the timeline, but for those that all rows of a body have in common. A
# moment read from text is dear: an incident that begins has three that are the same.
BEGINNING = ("first_seen", "last_seen", "triage_since")
_OWN = [name for name in STATE if name not in BEGINNING]
NEW = [*_OWN, "id", "identity", "dedup_key", "hostname", "incident_type", "evidence", "previous_incident_id"]
NEW += ["still_firing", "flapping", "triage"]
ALERT = "incident_id position outcome reason status severity occurred_at digest orphan_identity".split()
ENTRY = ["incident_id", "kind", "actor", "detail"]


def new_row(identity: str, episode: Episode) -> dict[str, Any]:
    """An incident that begins, but for when it does."""
    alert = episode.newest
    assert alert is not None  # nosec B101 # noqa: S101 - a new episode has the alert that began it
    state = vars(episode)
    row: dict[str, Any] = {name: state[name] for name in _OWN}
    row["id"] = episode.id
    row["identity"] = identity
    row["dedup_key"] = alert.dedup_key
    row["hostname"] = alert.hostname
    row["incident_type"] = alert.incident_type
    row["evidence"] = alert.evidence
    row["previous_incident_id"] = episode.previous
    row["still_firing"] = episode.still_firing
    row["flapping"] = episode.flapping
    row["triage"] = Triage.PENDING
    return row


def alert_row(arrival: Arrival, result: Result) -> dict[str, Any]:
    """An alert and what became of it."""
    alert = result.said or arrival.alert
    return {
        "incident_id": result.episode,
        "position": arrival.position,
        "outcome": result.outcome,
        "reason": result.reason,
        "status": alert.status,
        "severity": alert.severity,
        "occurred_at": alert.occurred_at,
        "digest": alert.digest() if alert.occurred_at else None,
        "orphan_identity": arrival.identity if result.orphan else None,
    }


def unplaced_row(one: Unplaced) -> dict[str, Any]:
    """The same of what belongs to no incident."""
    return dict.fromkeys(ALERT) | {"position": one.position, "outcome": one.outcome, "reason": one.reason}


def timeline_rows(tracks: Iterable[Track]) -> list[dict[str, Any]]:
    """What there is to say about the incidents."""
    return [
        {"incident_id": entry.episode, "kind": entry.kind, "actor": entry.actor, "detail": entry.detail}
        for track in tracks
        for entry in track.entries
    ]


def outcomes_of(arrivals: Sequence[Arrival], results: dict[int, Result], unplaced: Sequence[Unplaced]) -> list[Stored]:
    """What became of each alert, in the order of the body."""
    stored = {one.position: Stored(one.outcome, None, one.reason) for one in unplaced}
    for arrival in arrivals:
        result = results[arrival.position]
        stored[arrival.position] = Stored(result.outcome, result.episode, result.reason)
    return [stored[position] for position in sorted(stored)]


def applied(tracks: dict[str, Track], arrivals: Sequence[Arrival], at: datetime) -> dict[int, Result]:
    """The lifecycle's word on each alert, by its place; the tracks then hold what is to be written."""
    by_position = {arrival.position: arrival for arrival in arrivals}
    by_identity: dict[str, list[tuple[int, Alert]]] = {}
    for arrival in arrivals:
        by_identity.setdefault(arrival.identity, []).append((arrival.position, arrival.alert))
    return {
        position: lifecycle.apply(
            tracks[identity], alert, at, opens=one.opens, expires_at=one.expires_at, repeats=one.repeats
        )
        for identity, alerts in by_identity.items()
        for position, alert in lifecycle.in_event_order(alerts)
        for one in (by_position[position],)
    }


def may_be_known(episode: Episode, alert: Alert) -> bool:
    """Whether only the alerts of an open episode can tell that it has seen this one."""
    if alert.occurred_at is None or alert.digest() == episode.event_digest:
        return False
    if alert.status is AlertStatus.RESOLVED:
        return False  # an end is held against times alone
    newer = episode.event_at is not None and alert.occurred_at > episode.event_at
    return not newer or alert.status is not AlertStatus.FIRING
