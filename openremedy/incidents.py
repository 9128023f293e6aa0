"""Incidents as people and programs read and change them: queries, their JSON, and the four actions."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.orm import Session

from openremedy import audit, lifecycle, search, store
from openremedy.audit import Actor
from openremedy.classifier.cause import cause_of
from openremedy.classifier.restoring import Restorer
from openremedy.classifier.shapes import Subject
from openremedy.errors import Conflict, Invalid, NotFound
from openremedy.incident_type import other_opinion
from openremedy.lifecycle import Track
from openremedy.models import (
    AlertRecord,
    Feedback,
    Incident,
    IncidentStatus,
    Recipe,
    Source,
    Tenant,
    TimelineEntry,
    Triage,
    Verdict,
    now,
    table,
)
from openremedy.search import Filters as Filters
from openremedy.search import Place
from openremedy.search import Sort as Sort

CANONICAL = "canonical"
NOTHING_TO_RESTORE = Restorer({})  # a list holds no evidence
DETAIL_LIMIT = 500  # newest alerts and timeline entries shown of one incident
SEARCH_COUNT = 100  # matches of a search that are counted: each was read
BULK_LIMIT = 10_000  # incidents that one act changes
BULK_BATCH = 200  # of them in one transaction


class BulkAction(StrEnum):
    """What can be done to many incidents at once."""

    ACKNOWLEDGE = "acknowledge"
    RESOLVE = "resolve"
    RECLASSIFY = "reclassify"


_DONE = {
    BulkAction.ACKNOWLEDGE: "acknowledged",
    BulkAction.RESOLVE: "resolved",
    BulkAction.RECLASSIFY: "reclassified",
}


@dataclass(frozen=True)
class Listed:
    """A page of a list, and where the next one begins (None: this is the last)."""

    items: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True)
class Count:
    """How many there are; `more`: at least so many."""

    number: int
    more: bool


# ---------------------------------------------------------------- read


def page(
    session: Session, tenant_id: int, filters: Filters, before: uuid.UUID | None, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` incidents of the tenant, newest first, older than `before`; without their evidence."""
    after = Place(before) if before else None
    found = search.places(session, tenant_id, filters, Sort.NEWEST, after, limit)
    return of_ids(session, tenant_id, [one.id for one in found])


def listed(
    session: Session,
    tenant_id: int,
    filters: Filters,
    *,
    sort: Sort = Sort.NEWEST,
    cursor: str | None = None,
    limit: int = 50,
) -> Listed:
    """A page of the tenant's incidents in an order of choice, without their evidence. Raises Invalid (the cursor).

    A cursor names the last incident of the page before and its value, so that a page stays the same while others come.
    """
    after = search.place_of(cursor, sort) if cursor else None
    found = search.places(session, tenant_id, filters, sort, after, limit + 1)
    more = len(found) > limit
    items = of_ids(session, tenant_id, [one.id for one in found[:limit]])
    return Listed(items, found[limit - 1].cursor() if more else None)


def count_up_to(session: Session, tenant_id: int, filters: Filters, limit: int = 1000) -> Count:
    """How many incidents of the tenant fit, up to `limit`; with words to search for up to SEARCH_COUNT."""
    most = min(limit, SEARCH_COUNT) if filters.q else limit
    found = len(search.places(session, tenant_id, filters, Sort.NEWEST, None, most + 1))
    return Count(min(found, most), found > most)


def newest(session: Session, tenant_id: int) -> uuid.UUID | None:
    """The newest incident of the tenant."""
    statement = select(Incident.id).where(Incident.tenant_id == tenant_id)
    return session.scalar(statement.order_by(Incident.id.desc()).limit(1))


def count_since(session: Session, tenant_id: int, filters: Filters, since: uuid.UUID, limit: int = 100) -> int:
    """How many that fit came after this one, up to `limit`."""
    found = search.places(session, tenant_id, filters, Sort.NEWEST, None, limit)
    return sum(one.id > since for one in found)


def matching_ids(session: Session, tenant_id: int, filters: Filters, limit: int = BULK_LIMIT) -> list[uuid.UUID]:
    """Up to `limit` incidents of the tenant that fit, newest first."""
    return [one.id for one in search.places(session, tenant_id, filters, Sort.NEWEST, None, limit)]


def of_ids(session: Session, tenant_id: int, ids: Sequence[uuid.UUID]) -> list[dict[str, Any]]:
    """Those of the incidents that are the tenant's, in the order given, without their evidence."""
    columns = [column for column in table(Incident).c if column.name not in ("evidence", "enrichment")]
    statement = (
        select(*columns, Source.name.label("source_name"))
        .outerjoin(Source, Source.id == Incident.source_id)
        .where(Incident.tenant_id == tenant_id, Incident.id.in_(ids))
    )
    found = {row["id"]: row for row in session.execute(statement).mappings()} if ids else {}
    verdicts = _verdicts(session, [row["verdict_id"] for row in found.values() if row["verdict_id"]])
    rows = [found[one] for one in ids if one in found]
    return [as_json(row, verdicts.get(row["verdict_id"])) for row in rows]


def _verdicts(session: Session, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Verdict]:
    return {found.id: found for found in session.scalars(select(Verdict).where(Verdict.id.in_(ids)))} if ids else {}


def detail(session: Session, tenant_id: int, incident_id: uuid.UUID) -> dict[str, Any]:
    """One incident with its evidence, alerts, timeline and verdicts. Raises NotFound."""
    row = _row(session, tenant_id, incident_id)
    verdicts = session.scalars(
        select(Verdict).where(Verdict.incident_id == incident_id).order_by(Verdict.id.desc()).limit(DETAIL_LIMIT)
    ).all()
    current = next((verdict for verdict in verdicts if verdict.id == row["verdict_id"]), None)
    alerts = _alerts(session, incident_id)
    restorer = Restorer(evidence_of(row))
    return as_json(row, current, restorer) | {
        "evidence": evidence_of(row),
        "type_opinion": _type_opinion(row),
        "alerts": alerts,
        "timeline": _timeline(session, incident_id, alerts),
        "verdicts": [verdict_json(verdict, restorer) for verdict in verdicts],
    }


def with_evidence(session: Session, tenant_id: int, incident_id: uuid.UUID) -> dict[str, Any]:
    """One incident as a list has it, and its evidence. Raises NotFound."""
    row = _row(session, tenant_id, incident_id)
    verdict = session.get(Verdict, row["verdict_id"]) if row["verdict_id"] else None
    return as_json(row, verdict, Restorer(evidence_of(row))) | {"evidence": evidence_of(row)}


def _row(session: Session, tenant_id: int, incident_id: uuid.UUID) -> Any:
    statement = (
        select(*table(Incident).c, Source.name.label("source_name"))
        .outerjoin(Source, Source.id == Incident.source_id)
        .where(Incident.tenant_id == tenant_id, Incident.id == incident_id)
    )
    row = session.execute(statement).mappings().first()
    if row is None:
        raise NotFound()
    return row


def _type_opinion(row: Any) -> str | None:
    """The type that the alert reads like where its sender said another one (docs/adr/0026)."""
    return other_opinion(row["incident_type"], evidence_of(row), by_sender=row["adapter"] == CANONICAL)


def _alerts(session: Session, incident_id: uuid.UUID) -> list[dict[str, Any]]:
    statement = select(AlertRecord).where(AlertRecord.incident_id == incident_id)
    found = session.scalars(statement.order_by(AlertRecord.id.desc()).limit(DETAIL_LIMIT))
    return [
        {
            "id": str(alert.id),
            "delivery_id": str(alert.delivery_id),
            "status": alert.status,
            "severity": alert.severity,
            "outcome": alert.outcome,
            "reason": alert.reason,
            "occurred_at": stamp(alert.occurred_at),
            "received_at": stamp(alert.received_at),
        }
        for alert in found
    ]


def _timeline(session: Session, incident_id: uuid.UUID, alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Changes of the incident and the alerts that changed nothing of its state, oldest first."""
    statement = select(TimelineEntry).where(TimelineEntry.incident_id == incident_id)
    found = session.scalars(statement.order_by(TimelineEntry.id.desc()).limit(DETAIL_LIMIT))
    changes = [
        {"at": stamp(entry.at), "kind": entry.kind, "actor": entry.actor, "detail": entry.detail} for entry in found
    ]
    quiet = [
        {
            "at": alert["received_at"],
            "kind": {"updated": "repeated"}.get(alert["outcome"], alert["outcome"]),
            "actor": lifecycle.SENDER,
            "detail": {"alert_id": alert["id"], "status": alert["status"], "reason": alert["reason"]},
        }
        for alert in alerts
        if alert["outcome"] in ("duplicate", "ignored") or (alert["outcome"], alert["status"]) == ("updated", "firing")
    ]
    # Both lists are newest first; sorting is stable, so equal times keep the order in which they were written.
    return sorted(changes[::-1] + quiet[::-1], key=lambda entry: str(entry["at"]))


def as_json(row: Any, verdict: Verdict | None, restorer: Restorer = NOTHING_TO_RESTORE) -> dict[str, Any]:
    """The incident of DESIGN 9, without evidence."""
    previous = row["previous_incident_id"]
    return {
        "id": str(row["id"]),
        "status": row["status"],
        "hostname": row["hostname"],
        "incident_type": row["incident_type"],
        "severity": row["severity"],
        "source": row["source_name"] or CANONICAL,
        "dedup_key": row["dedup_key"],
        "occurrences": row["occurrences"],
        "first_seen": stamp(row["first_seen"]),
        "last_seen": stamp(row["last_seen"]),
        "resolved_at": stamp(row["resolved_at"]),
        "previous_incident_id": str(previous) if previous else None,
        "still_firing": row["still_firing"],
        "flapping": row["flapping"],
        "classification": row["triage"],
        "verdict": verdict_json(verdict, restorer) if verdict else None,
    }


def verdict_json(verdict: Verdict, restorer: Restorer) -> dict[str, Any]:
    """The verdict of DESIGN 9; what it says masked, as the model saw it, is shown with what stands in the evidence."""
    return {
        "recipe": verdict.recipe,
        "tier": verdict.tier,
        "confidence": verdict.confidence,
        "provisional": verdict.provisional,
        "runners_up": verdict.runners_up,
        "citations": [restorer.citation(one) for one in verdict.citations],
        "summary": restorer.text(verdict.summary),
        "model": verdict.model,
        "prompt_version": verdict.prompt_version,
        "tokens": verdict.tokens,
        "latency_ms": verdict.latency_ms,
        "created_at": stamp(verdict.created_at),
    }


def stamp(moment: datetime | None) -> str | None:
    """A time as the API writes it: RFC 3339 in UTC, microseconds."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None


# ---------------------------------------------------------------- change


def acknowledge(engine: Engine, tenant_id: int, incident_id: uuid.UUID, actor: Actor) -> None:
    """Acknowledge an open incident; nothing changes when it is acknowledged or resolved. Raises NotFound."""
    with engine.begin() as connection:
        track = _locked(connection, tenant_id, incident_id)
        at = now()
        if track.open:
            lifecycle.acknowledge(track, track.open, at, actor.name)
        _written(connection, tenant_id, at, track, actor, "incident.acknowledged")


def resolve(engine: Engine, tenant_id: int, incident_id: uuid.UUID, actor: Actor) -> None:
    """Resolve an incident; if it still burns, its next firing opens a new one. Raises NotFound."""
    with engine.begin() as connection:
        track = _locked(connection, tenant_id, incident_id)
        at = now()
        if track.open:
            lifecycle.close(track, track.open, at, ended_by="person", actor=actor.name)
        _written(connection, tenant_id, at, track, actor, "incident.resolved")


def _written(connection: Connection, tenant_id: int, at: datetime, track: Track, actor: Actor, action: str) -> None:
    """Write what changed of an incident, and that it was a person; nothing when nothing did."""
    changed = any(episode.changed for episode in track.episodes)
    store.write_track(connection, tenant_id, at, track)
    if changed and track.latest:
        audit.write(connection, actor, tenant_id, action, str(track.latest.id))


def _locked(connection: Connection, tenant_id: int, incident_id: uuid.UUID) -> Track:
    episode = store.load_locked(connection, tenant_id, incident_id)
    if episode is None:
        raise NotFound()
    return Track(latest=episode)


def reclassify(engine: Engine, tenant_id: int, incident_id: uuid.UUID, actor: Actor) -> None:
    """Ask for a fresh verdict; nothing changes when one is on its way. Raises NotFound."""
    with engine.begin() as connection:
        _locked(connection, tenant_id, incident_id)
        if _ask_again(connection, tenant_id, [incident_id], actor.name):
            audit.write(connection, actor, tenant_id, "incident.reclassified", str(incident_id))


def _ask_again(connection: Connection, tenant_id: int, incident_ids: Sequence[uuid.UUID], actor: str) -> int:
    """Put incidents that were locked before back to wait for a fresh verdict; how many had none on its way."""
    waiting = (Triage.PENDING, Triage.CLASSIFYING)
    statement = (
        update(Incident)
        .where(Incident.id.in_(incident_ids), Incident.triage.not_in(waiting))
        .values(
            triage=Triage.PENDING,
            triage_since=now(),
            attempts=0,
            model_attempts=0,
            claim=None,
            lease_until=None,
            retry_at=None,
            fresh=True,
            provisional=False,
        )
        .returning(Incident.id)
    )
    changed = list(connection.scalars(statement))
    for incident_id in changed:
        say(connection, tenant_id, incident_id, "reclassify", actor)
    return len(changed)


def say(connection: Connection, tenant_id: int, incident_id: uuid.UUID, kind: str, actor: str, **detail: Any) -> None:
    """Put a line on an incident's timeline."""
    row = {
        "tenant_id": tenant_id,
        "incident_id": incident_id,
        "at": now(),
        "kind": kind,
        "actor": actor,
        "detail": detail,
    }
    connection.execute(insert(table(TimelineEntry)), row)


def act_on_all(
    engine: Engine, tenant_id: int, wanted: Filters | Sequence[uuid.UUID], action: BulkAction, actor: Actor
) -> dict[str, int]:
    """Do the same to all that fit the filters, or to those named; returns how many were `changed` and `unchanged`.

    Written a few at a time, each few with a line of the audit log, so what is done stays done when it is cut short, and
    doing it again does the rest. Raises Conflict, before anything is changed, for more than BULK_LIMIT.
    """
    ids = _wanted_ids(engine, tenant_id, wanted)
    if len(ids) > BULK_LIMIT:
        raise Conflict(f"These are more than {BULK_LIMIT:,} incidents. Narrow the list, and act on a part of them.")
    counts = {"changed": 0, "unchanged": 0}
    for start in range(0, len(ids), BULK_BATCH):
        known, changed = _act_on_some(engine, tenant_id, ids[start : start + BULK_BATCH], action, actor)
        counts["changed"] += changed
        counts["unchanged"] += known - changed
    return counts


def _wanted_ids(engine: Engine, tenant_id: int, wanted: Filters | Sequence[uuid.UUID]) -> list[uuid.UUID]:
    if not isinstance(wanted, Filters):
        return sorted(set(wanted))
    with Session(engine) as session:
        session.connection(execution_options={"sqlite_readonly": True})
        return matching_ids(session, tenant_id, wanted, BULK_LIMIT + 1)


def _act_on_some(
    engine: Engine, tenant_id: int, ids: Sequence[uuid.UUID], action: BulkAction, actor: Actor
) -> tuple[int, int]:
    """How many of them are the tenant's, and how many of those were changed."""
    with engine.begin() as connection:
        tracks = [Track(latest=episode) for episode in store.load_all_locked(connection, tenant_id, ids)]
        if action is BulkAction.RECLASSIFY:
            known = [track.latest.id for track in tracks if track.latest]
            changed = _ask_again(connection, tenant_id, known, actor.name)
        else:
            changed = _change_all(connection, tenant_id, tracks, action, actor)
        if changed:
            audit.write(connection, actor, tenant_id, f"incidents.{_DONE[action]}", f"{changed} incidents")
    return len(tracks), changed


def _change_all(
    connection: Connection, tenant_id: int, tracks: Sequence[Track], action: BulkAction, actor: Actor
) -> int:
    at = now()
    for track in tracks:
        if track.open and action is BulkAction.ACKNOWLEDGE:
            lifecycle.acknowledge(track, track.open, at, actor.name)
        elif track.open:
            lifecycle.close(track, track.open, at, ended_by="person", actor=actor.name)
    store.write_tracks(connection, tenant_id, at, tracks)
    return sum(episode.changed for track in tracks for episode in track.episodes)


def feedback(
    engine: Engine, tenant_id: int, incident_id: uuid.UUID, answer: str, recipe: str | None, actor: Actor
) -> None:
    """Store what a person says of the verdict; their answer becomes the verdict.

    `answer` is confirm, correct (with `recipe`) or none. Saying the same again changes nothing but the wait for
    another verdict, which it ends.
    Raises NotFound, Conflict (nothing to confirm), Invalid (no such recipe).
    """
    with engine.begin() as connection:
        _locked(connection, tenant_id, incident_id)
        incident = connection.execute(select(*table(Incident).c).where(Incident.id == incident_id)).mappings().one()
        current = _current(connection, incident["verdict_id"])
        chosen = _chosen(connection, tenant_id, answer, recipe, current)
        waits = incident["triage"] in (Triage.PENDING, Triage.CLASSIFYING)  # for a fresh verdict, which this one is
        if current and current["tier"] == "person" and current["recipe"] == chosen and not waits:
            return
        suggested = current["recipe"] if current else None
        accepted = _accepts_anew(connection, incident, chosen)
        connection.execute(
            insert(table(Feedback)),
            {
                "tenant_id": tenant_id,
                "incident_id": incident_id,
                "answer": answer,
                "recipe": chosen,
                "suggested": suggested,
                "actor": actor.name,
            },
        )
        _person_verdict(connection, incident, chosen, answer, actor.name)
        said = {"answer": answer, "recipe": chosen} | ({"accepted": True} if accepted else {})
        say(connection, tenant_id, incident_id, "feedback", actor.name, **said)
        audit.write(connection, actor, tenant_id, "verdict.answered", str(incident_id), answer=answer, recipe=chosen)


def _accepts_anew(connection: Connection, incident: Any, chosen: str | None) -> bool:
    """Whether an engine should hear of it: not of what is over, and not twice of the same recipe in a row."""
    if chosen is None or incident["status"] == IncidentStatus.RESOLVED:
        return False
    said_last = select(Feedback.recipe).where(Feedback.incident_id == incident["id"]).order_by(Feedback.id.desc())
    return connection.scalar(said_last.limit(1)) != chosen


def _current(connection: Connection, verdict_id: uuid.UUID | None) -> Any:
    if verdict_id is None:
        return None
    return connection.execute(select(*table(Verdict).c).where(Verdict.id == verdict_id)).mappings().first()


def _chosen(connection: Connection, tenant_id: int, answer: str, recipe: str | None, current: Any) -> str | None:
    if answer == "none":
        return None
    if answer == "confirm":
        suggested = current["recipe"] if current else None
        if suggested is None:
            raise Conflict("There is no recipe to confirm: correct it, or say that none fits.")
        if recipe not in (None, suggested):
            raise Conflict("The verdict has changed since it was read; it names another recipe now.")
        recipe = suggested
    elif recipe is None:
        raise Invalid(fields={"recipe": ["Missing: which recipe is the right one?"]})
    enabled = select(Recipe.slug).where(Recipe.tenant_id == tenant_id, Recipe.slug == recipe, Recipe.enabled)
    if connection.execute(enabled).first() is None:
        raise Invalid(fields={"recipe": ["There is no enabled recipe of this name."]})
    return recipe


def _person_verdict(connection: Connection, incident: Any, recipe: str | None, answer: str, actor: str) -> None:
    tenant = connection.execute(select(Tenant.catalogue_version).where(Tenant.id == incident["tenant_id"])).scalar_one()
    verdict = {
        "tenant_id": incident["tenant_id"],
        "incident_id": incident["id"],
        "claim": None,
        "recipe": recipe,
        "tier": "person",
        "confidence": 1.0,
        "provisional": False,
        "reusable": True,
        "cause": cause_of(subject_of(incident)),
        "catalogue_version": tenant,
        "prompt_version": "",
        "model_version": "",
        "runners_up": [],
        "citations": [],
        "summary": f"{actor} answered: {answer}.",
        "model": None,
        "tokens": 0,
        "latency_ms": 0,
        "actor": actor,
    }
    verdict_id = connection.execute(insert(table(Verdict)).returning(Verdict.id), verdict).scalar_one()
    # Clearing the claim makes a worker that is at it just now drop its answer.
    values = {
        "verdict_id": verdict_id,
        "triage": Triage.DONE,
        "triage_since": now(),
        "claim": None,
        "lease_until": None,
        "provisional": False,
        "fresh": False,
    }
    connection.execute(update(Incident).where(Incident.id == incident["id"]).values(values))


def evidence_of(incident: Any) -> dict[str, Any]:
    """What the newest alert said, with what a worker has read from the tool's own API beside it."""
    told: dict[str, Any] = incident["evidence"]
    return told | {"enrichment": incident["enrichment"]} if incident["enrichment"] else told


def subject_of(incident: Any) -> Subject:
    """The incident as the classifier sees it."""
    return Subject(
        incident_type=str(incident["incident_type"]),
        hostname=incident["hostname"],
        severity=str(incident["severity"]),
        evidence=evidence_of(incident),
        adapter=incident["adapter"],
    )
