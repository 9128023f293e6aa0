"""Adapters are found, checked and named: in their folders, and in packages that others ship."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import requests
from flask import Flask

from openremedy import registry
from openremedy.registry import AdapterError, discover
from stack import Stack

ROOT = Path(__file__).parent.parent
GOOD = """
from openremedy.adapter import Adapter, Format, Ignored, Items, Payload

class Body(Payload):
    alerts = Items()

adapter = Adapter("{name}", "Title", (Format(Body(), lambda alert, payload: Ignored("no")),))
"""
Package = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Makes a package of adapters out of the text of each folder's __init__."""
    name = f"adapters_of_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**folders: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        for folder, text in folders.items():
            (tmp_path / name / folder).mkdir()
            (tmp_path / name / folder / "__init__.py").write_text(text)
        importlib.invalidate_caches()
        return name

    yield make
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def entry_points(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)


def test_it_finds_the_four_that_come_with_us() -> None:
    assert {"alertmanager", "grafana", "datadog", "pagerduty", "uptimekuma", "zabbix"} <= set(discover())


def test_every_folder_is_an_adapter(package: Package) -> None:
    name = package(one=GOOD.format(name="one"), two=GOOD.format(name="two"))
    assert list(discover(name)) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("adapter = 'text'", "is a str, not an openremedy.adapter.Adapter"),
        ("", "has no attribute 'adapter'"),
        (GOOD.format(name="other"), "calls itself 'other'; its name must be 'broken'"),
        ("syntax error", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_a_failing_adapter_fails_the_start_with_its_name(package: Package, text: str, words: str) -> None:
    with pytest.raises(AdapterError) as error:
        discover(package(broken=text))
    assert ".broken" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["alerts", "Upper", "a" * 64])
def test_a_name_that_cannot_be_in_the_url_is_refused(package: Package, name: str) -> None:
    with pytest.raises(AdapterError, match="cannot be a name"):
        discover(package(**{name: GOOD.format(name=name)}))


def test_a_package_may_not_take_the_name_of_another(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    name = package(one=GOOD.format(name="one"))
    entry_points(monkeypatch, ("one", f"{name}.one:adapter"))
    with pytest.raises(AdapterError, match="there is an adapter 'one' already"):
        discover(name)


def test_an_entry_point_that_cannot_be_loaded_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, ("gone", "no_such_package:adapter"))
    with pytest.raises(AdapterError, match="gone"):
        discover()


def test_the_service_does_not_start_without_one_of_its_adapters(tmp_path: Path) -> None:
    broken = tmp_path / "openremedy_broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: openremedy-broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[openremedy.adapters]\nbroken = no_such_package:adapter\n")
    done = subprocess.run(
        [sys.executable, "-c", "import wsgi"],
        cwd=ROOT,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path), "OPENREMEDY_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("OpenRemedy cannot start: adapter entry point broken")


# ---------------------------------------------------------------- a fifth adapter, by somebody else


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/packages/openremedy-nagios, built and installed by pip as any other package."""
    place = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "openremedy-nagios"
    subprocess.run(["cp", "-r", str(ROOT / "tests/packages/openremedy-nagios"), str(source)], check=True)
    words = "install --quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check --target".split()
    subprocess.run([sys.executable, "-m", "pip", *words, str(place), str(source)], check=True, capture_output=True)
    return place


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_fifth_adapter_is_one_package_and_nothing_else(stack: Stack, installed: Path) -> None:
    stack.environment["PYTHONPATH"] = str(installed)
    (source,) = stack.create_tenant("nagios")
    assert source["url"].endswith("/api/v1/webhooks/nagios/alice")
    stack.start("web")
    url = f"{stack.url}/api/v1/webhooks/nagios/alice"
    headers = {"X-OpenRemedy-Token": source["token"]}
    body = {
        "host": "db-1",
        "service": "disk space low",
        "state": "CRITICAL",
        "output": "3 % left",
        "time": "1772439330",
    }
    sent = [requests.post(url, json=one, headers=headers, timeout=10) for one in (body, body | {"state": "OK"})]
    assert [one.json()["alerts"][0]["outcome"] for one in sent] == ["created", "resolved"]
    (incident,) = stack.incidents()
    assert (incident["hostname"], incident["incident_type"], incident["severity"]) == ("db-1", "disk_full", "critical")
    assert incident["source"] == "nagios"
    wrong = requests.post(url, json={"a": 1}, headers=headers, timeout=10)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "unsupported_envelope")
    assert requests.post(url, json=body, timeout=10).status_code == 401


def test_without_the_package_there_is_no_such_endpoint(app: Flask) -> None:
    assert app.test_client().post("/api/v1/webhooks/nagios/alice", json={}).status_code == 404
