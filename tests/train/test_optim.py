"""Schedule and groups; the published groups are held against the golden manifests in tests/model."""

from __future__ import annotations

import math

import pytest

from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train.optim import build_optimizer, parameter_groups, rate_factor, warmup_factor


def test_warm_up_by_hand():
    assert warmup_factor("n_coco", 0) == 1 / 500
    assert warmup_factor("n_coco", 249) == 0.5
    assert warmup_factor("n_coco", 499) == warmup_factor("n_coco", 10_000) == 1.0
    assert warmup_factor("l_obj2coco", 0) == 1.0


def test_published_rates_stay_flat_to_the_end():
    assert rate_factor("l_coco", 999, 1000) == 1.0


def test_a_cosine_fills_what_the_flat_part_leaves():
    recipe = changed(get_recipe("pico"), {"train.warmup_iterations": 0, "train.flat_fraction": 0.5})
    assert rate_factor(recipe, 50, 100) == 1.0
    assert rate_factor(recipe, 75, 100) == pytest.approx(0.05 + 0.95 * 0.5)
    assert rate_factor(recipe, 99, 100) == pytest.approx(0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 0.98)))
    factors = [rate_factor(recipe, i, 100) for i in range(100)]
    assert factors == sorted(factors, reverse=True)


def test_every_trainable_parameter_is_in_one_group():
    model = DFINE.from_recipe("pico")
    groups = parameter_groups(model, "pico")
    assert [g["name"] for g in groups] == ["backbone", "backbone_norm", "other_norm_and_bias", "other"]
    members = [id(p) for g in groups for p in g["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [g["weight_decay"] for g in groups] == [1e-4, 0.0, 0.0, 1e-4]


def test_frozen_parameters_are_in_none():
    groups = build_optimizer(DFINE.from_recipe("l_coco", num_decoder_layers=1), "l_coco").param_groups
    assert [g["name"] for g in groups] == ["backbone", "other_norm_and_bias", "other"]
