"""One trouble as each tool tells it: the adapters' own fixtures with other hosts, values and times."""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from openremedy.demo.world import CRON, Problem, Tool

FIXTURES = Path(__file__).parents[2] / "adapters"
WIKI = "https://wiki.shop.example/runbooks"


@dataclass(frozen=True)
class Trouble:
    """A problem that a host has, from `began` on; `number` tells it from every other one."""

    number: int
    tool: Tool
    problem: Problem
    host: str
    began: datetime
    values: tuple[float, ...] = (1,)

    @property
    def name(self) -> str:
        """The host as its site knows it."""
        return f"{self.host}.{self.tool.site}.shop.example"

    @property
    def key(self) -> str:
        """What its tool knows it by: the same whenever it comes back."""
        said = (self.tool.name, self.problem.name, self.host, sorted(self.problem.labels.items()))
        return sha256(repr(said).encode()).hexdigest()[:16]

    def text(self, text: str, step: int = 0) -> str:
        """`text` with host, value and labels filled in; the value is that of the `step`th notification."""
        host = self.host if self.tool.adapter == "pagerduty" else self.name
        return text.format(host=host, value=self.value(step), **self.problem.labels)

    def value(self, step: int = 0) -> float:
        """What was measured, when it was told for the `step`th time."""
        found = self.values[min(step, len(self.values) - 1)]
        return int(found) if found == int(found) or found > 100 else found


@dataclass(frozen=True)
class Told:
    """What happened to a trouble: `firing`, `resolved`, `acknowledged`, `note` or `urgent`."""

    trouble: Trouble
    event: str
    at: datetime
    step: int = 0


@cache
def _text(adapter: str, name: str) -> str:
    return (FIXTURES / adapter / "fixtures" / f"{name}.json").read_text("utf-8")


def fixture(adapter: str, name: str) -> Any:
    """A fixture, to be changed."""
    return json.loads(_text(adapter, name))


def stamp(moment: datetime) -> str:
    """A time as the tools write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _millis(moment: datetime) -> str:
    return str(int(moment.timestamp() * 1000))


def body_of(told: Told, *others: Told) -> Any:
    """The body that the tool of this trouble posts; Alertmanager puts several into one."""
    return _BODIES[told.trouble.tool.adapter](told, *others)


# ---------------------------------------------------------------- Alertmanager and Grafana


def _alertmanager(*told: Told) -> Any:
    body = fixture("alertmanager", "v0.33_mixed")
    site = told[0].trouble.tool.site
    body["alerts"] = [_entry(one, body["alerts"][one.event == "resolved"]) for one in told]
    body["status"] = "firing" if any(one.event == "firing" for one in told) else "resolved"
    name = told[0].trouble.problem.name
    body |= {"groupLabels": {"alertname": name}, "groupKey": f'{{}}:{{alertname="{name}"}}'}
    return body | {"externalURL": f"https://alertmanager.{site}.shop.example"}


def _entry(told: Told, base: Mapping[str, Any]) -> Any:
    trouble, problem = told.trouble, told.trouble.problem
    labels = {
        "alertname": problem.name,
        "instance": f"{trouble.name}:9100",
        "job": "node",
        "cluster": trouble.tool.site,
    }
    annotations = {"summary": trouble.text(problem.summary, told.step), "runbook_url": f"{WIKI}/{problem.name.lower()}"}
    return copy.deepcopy(dict(base)) | {
        "labels": labels | {"severity": problem.severity} | dict(problem.labels),
        "annotations": annotations,
        "startsAt": stamp(trouble.began),
        "endsAt": stamp(told.at) if told.event == "resolved" else "0001-01-01T00:00:00Z",
        "generatorURL": f"https://prometheus.{trouble.tool.site}.shop.example/graph?g0.expr={quote_plus(problem.expr)}",
        "fingerprint": trouble.key,
    }


def _grafana(*told: Told) -> Any:
    (one,) = told
    resolved = one.event == "resolved"
    body = fixture("grafana", "resolved" if resolved else "v12_firing")
    body["alerts"] = [_panel(one, fixture("grafana", "v12_firing")["alerts"][0])]
    body["title"] = f"[{'RESOLVED' if resolved else 'FIRING:1'}] {one.trouble.problem.name}"
    return body | {"status": one.event, "externalURL": "https://grafana.shop.example/", "orgId": 1}


def _panel(told: Told, base: Mapping[str, Any]) -> Any:
    trouble, problem = told.trouble, told.trouble.problem
    url, value = "https://grafana.shop.example", trouble.value(told.step)
    instance = f"{trouble.name}:9100"
    labels = {"alertname": problem.name, "grafana_folder": "Shop", "instance": instance, "severity": problem.severity}
    window = f"from={_millis(trouble.began)}&orgId=1&to={_millis(told.at)}"
    return copy.deepcopy(dict(base)) | {
        "status": told.event,
        "labels": labels | dict(problem.labels),
        "annotations": {
            "summary": trouble.text(problem.summary, told.step),
            "runbook_url": f"{WIKI}/{trouble.key[:4]}",
        },
        "startsAt": stamp(trouble.began),
        "endsAt": stamp(told.at) if told.event == "resolved" else "0001-01-01T00:00:00Z",
        "fingerprint": trouble.key,
        "values": {"B": value, "C": int(told.event == "firing")},
        "valueString": f"[ var='B' labels={{instance={instance}}} value={value} ]",
        "ruleUID": f"rule-{trouble.key[:6]}",
        "orgId": 1,
        "generatorURL": f"{url}/alerting/grafana/rule-{trouble.key[:6]}/view?orgId=1",
        "silenceURL": f"{url}/alerting/silence/new?alertmanager=grafana&orgId=1",
        "dashboardURL": f"{url}/d/shop?{window}",
        "panelURL": f"{url}/d/shop?{window}&viewPanel=2",
        "imageURL": f"{url}/render/{trouble.key}.png",
    }


# ---------------------------------------------------------------- Datadog and PagerDuty


def _datadog(*told: Told) -> Any:
    (one,) = told
    trouble, problem = one.trouble, one.trouble.problem
    resolved = one.event == "resolved"
    transition = "Recovered" if resolved else "Renotify" if one.step else "Triggered"
    base = fixture("datadog", "template_recovered" if resolved else "template_triggered")
    number, scope = int(trouble.key[:8], 16) % 10**8, f"host:{trouble.name}"
    event = f"84{trouble.number:010d}{one.step:03d}{int(resolved)}"
    return base | {
        "id": event,
        "title": f"[{problem.severity}] [{transition} on {{{scope}}}] {problem.name}",
        "message": f"{trouble.text(problem.summary)}\nValue: {trouble.value(one.step)}\n @webhook-openremedy",
        "date": _millis(one.at),
        "last_updated": _millis(one.at),
        "hostname": trouble.name,
        "tags": f"env:prod,{scope},monitor,site:{trouble.tool.site},team:shop",
        "link": f"https://app.datadoghq.eu/event/event?id={event}",
        "snapshot": f"https://p.datadoghq.eu/snapshot/view/dd-snapshots-eu1-prod/org_4471/{trouble.key}.png",
        "aggreg_key": trouble.key * 2,
        "alert_id": str(number),
        "alert_cycle_key": f"84{trouble.number:012d}",
        "alert_title": f"{problem.name} on {scope}",
        "alert_transition": transition,
        "alert_type": "success" if resolved else "error",
        "alert_priority": problem.severity,
        "alert_metric": problem.expr,
        "alert_query": f"avg(last_5m):avg:{problem.expr}{{env:prod}} by {{host}} > {problem.between[0]}",
        "alert_status": f"{problem.expr} over {scope} was > {problem.between[0]} on average during the last 5m.",
        "alert_scope": scope,
        "org_name": "Harbour Goods",
    }


_PAGERDUTY = {
    "firing": "triggered_v3",
    "resolved": "resolved_v3",
    "acknowledged": "acknowledged_v3",
    "note": "annotated_v3",
    "urgent": "priority_p1_v3",
}


def _pagerduty(*told: Told) -> Any:
    (one,) = told
    trouble = one.trouble
    body = fixture("pagerduty", _PAGERDUTY[one.event])
    event, data = body["event"], body["event"]["data"]
    page = f"Q{trouble.key[:12].upper()}{trouble.number}"
    event |= {"id": f"01{trouble.key.upper()}{one.event[:3].upper()}{one.step}", "occurred_at": stamp(one.at)}
    incident = data["incident"] if one.event == "note" else data
    incident |= {"id": page, "html_url": f"https://example.pagerduty.com/incidents/{page}"}
    incident["self"] = f"https://api.pagerduty.com/incidents/{page}"
    title = trouble.text(trouble.problem.name)
    if one.event == "note":
        incident["summary"] = title
        data["content"] = f"Looked at {trouble.host}: it is the usual job. Watching it."
    else:
        started = trouble.began.isoformat(timespec="seconds").replace("+00:00", "Z")
        data |= {"title": title, "number": 4000 + trouble.number, "created_at": started}
        data |= {"incident_key": trouble.key * 2, "urgency": trouble.problem.severity}
    return body


# ---------------------------------------------------------------- scripts of one's own


def _canonical(*told: Told) -> Any:
    (one,) = told
    problem = one.trouble.problem
    measured = {key: one.trouble.value(one.step) for key, value in problem.evidence.items() if value == 0 and key}
    evidence = dict(problem.evidence) | {key: value for key, value in measured.items() if "percent" in key}
    body = {
        "hostname": one.trouble.name,
        "incident_type": problem.type,
        "severity": problem.severity,
        "evidence": evidence,
        "occurred_at": stamp(one.at),
    }
    return body | ({"status": "resolved"} if one.event == "resolved" else {})


_BODIES: Mapping[str, Callable[..., Any]] = {
    "alertmanager": _alertmanager,
    "grafana": _grafana,
    "datadog": _datadog,
    "pagerduty": _pagerduty,
    "canonical": _canonical,
}


# ---------------------------------------------------------------- what is no trouble


def heartbeat(site: str, since: datetime) -> Any:
    """The alert that always fires."""
    body = fixture("alertmanager", "watchdog")
    entry = body["alerts"][0]
    entry["labels"]["cluster"] = site
    return body | {"alerts": [entry | {"startsAt": stamp(since)}]}


def test_notification(adapter: str) -> Any:
    """What the tool's own test button sends."""
    return fixture(
        adapter, {"grafana": "test_button", "datadog": "test_triggered", "pagerduty": "pagey_ping_v3"}[adapter]
    )


def values(rng: random.Random, problem: Problem) -> tuple[float, ...]:
    """What is measured while it lasts: near each other, and getting worse."""
    low, high = problem.between
    first = rng.uniform(low, high)
    return tuple(round(min(high, first + step * (high - low) / 20), 1) for step in range(4))


def raw(tool: Tool, body: Any) -> bytes:
    """The bytes that are sent. A script writes its JSON as a shell would, the tools without spaces."""
    return json.dumps(body, separators=None if tool is CRON else (",", ":")).encode()
