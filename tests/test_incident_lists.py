"""Lists of incidents as the pages show them: filters, order, pages, search, counts, and acting on many at once."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session

from bodies import alert, put, tenant_id
from cast import Tenant
from openremedy import incidents, search
from openremedy.audit import Actor
from openremedy.errors import Conflict, Invalid
from openremedy.extensions import db
from openremedy.ids import first_id, new_id
from openremedy.incidents import BulkAction, Filters, Sort
from openremedy.models import AuditLine, Incident, TimelineEntry, Triage, Verdict, now, table

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
BOB = Actor("bob@example.com", "192.0.2.7", "request-1")


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


@pytest.fixture
def hers(alice: Tenant, engine: Engine) -> int:
    return tenant_id(engine, alice.slug)


@pytest.fixture
def his(charlie: Tenant, engine: Engine) -> int:
    return tenant_id(engine, charlie.slug)


def incident(engine: Engine, tenant: int, hostname: str, **values: Any) -> uuid.UUID:
    """An incident that came through the door; columns in `values` are set afterwards."""
    known = {name: values.pop(name) for name in ("severity", "incident_type", "evidence") if name in values}
    (stored,) = put(engine, tenant, alert(hostname=hostname, dedup_key=f"key of {hostname}", **known))
    assert stored.incident_id
    if values:
        change(engine, stored.incident_id, **values)
    return stored.incident_id


def change(engine: Engine, incident_id: uuid.UUID, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(Incident).where(Incident.id == incident_id).values(**values))


def reading(engine: Engine, work: Callable[[Session], Any]) -> Any:
    with Session(engine) as session:
        session.connection(execution_options={"sqlite_readonly": True})
        return work(session)


def hosts(engine: Engine, tenant: int, sort: Sort = Sort.NEWEST, **filters: Any) -> list[str]:
    found = reading(engine, lambda session: incidents.listed(session, tenant, Filters(**filters), sort=sort))
    return [one["hostname"] for one in found.items]


def walked(engine: Engine, tenant: int, sort: Sort, limit: int, **filters: Any) -> list[list[str]]:
    """Every page of a list."""
    cursor, pages = None, []
    while True:
        found = reading(
            engine,
            lambda session: incidents.listed(
                session,
                tenant,
                Filters(**filters),
                sort=sort,
                cursor=cursor,  # noqa: B023 - called at once
                limit=limit,
            ),
        )
        pages.append([one["hostname"] for one in found.items])
        cursor = found.next_cursor
        if cursor is None:
            return pages


def settled(engine: Engine, hours: float = 1) -> None:
    """Every incident has its verdict and rests."""
    with engine.begin() as connection:
        connection.execute(update(Incident).values(triage=Triage.DONE, last_seen=now() - timedelta(hours=hours)))


# ---------------------------------------------------------------- filters


def test_several_words_of_a_filter_mean_any_of_them(engine: Engine, hers: int) -> None:
    incident(engine, hers, "a", severity="critical", status="resolved", incident_type="cpu_high")
    incident(engine, hers, "b", severity="high", status="acknowledged", triage="needs_human")
    incident(engine, hers, "c", severity="low", triage="done", incident_type="custom", adapter="grafana")
    assert hosts(engine, hers, severity=("critical", "low")) == ["c", "a"]
    assert hosts(engine, hers, severity="high") == ["b"]
    assert hosts(engine, hers, status=("acknowledged", "resolved")) == ["b", "a"]
    assert hosts(engine, hers, incident_type=("cpu_high", "custom")) == ["c", "a"]
    assert hosts(engine, hers, classification=("needs_human", "done")) == ["c", "b"]
    assert hosts(engine, hers, adapter="grafana") == ["c"]
    assert hosts(engine, hers, adapter=("grafana", "canonical")) == ["c", "b", "a"]
    assert hosts(engine, hers, open_only=True) == ["c", "b"]
    assert hosts(engine, hers, severity=()) == []


def test_a_list_can_be_of_one_source(engine: Engine, alice: Tenant, hers: int, his: int) -> None:
    one, other = alice.source("grafana").id, alice.source("datadog").id
    incident(engine, hers, "a", source_id=one)
    incident(engine, hers, "b", source_id=other)
    assert hosts(engine, hers, source_id=one) == ["a"]
    assert hosts(engine, his, source_id=one) == []


def test_a_list_can_be_of_one_recipe(engine: Engine, hers: int, his: int) -> None:
    for tenant, hostname, recipe in ((hers, "a", "one"), (hers, "b", "two"), (hers, "c", None), (his, "d", "one")):
        answered(engine, tenant, incident(engine, tenant, hostname), recipe=recipe)
    assert hosts(engine, hers, recipe="one") == ["a"]
    assert hosts(engine, his, recipe="two") == []


def answered(engine: Engine, tenant: int, incident_id: uuid.UUID, cause: str = "cause", **values: Any) -> None:
    """A verdict about an incident."""
    verdict = {
        "id": new_id(),
        "tenant_id": tenant,
        "incident_id": incident_id,
        "cause": cause,
        "tier": "rule",
        "confidence": 0.9,
        "provisional": False,
        "reusable": True,
        "catalogue_version": 1,
        "prompt_version": "",
        "model_version": "",
        "runners_up": [],
        "citations": [],
        "summary": "",
        "actor": "classifier",
        **values,
    }
    with engine.begin() as connection:
        connection.execute(table(Verdict).insert(), verdict)
    change(engine, incident_id, verdict_id=verdict["id"])


def test_no_list_reads_evidence_or_what_a_tool_was_asked_for(engine: Engine, hers: int) -> None:
    incident(engine, hers, "a", enrichment={"notes": ["secretly"]})
    said: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(engine, "before_cursor_execute", listen)
    try:
        for sort in Sort:
            assert hosts(engine, hers, sort) == ["a"]
        reading(engine, lambda session: incidents.page(session, hers, Filters(), None, 10))
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert said
    assert not [one for one in said if "evidence" in one or "enrichment" in one]


# ---------------------------------------------------------------- order and pages


def sortable(engine: Engine, tenant: int) -> None:
    """Five incidents, a to e, that each order puts in another place; of equals the newer is first."""
    moment = now()
    for hostname, severity, count, minutes in (
        *(("a", "low", 7, 1), ("b", "critical", 1, 3), ("c", "info", 7, 2)),
        *(("d", "critical", 3, 3), ("e", "high", 2, 5)),
    ):
        seen = moment - timedelta(minutes=minutes)
        incident(engine, tenant, hostname, severity=severity, occurrences=count, last_seen=seen)


ORDERS = {
    Sort.NEWEST: "edcba",
    Sort.LAST_SEEN: "acdbe",
    Sort.SEVERITY: "dbeac",
    Sort.OCCURRENCES: "cadeb",
}


@pytest.mark.parametrize("sort", Sort)
def test_a_list_is_in_the_order_that_was_chosen_and_no_page_repeats_or_leaves_out_any(
    engine: Engine, hers: int, his: int, sort: Sort
) -> None:
    sortable(engine, hers)
    sortable(engine, his)
    assert hosts(engine, hers, sort) == list(ORDERS[sort])
    for limit in (1, 2, 3, 5):
        pages = walked(engine, hers, sort, limit)
        assert "".join(map("".join, pages)) == ORDERS[sort]
        assert {len(page) for page in pages[:-1]} <= {limit}


@pytest.mark.parametrize("sort", Sort)
def test_a_page_stays_the_same_page_while_others_come_and_go(engine: Engine, hers: int, sort: Sort) -> None:
    sortable(engine, hers)
    listed = incidents.listed
    first = reading(engine, lambda session: listed(session, hers, Filters(), sort=sort, limit=2))
    before = reading(
        engine, lambda session: listed(session, hers, Filters(), sort=sort, cursor=first.next_cursor, limit=2)
    )
    incident(engine, hers, "f", severity="critical", occurrences=99)
    change(engine, uuid.UUID(first.items[1]["id"]), severity="critical", occurrences=99, last_seen=now())
    after = reading(
        engine, lambda session: listed(session, hers, Filters(), sort=sort, cursor=first.next_cursor, limit=2)
    )
    assert [one["id"] for one in after.items] == [one["id"] for one in before.items]


@pytest.mark.parametrize("sort", Sort)
def test_a_cursor_is_refused_where_it_is_none_of_this_order(engine: Engine, hers: int, sort: Sort) -> None:
    known = uuid.uuid4()
    good = {
        Sort.NEWEST: f"{known}",
        Sort.LAST_SEEN: f"2026-01-01T00:00:00+00:00~{known}",
        Sort.SEVERITY: f"4~{known}",
        Sort.OCCURRENCES: f"12~{known}",
    }
    search.place_of(good.pop(sort), sort)
    good = {} if sort in (Sort.SEVERITY, Sort.OCCURRENCES) else good  # both are numbers
    bad = [*good.values(), "x", "~", f"~{known}", f"-1~{known}", f"{2**31}~{known}", f"2026-01-01~{known}", "4~x"]
    for cursor in bad:
        with pytest.raises(Invalid):
            search.place_of(cursor, sort)


def test_the_first_identifier_of_a_moment_parts_what_came_before_from_what_comes(engine: Engine, hers: int) -> None:
    before = new_id()
    boundary = first_id(now() + timedelta(milliseconds=1))
    assert before < boundary < first_id(now() + timedelta(seconds=1))
    assert first_id(now() - timedelta(seconds=1)) < before


# ---------------------------------------------------------------- search


def searched(engine: Engine, tenant: int, q: str, sort: Sort = Sort.NEWEST, **filters: Any) -> list[str]:
    return hosts(engine, tenant, sort, q=q, **filters)


HAYSTACK = {
    "web-01": {"note": "Full DISK", "quote": 'said "so"', "path": "C:\\temp"},
    "db-01": {"note": "disk", "nested": {"deep": ["needle in it"]}},
    'odd"host': {"note": "nothing"},
}
FOUND = {
    "disk": {"web-01", "db-01"},
    "DISK full": {"web-01"},
    "needle": {"db-01"},
    "eedl": {"db-01"},
    "b-": {"web-01", "db-01"},
    "key of": set(HAYSTACK),
    'd"h': {'odd"host'},
    'said "so"': {"web-01"},
    "C:\\temp": {"web-01"},
    "custom needle": {"db-01"},
    "CUSTOM": set(HAYSTACK),
    "web-01key": set(),
    "web-01 needle": set(),
    "100%": set(),
    "_eedle": set(),
}


def hay(engine: Engine, tenant: int) -> None:
    for hostname, evidence in HAYSTACK.items():
        incident(engine, tenant, hostname, evidence=evidence, incident_type="custom")


# PostgreSQL knows such letters by the locale of its database, and that of the tests has none.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_letters_beyond_ascii_are_found_in_whatever_case(engine: Engine, hers: int) -> None:
    incident(engine, hers, "SRV-MÜNCHEN", evidence={"note": "Größe"})
    assert searched(engine, hers, "münchen") == searched(engine, hers, "GRÖ") == ["SRV-MÜNCHEN"]
    assert hosts(engine, hers, hostname="srv-münchen") == hosts(engine, hers, hostname="SRV-MÜNCHEN") == ["SRV-MÜNCHEN"]


@pytest.mark.parametrize("window", [1000, 1])
@pytest.mark.parametrize("indexed", ["none", "some", "all"])
def test_search_finds_the_same_whatever_the_index_holds_and_however_it_looks(
    engine: Engine, hers: int, his: int, monkeypatch: pytest.MonkeyPatch, window: int, indexed: str
) -> None:
    monkeypatch.setattr(search, "WINDOW", window)
    hay(engine, hers)
    hay(engine, his)
    if indexed != "none":
        settled(engine)
        search.catch_up(engine)
    if indexed == "some":
        put(engine, hers, alert(hostname="db-01", dedup_key="key of db-01", evidence={**HAYSTACK["db-01"], "now": 1}))
    for sort in Sort:
        assert {q: set(searched(engine, hers, q, sort)) for q in FOUND} == FOUND


@pytest.mark.parametrize("dense", [10, 0.2])  # asks the index, reads on
def test_search_holds_with_every_filter_and_page(
    engine: Engine, hers: int, monkeypatch: pytest.MonkeyPatch, dense: float
) -> None:
    monkeypatch.setattr(search, "DENSE", dense)
    monkeypatch.setattr(search, "WINDOW", 2)
    for number in range(9):
        incident(engine, hers, f"h{number}", evidence={"n": "odd" if number % 2 else "even"}, severity="high")
    assert walked(engine, hers, Sort.NEWEST, 2, q="odd") == [["h7", "h5"], ["h3", "h1"]]
    assert walked(engine, hers, Sort.SEVERITY, 2, q="even") == [["h8", "h6"], ["h4", "h2"], ["h0"]]
    assert searched(engine, hers, "even", hostname="H4") == ["h4"]
    assert searched(engine, hers, "even", severity="low") == []


@ON_POSTGRES
def test_the_index_of_words_takes_what_rests_and_gives_back_what_changes(engine: Engine, hers: int) -> None:
    incident(engine, hers, "old")
    settled(engine)
    incident(engine, hers, "pending")
    incident(engine, hers, "fresh", triage="done")
    assert search.indexed(engine)
    assert search.catch_up(engine) == 1
    assert search.catch_up(engine) == 0
    assert in_index(engine) == {"old"}
    put(engine, hers, alert(hostname="old", dedup_key="key of old", evidence={"n": 1}))
    assert in_index(engine) == set()
    assert searched(engine, hers, "old") == ["old"]


def in_index(engine: Engine) -> set[str]:
    statement = select(Incident.hostname).where(Incident.searchable)
    return set(reading(engine, lambda session: list(session.scalars(statement))))


@ON_POSTGRES
def test_the_query_of_the_search_is_one_the_index_of_words_can_answer(engine: Engine, hers: int) -> None:
    """An expression that is spelled in another way than the index has it is found nowhere in a plan."""
    others = text("SELECT indexname FROM pg_indexes WHERE tablename = 'incidents' AND indexname !~ '^pk_|_words$'")
    with engine.connect() as connection:
        for name in list(connection.scalars(others)):  # a table of no rows is read by whichever index is the smallest
            connection.execute(text(f"DROP INDEX {name}"))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        hits = search._hits(hers, ["needle"]).compile(engine, compile_kwargs={"literal_binds": True})
        plan = "\n".join(connection.scalars(text(f"EXPLAIN {hits}".replace("%%", "%"))))
        connection.rollback()
    assert "ix_incidents_words" in plan


def test_without_the_index_of_words_nothing_counts_as_indexed(engine: Engine, hers: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX IF EXISTS ix_incidents_words"))
    hay(engine, hers)
    settled(engine)
    assert not search.indexed(engine)
    assert search.catch_up(engine) == 0
    assert set(searched(engine, hers, "needle")) == {"db-01"}


# ---------------------------------------------------------------- counts


def test_a_count_ends_at_its_limit_and_says_so(engine: Engine, hers: int, his: int) -> None:
    for number in range(3):
        incident(engine, hers, f"h{number}")
    incident(engine, his, "h9")

    def counted(limit: int, **filters: Any) -> tuple[int, bool]:
        found = reading(engine, lambda session: incidents.count_up_to(session, hers, Filters(**filters), limit))
        return found.number, found.more

    assert counted(10) == (3, False)
    assert counted(3) == (3, False)
    assert counted(2) == (2, True)
    assert counted(10, hostname="h1") == (1, False)
    assert counted(10, q="h1") == (1, False)


def test_matches_of_a_search_are_counted_no_further_than_can_be_read(
    engine: Engine, hers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "SEARCH_COUNT", 2)
    for number in range(3):
        incident(engine, hers, f"h{number}")
    found = reading(engine, lambda session: incidents.count_up_to(session, hers, Filters(q="h")))
    assert (found.number, found.more) == (2, True)


# ---------------------------------------------------------------- many at once


def act(engine: Engine, tenant: int, wanted: Any, action: str) -> dict[str, int]:
    return incidents.act_on_all(engine, tenant, wanted, BulkAction(action), BOB)


def everything(engine: Engine, *columns: Any) -> list[Any]:
    return reading(engine, lambda session: session.execute(select(*columns).order_by(*columns)).all())


@pytest.mark.parametrize(("action", "status"), [("acknowledge", "acknowledged"), ("resolve", "resolved")])
def test_all_that_match_are_changed_and_again_changes_nothing(
    engine: Engine, hers: int, his: int, monkeypatch: pytest.MonkeyPatch, action: str, status: str
) -> None:
    monkeypatch.setattr(incidents, "BULK_BATCH", 2)
    for hostname in "abc":
        incident(engine, hers, hostname, severity="high")
    incident(engine, hers, "d", severity="low")
    incident(engine, his, "e", severity="high")
    wanted = Filters(severity=("high", "critical"))
    assert act(engine, hers, wanted, action) == {"changed": 3, "unchanged": 0}
    assert act(engine, hers, wanted, action) == {"changed": 0, "unchanged": 3}
    assert dict(everything(engine, Incident.hostname, Incident.status)) == {
        **dict.fromkeys("abc", status),
        **dict.fromkeys("de", "open"),
    }
    assert entries(engine, status) == [(BOB.name, "a"), (BOB.name, "b"), (BOB.name, "c")]
    assert lines(engine) == [
        (BOB.name, f"incidents.{status}", "1 incidents", BOB.address),
        (BOB.name, f"incidents.{status}", "2 incidents", BOB.address),
    ]


def entries(engine: Engine, kind: str) -> list[tuple[str, str]]:
    statement = (
        select(TimelineEntry.actor, Incident.hostname)
        .join(Incident, Incident.id == TimelineEntry.incident_id)
        .where(TimelineEntry.kind == kind)
        .order_by(Incident.hostname)
    )
    return [tuple(row) for row in reading(engine, lambda session: session.execute(statement).all())]


def lines(engine: Engine) -> list[tuple[str, ...]]:
    columns = (AuditLine.actor, AuditLine.action, AuditLine.target, AuditLine.address)
    return [tuple(row) for row in everything(engine, *columns) if row.actor == BOB.name]


def test_what_a_person_resolved_with_others_is_theirs_like_one_alone(engine: Engine, hers: int) -> None:
    together, alone = incident(engine, hers, "a"), incident(engine, hers, "b")
    act(engine, hers, [together], "resolve")
    incidents.resolve(engine, hers, alone, BOB)
    assert everything(engine, Incident.ended_by, Incident.status) == [("person", "resolved")] * 2


def test_all_can_be_asked_about_again(engine: Engine, hers: int) -> None:
    for hostname, triage in (("a", "done"), ("b", "needs_human"), ("c", "pending"), ("d", "classifying")):
        incident(engine, hers, hostname, triage=triage, attempts=3)
    assert act(engine, hers, Filters(), "reclassify") == {"changed": 2, "unchanged": 2}
    assert act(engine, hers, Filters(), "reclassify") == {"changed": 0, "unchanged": 4}
    assert everything(engine, Incident.hostname, Incident.triage, Incident.fresh, Incident.attempts) == [
        ("a", "pending", True, 0),
        ("b", "pending", True, 0),
        ("c", "pending", False, 3),
        ("d", "classifying", False, 3),
    ]
    assert entries(engine, "reclassify") == [(BOB.name, "a"), (BOB.name, "b")]


def test_named_incidents_of_another_tenant_are_neither_changed_nor_counted(engine: Engine, hers: int, his: int) -> None:
    mine, theirs = incident(engine, his, "a"), incident(engine, hers, "b")
    for action in BulkAction:
        before = everything(engine, Incident.hostname, Incident.status, Incident.triage)[1]
        act(engine, his, [theirs, uuid.uuid4()], action)
        assert everything(engine, Incident.hostname, Incident.status, Incident.triage)[1] == before
    assert lines(engine) == []
    assert act(engine, his, [mine, theirs, mine], "acknowledge") == {"changed": 1, "unchanged": 0}


def test_more_than_can_be_changed_at_once_is_refused_before_anything_is(
    engine: Engine, hers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "BULK_LIMIT", 2)
    named = [incident(engine, hers, hostname) for hostname in "abc"]
    for wanted in (Filters(), named):
        with pytest.raises(Conflict, match="Narrow the list"):
            act(engine, hers, wanted, "resolve")
    assert everything(engine, Incident.status) == [("open",)] * 3
    assert act(engine, hers, named[:2], "resolve") == {"changed": 2, "unchanged": 0}


def test_the_incidents_of_a_bulk_act_are_locked_in_the_order_of_the_door(engine: Engine, hers: int) -> None:
    """Otherwise a body that holds the same incidents and the act could wait for each other."""
    from openremedy import store

    ids = [incident(engine, hers, hostname) for hostname in "abcdef"]
    by_identity = [one for (_, one) in everything(engine, Incident.identity, Incident.id)]
    with engine.begin() as connection:
        assert [one.id for one in store.load_all_locked(connection, hers, ids)] == by_identity


def test_matching_ids_are_of_the_tenant_and_newest_first(engine: Engine, hers: int, his: int) -> None:
    ids = [incident(engine, hers, hostname) for hostname in "abc"]
    incident(engine, his, "d")
    found = reading(engine, lambda session: incidents.matching_ids(session, hers, Filters(), 2))
    assert found == ids[:0:-1]
