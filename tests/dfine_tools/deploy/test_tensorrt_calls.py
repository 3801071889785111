"""What is asked of TensorRT, without a GPU: stand-ins whose methods have the signatures of the installed module."""

from __future__ import annotations

import importlib
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dfine_tools.deploy import tensorrt_engine
from dfine_tools.deploy.backends import open_backend

SHAPES = {
    "images": (-1, 3, 64, 64),
    "orig_target_sizes": (-1, 2),
    "labels": (1, 2),
    "boxes": (1, 2, 4),
    "scores": (1, 2),
}
TYPES = {"orig_target_sizes": "INT64", "labels": "INT64"}


class Engine:
    """An engine of a detector that finds nothing."""

    num_io_tensors = len(SHAPES)

    def get_tensor_name(self, index):
        return list(SHAPES)[index]

    def get_tensor_mode(self, name):
        return "INPUT" if name in ("images", "orig_target_sizes") else "OUTPUT"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=TYPES.get(name, "FLOAT"))

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def get_tensor_profile_shape(self, name, profile_index):
        return [(1, 3, 64, 64), (1, 3, 64, 64), (8, 3, 64, 64)]

    def create_execution_context(self):
        return Context()


class Context:
    """Runs nothing."""

    def set_input_shape(self, name, shape):
        return True

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def set_tensor_address(self, name, memory):
        return True

    def execute_async_v3(self, stream_handle):
        return True


class Config:
    """A builder's settings; a cache that begins with `other` is of another GPU."""

    def __init__(self) -> None:
        self.cache: Any = None

    def clear_flag(self, flag):
        pass

    def add_optimization_profile(self, profile):
        return 0

    def create_timing_cache(self, serialized_timing_cache):
        return SimpleNamespace(content=bytes(serialized_timing_cache), serialize=lambda: b"measured here")

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content.startswith(b"other"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class Builder:
    """Builds at once."""

    def __init__(self, logger=None) -> None:
        pass

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return None

    def build_serialized_network(self, network, config):
        return b"engine"


@pytest.mark.parametrize(
    ("stand_in", "name"),
    [(Engine, "ICudaEngine"), (Context, "IExecutionContext"), (Config, "IBuilderConfig"), (Builder, "Builder")],
)
def test_the_stand_ins_have_the_signatures_of_the_installed_module(stand_in, name):
    library = next((found for found in tensorrt_engine.LIBRARIES if importlib.util.find_spec(found)), None)
    if library is None:
        pytest.skip("no TensorRT is installed")
    real = getattr(importlib.import_module(library), name)
    for method, function in inspect.getmembers(stand_in, inspect.isfunction):
        if not method.startswith("_"):
            ours = list(inspect.signature(function).parameters)[1:]
            assert any(_takes(theirs, ours) for theirs in _signatures(getattr(real, method))), method


def _signatures(method: Any) -> list[list[str]]:
    """Each overload's arguments in order, `name: type` or `name: type = default`, from the binding's docstring."""
    found = re.findall(rf"{method.__name__}\(self: [^,)]+(?:, ([^)]*))?\) ->", method.__doc__)
    return [[each for each in signature.split(", ") if each] for signature in found]


def _takes(theirs: list[str], ours: list[str]) -> bool:
    names = [argument.partition(":")[0] for argument in theirs]
    required = sum("=" not in argument for argument in theirs)
    return names[: len(ours)] == ours and len(ours) >= required


class TwoCards:
    """`torch.cuda` of a machine with two GPUs, of which the first is the current one, as torch has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = 0
        for name in ("is_available", "set_device", "current_device", "Stream", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch, "empty", self.empty)

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return self.current

    def set_device(self, device: Any) -> None:
        self.current = torch.cuda._utils._get_device_index(device)  # refuses a device without a number

    def Stream(self, device: torch.device) -> Any:
        assert device.index is not None
        return SimpleNamespace(cuda_stream=0, synchronize=lambda: None)

    def stream(self, stream: Any) -> Any:
        raise NotImplementedError

    def empty(self, *shape: Any, device: Any = None) -> Any:
        assert torch.device(device).index in (0, 1)


@pytest.mark.parametrize(("asked", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_an_engine_opens_on_the_card_that_was_asked_for(monkeypatch, tmp_path, asked, found):
    cards = TwoCards(monkeypatch)
    opened_on: list[int] = []

    class Runtime:
        def __init__(self, logger) -> None:
            pass

        def deserialize_cuda_engine(self, content):
            opened_on.append(cards.current)
            return Engine()

    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, severity: None})
    library = SimpleNamespace(Runtime=Runtime, Logger=logger, TensorIOMode=SimpleNamespace(INPUT="INPUT"))
    monkeypatch.setattr(tensorrt_engine, "tensorrt_library", lambda name=None: library)
    (tmp_path / "x.engine").write_bytes(b"engine")
    backend = open_backend(tmp_path / "x.engine", device=asked)
    assert backend.device == found and backend.image_hw == (64, 64)
    assert opened_on == [torch.device(found).index]


@pytest.fixture
def tensorrt(monkeypatch):
    """`tensorrt` itself, which is another module than the installed one where that is `tensorrt_rtx`."""
    flags, network = SimpleNamespace(TF32=None), SimpleNamespace(num_inputs=0, num_layers=0)
    library = SimpleNamespace(__name__="tensorrt", __version__="10", Builder=Builder, BuilderFlag=flags)
    monkeypatch.setattr(tensorrt_engine, "tensorrt_library", lambda name=None: library)
    monkeypatch.setattr(tensorrt_engine, "_log", lambda trt: None)
    monkeypatch.setattr(tensorrt_engine, "parse", lambda *_: (network, {}, None))


@pytest.mark.parametrize("content", [None, b"measured here", b"other card"])
def test_a_timing_cache_of_another_card_is_replaced_and_no_build_is_lost(tensorrt, tmp_path, caplog, content):
    cache = tmp_path / "x.timing"
    if content is not None:
        cache.write_bytes(content)
    built = tensorrt_engine.build_engine("x.onnx", tmp_path / "x.engine", timing_cache=cache)
    assert built.file.read_bytes() == b"engine" and cache.read_bytes() == b"measured here"
    assert [str(cache) in record.message for record in caplog.records] == [True] * (content == b"other card")


def test_an_engine_is_written_before_its_timing_cache(tensorrt, monkeypatch, tmp_path):
    """The build takes minutes, and must not be lost where the cache cannot be written."""
    written: list[str] = []
    monkeypatch.setattr(tensorrt_engine, "write_atomically", lambda path, content: written.append(path.name))
    tensorrt_engine.build_engine("x.onnx", tmp_path / "x.engine", timing_cache=tmp_path / "x.timing")
    assert written == ["x.engine", "x.engine.json", "x.timing"]
