"""Tiers 3 and 5: which recipes speak of what an incident says, and how sure that makes us.

Twelve features compare an incident with a recipe; their weights, and how their values become a probability, were learnt
from labelled alerts (scripts/train_matcher.py) and stand in matcher.json. docs/classifier.md has the figures.
"""

import json
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from operator import add, mul
from pathlib import Path
from typing import Any

from .injection import suspicion
from .masking import mask
from .pointers import scalars
from .query import TYPE_WORDS as TYPE_WORDS
from .query import Query, query_of, terms_in
from .shapes import ANSWER_THRESHOLD as ANSWER_THRESHOLD
from .shapes import Answer, Candidate, Citation, Example, Recipe, Subject
from .words import concepts_of, grams_of, masked, sides_of, spelled, stem, terms_of, words_of

CITATION_LIMIT = 3
FEATURES = (
    "bm25",  # BM25 of all terms and concepts against name (twice) and lead, as a share of the most they could reach
    "text_covered",  # share of what the sentences say, by tf-idf, that the recipe says anywhere
    "all_covered",  # the same of everything the incident says
    "name_told",  # share of the recipe's name, weighed by what tells the best candidates apart, that the incident says
    "name_alike",  # cosine of the incident's name and the recipe's
    "name_unsaid",  # how much of the recipe's name the incident does not say, as a negative number
    "concepts_alike",  # cosine of the concepts of the incident and of the recipe's name
    "spelled_alike",  # cosine of pieces of words, sentences against lead
    "name_against",  # alternatives on which the incident and the recipe's name contradict each other, negative
    "lead_against",  # the same with the lead
    "confirmed",  # likeness of the nearest incident for which a person chose the recipe
    "general",  # the recipe is named like the type of an incident that says nothing which speaks for another
)
CONFIDENCE_FEATURES = (
    *FEATURES,
    "share",  # log-odds of the best among the candidates
    "lead",  # its points over those of the next
    "points",
    "named",  # the incident has a name
    "unknown",  # share of the said words that no recipe uses
    "typed",  # the recipe is for some types, and the incident is of one of them that says what broke
)

_LEAD_WORDS, _LEAST_LEAD = 60, 4
_FIRST_LOOK = 40  # candidates that are compared among themselves
_RANKINGS_KEPT = 500  # of different incidents, per catalogue
_WORDS_KEPT = 3000  # of which the pieces are added up, per catalogue
_FEW, _MANY = 50, 200  # recipes, below and above which the confidence of one kind holds alone
_SATURATION, _LENGTH = 1.2, 0.5
_RELATING = ("bm25", "all_covered", "concepts_alike", "confirmed", "general")  # each by itself a reason to look
MOSTLY = 0.5  # the sway from which what people chose comes first
_ALMOST = 0.7
_LEAST_TERMS = 3  # with fewer everything is alike
_ALIKE = 0.3  # the cosine from which an earlier incident is shown to a model
_READ_CHARACTERS = 20_000
_CITED_CHARACTERS = 500
_PARAGRAPH = re.compile(r"\n\s*\n")
_HEADING = re.compile(r"^#+\s.*$", re.MULTILINE)
# "Not for exhausted inodes" must not draw inode alerts to a recipe.
_EXCLUSION = re.compile(r"\b(?:and )?not for\b[^.]*", re.IGNORECASE)
_OPENING = re.compile(
    r"\b(?:this|the) (?:`\w+` )?alert (?:fires|is (?:fired|triggered)|indicates|triggers|means|will fire)\w*"
    r"(?: when| that| if)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Match(Candidate):
    """`none`: the chance that no recipe fits at all, the same for all of one ranking."""

    words: frozenset[str] = field(default_factory=frozenset)
    none: float = 1.0


Confidence = tuple[tuple[float, ...], ...]  # per outcome the intercept and a weight per feature


@dataclass(frozen=True)
class Matcher:
    """What was learnt. How sure a ranking is differs between catalogues of some dozens and of hundreds of recipes, and
    for recipes whose title says nothing.
    """

    weights: tuple[float, ...]
    few: Confidence
    many: Confidence
    untitled: Confidence
    threshold: float  # the confidence from which what is answered is right often enough

    @classmethod
    def load(cls, file: Path) -> "Matcher":
        learnt: dict[str, Any] = json.loads(file.read_text("utf-8"))
        weights = tuple(float(learnt["weights"][name]) for name in FEATURES)
        few, many, untitled = (_confidence(learnt["confidence"][kind]) for kind in ("few", "many", "untitled"))
        return cls(weights, few, many, untitled, float(learnt["threshold"]))

    def chances(self, values: Sequence[float], recipes: int, titled: bool) -> list[float]:
        """That the best is right, that another one is, that none fits."""
        if not titled:
            return _outcomes(self.untitled, values)
        low, high = (math.log(bound) for bound in (_FEW, _MANY))
        share = min(max((math.log(max(recipes, 1)) - low) / (high - low), 0.0), 1.0)
        few, many = (_outcomes(rows, values) for rows in (self.few, self.many))
        return [(1 - share) * one + share * other for one, other in zip(few, many, strict=True)]


def _confidence(learnt: Mapping[str, Mapping[str, float]]) -> Confidence:
    names = ("intercept", *CONFIDENCE_FEATURES)
    return tuple(tuple(float(learnt[outcome][name]) for name in names) for outcome in ("right", "wrong", "none"))


def _outcomes(rows: Confidence, values: Sequence[float]) -> list[float]:
    return _softmax([row[0] + sum(map(mul, row[1:], values)) for row in rows])


def _softmax(points: Sequence[float]) -> list[float]:
    if not points:
        return []
    top = max(points)
    raised = [math.exp(one - top) for one in points]
    whole = sum(raised)
    return [one / whole for one in raised]


MATCHER = Matcher.load(Path(__file__).with_name("matcher.json"))


@dataclass(frozen=True)
class _Text:
    """A recipe as its words."""

    name: list[str]
    lead: list[str]
    whole: frozenset[str]
    short: tuple[frozenset[str], frozenset[str]]  # slug and title, each by itself

    @classmethod
    def of(cls, recipe: Recipe) -> "_Text":
        when = _HEADING.sub(" ", _EXCLUSION.sub(" ", recipe.when[:_READ_CHARACTERS]))
        name = words_of(f"{recipe.title} {recipe.slug}") if recipe.title else []
        lead = words_of(masked(_lead(_OPENING.sub(" ", when))))
        rest = [words_of(masked(text)) for text in (when, recipe.steps[:_READ_CHARACTERS], " ".join(recipe.tags))]
        whole = {term for words in (name, lead, *rest) for term in terms_of(words)}
        return cls(name, lead, frozenset(whole), (frozenset(words_of(recipe.slug)), frozenset(words_of(recipe.title))))


def _lead(when: str) -> str:
    """The first paragraph that says something: what the recipe is for; the rest explains."""
    paragraphs = _PARAGRAPH.split(when)
    first = next((one for one in paragraphs if len(words_of(one)) >= _LEAST_LEAD), when)
    return " ".join(first.split()[:_LEAD_WORDS])


class Index:
    """The recipes of one catalogue, ready to be ranked for any incident. Immutable but for what it remembers."""

    def __init__(self, recipes: Iterable[Recipe], matcher: Matcher = MATCHER) -> None:
        self.recipes = {recipe.slug: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.slug)}
        self._matcher = matcher
        self._texts = {slug: _Text.of(recipe) for slug, recipe in self.recipes.items()}
        self._scopes: dict[tuple[str, ...], _Scope] = {}
        self._scope_of: dict[str, _Scope] = {}
        self._remembered: Mapping[str, _Remembered] = {}
        self._memories: dict[str, _Memory] = {}
        self._ranked: dict[tuple[Any, _Trouble], tuple[Match, ...]] = {}

    def remembering(self, examples: Iterable[Example]) -> "Index":
        """The same recipes with other examples; what is known of the recipes is shared."""
        index = copy(self)
        known = self._remembered
        index._remembered = {
            one.id: known[one.id] if one.id in known and known[one.id].example == one else _Remembered.of(one)
            for one in examples
        }
        index._memories = {}
        index._ranked = {}
        return index

    def _scope(self, incident_type: str) -> "_Scope":
        """The recipes that admit the type. What is rare is counted among them: every disk recipe says "disk"."""
        if incident_type not in self._scope_of:
            self._scope_of[incident_type] = self._make_scope(incident_type)
        return self._scope_of[incident_type]

    def _make_scope(self, incident_type: str) -> "_Scope":
        slugs = tuple(slug for slug, recipe in self.recipes.items() if recipe.admits(incident_type))
        if slugs not in self._scopes:
            typed = sum(bool(self.recipes[slug].applies_to) for slug in slugs) * 2 > len(slugs)
            self._scopes[slugs] = _Scope(slugs, [self._texts[slug] for slug in slugs], typed)
        return self._scopes[slugs]

    def _memory(self, incident_type: str) -> "_Memory":
        if incident_type not in self._memories:
            alike = [one for one in self._remembered.values() if one.example.subject.incident_type == incident_type]
            self._memories[incident_type] = _Memory(self._scope(incident_type), alike)
        return self._memories[incident_type]

    def rank(self, subject: Subject, limit: int = 12, without: str = "") -> tuple[Match, ...]:
        """Best first; only recipes that admit the incident's type and share something with it, or else name its type.

        `without`: the id of an example to forget. In a storm most incidents say the same but for their hosts and
        numbers, which are no words: then the ranking is the same, too.
        """
        query = query_of(subject)
        trouble = _trouble_of(subject, query)
        if without:
            return self._rank(query, trouble, without)[:limit]
        key = query.key, trouble
        if key not in self._ranked:
            while len(self._ranked) >= _RANKINGS_KEPT:
                del self._ranked[next(iter(self._ranked))]
            self._ranked[key] = self._rank(query, trouble)
        return self._ranked[key][:limit]

    def _rank(self, query: Query, trouble: "_Trouble", without: str = "") -> tuple[Match, ...]:
        compared = self._compare(query, trouble, without)
        matches = compared.matches() if compared else ()
        return tuple(match for match in matches if match.confidence > 0 or self.recipes[match.recipe].applies_to)

    def nearest(self, subject: Subject, limit: int, without: str = "") -> list[Example]:
        """The examples most like the incident, none that is hardly like it."""
        memory = self._memory(subject.incident_type)
        cosines = memory.cosines(query_of(subject).terms, without)
        order = sorted(range(len(cosines)), key=lambda place: (-cosines[place], place))[: limit * 3]
        near = (memory.known[place].example for place in order if cosines[place] >= _ALIKE)
        # What may talk to a model does not speak in the questions of honest incidents.
        return list(islice((example for example in near if not suspicion(example.subject)), limit))

    def compare(self, subject: Subject, without: str = "") -> "Comparison | None":
        """The features behind a ranking; None where no recipe admits the type."""
        query = query_of(subject)
        return self._compare(query, _trouble_of(subject, query), without)

    def _compare(self, query: Query, trouble: "_Trouble", without: str) -> "Comparison | None":
        incident_type = trouble[0]
        scope = self._scope(incident_type)
        if not scope.slugs:
            return None
        likeness = self._memory(incident_type).likeness(query.terms, trouble, without)
        return Comparison(scope, likeness, query, self._matcher)


class _Vectors:
    """Short texts as unit tf-idf vectors, to be compared with one more."""

    def __init__(
        self, documents: Sequence[Iterable[str]], idf: Mapping[str, float], unknown: float | None = None
    ) -> None:
        """`unknown`: the weight of terms that are not in `idf`; None leaves them out."""
        self._idf, self._unknown = idf, unknown
        self._size = len(documents)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, document in enumerate(documents):
            for term, weight in self._unit(document).items():
                self._postings[term].append((place, weight))

    def _unit(self, terms: Iterable[str]) -> dict[str, float]:
        weights = {
            term: (1 + math.log(count)) * weight
            for term, count in Counter(terms).items()
            if (weight := self._idf.get(term, self._unknown)) is not None
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {term: weight / length for term, weight in weights.items()}

    def cosines(self, terms: Iterable[str]) -> list[float]:
        found = [0.0] * self._size
        for term, weight in self._unit(terms).items():
            for place, held in self._postings.get(term, ()):
                found[place] += weight * held
        return found


class _Spelling(_Vectors):
    """The same of texts as pieces of their words. A word brings all its pieces, so what they add up to is kept by word;
    then only the pieces that several words share, which do not count as often as they stand there, are looked up.
    """

    def __init__(self, documents: Sequence[Sequence[str]], idf: Mapping[str, float]) -> None:
        super().__init__([grams_of(words) for words in documents], idf)
        self._by_word: dict[str, array[float]] = {}

    def cosines(self, terms: Iterable[str]) -> list[float]:
        """`terms`: words, not yet in pieces."""
        words = {word: (count, grams_of([word])) for word, count in Counter(terms).items()}
        held: Counter[str] = Counter()
        assumed: dict[str, float] = defaultdict(float)
        found = [0.0] * self._size
        for word, (count, grams) in words.items():
            factor = 1 + math.log(count)
            column = self._column(word, grams)
            found = list(map(add, found, column if count == 1 else map(mul, column, repeat(factor))))
            for gram in grams:
                held[gram] += count
                assumed[gram] += factor
        square = 0.0
        for gram, count in held.items():
            if (idf := self._idf.get(gram)) is None:
                continue
            weight = (1 + math.log(count)) if count > 1 else 1.0
            square += (weight * idf) ** 2
            if wrong := (weight - assumed[gram]) * idf:
                for place, part in self._postings.get(gram, ()):
                    found[place] += wrong * part
        length = math.sqrt(square) or 1.0
        return [points / length for points in found]

    def _column(self, word: str, grams: Iterable[str]) -> "array[float]":
        """What the pieces of a word add up to for each text, the length of the query aside."""
        if word not in self._by_word:
            column = array("d", [0.0]) * self._size
            for gram in grams:
                weight = self._idf.get(gram, 0.0)
                for place, part in self._postings.get(gram, ()):
                    column[place] += weight * part
            while len(self._by_word) >= _WORDS_KEPT:
                del self._by_word[next(iter(self._by_word))]
            self._by_word[word] = column
        return self._by_word[word]


class _Sides:
    """Which alternatives each text names, by contrast: most texts touch none."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._size = len(texts)
        self._touching: dict[int, list[tuple[int, frozenset[int]]]] = defaultdict(list)
        for place, text in enumerate(texts):
            for contrast, named in sides_of(text).items():
                self._touching[contrast].append((place, named))

    def against(self, said: Mapping[int, frozenset[int]]) -> list[float]:
        """Per text, as a negative number, the contrasts of which it names nothing that is said."""
        found = [0.0] * self._size
        for contrast, numbers in said.items():
            for place, named in self._touching.get(contrast, ()):
                if not numbers & named:
                    found[place] -= 1
        return found


class _Scope:
    """Recipes that are weighed against each other, with all that can be known before the incident."""

    def __init__(self, slugs: tuple[str, ...], texts: Sequence[_Text], typed: bool) -> None:
        """`typed`: most of them were chosen by the incident's type."""
        self.typed = typed
        self.slugs = slugs
        self.texts = texts
        self.holders: dict[str, list[int]] = defaultdict(list)
        for place, text in enumerate(texts):
            for term in text.whole:
                self.holders[term].append(place)
        self.idf = {term: _idf(len(texts), len(held)) for term, held in self.holders.items()}
        self.names = _Vectors([terms_of(text.name) for text in texts], self.idf)
        concepts = [sorted(set(concepts_of(text.whole))) for text in texts]
        self.concepts = _Vectors([set(concepts_of(terms_of(text.name))) for text in texts], _idfs(concepts))
        grams = [grams_of(text.lead) for text in texts]
        spelled = [{*lead, *grams_of(text.name)} for lead, text in zip(grams, texts, strict=True)]
        self.spelling = _Spelling([text.lead for text in texts], _idfs(spelled))
        self.name_words = [frozenset(text.name) for text in texts]
        self.all_unsaid = [self.unsaid(words) for words in self.name_words]
        self.named: dict[str, list[int]] = defaultdict(list)
        for place, words in enumerate(self.name_words):
            for word in words:
                self.named[word].append(place)
        self.name_terms = [frozenset(terms_of(text.name)) for text in texts]
        self.name_sides = _Sides([text.name for text in texts])
        self.lead_sides = _Sides([text.lead for text in texts])
        self._named_like: dict[frozenset[str], list[int]] = {}
        self._weigh()

    def unsaid(self, words: Iterable[str]) -> float:
        """How much so many words of a name tell that are not said, as a negative number."""
        return -sum(self.idf[word] for word in words) / 10

    def named_like(self, kind: frozenset[str]) -> list[int]:
        """The recipes whose slug or title is of these words alone, which are those of an incident's type."""
        if kind not in self._named_like:
            self._named_like[kind] = [
                place for place, text in enumerate(self.texts) if any(words and words <= kind for words in text.short)
            ]
        return self._named_like[kind]

    def _weigh(self) -> None:
        """BM25 of name, name and lead, ready to be summed; `reach` is the most that a term can bring."""
        documents = [Counter(_with_concepts([*terms_of(text.name) * 2, *terms_of(text.lead)])) for text in self.texts]
        lengths = [sum(document.values()) for document in documents]
        usual = sum(lengths) / max(len(lengths), 1) or 1.0
        held = Counter(term for document in documents for term in document)
        self.reach = {term: _bm25_idf(len(documents), held[term]) * (_SATURATION + 1) for term in [*self.idf, *held]}
        self.weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            norm = _SATURATION * (1 - _LENGTH + _LENGTH * length / usual)
            for term, count in document.items():
                self.weights[term].append((place, self.reach[term] * count / (count + norm)))


@dataclass(frozen=True)
class _Remembered:
    """An example, its terms, and what has to be the same for two incidents to be about one thing."""

    example: Example
    terms: list[str]
    trouble: "_Trouble"

    @classmethod
    def of(cls, example: Example) -> "_Remembered":
        query = query_of(example.subject)
        return cls(example, query.terms, _trouble_of(example.subject, query))


# Type, name, and the mount, port or service.
_Trouble = tuple[str, frozenset[str], tuple[str, ...]]


def _trouble_of(subject: Subject, query: Query) -> _Trouble:
    things = tuple(str(subject.evidence.get(key, "")) for key in ("mount", "port", "service_name", "service"))
    return subject.incident_type, frozenset(word for words in query.name for word in words), things


class _Memory:
    """What people said of earlier incidents of a type, for the recipes of its scope."""

    def __init__(self, scope: _Scope, remembered: Sequence[_Remembered]) -> None:
        self._places = {slug: place for place, slug in enumerate(scope.slugs)}
        self.known = [one for one in remembered if one.example.recipe in (None, *scope.slugs)]
        self._vectors = _Vectors([one.terms for one in self.known], scope.idf, _idf(len(scope.slugs), 0))

    def cosines(self, terms: Sequence[str], without: str = "") -> list[float]:
        """Of each known example; 0 where too little is said to be alike, and for the one to be forgotten."""
        if len(set(terms)) < _LEAST_TERMS:
            return [0.0] * len(self.known)
        cosines = self._vectors.cosines(terms)
        return [
            0.0 if one.example.id == without or len(set(one.terms)) < _LEAST_TERMS else cosine
            for one, cosine in zip(self.known, cosines, strict=True)
        ]

    def likeness(self, terms: Sequence[str], trouble: _Trouble, without: str = "") -> "_Likeness":
        """To the fourth, as somewhat alike is nothing yet."""
        found = _Likeness([0.0] * len(self._places))
        for one, cosine in zip(self.known, self.cosines(terms, without), strict=True):
            same = one.trouble == trouble
            if one.example.recipe is None:
                found.denied = max(found.denied, cosine**4 if same else 0.0)
                continue
            place = self._places[one.example.recipe]
            found.confirmed[place] = max(found.confirmed[place], cosine**4)
            if same:
                found.same[place] = max(found.same.get(place, 0.0), cosine**4)
        return found


@dataclass
class _Likeness:
    """Per recipe to the nearest incident for which people chose it; `same`: to the nearest about the same trouble, of
    those recipes that were chosen there.
    """

    confirmed: list[float]
    same: dict[int, float] = field(default_factory=dict)
    denied: float = 0.0  # to the nearest about the same trouble that none fitted


def _idf(documents: int, holders: int) -> float:
    return math.log((1 + documents) / (1 + holders)) + 1


def _idfs(documents: Sequence[Iterable[str]]) -> dict[str, float]:
    held = Counter(term for document in documents for term in set(document))
    return {term: _idf(len(documents), count) for term, count in held.items()}


def _bm25_idf(documents: int, holders: int) -> float:
    return math.log(1 + (documents - holders + 0.5) / (holders + 0.5))


def _with_concepts(terms: Sequence[str]) -> list[str]:
    return [*terms, *concepts_of(terms)]


class Comparison:
    """One incident against all recipes of a scope."""

    def __init__(self, scope: _Scope, likeness: _Likeness, query: Query, matcher: Matcher) -> None:
        self.scope, self._matcher = scope, matcher
        self.query = query.beyond_type() if scope.typed else query
        self._likeness = likeness
        self._columns = self._first_look()
        glances = self._glances()
        order = sorted(range(len(scope.slugs)), key=glances.__getitem__, reverse=True)[:_FIRST_LOOK]
        told = dict(zip(order, self._told(order), strict=True))
        self.features = {
            place: tuple(told[place] if name == "name_told" else self._columns[name][place] for name in FEATURES)
            for place in order
        }
        self.points = {place: sum(map(mul, matcher.weights, values)) for place, values in self.features.items()}
        # What people chose for what is mostly the same comes first, whatever the words say.
        self.order = sorted(order, key=lambda place: (self.sway(place) <= MOSTLY, -self.points[place], place))

    def _first_look(self) -> dict[str, list[float]]:
        scope, query = self.scope, self.query
        text = terms_in(query.text)
        said = frozenset(query.said)
        everything = frozenset(query.everything) | frozenset(query.kind)
        sides = sides_of([*query.said, query.severity])
        own = frozenset(query.kind)
        return {
            "bm25": self._bm25(_with_concepts(query.terms)),
            "text_covered": self._covered(text),
            "all_covered": self._covered(query.terms),
            "name_alike": scope.names.cosines(terms_in(query.name)),
            "name_unsaid": self._unsaid(everything),
            "concepts_alike": scope.concepts.cosines(set(concepts_of(query.terms))),
            "spelled_alike": scope.spelling.cosines(chain.from_iterable(query.text)),
            "name_against": scope.name_sides.against(sides),
            "lead_against": scope.lead_sides.against(sides),
            "confirmed": self._likeness.confirmed,
            "general": self._general(said, own),
        }

    def _glances(self) -> list[float]:
        """A first order, without learnt weights, so that they can be learnt from what it lets through. What people
        chose is looked at whatever else is said.
        """
        names = ("bm25", "text_covered", "all_covered", "name_alike", "spelled_alike", "general")
        confirmed = self._columns["confirmed"]
        return [
            10 * chosen + sum(points)
            for chosen, points in zip(
                confirmed, zip(*(self._columns[name] for name in names), strict=True), strict=True
            )
        ]

    def _bm25(self, terms: Iterable[str]) -> list[float]:
        found, most = [0.0] * len(self.scope.slugs), 0.0
        for term in set(terms):
            most += self.scope.reach.get(term, 0.0)
            for place, weight in self.scope.weights.get(term, ()):
                found[place] += weight
        return [points * 3 / most for points in found] if most else found

    def _covered(self, terms: Iterable[str]) -> list[float]:
        found, whole = [0.0] * len(self.scope.slugs), 0.0
        for term, count in Counter(terms).items():
            weight = (1 + math.log(count)) * self.scope.idf.get(term, 0.0)
            whole += weight
            for place in self.scope.holders.get(term, ()):
                found[place] += weight
        return [mass / whole for mass in found] if whole else found

    def _general(self, said: frozenset[str], own: frozenset[str]) -> list[float]:
        """1 for a recipe named like the type; less with each word that other recipes know and this one does not."""
        found = [0.0] * len(self.scope.slugs)
        for place in self.scope.named_like(own):
            whole = self.scope.texts[place].whole
            found[place] = 1 / (1 + sum(word in self.scope.idf and word not in whole for word in said))
        return found

    def _unsaid(self, said: frozenset[str]) -> list[float]:
        found = self.scope.all_unsaid.copy()
        for place in {place for word in said for place in self.scope.named.get(word, ())}:
            found[place] = self.scope.unsaid(self.scope.name_words[place] - said)
        return found

    def _told(self, order: Sequence[int]) -> list[float]:
        """The share of each name that the incident says, by what tells these candidates apart."""
        said = frozenset(terms_in([*self.query.name, *self.query.text, *self.query.expression]))
        held = Counter(term for place in order for term in self.scope.name_terms[place])
        rarity = {term: max(math.log((len(order) + 0.5) / (count + 0.5)), 0.0) for term, count in held.items()}
        return [_share_of(self.scope.name_terms[place], said, rarity) for place in order]

    def matches(self) -> tuple[Match, ...]:
        """In order; what shares nothing with the incident has the confidence 0."""
        related = [place for place in self.order if self._related(place)]
        strange = [Match(self.scope.slugs[place], 0.0) for place in self.order if not self._related(place)]
        if not related:
            return tuple(strange)
        best, *others = related
        titled = bool(self.scope.texts[best].name)
        chances = self._matcher.chances(self.confidence_features(best), len(self.scope.slugs), titled)
        right, _, none = swayed(chances, self.sway(best))
        shares = _softmax([self.points[place] for place in others])
        shared = frozenset(self.query.everything) & self.scope.texts[best].whole
        found = [Match(self.scope.slugs[best], right, shared, none)]
        for place, share in zip(others, shares, strict=True):
            # What is left when neither the best nor none is right; never more than the place above.
            likely = min(max(1 - right - none, 0.0) * share, found[-1].confidence)
            found.append(Match(self.scope.slugs[place], likely, none=none))
        return (*found, *strange)

    def _related(self, place: int) -> bool:
        return any(self._columns[name][place] for name in _RELATING)

    def sway(self, place: int) -> float:
        """How much what people said speaks for a recipe (up to 1) or against it (down to -1): the nearest counts."""
        mine = self._likeness.same.get(place, 0.0)
        others = (likeness for at, likeness in self._likeness.same.items() if at != place)
        return _certainty(mine) - _certainty(max(self._likeness.denied, *others, 0.0))

    def confidence_features(self, best: int) -> tuple[float, ...]:
        points = [self.points[best], *(self.points[place] for place in self.order if place != best)]
        share = _softmax(points)[0]
        said = self.query.said
        unknown = sum(word not in self.scope.idf for word in said) / len(said) if said else 1.0
        lead = points[0] - points[1] if len(points) > 1 else points[0]
        odds = math.log(max(share, 1e-6) / max(1 - share, 1e-6))
        flags = (float(bool(self.query.name)), unknown, float(bool(self.query.kind)))
        return (*self.features[best], odds, lead, points[0], *flags)


def _certainty(likeness: float) -> float:
    """From what is almost the same on, up to 1 for the same: alerts that differ in a word have other recipes."""
    return min(max((likeness - _ALMOST) / (1 - _ALMOST), 0.0), 1.0)


def swayed(chances: Sequence[float], sway: float) -> tuple[float, float, float]:
    """The chances of right, wrong and none after what people said of incidents like this one.

    Not learnt: the training alerts are answered by nobody twice, and an answer has to count.
    """
    right, wrong, none = chances
    if sway >= 0:
        return right + (1 - right) * sway, wrong * (1 - sway), none * (1 - sway)
    return right * (1 + sway), wrong, none - right * sway


def _share_of(name: frozenset[str], said: frozenset[str], rarity: Mapping[str, float]) -> float:
    whole = sum(rarity[term] for term in name)
    return sum(rarity[term] for term in name & said) / whole if whole else 0.5


def lexical_answer(subject: Subject, ranked: Sequence[Match], threshold: float = ANSWER_THRESHOLD) -> Answer:
    """The best candidate if it is good enough, else none with the runners-up."""
    best = ranked[0] if ranked and ranked[0].confidence >= threshold else None
    others = ranked[1:] if best else ranked
    shown = list(scalars(mask(subject.evidence))) if best else []
    return Answer(
        recipe=best.recipe if best else None,
        tier="lexical",
        confidence=(best or (ranked[0] if ranked else Match("", 0.0))).confidence,
        runners_up=tuple(Candidate(other.recipe, other.confidence) for other in others[:3] if other.confidence > 0),
        citations=_citations(shown, best.words) if best else (),
        summary=_summary(shown, best),
    )


def _citations(shown: Sequence[tuple[str, Any]], words: frozenset[str]) -> tuple[Citation, ...]:
    """The places that share most words with the recipe, and by their values rather than by their keys."""
    found: list[tuple[int, int, Citation]] = []
    for pointer, value in shown:
        in_value = (
            words.intersection(words_of(value[:_CITED_CHARACTERS])) if isinstance(value, str) else frozenset[str]()
        )
        in_key = words.intersection(words_of(pointer.rpartition("/")[2][:_CITED_CHARACTERS]))
        if (in_value or in_key) and len(str(value)) <= _CITED_CHARACTERS:
            found.append((len(in_value), len(in_key), Citation(pointer, value)))
    found.sort(key=lambda item: (-item[0], -item[1]))
    return tuple(cited for *_, cited in found[:CITATION_LIMIT])


def _summary(shown: Sequence[tuple[str, Any]], best: Match | None) -> str:
    if best is None:
        return "No recipe shares enough words with this incident."
    said = list(dict.fromkeys(word for word in _spelled(shown) if stem(word) in best.words))
    if not said:
        return "The recipe is the one to begin with for this type of incident."
    return f"The incident and the recipe share the words: {', '.join(said[:6])}."


def _spelled(shown: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """The incident's words as they stand there."""
    for pointer, value in shown:
        yield from spelled(value[:_CITED_CHARACTERS] if isinstance(value, str) else "")
        yield from spelled(pointer.rpartition("/")[2][:_CITED_CHARACTERS])
