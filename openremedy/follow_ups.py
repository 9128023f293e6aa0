"""What tools asked us to answer by a request of ours: noted with the body that asks, and done by a worker until it is.

The row is written in the transaction that stores the body, so neither a killed process nor an absent Redis loses it. A
worker takes one by moving its `due_at` on: who is killed with it in hand lets it become due again. Done twice is
harmless to the tool, so that is all there is of locks.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from openremedy.models import FollowUpRecord, now, table

LEASE = timedelta(seconds=60)  # longer than one attempt takes
FIRST_PAUSE = timedelta(seconds=10)  # after a first failure; doubled with each
LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(days=2)  # so long what Amazon SNS asks for may be answered
MAX_SUBJECT = 300

_rows = table(FollowUpRecord)
_INSERT: dict[str, Callable[[Any], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


@dataclass(frozen=True)
class Claimed:
    """One that this worker has for now."""

    id: int
    source_id: int
    subject: str
    delivery_id: uuid.UUID
    created_at: datetime
    attempts: int
    lease: datetime


def note(delivery: dict[str, Any], subject: str, words: str = "") -> Callable[[Connection], None]:
    """Writes that the body asks for it, in the transaction that stores the body; with `words` only that they are shown.

    What was asked about the same thing before is over with that.
    """
    values = {
        "delivery_id": delivery["id"],
        "created_at": delivery["received_at"],
        "due_at": None if words else delivery["received_at"],
        "attempts": 0,
        "done_at": None,
        "words": words or None,
    }
    key = {"tenant_id": delivery["tenant_id"], "source_id": delivery["source_id"], "subject": subject[:MAX_SUBJECT]}

    def write(connection: Connection) -> None:
        insert = _INSERT[connection.dialect.name](_rows).values(key | values)
        connection.execute(insert.on_conflict_do_update(index_elements=["source_id", "subject"], set_=values))

    return write


def of_source(session: Session, tenant_id: int, source_id: int) -> Sequence[FollowUpRecord]:
    """Those of a source, oldest first."""
    mine = (FollowUpRecord.tenant_id == tenant_id, FollowUpRecord.source_id == source_id)
    return session.scalars(select(FollowUpRecord).where(*mine).order_by(FollowUpRecord.id)).all()


def waiting(engine: Engine) -> bool:
    """Whether any is due."""
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        return connection.scalar(select(_rows.c.id).where(_rows.c.due_at <= now()).limit(1)) is not None


def claim(engine: Engine) -> Claimed | None:
    """The one that has waited longest, for this worker alone; None where none is due, or another one was quicker."""
    moment = now()
    lease = moment + LEASE
    due = select(_rows).where(_rows.c.due_at <= moment).order_by(_rows.c.due_at, _rows.c.id).limit(1)
    with engine.begin() as connection:
        row = connection.execute(due).first()
        if row is None:
            return None
        mine = (_rows.c.id == row.id, _rows.c.due_at == row.due_at)
        taken = {"due_at": lease, "attempts": row.attempts + 1}
        if not connection.execute(update(_rows).where(*mine).values(taken)).rowcount:
            return None
    return Claimed(row.id, row.source_id, row.subject, row.delivery_id, row.created_at, row.attempts + 1, lease)


def done(engine: Engine, one: Claimed) -> None:
    """It is done."""
    _settle(engine, one, {"due_at": None, "done_at": now(), "words": None})


def failed(engine: Engine, one: Claimed, words: str, *, final: bool) -> None:
    """It is not done, and is tried again unless that is `final` or was tried for long enough."""
    pause = min(FIRST_PAUSE * 2 ** min(one.attempts - 1, 20), LONGEST_PAUSE)
    again = None if final or now() + pause > one.created_at + PATIENCE else now() + pause
    _settle(engine, one, {"due_at": again, "words": words})


def _settle(engine: Engine, one: Claimed, values: dict[str, Any]) -> None:
    """Write what came of it, unless the tool has asked anew meanwhile or the lease ran out."""
    with engine.begin() as connection:
        connection.execute(update(_rows).where(_rows.c.id == one.id, _rows.c.due_at == one.lease).values(values))
