"""What a platform team installs: the image's file, the compose file, the proxy's, and the page that tells of them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import load

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
OURS = ("migrate", "web", "worker", "scheduler")


def accepted(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def test_the_dockerfile_is_what_its_linter_wants() -> None:
    done = accepted("hadolint", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_would_say_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install python3\nCMD flask worker\n")
    assert accepted("hadolint", str(tmp_path / "Dockerfile")).returncode == 1


def test_the_compose_file_is_one() -> None:
    done = accepted("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_every_program_of_ours_runs_unprivileged_on_a_file_system_it_cannot_write(services: dict[str, Any]) -> None:
    for name in OURS:
        one = services[name]
        assert (one["read_only"], one["cap_drop"], one["tmpfs"]) == (True, ["ALL"], ["/tmp"])
        assert "no-new-privileges:true" in one["security_opt"]


def test_redis_drops_nothing_and_keeps_a_file(services: dict[str, Any]) -> None:
    words = " ".join(services["redis"]["command"])
    assert "--maxmemory-policy noeviction" in words
    assert "--appendonly yes" in words


def test_the_schema_is_there_before_anything_of_ours_starts(services: dict[str, Any]) -> None:
    for name in OURS[1:]:
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_only_the_proxy_can_be_reached_and_at_first_only_from_this_machine(services: dict[str, Any]) -> None:
    assert {name: one["ports"] for name, one in services.items() if "ports" in one} == {
        "nginx": ["${OPENREMEDY_LISTEN:-127.0.0.1:8000}:80"]
    }
    assert services["nginx"]["volumes"] == ["./deploy/nginx.conf:/etc/nginx/nginx.conf:ro"]


def test_the_secrets_of_the_page_are_ones_that_the_service_takes(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/install.md").read_text(), re.MULTILINE | re.DOTALL)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)
    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o077 == 0
    made = dict(line.split("=", 1) for line in file.read_text().splitlines())
    composed = {name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: made[found[1]], str(value))
                for name, value in services["web"]["environment"].items()}  # fmt: skip
    for name, value in (made | composed).items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.proxy_count, settings.public_url) == (1, "http://127.0.0.1:8000")
    assert settings.database_url.endswith(f"openremedy:{made['POSTGRES_PASSWORD']}@postgres:5432/openremedy")
