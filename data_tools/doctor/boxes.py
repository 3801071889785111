"""The boxes: numbers, places, sizes, repetitions, and whether they are written as COCO writes them."""

from __future__ import annotations

import numpy as np

from data_tools.box_writing import EDGE_PX, WRITINGS, fits, fractions_in, is_written_as
from data_tools.convert.box_edges import SMALLEST
from data_tools.convert.records import LARGEST
from data_tools.doctor import frames
from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split, shown

TINY_PX = 2.0
EXTREME_ASPECT = 25.0
_DROPPED = "drops the annotation"
_WRITING = "Boxes lie beside the objects, or outside the image: nothing can be learned."
_COCO = "COCO boxes are [left, top, width, height] in pixels: convert them."
CHECKS = (
    Check("box_malformed", ERROR, "bbox is missing or not four numbers", "The reader refuses the file.",
          "Write [left, top, width, height].", _DROPPED),
    Check("box_not_finite", ERROR, "bbox holds NaN, infinity or a number beyond all images",
          "One such target makes the loss NaN.", "Correct or remove it.", _DROPPED),
    Check("box_text", ERROR, "numbers of a bbox written as text", "The reader refuses the file.",
          "Write them as numbers.", "writes numbers"),
    Check("panoptic", ERROR, "a panoptic file", "The reader refuses the file.", "Give the file of instances.",
          "takes the boxes of its segments, those of stuff left out"),
    Check("box_from_outline", ERROR, "no bbox where there is an outline", "The reader refuses the file.",
          "Write the box around the outline.", "takes the box around the outline"),
    Check("box_negative_side", ERROR, "negative width or height", "The reader refuses the file.",
          "Corners in another order, or a width of the wrong sign? Correct it.", _DROPPED),
    Check("box_no_area", ERROR, "zero width or height", "Training leaves them out, the evaluation counts them as "
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
        boxes = [record.get("bbox") for record in split.annotations]
        text = [i for i, box in enumerate(boxes) if type(box) is list and len(box) == 4 and str in map(type, box)]
        case.found("box_text", split, "annotations", text)
        if split.is_panoptic:
            case.report("panoptic", split.name, [f"{split.annotation_file}: segments_info in place of bbox"])
        case.found("box_from_outline", split, "annotations", split.outlined)
        huge = (np.abs(np.nan_to_num(split.boxes_xywh, nan=0.0)) > LARGEST).any(1)
        case.found("box_not_finite", split, "annotations", _nan_written(split) | huge)
        writing(case, split)
        frames.place(split)
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


def writing(case: Examination, split: Split) -> None:
    """Find boxes that are written in another way, and put them right in `split.boxes_xywh`."""
    rows = np.flatnonzero(split.usable)
    if not len(rows):
        return
    for name, chosen, boxes in other_writings(split.boxes_xywh[rows], split.size_of(rows), split.image_of[rows]):
        split.boxes_xywh[rows[chosen]] = boxes
        case.found(name, split, "annotations", rows[chosen])


def other_writings(
    boxes_xywh: np.ndarray, sizes_wh: np.ndarray, image_of: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Boxes that are written otherwise than as left, top, width, height in pixels.

    A statistical test: as COCO's [left, top, width, height], boxes that are not leave their images again and again;
    read in the way that they are written, (nearly) all of them fit. Judged over the whole file, then image by image,
    since files are merged.

    Args:
        boxes_xywh: float64 `[M, 4]` as the file has them, finite.
        sizes_wh: `[M, 2]`, width and height in pixels of the image of every box.
        image_of: int64 `[M]`, from 0; boxes with the same number belong to one image.

    Returns:
        For each writing that was found: name of the check, places of its boxes int64 `[n]`, and these boxes as left,
        top, width, height in pixels `[n, 4]`.
    """
    found = []
    rows = np.arange(len(boxes_xywh))
    fractions = fractions_in(boxes_xywh, sizes_wh, image_of)
    if fractions.any():
        wh = sizes_wh[fractions]
        as_corner = boxes_xywh[fractions] * np.tile(wh, 2)
        ways = (as_corner, *(WRITINGS[name](as_corner, wh) for name in ("boxes_as_centres", "boxes_as_corners")))
        found.append(("boxes_as_fractions", rows[fractions], max(ways, key=lambda one: fits(one, wh).mean())))
        rows = rows[~fractions]
    boxes, sizes, image = boxes_xywh[rows], sizes_wh[rows], image_of[rows]
    if not len(rows):
        return found
    plain = fits(boxes, sizes)
    for name, convert in WRITINGS.items():
        other = fits(convert(boxes, sizes), sizes)
        whole = is_written_as(name, plain, other)
        chosen = np.full(len(rows), whole)
        if not whole and name == "boxes_as_corners":
            chosen = _agreed(image, other, fewest=3, share=1.0) & _agreed(image, ~plain, fewest=3, share=0.5)
        if chosen.any():
            found.append((name, rows[chosen], convert(boxes[chosen], sizes[chosen])))
            break
    return found


def _agreed(image_of: np.ndarray, flags: np.ndarray, *, fewest: int, share: float) -> np.ndarray:
    """bool `[M]`: at least `share` of the image's boxes carry the flag, and it has `fewest` of them; in a file where
    more than half of all boxes carry it, an image with fewer boxes is believed too."""
    total, flagged = np.bincount(image_of), np.bincount(image_of, flags)
    if flags.mean() > 0.5:
        fewest = 1
    return ((total >= fewest) & (flagged >= share * total) & (flagged > 0))[image_of]


def _places(case: Examination, split: Split) -> None:
    rows = np.flatnonzero(split.usable)
    boxes, sizes = split.boxes_xywh[rows], split.size_of(rows)
    left_top, side = boxes[:, :2], boxes[:, 2:]
    negative = (side < 0).any(1)
    empty = (side < SMALLEST).any(1) & ~negative
    outside = ((left_top >= sizes) | (left_top + side <= 0)).any(1) & ~negative & ~empty
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
    place = np.round(boxes, 2)
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
        same = (place[active] == place[other]).all(1)
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
        case.report(name, split.name, [f"{split.annotation_file}: {count} annotations, none of them usable"])
