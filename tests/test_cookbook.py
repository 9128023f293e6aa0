"""Recipes as people edit them: versions, conflicts instead of lost updates, forms, and how well each one does."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from cast import Tenant
from openremedy import cookbook
from openremedy.audit import Actor
from openremedy.cookbook import as_json, at_version, from_json, history, restore, same, save
from openremedy.errors import Conflict, Invalid, NotFound
from openremedy.extensions import db
from openremedy.models import AuditLine, Recipe, RecipeVersion
from openremedy.models import Tenant as TenantRow
from openremedy.recipe_form import MAX_CHARACTERS, MAX_DIFF_LINES, diff, form_of, spec_from_form
from openremedy.recipes import MAX_STEPS, RecipeSpec, dump, parse
from test_recipes import SPECS, spec

ALICE = Actor("alice@example.com", "192.0.2.1", "request-1")
BOB = Actor("bob@example.com", "192.0.2.2", "request-2")
ONLY_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
FIRST = spec(slug="own", title="First", match={"port": 1}, tags=("a", "b"), steps="one\ntwo\nthree\n")
SECOND = replace(FIRST, title="Second")


@pytest.fixture
def session(app: Flask, alice: Tenant) -> Iterator[Session]:
    with app.app_context():
        yield db.session()


@pytest.fixture
def tenant_id(alice: Tenant) -> int:
    return alice.id


@pytest.fixture
def charlie_id(charlie: Tenant) -> int:
    return charlie.id


def catalogue_version(session: Session, tenant_id: int) -> int:
    return session.execute(select(TenantRow.catalogue_version).where(TenantRow.id == tenant_id)).scalar_one()


def lines(session: Session) -> list[tuple[str, str, dict[str, Any]]]:
    """The audit lines of these tests, oldest first."""
    rows = session.scalars(select(AuditLine).where(AuditLine.actor != "command line").order_by(AuditLine.id))
    return [(row.action, row.target, row.detail) for row in rows]


def versions(session: Session, tenant_id: int, slug: str = "own") -> list[tuple[int, str, str, bool]]:
    return [(one.version, one.spec.title, one.actor, one.current) for one in history(session, tenant_id, slug)]


# ---------------------------------------------------------------- save


def test_a_new_recipe_is_version_one_with_its_author(session: Session, tenant_id: int) -> None:
    before = catalogue_version(session, tenant_id)
    assert save(session, tenant_id, FIRST, None, ALICE) == 1
    assert cookbook.spec_of(cookbook.find(session, tenant_id, "own")) == FIRST
    assert versions(session, tenant_id) == [(1, "First", ALICE.name, True)]
    assert lines(session) == [("recipe.created", "own", {"version": 1})]
    assert catalogue_version(session, tenant_id) == before + 1


def test_a_change_is_a_version_and_says_what_changed(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    before = catalogue_version(session, tenant_id)
    changed = replace(FIRST, title="Second", steps="one\ntwo\n", match={"port": True})
    assert save(session, tenant_id, changed, 1, BOB) == 2
    assert versions(session, tenant_id) == [(2, "Second", BOB.name, True), (1, "First", ALICE.name, False)]
    assert at_version(session, tenant_id, "own", 1) == FIRST
    assert same(at_version(session, tenant_id, "own", 2), changed)
    assert lines(session)[1] == ("recipe.changed", "own", {"version": 2, "fields": ["title", "match", "steps"]})
    assert catalogue_version(session, tenant_id) == before + 1


def test_saving_what_is_there_already_changes_nothing(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    save(session, tenant_id, SECOND, 1, ALICE)
    before = catalogue_version(session, tenant_id), lines(session), versions(session, tenant_id)
    assert save(session, tenant_id, SECOND, 1, BOB) == 2, "the same form sent twice"
    assert save(session, tenant_id, SECOND, None, BOB) == 2, "also that of a new recipe"
    assert (catalogue_version(session, tenant_id), lines(session), versions(session, tenant_id)) == before


def test_one_and_true_are_two_conditions(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    save(session, tenant_id, replace(FIRST, match={"port": True}), 1, ALICE)
    assert cookbook.find(session, tenant_id, "own").match == {"port": True}
    assert cookbook.find(session, tenant_id, "own").version == 2


def test_whoever_saves_over_somebody_else_s_change_is_told(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    save(session, tenant_id, SECOND, 1, BOB)
    with pytest.raises(Conflict, match=r"bob@example.com has changed .* version 2, you began at 1"):
        save(session, tenant_id, replace(FIRST, title="Mine"), 1, ALICE)
    assert cookbook.find(session, tenant_id, "own").title == "Second"
    assert len(lines(session)) == 2


def test_a_slug_is_taken_once(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    with pytest.raises(Conflict, match="There is a recipe 'own' already"):
        save(session, tenant_id, SECOND, None, BOB)


def test_a_recipe_that_never_was_cannot_be_changed(session: Session, tenant_id: int, charlie_id: int) -> None:
    save(session, charlie_id, FIRST, None, BOB)
    with pytest.raises(NotFound):
        save(session, tenant_id, SECOND, 1, ALICE)
    with pytest.raises(NotFound):
        save(session, 10**9, FIRST, None, ALICE)


def test_the_starter_recipes_keep_what_they_were_at_their_first_change(session: Session, tenant_id: int) -> None:
    session.execute(delete(RecipeVersion))  # as a database that is older than versions
    session.commit()
    (old,) = history(session, tenant_id, "disk-full")
    assert (old.version, old.actor, old.current) == (1, "", True)
    assert at_version(session, tenant_id, "disk-full", 1) == old.spec
    save(session, tenant_id, replace(old.spec, title="Changed"), 1, ALICE)
    assert versions(session, tenant_id, "disk-full") == [
        (2, "Changed", ALICE.name, True),
        (1, old.spec.title, "", False),
    ]


def test_what_the_release_before_wrote_without_a_version_is_not_lost(session: Session, tenant_id: int) -> None:
    """During an upgrade both run: the older one changes a recipe and raises no version."""
    save(session, tenant_id, FIRST, None, ALICE)
    session.execute(update(Recipe).where(Recipe.slug == "own").values(title="By the release before"))
    session.commit()
    save(session, tenant_id, replace(FIRST, title="Third"), 1, BOB)
    assert versions(session, tenant_id) == [
        (3, "Third", BOB.name, True),
        (2, "By the release before", "", False),
        (1, "First", ALICE.name, False),
    ]


def at_once(app: Flask, count: int, act: Callable[[Session, int], Any]) -> list[Any]:
    """What each of `count` callers gets that start together, or the Conflict it is told."""
    start = threading.Barrier(count)

    def one(number: int) -> Any:
        with app.app_context():
            start.wait()
            try:
                return act(db.session(), number)
            except Conflict as conflict:
                return conflict

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_many_who_save_at_once_one_wins_and_the_others_are_told(app: Flask, tenant_id: int) -> None:
    with app.app_context():
        save(db.session(), tenant_id, FIRST, None, ALICE)
    told = at_once(app, 6, lambda session, n: save(session, tenant_id, replace(FIRST, title=f"By {n}"), 1, ALICE))
    assert told.count(2) == 1
    assert sum(isinstance(one, Conflict) for one in told) == 5
    with app.app_context():
        assert [one.version for one in history(db.session(), tenant_id, "own")] == [2, 1]


@ONLY_POSTGRES  # on SQLite whoever has read holds the lock
def test_what_a_session_read_before_the_lock_is_read_again(app: Flask, tenant_id: int) -> None:
    with app.app_context():
        save(db.session(), tenant_id, FIRST, None, ALICE)
        shown = cookbook.find(db.session(), tenant_id, "own")
        at_once(app, 1, lambda session, _: save(session, tenant_id, SECOND, 1, BOB))
        assert shown.title == "First"
        with pytest.raises(Conflict):
            save(db.session(), tenant_id, replace(FIRST, title="Mine"), 1, ALICE)


def test_of_many_who_create_one_slug_at_once_one_wins(app: Flask, tenant_id: int) -> None:
    told = at_once(app, 6, lambda session, n: save(session, tenant_id, replace(FIRST, title=f"By {n}"), None, ALICE))
    assert told.count(1) == 1
    assert sum(isinstance(one, Conflict) for one in told) == 5


# ---------------------------------------------------------------- delete, enable, restore


def test_a_deleted_recipe_is_gone_and_its_versions_stay(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    before = catalogue_version(session, tenant_id)
    for _ in range(2):  # safe to send twice
        cookbook.delete(session, tenant_id, "own", 1, BOB)
    with pytest.raises(NotFound):
        cookbook.find(session, tenant_id, "own")
    assert versions(session, tenant_id) == [(1, "First", ALICE.name, False)]
    assert lines(session)[1:] == [("recipe.deleted", "own", {"version": 1})]
    assert catalogue_version(session, tenant_id) == before + 1


def test_deleting_what_somebody_else_has_changed_is_a_conflict(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    save(session, tenant_id, SECOND, 1, BOB)
    with pytest.raises(Conflict, match="version 2"):
        cookbook.delete(session, tenant_id, "own", 1, ALICE)
    with pytest.raises(NotFound):
        cookbook.delete(session, tenant_id, "never-was", 1, ALICE)


def test_an_editor_of_a_deleted_recipe_is_told_also_when_it_was_made_anew(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    cookbook.delete(session, tenant_id, "own", 1, BOB)
    with pytest.raises(Conflict, match="deleted"):
        save(session, tenant_id, SECOND, 1, ALICE)
    assert save(session, tenant_id, replace(FIRST, title="Anew"), None, BOB) == 2
    with pytest.raises(Conflict, match="version 2"):
        save(session, tenant_id, SECOND, 1, ALICE)


def test_a_recipe_deleted_before_versions_were_kept_can_be_brought_back(session: Session, tenant_id: int) -> None:
    session.execute(delete(RecipeVersion))
    session.commit()
    was = at_version(session, tenant_id, "disk-full", 1)
    cookbook.delete(session, tenant_id, "disk-full", 1, ALICE)
    assert restore(session, tenant_id, "disk-full", 1, None, ALICE) == 2
    assert cookbook.spec_of(cookbook.find(session, tenant_id, "disk-full")) == was


def test_an_old_version_comes_back_as_a_new_one(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    save(session, tenant_id, SECOND, 1, ALICE)
    assert restore(session, tenant_id, "own", 1, 2, BOB) == 3
    assert versions(session, tenant_id)[0] == (3, "First", BOB.name, True)
    with pytest.raises(Conflict):
        restore(session, tenant_id, "own", 2, 2, ALICE)
    with pytest.raises(NotFound):
        restore(session, tenant_id, "own", 99, 3, ALICE)


def test_a_recipe_is_switched_off_and_on_again(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    for enabled, version in ((False, 2), (False, 2), (True, 3)):
        assert cookbook.set_enabled(session, tenant_id, "own", enabled, BOB) == version
        assert cookbook.find(session, tenant_id, "own").enabled is enabled
    assert lines(session)[1:] == [
        ("recipe.disabled", "own", {"version": 2}),
        ("recipe.enabled", "own", {"version": 3}),
    ]
    with pytest.raises(NotFound):
        cookbook.set_enabled(session, tenant_id, "never-was", True, BOB)


def test_versions_are_of_one_tenant(session: Session, tenant_id: int, charlie_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    with pytest.raises(NotFound):
        history(session, charlie_id, "own")
    with pytest.raises(NotFound):
        at_version(session, charlie_id, "own", 1)


# ---------------------------------------------------------------- import


def test_an_import_keeps_versions_and_says_so_once(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    before = catalogue_version(session, tenant_id)
    other = replace(FIRST, slug="other")
    for counts in ((1, 1), (0, 0)):  # the second time it is all there
        assert cookbook.import_recipes(session, tenant_id, [SECOND, other], BOB) == counts
    assert versions(session, tenant_id) == [(2, "Second", BOB.name, True), (1, "First", ALICE.name, False)]
    assert versions(session, tenant_id, "other") == [(1, "First", BOB.name, True)]
    assert lines(session)[1:] == [("recipe.imported", "", {"added": 1, "changed": 1, "of": 2})]
    assert catalogue_version(session, tenant_id) == before + 1


def test_an_import_that_changes_a_recipe_meanwhile_is_a_conflict_for_its_editor(
    session: Session, tenant_id: int
) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    cookbook.import_recipes(session, tenant_id, [SECOND])
    with pytest.raises(Conflict, match="command line has changed"):
        save(session, tenant_id, replace(FIRST, title="Mine"), 1, ALICE)


def test_the_preview_tells_what_an_import_would_do_and_does_nothing(session: Session, tenant_id: int) -> None:
    save(session, tenant_id, FIRST, None, ALICE)
    (disk,) = [one for one in cookbook.export_recipes(session, tenant_id) if one.slug == "disk-full"]
    before = catalogue_version(session, tenant_id)
    found = cookbook.import_preview(session, tenant_id, [replace(FIRST, slug="other"), SECOND, disk])
    assert [(one.slug, one.outcome) for one in found] == [
        ("other", "new"),
        ("own", "changed"),
        ("disk-full", "unchanged"),
    ]
    (change,) = found[1].changes
    assert (change.field, change.before, change.after) == ("title", "First", "Second")
    assert catalogue_version(session, tenant_id) == before


# ---------------------------------------------------------------- two versions side by side


def test_steps_are_compared_line_by_line() -> None:
    (change,) = diff(FIRST, replace(FIRST, steps="one\n--- two\nthree\n"))
    assert change.field == "steps"
    assert [line for line in change.lines if line[0] in "+-"] == ["-two", "+--- two"]


def test_every_field_that_differs_is_named() -> None:
    other = RecipeSpec("own", "T", "W", ("custom",), {"a": [1, 2]}, "high", "S", ("c",), False)
    assert {change.field for change in diff(FIRST, other)} == set(form_of(FIRST)) - {"slug"}
    assert diff(FIRST, FIRST) == []


def test_a_new_recipe_differs_in_all_it_has() -> None:
    assert {change.field: change.after for change in diff(None, FIRST)} == {
        name: text for name, text in form_of(FIRST).items() if text
    }


def test_texts_of_very_many_lines_are_shown_one_after_the_other() -> None:
    (change,) = diff(replace(FIRST, steps="a\n" * MAX_DIFF_LINES), replace(FIRST, steps="b"))
    assert change.lines[-2:] == ("-", "+b")


# ---------------------------------------------------------------- forms

FORM = form_of(FIRST)


@given(SPECS)
@example(spec(steps="\n\n  x  \n\n"))
@example(spec(match={"a": "line\nline", "b" * 200: None, "/labels/team": ["yes", True, 1.5]}))
@example(spec(title="\U0001f4bf full"))
def test_what_a_form_shows_comes_back_as_the_same_recipe(shown: RecipeSpec) -> None:
    assert same(spec_from_form(form_of(shown)), shown)
    as_browsers_send = {name: text.replace("\n", "\r\n") for name, text in form_of(shown).items()}
    assert same(spec_from_form(as_browsers_send), shown)


@given(SPECS)
def test_a_version_comes_back_from_json_as_it_was(shown: RecipeSpec) -> None:
    assert same(from_json(as_json(shown)), shown)


ODD = st.text(max_size=40) | st.sampled_from(
    [
        "",
        "x: 1",
        "{a: 1}",
        "{a: 1",
        "[1]",
        '"',
        "a: &x 1",
        "- b",
        "\n- slug: evil",
        "a: 1\u2028- slug: evil",
        "!!x y",
        "|",
    ]
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FORM, ODD)))
def test_no_form_is_taken_that_a_file_would_not_say(values: dict[str, str]) -> None:
    wrong: Mapping[str, Any] = {}
    try:
        taken = spec_from_form({**FORM, **values})
    except Invalid as error:
        wrong = error.fields or {"nothing": "named"}
    assert set(wrong) <= set(FORM)
    assert wrong or same(parse(dump([taken]))[0], taken)


def test_words_may_have_blanks_or_commas_between_them() -> None:
    taken = spec_from_form(FORM | {"tags": " disk, lvm2\n x", "applies_to": "disk_full,custom"})
    assert (taken.tags, taken.applies_to) == (("disk", "lvm2", "x"), ("disk_full", "custom"))


@pytest.mark.parametrize(
    "match", ['{"port": 22, "host": ["a", "b"]}', "port: 22\nhost:\n- a\n- b", "  port: 22\n  host: [a, b]"]
)
def test_conditions_may_be_yaml_or_json(match: str) -> None:
    assert spec_from_form(FORM | {"match": match}).match == {"port": 22, "host": ["a", "b"]}


@pytest.mark.parametrize("match", ["", "  \n", "{}", "# none"])
def test_no_conditions_are_none(match: str) -> None:
    assert spec_from_form(FORM | {"match": match}).match == {}


@pytest.mark.parametrize(
    ("text", "enabled"), [("true", True), ("on", True), ("", False), ("false", False), (None, False)]
)
def test_a_box_that_is_not_ticked_sends_nothing(text: str | None, enabled: bool) -> None:
    sent = {name: value for name, value in FORM.items() if name != "enabled"} | (
        {} if text is None else {"enabled": text}
    )
    assert spec_from_form(sent).enabled is enabled


@pytest.mark.parametrize(
    ("field", "text", "problem"),
    [
        ("slug", "Not A Slug", "must be lower-case letters"),
        ("slug", "none", "must not be 'none'"),
        ("slug", "", "must not be empty"),
        ("title", "", "must not be empty"),
        ("title", "two\nlines", "must be one line"),
        ("when", "x\x1by", "the control character U+001B is not allowed"),
        ("when", "x\u2028y", "the control character U+2028 is not allowed"),
        ("applies_to", "disk_ful", "did you mean 'disk_full'?"),
        ("match", "port", "must be a mapping"),
        ("match", "port: 22\nmount: {like: x}", "line 2: match: mount: unknown operator 'like'"),
        ("match", "a: 1\nb: 2\na: 3", "line 3: match: the key 'a' is already in line 1"),
        ("match", "a: yes", "write true or false"),
        ("match", "a: [1", "not valid YAML"),
        ("match", "a: 1\n- slug: evil", "not valid YAML"),
        ("risk", "lo", "must be one of low, medium, high"),
        ("tags", "a a", "lists 'a' twice"),
        ("enabled", "maybe", "must be true or false"),
        ("steps", "x" * (MAX_STEPS + 1), "has 20001 characters; the limit is 20000"),
        ("steps", "x" * MAX_CHARACTERS, "far too long"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(field: str, text: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        spec_from_form(FORM | {field: text})
    fields = caught.value.fields or {}
    assert list(fields) == [field]
    assert problem in " ".join(fields[field])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        spec_from_form({"slug": "x y", "tags": "!", "match": "1"})
    assert set(caught.value.fields or {}) == {"slug", "title", "when", "risk", "steps", "tags", "match"}
