"""Colours of a training image, changed at random as torchvision does it, by faster arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)  # of red, green, blue, as in torchvision


def distort(image: Tensor, changes: Mapping[str, Any]) -> Tensor:
    """The changes that torchvision's `RandomPhotometricDistort` draws, but for the order of the channels.

    The order is left to whoever copies the image next. Torchvision cuts off pixels to whole numbers after every
    change, which darkens them by half a level of 255 each; here they are rounded to the nearest once, at the end.

    Args:
        image: uint8 `[3, H, W]`; not written to.
        changes: what `RandomPhotometricDistort.make_params` returns. None: not done.

    Returns:
        uint8 `[3, H, W]`, channels last in memory.
    """
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    brightness, contrast, saturation, hue = (changes[name] for name in names)
    if brightness is contrast is saturation is hue is None:
        return image
    planes = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if brightness is not None:
        planes.mul_(brightness).clamp_(max=255)
    if contrast is not None and changes["contrast_before"]:
        _change_contrast(planes, contrast)
    if saturation is not None:
        planes.mul_(saturation).add_(_grey(planes, 1 / saturation), alpha=1 - saturation).clamp_(0, 255)
    if hue is not None:
        turn_hue(planes, hue)
    if contrast is not None and not changes["contrast_before"]:
        _change_contrast(planes, contrast)
    planes.add_(0.5)  # to the nearest, since bytes are cut off
    rows = torch.empty(*image.shape[1:], 3, dtype=torch.uint8)
    for channel in range(3):
        rows[..., channel].copy_(planes[channel])
    return rows.permute(2, 0, 1)


def _grey(planes: Tensor, scale: float = 1.0) -> Tensor:
    """`[H, W]` of float planes `[3, H, W]`, times `scale`."""
    red, green, blue = (weight * scale for weight in _GREY)
    return planes[0].mul(red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue)


def _change_contrast(planes: Tensor, factor: float) -> None:
    mean = sum(weight * plane for weight, plane in zip(_GREY, planes.mean((1, 2)).tolist()))
    planes.mul_(factor).add_((1 - factor) * mean).clamp_(0, 255)


def turn_hue(planes: Tensor, turn: float) -> None:
    """Turn the hue of every pixel, in place; its largest and its smallest channel keep their values (HSV).

    As the hue turns, each channel climbs from the smallest value to the largest within a sixth of the circle, stays
    there for two, falls, and stays for two; the next channel in turning order (red, green, blue) follows a third later:

        sixth of the circle   1      2      3      4      5      6
        red                   max    falls  min    min    climbs max
        green                 climbs max    max    falls  min    min
        blue                  min    min    climbs max    max    falls

    So the other two channels say what a channel does, and no hue need be computed: while the next one is not below
    the previous one, a channel stays large or falls; otherwise it stays small or climbs.

    Args:
        planes: float32 `[3, H, W]`, red, green, blue.
        turn: in full circles, at most a sixth either way.
    """
    largest = torch.maximum(torch.maximum(planes[0], planes[1]), planes[2])
    smallest = torch.minimum(torch.minimum(planes[0], planes[1]), planes[2])
    way = (largest - smallest).mul_(6 * abs(turn))  # what a channel on its way moves by
    falling, climbing = largest - way, way.add_(smallest)
    step = 1 if turn > 0 else 2  # turning the other way, the other neighbour is next
    turned = []
    for channel in range(3):
        following, previous = planes[(channel + step) % 3], planes[(channel + 2 * step) % 3]
        moved = torch.where(following >= previous, falling, climbing)
        moved.add_(planes[channel]).sub_(following)
        turned.append(torch.minimum(torch.maximum(moved, smallest, out=moved), largest, out=moved))
    for plane, moved in zip(planes, turned, strict=True):
        plane.copy_(moved)
