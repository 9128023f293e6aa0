"""The single door: raw signed bytes in, one stored delivery with its incidents and a woken worker out."""

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Engine

from openremedy import audit, follow_ups, logs, meters, store
from openremedy.alerts import PUBLIC_STATUSES, AlertStatus, Outcome, identity, parse_alert
from openremedy.audit import Actor
from openremedy.directory import Directory, Sender
from openremedy.errors import BadBody, Invalid
from openremedy.ids import new_id
from openremedy.models import now
from openremedy.queue import Waker
from openremedy.rows import Arrival, Stored, Unplaced
from openremedy.tally import Tally

log = structlog.get_logger()

CANONICAL = "canonical"
ALL_STATUSES = tuple(AlertStatus)


@dataclass(frozen=True)
class Replay:
    """That a body is one which was stored before: which delivery, and who sends it again."""

    delivery_id: uuid.UUID
    actor: Actor

    @property
    def remark(self) -> str:
        """The same for people."""
        return f"This is a replay of {self.delivery_id} by {self.actor.name}."

    def note(self, delivery: dict[str, Any]) -> Callable[[Connection], None]:
        """Writes who did it, in the transaction that stores the new delivery."""
        tenant_id, again = delivery["tenant_id"], str(delivery["id"])
        return lambda connection: audit.write(
            connection, self.actor, tenant_id, "delivery.replayed", str(self.delivery_id), delivery=again
        )


@dataclass(frozen=True)
class Rehearsal:
    """That a body is a test alert of ours: for which source, who sends it, and whether it is the end of one."""

    source: str
    actor: Actor
    ended: bool = False

    @property
    def remark(self) -> str:
        """The same for people."""
        what = "end of a test alert" if self.ended else "test alert"
        return f"This is the {what} that {self.actor.name} has sent from the page of the source, not the tool."

    def note(self, delivery: dict[str, Any]) -> Callable[[Connection], None]:
        """Writes who did it, once for both, in the transaction that stores the delivery."""
        tenant_id, sent = delivery["tenant_id"], str(delivery["id"])
        if self.ended:
            return lambda _connection: None
        return lambda connection: audit.write(
            connection, self.actor, tenant_id, "source.tested", self.source, delivery=sent
        )


@dataclass(frozen=True)
class Origin:
    """Where a body came from. `replay`: it is not from its sender, whose sign of life it is not."""

    request_id: str
    remote_addr: str
    headers: dict[str, str] = field(default_factory=dict)
    replay: Replay | Rehearsal | None = None


class Signed(NamedTuple):
    """The canonical bytes of one native alert, signed with the tenant's secret; the rest as store.Arrival has it."""

    position: int
    body: bytes
    signature: str
    opens: bool = False
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Wanted:
    """That a worker has something to do after the body was stored, or with `words` only to show. See FollowUp."""

    subject: str
    words: str = ""


@dataclass(frozen=True)
class Bundle:
    """One native body: as it was received, and what its adapter made of each alert in it."""

    raw: bytes
    signed: Sequence[Signed]
    unplaced: Sequence[Unplaced]
    remark: str | None = None  # about the body as a whole, for people
    wanted: Wanted | None = None
    repeats: bool = False  # the tool says again that an alert fires, as long as it does


@dataclass(frozen=True)
class Receipt:
    """What the sender is told: the delivery, and the outcomes of its alerts in their order."""

    delivery_id: uuid.UUID
    outcomes: list[Stored]
    warnings: list[str]


@dataclass(frozen=True)
class Door:
    """Everything the door needs; one per application."""

    engine: Engine
    directory: Directory
    tally: Tally
    waker: Waker
    follow_up_waker: Waker

    def accept(self, tenant: str, body: bytes, signature: str | None, origin: Origin) -> Receipt:
        """Verify, parse and store one canonical body, then wake a worker.

        Nothing is parsed before it is authenticated, and nothing is queued before it is committed.
        Raises Unauthorized, BadBody, Invalid, Unavailable; then nothing was stored.
        """
        caller = self.directory.authenticate(tenant, [(body, signature)])
        alert, warnings = parse_alert(body, PUBLIC_STATUSES)
        if origin.replay is None:  # that we sign again says nothing about who still uses the secret
            self.tally.used(caller.secret_id)
        delivery = _delivery(caller.tenant_id, body, origin)
        outcomes = self._store(delivery, [Arrival(0, alert, identity(alert))], [], origin.replay, None)
        logs.note(
            tenant=tenant,
            delivery=str(delivery["id"]),
            outcome=str(outcomes[0].outcome),
            incident=str(outcomes[0].incident_id),
        )
        return Receipt(delivery["id"], outcomes, warnings)

    def accept_native(self, sender: Sender, bundle: Bundle, origin: Origin) -> Receipt:
        """The same for a body that an adapter has translated: every alert verified, all stored in one transaction.

        An alert that the canonical format does not take is rejected beside its siblings.
        Raises Unauthorized, Unavailable; then nothing was stored.
        """
        arrivals: list[Arrival] = []
        unplaced = list(bundle.unplaced)
        space = ("native", sender.adapter, str(sender.id))
        repeats = bundle.repeats and origin.replay is None
        if bundle.signed:
            self.directory.authenticate(sender.tenant, [(one.body, one.signature) for one in bundle.signed])
        for one in bundle.signed:
            try:
                alert, _ = parse_alert(one.body, ALL_STATUSES)
            except (BadBody, Invalid) as problem:
                log.error("adapter.not_canonical", adapter=sender.adapter, code=problem.code)
                unplaced.append(Unplaced(one.position, Outcome.REJECTED, problem.sentence()))
                continue
            key = identity(alert, space)
            arrivals.append(Arrival(one.position, alert, key, one.opens, one.expires_at, repeats))
        delivery = _delivery(sender.tenant_id, bundle.raw, origin) | {
            "source_id": sender.id,
            "adapter": sender.adapter,
        }
        delivery["message"] = " ".join(filter(None, (delivery["message"], bundle.remark))) or None
        outcomes = self._store(delivery, arrivals, unplaced, origin.replay, bundle.wanted)
        logs.note(
            tenant=sender.tenant,
            source=sender.id,
            adapter=sender.adapter,
            delivery=str(delivery["id"]),
            **Counter(str(stored.outcome) for stored in outcomes),
        )
        return Receipt(delivery["id"], outcomes, [])

    def _store(
        self,
        delivery: dict[str, Any],
        arrivals: Sequence[Arrival],
        unplaced: Sequence[Unplaced],
        replay: Replay | Rehearsal | None,
        wanted: Wanted | None,
    ) -> list[Stored]:
        note = replay.note(delivery) if replay else None
        also = follow_ups.note(delivery, wanted.subject, wanted.words) if wanted else None
        outcomes = store.store(self.engine, delivery, arrivals, unplaced, note, also)
        for outcome, number in Counter(str(stored.outcome) for stored in outcomes).items():
            meters.taken(delivery["adapter"], outcome, number)
        if any(stored.outcome == "created" for stored in outcomes):
            self.waker.soon()
        if wanted and not wanted.words:
            self.follow_up_waker.soon()
        return outcomes


def _delivery(tenant_id: int, body: bytes, origin: Origin) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "source_id": None,
        "adapter": CANONICAL,
        "received_at": now(),
        "request_id": origin.request_id,
        "remote_addr": origin.remote_addr,
        "accepted": True,
        "status_code": 202,
        "reason": None,
        "message": origin.replay.remark if origin.replay else None,
        "headers": origin.headers,
        "body": body,
        "body_bytes": len(body),
    }
