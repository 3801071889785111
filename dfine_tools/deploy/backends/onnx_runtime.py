"""ONNX Runtime: `.onnx` files on a CPU or a CUDA device."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfine_tools.deploy.backends.backend import BackendError, DeviceError
from dfine_tools.deploy.backends.exported import (
    CORES,
    RAW_OUTPUTS,
    STREAMS,
    LoadedModel,
    first_line,
    not_run,
    signature,
)


def open_onnxruntime(path: Path, device: str, threads: int = 0) -> LoadedModel:
    """An ONNX file in a session.

    Args:
        threads: that a call takes on the processor; 0: as many as cores, which answers one call soonest. With few,
            several calls at a time get more done: no thread waits for others after every layer.

    Raises:
        BackendError: not installed, or a file that it cannot run.
        DeviceError: another device than it knows, or CUDA whose libraries do not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError('running ONNX files needs onnxruntime: pip install -e ".[deploy]"') from error
    available = onnxruntime.get_available_providers()
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"{path}: device {device!r}: ONNX Runtime runs on cpu or cuda here.")
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise DeviceError(
            f"{path}: device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu, or try cpu."
        )
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind != "cpu" and "CUDAExecutionProvider" in available:
        # Exact float32, as TensorRT's engines have it: with TF32 boxes leave the limits of the export validation.
        on_cuda = {"device_id": int(number or 0), "use_tf32": 0}
        providers.insert(0, ("CUDAExecutionProvider", on_cuda))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores to decoding
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # the runtime's own classes, of no common base
        raise BackendError(f"{path}: not a file that ONNX Runtime can run ({first_line(error)}).") from error
    where = f"cuda:{int(number or 0)}" if session.get_providers()[0].startswith("CUDA") else "cpu"
    if kind == "cuda" and where == "cpu":  # ONNX Runtime goes on by itself where a provider does not start
        raise DeviceError(
            f"{path}: device {device!r}: ONNX Runtime could not start on CUDA and would run on the CPU. Install an "
            "onnxruntime-gpu for the CUDA and cuDNN that are there, or try cpu."
        )
    inputs = {i.name: i for i in session.get_inputs()}
    takes, gives = signature(path, list(inputs), [o.name for o in session.get_outputs()])
    types = {name: np.float16 if "float16" in i.type else np.float32 if "float" in i.type else
             np.int32 if "int32" in i.type else np.int64 for name, i in inputs.items()}  # fmt: skip

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        values = zip(takes, (images, sizes))
        inputs = {name: value.astype(types[name], copy=False) for name, value in values}
        try:
            return session.run(list(gives), inputs)
        except Exception as error:
            raise not_run(path, "ONNX Runtime", images, error) from error

    shape = [d if isinstance(d, int) else None for d in inputs["images"].shape]
    about = session.get_modelmeta().custom_metadata_map
    several = where == "cpu" and not threads
    shared = partial(open_onnxruntime, path, device, max(1, CORES // STREAMS)) if several else None
    return LoadedModel(run, gives == RAW_OUTPUTS, shape, about, where, shared)
