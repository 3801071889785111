"""Ways out of the library's errors and warnings, in the words of the command line, by the key that names one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {
    "boxes_in_pixels": "`dfine doctor DATA --fix OUT` writes a copy with the boxes in pixels",
    "find_images_by_name": "`dfine doctor DATA --fix OUT` takes the image of that name there",
    "leave_out_images": "`dfine doctor DATA --fix OUT` makes a copy without them, and lists what else is wrong",
    "merge_classes": "Where both are one class, `dfine doctor DATA --fix OUT` merges them",
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
    "unknown_class": (
        "Where it is one of these under another name, say so, as --row {class_name}={its}; else rename the categories "
        "of the folder, or fine-tune these weights on it"
    ),
    "fixed_input_shape": "Leave --image-size out, or export the weights for that size, or with --dynamic-shapes",
    "int8_data": "Name the folder by --data",
    "exported_file": "Exported files, .onnx and .xml, are for `dfine predict` and `dfine bench`",
    "name_row_of_each_class": (
        "Name the row of every class, counted from 0, as --row {class_name}=ROW. Or write names into a copy: dfine "
        "weights {path} --to NAMED.safetensors --names NAMES.txt, one name on each line in the order of the rows"
    ),
    "name_rows": (
        "Write names into a copy: dfine weights {path} --to NAMED.safetensors --names NAMES.txt (and --recipe NAME "
        "where the file does not say its model either), one name on each line in the order of the rows, and an empty "
        "line for a row that stands for no class, as row 0 does where a training took ids from 1 as labels"
    ),
    "uniform_bins": (
        "Set model.uniform_bins={value}, or name no recipe where the file says its model, or start from fresh weights"
    ),
    "name_recipe": (
        "Name it by --recipe, as l_coco; for a command without --recipe write a copy that says it: "
        "dfine weights {source} --to NAMED.safetensors --recipe l_coco"
    ),
}


def with_remedy(error: DfineError) -> str:
    """The error's message, followed by the way out that it names."""
    if error.remedy is not None and error.remedy not in REMEDIES:
        from data_tools.layouts import with_hint  # looks into the folder, and imports numpy

        return with_hint(error)
    return _worded(str(error), error.remedy, error.values)


class RemedyFormatter(logging.Formatter):
    """Log messages, each followed by the way out that the library names (`extra={"remedy": …, "values": …}`)."""

    def format(self, record: logging.LogRecord) -> str:
        return _worded(super().format(record), getattr(record, "remedy", None), getattr(record, "values", {}))


def _worded(message: str, remedy: str | None, values: Mapping[str, object]) -> str:
    if remedy is None:
        return message
    quoted = {name: shlex.quote(str(value)) if isinstance(value, Path) else value for name, value in values.items()}
    return f"{message.removesuffix('.')}. {REMEDIES[remedy].format(**quoted)}."
