"""The prediction of training at scale: what it counts, that it is sound, that the page is what the program writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.scaling.costs import Counter, Step
from benchmarks.scaling.hardware import DATA_SETS, MACHINES
from benchmarks.scaling.page import as_page
from benchmarks.scaling.prediction import predict, predict_batch
from dfine_lib.recipes import get_recipe

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def costs() -> dict:
    return json.loads((FOLDER / "scaling.json").read_text())


def test_arithmetic_bytes_and_kernels_of_a_layer_are_counted():
    layer, x = nn.Linear(16, 8, bias=False), torch.rand(4, 16)
    with Counter() as counter:
        layer(x).relu()
    assert counter.flops == 2 * 4 * 16 * 8
    assert counter.kernels == 2
    assert counter.arithmetic_bytes == 4 * (4 * 16 + 16 * 8 + 4 * 8)
    assert counter.moving_bytes == 4 * (4 * 8 + 4 * 8)


def test_what_is_kept_for_the_backward_pass_grows_with_images_and_leaves_weights_out():
    kept = [Step("n", 64, images).counted()[1] for images in (1, 2, 3)]
    assert 0 < kept[1] - kept[0] == pytest.approx(kept[2] - kept[1], rel=0.05)


def test_the_page_is_what_the_program_writes(costs):
    assert (FOLDER / "scaling.md").read_text(encoding="utf-8") == as_page(costs)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("size", "nsmlx")
def test_a_prediction_is_sound(costs, machine, size):
    found = {gpus: predict(costs, size, DATA_SETS[0], MACHINES[machine], gpus) for gpus in (1, 2, 8, 64)}
    for gpus, each in found.items():
        assert each.batch_size >= gpus and each.memory <= MACHINES[machine].memory
        assert each.first == max(each.step_seconds, key=each.step_seconds.get)
        assert each.epoch_seconds == pytest.approx(DATA_SETS[0].images / each.images_per_second)
        assert each.images_per_second <= gpus * found[1].images_per_second * 1.3  # kernels may be started more seldom


def test_the_bottleneck_follows_the_machine(costs):
    h100, l_coco = MACHINES["h100"], get_recipe("l_coco")

    def first(machine, gpus=8, batch=128, **changes) -> str:
        return predict_batch(costs, "l", 1, replace(machine, **changes), gpus, batch, "bf16", l_coco).first

    assert first(h100, cores=0.01) == "decoding"
    assert first(h100, disk=1e6) == "disk"
    assert first(h100, gpus=16, batch=64, network=1e8) == "gradients"
    assert first(h100, bf16_flops=1e12) == "GPU arithmetic"
    assert first(h100, bandwidth=1e10) == "GPU memory"


def test_images_that_do_not_fit_are_taken_in_passes(costs):
    small = replace(MACHINES["4090"], memory=8e9)
    found = predict_batch(costs, "x", 1, small, 1, 32, "bf16", get_recipe("x_coco"))
    assert found.passes > 1 and found.memory <= small.memory
