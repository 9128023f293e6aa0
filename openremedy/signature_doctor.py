"""Why a signature did not fit: what its sender did to the body, the secret or the header. Pure; for the tenant's admin.

It makes what a sender would have signed by each mistake and looks which one gives the signature that came. Only the
secrets it is given are tried, and a finding names no secret, no signature and nothing out of the body.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import product
from typing import Any

from openremedy.alerts import parse_json
from openremedy.crypto import WEBHOOK_SECRET
from openremedy.errors import BadBody
from openremedy.signing import PREFIX

MAX_SECRETS = 20  # the newest; each costs some hundred hashes of the body
LEAST_HEX = 16  # of a signature that was cut off: fewer digits could fit by chance
BOM = b"\xef\xbb\xbf"
SHA256_DIGITS = 64
ALGORITHMS = {"md5": 32, "sha1": 40, "sha224": 56, "sha384": 96, "sha512": 128}  # the others, with their hex digits
LAYOUTS: tuple[dict[str, Any], ...] = (
    {"separators": (",", ":")},
    {},
    {"indent": 2},
    {"indent": 4},
    {"indent": "\t"},
)
GO_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_NAMED = re.compile(r"(?:hmac[-_]?)?(md5|sha-?(?:1|224|256|384|512))\s*[=:]\s*", re.IGNORECASE)
_WITHIN = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")
_HEX = re.compile(r"[0-9A-Fa-f]+")


@dataclass(frozen=True)
class Key:
    """A webhook secret of the tenant, live or ended."""

    value: str = field(repr=False)
    added: datetime
    ends: datetime | None = None

    def ended(self, moment: datetime) -> bool:
        """Whether it was not good any more."""
        return self.ends is not None and self.ends <= moment


@dataclass(frozen=True)
class Refused:
    """A refused canonical delivery as it was kept. `cut`: the body is only the first part of what came."""

    body: bytes = field(repr=False)
    cut: bool
    header: str | None = field(repr=False)
    reason: str
    received_at: datetime


@dataclass(frozen=True)
class Finding:
    """`code` is for programs (mistakes joined with +), `sentence` says what went wrong, `advice` what to do."""

    code: str
    sentence: str
    advice: str


# ---------------------------------------------------------------- words

# What is wrong, and what to do about it.
WORDS: dict[str, tuple[str, str]] = {
    # The header.
    "header_missing": (
        "The request had no X-OpenRemedy-Signature header, or an empty one.",
        "Send X-OpenRemedy-Signature: sha256= and the hex HMAC-SHA256 of the body. If the client does, look whether a "
        "proxy between it and this service drops the header.",
    ),
    "secret_sent": (
        "The header holds the webhook secret itself instead of a signature.",
        "Sign the body with the secret and send only the signature. The secret has travelled: rotate it.",
    ),
    "prefix_missing": (
        "The signature stands in the header without sha256= before it.",
        "Write sha256= directly before the hex digits.",
    ),
    "prefix_wrong": (
        "What stands before the signature is not exactly sha256=, in small letters and without a blank.",
        "Write sha256= directly before the hex digits.",
    ),
    "extra_text": (
        "The header holds other text besides the signature, such as the whole line that openssl or sha256sum "
        "prints, quotation marks, or the signature twice.",
        "Send sha256= and the 64 hex digits, and nothing else.",
    ),
    "base64": (
        "The signature is written in base64 and not in hex.",
        "Write the signature as 64 hex digits (digest('hex'), hexdigest(), xxd -p).",
    ),
    "base64_of_hex": (
        "The hex digits of the signature were encoded in base64 once more.",
        "Send the hex digits as they are.",
    ),
    "truncated": (
        "The signature was cut off: fewer than its 64 hex digits arrived.",
        "Look at what shortens it: a field or variable of fixed length, or a line break in the header.",
    ),
    "wrong_length": (
        "The signature does not have the 64 hex digits of an HMAC-SHA256.",
        "Look at what shortens or lengthens it, and that the algorithm is SHA-256.",
    ),
    "not_a_signature": (
        "What the header holds is no signature: neither 64 hex digits nor base64.",
        "Send X-OpenRemedy-Signature: sha256= and the hex HMAC-SHA256 of the body. Look whether a variable or a "
        "template was left unfilled.",
    ),
    # The algorithm.
    "other_algorithm": (
        "The signature was made with another algorithm than HMAC-SHA256.",
        "Use SHA-256 for the HMAC.",
    ),
    "plain_hash": (
        "The signature is a plain SHA-256 over secret and body put together, not an HMAC.",
        "Use the HMAC function of your language with the secret as its key.",
    ),
    "plain_hash_of_body": (
        "The signature is a plain SHA-256 of the body; no secret was used.",
        "Use the HMAC function of your language with the secret as its key.",
    ),
    "swapped": (
        "Secret and body were exchanged: the body was used as the key of the HMAC.",
        "Give the secret as the key and the body as the message.",
    ),
    # The secret.
    "previous_secret": (
        "It was signed with a secret of this tenant that ended {ended}.",
        "Give the client the current webhook secret.",
    ),
    "secret_newline": (
        "The secret was used with a line break at its end.",
        "Strip the line break where the secret is read (a file, echo without -n).",
    ),
    "secret_quoted": (
        "The secret was used with quotation marks or blanks around it.",
        "Take them away where the secret is configured.",
    ),
    "secret_hex_decoded": (
        "The secret was decoded from hex before it was used.",
        "Use the secret as text, byte for byte as it is shown.",
    ),
    "secret_base64_decoded": (
        "The secret was decoded from base64 before it was used.",
        "Use the secret as text, byte for byte as it is shown.",
    ),
    "secret_without_prefix": (
        f"The secret was used without the {WEBHOOK_SECRET} that it begins with.",
        f"Use the whole secret, {WEBHOOK_SECRET} included.",
    ),
    "secret_empty": (
        "The body was signed with an empty secret.",
        "Look whether the variable or file with the secret is there for the client; it read nothing.",
    ),
    # The body.
    "empty_body_signed": (
        "An empty body was signed, not the one that was sent.",
        "Sign the bytes after they are made; a stream that was read already gives nothing.",
    ),
    "newline_added": (
        "A line break at the end of the body was signed but not sent.",
        "Sign exactly the bytes that are sent: printf '%s' instead of echo, and curl --data-binary instead of -d.",
    ),
    "newline_dropped": (
        "The body was sent with a line break at its end that was not signed.",
        "Sign exactly the bytes that are sent, the line break included.",
    ),
    "blanks_stripped": (
        "Blanks or line breaks around the body were stripped before it was signed, but were sent.",
        "Sign exactly the bytes that are sent.",
    ),
    "line_breaks": (
        "The line breaks inside the body differ (CRLF and LF) between what was signed and what was sent.",
        "Sign exactly the bytes that are sent; look for a text mode, an editor or a proxy that changes line breaks.",
    ),
    "line_breaks_dropped": (
        "The body was signed with its line breaks and sent without them, as curl -d @file does.",
        "Send the file with curl --data-binary @file.",
    ),
    "bom": (
        "A byte order mark before the body was signed but not sent, or sent but not signed.",
        "Write the body as UTF-8 without a byte order mark.",
    ),
    "reserialised": (
        "The JSON was written anew after it was signed: the same content with other blanks, order of keys or escapes.",
        "Make the bytes once, sign these, and send these same bytes; a client that is given an object writes it anew.",
    ),
    # Where it ends.
    "none": (
        "None of your secrets signed this.",
        "Compare the secret of the client with the current one, by giving it to the client anew, and look whether "
        "something between client and service changes the body.",
    ),
    "body_cut": (
        "Only the first part of the body was kept, so it cannot be told who signed it.",
        "Send a small alert from the same client and look at that one.",
    ),
    "valid_now": (
        "The signature is right. When the request came the tenant was disabled, or the service did not know this "
        "secret yet.",
        "Send it again.",
    ),
    "secret_added_later": (
        "The signature is right now: the secret that made it was added after this request had come.",
        "Send it again.",
    ),
    "not_the_signature": (
        "The signature is not why this was refused: {why}.",
        "The message of the delivery says more; the sender was told the same.",
    ),
    "not_looked_at": (
        "It was refused before anybody looked at the signature: {why}.",
        "The message of the delivery says more; the sender was told the same.",
    ),
}
# Said beside a mistake in the header where the rest does not fit either.
BESIDES = {"none": "Besides, none of your secrets signed this.", "body_cut": WORDS["body_cut"][0]}
WRITTEN_ANEW = {"reserialised", "line_breaks_dropped"}
UNAUTHORIZED = "unauthorized"
# Checked at the edge, before the signature.
BEFORE = {
    "rate_limited": "too many requests came from its address",
    "too_large": "the body is larger than is taken",
    "unsupported_encoding": "the body came compressed",
}
# Checked after the signature.
AFTER = {
    "invalid_json": "the body could not be read as JSON",
    "not_an_object": "the body is JSON, but no object",
    "duplicate_key": "a key stands twice in one object",
    "invalid_number": "a number in the body is none that JSON has",
    "too_deep": "the body is nested too deeply",
    "validation_error": "fields of the alert are missing or wrong",
    "evidence_too_large": "the evidence is too large",
}


# ---------------------------------------------------------------- the examination


def examine(refused: Refused, keys: Sequence[Key]) -> Finding:
    """What was wrong with the signature of a refused canonical delivery, as far as these secrets can tell."""
    if refused.reason in BEFORE:
        return _finding(["not_looked_at"], why=BEFORE[refused.reason])
    if refused.reason != UNAUTHORIZED:
        return _finding(["not_the_signature"], why=AFTER.get(refused.reason, "there was another reason"))
    header = (refused.header or "").strip()
    if not header.strip("\"' "):
        return _finding(["header_missing"])
    # Live ones first: where a value was used twice it is the live one that counts.
    tried = sorted(keys, key=lambda key: (key.ended(refused.received_at), -key.added.timestamp()))[:MAX_SECRETS]
    given = _read(header)
    if any(_is_sent(key.value, header) for key in tried):
        return _finding(["secret_sent"])
    found = next(_explanations(given, refused, tried), None)
    return _explained(given, *found, refused) if found else _unexplained(given, refused.cut)


def _explained(given: "_Given", mistakes: list[str], key: Key | None, refused: Refused) -> Finding:
    mistakes = [*given.mistakes, *mistakes]
    if key and key.ended(refused.received_at):
        return _finding([*mistakes, "previous_secret"], ended=f"{key.ends:%Y-%m-%d %H:%M} UTC")
    if mistakes:
        return _finding(mistakes)
    later = key is not None and key.added > refused.received_at
    return _finding(["secret_added_later" if later else "valid_now"])


def _unexplained(given: "_Given", cut: bool) -> Finding:
    """What the header tells by itself, and that the rest does not fit, or cannot be told."""
    rest = "body_cut" if cut else "none"
    if len(given.digits) == SHA256_DIGITS:
        found = _finding(given.mistakes or [rest])
        return replace(found, sentence=f"{found.sentence} {BESIDES[rest]}") if given.mistakes else found
    # One of another length fits no secret anyway.
    if not given.digits:
        return _finding(given.mistakes)
    other = len(given.digits) in ALGORITHMS.values()
    return _finding([*given.mistakes, "other_algorithm" if other else "wrong_length"])


def _finding(mistakes: Sequence[str], **filled: str) -> Finding:
    said = [WORDS[mistake][0].format(**filled) for mistake in mistakes]
    advice = dict.fromkeys(WORDS[mistake][1] for mistake in mistakes)  # two mistakes may need the same
    return Finding("+".join(mistakes), " ".join(said), " ".join(advice))


# ---------------------------------------------------------------- the header


@dataclass(frozen=True)
class _Given:
    """What the header holds: the signature in hex (empty: none), and what is wrong with how it is written."""

    digits: str
    mistakes: tuple[str, ...] = ()


def _read(header: str) -> _Given:
    named = _NAMED.match(header)
    rest = header[named.end() :] if named else header
    if _HEX.fullmatch(rest):
        return _Given(rest.lower(), _prefix_mistake(named, len(rest)))
    if within := _WITHIN.search(header):
        return _Given(within[0].lower(), ("extra_text",))
    raw = _from_base64(rest) or b""
    if len(raw) == SHA256_DIGITS and _HEX.fullmatch(raw.decode("latin-1")):
        return _Given(raw.decode().lower(), (*_prefix_mistake(named, len(raw)), "base64_of_hex"))
    if 2 * len(raw) in (SHA256_DIGITS, *ALGORITHMS.values()):
        return _Given(raw.hex(), (*_prefix_mistake(named, 2 * len(raw)), "base64"))
    return _Given("", ("not_a_signature",))


def _prefix_mistake(named: re.Match[str] | None, digits: int) -> tuple[str, ...]:
    if named is None:
        return ("prefix_missing",)
    # Another algorithm's name before a signature of its length is a mistake of the algorithm.
    ours = digits == SHA256_DIGITS or "256" in named[1]
    return ("prefix_wrong",) if ours and named[0] != PREFIX else ()


def _from_base64(text: str) -> bytes | None:
    """What is behind standard or url-safe base64, with or without its padding; None for what is none."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_sent(secret: str, header: str) -> bool:
    named = _NAMED.match(header)
    whole = secret in (header, header[named.end() :] if named else "")
    return whole or (len(secret) >= LEAST_HEX and secret in header)


# ---------------------------------------------------------------- what may have been signed


def _explanations(given: _Given, refused: Refused, keys: Sequence[Key]) -> Iterator[tuple[list[str], Key | None]]:
    """The mistakes that give this signature, and the secret it was made with (None: with none)."""
    for text_mistakes, text in [(["empty_body_signed"], b"")] if refused.cut else _texts(refused.body):
        for key in keys:
            # The body written anew in all ways by a secret misread in all ways would be too much to try.
            misread = not set(text_mistakes) & WRITTEN_ANEW
            for key_mistakes, value in _readings(key.value) if misread else [([], key.value.encode())]:
                made = _made(given.digits, value, text)
                if made is not None:
                    yield [*made, *key_mistakes, *text_mistakes], key
            if misread and (other := _made_without_hmac(given.digits, key.value.encode(), text)):
                yield [other, *text_mistakes], key
        if given.digits == hmac.digest(b"", text, "sha256").hex():
            yield ["secret_empty", *text_mistakes], None
        if given.digits == hashlib.sha256(text).hexdigest():
            yield ["plain_hash_of_body", *text_mistakes], None


def _made(digits: str, secret: bytes, text: bytes) -> list[str] | None:
    """What is wrong with the signature, when it is an HMAC of the text or the first part of one; else None."""
    right = hmac.digest(secret, text, "sha256").hex()
    if digits == right:
        return []
    for name, length in ALGORITHMS.items():
        if len(digits) == length and digits == hmac.digest(secret, text, name).hex():
            return ["other_algorithm"]
    return ["truncated"] if len(digits) >= LEAST_HEX and right.startswith(digits) else None


def _made_without_hmac(digits: str, secret: bytes, text: bytes) -> str | None:
    if digits in (hashlib.sha256(secret + text).hexdigest(), hashlib.sha256(text + secret).hexdigest()):
        return "plain_hash"
    return "swapped" if digits == hmac.digest(text, secret, "sha256").hex() else None


def _readings(secret: str) -> Iterator[tuple[list[str], bytes]]:
    """The secret, and what clients make of it."""
    yield [], secret.encode()
    for end in ("\n", "\r\n"):
        yield ["secret_newline"], (secret + end).encode()
    for quoted in (f'"{secret}"', f"'{secret}'", f" {secret}", f"{secret} "):
        yield ["secret_quoted"], quoted.encode()
    bare = secret.removeprefix(WEBHOOK_SECRET)
    if bare != secret:
        yield ["secret_without_prefix"], bare.encode()
    for text in dict.fromkeys((secret, bare)):
        if re.fullmatch(r"([0-9A-Fa-f]{2})+", text):
            yield ["secret_hex_decoded"], bytes.fromhex(text)
        if raw := _from_base64(text):
            yield ["secret_base64_decoded"], raw


def _texts(body: bytes) -> Iterator[tuple[list[str], bytes]]:
    """The body, and what else may have been signed instead of it; each text once."""
    seen = set()
    for mistakes, text in _changed(body):
        if text not in seen:
            seen.add(text)
            yield mistakes, text


def _changed(body: bytes) -> Iterator[tuple[list[str], bytes]]:
    yield [], body
    yield ["empty_body_signed"], b""
    for end in (b"\n", b"\r\n"):
        yield ["newline_added"], body + end
        yield ["newline_dropped"], body.removesuffix(end)
    for stripped in (body.strip(), body.rstrip(), body.lstrip()):
        yield ["blanks_stripped"], stripped
    lf = body.replace(b"\r\n", b"\n")
    yield ["line_breaks"], lf
    yield ["line_breaks"], lf.replace(b"\n", b"\r\n")
    yield ["bom"], body.removeprefix(BOM)
    yield ["bom"], BOM + body
    sent_without = body.translate(None, b"\r\n") == body
    for text in _written_anew(body):
        dropped = sent_without and text.translate(None, b"\r\n") == body
        yield ["line_breaks_dropped" if dropped else "reserialised"], text


def _written_anew(body: bytes) -> Iterator[bytes]:
    """The JSON of the body as other programs write it, with and without a line break at its end."""
    try:
        value = parse_json(body.removeprefix(BOM))
    except BadBody:
        return
    for layout, sort_keys, ascii_only in product(LAYOUTS, (False, True), (False, True)):
        text = json.dumps(value, sort_keys=sort_keys, ensure_ascii=ascii_only, **layout)
        # As it is, as PHP and as Go escape it.
        for spelled in (text, text.replace("/", r"\/"), text.translate(GO_ESCAPES)):
            raw = spelled.encode("utf-8", "surrogatepass")
            yield raw
            yield raw + b"\n"
