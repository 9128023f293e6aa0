"""Amazon SNS: alarms of CloudWatch, and whatever else is published to a topic.

https://docs.aws.amazon.com/sns/latest/dg/sns-http-https-endpoint-as-subscriber.html
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from marshmallow import ValidationError, fields, validate

from adapters.sns import alarms
from adapters.sns.alarms import mapped, text_in
from adapters.sns.setup import HINTS, SETUP, SUMMARY, sample
from adapters.sns.signature import (
    CONFIRMATION,
    NOTIFICATION,
    SIGNED,
    TOPIC,
    confirmation_url,
    is_named,
    published,
    topic_of,
    topics_in,
)
from openremedy.adapter import (
    UNKNOWN_HOST,
    Adapter,
    Alert,
    AlertStatus,
    FollowUp,
    Format,
    Ignored,
    IncidentType,
    Mapped,
    Payload,
    Severity,
    Text,
    Translated,
    Translation,
    Unsupported,
    first_host,
    object_in,
    time_of,
)

ADVICE = (
    "This is not a message of Amazon SNS: it has no `Type` of SNS's own. Subscribe this address to the topic with the "
    "protocol HTTPS, and leave raw message delivery off."
)
STATES = {"ALARM": AlertStatus.FIRING, "INSUFFICIENT_DATA": AlertStatus.FIRING, "OK": AlertStatus.RESOLVED}
UNKNOWN_STATE = "INSUFFICIENT_DATA"
MAX_TITLE = 200
MAX_CHILDREN = 20
# Where other services of AWS name what their event is about, in the event or in its `detail`.
THINGS = (
    "Source ID",
    "EC2InstanceId",
    "instance-id",
    "instanceId",
    "hostname",
    "SourceIdentifier",
    "AutoScalingGroupName",
)


class Message(Payload):
    """What SNS posts."""

    type = Text(data_key="Type")
    topic = Text(data_key="TopicArn")
    message_id = Text(data_key="MessageId")
    subject = Text(data_key="Subject")
    message = Text(data_key="Message")
    timestamp = Text(data_key="Timestamp")
    token = Text(data_key="Token")


class Alarm(Payload):
    """What CloudWatch says in it."""

    name = Text(data_key="AlarmName")
    description = Text(data_key="AlarmDescription")
    arn = Text(data_key="AlarmArn")
    account = Text(data_key="AWSAccountId")
    region = Text(data_key="Region")
    state = Text(data_key="NewStateValue")
    before = Text(data_key="OldStateValue")
    reason = Text(data_key="NewStateReason")
    changed_at = Text(data_key="StateChangeTime")
    rule = Text(data_key="AlarmRule")
    children = fields.Raw(data_key="TriggeringChildren", load_default=None, allow_none=True)
    trigger = Mapped(data_key="Trigger")


def _check_topics(text: str) -> None:
    """Each is a topic's whole name: a wildcard or a part of one would let in somebody else's."""
    if wrong := sorted(arn for arn in topics_in(text) if topic_of(arn) is None):
        raise ValidationError(
            f"{wrong[0][:100]!r} is not the ARN of a topic, such as arn:aws:sns:eu-west-1:123456789012:alarms."
        )


class Options(Payload):
    """What an admin may choose for a source of this adapter."""

    topics = fields.String(
        load_default="",
        validate=_check_topics,
        metadata={
            "title": "Topics",
            "description": "The ARNs of the topics that may send, with commas between. No signature of another counts.",
        },
    )
    severity = fields.String(
        load_default=str(Severity.MEDIUM),
        validate=validate.OneOf([str(one) for one in Severity]),
        metadata={
            "title": "Severity",
            "description": "Of what does not say it with `severity: high` in its description or a word of its name.",
        },
    )


_ALARM, _OPTIONS = Alarm(), Options()


# ---------------------------------------------------------------- the envelope


def unwrap(payload: dict[str, Any], options: Mapping[str, Any]) -> Sequence[Any]:
    """The message with what the source says of it. Raises Unsupported.

    An alarm that has data again ends what its silence had opened, beside whatever else it says.
    """
    if payload["type"] not in SIGNED:
        raise Unsupported(ADVICE)
    entry = {"named": is_named(payload["topic"], options), "severity": _OPTIONS.load(dict(options))["severity"]}
    said = object_in(payload["message"].encode("utf-8", "replace")) if payload["type"] == NOTIFICATION else {}
    alarm = _ALARM.load(said) if _is_alarm(said) else None
    entry |= {"said": said, "alarm": alarm, "of_silence": bool(alarm and alarm["state"] == UNKNOWN_STATE)}
    back = alarm is not None and alarm["before"] == UNKNOWN_STATE != alarm["state"]
    return [entry, entry | {"of_silence": True}] if back else [entry]


def _is_alarm(said: Mapping[str, Any]) -> bool:
    return bool(text_in(said, "AlarmName") and text_in(said, "NewStateValue"))


def follow_up(payload: dict[str, Any], options: Mapping[str, Any]) -> FollowUp | None:
    """The confirmation that SNS asks for before it delivers, of a topic that an admin has named; else nothing."""
    topic = topic_of(payload["topic"])
    if topic is None or payload["type"] == NOTIFICATION or not is_named(payload["topic"], options):
        return None
    subject = f"The subscription to {topic.arn}"
    if payload["type"] == CONFIRMATION:
        url = confirmation_url(topic, payload["token"])
        return FollowUp(subject, url) if url else None
    return FollowUp(subject, words="Somebody has ended it, and nothing comes from this topic any more.")


# ---------------------------------------------------------------- one message


def translate(entry: dict[str, Any], payload: dict[str, Any]) -> Translation:
    """What a message is: a question of SNS, an alarm, or anything else, which somebody has published for a reason."""
    if payload["type"] == CONFIRMATION:
        return Ignored(_about_confirmation(entry, payload))
    if payload["type"] != NOTIFICATION:
        return Ignored(
            "SNS says that the subscription was ended. Nothing is done about it; subscribe again if it was not you."
        )
    if entry["alarm"] is None:
        return _other(entry, payload)
    return _silence(entry, payload) if entry["of_silence"] else _alarm(entry, payload)


def _about_confirmation(entry: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
    topic = topic_of(payload["topic"])
    if not entry["named"]:
        return (
            "The subscription is not confirmed: its topic is not among the topics of this source. Name it there, then "
            "let SNS ask again (Request confirmation)."
        )
    if topic is None or not confirmation_url(topic, payload["token"]):
        return "The subscription cannot be confirmed: the token in it is none that SNS makes."
    return "SNS asks whether this address wants to be subscribed; a worker confirms it."


def _alarm(entry: Mapping[str, Any], payload: Mapping[str, Any]) -> Translated:
    alarm = entry["alarm"]
    what = alarms.measured(alarm["trigger"])
    found = alarms.incident_type(alarm["name"], alarm["description"], alarm["trigger"], what)
    # Missing data that counts as breaching: nobody has measured that a disk is full.
    no_data = alarms.NOTHING_CAME in alarm["reason"]
    if no_data and found is not IncidentType.SERVICE_DOWN:
        found = IncidentType.CUSTOM
    status = STATES.get(alarm["state"], AlertStatus.FIRING)
    more = {"no_data": no_data} | alarms.things(found, what.dimensions)
    return _translated(entry, payload, status, found, more, _key(alarm, payload))


def _silence(entry: Mapping[str, Any], payload: Mapping[str, Any]) -> Translated:
    """That CloudWatch does not know. Unknown is neither well nor a busy processor: it is an incident of its own."""
    silent = entry["alarm"]["state"] == UNKNOWN_STATE
    status = AlertStatus.FIRING if silent else AlertStatus.RESOLVED
    key = f"{_key(entry['alarm'], payload)}:no_data"
    return _translated(entry, payload, status, IncidentType.CUSTOM, {"no_data": silent}, key)


def _key(alarm: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
    """An alarm has one name in its account and region, and may notify several topics."""
    topic = topic_of(payload["topic"])
    account = alarm["account"] or (topic.account if topic else "")
    return f"{account}:{topic.region if topic else alarm['region']}:{alarm['name']}"


def _translated(
    entry: Mapping[str, Any],
    payload: Mapping[str, Any],
    status: AlertStatus,
    found: IncidentType,
    more: Mapping[str, Any],
    key: str,
) -> Translated:
    alarm = entry["alarm"]
    what = alarms.measured(alarm["trigger"])
    hostname, dimension = alarms.host(what.dimensions)
    severity = alarms.severity(alarm["name"], alarm["description"])
    alert = Alert(
        hostname=hostname or UNKNOWN_HOST,
        incident_type=found,
        severity=severity or Severity(entry["severity"]),
        evidence=_present(_evidence(alarm, payload, what) | {"hostname_source": dimension, **more}),
        status=status,
        dedup_key=key,
        occurred_at=_time(alarm["changed_at"]) or time_of(payload["timestamp"]),
    )
    return Translated(alert, severity_told=severity is not None)


def _evidence(alarm: Mapping[str, Any], payload: Mapping[str, Any], what: alarms.Measured) -> dict[str, Any]:
    """What an engineer looks at."""
    trigger, topic = alarm["trigger"], topic_of(payload["topic"])
    return {
        "title": payload["subject"] or alarm["name"],
        "alarm_name": alarm["name"],
        "alarm_description": alarm["description"],
        "state": alarm["state"],
        "previous_state": alarm["before"],
        "reason": alarm["reason"],
        "namespace": what.namespace,
        "metric_name": what.metric,
        "dimensions": dict(what.dimensions),
        "expression": what.expression,
        **{name: text_in(trigger, key) for name, key in TRIGGER.items()},
        "alarm_rule": alarm["rule"],
        "triggering_children": _children(alarm["children"]),
        "account": alarm["account"],
        "region": alarm["region"],
        "alarm_arn": alarm["arn"],
        "topic": payload["topic"],
        "link": alarms.link(topic.region, topic.partition, alarm["name"]) if topic else "",
    }


TRIGGER = {
    "statistic": "Statistic",
    "comparison": "ComparisonOperator",
    "threshold": "Threshold",
    "period": "Period",
    "evaluation_periods": "EvaluationPeriods",
    "unit": "Unit",
}


def _children(value: Any) -> list[str]:
    """The alarms that have set off a composite one, by name."""
    found = [text_in(one, "Arn") for one in value[:MAX_CHILDREN]] if isinstance(value, list) else []
    return [arn.rpartition(":alarm:")[2] for arn in found if arn]


def _other(entry: Mapping[str, Any], payload: Mapping[str, Any]) -> Translated:
    """What no alarm has published: a text, or an event of another service. Each is an incident; none says its end."""
    said = entry["said"]
    text = "" if said else payload["message"]
    title = (
        payload["subject"] or text_in(said, "detail-type", "Event Message", "Event") or text.strip().partition("\n")[0]
    )
    named = (text_in(part, name) for part in (said, mapped(said.get("detail"))) for name in THINGS)
    evidence = {
        "title": title[:MAX_TITLE] or "A message of Amazon SNS",
        "message": text,
        "event": said,
        "topic": payload["topic"],
    }
    alert = Alert(
        hostname=first_host(named) or UNKNOWN_HOST,
        incident_type=IncidentType.CUSTOM,
        severity=Severity(entry["severity"]),
        evidence=_present(evidence),
        dedup_key=f"message:{payload['message_id']}" if payload["message_id"] else None,
        occurred_at=time_of(payload["timestamp"]),
    )
    return Translated(alert, severity_told=False)


def _present(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value}


def _time(text: str) -> datetime | None:
    """CloudWatch writes the offset without a colon: 2019-05-13T08:41:43.548+0000."""
    return time_of(re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text[:64]))


adapter = Adapter(
    name="sns",
    title="Amazon SNS",
    formats=(Format(payload=Message(), unwrap=unwrap, translate=translate, follow_up=follow_up, advice=ADVICE),),
    retries_429=True,
    published=published,
    kept_headers=("X-Amz-Sns-Message-Type", "X-Amz-Sns-Message-Id", TOPIC),
    options=Options(),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
