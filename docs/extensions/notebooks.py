"""Notebooks as pages: stored images keep their alternative text, and every lesson leads to the glossary."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# From the file name that myst-nb gives an image (the digest of its bytes) to its alternative text.
ALTERNATIVES: dict[str, str] = {}
WORDS = "*A word you do not know? The [glossary](/docs/glossary.md) has it.*"


def read(text: str, **options: Any) -> nbformat.NotebookNode:
    """A notebook as it is stored; the alternative text of its images is kept for `AlternativeTexts`."""
    notebook = nbformat.reads(text, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if "image/png" in data:
            digest = hashlib.sha256(b64decode(data["image/png"])).hexdigest()
            ALTERNATIVES[digest] = data.get("text/plain", "")
    notebook.cells.append(nbformat.v4.new_markdown_cell(WORDS))
    return notebook


class AlternativeTexts(SphinxTransform):
    """myst-nb drops the `text/plain` that an output holds with its image."""

    default_priority = 100

    def apply(self, **_: Any) -> None:
        for image in self.document.findall(nodes.image):
            digest = image["uri"].rpartition("/")[2].partition(".")[0]
            if digest in ALTERNATIVES:
                image["alt"] = ALTERNATIVES[digest]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(AlternativeTexts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
