"""What is true of every page, whatever stands in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page

MOST_BYTES = 150_000
# Whatever a text could have become if it had been taken for markup.
_FOREIGN = """() => {
  const found = [];
  const ours = new URL(location.href).origin;
  for (const one of document.querySelectorAll("*")) {
    const name = one.localName;
    if (["iframe", "object", "embed", "base", "applet", "frame", "portal", "style", "img", "video", "audio", "math",
         "foreignobject", "animate", "set", "use", "template", "marquee", "noscript", "plaintext"].includes(name))
      found.push(`<${name}>`);
    if (name === "script" && !(one.src.startsWith(ours + "/static/") && !one.textContent))
      found.push(`<script>: ${one.outerHTML.slice(0, 100)}`);
    if (name === "meta" && one.httpEquiv) found.push(`<meta http-equiv=${one.httpEquiv}>`);
    if (name === "link" && !one.href.startsWith(ours + "/static/")) found.push(`<link href=${one.href}>`);
    for (const {name: key, value} of one.attributes) {
      if (/^(on|hx-on)|^(style|srcdoc)$/.test(key))
        found.push(`<${name} ${key}=${value}>`);
      if (["href", "src", "action", "formaction", "xlink:href", "hx-get", "hx-post"].includes(key)) {
        const url = new URL(value, location.href);
        if (!["http:", "https:"].includes(url.protocol)) found.push(`<${name} ${key}=${value}>`);
        if (url.origin !== ours && !(name === "a" && /noopener/.test(one.rel) && /noreferrer/.test(one.rel)))
          found.push(`<${name} ${key}=${value}> leads elsewhere without rel`);
      }
    }
  }
  return found;
}"""
_BACKWARDS = """(words) => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, at = node.data.indexOf(words);
    const left = (place) => {
      const letter = document.createRange();
      letter.setStart(node, place);
      letter.setEnd(node, place + 1);
      return letter.getBoundingClientRect().left;
    };
    if (at >= 0 && left(at) > left(at + 1)) found.push(node.parentElement.outerHTML.slice(0, 150));
  }
  return found;
}"""
_WIDER = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  const scrolls = (one) => one !== document.body && getComputedStyle(one).overflowX !== "visible";
  const inside = (one) => one.parentElement && (scrolls(one.parentElement) || inside(one.parentElement));
  const found = [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > wide + 1 && !inside(one));
  return found.slice(0, 5).map((one) => `${one.outerHTML.slice(0, 150)} ends at ${one.getBoundingClientRect().right}`)
    .concat(`the document is ${document.documentElement.scrollWidth} wide, the window ${wide}`);
}"""


def foreign(page: Page) -> list[str]:
    """Elements and attributes that none of our pages has."""
    found: list[str] = page.evaluate(_FOREIGN)
    return found


def too_wide(page: Page) -> list[str]:
    """What makes the document scroll sideways."""
    found: list[str] = page.evaluate(_WIDER)
    return found


def backwards(page: Page, words: str) -> list[str]:
    """Where these words of ours are drawn from right to left."""
    found: list[str] = page.evaluate(_BACKWARDS, words)
    return found


def without_head(page: Page) -> list[str]:
    """What is missing of a title and one heading above all others."""
    headings, title = page.locator("h1").count(), page.title()
    return [
        *([f"{headings} h1"] if headings != 1 else []),
        *([f"title {title!r}"] if not title.removesuffix("· OpenRemedy").strip() else []),
    ]


@contextmanager
def weighed(page: Page) -> Iterator[list[int]]:
    """The bytes that came over the wire meanwhile, heads and bodies."""
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    came: list[int] = []
    wire.on("Network.loadingFinished", lambda event: came.append(int(event["encodedDataLength"])))
    yield came
    wire.detach()
