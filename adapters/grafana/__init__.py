"""Grafana 8 and newer (unified alerting), and minimally the legacy alerting of before.

Grafana 10 and newer: https://grafana.com/docs/grafana/v13.0/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/
Grafana 8 and 9, without `values`: https://grafana.com/docs/grafana/v9.3/alerting/manage-notifications/webhook-notifier/
Legacy alerting: https://grafana.com/docs/grafana/v7.5/alerting/notifications/#webhook
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from adapters.grafana.setup import HINTS, SETUP, SUMMARY, sample
from openremedy.adapter import (
    THINGS_OF,
    UNKNOWN_HOST,
    Adapter,
    Alert,
    AlertStatus,
    Format,
    Ignored,
    IncidentType,
    Mapped,
    Payload,
    Severity,
    Text,
    Texts,
    Translated,
    Translation,
    Unsupported,
    count_of,
    fingerprint,
    first_host,
    host_labels,
    incident_type_of,
    is_heartbeat,
    left_out,
    port_of,
    said_type,
    severity_of,
    text_of,
    time_of,
)

Names = Mapping[str, str]  # labels or annotations

STATUSES = {"firing": AlertStatus.FIRING, "resolved": AlertStatus.RESOLVED}
LEGACY_STATES = {"alerting": "firing", "no_data": "firing", "ok": "resolved"}
LEGACY_SILENT = ("paused", "pending")
# Grafana's own alerts about a rule that measured nothing; the rule's name is then in the label `rulename`.
# https://grafana.com/docs/grafana/v13.0/alerting/fundamentals/alert-rule-evaluation/nodata-and-error-states/
NOTHING_MEASURED = {"DatasourceNoData": "NoData", "DatasourceError": "Error"}
# Names of labels are looked up in lower case: SQL data sources make labels of columns, however these are written.
HOST_NAMES = "hostname instance node nodename host host_name host.name server vm machine pod".split()
SEVERITY_NAMES = ("severity", "priority", "level")
# The labels that it is found in, which tells one thing of a host from another.
THINGS = {
    "mount": ("mountpoint", "mount", "mount_point", "volume", "path"),
    "service_name": ("service_name", "unit", "name", "service"),
    "port": ("port",),
}
SAID_ELSEWHERE = ("summary", "description", "runbook_url", "grafana_state_reason")
EXPRESSIONS = ("expr", "expression", "query")
TOLD = ("summary", "description", "message")
TESTED = "Test notification received: this source is connected. Real alerts will open incidents."
# What the Test button of legacy alerting says; the name of its rule and its number differ by version.
LEGACY_TEST = "someone is testing the alert notification within grafana"
NO_VALUE = ("", "<no value>", "[no value]")  # what a template makes of a label that is not there
ADVICE = (
    "This is not Grafana's own notification: there is no list `alerts` in it. Remove the custom payload "
    "(`payload`, Payload Template) from the contact point; no template is needed."
)


# ---------------------------------------------------------------- shapes


class Notification(Payload):
    """The envelope of a webhook; below, the fields of legacy alerting, whose body is one alert."""

    alerts = fields.Raw(load_default=None, allow_none=True)
    org_id = Text(data_key="orgId")
    truncated = Text(data_key="truncatedAlerts")

    rule_id = Text(data_key="ruleId")
    rule_name = Text(data_key="ruleName")
    rule_url = Text(data_key="ruleUrl")
    state = Text()
    message = Text()
    tags = Texts()
    eval_matches = fields.Raw(data_key="evalMatches", load_default=None, allow_none=True)


class Entry(Payload):
    """One alert. What changes from one notification to the next is left out: silenceURL, imageURL, embeddedImage."""

    status = Text()
    labels = Texts()
    annotations = Texts()
    starts_at = Text(data_key="startsAt")
    ends_at = Text(data_key="endsAt")
    generator_url = Text(data_key="generatorURL")
    dashboard_url = Text(data_key="dashboardURL")
    panel_url = Text(data_key="panelURL")
    fingerprint = Text()
    rule_uid = Text(data_key="ruleUID")
    org_id = Text(data_key="orgId")
    values = Mapped()
    value_string = Text(data_key="valueString")


ENTRY = Entry()


def unwrap(payload: dict[str, Any], _options: Mapping[str, Any]) -> Sequence[Any]:
    """The alerts of a notification; a legacy one is its only alert."""
    alerts = payload["alerts"]
    if isinstance(alerts, list):
        return alerts
    if alerts is None and (payload["rule_id"] or payload["rule_name"]):
        return [payload]
    raise Unsupported(ADVICE)


# ---------------------------------------------------------------- alerts


def translate(entry: dict[str, Any], payload: dict[str, Any]) -> Translation:
    """One alert: its own status decides, never that of the group."""
    if payload["alerts"] is None:
        return _legacy(payload)
    status = STATUSES.get(entry["status"].strip().lower(), AlertStatus.FIRING)
    if _is_test(entry):
        return Ignored(TESTED)
    if is_heartbeat(entry["labels"].get("alertname", "")):
        return Ignored("Heartbeat of this source, not an incident.", beat=status is AlertStatus.FIRING)
    org = entry["org_id"] or payload["org_id"]
    # Without fingerprint and labels the texts are all that tells two alerts apart.
    key = entry["fingerprint"] or fingerprint(entry["labels"] or entry["annotations"])
    more = {"org_id": org, "truncated_alerts": count_of(payload["truncated"])}
    measured = _measured(entry["value_string"])
    return _translated(_alert(entry, status, f"{org}:{key}" if org else key, measured, more), entry)


def _legacy(payload: Mapping[str, Any]) -> Translation:
    """The alert of a legacy rule: one for all of its series, without a time of its own."""
    state, matches = payload["state"].strip().lower(), payload["eval_matches"]
    if payload["message"].lower().startswith(LEGACY_TEST):
        return Ignored(TESTED)
    if state in LEGACY_SILENT:
        return Ignored(f"The rule is {state}: nothing begins and nothing ends with that.")
    # A firing without a match is what the rule's setting for no data or for errors has made.
    no_data = state == "no_data" or (state == "alerting" and matches == [])
    entry = ENTRY.load({}) | {
        "status": LEGACY_STATES.get(state, payload["state"]),
        "labels": {"alertname": payload["rule_name"]} | payload["tags"],
        "annotations": {"description": payload["message"]} | ({"grafana_state_reason": "NoData"} if no_data else {}),
        "generator_url": payload["rule_url"],
    }
    status = STATUSES.get(entry["status"], AlertStatus.FIRING)
    key = f"legacy:{payload['org_id']}:{payload['rule_id'] or payload['rule_name']}"
    more = {"org_id": payload["org_id"], "eval_matches": matches if isinstance(matches, list) else None}
    return _translated(_alert(entry, status, key, _matched(matches), more), entry)


def _translated(alert: Alert, entry: Mapping[str, Any]) -> Translated:
    return Translated(alert, severity_told=_severity(_lower(entry["labels"]), _lower(entry["annotations"])) is not None)


def _is_test(entry: Mapping[str, Any]) -> bool:
    """Whether the Test button made it. People may change single labels and annotations there, rarely all of them.

    https://github.com/grafana/alerting/blob/main/notify/receivers.go (newTestAlert)
    """
    labels, annotations = entry["labels"], entry["annotations"]
    marks = (
        labels.get("instance") == "Grafana",
        annotations.get("summary") == "Notification test",
        entry["value_string"] == "[ metric='foo' labels={instance=bar} value=10 ]",
    )
    return labels.get("alertname") == "TestAlert" and any(marks)


def _alert(entry: Mapping[str, Any], status: AlertStatus, key: str, measured: Names, more: dict[str, Any]) -> Alert:
    labels, annotations, measured = (_lower(texts) for texts in (entry["labels"], entry["annotations"], measured))
    no_data = _no_data(labels, annotations)
    incident_type = IncidentType.CUSTOM if no_data else _incident_type(labels, annotations, measured)
    evidence = {
        **_said(entry, labels, annotations),
        **_things(incident_type, labels, measured),
        **_reasons(status, no_data, annotations.get("grafana_state_reason", "")),
        **more,
    }
    return Alert(
        hostname=_hostname(labels, annotations, measured),
        incident_type=incident_type,
        severity=_severity(labels, annotations) or Severity.MEDIUM,
        evidence={name: value for name, value in evidence.items() if value},
        status=status,
        dedup_key=key,
        occurred_at=time_of(entry["ends_at"] if status is AlertStatus.RESOLVED else entry["starts_at"]),
    )


def _said(entry: Mapping[str, Any], labels: Names, annotations: Names) -> dict[str, Any]:
    """What an engineer looks at, without what differs between two notifications of the same state."""
    return {
        **{name: labels.get(name) for name in ("alertname", "rulename", "grafana_folder")},
        **{name: annotations.get(name) for name in ("summary", "description", "runbook_url")},
        "labels": entry["labels"],
        "annotations": {
            name: text for name, text in entry["annotations"].items() if name.lower() not in SAID_ELSEWHERE
        },
        "values": entry["values"],
        "value_string": entry["value_string"],
        "generator_url": entry["generator_url"],
        "dashboard_url": _without_end(entry["dashboard_url"]),
        "panel_url": _without_end(entry["panel_url"]),
        "rule_uid": entry["rule_uid"],
        "status": "" if entry["status"].strip().lower() in STATUSES else entry["status"],
    }


def _without_end(url: str) -> str:
    """The link without the end of its time range, which in a firing alert is the moment of each notification."""
    return re.sub(r"(?<=[?&])to=\d+(?:&|$)", "", url, flags=re.ASCII).rstrip("?&")


def _reasons(status: AlertStatus, no_data: str, reason: str) -> dict[str, Any]:
    """Why it is in this state, where the reason is no measurement."""
    over = status is AlertStatus.RESOLVED and reason
    return {
        "no_data": bool(no_data),
        "datasource_error": no_data == "Error",
        "state_reason": reason,
        "resolution": f"resolved by Grafana for the reason {reason}, not by a good measurement" if over else "",
    }


def remark(payload: dict[str, Any]) -> str | None:
    """Say what Max Alerts has cut."""
    return left_out(count_of(payload["truncated"]), "max alerts")


# ---------------------------------------------------------------- readings


def _lower(texts: Names) -> dict[str, str]:
    """By lower-case name; a name that is so already wins over one that is not."""
    return {name.lower(): text for name, text in sorted(texts.items())}


def _named(sources: Iterable[Names], names: Iterable[str]) -> Iterator[str]:
    texts = (said[name].strip() for said in sources for name in names if name in said)
    return (text for text in texts if text not in NO_VALUE)


def _measured(value_string: str) -> dict[str, str]:
    """The labels of what was measured, the first value of each.

    `[ var='A' labels={instance=web-01:9100, job=node} value=1 ], [ ... ]`: nothing in it is quoted or escaped, so a
    value goes on to what looks like the next name or like the end of the labels.
    """
    found: dict[str, str] = {}
    for group in value_string.split("labels={")[1:]:
        for pair in re.split(r", (?=[^=,{}]+=)", group.partition("} value=")[0]):
            name, sign, value = pair.partition("=")
            if sign:
                found.setdefault(name.strip(), value)
    return found


def _matched(matches: Any) -> dict[str, str]:
    """The tags of all series that matched in a legacy rule, the first value of each."""
    found: dict[str, str] = {}
    for match in matches if isinstance(matches, list) else ():
        tags = match.get("tags") if isinstance(match, dict) else None
        for name, value in tags.items() if isinstance(tags, dict) else ():
            found.setdefault(name, text_of(value))
    return found


def _no_data(labels: Names, annotations: Names) -> str:
    """`NoData` or `Error` where nothing was measured; empty where something was, be it some time ago (KeepLast)."""
    reasons = [reason.strip() for reason in annotations.get("grafana_state_reason", "").split(",")]
    said = [reason for reason in NOTHING_MEASURED.values() if reason in reasons and "KeepLast" not in reasons]
    return NOTHING_MEASURED.get(labels.get("alertname", "")) or next(iter(said), "")


def _incident_type(labels: Names, annotations: Names, measured: Names) -> IncidentType:
    said = said_type(_named((labels, annotations), ("incident_type",)))
    expression = " ".join((*_named((annotations,), EXPRESSIONS), measured.get("__name__", "")))
    texts = _named((annotations,), TOLD)
    return said or incident_type_of(labels.get("alertname", ""), expression, texts)


def _severity(labels: Names, annotations: Names) -> Severity | None:
    for said in (labels, annotations):
        for name in SEVERITY_NAMES:
            word = said.get(name, "")
            # A number by itself is a rank: `priority: 1` is P1.
            if found := severity_of(word) or severity_of(f"{name}:{word}"):
                return found
    return None


def _hostname(labels: Names, annotations: Names, measured: Names) -> str:
    names = host_labels(HOST_NAMES, labels.get("job", ""))
    said = (*_named((annotations,), ("hostname",)), *_named((labels, measured), names))
    return first_host(said) or UNKNOWN_HOST


def _things(incident_type: IncidentType, *sources: Names) -> dict[str, str | int]:
    found = {thing: next(_named(sources, THINGS[thing]), "") for thing in THINGS_OF.get(incident_type, ())}
    return {thing: port_of(text) if thing == "port" else text for thing, text in found.items()}


# ---------------------------------------------------------------- Grafana's signature


SIGNATURE = "X-Grafana-Alerting-Signature"
TOLERANCE = 300  # seconds
_HEADER_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*", re.ASCII)
# They carry something else, and Grafana cannot set most of them.
NOT_OURS = "authorization proxy-authorization cookie host content-type content-length x-openremedy-token".split()


def _check_header(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or len(name) > 100:
        raise ValidationError("Must be the name of a header: letters and digits, joined by hyphens.")
    if name.lower() in NOT_OURS:
        raise ValidationError(f"The header {name} carries something else; choose one of your own.")


class Options(Payload):
    """How the contact point signs (HMAC Signature: Header, Timestamp header)."""

    signature_header = fields.String(
        load_default=SIGNATURE,
        validate=_check_header,
        metadata={
            "title": "Header of the signature",
            "description": "As in the contact point, HMAC Signature, Header.",
        },
    )
    timestamp_header = fields.String(
        load_default=None,
        validate=_check_header,
        metadata={
            "title": "Header of its time",
            "description": "As in the contact point, Timestamp header, and then required. Empty: there is none.",
        },
    )

    @validates_schema
    def check_both(self, values: dict[str, Any], **_kwargs: Any) -> None:
        """Two values do not fit into one header."""
        if values["signature_header"].lower() == (values["timestamp_header"] or "").lower():
            raise ValidationError("Must not be the header of the signature.", "timestamp_header")


def verify(secret: bytes, body: bytes, headers: Mapping[str, str], options: Mapping[str, Any], now: float) -> bool:
    """Whether Grafana signed these bytes: the bare hex HMAC-SHA256 of the body, or of `<seconds>:<body>`.

    The work is the same whatever the headers say. https://github.com/grafana/alerting/blob/main/http/hmac.go
    """
    given = headers.get(options.get("signature_header", SIGNATURE).lower(), "")
    signature = bytes.fromhex(given) if re.fullmatch(r"[0-9a-fA-F]{64}", given, re.ASCII) else b""
    fresh, signed = True, body
    if timestamp_header := options.get("timestamp_header"):
        seconds = headers.get(timestamp_header.lower(), "")
        fresh = bool(re.fullmatch(r"\d{1,12}", seconds, re.ASCII)) and abs(now - int(seconds)) <= TOLERANCE
        signed = seconds.encode("utf-8", "replace") + b":" + body
    return hmac.compare_digest(hmac.digest(secret, signed, hashlib.sha256), signature) and fresh


adapter = Adapter(
    name="grafana",
    title="Grafana",
    formats=(
        Format(
            payload=Notification(),
            alert=ENTRY,
            unwrap=unwrap,
            translate=translate,
            remark=remark,
            advice=ADVICE,
            methods=("POST", "PUT"),
        ),
    ),
    verify=verify,
    kept_headers=(SIGNATURE,),
    options=Options(),
    summary=SUMMARY,
    setup=SETUP,
    hints=HINTS,
    sample=sample,
)
