"""Sources: connecting a tool, seeing how far that has come, and looking after its credentials."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from marshmallow import Schema, ValidationError, fields

from openremedy import audit, rehearsal
from openremedy import checklist as progress
from openremedy import sources as domain
from openremedy.adapter import ANY_TOOL, Adapter
from openremedy.errors import Invalid, NotFound, Problem
from openremedy.extensions import db
from openremedy.instructions import TEST_HOST, SetupStep, filled, places
from openremedy.models import Role, Source, now
from openremedy.registry import adapters, check_credentials, options_of
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import in_tenant
from openremedy.ui.words import at as exactly

GRACE_HOURS = 24
MAX_HOURS = 24 * 365
MAX_SECRET = 1000
MAX_OPTION = 500


# ---------------------------------------------------------------- all of them


@in_tenant("/sources")
def sources() -> ResponseReturnValue:
    """The tools that send, or the gallery where there is none yet."""
    found = [_shown(one) for one in domain.list_sources(db.session(), g.here.id)]
    titles = {one.name: one.title for one in adapters().values()}
    return render_template("ui/sources.html", sources=found, gallery=_gallery(), titles=titles)


def _gallery() -> list[Adapter]:
    return sorted(adapters().values(), key=lambda one: one.title)


def _url(adapter: str) -> str:
    return domain.url_of(services().settings.public_url, g.here.slug, adapter)


def _shown(source: Source) -> dict[str, Any]:
    return domain.as_json(source, _url(source.adapter))


# ---------------------------------------------------------------- a new one


@in_tenant("/sources/new", role=Role.ADMIN)
def new_source() -> ResponseReturnValue:
    """The gallery, or the form of the tool that was chosen."""
    chosen = request.args.get("adapter")
    return _new_page(_adapter(chosen) if chosen else None)


def _adapter(name: str) -> Adapter:
    found = adapters().get(name)
    if found is None:
        raise NotFound("There is no adapter of this name.")
    return found


def _new_page(adapter: Adapter | None, problem: Problem | None = None) -> ResponseReturnValue:
    page = render_template(
        "ui/source_new.html",
        gallery=_gallery(),
        adapter=adapter,
        url=_url(adapter.name) if adapter else None,
        options=_choices(adapter.options, {}) if adapter else [],
        typed=request.form,
        problem=problem,
    )
    return page, problem.status if problem else 200


@in_tenant("/sources", "POST", role=Role.ADMIN)
def add_source() -> ResponseReturnValue:
    """Add it, and show what to paste into the tool, with the token this once."""
    adapter = _adapter(request.form.get("adapter", ""))
    try:
        source, token = _add(adapter)
    except Problem as problem:
        db.session.rollback()
        return _new_page(adapter, problem)
    return _page(source, Made(token))


def _add(adapter: Adapter) -> tuple[Source, str]:
    name, secret = forms.text("name", 100), forms.text("signing_secret", MAX_SECRET)
    check_credentials(adapter.name, {"add_signing_secret": secret})
    options = _chosen(adapter.options, {})
    forms.once(db.session())
    return domain.add_source(
        db.session(),
        services().vault,
        g.here.slug,
        adapter.name,
        name,
        secret or None,
        options=options,
        shape=adapter.options,
        actor=g.visitor.actor,
    )


# ---------------------------------------------------------------- what an adapter lets one choose


@dataclass(frozen=True)
class Choice:
    """One option of an adapter as a field of a form."""

    name: str
    title: str
    hint: str
    value: str  # as chosen, else the default
    words: Sequence[str]  # it is one of these; empty: any text
    flag: bool

    @property
    def field(self) -> str:
        """Its name in the form."""
        return f"option-{self.name}"


def _choices(shape: Schema, chosen: Mapping[str, Any]) -> list[Choice]:
    values = _as_taken(shape, chosen)
    return [_choice(name, field, values.get(name)) for name, field in shape.fields.items()]


def _as_taken(shape: Schema, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options with the defaults of the rest, also where a newer adapter would not take them any more."""
    try:
        found: Mapping[str, Any] = shape.load({**chosen})
    except ValidationError:
        found = {**shape.load({}), **chosen}
    return found


def _choice(name: str, field: fields.Field[Any], value: Any) -> Choice:
    flag = isinstance(field, fields.Boolean)
    return Choice(
        name=name,
        title=field.metadata.get("title", name.replace("_", " ").capitalize()),
        hint=field.metadata.get("description", ""),
        value="" if value is None else str(value).lower() if flag else str(value),
        words=[str(one) for one in getattr(field.validate, "choices", ())],
        flag=flag,
    )


def _chosen(shape: Schema, before: Mapping[str, Any]) -> dict[str, str | None]:
    """The options of the form; None for what is as it is by default. Raises Invalid."""
    usual = {one.name: one.value for one in _choices(shape, {})}
    given = {one.name: _given(one) for one in _choices(shape, before)}
    chosen = {name: None if value in ("", usual[name]) else value for name, value in given.items()}
    wrong = shape.validate({name: value for name, value in chosen.items() if value is not None})
    if wrong:
        raise Invalid(fields={f"option-{name}": list(map(str, words)) for name, words in wrong.items()})
    return chosen


def _given(choice: Choice) -> str:
    if choice.flag:
        return "true" if choice.field in request.form else "false"
    return forms.text(choice.field, MAX_OPTION)


# ---------------------------------------------------------------- one of them


@dataclass(frozen=True)
class Made:
    """A token that was just made: shown in this answer and never again. `before`: what becomes of the one of before."""

    token: str
    before: str | Markup = ""


@in_tenant("/sources/<source_id>")
def source(source_id: str) -> ResponseReturnValue:
    """How it is, how to connect it, its credentials and settings."""
    return _page(_source(source_id))


def _source(source_id: str) -> Source:
    return domain.get_source(db.session(), g.here.id, source_id)


def _page(source: Source, made: Made | None = None, problem: Problem | None = None) -> ResponseReturnValue:
    adapter = adapters().get(source.adapter)
    page = render_template(
        "ui/source.html",
        source=_shown(source),
        adapter=adapter,
        made=made,
        steps=_steps(source, adapter, made),
        refusals=progress.refusals(db.session(), source),
        options=_choices(options_of(source.adapter), source.options) if adapter else [],
        typed=request.form if problem else {},
        stale_minutes=_minutes(source.stale_after),
        problem=problem,
        grace_hours=GRACE_HOURS,
        **_progress(source),
    )
    return page, problem.status if problem else 200


def _steps(source: Source, adapter: Adapter | None, made: Made | None) -> list[SetupStep]:
    known = places(_url(source.adapter), made.token if made else None)
    return filled(adapter.setup if adapter else ANY_TOOL, known)


# ---------------------------------------------------------------- the checklist


@in_tenant("/sources/<source_id>/checklist")
def source_checklist(source_id: str) -> ResponseReturnValue:
    """The checklist alone, for a page that stays open; nothing where it is as that page has it already."""
    found = _source(source_id)
    current = _progress(found)
    if request.args.get("seen") == current["seen"]:
        return "", 204
    return render_template("ui/source_checklist.html", source=_shown(found), **current)


def _progress(source: Source) -> dict[str, Any]:
    items = progress.checklist(db.session(), source, adapters().get(source.adapter))
    seen = hashlib.sha256(repr(items).encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return {"items": items, "seen": seen}


# ---------------------------------------------------------------- what an admin changes


def _back(source_id: str) -> ResponseReturnValue:
    return redirect(url_for("ui.source", tenant_slug=g.here.slug, source_id=source_id), 303)


def _again(source_id: str, problem: Problem) -> ResponseReturnValue:
    """The page with what was typed and what was wrong with it."""
    db.session.rollback()
    return _page(_source(source_id), problem=problem)


def _change(source_id: str, said: str, **changes: Any) -> ResponseReturnValue:
    found = _source(source_id)
    db.session.add(audit.line(g.visitor.actor, g.here.id, "source.changed", found.name, changed=domain.told(changes)))
    try:
        check_credentials(found.adapter, changes)
        domain.edit_source(db.session(), services().vault, found, options_of(found.adapter), **changes)
    except NotFound:
        raise
    except Problem as problem:
        return _again(source_id, problem)
    flash(said)
    return _back(source_id)


@in_tenant("/sources/<source_id>/edit", "POST", role=Role.ADMIN)
def edit_source(source_id: str) -> ResponseReturnValue:
    """Name, limits and the adapter's own options."""
    found = _source(source_id)
    try:
        changes = _edited(found)
    except Invalid as problem:
        return _again(source_id, problem)
    if not changes:
        flash("Nothing was changed.")
        return _back(source_id)
    return _change(source_id, "Saved.", **changes)


def _edited(source: Source) -> dict[str, Any]:
    """What of the form is not as it was. Raises Invalid."""
    minutes = forms.whole("stale_minutes", 1, domain.MAX_STALE_AFTER // 60)
    name = forms.text("name", 100)
    if not name:
        raise Invalid(fields={"name": ["Must not be empty."]})
    given = {
        "name": name,
        # The page shows whole minutes: what was set in seconds stays so.
        "stale_after": source.stale_after if minutes == _minutes(source.stale_after) else (minutes or 0) * 60 or None,
        "rate_limit": forms.whole("rate_limit", 0, domain.MAX_RATE_LIMIT),
    }
    changes = {field: value for field, value in given.items() if value != getattr(source, field)}
    options = _chosen(options_of(source.adapter), source.options)
    others = {option: value for option, value in options.items() if value != source.options.get(option)}
    return changes | ({"options": others} if others else {})


def _minutes(seconds: int | None) -> int | None:
    return None if seconds is None else math.ceil(seconds / 60)


@in_tenant("/sources/<source_id>/rotate", "POST", role=Role.ADMIN)
def rotate_source(source_id: str) -> ResponseReturnValue:
    """A new token, shown this once; the one before works during the grace time."""
    found = _source(source_id)
    try:
        hours = forms.whole("grace_hours", 0, MAX_HOURS)
        hours = GRACE_HOURS if hours is None else hours
        forms.once(db.session())
    except Problem as problem:
        return _again(source_id, problem)
    db.session.add(audit.line(g.visitor.actor, g.here.id, "source.rotated", found.name, grace_hours=hours))
    token, until = domain.rotate_source(db.session(), found, timedelta(hours=hours))
    ended = "The one before has ended."
    before = Markup("The one before works until {}.").format(exactly(until)) if until > now() else ended
    return _page(_source(source_id), Made(token, before))


@in_tenant("/sources/<source_id>/disable", "POST", role=Role.ADMIN)
def disable_source(source_id: str) -> ResponseReturnValue:
    """Refuse what it sends from now on."""
    return _change(source_id, "Switched off: what it sends is refused, and the refusals are counted.", disabled=True)


@in_tenant("/sources/<source_id>/enable", "POST", role=Role.ADMIN)
def enable_source(source_id: str) -> ResponseReturnValue:
    """Take again what it sends."""
    return _change(source_id, "Switched on again.", disabled=False)


@in_tenant("/sources/<source_id>/signing-secrets", "POST", role=Role.ADMIN)
def add_signing_secret(source_id: str) -> ResponseReturnValue:
    """One more secret with which the tool signs."""
    try:
        secret = forms.text("secret", MAX_SECRET)
        forms.once(db.session())
    except Problem as problem:
        return _again(source_id, problem)
    return _change(source_id, "The signing secret is added. Those there were go on working.", add_signing_secret=secret)


@in_tenant("/sources/<source_id>/signing-secrets/<secret_id>/remove", "POST", role=Role.ADMIN)
def remove_signing_secret(source_id: str, secret_id: str) -> ResponseReturnValue:
    """End a signing secret now."""
    return _change(source_id, "Removed: nothing signed with it is taken any more.", remove_signing_secret=secret_id)


@in_tenant("/sources/<source_id>/api-token", "POST", role=Role.ADMIN)
def set_api_token(source_id: str) -> ResponseReturnValue:
    """A read-only token for the tool's own API; empty ends the one there is."""
    try:
        token = forms.text("api_token", MAX_SECRET)
    except Problem as problem:
        return _again(source_id, problem)
    said = "The token is kept: details of new incidents are read with it." if token else "There is no token any more."
    return _change(source_id, said, api_token=token)


# ---------------------------------------------------------------- a test alert


@in_tenant("/sources/<source_id>/test", "POST", role=Role.RESPONDER)
def send_test_alert(source_id: str) -> ResponseReturnValue:
    """An alert as the tool would send it, and its end, by the same way."""
    adapter = _adapter(_source(source_id).adapter)
    try:
        forms.once(db.session())
        db.session.commit()  # the door has a transaction of its own
        sent = rehearsal.rehearse(db.session(), _source(source_id), adapter, g.visitor.actor)
    except Problem as problem:
        return _again(source_id, problem)
    flash(_told(sent), "good" if sent.well else "bad")
    return _back(source_id)


def _told(sent: rehearsal.Rehearsed) -> Markup:
    """What came of it, with the way to the incident."""
    begun, ended = sent.begun.outcomes[0], sent.ended.outcomes[0]
    if begun.incident_id is None:
        return Markup("The test alert opened nothing: it was {}. {}").format(begun.outcome, begun.reason or "")
    words = Markup("The test alert opened {} of the host {}, and its end {}. The checklist waits for the tool itself.")
    where = url_for("ui.incident", tenant_slug=g.here.slug, incident_id=begun.incident_id)
    link = Markup('<a href="{}">an incident</a>').format(where)
    return words.format(link, TEST_HOST, "closed it" if sent.well else f"was {ended.outcome}")
