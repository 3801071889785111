"""Links to files of the repository that are no pages lead to a page with their text.

A module's is viewcode's, with links to the reference; the pages of all others are made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

MARK = "source:"
DOWNLOADS = {".json", ".jsonl", ".png", ".safetensors"}  # these are copied beside the pages, as Sphinx does by itself


class LinksToSources(SphinxTransform):
    """Take links to text files out of the hands of Sphinx, which would offer them as downloads."""

    default_priority = 100

    def apply(self, **_: Any) -> None:
        for link in list(self.document.findall(addnodes.download_reference)):
            path, _ = self.env.relfn2path(link["reftarget"], self.env.docname)
            if Path(path).suffix not in DOWNLOADS:
                link.replace_self(nodes.reference("", "", *link.children, refuri=MARK + path, internal=True))


def resolve(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give the links their addresses, and remember which pages are to be made."""
    for link in doctree.findall(nodes.reference):
        if link.get("refuri", "").startswith(MARK):
            path = link["refuri"].removeprefix(MARK)
            module = path.removesuffix(".py").replace("/", ".")
            if getattr(app.env, "_viewcode_modules", {}).get(module):
                target = "_modules/" + module.replace(".", "/")
            else:
                target = f"source/{path}"
                app.builder.linked_sources.add(path)
            link["refuri"] = app.builder.get_relative_uri(page, target)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each linked file, its code coloured."""
    for path in sorted(app.builder.linked_sources):
        text = (Path(app.srcdir) / path).read_text(encoding="utf-8")
        try:
            language = get_lexer_for_filename(path).aliases[0]
        except ClassNotFound:
            language = "text"
        body = app.builder.highlighter.highlight_block(text, language)
        yield f"source/{path}", {"title": path, "body": f"<h1>{path}</h1>{body}"}, "page.html"


def with_one_sidebar(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Pages of code are as many as all others, and their navigation differs only by the depth of their folder."""
    if page.startswith(("_modules/", "source/")):
        made, depth, toctree = app.builder.sidebars, page.count("/"), context["toctree"]

        def remembered(**options: Any) -> str:
            if depth not in made:
                made[depth] = toctree(**options)
            return made[depth]

        context["toctree"] = remembered


def begin(app: Sphinx) -> None:
    app.builder.linked_sources, app.builder.sidebars = set(), {}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LinksToSources)
    app.connect("builder-inited", begin)
    app.connect("doctree-resolved", resolve)
    app.connect("html-page-context", with_one_sidebar, priority=100)  # before the theme asks for it
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
