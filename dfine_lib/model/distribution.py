"""Edge distributions: which offset a bin stands for, and the way from bins to boxes and back.

A box edge is not one number but a distribution over N + 1 bins. Bin n stands for the offset W(n) from the
edge of an initial box; the edge is the mean of W under the distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh


def weighting_function(reg_max: int = 32, up: float = 0.5, reg_scale: float = 4.0, uniform: bool = False) -> Tensor:
    """Offset that each bin of an edge distribution stands for: W(n).

    Dense around 0 for fine corrections, sparse at the ends for rescues.

    Args:
        reg_max: N, index of the last bin; even, at least 4.
        up: the paper's a; W(N - 1) as a fraction of the box side.
        reg_scale: 1 / c; sets the curvature, and the unit of the result.
        uniform: equal steps between the same ends instead; what the curve is worth is measured against these.

    Returns:
        float32 `[N + 1]`, increasing, odd about bin N / 2, in box side / reg_scale
        (divide by `reg_scale` for the paper's W, a fraction of the side).

    Raises:
        ValueError: `reg_max` odd or below 4; `up` or `reg_scale` not positive.

    Source: D-FINE (arXiv 2410.13842), section 4.1, eq. 4.
    """
    if reg_max < 4 or reg_max % 2:
        raise ValueError(f"reg_max must be even and at least 4, got {reg_max}")
    if up <= 0 or reg_scale <= 0:
        raise ValueError(f"up and reg_scale must be positive, got {up} and {reg_scale}")
    bound = up * reg_scale  # W(N - 1)
    if uniform:
        return torch.arange(-(reg_max // 2), reg_max // 2 + 1) * (4 * bound / reg_max)
    step = (bound + 1) ** (2 / (reg_max - 2))
    inner = torch.tensor([step**i - 1 for i in range(1, reg_max // 2)])  # [N/2 - 1]
    half = torch.cat([inner, torch.tensor([2 * bound])])  # [N/2]
    return torch.cat([-half.flip(0), torch.zeros(1), half])  # [N + 1]


def expected_offsets(corner_logits: Tensor, bin_offsets: Tensor) -> Tensor:
    """Mean offset of each edge under its distribution.

    Args:
        corner_logits: `[..., 4 * (N + 1)]`, edges left, top, right, bottom one after the other.
        bin_offsets: W, `[N + 1]`.

    Returns:
        `[..., 4]`, in the unit of `bin_offsets`.

    Source: D-FINE, section 4.1, eq. 2.
    """
    logits = corner_logits.to(torch.promote_types(corner_logits.dtype, torch.float32))
    distribution = logits.unflatten(-1, (4, bin_offsets.shape[0])).softmax(-1)
    return (distribution * bin_offsets).sum(-1)  # a product and a sum stay float32 under autocast, a matmul does not


def decode_boxes(initial_boxes_cxcywh: Tensor, offsets: Tensor, reg_scale: Tensor | float) -> Tensor:
    """Move the four edges of initial boxes by their offsets.

    Args:
        initial_boxes_cxcywh: b0, `[..., 4]`.
        offsets: left, top, right, bottom `[..., 4]` in box side / reg_scale; positive is away from the centre.
        reg_scale: 1 / c.

    Returns:
        Boxes cxcywh `[..., 4]`, in the unit of `initial_boxes_cxcywh`; a side is negative where its two edges have
        passed each other.
    """
    centre, size = initial_boxes_cxcywh[..., :2], initial_boxes_cxcywh[..., 2:]
    unit = size / reg_scale
    low = centre - (0.5 * reg_scale + offsets[..., :2]) * unit
    high = centre + (0.5 * reg_scale + offsets[..., 2:]) * unit
    return box_xyxy_to_cxcywh(torch.cat([low, high], dim=-1))


def encode_edges(
    initial_boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor, bin_offsets: Tensor, reg_scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Between which two bins each target edge lies, and how far.

    Args:
        initial_boxes_cxcywh: b0, `[..., 4]`.
        target_boxes_cxcywh: `[..., 4]`, same unit.
        bin_offsets: W, `[N + 1]`, increasing.
        reg_scale: 1 / c.

    Returns:
        Left bin, int64 `[..., 4]` in 0..N-1, and weight of the right bin, `[..., 4]` in 0..1 (the left bin has
        the rest). Edges beyond the last bins get that last bin alone.
    """
    centre, size = initial_boxes_cxcywh[..., :2], initial_boxes_cxcywh[..., 2:]
    target_xyxy = box_cxcywh_to_xyxy(target_boxes_cxcywh)
    unit = size / reg_scale + 1e-16
    distances = torch.cat([(centre - target_xyxy[..., :2]) / unit, (target_xyxy[..., 2:] - centre) / unit], dim=-1)
    offsets = (distances - 0.5 * reg_scale).contiguous()
    last = bin_offsets.shape[0] - 1
    left = (torch.searchsorted(bin_offsets, offsets, right=True) - 1).clamp(0, last - 1)
    low, high = bin_offsets[left], bin_offsets[left + 1]
    return left, ((offsets - low) / (high - low)).clamp(0, 1)
