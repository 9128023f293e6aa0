"""What people said of a tenant's incidents, as examples that later matching learns from."""

from typing import Any

from sqlalchemy import Connection, Select, func, select

from openremedy.classifier.shapes import Example
from openremedy.incidents import subject_of
from openremedy.models import Feedback, Incident, Recipe, table

MOST = 500  # the newest answers of a tenant; what was right a thousand incidents ago may be so no more

Answers = tuple[int, int]


def answers_of(connection: Connection, tenant_id: int) -> Answers:
    """The newest one's id and their number: differs when one was given, and when retention took some along."""
    counted = select(func.coalesce(func.max(Feedback.id), 0), func.count()).where(Feedback.tenant_id == tenant_id)
    newest, number = connection.execute(counted).one()
    return newest, number


def examples_of(connection: Connection, tenant_id: int) -> tuple[Example, ...]:
    """The newest answer about each of the incidents that were answered last, newest first.

    That none fits was said of the recipes as they were: it counts no more once one was added or changed.
    """
    changed = select(func.max(Recipe.updated_at)).where(Recipe.tenant_id == tenant_id).scalar_subquery()
    counts = Feedback.recipe.is_not(None) | (Feedback.created_at > changed)
    return tuple(_example(row) for row in connection.execute(_answered(tenant_id, MOST).where(counts)).mappings())


def answers_to_all(connection: Connection, tenant_id: int, limit: int | None) -> tuple[Example, ...]:
    """The same without forgetting anything, of so many incidents; None = all."""
    return tuple(_example(row) for row in connection.execute(_answered(tenant_id, limit)).mappings())


def _example(row: Any) -> Example:
    return Example(str(row["id"]), subject_of(row), row["answer"])


def _answered(tenant_id: int, limit: int | None) -> Select[Any]:
    last = (
        select(func.max(Feedback.id).label("id"))
        .where(Feedback.tenant_id == tenant_id)
        .group_by(Feedback.incident_id)
        .order_by(func.max(Feedback.id).desc())
        .limit(limit)
        .subquery()
    )
    return (
        select(table(Incident), Feedback.recipe.label("answer"))
        .join(Feedback, Feedback.incident_id == Incident.id)
        .join(last, last.c.id == Feedback.id)
        .where(Incident.tenant_id == tenant_id)
        .order_by(Feedback.id.desc())
    )
