"""The script of our media type in Zabbix's own engine, against the real service: what becomes of incidents."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from leaks import watch
from services import PostgresServer, RedisServer, free_port, missing
from stack import Stack

FOLDER = Path(__file__).parent.parent / "adapters/zabbix"
((MEDIA,),) = [yaml.safe_load((FOLDER / "media_openremedy.yaml").read_text())["zabbix_export"]["media_types"]]
PARAMETERS = {one["name"]: one["value"] for one in MEDIA["parameters"]}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[Stack]:
    from conftest import ENCRYPTION_KEY, driver, make_settings, migrate

    folder = tmp_path_factory.mktemp("zabbix")
    url = postgres_server.create_database("zabbix_media")
    migrate(make_settings(folder, driver(url)))
    stack = Stack(folder, url, redis_server.url, ENCRYPTION_KEY)
    try:
        stack.create_tenant()
        stack.start("web")
        yield stack
    finally:
        stack.stop()


@dataclass(frozen=True)
class Zabbix:
    """A Zabbix server with our media type, as far as its messages go."""

    script: Path
    url: str
    token: str

    def send(self, values: dict[str, str], **changes: str) -> subprocess.CompletedProcess[str]:
        """One message: the parameters of the media type, with those macros resolved that are in `values`."""
        program = shutil.which("zabbix_js") or missing("zabbix_js", "apt-get install zabbix-server-pgsql")
        known = {name: str(value) for name, value in values.items() if name in PARAMETERS}
        now = {"local_now": f"{datetime.now(UTC):%Y.%m.%d %H:%M:%S}"} if known else {}
        told = PARAMETERS | known | now | {"url": self.url, "token": self.token} | changes
        return subprocess.run(
            [program, "-s", str(self.script), "-i", "-"],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def sent(self, fixture: str) -> dict[str, str]:
        """Send a message that must be taken, and return the tags that Zabbix adds to the problem."""
        done = self.send(values(fixture))
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.strip()).get("tags", {})
        return found


def values(fixture: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((FOLDER / f"fixtures/{fixture}.json").read_text("utf-8"))
    return found


@pytest.fixture
def zabbix(service: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Zabbix:
    """Each test has a source of its own, so that equal messages are other incidents."""
    source = service.flask("source", "add", "alice", "zabbix", "--name", request.node.name[:100])
    watch.learn(source["token"], "token of a source")
    script = tmp_path / "script.js"
    script.write_text(MEDIA["script"])
    return Zabbix(script, f"{service.url}/api/v1/webhooks/zabbix/alice", source["token"])


def incident_of(service: Stack, tags: dict[str, str]) -> Any:
    address, _, number = tags["__openremedy_link"].rpartition("/")
    assert address == f"{service.url}/t/alice/incidents"
    return service.get(f"/incidents/{number}")


def delivered(service: Stack) -> Any:
    newest = service.get("/deliveries", limit=1)["items"][0]
    return service.get(f"/deliveries/{newest['id']}")


def test_a_problem_is_opened_acknowledged_and_closed_with_it(service: Stack, zabbix: Zabbix) -> None:
    opened = zabbix.sent("v6_problem")
    incident = incident_of(service, opened)
    assert (incident["status"], incident["hostname"], incident["incident_type"], incident["severity"]) == (
        *("open", "db-01.example.com", "disk_full", "high"),
    )
    assert zabbix.sent("v6_problem_next_step") == opened
    assert incident_of(service, opened)["occurrences"] == 1
    assert zabbix.sent("v6_acknowledged") == opened
    assert zabbix.sent("v6_commented") == opened
    assert zabbix.sent("v6_severity") == opened
    incident = incident_of(service, opened)
    assert (incident["status"], incident["severity"]) == ("acknowledged", "critical")
    assert "only words" in json.dumps(incident["timeline"])
    assert zabbix.sent("v6_recovery") == opened
    incident = incident_of(service, opened)
    assert (incident["status"], incident["occurrences"]) == ("resolved", 1)
    assert incident["resolved_at"]


def test_who_closes_a_problem_closes_the_incident_and_the_recovery_changes_nothing(
    service: Stack, zabbix: Zabbix
) -> None:
    opened = zabbix.sent("v6_problem")
    assert zabbix.sent("v6_closed") == opened
    before = incident_of(service, opened)
    assert before["status"] == "resolved"
    zabbix.sent("v6_recovery")
    zabbix.sent("v6_a_word_after_the_end")
    assert incident_of(service, opened)["status"] == "resolved"
    assert incident_of(service, opened)["resolved_at"] == before["resolved_at"]


def test_an_acknowledgement_of_what_was_never_told_opens_it(service: Stack, zabbix: Zabbix) -> None:
    assert incident_of(service, zabbix.sent("v6_acknowledged"))["status"] == "acknowledged"


def test_the_test_button_is_answered_and_opens_nothing(service: Stack, zabbix: Zabbix) -> None:
    done = zabbix.send({})
    assert (done.returncode, done.stdout.strip()) == (0, "{}")
    assert [one["outcome"] for one in delivered(service)["alerts"]] == ["ignored"]


def test_every_parameter_arrives_as_it_is_and_the_credentials_do_not(service: Stack, zabbix: Zabbix) -> None:
    odd = {name: f'{name} "\\" \n\r\t </script> {{#$}} \u2028 ü 🔥' for name in PARAMETERS}
    odd |= {"http_proxy": "", "event_source": "0", "event_value": "1", "event_id": "9"}
    assert zabbix.send(odd).returncode == 0
    body = json.loads(delivered(service)["body"])
    told = {name: value for name, value in odd.items() if name not in ("url", "token", "http_proxy", "local_now")}
    assert {name: body[name] for name in told} == told
    assert set(body) == {*told, "schema", "sent_at", "local_now"}
    assert zabbix.token not in json.dumps(body)


def test_what_is_refused_is_an_error_that_says_why_and_not_the_token(zabbix: Zabbix) -> None:
    """Zabbix tries again after an error, and shows its text."""
    wrong = "ors_a-token-that-is-none"
    for changes, words in (
        ({"token": wrong}, "OpenRemedy answered 401: "),
        ({"url": zabbix.url.replace("/zabbix/", "/nothing/")}, "OpenRemedy answered 404: "),
        ({"url": zabbix.url.replace("/zabbix/", "/datadog/")}, "OpenRemedy answered 401: "),
        ({"url": f"http://127.0.0.1:{free_port()}/x"}, "cannot get URL"),
        ({"url": PARAMETERS["url"]}, "{$OPENREMEDY.URL}"),
        ({"url": "file:///etc/passwd"}, "{$OPENREMEDY.URL}"),
        ({"token": PARAMETERS["token"]}, "{$OPENREMEDY.TOKEN}"),
        ({"token": ""}, "{$OPENREMEDY.TOKEN}"),
    ):
        done = zabbix.send(values("v6_problem"), **changes)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert words in said, changes
        assert wrong not in said
        assert zabbix.token not in said
