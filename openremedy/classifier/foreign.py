"""Foreign text brought into one shape, at a price that grows with its length and not faster."""

import html
import re
import unicodedata
from typing import Literal

# Marks over one letter are sorted, which takes the square of how many there are: nobody writes as many in earnest.
_RUN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]{1,500}")
_ZEROS = re.compile(r"&#0+(?=[0-9])")
_NO_LETTER = re.compile(r"&#[0-9]{8,};?")


def normal(form: Literal["NFKC", "NFKD"], text: str) -> str:
    """The text with its compatibility forms folded."""
    return text if text.isascii() else _RUN.sub(lambda found: unicodedata.normalize(form, found[0]), text)


def without_entities(text: str) -> str:
    """HTML's names and numbers of letters read; the standard library fails at a number of thousands of digits."""
    if "&#" in text:
        text = _NO_LETTER.sub("\N{REPLACEMENT CHARACTER}", _ZEROS.sub("&#", text))
    return html.unescape(text)
