"""Markdown that people write becomes HTML that a page may show: parsed, then cut down to a short list of tags."""

import re
from collections.abc import Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

# A longer text is shown as it was written: a preview may be sent anything, and parsing takes time.
LIMIT = 50_000
HEADINGS_BELOW = 2  # h1 and h2 are the page's own

_TAGS = set("h3 h4 h5 h6 p ul ol li code pre table thead tbody tr th td blockquote em strong del hr br a".split())
# "*" is what every tag may have: nothing.
_ATTRIBUTES: dict[str, set[str]] = {"*": set(), "a": {"href"}, "code": {"class"}, "ol": {"start"}}
_SCHEMES = {"http", "https", "mailto"}
_LINK = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)
_LANGUAGE = re.compile(r"language-[A-Za-z0-9+#._-]{1,40}")


def render(text: str) -> Markup:
    """Any text as safe HTML: no scripts, images, styles, ids, nor links to anything but http, https and mailto."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written out
    if len(text) > LIMIT:
        return Markup('<pre tabindex="0">{}</pre>\n').format(text)
    tokens = _PARSER.parse(text)
    _place_headings(tokens)
    _rename(tokens)
    html = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return Markup(_CLEANER.clean(html))  # nosec B704 # noqa: S704  # this is where it becomes safe


def _place_headings(tokens: Sequence[Token]) -> None:
    """Below those of the page and without a gap: many begin with ##, and who hears a page finds its way by them."""
    above: list[str] = []
    for token in tokens:
        if token.type == "heading_open":
            above = [*(tag for tag in above if tag < token.tag), token.tag]
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(HEADINGS_BELOW + len(above), 6)}"


def _rename(tokens: Sequence[Token]) -> None:
    for token in tokens:
        if token.tag == "s":
            token.tag = "del"
        _rename(token.children or ())


def _may_link(url: str) -> bool:
    """A link to anything else stays the text that it was."""
    return _LINK.match(url) is not None


def _attribute(tag: str, name: str, value: str) -> str | None:
    """The last word on each attribute that the list lets through; None drops it."""
    if (tag, name) == ("a", "href"):
        return value if _may_link(value) else None
    if (tag, name) == ("code", "class"):
        return value if _LANGUAGE.fullmatch(value) else None
    return value


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    parser.validateLink = _may_link  # type: ignore[method-assign]  # the parser's own way to be told
    return parser


_PARSER = _parser()
_CLEANER = nh3.Cleaner(
    tags=_TAGS,
    attributes=_ATTRIBUTES,
    attribute_filter=_attribute,
    url_schemes=_SCHEMES,
    # Long lines scroll, and whoever has no mouse must be able to do that.
    set_tag_attribute_values={"pre": {"tabindex": "0"}},
    link_rel="noopener noreferrer nofollow",
)
