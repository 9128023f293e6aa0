"""What every refusal looks like, whoever refuses, and how often the limiter was asked."""

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from openremedy.extensions import db, limiter

REQUEST_ID = re.compile(r"[0-9a-f]{32}")


def refused(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The error in `answer`, which must have the one shape of errors."""
    assert answer.status_code == status, answer.get_data()[:500]
    assert answer.content_type == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    found = answer.get_json()
    assert set(found) == {"error", "request_id"}
    assert REQUEST_ID.fullmatch(found["request_id"])
    assert answer.headers["X-Request-ID"] == found["request_id"]
    error: dict[str, Any] = found["error"]
    assert set(error) <= {"code", "message", "fields"}
    assert error["code"] == code
    assert error["message"]
    return error


def seen_from_outside(answer: TestResponse) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Everything a caller can tell two answers apart by, but for the request id and its length."""
    request_id = answer.headers["X-Request-ID"]
    assert REQUEST_ID.fullmatch(request_id)
    headers = [(name, value.replace(request_id, "<id>")) for name, value in answer.headers]
    return answer.status_code, answer.get_data().replace(request_id.encode(), b"<id>"), headers


def rows(app: Flask) -> dict[str, int]:
    """How many rows each table has."""
    with app.app_context(), db.engine.connect().execution_options(sqlite_readonly=True) as connection:
        counts = (
            select(func.count()).select_from(table).scalar_subquery().label(table.name)
            for table in db.metadata.sorted_tables
        )
        return dict(connection.execute(select(*counts)).mappings().one())


def limits_looked_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one each time that the limiter finds out what holds for whom."""
    asked = []
    found = limiter.limit_manager.resolve_limits

    def resolve(*about: Any) -> Any:
        asked.append(about)
        return found(*about)

    monkeypatch.setattr(limiter.limit_manager, "resolve_limits", resolve)
    return asked
