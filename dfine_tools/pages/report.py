"""One self-contained page for a run: it can be mailed, archived and opened anywhere, with nothing beside it."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dfine_lib.files import write_atomically


@runtime_checkable
class Drawing(Protocol):
    """A figure: its pixels, and words for those who cannot see them. `dfine_tools.figures.style.Figure` is one."""

    alt_text: str

    def png(self) -> bytes: ...


# Text (blank lines part paragraphs), a table (name to value, or a list of rows with the same keys), a figure.
Content = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Drawing

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1f2933;background:#fff;
 max-width:72rem;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 1.5rem}h2{font-size:1.2rem;margin:2.4rem 0 .6rem;border-bottom:1px solid #e4e7eb}
p{max-width:46rem}figure{margin:0}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid #e4e7eb}
td.number{text-align:right}
@media print{body{margin:0}h2{break-after:avoid}figure{break-inside:avoid}}
""".strip()


def write_report(
    path: str | os.PathLike[str], title: str, sections: Sequence[tuple[str, Content | Sequence[Content]]]
) -> Path:
    """Write one HTML page that needs no other file and no network: pictures are embedded, with alternative text.

    Args:
        path: of the page; its folder is made. An older page is replaced whole or not at all.
        title: heading of the page.
        sections: heading and content: text, a table, a figure, or a list of these. Headings may repeat or be empty.

    Returns:
        The path.

    Raises:
        TypeError: content of another kind, named with its heading.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for heading, content in sections:
        if heading:
            parts.append(f"<h2>{html.escape(heading)}</h2>")
        pieces = content if isinstance(content, list | tuple) and not _is_rows(content) else [content]
        parts.extend(_to_html(heading, piece) for piece in pieces)
    page = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )
    return _replace_whole(Path(path), page.encode("utf-8"))


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


def _to_html(heading: str, content: Content) -> str:
    if isinstance(content, str):
        return "\n".join(f"<p>{html.escape(block.strip())}</p>" for block in content.split("\n\n") if block.strip())
    if isinstance(content, Drawing):
        data = base64.b64encode(content.png()).decode("ascii")
        return f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(content.alt_text)}"></figure>'
    if isinstance(content, Mapping):
        rows = [f'<tr><th scope="row">{html.escape(str(k))}</th>{_cell(v)}</tr>' for k, v in content.items()]
        return f"<table>\n{chr(10).join(rows)}\n</table>"
    if _is_rows(content):
        names = list(dict.fromkeys(name for row in content for name in row))
        head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in names)
        rows = [f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in content]
        return f"<table>\n<tr>{head}</tr>\n{chr(10).join(rows)}\n</table>"
    raise TypeError(f"section {heading!r}: cannot put a {type(content).__name__} into a report")


def _is_rows(content: Any) -> bool:
    return isinstance(content, list | tuple) and bool(content) and all(isinstance(row, Mapping) for row in content)


def _cell(value: Any) -> str:
    if value is None:
        return '<td class="number">–</td>'
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    kind = ' class="number"' if isinstance(value, int) and not isinstance(value, bool) else ""
    return f"<td{kind}>{html.escape(str(value))}</td>"
