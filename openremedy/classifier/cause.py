"""The cause of an incident as one hash: equal causes may share a verdict (tier 2)."""

import hashlib
import json
import re
from typing import Any

from .names import replace_name
from .shapes import Subject

NAMING_KEYS = ("alertname", "rule", "monitor", "check", "title")

# A dotted word is a host with three labels or more, or under a usual top-level domain;
# `nginx.service` and `app.conf` are names of things and must keep two causes apart.
_NOT_HOSTS = "service|socket|timer|mount|target|slice|scope|conf|cfg|log|py|sh|js|php|json|yaml|yml|xml|txt|sql|jar"
_TLDS = "com|net|org|io|dev|app|cloud|local|localdomain|internal|intern|intra|lan|corp|home|arpa|test|example"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,62})"
_IPV4 = r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/[0-9]{1,2})?(?![\w.]?\w)"
_IPV6 = r"(?<![\w:])(?=[0-9a-f:]{3,39}(?![\w:]))(?=[0-9a-f]{0,4}:[0-9a-f:]{0,36}:)[0-9a-f:]{3,39}"
_FQDN = rf"(?<![\w.-])(?:{_LABEL}\.)++(?!(?:{_NOT_HOSTS})(?![\w-]))[a-z]{{2,8}}(?![\w-])"
_HOSTS = re.compile(rf"{_IPV4}|{_IPV6}|{_FQDN}")
_USUAL = re.compile(rf"\.(?:{_TLDS})$")
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def blur(text: str, hostname: str = "") -> str:
    """The text without what differs from host to host: hosts, addresses and numbers."""
    text = text.casefold()
    for own in sorted({hostname.casefold(), hostname.casefold().split(".")[0]}, key=len, reverse=True):
        if len(own) > 2:
            text = replace_name(text, own, "<host>")
    text = _HOSTS.sub(_host_or_word, text)
    return _NUMBERS.sub("<n>", text)


def _host_or_word(found: re.Match[str]) -> str:
    word = found[0]
    is_host = word.count(".") > 1 or ":" in word or _USUAL.search(word)
    return "<host>" if is_host else word


def cause_of(subject: Subject) -> str:
    evidence = subject.evidence
    parts = [
        subject.incident_type,
        subject.adapter,
        _name(subject),
        _text(evidence.get("mount")),
        _text(evidence.get("service_name", evidence.get("service"))),
        _text(evidence.get("port")),
        sorted(map(str, evidence)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _name(subject: Subject) -> list[str]:
    for key in NAMING_KEYS:
        if subject.evidence.get(key) not in (None, ""):
            return [key, blur(_text(subject.evidence[key]), subject.hostname)]
    return []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
