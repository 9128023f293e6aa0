"""The first start."""

import pytest
from flask import Flask
from sqlalchemy import func, select

from openremedy import cookbook, tenants
from openremedy.extensions import db
from openremedy.models import Recipe, Tenant
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
