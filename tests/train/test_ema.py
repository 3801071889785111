"""The exponential moving average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dfine_lib.config import TrainConfig
from dfine_lib.train.ema import ModelEMA


def settings(decay: float, ramp: int) -> TrainConfig:
    return TrainConfig(ema_decay=decay, ema_ramp=ramp)


def test_ema_weights_worked_out_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = ModelEMA(model, settings(0.9, 0))
    model.weight.data.fill_(1.0)
    ema.update(model)
    ema.update(model)
    assert ema.module.weight.item() == pytest.approx(0.1 + 0.9 * 0.1)


def test_the_ema_warm_up_counts_from_one():
    ema = ModelEMA(nn.Linear(1, 1), settings(0.9999, 1000))
    assert ema.decay_at(1) == pytest.approx(0.9999 * (1 - math.exp(-1 / 1000)))
    assert ema.decay_at(100_000) == pytest.approx(0.9999)


def test_buffers_are_averaged_and_integer_ones_keep_their_own_value():
    model = nn.BatchNorm1d(1)
    ema = ModelEMA(model, settings(0.5, 0))
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(9)
    ema.update(model)
    assert ema.module.running_mean.item() == 2.0
    assert ema.module.num_batches_tracked.item() == 0


def test_a_decay_lowered_while_training_takes_effect():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = ModelEMA(model, settings(0.9, 0))
    ema.decay = 0.0
    model.weight.data.fill_(1.0)
    ema.update(model)
    assert ema.module.weight.item() == 1.0


def test_the_ema_model_needs_no_gradient_and_stays_in_eval_mode():
    ema = ModelEMA(nn.Linear(2, 2), TrainConfig())
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())
    assert not any(torch.equal(p, q) and p is q for p, q in zip(ema.module.parameters(), nn.Linear(2, 2).parameters()))


def test_updates_follow_a_model_whose_weights_are_loaded_and_another_model():
    def model(value: float) -> nn.Module:
        linear = nn.Linear(1, 1, bias=False)
        nn.init.constant_(linear.weight, value)
        return linear

    first, ema = model(0.0), ModelEMA(model(0.0), settings(0.5, 0))
    ema.update(first)
    first.load_state_dict(model(8.0).state_dict())
    ema.update(first)
    assert ema.module.weight.item() == 4.0
    ema.module.load_state_dict(model(2.0).state_dict())
    ema.update(first)
    assert ema.module.weight.item() == 5.0
    ema.update(model(1.0))
    assert ema.module.weight.item() == 3.0
