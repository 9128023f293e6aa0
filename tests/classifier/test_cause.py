from typing import Any

import pytest

from openremedy.classifier.cause import blur, cause_of
from tests.classifier.examples import subject


def cause(evidence: dict[str, Any], **changes: Any) -> str:
    return cause_of(subject(evidence, **{"incident_type": "custom", **changes}))


def test_a_cause_is_a_sha256() -> None:
    assert len(cause({})) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("High load on db-01", "High load on db-02"),
        ("db1.example.com is slow", "db7.eu.example.com is slow"),
        ("10.0.0.1 lost 3 packets", "192.168.1.77 lost 12 packets"),
        ("no route to fe80::1", "no route to 2001:db8::42"),
        ("Disk 91.5% full", "Disk 99% full"),
        ("HIGH LOAD", "high load"),
    ],
)
def test_hosts_and_numbers_do_not_change_a_cause(one: str, other: str) -> None:
    assert cause({"title": one}) == cause({"title": other})


def test_the_own_hostname_does_not_change_a_cause() -> None:
    one = cause({"title": "frontend lost its disk"}, hostname="frontend.example.com")
    other = cause({"title": "backend lost its disk"}, hostname="backend")
    assert one == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"title": "nginx.service failed"}, {"title": "mysql.service failed"}),
        ({"title": "app.conf is broken"}, {"title": "db.conf is broken"}),
        ({"alertname": "A"}, {"alertname": "B"}),
        ({"alertname": "A"}, {"rule": "A"}),
        ({"mount": "/"}, {"mount": "/var"}),
        ({"service_name": "a"}, {"service_name": "b"}),
        ({"service": "a"}, {"service": "b"}),
        ({"port": 80}, {"port": 81}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 1}),
    ],
)
def test_another_thing_is_another_cause(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert cause(one) != cause(other)


def test_type_and_adapter_are_part_of_the_cause() -> None:
    assert len({cause({}), cause({}, incident_type="cpu_high"), cause({}, adapter="grafana")}) == 3


def test_values_order_severity_and_host_are_not_part_of_the_cause() -> None:
    assert cause({"a": 1, "b": 2}) == cause({"b": 9, "a": 9}, severity="low", hostname="other")


def test_the_first_name_present_counts() -> None:
    assert cause({"alertname": "A", "title": "x"}) == cause({"alertname": "A", "title": "y"})
    assert cause({"alertname": "", "title": "x"}) != cause({"alertname": "", "title": "y"})


def test_it_stands_strange_values() -> None:
    assert cause({"monitor": {"id": 7}, "port": [1], "mount": None}) != cause({"monitor": {"name": "x"}})


def test_blur_keeps_the_words() -> None:
    assert blur("Disk on web-01.example.com (10.0.0.1:9100) is 93.5% full", "web-01.example.com") == (
        "disk on <host> (<host>:<n>) is <n>% full"
    )
