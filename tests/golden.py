"""The adapters' golden files: real-looking bodies of each tool, and the canonical alerts that they become.

`python tests/golden.py` (make fixtures) writes what the code says now. Read it before it is committed: the expected
files are the specification.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from openremedy.adapter import Adapter, Format, read
from openremedy.registry import discover
from openremedy.translation import as_json

ROOT = Path(__file__).parent.parent
EXPECTED = ".expected.json"
OPTIONS = ".options.json"


@dataclass(frozen=True)
class Case:
    """One fixture of an adapter; its `<case>.options.json` are the options of the source that gets it."""

    adapter: Adapter
    shape: Format
    file: Path

    def __str__(self) -> str:
        return f"{self.adapter.name}{self.shape.path.replace('/', '-')}-{self.file.stem}"

    @property
    def body(self) -> bytes:
        return self.file.read_bytes()

    @property
    def options(self) -> dict[str, Any]:
        file = self.file.with_name(self.file.stem + OPTIONS)
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    @property
    def expected_file(self) -> Path:
        return self.file.with_name(self.file.stem + EXPECTED)

    @property
    def expected(self) -> Any:
        return json.loads(self.expected_file.read_text())

    def translated(self) -> dict[str, Any]:
        """What the adapter makes of the body, as JSON."""
        reading = read(self.shape, self.body, "application/json", self.options)
        return {"alerts": [as_json(one) for one in reading.translations]} | (
            {"remark": reading.remark} if reading.remark else {}
        )


def folder(adapter: Adapter) -> Path:
    return ROOT / "adapters" / adapter.name


def cases_of(adapter: Adapter) -> Iterator[Case]:
    """The fixtures of an adapter: those of a format with a path of its own lie in a folder named like it."""
    for shape in adapter.formats:
        place = folder(adapter) / "fixtures" / shape.path.strip("/").replace("/", "_")
        for file in sorted(place.glob("*.json")):
            if not file.name.endswith((EXPECTED, OPTIONS)):
                yield Case(adapter, shape, file)


def cases() -> list[Case]:
    return [case for adapter in discover().values() for case in cases_of(adapter)]


if __name__ == "__main__":
    for case in cases():
        text = json.dumps(case.translated(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if not case.expected_file.exists() or case.expected_file.read_text() != text:
            case.expected_file.write_bytes(text.encode("utf-8", "backslashreplace"))  # lone surrogates: \ud800
            print("written:", case.expected_file.relative_to(ROOT))
