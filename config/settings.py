"""Every setting of OpenRemedy, read once, typed, and refused with one clear line when it makes no sense."""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.fernet import Fernet
from environs import EnvError, FileAwareEnv
from marshmallow.validate import Length, OneOf, Range
from redis.connection import parse_url
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

Network = IPv4Network | IPv6Network

# sun_path of a unix socket holds 108 bytes on Linux and 104 on macOS, the final NUL included.
SOCKET_PATH_LIMIT = 100
SECRET_KEY_LENGTH = 32
MAX_ISSUER = 255  # with the subject behind it, it is kept in a column of 512
DEFAULT_DATABASE = "openremedy.db"
WEAK_SECRETS = ("changeme", "change-me", "change_me")


class SettingsError(Exception):
    """A setting is missing or makes no sense; the message is one line that says which and what to do."""


@dataclass(frozen=True)
class Settings:
    """One documented field per setting; the environment variable stands in docs/settings.md."""

    database_url: str = field(repr=False)  # SQLAlchemy URL, driver included
    redis_url: str = field(repr=False)
    secret_key: str = field(repr=False)  # signs sessions and the tokens of forms
    encryption_keys: tuple[str, ...] = field(repr=False)  # Fernet keys; the first encrypts, all decrypt
    data_dir: Path
    redis_socket: Path | None  # socket of the embedded Redis; None when REDIS_URL is set
    embedded_database: bool
    secret_key_fallbacks: tuple[str, ...] = field(default=(), repr=False)  # former ones, which still verify
    port: int = 8000
    public_url: str = "http://127.0.0.1:8000"
    proxy_count: int = 0  # trusted proxies in front, each appending to X-Forwarded-For
    rate_limit: int = 60  # canonical requests a minute and source address; 0 = off
    source_rate_limit: int = 600  # native requests a minute and source; 0 = off
    max_body_bytes: int = 5 * 1024 * 1024
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = None
    model: str | None = None
    llm_timeout: int = 30  # seconds for one verdict of the model, the re-prompt included
    llm_concurrency: int = 16  # model calls in flight per worker process
    llm_daily_tokens: int = 0  # per tenant and UTC day; 0 = no limit
    retention_days: int = 90
    log_format: str = "json"
    trusted_hosts: tuple[str, ...] = ()
    metrics_token: str | None = field(default=None, repr=False)
    metrics_allow: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    outgoing_allow_private: bool = False
    traces_endpoint: str | None = None  # where spans are sent; what else OTEL_ says is read by OpenTelemetry itself
    oidc_issuer: str | None = None  # the identity provider; these three are set together or not at all
    oidc_client_id: str | None = None
    oidc_client_secret: str | None = field(default=None, repr=False)
    oidc_name: str = "single sign-on"  # what its button says

    @property
    def production(self) -> bool:
        """DATABASE_URL is set; otherwise we run on embedded defaults."""
        return not self.embedded_database

    @property
    def embedded_redis(self) -> bool:
        """REDIS_URL is not set; `make run` keeps a server of its own on `redis_socket`."""
        return self.redis_socket is not None

    @property
    def model_enabled(self) -> bool:
        """A base URL, or a key and a model: a stray key in a shell alone sends nothing out."""
        return bool(self.openai_base_url) or bool(self.openai_api_key and self.model)

    @property
    def model_host(self) -> str:
        """Where evidence goes while the model tier is on."""
        return self.openai_base_url or "https://api.openai.com/v1"


class _Environment(FileAwareEnv):
    """Takes an empty value for one that is not set, as Compose writes it for `${NAME:-}`."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        value = super()._get_value(env_key, default)
        return default if value == "" else value


def load() -> Settings:
    """Read the environment (`NAME` or `NAME_FILE`).

    Embedded keys are generated under the data folder at the first call. Raises SettingsError.
    """
    env = _Environment(strip_whitespace=True)  # files end with a newline, values do not
    try:
        return _load(env)
    except (EnvError, ValueError) as error:
        raise SettingsError(" ".join(str(error).split())) from error
    except OSError as error:
        raise SettingsError(f"a setting's file or the data folder cannot be used: {error}") from error


def _load(env: FileAwareEnv) -> Settings:
    database_url = env.str("DATABASE_URL", "")
    redis_url = env.str("REDIS_URL", "")
    production = bool(database_url)
    values = _prefixed(env, production)
    data_dir = values["data_dir"]
    socket = None if redis_url else _socket_path(data_dir)
    return Settings(
        database_url=_driver(database_url) if production else f"sqlite:///{data_dir / DEFAULT_DATABASE}",
        redis_url=_redis(redis_url) if redis_url else f"unix://{quote(str(socket))}?db=0",
        redis_socket=socket,
        embedded_database=not production,
        openai_api_key=env.str("OPENAI_API_KEY", "") or None,
        openai_base_url=_web_url("OPENAI_BASE_URL", env.str("OPENAI_BASE_URL", "")) or None,
        traces_endpoint=_traces_endpoint(
            env.str("OTEL_EXPORTER_OTLP_ENDPOINT", ""), env.str("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        ),
        **_keys(env, data_dir, production),
        **values,
    )


def _prefixed(env: FileAwareEnv, production: bool) -> dict[str, Any]:
    count = Range(min=0)
    with env.prefixed("OPENREMEDY_"):
        port = env.int("PORT", 8000, validate=Range(1, 65535))
        return {
            "port": port,
            "public_url": _web_url("OPENREMEDY_PUBLIC_URL", env.str("PUBLIC_URL", "")) or f"http://127.0.0.1:{port}",
            "data_dir": Path(env.str("DATA_DIR", "") or "data").absolute(),
            "proxy_count": env.int("PROXY_COUNT", 0, validate=Range(0, 10)),
            "rate_limit": env.int("RATE_LIMIT", 60, validate=count),
            "source_rate_limit": env.int("SOURCE_RATE_LIMIT", 600, validate=count),
            "max_body_bytes": env.int("MAX_BODY_BYTES", 5 * 1024 * 1024, validate=Range(min=1)),
            "model": env.str("MODEL", "") or None,
            "llm_timeout": env.int("LLM_TIMEOUT", 30, validate=Range(1, 600)),
            "llm_concurrency": env.int("LLM_CONCURRENCY", 16, validate=Range(1, 512)),
            "llm_daily_tokens": env.int("LLM_DAILY_TOKENS", 0, validate=count),
            "retention_days": env.int("RETENTION_DAYS", 90, validate=Range(min=1)),
            "log_format": env.str("LOG_FORMAT", "json" if production else "text", validate=OneOf(["json", "text"])),
            "trusted_hosts": tuple(env.list("TRUSTED_HOSTS", [], subcast=str)),
            "metrics_token": env.str("METRICS_TOKEN", "") or None,
            "metrics_allow": _networks(env.list("METRICS_ALLOW", ["127.0.0.0/8", "::1/128"])),
            "outgoing_allow_private": env.bool("OUTGOING_ALLOW_PRIVATE", False),
            **_single_sign_on(
                oidc_issuer=env.str("OIDC_ISSUER", "") or None,
                oidc_client_id=env.str("OIDC_CLIENT_ID", "") or None,
                oidc_client_secret=env.str("OIDC_CLIENT_SECRET", "") or None,
            ),
            "oidc_name": env.str("OIDC_NAME", Settings.oidc_name, validate=Length(max=60)),
        }


def _driver(url: str) -> str:
    """People write postgres:// and postgresql://; SQLAlchemy would then look for psycopg2."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            url = "postgresql+psycopg://" + url.removeprefix(prefix)
    if not url.startswith(("postgresql+psycopg://", "sqlite:///")):
        raise SettingsError("DATABASE_URL must begin with postgresql:// (or sqlite:/// for a file)")
    try:
        name = make_url(url).database or ""
    except (ArgumentError, ValueError):  # their words may quote the password
        raise SettingsError("DATABASE_URL is not a URL such as postgresql://user:password@host:5432/name") from None
    if not url.startswith("sqlite"):
        return url
    if name in ("", ":memory:"):
        raise SettingsError("DATABASE_URL must name a file after sqlite:///, for example sqlite:////srv/openremedy.db")
    return f"sqlite:///{Path(name).absolute()}"


def _redis(url: str) -> str:
    try:
        parse_url(url)
    except ValueError:
        raise SettingsError(
            "REDIS_URL must look like redis://host:6379/0 (rediss:// with TLS, unix:// for a socket)"
        ) from None
    return url


def _web_url(name: str, url: str) -> str:
    """`url` without a slash at its end. It is shown and logged, so it may hold no password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
        _ = parts.port  # raises when it is no number
    except ValueError:
        good = False
    if url and not good:
        raise SettingsError(f"{name} must look like https://host or http://host:port, without a password")
    return url.rstrip("/")


def _traces_endpoint(of_all: str, of_traces: str) -> str | None:
    """The address of a collector, or the one for traces as it is written."""
    of_all = _web_url("OTEL_EXPORTER_OTLP_ENDPOINT", of_all)
    _web_url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", of_traces)
    return of_traces or (f"{of_all}/v1/traces" if of_all else None)


def _networks(texts: list[str]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text.strip()) for text in texts)
    except ValueError as error:
        raise SettingsError(f"OPENREMEDY_METRICS_ALLOW must list networks such as 10.0.0.0/8: {error}") from error


def _single_sign_on(**values: str | None) -> dict[str, str | None]:
    """The three settings of the identity provider: all of them or none."""
    unset = [f"OPENREMEDY_{name.upper()}" for name, value in values.items() if not value]
    if unset and len(unset) < len(values):
        raise SettingsError(
            f"single sign-on also needs {' and '.join(unset)}; without it set none of OPENREMEDY_OIDC_…"
        )
    if values["oidc_issuer"]:
        _check_issuer(values["oidc_issuer"])
    return values


def _check_issuer(issuer: str) -> None:
    """It is kept as written: some issuers end with a slash, and their tokens repeat it."""
    _web_url("OPENREMEDY_OIDC_ISSUER", issuer)
    parts = urlsplit(issuer)
    plain = issuer.isascii() and issuer.isprintable() and not set(issuer) & set(" ?#@") and len(issuer) <= MAX_ISSUER
    if not plain or (parts.scheme != "https" and not _on_this_machine(parts.hostname or "")):
        raise SettingsError(
            "OPENREMEDY_OIDC_ISSUER must look like https://host/path; http:// only for a provider on this machine"
        )


def _on_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "redis" / "redis.sock"
    # What Redis says of a client is "name=value name=value", the path among it, and redis-py reads no other.
    if not re.search(r"[\s=]", str(path)) and len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"openremedy-{os.getuid()}-{digest}" / "redis.sock"


def _keys(env: FileAwareEnv, data_dir: Path, production: bool) -> dict[str, Any]:
    if production:
        secret_key, encryption_keys = env.str("SECRET_KEY", ""), env.str("ENCRYPTION_KEYS", "")
    else:
        secret_key = env.str("SECRET_KEY", "") or _kept(data_dir / "secret_key", lambda: secrets.token_urlsafe(48))
        encryption_keys = env.str("ENCRYPTION_KEYS", "") or _kept(
            data_dir / "encryption_keys", lambda: Fernet.generate_key().decode()
        )
    return {
        "secret_key": _secret_key(secret_key),
        "secret_key_fallbacks": _former_keys(env.str("SECRET_KEY_FALLBACKS", "")),
        "encryption_keys": _fernet_keys(encryption_keys),
    }


def _secret_key(text: str) -> str:
    advice = "generate one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
    if not text:
        raise SettingsError(f"SECRET_KEY is required when DATABASE_URL is set; {advice}")
    if _weak(text):
        raise SettingsError(f"SECRET_KEY is too weak (at least {SECRET_KEY_LENGTH} random characters); {advice}")
    return text


def _former_keys(text: str) -> tuple[str, ...]:
    """What one of them has signed is believed, so a weak one is as bad as a weak SECRET_KEY."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for position, key in enumerate(keys, 1):
        if _weak(key):
            raise SettingsError(
                f"SECRET_KEY_FALLBACKS: key {position} of {len(keys)} is too weak "
                f"(at least {SECRET_KEY_LENGTH} random characters); leave it out, and people sign in again"
            )
    return keys


def _weak(key: str) -> bool:
    return len(key) < SECRET_KEY_LENGTH or len(set(key)) < 10 or key.lower().startswith(WEAK_SECRETS)


def _fernet_keys(text: str) -> tuple[str, ...]:
    advice = (
        "generate one with: python3 -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"
    )
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if not keys:
        raise SettingsError(f"ENCRYPTION_KEYS is required when DATABASE_URL is set; {advice}")
    for position, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            raise SettingsError(
                f"ENCRYPTION_KEYS: key {position} of {len(keys)} is not 32 url-safe base64 bytes; {advice}"
            ) from None
        if len(set(key)) < 10:
            raise SettingsError(f"ENCRYPTION_KEYS: key {position} of {len(keys)} is too weak; {advice}")
    return keys


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The value in `path`; several processes may start at once, so the first writer wins by link()."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-") as fresh:  # mode 0600
            fresh.write(make())
            fresh.flush()
            os.fsync(fresh.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(fresh.name, path)
    return path.read_text().strip()
