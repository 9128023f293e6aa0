"""What a list of incidents is narrowed to, how it is ordered and where it goes on; the index of words for its search.

Every list is found in two steps: the identifiers, from indexes alone, and then the rows of one page, so that evidence
is read only to find words in it.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from openremedy.alerts import Severity, compact
from openremedy.errors import Invalid
from openremedy.ids import parse_id
from openremedy.models import Incident, IncidentStatus, Triage, Verdict, holds, now, table

MAX_WORDS = 8
WINDOW = 1000  # incidents whose text is read before an index is asked
# Where the square of the matches in a window is above so many times what is wanted, reading on is faster than fetching
# everything the index knows: what they cost is equal there for a hundred windows.
DENSE = 10
WORDS_INDEX = "ix_incidents_words"
QUIET = timedelta(minutes=10)  # an incident that was not seen for so long will hardly change soon
CATCH_UP_BATCH = 50
CATCH_UP_SECONDS = 5

# As the index spells it (migration 0004), without parameters: it is found there only when it is the same.
_TEXT = literal_column(
    "incidents.hostname || ' ' || coalesce(incidents.dedup_key, '') || ' ' || incidents.incident_type"
    " || ' ' || CAST(incidents.evidence AS TEXT)",
    Text,
)
_incidents = table(Incident)
_RANKS = {severity: rank for rank, severity in enumerate(reversed(Severity))}  # the worst is the highest

Words = str | tuple[str, ...] | None


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; None = everything, several words = any of them. The words are those of the enums."""

    status: Words = None
    severity: Words = None
    incident_type: Words = None
    hostname: str | None = None
    recipe: str | None = None
    classification: Words = None
    q: str | None = None
    since: datetime | None = None
    source_id: int | None = None
    adapter: Words = None
    open_only: bool = False


class Sort(StrEnum):
    """The order of a list; of equals the newest is first."""

    NEWEST = "newest"
    LAST_SEEN = "last_seen"
    SEVERITY = "severity"
    OCCURRENCES = "occurrences"


_KEYS: dict[Sort, ColumnElement[Any] | None] = {
    Sort.NEWEST: None,
    Sort.LAST_SEEN: _incidents.c.last_seen,
    Sort.SEVERITY: case(_RANKS, value=_incidents.c.severity, else_=-1),
    Sort.OCCURRENCES: _incidents.c.occurrences,
}


@dataclass(frozen=True)
class Place:
    """A place in a list: an incident, and its value where the order is not by identifier."""

    id: uuid.UUID
    value: Any = None

    def __lt__(self, other: "Place") -> bool:
        return (self.value, self.id) < (other.value, other.id) if self.value is not None else self.id < other.id

    def cursor(self) -> str:
        """The place as a word that fits a URL."""
        value = self.value.isoformat() if isinstance(self.value, datetime) else self.value
        return str(self.id) if value is None else f"{value}~{self.id}"


def place_of(cursor: str, sort: Sort) -> Place:
    """The place a cursor names in this order. Raises Invalid."""
    value, _, written = cursor.rpartition("~")
    found = parse_id(written)
    try:
        if found and (sort is Sort.NEWEST) == ("~" not in cursor):
            return Place(found, _VALUES[sort](value))
    except (ValueError, OverflowError):
        pass
    raise Invalid(fields={"cursor": ["Not a cursor of ours."]})


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def _count(value: str) -> int:
    if not 0 <= int(value) < 2**31:
        raise ValueError("out of range")
    return int(value)


_VALUES: dict[Sort, Any] = {
    Sort.NEWEST: lambda _: None,
    Sort.LAST_SEEN: _moment,
    Sort.SEVERITY: _count,
    Sort.OCCURRENCES: _count,
}


# ---------------------------------------------------------------- find


def places(
    session: Session, tenant_id: int, filters: Filters, sort: Sort, after: Place | None, limit: int
) -> list[Place]:
    """Where up to `limit` incidents of the tenant stand, in order, beginning behind `after`."""
    plain = _listed(tenant_id, filters, sort, after)
    words = filters.q.split()[:MAX_WORDS] if filters.q else []
    if not words:
        ranked = sort is Sort.SEVERITY
        return _worst_first(session, tenant_id, filters, after, limit) if ranked else _read(session, plain.limit(limit))
    contained = and_(*map(_contains, words))
    if session.get_bind().dialect.name != "postgresql":
        return _read(session, plain.where(contained).limit(limit))
    return _searched(session, tenant_id, plain, words, limit)


def _read(session: Session, statement: Select[Any]) -> list[Place]:
    return [Place(*row) for row in session.execute(statement)]


def _listed(tenant_id: int, filters: Filters, sort: Sort, after: Place | None) -> Select[Any]:
    """The identifiers, and the values they are ordered by, of what fits the filters, the words apart."""
    key = _KEYS[sort]
    order = (key, _incidents.c.id) if key is not None else (_incidents.c.id,)
    statement = (
        select(*reversed(order))
        .where(_incidents.c.tenant_id == tenant_id, *_conditions(tenant_id, filters))
        .order_by(*[column.desc() for column in order])
    )
    if after is None:
        return statement
    if key is None:
        return statement.where(_incidents.c.id < after.id)
    return statement.where(tuple_(key, _incidents.c.id) < tuple_(after.value, after.id))


def _worst_first(session: Session, tenant_id: int, filters: Filters, after: Place | None, limit: int) -> list[Place]:
    """One severity after the other, each newest first, until there are enough: ordering all would read all."""
    found: list[Place] = []
    for severity, rank in sorted(_RANKS.items(), key=lambda one: -one[1]):
        if len(found) == limit or (after and rank > after.value):
            continue
        behind = Place(after.id) if after and rank == after.value else None
        newest = _listed(tenant_id, filters, Sort.NEWEST, behind).where(_incidents.c.severity == severity)
        found += [Place(one.id, rank) for one in _read(session, newest.limit(limit - len(found)))]
    return found


def _conditions(tenant_id: int, filters: Filters) -> Iterator[ColumnElement[bool]]:
    of = _incidents.c
    several = {
        of.status: filters.status,
        of.severity: filters.severity,
        of.incident_type: filters.incident_type,
        of.triage: filters.classification,
        of.adapter: filters.adapter,
    }
    for column, words in several.items():
        if words is not None:
            yield column == words if isinstance(words, str) else column.in_(words)
    if filters.source_id is not None:
        yield of.source_id == filters.source_id
    if filters.open_only:
        yield of.status != IncidentStatus.RESOLVED
    if filters.hostname is not None:
        yield func.lower(of.hostname) == filters.hostname.lower()
    if filters.since is not None:
        yield of.last_seen >= filters.since
    if filters.recipe is not None:
        named = select(Verdict.id).where(Verdict.tenant_id == tenant_id, Verdict.recipe == filters.recipe)
        yield of.verdict_id.in_(named)


# ---------------------------------------------------------------- words


def _searched(session: Session, tenant_id: int, plain: Select[Any], words: Sequence[str], limit: int) -> list[Place]:
    """What is frequent is found among the first of the list, what is rare by the index of words.

    The database cannot tell which of the two a word is: it knows nothing of the middle of long texts.
    """
    contained = and_(*map(_contains, words))
    # A plan made once for all words reads everything for some of them.
    session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    found = _among_first(session, plain, contained, WINDOW)
    if len(found) < limit and len(found) ** 2 >= DENSE * limit:
        found = _among_first(session, plain, contained, WINDOW * limit * 3 // (len(found) * 2))
    if len(found) >= limit:
        return found[:limit]
    hit = plain.where(_incidents.c.id.in_(_hits(tenant_id, words)))
    # A word that JSON spells in its own way is a hit in places where it does not count.
    odd = any(_written(word) != word for word in words)
    return _read(session, (hit.where(contained) if odd else hit).limit(limit))


def _among_first(session: Session, plain: Select[Any], contained: ColumnElement[bool], count: int) -> list[Place]:
    """Those of the first `count` of the list that contain the words, in order.

    Ordered here: the database, when it orders or limits what it finds, may prefer to read the whole list.
    """
    near = plain.limit(count).cte("near").prefix_with("MATERIALIZED", dialect="postgresql")
    found = select(near).join(_incidents, _incidents.c.id == near.c.id).where(contained)
    return sorted(_read(session, found), reverse=True)


def _contains(word: str) -> ColumnElement[bool]:
    """The word stands somewhere in the host name, the sender's key, the type or the evidence."""
    written = _written(word)
    if written == word:
        return _stands_in(_TEXT, word)
    places = (Incident.hostname, Incident.dedup_key, Incident.incident_type)
    return or_(
        *[_stands_in(cast(place, Text), word) for place in places],
        _stands_in(cast(Incident.evidence, Text), written),
    )


def _stands_in(place: ColumnElement[str], word: str) -> ColumnElement[bool]:
    """In whatever case. Spelled out, as icontains() is another operator on PostgreSQL, which no index here answers."""
    escaped = word.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return func.lower(place).contains(func.lower(escaped), escape="/")


def _written(word: str) -> str:
    """The word as it is spelled inside JSON text: a quote or a backslash has another one before it."""
    return compact(word)[1:-1]


def _hits(tenant_id: int, words: Sequence[str]) -> Select[Any]:
    """All that may contain the words: by the index, and by reading what is not in there yet."""
    may = and_(*[or_(*[_stands_in(_TEXT, one) for one in {word, _written(word)}]) for word in words])
    mine = select(_incidents.c.id).where(_incidents.c.tenant_id == tenant_id, may)
    both = union_all(mine.where(_incidents.c.searchable), mine.where(~holds(_incidents.c.searchable)))
    # Apart from the rest, or the database reads the list in its order and hopes to come across the words.
    hits = both.cte("hits").prefix_with("MATERIALIZED", dialect="postgresql")
    return select(hits.c.id)


def indexed(engine: Engine) -> bool:
    """Whether the database has the index of words; without it, search reads all evidence."""
    if engine.dialect.name != "postgresql":
        return False
    with engine.connect() as connection:
        return connection.scalar(text("SELECT to_regclass(:name)"), {"name": WORDS_INDEX}) is not None


def catch_up(engine: Engine) -> int:
    """Put incidents that rest into the index of words, for some seconds at most; returns how many."""
    if not indexed(engine):
        return 0
    end = time.monotonic() + CATCH_UP_SECONDS
    total = 0
    while time.monotonic() < end:
        count = _catch_up_some(engine)
        total += count
        if count < CATCH_UP_BATCH:
            break
    return total


def _catch_up_some(engine: Engine) -> int:
    resting = (
        select(_incidents.c.id)
        .where(
            ~holds(_incidents.c.searchable),
            _incidents.c.triage.in_((Triage.DONE, Triage.NEEDS_HUMAN)),
            _incidents.c.last_seen < now() - QUIET,
        )
        .limit(CATCH_UP_BATCH)
        .with_for_update(skip_locked=True)
    )
    with engine.begin() as connection:
        ids = list(connection.scalars(resting))
        if ids:
            connection.execute(update(_incidents).where(_incidents.c.id.in_(ids)).values(searchable=True))
        return len(ids)
