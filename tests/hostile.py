"""Strings that want to be more than text, and a tenant that holds them wherever foreign text can get to.

`hostile_world(tenant)` is what the browser tests open: whatever is run, framed, fetched, styled or hidden by one of
these is a hole. Every script in them calls `alert`, and every address in them is of evil.example.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import insert, update

from cast import Source, Tenant
from openremedy import audit, cookbook, incidents, outgoing, people, tenants
from openremedy import sources as source_rows
from openremedy.alerts import compact
from openremedy.audit import COMMAND_LINE, Actor
from openremedy.classification import Classifier, Limits
from openremedy.demo.bodies import fixture
from openremedy.errors import Invalid
from openremedy.extensions import db
from openremedy.ids import new_id
from openremedy.incidents import stamp
from openremedy.models import Event, Incident, MessageState, OutgoingMessage, Role, Shape, Triage, Verdict, now
from openremedy.models import Tenant as TenantRow
from openremedy.outgoing import Wanted
from openremedy.people import Browser
from openremedy.recipes import RecipeSpec
from openremedy.services import services

MOST_ENDPOINTS = 15
SCRIPT = "<script>alert('hostile')</script>"
HOSTILE: tuple[str, ...] = (
    SCRIPT,
    f'">{SCRIPT}',
    "'><img src=x onerror=alert('hostile')>",
    '"><svg/onload=alert(1)>',
    "<svg><script xlink:href=//evil.example/a.js></script><animate onbegin=alert(1) attributeName=x></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=alert(1)&gt;'>",
    '<math href="javascript:alert(1)">CLICK</math>',
    "javascript:alert('hostile')",
    " \tjava\tscript:alert(1)//",
    "JaVaScRiPt://evil.example/%0aalert(1)",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "vbscript:msgbox(1)",
    "//evil.example/x",
    "\\\\evil.example\\x",
    f"</textarea>{SCRIPT}",
    f"</title>{SCRIPT}",
    f"</style>{SCRIPT}<style>*{{display:none!important}}</style>",
    f"</script>{SCRIPT}",
    f"-->{SCRIPT}<!--",
    f"]]>{SCRIPT}",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    '" autofocus onfocus=alert(1) x="',
    "' onmouseover='alert(1)' style='position:fixed;inset:0",
    "`onclick=alert(1)` x=y",
    "<a href=javascript:alert(1)>here</a>",
    '[here](javascript:alert(1)) ![x](x"onerror="alert(1)) <https://evil.example/>',
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    '<meta http-equiv="refresh" content="0;url=https://evil.example/"><base href="https://evil.example/">',
    '<form action="https://evil.example/"><button formaction="javascript:alert(1)">Sign in again</button></form>',
    '<link rel=stylesheet href=https://evil.example/a.css><object data="https://evil.example/"></object>',
    '<div hx-get="/account" hx-trigger="load" hx-on::load="alert(1)" data-hx-post="/sign-out">htmx</div>',
    "&lt;script&gt;alert(1)&lt;/script&gt;&#60;img src=x onerror=alert(1)&#62;",
    "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "{{7*7}} {{config.items()}}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "${7*7} #{7*7} *{7*7}",
    "<%= 7*7 %>",
    "%s %(name)s {0.__class__} {name!r}",
    "=cmd|' /C calc'!A0",
    '+HYPERLINK("https://evil.example/","here")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "'; DROP TABLE incidents; --",
    "../../../../etc/passwd",
    "__proto__",
    "web-01\u202egpj.exe\u202c \u2066isolated",  # right to left from here
    "ad\u200bmin\u200d\u2060\ufeff\u00ad",  # zero width
    "Z\u0351\u036b\u0343\u0363\u0489a\u0335\u0489lgo" * 12,  # combining, upwards and downwards
    "W" * 250,
    "wide\u3000\u2028line\u2029paragraph",
    "\U0001f525\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f4\u200d\u2620\ufe0f",
    "pаypаl-аdmin",  # Cyrillic among Latin
    "bell\x07 red\x1b[31m back\x08\x08 \x9b31m",
    "first line\r\nX-Injected: yes\r\n\r\n<script>alert(1)</script>",
)
# A text in every place of a recipe's Markdown.
STEPS = (
    "## TEXT\n\nTEXT\n\n- `TEXT`\n\n```bash\nTEXT\n```\n\n[TEXT](TEXT) ![TEXT](TEXT) <TEXT>\n\n"
    "> TEXT\n\n| TEXT |\n|---|\n| TEXT |\n"
)
TENANT_NAME = f"{SCRIPT}\"'><img src=x onerror=alert(1)>{{{{7*7}}}}"


@dataclass
class World:
    """What was made, for whoever opens the pages of it. `answers`: what was sent, what was due, what came."""

    tenant: Tenant
    answers: list[tuple[str, int, int]] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)  # paths of outgoing ones, below that of the tenant


def hostile_world(tenant: Tenant) -> World:
    """Fill a tenant with all of HOSTILE, in every place that foreign text can get to."""
    world = World(tenant)
    _recipes(world)
    _canonical(world)
    for number, (adapter, bodies) in enumerate(_BODIES.items()):
        _native(world, tenant.source(adapter), list(bodies()))
        if number == 0:  # the rest waits: a page shows that as well
            _classify(world)
    _refused(world)
    with tenant.app.app_context():
        services().tally.flush()
        _verdicts(world)
        _names(world)
        _outgoing(world)
        _people(world)
        _audit_log(world)
    return world


# ---------------------------------------------------------------- what comes in


def _canonical(world: World) -> None:
    for number, text in enumerate(HOSTILE):
        evidence = {text: text, "title": f"{number} {text}", "deep": [{text: [text]}], "url": text}
        body = {
            "hostname": text,
            "incident_type": "custom",
            "evidence": evidence,
            "dedup_key": f"{number} {text}"[:255],
        }
        named = world.tenant.send(json.dumps(body).encode())
        due = 422 if _holds_controls(text) else 202
        _note(world, f"canonical {text!r}", due, named)
        if due == 422:  # in the evidence it is taken
            plain = body | {"hostname": f"plain-{number}", "dedup_key": f"plain-{number}"}
            _note(world, f"canonical evidence {text!r}", 202, world.tenant.send(json.dumps(plain).encode()))


def _holds_controls(text: str) -> bool:
    return any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)


def _native(world: World, source: Source, bodies: list[Any]) -> None:
    world.sources.append(source.id)
    for number, body in enumerate(bodies):
        _note(world, f"{source.adapter} {number}", 202, source.send(body))


def _note(world: World, what: str, due: int, answer: Any) -> None:
    world.answers.append((what, due, answer.status_code))
    found = answer.get_json()
    for one in found.get("alerts", [found]):
        if one.get("incident_id"):
            world.incidents.append(one["incident_id"])


def _alertmanager() -> Iterator[Any]:
    """All of them in one body: labels, annotations and links."""
    body = fixture("alertmanager", "v0.33_mixed")
    base = body["alerts"][0]
    body["alerts"] = [
        base
        | {
            "labels": {
                "alertname": text,
                "instance": text,
                "severity": text,
                "job": text,
                "mountpoint": text,
                text: text,
            },
            "annotations": {"summary": text, "description": text, "runbook_url": text, "dashboard": text, text: text},
            "generatorURL": text if number % 2 else f"https://prometheus.example/graph?g0.expr={text}",
            "fingerprint": _number(text),
        }
        for number, text in enumerate(HOSTILE)
    ]
    for name in ("receiver", "externalURL", "groupKey"):
        body[name] = SCRIPT
    yield body


def _grafana() -> Iterator[Any]:
    body = fixture("grafana", "v12_firing")
    base = body["alerts"][0]
    links = ("generatorURL", "silenceURL", "dashboardURL", "panelURL", "imageURL")
    body["alerts"] = [
        base
        | {
            "labels": {"alertname": text, "grafana_folder": text, "instance": text, "severity": text, text: text},
            "annotations": {"summary": text, "description": text, "runbook_url": text, text: text},
            "values": {text: 1},
            "valueString": f"[ var='{text}' labels={{instance={text}}} value=1 ]",
            "fingerprint": _number(text),
        }
        | dict.fromkeys(links, text)
        for text in HOSTILE
    ]
    body |= {"title": SCRIPT, "message": SCRIPT, "externalURL": SCRIPT}
    yield body


def _datadog() -> Iterator[Any]:
    for number, text in enumerate(HOSTILE):
        body = fixture("datadog", "template_triggered")
        told = ("title", "message", "hostname", "tags", "link", "snapshot", "alert_title", "alert_status", "org_name")
        more = ("alert_metric", "alert_query", "alert_scope", "aggreg_key", "alert_priority", "event_type")
        yield (
            body
            | dict.fromkeys(told + more, text)
            | {"alert_id": str(number), "alert_cycle_key": f"c{number}", text: text}
        )


def _pagerduty() -> Iterator[Any]:
    for number, text in enumerate(HOSTILE):
        body = fixture("pagerduty", "triggered_custom_fields_v3")
        event, data = body["event"], body["event"]["data"]
        page = f"QHOSTILE{number}"
        event["agent"] |= {"summary": text, "html_url": text}
        data |= {"id": page, "title": text, "html_url": text, "incident_key": text, "urgency": text}
        data["priority"] = {"summary": text, "html_url": text}
        data["custom_fields"] = [{"name": text, "value": text}, {"name": "hostname", "value": text}]
        for named in (data["service"], data["escalation_policy"], *data["assignees"], *data["teams"]):
            named |= {"summary": text, "html_url": text}
        yield body
        note = fixture("pagerduty", "annotated_v3")
        note["event"]["agent"] |= {"summary": text}
        note["event"]["data"] |= {"content": text}
        note["event"]["data"]["incident"] |= {"id": page, "summary": text, "html_url": text}
        yield note


def _uptimekuma() -> Iterator[Any]:
    for number, text in enumerate(HOSTILE):
        body = fixture("uptimekuma", "v2_http_down")
        told = ("name", "url", "hostname", "description", "keyword", "pathName", "docker_container", "type")
        body["monitor"] |= dict.fromkeys(told, text) | {"id": number, "tags": [{"name": text, "value": text}]}
        body["heartbeat"] |= {"monitorID": number, "msg": text}
        yield body | {"msg": text}


def _zabbix() -> Iterator[Any]:
    for number, text in enumerate(HOSTILE):
        body = fixture("zabbix", "v6_problem")
        steering = (
            "schema",
            "sent_at",
            "local_now",
            "event_source",
            "event_value",
            "event_update_status",
            "event_time",
        )
        told = {name: text for name in body if name not in steering}
        tags = json.dumps([{"tag": text, "value": text}])
        yield body | told | {"event_id": str(number), "event_tags": tags, text: text}
        yield body | told | {"event_id": str(number), "event_update_status": "1", "event_update_action": "commented"}


_BODIES = {
    "alertmanager": _alertmanager,
    "grafana": _grafana,
    "datadog": _datadog,
    "pagerduty": _pagerduty,
    "uptimekuma": _uptimekuma,
    "zabbix": _zabbix,
}


def _number(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refused(world: World) -> None:
    """Of each reason no more than are kept: bodies, headers, and messages that repeat what was sent."""
    tenant = world.tenant
    client = tenant.app.test_client()
    for text in HOSTILE[:18]:
        body = json.dumps({"hostname": text, "incident_type": text, text: text}).encode()
        agent = {"User-Agent": _header(text), "Content-Type": _header(text)}
        unsigned = client.post(tenant.url, data=body, headers=agent)
        _note(world, f"unsigned {text!r}", 401, unsigned)
        wrongly = client.post(tenant.url, data=body, headers=agent | {"X-OpenRemedy-Signature": _header(text)})
        _note(world, f"wrongly signed {text!r}", 401, wrongly)
    for text in HOSTILE[:18]:
        written = json.dumps(text)
        for what, body, due in (
            ("type", f'{{"hostname": {written}, "incident_type": {written}, {written}: 1}}', 422),
            ("twice", f"{{{written}: 1, {written}: 2}}", 400),
            ("no JSON", text, 400),
        ):
            _note(world, f"{what} {text!r}", due, tenant.send(body.encode(), **{"User-Agent": _header(text)}))
    native = client.post(f"/api/v1/webhooks/grafana/{tenant.slug}", data=SCRIPT, headers={"User-Agent": SCRIPT})
    _note(world, "native", 401, native)


def _header(text: str) -> str:
    """The text as a header can carry it."""
    return "".join(char for char in text if char.isprintable()).encode().decode("latin-1")


# ---------------------------------------------------------------- what people and models write


def _recipes(world: World) -> None:
    specs = [
        RecipeSpec(
            slug=f"hostile-{number}",
            title=text.strip()[:200] or "blank",
            when=text,
            applies_to=("custom",),
            match={},
            risk="high",
            steps=STEPS.replace("TEXT", text),
            tags=(text[:40], "hostile"),
        )
        for number, text in enumerate(HOSTILE)
    ]
    with world.tenant.app.app_context():
        # Not by a file: it would refuse some of them, and a page must not rely on that.
        cookbook.import_recipes(db.session(), _tenant_id(world), specs, audit.COMMAND_LINE)
    world.recipes = [spec.slug for spec in specs]


def _tenant_id(world: World) -> int:
    return tenants.find_tenant(db.session(), world.tenant.slug).id


def _classify(world: World) -> None:
    limits = Limits(llm_timeout=30, llm_concurrency=1, llm_daily_tokens=0, model_name="")
    with world.tenant.app.app_context():
        classifier = Classifier(db.engine, limits, None, tenant_id=_tenant_id(world))
        db.session.remove()
        while asyncio.run(classifier.run()):
            pass


def _verdicts(world: World) -> None:
    """What a model could say about an incident, one for each text."""
    tenant_id, session = _tenant_id(world), db.session()
    for number, (text, incident) in enumerate(zip(HOSTILE, world.incidents, strict=False)):
        verdict_id = new_id()
        session.execute(insert(Verdict).values(_verdict(tenant_id, UUID(incident), number, text) | {"id": verdict_id}))
        found = {"verdict_id": verdict_id, "triage": Triage.NEEDS_HUMAN if number % 2 else Triage.DONE}
        session.execute(
            update(Incident).where(Incident.id == UUID(incident)).values(**found, enrichment={text: text, "note": text})
        )
    session.commit()
    with db.engine.begin() as connection:
        for text, incident in zip(HOSTILE, world.incidents, strict=False):
            incidents.say(connection, tenant_id, UUID(incident), "needs_human", text[:200], reason=text)


def _verdict(tenant_id: int, incident: UUID, number: int, text: str) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "incident_id": incident,
        "recipe": f"hostile-{number}",
        "tier": "model",
        "confidence": 0.91,
        "provisional": False,
        "reusable": False,
        "cause": _number(text),
        "catalogue_version": 1,
        "prompt_version": "1",
        "model_version": text[:200],
        "runners_up": [{"recipe": text[:100], "confidence": 0.2}],
        "citations": [{"pointer": f"/{text}", "value": text}, {"pointer": "/title", "value": text}],
        "summary": f"{text} **bold** [here](javascript:alert(1))",
        "model": text[:200],
        "tokens": 900,
        "latency_ms": 1200,
        "actor": "classifier",
    }


def _names(world: World) -> None:
    """The tenant itself, its sources and its tokens."""
    session, vault, slug = db.session(), services().vault, world.tenant.slug
    for number, text in enumerate(HOSTILE):
        name = f"{number} {text}"
        if name.isprintable() and len(name) <= 100:
            row, _ = source_rows.add_source(session, vault, slug, "grafana", name)
            world.sources.append(row.id)
        if name.isprintable() and len(name) <= 200:
            tenants.create_token(session, slug, Role.VIEWER, name)
    session.execute(
        update(TenantRow)
        .where(TenantRow.slug == slug)
        .values(name=f"{SCRIPT}\"'><img src=x onerror=alert(1)>{{{{7*7}}}}")
    )
    session.commit()


def _outgoing(world: World) -> None:
    """Endpoints of such names, and to each a message that holds the text and could not be sent because of it."""
    session, vault, tenant_id = db.session(), services().vault, _tenant_id(world)
    for number, (text, incident) in enumerate(zip(HOSTILE, world.incidents, strict=False)):
        name = f"{number} {text}"
        if not name.isprintable() or len(name) > 100 or len(world.messages) >= MOST_ENDPOINTS:
            continue
        wanted = Wanted(name, Shape.SLACK, [Event.RESOLVED], f"https://evil.example/{number}")
        endpoint, _ = outgoing.add_endpoint(session, vault, tenant_id, wanted, COMMAND_LINE, allow_private=False)
        message = OutgoingMessage(
            tenant_id=tenant_id,
            endpoint_id=endpoint.id,
            incident_id=UUID(incident),
            event=Event.CREATED,
            state=MessageState.FAILED,
            body=compact({"text": text}).encode("utf-8", "backslashreplace"),
            log=[{"at": stamp(now()), "status": None, "error": text, "milliseconds": 5}],
        )
        endpoint.disabled_at, endpoint.disabled_reason = now(), text
        session.add(message)
        session.commit()
        world.messages.append(f"outgoing/{endpoint.id}/messages/{message.id}")
    session.rollback()


def _people(world: World) -> None:
    """Addresses as strange as they may be, invitations to them, and browsers that call themselves by them."""
    session, slug = db.session(), world.tenant.slug
    password = "a long and good password"
    for number, text in enumerate(HOSTILE):
        address = "".join(text.split()).replace("@", "") + f"{number}@example.com"
        try:
            email = people.address_of(address)
        except Invalid:
            continue
        if len(world.emails) < 6:  # a password costs a fifth of a second; an invitation shows the address as well
            people.create_user(session, email, password, slug, Role.VIEWER)
            user = people.find_user(session, email)
            assert user
            people.let_in(session, user, Browser("192.0.2.1", text), Actor(email, "192.0.2.1"), "by password")
        else:
            people.make_link(session, people.LinkPurpose.INVITE, Actor(email), email, _tenant_id(world), Role.VIEWER)
        world.emails.append(email)


def _audit_log(world: World) -> None:
    session, tenant_id = db.session(), _tenant_id(world)
    for text in HOSTILE:
        actor = Actor(text, "192.0.2.1", "0" * 32)
        session.add(audit.line(actor, tenant_id, "source.edited", text, before=text, after={text: [text]}))
    session.commit()
