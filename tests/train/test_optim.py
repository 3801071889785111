"""Schedule and groups; the published groups are held against the golden manifests in tests/model."""

from __future__ import annotations

import math

import pytest

from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train.optim import build_optimizer, lr_multiplier, parameter_groups, warmup_factor


def test_warm_up_by_hand():
    train = get_recipe("n_coco").train
    assert warmup_factor(train, 0) == 1 / 500
    assert warmup_factor(train, 249) == 0.5
    assert warmup_factor(train, 499) == warmup_factor(train, 10_000) == 1.0
    assert warmup_factor(get_recipe("l_obj2coco").train, 0) == 1.0


def test_published_learning_rates_are_constant_to_the_end():
    assert lr_multiplier(get_recipe("l_coco").train, 999, 1000) == 1.0


def test_a_cosine_follows_the_constant_part():
    train = changed(get_recipe("pico"), {"train.warmup_iterations": 0, "train.flat_fraction": 0.5}).train
    assert lr_multiplier(train, 50, 100) == 1.0
    assert lr_multiplier(train, 75, 100) == pytest.approx(0.05 + 0.95 * 0.5)
    assert lr_multiplier(train, 99, 100) == pytest.approx(0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 0.98)))
    factors = [lr_multiplier(train, i, 100) for i in range(100)]
    assert factors == sorted(factors, reverse=True)


def test_every_trainable_parameter_is_in_one_group():
    model = DFINE.from_recipe("pico")
    groups = parameter_groups(model, get_recipe("pico").train)
    assert [g["name"] for g in groups] == ["backbone", "backbone_norm", "other_norm_and_bias", "other"]
    members = [id(p) for g in groups for p in g["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [g["weight_decay"] for g in groups] == [1e-4, 0.0, 0.0, 1e-4]


def test_frozen_parameters_are_in_none():
    model = DFINE.from_recipe("l_coco", num_decoder_layers=1)
    groups = build_optimizer(model, get_recipe("l_coco").train).param_groups
    assert [g["name"] for g in groups] == ["backbone", "other_norm_and_bias", "other"]
