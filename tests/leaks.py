"""Looks for secrets in all that the test run puts out: answers, log lines, commands, processes' logs, jobs in Redis.

A secret is known from the moment at which it is made, sealed, hashed or checked, or given to an application as a
setting. It fails the test in which it is seen, except where something is there to show secrets of its kind (SHOWS).
"""

import hmac
import json
import logging
import re
import secrets
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import flask_wtf.csrf
import pytest
from argon2 import PasswordHasher
from flask import Flask, Response, request, session
from flask.testing import FlaskCliRunner
from redis import Redis
from rq.job import Job
from sqlalchemy import make_url

from config import Settings
from openremedy import crypto, logs, people, signing

SHORTEST = 12  # characters; what is shorter is a word that may stand anywhere
SHORTEST_TEXT = 20  # the same for one with blanks in it
MARKUP = set("<{[$(")  # with these the hostile corpus goes into every field, also into those of secrets
AROUND = 40  # characters told on both sides of one that is found; it and others near it are masked

# Whole words are looked up, so ten thousand secrets cost no more than one.
WORD = re.compile(rf"[\w-]{{{SHORTEST},}}", re.ASCII)
# What JSON and URLs put in front of a word would else be taken for its beginning.
ESCAPES = re.compile(r'\\u[0-9a-fA-F]{4}|\\[a-z"\\/]|%[0-9a-fA-F]{2}')

WEBHOOK, API, SOURCE = "a webhook secret", "an API token", "a source's token"
LINK, SIGN_IN, SEALED, PASSWORD = "a link's token", "a sign-in's token", "a sealed secret", "a password"
MADE, TRIED = "a generated secret", "a token that was tried"
WEAK = {MADE, TRIED}  # whoever knows better what it is says so afterwards
PREFIXES = {crypto.WEBHOOK_SECRET: WEBHOOK, crypto.API_TOKEN: API, crypto.SOURCE_TOKEN: SOURCE}
OURS = re.compile(rf"(?:{'|'.join(PREFIXES)})[\w-]{{20,}}", re.ASCII)

_digest = hmac.digest  # itself: tests count the calls of the one in the module

# What is there to show a secret, and of which kinds: once, where it is made, or again to somebody who has just given
# the password. tests/test_leaks.py holds each of them to be needed.
SHOWS: Mapping[str, frozenset[str]] = {
    "POST api.add_source": frozenset({SOURCE}),
    "POST api.rotate_source": frozenset({SOURCE}),
    "POST ui.add_source": frozenset({SOURCE}),
    "POST ui.rotate_source": frozenset({SOURCE}),
    "POST ui.admin_create_tenant": frozenset({WEBHOOK}),
    "POST ui.reveal_secret": frozenset({WEBHOOK}),
    "POST ui.rotate_secret": frozenset({WEBHOOK}),
    "POST ui.create_token": frozenset({API}),
    "POST ui.add_endpoint": frozenset({SEALED}),  # what signs its messages, as the Standard Webhooks write it
    "POST ui.rotate_endpoint": frozenset({SEALED}),
    "POST ui.admin_invite": frozenset({LINK}),
    "POST ui.admin_reset_link": frozenset({LINK}),
    "POST ui.invite_member": frozenset({LINK}),
    "GET ui.link": frozenset({LINK}),
    "POST ui.take_link": frozenset({LINK}),
    "flask tenant create": frozenset({WEBHOOK, SEALED}),
    "flask tenant rotate-secret": frozenset({WEBHOOK}),
    "flask source add": frozenset({SOURCE}),
    "flask source rotate": frozenset({SOURCE}),
    "flask outgoing add": frozenset({SEALED}),
    "flask outgoing rotate": frozenset({SEALED}),
    "flask token create": frozenset({API}),
    "flask user link": frozenset({LINK}),
    "flask demo": frozenset({PASSWORD}),  # of the people that it makes up
}
GROUPS = {name.split()[1] for name in SHOWS if name.startswith("flask ")} | {"recipe", "classify"}
# What a session is there to hold; everything else in it is for a browser to read.
OF_A_SESSION = {"sign_in", "csrf_token", "oidc"}
# The launcher's own lines at its first start, apart from those of the programs that it runs.
FIRST_STEPS = re.compile(r"  (?:webhook secret  |viewer token    |curl |http)")


class Watch:
    """What is secret, and what has been seen of it."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}  # secrets that are one word: of what kind they are
        self.texts: dict[str, str] = {}  # others, as they stand in text, HTML, JSON and URLs
        self.proofs: dict[str, str] = {}  # what proves something in this test; an answer may show it, a log not
        self.seen: list[str] = []
        self.shown: set[tuple[str, str]] = set()  # of SHOWS, what has shown which kind
        self.public: set[str] = set()  # what tests type into every field there is, those of secrets as well

    def learn(self, secret: str | None, kind: str) -> None:
        """From here on it must not be seen. The first kind stands, unless it is a weak one."""
        plain = (secret or "").rstrip("=")
        if plain in self.public:
            return
        kind = next((ours for prefix, ours in PREFIXES.items() if plain.startswith(prefix)), kind)
        if WORD.fullmatch(plain):
            if self.words.get(plain, MADE) in WEAK:
                self.words[plain] = kind
        elif len(plain) >= (SHORTEST_TEXT if " " in plain else SHORTEST) and not set(plain) & MARKUP:
            forms = (plain, escape(plain), json.dumps(plain)[1:-1], quote(plain, safe=""), quote_plus(plain))
            self.texts |= dict.fromkeys(forms, kind)

    def found(self, text: str, log: bool = False) -> list[tuple[str, str]]:
        """The kinds of secrets in it, and where, in words that do not tell them."""
        bare = ESCAPES.sub(" ", text)
        words = WORD.findall(bare)
        known = {word: self.words[word] for word in words if word in self.words}
        known |= {secret: kind for secret, kind in self.texts.items() if secret in text}
        if log:
            known |= {word: self.proofs[word] for word in words if word in self.proofs}
            known |= {word: PREFIXES[word[: word.index("_") + 1]] for word in OURS.findall(bare)}
        return [(kind, _around(text, secret, known)) for secret, kind in known.items()]

    def look(self, text: str, where: str, log: bool = False) -> None:
        """Remember what of it is a secret that may not be shown there."""
        for kind, told in self.found(text, log):
            if kind in SHOWS.get(where, ()):
                self.shown.add((where, kind))
            else:
                self.seen.append(f"{where}: {kind}: {told}")

    def log_of(self, file: Path) -> None:
        """What a process has written."""
        if file.is_file():  # and not a device, which a test may have put in its place
            for line in file.read_text(errors="replace").splitlines():
                self.look(line, file.name, log=True)

    def command(self, words: Sequence[str], output: str) -> None:
        """What `flask WORDS` has printed."""
        names = list(takewhile(lambda word: not word.startswith("-"), words))
        count = 2 if names and names[0] in GROUPS else 1
        self.look(output, " ".join(["flask", *names[:count]]), log=True)

    def launcher(self, output: str, data_dir: Path) -> None:
        """What `make run` has printed; the keys that it keeps in its folder may stand nowhere."""
        for name in ("secret_key", "encryption_keys"):
            if (file := data_dir / name).exists():
                self.learn(file.read_text().strip(), name.upper())
        for line in output.splitlines():
            self.look(line, "make run", log=not FIRST_STEPS.match(line))

    def take(self) -> list[str]:
        """What was seen since the last time."""
        seen, self.seen = self.seen, []
        self.proofs.clear()
        return list(dict.fromkeys(seen))

    def report(self) -> None:
        """Fail for what was seen."""
        if seen := self.take():
            pytest.fail("A secret was put out:\n" + "\n".join(seen), pytrace=False)


def _around(text: str, secret: str, known: Iterable[str]) -> str:
    parts = text.partition(secret)
    for other in sorted(known, key=len, reverse=True):
        parts = tuple(part.replace(other, "[another]") for part in parts)
    return " ".join(f"{parts[0][-AROUND:]}[{len(secret)} characters]{parts[2][:AROUND]}".split())


watch = Watch()


@contextmanager
def watching() -> Iterator[None]:
    """Learn every secret of this process and look at all that it puts out."""
    with pytest.MonkeyPatch.context() as patch:
        _learn(patch)
        _look(patch)
        yield
        watch.report()  # what servers of the whole run have logged until their end


# ---------------------------------------------------------------- what is secret


def _learn(patch: pytest.MonkeyPatch) -> None:
    _after(patch, secrets, "token_urlsafe", lambda made, *_: watch.learn(made, MADE))
    _after(patch, crypto, "generate", lambda made, *_: watch.learn(made, MADE))
    _after(patch, people, "make_link", lambda made, *_: watch.learn(made, LINK))
    _after(patch, people, "let_in", lambda made, *_: watch.learn(made, SIGN_IN))
    _before(patch, crypto, "hashed", lambda token: watch.learn(token, TRIED))
    _before(patch, crypto.Vault, "lock", lambda _, plain: watch.learn(plain, SEALED))
    _before(patch, PasswordHasher, "hash", lambda _, password, *__: watch.learn(password, PASSWORD))
    _before(patch, PasswordHasher, "verify", lambda _, __, tried: watch.learn(tried, "a password that was tried"))
    _after(patch, Settings, "__init__", lambda _, settings, *__: of_settings(settings))
    _after(patch, signing, "matching", _of_refused)
    _after(patch, hmac, "digest", lambda made, *_: _proof(made.hex(), "an expected signature"))
    _after(patch, hmac, "new", lambda made, *_: _proof(made.hexdigest(), "an expected signature"))
    _after(patch, flask_wtf.csrf, "generate_csrf", lambda made, *_: _proof(made, "a form's token"))


def _before(patch: pytest.MonkeyPatch, owner: Any, name: str, learn: Callable[..., None]) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def learning(*given: Any, **named: Any) -> Any:
        learn(*given)
        return function(*given, **named)

    patch.setattr(owner, name, learning)


def _after(patch: pytest.MonkeyPatch, owner: Any, name: str, learn: Callable[..., None]) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def learning(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        learn(result, *given)
        return result

    patch.setattr(owner, name, learning)


def _proof(text: str, kind: str) -> None:
    watch.proofs |= dict.fromkeys(WORD.findall(text), kind)


def _of_refused(position: int | None, keys: Sequence[bytes], body: bytes, _header: str | None) -> None:
    """The right signature of a body that came with a wrong one: who is told it, is let in."""
    for key in keys if position is None else ():
        watch.learn(_digest(key, body, "sha256").hex(), "the signature that a refused body should have had")


def of_settings(settings: Settings) -> None:
    """What an application is given."""
    given = {
        "SECRET_KEY": [settings.secret_key, *settings.secret_key_fallbacks],
        "ENCRYPTION_KEYS": settings.encryption_keys,
        "OPENAI_API_KEY": [settings.openai_api_key],
        "METRICS_TOKEN": [settings.metrics_token],
        "OIDC_CLIENT_SECRET": [settings.oidc_client_secret],
        "a database's password": [make_url(settings.database_url).password],
        "the password of Redis": [urlsplit(settings.redis_url).password],
    }
    for name, values in given.items():
        for value in values:
            watch.learn(value, name)


# ---------------------------------------------------------------- what is put out


def _look(patch: pytest.MonkeyPatch) -> None:
    _before(patch, logs._StandardError, "write", lambda _, text: watch.look(text, "a log line", log=True))
    _before(patch, logging.StreamHandler, "emit", _logged)
    _after(patch, Flask, "finalize_request", lambda response, *_: _answered(response))
    _after(patch, Job, "to_dict", lambda job, *_: _stored(job.values(), "a job"))
    invoke, run = FlaskCliRunner.invoke, subprocess.run

    def invoked(self: Any, cli: Any = None, args: Sequence[str] = (), **more: Any) -> Any:
        done = invoke(self, cli, args, **more)
        watch.command(args, done.output)
        return done

    def ran(command: Any, *rest: Any, **more: Any) -> Any:
        try:
            done = run(command, *rest, **more)
        except subprocess.CalledProcessError as failed:
            _printed(command, failed)
            raise
        _printed(command, done)
        return done

    patch.setattr(FlaskCliRunner, "invoke", invoked)
    patch.setattr(subprocess, "run", ran)


def _logged(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
    watch.look(handler.format(record), "a log line", log=True)


def _printed(command: Any, done: Any) -> None:
    if isinstance(command, list) and "flask" in command:
        words = command[command.index("flask") + 1 :]
        words = words[2:] if words[:1] == ["--app"] else words
        for output in filter(None, (done.stdout, done.stderr)):
            watch.command(words, _text(output))


def _answered(response: Response) -> None:
    where = f"{request.method} {request.endpoint}"
    for cookie in response.headers.getlist("Set-Cookie"):
        for word in WORD.findall(cookie.partition("=")[2].partition(";")[0]):
            watch.learn(word, "a session's cookie")
    kept = {name: value for name, value in session.items() if name not in OF_A_SESSION} if session else {}
    headers = [f"{name}: {value}" for name, value in response.headers if name != "Set-Cookie"]
    watch.look("\n".join([*headers, json.dumps(kept, default=str)]), where)
    if response.direct_passthrough:
        return  # a file of the package
    if response.is_streamed:
        response.response = _each(response.response, where)
    else:
        watch.look(_text(response.get_data()), where)


def _each(chunks: Iterable[Any], where: str) -> Iterator[Any]:
    for chunk in chunks:
        watch.look(_text(chunk), where)
        yield chunk


def of_redis(client: Redis) -> None:
    """What stands in Redis."""
    for key in client.scan_iter():
        _stored([key, *_values(client, key)], f"{_text(key)} in Redis")


def _stored(values: Iterable[Any], where: str) -> None:
    """The jobs' parts are compressed."""
    for value in values:
        if isinstance(value, bytes):
            with suppress(zlib.error):
                value = zlib.decompress(value)
        watch.look(_text(value), where, log=True)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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
