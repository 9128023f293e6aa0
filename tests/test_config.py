"""Settings: every one of them by its name, read from the environment or a file, and nonsense refused in one line."""

import base64
import os
import re
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import config
from config import Settings, SettingsError
from config.settings import SOCKET_PATH_LIMIT

ROOT = Path(__file__).parent.parent
STRONG = "a-long-and-random-text-of-47-characters-0123456"
# Not random: they are part of the names of tests, which every test process must know alike.
KEY, OLD_KEY = (base64.urlsafe_b64encode(bytes(range(start, start + 32))).decode() for start in (0, 32))
PRODUCTION = {"DATABASE_URL": "postgresql://db/openremedy", "SECRET_KEY": STRONG, "ENCRYPTION_KEYS": KEY}

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Reads the settings from exactly this environment."""

    def read(**environment: str) -> Settings:
        for name in list(os.environ):
            if name.startswith(("OPENREMEDY_", "OPENAI_", "DATABASE_", "REDIS_", "SECRET_", "ENCRYPTION_", "OTEL_")):
                monkeypatch.delenv(name)
        for name, value in ({"OPENREMEDY_DATA_DIR": str(tmp_path / "data")} | environment).items():
            monkeypatch.setenv(name, value)
        return config.load()

    return read


def refusal(load: Load, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- defaults and names


def test_with_nothing_set_it_runs_on_embedded_defaults(load: Load, tmp_path: Path) -> None:
    settings = load()
    data = tmp_path / "data"
    assert not settings.production
    assert settings.embedded_redis
    assert settings.database_url == f"sqlite:///{data}/openremedy.db"
    assert settings.data_dir == data
    assert (settings.port, settings.public_url) == (8000, "http://127.0.0.1:8000")
    assert (settings.rate_limit, settings.source_rate_limit, settings.max_body_bytes) == (60, 600, 5242880)
    assert (settings.proxy_count, settings.retention_days) == (0, 90)
    assert (settings.llm_timeout, settings.llm_concurrency, settings.llm_daily_tokens) == (30, 16, 0)
    assert (settings.openai_api_key, settings.openai_base_url, settings.model) == (None, None, None)
    assert (settings.trusted_hosts, settings.metrics_token, settings.outgoing_allow_private) == ((), None, False)
    assert settings.metrics_allow == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert not settings.model_enabled


NAMES: list[tuple[str, str, str, Any]] = [
    ("REDIS_URL", "rediss://user:pw@cache:6380/1", "redis_url", "rediss://user:pw@cache:6380/1"),
    ("SECRET_KEY", STRONG, "secret_key", STRONG),
    ("SECRET_KEY_FALLBACKS", f"{STRONG}-1, {STRONG}-2,", "secret_key_fallbacks", (f"{STRONG}-1", f"{STRONG}-2")),
    ("ENCRYPTION_KEYS", f"{KEY}, {OLD_KEY}", "encryption_keys", (KEY, OLD_KEY)),
    ("OPENAI_API_KEY", "sk-1", "openai_api_key", "sk-1"),
    ("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1/", "openai_base_url", "http://127.0.0.1:11434/v1"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/", "traces_endpoint", "http://c:4318/v1/traces"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/as/it/is", "traces_endpoint", "http://c:4318/as/it/is"),
    ("OPENREMEDY_PUBLIC_URL", "https://alerts.example.com/", "public_url", "https://alerts.example.com"),
    ("OPENREMEDY_PORT", "9000", "port", 9000),
    ("OPENREMEDY_PORT", "9000", "public_url", "http://127.0.0.1:9000"),
    ("OPENREMEDY_PROXY_COUNT", "2", "proxy_count", 2),
    ("OPENREMEDY_RATE_LIMIT", "0", "rate_limit", 0),
    ("OPENREMEDY_SOURCE_RATE_LIMIT", "1", "source_rate_limit", 1),
    ("OPENREMEDY_MAX_BODY_BYTES", "1000", "max_body_bytes", 1000),
    ("OPENREMEDY_MODEL", "gpt-x", "model", "gpt-x"),
    ("OPENREMEDY_LLM_TIMEOUT", "5", "llm_timeout", 5),
    ("OPENREMEDY_LLM_CONCURRENCY", "1", "llm_concurrency", 1),
    ("OPENREMEDY_LLM_DAILY_TOKENS", "100000", "llm_daily_tokens", 100000),
    ("OPENREMEDY_RETENTION_DAYS", "1", "retention_days", 1),
    ("OPENREMEDY_LOG_FORMAT", "json", "log_format", "json"),
    ("OPENREMEDY_TRUSTED_HOSTS", "a.example,.b.example", "trusted_hosts", ("a.example", ".b.example")),
    ("OPENREMEDY_METRICS_TOKEN", "t", "metrics_token", "t"),
    ("OPENREMEDY_METRICS_ALLOW", "10.0.0.0/8, ::1", "metrics_allow", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    ("OPENREMEDY_OUTGOING_ALLOW_PRIVATE", "true", "outgoing_allow_private", True),
]


@pytest.mark.parametrize(("name", "text", "field", "value"), NAMES, ids=lambda part: str(part)[:30])
def test_a_setting_is_read_by_its_name_or_from_its_file(
    load: Load, tmp_path: Path, name: str, text: str, field: str, value: Any
) -> None:
    assert getattr(load(**{name: text}), field) == value
    file = tmp_path / "value"
    file.write_text(f"{text}\n")
    assert getattr(load(**{f"{name}_FILE": str(file)}), field) == value, "without the newline at its end"


def test_an_empty_setting_is_one_that_is_not_set(load: Load) -> None:
    settings = load(DATABASE_URL="", REDIS_URL="", OPENAI_BASE_URL="", OPENREMEDY_MODEL="", OPENREMEDY_PUBLIC_URL="")
    assert not settings.production
    assert settings.embedded_redis
    assert settings.openai_base_url is None


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_is_taken_as_people_write_it(load: Load, scheme: str) -> None:
    settings = load(**PRODUCTION | {"DATABASE_URL": f"{scheme}://user:pw@db:5432/name?sslmode=require"})
    assert settings.database_url == "postgresql+psycopg://user:pw@db:5432/name?sslmode=require"
    assert settings.production


def test_a_file_of_ones_own_is_production_too(load: Load) -> None:
    settings = load(**PRODUCTION | {"DATABASE_URL": "sqlite:////srv/openremedy.db"})
    assert settings.database_url == "sqlite:////srv/openremedy.db"
    assert settings.production
    relative = load(**PRODUCTION | {"DATABASE_URL": "sqlite:///some.db"})
    assert relative.database_url == f"sqlite:///{Path.cwd()}/some.db"


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({}, False),
        ({"OPENAI_API_KEY": "sk-stray"}, False),
        ({"OPENREMEDY_MODEL": "gpt-x"}, False),
        ({"OPENAI_API_KEY": "sk-1", "OPENREMEDY_MODEL": "gpt-x"}, True),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1"}, True),
    ],
)
def test_a_stray_key_alone_sends_nothing_out(load: Load, environment: dict[str, str], enabled: bool) -> None:
    assert load(**environment).model_enabled is enabled


# ---------------------------------------------------------------- nonsense


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("OPENREMEDY_PORT", value) for value in ("http", "0", "65536", "-1", "8000.5")),
        *(("OPENREMEDY_PROXY_COUNT", value) for value in ("-1", "11", "yes")),
        *(("OPENREMEDY_RATE_LIMIT", value) for value in ("-1", "60/minute")),
        ("OPENREMEDY_SOURCE_RATE_LIMIT", "-1"),
        *(("OPENREMEDY_MAX_BODY_BYTES", value) for value in ("0", "5MB")),
        *(("OPENREMEDY_LLM_TIMEOUT", value) for value in ("0", "601")),
        *(("OPENREMEDY_LLM_CONCURRENCY", value) for value in ("0", "513")),
        ("OPENREMEDY_LLM_DAILY_TOKENS", "-1"),
        ("OPENREMEDY_RETENTION_DAYS", "0"),
        ("OPENREMEDY_LOG_FORMAT", "xml"),
        ("OPENREMEDY_OUTGOING_ALLOW_PRIVATE", "perhaps"),
        *(("OPENREMEDY_METRICS_ALLOW", value) for value in ("localhost", "10.0.0.1/8")),
        *(("OPENREMEDY_PUBLIC_URL", value) for value in ("alerts.example.com", "ftp://a", "https://", "http://h:x")),
        *(("OPENAI_BASE_URL", value) for value in ("localhost:1234", "http://user:pw@host/v1")),
        *(("OTEL_EXPORTER_OTLP_ENDPOINT", value) for value in ("collector:4318", "http://user:pw@collector:4318")),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
        *(("REDIS_URL", value) for value in ("localhost:6379", "http://cache", "redis://cache:x/0")),
        *(("DATABASE_URL", value) for value in ("mysql://db/x", "openremedy.db", "sqlite://", "sqlite:///:memory:")),
        ("DATABASE_URL", "postgresql://user:p@ss/word@db:x/name"),
        ("SECRET_KEY", "short"),
        ("SECRET_KEY", "changeme" * 8),
        ("SECRET_KEY", "a" * 64),
        *(("SECRET_KEY_FALLBACKS", value) for value in ("short", "changeme" * 8, "a" * 64, f"{STRONG},short")),
        ("ENCRYPTION_KEYS", "not-a-key"),
        ("ENCRYPTION_KEYS", "A" * 43 + "="),
        ("ENCRYPTION_KEYS", f"{KEY},{KEY[:-5]}"),
    ],
)
def test_nonsense_is_refused_in_one_line_that_names_the_setting(load: Load, name: str, value: str) -> None:
    message = refusal(load, **{name: value})
    assert name in message
    for secret in ("p@ss", "word@", "pw@", KEY, STRONG):
        assert secret not in message


@pytest.mark.parametrize("name", ["SECRET_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "OPENREMEDY_PORT"])
def test_a_file_that_cannot_be_read_stops_the_start(load: Load, tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "absent", tmp_path):
        assert f"{name}_FILE" in refusal(load, **{f"{name}_FILE": str(path)})


@pytest.mark.parametrize("name", ["SECRET_KEY", "ENCRYPTION_KEYS"])
def test_production_needs_its_keys_and_says_how_to_make_one(load: Load, name: str) -> None:
    missing = {key: value for key, value in PRODUCTION.items() if key != name}
    message = refusal(load, **missing)
    assert f"{name} is required when DATABASE_URL is set" in message
    command = message.split("generate one with: ")[1].replace("python3", sys.executable, 1)
    made = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.strip()
    assert load(**PRODUCTION | {name: made}).production


def test_a_data_folder_that_cannot_be_made_is_one_line(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "data folder" in refusal(load, OPENREMEDY_DATA_DIR=str(tmp_path / "file" / "data"))


# ---------------------------------------------------------------- embedded keys and paths


def test_keys_are_made_once_and_are_the_owners_alone(load: Load, tmp_path: Path) -> None:
    first, again = load(), load()
    assert (first.secret_key, first.encryption_keys) == (again.secret_key, again.encryption_keys)
    for name in ("secret_key", "encryption_keys"):
        assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["encryption_keys", "secret_key"]


def test_processes_that_start_at_once_agree_on_the_keys(tmp_path: Path) -> None:
    script = "import config; s = config.load(); print(s.secret_key, s.encryption_keys)"
    environment = {"PATH": os.environ["PATH"], "OPENREMEDY_DATA_DIR": str(tmp_path / "data")}

    def start(_number: int) -> str:
        words = [sys.executable, "-c", script]
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, range(4)))) == 1


def test_the_socket_of_a_long_data_folder_is_still_short_enough(load: Load, tmp_path: Path) -> None:
    short = load(OPENREMEDY_DATA_DIR="/srv/data" if os.access("/srv", os.W_OK) else str(tmp_path), **PRODUCTION)
    assert short.redis_socket == short.data_dir / "redis" / "redis.sock" or len(str(tmp_path)) > 80
    one, two = (load(OPENREMEDY_DATA_DIR=f"/{'x' * 200}/{name}", **PRODUCTION) for name in "ab")
    for settings in (one, two):
        assert settings.redis_socket
        assert len(os.fsencode(settings.redis_socket)) <= SOCKET_PATH_LIMIT
        assert settings.redis_url == f"unix://{settings.redis_socket}?db=0"
    assert one.redis_socket != two.redis_socket


@pytest.mark.parametrize("name", ["a folder", "a=b", "a\tb"])
def test_the_socket_has_a_plain_path_whatever_the_data_folder_is_called(load: Load, tmp_path: Path, name: str) -> None:
    settings = load(OPENREMEDY_DATA_DIR=str(tmp_path / name), **PRODUCTION)
    assert settings.redis_socket
    assert re.fullmatch(r"[\w./~-]+", str(settings.redis_socket), re.ASCII)
    assert settings.redis_url == f"unix://{settings.redis_socket}?db=0"


def test_no_secret_stands_in_the_settings_as_text(load: Load) -> None:
    settings = load(
        DATABASE_URL="postgresql://user:hidden-1@db/name",
        REDIS_URL="redis://:hidden-2@cache/0",
        SECRET_KEY=f"hidden-3-{STRONG}",
        SECRET_KEY_FALLBACKS=f"hidden-6-{STRONG}",
        ENCRYPTION_KEYS=KEY,
        OPENAI_API_KEY="hidden-4",
        OPENREMEDY_METRICS_TOKEN="hidden-5",
    )
    for text in (repr(settings), str(settings)):
        assert "hidden" not in text
        assert KEY not in text


def test_only_the_config_package_reads_the_environment() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("openremedy", "adapters", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    # The launcher hands its own environment on to the programs it starts; it reads no setting there.
    assert readers == ["openremedy/launcher.py"]


# ---------------------------------------------------------------- what a wrong setting looks like from outside


@pytest.mark.parametrize(
    "command",
    [
        ["flask", "doctor"],
        ["flask", "tenant", "create", "acme", "--json"],
        ["gunicorn", "--config", "config/gunicorn.conf.py", "--bind", "127.0.0.1:1", "wsgi:app"],
    ],
    ids=lambda words: words[0],
)
def test_a_wrong_setting_is_one_line_for_every_program(command: list[str]) -> None:
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": "postgresql://db/openremedy"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("OpenRemedy cannot start: SECRET_KEY is required")
    assert done.stderr.count("\n") == 1


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PORT", "RATE_LIMIT", "LOG_FORMAT", "OUTGOING_ALLOW_PRIVATE", "METRICS_ALLOW", "PUBLIC_URL"):
        monkeypatch.setenv(f"OPENREMEDY_{name}", "")
    monkeypatch.setenv("OPENREMEDY_DATA_DIR", str(tmp_path))
    settings = config.load()
    assert (settings.port, settings.rate_limit, len(settings.metrics_allow)) == (8000, 60, 2)


# ---------------------------------------------------------------- gunicorn


@pytest.mark.parametrize(
    ("processors", "workers", "chosen"),
    [
        ({0, 1}, 2, [0, 1]),
        ({2, 5}, 3, [2, 5, 2]),
        ({0, 1, 2}, 2, [None, None]),  # the system does better with some to spare
        ({7}, 1, [7]),
    ],
)
def test_workers_keep_to_processors_of_their_own_where_there_are_none_to_spare(
    processors: set[int], workers: int, chosen: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, to: kept.append(to))
    gunicorn = runpy.run_path(str(ROOT / "config/gunicorn.conf.py"))
    arbiter = SimpleNamespace(num_workers=workers, WORKERS={})
    for number in range(workers):
        worker = arbiter.WORKERS[number] = SimpleNamespace(place=0, processor=None)
        gunicorn["pre_fork"](arbiter, worker)
        gunicorn["post_fork"](arbiter, worker)
    assert [one.processor for one in arbiter.WORKERS.values()] == chosen
    assert kept == [{one} for one in chosen if one is not None]
    if chosen[0] is not None:  # one that is started for another takes its place
        del arbiter.WORKERS[0]
        late = SimpleNamespace(place=0, processor=None)
        gunicorn["pre_fork"](arbiter, late)
        assert late.processor == chosen[0]


# ---------------------------------------------------------------- single sign-on

SINGLE_SIGN_ON = {
    "OPENREMEDY_OIDC_ISSUER": "https://login.example.com/realm/",
    "OPENREMEDY_OIDC_CLIENT_ID": "openremedy",
    "OPENREMEDY_OIDC_CLIENT_SECRET": "a secret of the provider",
}


def test_single_sign_on_is_off_until_it_is_set(load: Load) -> None:
    settings = load()
    assert (settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret) == (None, None, None)
    assert settings.oidc_name == "single sign-on"


def test_single_sign_on_is_read_and_its_secret_is_not_shown(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret of the provider\n")
    environment = {name: text for name, text in SINGLE_SIGN_ON.items() if not name.endswith("SECRET")}
    settings = load(**environment, OPENREMEDY_OIDC_CLIENT_SECRET_FILE=str(file), OPENREMEDY_OIDC_NAME="Acme")
    assert settings.oidc_issuer == "https://login.example.com/realm/", "with its slash, as its tokens write it"
    assert (settings.oidc_client_id, settings.oidc_name) == ("openremedy", "Acme")
    assert settings.oidc_client_secret == "a secret of the provider"
    assert "a secret of the provider" not in repr(settings)


@pytest.mark.parametrize("name", SINGLE_SIGN_ON)
def test_single_sign_on_is_set_whole_or_not_at_all(load: Load, name: str) -> None:
    assert name in refusal(load, **SINGLE_SIGN_ON | {name: ""})
    others = set(SINGLE_SIGN_ON) - {name}
    message = refusal(load, **{name: SINGLE_SIGN_ON[name]})
    assert all(other in message for other in others)


@pytest.mark.parametrize("issuer", ["http://localhost:9000", "http://127.0.0.1:9000/realm", "http://[::1]:9000"])
def test_an_issuer_on_this_machine_needs_no_certificate(load: Load, issuer: str) -> None:
    assert load(**SINGLE_SIGN_ON | {"OPENREMEDY_OIDC_ISSUER": issuer}).oidc_issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "login.example.com",
        "https://user:pw@login.example.com",
        "https://user@login.example.com",
        "https://login.example.com/?tenant=1",
        "https://login.example.com/#realm",
        "https://login.example.com/a realm",
        f"https://login.example.com/{'a' * 255}",
    ],
)
def test_an_issuer_that_cannot_be_one_is_refused(load: Load, issuer: str) -> None:
    message = refusal(load, **SINGLE_SIGN_ON | {"OPENREMEDY_OIDC_ISSUER": issuer})
    assert message.startswith("OPENREMEDY_OIDC_ISSUER must look like https://")
    assert "pw" not in message


def test_what_the_button_says_is_short(load: Load) -> None:
    assert "60" in refusal(load, **SINGLE_SIGN_ON, OPENREMEDY_OIDC_NAME="a" * 61)
