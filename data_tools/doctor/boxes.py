"""The boxes: numbers, places, sizes, repetitions, and whether they are written as COCO writes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split, shown
from dfine_lib.data.plausible import written_as_fractions

EDGE_PX = 1.0  # what a box may stick out by without a word: rounding
TINY_PX = 2.0
EXTREME_ASPECT = 25.0
FEWEST_FOR_A_VERDICT = 8  # boxes; fewer do not tell how a file writes them
_DROPPED = "drops the annotation"
_WRITING = "Boxes lie beside the objects, or outside the picture: nothing can be learned."
_COCO = "COCO boxes are [left, top, width, height] in pixels: convert them."
CHECKS = (
    Check("box_malformed", ERROR, "bbox is missing or not four numbers", "The reader refuses the file.",
          "Write [left, top, width, height].", _DROPPED),
    Check("box_not_finite", ERROR, "bbox holds NaN, infinity or a number beyond all pictures",
          "One such target makes the loss NaN.", "Correct or remove it.", _DROPPED),
    Check("box_negative_side", ERROR, "negative width or height", "The reader refuses the file.",
          "Corners in another order? Swap them.", "swaps the corners where that gives a box inside the image, else "
          "drops the annotation"),
    Check("box_no_area", WARNING, "zero width or height", "Training leaves them out, the evaluation counts them as "
          "objects that nobody finds.", "Remove them.", _DROPPED),
    Check("box_outside", ERROR, "a box wholly outside its image", "The reader refuses the file.",
          "Are these pixels of this image?", _DROPPED),
    Check("box_sticks_out", WARNING, "boxes that reach out of their image", "Training cuts them off at the edge, the "
          "evaluation does not: AP is lost at high IoU.", "Cut them off at the edge.", "cuts them off at the edge"),
    Check("boxes_as_corners", ERROR, "boxes written as [left, top, right, bottom]", _WRITING, _COCO, "converts them"),
    Check("boxes_as_centres", ERROR, "boxes written as [centre x, centre y, width, height]", _WRITING, _COCO,
          "converts them"),
    Check("boxes_as_fractions", ERROR, "boxes written as fractions of the image", _WRITING, _COCO, "converts them"),
    Check("boxes_axes_swapped", ERROR, "boxes written with y before x", _WRITING, _COCO, "converts them"),
    Check("box_tiny", WARNING, "boxes with a side below 2 pixels", "A click that was not dragged, mostly; the smallest "
          "error in an edge makes their IoU 0.", "Look at a few, remove what is no object."),
    Check("box_thin", WARNING, "boxes more than 25 times as long as wide", "Edge distributions are scaled by the sides "
          "of a box: along the short one there is hardly any reach.", "Look at a few."),
    Check("box_whole_image", NOTE, "boxes as large as the image", "Fine for portraits; a placeholder otherwise.",
          "Look at a few."),
    Check("box_repeated", WARNING, "the same box and class twice in an image", "Matching is one to one: two queries "
          "are taught to find one object, and the second is a false alarm at test time.", "Keep one.",
          "keeps the first"),
    Check("box_nearly_repeated", WARNING, "two boxes of one class overlap by more than 0.95 IoU",
          "One object labelled twice, mostly: two queries are taught to find it.", "Look at a few, keep one."),
    Check("box_two_classes", WARNING, "one box under two classes", "A query has one class to learn for a box: the two "
          "contradict each other.", "Decide for one."),
    Check("box_everywhere", WARNING, "one and the same box in many images", "A placeholder of the labelling tool, "
          "mostly.", "Look at a few."),
    Check("area_differs", WARNING, "area larger than the box, or not positive", "The evaluation sorts objects into "
          "small, medium and large by it.", "Write the area of the object or of the box.", "writes width x height"),
    Check("area_invalid", ERROR, "area is no number", "The evaluation refuses it, when the first epoch is done.",
          "Write the area of the object or of the box.", "writes width x height"),
    Check("area_missing", NOTE, "area is missing", "The area of the box is taken.", "Nothing."),
    Check("crowd", NOTE, "crowd annotations (iscrowd = 1, or ignore = 1)",
          "Left out of training, ignored in the evaluation.", "Nothing, if that is meant."),
    Check("crowd_many", WARNING, "more than a fifth of the annotations are crowd", "Training leaves them all out.",
          "Is iscrowd, or ignore, set by mistake?"),
    Check("difficult", NOTE, "objects marked difficult", "Trained on, ignored in the evaluation, as in PASCAL VOC.",
          "Nothing, if that is meant."),
    Check("image_without_boxes", NOTE, "images without boxes", "They teach what background is; denoising has nothing "
          "to do in them.", "Nothing, if they are truly empty."),
    Check("image_without_boxes_many", WARNING, "more than half of the images have no boxes", "Most steps teach nothing "
          "but background.", "Were labels lost? Leave out a part of the empty images."),
)  # fmt: skip


def examine(case: Examination) -> None:
    """All checks of this file."""
    for split in case.splits:
        case.found("box_malformed", split, "annotations", np.isnan(split.boxes_xywh).any(1) & ~_nan_written(split))
        huge = (np.abs(np.nan_to_num(split.boxes_xywh, nan=0.0)) >= 1e9).any(1)
        case.found("box_not_finite", split, "annotations", _nan_written(split) | huge)
        writing(case, split)
        _places(case, split)
        _repetitions(case, split)
        _rest(case, split)


def _nan_written(split: Split) -> np.ndarray:
    """bool `[M]`: four numbers, one of them NaN or infinite, as Python's JSON writes them."""
    suspects = np.flatnonzero(~np.isfinite(split.boxes_xywh).all(1))
    written = np.zeros(len(split.boxes_xywh), bool)
    for i in suspects.tolist():
        box = split.annotations[i].get("bbox")
        written[i] = type(box) is list and len(box) == 4 and all(type(one) in (int, float) for one in box)
    return written


# How a file may write its boxes by mistake: numbers [n, 4] and image sizes [n, 2] to xywh in pixels.
_WRITINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "boxes_as_corners": lambda b, wh: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1),
    "boxes_as_centres": lambda b, wh: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1),
    "boxes_axes_swapped": lambda b, wh: b[:, [1, 0, 3, 2]],
}


def _fits(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """bool `[n]`: positive sides, inside the image but for rounding."""
    slack = EDGE_PX + 0.002 * sizes_wh
    inside = (boxes_xywh[:, :2] >= -slack) & (boxes_xywh[:, :2] + boxes_xywh[:, 2:] <= sizes_wh + slack)
    return (inside & (boxes_xywh[:, 2:] > 0)).all(1)


def writing(case: Examination, split: Split) -> None:
    """Find boxes that are written in another way, and put them right in `split.boxes_xywh`.

    A statistical test: as COCO's [left, top, width, height], boxes that are not leave their images again and again;
    read in the way that they are written, (nearly) all of them fit. Judged over the whole file, then image by image,
    since files are merged.
    """
    rows = np.flatnonzero(split.usable)
    boxes, sizes = split.boxes_xywh[rows], split.size_of(rows)
    fractions = written_as_fractions(boxes, sizes, split.image_of[rows])
    if fractions.any():
        own, scale = boxes[fractions], np.tile(sizes[fractions], 2)
        as_corner = own * scale
        centres = _WRITINGS["boxes_as_centres"](as_corner, sizes[fractions])
        corners = _WRITINGS["boxes_as_corners"](as_corner, sizes[fractions])
        best = max((as_corner, centres, corners), key=lambda one: _fits(one, sizes[fractions]).mean())
        split.boxes_xywh[rows[fractions]] = best
        case.found("boxes_as_fractions", split, "annotations", rows[fractions])
        rows, boxes, sizes = rows[~fractions], boxes[~fractions], sizes[~fractions]
    if not len(rows):
        return
    plain = _fits(boxes, sizes)
    for name, convert in _WRITINGS.items():
        other = _fits(convert(boxes, sizes), sizes)
        fewest = 0.05 if name == "boxes_as_centres" else 0.15  # those near the right and lower edges alone tell
        whole = len(rows) >= FEWEST_FOR_A_VERDICT and other.mean() >= 0.98 and (~plain & other).mean() >= fewest
        chosen = np.full(len(rows), bool(whole))
        if not whole and name == "boxes_as_corners":
            chosen = _agreed(split, rows, other, fewest=3, share=1.0) & _agreed(
                split, rows, ~plain, fewest=3, share=0.5
            )
        if chosen.any():
            split.boxes_xywh[rows[chosen]] = convert(boxes[chosen], sizes[chosen])
            case.found(name, split, "annotations", rows[chosen])
            return


def _agreed(split: Split, rows: np.ndarray, flags: np.ndarray, *, fewest: int, share: float) -> np.ndarray:
    """bool `[rows]`: at least `share` of the image's boxes carry the flag, and it has `fewest` of them; in a file
    where more than half of all boxes carry it, an image with fewer boxes is believed too."""
    image = split.image_of[rows]
    total = np.bincount(image, minlength=len(split.images))
    flagged = np.bincount(image, flags, minlength=len(split.images))
    if len(rows) and flags.mean() > 0.5:
        fewest = 1
    agreed = (total >= fewest) & (flagged >= share * total) & (flagged > 0)
    return agreed[image] if len(rows) else np.zeros(0, bool)


def _places(case: Examination, split: Split) -> None:
    rows = np.flatnonzero(split.usable)
    boxes, sizes = split.boxes_xywh[rows], split.size_of(rows)
    left_top, side = boxes[:, :2], boxes[:, 2:]
    negative = (side < 0).any(1)
    empty = (side == 0).any(1) & ~negative
    outside = ((left_top >= sizes) | (left_top + side <= 0)).any(1) & (side > 0).all(1)
    out = ((left_top < -EDGE_PX) | (left_top + side > sizes + EDGE_PX)).any(1) & ~outside & ~negative & ~empty
    proper = ~(negative | empty | outside)
    with np.errstate(all="ignore"):
        longer, shorter = side.max(1, initial=0), side.min(1, initial=np.inf)
        thin = proper & (longer > EXTREME_ASPECT * shorter) & (longer > 16)
    whole = proper & (side >= 0.99 * sizes).all(1)
    size = lambda i: "image of {:.0f} x {:.0f}".format(*split.sizes_wh[split.image_of[i]])  # noqa: E731
    case.found("box_negative_side", split, "annotations", rows[negative])
    case.found("box_no_area", split, "annotations", rows[empty])
    case.found("box_outside", split, "annotations", rows[outside], size)
    case.found("box_sticks_out", split, "annotations", rows[out], size)
    case.found("box_tiny", split, "annotations", rows[proper & (shorter < TINY_PX)])
    case.found("box_thin", split, "annotations", rows[thin])
    case.found("box_whole_image", split, "annotations", rows[whole & ~split.crowd[rows]], size)
    place = np.round(boxes, 2)
    _, inverse, counts = np.unique(place, axis=0, return_inverse=True, return_counts=True)
    images = np.zeros(len(counts), np.int64)
    pairs = np.unique(np.stack([inverse.reshape(-1), split.image_of[rows]], 1), axis=0)
    np.add.at(images, pairs[:, 0], 1)
    many = images[inverse.reshape(-1)] >= max(10, 0.05 * len(split.images)) if len(rows) else np.zeros(0, bool)
    case.found("box_everywhere", split, "annotations", rows[many & ~whole])


def _repetitions(case: Examination, split: Split) -> None:
    rows = np.flatnonzero(split.usable & ~split.crowd & (split.boxes_xywh[:, 2:] > 0).all(1))
    boxes, image, label = split.boxes_xywh[rows], split.image_of[rows], split.category_of[rows]
    order = np.lexsort((np.arange(len(rows)), boxes[:, 0], image))
    rows, boxes, image, label = rows[order], boxes[order], image[order], label[order]
    exact, near, two = [], [], []
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    area = boxes[:, 2:].prod(1)
    active = np.arange(len(rows))
    for step in range(1, 2000):  # sorted by left edge: neighbours that overlap by 0.95 are not far
        active = active[active + step < len(rows)]
        other = active + step
        close = (image[active] == image[other]) & (xyxy[other, 0] - xyxy[active, 0] <= 0.05 * boxes[active, 2] + 1e-6)
        active, other = active[close], other[close]
        if not len(active):
            break
        overlap = np.minimum(xyxy[active, 2:], xyxy[other, 2:]) - np.maximum(xyxy[active, :2], xyxy[other, :2])
        shared = overlap.clip(0).prod(1)
        iou = shared / (area[active] + area[other] - shared)
        same = np.abs(boxes[active] - boxes[other]).max(1) < 0.01
        alike = label[active] == label[other]
        late = np.maximum(rows[active], rows[other])  # the later entry of the file
        exact += late[same & alike].tolist()
        near += late[~same & alike & (iou > 0.95)].tolist()
        two += late[same & ~alike].tolist()
    case.found("box_repeated", split, "annotations", np.unique(np.array(exact, np.int64)))
    case.found("box_nearly_repeated", split, "annotations", np.unique(np.array(near, np.int64)))
    case.found("box_two_classes", split, "annotations", np.unique(np.array(two, np.int64)))


def _rest(case: Examination, split: Split) -> None:
    count = len(split.annotations)
    written = np.array([record.get("area") is not None for record in split.annotations], bool)
    with np.errstate(all="ignore"):
        invalid = written & ~np.isfinite(split.areas)
        box_area = split.boxes_xywh[:, 2:].prod(1)
        larger = split.areas > 1.02 * box_area + 2.0
    wrong = written & ~invalid & ~split.crowd & (larger | (split.areas <= 0)) & (box_area > 0)
    case.found("area_invalid", split, "annotations", invalid,
               lambda i: f"area {shown(split.annotations[i]['area'])}")  # fmt: skip
    case.found("area_differs", split, "annotations", wrong,
               lambda i: f"area {shown(split.annotations[i].get('area'))}")  # fmt: skip
    case.found("area_missing", split, "annotations", ~written)
    case.found("crowd", split, "annotations", split.crowd)
    if split.crowd.sum() > 0.2 * count:
        case.found("crowd_many", split, "annotations", split.crowd)
    case.found("difficult", split, "annotations", split.difficult)
    own = np.bincount(split.image_of[split.image_of >= 0], minlength=len(split.images))
    case.found("image_without_boxes", split, "images", own == 0)
    if len(own) and (own == 0).mean() > 0.5:
        case.found("image_without_boxes_many", split, "images", own == 0)
    good = split.usable & ~split.crowd & (split.category_of >= 0)
    if split.name == "val":
        good &= ~split.difficult
    if split.images and not good.any():
        name = "no_boxes" if split.name == "train" else "no_boxes_in_val"
        case.told(name, split.name, [f"{split.annotation_file}: {count} annotations, none of them usable"])
