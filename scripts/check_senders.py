"""Post every recorded body of a folder to its own adapter, and hold the signature vectors there against the code.

    .venv/bin/python scripts/check_senders.py FOLDER

FOLDER holds a folder for each tool, its name beginning with that of the adapter (`alertmanager-0.33.1`), and
`prometheus-api-v2`; others are left alone. Headers, templates, documents and vectors are no bodies. Each body goes to a
source of its own through the real route. Prints a line for each body that is not answered 202, and the counts of each
folder; ends with 1 when there was an answer of 500 and above, or a vector that does not hold.
"""

import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask_migrate
from flask import Flask

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from config import load  # noqa: E402
from openremedy import sources, tenants  # noqa: E402
from openremedy.app import create_app  # noqa: E402
from openremedy.extensions import db  # noqa: E402
from openremedy.registry import discover  # noqa: E402
from openremedy.services import services  # noqa: E402

NO_BODIES = ("headers", "template", "rest_", "doc_data_", "vectors")
TENANT = "senders"
PATHS = {"prometheus-api-v2": "alertmanager/{}/api/v2/alerts"}


def main(folder: str) -> int:
    """Check everything; the exit code."""
    with tempfile.TemporaryDirectory() as place:
        app = prepared(Path(place))
        broken = sum(check_folder(app, one) for one in sorted(Path(folder).iterdir()) if one.is_dir())
        with app.app_context():
            services().tally.stop()
            db.engine.dispose()
    return 1 if broken else 0


def prepared(place: Path) -> Flask:
    """An application on a fresh SQLite database with one tenant and no limits."""
    os.environ["OPENREMEDY_DATA_DIR"] = str(place)
    app = create_app(dataclasses.replace(load(), source_rate_limit=0))
    logging.disable(logging.CRITICAL)
    with app.app_context():
        flask_migrate.upgrade(str(ROOT / "migrations"))
        tenants.create_tenant(db.session(), services().vault, TENANT)
    return app


def check_folder(app: Flask, folder: Path) -> int:
    """Post its bodies and check its vectors; how much was broken."""
    path = PATHS.get(folder.name)
    adapter = (
        path.partition("/")[0] if path else next((name for name in discover() if folder.name.startswith(name)), "")
    )
    if not adapter:
        return 0
    counts: Counter[int] = Counter()
    for file in sorted(folder.iterdir()):
        if not any(word in file.name for word in NO_BODIES):
            counts[post(app, adapter, path or f"{adapter}/{{}}", file)] += 1
    wrong = [text for file in folder.glob("*vectors*") for text in check_vectors(adapter, file)]
    print(f"{folder.name}: {dict(counts)}", *wrong, sep="\n  ")
    return sum(count for status, count in counts.items() if status >= 500) + len(wrong)


def post(app: Flask, adapter: str, path: str, file: Path) -> int:
    """The status of the answer to a body; what is not 202 is printed with its words."""
    with app.app_context():
        _, token = sources.add_source(db.session(), services().vault, TENANT, adapter)
    url = f"/api/v1/webhooks/{path.format(TENANT)}"
    answer = app.test_client().post(url, data=file.read_bytes(), headers={"X-OpenRemedy-Token": token})
    if answer.status_code != 202:
        print(f"  {file.name}: {answer.status_code} {answer.get_json()['error']['message']}")
    return answer.status_code


def check_vectors(adapter: str, file: Path) -> Iterator[str]:
    """The vectors that do not hold, against the function. A right one must fail for another body."""
    verify = discover()[adapter].verify
    found = json.loads(file.read_text())
    vectors = found if isinstance(found, list) else [{"secret": found["secret"]} | one for one in found["vectors"]]
    for number, vector in enumerate(vectors):
        body = (file.parent / vector["body_file"]).read_bytes() if "body_file" in vector else vector["body"].encode()
        headers, options, at = request_of(vector)
        expected = vector.get("expect", True)
        said = [
            bool(verify and verify(vector["secret"].encode(), one, headers, options, at))
            for one in (body, body + b"\n")
        ]
        if said != [expected, False]:
            yield f"vector {number} ({vector.get('name', vector.get('note', ''))}): {said}, expected {expected}"
    print(f"  {file.name}: {len(vectors)} vectors")


def request_of(vector: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], float]:
    """The headers of a vector by lower-case name, the options of a source that they need, and their time."""
    if "header" in vector:
        return {"x-pagerduty-signature": vector["header"]}, {}, 0
    names = {
        ("timestamp_header" if "timestamp" in name.lower() else "signature_header"): name for name in vector["headers"]
    }
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    return headers, names, float(vector["headers"].get(names.get("timestamp_header", ""), 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
