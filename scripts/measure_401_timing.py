"""Does the time of a 401 tell whether a tenant exists? Reports, and fails nothing: run it on a quiet machine.

    .venv/bin/python scripts/measure_401_timing.py [PAIRS] [BODY_BYTES] [ENDPOINT]

Posts pairs of wrongly signed bodies, one to a tenant that exists and one to a tenant that does not, in random order,
to the canonical endpoint (`alerts`) or to that of an adapter, where the tenant has two sources that sign, and compares
the two samples: their medians, and the p-value of a Mann-Whitney test (small = told apart). The tests assert what does
not depend on a machine: equal bytes, equal HMACs, equal queries (tests/test_webhooks.py, tests/test_sources.py).
"""

import dataclasses
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from ipaddress import ip_address
from pathlib import Path

import flask_migrate
from cryptography.fernet import Fernet
from flask import Flask

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from config import load  # noqa: E402
from openremedy import sources, tenants  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from openremedy.services import services  # noqa: E402

SLUGS = ("known", "nobody")
WRONG = {
    "X-OpenRemedy-Signature": "sha256=" + "0" * 64,
    "X-PagerDuty-Signature": "v1=" + "0" * 64,
    "X-Grafana-Alerting-Signature": "0" * 64,
    "Authorization": "Bearer ors_wrong",
}


def main(pairs: int = 2000, body_bytes: int = 2000, endpoint: str = "alerts") -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        app = prepared(Path(folder), endpoint)
        measured = measure(app, pairs, b"x" * body_bytes, endpoint)
        with app.app_context():
            services().tally.stop()
            db.engine.dispose()
    known, unknown = (measured[slug] for slug in SLUGS)
    medians = statistics.median(known), statistics.median(unknown)
    print(f"{endpoint}: pairs {pairs}, body {body_bytes} bytes")
    print(f"median: known {medians[0] * 1e6:.0f} us, unknown {medians[1] * 1e6:.0f} us")
    print(f"difference of the medians: {(medians[0] / medians[1] - 1) * 100:+.2f} %")
    print(f"Mann-Whitney: p = {mann_whitney(known, unknown):.3f}")


def prepared(folder: Path, endpoint: str) -> Flask:
    """An application on a fresh SQLite database with one tenant and no rate limit."""
    os.environ["OPENREMEDY_DATA_DIR"] = str(folder)
    os.environ["ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
    app = create_app(dataclasses.replace(load(), rate_limit=0))
    logging.disable(logging.WARNING)
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        tenants.create_tenant(db.session(), services().vault, SLUGS[0])
        for number in range(0 if endpoint == "alerts" else 2):
            sources.add_source(db.session(), services().vault, SLUGS[0], endpoint, signing_secret=f"secret {number}")
        db.session.remove()
    return app


def measure(app: Flask, pairs: int, body: bytes, endpoint: str) -> dict[str, list[float]]:
    """Seconds of each post, by slug."""
    found: dict[str, list[float]] = {slug: [] for slug in SLUGS}
    client = app.test_client()
    for number in range(-50, pairs):  # the first ones warm up
        for slug in random.sample(SLUGS, 2):  # nosec B311 # an order, no secret
            # Another address each time: failed authentications of one are limited, whatever the settings.
            caller = {"REMOTE_ADDR": str(ip_address(random.getrandbits(32)))}  # nosec B311 # no secret
            began = time.perf_counter()
            url = f"/api/v1/webhooks/{endpoint}/{slug}"
            answer = client.post(url, data=body, headers=WRONG, environ_overrides=caller)
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
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
