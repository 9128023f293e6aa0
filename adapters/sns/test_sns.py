"""What is special about Amazon SNS; its fixtures go through the contract that all adapters share.

Its signatures and subscriptions are tested at the door: tests/test_signed_topics.py.
"""

import json
from typing import Any

import pytest

from adapters.sns import adapter
from adapters.sns.signature import confirmation_url, topic_of
from openremedy.adapter import Alert, Translated

TOPIC = "arn:aws:sns:eu-central-1:210987654321:oncall"
TRIGGER = {
    "MetricName": "CPUUtilization",
    "Namespace": "AWS/EC2",
    "Dimensions": [{"name": "InstanceId", "value": "i-0a1b2c3d4e5f60718"}],
    "ComparisonOperator": "GreaterThanThreshold",
}
ALARM = {"AlarmName": "shop-web-cpu", "NewStateValue": "ALARM", "Trigger": TRIGGER}


def alert(message: str, **options: Any) -> Alert:
    """What a message becomes that says no more than one thing."""
    shape = adapter.formats[0]
    payload = shape.payload.load({"Type": "Notification", "TopicArn": TOPIC, "Message": message, "Subject": "Look"})
    (entry,) = shape.unwrap(payload, options)
    found = shape.translate(entry, payload)
    assert isinstance(found, Translated)
    return found.alert


@pytest.mark.parametrize(
    ("metric", "comparison", "expected"),
    [
        ("CPUUtilization", "GreaterThanThreshold", "cpu_high"),
        ("CPUUtilization", "LessThanThreshold", "custom"),
        ("cpu_usage_idle", "LessThanThreshold", "cpu_high"),
        ("mem_used_percent", "GreaterThanOrEqualToThreshold", "memory_high"),
        ("FreeableMemory", "LessThanThreshold", "memory_high"),
        ("FreeableMemory", "GreaterThanThreshold", "custom"),
        ("FreeStorageSpace", "LessThanThreshold", "disk_full"),
        ("LogicalDisk % Free Space", "LessThanThreshold", "disk_full"),
        ("StatusCheckFailed_System", "GreaterThanThreshold", "service_down"),
        ("HealthyHostCount", "LessThanThreshold", "service_down"),
        ("CPUUtilization", "LessThanLowerOrGreaterThanUpperThreshold", "cpu_high"),
        ("CPUCreditBalance", "LessThanThreshold", "custom"),
        ("DiskReadOps", "GreaterThanThreshold", "custom"),
        ("Latency", "GreaterThanThreshold", "custom"),
    ],
)
def test_a_metric_tells_what_broke_if_it_went_the_bad_way(metric: str, comparison: str, expected: str) -> None:
    trigger = TRIGGER | {"MetricName": metric, "ComparisonOperator": comparison}
    assert alert(json.dumps(ALARM | {"AlarmName": "shop", "Trigger": trigger})).incident_type == expected


@pytest.mark.parametrize(
    ("name", "description", "expected"),
    [
        ("HighCPU", "", "low"),
        ("web-critical", "", "critical"),
        ("[P2] web", "", "high"),
        ("web-critical", "severity: info", "info"),
        ("web", "Look at it.\nPriority = P1", "critical"),
        ("web", "severity: whatever", "low"),
        ("low-disk", "The severity of it", "low"),
    ],
)
def test_an_alarm_says_how_bad_it_is_in_its_description_or_its_name(name: str, description: str, expected: str) -> None:
    said = json.dumps(ALARM | {"AlarmName": name, "AlarmDescription": description})
    assert alert(said, severity="low").severity == expected


@pytest.mark.parametrize(
    "message",
    ["", "plain", "{", "[]", '"ALARM"', "{}", '{"AlarmName": "x"}', '{"AlarmName": 1, "AlarmName": 2}', "\ud800"],
)
def test_whatever_is_no_alarm_is_an_incident_all_the_same(message: str) -> None:
    found = alert(message)
    assert (found.incident_type, found.evidence["title"]) == ("custom", "Look")


def test_a_token_brings_no_parameter_and_no_host_of_its_own() -> None:
    topic = topic_of(TOPIC)
    assert topic
    for token in ("", "a&Action=Publish", "a#", "a b", "../x", "a\n", "ä", "a" * 1025):
        assert confirmation_url(topic, token) == "", token
    assert confirmation_url(topic, "aB9_-=").startswith(
        "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&"
    )
