"""From COCO JSON to an index of numpy arrays, checked before anything is trained on it.

An error is a `DataError` that names file, image id, annotation id and key. Worker processes share the memory of numpy
arrays; a list of dicts they would copy as soon as its reference counts are touched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dfine_lib.data.coco_checks import check_lists, raise_first
from dfine_lib.data.coco_columns import CocoColumns, indices_in, read_json
from dfine_lib.errors import DataError

logger = logging.getLogger(__name__)


def find_split(data: Path | str, split: Literal["train", "val", "test"]) -> tuple[Path, Path]:
    """Annotation file and image folder of one split of a data folder.

    Two layouts are known: `annotations/instances_{split}.json` with `images/{split}/`, and that of COCO 2017,
    `annotations/instances_{split}2017.json` with `{split}2017/`. Any other is named in a small JSON file in place of
    the folder, paths relative to it: `{"train": {"annotations": "a.json", "images": "images"}, "val": {...}}`.

    Raises:
        DataError: neither layout is there, the message lists both and what the folder holds; or the JSON file does
            not name both paths of the split, or one of them is not there.
    """
    data = Path(data)
    if data.suffix == ".json":
        return _named_split(data, split)
    layouts = [
        (data / "annotations" / f"instances_{split}.json", data / "images" / split),
        (data / "annotations" / f"instances_{split}2017.json", data / f"{split}2017"),
    ]
    for annotation_file, image_folder in layouts:
        if annotation_file.is_file() and image_folder.is_dir():
            return annotation_file, image_folder
    expected = " or ".join(f"{file.relative_to(data)} with {folder.relative_to(data)}/" for file, folder in layouts)
    paths = [*sorted(data.glob("*")), *sorted(data.glob("*/*.json"))]
    names = [f"{path.relative_to(data)}{'/' * path.is_dir()}" for path in paths]
    found = f"found {', '.join(names[:12])}{', …' * (len(names) > 12)}" if names else "but the folder is empty"
    found = found if data.is_dir() else "but there is no such folder"
    raise DataError(
        f"{data}: no {split} split; expected {expected}, {found}", "another_layout", folder=data, split=split
    )


def _named_split(file: Path, split: str) -> tuple[Path, Path]:
    content = read_json(file)
    if "annotations" in content and "images" in content:
        raise DataError(f"{file}: an annotation file itself, of one split", "one_annotation_file", file=file)
    named = content.get(split)
    if not isinstance(named, dict) or not all(isinstance(named.get(key), str) for key in ("annotations", "images")):
        raise DataError(f"{file}: {split!r} should be an object with 'annotations' and 'images', both paths as text.")
    annotation_file, image_folder = (file.parent / named[key] for key in ("annotations", "images"))
    for key, found in (("annotations", annotation_file.exists()), ("images", image_folder.is_dir())):
        if not found:
            raise DataError(f"{file}: {split!r}, {key!r}: there is no {file.parent / named[key]}.")
    return annotation_file, image_folder


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """One annotation file, `I` images and `M` boxes, grouped by image in the file's order.

    `labels` are 0..C-1, the place of the category in `category_ids`; `category_ids[label]` puts the file's id back.
    """

    annotation_file: Path
    image_folder: Path
    image_ids: np.ndarray  # int64 [I]
    sizes_wh: np.ndarray  # int32 [I, 2] pixels, as the JSON says
    name_bytes: np.ndarray  # uint8, every file name in UTF-8, end to end
    name_offsets: np.ndarray  # int64 [I + 1]
    box_offsets: np.ndarray  # int64 [I + 1]; boxes of image i are box_offsets[i] : box_offsets[i + 1]
    boxes_xyxy: np.ndarray  # float32 [M, 4] pixels
    labels: np.ndarray  # int64 [M]
    iscrowd: np.ndarray  # bool [M], also what is marked `ignore`; all False in a training index
    category_ids: tuple[int, ...]  # [C], rising
    category_names: tuple[str, ...]  # [C]
    # Counts of boxes: crowd (also what is marked `ignore`) and zero_area, both left out; clamped, kept.
    dropped: dict[str, int] = field(default_factory=dict)
    columns: CocoColumns | None = None  # what the evaluation reads, without JSON records; None in a training index

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """C, the number of categories."""
        return len(self.category_ids)

    def file_name(self, i: int) -> Path:
        """Full path of image `i`."""
        start, end = self.name_offsets[i], self.name_offsets[i + 1]
        return self.image_folder / self.name_bytes[start:end].tobytes().decode()

    def targets(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels int64 `[G]` and boxes_xyxy float32 `[G, 4]` in pixels of image `i`; views, not copies."""
        own = slice(self.box_offsets[i], self.box_offsets[i + 1])
        return self.labels[own], self.boxes_xyxy[own]


def read_coco(
    annotation_file: Path | str,
    image_folder: Path | str,
    *,
    training: bool = True,
    category_ids: Sequence[int] | None = None,
    category_names: Sequence[str] | None = None,
) -> CocoIndex:
    """Read and check one COCO annotation file; no image is opened (see `check_images`).

    Ids may be sparse and in any order, but they are integers: an id written as text is refused. `area`, `iscrowd` and
    `info` may be missing.

    Args:
        annotation_file: COCO instances JSON.
        image_folder: folder that `file_name` is relative to.
        training: crowd and zero-area boxes, and those marked `ignore`, are left out and boxes clamped to the image
            (counted in `dropped`). Boxes marked `difficult` are of real objects: they are trained on, which is logged.
            Otherwise every box stays as the file has it, and `columns` are there for the evaluation.
        category_ids: those of the train split, so that labels agree; None takes the file's own.
        category_names: their names, for ids that this file does not list.

    Raises:
        DataError: the file is missing, no JSON, or one of `coco_checks.CHECKS` fails; no images; in training no boxes.
    """
    file, folder = Path(annotation_file), Path(image_folder)
    columns = CocoColumns(file, read_json(file), category_ids)
    check_lists(columns)
    if not columns.images:
        raise DataError(f"{file}: no images; 'images' is an empty list. Is this the right annotation file?")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such image folder, needed by {file}.")
    raise_first(columns, training)
    own = columns.class_keys is columns.category_keys
    ids = tuple(sorted(columns.class_keys) if own else columns.class_keys)  # labels go by rising id
    if not ids:
        raise DataError(f"{file}: no categories; 'categories' is an empty list. List id and name of every class.")
    listed = {key: record["name"] for key, record in zip(columns.category_keys, columns.categories, strict=True)}
    names = tuple(listed.get(i, name) for i, name in zip(ids, category_names or map(str, ids), strict=True))
    labels = indices_in(ids, columns.class_keys)[columns.category_of]
    names_utf8 = [name.encode() for name in columns.file_names]
    boxes_xyxy = columns.boxes_xywh.copy()
    boxes_xyxy[:, 2:] += boxes_xyxy[:, :2]
    keep, dropped = np.ones(len(labels), dtype=bool), {"crowd": 0, "zero_area": 0, "clamped": 0}
    if training:
        boxes_xyxy, keep, dropped = _for_training(columns, boxes_xyxy)
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(columns.image_of[kept], kind="stable")]
    per_image = np.bincount(columns.image_of[kept], minlength=len(columns.images))
    return CocoIndex(
        annotation_file=file,
        image_folder=folder,
        image_ids=np.array(columns.image_keys, np.int64),
        sizes_wh=columns.sizes_wh.astype(np.int32),
        name_bytes=np.frombuffer(b"".join(names_utf8), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names_utf8)], dtype=np.int64),
        box_offsets=np.concatenate([[0], per_image.cumsum()]).astype(np.int64),
        boxes_xyxy=boxes_xyxy[kept].astype(np.float32),
        labels=labels[kept],
        iscrowd=columns.crowd[kept],
        category_ids=ids,
        category_names=names,
        dropped=dropped,
        columns=None if training else columns.without_records(),
    )


def _for_training(columns: CocoColumns, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Boxes clamped to their images, which of them are kept, and how many are dropped or clamped."""
    file, crowd = columns.annotation_file, columns.crowd
    clamped = boxes_xyxy.clip(0, np.tile(columns.sizes_wh[columns.image_of], 2)).astype(np.float32)
    has_area = (clamped[:, 2:] > clamped[:, :2]).all(1)
    keep = ~crowd & has_area
    # A hundredth of a pixel: the sum x + w of rounded decimals passes the edge by less than that.
    moved = keep & (np.abs(clamped - boxes_xyxy) > 0.01).any(1)
    dropped = {"crowd": int(crowd.sum()), "zero_area": int((~has_area & ~crowd).sum()), "clamped": int(moved.sum())}
    if not keep.any():
        raise DataError(
            f"{file}: no boxes at all to train on ({len(keep)} annotations, of them {dropped['crowd']} crowd and "
            f"{dropped['zero_area']} of zero width or height). Is this the right annotation file?"
        )
    if any(dropped.values()):
        logger.info("%s: %s", file, ", ".join(f"{count} boxes {what}" for what, count in dropped.items() if count))
    if difficult := int(columns.difficult.sum()):
        logger.info("%s: %d boxes marked difficult are trained on; an evaluation ignores them", file, difficult)
    return clamped, keep, dropped
