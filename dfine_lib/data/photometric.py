"""Colours of a training image, changed at random as torchvision does it, by faster arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

_GREY = (0.2989, 0.587, 0.114)  # of red, green, blue, as in torchvision


class Colours(NamedTuple):
    """What is done to one image, in this order. None: not done."""

    brightness: float | None  # factor
    contrast: float | None  # factor, about the mean grey; before or after the next two
    contrast_first: bool
    saturation: float | None  # factor, about the grey of the pixel
    hue: float | None  # turn, in full circles
    order: tuple[int, ...] | None  # channel k of the result is channel order[k]


class PhotometricDistortion:
    """torchvision's `RandomPhotometricDistort`: its draws, in its order; each change with probability `p`.

    Its pixels are cut off to whole numbers after every change, which darkens them by half a level of 255 each; ours
    are rounded to the nearest once, at the end.
    """

    def __init__(self, p: float) -> None:
        self._torchvision = v2.RandomPhotometricDistort(p=p)

    def draw(self, image: Tensor) -> Colours:
        """The changes to one image, from torch's global CPU generator."""
        drawn: dict[str, Any] = self._torchvision.make_params([image])
        order = drawn["channel_permutation"]
        return Colours(
            brightness=drawn["brightness_factor"],
            contrast=drawn["contrast_factor"],
            contrast_first=drawn["contrast_before"],
            saturation=drawn["saturation_factor"],
            hue=drawn["hue_factor"],
            order=None if order is None else tuple(order.tolist()),
        )


def distort(image: Tensor, colours: Colours) -> Tensor:
    """Those changes but the last, the order of the channels, which is left to whoever copies the image next.

    Args:
        image: uint8 `[3, H, W]`; not written to.

    Returns:
        uint8 `[3, H, W]`, channels last in memory.
    """
    if all(change is None for change in colours[:2] + colours[3:5]):
        return image
    planes = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if colours.brightness is not None:
        planes.mul_(colours.brightness).clamp_(max=255)
    if colours.contrast is not None and colours.contrast_first:
        _change_contrast(planes, colours.contrast)
    if colours.saturation is not None:
        planes.mul_(colours.saturation).add_(_grey(planes, 1 / colours.saturation), alpha=1 - colours.saturation)
        planes.clamp_(0, 255)
    if colours.hue is not None:
        turn_hue(planes, colours.hue)
    if colours.contrast is not None and not colours.contrast_first:
        _change_contrast(planes, colours.contrast)
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
