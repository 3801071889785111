"""Objects365: COCO format; images lie in `patchN/` where the file says `images/v1/patchN/`, and a few are absent.

Ids and names of the categories stay as the file has them (some names carry blanks). The extraction of v1 numbers its
365 classes in another order than v2: convert by name (`--categories`) where both meet.
"""

from __future__ import annotations

from dataclasses import replace

from data_tools.convert.coco import read_coco_files
from data_tools.convert.coco_layouts import split_of
from data_tools.convert.records import Source
from data_tools.convert.source_folder import SourceFolder


def read_objects365(source: SourceFolder, *, progress: bool = False) -> Source:
    """`zhiyuan_objv2_train.json` and `zhiyuan_objv2_val.json`, in the folder or below; or one of them."""
    if source.path.is_file():
        source = replace(source, split=split_of(source.path, source.root) or source.split)
    return read_coco_files(source, progress=progress)
