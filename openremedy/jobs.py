"""What RQ imports: thin, no arguments but ids and what to try or to measure, safe to run twice."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import structlog
from flask import current_app

from openremedy import claims, traces, tryout
from openremedy.classification import Classifier
from openremedy.cookbook import from_json
from openremedy.evaluation import confirmed
from openremedy.evaluation.confirmed import Means, Setting
from openremedy.extensions import db
from openremedy.meters import Courier
from openremedy.services import services

log = structlog.get_logger()

# Kept for the life of a worker process: the indexes, the model client's connections and the loop they belong to.
CLASSIFIER = "openremedy.classifier"
RUNNER = "openremedy.runner"
COURIER = "openremedy.courier"
FOLLOW_UPS = "openremedy.follow_ups"


@traces.span("job classify_pending")
def classify_pending() -> None:
    """Classify what waits. The wake key goes first: what is committed after this look wakes the next job."""
    classifier: Classifier = current_app.extensions[CLASSIFIER]
    runner: asyncio.Runner = current_app.extensions[RUNNER]
    courier: Courier = current_app.extensions[COURIER]
    waker = services().waker
    waker.woken()
    if claims.waiting(db.engine, beyond=classifier.places):
        waker.wake()  # more than one worker holds: of those that have nothing to do another one helps
    try:
        if runner.run(classifier.run(), context=copy_context()):  # else a span in it is no part of the job's
            waker.wake()
    finally:
        courier.bring()


@traces.span("job follow_up")
def follow_up() -> None:
    """Send what tools asked us to answer; the same with its own wake key."""
    send_due: Callable[[], bool] = current_app.extensions[FOLLOW_UPS]
    waker = services().follow_up_waker
    waker.woken()
    if send_due():
        waker.wake()


@traces.span("job try_recipe")
def try_recipe(tenant_id: int, slug: str, spec: dict[str, Any] | None) -> dict[str, Any]:
    """What tryout.try_out() finds; JSON in and out, kept by rq for a few minutes and by nobody else."""
    return tryout.try_out(db.engine, tenant_id, slug, from_json(spec) if spec else None)


@traces.span("job evaluate")
def evaluate(tenant_id: int, setting: dict[str, Any], against: dict[str, Any] | None) -> dict[str, Any]:
    """What confirmed.evaluate() finds; JSON in and out, kept by rq for a few minutes and by nobody else."""
    settings = services().settings
    classifier: Classifier = current_app.extensions[CLASSIFIER]
    runner: asyncio.Runner = current_app.extensions[RUNNER]
    means = Means(classifier.model, settings.llm_timeout, settings.llm_concurrency, settings.llm_daily_tokens)
    other = Setting(**against) if against else None
    measured = confirmed.evaluate(db.engine, tenant_id, Setting(**setting), other, means)
    return runner.run(measured, context=copy_context())
