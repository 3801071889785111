"""From a weights file to an exported file that is validated: what `dfine export` does."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dfine_lib.config import DataConfig, parse_hw
from dfine_lib.data import CocoIndex, find_split, read_coco
from dfine_lib.errors import DfineError
from dfine_lib.model.dfine import open_model
from dfine_lib.model.weights import Weights, WeightsError
from dfine_tools.deploy.backends import BackendError
from dfine_tools.deploy.export import export_onnx, export_openvino
from dfine_tools.deploy.images import read_image
from dfine_tools.deploy.predict import network_input
from dfine_tools.deploy.tensorrt_engine import build_engine, tensorrt_library
from dfine_tools.deploy.validation import Check, ValidationReport, validate_export
from dfine_tools.weights.sources import read

CALIBRATION = 100  # images that the ranges of 8-bit files are measured on
FORMS = {"onnx": ".onnx", "openvino": ".xml", "tensorrt": ".engine"}


def export_file(
    weights: str | Path,
    out: str | Path,
    *,
    to: str,
    image_size: int | tuple[int, int] | None = None,
    data: str | Path | None = None,
    number_format: str = "fp32",
    dynamic_shapes: bool = False,
    raw: bool = False,
) -> ValidationReport:
    """Export, then validate the file, which stays whatever comes out; the report is written next to it.

    Args:
        weights: `.safetensors`, `.pth`, a folder of Hugging Face's, or a published name.
        out: file to write; OpenVINO writes a `.bin` beside its `.xml`, TensorRT a `.json` beside its `.engine`.
        to: `onnx`, `openvino` or `tensorrt`.
        image_size: side, or (height, width); None: as the weights say, else 640.
        data: folder with a val split, to compare the average precision too; of its training images the ranges of
            8-bit files are measured.
        number_format: `fp32`, `fp16` or `int8`, which needs `data`.
        dynamic_shapes: take images of any sides that are multiples of 32.
        raw: without post-processing.

    Raises:
        ValueError: an unknown format or number format, an ending that does not belong to it, a size that the model
            cannot take, or `int8` without `data`.
        WeightsError: weights that cannot be used.
        BackendError: what exports is not installed.
    """
    out = Path(out)
    if to not in FORMS:
        raise DfineError(f"format {to!r} is none of {', '.join(FORMS)}")
    if out.suffix != FORMS[to]:
        raise DfineError(f"{out}: a file of the format {to} ends in {FORMS[to]}")
    if number_format == "int8" and data is None:
        raise DfineError("int8 needs a data folder: ranges of 8 bits are measured on its training images", "int8_data")
    model, stored = open_model(read(weights))
    if data is not None:
        _check_classes(stored, read_coco(*find_split(data, "val"), training=False))
    own = stored.data or DataConfig()
    image_hw = parse_hw(image_size) if image_size is not None else own.image_hw
    images = calibration_images(data, image_hw) if number_format == "int8" else ()
    options = dict(
        category_ids=stored.category_ids,
        number_format=number_format,
        dynamic_shapes=dynamic_shapes,
        raw=raw,
        calibration=images,
    )
    before: list[Check] = []
    try:
        if to == "tensorrt":
            tensorrt_library()  # said before the work, if it is not there
            with tempfile.TemporaryDirectory(prefix="dfine-engine") as folder:
                file = Path(folder) / "model.onnx"
                symmetric = number_format == "int8"
                export_onnx(model, file, image_hw, stored.category_names, symmetric=symmetric, **options)
                before = _engine(weights, file, out, data)
        else:
            write = export_onnx if to == "onnx" else export_openvino
            write(model, out, image_hw, stored.category_names, **options)
    except ImportError as error:
        raise BackendError(str(error)) from error
    return validate_export(weights, out, data=data, image_size=image_hw, before=before)


def _check_classes(stored: Weights, val: CocoIndex) -> None:
    """Refuse to compare AP where nothing says which class row is which class of the folder."""
    names = stored.category_names
    what = f"{stored.path}: {stored.num_classes} class rows"
    if not names and stored.num_classes != val.num_classes:
        raise WeightsError(
            f"{what} without names, for the {val.num_classes} classes of {val.annotation_file}",
            "name_rows", path=stored.path,
        )  # fmt: skip
    if names and not set(names) & set(val.category_names):
        raise WeightsError(
            f"{what}, of which none has the name of a class of {val.annotation_file}; they are {', '.join(names[:8])}"
            f"{' and more' if len(names) > 8 else ''}. Give the folder that these weights are for, or none."
        )


def _engine(weights: str | Path, file: Path, out: Path, data: str | Path | None) -> list[Check]:
    """Build an engine from an ONNX file: the checks of that file, and what was built."""
    report = validate_export(weights, file, data=data, backends=["onnxruntime"], report=file.with_suffix(".json"))
    checks = [replace(check, name=f"its ONNX file, {check.name}") for check in report.checks]
    built = build_engine(file, out, timing_cache=out.with_suffix(".timing"))
    norms = ", ".join(f"{count} in {kind}" for kind, count in built.layers.get("NORMALIZATION", {}).items())
    words = f"by {built.library}, for 1 to {built.about['largest_batch']} images; norms: {norms}"
    return [*checks, Check("tensorrt: built", True, words, built.layers)]


def calibration_images(data: str | Path, image_hw: tuple[int, int], most: int = CALIBRATION) -> Iterator[Tensor]:
    """Training images of a folder, evenly spread, as the network is shown them: uint8 `[3, H, W]`."""
    annotation_file, folder = find_split(data, "train")
    index = read_coco(annotation_file, folder, training=False)
    for i in range(0, len(index), max(1, math.ceil(len(index) / most))):
        yield network_input(read_image(index.file_name(i)), image_hw)
