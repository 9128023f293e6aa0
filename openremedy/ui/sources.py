"""Sources: connecting a tool, seeing that it is connected, and looking after its credentials."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from openremedy import audit, rehearsal
from openremedy import sources as domain
from openremedy.adapter import HEADER_STEP, Adapter, SetupStep
from openremedy.checklist import TEST_HOST, checklist, refusals
from openremedy.errors import Invalid, NotFound, Problem
from openremedy.extensions import db
from openremedy.models import Role, Source
from openremedy.registry import adapters, options_of
from openremedy.services import services
from openremedy.ui import forms
from openremedy.ui.access import in_tenant

PLACEHOLDER = "YOUR-TOKEN"
MAX_HOURS = 24 * 365


# ---------------------------------------------------------------- all of them


@in_tenant("/sources")
def sources() -> ResponseReturnValue:
    """The tools that send, or the gallery where there is none yet."""
    found = [_shown(one) for one in domain.list_sources(db.session(), g.here.id)]
    return render_template("ui/sources.html", sources=found, gallery=_gallery(), titles=_titles())


def _gallery() -> list[Adapter]:
    return sorted(adapters().values(), key=lambda one: one.title)


def _titles() -> dict[str, str]:
    return {one.name: one.title for one in adapters().values()}


def _url(adapter: str) -> str:
    return domain.url_of(services().settings.public_url, g.here.slug, adapter)


def _shown(source: Source) -> dict[str, Any]:
    return domain.as_json(source, _url(source.adapter))


# ---------------------------------------------------------------- a new one


@in_tenant("/sources-new", role=Role.ADMIN)
def new_source() -> ResponseReturnValue:
    """The gallery, or the form of the tool that was chosen."""
    chosen = request.args.get("adapter")
    return _new_page(_adapter(chosen) if chosen else None)


def _adapter(name: str) -> Adapter:
    found = adapters().get(name)
    if found is None:
        raise NotFound()
    return found


def _new_page(adapter: Adapter | None, problem: Problem | None = None) -> ResponseReturnValue:
    page = render_template("ui/source_new.html", gallery=_gallery(), adapter=adapter, problem=problem)
    return page, problem.status if problem else 200


@in_tenant("/sources-new", "POST", role=Role.ADMIN)
def add_source() -> ResponseReturnValue:
    """Add it, and show what to paste into the tool, with the token this once."""
    adapter = _adapter(request.form.get("adapter", ""))
    name, secret = forms.text("name", 100), forms.text("signing_secret", 1000)
    try:
        forms.once(db.session())
        db.session.add(
            audit.line(g.visitor.actor, g.here.id, "source.added", name or adapter.name, adapter=adapter.name)
        )
        source, token = domain.add_source(
            db.session(), services().vault, g.here.slug, adapter.name, name, secret or None
        )
    except Problem as problem:
        db.session.rollback()
        return _new_page(adapter, problem)
    return _page(source, token)


# ---------------------------------------------------------------- one of them


@in_tenant("/sources/<source_id>")
def source(source_id: str) -> ResponseReturnValue:
    """How it is, how to connect it, its credentials and settings."""
    return _page(_source(source_id))


def _source(source_id: str) -> Source:
    return domain.get_source(db.session(), g.here.id, source_id)


def _page(source: Source, token: str | None = None, problem: Problem | None = None) -> ResponseReturnValue:
    adapter = adapters().get(source.adapter)
    page = render_template(
        "ui/source.html",
        source=_shown(source),
        adapter=adapter,
        token=token,
        steps=_steps(adapter.setup if adapter else (HEADER_STEP,), source, token),
        items=checklist(db.session(), source),
        refusals=refusals(db.session(), source),
        options=_options(adapter, source),
        problem=problem,
    )
    return page, problem.status if problem else 200


def _steps(steps: tuple[SetupStep, ...], source: Source, token: str | None) -> list[SetupStep]:
    url = _url(source.adapter)
    parts = urlsplit(url)
    words = {
        "{url}": url,
        "{scheme}": parts.scheme,
        "{host}": parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}",
        "{path}": parts.path,
        "{name}": source.name,
        "{token}": token or PLACEHOLDER,
    }
    return [SetupStep(one.title, _filled(one.text, words), _filled(one.snippet, words)) for one in steps]


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _options(adapter: Adapter | None, source: Source) -> list[dict[str, Any]]:
    """What the adapter lets one choose: name, value, and what it may be."""
    fields = adapter.options.fields if adapter else {}
    return [
        {
            "name": name,
            "value": source.options.get(name, ""),
            "choices": [str(one) for one in getattr(field.validate, "choices", ())],
            "hint": field.metadata.get("description", ""),
            "flag": type(field).__name__ == "Boolean",
        }
        for name, field in fields.items()
    ]


@in_tenant("/sources/<source_id>/checklist")
def source_checklist(source_id: str) -> ResponseReturnValue:
    """The checklist alone, for a page that stays open."""
    found = _source(source_id)
    return render_template("ui/source_checklist.html", source=_shown(found), items=checklist(db.session(), found))


# ---------------------------------------------------------------- what an admin changes


def _back(source_id: str) -> ResponseReturnValue:
    return redirect(url_for("ui.source", tenant_slug=g.here.slug, source_id=source_id), 303)


def _changed(source_id: str, said: str, **changes: Any) -> ResponseReturnValue:
    found = _source(source_id)
    db.session.add(audit.line(g.visitor.actor, g.here.id, "source.changed", found.name, changed=domain.told(changes)))
    try:
        domain.edit_source(db.session(), services().vault, found, options_of(found.adapter), **changes)
    except Problem as problem:
        db.session.rollback()
        return _page(_source(source_id), problem=problem)
    flash(said)
    return _back(source_id)


@in_tenant("/sources/<source_id>/edit", "POST", role=Role.ADMIN)
def edit_source(source_id: str) -> ResponseReturnValue:
    """Name, limits and the adapter's own options."""
    found = _source(source_id)
    adapter = adapters().get(found.adapter)
    try:
        stale = forms.whole("stale_minutes", 1, domain.MAX_STALE_AFTER // 60)
        changes = {
            "name": forms.text("name", 100),
            "stale_after": stale * 60 if stale is not None else None,
            "rate_limit": forms.whole("rate_limit", 0, domain.MAX_RATE_LIMIT),
            "options": {one["name"]: _option(one) for one in _options(adapter, found)},
        }
    except Invalid as problem:
        return _page(found, problem=problem)
    db.session.rollback()
    return _changed(source_id, "Saved.", **changes)


def _option(option: Mapping[str, Any]) -> str | None:
    if option["flag"]:
        return "true" if request.form.get(f"option-{option['name']}") else None
    return forms.text(f"option-{option['name']}", 500) or None


@in_tenant("/sources/<source_id>/rotate", "POST", role=Role.ADMIN)
def rotate_source(source_id: str) -> ResponseReturnValue:
    """A new token, shown this once; the one before works during the grace time."""
    found = _source(source_id)
    hours = forms.whole("grace_hours", 0, MAX_HOURS)
    forms.once(db.session())
    grace = timedelta(hours=24 if hours is None else hours)
    db.session.add(audit.line(g.visitor.actor, g.here.id, "source.rotated", found.name, grace_hours=hours))
    token, until = domain.rotate_source(db.session(), found, grace)
    flash(f"The token of before works until {until:%d %b %Y, %H:%M} UTC.")
    return _page(_source(source_id), token)


@in_tenant("/sources/<source_id>/disable", "POST", role=Role.ADMIN)
def disable_source(source_id: str) -> ResponseReturnValue:
    """Refuse what it sends from now on."""
    return _changed(source_id, "Switched off: what it sends is refused, and the refusals are counted.", disabled=True)


@in_tenant("/sources/<source_id>/enable", "POST", role=Role.ADMIN)
def enable_source(source_id: str) -> ResponseReturnValue:
    """Take again what it sends."""
    return _changed(source_id, "Switched on again.", disabled=False)


@in_tenant("/sources/<source_id>/signing-secrets", "POST", role=Role.ADMIN)
def add_signing_secret(source_id: str) -> ResponseReturnValue:
    """One more secret with which the tool signs."""
    return _changed(source_id, "Added. Those there were go on working.", add_signing_secret=forms.text("secret", 1000))


@in_tenant("/sources/<source_id>/signing-secrets/<secret_id>/remove", "POST", role=Role.ADMIN)
def remove_signing_secret(source_id: str, secret_id: str) -> ResponseReturnValue:
    """End a signing secret now."""
    return _changed(source_id, "Removed: it signs nothing any more.", remove_signing_secret=secret_id)


@in_tenant("/sources/<source_id>/api-token", "POST", role=Role.ADMIN)
def set_api_token(source_id: str) -> ResponseReturnValue:
    """A read-only token for the tool's own API; empty ends the one there is."""
    return _changed(source_id, "Saved.", api_token=forms.text("api_token", 1000))


@in_tenant("/sources/<source_id>/test", "POST", role=Role.RESPONDER)
def send_test_alert(source_id: str) -> ResponseReturnValue:
    """An alert as the tool would send it, and its end, by the same way."""
    found = _source(source_id)
    adapter = adapters().get(found.adapter)
    if adapter is None:
        raise NotFound("The adapter of this source is not installed.")
    receipt = rehearsal.rehearse(db.session(), g.here.slug, found, adapter, g.visitor.actor)
    outcome = receipt.outcomes[0]
    flash(f"Sent: an alert of the host {TEST_HOST} was {outcome.outcome}, and then resolved.")
    if outcome.incident_id is None:
        return _back(source_id)
    there = url_for("ui.incident", tenant_slug=g.here.slug, incident_id=outcome.incident_id)
    return redirect(there, 303)
