"""The site: `make site`, or `sphinx-build -W -c docs . site` from the project's root.

Pages are made from files where they are: the guides in `docs/`, the notebooks with their stored outputs (none is run),
and the docstrings of the three packages. Nothing that a page loads comes from another host; formulas are MathML.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "notebooks")]

import dfine_lib  # noqa: E402

project = "A D-FINE workbook"
author = "The D-FINE workbook authors"
release = version = dfine_lib.__version__
copyright = f"{author}. Apache-2.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "extensions.reference",
    "extensions.mathml",
    "extensions.notebooks",
    "extensions.sources",
]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "notebooks/**", "benchmarks/*.md", "examples/*.md"]
exclude_patterns = ["**/.ipynb_checkpoints"]

# ---- text and notebooks ----------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4  # `#headings` as GitHub names them
myst_update_mathjax = False
nb_execution_mode = "off"
nb_custom_formats = {".ipynb": "extensions.notebooks.read"}
suppress_warnings = [
    "myst.header",  # a text cell of a lesson may start two levels down
    "mystnb.unknown_mime_type",  # sliders: their stored image is shown
    "ref.python",  # short names in signatures: a class that a second module imports has two places
]

# ---- docstrings ------------------------------------------------------------------------------------------------------

autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = autodoc_use_type_comments = False  # each parses every function's source once more
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "returns_style")]
default_role = "code"
toc_object_entries = False

# ---- pages -----------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_extra_path = ["first_page"]
html_copy_source = False
html_show_sphinx = False
