"""Data set and model together: input size, queries, denoising, batch, and whether val is like train."""

from __future__ import annotations

import numpy as np

from data_tools.doctor.finding import NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split

VANISHES_PX = 4.0  # side of a box at the input size below which an IoU of 0.5 needs edges exact to a pixel
OTHER_SIZES = (320, 640, 1280)
MOST_DETECTIONS = 100  # that COCO's evaluation counts in an image
CHECKS = (
    Check("fit_vanishing", WARNING, "more than a twentieth of the boxes is below 4 pixels at the input size",
          "They fall between the cells of the finest feature map and are not found.",
          "Give a larger --image-size, or cut the images into tiles."),
    Check("fit_sizes", NOTE, "what is left of the boxes at several input sizes", "Small objects are what a small input "
          "costs.", "Choose --image-size by it."),
    Check("fit_below_stride", WARNING, "more than half of the boxes are smaller than one cell of the finest map",
          "Each cell gives one query: neighbours share it.", "A size with stride 8 (s, m, l, x), or a larger input."),
    Check("fit_queries", WARNING, "images with more objects than the model has queries", "Matching is one to one: the "
          "rest can neither be learned nor found.", "Raise model.num_queries with --set, or cut the images."),
    Check("fit_detections", NOTE, "images with more than 100 objects", "COCO's AP counts the 100 best detections of "
          "an image: recall is bounded.", "Compare recipes with each other, not with other data sets."),
    Check("fit_denoising", NOTE, "images with more objects than denoising queries", "Denoising then works with a "
          "single group as long as the fullest image of the batch: more memory.", "Nothing, or a smaller batch."),
    Check("fit_enlarged", NOTE, "images less than half as large as the input", "Enlarging adds work, no detail.",
          "A smaller --image-size is as good and faster."),
    Check("fit_shrunk", NOTE, "images more than 4 times as large as the input", "Most of the detail is thrown away, "
          "and decoding takes most of the time.", "Shrink them once, or cut them into tiles."),
    Check("fit_few_images", WARNING, "fewer than 100 training images", "A detector memorises such a set in a "
          "few epochs.", "Start from published weights (--weights), and label more."),
    Check("fit_batch", NOTE, "an epoch has fewer than 8 steps", "Averages and warm-up count steps. (A batch that "
          "nobody chose is lowered by `dfine train`.)", "Give --batch-size."),
    Check("fit_few_val", NOTE, "fewer than 50 validation images", "AP is uncertain by several points.",
          "Set more aside."),
    Check("fit_size_drift", WARNING, "objects are twice as large in one split as in the other", "AP is measured on "
          "another task than the one learned.", "Divide the images anew, at random."),
    Check("fit_count_drift", WARNING, "images hold twice as many objects in one split as in the other", "Were labels "
          "lost in one of them?", "Look at a few images of both."),
)  # fmt: skip


def examine(case: Examination) -> None:
    """All checks of this file."""
    for split in case.splits:
        _objects(case, split)
    train, val = case.split("train"), case.split("val")
    if train is not None:
        _boxes(case, train)
        batch = case.recipe.data.batch_size
        count = len(train.images)
        if 0 < count < 100:
            case.report("fit_few_images", "train", [f"train: {count} images"], count)
        if 0 < count < 8 * batch:
            case.report(
                "fit_batch", "train", [f"train: {count} images, recipe {case.recipe.name} takes {batch} a step"], 1
            )
    if val is not None and 0 < len(val.images) < 50:
        case.report("fit_few_val", "val", [f"val: {len(val.images)} images"], len(val.images))
    if train is not None and val is not None:
        _drift(case, train, val)


def targets(split: Split) -> np.ndarray:
    """Places of the annotations that training or scoring goes by: usable, with an area, no crowd."""
    return np.flatnonzero(split.usable & ~split.crowd & (split.boxes_xywh[:, 2:] > 0).all(1))


def _objects(case: Examination, split: Split) -> None:
    model = case.recipe.model
    own = np.bincount(split.image_of[targets(split)], minlength=len(split.images))
    say = lambda i: f"{own[i]} objects"  # noqa: E731
    case.found("fit_queries", split, "images", own > model.num_queries,
               lambda i: f"{own[i]} objects, {model.num_queries} queries")  # fmt: skip
    case.found("fit_detections", split, "images", own > MOST_DETECTIONS, say)
    if split.name == "train" and model.num_denoising:
        case.found("fit_denoising", split, "images", own > model.num_denoising, say)
    high, wide = case.recipe.data.image_hw
    with np.errstate(invalid="ignore"):
        share = np.sqrt(split.sizes_wh.prod(1) / (high * wide))
        case.found("fit_enlarged", split, "images", share < 0.5)
        case.found("fit_shrunk", split, "images", share > 4)


def _boxes(case: Examination, train: Split) -> None:
    rows = targets(train)
    if not len(rows):
        return
    relative = train.boxes_xywh[rows, 2:] / train.size_of(rows)
    high, wide = case.recipe.data.image_hw
    shorter = (relative * [wide, high]).min(1)
    small = shorter < VANISHES_PX
    if small.mean() > 0.05:
        case.found("fit_vanishing", train, "annotations", rows[small])
    stride = case.recipe.model.feat_strides[0]
    if (shorter < stride).mean() > 0.5:
        words = f"train: {(shorter < stride).mean():.0%} of the boxes, stride {stride} at {wide} x {high}"
        case.report("fit_below_stride", "train", [words], int((shorter < stride).sum()))
    examples = []
    for size in dict.fromkeys((*OTHER_SIZES, max(high, wide))):
        sides = size * relative.min(1)
        examples.append(f"at {size}: {(sides < VANISHES_PX).mean():.1%} of boxes below 4 px, {(sides < 8).mean():.1%} "
                    f"below 8, {(sides < 16).mean():.1%} below 16; median side {np.median(sides):.0f} px")  # fmt: skip
    case.report("fit_sizes", "train", examples)


def _drift(case: Examination, train: Split, val: Split) -> None:
    rows = [targets(split) for split in (train, val)]
    if min(map(len, rows)) < 100:
        return
    sides, objects = [], []
    for split, own in zip((train, val), rows, strict=True):
        sides.append(float(np.median(np.sqrt((split.boxes_xywh[own, 2:] / split.size_of(own)).prod(1)))))
        objects.append(len(own) / len(split.images))
    if max(sides) > 2 * min(sides):
        case.report("fit_size_drift", "", [f"median side: train {sides[0]:.1%} of the image, val {sides[1]:.1%}"], 1)
    if max(objects) > 2 * min(objects):
        case.report("fit_count_drift", "", [f"objects an image: train {objects[0]:.1f}, val {objects[1]:.1f}"], 1)
