"""TensorRT builds engines from our files, without a GPU too; nothing is called proven that was not run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_tools import cli
from dfine_tools.deploy import tensorrt_engine, validation
from dfine_tools.deploy.backends import BackendError, open_backend
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.images import as_image
from dfine_tools.deploy.tensorrt_engine import about_path, build_engine, layer_types, parse, tensorrt_library
from dfine_tools.deploy.validation import report_path, validate_export

pytest.importorskip("onnxscript")
WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.fixture(scope="module")
def trt():
    try:
        return tensorrt_library()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def photographs(monkeypatch):
    rng = np.random.default_rng(1)
    noise = [np.kron(rng.integers(0, 255, (s, s, 3), np.uint8), np.ones((20, 20, 1), np.uint8)) for s in (6, 8)]
    monkeypatch.setattr(validation, "_photographs", lambda: [as_image(p) for p in noise])


def read(trt, file: Path):
    log = tensorrt_engine._log(trt)
    builder = trt.Builder(log)
    return builder, *parse(file, builder, log, trt)


def export(size: str, folder: Path, image_size: int = 640, **options) -> Path:
    torch.manual_seed(0)
    return export_onnx(DFINE(SIZES[size]), folder / f"{size}.onnx", image_size, **options)


@pytest.mark.parametrize("size", ["n", "s", "l", *(pytest.param(s, marks=pytest.mark.slow) for s in "mx")])
def test_every_size_is_read_and_built_in_sixteen_bits_with_norms_in_thirty_two(trt, size, tmp_path):
    built = build_engine(export(size, tmp_path, number_format="fp16"), tmp_path / "x.engine", library=trt.__name__)
    for kind in ("NORMALIZATION", "SOFTMAX", "GRID_SAMPLE", "TOPK"):
        assert "HALF" not in built.layers[kind] and built.layers[kind]["FLOAT"] > 0, kind
    assert set(built.layers["CONVOLUTION"]) == {"HALF"}
    assert (tmp_path / "x.engine").stat().st_size > 1e6
    about = json.loads(about_path(tmp_path / "x.engine").read_text())
    assert about["precision"] == "fp16" and about["library"].startswith(trt.__name__)


def test_a_network_of_float32_has_no_sixteen_bits_and_one_of_free_sides_is_built(trt, tmp_path):
    file = export("pico", tmp_path, 160, dynamic_shapes=True)
    _, network, _, _parser = read(trt, file)
    assert not any("HALF" in kinds for kinds in layer_types(network).values())
    assert tuple(network.get_input(0).shape) == (-1, 3, -1, -1)
    assert build_engine(file, tmp_path / "x.engine", largest_side=320).file.is_file()


def test_eight_bits_are_built_from_symmetric_ranges(trt, tmp_path):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    file = export("pico", tmp_path, 64, number_format="int8", calibration=list(images), symmetric=True)
    assert build_engine(file, tmp_path / "x.engine").layers["QUANTIZE"]["INT8"] > 20


def test_eight_bits_of_trained_weights_are_built_with_their_biases_in_float(trt, tmp_path):
    """Fresh weights have biases of zero, which are left out; TensorRT reads no 32-bit integers."""
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    options = dict(number_format="int8", calibration=list(images), symmetric=True)
    file = export_onnx(DFINE.from_pretrained(WEIGHTS), tmp_path / "x.onnx", 64, **options)
    built = build_engine(file, tmp_path / "x.engine")
    assert built.layers["QUANTIZE"]["INT8"] > 20 and "INT32" not in built.layers.get("DEQUANTIZE", {})


def test_the_command_builds_and_says_that_it_did_not_run(trt, tmp_path, capsys, monkeypatch, photographs):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "x.engine"
    arguments = ["export", "--weights", str(WEIGHTS), "--to", "tensorrt", "--out", str(out), "--image-size", "96"]
    assert cli.main(arguments) == 3
    said = capsys.readouterr().out
    assert "built, not run" in said and "FAIL" not in said and "\ndone" not in said
    report = json.loads(report_path(out).read_text())
    assert (report["passed"], report["not_run"]) == (False, True)
    assert [check["name"] for check in report["checks"] if not check["run"]] == ["tensorrt: same answers"]
    assert any("its ONNX file" in check["name"] and check["passed"] for check in report["checks"])
    with pytest.raises(BackendError, match="NVIDIA GPU"):
        open_backend(out)


def test_what_tensorrt_cannot_read_is_said_with_its_reason(trt, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no file of this kind")
    with pytest.raises(Exception, match=r"x\.onnx"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
    with pytest.raises(BackendError, match="no such file"):
        build_engine(tmp_path / "y.onnx", tmp_path / "x.engine")
    assert not (tmp_path / "x.engine").exists()


def test_where_nothing_builds_engines_the_way_to_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorrt_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"\.\[tensorrt-rtx\]"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")


@pytest.mark.gpu
@pytest.mark.parametrize("number_format", ["fp32", "fp16"])
def test_an_engine_detects_what_the_weights_detect(trt, tmp_path, photographs, number_format):
    model = DFINE.from_pretrained(WEIGHTS)
    file = export_onnx(model, tmp_path / "x.onnx", 160, number_format=number_format)
    build_engine(file, tmp_path / "x.engine", largest_batch=4)  # batches of 7 go in two parts
    report = validate_export(WEIGHTS, tmp_path / "x.engine")
    assert report.passed, str(report)
