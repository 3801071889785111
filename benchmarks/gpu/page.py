"""The table of the checks, from the content of results/gpu.json."""

from __future__ import annotations

from typing import Any

HEAD = "| check | what | case | value | limit | status |\n|---|---|---|---|---|---|"
NOT_RUN = "**Not run**: no machine with a GPU was at hand yet."


def as_table(results: dict[str, Any] | None) -> str:
    """Markdown: a line for each row; a check that the results lack is a line that says so."""
    if results is None:
        return NOT_RUN
    lines = [HEAD]
    for name in results["order"]:
        found = results["checks"].get(name)
        rows = found["rows"] if found else [{"what": "", "case": "", "text": "", "status": "not run"}]
        lines += [_line(name, row) for row in rows]
    return "\n".join([*lines, "", _about(results)])


def _line(name: str, row: dict[str, Any]) -> str:
    status = row["status"] if row["status"] in ("pass", "measured") else f"**{row['status']}**"
    cells = [name, row["what"], row["case"], _value(row), _limit(row), status]
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _value(row: dict[str, Any]) -> str:
    value, unit = row.get("value"), row.get("unit", "")
    number = "" if value is None else f"{_number(value)} {unit}".rstrip()
    return ": ".join(filter(None, (number, row["text"])))


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _limit(row: dict[str, Any]) -> str:
    limits = (("at most", row.get("at_most")), ("at least", row.get("at_least")))
    return ", ".join(f"{words} {value:g}" for words, value in limits if value is not None)


def _about(results: dict[str, Any]) -> str:
    changed = "+" if results["commit"].endswith("+") else ""
    commit = results["commit"][:7] + changed
    commands = ", ".join(sorted({f"`{found['command']}`" for found in results["checks"].values()}))
    versions = f"torch {results['torch']}, commit `{commit}`, {commands}"
    if results["dry"]:
        return f"Dry mode on a CPU with tiny inputs, {versions}: the checks work; the numbers say nothing about a GPU."
    dates = sorted(found["date"][:10] for found in results["checks"].values())
    days = " to ".join(dict.fromkeys(dates[:1] + dates[-1:]))
    compute = f"compute capability {results['compute_capability']}"
    card = f"{results['card']} ({results['memory_gb']:g} GB, {compute}, {results['cards']} in the machine)"
    return f"Measured on {card}, driver {results['driver']}, {versions}, {days}."
