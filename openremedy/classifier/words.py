"""Text as the words that the lexical tier compares: what names one machine is masked, the rest split and stemmed."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import snowballstemmer

from .names import replace_name
from .vocabulary import CONCEPTS, CONTRASTS, STOP_WORDS

# Go's print of a map, and a template that was not filled in: alert templates paste them at the end of a sentence.
_BOILERPLATE = re.compile(
    r"(?:\bVALUE = \S{1,40}\s{0,4})?\bLABELS = map\[[^\]]{0,2000}\]|\bmap\[[^\]]{0,2000}\]|\{\{[^}]{0,200}\}\}"
)
_URL = re.compile(r"\bhttps?://[^\s\"'<>)]+")
# `web-6b8c5d7f4-kq8mz`: kube's generated suffixes have no vowels; `host:port`; addresses.
_POD = re.compile(
    r"(?<![\w-])[a-z][a-z0-9]*(?:-[a-z0-9]+)*-(?:[a-f0-9]{8,10}-[a-z0-9]{5}|[bcdfghjklmnpqrstvwxz2456789]{5})\b"
)
_HOST = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|(?<![\w.-])[\w.-]{1,253}+:\d{2,5}\b")
# camelCase, snake_case and units apart; PostgreSQL, MySQL, RabbitMQ are one word each.
_WORD = re.compile(
    r"[A-Z]?[a-z]+(?:SQL|DB|MQ|JS|VPN)(?![a-z])|[A-Z]+s?(?![a-z])|[A-Z]?[a-z]+|[0-9]+[a-z]+|[0-9]+|[^\W\d_]+"
)
_FIRST_WIDE = 0x2E80  # from here on one character may be a word
_GRAMS = range(3, 6)

_stemmer = snowballstemmer.stemmer("english")
_STOP = frozenset(STOP_WORDS.split())


@lru_cache(100_000)
def stem(word: str) -> str:
    return str(_stemmer.stemWord(word))


def masked(text: str, names: Iterable[str] = ()) -> str:
    """The text without addresses, links, pods, pasted maps and these names of things."""
    for pattern in (_BOILERPLATE, _URL, _POD, _HOST):
        text = pattern.sub(" ", text)
    for name in names:
        text = replace_name(text, name, " ")
    return text


def words_of(text: str) -> list[str]:
    """The stems of the words of a text, in order, without those that say nothing."""
    return [stem(word) for word in spelled(text)]


def spelled(text: str) -> Iterator[str]:
    """The same words in lower case, as they are spelled."""
    found = (word[0].lower() for word in _WORD.finditer(text))
    return (word for word in found if _says_something(word))


def _says_something(word: str) -> bool:
    return not word.isdigit() and word not in _STOP and (len(word) > 1 or ord(word) >= _FIRST_WIDE)


def pairs_of(words: Sequence[str]) -> list[str]:
    """Neighbours as one word: `daemon set` meets `daemonset`, and a phrase counts more than its words."""
    return [first + second for first, second in pairwise(words) if first != second]


def terms_of(words: Sequence[str]) -> list[str]:
    return [*words, *pairs_of(words)]


def _stems(joined: str) -> str:
    return "".join(stem(word) for word in joined.split("_"))


def _concepts() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for line in CONCEPTS.strip().splitlines():
        concept, words = line.split(":")
        for word in dict.fromkeys(map(_stems, words.split())):
            table[word] = (*table.get(word, ()), f"~{concept}")
    return table


_CONCEPTS = _concepts()
_CONTRASTS = [
    [frozenset(map(stem, side.split("|"))) for side in line.split()] for line in CONTRASTS.strip().splitlines()
]


def concepts_of(terms: Iterable[str]) -> Iterator[str]:
    """The concepts that words and pairs of words stand for, as often as they do."""
    for term in terms:
        yield from _CONCEPTS.get(term, ())


def sides_of(words: Iterable[str]) -> dict[int, frozenset[int]]:
    """Per contrast that the words touch, the alternatives they name."""
    said = frozenset(words)
    touched = {
        place: frozenset(number for number, side in enumerate(sides) if side & said)
        for place, sides in enumerate(_CONTRASTS)
    }
    return {place: numbers for place, numbers in touched.items() if numbers}


def grams_of(words: Iterable[str]) -> list[str]:
    """Pieces of three to five characters of each word with its edges: bridges spellings that stemming does not."""
    grams: list[str] = []
    for word in words:
        edged = f" {word} "
        grams += [edged[at : at + size] for size in _GRAMS for at in range(len(edged) - size + 1)]
    return grams
