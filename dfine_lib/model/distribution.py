"""Edge distributions: which offset a bin stands for, and the way from bins to boxes and back.

A box edge is not one number but a distribution over N + 1 bins. Bin n stands for the offset W(n) from the
edge of an initial box, as a fraction of that box's side; the edge is the mean of W under the distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dfine_lib.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from dfine_lib.errors import DfineError


def weighting_function(reg_max: int = 32, up: float = 0.5, reg_scale: float = 4.0, uniform: bool = False) -> Tensor:
    """Offset that each bin of an edge distribution stands for: W(n).

    Dense around 0 for fine corrections, sparse at the ends for large corrections.

    Args:
        reg_max: N, index of the last bin; even, at least 4.
        up: the paper's a; W(N - 1).
        reg_scale: 1 / c, where c is the paper's; sets the curvature.
        uniform: equal steps between the same ends instead; what the curve is worth is measured against these.

    Returns:
        float32 `[N + 1]`, increasing, odd about bin N / 2, as fractions of the box side.

    Raises:
        ValueError: `reg_max` odd or below 4; `up` or `reg_scale` not positive.

    Source: D-FINE (arXiv 2410.13842), section 4.1, eq. 4.
    """
    if reg_max < 4 or reg_max % 2:
        raise DfineError(f"reg_max must be even and at least 4, got {reg_max}")
    if up <= 0 or reg_scale <= 0:
        raise DfineError(f"up and reg_scale must be positive, got {up} and {reg_scale}")
    if uniform:
        return torch.arange(-(reg_max // 2), reg_max // 2 + 1) * (4 * up / reg_max)
    step = (up * reg_scale + 1) ** (2 / (reg_max - 2))
    inner = torch.tensor([step**i - 1 for i in range(1, reg_max // 2)]) / reg_scale  # [N/2 - 1]
    half = torch.cat([inner, torch.tensor([2 * up])])  # [N/2]
    return torch.cat([-half.flip(0), torch.zeros(1), half])  # [N + 1]


def expected_offsets(corner_logits: Tensor, bin_offsets: Tensor) -> Tensor:
    """Mean offset of each edge under its distribution.

    Args:
        corner_logits: `[..., 4, N + 1]`, edges left, top, right, bottom.
        bin_offsets: W, `[N + 1]`.

    Returns:
        `[..., 4]`, in the unit of `bin_offsets`.

    Source: D-FINE, section 4.1, eq. 2.
    """
    distribution = corner_logits.to(torch.promote_types(corner_logits.dtype, torch.float32)).softmax(-1)
    return (distribution * bin_offsets).sum(-1)  # a product and a sum stay float32 under autocast, a matmul does not


def decode_boxes(initial_boxes_cxcywh: Tensor, offsets: Tensor) -> Tensor:
    """Move the four edges of initial boxes by their offsets.

    Args:
        initial_boxes_cxcywh: b0, `[..., 4]`.
        offsets: left, top, right, bottom `[..., 4]` as fractions of the side; positive is away from the centre.

    Returns:
        Boxes cxcywh `[..., 4]`, in the unit of `initial_boxes_cxcywh`; a side is negative where its two edges have
        passed each other.
    """
    centre, size = initial_boxes_cxcywh[..., :2], initial_boxes_cxcywh[..., 2:]
    low = centre - (0.5 + offsets[..., :2]) * size
    high = centre + (0.5 + offsets[..., 2:]) * size
    return box_xyxy_to_cxcywh(torch.cat([low, high], dim=-1))


def encode_edges(
    initial_boxes_cxcywh: Tensor, target_boxes_cxcywh: Tensor, bin_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Between which two bins each target edge lies, and how far.

    Args:
        initial_boxes_cxcywh: b0, `[..., 4]`.
        target_boxes_cxcywh: `[..., 4]`, same unit.
        bin_offsets: W, `[N + 1]`, increasing.

    Returns:
        Left bin, int64 `[..., 4]` in 0..N-1, and weight of the right bin, `[..., 4]` in 0..1 (the left bin has
        the rest). Edges beyond the last bins get that last bin alone.
    """
    centre, size = initial_boxes_cxcywh[..., :2], initial_boxes_cxcywh[..., 2:]
    target_xyxy = box_cxcywh_to_xyxy(target_boxes_cxcywh)
    size = size + 1e-16  # a side of exactly 0 gives a very large offset, not a NaN
    distances = torch.cat([(centre - target_xyxy[..., :2]) / size, (target_xyxy[..., 2:] - centre) / size], dim=-1)
    offsets = (distances - 0.5).contiguous()
    last = bin_offsets.shape[0] - 1
    left = (torch.searchsorted(bin_offsets, offsets, right=True) - 1).clamp(0, last - 1)
    low, high = bin_offsets[left], bin_offsets[left + 1]
    return left, ((offsets - low) / (high - low)).clamp(0, 1)
