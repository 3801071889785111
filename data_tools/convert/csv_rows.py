"""CSV with a box a row, in pixels: a header that names the columns, or none and RetinaNet's order.

| column | names it goes by |
|---|---|
| picture | filename, file_name, file, image, image_path, path, image_name, image_id |
| class | class, label, category, name, class_name, label_name |
| edges | xmin ymin xmax ymax; x_min y_min x_max y_max; x1 y1 x2 y2; left top right bottom |
| or | x y w h; x y width height; left top width height; bbox_x bbox_y bbox_width bbox_height |
| size of the picture | width height (with edges); image_width image_height |
| split | split, subset, set |

Without a header: `path,x1,y1,x2,y2,class`; a picture without objects is `path,,,,,`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_tools.convert.csv_file import csv_files, rows
from data_tools.convert.packed import CROWD, DIFFICULT, TRUNCATED, BoxColumns
from data_tools.convert.records import Box, ImageRecord, Source, number, size_or_none, text
from data_tools.convert.splits import split_name
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

PICTURE = ("filename", "file_name", "file", "image", "image_path", "path", "image_name", "image_id")
CLASS = ("class", "label", "category", "name", "class_name", "label_name")
EDGES = (
    ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)  # fmt: skip
SIDES = (
    ("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
)  # fmt: skip
SPLIT = ("split", "subset", "set")
SPLITS = ("train", "val", "valid", "validation", "test")
FLAGS = {"iscrowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}


def read_csv_rows(source: Path, split: str, *, follow_links: bool = False, ledger: Ledger) -> Source:
    """One CSV file, or a folder with one per split (train.csv, valid/_annotations.csv …)."""
    root = source if source.is_dir() else source.parent
    parts: dict[str, _Part] = {}
    for file in csv_files(source):
        words = (*file.relative_to(root).parts[:-1][:1], *file.stem.lower().replace("-", "_").split("_"))
        own = next((split_name(word) for word in words if word.lower() in SPLITS), split)
        _read(file, root, own, parts, follow_links)
        ledger.found("annotation files")
        ledger.taken("annotation files")
    if not parts:
        raise DataError(f"{source}: no rows.")
    for part in parts.values():
        part.boxes.sort()
    pictures = (picture for name, part in parts.items() for picture in part.pictures(name))
    return Source(root, pictures, tuple(parts), None, sum(len(part.images) for part in parts.values()))


class _Part:
    """The rows of one split."""

    def __init__(self) -> None:
        self.images: dict[str, tuple[int, int | None, int | None, Path, int]] = {}
        self.names: dict[str, int] = {}
        self.boxes = BoxColumns()
        self.files: list[Path] = []

    def pictures(self, split: str) -> Iterator[ImageRecord]:
        names = list(self.names)
        for image, (key, width, height, file, line) in self.images.items():
            found = [
                Box(*values, names[label], bool(flags & CROWD), bool(flags & DIFFICULT), bool(flags & TRUNCATED),
                    location=f"{file}, line {at}")
                for label, at, values, flags, _, _ in self.boxes.of(key)
            ]  # fmt: skip
            yield ImageRecord(split, image, width, height, found, f"{file}, line {line}", folders=(file.parent,),
                          may_be_path=True)  # fmt: skip


def _read(file: Path, root: Path, own: str, parts: dict[str, _Part], follow_links: bool) -> None:
    columns: dict[str, int] | None = None
    for line, row in rows(file, root, follow_links):
        location = f"{file}, line {line}"
        if columns is None:
            columns = _columns(row, location)
            if "header" in columns:
                continue
        if len(row) < columns["fields"]:
            raise DataError(f"{location}: {len(row)} fields, {columns['fields']} expected. The file may be cut off.")
        name = split_name(row[columns["split"]]) if "split" in columns else own
        part = parts.setdefault(name, _Part())
        image = text(row[columns["picture"]].strip(), location, "the picture's name")
        size = [size_or_none(row[columns[key]].strip(), location, key) if key in columns else None
                for key in ("image_width", "image_height")]  # fmt: skip
        known = part.images.setdefault(image, (len(part.images), size[0], size[1], file, line))
        if known[3] != file:
            raise DataError(f"{location}: picture {image[:80]!r} stands in {known[3]} as well.")
        values = [row[columns[f"n{k}"]].strip() for k in range(4)]
        if not any(values) and not row[columns["class"]].strip():
            continue  # a picture without objects
        edges = [number(value, location, "an edge of the box") for value in values]
        if columns["edges"]:
            edges[2] -= edges[0]
            edges[3] -= edges[1]
        label = text(row[columns["class"]].strip(), location, "the class")
        flags = sum(flag for key, flag in FLAGS.items() if key in columns and row[columns[key]].strip() == "1")
        part.boxes.add(known[0], part.names.setdefault(label, len(part.names)), line, edges, flags)


def _columns(row: list[str], location: str) -> dict[str, int]:
    """Place of every column that is known; `edges` is 1 for edges, 0 for sides; `header` where the row is one."""
    at = {field.strip().lower(): i for i, field in reversed(list(enumerate(row)))}
    picture = next((at[key] for key in PICTURE if key in at), None)
    label = next((at[key] for key in CLASS if key in at and at[key] != picture), None)
    for edges, groups in ((1, EDGES), (0, SIDES)):
        for group in groups:
            if picture is not None and label is not None and all(key in at for key in group):
                found = {f"n{k}": at[key] for k, key in enumerate(group)}
                found |= {"picture": picture, "class": label, "edges": edges, "header": 1}
                for key, other in (("image_width", "width"), ("image_height", "height")):
                    if key in at or (edges and other in at):
                        found[key] = at[key] if key in at else at[other]
                found |= {key: at[key] for key in FLAGS if key in at}
                if split := next((key for key in SPLIT if key in at), None):
                    found["split"] = at[split]
                used = [value for key, value in found.items() if key not in ("edges", "header")]
                return found | {"fields": 1 + max(used)}
    if len(row) == 6 and all(_numeric(field) for field in row[1:5]):
        return {"picture": 0, "n0": 1, "n1": 2, "n2": 3, "n3": 4, "class": 5, "edges": 1, "fields": 6}
    raise DataError(
        f"{location}: the columns are not known ({', '.join(field[:20] for field in row[:8])}). Expected a picture, a "
        "class and xmin, ymin, xmax, ymax or x, y, width, height; or no header and path,x1,y1,x2,y2,class."
    )


def _numeric(field: str) -> bool:
    try:
        float(field.strip() or 0)
    except ValueError:
        return False
    return True
