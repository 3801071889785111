"""Objects365: COCO format; images lie in `patchN/` where the file says `images/v1/patchN/`, and a few are absent.

Ids and names of the categories stay as the file has them (some names carry blanks). The extraction of v1 numbers its
365 classes in another order than v2: convert by name (`--categories`) where both meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from data_tools.convert.coco import read_coco_files
from data_tools.convert.coco_layouts import split_of
from data_tools.convert.records import Source
from dfine_lib.data.ledger import Ledger

_PATCH = re.compile(r"/(patch\d+/[^/]+)$")


def read_objects365(
    source: Path, split: str, *, follow_links: bool = False, progress: bool = False, ledger: Ledger,
    changed: Callable[[str, str], None], remark: Callable[[str], None],
) -> Source:  # fmt: skip
    """`zhiyuan_objv2_train.json` and `zhiyuan_objv2_val.json`, in the folder or below, or one file."""
    if source.is_file():
        split = split_of(source, source.parent) or split
    return read_coco_files(source, split, follow_links=follow_links, progress=progress, ledger=ledger, changed=changed,
                           remark=remark, spare_names=_in_patch)  # fmt: skip


def _in_patch(name: str) -> tuple[str, ...]:
    """`images/v1/patch8/a.jpg` → `patch8/a.jpg`, as the archives unpack."""
    found = _PATCH.search(name)
    return (found[1],) if found else ()
