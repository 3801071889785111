"""Ways out of the library's errors, in the words of the command line; an error names one by `remedy`."""

from __future__ import annotations

import shlex
from pathlib import Path

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {
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
    return f"{error}. {REMEDIES[remedy].format(**values)}."
