"""Secrets out of evidence before it leaves the house: `mask()` replaces each with "[masked:kind]".

Every pattern starts at a fixed word or at the edge of a run and uses possessive or bounded
repeats, so that the time grows with the length of the text and not faster.
"""

import base64
import binascii
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

# Words that make the whole value of a key a secret. Longest first: the first found names the kind.
_KEY_KINDS = (
    ("privatekey", "private_key"), ("accesskey", "access_key"), ("secretkey", "secret"), ("apikey", "api_key"),
    ("signingkey", "signing_key"), ("encryptionkey", "encryption_key"), ("sshkey", "private_key"),
    ("passphrase", "password"), ("password", "password"), ("passwd", "password"), ("kennwort", "password"),
    ("authorization", "authorization"), ("credential", "credential"), ("secret", "secret"),
    ("token", "token"), ("cookie", "cookie"), ("sessionid", "session"), ("bearer", "token"),
    ("connectionstring", "connection_string"),
)  # fmt: skip
_KEY_WORDS = {"pwd": "password", "pass": "password", "jwt": "jwt", "dsn": "connection_string", "creds": "credential"}  # nosec B105 # kinds
_SECRET_WORD_AT_END = re.compile(r"(?:key|phrase|word|wd|authorization|credentials?|secrets?|token|cookie|id|pass)$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_ALNUM = re.compile(r"[^a-z0-9]+")
DONE = re.compile(r"\[masked:([a-z_]{1,30})\]")

_RUN = r"(?<![A-Za-z0-9_-])"
_NAMED = (
    r"(?:password|passwd|passphrase|pwd|client[_-]?secret|secret[_-]?access[_-]?key|secret[_-]?key|secret|"
    r"(?:access|auth|refresh|id|session|bearer|api)?[_-]?token|api[_-]?key|x[_-]api[_-]key|private[_-]?key|"
    r"access[_-]?key(?:[_-]?id)?|account[_-]?key|credentials?|(?:x[_-]amz[_-])?signature|sig|sessionid)"
)
_SEPARATOR = r"[\\\"']{0,3}\s{0,5}(?:=>|[:=])\s{0,5}"
_VALUE = r"(?:\\?\"[^\"\\]{1,4096}+\\?\"?|'[^']{1,4096}+'?|[^\s,;&\"'\\<>()\[\]{}]{1,4096}+)"
_BASIC = re.compile(r"(?i)(?<![a-z0-9])basic\s{1,5}(?P<secret>[A-Za-z0-9+/]{4,1024}+={0,2})")
_ASSIGNED = re.compile(rf"(?i)(?P<name>{_NAMED}){_SEPARATOR}(?!\[masked:)(?P<secret>{_VALUE})")
_OPTION = re.compile(rf"(?i)(?P<name>--?{_NAMED})\s{{1,5}}(?!\[masked:|-|is\b|was\b)(?P<secret>[^\s\"']{{1,1024}}+)")

_SIMPLE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private_key", re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]++|-(?!----END))*+(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?")),
    ("jwt", re.compile(_RUN + r"eyJ[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]{5,}+(?:\.[A-Za-z0-9_-]*+)?")),
    ("aws_key", re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])")),
    ("github_token", re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_[A-Za-z0-9_]{16,}+)")),
    ("gitlab_token", re.compile(_RUN + r"gl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_-]{16,}+")),
    ("slack_token", re.compile(_RUN + r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{8,}+")),
    ("slack_webhook", re.compile(r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{8,256}+")),
    ("stripe_key", re.compile(r"(?<![A-Za-z0-9])(?:[rsp]k_(?:live|test)|whsec)_[A-Za-z0-9]{8,}+")),
    ("openai_key", re.compile(_RUN + r"sk-[A-Za-z0-9_-]{16,}+")),
    ("google_key", re.compile(_RUN + r"AIza[A-Za-z0-9_-]{30,}+")),
    ("google_token", re.compile(_RUN + r"(?:ya29\.|GOCSPX-|1//0)[A-Za-z0-9_-]{16,}+")),
    ("azure_secret", re.compile(r"(?<![\w~.-])[\w~.-]{3}[78]Q~[\w~.-]{31,34}(?![\w~.-])")),
    ("alibaba_key", re.compile(r"(?<![A-Za-z0-9])LTAI[A-Za-z0-9]{12,20}(?![A-Za-z0-9])")),
    ("digitalocean_token", re.compile(r"(?<![A-Za-z0-9])do[oprt]_v1_[a-f0-9]{40,}+")),
    ("databricks_token", re.compile(r"(?<![A-Za-z0-9])dapi[a-f0-9]{32}(?:-[0-9])?(?![A-Za-z0-9])")),
    ("twilio_key", re.compile(r"(?<![A-Za-z0-9])SK[a-f0-9]{32}(?![A-Za-z0-9])")),
    ("mailgun_key", re.compile(r"(?<![A-Za-z0-9-])key-[a-f0-9]{32}(?![A-Za-z0-9])")),
    ("newrelic_key", re.compile(r"(?<![A-Za-z0-9])NR(?:AK|II|JS)-[A-Z0-9a-z]{20,}+")),
    ("grafana_token", re.compile(r"(?<![A-Za-z0-9])(?:glsa|glc)_[A-Za-z0-9_+/=-]{20,}+")),
    ("huggingface_token", re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}+")),
    ("pypi_token", re.compile(_RUN + r"pypi-[A-Za-z0-9_-]{16,}+")),
    ("docker_token", re.compile(r"(?<![A-Za-z0-9])dckr_[a-z]{3,4}_[A-Za-z0-9_-]{16,}+")),
    ("terraform_token", re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{40,}+")),
    ("shopify_token", re.compile(r"(?<![A-Za-z0-9])shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}")),
    ("telegram_token", re.compile(r"(?<![A-Za-z0-9:])(?:bot)?[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}+")),
    ("discord_webhook", re.compile(r"discord(?:app)?\.com/api/webhooks/[0-9]{1,24}/[A-Za-z0-9_-]{16,}+")),
    ("teams_webhook", re.compile(r"webhook\.office\.com/webhookb2/[A-Za-z0-9@/_-]{16,512}+")),
    ("npm_token", re.compile(r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{20,}+")),
    ("vault_token", re.compile(_RUN + r"hv[sbr]\.[A-Za-z0-9_-]{16,}+")),
    ("sendgrid_key", re.compile(_RUN + r"SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+")),
    ("openremedy_secret", re.compile(r"(?<![A-Za-z0-9])or(?:wh|t|s)_[A-Za-z0-9_-]{8,}+")),
)  # fmt: skip

_HEADER = re.compile(
    r"(?i)(?:proxy-)?authorization[\\\"']{0,3}\s{0,5}[:=]\s{0,5}[\\\"']{0,2}"
    r"(?!\[masked:)(?P<secret>(?:[a-z][a-z0-9_-]{2,20}\s{1,5}(?=\S))?[^\s\"'\\,;]{1,4096}+)"
)
_BEARER = re.compile(
    r"(?i)(?<![a-z0-9])bearer\s{1,5}(?!(?:tokens?|auth\w{0,12}|realm|error|header|scheme|is|was|not)\b)"
    r"(?P<secret>[A-Za-z0-9._~+/=-]{5,}+)"
)
_URL = re.compile(
    r"(?i)(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{1,30}+://(?P<secret>[^\s/@:\"'<>]{0,128}+:[^\s@\"'<>/]{1,256}+)@"
)
_URL_SLASH = re.compile(r"(?i)://(?P<secret>[^\s/@:\"'<>]{1,64}+:(?![0-9]{1,5}/)[^\s@\"'<>]{1,128}+)@(?=[a-z0-9])")


# No text without one of these can match anything above; most texts end here.
_HINT = re.compile(
    r"(?i)pass|pwd|secret|token|key|credential|sig|session|authorization|bearer|basic|://|eyJ|AKIA|ASIA|AROA|AIDA|ABIA|"
    r"ACCA|gh[pousr]_|github_|gl[a-z]{2,3}-|xox|xapp|slack\.com|k_(?:live|test)_|whsec|sk-|AIza|npm_|hv[sbr]\.|SG\.|"
    r"or(?:wh|t|s)_|ya29|GOCSPX|1//0|Q~|LTAI|_v1_|dapi|SK[a-f0-9]|NR(?:AK|II|JS)-|gl(?:sa|c)_|hf_|pypi-|dckr_|atlasv1|"
    r"shp[a-z]{2}_|:AA|discord|webhookb2"
)


Note = Callable[[str, str], None]


def mask(value: Any) -> Any:
    """The same JSON value with secrets replaced, in keys as well as in values. Never changes its argument."""
    return _masked(value, _forget)


def mask_text(text: str) -> str:
    return _masked_text(text, _forget)


def secrets_in(value: Any) -> dict[str, set[str]]:
    """What `mask` replaces in this value, by kind."""
    found: dict[str, set[str]] = defaultdict(set)
    _masked(value, lambda kind, secret: found[kind].add(secret))
    return found


def _forget(kind: str, secret: str) -> None:
    """Masking alone needs no list of what was masked."""


def _masked(value: Any, note: Note) -> Any:
    if isinstance(value, Mapping):
        return _mask_mapping(value, note)
    if isinstance(value, list | tuple):
        return [_masked(item, note) for item in value]
    return _masked_text(value, note) if isinstance(value, str) else value


def _mask_mapping(mapping: Mapping[Any, Any], note: Note) -> dict[str, Any]:
    masked: dict[str, Any] = {}
    for key, value in mapping.items():
        name = _masked_text(str(key), note)
        # Two secrets as keys would fall into one; neither value may get lost.
        while name in masked:
            name += "'"
        masked[name] = _mask_under(str(key), value, note)
    return masked


def _mask_under(key: str, value: Any, note: Note) -> Any:
    kind = _kind_of_key(key)
    if kind is None or value is None or isinstance(value, bool) or value in ("", [], {}):
        return _masked(value, note)
    # `token_count: 5` and `password_age_days: 90` are measurements, `password: 1234` is not.
    if isinstance(value, int | float) and not _SECRET_WORD_AT_END.search(_squeeze(key)):
        return value
    if isinstance(value, str) and DONE.fullmatch(value):
        return value
    note(kind, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return f"[masked:{kind}]"


def _kind_of_key(key: str) -> str | None:
    words = _NOT_ALNUM.split(_CAMEL.sub("_", key[:200]).lower())
    for word in words:
        if word in _KEY_WORDS:
            return _KEY_WORDS[word]
    squeezed = "".join(words)
    return next((kind for part, kind in _KEY_KINDS if part in squeezed), None)


def _squeeze(key: str) -> str:
    return _NOT_ALNUM.sub("", key[:200].lower())


def _masked_text(text: str, note: Note) -> str:
    if not _HINT.search(text):
        return text
    for kind, pattern in _SIMPLE:
        text = pattern.sub(partial(_replaced, kind=kind, note=note), text)
    text = _HEADER.sub(partial(_replaced, kind="authorization", note=note), text)
    text = _BEARER.sub(partial(_replaced, kind="token", note=note), text)
    text = _BASIC.sub(lambda found: _replaced(found, "basic", note) if _is_basic(found["secret"]) else found[0], text)
    text = _URL.sub(partial(_replaced, kind="credential", note=note), text)
    text = _URL_SLASH.sub(partial(_replaced, kind="credential", note=note), text)
    for pattern in (_ASSIGNED, _OPTION):
        text = pattern.sub(lambda found: _replaced(found, _kind_of_key(found["name"]) or "secret", note), text)
    return text


def _replaced(found: re.Match[str], kind: str, note: Note) -> str:
    """The match with its secret replaced: the group of this name, or else all of it."""
    start, end = found.span("secret") if "secret" in found.re.groupindex else found.span()
    if DONE.fullmatch(found.string, start, end):
        return found[0]
    note(kind, found.string[start:end])
    return f"{found.string[found.start() : start]}[masked:{kind}]{found.string[end : found.end()]}"


def _is_basic(encoded: str) -> bool:
    """Basic credentials are base64 of user:password; "basic monitoring" is not."""
    try:
        return b":" in base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return False
