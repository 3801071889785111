"""Rows of results as a table in plain text or Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def as_text(rows: Rows, digits: int = 3) -> str:
    """A table of plain text: a column for every key, numbers to the right, None as a dash."""
    table = _table(rows, digits, "plain", "-")
    return "\n".join(line.rstrip() for line in table.splitlines())


def as_markdown(rows: Rows, digits: int = 3) -> str:
    """The same as a Markdown table."""
    escaped = [{name: v.replace("|", "\\|") if isinstance(v, str) else v for name, v in row.items()} for row in rows]
    return _table(escaped, digits, "pipe", "–")


def _table(rows: Rows, digits: int, form: str, missing: str) -> str:
    if not rows:
        return ""
    from tabulate import tabulate

    def cell(value: Any) -> str:
        if value is None or isinstance(value, str):
            return missing if value is None else value
        return f"{value:.{digits}f}" if isinstance(value, float) else json.dumps(value)

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [[row.get(name) for row in rows] for name in names]
    align = ["left" if any(isinstance(v, str | list | bool) for v in column) else "right" for column in columns]
    cells = [[cell(row.get(name)) for name in names] for row in rows]
    # Without parsing of numbers by tabulate: it would take a commit such as 12e4567 for one.
    return tabulate(cells, names, form, colalign=align, disable_numparse=True)
