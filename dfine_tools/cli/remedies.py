"""Ways out of the library's errors, in the words of the command line; an error names one by `remedy`."""

from __future__ import annotations

import shlex
from pathlib import Path

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {
    "other_out": "Choose another --out",
    "other_out_from": "Choose another --out; --weights {weights} starts from what this run has learned",
    "start_again": "Start again in another --out; weights that the run had saved can be given with --weights",
    "folder_in_use": "Wait for it, end it, or choose another --out",
    "lower_lr": (
        "Then start again in another --out with --set train.lr={lr} or --precision fp32, and with --weights {weights} "
        "if that file exists"
    ),
    "fewer_processes": "Give --nproc {gpus}, or --device cpu",
    "on_cpu": "Give --device cpu",
    "free_port": (
        "Choose a free port on a machine that all reach: MASTER_PORT, or torchrun's --master-port; on one machine "
        "--standalone finds one"
    ),
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
