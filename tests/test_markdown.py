"""Markdown of recipes: what people use of it is shown, and nothing that they paste can act."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openremedy import tenants
from openremedy.markdown import LIMIT, render
from openremedy.recipes import parse

ATTRIBUTES = {"a": {"href", "rel"}, "pre": {"tabindex"}, "code": {"class"}, "ol": {"start"}}
TAGS = set("h3 h4 h5 h6 p ul ol li code pre table thead tbody tr th td blockquote em strong del hr br a".split())
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "[x](//elsewhere.example)",
    "[x](/settings/delete)",
    '[x](https://a.example "onmouseover=alert(1)")',
    '[x](https://a.example/" onmouseover="alert(1))',
    "<javascript:alert(1)>",
    "![x](https://elsewhere.example/pixel.png)",
    "![x](javascript:alert(1))",
    '```sh" onmouseover="alert(1)\nls\n```',
    "```sh' id=x\nls\n```",
    "[a]: javascript:alert(1)\n\n[a]",
    "| a |\n|---|\n| <iframe src=//elsewhere.example> |",
    '<a href="https://a.example" style="position:fixed" id="x">x</a>',
    "<!-- --!> <script>alert(1)</script> -->",
    "<style>*{display:none}</style>",
    "<https://a.example/'onclick='alert(1)>",
    "\ud800<b>\x00",
    "]]>" * 50,
    "[" * 2000,
    "> " * 2000,
]


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def assert_harmless(html: str) -> None:
    for tag, attributes in Tags(html).found:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES.get(tag, set())
        assert re.match(r"https?://|mailto:|$", attributes.get("href", ""), re.IGNORECASE)
        assert "rel" not in ATTRIBUTES.get(tag, ()) or attributes["rel"] == "noopener noreferrer nofollow"
        assert re.fullmatch(r"(language-[\w+#.-]+)?", attributes.get("class", ""), re.ASCII)


MARKDOWN = st.lists(
    st.sampled_from([*HOSTILE, "# ", "\n", "\n\n", "- ", "1. ", "    ", "```", "`", "|", "**", "~~", "> ", "[x](", ")"])
    | st.text(st.characters(), max_size=8),
    max_size=12,
).map("".join)


@given(text=MARKDOWN | st.text(st.characters(), max_size=200))
@example(text="\ud800")
@example(text="\x00")
def test_no_text_becomes_anything_but_harmless_html(text: str) -> None:
    assert_harmless(render(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_attackers_write_is_text(text: str) -> None:
    assert_harmless(render(text))


def test_what_recipes_use_is_shown() -> None:
    text = "## Look\n\n1. *x* **y** ~~z~~ `ls`\n\n- a\n\n> q\n\n---\n\n| a |\n|---|\n| b |\n\n```bash\ndf -h <x>\n```\n"
    html = render(text)
    for part in (
        "<h3>Look</h3>",
        "<li><em>x</em> <strong>y</strong> <del>z</del> <code>ls</code></li>",
        "<blockquote>\n<p>q</p>",
        "<hr>",
        "<th>a</th>",
        "<td>b</td>",
        '<pre tabindex="0"><code class="language-bash">df -h &lt;x&gt;\n</code></pre>',
    ):
        assert part in html


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        *(("1", "3"), ("2", "3"), ("6", "3"), ("12", "34"), ("22", "33"), ("13", "34"), ("1323", "3445")),
        *(("2321", "3433"), ("123456", "345666"), ("3121", "3343"), ("246246", "345345")),
    ],
)
def test_headings_begin_below_those_of_the_page_and_skip_no_level(written: str, shown: str) -> None:
    html = render("\n".join("#" * int(level) + " Title" for level in written))
    assert html == "".join(f"<h{level}>Title</h{level}>\n" for level in shown)


def test_a_list_that_begins_at_three_does_so_on_the_page() -> None:
    assert '<ol start="3">' in render("3. then this\n")


@pytest.mark.parametrize("url", ["https://a.example/x?y=1#z", "http://a.example", "mailto:ops@a.example"])
def test_a_link_tells_the_other_side_nothing(url: str) -> None:
    assert render(f"[x]({url})") == f'<p><a href="{url}" rel="noopener noreferrer nofollow">x</a></p>\n'


@pytest.mark.parametrize("url", ["javascript:alert(1)", "/settings", "//elsewhere.example", "ftp://a.example"])
def test_a_link_that_may_not_be_one_stays_readable(url: str) -> None:
    assert render(f"[x]({url})") == f"<p>[x]({url})</p>\n"


def test_an_image_is_a_link_that_nobody_s_browser_follows_by_itself() -> None:
    assert render("![plan](https://a.example/plan.png)").startswith('<p>!<a href="https://a.example/plan.png"')


def test_a_text_too_long_to_parse_is_shown_as_it_is() -> None:
    text = "<b>" + "*" * LIMIT
    assert render(text) == f'<pre tabindex="0">&lt;b&gt;{"*" * LIMIT}</pre>\n'


def test_the_starter_recipes_have_headings_and_commands() -> None:
    for spec in parse(tenants.STARTER_RECIPES.read_bytes()):
        html = render(spec.steps)
        assert_harmless(html)
        assert "<h3>" in html
        assert '<pre tabindex="0"><code' in html
