"""What runs a detector: torch, ONNX Runtime, OpenVINO. The same pixels in, the same detections out."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfine_lib.config import DataConfig
from dfine_lib.deploy.deployed import deployed_form
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.outputs import DFINEOutput
from dfine_lib.model.weights import WeightsError, load_weights, locate_weights, read_weights
from dfine_lib.train.device import pick_device

BACKENDS = ("torch", "onnxruntime", "openvino")
INPUTS, OUTPUTS = ("images", "orig_target_sizes"), ("labels", "boxes", "scores")
RT_INFO = "dfine"  # section of an OpenVINO file that holds what an ONNX file has as metadata
_PUBLISHED_HW = (640, 640)  # the input of the published models, where a file says nothing
_KINDS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


class BackendError(ValueError):
    """A file that cannot be run, or not by the backend asked for; the message says what would."""


@dataclass(frozen=True)
class EdgeDistributions:
    """Where the four edges (left, top, right, bottom) of K boxes may be.

    The mean of `positions_px` under `probabilities` is the box's edge.
    """

    probabilities: Tensor  # float32 [K, 4, N + 1], last layer
    positions_px: Tensor  # float32 [K, 4, N + 1], place of each bin in pixels of the original image


@dataclass(frozen=True)
class Backend:
    """A detector ready to run, whatever runs it."""

    name: str  # one of BACKENDS
    file: Path | None  # None: a model in memory
    image_hw: tuple[int, int]  # of its input
    class_names: tuple[str, ...]  # by label; empty where the file does not say
    category_ids: tuple[int, ...]  # the data set's id of each label; likewise
    batch: int | None  # the one batch size that the file takes; None: any
    device: str
    answer: Callable[[np.ndarray, np.ndarray], tuple[list[Detections], list[EdgeDistributions] | None]]

    def detect(
        self, images: Tensor, sizes_wh: Tensor | np.ndarray
    ) -> tuple[list[Detections], list[EdgeDistributions] | None]:
        """Detect in any number of images.

        Args:
            images: uint8 `[B, 3, H, W]`, RGB, of the size `image_hw`; or float32 in 0..1.
            sizes_wh: `[B, 2]`, width and height of the original images in pixels.

        Returns:
            For each image its `Detections`, scores falling, on the CPU; and where the backend was opened with
            `edges`, the edge distributions of each.

        Raises:
            ValueError: images of another size than the file takes.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_hw):
            raise ValueError(f"images must be [B, 3, {self.image_hw[0]}, {self.image_hw[1]}], got {list(images.shape)}")
        images = images.contiguous()  # quicker while they are bytes
        pixels = (images.float().div_(255) if images.dtype == torch.uint8 else images.float()).numpy()
        sizes = np.ascontiguousarray(np.asarray(sizes_wh), dtype=np.int64)
        count, step = len(pixels), self.batch or max(1, len(pixels))
        found: list[Detections] = []
        edges: list[EdgeDistributions] = []
        for start in range(0, count, step):
            part, part_sizes = pixels[start : start + step], sizes[start : start + step]
            short = (self.batch or len(part)) - len(part)
            if short:  # a file of one batch size gets its last image again, and the answers are dropped
                part = np.concatenate([part, np.repeat(part[-1:], short, 0)])
                part_sizes = np.concatenate([part_sizes, np.repeat(part_sizes[-1:], short, 0)])
            one_found, one_edges = self.answer(part, part_sizes)
            found += one_found[: len(one_found) - short]
            edges += one_edges or []
        return found, edges or None


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
            torch; `.onnx`, run by ONNX Runtime or OpenVINO; `.xml`, run by OpenVINO. An ONNX file of the authors'
            tools runs too.
        backend: `auto`, or one of `BACKENDS`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`; `gpu` is OpenVINO's name for an Intel one.
        image_size: side, or (height, width), of the input; None: as the file says, else 640.
        class_names: names by label, where the file holds none.
        top_k: most detections an image; an exported file has its own.
        edges: give the distributions of the edges too (torch alone).

    Raises:
        BackendError: no such file, damaged, of another kind than the backend takes, a size that it cannot take, or the
            backend is not installed.
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
        return _open_torch(source, device, image_size, class_names, top_k, edges)
    opened = _open_onnxruntime(source, device) if name == "onnxruntime" else _open_openvino(source, device)
    run, shapes, about, where = opened
    image_hw, batch = _input_size(source, shapes["images"], about, image_size)
    return Backend(
        name, source, image_hw, _names(about) or tuple(class_names), _ids(about), batch, where,
        lambda images, sizes: (_as_detections(*run(images, sizes)), None),
    )  # fmt: skip


def _whole_name(source: str | Path) -> Path | str:
    path = Path(source)
    if path.suffix in (".onnx", ".xml"):
        if not path.is_file():
            raise BackendError(f"{path}: no such file.")
        return path
    if path.suffix in (".engine", ".bin", ".tflite", ".mlpackage", ".trt"):
        hint = "Give the .xml beside it." if path.suffix == ".bin" else "Give weights, or a .onnx or .xml file."
        raise BackendError(f"{path}: files of this kind are not run here. {hint}")
    return source


def _choose(source: str | Path | DFINE, backend: str) -> str:
    kinds = _KINDS.get(source.suffix, ("torch",)) if isinstance(source, Path) else ("torch",)
    if backend == "auto":
        installed = [kind for kind in kinds if importlib.util.find_spec(kind)]
        return (installed or list(kinds))[0]
    if backend not in kinds:
        what = "a DFINE in memory" if isinstance(source, DFINE) else str(source)
        hint = "" if kinds != ("torch",) else "; `dfine export` makes a file for the others"
        raise BackendError(f"{what}: the backend {backend} cannot run it, {' and '.join(kinds)} can{hint}.")
    return backend


# ---- torch ----------------------------------------------------------------------------------------------------------


def _open_torch(source, device, image_size, class_names, top_k, edges) -> Backend:
    where = pick_device(device)
    if isinstance(source, DFINE):
        model, path, names, ids, own_hw = source, None, tuple(class_names), (), None
    else:
        weights = read_weights(locate_weights(source))
        if weights.model is None:
            raise WeightsError(f"{source}: the file does not say which model it is of. Convert it: dfine weights --to.")
        model = DFINE(weights.model)
        load_weights(model, weights)
        path, names, ids = weights.path, weights.category_names or tuple(class_names), weights.category_ids
        own_hw = weights.data.image_hw if weights.data else None
    image_hw = DataConfig(image_size=image_size).image_hw if image_size is not None else own_hw or _PUBLISHED_HW
    running = (copy.deepcopy(model).eval().requires_grad_(False) if edges else deployed_form(model)).to(where)

    @torch.inference_mode()
    def answer(images: np.ndarray, sizes: np.ndarray):
        pixels, sizes_wh = torch.from_numpy(images).to(where), torch.from_numpy(sizes).to(where)
        outputs = running(pixels, keep_layers=True) if edges else running(pixels)
        found = postprocess(outputs, sizes_wh, top_k)
        about_edges = _edges_of(outputs, found, sizes_wh) if edges else None
        return [one.to("cpu") for one in found], about_edges

    return Backend("torch", path, image_hw, tuple(names), tuple(ids), None, str(where), answer)


def _edges_of(outputs: DFINEOutput, found: list[Detections], sizes_wh: Tensor) -> list[EdgeDistributions]:
    """The last layer's distributions of the queries that detections came from."""
    offsets = outputs.bin_offsets.float()  # [N + 1]
    probabilities = outputs.layers[-1].corner_logits.float().unflatten(-1, (4, len(offsets))).softmax(-1)
    centre, size = outputs.decoder.initial.boxes_cxcywh.float().split(2, dim=-1)  # [B, Q, 2] each
    reach = (0.5 * outputs.reg_scale + offsets) * (size / outputs.reg_scale)[..., None]  # [B, Q, 2, N + 1]
    positions = torch.cat([centre[..., None] - reach, centre[..., None] + reach], dim=2)  # [B, Q, 4, N + 1]
    positions = positions * sizes_wh.to(positions).repeat(1, 2)[:, None, :, None]
    return [
        EdgeDistributions(probabilities[i][one.queries].cpu(), positions[i][one.queries].cpu())
        for i, one in enumerate(found)
    ]


# ---- exported files -------------------------------------------------------------------------------------------------


def _open_onnxruntime(path: Path, device: str):
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError('running ONNX files needs onnxruntime: pip install -e ".[deploy]"') from error
    available = onnxruntime.get_available_providers()
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise BackendError(f"device {device!r}: ONNX Runtime runs on cpu or cuda here.")
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise BackendError(f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu, or try cpu.")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind != "cpu" and "CUDAExecutionProvider" in available:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores to decoding
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # the runtime's own classes, of no common base
        raise BackendError(f"{path}: not a file that ONNX Runtime can run ({_first_line(error)}).") from error
    inputs = {i.name: i for i in session.get_inputs()}
    _check_signature(path, list(inputs), [o.name for o in session.get_outputs()])
    types = {name: np.float16 if "float16" in i.type else np.float32 if "float" in i.type else
             np.int32 if "int32" in i.type else np.int64 for name, i in inputs.items()}  # fmt: skip

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        values = dict(zip(INPUTS, (images, sizes), strict=True))
        return session.run(list(OUTPUTS), {k: v.astype(types[k], copy=False) for k, v in values.items()})

    shapes = {name: [d if isinstance(d, int) else None for d in i.shape] for name, i in inputs.items()}
    where = "cuda" if session.get_providers()[0].startswith("CUDA") else "cpu"
    return run, shapes, session.get_modelmeta().custom_metadata_map, where


def _open_openvino(path: Path, device: str):
    try:
        import openvino
    except ImportError as error:
        raise BackendError('running OpenVINO needs openvino: pip install -e ".[deploy]"') from error
    kind = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}.get(device)
    if kind is None:
        raise BackendError(f"device {device!r}: OpenVINO runs on cpu or gpu (Intel's) here.")
    core = openvino.Core()
    try:
        model = core.read_model(path)
    except Exception as error:
        raise BackendError(f"{path}: not a file that OpenVINO can read ({_first_line(error)}).") from error
    names = [sorted(port.get_names()) for port in model.inputs], [sorted(port.get_names()) for port in model.outputs]
    flat = [[name for port in side for name in port] for side in names]
    _check_signature(path, flat[0], flat[1])
    section = RT_INFO if path.suffix == ".xml" else "framework"  # where its ONNX reader puts an ONNX file's metadata
    about = {}
    for key in ("image_size", "names", "category_ids"):
        if model.has_rt_info([section, key]):
            about[key] = model.get_rt_info([section, key]).astype(str)
    shapes = {
        name: [None if d.is_dynamic else d.get_length() for d in model.input(name).get_partial_shape()]
        for name in INPUTS
    }
    types = {name: model.input(name).get_element_type().to_dtype() for name in INPUTS}
    try:  # f32: processors with 16-bit arithmetic would use it, and find other boxes
        compiled = core.compile_model(model, kind, {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:
        raise BackendError(f"{path}: OpenVINO cannot run it on {device} ({_first_line(error)}).") from error
    request = compiled.create_infer_request()

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        values = dict(zip(INPUTS, (images, sizes), strict=True))
        request.infer({k: v.astype(types[k], copy=False) for k, v in values.items()})
        return [request.get_tensor(name).data.copy() for name in OUTPUTS]

    return run, shapes, about, kind.lower()


def _check_signature(path: Path, inputs: list[str], outputs: list[str]) -> None:
    if not set(INPUTS) <= set(inputs) or not set(OUTPUTS) <= set(outputs):
        raise BackendError(
            f"{path}: not a D-FINE detector: it maps {', '.join(inputs) or 'nothing'} to "
            f"{', '.join(outputs) or 'nothing'}, and should map {', '.join(INPUTS)} to {', '.join(OUTPUTS)}."
        )


def _input_size(
    path: Path, shape: list[int | None], about: Mapping[str, str], asked: int | tuple[int, int] | None
) -> tuple[tuple[int, int], int | None]:
    """Height and width of the input, and the batch if it is fixed."""
    batch, _, height, width = shape
    own = (height, width) if height and width else _of_metadata(path, about)
    if asked is None:
        return own or _PUBLISHED_HW, batch
    asked_hw = DataConfig(image_size=asked).image_hw
    if own and asked_hw != own:
        raise BackendError(
            f"{path}: made for images of {own[0]} x {own[1]} (height x width), not {asked_hw[0]} x {asked_hw[1]}. "
            "Leave the size out, or export the weights for that one."
        )
    return asked_hw, batch


def _of_metadata(path: Path, about: Mapping[str, str]) -> tuple[int, int] | None:
    if "image_size" not in about:
        return None
    try:
        height, width = (int(side) for side in json.loads(about["image_size"]))
    except (ValueError, TypeError) as error:
        raise BackendError(f"{path}: its image_size is {about['image_size']!r}, not [height, width].") from error
    return height, width


def _names(about: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(str(name) for name in _listed(about, "names"))


def _ids(about: Mapping[str, str]) -> tuple[int, ...]:
    return tuple(int(i) for i in _listed(about, "category_ids"))


def _listed(about: Mapping[str, str], key: str) -> list[Any]:
    """A JSON list in the metadata; anything else that another program may have put there counts as nothing."""
    try:
        value = json.loads(about.get(key, "[]"))
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def _as_detections(labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list[Detections]:
    found = []
    for image in zip(labels, boxes, scores, strict=True):
        label, box, score = (torch.from_numpy(np.ascontiguousarray(part)) for part in image)
        score = score.float()
        if len(score) > 1 and bool((score.diff() > 0).any()):
            order = score.argsort(descending=True, stable=True)
            label, box, score = label[order], box[order], score[order]
        found.append(Detections(label.long(), box.float(), score))
    return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
