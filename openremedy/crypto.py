"""Secrets: made here, encrypted at rest when we must read them again, hashed when we must not."""

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.fernet import Fernet, MultiFernet

# Prefixes let a secret scanner recognise ours in a repository or a log.
WEBHOOK_SECRET = "orwh_"  # nosec B105 # noqa: S105 - a prefix, not a secret
API_TOKEN = "ort_"  # nosec B105 # noqa: S105 - the same
SOURCE_TOKEN = "ors_"  # nosec B105 # noqa: S105 - the same


def generate(prefix: str) -> str:
    """A new secret: the prefix and 32 random bytes as url-safe text."""
    return prefix + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What we keep of a token of ours: it has 256 random bits, so a plain SHA-256 is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Vault:
    """Encrypts with the first key and decrypts with any, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def lock(self, plain: str) -> str:
        """The ciphertext of `plain`, as text."""
        return self._fernet.encrypt(plain.encode()).decode()

    def unlock(self, locked: str) -> str:
        """The text behind `locked`. Raises cryptography.fernet.InvalidToken when no key fits."""
        return self._fernet.decrypt(locked.encode()).decode()
