"""ONNX, and OpenVINO from it: one file that any runtime can run, boxes in pixels included."""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfine_lib.config import ModelConfig
from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.backends.exported import INPUTS, OUTPUTS, RAW_OUTPUTS
from dfine_tools.deploy.backends.openvino_runtime import RT_INFO
from dfine_tools.deploy.graph import GraphModel, RawDetector, graph_form
from dfine_tools.deploy.graph.padding import join_padding
from dfine_tools.deploy.half import half_form
from dfine_tools.deploy.int8 import errors_only, quantize_int8

OPSET = 18  # LayerNorm is one node from 17 on
NUMBER_FORMATS = ("fp32", "fp16", "int8")
_LARGEST_SIDE = 4096


class Detector(nn.Module):
    """Model and post-processing in one, with the names that the authors' ONNX files have."""

    def __init__(self, model: GraphModel, top_k: int = 300) -> None:
        super().__init__()
        self.model, self.top_k = model, top_k

    def forward(self, images: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: RGB float `[B, 3, H, W]` in 0..1.
            orig_target_sizes: int64 `[B, 2]`, width and height of the original images in pixels.

        Returns:
            Labels int64 `[B, K]`, boxes xyxy in pixels `[B, K, 4]`, scores `[B, K]`; scores fall.
        """
        logits, boxes = self.model(images)
        num_queries, num_classes = self.model.num_queries, logits.shape[1]
        logits, boxes = logits.reshape(-1, num_queries * num_classes), boxes.reshape(-1, num_queries, 4)
        best, index = logits.topk(min(self.top_k, num_queries * num_classes))  # [B, K]
        query = (index // num_classes)[..., None].expand(-1, -1, 4)
        sizes = orig_target_sizes.to(boxes.dtype)
        return index % num_classes, boxes.gather(1, query) * torch.cat([sizes, sizes], 1)[:, None], best.sigmoid()


def export_onnx(
    model: DFINE,
    path: str | Path,
    image_size: int | tuple[int, int],
    class_names: Sequence[str] = (),
    top_k: int = 300,
    category_ids: Sequence[int] = (),
    *,
    number_format: str = "fp32",
    dynamic_shapes: bool = False,
    raw: bool = False,
    calibration: Iterable[Tensor] = (),
    symmetric: bool = False,
) -> Path:
    """Write the fused model as ONNX, for batches of any size.

    Inputs and outputs are those of `Detector`, float32 whatever the number format. The file's metadata says how images
    are to be prepared.

    Args:
        model: any D-FINE, on any device; left as it is.
        path: file to write; a file there is replaced, once the new one is whole.
        image_size: side, or (height, width), multiples of 32.
        class_names: name of each class, kept in the metadata.
        top_k: most detections an image.
        category_ids: the data set's id of each class, kept in the metadata.
        number_format: `fp32`; `fp16`, as `half_form` has it; `int8`, as `quantize_int8` has it.
        dynamic_shapes: take images of any height and width, multiples of 32 that give enough tokens for all queries;
            anchors and positions are computed in the file then.
        raw: without post-processing, with the outputs of `RawDetector`.
        calibration: for `int8`, images uint8 `[3, H, W]` of `image_size`.
        symmetric: for `int8`, the symmetric ranges that TensorRT wants.

    Returns:
        The file.

    Raises:
        ValueError: sides that are no multiples of 32, an unknown number format, or 8 bits without images.
        ImportError: onnx, onnxscript or onnxslim is not installed (`pip install -e ".[deploy]"`).
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
        import onnxslim
    except ImportError as error:
        raise ImportError(f'exporting needs {error.name}: pip install -e ".[deploy]"') from error
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    least = least_side(model.config) if dynamic_shapes else 32
    if height % 32 or width % 32 or min(height, width) < least:
        raise DfineError(f"image_size must be multiples of 32, at least {least}, got {image_size}")
    if number_format not in NUMBER_FORMATS:
        raise DfineError(f"number format {number_format!r} is none of {', '.join(NUMBER_FORMATS)}")
    # Folded and traced on the CPU, wherever the model is: the same file from every device.
    graph = graph_form(copy.deepcopy(model).cpu(), None if dynamic_shapes else (height, width))
    graph = half_form(graph) if number_format == "fp16" else graph
    detector = RawDetector(graph).eval() if raw else Detector(graph, top_k).eval()
    content = onnxslim.slim(join_padding(_traced(detector, (height, width), least if dynamic_shapes else None)))
    about = {
        "task": "detect",
        "image_size": json.dumps([height, width]),
        "preprocessing": "stretch to image_size, RGB, 0..1, EXIF applied",
        "names": json.dumps(list(class_names)),
        "category_ids": json.dumps([int(i) for i in category_ids]),
        "precision": number_format,
    }
    if dynamic_shapes:
        about["least_side"] = str(least)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if number_format == "int8":
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
            whole = Path(folder) / "fp32.onnx"
            onnx.save(content, whole)
            content = onnx.load(quantize_int8(whole, Path(folder) / "int8.onnx", calibration, symmetric))
    onnx.helper.set_model_props(content, about)
    onnx.checker.check_model(content)
    write_atomically(path, content.SerializeToString())
    return path


def least_side(config: ModelConfig) -> int:
    """The least side of square images, in pixels, that gives a token for every query."""
    tokens = sum((32 // stride) ** 2 for stride in config.feat_strides)  # of 32 x 32 pixels
    return 32 * math.ceil(math.sqrt(config.num_queries / tokens))


def _traced(detector: nn.Module, image_hw: tuple[int, int], least: int | None) -> Any:
    """ONNX as torch's exporter writes it; sides are free from `least` on, where it is given."""
    example: tuple[Tensor, ...] = torch.rand(2, 3, *image_hw), torch.tensor([image_hw[::-1]] * 2)
    batch = torch.export.Dim("batch", min=1)
    names: tuple[Sequence[str], Sequence[str]] = (INPUTS, OUTPUTS)
    shapes: dict[str, Any] = {"images": {0: batch}, "orig_target_sizes": {0: batch}}
    if least is not None:
        rows, columns = (
            torch.export.Dim(side, min=least // 32, max=_LARGEST_SIDE // 32) for side in ("rows", "columns")
        )
        shapes["images"] |= {2: 32 * rows, 3: 32 * columns}
    if isinstance(detector, RawDetector):
        example, names = example[:1], (INPUTS[:1], RAW_OUTPUTS)
        del shapes["orig_target_sizes"]
    with warnings.catch_warnings(), errors_only("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            detector, example, dynamo=True, opset_version=OPSET, verbose=False, input_names=list(names[0]),
            output_names=list(names[1]), dynamic_shapes=shapes,
        )  # fmt: skip
    return program.model_proto


def export_openvino(
    model: DFINE, path: str | Path, image_size: int | tuple[int, int], *arguments: Any, **options: Any
) -> Path:
    """Write the model for OpenVINO: `path` (.xml) and its numbers beside it (.bin).

    Converted from what `export_onnx` writes; arguments and signature are the same. What an ONNX file has as metadata
    stands in the section `dfine` of the runtime information.

    Returns:
        The .xml file.

    Raises:
        ValueError: as of `export_onnx`, or a name that does not end in .xml.
        ImportError: openvino, or what ONNX needs, is not installed (`pip install -e ".[deploy]"`).
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise DfineError(f"{path}: OpenVINO's files end in .xml")
    try:
        import onnx
        import openvino
    except ImportError as error:
        raise ImportError(f'exporting needs {error.name}: pip install -e ".[deploy]"') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
        file = export_onnx(model, Path(folder) / "model.onnx", image_size, *arguments, **options)
        converted = openvino.convert_model(file)
        for entry in onnx.load(file, load_external_data=False).metadata_props:
            converted.set_rt_info(entry.value, [RT_INFO, entry.key])
        whole = Path(folder) / path.name
        openvino.save_model(converted, whole, compress_to_fp16=False)
        os.replace(whole.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(whole, path)
    return path
