"""One self-contained HTML page for a run: to mail, archive and open anywhere, without a network."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dfine_lib.files import write_atomically


@runtime_checkable
class Drawing(Protocol):
    """A figure with alternative text, as `dfine_tools.figures.style.Figure`."""

    alt_text: str

    def png(self) -> bytes: ...


# Text (blank lines part paragraphs), a table (name to value, or a list of rows with the same keys), a figure.
Content = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Drawing

_PAGE = """
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root{color-scheme:light}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1f2933;background:#fff;
 max-width:72rem;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 1.5rem}h2{font-size:1.2rem;margin:2.4rem 0 .6rem;border-bottom:1px solid #e4e7eb}
p{max-width:46rem}figure{margin:0}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid #e4e7eb}
td.number{text-align:right}
@media print{body{margin:0}h2{break-after:avoid}figure{break-inside:avoid}}
</style>
</head>
<body>
{%- macro cell(value) %}
<td{% if value is none or (value is number and value is not boolean) %} class="number"{% endif %}>
{{- "–" if value is none else "%.4g" % value if value is float else value }}</td>
{%- endmacro %}
<h1>{{ title }}</h1>
{%- for heading, pieces in sections %}
{%- if heading %}
<h2>{{ heading }}</h2>
{%- endif %}
{%- for kind, content in pieces %}
{%- if kind == "text" %}
{%- for block in content.split("\n\n") if block.strip() %}
<p>{{ block.strip() }}</p>
{%- endfor %}
{%- elif kind == "figure" %}
<figure><img src="data:image/png;base64,{{ content.png() | base64 }}" alt="{{ content.alt_text }}"></figure>
{%- elif kind == "values" %}
<table>
{%- for name, value in content.items() %}
<tr><th scope="row">{{ name }}</th>{{ cell(value) }}</tr>
{%- endfor %}
</table>
{%- else %}
<table>
{%- set names = dict.fromkeys(content | map("list") | sum(start=[])) %}
<tr>{% for name in names %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{%- for row in content %}
<tr>{% for name in names %}{{ cell(row.get(name)) }}{% endfor %}</tr>
{%- endfor %}
</table>
{%- endif %}
{%- endfor %}
{%- endfor %}
</body>
</html>
""".lstrip()


def write_report(
    path: str | os.PathLike[str], title: str, sections: Sequence[tuple[str, Content | Sequence[Content]]]
) -> Path:
    """Write one HTML page that needs no other file and no network: images are embedded, with alternative text.

    Args:
        path: of the page; its folder is made. An older page is replaced whole or not at all.
        title: heading of the page.
        sections: heading and content: text, a table, a figure, or a list of these. Headings may repeat or be empty.

    Returns:
        The path.

    Raises:
        TypeError: content of another kind, named with its heading.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    environment.globals["dict"] = dict
    whole = [(heading, [(_kind(heading, piece), piece) for piece in _pieces(content)]) for heading, content in sections]
    page = environment.from_string(_PAGE).render(title=title, sections=whole)
    return _replace_whole(Path(path), (page + "\n").encode("utf-8"))


def write_metrics(path: str | os.PathLike[str], values: Mapping[str, Any]) -> Path:
    """Write a JSON file, whole or not at all; NaN is refused, as other readers cannot take it.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    return _replace_whole(Path(path), text.encode("utf-8"))


def _replace_whole(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def _pieces(content: Content | Sequence[Content]) -> Sequence[Content]:
    return content if isinstance(content, list | tuple) and not _is_rows(content) else [content]


def _kind(heading: str, content: Content) -> str:
    kinds = {"text": str, "figure": Drawing, "values": Mapping}
    found = next((kind for kind, type_ in kinds.items() if isinstance(content, type_)), None)
    if found is None and not _is_rows(content):
        raise TypeError(f"section {heading!r}: cannot put a {type(content).__name__} into a report")
    return found or "rows"


def _is_rows(content: Any) -> bool:
    return isinstance(content, list | tuple) and bool(content) and all(isinstance(row, Mapping) for row in content)
