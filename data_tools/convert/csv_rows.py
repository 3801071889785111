"""CSV with a box a row: a header that names the columns, or none and the order of RetinaNet, MakeSense or AutoML.

| column | names it goes by (in any case; blanks, `-` and `.` count as `_`) |
|---|---|
| image | filename, file_name, file, filepath, image, image_path, path, image_name, image_id, frame … |
| class | class_name, label_name, class, label, category, name … |
| edges | xmin ymin xmax ymax; x_min y_min x_max y_max; x1 y1 x2 y2; left top right bottom … |
| or sides | x y w h; x y width height; left top width height; bbox_x bbox_y bbox_width bbox_height … |
| or | bbox: `[x, y, w, h]` or `[x1, y1, x2, y2]` in one field; which of them is decided over all rows of a file |
| size of the image | width height (with edges or bbox); image_width image_height |
| split | split, subset, set, usage, ml_use |

Pixels, but for AutoML's rows (`TRAIN,gs://bucket/a.jpg,class,x1,y1,,,x2,y2,,`), which are fractions. A row with an
image and no box is an image without objects. Without a header: `path,x1,y1,x2,y2,class` (RetinaNet), or
`class,x,y,w,h,path,image width,image height` (MakeSense).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.convert.csv_file import csv_files
from data_tools.convert.packed import CROWD, DIFFICULT, TRUNCATED, BoxColumns
from data_tools.convert.records import ImageRecord, NothingLeft, Source, as_number, number, numbers, size_or_none, text
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import by_split, split_name
from dfine_lib.data.images import DataError

IMAGE = (
    "filename", "file_name", "file", "filepath", "file_path", "image", "image_path", "path", "image_name", "image_file",
    "image_filename", "img", "img_name", "img_path", "fname", "image_id", "img_id", "frame",
)  # fmt: skip
CLASS = ("class_name", "label_name", "category_name", "class", "label", "category", "name", "classname", "object",
         "object_class", "class_label", "class_id", "label_id", "category_id", "classid")  # fmt: skip
EDGES = (
    ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"), ("x0", "y0", "x1", "y1"), ("min_x", "min_y", "max_x", "max_y"),
    ("bbox_xmin", "bbox_ymin", "bbox_xmax", "bbox_ymax"), ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"),
    ("roi_x1", "roi_y1", "roi_x2", "roi_y2"),
)  # fmt: skip
SIDES = (
    ("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"), ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
    ("bbox_left", "bbox_top", "bbox_width", "bbox_height"), ("xmin", "ymin", "w", "h"),
)  # fmt: skip
ONE_FIELD = ("bbox", "bounding_box", "box")
SPLIT = ("split", "subset", "set", "usage", "ml_use")
FLAGS = {"iscrowd": CROWD, "is_crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}
_AUTOML = ("TRAIN", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED")
NEARLY_ALL = 0.95
_EMPTY = ("", "nan", "none", "null", "na", "[]")


@dataclass
class _Columns:
    """Where the fields of a row are."""

    image: int
    label: int | None
    box: tuple[int, ...]  # four columns; one for all four numbers
    kind: str  # "edges", "sides", "one field", "automl"
    header: bool = True
    size: tuple[int, int] | None = None  # of the image: width, height
    split: int | None = None
    flags: dict[int, int] = field(default_factory=dict)  # column → flag

    @property
    def last(self) -> int:
        """The last column that every row needs."""
        if self.kind == "automl":  # a row without a box ends early
            return self.image
        used = [self.image, *self.box, *(self.size or ()), *self.flags]
        return max(used + [column for column in (self.label, self.split) if column is not None])


def read_csv_rows(source: SourceFolder, *, only_class: str | None = None) -> Source:
    """One CSV file, or a folder with one per split (train.csv, valid/_annotations.csv …).

    Of a folder, CSV files of other content are counted and not read. `only_class` is the class of all boxes, where no
    column gives one.
    """
    reader = _Reader(source, only_class)
    files = csv_files(source.path)
    unknown: list[tuple[Path, _UnknownColumns]] = []
    for file in files:
        try:
            reader.read(file, source.split_of(file))
        except _UnknownColumns as error:
            unknown.append((file, error))
    if len(unknown) == len(files):
        raise DataError(str(unknown[0][1]))
    for file, _ in unknown:
        source.ledger.skip(KIND, "CSV file of other columns", file)
    if not reader.parts:
        raise NothingLeft(f"{source.path}: no rows.")
    records = by_split(reader.parts, lambda split, part: part.records(split))
    total = sum(len(part.images) for part in reader.parts.values())
    return Source(source.root, records, tuple(reader.parts), None, total)


class _UnknownColumns(Exception):
    """A file of other content; never leaves this module."""


@dataclass(slots=True)
class _Image:
    key: int
    size: tuple[int | None, int | None]
    file: Path
    line: int
    relative: bool


class _Part:
    """The rows of one split."""

    def __init__(self) -> None:
        self.images: dict[str, _Image] = {}
        self.names: dict[str, int] = {}
        self.boxes = BoxColumns()

    def records(self, split: str) -> Iterator[ImageRecord]:
        self.boxes.sort()
        names = list(self.names)
        for name, image in self.images.items():
            found = self.boxes.boxes_of(image.key, names, f"{image.file}, line ")
            yield ImageRecord(split, name, *image.size, found, f"{image.file}, line {image.line}",
                              relative=image.relative, folders=(image.file.parent,), may_be_path=True)  # fmt: skip


class _Reader:
    """Rows of all files, by split."""

    def __init__(self, source: SourceFolder, only_class: str | None):
        self.source, self.only_class = source, only_class
        self.parts: dict[str, _Part] = {}

    def read(self, file: Path, own: str) -> None:
        """Take the rows of one file; `own` is their split where no column gives one."""
        edges = self._edges_in_one_field(file)
        for line, row, columns in self._table(file):
            location = f"{file}, line {line}"
            if len(row) <= columns.last:
                raise DataError(f"{location}: {len(row)} fields, {columns.last + 1} expected. The file may be cut off.")
            fields = [value.strip() for value in row] + [""] * (columns.box[-1] + 1 - len(row))
            self._row(fields, columns, own, edges, file, line)
        self.source.ledger.accept(KIND)

    def _table(self, file: Path) -> Iterator[tuple[int, list[str], _Columns]]:
        """Line, fields and columns of every row but the header."""
        columns: _Columns | None = None
        for line, row in self.source.csv_rows(file):
            if columns is None:
                columns = _columns(row, f"{file}, line {line}")
                if columns.label is None and self.only_class is None:
                    raise DataError(
                        f"{file}, line {line}: no column gives the class ({', '.join(name[:20] for name in row[:8])}). "
                        "Name the one class of all boxes with --categories NAME, or call the column of the classes "
                        "'class'."
                    )
                if columns.header:
                    continue
            yield line, row, columns

    def _row(self, row: list[str], columns: _Columns, own: str, edges: bool, file: Path, line: int) -> None:
        location = f"{file}, line {line}"
        part = self.parts.setdefault(_split(row, columns, own, location), _Part())
        name = _image_name(text(row[columns.image], location, "the image's name"))
        size = [size_or_none(row[column], location, what) if row[column].lower() not in _EMPTY else None
                for column, what in zip(columns.size or (), ("width", "height"), strict=False)]  # fmt: skip
        image = part.images.setdefault(name, _Image(len(part.images), (*size, None, None)[:2], file, line,
                                                    columns.kind == "automl"))  # fmt: skip
        if image.file != file:
            raise DataError(
                f"{location}: image {name[:80]!r} is in {image.file} as well. Give one of the files, or write the rows "
                "of both into one."
            )
        label = self.only_class if columns.label is None else row[columns.label]
        values = [row[column] for column in columns.box]
        if all(value.lower() in _EMPTY for value in values):
            if columns.label is not None and label and label.lower() not in _EMPTY:
                self.source.ledger.skip("boxes", "class without a box", location)
            return
        box = _box(values, columns.kind, edges, location)
        flags = 0
        for column, flag in columns.flags.items():
            flags |= flag if row[column].lower() in ("1", "1.0", "true") else 0
        label = text(label, location, "the class")
        part.boxes.add(image.key, part.names.setdefault(label, len(part.names)), line, box, flags)

    def _edges_in_one_field(self, file: Path) -> bool:
        """Whether a column `bbox` holds edges rather than left, top, width, height, by all rows of a file.

        Raises:
            DataError: the rows fit both.
        """
        found = as_edges = as_sides = 0
        for line, row, columns in self._table(file):
            if columns.kind != "one field":
                return False
            location = f"{file}, line {line}"
            if len(row) <= columns.last or row[columns.box[0]].strip().lower() in _EMPTY:
                continue
            x, y, third, fourth = _four(row[columns.box[0]], location)
            size = [number(row[column], location, "the size") for column in columns.size or () if row[column].strip()]
            width, height = (size[0] + 1, size[1] + 1) if len(size) == 2 else (float("inf"),) * 2
            found += 1
            as_edges += third > x and fourth > y and third <= width and fourth <= height
            as_sides += third > 0 and fourth > 0 and x + third <= width and y + fourth <= height
        if not found:
            return False
        if as_edges < NEARLY_ALL * found <= as_sides:
            return False
        if as_sides < NEARLY_ALL * found <= as_edges:
            how = "left, top, right, bottom: as sides, boxes would leave images"
            self.source.remark(f"{file.name}: bbox holds {how}")
            return True
        raise DataError(
            f"{file}: does column bbox hold left, top, width, height, or left, top, right, bottom? Of its {found:,} "
            f"boxes, {as_sides:,} and {as_edges:,} fit. Write four columns: x, y, w, h or xmin, ymin, xmax, ymax."
        )


def _split(row: list[str], columns: _Columns, own: str, location: str) -> str:
    word = row[columns.split] if columns.split is not None else ""
    if not word or word.upper() == "UNASSIGNED":
        return own
    try:
        return split_name(word)
    except DataError as error:
        raise DataError(f"{location}: {error}") from None


def _image_name(name: str) -> str:
    """Below its bucket, where it is in one."""
    return name.split("/", 3)[-1] if re.match(r"(gs|s3)://[^/]+/", name) else name


def _box(values: list[str], kind: str, edges: bool, location: str) -> list[float]:
    """Left, top, width, height."""
    if kind == "one field":
        found = _four(values[0], location)
    elif kind == "automl":  # x and y of up to four corners
        points = [number(value, location, "an edge of the box") if value else None for value in values]
        xs, ys = ([value for value in points[start::2] if value is not None] for start in (0, 1))
        if len(xs) < 2 or len(ys) < 2:
            raise DataError(f"{location}: a box has at least two corners. Correct or remove the row.")
        found, edges = [min(xs), min(ys), max(xs), max(ys)], True
    else:
        found, edges = [number(value, location, "an edge of the box") for value in values], kind == "edges"
    return [found[0], found[1], found[2] - found[0], found[3] - found[1]] if edges else found


def _four(value: str, location: str) -> list[float]:
    inner = re.sub(r"^[\[({]|[\])}]$", "", value.strip())
    return numbers([part for part in re.split(r"[,;\s]+", inner) if part], 4, location, "bbox")


def _columns(row: list[str], location: str) -> _Columns:
    """Where the columns are, by a header, or by the form of the first row."""
    at = {re.sub(r"[\s.-]+", "_", name.strip().lower()): i for i, name in reversed(list(enumerate(row)))}
    image = next((at[key] for key in IMAGE if key in at), None)
    if image is not None:
        label = next((at[key] for key in CLASS if key in at and at[key] != image), None)
        kinds = [("edges", EDGES), ("sides", SIDES), ("one field", [(key,) for key in ONE_FIELD])]
        for kind, group in ((kind, group) for kind, groups in kinds for group in groups):
            if all(key in at for key in group):
                sides = ("width", "height") if "width" in at and kind != "sides" else ("image_width", "image_height")
                size = (at[sides[0]], at[sides[1]]) if all(key in at for key in sides) else None
                split = next((at[key] for key in SPLIT if key in at), None)
                flags = {at[key]: flag for key, flag in FLAGS.items() if key in at}
                return _Columns(image, label, tuple(at[key] for key in group), kind, True, size, split, flags)
    numeric = [as_number(value.strip() or "0") is not None for value in row]
    if len(row) == 6 and all(numeric[1:5]):
        return _Columns(0, 5, (1, 2, 3, 4), "edges", header=False)
    if len(row) == 8 and all(numeric[1:5]) and not numeric[5] and all(numeric[6:]):
        return _Columns(5, 0, (1, 2, 3, 4), "sides", header=False, size=(6, 7))
    if 3 <= len(row) <= 11 and row[0].strip().upper() in _AUTOML and all(numeric[3:]):
        return _Columns(1, 2, tuple(range(3, 11)), "automl", header=False, split=0)
    if "region_shape_attributes" in at:
        raise _UnknownColumns(
            f"{location}: the CSV of VGG VIA, whose shapes are JSON in a field, is not read. Export COCO in VIA, and "
            "say --from coco."
        )
    hint = " Open Images? Say --from openimages." if {"imageid", "labelname"} <= at.keys() else ""
    raise _UnknownColumns(
        f"{location}: the columns are not known ({', '.join(name[:20] for name in row[:8])}). Expected an image, a "
        "class and xmin, ymin, xmax, ymax or x, y, width, height; or no header and path,x1,y1,x2,y2,class." + hint
    )
