"""What RQ imports: thin, no arguments but ids, safe to run twice."""

import asyncio

import structlog
from flask import current_app

from openremedy.classification import Classifier
from openremedy.services import services

log = structlog.get_logger()

# Kept for the life of a worker process: the indexes, the model client's connections and the loop they belong to.
CLASSIFIER = "openremedy.classifier"
RUNNER = "openremedy.runner"


def classify_pending() -> None:
    """Classify what waits. The wake key goes first: what is committed after this look wakes the next job."""
    classifier: Classifier = current_app.extensions[CLASSIFIER]
    runner: asyncio.Runner = current_app.extensions[RUNNER]
    waker = services().waker
    waker.woken()
    if runner.run(classifier.run()):
        waker.wake()
