"""A tenant's recipes as people and files change them: every change is a version, and nobody's is overwritten unseen."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from openremedy import audit
from openremedy.alerts import compact
from openremedy.audit import Actor
from openremedy.errors import Conflict, NotFound, Problem
from openremedy.models import Recipe, RecipeVersion, Tenant, now
from openremedy.recipe_form import FieldChange, diff
from openremedy.recipes import RecipeSpec

HISTORY = 100  # newest versions that are listed


@dataclass(frozen=True)
class Version:
    """A recipe at one version. `actor` is empty for what was there before versions were kept."""

    version: int
    spec: RecipeSpec
    actor: str
    at: datetime
    current: bool


# ---------------------------------------------------------------- read


def find(session: Session, tenant_id: int, slug: str) -> Recipe:
    """A recipe as it is now, with the `version` that a save of it has to name. Raises NotFound."""
    recipe = session.scalar(select(Recipe).where(Recipe.tenant_id == tenant_id, Recipe.slug == slug))
    if recipe is None:
        raise NotFound()
    return recipe


def all_recipes(session: Session, tenant_id: int) -> Sequence[Recipe]:
    """Every recipe of a tenant, by slug."""
    return session.scalars(select(Recipe).where(Recipe.tenant_id == tenant_id).order_by(Recipe.slug)).all()


def export_recipes(session: Session, tenant_id: int) -> list[RecipeSpec]:
    """Every recipe of a tenant as import takes it, by slug."""
    return [spec_of(recipe) for recipe in all_recipes(session, tenant_id)]


def history(session: Session, tenant_id: int, slug: str) -> list[Version]:
    """The newest versions of a recipe, newest first, also of one that was deleted. Raises NotFound."""
    recipe = session.scalar(select(Recipe).where(Recipe.tenant_id == tenant_id, Recipe.slug == slug))
    current = recipe.version if recipe else None
    rows = session.scalars(_kept(tenant_id, slug).order_by(RecipeVersion.version.desc()).limit(HISTORY)).all()
    found = [
        Version(row.version, from_json(row.spec), row.actor, row.created_at, row.version == current) for row in rows
    ]
    if recipe and current not in [one.version for one in found]:
        found.insert(0, Version(recipe.version, spec_of(recipe), "", recipe.updated_at, True))
    if not found:
        raise NotFound()
    return found


def deleted(session: Session, tenant_id: int) -> list[RecipeVersion]:
    """The newest version of each recipe that was deleted, by slug."""
    present = {recipe.slug for recipe in all_recipes(session, tenant_id)}
    gone = [row for row in _newest_kept(session, tenant_id, None) if row.slug not in present]
    return sorted(gone, key=lambda row: row.slug)


def at_version(session: Session, tenant_id: int, slug: str, version: int) -> RecipeSpec:
    """What a recipe was at one version. Raises NotFound."""
    row = session.scalar(_kept(tenant_id, slug).where(RecipeVersion.version == version))
    if row:
        return from_json(row.spec)
    recipe = find(session, tenant_id, slug)
    if recipe.version != version:
        raise NotFound()
    return spec_of(recipe)


def _kept(tenant_id: int, slug: str) -> Select[RecipeVersion]:
    return select(RecipeVersion).where(RecipeVersion.tenant_id == tenant_id, RecipeVersion.slug == slug)


@dataclass(frozen=True)
class Preview:
    """What an import would do to one recipe: "new", "changed" with what differs, or "unchanged"."""

    slug: str
    title: str
    outcome: str
    changes: list[FieldChange]


def import_preview(session: Session, tenant_id: int, specs: Sequence[RecipeSpec]) -> list[Preview]:
    """What an import of these would do, in their order; nothing is stored."""
    present = {spec.slug: spec for spec in export_recipes(session, tenant_id)}
    return [_preview(present.get(spec.slug), spec) for spec in specs]


def _preview(old: RecipeSpec | None, new: RecipeSpec) -> Preview:
    if old is None:
        return Preview(new.slug, new.title, "new", [])
    outcome = "unchanged" if same(old, new) else "changed"
    return Preview(new.slug, new.title, outcome, diff(old, new) if outcome == "changed" else [])


# ---------------------------------------------------------------- change


def save(session: Session, tenant_id: int, spec: RecipeSpec, expected_version: int | None, actor: Actor) -> int:
    """Store a new recipe (`expected_version` None) or the changes to the version that was read; returns the version.

    Saving what is there already changes nothing, so it may be sent twice.
    Raises NotFound (there never was such a recipe) and Conflict: the slug is taken, or somebody else changed or
    deleted the recipe meanwhile.
    """
    with _opened(session, tenant_id, actor, [spec.slug]) as book:
        recipe = book.recipes.get(spec.slug)
        if recipe is None or not same(spec_of(recipe), spec):
            book.expect(spec.slug, expected_version)
            book.put(spec)
        return book.recipes[spec.slug].version


def set_enabled(session: Session, tenant_id: int, slug: str, enabled: bool, actor: Actor) -> int:
    """Let the classifier choose a recipe, or not; returns the version. Raises NotFound."""
    with _opened(session, tenant_id, actor, [slug]) as book:
        if slug not in book.recipes:
            raise NotFound()
        book.put(replace(spec_of(book.recipes[slug]), enabled=enabled))
        return book.recipes[slug].version


def delete(session: Session, tenant_id: int, slug: str, expected_version: int, actor: Actor) -> None:
    """Delete a recipe as it was read; its versions stay. One that is deleted already stays so.

    Raises NotFound (there never was one), Conflict (somebody else changed it meanwhile).
    """
    with _opened(session, tenant_id, actor, [slug]) as book:
        if slug in book.recipes:
            book.expect(slug, expected_version)
            book.remove(slug)
        elif slug not in book.kept:
            raise NotFound()


def restore(
    session: Session, tenant_id: int, slug: str, version: int, expected_version: int | None, actor: Actor
) -> int:
    """Save a recipe as it was at `version`; `expected_version` None brings a deleted one back.

    Returns the new version. Raises NotFound, Conflict.
    """
    return save(session, tenant_id, at_version(session, tenant_id, slug, version), expected_version, actor)


def import_recipes(
    session: Session, tenant_id: int, specs: Sequence[RecipeSpec], actor: Actor = audit.COMMAND_LINE
) -> tuple[int, int]:
    """Add or replace recipes by their slug, all or none; returns how many are new and how many were changed.

    Raises NotFound (no such tenant).
    """
    with _opened(session, tenant_id, actor, None) as book:
        outcomes = [book.write(spec) for spec in specs]
        added, changed = outcomes.count("created"), outcomes.count("changed")
        if added or changed:
            line = audit.line(actor, tenant_id, "recipe.imported", added=added, changed=changed, of=len(specs))
            session.add(line)
        return added, changed


@contextmanager
def _opened(session: Session, tenant_id: int, actor: Actor, slugs: Collection[str] | None) -> "Iterator[_Book]":
    """The recipes to change (None: all), with the tenant's row locked, so that changes of one catalogue follow each
    other. What is done inside is committed, or nothing of it when a Problem is raised.
    """
    lock = select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True)
    try:
        if session.scalar(lock) is None:
            raise NotFound()
        book = _Book(session, tenant_id, actor, slugs)
        yield book
        if book.touched:
            raised = {"catalogue_version": Tenant.catalogue_version + 1}
            session.execute(update(Tenant).where(Tenant.id == tenant_id).values(raised))
        session.commit()
    except Problem:
        session.rollback()
        raise


class _Book:
    """The recipes to change, read under the lock, and the newest version that is kept of each."""

    def __init__(self, session: Session, tenant_id: int, actor: Actor, slugs: Collection[str] | None) -> None:
        self._session, self._tenant_id, self._actor = session, tenant_id, actor
        self.recipes = {recipe.slug: recipe for recipe in _recipes(session, tenant_id, slugs)}
        self.kept = {row.slug: row for row in _newest_kept(session, tenant_id, slugs)}
        self.touched = False

    def expect(self, slug: str, version: int | None) -> None:
        """Raises Conflict, or NotFound, unless the recipe is as its editor saw it."""
        recipe = self.recipes.get(slug)
        if recipe is None:
            self._expect_none(slug, version)
        elif version is None:
            raise Conflict(f"There is a recipe {slug!r} already. Choose another slug, or edit that one.")
        elif recipe.version != version:
            kept = self.kept.get(slug)
            name = kept.actor if kept and kept.version == recipe.version and kept.actor else "Somebody"
            raise Conflict(
                f"{name} has changed this recipe meanwhile: it is at version {recipe.version}, you began at {version}."
            )

    def _expect_none(self, slug: str, version: int | None) -> None:
        if version is None:
            return
        if slug not in self.kept:
            raise NotFound()
        raise Conflict("Somebody has deleted this recipe meanwhile.")

    def put(self, spec: RecipeSpec) -> None:
        """Write a recipe and its line in the audit log; nothing when it is so already."""
        old = spec_of(self.recipes[spec.slug]) if spec.slug in self.recipes else None
        if self.write(spec):
            action, fields = _said(old, spec)
            self._say(action, self.recipes[spec.slug], fields)

    def write(self, spec: RecipeSpec) -> str | None:
        """The same without the line: "created", "changed", or None when it is so already."""
        recipe = self.recipes.get(spec.slug)
        if recipe is None:
            self._create(spec)
            return "created"
        if same(spec_of(recipe), spec):
            return None
        self._keep_as_it_is(recipe)
        for name, value in _columns(spec).items():
            setattr(recipe, name, value)
        recipe.version += 1
        self._keep(recipe, self._actor.name)
        return "changed"

    def remove(self, slug: str) -> None:
        recipe = self.recipes.pop(slug)
        self._keep_as_it_is(recipe)
        self._session.delete(recipe)
        self._say("recipe.deleted", recipe, [])
        self.touched = True

    def _create(self, spec: RecipeSpec) -> None:
        """A new recipe goes on counting where a deleted one of its slug ended: whoever still edits that one notices."""
        kept = self.kept.get(spec.slug)
        recipe = Recipe(tenant_id=self._tenant_id, version=kept.version + 1 if kept else 1, **_columns(spec))
        self.recipes[spec.slug] = recipe
        self._session.add(recipe)
        self._keep(recipe, self._actor.name)

    def _keep_as_it_is(self, recipe: Recipe) -> None:
        """Keep what is about to be changed, where it is not kept: it is older than versions are, or was written by
        the release before, which knows none.
        """
        kept = self.kept.get(recipe.slug)
        if kept and kept.version == recipe.version and same(from_json(kept.spec), spec_of(recipe)):
            return
        if kept and kept.version >= recipe.version:
            recipe.version = kept.version + 1
        self._keep(recipe, "", recipe.updated_at)

    def _keep(self, recipe: Recipe, actor: str, at: datetime | None = None) -> None:
        spec = as_json(spec_of(recipe))
        row = RecipeVersion(
            tenant_id=self._tenant_id,
            slug=recipe.slug,
            version=recipe.version,
            spec=spec,
            actor=actor[: audit.MAX_TARGET],
        )
        row.created_at = at or now()
        self._session.add(row)
        self.kept[recipe.slug] = row
        self.touched = True

    def _say(self, action: str, recipe: Recipe, fields: list[str]) -> None:
        detail = {"version": recipe.version} | ({"fields": fields} if fields else {})
        self._session.add(audit.line(self._actor, self._tenant_id, action, recipe.slug, **detail))


def _recipes(session: Session, tenant_id: int, slugs: Collection[str] | None) -> Iterable[Recipe]:
    """The recipes as they are under the lock, whatever the session has read before."""
    statement = select(Recipe).where(Recipe.tenant_id == tenant_id)
    if slugs is not None:
        statement = statement.where(Recipe.slug.in_(slugs))
    return session.scalars(statement.execution_options(populate_existing=True))


def _newest_kept(session: Session, tenant_id: int, slugs: Collection[str] | None) -> Iterable[RecipeVersion]:
    newest = select(RecipeVersion.slug, func.max(RecipeVersion.version).label("version")).where(
        RecipeVersion.tenant_id == tenant_id
    )
    if slugs is not None:
        newest = newest.where(RecipeVersion.slug.in_(slugs))
    top = newest.group_by(RecipeVersion.slug).subquery()
    statement = select(RecipeVersion).join(
        top, (top.c.slug == RecipeVersion.slug) & (top.c.version == RecipeVersion.version)
    )
    return session.scalars(statement.where(RecipeVersion.tenant_id == tenant_id))


def _said(old: RecipeSpec | None, new: RecipeSpec) -> tuple[str, list[str]]:
    """The words of the audit log for a change, and the fields that changed."""
    if old is None:
        return "recipe.created", []
    fields = [change.field for change in diff(old, new)]
    if fields == ["enabled"]:
        return "recipe.enabled" if new.enabled else "recipe.disabled", []
    return "recipe.changed", fields


# ---------------------------------------------------------------- rows, specs and their JSON


def spec_of(recipe: Recipe) -> RecipeSpec:
    """A stored recipe as import and export have it."""
    return RecipeSpec(
        slug=recipe.slug,
        title=recipe.title,
        when=recipe.when,
        applies_to=tuple(recipe.applies_to),
        match=recipe.match or {},
        risk=recipe.risk,
        steps=recipe.steps,
        tags=tuple(recipe.tags),
        enabled=recipe.enabled,
    )


def as_json(spec: RecipeSpec) -> dict[str, Any]:
    """A spec as versions and jobs keep it."""
    return asdict(spec) | {"applies_to": list(spec.applies_to), "tags": list(spec.tags)}


def from_json(kept: Mapping[str, Any]) -> RecipeSpec:
    """The spec that `as_json` wrote."""
    return RecipeSpec(**{**kept, "applies_to": tuple(kept["applies_to"]), "tags": tuple(kept["tags"])})


def same(old: RecipeSpec, new: RecipeSpec) -> bool:
    """Whether two specs say the same; as JSON, because to Python 1 and true are equal."""
    return compact(as_json(old)) == compact(as_json(new))


def _columns(spec: RecipeSpec) -> dict[str, Any]:
    return as_json(spec) | {"match": dict(spec.match) or None}
