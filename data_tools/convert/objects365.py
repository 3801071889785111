"""Objects365: COCO format; images lie in `patchN/` where the file says `images/v1/patchN/`, and a few are absent.

Ids and names of the categories stay as the file has them (some names carry blanks). The extraction of v1 numbers its
365 classes in another order than v2: convert by name (`--categories`) where both meet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.convert.coco import read_coco_files
from data_tools.convert.coco_layouts import split_of
from data_tools.convert.records import Source


def read_objects365(source: Path, split: str, **more: Any) -> Source:
    """`zhiyuan_objv2_train.json` and `zhiyuan_objv2_val.json`, in the folder or below, or one file.

    Args:
        source: folder or file; the name of a file says its split.
        split: of a file whose name says none.
        more: see `read_coco_files`.
    """
    if source.is_file():
        split = split_of(source, source.parent) or split
    return read_coco_files(source, split, **more)
