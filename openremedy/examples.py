"""What people said of a tenant's incidents, as examples that later matching learns from."""

from sqlalchemy import Connection, func, select

from openremedy.classifier.shapes import Example
from openremedy.incidents import subject_of
from openremedy.models import Feedback, Incident, table

MOST = 500  # the newest answers of a tenant; what was right a thousand incidents ago may be so no more


def newest_answer(connection: Connection, tenant_id: int) -> int:
    """Grows with every answer; 0 before the first. An incident that retention deletes takes its answers along."""
    return connection.execute(select(func.max(Feedback.id)).where(Feedback.tenant_id == tenant_id)).scalar() or 0


def examples_of(connection: Connection, tenant_id: int) -> tuple[Example, ...]:
    """The newest answer about each of the incidents that were answered last, newest first."""
    last = (
        select(func.max(Feedback.id).label("id"))
        .where(Feedback.tenant_id == tenant_id)
        .group_by(Feedback.incident_id)
        .order_by(func.max(Feedback.id).desc())
        .limit(MOST)
        .subquery()
    )
    statement = (
        select(table(Incident), Feedback.recipe.label("answer"))
        .join(Feedback, Feedback.incident_id == Incident.id)
        .join(last, last.c.id == Feedback.id)
        .where(Incident.tenant_id == tenant_id)
        .order_by(Feedback.id.desc())
    )
    rows = connection.execute(statement).mappings()
    return tuple(Example(str(row["id"]), subject_of(row), row["answer"]) for row in rows)
