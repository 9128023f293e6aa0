"""The signature of the canonical endpoint: pure bytes in, yes or no out."""

import hmac
import re
from collections.abc import Sequence

HEADER = "X-OpenRemedy-Signature"
PREFIX = "sha256="
# re.ASCII and fullmatch: bytes.fromhex would take blanks, \d would take digits of other scripts.
_HEADER = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)


def sign(secret: bytes, body: bytes) -> str:
    """`sha256=` and the lower-case hex HMAC-SHA256 of `body`: the value of X-OpenRemedy-Signature."""
    return PREFIX + hmac.digest(secret, body, "sha256").hex()


def matching(secrets: Sequence[bytes], body: bytes, header: str | None) -> int | None:
    """Position of the secret that signed `body`, or None.

    Every secret is tried, also after a match and for a malformed header, so that the time tells only the
    number of secrets.
    """
    found = _HEADER.fullmatch(header or "")
    given = bytes.fromhex(found[1]) if found else b""
    position = None
    for index, secret in enumerate(secrets):
        if hmac.compare_digest(hmac.digest(secret, body, "sha256"), given):
            position = index
    return position
