"""One whole question: prompt, call, check, re-prompt, deadline, costs."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from openremedy.classifier import BadAnswer, ModelAway, ask_model
from openremedy.classifier.client import ModelClient
from openremedy.classifier.shapes import Answer, Citation, Subject
from tests.classifier.examples import CATALOGUE, subject
from tests.stub_model import StubModel

ROOT = Path(__file__).parents[2]
SHORTLIST = CATALOGUE[:3]


def ask(stub: StubModel, incident: Subject | None = None, deadline: float = 5.0, **options: Any) -> Answer:
    async def run() -> Answer:
        client = ModelClient(stub.url, None, "stub-1", timeout=30)
        try:
            return await ask_model(incident or subject(), SHORTLIST, client, deadline, **options)
        finally:
            await client.close()

    return asyncio.run(run())


def test_a_good_answer_names_recipe_citation_and_costs() -> None:
    with StubModel("good") as stub:
        answer = ask(stub)
    assert (answer.recipe, answer.tier, answer.confidence, answer.model) == ("disk-full", "model", 0.9, "stub-1")
    assert answer.citations == (Citation("/disk_usage_percent", 93),)
    assert answer.tokens == 120
    assert answer.latency_ms >= 0
    assert stub.calls == 1


def test_none_is_an_answer() -> None:
    with StubModel("none") as stub:
        answer = ask(stub)
    assert (answer.recipe, answer.tier, answer.confidence) == (None, "model", 0.8)


@pytest.mark.parametrize("behaviour", ["fenced", "no-json-schema", "no-response-format", "understands-little"])
def test_odd_but_right_servers_are_understood(behaviour: str) -> None:
    with StubModel(behaviour) as stub:
        assert ask(stub).recipe == "disk-full"


BAD = ["garbage", "unknown-recipe", "fabricated-citation", "fabricated-pointer", "overconfident", "nan", "empty",
       "no-content", "refusal", "truncated", "10mb", "bomb"]  # fmt: skip


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_answer_gets_one_reprompt_and_then_fails(behaviour: str) -> None:
    with StubModel(behaviour) as stub:
        with pytest.raises(BadAnswer) as caught:
            ask(stub)
        assert stub.calls == 2
        assert "That answer cannot be used" in stub.requests[1]["messages"][-1]["content"]
    assert caught.value.tokens >= 240


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_answer_can_be_mended(behaviour: str) -> None:
    with StubModel([behaviour, "good"]) as stub:
        answer = ask(stub)
        assert stub.calls == 2
    assert answer.recipe == "disk-full"
    assert answer.tokens >= 240


def test_the_reprompt_shows_the_bad_text_and_names_the_problem() -> None:
    with StubModel(["unknown-recipe", "good"]) as stub:
        ask(stub)
        *_, said, told = stub.requests[1]["messages"]
    assert '"wipe-disk"' in said["content"]
    assert '"wipe-disk" is not one of the recipes' in told["content"]


def test_a_refused_request_is_not_repeated() -> None:
    with StubModel("400") as stub:
        with pytest.raises(BadAnswer):
            ask(stub)
        assert stub.calls == 1


def test_a_server_that_goes_away_after_a_bad_answer_keeps_the_bill() -> None:
    with StubModel(["garbage", "429"]) as stub, pytest.raises(ModelAway) as caught:
        ask(stub)
    assert (caught.value.tokens, caught.value.retry_after) == (120, 7)


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_the_deadline_is_total(behaviour: str) -> None:
    started = time.monotonic()
    with StubModel(behaviour) as stub, pytest.raises(ModelAway, match=r"within 0\.4 seconds") as caught:
        ask(stub, deadline=0.4)
    assert time.monotonic() - started < 3
    assert caught.value.tokens > 100


def test_the_deadline_covers_the_reprompt() -> None:
    with StubModel(["garbage", "hang"]) as stub, pytest.raises(ModelAway) as caught:
        ask(stub, deadline=0.6)
    assert caught.value.tokens > 220


def test_the_boundary_is_new_for_each_call() -> None:
    with StubModel("good") as stub:
        ask(stub)
        ask(stub)
        ask(stub, nonce="fixed")
        boundaries = [request["messages"][1]["content"].split("BEGIN ")[1].split("\n")[0] for request in stub.requests]
    assert len(set(boundaries)) == 3
    assert boundaries[2] == "incident-fixed"
    assert len(boundaries[0]) == len("incident-") + 24


def test_no_secret_is_sent() -> None:
    with StubModel("good") as stub:
        answer = ask(stub, subject({"password": "hunter2", "log": "token=hunter3"}))
        assert "hunter" not in json.dumps(stub.requests)
    assert answer.citations == (Citation("/password", "[masked:password]"),)


def test_a_long_text_is_cited_whole_though_it_was_sent_cut() -> None:
    text = "disk " * 20_000
    with StubModel("good") as stub:
        answer = ask(stub, subject({"log": text}))
        assert len(json.dumps(stub.requests[0])) < 40_000
    assert answer.citations == (Citation("/log", text),)


def test_the_pure_package_brings_no_server_and_no_client_library() -> None:
    code = """
import sys, openremedy.classifier, openremedy.classifier.rules, openremedy.classifier.cause
import openremedy.classifier.lexical, openremedy.classifier.injection
print([name for name in ("openai", "httpx2", "flask", "sqlalchemy", "rq", "redis") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stub_can_be_switched_from_another_process() -> None:
    with StubModel("good") as stub:
        control = stub.url.removesuffix("/v1") + "/control"

        def post(body: dict[str, Any]) -> Any:
            request = urllib.request.Request(control, json.dumps(body).encode(), method="POST")  # noqa: S310
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                return json.load(reply)

        assert post({"behaviour": "429", "retry_after": "3"})["behaviour"] == ["429"]
        with pytest.raises(ModelAway) as caught:
            ask(stub)
        assert caught.value.retry_after == 3
        with urllib.request.urlopen(control) as reply:  # noqa: S310
            assert json.load(reply)["calls"] == 1
        assert post({"behaviour": "good", "reset": True})["calls"] == 0
