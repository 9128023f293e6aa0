"""Special cases of Uptime Kuma; the contract and the golden files are in tests/test_adapters.py, what becomes of
incidents in tests/test_uptimekuma.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.uptimekuma import adapter
from openremedy.adapter import Alert, AlertStatus, Ignored, IncidentType, Translated, Translation, Unsupported, read

FIXTURES = Path(__file__).parent / "fixtures"
SHAPE = adapter.formats[0]


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))


def translated(body: Any) -> Translation:
    (one,) = read(SHAPE, json.dumps(body).encode(), "application/json", {}).translations
    return one


def alert_of(body: Any) -> Alert:
    found = translated(body)
    assert isinstance(found, Translated), found
    return found.alert


def monitor(**changes: Any) -> Any:
    body = fixture("v1_http_down")
    body["monitor"] |= {"tags": []} | changes
    return body


def test_a_repetition_differs_in_its_time_alone() -> None:
    first, again = alert_of(fixture("v2_http_down")), alert_of(fixture("v2_http_down_again"))
    assert (first.evidence, first.severity, first.dedup_key) == (again.evidence, again.severity, again.dedup_key)
    assert first.occurred_at != again.occurred_at


def test_only_the_test_button_is_a_test() -> None:
    def sent(text: str) -> Translation:
        return translated({"heartbeat": None, "monitor": None, "msg": text})

    assert isinstance(sent("My webhook (1) Testing"), Ignored)
    assert isinstance(sent(" Testing"), Ignored)
    assert isinstance(sent("Testing of the certificate failed"), Translated)
    down = monitor() | {"msg": "[Shop] [🔴 Down] Testing"}
    assert alert_of(down).status is AlertStatus.FIRING


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({"hostname": "db-01", "url": "https://other.example.com"}, "db-01"),
        ({"url": "https://user:secret@shop.example.com:8443/x"}, "shop.example.com"),
        ({"url": "https://", "grpcUrl": "grpc.example.com:50051"}, "grpc.example.com"),
        ({"url": "https://"}, "service:Shop front"),
        ({"url": "http://", "name": " "}, "unknown"),
    ],
)
def test_the_host_is_the_first_address_of_a_monitor(changes: dict[str, Any], host: str) -> None:
    assert alert_of(monitor(**changes) | {"msg": ""}).hostname == host


@pytest.mark.parametrize("kind", "http keyword json-query ping docker push dns mqtt postgres redis group new".split())
def test_a_monitor_of_any_type_that_is_down_is_a_service_that_is_down(kind: str) -> None:
    alert = alert_of(monitor(type=kind))
    assert alert.incident_type is IncidentType.SERVICE_DOWN
    assert alert.evidence["service_name"] == "Shop front"


def test_its_time_is_utc_wherever_the_server_is() -> None:
    body = fixture("v2_http_down")
    assert body["heartbeat"]["localDateTime"] == "2026-03-02 09:15:30"
    assert str(alert_of(body).occurred_at) == "2026-03-02 08:15:30.412000+00:00"


def test_a_body_of_something_else_is_refused_with_advice() -> None:
    for body in ({}, {"heartbeat": None, "monitor": None, "msg": " "}, {"text": "Shop is down"}):
        with pytest.raises(Unsupported, match="application/json"):
            SHAPE.unwrap(SHAPE.payload.load(body), {})
