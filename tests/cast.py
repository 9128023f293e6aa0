"""Alice, Bob and Charlie: what they hold and how they speak to the service inside a test."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from openremedy import cookbook, registry, sources
from openremedy.extensions import db
from openremedy.models import Tenant as TenantRow
from openremedy.recipes import RecipeSpec
from openremedy.services import services

DISK_FULL = {
    "hostname": "web-01",
    "incident_type": "disk_full",
    "evidence": {"disk_usage_percent": 94, "mount": "/var", "largest_files": ["/var/app/a.bin 4G"]},
}


def sign(secret: str, body: bytes) -> str:
    """The signature as a client computes it: on purpose not by our own signing module."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Member:
    """Someone with an API token of a tenant."""

    slug: str
    token: str

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class Source:
    """A tool of a tenant that posts its own format."""

    app: Flask
    slug: str
    adapter: str
    id: int
    token: str

    @property
    def url(self) -> str:
        return f"/api/v1/webhooks/{self.adapter}/{self.slug}"

    def send(
        self, body: Any, path: str = "", method: str = "POST", address: str = "127.0.0.1", **headers: str
    ) -> TestResponse:
        """Post a body (bytes, or what becomes JSON) with the source's token, or with the headers given instead."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = self.app.test_client()
        return client.open(
            self.url + path,
            method=method,
            data=raw,
            headers={"Content-Type": "application/json"} | (headers or {"Authorization": f"Bearer {self.token}"}),
            environ_overrides={"REMOTE_ADDR": address},
        )

    def alerts(self, body: Any, path: str = "", **headers: str) -> list[dict[str, Any]]:
        """Post a body that must be taken, and return what became of each alert."""
        answer = self.send(body, path, **headers)
        assert answer.status_code == 202, answer.get_data()[:1000]
        found: list[dict[str, Any]] = answer.get_json()["alerts"]
        return found


@dataclass(frozen=True)
class Tenant:
    """A tenant's owner: its secret for alerts and an admin's token for the API."""

    app: Flask
    slug: str
    secret: str
    token: str

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def url(self) -> str:
        return f"/api/v1/webhooks/alerts/{self.slug}"

    def source(self, adapter: str, signing_secret: str | None = None, **options: Any) -> Source:
        """A new source of this tenant."""
        with self.app.app_context():
            row, token = sources.add_source(
                db.session(), services().vault, self.slug, adapter, signing_secret=signing_secret
            )
            if options:
                shape = registry.adapters()[adapter].options
                sources.edit_source(db.session(), services().vault, row, shape, options=options)
            return Source(self.app, self.slug, adapter, row.id, token)

    def send(self, body: bytes, **headers: str) -> TestResponse:
        """Post raw bytes with their right signature."""
        signed = {"X-OpenRemedy-Signature": sign(self.secret, body), "Content-Type": "application/json"} | headers
        return self.app.test_client().post(self.url, data=body, headers=signed)

    @property
    def id(self) -> int:
        with self.app.app_context(), db.engine.connect().execution_options(sqlite_readonly=True) as connection:
            found: int = connection.execute(select(TenantRow.id).where(TenantRow.slug == self.slug)).scalar_one()
            return found

    def import_recipes(self, specs: Sequence[RecipeSpec]) -> None:
        """Add or replace recipes of this tenant."""
        with self.app.app_context():
            cookbook.import_recipes(db.session(), self.id, specs)

    def alert(self, base: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """Post an alert that must be stored, and return the answer."""
        answer = self.send(json.dumps({**(base or DISK_FULL), **changes}).encode())
        assert answer.status_code == 202, answer.get_json()
        found: dict[str, Any] = answer.get_json()
        return found

    def get(self, path: str, **query: Any) -> Any:
        """A successful GET of the API."""
        answer = self.app.test_client().get(f"/api/v1{path}", query_string=query, headers=self.auth)
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    def post(self, path: str, body: Any = None) -> Any:
        """A successful POST to the API."""
        answer = self.app.test_client().post(f"/api/v1{path}", json=body or {}, headers=self.auth)
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    def incidents(self, **query: Any) -> list[dict[str, Any]]:
        """The incidents of the first page."""
        items: list[dict[str, Any]] = self.get("/incidents", **query)["items"]
        return items

    def incident(self, incident_id: str) -> dict[str, Any]:
        """One incident with everything about it."""
        found: dict[str, Any] = self.get(f"/incidents/{incident_id}")
        return found
