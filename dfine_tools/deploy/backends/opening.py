"""From a file's name to a backend that runs it."""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path

import numpy as np
import torch

from dfine_lib.evaluate.postprocess import Detections
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.backends.backend import Backend, BackendError
from dfine_tools.deploy.backends.exported import (
    LoadedModel,
    as_detections,
    input_size,
    listed,
    raw_detections,
)
from dfine_tools.deploy.backends.onnx_runtime import open_onnxruntime
from dfine_tools.deploy.backends.openvino_runtime import open_openvino
from dfine_tools.deploy.backends.pytorch import open_torch
from dfine_tools.deploy.backends.tensorrt_runtime import open_tensorrt
from dfine_tools.weights.categories import COCO, COCO_IDS

log = logging.getLogger(__name__)
KINDS = {  # what runs a file, by its suffix
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".engine": ("tensorrt",),
}
_OPEN = {"onnxruntime": open_onnxruntime, "openvino": open_openvino, "tensorrt": open_tensorrt}
BACKENDS = ("torch", *_OPEN)


def open_backend(
    source: str | Path | DFINE,
    *,
    backend: str = "auto",
    device: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    class_names: tuple[str, ...] = (),
    top_k: int = 300,
    edges: bool = False,
) -> Backend:
    """Make a file ready to run.

    Args:
        source: weights (`.safetensors`, `.pth`, a folder of Hugging Face's, a published name) or a `DFINE`, run by
            torch; `.onnx`, run by ONNX Runtime or OpenVINO; `.xml`, run by OpenVINO; `.engine`, run by TensorRT. An
            ONNX file of the authors' tools runs too.
        backend: `auto`, or one of `BACKENDS`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`; `gpu` is OpenVINO's name for an Intel one.
        image_size: side, or (height, width), of the input; None: as the file says, else 640.
        class_names: names by label, where the file holds none.
        top_k: most detections an image; an exported file has its own.
        edges: give the distributions of the edges too (torch alone).

    Raises:
        BackendError: no such file, damaged, of another kind than the backend takes, a size that it cannot take, or the
            backend is not installed; a `DeviceError`, where it does not run on that device.
        WeightsError: weights that cannot be used.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"backend {backend!r} is none of auto, {', '.join(BACKENDS)}")
    if isinstance(source, str | Path):
        source = _whole_name(source)
    name = _choose(source, backend)
    if edges and name != "torch":
        raise BackendError(f"{source}: an exported file holds no edge distributions; take the weights that it is from.")
    if name == "torch":
        return open_torch(source, device, image_size, class_names, top_k, edges)
    opened = _OPEN[name](source, device)
    about = opened.about
    image_hw, batch = input_size(source, opened.image_shape, about, image_size)
    names = tuple(str(name) for name in listed(about, "names")) or tuple(class_names)
    ids = tuple(int(i) for i in listed(about, "category_ids"))
    if not names and "image_size" not in about:  # made elsewhere: the published files are of COCO's classes
        log.warning(
            "%s: says nothing of its classes; taken for the 80 of COCO. Give their names if they are not.", source
        )
        names, ids = COCO, COCO_IDS

    def ready(opened: LoadedModel) -> Backend:
        def answer(images: np.ndarray, sizes: np.ndarray) -> tuple[list[Detections], None]:
            values = opened.run(images, sizes)
            if opened.raw:
                return raw_detections(*map(torch.from_numpy, (*values, sizes)), top_k), None
            return as_detections(*values), None

        shared = functools.cache(lambda: ready(opened.shared())) if opened.shared is not None else None
        return Backend(name, source, image_hw, names, ids, batch, opened.device, answer, about, shared)

    return ready(opened)


def _whole_name(source: str | Path) -> Path | str:
    path = Path(source)
    if path.suffix in KINDS:
        if not path.is_file():
            raise BackendError(f"{path}: no such file.")
        with open(path, "rb"):  # a file that may not be read is reported as that
            return path
    if path.suffix in (".bin", ".tflite", ".mlpackage", ".trt"):
        hint = "Give the .xml beside it." if path.suffix == ".bin" else "Give weights, or a .onnx or .xml file."
        raise BackendError(f"{path}: files of this kind are not run here. {hint}")
    return source


def _choose(source: str | Path | DFINE, backend: str) -> str:
    kinds = KINDS.get(source.suffix, ("torch",)) if isinstance(source, Path) else ("torch",)
    if backend == "auto":
        installed = [kind for kind in kinds if importlib.util.find_spec(kind)]
        return (installed or list(kinds))[0]
    if backend not in kinds:
        what = "a DFINE in memory" if isinstance(source, DFINE) else str(source)
        hint = "" if kinds != ("torch",) else "; `dfine export` makes a file for the others"
        raise BackendError(f"{what}: the backend {backend} cannot run it, {' and '.join(kinds)} can{hint}.")
    return backend
