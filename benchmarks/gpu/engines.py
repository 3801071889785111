"""TensorRT engines: built, compared with the weights, timed. The dry mode runs the ONNX files in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.gpu.check import Row, Setting, Skipped
from benchmarks.gpu.numerics import WEIGHTS
from benchmarks.gpu.training import case, model_of
from data_tools import shapes
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import read_weights
from dfine_tools.deploy.backends import Backend, BackendError, open_backend
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.tensorrt_engine import build_engine, tensorrt_library
from dfine_tools.deploy.timing import repeated
from dfine_tools.deploy.validation import ValidationReport, validate_export

VAL_IMAGES = 200  # of the embedded set


def engine_pico(setting: Setting) -> Iterator[Row]:
    """The teaching checkpoint: AP on images of the embedded set `shapes`, beside that of torch."""
    _needs_tensorrt(setting)
    val, names = 4 if setting.dry else VAL_IMAGES, read_weights(WEIGHTS).category_names
    data = shapes.make_shapes(setting.folder / "shapes", train=1, val=val, progress=False)
    model, number_format = DFINE.from_pretrained(WEIGHTS), "fp32" if setting.dry else "fp16"
    about = f"pico, trained, {shapes.REFERENCE_SIZE} px, {number_format}"
    file, row = _built(model, f"pico_{number_format}", shapes.REFERENCE_SIZE, about, setting, names)
    yield row
    report = validate_export(WEIGHTS, file, data=data, backends=None if file.suffix == ".engine" else ["onnxruntime"])
    yield _validated(report, about)
    numbers = next((each.numbers for each in report.checks if each.name.endswith(": AP")), None)
    if numbers:
        exported, torch_ap = numbers["exported"]["ap"], numbers["torch"]["ap"]
        yield Row(
            what="AP that the engine loses", case=f"{about}, {numbers['images']} images", value=torch_ap - exported,
            at_most=numbers["limit"], text=f"{exported:.4f}, torch {torch_ap:.4f}",
        )  # fmt: skip
    yield _latency(file, model, shapes.REFERENCE_SIZE, about, setting)


def engine_n(setting: Setting) -> Iterator[Row]:
    """Size n: see `_engines`."""
    return _engines("n", setting)


def engine_l(setting: Setting) -> Iterator[Row]:
    """Size l: see `_engines`."""
    return _engines("l", setting)


def _engines(size: str, setting: Setting) -> Iterator[Row]:
    """In fp32 the detections of the weights, which are not trained; in fp16 timed, beside torch on the same device."""
    if setting.dry:
        raise Skipped("in the dry mode as engine_pico")
    _needs_tensorrt(setting)
    made = case(size, 1, setting)
    model = model_of(made).eval()
    for number_format in ("fp32", "fp16"):
        about = f"{size}, {made.side} px, {number_format}"
        file, row = _built(model, f"{size}_{number_format}", made.side, about, setting)
        yield row
        if number_format == "fp32":
            yield _validated(validate_export(model, file), about)
        yield _latency(file, model, made.side, about, setting)


def _needs_tensorrt(setting: Setting) -> None:
    try:
        tensorrt_library()
    except BackendError as error:
        if not setting.dry:
            raise Skipped(str(error)) from error


def _built(
    model: DFINE, name: str, side: int, about: str, setting: Setting, names: tuple[str, ...] = ()
) -> tuple[Path, Row]:
    """The engine of a model; in the dry mode its ONNX file."""
    start = time.perf_counter()
    number_format = name.rpartition("_")[2]
    file = export_onnx(model, setting.folder / f"{name}.onnx", side, names, number_format=number_format)
    text = ""
    if not setting.dry:
        built = build_engine(file, file.with_suffix(".engine"))
        file, text = built.file, f"by {built.library}"
    return file, Row(what="engine built", case=about, value=time.perf_counter() - start, unit="s", text=text)


def _validated(report: ValidationReport, about: str) -> Row:
    failed = [check for check in report.checks if not check.passed]
    text = "; ".join(f"{check.name}: {check.detail}" for check in failed[:2]) or f"of {len(report.checks)}"
    return Row(
        what="failed checks of the export validation", case=about, value=len(failed), at_most=0, text=text,
        details=report.to_dict(),
    )  # fmt: skip


def _latency(file: Path, model: DFINE, side: int, about: str, setting: Setting) -> Row:
    """Milliseconds of a call with one image, from host to host."""
    engine, torch_backend = (
        open_backend(each, device="cpu" if setting.dry else "cuda", image_size=side) for each in (file, model)
    )
    ours, torch_ms = _milliseconds(engine, setting), _milliseconds(torch_backend, setting)
    return Row(
        what="latency, batch 1", case=f"{about}, {engine.name}", value=ours, unit="ms",
        text=f"torch in float32 {torch_ms:.2f} ms",
    )  # fmt: skip


def _milliseconds(backend: Backend, setting: Setting) -> float:
    pixels = np.random.default_rng(0).random((1, 3, *backend.image_hw), np.float32)
    sizes = np.array([backend.image_hw[::-1]])
    return repeated(lambda: backend.answer(pixels, sizes), 0.1 if setting.dry else 2.0).median
