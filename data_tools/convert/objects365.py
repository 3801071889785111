"""Objects365: COCO's form; pictures lie in `patchN/` where the file says `images/v1/patchN/`, and a few are absent.

Ids and names of the categories stay as the file has them (some names carry blanks). The extraction of v1 numbers its
365 classes in another order than v2: convert by name (`--categories`) where both meet.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.convert.coco import read_coco_files
from data_tools.convert.records import Source
from dfine_lib.data.ledger import Ledger


def read_objects365(
    source: Path, split: str, *, follow_links: bool = False, progress: bool = False, ledger: Ledger
) -> Source:
    """`zhiyuan_objv2_train.json` and `zhiyuan_objv2_val.json`, in the folder or below, or one file."""
    word = source.stem.lower()
    if source.is_file():
        split = next((name for name in ("train", "val", "test") if word.endswith(name)), split)
    return read_coco_files(source, split, follow_links=follow_links, progress=progress, ledger=ledger)
