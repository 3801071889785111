"""Where a model runs."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from dfine_lib.distributed import ALONE, Ranks
from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)


def pick_device(name: str = "auto", ranks: Ranks = ALONE) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    A GPU becomes the current one, so that nothing opens a context (half a gigabyte) on another: DataLoader's thread
    that pins memory and TensorRT use the current GPU, whatever device tensors are on.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        ranks: of several processes on a machine with GPUs, each takes its own.

    Returns:
        The device; a GPU always with its number.

    Raises:
        DfineError: no such device here, or not one for every process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.size > 1 and name != "cpu":
        if name != "cuda":
            raise DfineError(f"device {name!r} is one device: several processes train on cpu or on cuda")
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if device.index is not None:
                torch.cuda.set_device(device.index)
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DfineError(f"device {name!r} is not available here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def copy_to(device: torch.device | str, values: Tensor) -> Tensor:
    """Copy values made on the host to a device; the host does not wait for a GPU, which copies from pinned memory."""
    on_gpu = torch.device(device).type == "cuda"
    return values.pin_memory().to(device, non_blocking=True) if on_gpu else values.to(device)


def usable_precision(precision: str | None, device: torch.device) -> str:
    """The autocast precision to use: the one asked for, unless the device has no bf16 arithmetic; that is logged.

    Args:
        precision: fp32, bf16 or fp16; None: fp32, but on a GPU bf16, or fp16 where it has no bf16.
        device: where the model runs.

    Returns:
        In place of bf16, fp16 on a GPU (a scaler keeps gradients within its range) and fp32 on a CPU (faster there).
    """
    if precision is None:
        return "fp32" if device.type != "cuda" else "bf16" if has_bf16(device) else "fp16"
    if precision != "bf16" or has_bf16(device):
        return precision
    instead = "fp16" if device.type == "cuda" else "fp32"
    log.warning("%s has no bf16 arithmetic: %s is used instead", describe_device(device), instead)
    return instead


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16, and does not only imitate it."""
    if device.type == "cuda":  # of this GPU: torch.cuda.is_bf16_supported asks the current one
        return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= 8
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True  # autocast itself raises


def describe_device(device: torch.device) -> str:
    """A GPU's name, or the device's own."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def set_backends(matmul_precision: str, device: torch.device, cudnn_benchmark: bool | None = None) -> dict[str, Any]:
    """Set what torch keeps for the whole process; on GPUs only: on a CPU float32 is exact in any case.

    Training, evaluation and prediction by torch call this, so that the AP in a run and that of an evaluation compare.

    Args:
        matmul_precision: `high`, the default of every recipe: products and convolutions take TF32, whose factors have
            10 bits instead of 23; several times as fast, boxes off by up to a tenth of a pixel in 640. `highest` is
            exact for both; `medium` takes bf16 for products.
        device: where the model runs.
        cudnn_benchmark: whether cuDNN searches for the fastest convolutions; None: as it is.

    Returns:
        What is in force, for the run's folder.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"
        # cuDNN's attention, which torch prefers on an H100 or B200, makes a plan for each new number of queries, in up
        # to half a second. That number changes with the boxes of a batch; the other kernels take any.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if cudnn_benchmark is not None:
            torch.backends.cudnn.benchmark = cudnn_benchmark
    return {
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
