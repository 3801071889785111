"""What is exported is the model: the graph of few nodes gives what the model gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dfine_lib import DFINE
from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.config import SIZES
from dfine_lib.model.hgnetv2 import ConvBlock, LearnableAffine
from dfine_lib.model.hybrid_encoder import HybridEncoder
from dfine_lib.model.layers import FrozenBatchNorm2d
from dfine_tools.deploy.deployed import ClampedConv
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.graph import graph_form
from dfine_tools.deploy.graph.encoder import GraphEncoder
from dfine_tools.deploy.graph.padding import join_padding
from dfine_tools.deploy.images import read_image
from dfine_tools.deploy.predict import network_input
from dfine_tools.deploy.validation import validate_export


def as_if_trained(model: DFINE, images: Tensor) -> DFINE:
    """Norms that fit the images, affines of both signs, heads that are not zero: fresh ones would hide mistakes."""

    def fit(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 0.1)

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    for module in model.modules():
        if isinstance(module, LearnableAffine):
            nn.init.uniform_(module.scale, -0.2, 1.4), nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model


@pytest.mark.parametrize(("scale", "bias"), [(2.0, -1.0), (0.5, 3.0), (-2.0, 1.0), (0.0, 0.5)])
def test_an_affine_behind_a_relu_is_a_limit_also_at_the_border(scale, bias):
    torch.manual_seed(0)
    block = ConvBlock(2, 3, 3, use_lab=True).eval()
    block.lab.scale.data.fill_(scale), block.lab.bias.data.fill_(bias)
    conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 4)
    block.conv, block.bn = conv, nn.Identity()
    with torch.no_grad():
        expected = block(x)
        torch.testing.assert_close(ClampedConv(conv, scale, bias)(x), expected)
    assert torch.equal(expected == bias, torch.isclose(expected, torch.tensor(bias)))


@pytest.mark.parametrize("image_hw", [(96, 128), (64, 64)])
@pytest.mark.parametrize("size", ["pico", "n", "s", "l"])
def test_it_answers_as_the_model_does(size, image_hw):
    torch.manual_seed(0)
    every_token = replace(SIZES[size], num_queries=10_000)  # else a near-tie decides who is the last query
    # Two 64 x 64 images have eight numbers a channel at stride 32; norms that fit them make rounding 6e-3 of a logit.
    model, images = as_if_trained(DFINE(every_token), torch.rand(2, 3, 128, 128)), torch.rand(2, 3, *image_hw)
    with torch.no_grad():
        full = model(images)
        logits, boxes = graph_form(model, image_hw)(images)
    expected = torch.cat([box_cxcywh_to_xyxy(full.pred_boxes), full.pred_logits], dim=-1)
    found = torch.cat([boxes, logits], dim=-1).view_as(expected)
    off = (expected[:, :, None] - found[:, None]).abs().amax(-1)  # [B, Q, Q], whatever the order
    assert off.amin(-1).max() < 2e-3 and off.amin(-2).max() < 2e-3


def test_of_a_change_in_the_weights_the_answer_is_another():
    """The test above would see a wrong fold: a small change of one lateral convolution moves the answers."""
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    model = as_if_trained(DFINE(SIZES["pico"]), images)
    with torch.no_grad():
        before = graph_form(model, (64, 64))(images)[0]
        model.encoder.lateral_convs[0].conv.weight.mul_(1.1)
        after = graph_form(model, (64, 64))(images)[0]
    assert (before.sort(0).values - after.sort(0).values).abs().max() > 2e-3


@pytest.mark.parametrize(
    "change",
    [{"quality_head": False}, {"uniform_bins": True}, {"published_positions": True}, {"direct_regression": True}],
)
def test_a_model_of_an_ablation_is_exported_as_what_it_is(change):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 96)
    model = as_if_trained(DFINE(replace(SIZES["pico"], num_queries=10_000, **change)), images)
    with torch.no_grad():
        full, (logits, _) = model(images), graph_form(model, (64, 96))(images)
    torch.testing.assert_close(logits.sort(0).values, full.pred_logits[0].sort(0).values, rtol=0, atol=2e-3)


def test_the_encoder_has_no_lateral_convolution_left():
    config = SIZES["l"]
    with torch.no_grad():
        encoder = HybridEncoder(config, [64, 1024, 2048]).eval()
        for module in encoder.modules():  # as deployed
            if hasattr(module, "norm") and isinstance(module.norm, nn.BatchNorm2d):
                module.conv.bias = nn.Parameter(torch.zeros(module.conv.out_channels))
                module.norm = nn.Identity()
        graph = GraphEncoder(encoder, [(16, 16), (8, 8), (4, 4)])
    assert not [name for name, _ in graph.named_modules() if "lateral" in name]
    # Narrow backbone maps go straight into the fusion, wide ones by a projection: whichever is less work.
    assert [type(p) is nn.Identity for p in graph.projections] == [True, False, False]


def test_padding_goes_into_what_reads_it_if_it_pads_alike():
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    import numpy as np

    def graph(kind: str, value: float):
        nodes = [
            onnx.helper.make_node("Pad", ["x", "amounts", "value"], ["padded"]),
            onnx.helper.make_node(kind, ["padded", "w"][: 2 if kind == "Conv" else 1], ["y"], kernel_shape=[2, 2]),
        ]
        constants = {
            "amounts": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "value": np.float32(value),
            "w": np.ones((1, 1, 2, 2), np.float32),
        }  # fmt: skip
        info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 3, 3]) for name in "xy"]
        tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
        made = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], tensors)
        return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)

    x = -np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    for kind, value, joined in (
        ("Conv", 0, True),
        ("Conv", 1, False),
        ("MaxPool", -np.inf, True),
        ("MaxPool", 0, False),
    ):
        model = graph(kind, value)
        expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        join_padding(model)
        assert len(model.graph.node) == (1 if joined else 2), (kind, value)
        found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")])
def test_the_file_of_every_size_passes_the_gate_on_photographs(size, tmp_path):
    """Training form = ONNX Runtime = OpenVINO: batches of 1, 2 and 7, at 640 x 640, 384 x 640 and 320 x 320."""
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    datasets = pytest.importorskip("sklearn.datasets")
    files = sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))
    torch.manual_seed(0)
    pixels = torch.stack([network_input(read_image(file), (640, 640)) for file in files]).float() / 255
    model = as_if_trained(DFINE(SIZES[size]), pixels)
    file = export_onnx(model, tmp_path / f"{size}.onnx", 640, dynamic_shapes=True)
    report = validate_export(model, file, images=files)
    assert report.passed, str(report)
    names = {check.name for check in report.checks}
    assert {f"{kind}: {hw}" for kind in ("onnxruntime", "openvino") for hw in ("384 x 640", "320 x 320")} <= names
