"""The pages of recipes, as admins use them."""

import io
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from browser_client import Person
from cast import Tenant
from openremedy.models import Role
from openremedy.recipes import MAX_FILE_BYTES

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
FORM = {
    "title": "A new one",
    "when": "Something is new.",
    "applies_to": ["disk_full", "custom"],
    "risk": "low",
    "steps": "## Look\n\n- **first**",
    "tags": "new disk",
    "enabled": "true",
}


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """An admin of Alice's tenant."""
    return Person(app, "ann@example.com", "alice")


def test_a_new_recipe_is_stored_and_shown(alice: Tenant, ann: Person) -> None:
    answer = ann.post("new-recipe", slug="a-new-one", **FORM)
    assert (answer.status_code, answer.location) == (303, "/t/alice/recipes/a-new-one")
    assert alice.get("/recipes/a-new-one")["applies_to"] == ["disk_full", "custom"]
    page = ann.get("recipes/a-new-one").text
    assert "<strong>first</strong>" in page
    assert "<h4>Look</h4>" in page or "<h3>Look</h3>" in page


def test_a_form_with_mistakes_comes_back_with_what_was_typed_and_the_field_marked(ann: Person) -> None:
    answer = ann.post("new-recipe", slug="Not A Slug", **FORM | {"risk": "huge", "title": "Kept title"})
    assert answer.status_code == 422
    assert 'value="Kept title"' in answer.text
    assert 'id="e-slug"' in answer.text
    assert 'id="e-risk"' in answer.text


def test_a_slug_that_is_taken_is_said_at_its_field(ann: Person) -> None:
    answer = ann.post("new-recipe", slug="disk-full", **FORM)
    assert answer.status_code == 422
    assert "exists already" in answer.text


def test_saving_an_old_version_shows_both_and_loses_neither(alice: Tenant, ann: Person) -> None:
    ann.post("new-recipe", slug="shared", **FORM)
    assert ann.post("recipes/shared/edit", version="1", **FORM | {"title": "First"}).status_code == 303
    late = ann.post("recipes/shared/edit", version="1", **FORM | {"title": "Second"})
    assert late.status_code == 409
    assert 'value="Second"' in late.text
    assert "-First" in late.text
    assert 'name="version" value="2"' in late.text
    assert ann.post("recipes/shared/edit", version="2", **FORM | {"title": "Second"}).status_code == 303
    assert alice.get("/recipes/shared")["title"] == "Second"


@pytest.mark.parametrize("version", ["", "x", "-1", "9" * 30])
def test_a_form_without_its_version_is_refused(ann: Person, version: str) -> None:
    assert ann.post("recipes/disk-full/edit", version=version, **FORM).status_code == 422


def test_a_version_is_compared_and_brought_back(alice: Tenant, ann: Person) -> None:
    ann.post("new-recipe", slug="old", **FORM)
    ann.post("recipes/old/edit", version="1", **FORM | {"title": "Changed"})
    page = ann.get("recipes/old/versions/1").text
    assert "+Changed" in page
    assert ann.post("recipes/old/versions/1/restore", version="2").status_code == 303
    assert alice.get("/recipes/old")["title"] == "A new one"
    assert ann.get("recipes/old/versions/9").status_code == 404


def test_a_deleted_recipe_leaves_its_versions(alice: Tenant, ann: Person) -> None:
    ann.post("new-recipe", slug="gone", **FORM)
    assert ann.post("recipes/gone/delete", version="1").status_code == 303
    link = '<a href="/t/alice/recipes/gone/versions/1">'
    after = ann.get("recipes").text
    assert f"Its versions stay, so it can be brought back: {link}version 1</a>." in after
    assert f"{link}A new one</a>" in after, "the list of what was deleted"
    assert ann.get("recipes/gone").status_code == 404
    assert "Deleted recipes" in ann.get("recipes").text
    assert ann.post("recipes/gone/versions/1/restore").status_code == 303
    assert alice.get("/recipes/gone")["title"] == "A new one"
    assert "Deleted recipes" not in ann.get("recipes").text


def test_it_is_switched_off_and_on(alice: Tenant, ann: Person) -> None:
    ann.post("recipes/disk-full/enabled", enabled="false")
    assert alice.get("/recipes/disk-full")["enabled"] is False
    assert "switched off" in ann.get("recipes/disk-full").text
    ann.post("recipes/disk-full/enabled", enabled="true")
    assert alice.get("/recipes/disk-full")["enabled"] is True


def test_the_preview_is_markdown_without_markup(ann: Person) -> None:
    answer = ann.post("recipe-preview", steps="**bold** <script>alert(1)</script>")
    assert "<strong>bold</strong>" in answer.text
    assert "<script" not in answer.text


def test_export_is_what_import_takes(alice: Tenant, ann: Person) -> None:
    everything = ann.get("recipes.yaml")
    assert everything.mimetype == "application/yaml"
    assert ann.get("recipes.yaml", slug="no-such").status_code == 404
    preview = ann.post("recipe-import", text=everything.text)
    assert "Nothing: all" in preview.text


def test_an_import_shows_what_it_would_change_before_it_changes_it(alice: Tenant, ann: Person) -> None:
    text = "- {slug: by-file, title: By file, when: never, risk: low, steps: none}"
    files: dict[str, Any] = {"file": (io.BytesIO(text.encode()), "recipes.yaml")}
    preview = ann.post("recipe-import", **files)
    assert preview.status_code == 200
    assert "By file" in preview.text
    assert "by-file" not in {one["slug"] for one in alice.get("/recipes", limit=200)["items"]}
    assert ann.post("recipe-import", do="import", text=text).status_code == 303
    assert alice.get("/recipes/by-file")["title"] == "By file"


def test_a_file_that_was_shown_can_be_imported_however_large(ann: Person) -> None:
    """What a file may hold, the form that confirms it may hold too."""
    entry = "- slug: long-{}\n  title: Long\n  when: Always.\n  applies_to: [custom]\n  risk: low\n  steps: |\n    {}\n"
    text = "".join(entry.format(number, "\u00e9 " * 6000) for number in range(40))
    assert 600_000 < len(text.encode()) < MAX_FILE_BYTES
    shown = _sent_in_parts(ann, file=FileStorage(io.BytesIO(text.encode()), "recipes.yaml"))
    assert (shown.status_code, "Import 40 recipes" in shown.text) == (200, True)
    assert shown.text.count('enctype="multipart/form-data"') == 1
    assert _sent_in_parts(ann, do="import", text=text).status_code == 303


def _sent_in_parts(ann: Person, **fields: Any) -> TestResponse:
    """In memory: the client would leave a file open."""
    boundary, body = encode_multipart({"csrf_token": ann.token()} | fields)
    kind = f"multipart/form-data; boundary={boundary}"
    return ann.client.post(ann.path("recipe-import"), data=body, content_type=kind)


def test_a_file_with_mistakes_names_the_lines_and_changes_nothing(alice: Tenant, ann: Person) -> None:
    answer = ann.post("recipe-import", do="import", text="- {slug: BAD, title: x}")
    assert answer.status_code == 422
    assert "line 1" in answer.text
    assert "Nothing was imported" in answer.text


def test_the_starter_catalogue_adds_what_is_missing_and_leaves_the_rest(alice: Tenant, ann: Person) -> None:
    ann.post("recipes/disk-full/delete", version="1")
    ann.post("recipes/log-partition-full/enabled", enabled="false")
    ann.post("recipe-starter")
    assert alice.get("/recipes/disk-full")["enabled"] is True
    assert alice.get("/recipes/log-partition-full")["enabled"] is False


def test_trying_needs_the_queue_and_says_so(ann: Person) -> None:
    answer = ann.post("recipe-try", slug="a-new-one", **FORM)
    assert answer.status_code == 503
    assert "queue" in answer.text


def test_a_viewer_reads_recipes_and_is_offered_no_change(app: Flask, alice: Tenant) -> None:
    vera = Person(app, "vera@example.com", "alice", Role.VIEWER)
    page = vera.get("recipes/disk-full").text
    assert "Edit" not in page
    assert "Delete" not in page
    assert vera.get("recipes/disk-full/edit").status_code == 403
