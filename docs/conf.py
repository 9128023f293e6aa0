"""How Sphinx renders the pages: the Markdown files as they are in the repository, links between them included."""

import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from openremedy import __version__  # noqa: E402

lexers["mermaid"] = TextLexer()  # drawn where the repository is shown; here it would need a script of somebody else's

project = "OpenRemedy"
copyright = "the OpenRemedy authors, Apache-2.0"
version = release = __version__

# The source is the root of the repository: a link that works there works here, and no page is written twice.
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "adapters/README.md",
    "adapters/*/README.md",
    "docs/*.md",
    "docs/adr/*.md",
    "docs/clients/*.md",
]
extensions = ["myst_parser"]
myst_heading_anchors = 4  # `page.md#a-heading`
suppress_warnings = ["myst.header"]  # a README may begin below its picture

html_theme = "furo"
html_title = f"OpenRemedy {release}"
html_last_updated_fmt = None
html_copy_source = False
html_show_sourcelink = False


def _screenshots(app: Any, error: Exception | None) -> None:
    """The pictures of the README stand in a table of HTML, which Sphinx does not look into."""
    if error is None:
        shutil.copytree(ROOT / "docs/screenshots", Path(app.outdir) / "docs/screenshots", dirs_exist_ok=True)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("build-finished", _screenshots)
