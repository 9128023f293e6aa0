"""Plays the week: every body through the real door, every verdict by the real classifier, every click by its function,
each at its own time.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from flask import Flask, current_app
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from openremedy import incidents, sources
from openremedy.audit import Actor
from openremedy.classification import Classifier, Limits
from openremedy.demo import bodies, world
from openremedy.demo.bodies import Told, Trouble
from openremedy.demo.week import Beat, Disabled, Event, Refused, Said, Sent, Tested
from openremedy.demo.world import CRON, Person, Tool
from openremedy.directory import Directory, PublishedKeys, SourceDirectory
from openremedy.errors import Unavailable
from openremedy.ids import new_id
from openremedy.intake import Door
from openremedy.models import Incident, Triage, Verdict, as_if_at, now
from openremedy.queue import Waker
from openremedy.registry import options_of
from openremedy.services import KEY, Services, services
from openremedy.signing import sign
from openremedy.tally import Tally

WAITING = 7  # incidents that nobody has looked at; more would look neglected
_THINKS = timedelta(seconds=2)
_LIMITS = Limits(llm_timeout=30, llm_concurrency=1, llm_daily_tokens=0, model_name="")

log = structlog.get_logger()


class _Patient(Tally):
    """Writes when it is told to, at the time of the story."""

    def _start(self) -> None:
        pass


class _Quiet(Waker):
    """Wakes nobody: the stage has its own classifier."""

    def wake(self) -> bool:
        return False


@contextmanager
def stage(engine: Engine) -> Iterator[None]:
    """The application's services for the time of the demo: no limits, nobody woken, refusals written at their time."""
    app, real = _app(), services()
    try:
        app.extensions[KEY] = _services(real, engine)
        yield
    finally:
        app.extensions[KEY] = real


def _services(real: Services, engine: Engine) -> Services:
    directory = Directory(engine, real.vault)
    tally = _Patient(engine, directory.knows)
    waker = _Quiet(real.redis, real.settings.llm_timeout)
    return replace(
        real,
        settings=replace(real.settings, rate_limit=0, source_rate_limit=0),
        tally=tally,
        waker=waker,
        directory=directory,
        sources=SourceDirectory(engine, real.vault, PublishedKeys(real.fetcher)),
        door=Door(engine, directory, tally, waker, waker),
    )


@dataclass(frozen=True, repr=False)
class Credentials:
    """With what the tools of the tenant come."""

    secret: str
    old_secret: str
    tokens: Mapping[Tool, str]
    signing: Mapping[Tool, str]


@dataclass(repr=False)
class Play:
    """One tenant's week while it happens."""

    session: Session
    engine: Engine
    tenant_id: int
    slug: str
    credentials: Credentials
    end: datetime
    runner: asyncio.Runner
    classifier: Classifier = field(init=False)
    incidents: dict[int, uuid.UUID] = field(default_factory=dict)  # of a trouble, by its number
    troubles: list[Trouble] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.classifier = Classifier(self.engine, _LIMITS, None, tenant_id=self.tenant_id)

    def play(self, events: Iterable[Event]) -> None:
        """Let it happen. Raises Unavailable when the door does not take what it must."""
        for event in events:
            with as_if_at(event.at):
                self._act(event)
                services().tally.flush()
        with as_if_at(self.end):
            self._tidy()

    def _act(self, event: Event) -> None:
        match event.act:
            case Sent(told):
                self._send(event.at, told)
            case Beat(tool):
                self._taken(
                    self._post(tool, bodies.raw(tool, bodies.heartbeat(tool.site, self.end - timedelta(days=9))))
                )
            case Tested(tool):
                self._taken(self._post(tool, bodies.raw(tool, bodies.test_notification(tool.adapter))))
            case Refused(how, told):
                self._refuse(how, told)
            case Said(who, what, trouble):
                self._say(who, what, trouble)
            case Disabled(tool):
                self._disable(tool)

    # ------------------------------------------------------------ what comes in

    def _send(self, at: datetime, told: tuple[Told, ...]) -> None:
        tool = told[0].trouble.tool
        answer = self._taken(self._post(tool, bodies.raw(tool, bodies.body_of(*told))))
        results = answer.get("alerts", [answer])
        for one, result in zip(told, results, strict=True):
            if result["incident_id"]:
                self.incidents[one.trouble.number] = uuid.UUID(result["incident_id"])
        created = [one.trouble for one, result in zip(told, results, strict=True) if result["outcome"] == "created"]
        self.troubles += created
        if created:
            with as_if_at(at + _THINKS):
                self._classify()

    def _classify(self) -> None:
        while self.runner.run(self.classifier.run(), context=copy_context()):
            pass  # a slow machine: there is more than one round of the classifier takes

    def _post(self, tool: Tool, body: bytes, **headers: str) -> TestResponse:
        """What the tool posts, with its credentials unless other headers are given."""
        sent = {"Content-Type": "application/json", "User-Agent": tool.agent or "curl/8.5.0"}
        sent |= headers or self._proof(tool, body)
        path = f"/api/v1/webhooks/{'alerts' if tool is CRON else tool.adapter}/{self.slug}"
        return request("POST", path, sent, tool.address, body)

    def _proof(self, tool: Tool, body: bytes) -> dict[str, str]:
        if tool is CRON:
            return {"X-OpenRemedy-Signature": sign(self.credentials.secret.encode(), body)}
        if tool in self.credentials.signing:
            digest = hmac.new(self.credentials.signing[tool].encode(), body, hashlib.sha256).hexdigest()
            return {"X-PagerDuty-Signature": f"v1={digest}"}
        return {"Authorization": f"Bearer {self.credentials.tokens[tool]}"}

    def _taken(self, answer: TestResponse) -> dict[str, Any]:
        return _expected(answer, 202)

    def _refuse(self, how: str, told: Told) -> None:
        tool = told.trouble.tool
        body = bodies.raw(tool, bodies.body_of(told))
        if how in ("disabled", "wrong token"):
            token = self.credentials.tokens[tool] if how == "disabled" else "ors_" + secrets.token_urlsafe(32)
            _expected(self._post(tool, body, Authorization=f"Bearer {token}"), 401)
        elif how == "custom payload":
            _expected(self._post(tool, b'{"text": "InstanceDown on web-01", "channel": "#ops"}'), 422)
        elif how == "no JSON":
            _expected(self._post(tool, body.replace(b'"', b"'")), 400)
        elif how == "no host":
            _expected(self._post(tool, json.dumps({**json.loads(body), "hostname": ""}).encode()), 422)
        else:
            sent, signature = self._wrongly_signed(how, body)
            headers = {"X-OpenRemedy-Signature": signature} if signature else {"X-Unsigned": "1"}
            _expected(self._post(tool, sent, **headers), 401)

    def _wrongly_signed(self, how: str, body: bytes) -> tuple[bytes, str]:
        """A body and a signature that do not belong together, as people get them wrong."""
        secret = self.credentials.secret.encode()
        right = sign(secret, body)
        digest = hmac.new(secret, body, hashlib.sha256).digest()
        return {
            "unsigned": (body, ""),
            "reserialised": (json.dumps(json.loads(body), separators=(",", ":"), sort_keys=True).encode(), right),
            "base64": (body, f"sha256={base64.b64encode(digest).decode()}"),
            "old secret": (body, sign(self.credentials.old_secret.encode(), body)),
            "newline": (body + b"\n", right),
            "prefix": (body, right.removeprefix("sha256=")),
            "empty": (body, sign(secret, b"")),
        }[how]

    # ------------------------------------------------------------ what people do

    def _say(self, who: Person, what: str, trouble: Trouble) -> None:
        incident = self.incidents.get(trouble.number)
        if incident is None:
            return
        actor = Actor(who.email(self.slug), who.address, new_id().hex)
        if what == "acknowledge":
            incidents.acknowledge(self.engine, self.tenant_id, incident, actor)
        elif what == "resolve":
            incidents.resolve(self.engine, self.tenant_id, incident, actor)
        elif what == "judge" or self._triage(incident) is Triage.NEEDS_HUMAN:
            self._judge(incident, trouble.problem.answer, actor)

    def _triage(self, incident: uuid.UUID) -> Triage | None:
        with self.engine.connect().execution_options(sqlite_readonly=True) as connection:
            return connection.scalar(select(Incident.triage).where(Incident.id == incident))

    def _judge(self, incident: uuid.UUID, answer: str, actor: Actor) -> None:
        """Somebody who knows the shop confirms the recipe, names the right one, or says that none fits."""
        named = select(Verdict.recipe).join(Incident, Incident.verdict_id == Verdict.id).where(Incident.id == incident)
        with self.engine.connect().execution_options(sqlite_readonly=True) as connection:
            given = connection.scalar(named)
        said = "correct" if answer and answer != given else "confirm" if given else "none"
        recipe = answer if said == "correct" else None
        incidents.feedback(self.engine, self.tenant_id, incident, said, recipe, actor)

    def _tidy(self) -> None:
        """Nobody leaves more behind than can be looked through: the oldest are answered."""
        waiting = (
            select(Incident.id)
            .where(Incident.tenant_id == self.tenant_id, Incident.triage == Triage.NEEDS_HUMAN)
            .order_by(Incident.id.desc())
            .offset(WAITING)
        )
        with self.engine.connect().execution_options(sqlite_readonly=True) as connection:
            found = set(connection.scalars(waiting))
        for trouble in self.troubles:
            if self.incidents.get(trouble.number) in found:
                self._say(world.RUBEN, "look", trouble)

    def _disable(self, tool: Tool) -> None:
        source = sources.find_source(self.session, self.slug, tool.name)
        sources.edit_source(self.session, services().vault, source, options_of(tool.adapter), disabled=True)
        # What is known of the sources may be a second old, and the next event is hours away.
        anew = SourceDirectory(self.engine, services().vault, PublishedKeys(services().fetcher))
        _app().extensions[KEY] = replace(services(), sources=anew)


def request(method: str, path: str, headers: Mapping[str, str], address: str, body: bytes = b"") -> TestResponse:
    """What the application answers to a request at this moment of the story.

    In a context of its own: inside that of a command all requests would share one `g` and one session.
    """
    app, moment = _app(), now()

    def ask() -> TestResponse:
        with as_if_at(moment):
            return app.test_client().open(
                path,
                method=method,
                base_url=app.extensions[KEY].settings.public_url,  # the host that the application answers to
                data=body,
                headers=dict(headers),
                environ_overrides={"REMOTE_ADDR": address},
            )

    return Context().run(ask)


def _app() -> Flask:
    """The application itself, which is there in every context."""
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]  # werkzeug's proxy


def _expected(answer: TestResponse, status: int) -> dict[str, Any]:
    found: dict[str, Any] = answer.get_json()
    if answer.status_code != status:
        log.error(
            "demo.unexpected", status=answer.status_code, expected=status, code=found.get("error", {}).get("code")
        )
        raise Unavailable(
            f"The door answered {answer.status_code} where {status} was expected; the tenant is not whole."
        )
    return found
