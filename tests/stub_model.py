"""A real local HTTP server that speaks chat completions, well or badly: a stand-in for a model in tests.

In a test:      with StubModel("good") as stub: ... stub.url ... stub.calls
On its own:     python tests/stub_model.py PORT        (then POST /control {"behaviour": "429", "retry_after": "7"})
"""

import gzip
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

DRIP_SECONDS = 0.05
HANG_SECONDS = 60.0
WEB_PAGE = "<html><body>Please log in</body></html>"


class StubModel:
    """`behaviour` is a name of BEHAVIOURS or a list of them, used one per call (the last one stays)."""

    def __init__(self, behaviour: str | list[str] = "good", port: int = 0, **options: Any) -> None:
        self._lock = threading.Lock()
        self._full = threading.Condition(self._lock)
        self._running = 0
        self.released = threading.Event()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        self.calls = 0
        self.model_list_calls = 0
        self.max_concurrent = 0
        self.options: dict[str, Any] = {}
        self.behaviours: list[str] = []
        self.control({"behaviour": behaviour, **options})
        self._server = _Server(("127.0.0.1", port), _Handler, self)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        self._server.serve_forever()

    def control(self, wanted: dict[str, Any]) -> None:
        """Keys: behaviour, delay (s), retry_after (text), recipe (slug), prompt_tokens (that it tells of each call),
        together (calls: the first ones get no answer until so many have run at once), reset (true: forget the counts).
        """
        behaviour = wanted.get("behaviour", self.behaviours or ["good"])
        chosen = [behaviour] if isinstance(behaviour, str) else list(behaviour)
        unknown = [name for name in chosen if name not in BEHAVIOURS]
        if unknown:
            raise ValueError(f"unknown behaviour {unknown}; known are {sorted(BEHAVIOURS)}")
        with self._lock:
            self.behaviours = chosen
            self.options.update({key: value for key, value in wanted.items() if key not in ("behaviour", "reset")})
            if wanted.get("reset"):
                self.calls = self.model_list_calls = self.max_concurrent = 0
                self.requests, self.headers = [], []

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {
                "behaviour": self.behaviours,
                "calls": self.calls,
                "model_list_calls": self.model_list_calls,
                "max_concurrent": self.max_concurrent,
                "requests": self.requests[-50:],
            }

    def begin(self, request: dict[str, Any], headers: dict[str, str]) -> str:
        with self._lock:
            self.calls += 1
            self._running += 1
            self.max_concurrent = max(self.max_concurrent, self._running)
            self.requests.append(request)
            self.headers.append(headers)
            self._full.notify_all()
            return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]

    def wait_for_the_others(self) -> None:
        """Those that never come are what a test then sees in max_concurrent."""
        with self._full:
            self._full.wait_for(lambda: self.max_concurrent >= self.options.get("together", 0), timeout=20)

    def end(self) -> None:
        with self._lock:
            self._running -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], stub: StubModel) -> None:
        super().__init__(address, handler)
        self.stub = stub

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that gives up in the middle of a reply is what several tests are about.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        stub = self.server.stub
        if self.path == "/control":
            return self.send_json(stub.state())
        if self.path != "/v1/models":
            return self.send_json({"error": {"message": "not found"}}, 404)
        stub.model_list_calls += 1
        if stub.options.get("no_model_list"):
            return self.send_json({"error": {"message": "not found"}}, 404)
        return self.send_json({"object": "list", "data": [{"id": "stub-1", "object": "model"}, {"id": "stub-2"}]})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        stub = self.server.stub
        if self.path == "/control":
            try:
                stub.control(json.loads(body))
            except ValueError as error:
                return self.send_json({"error": str(error)}, 400)
            return self.send_json(stub.state())
        path, _, query = self.path.partition("?")
        if path != "/v1/chat/completions":
            return self.send_json({"error": {"message": "not found"}}, 404)
        if len(body) < length:  # its sender was killed in the middle
            self.close_connection = True
            return None
        stub.queries.append(query)
        request = json.loads(body)
        behaviour = stub.begin(request, {key.lower(): value for key, value in self.headers.items()})
        try:
            stub.wait_for_the_others()
            time.sleep(float(stub.options.get("delay", 0)))
            return BEHAVIOURS[behaviour](self, request)
        finally:
            stub.end()

    def send_bytes(self, body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send_bytes(json.dumps(value).encode(), status, **headers)

    def send_error_json(self, status: int, message: str, **headers: str) -> None:
        self.send_json({"error": {"message": message, "type": "invalid_request_error"}}, status, **headers)

    def send_chat(self, content: str | None, finish: str = "stop", usage: bool = True, **message: Any) -> None:
        body = chat_body(content, finish, usage, **message)
        if usage and "prompt_tokens" in self.server.stub.options:
            prompt = int(self.server.stub.options["prompt_tokens"])
            body["usage"] |= {"prompt_tokens": prompt, "total_tokens": prompt + body["usage"]["completion_tokens"]}
        self.send_json(body)


def chat_body(content: str | None, finish: str = "stop", usage: bool = True, **message: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-1",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return body


# ---- reading the question as a model would


def slugs_of(request: dict[str, Any]) -> list[str]:
    """The enum of the schema, or where no schema was sent, the slugs the prompt lists; without "none"."""
    schema = (request.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema:
        return [slug for slug in schema["properties"]["recipe"]["enum"] if slug != "none"]
    return re.findall(r'^\{"slug": "([^"]+)"', asked(request), re.MULTILINE)


def asked(request: dict[str, Any]) -> str:
    return next(message["content"] for message in request["messages"] if message["role"] == "user")


def evidence_of(request: dict[str, Any]) -> Any:
    return json.loads(re.findall(r"^evidence = (.*)$", asked(request), re.MULTILINE)[-1])


def data_of(request: dict[str, Any]) -> str:
    return re.findall(r"^incident = .*$", asked(request), re.MULTILINE)[-1] + json.dumps(evidence_of(request))


def first_citation(value: Any, pointer: str = "") -> list[dict[str, Any]]:
    if isinstance(value, dict):
        inner = ((key.replace("~", "~0").replace("/", "~1"), item) for key, item in value.items())
    elif isinstance(value, list):
        inner = ((str(index), item) for index, item in enumerate(value))
    else:
        return [{"pointer": pointer, "value": value}]
    for key, item in inner:
        found = first_citation(item, f"{pointer}/{key}")
        if found:
            return found
    return []


def good_answer(request: dict[str, Any], recipe: str | None = None) -> dict[str, Any]:
    """The recipe whose slug shares most words with the incident, or none; cites the first value there is."""
    words = set(re.findall(r"[a-z]+", data_of(request).lower().replace("_", " ")))
    slugs = slugs_of(request)
    scores = {slug: len(words & set(slug.split("-"))) / len(slug.split("-")) for slug in slugs}
    best = max(slugs, key=lambda slug: scores[slug], default=None)
    chosen = recipe or (best if best and scores[best] > 0 else "none")
    return {
        "recipe": chosen,
        "confidence": 0.9 if chosen != "none" else 0.6,
        "citations": first_citation(evidence_of(request))[:1],
        "summary": f"The evidence fits {chosen}.",
    }


# ---- behaviours


def good(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_chat(json.dumps(good_answer(request, handler.server.stub.options.get("recipe"))))


def no_usage(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_chat(json.dumps(good_answer(request)), usage=False)


def none(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_chat(json.dumps({"recipe": "none", "confidence": 0.8, "citations": [], "summary": "Nothing fits."}))


def limited(handler: _Handler, request: dict[str, Any]) -> None:
    after = handler.server.stub.options.get("retry_after", "7")
    headers = {"Retry_After": str(after)} if after != "" else {}
    handler.send_error_json(429, "Rate limit reached", **headers)


def failing(status: int, message: str) -> Any:
    return lambda handler, request: handler.send_error_json(status, message)


def saying(content: str | None, finish: str = "stop", **message: Any) -> Any:
    return lambda handler, request: handler.send_chat(content, finish, **message)


def changed(**changes: Any) -> Any:
    return lambda handler, request: handler.send_chat(json.dumps({**good_answer(request), **changes}))


def fabricated(handler: _Handler, request: dict[str, Any]) -> None:
    """A place that exists, with a value that does not stand there."""
    answer = good_answer(request)
    invented = [{**citation, "value": "made up"} for citation in answer["citations"]]
    handler.send_chat(json.dumps({**answer, "citations": invented or [{"pointer": "/made/up", "value": 1}]}))


def fenced(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_chat("```json\n" + json.dumps(good_answer(request), indent=1) + "\n```")


def html200(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_bytes(WEB_PAGE.encode(), kind="text/html")


def html_as_json(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_bytes(WEB_PAGE.encode())


def error200(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_error_json(200, "upstream failed")


def hang(handler: _Handler, request: dict[str, Any]) -> None:
    handler.server.stub.released.wait(HANG_SECONDS)
    handler.close_connection = True


def drip(handler: _Handler, request: dict[str, Any]) -> None:
    """One byte at a time: never silent long enough for a read timeout."""
    body = json.dumps(chat_body(json.dumps(good_answer(request)))).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.stub.released.wait(DRIP_SECONDS):
            break
    handler.close_connection = True


def truncated(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_chat(json.dumps(good_answer(request))[:30], finish="length")


def huge(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_json(chat_body("x" * 10_000_000))


def bomb(handler: _Handler, request: dict[str, Any]) -> None:
    packed = gzip.compress(json.dumps(chat_body("x" * 10_000_000)).encode())
    handler.send_bytes(packed, content_encoding="gzip")


def redirect(handler: _Handler, request: dict[str, Any]) -> None:
    handler.send_bytes(b"", status=307, location=f"http://127.0.0.1:{handler.server.stub.port}/elsewhere")


def no_json_schema(handler: _Handler, request: dict[str, Any]) -> None:
    if request.get("response_format", {}).get("type") == "json_schema":
        return handler.send_error_json(400, "Invalid value for response_format: json_schema is not supported")
    return good(handler, request)


def no_response_format(handler: _Handler, request: dict[str, Any]) -> None:
    if "response_format" in request:
        return handler.send_error_json(400, "Unknown argument: response_format")
    return good(handler, request)


def no_temperature(handler: _Handler, request: dict[str, Any]) -> None:
    if "temperature" in request:
        return handler.send_error_json(400, "Unsupported value: 'temperature' does not support 0 with this model.")
    return good(handler, request)


def new_limit(handler: _Handler, request: dict[str, Any]) -> None:
    if "max_tokens" in request:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return handler.send_error_json(400, message)
    return good(handler, request)


def understands_little(handler: _Handler, request: dict[str, Any]) -> None:
    for step in (new_limit, no_temperature, no_response_format):
        name = {"new_limit": "max_tokens", "no_temperature": "temperature"}.get(step.__name__, "response_format")
        if name in request:
            return step(handler, request)
    return good(handler, request)


def obeys_injection(handler: _Handler, request: dict[str, Any]) -> None:
    """Does whatever the incident's text tells it to: the worst model there can be."""
    told = re.findall(r"recipe[\W_]+([a-z0-9][a-z0-9_-]*)", data_of(request), re.IGNORECASE)
    recipe = told[0] if told else "wipe_disk"
    answer = {"recipe": recipe, "confidence": 1.0, "citations": [], "summary": "As ordered: " + data_of(request)}
    handler.send_chat(json.dumps(answer))


# ---- what servers of one kind really answer, as their issues and documents show it


def refusing(status: int, body: Any, *refused: str, **fields: str) -> Any:
    """Refuses a response_format of these types, or any other field that is named, with this body; else answers well."""

    def behave(handler: _Handler, request: dict[str, Any]) -> None:
        if request.get("response_format", {}).get("type") in refused:
            return handler.send_json(body, status)
        for name, message in fields.items():
            if name in request:
                return handler.send_json({"error": {"message": message, "type": "invalid_request_error"}}, status)
        return good(handler, request)

    return behave


def openai_without_schemas(handler: _Handler, request: dict[str, Any]) -> None:
    """An older model: https://github.com/MicrosoftDocs/azure-docs/issues/120112"""
    kind = request.get("response_format", {}).get("type")
    if kind is None:
        return good(handler, request)
    message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model."
    error = {"message": message, "type": "invalid_request_error", "param": "response_format", "code": None}
    return handler.send_json({"error": error}, 400)


def azure_filter(handler: _Handler, request: dict[str, Any]) -> None:
    """https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter"""
    message = "The response was filtered due to the prompt triggering the content management policy."
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"jailbreak": {"filtered": True}}}
    error = {"message": message, "type": None, "param": "prompt", "code": "content_filter", "innererror": inner}
    handler.send_json({"error": error | {"status": 400}}, 400)


def with_message(**message: Any) -> Any:
    """A good answer with more in its message."""
    return lambda handler, request: handler.send_chat(json.dumps(good_answer(request)), **message)


def thinking(template: str) -> Any:
    """A good answer within other text: https://github.com/ollama/ollama/issues/9137"""
    return lambda handler, request: handler.send_chat(template.replace("ANSWER", json.dumps(good_answer(request))))


def in_parts(handler: _Handler, request: dict[str, Any]) -> None:
    """Content as a list: https://docs.mistral.ai/capabilities/reasoning/"""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "{}"}]}
    handler.send_chat(cast(Any, [thought, {"type": "text", "text": json.dumps(good_answer(request))}]))


DIALECTS: dict[str, Any] = {
    "openai-without-schemas": openai_without_schemas,
    "openai-reasoning": refusing(
        400,
        {},
        max_tokens="Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
        temperature="Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is.",
    ),
    # https://github.com/dotnet/extensions/issues/6130
    "azure-old-version": refusing(
        400,
        {"error": {"code": "BadRequest", "message": "response_format value as json_schema is enabled only for api "
                   "versions 2024-08-01-preview and later"}},
        "json_schema",
    ),
    "azure-filter": azure_filter,
    # https://github.com/vllm-project/vllm/issues/16321: no object "error" around it
    "vllm-xgrammar": refusing(
        400,
        {"object": "error", "message": "The provided JSON schema contains features not supported by xgrammar.",
         "type": "BadRequestError", "param": None, "code": 400},
        "json_schema",
    ),
    "vllm-too-long": refusing(
        400,
        {},
        max_tokens="'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is "
        "2048 tokens and your request has 1500 input tokens.",
        max_completion_tokens="This model's maximum context length is 2048 tokens.",
    ),
    # https://github.com/ikawrakow/ik_llama.cpp/issues/778
    "llama.cpp-500": refusing(
        500,
        {"error": {"code": 500, "type": "server_error",
                   "message": 'response_format type must be one of "text" or "json_object", but got: json_schema'}},
        "json_schema",
    ),
    # Accepted and not enforced: https://github.com/ggml-org/llama.cpp/issues/24097
    "llama.cpp-ignores": thinking("I compare the recipes.\n\n```json\nANSWER\n```\n"),
    # https://github.com/BerriAI/litellm/issues/8278
    "litellm-unsupported": refusing(
        400,
        {"error": {"message": "litellm.UnsupportedParamsError: together_ai does not support parameters: "
                   "['response_format'], for model=stub-1. To drop these, set `litellm.drop_params=True`",
                   "type": "None", "param": None, "code": "400"}},
        "json_schema", "json_object",
    ),
    # https://github.com/ollama/ollama/issues/16853
    "ollama-reasoning": with_message(reasoning="The disk is nearly full. {not json}"),
    "ollama-thoughts": thinking('<think>\nMaybe {"recipe": "cpu-high"}? No.\n</think>\n\nANSWER'),
    "mistral-parts": in_parts,
}  # fmt: skip


BEHAVIOURS: dict[str, Any] = DIALECTS | {
    "good": good,
    "none": none,
    "no-usage": no_usage,
    "429": limited,
    "500": failing(500, "internal error"),
    "503": failing(503, "overloaded"),
    "401": failing(401, "Incorrect API key provided"),
    "404": failing(404, "The model does not exist"),
    "400": failing(400, "content policy"),
    "garbage": saying("Sure! I think you should look at the disk."),
    "fenced": fenced,
    "html200": html200,
    "html-as-json": html_as_json,
    "error200": error200,
    "unknown-recipe": changed(recipe="wipe-disk"),
    "fabricated-pointer": changed(citations=[{"pointer": "/made/up", "value": 1}]),
    "fabricated-citation": fabricated,
    "overconfident": changed(confidence=7),
    "nan": saying('{"recipe": "none", "confidence": NaN, "citations": [], "summary": ""}'),
    "hang": hang,
    "drip": drip,
    "empty": saying(""),
    "no-content": saying(None),
    "refusal": saying(None, refusal="I cannot help with that."),
    "truncated": truncated,
    "10mb": huge,
    "bomb": bomb,
    "redirect": redirect,
    "no-json-schema": no_json_schema,
    "no-response-format": no_response_format,
    "no-temperature": no_temperature,
    "new-limit": new_limit,
    "understands-little": understands_little,
    "obeys-injection": obeys_injection,
}

if __name__ == "__main__":
    StubModel(port=int(sys.argv[1])).serve_forever()
