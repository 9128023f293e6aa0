"""Does an alert's text talk to a model? A short reason if so; the incident then goes to a person.

This is a smoke detector, not the wall: the wall is that an answer can only be a shortlisted recipe
or none. Patterns look for sentences addressed to a reader who obeys, so ordinary alerts stay silent.
"""

# ruff: noqa: E501 - a table of patterns reads best with one pattern a line

import base64
import binascii
import codecs
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .foreign import normal, without_entities
from .pointers import scalars
from .shapes import Subject

_GAP = r"(?: \w{1,20}){0,4}?"
_EARLIER = r"(?:previous|prior|above|earlier|preceding|foregoing|your)"
_WHICH = rf"(?:{_EARLIER}|all|any|every|these|those|system|original|initial|other)"
_WHAT = r"(?:instructions?|prompts?|directives?|guidelines|directions|guardrails|training)"
# Firewalls, mail filters and monitors have rules and commands as well: only "previous" or "your" ones count.
_WHAT_ELSE = r"(?:rules?|orders?|commands?)"
_RECIPE = r"(?:recipe|runbook|playbook|remediation)"
_PERSON = r"(?:a|an|dan|my|no longer|free|acting|unrestricted|jailbroken|in (?:\w{1,20} )?(?:mode)|the (?:\w{1,20} )?(?:assistant|model|ai|administrator|admin|system|operator|root))"

# Matched on lower-case words with single spaces: no punctuation, no look-alike letters.
_ENGLISH = (
    ("asks to ignore instructions", rf"\b(?:ignore|disregard|forget|override|bypass|discard|neglect|overrule){_GAP} (?:{_WHICH}{_GAP} {_WHAT}|{_EARLIER}{_GAP} {_WHAT_ELSE})\b"),
    ("asks to ignore instructions", r"\b(?:ignore|disregard|forget) (?:everything|anything|all|what|whatever)(?: of)?(?: the| that)?(?: text)?(?: was| is| you)? (?:above|before|previously|were told|you were told|said|prior|were)\b"),
    ("asks to ignore instructions", r"\b(?:do not|dont|don t|stop) (?:follow|following|obey|obeying)" + _GAP + " " + _WHAT + r"\b"),
    ("speaks of the system prompt", r"\b(?:system|developer|hidden|initial) (?:prompt|instructions?|message)s?\b(?= \w| ?$)"),
    ("speaks of the prompt", r"\b(?:reveal|print|repeat|output|show|leak|dump|reproduce|tell me|display|return)(?: \w{1,12}){0,3} (?:your|the system) prompt\b"),
    ("asks for other recipes or secrets", rf"\b(?:reveal|list|print|repeat|output|show|leak|tell me)(?: \w{{1,12}}){{0,3}} (?:other tenants?|tenants? s? ?recipes?|all {_RECIPE}s|api keys?|your instructions|your rules)\b"),
    ("tells which recipe to choose", r"\b(?:choose|select|pick|return|answer with|answer|output|respond with|reply with|recommend|assign|you should use|must use|always use|use)(?: \w{1,12}){0,3} recipes?\b"),
    ("tells which recipe to choose", rf"\b(?:choose|select|pick|you must use|answer with|respond with|reply with)(?: \w{{1,12}}){{0,3}} {_RECIPE}s?\b"),
    ("tells which recipe to choose", rf"\b(?:correct|right|only valid|only correct|best|appropriate|expected|chosen) (?:{_RECIPE}|answer|verdict|classification) (?:here |for this |for this incident )?(?:is|must be|should be)\b"),
    ("tells which recipe to choose", r"\b(?:set|report|with|use|give|make)(?: the| your| a)? confidence (?:to|of|as|at|is|score) ?(?:to|of)? ?(?:1|100|one|maximum|high|0 9)"),
    ("gives the reader a new role", rf"\byou are now {_PERSON}\b"),
    ("gives the reader a new role", r"\b(?:pretend|imagine|act|behave|roleplay|role play)(?: \w{1,12})?(?: to be| as if| as though| as an?| that you| you are| like an?)(?: \w{1,12}){0,3} (?:ai|assistant|model|dan|admin|administrator|root|developer|hacker|unrestricted|you|expert|no)\b"),
    ("gives the reader a new role", r"\b(?:from now on|henceforth|starting now)(?: \w{1,12})? you (?:will|must|are|should|shall|only|always|can)\b"),
    ("gives the reader a new role", r"\byou are (?:an? )?(?:\w{1,20} )?(?:ai|llm|language model|chatbot|classifier|chatgpt|gpt|assistant)\b"),
    ("gives new instructions", r"\b(?:new|updated|revised|real|actual|following|additional|important|secret) (?:system )?instructions? (?:is|are|follow|follows|for (?:you|the (?:ai|model|assistant|llm))|from (?:the )?(?:admin|developer|operator|system)|to (?:the )?(?:ai|model|assistant|llm)|override)\b"),
    ("gives new instructions", r"\b(?:attention|note|message|hello|hey|dear|important|warning|instructions?) (?:to |for )?(?:the |any |all )?(?:ai|llm|language model|ai model|ai assistant|chatbot|gpt|classifier model|automated classifier)s?\b"),
    ("gives new instructions", r"\byou must (?:now |always |only |immediately )?(?:answer|respond|reply|choose|select|pick|return|output|obey|comply|classify)\b"),
    ("gives new instructions", r"\b(?:answer|respond|reply) (?:only |exactly |just )(?:with|by|using|in)\b"),
    ("speaks of a jailbreak", r"\b(?:jailbreak(?:ing|ed)?|do anything now|developer mode enabled|god mode enabled|prompt injection)\b"),
    ("pretends that the data ends", r"\b(?:end|begin|start|close) of (?:the )?(?:evidence|untrusted|user|incident|alert|untrusted|quoted) (?:data|evidence|input|block|section|text|content|boundary)?\b"),
)  # fmt: skip

_LANGUAGES = (
    r"\bignorier\w{0,4} (?:\w{1,20} ){0,4}?(?:anweisung|befehl|instruktion|regel|vorgabe|aufforderung)",
    r"\b(?:vergiss|missachte) (?:\w{1,20} ){0,4}?(?:anweisung|befehl|instruktion|regel|vorgabe)",
    r"\b(?:ignore[rz]?|oublie[rz]?|ne tiens pas compte)(?: de)? (?:\w{1,20} ){0,4}?(?:instructions|consignes|directives)",
    r"\b(?:ignora|ignore|ignorar|olvida|olvide|omite) (?:\w{1,20} ){0,4}?(?:instrucciones|indicaciones|ordenes|órdenes|reglas)",
    r"\b(?:ignore|ignora|esque[cç]a|desconsidere) (?:\w{1,20} ){0,4}?(?:instru[cç][oõ]es|ordens|regras)",
    r"\b(?:ignora|ignorate|dimentica) (?:\w{1,20} ){0,4}?(?:istruzioni|ordini|regole|indicazioni)",
    r"\b(?:negeer|vergeet) (?:\w{1,20} ){0,4}?(?:instructies|opdrachten|aanwijzingen|regels)",
    r"\b(?:zignoruj|ignoruj|zapomnij) (?:\w{1,20} ){0,4}?(?:instrukcj|polece|zasad)",
    r"\b(?:ignoruj|ignorujte|zapomeň) (?:\w{1,20} ){0,4}?(?:instrukce|pokyny|příkazy)",
    r"\b(?:ignorera|glöm|bortse från) (?:\w{1,20} ){0,4}?(?:instruktioner|anvisningar)",
    r"\b(?:önceki|yukarıdaki|tüm) (?:\w{1,20} ){0,3}?(?:talimat|yönerge|komut)\w{0,10} (?:yok say|unut|görmezden|dikkate alma)",
    r"(?:игнорируй|проигнорируй|забудь|не обращай внимания на)\w{0,4} (?:\w{1,20} ){0,4}?(?:инструкци|указани|команд|правил)",
    r"(?:ігноруй|забудь)\w{0,4} (?:\w{1,20} ){0,4}?(?:інструкці|вказівк|правил)",
    r"(?:忽略|无视|無視|忘记|忘記|不要理会).{0,12}(?:指令|指示|提示|说明|說明|命令|规则|規則)",
    r"(?:指示|命令|プロンプト|ルール|指令).{0,8}(?:無視|忘れ|従わない)",
    r"(?:지시|명령|지침|프롬프트|규칙).{0,8}(?:무시|잊어|따르지)",
    r"(?:تجاهل|انس)\w{0,3} (?:\w{1,20} ){0,4}?(?:التعليمات|الأوامر|تعليمات|القواعد)",
    r"(?:bỏ qua|phớt lờ) (?:\w{1,20} ){0,4}?(?:hướng dẫn|chỉ dẫn|lệnh)",
    r"(?:abaikan|lupakan) (?:\w{1,20} ){0,4}?(?:instruksi|perintah|arahan)",
)  # fmt: skip

# Matched on the text as it came.
_MARKUP = (
    # Here, because vowel signs are no word characters.
    ("asks to ignore instructions", r"(?:निर्देशों|निर्देश|आदेशों).{0,20}(?:अनदेखा|नजरअंदाज|नज़रअंदाज़|भूल)"),
    ("carries a model's role tags", r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id|begin_of_text)\|>"),
    ("carries a model's role tags", r"\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|\[/?SYSTEM_PROMPT\]"),
    ("carries a model's role tags", r"(?i)</?(?:system|assistant|instructions?|system[_-]prompt|prompt|human|sys)\s{0,4}>"),
    ("carries a model's role tags", r"(?i)[\"']role[\"']\s{0,4}:\s{0,4}[\"'](?:system|assistant|developer)[\"']"),
    ("carries a model's role tags", r"(?i)(?:^|\n)\s{0,8}#{2,4} ?(?:system|assistant|instructions?|human|new instructions?)\b ?:?\s{0,4}(?:\n|$)"),
    ("carries a model's role tags", r"(?:^|\n)\s{0,8}(?:Human|Assistant|ASSISTANT|HUMAN)\s{0,4}:\s"),
    ("carries a model's role tags", r"(?i)(?:^|\n)\s{0,8}\[?(?:system|developer)\]?\s{0,4}:\s{0,8}(?:you|ignore|new|from now|override|the assistant|always|select|choose)\b"),
    ("carries an answer of the model's shape", r"(?s)[\"']recipe\\?[\"']\s{0,4}:.{0,400}?[\"']confidence\\?[\"']\s{0,4}:"),
    ("carries an answer of the model's shape", r"(?s)[\"']confidence\\?[\"']\s{0,4}:.{0,400}?[\"']recipe\\?[\"']\s{0,4}:"),
    ("carries a closing boundary", r"(?i)</\s{0,4}(?:evidence|incident|alert[_-]?data|untrusted[a-z_-]{0,20}|user[_-]?(?:data|input)|quoted|boundary|context|data-[0-9a-z]{1,40})\s{0,4}>"),
    ("carries a closing boundary", r"(?i)(?:^|\W)-{0,8}(?:END|BEGIN)[ _-](?:INCIDENT|EVIDENCE|UNTRUSTED|DATA|PROMPT)[-_ ](?:[0-9a-f]{6,64}|DATA|BLOCK|BOUNDARY)\b"),
    ("carries a closing boundary", r"(?i)-{3,8} ?END (?:OF )?(?:EVIDENCE|DATA|UNTRUSTED|INCIDENT|PROMPT|INPUT)\b"),
)  # fmt: skip

# The same sentences written without spaces, or with something between every letter.
_SQUEEZED = re.compile(
    r"ignore(?:all|the|any|your|every)?(?:previous|prior|above|earlier|preceding|your|system)(?:instruction|prompt|rule|command)"
    r"|disregard(?:all|the|any|your)?(?:previous|prior|above|earlier|preceding|your)(?:instruction|prompt|rule|command)"
    r"|systemprompt(?:is|reveal|print)|revealyoursystemprompt|revealthesystemprompt|chooserecipe|selectrecipe|pickrecipe"
    r"|choosetherecipe|selecttherecipe|forgetallpreviousinstruction|forgetyourinstruction"
)


class _Opened:
    """A pattern that begins with one of some words: where none of them stands it is not tried, which is ten times
    as quick.
    """

    _OPENING = re.compile(r"\\b(?:\(\?:([\w |]+)\)(?![?*{])|(\w+)(?![\w?*{]))")

    def __init__(self, pattern: str) -> None:
        found = self._OPENING.match(pattern)
        self.openers = tuple((found[1] or found[2]).split("|")) if found else ("",)
        self._pattern = re.compile(pattern)

    def search(self, text: str) -> bool:
        return any(map(text.__contains__, self.openers)) and self._pattern.search(text) is not None


_WORDS = tuple((reason, _Opened(pattern)) for reason, pattern in _ENGLISH)
_FOREIGN = tuple(map(_Opened, _LANGUAGES))
_TAGS = tuple((reason, re.compile(pattern)) for reason, pattern in _MARKUP)
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}+={0,2}")
_HEX = re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}){16,}+(?![0-9a-fA-F])")
_HEX_DUMP = re.compile(r"(?<![0-9a-zA-Z])[0-9a-fA-F]{2}(?:[ :][0-9a-fA-F]{2}){15,}+")
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LOOKALIKE = str.maketrans("аеорсухіјѕԁһӏ" + "αεορυικνχτ", "aeopcyxijsdhl" + "aeopuikvxt")
_DIGITS_AS_LETTERS = str.maketrans("013457", "oieast")
_LAYERS = 2  # an encoded text may be encoded once more
# Twice the largest evidence, so that nothing hides behind padding.
_TEXT_LIMIT = 512 * 1024


def suspicion(subject: Subject) -> str | None:
    """Where and why the alert looks like instructions to a model, or None."""
    places = list(_places(subject))
    # All at once first: ordinary alerts end here, and a sentence cut into several values is still one.
    reason = _reason("\n".join(text for _, text in places)[:_TEXT_LIMIT])
    if reason is None:
        return None
    for place, text in places:
        if _reason(text[:_TEXT_LIMIT]):
            return f"{place} {reason}"
    return f"the evidence as a whole {reason}"


def _places(subject: Subject) -> Iterator[tuple[str, str]]:
    yield "the hostname", subject.hostname
    yield from (("an evidence key", key) for key in _keys(subject.evidence))
    for pointer, value in scalars(subject.evidence):
        if isinstance(value, str):
            yield f"evidence {_short(pointer)}", value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _short(pointer: str) -> str:
    return pointer if len(pointer) <= 60 else pointer[:59] + "…"


def _reason(text: str) -> str | None:
    return _plain_reason(text) or _hidden_reason(text)


def _plain_reason(text: str) -> str | None:
    visible = _visible(text)
    for reason, pattern in _TAGS:
        if pattern.search(visible):
            return reason
    spaced = _spaced(_CAMEL.sub(" ", visible)), _spaced(visible)
    if any(pattern.search(words) for words in spaced for pattern in _FOREIGN):
        return "asks to ignore instructions"
    return next((found for words in spaced if (found := _english_reason(words))), None)


def _english_reason(words: str) -> str | None:
    words = _bare(words.translate(_LOOKALIKE))
    for reason, pattern in _WORDS:
        if pattern.search(words):
            return reason
    squeezed = words.replace(" ", "")
    if _SQUEEZED.search(squeezed) or _SQUEEZED.search(squeezed.translate(_DIGITS_AS_LETTERS)):
        return "asks to ignore instructions"
    return None


def _bare(words: str) -> str:
    """Letters without their accents."""
    if words.isascii():
        return words
    return "".join(char for char in normal("NFKD", words) if not unicodedata.combining(char))


def _visible(text: str) -> str:
    """Compatibility forms folded, invisible characters out, smuggled tag characters made readable."""
    if text.isascii():
        return text
    text = "".join(map(_untag, text)) if any(ord(char) >= 0xE0000 for char in text) else text
    text = normal("NFKC", text)
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def _untag(char: str) -> str:
    return chr(ord(char) - 0xE0000) if 0xE0020 <= ord(char) < 0xE007F else char


def _spaced(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", text.casefold().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))


def _hidden_reason(text: str, layers: int = _LAYERS) -> str | None:
    for label, clear in _decoded(text):
        reason = _plain_reason(clear) or (_hidden_reason(clear, layers - 1) if layers > 1 else None)
        if reason:
            return f"{reason} ({label})"
    return None


def _decoded(text: str) -> Iterator[tuple[str, str]]:
    for found in _BASE64.finditer(text):
        yield from _readable("base64", _unbase64(found[0]))
    for found in _HEX.finditer(text):
        yield from _readable("hex", bytes.fromhex(found[0]))
    for found in _HEX_DUMP.finditer(text):
        yield from _readable("hex", bytes.fromhex(found[0].replace(":", " ")))
    if "%20" in text or "%3C" in text or "%3c" in text:
        yield "percent-encoded", unquote(text, errors="replace")
    if "\\u" in text:
        yield from _readable("escaped", _unescape(text))
    if "&#" in text or "&lt;" in text:
        yield "entities", without_entities(text)
    if "rot13" in text.casefold() or "rot-13" in text.casefold():
        yield "rot13", codecs.decode(text, "rot13")


def _readable(label: str, raw: bytes) -> Iterator[tuple[str, str]]:
    try:
        clear = raw.decode()
    except UnicodeDecodeError:
        return
    if clear.isprintable() or "\n" in clear:
        yield label, clear


def _unbase64(text: str) -> bytes:
    body = text.rstrip("=")
    # A run may have letters of its surroundings stuck to its end; a length of 4n+1 cannot be base64.
    body = body[:-1] if len(body) % 4 == 1 else body
    try:
        return base64.b64decode(body.replace("-", "+").replace("_", "/") + "=" * (-len(body) % 4))
    except binascii.Error:
        return b""


def _unescape(text: str) -> bytes:
    try:
        # Not strict: the texts of several places stand here with line ends between them.
        return str(json.loads('"' + text.replace('"', " ") + '"', strict=False)).encode("utf-8", "replace")
    except ValueError:
        return b""
