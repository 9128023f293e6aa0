"""Whether the suite sees anything: a mechanism is switched off in a copy of the service, and its fault must go red."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import stack
from faults import scene
from faults.catalogue import FAULTS
from faults.scene import STAGES, Found

SERVICE = ("openremedy", "adapters", "config", "migrations", "wsgi.py")
RECOVERY = 100  # seconds: a sweep, a lease and some


@dataclass(frozen=True)
class Mechanism:
    """`edits`: file, text and what stands there instead. `fault` is what it is there for; `sign` what must be seen."""

    name: str
    edits: tuple[tuple[str, str, str], ...]
    fault: str
    sign: str


MECHANISMS = (
    Mechanism(
        "the database refuses a second open incident",
        (
            (
                "migrations/versions/0001_first_tables.py",
                '"uq_incidents_open",\n            ["tenant_id", "identity"],\n            unique=True',
                '"uq_incidents_open",\n            ["tenant_id", "identity"],\n            unique=False',
            ),
            (
                "migrations/versions/0006_one_statement.py",
                '["identity", "tenant_id"], "latest", unique=True',
                '["identity", "tenant_id"], "latest", unique=False',
            ),
        ),
        "none",
        "doubled",
    ),
    Mechanism(
        "a lost worker's incidents come free",
        (
            (
                "openremedy/maintenance.py",
                "requeued, given_up = claims.requeue_lost(engine)",
                "requeued, given_up = 0, 0",
            ),
        ),
        "a worker killed (-9) in the middle of a call, one after another",
        "waiting",
    ),
    Mechanism(
        "a commit waits for the disk",
        (
            (
                "openremedy/database.py",
                '"lock_timeout": "5s",',
                '"lock_timeout": "5s",\n    "synchronous_commit": "off",',
            ),
        ),
        "database killed (-9)",
        "lost",
    ),
    Mechanism(
        "a database that cannot write is a 503",
        (
            (
                "openremedy/database.py",
                "psycopg.OperationalError, psycopg.InternalError, OperationalError, InternalError,",
                "psycopg.OperationalError, OperationalError,",
            ),
        ),
        "database read-only",
        "undocumented",
    ),
    Mechanism(
        "a list is of one tenant",
        (
            (
                "openremedy/incidents.py",
                "Incident.tenant_id == tenant_id, Incident.id.in_(ids)",
                "Incident.id.in_(ids)",
            ),
            (
                "openremedy/search.py",
                ".where(_incidents.c.tenant_id == tenant_id, *_conditions(tenant_id, filters))",
                ".where(*_conditions(tenant_id, filters))",
            ),
        ),
        "none",
        "strayed",
    ),
)


def proven(only: str) -> list[str]:
    """What the suite did not see, each in a sentence."""
    blind = []
    for one in MECHANISMS:
        if only not in one.name:
            continue
        found = _without(one)
        seen = getattr(found, one.sign)
        print(f"without it: {one.name:50} {one.fault:65} {one.sign}: {_short(seen)}", flush=True)
        if not seen:
            blind.append(f"without {one.name!r}, {one.fault!r} shows nothing {one.sign}")
    return blind


def _short(seen: object) -> str:
    return f"{len(seen)}" if isinstance(seen, list) else f"{seen}"


def _without(one: Mechanism) -> Found:
    (fault,) = [each for each in FAULTS if each.name == one.fault]
    with _sabotaged(one), STAGES[fault.stage]() as here:
        found: Found = here.round(fault.name, fault.breaks, fault.may_refuse)
        return found


@contextmanager
def _sabotaged(one: Mechanism) -> Iterator[None]:
    """The processes of the service come from a copy without the mechanism."""
    before = stack.ROOT, scene.RECOVERY
    with tempfile.TemporaryDirectory(prefix="openremedy-proof-") as name:
        copy = Path(name)
        for part in SERVICE:
            source = before[0] / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        for file, old, new in one.edits:
            text = (copy / file).read_text()
            if text.count(old) != 1:
                raise LookupError(f"{file}: {old!r} stands there {text.count(old)} times")
            (copy / file).write_text(text.replace(old, new))
        stack.ROOT = scene.ROOT = copy
        scene.RECOVERY = RECOVERY
        try:
            yield
        finally:
            stack.ROOT = scene.ROOT = before[0]
            scene.RECOVERY = before[1]
