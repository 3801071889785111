"""Names of classes, as `data.yaml` and texts with a name a line give them; the position is the class number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.convert.records import read_text, text
from dfine_lib.data.images import DataError

MOST = 1 << 20  # bytes


def names_of_yaml(file: Path) -> list[str]:
    """The classes that a `data.yaml` names, in order; `DataError` where it names none."""
    return names_of(read_yaml(file, read_text(file, file.parent, MOST, follow_links=True)).get("names"), str(file))


def names_of_lines(file: Path, content: str) -> list[str]:
    """The classes of a text (that of `file`) with a name a line; an empty line between two names counts and gives "".

    Raises:
        DataError: no name, or the same one twice.
    """
    rows = [row.strip() for row in content.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while rows and not rows[-1]:
        rows.pop()
    first: dict[str, int] = {}
    for line, row in enumerate(rows, 1):
        if row.startswith("#"):  # the line counts as a class: all numbers after it depend on that
            raise DataError(
                f"{file}, line {line}: {row[:60]!r} is a class by its position. If it is a comment, remove the line; "
                "if it is a class, give it another name."
            )
        if row and first.setdefault(text(row, f"{file}, line {line}", "a class name"), line) != line:
            raise DataError(f"{file}, line {line}: class {row[:60]!r} is in line {first[row]} already. Rename one.")
    if not first:
        raise DataError(f"{file}: no class names. Write one a line.")
    return rows


def names_of(names: Any, location: str) -> list[str]:
    """The classes of a list, or of a dict from number to name; `DataError` where a number has no name of its own."""
    if isinstance(names, dict):
        numbered = {int(key) if isinstance(key, str) and key.isdecimal() else key: name for key, name in names.items()}
        if not all(type(key) is int for key in numbered) or sorted(numbered) != list(range(len(names))):
            raise DataError(f"{location}: 'names' should number the classes 0, 1, 2 … without gaps.")
        names = [numbered[key] for key in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{location}: 'names' should be a list of class names, or a dict from number to name.")
    for i, name in enumerate(names):
        if isinstance(name, bool):
            raise DataError(f"{location}: the name of class {i} is read by YAML as {name}. Write it in quotes.")
    found = [text(name, location, f"the name of class {i}") for i, name in enumerate(names)]
    known: set[str] = set()
    for name in found:
        if name in known:
            raise DataError(f"{location}: class name {name[:60]!r} is twice in 'names'. Rename one.")
        known.add(name)
    return found


def read_yaml(file: Path, content: str) -> dict[str, Any]:
    """What the text of a `data.yaml` says; `DataError` where it is none."""
    import yaml

    try:
        settings = yaml.safe_load(content)
    except RecursionError:
        raise DataError(f"{file}: nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file}: no valid YAML: {' '.join(str(error).split())[:160]}.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file}: expected keys train, val, names.")
    return settings
