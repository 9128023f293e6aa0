"""The audit log as pages and as a file: of a tenant for its admins, of everything for superadmins."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Response, g, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import RowMapping

from openremedy import audit, sheets
from openremedy.audit import Filters
from openremedy.extensions import db
from openremedy.models import Role, now
from openremedy.ui.access import in_tenant, superadmin

LIMIT = 50
FIELDS = ("who", "action", "tenant", "from", "to")
HEAD = ("time", "tenant", "who", "action", "target", "detail", "address", "request_id")


@in_tenant("/audit", role=Role.ADMIN)
def audit_log() -> ResponseReturnValue:
    """What was done in this tenant."""
    slug = g.here.slug
    return _page(
        g.here.id,
        lambda **query: url_for("ui.audit_log", tenant_slug=slug, **query),
        lambda **query: url_for("ui.export_audit", tenant_slug=slug, **query),
    )


@in_tenant("/audit.csv", role=Role.ADMIN)
def export_audit() -> ResponseReturnValue:
    """The same as a file."""
    return _file(g.here.id, f"audit-{g.here.slug}")


@superadmin("/audit")
def admin_audit() -> ResponseReturnValue:
    """What was done in the installation and in every tenant."""
    return _page(
        None,
        lambda **query: url_for("ui.admin_audit", **query),
        lambda **query: url_for("ui.export_admin_audit", **query),
    )


@superadmin("/audit.csv")
def export_admin_audit() -> ResponseReturnValue:
    """The same as a file."""
    return _file(None, "audit-installation")


def _page(tenant_id: int | None, url: Callable[..., str], export: Callable[..., str]) -> ResponseReturnValue:
    asked = {name: text for name in FIELDS if (text := _asked(name))}
    lines = audit.page(db.session(), tenant_id, _filters(), _before(), LIMIT + 1)
    return render_template(
        "ui/audit.html",
        lines=lines[:LIMIT],
        older=url(**asked, before=lines[LIMIT - 1]["id"]) if len(lines) > LIMIT else None,
        newest=url(**asked) if _before() else None,
        asked=asked,
        all_of_it=url(),
        export=export(**asked),
        actions=audit.known_actions(db.session(), tenant_id),
        everywhere=tenant_id is None,
        told=told,
    )


def _asked(name: str) -> str | None:
    """What the URL asks for; what no form of ours could have sent is ignored."""
    text = request.args.get(name, "").strip()
    return text if text and len(text) <= audit.MAX_TARGET and text.isprintable() else None


def _filters() -> Filters:
    return Filters(
        who=_asked("who"),
        action=_asked("action"),
        tenant=_asked("tenant"),
        since=_midnight(_asked("from")),
        until=_midnight(_asked("to"), days=1),
    )


def _midnight(text: str | None, days: int = 0) -> datetime | None:
    """The beginning of a day, or of one after it, in UTC; None where it is no day."""
    try:
        day = date.fromisoformat(text or "") + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _before() -> int | None:
    text = request.args.get("before", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _file(tenant_id: int | None, name: str) -> Response:
    found = audit.every(db.engine, tenant_id, _filters())
    response = Response(sheets.lines(HEAD, _cells(found)), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{now():%Y-%m-%d}.csv"'
    return response


def _cells(found: Iterator[RowMapping]) -> Iterator[list[str]]:
    for line in found:
        yield [
            line["at"].astimezone(UTC).isoformat(timespec="seconds"),
            line["tenant"] or "",
            line["actor"],
            line["action"],
            line["target"],
            json.dumps(line["detail"], ensure_ascii=False) if line["detail"] else "",
            line["address"],
            line["request_id"],
        ]


def told(detail: dict[str, Any]) -> list[tuple[str, str]]:
    """What a line says besides, as pairs of text."""
    said = {name: value for name, value in detail.items() if value is not None}
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in said.items()
    ]
