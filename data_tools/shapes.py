"""`shapes`: an endless synthetic detection set whose annotations know how sharp each edge of each box is.

    python -m data_tools.shapes data/shapes --train 4000 --val 300 --size 160 --seed 0

Ten classes, distinct under any rotation, textured, on textured ground, 1 to 8 an image. Lengths below are for 160 px
and grow with `size`. An annotation has the COCO keys, `bbox` being the tight box of the whole, sharp shape (hidden
parts included) cut at the image, `area` its pixels inside the image, and these:

- `edge_blur_px` `[left, top, right, bottom]`: standard deviation, in pixels, of the blur of each edge of the box;
- `edge_occluded` `[left, top, right, bottom]`: hidden share of the object's pixels that lie along that edge, in a band
  a tenth of the box deep, at least 2 px;
- `edge_outside` `[left, top, right, bottom]`: 1 where the image's border cuts the object, so that the edge is not seen;
- `occluded`: share of the object's pixels in the image that other objects hide; `blur`: the kind, see below.

Distribution. Diameter (of the circle around the shape) 16 to 84 px, density falling with size: half are under 40 px.
Objects an image 1 to 6, in 12 % "crowds" 5 to 8; in crowds and three in ten of the others they overlap. One object in
four may reach over the image's border. Blur: `sharp` 60 % (0.4 to 0.7 px on all edges), `defocus` 12 % (0.7 to 4 px on
all edges), `edges` 18 % (each edge on its own, 0.4 to 4 px), `motion` 10 % (a line of 3 to 13 px in any direction);
never more than a tenth of the diameter. 10 % of the images are dark, 8 % of low contrast, 10 % noisy. An object that
would show less than 30 % of its area is not drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools import textures
from data_tools.coco_folder import VAL_START, Plan, Sample, command_line, write_coco_folder
from data_tools.draws import Draws
from data_tools.outlines import CLASSES
from data_tools.shape_drawing import Shape, annotate, paint

VERSION = 2  # raise it whenever a pixel or an annotation changes
REFERENCE_SIZE = 160  # the size for which lengths are given
_DOMAIN = 0x5A9E


def sample(seed: int, index: int, size: int = REFERENCE_SIZE) -> Sample:
    """Image number `index` of the endless stream of `seed`, drawn without the ones before it.

    Args:
        seed: 0 .. 2**32 - 1.
        index: 0 .. 2**32 - 1; `make_shapes` takes train from 0 on and val from `VAL_START` on.
        size: side of the image, pixels.

    Returns:
        uint8 `[size, size, 3]` and its annotations, front to back, without ids.

    Raises:
        ValueError: seed or index out of range.
    """
    draws = Draws(_DOMAIN, seed, index)
    dark, faint, noisy = draws.chance(0.10), draws.chance(0.08), draws.chance(0.10)
    canvas, ground = _ground(draws, size)
    kept = annotate(_scene(draws, size), size)
    light_x, light_y = draws.direction()
    for shape, patch, _ in reversed(kept):
        colour = _object_colour(draws, ground, faint)
        height, width = patch.distance.shape
        texture = textures.random_crop(draws, height, width) * np.float32(draws.uniform(0.04, 0.22))
        shade = draws.uniform(0.0, 0.25) / shape.radius
        texture += 1 + patch.x * (shade * light_x) + (patch.y * (shade * light_y))[:, None]
        paint(canvas, shape, patch, texture * textures.planes(colour))
    exposure = draws.uniform(0.3, 0.55) if dark else draws.uniform(0.85, 1.1)
    noise = draws.uniform(12, 24) if noisy else draws.uniform(2, 7)
    pixels = textures.finish(draws, canvas, exposure, draws.uniform(0, 0.5), noise)
    return pixels, [annotation for _, _, annotation in kept]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images of the stream, as a model takes them, with what is on them."""

    images: Tensor  # float32 [B, 3, size, size], 0..1
    labels: list[Tensor]  # int64 [G] an image, 0..9, places in CLASSES
    boxes_xyxy: list[Tensor]  # float32 [G, 4] pixels
    annotations: list[list[dict[str, Any]]]  # as `sample` gives them

    @property
    def sizes_wh(self) -> Tensor:
        """Width and height of every image in pixels, int64 `[B, 2]`."""
        return torch.full((len(self.images), 2), self.images.shape[-1])


def batch(count: int, first: int = VAL_START, seed: int = 0, size: int = REFERENCE_SIZE) -> Batch:
    """Images number `first` to `first + count - 1` of the stream of `seed`; by default the first of the val split.

    Args:
        count: B, at least 1.
        first: number of the first image.
        seed: 0 .. 2**32 - 1.
        size: side of the images, pixels.
    """
    images, labels, boxes, annotations = [], [], [], []
    for index in range(first, first + count):
        pixels, objects = sample(seed, index, size)
        xywh = torch.tensor([each["bbox"] for each in objects]).reshape(-1, 4)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
        labels.append(torch.tensor([each["category_id"] - 1 for each in objects], dtype=torch.int64))
        boxes.append(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
        annotations.append(objects)
    return Batch(torch.stack(images), labels, boxes, annotations)


def make_shapes(
    out: str | Path, *, train: int = 4000, val: int = 300, size: int = REFERENCE_SIZE, seed: int = 0,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Write `shapes` as a COCO folder of square images; see `coco_folder.write_coco_folder` for the errors."""
    plan = Plan(name="shapes", version=VERSION, train=train, val=val, size=size, seed=seed)
    return write_coco_folder(
        out, plan, CLASSES, sample, "synthetic shapes with known edge blur and occlusion (data_tools.shapes)", progress
    )


def _ground(draws: Draws, size: int) -> tuple[np.ndarray, textures.Colour]:
    """Two muted colours mixed by a texture, with a finer one over it; and their mean."""
    value = draws.uniform(50, 205)
    mean = textures.hue(draws, draws.uniform(0.05, 0.45), value)
    tint = textures.hue(draws, draws.uniform(0.0, 0.5), value)
    depth = draws.uniform(0.15, 0.9)
    across = [depth * (other - own) * 0.5 + draws.uniform(-14, 14) for own, other in zip(mean, tint, strict=True)]
    canvas = textures.random_crop(draws, size, size) * np.array(across, np.float32)[:, None, None]
    canvas += textures.planes(mean)
    fine = textures.random_crop(draws, size, size) * np.float32(draws.uniform(2, 12))
    canvas += fine
    return canvas, mean


def _object_colour(draws: Draws, ground: textures.Colour, faint: bool) -> textures.Colour:
    """A colour that stands out from the ground, or in a faint image hardly does."""
    low, high = (75.0, 140.0) if faint else (190.0, 766.0)
    colour = ground
    for _ in range(40):
        colour = textures.hue(draws, draws.uniform(0.25, 1.0), draws.uniform(70, 250))
        if low <= textures.distance(colour, ground) <= high:
            break
    return colour


def _scene(draws: Draws, size: int) -> list[Shape]:
    """Shapes front to back."""
    unit = size / REFERENCE_SIZE
    crowd = draws.chance(0.12)
    count = draws.integer(5, 8) if crowd else draws.integer(1, 6)
    near = crowd or draws.chance(0.3)
    closeness = draws.uniform(0.35, 0.7) if near else draws.uniform(0.75, 1.05)
    shapes: list[Shape] = []
    for _ in range(count):
        share = draws.unit()
        radius = (8 + 34 * share * (0.4 + 0.6 * share)) * unit
        if crowd:
            radius *= 0.75 + 0.25 * (8 * unit / radius)
        name, direction = draws.choice(CLASSES), draws.direction()
        blur, sigma, motion = _blur(draws, radius, unit)
        cut = draws.chance(0.25)  # may reach over the image's border
        for _ in range(12):  # places tried; where none is free enough there is one object less
            edge = draws.uniform(0.2, 1.0) * radius if cut else radius  # how far inside the image its centre is
            centre = draws.uniform(edge, size - edge), draws.uniform(edge, size - edge)
            if near and shapes and draws.chance(0.7):
                centre = _beside(draws, draws.choice(shapes), radius, edge, size)
            if all(_apart(centre, radius, other, closeness) for other in shapes):
                shapes.append(Shape(name, centre, radius, direction, sigma, motion, blur))
                break
    return shapes


def _beside(draws: Draws, other: Shape, radius: float, edge: float, size: int) -> tuple[float, float]:
    """A centre from which the circle of `radius` overlaps another's, not nearer than `edge` to the image's border."""
    reach = draws.uniform(0.35, 0.85) * (radius + other.radius)
    x, y = (middle + part * reach for middle, part in zip(other.centre, draws.direction(), strict=True))
    return min(max(x, edge), size - edge), min(max(y, edge), size - edge)


def _apart(centre: tuple[float, float], radius: float, other: Shape, closeness: float) -> bool:
    off_x, off_y = centre[0] - other.centre[0], centre[1] - other.centre[1]
    least = closeness * (radius + other.radius)
    return off_x * off_x + off_y * off_y >= least * least


def _blur(
    draws: Draws, radius: float, unit: float
) -> tuple[str, tuple[float, float, float, float], tuple[tuple[int, int], ...]]:
    """Kind of blur, optical standard deviation of the four edges, places during the exposure."""
    most = min(4 * unit, radius / 5)
    sharp = draws.uniform(0.4, 0.7)
    kind = draws.unit()
    still = ((0, 0),)
    if kind < 0.60:
        return "sharp", (sharp,) * 4, still
    if kind < 0.72:
        share = draws.unit()
        sigma = 0.7 + max(most - 0.7, 0) * share
        return "defocus", (sigma,) * 4, still
    if kind < 0.90:
        left, top, right, bottom = (0.4 + (most - 0.4) * share * share for share in (draws.unit() for _ in range(4)))
        return "edges", (left, top, right, bottom), still
    cosine, sine = draws.direction()
    length = min(draws.uniform(3, 13) * unit, most * 3.4)  # a line's standard deviation is its length / 3.46
    half = max(1, math.ceil(length / 2 - 0.5))
    step = length / (2 * half + 1)
    places = [(_nearest(place * step * cosine), _nearest(place * step * sine)) for place in range(-half, half + 1)]
    return "motion", (sharp,) * 4, tuple(places)


def _nearest(value: float) -> int:
    """The nearest whole number, halves away from 0, so that a line and its mirror image agree."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(0.5 - value)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    description = "Make the synthetic set `shapes`: ten classes with known edge blur and occlusion, as a COCO folder."
    return command_line("shapes", make_shapes, description, 4000, 300, arguments)


if __name__ == "__main__":
    sys.exit(main())
