"""What an adapter brings for the page of its sources: filled in as plain text, and the same as its README says."""

import json

import pytest

from golden import folder
from openremedy.adapter import ANY_TOOL, Adapter, SetupStep
from openremedy.instructions import filled, places
from openremedy.registry import discover

ADAPTERS = discover()
EVERY_ADAPTER = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=list(ADAPTERS))
# The words of the tool's own menus: who follows either text finds the same buttons.
MENUS = {
    "alertmanager": "alertmanager.yml|prometheus.yml|SIGHUP|credentials_file|group_interval|Watchdog|DeadMansSwitch",
    "grafana": "Contact points|+ Add contact point|Notification configuration|Authorization Header - Credentials|"
    "HTTP Basic Authentication|Disable resolved message|Max Alerts|Custom Payload|Save contact point|"
    "Notification policies|HMAC Signature|Timestamp header|X-Grafana-Alerting-Timestamp|provisioning/alerting",
    "datadog": "Integrations|Webhooks|Custom Variables|OPENREMEDY_TOKEN|Hide from view|Custom Headers|Encode as form|"
    "{{#is_alert}}|Test Notifications",
    "pagerduty": "Integrations > Generic Webhooks (v3) > New Webhook|Webhook URL|Event Subscription|incident.*|"
    "Send Test Event|Integrations > API Access Keys > Create New API Key|Read-only API Key|Custom Header",
    "uptimekuma": "Settings > Notifications > Setup Notification|Notification Type|Post URL|Request Body|POST|"
    "Preset - application/json|Additional Headers|Default enabled|Apply on all existing|Resend Notification if Down",
    "zabbix": "Alerts > Media types > Import|media_openremedy.yaml|Administration > Macros|Secret text|"
    "{$OPENREMEDY.URL}|{$OPENREMEDY.TOKEN}|{$ZABBIX.URL}|Users > Users|Send to|Alerts > Actions > Trigger actions|"
    "Recovery operations|Update operations|Test",
    "sns": "Topics|Create subscription|Protocol|Endpoint|raw message delivery|Alarms|Actions|In alarm|"
    "Insufficient data|SHA1",
}


def as_in_the_readme(adapter: Adapter) -> list[SetupStep]:
    url = f"https://openremedy.example.com/api/v1/webhooks/{adapter.name}/my-company"
    return filled(adapter.setup, places(url, "TOKEN-HERE"))


@EVERY_ADAPTER
def test_what_the_page_says_to_paste_stands_in_the_readme(adapter: Adapter) -> None:
    text = (folder(adapter) / "README.md").read_text()
    lines = [line.strip() for one in as_in_the_readme(adapter) for line in one.snippet.splitlines()]
    essential = [line for line in lines if line and "TOKEN-HERE" not in line]
    assert essential
    assert [line for line in essential if line not in text] == []


@EVERY_ADAPTER
def test_the_page_speaks_of_the_same_menus_as_the_readme(adapter: Adapter) -> None:
    page = " ".join(f"{one.title} {one.text} {one.snippet}" for one in adapter.setup)
    readme = " ".join((folder(adapter) / "README.md").read_text().split()).replace("*", "")
    for words in MENUS[adapter.name].split("|"):
        assert words in page, words
        assert words.replace("*", "") in readme, words


@EVERY_ADAPTER
def test_every_adapter_of_ours_shows_its_address_and_token_and_has_a_test_alert(adapter: Adapter) -> None:
    text = "".join(one.snippet for one in as_in_the_readme(adapter))
    assert f"/api/v1/webhooks/{adapter.name}/my-company" in text
    assert "TOKEN-HERE" in text
    assert len(adapter.summary.split()) > 5
    assert adapter.sample is not None
    assert set(adapter.hints) == {"reached", "host", "type", "severity", "recovery"}


def test_an_adapter_that_says_nothing_has_steps_all_the_same() -> None:
    bare = Adapter(name="bare", title="Bare", formats=())
    address, token = filled(bare.setup, places("http://127.0.0.1:8000/api/v1/webhooks/bare/acme", "ors_x"))
    assert bare.setup == ANY_TOOL
    assert address.snippet == "http://127.0.0.1:8000/api/v1/webhooks/bare/acme"
    assert token.snippet == "Authorization: Bearer ors_x"


def test_places_are_filled_once_and_every_other_brace_stays() -> None:
    step = SetupStep("{url}", "{token} {{#is_alert}} {0} {unknown}", '{"a": "{url}", "b": "$TAGS[x]", "c": "%s {}"}')
    (found,) = filled([step], {"{url}": "{token}", "{token}": "{url}"})
    assert found.title == "{url}"
    assert found.text == "{url} {{#is_alert}} {0} {unknown}"
    assert found.snippet == '{"a": "{token}", "b": "$TAGS[x]", "c": "%s {}"}'


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://remedy.example.com/api/v1/x/acme", "remedy.example.com:443", "/api/v1/x/acme"),
        ("http://remedy.example.com/api/v1/x/acme", "remedy.example.com:80", "/api/v1/x/acme"),
        ("http://127.0.0.1:8000/api/v1/x/acme", "127.0.0.1:8000", "/api/v1/x/acme"),
        ("https://[2001:db8::1]:8443/under/api/v1/x/acme", "[2001:db8::1]:8443", "/under/api/v1/x/acme"),
    ],
)
def test_an_address_is_taken_apart_for_tools_that_want_its_parts(url: str, host: str, path: str) -> None:
    known = places(url)
    assert (known["{url}"], known["{host}"], known["{path}"]) == (url, host, path)
    assert known["{token}"] == "YOUR-TOKEN"


def test_the_payload_for_datadog_is_json_with_every_variable_in_quotes() -> None:
    (payload,) = [one.snippet for one in ADAPTERS["datadog"].setup if "$EVENT_TITLE" in one.snippet]
    assert all(isinstance(value, str) for value in json.loads(payload).values())
