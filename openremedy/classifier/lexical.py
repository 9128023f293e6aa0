"""Tiers 3 and 5: which recipes share words with an incident (BM25 over weighted fields), and how sure that makes us."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .masking import mask
from .pointers import scalars
from .shapes import ANSWER_THRESHOLD as ANSWER_THRESHOLD
from .shapes import Answer, Candidate, Citation, Recipe, Subject

CITATION_LIMIT = 3

_FIELDS = {"title": 3.0, "slug": 3.0, "tags": 2.0, "when": 2.0, "steps": 0.3}
_SATURATION = 1.5
# How much a word of the incident counts, by where it stands.
_TYPE, _TYPE_MEANS, _NAME, _VALUE, _KEY, _HOSTNAME = 0.8, 0.4, 2.0, 1.0, 0.5, 0.2
_NAMING_KEYS = {
    "alertname", "rule", "rulename", "monitor", "check", "title", "name", "service_name", "service", "summary",
}  # fmt: skip
_GENERAL_POINTS = 0.4
_QUERY_WORDS = 300
_VALUE_CHARACTERS = 2000
_EVIDENCE_CHARACTERS = 32 * 1024
_CITED_CHARACTERS = 500

TYPE_WORDS = {
    "disk_full": "disk full filesystem space",
    "cpu_high": "cpu high load",
    "memory_high": "memory high ram oom",
    "service_down": "service down unit process failed",
    "port_unavailable": "port unavailable connection refused listen",
}

# "Not for exhausted inodes" must not draw inode alerts to a recipe.
_EXCLUSION = re.compile(r"\b(?:and )?not for\b[^.]*", re.IGNORECASE)
# PostgreSQL, MySQL, RabbitMQ, MongoDB are one word each.
_WORD = re.compile(r"[A-Z]?[a-z]+(?:SQL|DB|MQ|JS|VPN)(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_]+")
_STOP = frozenset(
    "a about after all also an and any are as at be been being but by can do does for from had has have if in into is "
    "it its may more no not of on or other so some such than that the their them then there these they this to too up "
    "use used using was were what when where which while who will with would you your "
    "alert alertname instance job severity value label annotation summary description status firing state critical "
    "warning info http https www com minute last current currently recipe runbook url name true false null".split()
)


@dataclass(frozen=True)
class Match(Candidate):
    words: frozenset[str] = field(default_factory=frozenset)


def words_of(text: str) -> Iterator[str]:
    """Lower-case words without their plural, split at camelCase, snake_case, digits and punctuation."""
    for found in _WORD.finditer(text):
        word = _singular(found[0].lower())
        if (len(word) > 1 or ord(word[0]) > 0x2E7F) and word not in _STOP and not word.isdigit():
            yield word


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _fields(recipe: Recipe) -> dict[str, list[str]]:
    texts = {
        "title": recipe.title,
        "slug": recipe.slug,
        "tags": " ".join(recipe.tags),
        "when": _EXCLUSION.sub(" ", recipe.when),
        "steps": recipe.steps,
    }
    return {name: list(words_of(text)) for name, text in texts.items()}


@dataclass
class _Score:
    points: float = 0.0
    words: set[str] = field(default_factory=set)

    def add(self, word: str, points: float) -> None:
        self.points += points
        self.words.add(word)


class Index:
    """The recipes of one catalogue, ready to be ranked for any incident. Immutable after it is built."""

    def __init__(self, recipes: Iterable[Recipe]) -> None:
        self.recipes = {recipe.slug: recipe for recipe in recipes}
        fields = {slug: _fields(recipe) for slug, recipe in self.recipes.items()}
        self._names = {slug: (set(said["slug"]), set(said["title"])) for slug, said in fields.items()}
        self._postings: dict[str, dict[str, float]] = defaultdict(dict)
        for slug, weights in _weigh(fields).items():
            for word, weight in weights.items():
                self._postings[word][slug] = weight / (weight + _SATURATION)

    def rank(self, subject: Subject, limit: int = 12) -> tuple[Match, ...]:
        """Best first; only recipes that admit the incident's type. Those that name it come last, if nothing else."""
        admitted = {slug for slug, recipe in self.recipes.items() if recipe.admits(subject.incident_type)}
        scored = self._score(query_of(subject), admitted)
        self._prefer_general(scored, subject.incident_type)
        order = sorted(scored, key=lambda slug: (-scored[slug].points, slug))[: max(limit, 2)]
        found = _falling(self._match(slug, scored, order, subject.incident_type) for slug in order)
        named = [slug for slug in sorted(admitted - scored.keys()) if self.recipes[slug].applies_to]
        return tuple([*found, *(Match(slug, 0.0) for slug in named)][:limit])

    def _score(self, asked: Mapping[str, float], admitted: set[str]) -> dict[str, _Score]:
        scored: dict[str, _Score] = defaultdict(_Score)
        for word, weight in asked.items():
            holders = {slug: held for slug, held in self._postings.get(word, {}).items() if slug in admitted}
            # Rare among the recipes that may apply: every disk recipe says "disk", so that decides nothing.
            rarity = math.log(1 + (len(admitted) - len(holders) + 0.5) / (len(holders) + 0.5))
            for slug, held in holders.items():
                scored[slug].add(word, weight * rarity * held)
        return scored

    def _prefer_general(self, scored: Mapping[str, _Score], kind: str) -> None:
        """A recipe named like the type is the one to begin with when nothing speaks for a special one."""
        own = set(words_of(f"{kind} {TYPE_WORDS.get(kind, '')}"))
        for slug, score in scored.items():
            if any(name and name <= own for name in self._names[slug]):
                score.points += _GENERAL_POINTS

    def _match(self, slug: str, scored: Mapping[str, _Score], order: Sequence[str], kind: str) -> Match:
        mine, rival = scored[slug], next((scored[other] for other in order if other != slug), None)
        margin = (mine.points - rival.points) / max(mine.points, rival.points) if rival else 1.0
        named = max(_share(name, mine.words) for name in self._names[slug])
        typed = kind in TYPE_WORDS and bool(self.recipes[slug].applies_to)
        return Match(slug, confidence(mine.points, margin, named, typed), frozenset(mine.words))


def _falling(matches: Iterable[Match]) -> Iterator[Match]:
    """The order is by points; a lower place may not claim more confidence than a higher one."""
    ceiling = 1.0
    for match in matches:
        ceiling = min(ceiling, match.confidence)
        yield replace(match, confidence=ceiling)


def _share(name: set[str], words: set[str]) -> float:
    return len(name & words) / len(name) if name else 0.0


def confidence(points: float, margin: float, named: float, typed: bool) -> float:
    """The chance that the best candidate is right: a logistic fitted to labelled public alerts.

    How much of the recipe's name the incident says tells most; points and the lead over the next tell less.
    Where the type is known all candidates are about the right thing, and a wrong one is a near miss.
    """
    return 1 / (1 + math.exp(5.4 - 0.5 * math.log1p(points) - 2.2 * margin - 6.3 * named - (2.0 if typed else 0.0)))


def _weigh(fields: Mapping[str, Mapping[str, list[str]]]) -> dict[str, dict[str, float]]:
    """Per recipe the weight of each word: often said counts more, in a long text less."""
    lengths: Counter[str] = Counter()
    for said in fields.values():
        lengths.update({name: len(words) for name, words in said.items()})
    weights: dict[str, dict[str, float]] = {}
    for slug, said in fields.items():
        held: dict[str, float] = defaultdict(float)
        for name, words in said.items():
            usual = lengths[name] / len(fields) or 1.0
            norm = 0.4 + 0.6 * len(words) / usual
            for word, count in Counter(words).items():
                held[word] += _FIELDS[name] * count / norm
        weights[slug] = held
    return weights


def query_of(subject: Subject) -> dict[str, float]:
    """The incident's words and how much each counts; the first few hundred of them."""
    asked: dict[str, float] = {}
    for text, weight in _said(subject):
        for word in words_of(text):
            if len(asked) >= _QUERY_WORDS and word not in asked:
                continue
            asked[word] = max(asked.get(word, 0.0), weight)
    return asked


def _said(subject: Subject) -> Iterator[tuple[str, float]]:
    yield subject.incident_type if subject.incident_type in TYPE_WORDS else "", _TYPE
    yield TYPE_WORDS.get(subject.incident_type, ""), _TYPE_MEANS
    left = _EVIDENCE_CHARACTERS
    for pointer, value in scalars(subject.evidence):
        left -= len(pointer) + (min(len(value), _VALUE_CHARACTERS) if isinstance(value, str) else 0)
        if left < 0:
            break
        key = pointer.rpartition("/")[2]
        yield pointer, _KEY
        if isinstance(value, str):
            yield value[:_VALUE_CHARACTERS], _NAME if key.lower() in _NAMING_KEYS else _VALUE
    yield subject.hostname, _HOSTNAME


def lexical_answer(subject: Subject, ranked: Sequence[Match], threshold: float = ANSWER_THRESHOLD) -> Answer:
    """The best candidate if it is good enough, else none with the runners-up."""
    best = ranked[0] if ranked and ranked[0].confidence >= threshold else None
    others = ranked[1:] if best else ranked
    return Answer(
        recipe=best.recipe if best else None,
        tier="lexical",
        confidence=(best or (ranked[0] if ranked else Match("", 0.0))).confidence,
        runners_up=tuple(Candidate(other.recipe, other.confidence) for other in others[:3] if other.confidence > 0),
        citations=_citations(subject, best.words) if best else (),
        summary=_summary(subject, best),
    )


def _citations(subject: Subject, words: frozenset[str]) -> tuple[Citation, ...]:
    """The places that share most words with the recipe, and by their values rather than by their keys."""
    found: list[tuple[int, int, Citation]] = []
    for pointer, value in scalars(mask(subject.evidence)):
        in_value = words.intersection(words_of(value[:_VALUE_CHARACTERS])) if isinstance(value, str) else set()
        in_key = words.intersection(words_of(pointer))
        if (in_value or in_key) and len(str(value)) <= _CITED_CHARACTERS:
            found.append((len(in_value), len(in_key), Citation(pointer, value)))
    found.sort(key=lambda item: (-item[0], -item[1]))
    return tuple(cited for *_, cited in found[:CITATION_LIMIT])


def _summary(subject: Subject, best: Match | None) -> str:
    if best is None:
        return "No recipe shares enough words with this incident."
    said = ", ".join(sorted(best.words, key=list(query_of(subject)).index)[:6])
    return f"The incident and the recipe share the words: {said}."
