"""`digits`: real handwriting as a detection set, on any machine, without a download.

    python -m data_tools.digits data/digits --train 2000 --val 300 --size 160 --seed 0

The 1,797 handwritten digits that ship inside scikit-learn (8 x 8 cells of 0 .. 16; a part of E. Alpaydin and C. Kaynak,
Optical Recognition of Handwritten Digits, UCI, 1998, CC BY 4.0), one to six in an image, 20 to 70 px high at 160 px,
written in ink of many colours on plain, ruled or squared paper, slightly turned and slanted. Classes "0" to "9" have
the ids 1 to 10; the box is the tight box of the pixels that are more than `INK_THRESHOLD` ink.

Train and val share no digit, and no writer's sheet either. Every writer filled in the same form, which begins 0 to 9
three times over, and the file holds the sheets one after another, so that their beginnings can be seen in the labels;
val takes the last three sheets whole, from sample `FIRST_VAL_DIGIT` on. (Fourteen sheets by thirteen writers, says the
source, so that somebody filled in two.) An annotation's `digit` is the sample's number.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from data_tools import textures
from data_tools.coco_folder import VAL_START, Plan, Sample, command_line, write_coco_folder
from data_tools.draws import Draws

VERSION = 1  # raise it whenever a pixel or an annotation changes
REFERENCE_SIZE = 160  # the size for which lengths are given
CLASSES = tuple("0123456789")
FIRST_VAL_DIGIT = 1415  # where a writer's sheet begins: 382 of 1,797 samples
INK_THRESHOLD = 0.35  # a pixel with more ink than this belongs to the digit
_DOMAIN = 0xD161
_PADDING = 2  # empty cells around the 8 x 8
_ROUNDS = 3  # of doubling


def sample(seed: int, index: int, size: int = REFERENCE_SIZE) -> Sample:
    """Image number `index` of the endless stream of `seed`, drawn without the ones before it.

    Args:
        seed: 0 .. 2**32 - 1.
        index: 0 .. 2**32 - 1; below `VAL_START` it shows the train writers' digits, from there on the val writers'.
        size: side of the image, pixels.

    Returns:
        uint8 `[size, size, 3]` and its annotations without ids.

    Raises:
        ValueError: seed or index out of range.
    """
    draws = Draws(_DOMAIN, seed, index)
    labels = digits()[1]
    pool = range(FIRST_VAL_DIGIT) if index < VAL_START else range(FIRST_VAL_DIGIT, len(labels))
    canvas, paper = _paper(draws, size)
    main_ink = _ink(draws, paper)
    annotations = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(draws.integer(1, 6)):
        digit = draws.choice(pool)
        share = draws.unit()
        ink = handwriting(draws, digit, (20 + 50 * share * share) * size / REFERENCE_SIZE)
        mask = ink > INK_THRESHOLD
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        width, height = right - left, bottom - top
        box = _free_place(draws, width, height, size, boxes)
        if box is None:
            continue
        boxes.append(box)
        colour = main_ink if draws.chance(0.6) else _ink(draws, paper)
        _write(canvas, ink * np.float32(draws.uniform(0.8, 1.0)), box[0] - left, box[1] - top, colour)
        annotations.append(
            {
                "category_id": int(labels[digit]) + 1,
                "bbox": [box[0], box[1], width, height],
                "area": int(np.count_nonzero(mask)),
                "digit": digit,
            }
        )
    pixels = textures.finish(draws, canvas, draws.uniform(0.75, 1.05), draws.uniform(0, 0.4), draws.uniform(2, 8))
    return pixels, annotations


def make_digits(
    out: str | Path, *, train: int = 2000, val: int = 300, size: int = REFERENCE_SIZE, seed: int = 0,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Write `digits` as a COCO folder of square images; see `coco_folder.write_coco_folder` for the errors."""
    plan = Plan(name="digits", version=VERSION, train=train, val=val, size=size, seed=seed)
    return write_coco_folder(
        out, plan, CLASSES, sample, "handwritten digits of scikit-learn on paper (data_tools.digits)", progress
    )


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The samples: int32 `[1797, 8, 8]` of ink 0 .. 16, and their labels `[1797]`."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    data = load_digits()
    return data.images.astype(np.int32), data.target


def handwriting(draws: Draws, digit: int, height: float) -> np.ndarray:
    """Ink of one sample, smoothly enlarged, turned and slanted: float32 `[h, w]`, 0 .. 1.

    Args:
        draws: rotation (up to 11 degrees), slant, proportions, thickness of the pen.
        digit: number of the sample.
        height: of its eight cells, pixels.
    """
    cells = np.pad(digits()[0][digit], _PADDING)
    for axis in (0, 1) * _ROUNDS:  # corner cutting: quadratic splines in whole numbers
        cells = np.moveaxis(cells, axis, 0)
        doubled = np.empty((2 * len(cells) - 2, cells.shape[1]), np.int32)
        doubled[0::2], doubled[1::2] = 3 * cells[:-1] + cells[1:], cells[:-1] + 3 * cells[1:]
        cells = np.moveaxis(doubled, 0, axis)
    table = np.ascontiguousarray(cells).astype(np.float32) / np.float32(16 * 16**_ROUNDS)
    half_tangent = draws.uniform(-0.096, 0.096)
    squared = half_tangent * half_tangent
    cosine, sine = (1 - squared) / (1 + squared), 2 * half_tangent / (1 + squared)
    slant, stretch = draws.uniform(-0.15, 0.2), draws.uniform(0.85, 1.25)
    pen = draws.uniform(0.36, 0.5)  # density of the cells at the edge of the stroke
    reach = round(0.85 * height) + 2
    axis_px = np.arange(-reach, reach + 1) + 0.0
    per_px = 8 * 2**_ROUNDS / height  # steps of the table
    middle = (len(table) - 1) / 2
    x = (axis_px + draws.unit())[None, :] * per_px
    y = (axis_px + draws.unit())[:, None] * per_px
    across, down = x * cosine + y * sine, y * cosine - x * sine
    column = ((across + slant * down) * stretch + middle).astype(np.float32)
    row = (down + middle).astype(np.float32)
    end = len(table) - 1.01
    np.clip(column, 0, end, out=column)
    np.clip(row, 0, end, out=row)
    first_column, first_row = column.astype(np.int32), row.astype(np.int32)
    column -= first_column
    row -= first_row
    place = first_row * len(table) + first_column
    flat = table.ravel()
    upper, lower = flat.take(place), flat.take(place + len(table))
    upper += (flat.take(place + 1) - upper) * column
    lower += (flat.take(place + len(table) + 1) - lower) * column
    upper += (lower - upper) * row
    ink = (upper - pen) * 4 + 0.5
    np.clip(ink, 0, 1, out=ink)
    return ink * ink * (3 - 2 * ink)


def _free_place(
    draws: Draws, width: int, height: int, size: int, boxes: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """A box (left, top, right, bottom) inside the image that hardly overlaps the others; None if twenty tries fail."""
    if width > size or height > size:
        return None
    for _ in range(20):
        left, top = draws.integer(0, size - width), draws.integer(0, size - height)
        box = left, top, left + width, top + height
        if all(_shared(box, other) * 20 <= min(_shared(box, box), _shared(other, other)) for other in boxes):
            return box
    return None


def _shared(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> int:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def _write(canvas: np.ndarray, ink: np.ndarray, left: int, top: int, colour: textures.Colour) -> None:
    """Lay ink over the canvas; what falls outside is left out."""
    size = canvas.shape[1]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + ink.shape[1], size), min(top + ink.shape[0], size)
    ground = canvas[:, y1:y2, x1:x2]
    share = ink[y1 - top : y2 - top, x1 - left : x2 - left]
    ground += (textures.planes(colour) - ground) * share


def _paper(draws: Draws, size: int) -> tuple[np.ndarray, textures.Colour]:
    """Paper, wall or blackboard, plain, ruled or squared; and its mean colour."""
    kind = draws.unit()
    if kind < 0.65:
        colour = textures.hue(draws, draws.uniform(0.0, 0.2), draws.uniform(190, 250))
    elif kind < 0.82:
        colour = textures.hue(draws, draws.uniform(0.2, 0.55), draws.uniform(120, 220))
    else:
        colour = textures.hue(draws, draws.uniform(0.0, 0.4), draws.uniform(25, 70))
    fibres = textures.random_crop(draws, size, size) * np.float32(draws.uniform(2, 12))
    fibres += textures.random_crop(draws, size, size) * np.float32(draws.uniform(1, 6))
    canvas = fibres + textures.planes(colour)
    ruling = draws.unit()
    if ruling < 0.4:
        pitch = max(round(draws.uniform(10, 26) * size / REFERENCE_SIZE), 4)
        start, depth = draws.integer(0, pitch - 1), np.float32(draws.uniform(0.1, 0.35))
        line = textures.planes(textures.hue(draws, draws.uniform(0, 0.6), draws.uniform(60, 200)))
        rows = canvas[:, start::pitch]
        rows += (line - rows) * depth
        if ruling < 0.2:
            columns = canvas[:, :, start::pitch]
            columns += (line - columns) * depth
    return canvas, colour


def _ink(draws: Draws, paper: textures.Colour) -> textures.Colour:
    """A colour that stands out from the paper."""
    light_paper = sum(paper) > 300
    colour = paper
    for _ in range(40):
        value = draws.uniform(10, 150) if light_paper else draws.uniform(170, 250)
        colour = textures.hue(draws, draws.uniform(0.0, 0.95), value)
        if textures.distance(colour, paper) > 210:
            break
    return colour


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    description = "Make the set `digits`: real handwritten digits on paper, ten classes, as a COCO folder."
    return command_line("digits", make_digits, description, 2000, 300, arguments)


if __name__ == "__main__":
    sys.exit(main())
