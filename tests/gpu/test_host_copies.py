"""What would make the host wait for a GPU is seen on fake CUDA tensors."""

from __future__ import annotations

import contextlib

import pytest
import torch
from fake_cuda import CUDA, fake_cuda, moved
from host_copies import TO_HOST, HostCopies
from test_fake_cuda import CONFIGS, batch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from dfine_lib import DFINE
from dfine_lib.criterion import build_criterion

STEPS = {  # of x float32 [3] on a GPU
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where of one argument": lambda x: torch.where(x > 0),
    "boolean index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "number put at indices": lambda x: x.__setitem__(torch.arange(2, device=x.device), 1.0),
    "new tensor on the device": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "moved to the device": lambda x: torch.zeros(3).to(x.device),
    "unique": lambda x: x.unique(),
    "new tensor like another": lambda x: x.new_tensor([1.0, 2.0]),
    "moved to where another is": lambda x: torch.zeros(3).to(x),
    "moved to a device by its name": lambda x: torch.zeros(3).to(str(x.device)),
    "copied into": lambda x: x.copy_(torch.zeros(3)),
    "host's scalar put at indices": lambda x: x.index_put_((torch.arange(2, device=x.device),), torch.tensor(1.0)),
    "lengths of repeat_interleave": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64, device=x.device)),
}
# Of forward pass and criterion, in fp32.
BUDGET = {TO_HOST: 1}  # the matching costs


@pytest.mark.parametrize("step", STEPS)
def test_what_waits_for_a_gpu_is_seen_on_fake_tensors(step):
    with fake_cuda(), HostCopies() as copies:
        x = torch.zeros(3, device=CUDA)
        assert not copies.waits()
        with contextlib.suppress(DataDependentOutputException, DynamicOutputShapeException):
            STEPS[step](x)
            assert copies.waits()


def test_what_waits_for_nothing_is_not_counted():
    with fake_cuda(), HostCopies() as copies:
        x, index = torch.zeros(3, device=CUDA), torch.arange(2, device=CUDA)
        torch.zeros(3).pin_memory().to(x.device, non_blocking=True)
        x[index] = x.new_zeros(())
        torch.where(x > 0, x, 0.0), x.to(torch.bfloat16), x * 2, x.masked_fill(x > 0, 1.0)
        assert not copies.waits() and copies.counts["asynchronous"] == 1


def test_a_forward_pass_and_the_losses_wait_no_more_often_than_their_budget():
    with fake_cuda():
        model = moved(DFINE(CONFIGS["pico"]).train())
        images, targets = batch((3, 1))
        with HostCopies() as copies:
            build_criterion("pico")(model(images, targets), targets)
    assert copies.waits() == BUDGET, copies.counts
