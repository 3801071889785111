"""Calls of TensorRT and ONNX Runtime in our source, compared with the signatures of the installed packages."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from call_signatures import CallChecker, Instance

from dfine_tools.deploy.tensorrt_engine import LIBRARIES

DEPLOY = Path(__file__).parents[2] / "dfine_tools" / "deploy"
TENSORRT = ("tensorrt_engine.py", "backends/tensorrt_runtime.py")
ONNX_RUNTIME = ("backends/onnx_runtime.py", "int8.py")


def of_tensorrt(source: str) -> CallChecker:
    name = next((name for name in LIBRARIES if importlib.util.find_spec(name)), None)
    if name is None:
        pytest.skip(f"none of {' and '.join(LIBRARIES)} is installed")
    trt = importlib.import_module(name)
    network, parser = Instance(trt.INetworkDefinition), Instance(trt.OnnxParser)
    known = {  # parameters, and results of our own functions
        "trt": trt, "tensorrt_library()": trt, "builder": Instance(trt.Builder), "network": network,
        "config": Instance(trt.IBuilderConfig), "parse()": (network, None, parser), "value": Instance(trt.ITensor),
        "kind": Instance(trt.DataType),
    }  # fmt: skip
    return CallChecker(source, known, trt)


def of_onnxruntime(source: str) -> CallChecker:
    onnxruntime = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return CallChecker(source, {"onnxruntime": onnxruntime}, onnxruntime, quantization, state)


@pytest.mark.parametrize("file", TENSORRT)
def test_calls_of_tensorrt_fit_the_installed_bindings(file):
    assert of_tensorrt((DEPLOY / file).read_text(encoding="utf-8")).problems == []


@pytest.mark.parametrize("file", ONNX_RUNTIME)
def test_calls_of_onnx_runtime_fit_the_installed_package(file):
    assert of_onnxruntime((DEPLOY / file).read_text(encoding="utf-8")).problems == []


def test_what_is_used_of_tensorrt_and_onnx_runtime_is_followed_to_the_end():
    """Otherwise a name that is not followed would pass unseen."""
    used = set()
    for file in TENSORRT:
        used |= of_tensorrt((DEPLOY / file).read_text(encoding="utf-8")).used
    assert {
        "Builder.create_network", "IBuilderConfig.set_timing_cache", "OnnxParser.parse_from_file",
        "ParserError.desc", "INetworkDefinition.get_input", "ITensor.name", "ILayer.get_output", "LayerType.name",
        "IOptimizationProfile.set_shape", "ITimingCache.serialize", "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3", "Runtime.deserialize_cuda_engine", "DataType.name",
    } <= {re.sub(r"\w+\.(?=\w+\.)", "", name) for name in used}  # fmt: skip
    used = set()
    for file in ONNX_RUNTIME:
        used |= of_onnxruntime((DEPLOY / file).read_text(encoding="utf-8")).used
    assert {
        "InferenceSession.run", "InferenceSession.get_providers", "NodeArg.name", "ModelMetadata.custom_metadata_map",
        "SessionOptions.log_severity_level", "SessionOptions.add_session_config_entry", "QuantType.QInt8",
    } <= used  # fmt: skip


@pytest.mark.parametrize(
    ("check", "file", "written", "planted", "said"),
    [
        (of_tensorrt, TENSORRT[0], "builder.create_builder_config", "builder.create_config", "has no create_config"),
        (of_tensorrt, TENSORRT[0], "ignore_mismatch=False)\n    return", "mismatch=False)\n    return", "does not fit"),
        (of_tensorrt, TENSORRT[0], "layer.get_output(0)", "layer.get_output()", "does not fit"),
        (of_tensorrt, TENSORRT[0], "trt.BuilderFlag.TF32", "trt.BuilderFlag.TF33", "has no TF33"),
        (of_tensorrt, TENSORRT[0], "network.num_inputs", "network.inputs", "has no inputs"),
        (of_tensorrt, TENSORRT[1], "context.execute_async_v3(", "context.execute_async_v3(0, ", "does not fit"),
        (of_tensorrt, TENSORRT[1], "kind.name", "kind.label", "has no label"),
        (of_onnxruntime, ONNX_RUNTIME[0], "(path, options, ", "(path, options, [], [], ", "does not fit"),
        (of_onnxruntime, ONNX_RUNTIME[0], "options.log_severity_level", "options.log_level", "has no log_level"),
        (of_onnxruntime, ONNX_RUNTIME[0], "o.name for o in", "o.title for o in", "has no title"),
        (of_onnxruntime, ONNX_RUNTIME[0], "session.run(list(gives), inputs)", "session.run(inputs)", "does not fit"),
        (of_onnxruntime, ONNX_RUNTIME[1], "per_channel=True", "by_channel=True", "does not fit"),
        (of_onnxruntime, ONNX_RUNTIME[1], "kinds.QUInt8", "kinds.UInt8", "has no UInt8"),
    ],
)
def test_a_wrong_name_or_argument_is_found(check, file, written, planted, said):
    source = (DEPLOY / file).read_text(encoding="utf-8")
    assert written in source, "the source has changed: plant something else"
    (problem,) = check(source.replace(written, planted, 1)).problems
    assert said in problem


def test_the_quantizers_extra_options_are_those_that_it_reads():
    """A dict, which no signature checks: an unknown key is ignored silently."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    read = "".join(file.read_text(encoding="utf-8") for file in Path(quantization.__file__).parent.rglob("*.py"))
    source = (DEPLOY / "int8.py").read_text(encoding="utf-8")
    options = re.search(r"extra_options=\{(.*?)\}", source, re.S)[1]
    names = re.findall(r'"(\w+)":', options)
    assert names and [name for name in names if f'"{name}"' not in read] == []
