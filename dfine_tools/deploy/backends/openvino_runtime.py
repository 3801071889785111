"""OpenVINO: its own `.xml` files, and `.onnx`, on a CPU or an Intel GPU."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfine_tools.deploy.backends.backend import BackendError, DeviceError
from dfine_tools.deploy.backends.exported import ABOUT, RAW_OUTPUTS, LoadedModel, first_line, not_run, signature

if TYPE_CHECKING:
    import openvino

RT_INFO = "dfine"  # section of an OpenVINO file that holds what an ONNX file has as metadata


@cache
def shared_core() -> openvino.Core:
    """One core for all models, never freed.

    Every core of OpenVINO (2026.4) gives its thread a signal stack, and unmaps it at its end. When of two cores the
    first ends first, the second puts the unmapped stack back, and the next signal with a Python handler (Ctrl-C, the
    end of a loader's worker) ends the process with SIGSEGV.
    """
    import openvino

    return openvino.Core()


def open_openvino(path: Path, device: str) -> LoadedModel:
    """An OpenVINO or ONNX file, compiled.

    Raises:
        BackendError: not installed, or a file that it cannot run.
        DeviceError: another device than it knows.
    """
    try:
        core = shared_core()
    except ImportError as error:
        raise BackendError('running OpenVINO needs openvino: pip install -e ".[deploy]"') from error
    kind = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}.get(device)
    if kind is None:
        raise DeviceError(f"{path}: device {device!r}: OpenVINO runs on cpu or gpu (Intel's) here.")
    try:
        model = core.read_model(path)
    except Exception as error:
        raise BackendError(f"{path}: not a file that OpenVINO can read ({first_line(error)}).") from error
    names = [sorted(port.get_names()) for port in model.inputs], [sorted(port.get_names()) for port in model.outputs]
    flat = [[name for port in side for name in port] for side in names]
    takes, gives = signature(path, *flat)
    section = RT_INFO if path.suffix == ".xml" else "framework"  # where its ONNX reader puts an ONNX file's metadata
    about = {}
    for key in ABOUT:
        if model.has_rt_info([section, key]):
            about[key] = model.get_rt_info([section, key]).astype(str)
    shape = [None if d.is_dynamic else d.get_length() for d in model.input("images").get_partial_shape()]
    types = {name: model.input(name).get_element_type().to_dtype() for name in takes}
    requests = _Requests(model, kind, path)
    requests.of(1)
    free = threading.Lock()  # one call takes all cores: others wait

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with free:
            request = requests.of(len(images))
            values = {k: v.astype(types[k], copy=False) for k, v in zip(takes, (images, sizes))}
            try:
                request.infer(values)
            except Exception as error:
                raise not_run(path, "OpenVINO", images, error) from error
            return [request.get_tensor(name).data.copy() for name in gives]

    return LoadedModel(run, gives == RAW_OUTPUTS, shape, about, kind.lower())


class _Requests:
    """A model compiled for one image, and, from the first batch on, for any number of them.

    OpenVINO joins more operations where every shape is known, and copies fewer maps.
    """

    def __init__(self, model: openvino.Model, device: str, path: Path) -> None:
        self.model, self.device, self.path = model, device, path
        shapes = {port.any_name: port.get_partial_shape() for port in model.inputs}
        one = {name: [1, *list(shape)[1:]] for name, shape in shapes.items()}
        only_batch = all(
            shape[0].is_dynamic and not any(d.is_dynamic for d in list(shape)[1:]) for shape in shapes.values()
        )
        self.one = one if only_batch else None
        self.made: dict[bool, openvino.InferRequest] = {}

    def of(self, batch: int) -> openvino.InferRequest:
        """The request for that many images.

        Raises:
            BackendError: OpenVINO cannot compile that form.
        """
        single = self.one is not None and batch == 1
        if single not in self.made:
            try:
                self.made[single] = self._compiled(single).create_infer_request()
            except Exception as error:
                what = "it" if single or self.one is None else "batches of it"
                said = f"{self.path}: OpenVINO cannot run {what} on {self.device.lower()} ({first_line(error)})."
                raise BackendError(said) from error
        return self.made[single]

    def _compiled(self, single: bool) -> openvino.CompiledModel:
        model = self.model
        if single:
            model = model.clone()
            model.reshape(self.one)
        # f32: processors with 16-bit arithmetic would use it, and find other boxes
        return shared_core().compile_model(model, self.device, {"INFERENCE_PRECISION_HINT": "f32"})
