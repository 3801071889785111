"""Copies between the host and a GPU, counted on fake tensors, which know their device."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TO_HOST, FROM_HOST, SCALAR = "to the host", "from the host", "scalar from the host"


class HostCopies(TorchDispatchMode):
    """Counts copies for which the host waits; enter it inside `fake_cuda`.

    All other reads of a GPU are errors there. Copies from pinned memory with `non_blocking` are counted as
    `asynchronous`: nothing waits for them. (Fake tensors do not know pinned memory: the flag is what counts.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        result, name = function(*arguments, **options), function.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = arguments[1] if name == "copy_" else arguments[0]
            waits = not (options.get("non_blocking") or (name == "copy_" and len(arguments) > 2 and arguments[2]))
            if source.device.type != result.device.type:
                kind = TO_HOST if result.device.type == "cpu" else FROM_HOST
                self.counts[kind if waits or kind == TO_HOST else "asynchronous"] += 1
        elif name in ("index_put", "index_put_", "_index_put_impl_") and result.device.type != "cpu":
            indices_and_values = tree_leaves(arguments[1:3])
            self.counts[SCALAR] += sum(isinstance(x, Tensor) and x.device.type == "cpu" for x in indices_and_values)
        return result

    def waits(self) -> Counter[str]:
        return Counter({kind: n for kind, n in self.counts.items() if n and kind != "asynchronous"})
