"""ONNX: one file that any runtime can run, boxes in pixels included."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.deploy.deployed import deployed_form
from dfine_lib.files import write_atomically
from dfine_lib.model.dfine import DFINE

OPSET = 18  # LayerNorm is one node from 17 on


class Detector(nn.Module):
    """Model and post-processing in one, with the names that the authors' ONNX files have."""

    def __init__(self, model: DFINE, top_k: int = 300) -> None:
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
        outputs = self.model(images)
        num_classes = outputs.pred_logits.shape[-1]
        boxes = box_cxcywh_to_xyxy(outputs.pred_boxes) * orig_target_sizes.repeat(1, 2)[:, None].to(images.dtype)
        count = min(self.top_k, outputs.pred_logits.shape[1] * num_classes)
        scores, index = outputs.pred_logits.flatten(1).sigmoid().topk(count)  # [B, K]
        query = (index // num_classes)[..., None].expand(-1, -1, 4)
        return index % num_classes, boxes.gather(1, query), scores


def export_onnx(
    model: DFINE,
    path: str | Path,
    image_size: int | tuple[int, int],
    class_names: Sequence[str] = (),
    top_k: int = 300,
    category_ids: Sequence[int] = (),
) -> Path:
    """Write the model's deployed form as ONNX, fp32, for any batch.

    Inputs and outputs are those of `Detector`. The file's metadata says how images are to be prepared.

    Args:
        model: any D-FINE; left as it is.
        path: file to write; a file there is replaced, once the new one is whole.
        image_size: side, or (height, width), multiples of 32.
        class_names: name of each class, kept in the metadata.
        top_k: most detections an image.
        category_ids: the data set's id of each class, kept in the metadata.

    Returns:
        The file.

    Raises:
        ValueError: sides that are no multiples of 32.
        ImportError: onnx or onnxscript is not installed (`pip install -e ".[deploy]"`).
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(f'exporting needs {error.name}: pip install -e ".[deploy]"') from error
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ValueError(f"image_size must be multiples of 32, got {image_size}")
    detector = Detector(deployed_form(model), top_k).eval()
    example = torch.rand(2, 3, height, width), torch.tensor([[width, height]] * 2)
    with torch.no_grad():
        detector(*example)  # anchors and bins become constants
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            detector, example, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["images", "orig_target_sizes"], output_names=["labels", "boxes", "scores"],
            dynamic_shapes={"images": {0: batch}, "orig_target_sizes": {0: batch}},
        )  # fmt: skip
    content = program.model_proto
    about = {
        "task": "detect",
        "image_size": json.dumps([height, width]),
        "preprocessing": "stretch to image_size, RGB, 0..1, EXIF applied",
        "names": json.dumps(list(class_names)),
        "category_ids": json.dumps([int(i) for i in category_ids]),
    }
    for key, value in about.items():
        content.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(content)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.SerializeToString())
    return path


def export_openvino(
    model: DFINE,
    path: str | Path,
    image_size: int | tuple[int, int],
    class_names: Sequence[str] = (),
    top_k: int = 300,
    category_ids: Sequence[int] = (),
) -> Path:
    """Write the model for OpenVINO: `path` (.xml) and its numbers beside it (.bin), fp32, for any batch.

    Converted from what `export_onnx` writes; the arguments and the signature are the same. What an ONNX file has as
    metadata stands in the section `dfine` of the runtime information.

    Returns:
        The .xml file.

    Raises:
        ValueError: sides that are no multiples of 32, or a name that does not end in .xml.
        ImportError: openvino, onnx or onnxscript is not installed (`pip install -e ".[deploy]"`).
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"{path}: OpenVINO's files end in .xml")
    try:
        import onnx
        import openvino
    except ImportError as error:
        raise ImportError(f'exporting needs {error.name}: pip install -e ".[deploy]"') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
        file = export_onnx(model, Path(folder) / "model.onnx", image_size, class_names, top_k, category_ids)
        converted = openvino.convert_model(file)
        for entry in onnx.load(file, load_external_data=False).metadata_props:
            converted.set_rt_info(entry.value, ["dfine", entry.key])
        whole = Path(folder) / path.name
        openvino.save_model(converted, whole, compress_to_fp16=False)
        os.replace(whole.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(whole, path)
    return path


class _quiet:
    """Torch's exporter tells its steps through logging; errors still come as exceptions."""

    def __enter__(self) -> None:
        self.levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
        for name in self.levels:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
