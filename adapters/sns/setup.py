"""What the page of a source of Amazon SNS says and shows."""

import json
from datetime import datetime, timedelta
from typing import Any

from openremedy.adapter import SetupStep

SUMMARY = "CloudWatch alarms by way of Amazon SNS, which signs what it delivers; and whatever else a topic is told."
SETUP = (
    SetupStep(
        "Name the topic here",
        "In the settings of this source, under Topics, put the ARN of the topic, as the SNS console shows it under "
        "Topics. Several have commas between them. Nothing is taken from a topic that is not named, and no "
        "subscription of one is confirmed.",
        "arn:aws:sns:eu-west-1:123456789012:alarms",
    ),
    SetupStep(
        "Subscribe this address to the topic",
        "In the SNS console: the topic, Create subscription, Protocol HTTPS, and this Endpoint. Leave Enable raw "
        "message delivery off: what is raw is not signed. A worker confirms the subscription by itself; the checklist "
        "tells when.",
        "{url}",
    ),
    SetupStep(
        "Or: subscribe it from the command line",
        "With the AWS CLI, in the region of the topic.",
        "aws sns subscribe --topic-arn arn:aws:sns:eu-west-1:123456789012:alarms --protocol https "
        "--notification-endpoint {url}",
    ),
    SetupStep(
        "Let each alarm notify the topic in all states",
        "In CloudWatch, Alarms, the alarm, Actions: add the notification for In alarm and for OK, without which no "
        "incident ends by itself, and for Insufficient data if silence is to be an incident of its own.",
    ),
    SetupStep(
        "Sign with SHA256",
        "A topic signs with SHA1 until it is told otherwise. Both are taken.",
        "aws sns set-topic-attributes --topic-arn arn:aws:sns:eu-west-1:123456789012:alarms "
        "--attribute-name SignatureVersion --attribute-value 2",
    ),
    SetupStep(
        "Or: the token, where a proxy changes bodies on their way",
        "Then no signature can be right. Make it the password in the Endpoint of the subscription; SNS is refused "
        "once before it sends it.",
        "{scheme}://openremedy:{token}@{host}{path}",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Is the topic named in the settings, and this address subscribed to it? In the "
    "SNS console, Request confirmation asks us again.",
    "host": "No alarm so far names its host. Alarms on a metric with a dimension such as InstanceId do.",
    "type": "Every alarm so far is of the type custom. Write incident_type: disk_full into its description.",
    "severity": "No alarm so far says how bad it is. Write severity: high into its description, or choose one for all "
    "of them in the settings.",
    "recovery": "No alarm has gone back to OK yet. Does it notify the topic for OK as well?",
}
TEST_TOPIC = "arn:aws:sns:us-east-1:000000000000:openremedy-test"


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A notification of an alarm."""
    number = int(at.timestamp() * 1_000_000)
    moment = at + timedelta(seconds=ended)
    name = f"openremedy-test-{number}"
    states = ("ALARM", "OK") if ended else ("OK", "ALARM")
    alarm = {
        "AlarmName": name,
        "AlarmDescription": "A test alert of OpenRemedy. severity: high",
        "AWSAccountId": "000000000000",
        "OldStateValue": states[0],
        "NewStateValue": states[1],
        "NewStateReason": "Threshold Crossed: 1 datapoint was greater than the threshold (90.0).",
        "StateChangeTime": moment.isoformat(),
        "Region": "US East (N. Virginia)",
        "Trigger": {
            "MetricName": "disk_used_percent",
            "Namespace": "CWAgent",
            "Dimensions": [{"name": "host", "value": hostname}, {"name": "path", "value": "/"}],
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": 90.0,
        },
    }
    return {
        "Type": "Notification",
        "MessageId": f"openremedy-{number}-{int(ended)}",
        "TopicArn": TEST_TOPIC,
        "Subject": f'{states[1]}: "{name}" in US East (N. Virginia)',
        "Message": json.dumps(alarm),
        "Timestamp": moment.isoformat(),
    }
