import base64
from typing import Any

import pytest

from openremedy.classifier.masking import mask, secrets_in

# Put together here, so that no scanner takes this file for a leak.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dBjftJeZ4CVP"
PEM = "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE" + " KEY-----"
SECRETS = {
    "aws": AWS,
    "aws session": "ASIA" + "IOSFODNN7EXAMPLE",
    "jwt": JWT,
    "pem": PEM,
    "cut pem": PEM[:50],
    "github": "ghp_" + "a1B2" * 9,
    "github fine": "github_pat_" + "a1B2" * 9,
    "slack": "xoxb-" + "123456789012-abcdef",
    "slack hook": "hooks.slack.com/services/" + "T000/B000/a1B2a1B2",
    "stripe": "sk_live_" + "a1B2" * 6,
    "openai": "sk-proj-" + "a1B2" * 8,
    "google": "AIza" + "a1B2c" * 7,
    "google oauth": "ya29." + "a1B2c" * 7,
    "google client": "GOCSPX-" + "a1B2" * 7,
    "azure client": "abc8Q~" + "a1B2" * 8,
    "alibaba": "LTAI" + "a1B2" * 5,
    "digitalocean": "dop_v1_" + "a1b2" * 16,
    "databricks": "dapi" + "a1b2" * 8,
    "twilio": "SK" + "a1b2" * 8,
    "mailgun": "key-" + "a1b2" * 8,
    "new relic": "NRAK-" + "A1B2" * 7,
    "grafana": "glsa_" + "a1B2" * 8 + "_a1b2c3d4",
    "hugging face": "hf_" + "a1B2" * 8,
    "pypi": "pypi-AgE" + "a1B2" * 8,
    "docker": "dckr_pat_" + "a1B2" * 7,
    "terraform": "a1B2c3D4e5F6g7" + ".atlasv1." + "a1B2" * 16,
    "shopify": "shpat_" + "a1b2" * 8,
    "telegram": "123456789:AA" + "a1B2" * 9,
    "discord": "discord.com/api/webhooks/" + "123456789/" + "a1B2" * 9,
    "teams": "webhook.office.com/webhookb2/" + "a1b2@c3d4/IncomingWebhook/e5f6",
    "ours, webhook": "orwh_" + "a1B2" * 6,
    "ours, token": "ort_" + "a1B2" * 6,
    "ours, source": "ors_" + "a1B2" * 6,
}
IN_TEXT = {
    "bearer": ("Authorization: Bearer sekrit.value-1", "sekrit"),
    "bare bearer": ("curl -H 'bearer sekrit12'", "sekrit"),
    "basic": ("sent basic " + base64.b64encode(b"admin:sekrit").decode(), base64.b64encode(b"admin:sekrit").decode()),
    "assignment": ("login with password=sekrit failed", "sekrit"),
    "prefixed": ("DB_PASSWORD: 'sekrit two'", "sekrit"),
    "json": ('body {"api_key": "sekrit two"}', "sekrit"),
    "escaped json": (r"{\"token\": \"sekrit\"}", "sekrit"),
    "query": ("GET /x?access_token=sekrit&a=1", "sekrit"),
    "option": ("mysql --password sekrit -h db", "sekrit"),
    "url": ("postgres://app:sekrit@db:5432/x", "sekrit"),
    "url, odd password": ("postgres://app:se/krit@db:5432/x", "krit"),
    "url, no user": ("redis://:sekrit@cache/0", "sekrit"),
    "ado.net": ("Server=db;User Id=app;Password=sekrit;Encrypt=true", "sekrit"),
    "azure storage": ("DefaultEndpointsProtocol=https;AccountName=x;AccountKey=sekrit+/a==;", "sekrit"),
    "azure sas": ("https://x.blob.core.windows.net/a?sv=2024&sig=sekrit%3D", "sekrit"),
    "mongodb": ("mongodb+srv://app:sekrit@cluster0.example.org/x", "sekrit"),
    "amqp": ("amqps://app:sekrit@mq/vhost", "sekrit"),
    "cut quote": ('password="sekrit', "sekrit"),
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_masked_in_values_in_keys_and_in_depth(secret: str) -> None:
    evidence = {"log": f"seen {secret} here", "deep": [{"x": secret}], f"key {secret}": 1}
    masked = mask(evidence)
    body = secret.split("KEY-----")[-1].strip() or secret
    assert body not in repr(masked)
    assert "[masked:" in masked["log"]
    assert masked["log"].startswith("seen ")
    assert masked["deep"][0]["x"].startswith("[masked:")


@pytest.mark.parametrize(("text", "secret"), IN_TEXT.values(), ids=IN_TEXT)
def test_a_secret_is_masked_inside_text(text: str, secret: str) -> None:
    masked = mask(text)
    assert secret not in masked
    assert "[masked:" in masked


@pytest.mark.parametrize(
    "key",
    ["password", "DB_PASSWD", "dbPassword", "client-secret", "api_key", "X-Api-Key", "Authorization", "credentials",
     "private_key", "accessToken", "pwd", "aws_secret_access_key", "Set-Cookie", "passphrase", "secrets"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["x", 1234, ["x"], {"a": "x"}])
def test_the_whole_value_of_a_telling_key_is_masked(key: str, value: Any) -> None:
    assert mask({key: value})[key].startswith("[masked:")


def test_measurements_and_flags_are_left_alone() -> None:
    evidence = {"token_count": 5, "password_age_days": 90, "password_set": True, "secret": None, "tokens_used": 3}
    assert mask(evidence) == evidence


@pytest.mark.parametrize(
    "text",
    [
        "basic monitoring of all disks",
        "bearer token missing",
        "user@host cannot log in",
        "password reset needed",
        "http://prometheus:9090/graph?g0.expr=up@x",
        "sk-1",
        "akia is a lake",
        "tokens: 5 of 10",
        "/var/lib/docker/overlay2/" + "0123456789abcdef" * 4,
        "550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert mask({"x": text}) == {"x": text}


def test_masking_twice_is_masking_once() -> None:
    evidence = {"a": [text for text, _ in IN_TEXT.values()], "password": "x", "all": " ".join(SECRETS.values())}
    once = mask(evidence)
    assert mask(once) == once


def test_two_secrets_as_keys_keep_both_values() -> None:
    assert sorted(mask({AWS: 1, AWS[:-1] + "X": 2}).values()) == [1, 2]


def test_it_does_not_change_its_argument() -> None:
    evidence = {"password": "x", "list": ["password=y"]}
    mask(evidence)
    assert evidence == {"password": "x", "list": ["password=y"]}


@pytest.mark.parametrize(
    "piece",
    ["eyJ", "eyJaaaaa.", "eyJaaaaa-", "sk-", 'password="', "password: ", "http://a:", "://a:", "basic ", "bearer ",
     "-----BEGIN PRIVATE KEY-----", "-", "authorization: a ", "AKIA", "a.", "8Q~", "a1B2.atlasv1.", "_", "\\\"", " "],
)  # fmt: skip
def test_256_kib_of_hostile_text_is_done_in_one_pass(piece: str) -> None:
    text = (piece * (262144 // len(piece) + 1))[:262144]
    assert isinstance(mask(text), str)


def test_what_was_masked_is_known_by_its_kind() -> None:
    evidence = {
        "log": f"db postgres://app:one@db/x, Authorization: Bearer two-two, {AWS}",
        "password": "three",
        "n": {"token": 4},
    }
    assert secrets_in(evidence) == {
        "credential": {"app:one"},
        "authorization": {"Bearer two-two"},
        "aws_key": {AWS},
        "password": {"three"},
        "token": {"4"},
    }


@pytest.mark.parametrize(("text", "_"), IN_TEXT.values(), ids=IN_TEXT)
def test_with_its_secret_in_place_a_text_is_as_it_was(text: str, _: str) -> None:
    masked = mask(text)
    for kind, secrets in secrets_in(text).items():
        (secret,) = secrets
        masked = masked.replace(f"[masked:{kind}]", secret)
    assert masked == text
