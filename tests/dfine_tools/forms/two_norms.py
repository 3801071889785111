"""What `test_batch_norm_sync.py` computes in each of two processes: a synchronised norm, plain and compiled."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dfine_tools.forms.batch_norm_sync import synchronise_without_stops

PARTS = (slice(0, 3), slice(3, 5))  # images of each process


class Dispatched(TorchDispatchMode):
    """Counts what is dispatched, by name; a boolean index apart."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        boolean = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        self.counts["boolean index" if boolean else name] += 1
        return function(*arguments, **(options or {}))


def images_and_weights(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps whose mean is large against their deviation, and weights of the sum that is the loss."""
    draw = torch.Generator().manual_seed(0)
    x, of_loss = (torch.randn(5, 6, 4, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    return (3 * x + 100).to(dtype), of_loss.to(dtype)


def norm(dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    plain, draw = nn.BatchNorm2d(6).to(dtype), torch.Generator().manual_seed(1)
    for parameter in plain.parameters():
        parameter.data.copy_(torch.randn(6, generator=draw))
    return plain


def step(module: nn.Module, part: slice = slice(None), compiled: bool = False) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a step over some of the images."""
    x, of_loss = (each[part] for each in images_and_weights())
    x = x.clone().requires_grad_()
    y = (torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module)(x)
    (y * of_loss).sum().backward()
    found = {"y": y.detach(), "x": x.grad} | {name: p.grad for name, p in module.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in module.named_buffers()}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(norm())
    assert synchronise_without_stops(synchronised)
    ours = [copy.deepcopy(synchronised) for _ in range(3)]
    with Dispatched() as dispatched:
        results = {"plain": step(ours[0], PARTS[rank])}
    results |= {"dispatched": dict(dispatched.counts), "compiled": step(ours[1], PARTS[rank], compiled=True)}
    images, _ = images_and_weights()
    explained = torch._dynamo.explain(ours[2])(images[PARTS[rank]].requires_grad_())
    results["breaks"] = explained.graph_break_count
    ours[0].eval()
    results["in evaluation"] = ours[0](images)
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
