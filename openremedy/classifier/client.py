"""The only room that speaks to a model server (OpenAI's chat completions), and the only importer of openai.

openai's own retries are off: they sleep inside the call for as long as Retry-After says.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletion

from .prompt import MAX_OUTPUT_TOKENS, Message, prompt_tokens
from .shapes import Completion as Completion
from .trouble import BadAnswer as BadAnswer
from .trouble import ModelAway as ModelAway

RESPONSE_BYTES = 1024 * 1024
RETRY_AFTER_LIMIT = 300.0
CONNECT_SECONDS = 5.0
_FORMATS = ("json_schema", "json_object", "none")
_FORMAT_WORDS = re.compile(r"response_format|json_schema|json_object|structured|schema|grammar", re.IGNORECASE)
# Some builds of llama.cpp and vLLM answer 500 to a format they do not know; any other 500 is a server in trouble.
_BROKEN_BY_FORMAT = re.compile(r"response_format|json_schema|grammar error", re.IGNORECASE)
# The question is too long for the model: no other form of it is shorter.
_TOO_LONG = re.compile(r"context (?:length|size|window)|context_length", re.IGNORECASE)
_AZURE = re.compile(r"\.azure\.(?:com|us|cn)$")


class ModelClient:
    """One server and model. Make it, use it and close it within one event loop."""

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        model: str | None,
        timeout: float,
        max_output_tokens: int = MAX_OUTPUT_TOKENS,
        response_bytes: int = RESPONSE_BYTES,
    ) -> None:
        self._model = model or None
        self._max_output_tokens = max_output_tokens
        self._choosing = asyncio.Lock()
        self._quirks = _Quirks()
        address = httpx2.URL(base_url or "https://api.openai.com/v1")
        # With each request, because the library lets nobody leave out its own header for good.
        self._headers = _azure_key(address, api_key)
        self._openai = openai.AsyncOpenAI(
            base_url=str(address.copy_with(query=None)),
            api_key=api_key or "none",
            default_query=dict(address.params),
            max_retries=0,
            http_client=_http_client(timeout, response_bytes),
        )
        # Taken from the environment by the library; settings come from one place here.
        self._openai.organization = None
        self._openai.project = None

    async def close(self) -> None:
        await self._openai.close()

    async def complete(self, messages: Sequence[Message], schema: dict[str, Any]) -> Completion:
        """One reply; raises ModelAway or BadAnswer. Repeats only what the server refused to understand."""
        started = time.monotonic()
        model = await self._chosen_model()
        reply = await self._understood(model, messages, schema)
        return _completion(reply, model, messages, round((time.monotonic() - started) * 1000))

    async def _understood(self, model: str, messages: Sequence[Message], schema: dict[str, Any]) -> Any:
        # At most as many refusals as there are steps to fall back.
        for _ in range(_Quirks.STEPS):
            quirks = self._quirks
            try:
                return await self._send(model, messages, quirks.arguments(schema, self._max_output_tokens))
            except _Refused as refused:
                gentler = quirks.after(refused.message)
                if gentler is None:
                    problem = f"The model server refused the request ({refused.status})."
                    raise BadAnswer(problem, final=True) from refused
                # Several calls may be refused at once; none of them may undo what another has learned.
                self._quirks = self._quirks.merged(gentler)
        raise ModelAway("The model server refuses every form of the request.")

    async def _send(self, model: str, messages: Sequence[Message], arguments: dict[str, Any]) -> Any:
        chat: Any = [dict(message) for message in messages]
        try:
            return await self._openai.chat.completions.create(
                model=model, messages=chat, extra_headers=self._headers, **arguments
            )
        except _TooLarge as error:
            raise BadAnswer(str(error), tokens=prompt_tokens(messages)) from error
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError) and _is_refusal(error):
                raise _Refused(error.message, error.status_code) from error
            away = _away(error)
            # Whoever accepted the question and did not answer in time may still charge for it.
            away.tokens = prompt_tokens(messages) if _was_sent(error) else 0
            raise away from error
        except (ValueError, AttributeError, TypeError) as error:
            # A 200 whose body is not what its headers say; the library does not wrap these.
            raise ModelAway("The model server's reply is not a chat completion.") from error

    async def _chosen_model(self) -> str:
        async with self._choosing:
            if self._model is None:
                self._model = await self._first_model()
            return self._model

    async def _first_model(self) -> str:
        """Servers with one model list it; those without a list take any name."""
        try:
            listed = await self._openai.models.list(extra_headers=self._headers)
            return str(listed.data[0].id)
        except openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                return "default"
            raise _away(error) from error
        except openai.OpenAIError as error:
            raise _away(error) from error
        except (ValueError, AttributeError, TypeError, IndexError):
            return "default"


def _azure_key(address: httpx2.URL, api_key: str | None) -> dict[str, Any]:
    """Azure takes a key in a header of its own; a token of Entra ID (a JWT) goes as a bearer, as everywhere.

    https://learn.microsoft.com/azure/ai-foundry/openai/reference#authentication
    """
    if not (api_key and _AZURE.search(address.host)) or api_key.startswith("eyJ"):
        return {}
    return {"api-key": api_key, "Authorization": openai.Omit()}


class _Quirks:
    """What this server has refused to understand so far."""

    STEPS = 5

    def __init__(self, response_format: int = 0, temperature: bool = True, old_limit: bool = True) -> None:
        self._format = response_format
        self._temperature = temperature
        self._old_limit = old_limit

    def arguments(self, schema: dict[str, Any], limit: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {"max_tokens" if self._old_limit else "max_completion_tokens": limit}
        if self._temperature:
            arguments["temperature"] = 0
        name = _FORMATS[self._format]
        if name == "json_schema":
            wrapped = {"name": "verdict", "strict": True, "schema": schema}
            arguments["response_format"] = {"type": name, "json_schema": wrapped}
        if name == "json_object":
            arguments["response_format"] = {"type": name}
        return arguments

    def after(self, refusal: str) -> "_Quirks | None":
        """Without the thing the refusal names; None if it names nothing we can leave out."""
        if _TOO_LONG.search(refusal):
            return None
        if self._old_limit and "max_tokens" in refusal:
            return _Quirks(self._format, self._temperature, False)
        if self._temperature and "temperature" in refusal:
            return _Quirks(self._format, False, self._old_limit)
        if self._format < len(_FORMATS) - 1 and _FORMAT_WORDS.search(refusal):
            return _Quirks(self._format + 1, self._temperature, self._old_limit)
        return None

    def merged(self, other: "_Quirks") -> "_Quirks":
        return _Quirks(
            max(self._format, other._format),
            self._temperature and other._temperature,
            self._old_limit and other._old_limit,
        )


# ---- replies


def _completion(reply: Any, model: str, messages: Sequence[Message], latency_ms: int) -> Completion:
    if not isinstance(reply, ChatCompletion) or not reply.choices:
        raise ModelAway("The model server's reply is not a chat completion (a web page, or an error with status 200).")
    choice = reply.choices[0]
    text = _text_in(choice.message)
    spent = _spent(reply, messages, text)
    problem = _unusable(choice, text)
    if problem:
        raise BadAnswer(problem, text=text, tokens=sum(spent))
    return Completion(text, reply.model or model, *spent, latency_ms)


def _text_in(message: Any) -> str:
    """The answer without the reasoning, which some servers send as parts of the content."""
    content = getattr(message, "content", None) or ""
    if not isinstance(content, list):
        return str(content)
    return "".join(
        str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("type") == "text"
    )


def _unusable(choice: Any, text: str) -> str | None:
    if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
        return "The model refused to answer."
    if choice.finish_reason == "length":
        return "The answer was cut off; it must be shorter."
    return None if text.strip() else "The answer was empty."


def _spent(reply: ChatCompletion, messages: Sequence[Message], text: str) -> tuple[int, int]:
    """Prompt and answer; estimated for servers that do not say, because free would leave the budget open."""
    usage = reply.usage
    prompt = getattr(usage, "prompt_tokens", None) or prompt_tokens(messages)
    answer = getattr(usage, "completion_tokens", None) or len(text) // 2
    return int(prompt), int(answer)


# ---- troubles


def _away(error: openai.OpenAIError) -> ModelAway:
    if isinstance(error, openai.APITimeoutError):
        return ModelAway("The model server did not answer in time.")
    if isinstance(error, openai.APIStatusError):
        return _away_by_status(error)
    if isinstance(error, openai.APIConnectionError):
        return ModelAway("The model server cannot be reached.")
    return ModelAway(f"The model client failed: {type(error).__name__}.")


def _was_sent(error: openai.OpenAIError) -> bool:
    return isinstance(error, openai.APITimeoutError) and not isinstance(error.__cause__, httpx2.ConnectTimeout)


def _away_by_status(error: openai.APIStatusError) -> ModelAway:
    status = error.status_code
    if status in (401, 403):
        return ModelAway(f"The model server refused the key ({status}).")
    if status == 404:
        return ModelAway("The model server knows no such address or model (404).")
    if status == 429:
        return ModelAway("The model server limits our requests (429).", _retry_after(error))
    if status < 400:
        return ModelAway(f"The model server answers with a redirect ({status}), which is not followed.")
    return ModelAway(f"The model server answers {status}.", _retry_after(error))


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds or an HTTP date, within bounds; None when absent or unreadable."""
    said = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", said):
        return min(float(said), RETRY_AFTER_LIMIT)
    try:
        moment = parsedate_to_datetime(said)
    except ValueError:
        return None
    # A date without a zone is UTC in HTTP.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_LIMIT)


class _Refused(Exception):
    """The server does not understand the request; its words say what of it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def _is_refusal(error: openai.APIStatusError) -> bool:
    if error.status_code in (400, 422):
        return True
    return error.status_code in (500, 501) and bool(_BROKEN_BY_FORMAT.search(error.message))


# ---- the wire


class _TooLarge(openai.OpenAIError):
    """An OpenAIError, because the library passes its own kind through unwrapped."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._inner:
            seen += len(chunk)
            if seen > self._limit:
                raise _TooLarge(f"The reply is larger than {self._limit} bytes.")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Counts what arrives. Compressed replies are not accepted: a small one may unpack to any size."""

    def __init__(self, limit: int, **options: Any) -> None:
        super().__init__(**options)
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise _TooLarge("The reply is compressed although we asked for plain.")
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # nosec B101 # noqa: S101 - for mypy
        response.stream = _Bounded(response.stream, self._limit)
        return response


def _http_client(timeout: float, response_bytes: int) -> httpx2.AsyncClient:
    # How many calls run at once is the caller's decision; a pool limit would only make them time out here.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
    return httpx2.AsyncClient(
        transport=_BoundedTransport(response_bytes, limits=limits, trust_env=False),
        timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        trust_env=False,
        follow_redirects=False,
    )
