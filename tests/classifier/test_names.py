import random
import re
import sys

from openremedy.classifier.names import _goes_on, replace_name


def test_a_name_is_replaced_where_a_pattern_would_find_it() -> None:
    chance = random.Random(3)
    for _ in range(20_000):
        text = "".join(chance.choices("ab.-_ é1²", k=chance.randint(0, 12)))
        name = "".join(chance.choices("ab.-_ é1²", k=chance.randint(1, 3)))
        pattern = rf"(?<![\w.-]){re.escape(name)}(?![\w-])"
        assert replace_name(text, name, "<h>") == re.sub(pattern, "<h>", text)


def test_what_goes_on_with_a_name_is_what_a_pattern_calls_a_word() -> None:
    word = re.compile(r"[\w-]")
    assert not [char for char in map(chr, range(sys.maxunicode)) if _goes_on(char, "_-") != bool(word.match(char))]
