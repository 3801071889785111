"""Small tables that come with the command: the categories to keep, the sizes of images that are not at hand."""

from __future__ import annotations

from pathlib import Path

from data_tools.convert.class_names import MOST, names_of_lines, names_of_yaml
from data_tools.convert.csv_file import rows
from data_tools.convert.json_stream import object_records, read_small
from data_tools.convert.records import Category, clean_name, read_text, size_or_none, text
from dfine_lib.data.images import DataError


def read_categories(given: str) -> list[Category]:
    """`person,car`; or a text file with a name a line; or a JSON file: a COCO file, or a list of names or of entries;
    or a `data.yaml` with `names`.

    Raises:
        DataError: the file is not readable, holds no names, or a name or id stands there twice.
    """
    file = Path(given)
    if file.suffix.lower() == ".json":
        found = _from_json(file)
    elif file.suffix.lower() in (".yaml", ".yml"):
        found = [Category(name) for name in names_of_yaml(file)]
    elif len(given) < 1000 and file.is_file():
        names = names_of_lines(file, read_text(file, file.parent, MOST, follow_links=True))
        if "" in names:
            raise DataError(
                f"{file}, line {names.index('') + 1}: an empty line; where numbers stand for classes, it would count "
                "as one. Remove the line, or write the name of that class there."
            )
        found = [Category(name) for name in names]
    elif file.suffix.lower() in (".txt", ".names"):
        raise DataError(f"--categories {given}: no such file.")
    else:
        found = [Category(name.strip()) for name in given.split(",") if name.strip()]
    if not found:
        raise DataError(f"--categories {given[:200]}: no names.")
    for what in ("name", "identity"):
        values = [getattr(category, what) for category in found if getattr(category, what) is not None]
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise DataError(f"--categories {given[:200]}: {twice[0]!r} stands there twice.")
    return found


def _from_json(file: Path) -> list[Category]:
    content = read_small(file, file.parent, follow_links=True)
    listed = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise DataError(f"{file}: expected a list of categories, or a COCO file.")
    found = []
    for i, entry in enumerate(listed):
        location = f"{file}, categories[{i}]"
        if isinstance(entry, dict):
            identity, above = entry.get("id"), entry.get("supercategory")
            if identity is not None and (type(identity) is not int or not 0 <= identity < 2**62):
                raise DataError(f"{location}: 'id' should be a whole number.")
            found.append(Category(text(entry.get("name"), location, "'name'"), identity,
                                  above if isinstance(above, str) else None))  # fmt: skip
        else:
            found.append(Category(text(entry, location, "a name")))
    return found


def read_sizes(file: Path) -> dict[str, tuple[str, int, int]]:
    """File name without its ending → file name, width, height in pixels.

    Args:
        file: a COCO JSON file, of which `images` counts, or CSV with columns file_name, width, height.
    """
    found: dict[str, tuple[str, int, int]] = {}

    def add(name: object, width: object, height: object, location: str) -> None:
        name = clean_name(name, location)
        size = size_or_none(width, location, "width"), size_or_none(height, location, "height")
        if size[0] is not None and size[1] is not None:
            found[name.rpartition("/")[2].rpartition(".")[0] or name] = name, size[0], size[1]

    if not file.is_file():
        raise DataError(f"--sizes {file}: no such file.")
    if file.suffix.lower() == ".json":
        for key, i, record in object_records(file):
            if key == "images" and isinstance(record, dict):
                location = f"{file}, images[{i}]"
                add(record.get("file_name"), record.get("width"), record.get("height"), location)
    else:
        at: list[int] = []
        for line, row in rows(file, file.parent, follow_links=True):
            if not at:
                head = [field.strip().lower() for field in row]
                if missing := [key for key in ("file_name", "width", "height") if key not in head]:
                    raise DataError(
                        f"{file}, line {line}: no column {missing[0]!r}; expected file_name, width, height."
                    )
                at = [head.index(key) for key in ("file_name", "width", "height")]
            elif len(row) > max(at):
                add(*(row[i].strip() for i in at), f"{file}, line {line}")
    if not found:
        raise DataError(f"--sizes {file}: no sizes.")
    return found


def with_known_ids(given: list[Category], known: list[Category] | None) -> list[Category]:
    """Given names without ids take those that the source has for them, if it has one for each."""
    ids = {category.name: category for category in known or ()}
    if all(category.identity is None and category.name in ids for category in given):
        return [ids[category.name] for category in given]
    return given
