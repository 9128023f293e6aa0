"""Recipes: the list, one of them with its history, the editor, and import and export."""

from collections.abc import Mapping
from typing import Any

from flask import Response, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from openremedy import cookbook, markdown
from openremedy.alerts import IncidentType
from openremedy.errors import Conflict, Invalid, NotFound, Problem
from openremedy.extensions import db
from openremedy.models import Role
from openremedy.recipe_form import diff, form_of, spec_from_form
from openremedy.recipes import MAX_FILE_BYTES, RISKS, RecipeFileError, RecipeSpec, dump, parse
from openremedy.scorecard import DAYS, scorecards
from openremedy.tenants import STARTER_RECIPES
from openremedy.ui.access import in_tenant
from openremedy.ui.words import plural

NEW = {"enabled": "true", "risk": "medium"}


# ---------------------------------------------------------------- read


@in_tenant("/recipes")
def recipes() -> ResponseReturnValue:
    """Every recipe, and how it has done."""
    return render_template(
        "ui/recipes.html",
        recipes=cookbook.all_recipes(db.session(), g.here.id),
        deleted=cookbook.deleted(db.session(), g.here.id),
        **_cards(),
    )


@in_tenant("/recipes/<slug>")
def recipe(slug: str) -> ResponseReturnValue:
    """One recipe with its steps, its versions, and how it has done."""
    found = cookbook.find(db.session(), g.here.id, _slug(slug))
    return render_template(
        "ui/recipe.html",
        recipe=found,
        history=cookbook.history(db.session(), g.here.id, slug),
        card=_cards()["cards"].get(slug),
        days=DAYS,
    )


@in_tenant("/recipes/<slug>/versions/<int(max=99999999):version>")
def recipe_version(slug: str, version: int) -> ResponseReturnValue:
    """A recipe as it was, and what differs from now."""
    history = cookbook.history(db.session(), g.here.id, _slug(slug))
    then = next((one for one in history if one.version == version), None)
    if then is None:
        raise NotFound()
    now = next((one for one in history if one.current), None)
    changes = diff(then.spec, now.spec if now else None)
    return render_template("ui/recipe_version.html", slug=slug, then=then, now=now, changes=changes)


def _cards() -> dict[str, Any]:
    return {"cards": scorecards(db.session(), g.here.id, DAYS), "days": DAYS}


def _slug(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise NotFound()
    return text


# ---------------------------------------------------------------- the editor


@in_tenant("/new-recipe", role=Role.ADMIN)
def new_recipe() -> ResponseReturnValue:
    """An empty form."""
    return _form(NEW, None)


@in_tenant("/new-recipe", "POST", role=Role.ADMIN)
def add_recipe() -> ResponseReturnValue:
    """Store a new recipe."""
    return _save(None)


@in_tenant("/recipes/<slug>/edit", role=Role.ADMIN)
def edit_recipe(slug: str) -> ResponseReturnValue:
    """The form of a recipe."""
    found = cookbook.find(db.session(), g.here.id, _slug(slug))
    return _form(form_of(cookbook.spec_of(found)), found.version)


@in_tenant("/recipes/<slug>/edit", "POST", role=Role.ADMIN)
def save_recipe(slug: str) -> ResponseReturnValue:
    """Store the changes to the version that was read."""
    cookbook.find(db.session(), g.here.id, _slug(slug))
    return _save(slug)


def form_values(slug: str | None) -> dict[str, str]:
    """The fields of the editor; the slug of a recipe never changes."""
    values = {**request.form.to_dict(), "applies_to": " ".join(request.form.getlist("applies_to"))}
    return values | ({"slug": slug} if slug is not None else {})


def _save(slug: str | None) -> ResponseReturnValue:
    values = form_values(slug)
    read = _version(values) if slug is not None else None
    try:
        spec = spec_from_form(values)
        cookbook.save(db.session(), g.here.id, spec, read, g.visitor.actor)
    except Conflict as problem:
        return _conflict(values, slug, spec, problem)
    except Invalid as problem:
        return _form(values, read, problem)
    flash("Saved. From now on the classifier uses it.")
    return redirect(url_for("ui.recipe", tenant_slug=g.here.slug, slug=spec.slug), 303)


def _version(values: Mapping[str, str]) -> int:
    text = values.get("version", "")
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise Invalid("The form is incomplete; open it again.")
    return int(text)


def _conflict(values: Mapping[str, str], slug: str | None, spec: RecipeSpec, problem: Conflict) -> ResponseReturnValue:
    """Nothing is lost: what was typed stays, beside what somebody else has made of it meanwhile."""
    if slug is None:
        return _form(values, None, Invalid(fields={"slug": ["A recipe of this name exists already."]}))
    try:
        theirs = cookbook.find(db.session(), g.here.id, slug)
    except NotFound:
        return _form(values, None, problem)
    return _form(values, theirs.version, problem, diff(cookbook.spec_of(theirs), spec))


def _form(
    values: Mapping[str, str], version: int | None, problem: Problem | None = None, theirs: Any = ()
) -> ResponseReturnValue:
    page = render_template(
        "ui/recipe_form.html",
        values=values,
        version=version,
        problem=problem,
        theirs=theirs,
        types=list(IncidentType),
        risks=RISKS,
        preview=markdown.render(values.get("steps", "")),
    )
    return page, problem.status if problem else 200


@in_tenant("/recipe-preview", "POST", role=Role.ADMIN)
def preview_recipe() -> ResponseReturnValue:
    """The steps as they will look."""
    return markdown.render(request.form.get("steps", "")) or ""


@in_tenant("/recipes/<slug>/enabled", "POST", role=Role.ADMIN)
def enable_recipe(slug: str) -> ResponseReturnValue:
    """Let the classifier choose it, or not."""
    enabled = request.form.get("enabled") == "true"
    cookbook.set_enabled(db.session(), g.here.id, _slug(slug), enabled, g.visitor.actor)
    flash("The classifier may choose it again." if enabled else "The classifier does not choose it any more.")
    return redirect(url_for("ui.recipe", tenant_slug=g.here.slug, slug=slug), 303)


@in_tenant("/recipes/<slug>/delete", "POST", role=Role.ADMIN)
def delete_recipe(slug: str) -> ResponseReturnValue:
    """Delete it; its versions stay and can be brought back."""
    cookbook.delete(db.session(), g.here.id, _slug(slug), _version(request.form), g.visitor.actor)
    last = cookbook.history(db.session(), g.here.id, slug)[0].version
    url = url_for("ui.recipe_version", tenant_slug=g.here.slug, slug=slug, version=last)
    words = Markup('Deleted. Its versions stay, so it can be brought back: <a href="{}">version {}</a>.')
    flash(words.format(url, last))
    return redirect(url_for("ui.recipes", tenant_slug=g.here.slug), 303)


@in_tenant("/recipes/<slug>/versions/<int(max=99999999):version>/restore", "POST", role=Role.ADMIN)
def restore_recipe(slug: str, version: int) -> ResponseReturnValue:
    """Make it again what it was."""
    read = _version(request.form) if request.form.get("version") else None
    cookbook.restore(db.session(), g.here.id, _slug(slug), version, read, g.visitor.actor)
    flash(f"It is again what it was at version {version}.")
    return redirect(url_for("ui.recipe", tenant_slug=g.here.slug, slug=slug), 303)


# ---------------------------------------------------------------- import and export


@in_tenant("/recipes.yaml")
def export_recipes() -> ResponseReturnValue:
    """All of them (or one: `slug`) as a file that import takes."""
    specs = cookbook.export_recipes(db.session(), g.here.id)
    slug = request.args.get("slug")
    if slug is not None:
        specs = [spec for spec in specs if spec.slug == slug]
        if not specs:
            raise NotFound()
    name = f"{slug or 'recipes-' + g.here.slug}.yaml"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(dump(specs), mimetype="application/yaml", headers=headers)


@in_tenant("/recipe-starter", "POST", role=Role.ADMIN)
def add_starter_recipes() -> ResponseReturnValue:
    """Begin with the catalogue that ships with OpenRemedy."""
    present = {one.slug for one in cookbook.all_recipes(db.session(), g.here.id)}
    missing = [spec for spec in parse(STARTER_RECIPES.read_bytes()) if spec.slug not in present]
    added, _ = cookbook.import_recipes(db.session(), g.here.id, missing, g.visitor.actor)
    flash(f"{plural(added, 'recipe')} added.")
    return redirect(url_for("ui.recipes", tenant_slug=g.here.slug), 303)


@in_tenant("/recipe-import", role=Role.ADMIN)
def import_form() -> ResponseReturnValue:
    """Where a file is chosen or pasted."""
    return render_template("ui/recipe_import.html", text="", problems=[], previews=None)


@in_tenant("/recipe-import", "POST", role=Role.ADMIN)
def import_recipes() -> ResponseReturnValue:
    """First shows what the file would change; once that is confirmed, changes it, all of it or nothing."""
    text = _imported_text()
    try:
        specs = parse(text)
    except RecipeFileError as error:
        page = render_template(
            "ui/recipe_import.html", text=text.decode("utf-8", "replace"), problems=error.problems, previews=None
        )
        return page, 422
    if request.form.get("do") != "import":
        previews = cookbook.import_preview(db.session(), g.here.id, specs)
        return render_template("ui/recipe_import.html", text=text.decode(), problems=[], previews=previews)
    added, changed = cookbook.import_recipes(db.session(), g.here.id, specs, g.visitor.actor)
    flash(f"{plural(added, 'recipe')} added, {changed} changed, {len(specs) - added - changed} as they were.")
    return redirect(url_for("ui.recipes", tenant_slug=g.here.slug), 303)


def _imported_text() -> bytes:
    """The file, or the text that was pasted."""
    file = request.files.get("file")
    if file and file.filename:
        return file.stream.read(MAX_FILE_BYTES + 1)
    return request.form.get("text", "").replace("\r\n", "\n").encode("utf-8", "surrogatepass")
