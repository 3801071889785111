"""CUDA's autocast on a CPU: each function casts its arguments as it does on CUDA.

The lists are those of "CUDA Ops that can autocast to float16", "… to float32" and "… promote to the widest input
type" of torch's documentation (Automatic Mixed Precision package, https://docs.pytorch.org/docs/stable/amp.html), with
what its source has besides (aten/src/ATen/autocast_mode.h: attention, nearest upsampling). A test compares them with
the casts of the installed torch. `torch.autocast("cpu")` has other lists: addcmul, log and sum stay in bf16 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

LOWER = frozenset((
    "matmul", "rmatmul", "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "multi_dot", "conv1d",
    "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "mm", "mv", "prelu",
    "scaled_dot_product_attention",
))  # fmt: skip
FLOAT32 = frozenset((
    "pow", "rpow", "rdiv", "rtruediv", "acos", "asin", "binary_cross_entropy_with_logits", "cosh",
    "cosine_embedding_loss", "cdist", "cosine_similarity", "cross_entropy", "cumprod", "cumsum", "dist", "erfinv",
    "exp", "expm1", "group_norm", "hinge_embedding_loss", "kl_div", "l1_loss", "layer_norm", "log", "log10",
    "log_softmax", "log1p", "log2", "margin_ranking_loss", "mse_loss", "multilabel_margin_loss", "multi_margin_loss",
    "nll_loss", "norm", "normalize", "pdist", "poisson_nll_loss", "prod", "reciprocal", "rsqrt", "sinh",
    "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus", "sum", "renorm", "tan",
    "triplet_margin_loss", "interpolate",
))  # fmt: skip
PROMOTE = frozenset((
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sample", "index_put", "scatter_add", "tensordot",
))  # fmt: skip


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """What `torch.autocast("cuda", dtype)` does, on the CPU."""
    # `torch.autocast` says where the model switches it off; it casts nothing itself, as all functions run without it.
    with torch.autocast("cpu", dtype), _CudaCasts(dtype):
        yield


class _CudaCasts(TorchFunctionMode):
    """The casts of CUDA's autocast.

    Products are those of tensor cores: factors of 16 bits, summed in float32, and the sum rounded; gradients likewise.
    So results do not hang on what a processor can do in 16 bits.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        enabled, name = torch.is_autocast_enabled("cpu"), function.__name__.strip("_")
        given = (arguments, options or {})
        with torch.autocast("cpu", enabled=False):
            if enabled and name in LOWER:
                arguments, options = tree_map(self._rounded, given)
                return function(*arguments, **options).to(self.dtype)
            if (enabled and name in FLOAT32) or (
                enabled and name in PROMOTE and any(map(_is_float32, tree_leaves(given)))
            ):
                given = tree_map(_float32, given)
            arguments, options = given
            return function(*arguments, **options)

    def _rounded(self, x: Any) -> Any:
        return x.to(self.dtype).float() if _is_float(x) else x


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64


def _is_float32(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float32


def _float32(x: Any) -> Any:
    return x.float() if _is_float(x) else x
