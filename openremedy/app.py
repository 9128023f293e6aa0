"""The application factory."""

from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.middleware.proxy_fix import ProxyFix

from config import Settings, SettingsError, load
from openremedy import (
    __version__,
    api,
    bundles,
    cli,
    database,
    downloads,
    health,
    logs,
    metrics,
    registry,
    responses,
    traces,
    ui,
    webhooks,
)
from openremedy.crypto import Vault
from openremedy.directory import Directory, PublishedKeys, SourceDirectory
from openremedy.extensions import db, limiter, migrate
from openremedy.fetching import Fetcher
from openremedy.intake import Door
from openremedy.people import LONGEST_SIGN_IN
from openremedy.queue import FOLLOW_UP_JOB, FOLLOW_UP_KEY, FOLLOW_UP_TIMEOUT, Waker, web_client
from openremedy.recipes import MAX_FILE_BYTES
from openremedy.services import JOB_MARGIN, KEY, Services
from openremedy.tally import Tally

LIMITER_TIMEOUT = 0.2  # seconds; with the waker below a second even where a hung Redis is met twice


class _Sessions(SecureCookieSessionInterface):
    """Browsers have a session; what posts alerts or uses the API brings its credentials along each time."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """None where there is none: then Flask gives one that cannot be written to."""
        return None if request.path.startswith("/api/v1/") else super().open_session(app, request)


class Application(Flask):
    """Flask without what each request would pay for and none of ours needs."""

    session_interface = _Sessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function: none of ours is a coroutine."""
        return func


def create_app(settings: Settings | None = None, fetcher: Fetcher | None = None) -> Flask:
    """Build the application from the settings, or from the environment. Raises SettingsError, AdapterError.

    `fetcher`: another than the usual one, for a test with a stand-in of its own for what is out there.
    """
    settings = settings or load()
    logs.configure(settings.log_format)
    if settings.traces_endpoint:
        _trace(settings.traces_endpoint)
    app = Application("openremedy", static_folder=None)
    app.config.from_mapping(_flask_config(settings))
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # merging answers with a redirect, which a sender follows without its body
    if settings.proxy_count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxy_count, x_proto=1)  # type: ignore[method-assign]  # Flask's own way
    _extensions(app, settings)
    app.extensions[KEY] = _services(app, settings, fetcher or Fetcher())
    app.register_blueprint(webhooks.blueprint)
    registry.register(app, registry.discover())
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(downloads.blueprint)
    api.register(app)
    ui.register(app)
    cli.register(app)
    responses.register(app)
    return app


def _trace(endpoint: str) -> None:
    try:
        traces.start(endpoint, __version__)
    except ImportError as error:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but what sends traces is not installed: requirements-otel.txt"
        ) from error


def _flask_config(settings: Settings) -> dict[str, Any]:
    secure = settings.public_url.startswith("https://")
    return {
        "SECRET_KEY": settings.secret_key,
        "SECRET_KEY_FALLBACKS": list(settings.secret_key_fallbacks),
        # Flask-WTF knows nothing of fallbacks. Its serialiser takes several keys: the last signs, all of them verify.
        "WTF_CSRF_SECRET_KEY": [*settings.secret_key_fallbacks, settings.secret_key],
        # A browser takes a __Host- cookie only over https, for this host alone and every path.
        "SESSION_COOKIE_NAME": "__Host-openremedy" if secure else "openremedy",
        "SESSION_COOKIE_SECURE": secure,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",  # a link in a chat leads to the incident; what changes something is a POST
        "SESSION_REFRESH_EACH_REQUEST": False,
        "PERMANENT_SESSION_LIFETIME": LONGEST_SIGN_IN,
        "TRUSTED_HOSTS": [host.lower() for host in settings.trusted_hosts] or None,  # as senders spell them
        "MAX_CONTENT_LENGTH": settings.max_body_bytes,
        "MAX_FORM_MEMORY_SIZE": 2 * MAX_FILE_BYTES,  # a file of recipes may be pasted, its lines ended as browsers do
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": database.engine_options(settings),
        "RATELIMIT_STORAGE_URI": _limiter_url(settings.redis_url),
        "RATELIMIT_STORAGE_OPTIONS": {
            "socket_timeout": LIMITER_TIMEOUT,
            "socket_connect_timeout": LIMITER_TIMEOUT,
        },
        "RATELIMIT_STRATEGY": bundles.NAME,
        "RATELIMIT_KEY_PREFIX": bundles.KEY_PREFIX,
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
        # The first request that finds Redis away turns to memory; those that found it at the same moment would fail.
        # Instead they pass, and the limiter says so in the log.
        "RATELIMIT_SWALLOW_ERRORS": True,
    }


def _limiter_url(redis_url: str) -> str:
    """The spelling of a Redis URL that limits understands."""
    return redis_url.replace("unix://", "redis+unix://", 1) if redis_url.startswith("unix://") else redis_url


def _extensions(app: Flask, settings: Settings) -> None:
    db.init_app(app)
    migrate.init_app(app, db)
    # Every limit is charged by name where it holds: told that it is there already, the limiter does not look for some
    # more at the beginning and the end of every request, which took a sixteenth of an alert's time here.
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    if settings.database_url.startswith("sqlite"):
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with app.app_context():
        database.prepare(db.engine)


def _services(app: Flask, settings: Settings, fetcher: Fetcher) -> Services:
    with app.app_context():
        engine = db.engine
    vault = Vault(settings.encryption_keys)
    redis = web_client(settings.redis_url)
    waker = Waker(redis, settings.llm_timeout + JOB_MARGIN)
    follow_up_waker = Waker(redis, FOLLOW_UP_TIMEOUT, FOLLOW_UP_JOB, FOLLOW_UP_KEY)
    directory = Directory(engine, vault)
    tally = Tally(engine, directory.knows)
    return Services(
        settings=settings,
        vault=vault,
        redis=redis,
        waker=waker,
        follow_up_waker=follow_up_waker,
        fetcher=fetcher,
        tally=tally,
        directory=directory,
        sources=SourceDirectory(engine, vault, PublishedKeys(fetcher)),
        door=Door(engine, directory, tally, waker, follow_up_waker),
    )
