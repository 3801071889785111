"""TensorRT: an engine from an ONNX file, by `tensorrt` or by `tensorrt_rtx`, which builds without a GPU.

The network is strongly typed: what the ONNX file keeps in float32 (norms, softmax, means, places) stays so, what it has
in float16 or in 8 bits runs in that. An engine belongs to the library, its version and, of `tensorrt`, the GPU that it
was built by.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_tools.deploy.backends.backend import BackendError
from dfine_tools.deploy.backends.exported import ABOUT, INPUTS

log = logging.getLogger(__name__)
LIBRARIES = ("tensorrt", "tensorrt_rtx")
LARGEST_BATCH = 8
LARGEST_SIDE = 1280  # of engines for any sides


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built, not run."""

    file: Path
    library: str  # and version
    layers: dict[str, dict[str, int]]  # kind of layer, to number of those that give each type
    about: dict[str, str]  # the ONNX file's metadata, and what the engine takes


def about_path(engine: str | Path) -> Path:
    """Where that which an engine cannot say of itself lies: beside it, `detector.engine.json`."""
    return Path(f"{engine}.json")


def tensorrt_library(name: str | None = None) -> Any:
    """The module that builds and runs engines.

    Args:
        name: one of `LIBRARIES`; None: the first that is installed.

    Raises:
        BackendError: not installed.
    """
    for library in LIBRARIES if name is None else (name,):
        if library in LIBRARIES and importlib.util.find_spec(library):
            return importlib.import_module(library)
    wanted = " or ".join(LIBRARIES) if name is None else name
    raise BackendError(f'TensorRT engines need {wanted}: pip install -e ".[tensorrt]", or ".[tensorrt-rtx]"')


def build_engine(
    onnx_file: str | Path,
    out: str | Path,
    *,
    largest_batch: int = LARGEST_BATCH,
    largest_side: int = LARGEST_SIDE,
    library: str | None = None,
    timing_cache: str | Path | None = None,
) -> BuiltEngine:
    """Build an engine for batches from 1 to `largest_batch`.

    Args:
        onnx_file: of `export_onnx`; its types are the engine's. 8 bits must be `symmetric`.
        out: engine to write, with `about_path` beside it; files there are replaced.
        largest_side: of a file with free sides: the largest height and width, in pixels.
        library: see `tensorrt_library`.
        timing_cache: file of `tensorrt`'s measurements, read if there and written again, so that building once more is
            quick; one of another GPU or version is replaced, which is logged. `tensorrt_rtx` measures nothing when it
            builds.

    Raises:
        BackendError: nothing installed that builds, a file that the parser refuses (with its reasons), or no engine.
        ValueError: a batch below 1.
    """
    if largest_batch < 1:
        raise DfineError(f"largest_batch must be at least 1, got {largest_batch}")
    trt = tensorrt_library(library)
    errors = _log(trt)
    builder = trt.Builder(errors)
    network, about, parser = parse(onnx_file, builder, errors, trt)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of a place in an image of 640 px are more than half a pixel
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        value = network.get_input(i)
        low, usual, high = _ranges(value, about, largest_batch, largest_side)
        profile.set_shape(value.name, low, usual, high)
    config.add_optimization_profile(profile)
    cache = Path(timing_cache) if timing_cache is not None and trt.__name__ == "tensorrt" else None
    held = cache and _attach_timing_cache(config, cache)  # to be kept until the engine is built
    engine = builder.build_serialized_network(network, config)
    del parser, held  # until here
    if engine is None:
        raise BackendError(f"{onnx_file}: {trt.__name__} built no engine ({errors.last or 'it does not say why'}).")
    name = f"{trt.__name__} {trt.__version__}"
    about |= {"library": name, "largest_batch": str(largest_batch)}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, bytes(engine))
    write_atomically(about_path(out), json.dumps(about, indent=1, ensure_ascii=False).encode())
    if cache is not None:  # after the engine, whose build takes minutes and must not be lost
        write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    return BuiltEngine(out, name, layer_types(network), about)


def _attach_timing_cache(config: Any, file: Path) -> Any:
    """Give a builder the measurements in a file, or a new cache where there are none that it accepts."""
    content = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(content)
    if content and (cache is None or not config.set_timing_cache(cache, ignore_mismatch=False)):
        log.warning("%s: measured by another GPU or version of TensorRT; measured anew, and replaced", file)
        content, cache = b"", config.create_timing_cache(b"")
    if not content:
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def parse(onnx_file: str | Path, builder: Any, log: Any, trt: Any) -> tuple[Any, dict[str, str], Any]:
    """An ONNX file as a strongly typed network, its metadata, and the parser, which holds the weights while it lives.

    Raises:
        BackendError: no such file, or a node that the parser refuses.
    """
    import onnx

    onnx_file = Path(onnx_file)
    if not onnx_file.is_file():
        raise BackendError(f"{onnx_file}: no such file.")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(min(3, parser.num_errors)))
        raise BackendError(f"{onnx_file}: {trt.__name__} cannot read it ({reasons}).")
    held = onnx.load(onnx_file, load_external_data=False).metadata_props
    return network, {entry.key: entry.value for entry in held if entry.key in ABOUT}, parser


def layer_types(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of each kind give which type: `{"NORMALIZATION": {"FLOAT": 12}, …}`."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.num_outputs:
            found[layer.type.name][layer.get_output(0).dtype.name] += 1
    return {kind: dict(types) for kind, types in found.items()}


def _ranges(value: Any, about: dict[str, str], batch: int, largest_side: int) -> tuple[tuple[int, ...], ...]:
    """Least, usual and largest shape of an input."""
    shape, usual = list(value.shape), json.loads(about.get("image_size", "[640, 640]"))
    least = int(about.get("least_side", 32))
    ranges = [[1, 1, batch], *([side, side, side] for side in shape[1:])]
    if value.name == INPUTS[0]:
        for axis, side in ((2, usual[0]), (3, usual[1])):
            if shape[axis] < 0:
                ranges[axis] = [min(least, side), side, max(largest_side, side)]
    return tuple(zip(*ranges, strict=True))


def _log(trt: Any) -> Any:
    """Errors are kept for our own message; nothing is printed."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, words: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = words.strip().splitlines()[0] if words.strip() else ""

    return Log()
