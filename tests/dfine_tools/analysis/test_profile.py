from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_tools.analysis.profile import profile
from dfine_tools.deploy.deployed import deploy_mode
from dfine_tools.published import MEASURED_COST, PUBLISHED_COST

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("size", "nsmlx")
def test_every_count_of_the_authors_is_met_exactly_and_rounds_to_their_table(size):
    manifest = json.loads((GOLDEN / f"manifest_{size}.json").read_text())
    total = profile(f"{size}_coco").total
    assert total.parameters == manifest["parameters"]
    assert total.deployed_parameters == manifest["deploy_parameters"]
    assert total.macs == manifest["deploy_macs_640"]
    assert total.flops == manifest["deploy_flops_640"]
    assert MEASURED_COST[size] == (total.deployed_parameters, total.flops)
    assert PUBLISHED_COST[size] == (round(total.deployed_parameters / 1e6), round(total.flops / 1e9))


@pytest.mark.parametrize("image_hw", [(160, 160), (96, 192)])
def test_multiply_adds_are_those_that_pytorch_counts_while_the_deployed_model_runs(image_hw):
    config = SIZES["pico"]
    model = deploy_mode(DFINE(config))
    plain = sdpa_kernel(SDPBackend.MATH)  # attention as products that the counter sees
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(torch.rand(1, 3, *image_hw))
    total = profile(config, image_hw).total
    queries, layers, bins = config.num_queries, config.num_decoder_layers, config.reg_max + 1
    # PyTorch sees attention products, and the mean over bins once; sampling is not among its products.
    sampling = 5 * queries * sum(config.points_per_level) * config.hidden_dim * layers
    means = 4 * queries * bins * layers
    seen = total.macs - means * bins + (total.left_out_macs - sampling)
    assert counter.get_total_flops() in (2 * seen, 2 * (seen + means))  # as the mean is a product, or a sum


def test_parameters_are_those_of_the_model_part_by_part():
    model = DFINE.from_recipe("pico", num_classes=7)
    counted = profile(model)
    for name, part in counted.parts.items():
        assert part.parameters == sum(p.numel() for p in getattr(model, name).parameters()), name
    assert counted.total.parameters == sum(p.numel() for p in model.parameters())


def test_a_recipe_its_shape_and_its_model_count_the_same():
    assert profile("pico") == profile(SIZES["pico"]) == profile(DFINE.from_recipe("pico"))


def test_more_queries_cost_the_decoder_only():
    config = SIZES["pico"]
    few, many = profile(config), profile(replace(config, num_queries=80))
    assert few.backbone == many.backbone and few.encoder == many.encoder
    assert few.decoder.macs < many.decoder.macs
    assert few.decoder.deployed_parameters == many.decoder.deployed_parameters


def test_an_image_of_another_size_costs_the_backbone_in_proportion():
    small, large = profile("pico", (320, 320)), profile("pico", (640, 640))
    assert large.backbone.macs == 4 * small.backbone.macs
    assert large.total.parameters == small.total.parameters


def test_what_is_unknown_or_misshapen_is_refused():
    with pytest.raises(ValueError, match="unknown recipe"):
        profile("q_coco")
    with pytest.raises(ValueError, match="multiples of 32"):
        profile("pico", (100, 100))
