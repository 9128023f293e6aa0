"""The programs of docs/clients, filled in for one tenant; the secret stays out of them."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "clients"
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TENANT = "my-company"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A program to save in a file, and the command that runs it."""

    name: str
    language: str
    run: str
    code: str


def examples(public_url: str, slug: str) -> list[Example]:
    """The three clients as this tenant runs them."""
    return [
        Example(name, language, run, code.replace(DEFAULT_URL, public_url).replace(DEFAULT_TENANT, slug))
        for name, language, run, code in _shipped()
    ]


@cache
def _shipped() -> tuple[tuple[str, str, str, str], ...]:
    return (_read("bash", "bash"), _read("python", "Python"), _read("node", "Node"))


def _read(name: str, language: str) -> tuple[str, str, str, str]:
    """Its first block is the program, the first of plain text the command that runs it."""
    found = _BLOCK.findall((FOLDER / f"{name}.md").read_text("utf-8"))
    run = next(text for kind, text in found if kind == "text")
    return name, language, run.strip(), found[0][1]
