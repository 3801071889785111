"""Where the host waits for a GPU in a training step: counted on a CUDA device that is none."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from dfine_lib import DFINE
from dfine_lib.config import SIZES, TrainConfig
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.step import TrainStep

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # fake tensors, and the counter of copies
from fake_cuda import CUDA, fake_cuda, gradients, moved
from host_copies import TO_HOST, HostCopies

TINY = replace(
    SIZES["pico"], encoder_dim=32, encoder_feedforward=32, hidden_dim=32, feedforward=32, num_queries=10,
    num_denoising=4, num_classes=3, num_decoder_layers=2,
)  # fmt: skip
BUDGET = {TO_HOST: 1, "tolist": 1}  # the matching costs; at its end the step's losses and gradient norm


@pytest.mark.parametrize(("precision", "counts"), [("fp32", (2, 3)), ("bf16", (1, 0)), ("bf16", (0, 0))])
def test_a_step_waits_twice_for_the_gpu(precision, counts, monkeypatch):
    train, model = TrainConfig(precision=precision), DFINE(TINY).train()
    with fake_cuda(), HostCopies() as copies:

        def to_list(tensor: Tensor) -> list[float]:
            copies.counts["tolist"] += 1
            return [0.5] * len(tensor)

        def backward(loss: Tensor) -> None:
            for parameter, gradient in gradients(loss).items():
                parameter.grad = gradient

        monkeypatch.setattr(FakeTensor, "tolist", to_list)
        monkeypatch.setattr(FakeTensor, "backward", backward)
        optimizer = torch.optim.SGD([p for p in moved(model).parameters() if p.requires_grad], foreach=True)
        step = TrainStep(model, build_criterion("pico"), optimizer, ModelEMA(model, train), train, CUDA)
        labels, none = torch.zeros(sum(counts), dtype=torch.int64, device=CUDA), torch.empty(0)
        targets = Targets(labels, torch.empty(len(labels), 4, device=CUDA), counts)
        images = torch.empty(len(counts), 3, 64, 64, device=CUDA)
        copies.counts.clear()
        step([Batch(images, targets, none, none)])
    assert copies.waits() == BUDGET, copies.counts
