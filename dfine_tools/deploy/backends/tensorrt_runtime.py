"""TensorRT: `.engine` files on an NVIDIA GPU, through torch's memory and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfine_lib.device import pick_device
from dfine_tools.deploy.backends.backend import BackendError, DeviceError
from dfine_tools.deploy.backends.exported import RAW_OUTPUTS, LoadedModel, signature


def open_tensorrt(path: Path, device: str) -> LoadedModel:
    """An engine, ready to run.

    Raises:
        DeviceError: no CUDA device.
        BackendError: not installed, or an engine of another version, library or GPU.
    """
    from dfine_tools.deploy.tensorrt_engine import about_path, tensorrt_library

    beside = about_path(path)
    about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    trt = tensorrt_library(about["library"].split()[0] if "library" in about else None)
    if device != "auto" and not device.startswith("cuda"):
        raise DeviceError(f"{path}: device {device!r}: TensorRT runs on cuda.")
    if not torch.cuda.is_available():
        raise DeviceError(f"{path}: an engine runs on an NVIDIA GPU, and torch finds none here.")
    where = pick_device("cuda" if device == "auto" else device)  # the current GPU, which the engine is opened on
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        made = about.get("library", "another version of TensorRT, or for another GPU")
        raise BackendError(f"{path}: {trt.__name__} {trt.__version__} cannot open it; it was built by {made}.")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    incoming = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    takes, gives = signature(path, incoming, [name for name in names if name not in incoming])
    types = {name: _torch_type(engine.get_tensor_dtype(name), trt) for name in names}
    most = engine.get_tensor_profile_shape(takes[0], 0)[2][0]
    context, stream = engine.create_execution_context(), torch.cuda.Stream(where)

    def once(values: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        held: dict[str, torch.Tensor] = {}
        with torch.cuda.stream(stream):
            for name, value in zip(takes, values, strict=False):
                held[name] = torch.from_numpy(value).to(where, types[name]).contiguous()
                context.set_input_shape(name, tuple(held[name].shape))
            for name in gives:
                held[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=types[name], device=where)
            for name, value in held.items():
                context.set_tensor_address(name, value.data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise BackendError(f"{path}: TensorRT could not run it.")
        stream.synchronize()
        return [held[name].cpu().numpy() for name in gives]

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        parts = [once((images[i : i + most], sizes[i : i + most])) for i in range(0, len(images), most)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    shape = [None if side < 0 else side for side in engine.get_tensor_shape(takes[0])]
    return LoadedModel(run, gives == RAW_OUTPUTS, shape, about, str(where))


def _torch_type(kind: Any, trt: Any) -> torch.dtype:
    types = {"FLOAT": torch.float32, "HALF": torch.float16, "INT32": torch.int32, "INT64": torch.int64}
    return types[kind.name]
