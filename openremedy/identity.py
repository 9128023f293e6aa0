"""The identity provider: where it asks people who they are, and what it says about them when they come back.

The one importer of authlib, which checks what comes back. Import it only where single sign-on is configured.
"""

import base64
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import requests
import structlog
from authlib.integrations.base_client import OAuthError
from authlib.integrations.flask_client import FlaskIntegration, FlaskOAuth2App
from joserfc.errors import JoseError

from config import Settings
from openremedy.errors import Problem, Unauthorized
from openremedy.people import Identity

TIMEOUT = 5  # seconds, of each call
LEEWAY = 120  # seconds that its clock and ours may differ
KEPT = 3600  # seconds that its addresses and keys are believed before they are read again
AT_ONCE = 4  # calls of a process, a third of its threads: a provider that hangs must not stop the intake of alerts
PATIENCE = 1  # seconds to wait for one of these
MAX_SUBJECT = 255  # OpenID Connect Core 1.0, 2: ASCII characters
SCOPE = "openid email"
# Those with a key pair. Without "none", and without those whose key could be what everybody can read.
ALGORITHMS = {f"{kind}{bits}" for kind in ("RS", "ES", "PS") for bits in (256, 384, 512)} | {"EdDSA", "Ed25519"}
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint")
BASIC = "client_secret_basic"
OUR_FAULT = {"invalid_client", "unauthorized_client", "invalid_scope"}

log = structlog.get_logger()


class ProviderAway(Problem):
    """The identity provider does not answer, or its answers or our settings for it make no sense."""

    status = 503
    message = "The identity provider cannot be reached just now. Please try again in a moment."


class NotConfirmed(Unauthorized):
    """The identity provider answers, and not that this is somebody."""

    message = "The identity provider did not confirm who you are. Please start again."


@dataclass(frozen=True)
class Departure:
    """Where to send somebody, and what to keep in their session until they are back."""

    url: str
    state: str
    nonce: str
    verifier: str


class Provider:
    """The provider of the settings. Every method raises ProviderAway, and NotConfirmed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._issuer = settings.oidc_issuer or ""
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._client: FlaskOAuth2App | None = None
        self._read_at = 0.0

    def depart(self, redirect_uri: str, again: bool) -> Departure:
        """The way to it; `again`: it shall ask for the password, whoever is signed in there."""
        asked = {"prompt": "login", "max_age": "0"} if again else {}
        with self._asking():
            made = self._known().create_authorization_url(redirect_uri, **asked)
        return Departure(made["url"], made["state"], made["nonce"], made["code_verifier"])

    def identify(self, redirect_uri: str, answer: Mapping[str, str], nonce: str, verifier: str) -> Identity:
        """Who it is that came back with this answer in the URL."""
        code = _code(answer)
        with self._asking():
            client = self._known()
            token = client.fetch_access_token(redirect_uri, code=code, code_verifier=verifier)
            if not token.get("id_token"):
                raise NotConfirmed()
            claims = client.parse_id_token(token, nonce, self._expected(client), leeway=LEEWAY)
            return _identity(claims, self._about(client, token, claims))

    def _expected(self, client: FlaskOAuth2App) -> dict[str, Any]:
        issuer = client.server_metadata["issuer"]
        return {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": self._settings.oidc_client_id},
        }

    def _about(self, client: FlaskOAuth2App, token: Any, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the address is told: in the token, or where the token lets us ask for it."""
        if "email_verified" in claims or "userinfo_endpoint" not in client.server_metadata:
            return claims
        about: Mapping[str, Any] = client.userinfo(token=token)
        if about.get("sub") != claims["sub"]:
            raise NotConfirmed()
        return about

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        if not self._free.acquire(timeout=PATIENCE):
            raise ProviderAway()
        try:
            yield
        except OAuthError as error:
            raise _refusal(str(error.error)) from error
        except JoseError as error:
            log.warning("oidc.token_refused", error=type(error).__name__)
            raise NotConfirmed() from error
        except (requests.RequestException, AttributeError, KeyError, TypeError, ValueError) as error:
            # All but the first: authlib takes the shape of what the provider answers for granted.
            log.warning("oidc.away", error=type(error).__name__)
            raise ProviderAway() from error
        finally:
            self._free.release()

    def _known(self) -> FlaskOAuth2App:
        """The client, with the provider's addresses and keys as of late."""
        client = self._client
        if client is None or time.monotonic() - self._read_at > KEPT:
            client = self._discover()
            self._client, self._read_at = client, time.monotonic()
        return client

    def _discover(self) -> FlaskOAuth2App:
        client = FlaskOAuth2App(
            FlaskIntegration("oidc"),
            "oidc",
            client_id=self._settings.oidc_client_id,
            client_secret=self._settings.oidc_client_secret,
            server_metadata_url=f"{self._issuer.rstrip('/')}/.well-known/openid-configuration",
            client_auth_methods=[(BASIC, _basic)],
            client_kwargs={"scope": SCOPE, "code_challenge_method": "S256", "default_timeout": TIMEOUT},
        )
        found = client.load_server_metadata()
        if found["issuer"].rstrip("/") != self._issuer.rstrip("/"):
            log.error("oidc.other_issuer", hint="OPENREMEDY_OIDC_ISSUER is not what the provider calls itself")
            raise ProviderAway()
        if BASIC not in found.get("token_endpoint_auth_methods_supported", [BASIC]):
            client.client_kwargs["token_endpoint_auth_method"] = "client_secret_post"  # nosec B105 # noqa: S105 - a name
        client.server_metadata = self._needed(found)
        return client

    def _needed(self, found: dict[str, Any]) -> dict[str, Any]:
        """What we use of what it publishes; authlib would take all of it for options."""
        needed = {name: str(found[name]) for name in ENDPOINTS if name in found}
        scheme = f"{self._issuer.partition(':')[0]}://"
        if not all(url.startswith(("https://", scheme)) for url in needed.values()):
            raise ValueError("an endpoint that is not encrypted")
        offered = found.get("id_token_signing_alg_values_supported", ())
        algorithms = [name for name in offered if name in ALGORITHMS] or ["RS256"]
        kept = {"issuer": found["issuer"], "_loaded_at": found["_loaded_at"]}
        return needed | kept | {"id_token_signing_alg_values_supported": algorithms}


def _basic(client: Any, _method: str, uri: str, headers: dict[str, str], body: str) -> tuple[str, dict[str, str], str]:
    """RFC 6749, 2.3.1: name and secret are encoded as in a form first, which authlib leaves out."""
    pair = ":".join(quote_plus(part) for part in (client.client_id, client.client_secret))
    return uri, {**headers, "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, body


def _code(answer: Mapping[str, str]) -> str:
    code = answer.get("code")
    if code and "error" not in answer:
        return code
    if answer.get("error") in ("server_error", "temporarily_unavailable"):
        raise ProviderAway()
    raise _refusal(answer.get("error", ""))


def _refusal(error: str) -> Problem:
    """What to tell somebody when the provider refuses the code, or them, or us."""
    if error in OUR_FAULT:
        log.error("oidc.client_refused", error=error, hint="the provider does not take OPENREMEDY_OIDC_CLIENT_…")
        return ProviderAway("The identity provider does not take this service. Tell whoever runs it.")
    log.warning("oidc.refused")
    return NotConfirmed()


def _identity(claims: Mapping[str, Any], about: Mapping[str, Any]) -> Identity:
    subject, email = claims["sub"], about.get("email")
    if not isinstance(subject, str) or not subject.isascii() or not subject.isprintable():
        raise NotConfirmed()
    if not 0 < len(subject) <= MAX_SUBJECT:
        raise NotConfirmed()
    return Identity(
        subject=f"{claims['iss']} {subject}",
        email=email if isinstance(email, str) else "",
        # Some providers write the boolean as text.
        verified=about.get("email_verified") in (True, "true"),
        shown_at=_moment(claims.get("auth_time")),
    )


def _moment(seconds: object) -> datetime | None:
    """When somebody showed it there; None when it is not told, or cannot be."""
    if not isinstance(seconds, int | float) or not 0 < seconds <= time.time() + LEEWAY:
        return None
    return datetime.fromtimestamp(min(seconds, time.time()), UTC)
