"""Looks for secrets in all that the test run puts out: answers, log lines, logs of processes, jobs in Redis.

A secret is known from the moment at which it is made, sealed or hashed, or given to an application as a setting. It
fails the test in which it is seen, except where an endpoint is there to show it (SHOWS).
"""

import logging
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask, Response, request
from redis import Redis
from sqlalchemy import make_url

from config import Settings
from openremedy import crypto, logs, signing

SHORTEST = 12  # characters; what is shorter is a word that may stand anywhere
SHORTEST_TEXT = 20  # the same for one with blanks in it
MARKUP = set("<{[$(")  # with these the hostile corpus goes into every field, also into those of secrets
# Whole words are looked up, so ten thousand secrets cost no more than one.
WORD = re.compile(rf"[\w-]{{{SHORTEST},}}", re.ASCII)
OURS = re.compile(rf"(?:{crypto.WEBHOOK_SECRET}|{crypto.API_TOKEN}|{crypto.SOURCE_TOKEN})[\w-]{{20,}}", re.ASCII)
KEPT_LINES = 40  # characters around one that is found; the secret itself is masked

# Endpoints that show a secret, for that is what they are for: once, where it is made, or again to somebody who has just
# given the password.
SHOWS = frozenset(
    {
        "POST api.add_source",
        "POST api.rotate_source",
        "POST ui.add_source",
        "POST ui.admin_create_tenant",
        "POST ui.admin_invite",
        "POST ui.admin_reset_link",
        "POST ui.create_token",
        "POST ui.invite_member",
        "POST ui.reveal_secret",
        "POST ui.rotate_secret",
        "POST ui.rotate_source",
        "GET ui.link",
        "POST ui.take_link",
    }
)


class Watch:
    """What is secret, and what has been seen of it."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}  # secrets that are one word: what they are
        self.texts: dict[str, str] = {}  # others
        self.proofs: set[str] = set()  # signatures that would be accepted; nothing for a log
        self.seen: list[str] = []
        self.shown: set[str] = set()  # of SHOWS, what has shown one

    def learn(self, secret: str | None, what: str) -> None:
        """From here on it must not be seen."""
        plain = (secret or "").rstrip("=")
        if WORD.fullmatch(plain):
            self.words[plain] = what
        elif len(plain) >= SHORTEST_TEXT and not set(plain) & MARKUP:
            self.texts[plain] = what

    def found(self, text: str, log: bool = False) -> list[str]:
        """What of it is a secret, in words that do not tell it."""
        known = [(word, self.words[word]) for word in WORD.findall(text) if word in self.words]
        known += [(secret, what) for secret, what in self.texts.items() if secret in text]
        if log:
            known += [(word, "an expected signature") for word in WORD.findall(text) if word in self.proofs]
            known += [(word, "a secret by its prefix") for word in OURS.findall(text)]
        return [f"{what}: {_around(text, secret)}" for secret, what in known]

    def look(self, text: str, where: str, log: bool = False) -> None:
        """Remember what of it is a secret."""
        self.seen += [f"{where}: {one}" for one in self.found(text, log)]

    def log_of(self, file: Path) -> None:
        """What a process has written."""
        if file.exists():
            for line in file.read_text(errors="replace").splitlines():
                self.look(line, file.name, log=True)

    def take(self) -> list[str]:
        """What was seen since the last time."""
        seen, self.seen = self.seen, []
        return list(dict.fromkeys(seen))


def _around(text: str, secret: str) -> str:
    position = text.index(secret)
    before, after = text[max(0, position - KEPT_LINES) : position], text[position + len(secret) :][:KEPT_LINES]
    return f"{before}[{len(secret)} characters]{after}"


watch = Watch()


@contextmanager
def watching() -> Iterator[None]:
    """Learn every secret of this process and look at all that it puts out."""
    with pytest.MonkeyPatch.context() as patch:
        _learn(patch)
        _look(patch)
        yield


def _learn(patch: pytest.MonkeyPatch) -> None:
    urlsafe = secrets.token_urlsafe

    def made(size: int | None = None) -> str:
        token = urlsafe(size)
        watch.learn(token, "a generated secret")
        return token

    def generated(prefix: str) -> str:
        token = generate(prefix)
        watch.learn(token, f"a secret {prefix}")
        return token

    def signed(secret: bytes, body: bytes) -> str:
        signature = sign(secret, body)
        watch.proofs.add(signature.removeprefix(signing.PREFIX))
        return signature

    generate, sign = crypto.generate, signing.sign
    patch.setattr(secrets, "token_urlsafe", made)
    patch.setattr(crypto, "generate", generated)
    patch.setattr(signing, "sign", signed)
    _first_argument(patch, crypto.Vault, "lock", "a sealed secret")
    _first_argument(patch, PasswordHasher, "hash", "a password")


def _first_argument(patch: pytest.MonkeyPatch, owner: type, name: str, what: str) -> None:
    before = getattr(owner, name)

    @wraps(before)
    def learning(self: Any, plain: str, *rest: Any) -> Any:
        watch.learn(plain, what)
        return before(self, plain, *rest)

    patch.setattr(owner, name, learning)


def of_settings(settings: Settings) -> None:
    """What an application is given."""
    given = {
        "SECRET_KEY": [settings.secret_key],
        "ENCRYPTION_KEYS": settings.encryption_keys,
        "OPENAI_API_KEY": [settings.openai_api_key],
        "METRICS_TOKEN": [settings.metrics_token],
        "OIDC_CLIENT_SECRET": [settings.oidc_client_secret],
        "a database's password": [make_url(settings.database_url).password],
    }
    for name, values in given.items():
        for value in values:
            watch.learn(value, name)


def _look(patch: pytest.MonkeyPatch) -> None:
    write, emit, finalize = logs._StandardError.write, logging.StreamHandler.emit, Flask.finalize_request

    def written(self: Any, text: str) -> None:
        watch.look(text, "a log line", log=True)
        write(self, text)

    def emitted(self: Any, record: logging.LogRecord) -> None:
        watch.look(self.format(record), "a log line", log=True)
        emit(self, record)

    def finalized(self: Flask, value: Any, *rest: Any, **more: Any) -> Response:
        return _answered(finalize(self, value, *rest, **more))

    patch.setattr(logs._StandardError, "write", written)
    patch.setattr(logging.StreamHandler, "emit", emitted)
    patch.setattr(Flask, "finalize_request", finalized)


def _answered(response: Response) -> Response:
    where = f"{request.method} {request.endpoint}"
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers if name != "Set-Cookie")
    told = watch.found(headers)
    if response.direct_passthrough:
        pass  # a file of the package
    elif response.is_streamed:
        response.response = _each(response.response, where)
    else:
        told += watch.found(response.get_data(as_text=True))
    if where in SHOWS:
        watch.shown |= {where} if told else set()
    else:
        watch.seen += [f"{where}: {one}" for one in told]
    return response


def _each(chunks: Iterable[Any], where: str) -> Iterator[Any]:
    for chunk in chunks:
        watch.look(chunk if isinstance(chunk, str) else chunk.decode("utf-8", "replace"), where)
        yield chunk


def of_redis(client: Redis) -> None:
    """What stands in Redis, the jobs' compressed parts too."""
    for key in client.scan_iter():
        for value in _values(client, key):
            with suppress(zlib.error):
                value = zlib.decompress(value)
            watch.look(value.decode("utf-8", "replace"), f"{key.decode('utf-8', 'replace')} in Redis")


def _values(client: Redis, key: bytes) -> list[bytes]:
    match client.type(key):
        case b"string":
            return [client.get(key) or b""]
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return client.zrange(key, 0, -1)
    return []
