"""What the classifier takes and gives: plain frozen values, known to everyone and knowing no one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The confidence at which a recipe is an answer. That of the lexical tier was learnt with its weights (matcher.json):
# from there on at least 95 of 100 answers are right. A model's own confidence is not calibrated.
ANSWER_THRESHOLD = 0.87
MODEL_THRESHOLD = 0.5


@dataclass(frozen=True)
class Subject:
    """The part of an incident the classifier looks at."""

    incident_type: str
    hostname: str
    severity: str
    evidence: Mapping[str, Any]
    adapter: str = "canonical"


@dataclass(frozen=True)
class Example:
    """An earlier incident and what a person said of it: the slug of a recipe, or None where none fits."""

    id: str
    subject: Subject
    recipe: str | None


@dataclass(frozen=True)
class Recipe:
    """A recipe as the classifier sees it; `applies_to` empty means every incident type."""

    slug: str
    title: str
    when: str
    applies_to: tuple[str, ...] = ()
    match: Mapping[str, Any] = field(default_factory=dict)
    risk: str = "medium"
    steps: str = ""
    tags: tuple[str, ...] = ()

    def admits(self, incident_type: str) -> bool:
        return not self.applies_to or incident_type in self.applies_to


@dataclass(frozen=True)
class Candidate:
    recipe: str
    confidence: float


@dataclass(frozen=True)
class Citation:
    """A place in the evidence (RFC 6901) and the value it holds."""

    pointer: str
    value: Any


@dataclass(frozen=True)
class Answer:
    """A recipe's slug or none, and why."""

    recipe: str | None
    tier: str
    confidence: float
    runners_up: tuple[Candidate, ...] = ()
    citations: tuple[Citation, ...] = ()
    summary: str = ""
    model: str | None = None
    tokens: int = 0
    latency_ms: int = 0


@dataclass(frozen=True)
class Completion:
    """One raw reply of a model and what it cost."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
