"""What an endpoint is sent: a message in the shape that the other side reads. Pure.

Shapes: https://www.standardwebhooks.com (our own JSON), https://docs.slack.dev/messaging/formatting-message-text,
AWX's POST /api/v2/job_templates/<id>/launch/, GitHub's POST /repos/<owner>/<repository>/dispatches.
"""

from collections.abc import Callable, Mapping
from typing import Any

from openremedy.alerts import compact
from openremedy.models import Event, Shape

MAX_GITHUB = 60_000  # bytes of a client_payload; GitHub takes 65,535 characters
MAX_LINE = 300  # characters of what an alert says, in a chat
_TEXTS = ("summary", "title", "alertname", "message", "description")

Told = Mapping[str, Any]  # `type`, `timestamp`, `data` as docs/outgoing.md has them


def body_of(shape: Shape, told: Told) -> bytes:
    """The bytes to post."""
    return compact(_SHAPES[shape](told)).encode("utf-8", "backslashreplace")


def _standard(told: Told) -> Told:
    return told


_TOO_LONG = "It is longer than GitHub takes; see url."
_LEFT_OUT_FOR_GITHUB: tuple[tuple[str, str, Any], ...] = (
    ("incident", "evidence", {"left_out": _TOO_LONG}),
    ("recipe", "steps", _TOO_LONG),
    ("incident", "verdict", None),
)


def _awx(told: Told) -> Told:
    # Only as variables: a host of an alert must not choose the hosts of a playbook (`limit` takes patterns).
    return {"extra_vars": {"openremedy": dict(told)}}


def _github(told: Told) -> Told:
    data = dict(told["data"])
    for part, name, instead in _LEFT_OUT_FOR_GITHUB:
        if len(compact({**told, "data": data}).encode("utf-8", "backslashreplace")) > MAX_GITHUB and data[part]:
            data[part] = {**data[part], name: instead}
    return {"event_type": told["type"], "client_payload": {**told, "data": data}}


# ---------------------------------------------------------------- chat


def _slack(told: Told) -> Told:
    """One text, which is what all chats with Slack's format read."""
    data = told["data"]
    incident = data["incident"]
    if incident is None:
        return {"text": "A test of OpenRemedy: messages arrive here."}
    event = Event(told["type"].removeprefix("incident."))
    lines = [f"*{_HEADS[event]}*: {_what(incident)}", *_SAYS[event](data)]
    return {"text": "\n".join([*filter(None, lines), f"<{_link(data['url'])}|Open in OpenRemedy>"])}


def _what(incident: Told) -> str:
    kind = str(incident["incident_type"]).replace("_", " ")
    return f"{incident['severity']}, {kind} on {_code(incident['hostname'])}"


def _code(text: Any) -> str:
    """Text of an alert as nothing but text: no link, no mention, no other format, also in Mattermost."""
    plain = " ".join(str(text).replace("`", "'").split())[:MAX_LINE]
    return f"`{_escaped(plain)}`" if plain else ""


def _escaped(text: str) -> str:
    # A mark without width behind an @ keeps it from calling a channel together.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


def _link(url: str) -> str:
    return _escaped(url).replace("|", "%7C")


def _said(data: Told) -> list[str]:
    """What the alert says of itself."""
    texts = (data["incident"]["evidence"].get(name) for name in _TEXTS)
    return [_code(next((text for text in texts if isinstance(text, str) and text.strip()), ""))]


def _verdict(data: Told) -> list[str]:
    recipe, verdict = data["recipe"], data["incident"]["verdict"]
    if recipe is None or verdict is None:
        return ["No recipe fits."]
    early = ", for now" if verdict["provisional"] else ""
    return [f"Recipe: {_code(recipe['title'])} ({round(verdict['confidence'] * 100)} %{early}, risk {recipe['risk']})"]


def _actor(data: Told) -> list[str]:
    return [f"By {_code(data['actor'])}"]


_HEADS = {
    Event.CREATED: "New incident",
    Event.CLASSIFIED: "Verdict",
    Event.NEEDS_HUMAN: "Needs a person",
    Event.ACCEPTED: "Recipe accepted",
    Event.ACKNOWLEDGED: "Acknowledged",
    Event.RESOLVED: "Resolved",
}
_SAYS: Mapping[Event, Callable[[Told], list[str]]] = {
    Event.CREATED: _said,
    Event.CLASSIFIED: _verdict,
    Event.NEEDS_HUMAN: lambda data: [_code(data["reason"] or "")],
    Event.ACCEPTED: lambda data: [*_verdict(data), *_actor(data)],
    Event.ACKNOWLEDGED: _actor,
    Event.RESOLVED: _actor,
}
_SHAPES: Mapping[Shape, Callable[[Told], Told]] = {
    Shape.STANDARD: _standard,
    Shape.SLACK: _slack,
    Shape.AWX: _awx,
    Shape.GITHUB: _github,
}
