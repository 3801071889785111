"""In which pixels the boxes of each image were drawn: decided once for the data set, as the converter decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_tools.box_writing import fractions_in
from data_tools.convert.records import LARGEST
from data_tools.doctor.finding import Examination
from data_tools.doctor.pixels import ImageFile
from data_tools.doctor.reading import Split
from data_tools.image_frames import Edges, Evidence, Frame, Header, Size, needs_decision


def decide(case: Examination, frame: Frame | None) -> str:
    """Find annotations of another size than their image, and how their boxes get into it (`Split.placements`).

    Every box is then in the pixels of `sizes_wh` of its split, until `place` brings both into the upright image.

    Args:
        case: images were looked at.
        frame: decided by the user; None: by the evidence of all images.

    Returns:
        Why there is no decision although one is needed; "" where there is.
    """
    evidence, looked = Evidence(frame), []
    for split in case.splits:
        relative = _images_of_fractions(split)
        reach = _reach(split)
        for i, file in _good(split):
            said = _said(split, i)
            evidence.add(said, file.header, None if i in relative else reach[i], str(file.path))
            looked.append((split, i, file.header, said, i in relative))
    waiting = any(not relative and needs_decision(said, header) for _, _, header, said, relative in looked)
    doubt = evidence.doubt() if waiting and evidence.frame() is None else ""
    kinds: dict[str, dict[str, list[int]]] = {split.name: {} for split in case.splits}
    for split, i, header, said, relative in looked:
        kind = _settle(split, i, header, said, relative, evidence, bool(doubt))
        if kind:
            kinds[split.name].setdefault(kind, []).append(i)
    for split in case.splits:
        for kind, rows in kinds[split.name].items():
            case.found(kind, split, "images", rows, lambda i, split=split: _words(split, i))
    return doubt


def _settle(
    split: Split, i: int, header: Header, said: Size | None, relative: bool, evidence: Evidence, undecided: bool
) -> str:
    """Decide about one image; returns the check that has found something."""
    if undecided and not relative and needs_decision(said, header):
        return "image_frame_undecided"
    placement = evidence.placement(None if relative else said, header)
    if placement is None:
        split.placements[i] = None
    else:
        drawn = header.stored if placement.turn else header.upright
        x, y = placement.scale
        split.sizes_wh[i] = round(drawn[0] / x), round(drawn[1] / y)  # those that were said, in the order of the boxes
        if not placement.is_identity:
            split.placements[i] = placement
    if placement is not None and placement.turn:
        return "image_exif_swapped"
    if said is None or said == header.upright:
        return ""
    if header.sides_swap and said == header.stored:
        return "image_exif_swapped"
    return "image_size_swapped" if said == header.upright[::-1] else "image_size_differs"


def place(split: Split) -> None:
    """Bring boxes and sizes into the pixels of the upright images."""
    for i, placement in split.placements.items():
        if placement is None:
            continue
        for row in split.rows_of(i):
            left, top, width, height = split.boxes_xywh[row].tolist()
            edges: Edges = placement.edges((left, top, left + width, top + height))
            split.boxes_xywh[row] = edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]
            split.areas[row] *= placement.scale[0] * placement.scale[1]
        split.sizes_wh[i] = placement.header.upright


def _good(split: Split) -> Iterator[tuple[int, ImageFile]]:
    return ((i, file) for i, file in enumerate(split.files) if file is not None and not file.problem)


def _said(split: Split, i: int) -> Size | None:
    width, height = split.sizes_wh[i]
    return (round(width), round(height)) if np.isfinite(width) and np.isfinite(height) else None


def _images_of_fractions(split: Split) -> set[int]:
    rows = np.flatnonzero(split.usable)
    flags = fractions_in(split.boxes_xywh[rows], split.size_of(rows), split.image_of[rows])
    return set(split.image_of[rows[flags]].tolist())


def _reach(split: Split) -> list[Edges | None]:
    """Smallest left and top, largest right and bottom edge of the boxes of each image, in the pixels that were said."""
    boxes = np.nan_to_num(split.boxes_xywh, nan=np.inf)
    known = (split.image_of >= 0) & (split.category_of >= 0) & (np.abs(boxes) <= LARGEST).all(1)
    rows = np.flatnonzero(known)
    image, boxes = split.image_of[rows], split.boxes_xywh[rows]
    least = np.full((len(split.images), 2), np.inf)
    most = np.full((len(split.images), 2), -np.inf)
    np.minimum.at(least, image, boxes[:, :2])
    np.maximum.at(most, image, boxes[:, :2] + boxes[:, 2:])
    edges = np.concatenate([least, most], 1).tolist()
    return [(left, top, right, bottom) if right > -np.inf else None for left, top, right, bottom in edges]


def _words(split: Split, i: int) -> str:
    file, record = split.files[i], split.images[i]
    true = file.upright_wh
    placement = split.placements.get(i)
    words = f"the file says {record.get('width')} x {record.get('height')}, the image is {true[0]} x {true[1]}"
    if file.orientation > 1:
        words += f" upright, {file.stored_wh[0]} x {file.stored_wh[1]} as stored (EXIF orientation {file.orientation})"
    if i in split.placements and placement is None:
        return f"{words}: not the image that was annotated"
    if placement is not None and placement.scale != (1.0, 1.0):
        words += f": resized by {placement.scale[0]:.4g} x {placement.scale[1]:.4g}"
    return words + (": its boxes were drawn on the image as stored" if placement is not None and placement.turn else "")
