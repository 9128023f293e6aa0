"""`make upgrade-check`: the release before serves under load while the schema moves on under it, then gives way.

Needs the history of the repository, where the release before comes from. Ends with 1 where an alert was lost, doubled
or refused by anything but a connection that broke.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import stack  # noqa: E402
from faults import scene  # noqa: E402
from faults.__main__ import row  # noqa: E402
from faults.scene import STAGES, Scene  # noqa: E402

# The release before; the next one names its own (docs/releasing.md).
BEFORE = "0ff90ac458a9f74a0d4331f73ec12c838229487f"
TOGETHER = 10.0  # seconds in which the old code serves on the new schema


@contextmanager
def old_release() -> Iterator[None]:
    """Whatever starts from here on is the release before."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="openremedy-before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
            tree.extractall(folder, filter="data")
        stack.ROOT = scene.ROOT = Path(folder)
        try:
            yield
        finally:
            stack.ROOT = scene.ROOT = ROOT


def upgrade(here: Scene) -> list[str]:
    """As docs/operations.md says: the schema first, then one process after another."""
    began = time.monotonic()
    stack.ROOT = scene.ROOT = ROOT
    here.command("db", "upgrade")
    print(f"the schema took {time.monotonic() - began:.1f} s with the service running", flush=True)
    time.sleep(TOGETHER)
    codes = {}
    for name in here.names:
        codes[name] = here.stack.end(name)
        here.stack.start(name)
        time.sleep(1)
    return [f"{name} ended with {code}" for name, code in codes.items() if code]


def main() -> int:
    """Upgrade once."""
    with old_release(), STAGES["nginx"]() as here:
        found = here.round("the release before on the new schema, then the new one", upgrade, may_refuse=True)
    print(row(found))
    refused = {name: count for name, count in found.answers.items() if name not in ("202", "502", "ConnectionError")}
    holds = found.holds and not refused
    print("Nothing lost, nothing doubled." if holds else f"BROKEN {refused} {asdict(found)}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
