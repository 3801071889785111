"""Rows of YOLO label files to boxes: `class cx cy w h`, fractions of the image; or outlines, or boxes with more behind.

Some sources have rows of more numbers: outlines (`class x1 y1 x2 y2 …`), turned boxes (four corners), boxes with
landmarks (`class cx cy w h x1 y1 …`, each with a visibility or without). Nothing in a row says which, so it is decided
once for a whole source, by the number of columns and by what the numbers would mean in all rows; where that decides
nothing, the source is refused until `data.yaml` says `kpt_shape` or `task`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from data_tools.box_writing import fits, is_written_as
from data_tools.convert.records import Box, around, as_number, number
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.yolo_settings import Settings
from dfine_lib.data.images import DataError

MOST_TEXT = 16 << 20  # bytes of one label file
MOST_EVIDENCE = 50_000  # rows
MANY = 20  # rows
NEARLY_ALL = 0.95
FEW = 0.5  # of the outlines of small objects, as many look like a box with landmarks by chance
FARTHEST = 2.0  # sides of the image; numbers beyond are pixels or percentages
_CONFIDENCE, _LANDMARKS, _OUTLINES = "confidence", "landmarks", "outlines"
# Four numbers to left, top, width, height: of centre and sides, and of corners.
_FROM_CENTRE = [[1, 0, 0, 0], [0, 1, 0, 0], [-0.5, 0, 1, 0], [0, -0.5, 0, 1]]
_FROM_CORNERS = [[1, 0, -1, 0], [0, 1, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]]
_REMARKS = {
    _CONFIDENCE: "rows have a sixth number, a confidence: left off",
    _LANDMARKS: "rows are a box with landmarks behind: the landmarks are left off",
    _OUTLINES: "rows are outlines: the smallest box around each is taken",
}


class YoloRows:
    """Label files of one source.

    Args:
        source: takes remarks about what is decided about the rows.
        settings: class names, and what `data.yaml` says about the rows.
        names: the classes in order; "" has no name.
        labels: all label files of the source, relative to its root, for the decision about longer rows.
    """

    def __init__(self, source: SourceFolder, settings: Settings, names: list[str], labels: list[str]):
        self.source, self.settings, self.names, self.labels = source, settings, names, labels
        self._written: list[list[float]] = []  # boxes as they are written

    def boxes(self, label: str) -> list[Box]:
        """The boxes of a label file, as fractions of the image.

        Raises:
            DataError: names file, line and value, and the way out.
        """
        return [self._box(fields, location) for fields, location in self._rows(label)]

    def _rows(self, label: str) -> Iterator[tuple[list[str], str]]:
        file = self.source.root / label
        for line, row in enumerate(self.source.text(file, MOST_TEXT).splitlines(), 1):
            if fields := split_row(row):
                yield fields, f"{file}, line {line}"

    def _box(self, fields: list[str], location: str) -> Box:
        count, form = len(fields), None
        if count != 5 and not (self.settings.keypoints and count == 5 + self.settings.keypoints):
            form = self._form_of(fields, location)
        values = [number(field, location, "a coordinate") for field in fields[1:]]
        name = self._name(fields[0], location)
        if form == _OUTLINES:
            _check_fractions(values, location)
            return around(zip(values[::2], values[1::2]), name, location)
        x, y, width, height = values[:4]
        _check_fractions(values[:4], location)
        if len(self._written) < MOST_EVIDENCE:
            self._written.append(values[:4])
        return Box(x - width / 2, y - height / 2, width, height, name, location=location)

    def check_writing(self) -> None:
        """Refuse corners, by all boxes that were read.

        Raises:
            DataError: read as a centre and sides many boxes stick out of their images, and as corners they do not.
        """
        if not self._written:
            return
        found, size = 1000 * np.array(self._written), np.full((len(self._written), 2), 1000.0)
        plain, as_corners = (fits(found @ np.array(kind), size) for kind in (_FROM_CENTRE, _FROM_CORNERS))
        if is_written_as("boxes_as_corners", plain, as_corners):
            raise DataError(
                f"{self.source.root}: the rows are class, left, top, right, bottom: read so all boxes fit into their "
                "images, and as YOLO's class, centre x, centre y, width, height many do not. Export them again as YOLO."
            )

    def _name(self, field: str, location: str) -> str:
        label = number(field, location, "the class")
        if label < 0 or label != int(label) or label >= len(self.names):
            raise DataError(
                f"{location}: class {label:g} has no name; there are {len(self.names)}, from 0. Add it or remove the "
                "row."
            )
        if not (name := self.names[int(label)]):
            raise DataError(
                f"{location}: class {label:g} has no name: line {int(label) + 1} of the class list is empty. Write its "
                "name there; if the line should not be there, the class numbers after it are one too high."
            )
        return name

    def _form_of(self, fields: list[str], location: str) -> str:
        """What a row that is no plain box is; `DataError` where it is nothing that is read."""
        count = len(fields)
        if count < 5:
            raise DataError(f"{location}: {count} numbers; a box has 5 (class cx cy w h). Correct or remove the row.")
        if self.settings.keypoints:
            raise DataError(
                f"{location}: {count} numbers; kpt_shape in {self.settings.file} says 5 + {self.settings.keypoints}. "
                "Correct one of them."
            )
        form, expected = self._form
        if form in (_LANDMARKS, _CONFIDENCE) and count != expected:
            raise DataError(f"{location}: {count} numbers; the other rows have 5 or {expected}. Correct the row.")
        if form == _OUTLINES and (count < 7 or count % 2 == 0):
            raise DataError(
                f"{location}: {count} numbers; an outline has 1 + 2 for each of at least 3 points. Correct or remove "
                "the row."
            )
        if form is None:
            way_out = (
                "Landmarks or keypoints? Say kpt_shape: [number of points, 2 or 3] in data.yaml. Outlines or turned "
                "boxes? Say task: segment there."
            )
            if count == 6:
                way_out = "Predictions with a score? Remove its column."
            first = [as_number(field) for field in fields[1:5]]
            if not all(value is not None and abs(value) <= FARTHEST for value in first):  # VisDrone, KITTI and others
                way_out = (
                    "Nor are the numbers behind the class fractions of the image: this is not YOLO. Convert the labels "
                    "to COCO, or to rows of class cx cy w h, with the tools of the data set."
                )
            raise DataError(
                f"{location}: {count} numbers; a box has 5 (class cx cy w h), and the rows of this source do not show "
                f"what the others are. {way_out}"
            )
        return form

    @cached_property
    def _form(self) -> tuple[str | None, int]:
        """What the rows that are longer than a box are, in the whole source, and how many numbers the first has.

        None in place of a form where the rows do not show it.
        """
        if self.settings.outlines:
            form, count = _OUTLINES, 0
        else:
            rows, boxes = self._evidence()
            form, count = decide(rows, boxes), 1 + len(rows[0]) if rows else 0
        if form is not None:
            self.source.remark(_REMARKS[form])
        return form, count

    def _evidence(self) -> tuple[list[list[float]], int]:
        """Numbers behind the class of the rows longer than a box; how many rows are boxes."""
        longer: list[list[float]] = []
        boxes = 0
        for label in self.labels:
            for fields, location in self._rows(label):
                if len(fields) == 5:
                    boxes += 1
                elif len(fields) > 5:
                    longer.append([number(field, location, "a coordinate") for field in fields[1:]])
            if len(longer) >= MOST_EVIDENCE:
                break
        return longer, boxes


def split_row(row: str) -> list[str]:
    """Fields between blanks and tabs, or between commas or semicolons where there are too few blanks for a box."""
    fields = row.split()
    if "," not in row and ";" not in row:
        return fields
    fields = [bare for field in fields if (bare := field.strip(",;"))]
    return fields if len(fields) >= 5 else row.replace(",", " ").replace(";", " ").split()


def decide(rows: list[list[float]], boxes: int) -> str | None:
    """What rows with more than four numbers behind their class are.

    Args:
        rows: their numbers without the class, of a whole source.
        boxes: how many rows of the source have exactly four.

    Returns:
        "confidence", "landmarks" or "outlines"; None where the numbers do not show it, or contradict each other.
    """
    counts = {len(row) for row in rows}
    if counts == {5}:
        last = not boxes and all(0 <= row[4] <= 1 for row in rows) and _most(_encloses(row, []) for row in rows)
        return _CONFIDENCE if last else None
    if len(counts) > 1:  # landmarks are as many in every row
        return _OUTLINES if all(n % 2 == 0 for n in counts) and _most(map(_may_be_outline, rows)) else None
    count = counts.pop() if counts else 0
    if count < 6:
        return None
    visible = (count - 4) % 3 == 0 and all(value in (0, 1, 2) for row in rows for value in row[6::3])
    if visible and _most(_encloses(row, _points(row, 3)) for row in rows):
        return _LANDMARKS
    if count % 2:
        return None
    if count == 8 and (_most(map(_is_parallelogram, rows)) or (len(rows) >= MANY and _most(map(_is_convex, rows)))):
        return _OUTLINES  # turned boxes, or four corners one after the other
    enclosing = [_encloses(row, _points(row, 2)) for row in rows]
    if not _most(map(_may_be_outline, rows)):
        return _LANDMARKS if _most(enclosing) else None
    if _most(enclosing):  # each row could be both: take only what is no coincidence
        return _LANDMARKS if _most(_fits_tightly(row, _points(row, 2)) for row in rows) else None
    return _OUTLINES if sum(enclosing) <= FEW * len(rows) else None


def _most(checks: Iterable[bool]) -> bool:
    found = list(checks)
    return bool(found) and sum(found) >= NEARLY_ALL * len(found)


def _points(row: list[float], each: int) -> list[tuple[float, float]]:
    """Landmarks behind the box that are there: not (-1, -1), (0, 0), or of visibility 0."""
    found = [row[i : i + each] for i in range(4, len(row), each)]
    return [(point[0], point[1]) for point in found
            if point[0] >= 0 and point[1] >= 0 and any(point[:2]) and (each == 2 or point[2] > 0)]  # fmt: skip


def _encloses(row: list[float], points: list[tuple[float, float]]) -> bool:
    """Whether the first four numbers are a box in the image, with the points in it and spread over a part of it."""
    x, y, width, height = row[:4]
    if width <= 0 or height <= 0 or abs(x - 0.5) + width / 2 > 0.6 or abs(y - 0.5) + height / 2 > 0.6:
        return False
    if any(abs(px - x) > 0.6 * width or abs(py - y) > 0.6 * height for px, py in points):
        return False
    if len(points) < 3:
        return True
    xs, ys = zip(*points, strict=True)
    return max(xs) - min(xs) >= 0.2 * width or max(ys) - min(ys) >= 0.2 * height


def _fits_tightly(row: list[float], points: list[tuple[float, float]]) -> bool:
    """Whether the points reach all four edges of the box, as the corners of a number plate do."""
    if len(points) < 3:
        return False
    x, y, width, height = row[:4]
    xs, ys = zip(*points, strict=True)
    return (
        max(abs(min(xs) - x + width / 2), abs(max(xs) - x - width / 2)) <= 0.05 * width
        and max(abs(min(ys) - y + height / 2), abs(max(ys) - y - height / 2)) <= 0.05 * height
    )


def _may_be_outline(row: list[float]) -> bool:
    """Whether all numbers are points of the image, and the second lies about where the others do."""
    xs, ys = row[::2], row[1::2]
    if min(row) < -0.1 or max(row) > 1.1:
        return False
    if len(row) == 6:
        return True  # any three points are a triangle
    other_xs, other_ys = [xs[0], *xs[2:]], [ys[0], *ys[2:]]
    side = max(max(other_xs) - min(other_xs), max(other_ys) - min(other_ys))
    return (
        min(other_xs) - side <= xs[1] <= max(other_xs) + side and min(other_ys) - side <= ys[1] <= max(other_ys) + side
    )


def _is_parallelogram(row: list[float]) -> bool:
    """Whether four points are the corners of a turned rectangle, which fractions of the sides make a parallelogram."""
    xs, ys = row[::2], row[1::2]
    side = max(max(xs) - min(xs), max(ys) - min(ys))
    return max(abs(xs[0] + xs[2] - xs[1] - xs[3]), abs(ys[0] + ys[2] - ys[1] - ys[3])) <= 0.1 * side + 1e-9


def _is_convex(row: list[float]) -> bool:
    """Whether points of the image, in their order, are the corners of a convex outline."""
    points = list(zip(row[::2], row[1::2], strict=True))
    turns = [
        (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
        for a, b, c in zip(points, points[1:] + points[:1], points[2:] + points[:2], strict=True)
    ]
    return _may_be_outline(row) and (min(turns) >= 0 or max(turns) <= 0)


def _check_fractions(values: list[float], location: str) -> None:
    if (farthest := max(map(abs, values))) > FARTHEST:
        raise DataError(
            f"{location}: coordinates should be fractions of the image, 0 to 1; got {farthest:g}. Divide pixels by the "
            "width and height of the image."
        )
