"""The first start, and what an admin may choose for a tenant."""

import base64
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from cast import Tenant as Cast
from openremedy import cookbook, tenants
from openremedy.audit import Actor
from openremedy.errors import Invalid, NotFound
from openremedy.extensions import db
from openremedy.models import AuditLine, Recipe, Tenant
from openremedy.services import services


def test_the_first_start_makes_a_tenant_with_recipes_and_the_second_makes_nothing(app: Flask) -> None:
    with app.app_context():
        first = tenants.ensure_first_tenant(db.engine, services().vault)
        assert first is not None
        assert first.slug == "my-company"
        assert tenants.ensure_first_tenant(db.engine, services().vault) is None
        assert len(cookbook.export_recipes(db.session(), tenants.find_tenant(db.session(), "my-company").id)) >= 20


def test_a_first_start_that_breaks_half_way_leaves_nothing_behind(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise KeyboardInterrupt

    with app.app_context():
        with monkeypatch.context() as patch:
            patch.setattr(tenants, "create_token", broken)
            with pytest.raises(KeyboardInterrupt):
                tenants.ensure_first_tenant(db.engine, services().vault)
        counts = [db.session.scalar(select(func.count()).select_from(model)) for model in (Tenant, Recipe)]
        db.session.rollback()  # on SQLite a session that has read holds the write lock
        assert counts == [0, 0]
        assert tenants.ensure_first_tenant(db.engine, services().vault) is not None


def test_a_secret_that_we_make_is_long_known_by_its_prefix_and_never_the_same(app: Flask) -> None:
    with app.app_context():
        made = [tenants.create_tenant(db.session(), services().vault, f"tenant-{number}") for number in range(5)]
        made += [tenants.rotate_secret(db.session(), services().vault, "tenant-0", timedelta(0))[0] for _ in range(5)]
    assert len(set(made)) == 10
    for secret in made:
        prefix, _, random = secret.partition("_")
        assert prefix == "orwh"
        assert len(base64.urlsafe_b64decode(random + "=" * (-len(random) % 4))) >= 24


# ---------------------------------------------------------------- what an admin chose

ADMIN = Actor("alice@example.com", "192.0.2.1", "request-1")
AS_THEY_ARE: dict[str, Any] = {
    "name": "alice",
    "model_allowed": True,
    "answer_threshold": None,
    "daily_tokens": None,
    "retention_days": None,
}


def change(app: Flask, tenant_id: int, limits: dict[str, int] | None = None, **values: Any) -> bool:
    with app.app_context():
        installation = replace(services().settings, **limits or {})
        wanted = AS_THEY_ARE | values
        return tenants.change_settings(db.session(), tenant_id, ADMIN, installation=installation, **wanted)


def audited(app: Flask) -> list[tuple[str, str, dict[str, Any]]]:
    with app.app_context():
        rows = db.session.scalars(select(AuditLine).where(AuditLine.actor == ADMIN.name).order_by(AuditLine.id))
        return [(row.action, row.target, row.detail) for row in rows]


def test_what_changed_is_kept_and_told_once(app: Flask, alice: Cast) -> None:
    wanted = {"name": " Alice Ltd. ", "answer_threshold": 0.8, "daily_tokens": 5000, "retention_days": 30}
    assert change(app, alice.id, **wanted) is True
    assert change(app, alice.id, **wanted) is False
    detail = {
        "name": {"before": "alice", "after": "Alice Ltd."},
        "answer_threshold": {"before": None, "after": 0.8},
        "daily_tokens": {"before": None, "after": 5000},
        "retention_days": {"before": None, "after": 30},
    }
    assert audited(app) == [("tenant.changed", "alice", detail)]
    assert change(app, alice.id) is True, "and back to what the installation has"


def test_nothing_is_told_where_nothing_changes(app: Flask, alice: Cast) -> None:
    assert change(app, alice.id) is False
    assert audited(app) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("name", "x" * 201),
        ("name", "a\x1bb"),
        ("answer_threshold", 0.49),
        ("answer_threshold", 1.01),
        ("answer_threshold", float("nan")),
        ("daily_tokens", -1),
        ("daily_tokens", 3_000_000_000),
        ("retention_days", 0),
        ("retention_days", 91),
    ],
)
def test_what_cannot_be_chosen_is_told_at_its_field(app: Flask, alice: Cast, field: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        change(app, alice.id, **{"model_allowed": False, field: value})
    assert list(caught.value.fields or {}) == [field]
    with app.app_context():
        assert tenants.find_tenant(db.session(), "alice").model_allowed is True
    assert audited(app) == []


@pytest.mark.parametrize(
    ("value", "limit", "taken"), [(0, 0, True), (0, 1000, False), (1000, 1000, True), (1001, 1000, False)]
)
def test_a_tenant_cannot_give_itself_more_tokens(app: Flask, alice: Cast, value: int, limit: int, taken: bool) -> None:
    with nullcontext() if taken else pytest.raises(Invalid):
        change(app, alice.id, {"llm_daily_tokens": limit}, daily_tokens=value)


def test_a_limit_that_the_operator_lowered_does_not_hold_up_another_change(app: Flask, alice: Cast) -> None:
    change(app, alice.id, retention_days=60)
    assert change(app, alice.id, {"retention_days": 30}, retention_days=60, name="New") is True


def test_settings_of_no_tenant_are_not_found(app: Flask) -> None:
    with pytest.raises(NotFound):
        change(app, 10**9)
