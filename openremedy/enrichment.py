"""What a worker asks a tool's own API about a new incident, where its source has a token for that.

Only ever the adapter's fixed address and a path that the adapter has checked, never a URL that came with an alert.
A tool that does not answer costs the incident a few seconds and nothing else: it is classified without.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import Engine, select, update

from openremedy.adapter import Adapter, Enrichment
from openremedy.alerts import Alert, IncidentType, parse_json
from openremedy.claims import Claim
from openremedy.crypto import Vault
from openremedy.errors import BadBody
from openremedy.incidents import say
from openremedy.models import Incident, SecretKind, Source, SourceSecret, table
from openremedy.translation import fit

log = structlog.get_logger()

DEADLINE = 5.0  # seconds for the whole answer
MAX_ANSWER = 1024 * 1024  # bytes


class NoAnswer(Exception):
    """The tool's API gave nothing that can be read; the message is for people."""


@dataclass(frozen=True)
class Enricher:
    """One per worker."""

    engine: Engine
    vault: Vault
    adapters: Mapping[str, Adapter]

    def wants(self, claim: Claim) -> bool:
        """Whether the incident is of a tool that may have more to tell. Looks at no database."""
        adapter = self.adapters.get(claim.incident["adapter"])
        return adapter is not None and adapter.enrichment is not None and claim.incident["enrichment"] is None

    async def __call__(self, claim: Claim) -> Claim:
        """The claimed incident with what its tool tells about it; asked once for each incident."""
        incident = claim.incident
        adapter = self.adapters.get(incident["adapter"])
        if adapter is None or adapter.enrichment is None or incident["enrichment"] is not None:
            return claim
        path = adapter.enrichment.path(incident["evidence"])
        token = self._token(incident["source_id"]) if path else None
        if path is None or token is None:
            return claim
        try:
            url = adapter.enrichment.base(self._options(incident["source_id"])) + path
            found = fitting(adapter.enrichment.read(await ask(adapter.enrichment, url, token)))
        except NoAnswer as error:
            log.warning("enrichment.failed", incident=str(incident["id"]), adapter=adapter.name, reason=str(error))
            found = {"error": str(error)}
        except Exception as error:  # the edge to the adapters: recorded, and the incident is classified without
            log.exception("enrichment.broken", incident=str(incident["id"]), adapter=adapter.name)
            found = {"error": f"the API could not be asked ({type(error).__name__})"}
        return self._keep(claim, adapter.title, found)

    def _token(self, source_id: int | None) -> str | None:
        statement = select(SourceSecret.locked).where(
            SourceSecret.source_id == source_id, SourceSecret.kind == SecretKind.API
        )
        with self.engine.connect().execution_options(sqlite_readonly=True) as connection:
            locked = connection.scalar(statement)
        try:
            return self.vault.unlock(locked) if locked else None
        except InvalidToken:
            log.error("secret.unreadable", source=source_id, advice="ENCRYPTION_KEYS lacks the key of its API token")
            return None

    def _options(self, source_id: int) -> dict[str, Any]:
        with self.engine.connect().execution_options(sqlite_readonly=True) as connection:
            found: dict[str, Any] = connection.execute(
                select(Source.options).where(Source.id == source_id)
            ).scalar_one()
        return found

    def _keep(self, claim: Claim, title: str, found: dict[str, Any]) -> Claim:
        incident = claim.incident
        changes: dict[str, Any] = {"enrichment": found}
        if found.get("hostname"):
            changes["hostname"] = found["hostname"]
        if found.get("incident_type") in list(IncidentType) and incident["incident_type"] == IncidentType.CUSTOM:
            changes["incident_type"] = IncidentType(found["incident_type"])
        with self.engine.begin() as connection:
            # Whoever holds the claim by now has asked as well.
            mine = (table(Incident).c.id == incident["id"]) & (table(Incident).c.claim == claim.id)
            if not connection.execute(update(table(Incident)).where(mine).values(changes)).rowcount:
                return claim
            say(connection, incident["tenant_id"], incident["id"], "enriched", title, **_summary(found))
        return replace(claim, incident={**incident, **changes})


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("hostname", "incident_type", "error") if found.get(name)}


def fitting(found: dict[str, Any]) -> dict[str, Any]:
    """What was read, within the limits that hold for evidence."""
    alert = fit(Alert(str(found.get("hostname") or "-"), IncidentType.CUSTOM, evidence=found))
    return dict(alert.evidence) | ({"hostname": alert.hostname} if found.get("hostname") else {})


async def ask(enrichment: Enrichment, url: str, token: str) -> Any:
    """The JSON that the tool's API answers. Raises NoAnswer."""
    # Not compressed, for the bound on its size is a bound on what is read.
    headers = {**enrichment.headers, "Accept-Encoding": "identity", "Authorization": enrichment.authorization(token)}
    try:
        async with (
            asyncio.timeout(DEADLINE),
            httpx2.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise NoAnswer(f"the API answered {answer.status_code}")
            return parse_json(await _bounded(answer))
    except TimeoutError as error:
        raise NoAnswer(f"the API did not answer within {DEADLINE:.0f} seconds") from error
    except httpx2.HTTPError as error:
        raise NoAnswer(f"the API cannot be reached ({type(error).__name__})") from error
    except BadBody as error:
        raise NoAnswer("the API's answer is not JSON that we take") from error


async def _bounded(answer: Any) -> bytes:
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > MAX_ANSWER:
            raise NoAnswer("the API's answer is too large")
    return body
