"""Does the time of a 401 tell whether a tenant exists? Reports, and fails nothing: run it on a quiet machine.

    .venv/bin/python scripts/measure_401_timing.py [PAIRS] [BODY_BYTES]

Posts pairs of wrongly signed bodies, one to a tenant that exists and one to a tenant that does not, in random order,
and compares the two samples: their medians, and the p-value of a Mann-Whitney test (small = told apart). The tests
assert what does not depend on a machine: equal bytes, equal HMACs, equal statements (tests/test_webhooks.py).
"""

import dataclasses
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import flask_migrate
from cryptography.fernet import Fernet
from flask import Flask

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from config import load  # noqa: E402
from openremedy import tenants  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from openremedy.services import services  # noqa: E402

SLUGS = ("known", "nobody")


def main(pairs: int = 2000, body_bytes: int = 2000) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        app = prepared(Path(folder))
        measured = measure(app, pairs, b"x" * body_bytes)
        with app.app_context():
            services().tally.stop()
            db.engine.dispose()
    known, unknown = (measured[slug] for slug in SLUGS)
    medians = statistics.median(known), statistics.median(unknown)
    print(f"pairs {pairs}, body {body_bytes} bytes")
    print(f"median: known {medians[0] * 1e6:.0f} us, unknown {medians[1] * 1e6:.0f} us")
    print(f"difference of the medians: {(medians[0] / medians[1] - 1) * 100:+.2f} %")
    print(f"Mann-Whitney: p = {mann_whitney(known, unknown):.3f}")


def prepared(folder: Path) -> Flask:
    """An application on a fresh SQLite database with one tenant and no rate limit."""
    os.environ["OPENREMEDY_DATA_DIR"] = str(folder)
    os.environ["ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
    app = create_app(dataclasses.replace(load(), rate_limit=0))
    logging.disable(logging.WARNING)
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        tenants.create_tenant(db.session(), services().vault, SLUGS[0])
        db.session.remove()
    return app


def measure(app: Flask, pairs: int, body: bytes) -> dict[str, list[float]]:
    """Seconds of each post, by slug."""
    found: dict[str, list[float]] = {slug: [] for slug in SLUGS}
    client = app.test_client()
    for number in range(-50, pairs):  # the first ones warm up
        for slug in random.sample(SLUGS, 2):
            headers = {"X-OpenRemedy-Signature": "sha256=" + "0" * 64}
            began = time.perf_counter()
            answer = client.post(f"/api/v1/webhooks/alerts/{slug}", data=body, headers=headers)
            took = time.perf_counter() - began
            if answer.status_code != 401:
                raise SystemExit(f"expected 401, got {answer.status_code}")
            if number >= 0:
                found[slug].append(took)
    return found


def mann_whitney(first: list[float], second: list[float]) -> float:
    """Two-sided p-value by the normal approximation."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, group) in enumerate(ranked, 1) if group == 0)
    n, m = len(first), len(second)
    deviation = (n * m * (n + m + 1) / 12) ** 0.5
    z = (ranks - n * (n + 1) / 2 - n * m / 2) / deviation
    return 2 * (1 - statistics.NormalDist().cdf(abs(z)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
