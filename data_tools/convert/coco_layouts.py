"""Which JSON files of a folder may be COCO files, and of which split: every layout that exporters write, by one rule.

`annotations/instances_train2017.json`, `instances_Train.json` and `instances_default.json` (CVAT), `train.json`,
`annotations/train.json`, `train/_annotations.coco.json` (Roboflow), `train/labels.json` (FiftyOne), `result.json`
(Label Studio), `annotations.json`: the split is what the words of the file's name, or its folders, say.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from data_tools.convert.splits import known_split, split_name, split_of_file

_PATCH = re.compile(r"/(patch\d+/[^/]+)$")
JSON = (".json", ".json.gz")
# Beginnings of names: whether the file gives way where there is another of its split.
_BEGINNINGS = {"instances_": False, "zhiyuan_objv2_": False, "person_keypoints_": True, "panoptic_": True}
# Files of the COCO data set without boxes of objects, known by name: not read where others are.
_OTHER_TASKS = {
    "captions_": "captions, no boxes", "stuff_": "segmentation of stuff, no objects",
    "image_info_": "a list of images without annotations",
}  # fmt: skip


def stem_of(file: PurePath) -> str:
    """File name without the endings of JSON and of Objects365's preparation."""
    stem = file.name
    for ending in (".gz", ".json", ".coco", "_resized"):
        stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
    return stem[4:] if stem.lower().startswith("new_") else stem


def other_task(file: PurePath) -> str | None:
    """What a file is whose name says that it holds no boxes of objects."""
    stem = stem_of(file).lower()
    return next((what for start, what in _OTHER_TASKS.items() if stem.startswith(start)), None)


def gives_way(file: PurePath) -> bool:
    """Whether the file is of another task with boxes (key points, panoptic), which instances go before."""
    stem = stem_of(file).lower()
    return any(stem.startswith(start) for start, other in _BEGINNINGS.items() if other)


def spare_names(file_name: str) -> tuple[str, ...]:
    """Of Objects365's `images/v1/patch8/a.jpg`, the place to which its archives unpack: `patch8/a.jpg`."""
    found = _PATCH.search(file_name) if "/patch" in file_name else None
    return (found[1],) if found else ()


def split_of(file: Path, root: Path) -> str | None:
    """Split that a file's name or its folders below `root` say; None where they say none.

    Raises:
        DataError: its name gives a split that cannot be that of a folder.
    """
    below, stem = file.relative_to(root), stem_of(file)
    start = next((start for start in _BEGINNINGS if stem.lower().startswith(start)), "")
    word = stem[len(start) :]
    if start and word.lower() == "default":  # CVAT's word for "no subset"
        return None
    if start and (known := known_split(word)) is not None:
        return known
    found = split_of_file(below.with_name(word))
    return split_name(word) if found is None and start else found
