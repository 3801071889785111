"""What a data folder holds, in numbers and figures: classes, sizes of objects, where they lie, a few images.

Reads as the doctor does: what is faulty is left out here and reported by `dfine doctor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.doctor.categories import name_of
from data_tools.doctor.fit import targets
from data_tools.doctor.pixels import look_at
from data_tools.doctor.reading import Split, locate, read_split
from data_tools.large.packed import read_index
from data_tools.large.repeat_factor import class_repeat_factors, repeat_factors, samples_per_epoch
from dfine_lib.data.coco import find_split
from dfine_lib.data.images import DataError, read_image
from dfine_lib.errors import DfineError
from dfine_lib.recipes import get_recipe

SHOWN_SIDE = 1024  # pixels, longer side of an image on the page
CELLS = 40  # of the map of centres, along each side
SMALL_PX, MEDIUM_PX = 32, 96  # COCO's limits, sides in pixels of the original image


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """One split in numbers; `M` usable boxes, crowd left out."""

    name: str
    images: int
    images_without_boxes: int
    boxes: int
    objects_an_image: tuple[float, float, int]  # mean, median, most
    image_sides: tuple[float, float]  # median width and height, pixels
    small_medium_large: tuple[int, int, int]  # COCO's limits, by the area of the box
    per_class: np.ndarray  # int64 [C]
    sides_px: np.ndarray  # float64 [M], geometric mean of width and height at the input size
    anchors: np.ndarray  # int64 [M], anchors whose centre lies in the box
    centres: np.ndarray  # int64 [40, 40], rows from top to bottom

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; arrays as summaries."""
        some = len(self.sides_px) > 0
        return {
            "images": self.images,
            "images_without_boxes": self.images_without_boxes,
            "boxes": self.boxes,
            "objects_an_image": dict(zip(("mean", "median", "most"), self.objects_an_image)),
            "median_image": dict(zip(("width", "height"), self.image_sides)),
            "by_area": dict(zip(("small", "medium", "large"), self.small_medium_large)),
            "side_px": _percentiles(self.sides_px) if some else None,
            "anchors": {"objects_without": int((self.anchors == 0).sum()), **_percentiles(self.anchors)}
            if some
            else None,
        }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("p5", "p50", "p95"), np.percentile(values, (5, 50, 95)).round(2).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Statistics:
    """A data folder in numbers."""

    data: Path
    image_size: int
    names: tuple[str, ...]  # C class names
    splits: tuple[SplitStatistics, ...]
    read: tuple[Split, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        per_class = {
            name: {split.name: int(split.per_class[i]) for split in self.splits} for i, name in enumerate(self.names)
        }
        return {
            "data": str(self.data),
            "image_size": self.image_size,
            "splits": {split.name: split.to_dict() for split in self.splits},
            "per_class": per_class,
        }


def anchors_inside(boxes_xyxy: np.ndarray, image_size: int, feat_strides: Sequence[int]) -> np.ndarray:
    """How many anchors of D-FINE have their centre in each box: one a cell of each map, those at the rim not counted.

    Encoder queries are chosen among the anchors; an object without any is found from beside it, if at all.

    Args:
        boxes_xyxy: `[M, 4]`, 0..1 of the image.
        image_size: side of the input.
        feat_strides: pixels per cell of each map.

    Returns:
        int64 `[M]`, summed over the maps.
    """
    found = np.zeros(len(boxes_xyxy), np.int64)
    for stride in feat_strides:
        cells = math.ceil(image_size / stride)
        centres = (np.arange(cells) + 0.5) / cells
        centres = centres[(centres > 0.01) & (centres < 0.99)]  # as `make_anchors` takes them
        first, last = (np.searchsorted(centres, boxes_xyxy[:, side], side="left") for side in ((0, 1), (2, 3)))
        found += (last - first).clip(0).prod(1)
    return found


def statistics(data: Path | str, *, image_size: int = 640, recipe: str = "n_custom") -> Statistics:
    """Read both splits and count; no image is opened.

    Args:
        data: what `find_split` understands; one split is enough.
        image_size: side of the network's input that sizes of objects are given at.
        recipe: whose maps hold the anchors.

    Raises:
        DataError: there is nothing to read.
        ValueError: `image_size` not positive, or an unknown recipe.
    """
    feat_strides = get_recipe(recipe).model.feat_strides
    if image_size < 1:
        raise DfineError(f"image_size must be positive, got {image_size}")
    data, found, lost = Path(data), [], []
    for name in ("train", "val"):
        file, folder, message = locate(data, name)
        if file is None:
            lost.append(message)
        else:
            found.append(read_split(name, file, folder))
    if not found:
        raise DataError("\n".join(lost))
    names = list(dict.fromkeys(_name(split, i) for split in found for i in range(len(split.categories))))
    splits = tuple(_count(one, names, image_size, feat_strides) for one in found)
    return Statistics(data, image_size, tuple(names), splits, tuple(found))


def repeats(data: Path | str, threshold: float) -> dict[str, Any]:
    """What repeat-factor sampling would do on the train split: how long an epoch gets, how often each class is drawn.

    Args:
        data: what `find_split` understands.
        threshold: share of the images below which a class counts as rare (`data.repeat_threshold` of a recipe).

    Returns:
        `images` (of the split), `draws` (samples of an epoch), `class_factors` (by name, 1: not repeated).

    Raises:
        DataError: the train split cannot be used as it is.
        ValueError: a threshold outside of 0 < t <= 1.
    """
    index = read_index(*find_split(data, "train"))
    factors = class_repeat_factors(index, threshold).round(3).tolist()
    draws = samples_per_epoch(repeat_factors(index, threshold))
    return {"images": len(index), "draws": draws, "class_factors": dict(zip(index.category_names, factors))}


def _name(split: Split, category: int) -> str:
    return name_of(split, category) or f"class_{split.category_keys[category]}"


def _count(split: Split, names: Sequence[str], image_size: int, feat_strides: Sequence[int]) -> SplitStatistics:
    rows = targets(split)
    rows = rows[split.category_of[rows] >= 0]
    boxes, sizes = split.boxes_xywh[rows], split.size_of(rows)
    objects = np.bincount(split.image_of[rows], minlength=len(split.images))
    place = {name: i for i, name in enumerate(names)}
    label_of = np.array([place[_name(split, i)] for i in range(len(split.categories))], np.int64)
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / sizes
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / np.tile(sizes, 2)
    across, down = (centres.clip(0, 1 - 1e-9) * CELLS).astype(np.int64).T if len(rows) else np.zeros((2, 0), np.int64)
    sides = np.sqrt(boxes[:, 2:].prod(1))
    sized = split.sizes_wh[np.isfinite(split.sizes_wh).all(1)]
    objects_an_image = (0, 0, 0)
    if len(objects):
        objects_an_image = (round(float(objects.mean()), 2), float(np.median(objects)), int(objects.max()))
    return SplitStatistics(
        name=split.name,
        images=len(split.images),
        images_without_boxes=int((objects == 0).sum()),
        boxes=len(rows),
        objects_an_image=objects_an_image,
        image_sides=tuple(np.median(sized, axis=0).tolist()) if len(sized) else (0.0, 0.0),
        small_medium_large=tuple(np.histogram(sides, (0, SMALL_PX, MEDIUM_PX, np.inf))[0].tolist()),
        per_class=np.bincount(label_of[split.category_of[rows]], minlength=len(names)),
        sides_px=image_size * np.sqrt((boxes[:, 2:] / sizes).prod(1)),
        anchors=anchors_inside(corners, image_size, feat_strides),
        centres=np.bincount(down * CELLS + across, minlength=CELLS * CELLS).reshape(CELLS, CELLS),
    )


def some_images(found: Statistics, *, count: int = 9, seed: int = 0) -> dict[str, tuple[Any, np.ndarray, list[int]]]:
    """Images drawn at random from the first split, for `viz.annotated_images`; unreadable ones are passed over.

    Returns:
        By file name: image uint8 `[3, H, W]`, no side above 1,024, boxes xyxy `[G, 4]` in its pixels, labels.
    """
    from torch.nn.functional import interpolate

    split = found.read[0]
    place = {name: i for i, name in enumerate(found.names)}
    label_of = [place[_name(split, i)] for i in range(len(split.categories))]
    rows = targets(split)
    rows = rows[split.category_of[rows] >= 0]
    chosen: dict[str, tuple[Any, np.ndarray, list[int]]] = {}
    for i in np.random.default_rng(seed).permutation(len(split.images))[: 10 * count].tolist():
        path = split.path(i)
        if len(chosen) == count or path is None:
            continue
        if not look_at([path], split.image_folder)[0].decodable:
            continue
        try:
            image = read_image(path)
        except DataError:
            continue
        own = rows[split.image_of[rows] == i]
        left_top, side = split.boxes_xywh[own, :2], split.boxes_xywh[own, 2:]
        boxes = np.concatenate([left_top, left_top + side], 1)
        if (factor := SHOWN_SIDE / max(image.shape[1:])) < 1:  # sixty of 80 megapixels would fill the memory
            size = [max(1, round(side * factor)) for side in image.shape[1:]]
            boxes = boxes * (np.array(size[::-1] * 2) / np.array([*image.shape[:0:-1]] * 2))
            image = interpolate(image[None], size=size)[0]
        chosen[split.file_names[i]] = (image, boxes, [label_of[k] for k in split.category_of[own]])
    return chosen
