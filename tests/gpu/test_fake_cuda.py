"""Every size in every precision, with odd batches, on a CUDA device that is none: devices, types, gradients."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from fake_cuda import CUDA, fake_cuda, gradients, moved
from torch import Tensor, nn

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.criterion import build_criterion
from dfine_lib.criterion.criterion import term_names
from dfine_lib.data.targets import Targets
from dfine_lib.evaluate.postprocess import postprocess
from dfine_tools.deploy.graph import RawDetector, graph_form

# Of each size, with two decoder layers: the others are like the second.
CONFIGS = {size: replace(config, num_decoder_layers=2) for size, config in SIZES.items()}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCHES = {"no boxes": (0, 0), "one image": (3,), "300 boxes in an image": (300, 0)}
# Each size meets every batch and every precision; all three of all three would take three times as long.
CASES = [
    (size, precision, list(BATCHES)[(i + j) % 3])
    for i, size in enumerate(CONFIGS)
    for j, precision in enumerate(DTYPES)
]
EVALUATED = [CASES[3 * i + i % 3] for i in range(len(CONFIGS))]  # each size once: the operations are those of training
SIDE = 64  # pixels


def autocast(precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cuda", DTYPES[precision], enabled=precision != "fp32")


def batch(counts: tuple[int, ...], device: torch.device = CUDA) -> tuple[Tensor, Targets]:
    images = torch.empty(len(counts), 3, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(sum(counts), dtype=torch.int64, device=device)
    return images, Targets(labels, torch.empty(sum(counts), 4, device=device), counts)


def test_what_mixes_devices_or_reads_numbers_is_an_error():
    with fake_cuda():
        x = torch.zeros(3, device=CUDA)
        with pytest.raises(RuntimeError, match="on the same device"):
            x + torch.zeros(3)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            x.sum().item()
        with pytest.raises(Exception, match="nonzero"):
            x[x > 0]
        with pytest.raises(AssertionError, match="on a GPU"):
            x.numpy()


def test_gradients_of_fake_tensors_go_where_those_of_real_ones_go():
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x).sigmoid() * x.mean(1, keepdim=True)).sum()

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    real = network()
    real[2].weight.requires_grad_(False)
    loss(real, torch.rand(2, 3, 5, 5)).backward()
    with fake_cuda():
        fake = moved(network())
        fake[2].weight.requires_grad_(False)
        with autocast("bf16"):
            value = loss(fake, torch.empty(2, 3, 5, 5, device=CUDA))
        found = gradients(value)
    for (name, parameter), ours in zip(real.named_parameters(), fake.parameters(), strict=True):
        assert (parameter.grad is None) == (ours not in found), name
        assert parameter.grad is None or (found[ours].shape, found[ours].dtype) == (ours.shape, torch.float32), name


@pytest.mark.parametrize(("size", "precision", "boxes"), CASES)
def test_a_training_step_stays_on_the_gpu_and_reaches_every_parameter(size, precision, boxes):
    config, counts = CONFIGS[size], BATCHES[boxes]
    model, criterion = DFINE(config).train(), build_criterion("n_coco")
    with fake_cuda():
        images, targets = batch(counts)
        with autocast(precision):
            outputs = moved(model)(images, targets)
        losses = criterion(outputs, targets)
        found = gradients(sum(losses.values()))
    assert outputs.pred_logits.dtype == DTYPES[precision]
    names = term_names(criterion.config, config)
    assert set(losses) == {name for name in names if sum(counts) or "_dn_" not in name}
    assert {(value.dtype, value.device) for value in losses.values()} == {(torch.float32, CUDA)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = found.get(parameter)
            assert gradient is not None, f"{name} has no gradient"
            assert (gradient.dtype, gradient.device) == (torch.float32, CUDA), name
            assert gradient.shape == parameter.shape, name


@pytest.mark.parametrize(("size", "precision", "boxes"), EVALUATED)
def test_an_evaluation_stays_on_the_gpu(size, precision, boxes):
    model = DFINE(CONFIGS[size]).eval()
    with fake_cuda(), torch.no_grad():
        images, _ = batch(BATCHES[boxes])
        with autocast(precision):
            outputs = moved(model)(images)
        found = postprocess(outputs, torch.full((len(images), 2), SIDE, device=CUDA))
    assert len(found) == len(images)
    for one in found:
        assert {one.labels.device.type, one.boxes_xyxy.device.type, one.scores.device.type} == {"cpu"}
        assert one.boxes_xyxy.dtype == one.scores.dtype == torch.float32


@pytest.mark.parametrize("size", ["n", "l"])
def test_the_graph_that_predictions_run_stays_on_the_gpu(size):
    detector = RawDetector(graph_form(DFINE(SIZES[size]).eval(), (SIDE, SIDE)))
    with fake_cuda(), torch.no_grad():
        outputs = moved(detector)(batch((1,))[0])
    assert {value.device for value in outputs} == {CUDA}


def test_what_is_kept_between_calls_is_never_fake_in_a_real_call_nor_of_another_mode():
    """Positions and anchors are kept by size: made while something traces the model, they would be fake for good."""
    cpu = torch.device("cpu")
    model = DFINE(CONFIGS["pico"]).train()

    def real() -> Tensor:
        torch.manual_seed(0)
        images, targets = torch.rand(2, 3, SIDE, SIDE), Targets(torch.zeros(3).long(), torch.rand(3, 4), (2, 1))
        return model(images, targets).pred_boxes

    before = real()
    for device in (CUDA, cpu, cpu):
        with fake_cuda():
            fake = moved(DFINE(CONFIGS["pico"]).train(), device)(*batch((2, 1), device))
            assert fake.pred_boxes.device == device
        after = real()
        assert type(after) is Tensor and torch.equal(after, before)
