"""deploy/systemd: the units are what systemd understands, shut up tightly, and what they say of the programs is so.

That they run is what `make units-check` looks at, on a systemd that it boots.
"""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config import Settings, load
from openremedy.services import JOB_MARGIN
from services import missing

ROOT = Path(__file__).parent.parent
DEPLOYED = ROOT / "deploy/systemd"
UNITS = sorted(path.name for path in DEPLOYED.glob("*.service"))
SHARED = "# The same in each unit, to its end."
EXPOSED = 20  # tenths, of 100: "OK" is what systemd calls it

Directives = dict[str, list[str]]


def directives(name: str) -> Directives:
    """All that a unit sets, in order."""
    found: Directives = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (DEPLOYED / name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> int:
    (number,) = re.findall(r"^(\d+)s$", text)
    return int(number)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The units as they would be if the release were here: systemd looks whether the programs are there."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze", "the units of deploy/systemd; on Debian and Ubuntu: apt-get install systemd")
    for path in [*DEPLOYED.glob("*.service"), *DEPLOYED.glob("*.target")]:
        text = path.read_text().replace("/opt/openremedy/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / path.name.replace("@.", "@1.")).write_text(text.replace("/opt/openremedy", str(ROOT)))
    return tmp_path


def analyze(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    units = [f"./{path.name}" for path in sorted(here.iterdir())]
    return subprocess.run(["systemd-analyze", *words, *units], cwd=here, capture_output=True, text=True, check=False)


def test_systemd_has_nothing_to_say_about_the_units(here: Path) -> None:
    done = analyze(here, "verify", "--man=no")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("was", "wrong"), [("Restart=", "Restrat="), ("@system-service", "@system-servant")])
def test_systemd_would_say_something(here: Path, was: str, wrong: str) -> None:
    unit = here / "openremedy-web.service"
    unit.write_text(unit.read_text().replace(was, wrong))
    assert wrong.rstrip("=") in analyze(here, "verify", "--man=no").stderr


def test_the_units_are_shut_up_tightly(here: Path) -> None:
    (here / "openremedy.target").unlink()
    done = analyze(here, "security", "--offline=true", f"--threshold={EXPOSED}", "--no-pager")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Overall exposure level") == len(UNITS) == 4


def test_an_open_unit_would_be_found(here: Path) -> None:
    unit = here / "openremedy-web.service"
    unit.write_text(re.sub(r"^(Protect|Restrict|System)\w+=.*\n", "", unit.read_text(), flags=re.MULTILINE))
    (here / "openremedy.target").unlink()
    assert analyze(here, "security", "--offline=true", f"--threshold={EXPOSED}", "--no-pager").returncode == 1


def test_all_units_have_the_same_account_the_same_secrets_and_the_same_walls() -> None:
    assert len({(DEPLOYED / name).read_text().partition(SHARED)[2] for name in UNITS}) == 1
    assert all(SHARED in (DEPLOYED / name).read_text() for name in UNITS)


def test_the_commands_are_those_of_the_image() -> None:
    (image,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    web = re.sub(r"--bind \S+:", "--bind 127.0.0.1:", " ".join(re.findall(r'"(.*?)"', image)))  # behind a proxy there
    programs = {name: directives(name)["ExecStart"][0].removeprefix("/opt/openremedy/.venv/bin/") for name in UNITS}
    assert programs == {
        "openremedy-migrate.service": "flask db upgrade",
        "openremedy-scheduler.service": "flask scheduler",
        "openremedy-web.service": web,
        "openremedy-worker@.service": "flask worker",
    }


def test_a_stop_waits_longer_than_the_work_in_hand_may_take() -> None:
    gunicorn = runpy.run_path(str(ROOT / "config/gunicorn.conf.py"))
    stops = {name: seconds(directives(name)["TimeoutStopSec"][0]) for name in UNITS if "migrate" not in name}
    assert stops["openremedy-web.service"] > gunicorn["graceful_timeout"]
    assert stops["openremedy-worker@.service"] > Settings.llm_timeout + JOB_MARGIN
    assert len(stops) == 3


def test_the_schema_comes_first_and_nothing_gives_up() -> None:
    for name in UNITS:
        found = directives(name)
        assert (found["Restart"], found["StartLimitIntervalSec"]) == (["on-failure"], ["0"])
        if "migrate" not in name:
            assert "openremedy-migrate.service" in found["After"][0].split()
            assert found["PartOf"] == ["openremedy.target"]


def test_the_settings_of_the_example_and_the_secrets_are_ones_that_the_service_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/install.md").read_text(), re.MULTILINE | re.DOTALL)
    made = block.partition("cd /opt")[0].replace("/etc/openremedy", str(tmp_path))
    subprocess.run(["bash", "-euc", made], check=True)
    found = directives("openremedy-web.service")
    assert len(found["LoadCredential"]) == len([*(tmp_path / "secrets").iterdir()]) == 3
    for credential in found["LoadCredential"]:
        name, _, path = credential.partition(":")
        assert path == f"/etc/openremedy/secrets/{name}"
        assert (tmp_path / "secrets" / name).stat().st_mode & 0o077 == 0
    for setting in " ".join(found["Environment"]).replace("%d", str(tmp_path / "secrets")).split():
        monkeypatch.setenv(*setting.split("=", 1))
    for name, value in re.findall(r"^#?([A-Z_]+)=(.*)$", (DEPLOYED / "openremedy.env").read_text(), re.MULTILINE):
        assert f"| `{name}` |" in (ROOT / "docs/settings.md").read_text()
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.database_url.endswith("@127.0.0.1:5432/openremedy")
    assert (settings.public_url, settings.proxy_count) == ("https://alerts.example.com", 1)
    assert settings.model_enabled


def test_a_command_finds_the_settings_and_secrets_of_the_units(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "openremedy.db")
    (block,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/install.md").read_text(), re.MULTILINE | re.DOTALL)
    made = block.partition("cd /opt")[0].replace("/etc/openremedy", str(tmp_path))
    subprocess.run(["bash", "-euc", made], check=True)
    (tmp_path / "secrets/database-url").write_text(f"sqlite:///{tmp_path}/openremedy.db\n")
    shutil.copy(DEPLOYED / "openremedy.env", tmp_path)
    script = (DEPLOYED / "openremedy-flask").read_text().replace("/etc/openremedy", str(tmp_path))
    script = script.replace(".venv/bin/flask", str(Path(sys.executable).parent / "flask"))
    (tmp_path / "command").write_text(script.replace("/opt/openremedy", str(ROOT)))
    words = ["sh", str(tmp_path / "command"), "source", "list", "nobody"]
    environment = {"PATH": "/usr/bin:/bin", "OPENREMEDY_DATA_DIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: There is no tenant 'nobody'.\n")
