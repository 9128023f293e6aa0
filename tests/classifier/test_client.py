"""The client against a real server on the loopback, through the real library."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from openremedy.classifier.client import RETRY_AFTER_LIMIT, BadAnswer, ModelAway, ModelClient, _Refused
from openremedy.classifier.prompt import messages
from openremedy.classifier.shapes import Completion
from openremedy.classifier.verdict import parse_answer, response_schema
from tests.classifier.examples import CATALOGUE, DISK, subject
from tests.stub_model import StubModel

SLUGS = [recipe.slug for recipe in CATALOGUE[:3]]
MESSAGES = messages(subject(), CATALOGUE[:3], "incident-00")
SCHEMA = response_schema(SLUGS)


def with_client(
    use: Callable[[ModelClient], Coroutine[Any, Any, Any]], url: str, model: str | None = "stub-1", **options: Any
) -> Any:
    async def run() -> Any:
        client = ModelClient(url, options.pop("api_key", None), model, options.pop("timeout", 5.0), **options)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def complete(stub: StubModel, **options: Any) -> Completion:
    answer: Completion = with_client(lambda client: client.complete(MESSAGES, SCHEMA), stub.url, **options)
    return answer


def trouble(behaviour: str, kind: type[Exception], options: dict[str, Any] | None = None, **settings: Any) -> Any:
    with StubModel(behaviour, **(options or {})) as stub, pytest.raises(kind) as caught:
        complete(stub, **settings)
    return caught.value


def test_a_reply_carries_its_text_model_tokens_and_time() -> None:
    with StubModel("good", delay=0.05) as stub:
        reply = complete(stub)
    assert parse_answer(reply.text, SLUGS, DISK).recipe == "disk-full"
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens, reply.tokens) == ("stub-1", 100, 20, 120)
    assert 50 <= reply.latency_ms < 5000


def test_the_request_carries_schema_bounds_and_key() -> None:
    with StubModel("good") as stub:
        complete(stub, api_key="key-1")
        (request,), (headers,) = stub.requests, stub.headers
    assert request["response_format"]["json_schema"] == {"name": "verdict", "strict": True, "schema": SCHEMA}
    assert request["messages"] == MESSAGES
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("stub-1", 0, 2000)
    assert headers["authorization"] == "Bearer key-1"
    assert headers["accept-encoding"] == "identity"


def test_no_key_is_sent_as_none() -> None:
    with StubModel("good") as stub:
        complete(stub)
        assert stub.headers[0]["authorization"] == "Bearer none"


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "stray")
    monkeypatch.setenv("OPENAI_ORG_ID", "stray")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "stray")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with StubModel("good") as stub:
        complete(stub)
        assert "stray" not in str(stub.headers)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("429", "limits our requests"),
        ("500", "answers 500"),
        ("503", "answers 503"),
        ("401", "refused the key"),
        ("404", "no such address or model"),
        ("redirect", "redirect"),
        ("html200", "not a chat completion"),
        ("html-as-json", "not a chat completion"),
        ("error200", "not a chat completion"),
    ],
)
def test_a_server_without_an_answer_is_away(behaviour: str, reason: str) -> None:
    away = trouble(behaviour, ModelAway)
    assert reason in away.reason
    assert away.tokens == 0


def test_each_trouble_costs_one_request() -> None:
    for behaviour in ("429", "500", "redirect"):
        with StubModel(behaviour) as stub:
            with pytest.raises(ModelAway):
                complete(stub)
            assert stub.calls == 1


def test_a_closed_port_is_away() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(ModelAway, match="cannot be reached"):
        with_client(lambda client: client.complete(MESSAGES, SCHEMA), url)


def test_a_hanging_server_is_away_and_the_prompt_is_counted() -> None:
    away = trouble("hang", ModelAway, timeout=0.2)
    assert "in time" in away.reason
    assert away.tokens > 100


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("0", 0),
        ("999999", RETRY_AFTER_LIMIT),
        ("-5", None),
        ("soon", None),
        ("nan", None),
        ("", None),
        # Named: two test processes must collect the same names, also where a second passes between them.
        pytest.param(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0, id="yesterday"),
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), RETRY_AFTER_LIMIT, id="tomorrow"
        ),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_within_bounds(header: str, seconds: float | None) -> None:
    assert trouble("429", ModelAway, {"retry_after": header}).retry_after == seconds


def test_retry_after_as_a_date_is_seconds_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < trouble("429", ModelAway, {"retry_after": soon}).retry_after <= 60


@pytest.mark.parametrize(
    ("behaviour", "problem", "tokens"),
    [("empty", "empty", 120), ("no-content", "empty", 120), ("refusal", "refused", 120), ("truncated", "cut off", 120)],
)
def test_an_unusable_answer_is_bad_and_paid_for(behaviour: str, problem: str, tokens: int) -> None:
    bad = trouble(behaviour, BadAnswer)
    assert problem in bad.problem
    assert bad.tokens == tokens


@pytest.mark.parametrize("behaviour", ["10mb", "bomb"])
def test_an_oversized_answer_is_not_read(behaviour: str) -> None:
    assert trouble(behaviour, BadAnswer).tokens > 0


def test_the_size_limit_counts_what_arrives() -> None:
    bad = trouble("good", BadAnswer, response_bytes=100)
    assert "larger than 100 bytes" in bad.problem


def test_a_refused_request_is_final() -> None:
    with StubModel("400") as stub:
        with pytest.raises(BadAnswer) as caught:
            complete(stub)
        assert (caught.value.final, stub.calls) == (True, 1)


def test_usage_is_estimated_for_a_server_that_does_not_tell() -> None:
    with StubModel("no-usage") as stub:
        reply = complete(stub)
    assert reply.prompt_tokens > 100
    assert reply.completion_tokens > 10


@pytest.mark.parametrize(
    ("behaviour", "calls", "left"),
    [
        ("no-json-schema", 2, {"response_format": {"type": "json_object"}, "temperature": 0, "max_tokens": 2000}),
        ("no-response-format", 3, {"temperature": 0, "max_tokens": 2000}),
        ("no-temperature", 2, {"max_tokens": 2000}),
        ("new-limit", 2, {"temperature": 0, "max_completion_tokens": 2000}),
        ("understands-little", 5, {"max_completion_tokens": 2000}),
    ],
)
def test_it_leaves_out_what_a_server_does_not_understand_and_remembers(
    behaviour: str, calls: int, left: dict[str, Any]
) -> None:
    async def twice(client: ModelClient) -> Completion:
        await client.complete(MESSAGES, SCHEMA)
        assert stub.calls == calls
        return await client.complete(MESSAGES, SCHEMA)

    with StubModel(behaviour) as stub:
        reply = with_client(twice, stub.url)
        assert stub.calls == calls + 1
        last = stub.requests[-1]
    assert parse_answer(reply.text, SLUGS, DISK).recipe == "disk-full"
    assert {name: last.get(name) for name in left} == left
    for name in {"response_format", "temperature", "max_tokens", "max_completion_tokens"} - left.keys():
        if (behaviour, name) not in {("no-temperature", "response_format"), ("new-limit", "response_format")}:
            assert name not in last


def test_a_call_that_is_refused_does_not_undo_what_another_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    async def refused_once(self: ModelClient, model: str, messages: Any, arguments: dict[str, Any]) -> Any:
        sent.append(arguments)
        if len(sent) > 1:
            return await original(self, model, messages, arguments)
        # Meanwhile another call has learned this.
        self._quirks = self._quirks.after("max_tokens is not supported") or self._quirks
        raise _Refused("temperature is not supported", 400)

    original = ModelClient._send
    monkeypatch.setattr(ModelClient, "_send", refused_once)
    with StubModel("good") as stub:
        complete(stub)
    assert sent[1].keys() == {"max_completion_tokens", "response_format"}


def test_calls_refused_at_once_all_arrive() -> None:
    async def together(client: ModelClient) -> None:
        await asyncio.gather(*(client.complete(MESSAGES, SCHEMA) for _ in range(8)))

    with StubModel("understands-little") as stub:
        with_client(together, stub.url)
        assert stub.calls <= 8 * 5


def test_many_calls_run_at_once() -> None:
    async def together(client: ModelClient) -> None:
        await asyncio.gather(*(client.complete(MESSAGES, SCHEMA) for _ in range(20)))

    with StubModel("good", together=20) as stub:
        with_client(together, stub.url, timeout=30)
        assert stub.max_concurrent == 20


def test_without_a_model_name_the_first_of_the_server_is_asked_for_once() -> None:
    async def twice(client: ModelClient) -> None:
        await asyncio.gather(client.complete(MESSAGES, SCHEMA), client.complete(MESSAGES, SCHEMA))

    with StubModel("good") as stub:
        with_client(twice, stub.url, model=None)
        assert (stub.requests[0]["model"], stub.model_list_calls) == ("stub-1", 1)


def test_a_server_without_a_list_gets_the_name_default() -> None:
    with StubModel("good", no_model_list=True) as stub:
        complete(stub, model=None)
        assert stub.requests[0]["model"] == "default"


def test_a_server_that_is_away_is_asked_for_its_models_again_later() -> None:
    async def twice(client: ModelClient) -> None:
        for _ in range(2):
            with pytest.raises(ModelAway, match="cannot be reached"):
                await client.complete(MESSAGES, SCHEMA)
        assert client._model is None

    with_client(twice, "http://127.0.0.1:9/v1", model=None)


@pytest.mark.parametrize(
    ("dialect", "calls"),
    [
        ("openai-without-schemas", 3),
        ("openai-reasoning", 3),
        ("azure-old-version", 2),
        ("vllm-xgrammar", 2),
        ("llama.cpp-500", 2),
        ("litellm-unsupported", 3),
        ("ollama-reasoning", 1),
        ("ollama-thoughts", 1),
        ("llama.cpp-ignores", 1),
        ("mistral-parts", 1),
    ],
)
def test_each_kind_of_server_is_understood(dialect: str, calls: int) -> None:
    with StubModel(dialect) as stub:
        reply = complete(stub)
        assert stub.calls == calls
        assert "json" in str(stub.requests[-1]["messages"]).lower(), "JSON mode wants the word in the prompt"
    assert parse_answer(reply.text, SLUGS, DISK).recipe == "disk-full"
    assert reply.tokens == 120


@pytest.mark.parametrize("dialect", ["azure-filter", "vllm-too-long"])
def test_a_refusal_of_the_question_itself_is_final(dialect: str) -> None:
    with StubModel(dialect) as stub:
        with pytest.raises(BadAnswer) as caught:
            complete(stub)
        assert (caught.value.final, stub.calls) == (True, 1)


def test_a_500_that_does_not_name_the_format_stays_a_server_in_trouble() -> None:
    with StubModel(["500", "good"]) as stub:
        with pytest.raises(ModelAway):
            complete(stub)
        assert stub.calls == 1


def test_what_stands_behind_the_question_mark_of_the_base_url_goes_with_each_request() -> None:
    with StubModel("good") as stub:
        url = stub.url + "?api-version=2024-10-21"
        with_client(lambda client: client.complete(MESSAGES, SCHEMA), url)
        assert stub.queries == ["api-version=2024-10-21"]


@pytest.mark.parametrize(
    ("url", "key", "headers"),
    [
        ("https://shop.openai.azure.com/openai/v1/", "key-1", {"api-key": "key-1"}),
        ("https://shop.services.ai.azure.com/openai/v1", "key-1", {"api-key": "key-1"}),
        ("https://shop.openai.azure.com/openai/v1", "eyJhbGciOi.x.y", {"authorization": "Bearer eyJhbGciOi.x.y"}),
        ("https://api.openai.com/v1", "key-1", {"authorization": "Bearer key-1"}),
        ("https://azure.com.example.org/v1", "key-1", {"authorization": "Bearer key-1"}),
    ],
)
@pytest.mark.parametrize("model", ["stub-1", None], ids=["a question", "the list of models"])
def test_a_key_goes_where_the_server_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, headers: dict[str, str], model: str | None
) -> None:
    sent: dict[str, str] = {}

    async def refuse(self: Any, request: httpx2.Request) -> httpx2.Response:
        sent.update(request.headers)
        return httpx2.Response(503, request=request)

    monkeypatch.setattr("httpx2.AsyncHTTPTransport.handle_async_request", refuse)
    with pytest.raises(ModelAway):
        with_client(lambda client: client.complete(MESSAGES, SCHEMA), url, model=model, api_key=key)
    assert {name: sent[name] for name in ("api-key", "authorization") if name in sent} == headers
