"""Where a GPU would wait for the host in a step: what reads or moves a tensor's numbers, counted on the CPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.criterion import build_criterion

TINY = replace(
    SIZES["pico"], encoder_dim=32, encoder_feedforward=32, hidden_dim=32, feedforward=32, num_queries=10,
    num_denoising=4, num_classes=3, num_decoder_layers=2,
)  # fmt: skip
TO_HOST = ("cpu", "tolist", "item", "numpy", "__bool__", "__int__", "__float__", "__index__")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
# Of forward pass, criterion and backward pass. To be lowered with each that goes, never raised.
BUDGET = {"moved to a device": 9, "number put at indices": 4, "cpu": 3, "numpy": 3}


class Reads(TorchDispatchMode):
    """Counts operations whose result's shape or value the host has to know, boolean indices among them."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            self.counts["boolean index"] += 1
        if name.startswith(READS):
            self.counts[name] += 1
        return function(*arguments, **(options or {}))


class Calls(TorchFunctionMode):
    """Counts calls that end on the host, which dispatch nothing where tensors are on the CPU already."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in TO_HOST and arguments and isinstance(arguments[0], Tensor):
            self.counts[name] += 1
        places = [*arguments[1:], *(options or {}).values()]
        if name in ("to", "tensor", "as_tensor") and any(isinstance(each, torch.device) for each in places):
            self.counts["moved to a device"] += 1  # a copy from the host, unless the tensor is there already
        # A Python number that is put at indices is copied to a GPU first, and the host waits for it.
        if name == "__setitem__" and not isinstance(arguments[2], Tensor):
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            self.counts["number put at indices"] += any(isinstance(each, Tensor) for each in index)
        return function(*arguments, **(options or {}))


def test_what_stops_for_the_host_is_counted():
    counts: Counter[str] = Counter()
    x = torch.arange(3.0)
    with Calls(counts), Reads(counts):
        x[x > 0], x.sum().item(), x.nonzero(), bool(x[0] > 0), x.tolist()
        x[torch.tensor([0])] = 1
        x.to(x.device)
    assert {
        "moved to a device",
        "boolean index",
        "item",
        "nonzero",
        "__bool__",
        "tolist",
        "number put at indices",
    } <= set(counts)


@pytest.mark.parametrize("counts", [[2, 3], [1, 0]])
def test_a_step_reads_no_more_from_the_device_than_its_budget(counts):
    """In bf16, which takes the operations of a GPU: float32 on a CPU has backward passes of its own."""
    torch.manual_seed(0)
    model, criterion = DFINE(TINY).train(), build_criterion("pico")
    targets = [
        {"labels": torch.arange(n) % 3, "boxes": torch.rand(n, 4) / 4 + torch.tensor([0.4, 0.4, 0.1, 0.1])}
        for n in counts
    ]
    images = torch.rand(2, 3, 64, 64)
    found: Counter[str] = Counter()
    with Calls(found), Reads(found):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images, targets)
        losses = criterion(outputs, targets)
        sum(losses.values()).backward()

    assert +found <= Counter(BUDGET), found
