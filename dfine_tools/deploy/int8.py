"""8-bit convolutions: ranges measured on images, written into an ONNX file as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dfine_lib.errors import DfineError


def quantize_int8(file: Path, out: Path, images: Iterable[Tensor], symmetric: bool = False) -> Path:
    """Make the convolutions of an ONNX file 8-bit; all else, attention and boxes among it, stays float32.

    Weights have a scale for each channel; the range of an activation is what `images` gave it.

    Args:
        file: ONNX, fp32.
        out: ONNX to write.
        images: uint8 `[3, H, W]` each, of the file's input size; a few dozen like those that are to come.
        symmetric: activations in -127..127 and biases in float32, as TensorRT wants them; otherwise 0..255, finer where
            they are positive, and biases in 32 bits.

    Raises:
        ValueError: no image.
        ImportError: onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise ImportError('8-bit files need onnxruntime: pip install -e ".[deploy]"') from error

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.count, self.images = 0, iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            if image is None:
                return None
            self.count += 1
            pixels = image[None].float().div(255).numpy()
            values = {"images": pixels, "orig_target_sizes": np.array([[image.shape[2], image.shape[1]]])}
            return {name: values[name] for name in takes}

    takes = [value.name for value in onnx.load(file, load_external_data=False).graph.input]  # sizes, or none if raw
    reader, kinds = Reader(), quantization.QuantType
    try:
        with errors_only(None):  # the quantizer gives advice through the root logger
            quantization.quantize_static(
                file, out, reader, quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=["Conv"], weight_type=kinds.QInt8,
                reduce_range=not symmetric,  # 7 bits: sums of two products overflow on processors without VNNI
                activation_type=kinds.QInt8 if symmetric else kinds.QUInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": symmetric, "QuantizeBias": not symmetric, "CalibMovingAverage": True,
                },
            )  # fmt: skip
    except ValueError as error:
        if reader.count:
            raise
        raise DfineError("8 bits need images to measure ranges on") from error
    model = onnx.load(out)
    _guard_norms(model)
    onnx.save(model, out)
    return out


@contextlib.contextmanager
def errors_only(*names: str | None) -> Iterator[None]:
    """Let these loggers (None: the root) give errors alone: libraries tell their steps through them."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _guard_norms(model: Any) -> None:
    """Put a maximum that changes nothing between a LayerNorm and a Reshape that reads it.

    In a file with 8 bits OpenVINO (2026.4) takes the norm's own factors for the scales of an 8-bit map, moves them
    behind the Reshape in a shape that does not fit, and cannot compile the file. It moves none behind a maximum.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    norms = {node.output[0] for node in graph.node if node.op_type == "LayerNormalization"}
    nodes, guarded = [], set()
    for node in graph.node:
        name = node.input[0] if node.op_type == "Reshape" else ""
        if name in norms:
            if name not in guarded:
                nodes.append(helper.make_node("Max", [name, "least"], [f"{name}_guarded"], name=f"{name}_guard"))
                guarded.add(name)
            node.input[0] = f"{name}_guarded"
        nodes.append(node)
    if guarded:
        graph.initializer.append(numpy_helper.from_array(np.finfo(np.float32).min, "least"))
        del graph.node[:]
        graph.node.extend(nodes)
