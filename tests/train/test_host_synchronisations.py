"""Where the host waits for a GPU in a training step: counted on a CUDA device that is none."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from dfine_lib import DFINE
from dfine_lib.config import SIZES, TrainConfig
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.step import TrainStep

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))
from fake_cuda import CUDA, fake_cuda, gradients, moved

TINY = replace(
    SIZES["pico"], encoder_dim=32, encoder_feedforward=32, hidden_dim=32, feedforward=32, num_queries=10,
    num_denoising=4, num_classes=3, num_decoder_layers=2,
)  # fmt: skip
BUDGET = {"cuda to cpu": 1, "tolist": 1}  # the matching costs; at its end the step's losses and gradient norm


class Waits(TorchDispatchMode):
    """Counts copies between the host and a GPU that the host waits for.

    Any other read of a tensor's numbers (`item`, `nonzero`, a boolean index) is an error where tensors have none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        name = function.overloadpacket.__name__
        if name == "_to_copy":
            self._copied(arguments[0].device, options.get("device"), options.get("non_blocking"))
        if name == "copy_":
            self._copied(arguments[1].device, arguments[0].device, arguments[2:] == (True,))
        if name in ("index_put", "index_put_", "_index_put_impl_"):
            # A Python number that is put at indices is a tensor on the CPU here, and copied to the GPU.
            self._copied(arguments[2].device, arguments[0].device, False)
        return function(*arguments, **options)

    def _copied(self, source: torch.device, target: torch.device | None, non_blocking: bool | None) -> None:
        if target is not None and source.type != target.type and not non_blocking:
            self.counts[f"{source.type} to {target.type}"] += 1


def test_copies_that_the_host_waits_for_are_counted():
    with fake_cuda(), Waits() as waits:
        x, first = torch.zeros(3, device=CUDA), torch.zeros(1, dtype=torch.int64, device=CUDA)
        x[first] = x.new_zeros(())
        torch.zeros(3).to(CUDA, non_blocking=True), torch.zeros(3, device=CUDA).copy_(torch.zeros(3), True)
        assert not waits.counts
        x[first] = 1.0
        torch.zeros(3).to(x), x.copy_(torch.zeros(3)), torch.tensor([1.0, 2.0], device=CUDA), x.new_tensor([1.0])
        assert waits.counts == {"cpu to cuda": 5}
        x.cpu()
        assert waits.counts == {"cpu to cuda": 5, "cuda to cpu": 1}


@pytest.mark.parametrize(("precision", "counts"), [("fp32", (2, 3)), ("bf16", (1, 0)), ("bf16", (0, 0))])
def test_a_step_waits_twice_for_the_gpu(precision, counts, monkeypatch):
    train, model = TrainConfig(precision=precision), DFINE(TINY).train()
    with fake_cuda(), Waits() as waits:

        def to_list(tensor: Tensor) -> list[float]:
            waits.counts["tolist"] += 1
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
        waits.counts.clear()
        step([Batch(images, targets, none, none)])
    assert waits.counts == BUDGET
