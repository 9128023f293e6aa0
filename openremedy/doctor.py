"""`flask doctor`: everything the service needs, looked at, with what to do about what is wrong."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from platform import python_version
from urllib.parse import urlsplit

import httpx2
from cryptography.fernet import InvalidToken
from redis.exceptions import RedisError
from rq import Worker
from sqlalchemy import Engine, func, select

from config import Settings
from openremedy import __version__, health, search
from openremedy.models import Incident, SourceSecret, Triage, WebhookSecret, now
from openremedy.queue import job_queue
from openremedy.services import Services

OK, WARN, FAIL = "ok", "warn", "fail"
CLOCK_SECONDS = 5
OLD_SECONDS = 300
MODEL_SECONDS = 5.0  # for its answer, however slowly it looks up names, connects and sends


@dataclass(frozen=True)
class Check:
    """One thing looked at; `advice` says what to do when it is not ok."""

    name: str
    status: str
    detail: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """The check as a JSON object."""
        return asdict(self)

    def line(self) -> str:
        """The check as a line for people."""
        advice = f"\n      -> {self.advice}" if self.advice else ""
        return f"{self.status:4}  {self.name}: {self.detail}{advice}"


def examine(services: Services, engine: Engine) -> list[Check]:
    """Every check; one that needs the database or Redis is left out when they are away."""
    ask_later = _asked(services)
    checks = [_database(engine)]
    if checks[0].status != FAIL:
        checks += [_secrets(services, engine), _clock(engine), _oldest(engine), _search(engine)]
    checks += _redis(services)
    checks.append(ask_later())
    return checks


def _asked(services: Services) -> Callable[[], Check]:
    """Ask the model while the rest is looked at; the result gives the check, within MODEL_SECONDS from now.

    In a thread of its own: a look-up of a name has no time limit, and the one of httpx begins anew with each byte.
    """
    until = time.monotonic() + MODEL_SECONDS
    found: list[Check] = []
    asking = threading.Thread(target=lambda: found.append(_model(services)), daemon=True)
    asking.start()

    def answer() -> Check:
        asking.join(max(0.0, until - time.monotonic()))
        return found[0] if found else _silent(services, f"does not answer within {MODEL_SECONDS:.0f} s")

    return answer


def _database(engine: Engine) -> Check:
    found = health.database_check(engine)
    if found == health.OK:
        return Check("database", OK, f"{engine.dialect.name}, schema up to date")
    if found == "unreachable":
        return Check("database", FAIL, "unreachable", "Is it running, and does DATABASE_URL name it?")
    return Check("database", FAIL, "the schema is behind this code", "Run: flask db upgrade")


def _secrets(services: Services, engine: Engine) -> Check:
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        locked = [
            *connection.scalars(select(WebhookSecret.locked)),
            *connection.scalars(select(SourceSecret.locked)),
        ]
    unreadable = sum(not _opens(services, one) for one in locked)
    if unreadable:
        advice = "ENCRYPTION_KEYS must hold every key that secrets were encrypted with; add the missing one."
        return Check("secrets", FAIL, f"{unreadable} of {_many(len(locked), 'secret')} cannot be decrypted", advice)
    return Check("secrets", OK, f"{_many(len(locked), 'secret')} can be decrypted")


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _opens(services: Services, locked: str) -> bool:
    try:
        services.vault.unlock(locked)
    except InvalidToken:
        return False
    return True


def _clock(engine: Engine) -> Check:
    if engine.dialect.name == "sqlite":
        return Check("clock", OK, "the database is on this machine")
    with engine.connect() as connection:
        theirs = connection.execute(select(func.clock_timestamp())).scalar_one()
    seconds = abs((now() - theirs).total_seconds())
    if seconds > CLOCK_SECONDS:
        return Check("clock", WARN, f"{seconds:.0f} s off the database's", "Keep both machines on NTP.")
    return Check("clock", OK, "agrees with the database's")


def _oldest(engine: Engine) -> Check:
    waiting = Incident.triage.in_((Triage.PENDING, Triage.CLASSIFYING))
    with engine.connect().execution_options(sqlite_readonly=True) as connection:
        count, since = connection.execute(select(func.count(), func.min(Incident.triage_since)).where(waiting)).one()
    if not count:
        return Check("oldest pending", OK, "nothing waits to be classified")
    age = (now() - since).total_seconds()
    detail = f"{_many(count, 'incident')} to classify, the oldest for {age:.0f} s"
    if age > OLD_SECONDS:
        advice = "Are a worker and the scheduler running? flask worker; flask sweep"
        return Check("oldest pending", WARN, detail, advice)
    return Check("oldest pending", OK, detail)


def _search(engine: Engine) -> Check:
    if engine.dialect.name == "sqlite":
        return Check("search", OK, "reads the evidence; SQLite is for few incidents")
    if search.indexed(engine):
        return Check("search", OK, "by an index of words")
    advice = "Its extension pg_trgm could not be made at the upgrade; docs/operations.md tells how to add it."
    return Check("search", WARN, "no index of words: a rare word takes a second for 100,000 incidents", advice)


def _redis(services: Services) -> Iterator[Check]:
    try:
        services.redis.ping()
    except RedisError as error:
        advice = "Is it running, and does REDIS_URL name it? Alerts are stored meanwhile, verdicts wait."
        yield Check("redis", FAIL, f"unreachable ({type(error).__name__})", advice)
        return
    yield Check("redis", OK, "reachable")
    checks: tuple[Callable[[Services], Check], ...] = (_policy, _persistence, _workers)
    for check in checks:
        try:
            yield check(services)
        except RedisError as error:
            yield Check(check.__name__.strip("_"), WARN, f"not to be told ({type(error).__name__})")


def _policy(services: Services) -> Check:
    policy = health.redis_info("memory", "maxmemory_policy")
    if policy not in ("noeviction", ""):
        advice = "Set maxmemory-policy noeviction: any other drops queued work silently when memory is full."
        return Check("redis eviction", FAIL, policy, advice)
    return Check("redis eviction", OK, policy or "the server does not tell")


def _persistence(services: Services) -> Check:
    if health.redis_info("persistence", "aof_enabled") == "1":
        return Check("redis persistence", OK, "append-only file")
    advice = "Set appendonly yes. Without it a restart of Redis delays verdicts until the next sweep."
    return Check("redis persistence", WARN, "no append-only file", advice)


def _workers(services: Services) -> Check:
    count = Worker.count(queue=job_queue(services.redis))
    if count:
        return Check("workers", OK, f"{count} alive")
    return Check("workers", FAIL, "none alive", "Start one: flask worker (make run starts one itself).")


def _model(services: Services) -> Check:
    settings = services.settings
    if not settings.model_enabled:
        return Check("model", OK, "none configured: verdicts come from rules and words")
    base = httpx2.URL(settings.model_host)  # a query, as Azure wants one, stays behind the path
    url = base.copy_with(path=f"{base.path.rstrip('/')}/models")
    headers = {"Authorization": f"Bearer {settings.openai_api_key or 'none'}"}
    try:
        with httpx2.stream("GET", url, headers=headers, timeout=MODEL_SECONDS, trust_env=False) as answer:
            status = answer.status_code  # what it lists nobody reads
    except httpx2.HTTPError as error:
        return _silent(services, f"cannot be reached ({type(error).__name__})")
    if status in (401, 403):
        return Check("model", FAIL, f"{settings.model_host} refuses the key", "Set OPENAI_API_KEY.")
    if status >= 500:
        return Check("model", FAIL, f"{settings.model_host} answers {status}", "Look at the model server.")
    return Check("model", OK, f"evidence goes to {settings.model_host}")


def _silent(services: Services, how: str) -> Check:
    advice = "Is OPENAI_BASE_URL right? Verdicts are provisional until the model answers."
    return Check("model", FAIL, f"{services.settings.model_host} {how}", advice)


# ---------------------------------------------------------------- what is set and what runs


def configuration(settings: Settings) -> list[tuple[str, str]]:
    """The settings that matter, by their variable, as people read them; of what is secret only whether it is there."""
    limit = "{:,} a minute".format
    return [
        ("OPENREMEDY_PUBLIC_URL", settings.public_url),
        ("DATABASE_URL", "set" if settings.production else f"not set: SQLite in {settings.data_dir}"),
        ("REDIS_URL", "not set: a server of our own" if settings.embedded_redis else "set"),
        ("SECRET_KEY_FALLBACKS", _many(len(settings.secret_key_fallbacks), "former key")),
        ("OPENAI_BASE_URL", host_of_model(settings) or "not set: no language model"),
        ("OPENAI_API_KEY", "set" if settings.openai_api_key else "not set"),
        ("OPENREMEDY_MODEL", settings.model or "not set"),
        ("OPENREMEDY_LLM_DAILY_TOKENS", f"{settings.llm_daily_tokens:,}" if settings.llm_daily_tokens else "no limit"),
        ("OPENREMEDY_LLM_TIMEOUT", f"{settings.llm_timeout} s"),
        ("OPENREMEDY_LLM_CONCURRENCY", f"{settings.llm_concurrency} calls in each worker"),
        ("OPENREMEDY_OIDC_ISSUER", settings.oidc_issuer or "not set: no single sign-on"),
        ("OPENREMEDY_OIDC_CLIENT_ID", settings.oidc_client_id or "not set"),
        ("OPENREMEDY_OIDC_CLIENT_SECRET", "set" if settings.oidc_client_secret else "not set"),
        ("OPENREMEDY_OIDC_NAME", settings.oidc_name),
        ("OPENREMEDY_RETENTION_DAYS", f"{settings.retention_days:,} days"),
        ("OPENREMEDY_RATE_LIMIT", limit(settings.rate_limit) if settings.rate_limit else "off"),
        ("OPENREMEDY_SOURCE_RATE_LIMIT", limit(settings.source_rate_limit) if settings.source_rate_limit else "off"),
        ("OPENREMEDY_MAX_BODY_BYTES", f"{settings.max_body_bytes:,} bytes"),
        ("OPENREMEDY_PROXY_COUNT", str(settings.proxy_count)),
        ("OPENREMEDY_TRUSTED_HOSTS", ", ".join(settings.trusted_hosts) or "not set: any"),
        ("OPENREMEDY_METRICS_ALLOW", ", ".join(map(str, settings.metrics_allow)) or "none"),
        ("OPENREMEDY_METRICS_TOKEN", "set" if settings.metrics_token else "not set"),
        ("OPENREMEDY_OUTGOING_ALLOW_PRIVATE", "yes" if settings.outgoing_allow_private else "no"),
        ("OPENREMEDY_LOG_FORMAT", settings.log_format),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", _host(settings.traces_endpoint) or "not set: no traces"),
    ]


def _host(url: str | None) -> str | None:
    """Of an address only where it is: it may hold a password."""
    return urlsplit(url).hostname if url else None


def host_of_model(settings: Settings) -> str | None:
    """Where evidence goes, without path or credentials; None when the model tier is off."""
    return urlsplit(settings.model_host).hostname if settings.model_enabled else None


def versions(engine: Engine) -> list[tuple[str, str]]:
    """What runs here, by name."""
    packages = [(name, version(name)) for name in ("Flask", "SQLAlchemy", "rq", "redis", "gunicorn")]
    database = ".".join(map(str, engine.dialect.server_version_info or ())) or "unknown"
    return [("OpenRemedy", __version__), ("Python", python_version()), (engine.dialect.name, database), *packages]
