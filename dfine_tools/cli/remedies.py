"""Ways out of the library's errors, in the words of the command line; an error names one by `remedy`."""

from __future__ import annotations

import shlex
from pathlib import Path

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {
    "boxes_in_pixels": "`dfine doctor DATA --fix OUT` writes a copy with the boxes in pixels",
    "find_images_by_name": "`dfine doctor DATA --fix OUT` takes the image of that name there",
    "leave_out_images": "`dfine doctor DATA --fix OUT` makes a copy without them, and lists what else is wrong",
    "merge_classes": "Where both are one class, `dfine doctor DATA --fix OUT` merges them",
    "name_recipe": (
        "Name it by --recipe, as l_coco; for a command without --recipe write a copy that says it: "
        "dfine weights {source} --to NAMED.safetensors --recipe l_coco"
    ),
}


def with_remedy(error: DfineError) -> str:
    """The error's message, followed by the way out that it names."""
    remedy = getattr(error, "remedy", None)
    if not remedy:
        return str(error)
    if remedy not in REMEDIES:
        from data_tools.layouts import with_hint  # looks into the folder, and imports numpy

        return with_hint(error)
    values = {name: shlex.quote(str(v)) if isinstance(v, Path) else v for name, v in error.values.items()}
    return f"{str(error).removesuffix('.')}. {REMEDIES[remedy].format(**values)}."
