"""Formulas as MathML, made while the site is built: every current browser draws it without a script or a network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3}


def mathml(tex: str, display: str, where: nodes.Node | None = None) -> str:
    """A formula as `<math>`; what cannot be converted is a warning, which ends a build with `-W`, and shown as TeX."""
    try:
        converted = convert(tex, display=display)
        problem = next(_problems(converted), "")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        logger.warning("formula is not converted (%s): %s", problem, tex, location=where, type="mathml")
        return f"<code>{escape(tex)}</code>"
    return converted.replace("<math ", f"<math alttext={quoteattr(tex)} ", 1)


def _problems(converted: str) -> Iterator[str]:
    """What the converter lets pass: a command that it does not know (its own name), a missing argument."""
    for element in ElementTree.fromstring(converted).iter():
        name, text = element.tag.rpartition("}")[2], (element.text or "").strip()
        if text.startswith("\\"):
            yield f"unknown command {text}"
        if len(element) != PARTS.get(name, len(element)):
            yield f"{name} of {len(element)} parts, not {PARTS[name]}"


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(mathml(node.astext(), "block", node) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
