"""Every form of file that `dfine export` writes detects what the weights detect: precisions, free sides, no top-k."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfine_lib import DFINE
from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.evaluate import postprocess
from dfine_lib.model.weights import load_weights, read_weights
from dfine_tools.deploy.backends import open_backend
from dfine_tools.deploy.export import export_onnx, least_side
from dfine_tools.deploy.validation import validate_export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
_RUNTIMES = ("onnxruntime", "openvino")
WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.fixture(scope="module")
def model() -> DFINE:
    return DFINE.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def free(model, tmp_path_factory) -> Path:
    """For images of any sides."""
    names = read_weights(WEIGHTS).category_names
    return export_onnx(model, tmp_path_factory.mktemp("forms") / "free.onnx", 160, names, dynamic_shapes=True)


@pytest.fixture(scope="module")
def half(model, tmp_path_factory) -> Path:
    names = read_weights(WEIGHTS).category_names
    return export_onnx(model, tmp_path_factory.mktemp("forms") / "half.onnx", 160, names, number_format="fp16")


@pytest.fixture(scope="module")
def every_token() -> DFINE:
    """The same weights with every token a query: else rounding may decide a near-tie between two candidates."""
    stored = read_weights(WEIGHTS)
    model = DFINE(replace(stored.model, num_queries=10_000))
    load_weights(model, stored)
    return model.eval()


@pytest.fixture(scope="module")
def raw(every_token, tmp_path_factory) -> Path:
    return export_onnx(every_token, tmp_path_factory.mktemp("forms") / "raw.onnx", (64, 96), raw=True)


def types(file: Path) -> dict[str, set[int]]:
    """Element types of what nodes of each kind put out."""
    shaped = onnx.shape_inference.infer_shapes(onnx.load(file))
    known = {value.name: value.type.tensor_type.elem_type for value in shaped.graph.value_info}
    found: dict[str, set[int]] = {}
    for node in shaped.graph.node:
        found.setdefault(node.op_type, set()).update(known[name] for name in node.output if name in known)
    return found


def test_sixteen_bits_pass_the_gate(half, photographs_of_noise):
    report = validate_export(WEIGHTS, half, images=photographs_of_noise, backends=["onnxruntime"])
    assert report.passed, str(report)


def test_free_sides_pass_the_gate_at_other_sides_too(free, photographs_of_noise):
    report = validate_export(WEIGHTS, free, images=photographs_of_noise, backends=["onnxruntime"])
    assert report.passed, str(report)
    assert {"onnxruntime: 384 x 640", "onnxruntime: 320 x 320"} <= {check.name for check in report.checks}


@pytest.fixture
def photographs_of_noise():
    import numpy as np

    rng = np.random.default_rng(1)
    return [np.kron(rng.integers(0, 255, (s, s, 3), np.uint8), np.ones((20, 20, 1), np.uint8)) for s in (6, 8)]


def test_in_sixteen_bits_norms_softmax_sampling_and_means_keep_thirty_two(half):
    sixteen, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    found = types(half)
    assert found["Conv"] == {sixteen} and sixteen in found["Gemm"]
    for kind in ("LayerNormalization", "Softmax", "GridSample", "ReduceSum", "TopK"):
        assert sixteen not in found[kind] and single in found[kind], kind
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    assert {i.type for i in session.get_inputs()} == {"tensor(float)", "tensor(int64)"}


def test_free_sides_begin_where_there_is_a_token_for_every_query(model, free):
    least = least_side(model.config)
    session = onnxruntime.InferenceSession(free, providers=["CPUExecutionProvider"])
    for height, width in ((least, least), (least, 256)):
        images = torch.rand(1, 3, height, width)
        _, boxes, _ = session.run(
            None, {"images": images.numpy(), "orig_target_sizes": torch.tensor([[width, height]]).numpy()}
        )
        assert boxes.shape[1] == 300 and abs(boxes).max() < 10 * 256


def test_a_raw_file_holds_logits_and_boxes_without_top_k(every_token, raw):
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["pred_logits", "pred_boxes"]
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    logits, boxes = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
    with torch.no_grad():
        full = every_token(images)
    answers = [torch.cat([logits, box_cxcywh_to_xyxy(boxes)], -1)]
    answers.append(torch.cat([full.pred_logits, box_cxcywh_to_xyxy(full.pred_boxes)], -1))
    off = (answers[0][:, :, None] - answers[1][:, None]).abs().amax(-1)
    assert off.amin(-1).max() < 2e-3 and off.amin(-2).max() < 2e-3
    assert "TopK" in types(raw), "the peaks of distributions"


def test_eight_bits_come_from_ranges_on_images_and_stay_near(model, tmp_path):
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 64), generator=draw, dtype=torch.uint8) for _ in range(4)]
    file = export_onnx(model, tmp_path / "8.onnx", 64, number_format="int8", calibration=images)
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert kinds.count("DequantizeLinear") > kinds.count("Conv") > 20
    session, batch = onnxruntime.InferenceSession(file), torch.stack(images).float() / 255
    sizes_wh = torch.full((4, 2), 64)
    _, _, scores = session.run(None, {"images": batch.numpy(), "orig_target_sizes": sizes_wh.numpy()})
    with torch.no_grad():
        expected = torch.stack([one.scores for one in postprocess(model(batch), sizes_wh)])
    assert (torch.from_numpy(scores) - expected).abs().max() < 0.1
    with pytest.raises(ValueError, match="8 bits need images"):
        export_onnx(model, tmp_path / "x.onnx", 64, number_format="int8")


def test_eight_bits_of_trained_weights_run_in_openvino_too(model, tmp_path):
    """Of fresh weights the factors of norms are 1, and OpenVINO has nothing to move where it does not fit."""
    pytest.importorskip("openvino")
    images = torch.randint(0, 256, (4, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    file = export_onnx(model, tmp_path / "8.onnx", 96, number_format="int8", calibration=list(images))
    found = [open_backend(file, backend=name).detect(images, torch.full((4, 2), 96))[0] for name in _RUNTIMES]
    for one, other in zip(*found, strict=True):
        assert (one.scores - other.scores).abs().mean() < 0.02  # each rounds in its own way


def test_eight_bits_are_measured_without_post_processing_too(model, tmp_path):
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    file = export_onnx(model, tmp_path / "8.onnx", 64, number_format="int8", raw=True, calibration=list(images))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits, _) = session.run(["pred_logits", "pred_boxes"], {"images": (images.float() / 255).numpy()})
    with torch.no_grad():
        expected = model(images.float() / 255).pred_logits.sigmoid().amax((1, 2))
    found = torch.from_numpy(logits).sigmoid().amax((1, 2))
    assert (found - expected).abs().max() < 0.1
    assert "QuantizeLinear" in types(file)


def test_what_is_asked_for_wrongly_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="none of fp32, fp16, int8"):
        export_onnx(model, tmp_path / "x.onnx", 64, number_format="fp8")
    with pytest.raises(ValueError, match="at least"):
        export_onnx(model, tmp_path / "x.onnx", 32, dynamic_shapes=True)
