"""Sends the outgoing messages. A thread of the scheduler: an endpoint that hangs must not hold up a verdict.

The database is the queue, looked at each second, so that neither Redis nor another process is needed. It is asked in
threads: a statement that waits for a lock must not make an answer late that has come meanwhile. A message is
leased before it is posted and settled afterwards: whoever dies in between has perhaps posted it, and it is posted again
with the same id.
"""

import asyncio
import threading
import time
from asyncio import to_thread
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from openremedy import __version__, meters, outgoing
from openremedy.crypto import Vault
from openremedy.errors import NotFound
from openremedy.incidents import stamp, with_evidence
from openremedy.models import Event, IncidentStatus, MessageState, OutgoingEndpoint, Recipe, Tenant, TimelineEntry, now
from openremedy.outgoing import TEST
from openremedy.outgoing_bodies import body_of
from openremedy.outgoing_client import Answer, OutgoingClient

log = structlog.get_logger()

MOST = 32  # posts at once of this process
MOST_OF_ONE = 4  # of them to the same endpoint
MOST_OF_TENANT = 8  # of them of the same tenant, so that its slow endpoints hold up nobody else's
LOOK = 1.0  # seconds between two looks at the database
LAST_WAIT = 8.0  # seconds for what is under way when it is stopped; the rest is sent again by the next process


class Gone(Exception):
    """What a message is about is not there any more; the text is for people."""


@dataclass
class Dispatcher:
    """One per process that sends."""

    engine: Engine
    vault: Vault
    public_url: str
    client: OutgoingClient
    # Posts under way, by endpoint and by tenant.
    _at: Counter[int] = field(default_factory=Counter)
    _of: Counter[int] = field(default_factory=Counter)

    async def run(self, stopped: threading.Event) -> None:
        """Send what is due until stopped; an absent database is waited for."""
        under_way: set[asyncio.Task[None]] = set()
        while not stopped.is_set():
            try:
                async for message in self._claimed(MOST - len(under_way)):
                    under_way.add(asyncio.create_task(self._deliver(message)))
            except SQLAlchemyError as error:
                log.error("dispatch.database_away", error=type(error).__name__)
            if under_way:
                _, under_way = await asyncio.wait(under_way, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(LOOK)
        if under_way:
            await asyncio.wait(under_way, timeout=LAST_WAIT)
        await self.client.close()

    async def _claimed(self, places: int) -> AsyncIterator[Mapping[str, Any]]:
        """One after another, so that those before an error are on their way."""
        for tenant_id, endpoint_id in await to_thread(outgoing.due, self.engine) if places > 0 else ():
            free = min(MOST_OF_ONE - self._at[endpoint_id], MOST_OF_TENANT - self._of[tenant_id], places)
            if free > 0:
                of_one = await to_thread(outgoing.claim, self.engine, endpoint_id, free)
                self._at[endpoint_id] += len(of_one)
                self._of[tenant_id] += len(of_one)
                places -= len(of_one)
                for message in of_one:
                    yield message

    async def _deliver(self, message: Mapping[str, Any]) -> None:
        """Make it, post it, and write what came of it."""
        began = time.monotonic()
        try:
            body, answer = await self._attempt(message)
            message = {**message, "body": body}
            milliseconds = round((time.monotonic() - began) * 1000)
            state = await to_thread(outgoing.settle, self.engine, message, answer, milliseconds)
            _tell(message, answer, state, milliseconds)
        except SQLAlchemyError as error:
            # Its lease ends, and it is tried again.
            log.error("dispatch.not_settled", message_id=str(message["id"]), error=type(error).__name__)
        finally:
            self._at[message["endpoint_id"]] -= 1
            self._of[message["tenant_id"]] -= 1

    async def _attempt(self, message: Mapping[str, Any]) -> tuple[bytes | None, Answer]:
        """The body, as far as there is one, and what came of posting it."""
        body: bytes | None = message["body"]
        try:
            url, headers, written = await to_thread(self._letter, message)
            body = written
            return body, await self.client.post(url, headers, written)
        except Gone as error:
            return body, Answer(error=str(error), final=True)
        except InvalidToken:
            return body, Answer(error="ENCRYPTION_KEYS lacks the key of this endpoint")
        except SQLAlchemyError:
            raise
        except Exception as error:  # whatever it is: not settled, it would be posted each minute for ever
            log.exception("dispatch.broken", message_id=str(message["id"]))
            return body, Answer(error=f"it could not be sent ({type(error).__name__})")

    # ------------------------------------------------------------ what is posted

    def _letter(self, message: Mapping[str, Any]) -> tuple[str, dict[str, str], bytes]:
        """URL, headers and body. Raises Gone, InvalidToken."""
        with Session(self.engine) as session:
            session.connection(execution_options={"sqlite_readonly": True})
            endpoint = session.get(OutgoingEndpoint, message["endpoint_id"])
            if endpoint is None:
                raise Gone("the endpoint was removed")
            body: bytes | None = message["body"]
            if body is None or message["event"] == Event.ACCEPTED:  # whether that stands is looked at each time
                told = self._told(session, message)
                body = body or body_of(endpoint.shape, told)
            return self.vault.unlock(endpoint.locked_url), self._headers(endpoint, str(message["id"]), body), body

    def _headers(self, endpoint: OutgoingEndpoint, message_id: str, body: bytes) -> dict[str, str]:
        """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""
        moment = now()
        secrets = [self.vault.unlock(endpoint.locked_secret)]
        if endpoint.locked_previous and endpoint.previous_until and endpoint.previous_until > moment:
            secrets.append(self.vault.unlock(endpoint.locked_previous))
        name = f"msg_{message_id}"
        text = body.decode()
        headers = {
            "User-Agent": f"OpenRemedy/{__version__}",
            "Content-Type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(Webhook(secret).sign(name, moment, text) for secret in secrets),
        }
        if endpoint.locked_header:
            own, _, value = self.vault.unlock(endpoint.locked_header).partition(": ")
            headers[own] = value
        return headers

    def _told(self, session: Session, message: Mapping[str, Any]) -> dict[str, Any]:
        """What docs/outgoing.md describes. Raises Gone."""
        tenant = session.get_one(Tenant, message["tenant_id"])
        data: dict[str, Any] = {"tenant": tenant.slug, "url": self.public_url, "actor": None, "reason": None}
        data |= {"incident": None, "recipe": None}
        kind = f"openremedy.{TEST}" if message["event"] == TEST else f"incident.{message['event']}"
        if message["incident_id"]:
            data |= self._of_incident(session, tenant, message)
        return {"type": kind, "timestamp": stamp(message["created_at"]), "data": data}

    def _of_incident(self, session: Session, tenant: Tenant, message: Mapping[str, Any]) -> dict[str, Any]:
        line = session.get(TimelineEntry, message["timeline_id"]) if message["timeline_id"] else None
        try:
            incident = with_evidence(session, tenant.id, message["incident_id"])
        except NotFound as error:
            raise Gone("the incident was deleted") from error
        slug = incident["verdict"]["recipe"] if incident["verdict"] else None
        recipe = session.scalar(select(Recipe).where(Recipe.tenant_id == tenant.id, Recipe.slug == slug))
        if message["event"] == Event.ACCEPTED:
            _check_accepted(incident, recipe, line.detail.get("recipe") if line else None)
        return {
            "url": f"{self.public_url}/t/{tenant.slug}/incidents/{incident['id']}",
            "actor": line.actor if line else None,
            "reason": line.detail.get("reason") if line else None,
            "incident": incident,
            "recipe": _recipe(recipe) if recipe else None,
        }


def _check_accepted(incident: Mapping[str, Any], recipe: Recipe | None, accepted: str | None) -> None:
    """Raise Gone unless what a person has accepted still stands: an engine may carry it out. Minutes or days can lie
    between the two.
    """
    if incident["status"] == IncidentStatus.RESOLVED:
        raise Gone("the incident is over by now")
    if accepted is None or (incident["verdict"]["tier"], incident["verdict"]["recipe"]) != ("person", accepted):
        raise Gone("the recipe that was accepted is not the verdict any more")
    if recipe is None or not recipe.enabled:
        raise Gone("the recipe that was accepted is switched off or gone")


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in ("slug", "title", "risk", "tags", "steps")}


def _tell(message: Mapping[str, Any], answer: Answer, state: MessageState | None, milliseconds: int) -> None:
    outcome = "given_up" if state is MessageState.FAILED else "sent" if answer.well else "failed"
    meters.posted(outcome)
    log.info(
        "outgoing.posted",
        outcome=outcome,
        endpoint=message["endpoint_id"],
        message_id=str(message["id"]),
        event_sent=message["event"],
        incident=str(message["incident_id"]) if message["incident_id"] else None,
        status=answer.status,
        reason=answer.error,
        milliseconds=milliseconds,
    )


def start(dispatcher: Dispatcher, stopped: threading.Event) -> threading.Thread:
    """Send beside the sweeps; what breaks it stops the whole process, which a supervisor starts again."""

    def send() -> None:
        try:
            asyncio.run(dispatcher.run(stopped))
        finally:
            stopped.set()

    thread = threading.Thread(target=send, name="dispatch")
    thread.start()
    return thread
