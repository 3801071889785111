"""One sample on its way to a batch: strong augmentation, flip, stretch; and the sides of multi-scale training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dfine_lib.boxes import box_iou, box_xyxy_to_cxcywh
from dfine_lib.config import DataConfig
from dfine_lib.data.photometric import distort


class Sample(NamedTuple):
    """One image with its boxes."""

    image: Tensor  # uint8 [3, H, W]
    labels: Tensor  # int64 [G]
    boxes_xyxy: Tensor  # float32 [G, 4] pixels of this image


def stretch(sample: Sample, image_hw: tuple[int, int]) -> Sample:
    """The whole image and its boxes at `image_hw`: bilinear with antialias, aspect ratio not kept."""
    height, width = sample.image.shape[-2:]
    if (height, width) == image_hw:
        return sample
    image = functional.resize_image(sample.image, list(image_hw), antialias=True)
    scale = torch.tensor([image_hw[1] / width, image_hw[0] / height] * 2)
    return Sample(image, sample.labels, sample.boxes_xyxy * scale)


def drop_small(sample: Sample, least_px: float = 1.0) -> Sample:
    """The sample without boxes that are narrower or lower than `least_px` pixels."""
    keep = ((sample.boxes_xyxy[:, 2:] - sample.boxes_xyxy[:, :2]) >= least_px).all(1)
    return Sample(sample.image, sample.labels[keep], sample.boxes_xyxy[keep])


def normalised_cxcywh(sample: Sample) -> Tensor:
    """Boxes of the sample as centre and size in 0..1 of the image, float32 `[G, 4]`."""
    height, width = sample.image.shape[-2:]
    return box_xyxy_to_cxcywh(sample.boxes_xyxy) / torch.tensor([width, height] * 2)


class IoUCrop(v2.RandomIoUCrop):
    """torchvision's IoU crop, its trials drawn together.

    The search for a crop is the most expensive part of the augmentation when its trials are tensors of one box each;
    the conditions and the distribution of crops are the same.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The crop, and which boxes have their centre inside; empty: leave the sample as it is."""
        boxes = next(item for item in flat_inputs if isinstance(item, tv_tensors.BoundingBoxes)).as_subclass(Tensor)
        height, width = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image)).shape[-2:]
        return self._draw(width, height, boxes)

    def crop(self, window: Window, labels: Tensor, boxes_xyxy: Tensor) -> tuple[Window, Tensor, Tensor]:
        """A random part of the window, with the boxes whose centre is inside, clipped to it."""
        drawn = self._draw(window.width, window.height, boxes_xyxy)
        if not drawn:
            return window, labels, boxes_xyxy
        left, top, width, height, inside = (drawn[k] for k in ("left", "top", "width", "height", "is_within_crop_area"))
        start, end = torch.tensor([left, top] * 2), torch.tensor([width, height] * 2)
        boxes_xyxy = torch.minimum((boxes_xyxy[inside] - start).clamp_(min=0), end)
        return Window(window.left + left, window.top + top, width, height), labels[inside], boxes_xyxy

    def _draw(self, width: int, height: int, boxes: Tensor) -> dict[str, Any]:
        centres = 0.5 * (boxes[:, :2] + boxes[:, 2:])  # [G, 2]
        extent = torch.tensor([width, height])
        while True:  # ends: one option in seven is "leave it"
            least_iou = self.options[int(torch.randint(len(self.options), ()))]
            if least_iou >= 1.0:
                return {}
            draws = torch.rand(self.trials, 2, 2)
            size = (extent * (self.min_scale + (self.max_scale - self.min_scale) * draws[:, 0])).long()  # [trials, 2]
            start = ((extent - size) * draws[:, 1]).long()
            crops_xyxy = torch.cat([start, start + size], dim=1).float()
            inside = ((crops_xyxy[:, None, :2] < centres) & (centres < crops_xyxy[:, None, 2:])).all(-1)  # [trials, G]
            ratio = size[:, 0] / size[:, 1]
            good = (size > 0).all(1) & (ratio >= self.min_aspect_ratio) & (ratio <= self.max_aspect_ratio)
            good &= inside.any(1) & ((box_iou(crops_xyxy, boxes) * inside).amax(1) >= least_iou)
            if good.any():
                first = int(good.int().argmax())
                (left, top), (crop_width, crop_height) = start[first].tolist(), size[first].tolist()
                return dict(top=top, left=left, height=crop_height, width=crop_width, is_within_crop_area=inside[first])


class Window(NamedTuple):
    """The part of an image that a sample shows, in pixels of the image; outside of the image it is 0."""

    left: int
    top: int
    width: int
    height: int


def resize_window(image: Tensor, window: Window, image_hw: tuple[int, int], *, flip: bool = False) -> Tensor:
    """Pad, crop, flip and resize in one: the pixels that the four steps would give, without those they throw away.

    Resizing is separable: first along the rows, then along the columns. A row of the window without a pixel of the
    image is 0 before and after the first, so only the other rows are resized, and padded with 0 for the second.

    Args:
        image: uint8 `[3, H, W]`, fastest with its channels last in memory.
        window: a part of the image, or larger than it.
        image_hw: height and width of the result.
        flip: mirror left and right.
    """
    top, bottom = max(0, window.top), min(image.shape[-2], window.top + window.height)
    if bottom <= top or not -window.width < window.left < image.shape[-1]:  # beside the image
        return torch.zeros(3, *image_hw, dtype=torch.uint8)
    part = functional.crop_image(image, top, window.left, bottom - top, window.width)  # 0 beside the image
    part = part.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if flip:
        part = part.flip(-1)
    if bottom - top < window.height:
        part = functional.resize_image(part, [bottom - top, image_hw[1]], antialias=True)
        part = functional.pad_image(part, [0, top - window.top, 0, window.top + window.height - bottom])
    return functional.resize_image(part, list(image_hw), antialias=True)


class TrainTransform:
    """Augmentation of one training sample; draws from torch's global CPU generator.

    Stage 1: photometric distortion, zoom-out (filled with 0), IoU crop, flip, stretch. Stage 2: flip and stretch.
    In both, boxes under 1 px are dropped before the flip and after the stretch, as in the published runs. Nothing is
    drawn for a step of probability 0.

    Everything is drawn first: zoom-out and crop change only the window, and the image is resized once, at the end.
    """

    def __init__(self, data: DataConfig, *, strong: bool) -> None:
        self.image_hw = data.image_hw
        self.colours = v2.RandomPhotometricDistort(p=data.photometric) if strong and data.photometric > 0 else None
        self.zoom_out = v2.RandomZoomOut()
        self.zoom_out_probability = data.zoom_out if strong else 0.0
        self.crop = IoUCrop() if strong and data.iou_crop > 0 else None
        self.crop_probability = data.iou_crop
        self.flip_probability = data.flip

    def __call__(self, sample: Sample) -> Sample:
        """An augmented sample of the network's input size, uint8 `[3, H, W]`."""
        image, labels, boxes_xyxy = sample
        height, width = image.shape[-2:]
        order = None
        if self.colours:
            changes = self.colours.make_params([image])
            image, order = distort(image, changes), changes["channel_permutation"]
        window = Window(0, 0, width, height)
        if _happens(self.zoom_out_probability):
            left, top, right, bottom = self.zoom_out.make_params([image])["padding"]
            window = Window(-left, -top, left + width + right, top + height + bottom)
            boxes_xyxy = boxes_xyxy + torch.tensor([left, top] * 2)
        if self.crop and len(boxes_xyxy) and _happens(self.crop_probability):  # no crop is without a box
            window, labels, boxes_xyxy = self.crop.crop(window, labels, boxes_xyxy)
        _, labels, boxes_xyxy = drop_small(Sample(image, labels, boxes_xyxy))
        flip = _happens(self.flip_probability)
        if flip:
            left, top, right, bottom = boxes_xyxy.unbind(1)
            boxes_xyxy = torch.stack([window.width - right, top, window.width - left, bottom], dim=1)
        image = resize_window(image, window, self.image_hw, flip=flip)
        scale = torch.tensor([self.image_hw[1] / window.width, self.image_hw[0] / window.height] * 2)
        return drop_small(Sample(planes(image, order), labels, boxes_xyxy * scale))


def planes(image: Tensor, order: Sequence[int] | Tensor | None = None) -> Tensor:
    """The image channel by channel in memory, its channels in the given order; a copy."""
    copy = np.empty(image.shape, np.uint8)  # numpy strides through bytes twice as fast
    for channel, source in enumerate(range(3) if order is None else order):
        copy[channel] = image[source].numpy()
    return torch.from_numpy(copy)


def _happens(probability: float) -> bool:
    return probability > 0 and float(torch.rand(1)) < probability


def multiscale_sizes(image_hw: tuple[int, int], base_size_repeat: int) -> list[tuple[int, int]]:
    """Height and width of every size that a multi-scale batch is drawn from, with repetitions.

    Sides run from 75 % to 125 % of the base in steps of 32, rounded down to multiples of 32; the base itself is in
    the list `base_size_repeat` times. On non-square input the longer side is drawn and the other follows in proportion.

    Returns:
        for 640: 480, 512, …, 608, then 640 as often as asked, then 800, 768, …, 672.

    Source: the authors' released training code; for sides such as 320 its list holds the base once more.
    """
    base = max(image_hw)
    smallest, largest = int(base * 0.75 / 32) * 32, int(base * 1.25 / 32) * 32
    steps = (base - smallest) // 32
    below = [smallest + 32 * i for i in range(steps)]
    above = [largest - 32 * i for i in range(steps)]
    sides = below + [base] * base_size_repeat + above
    height, width = image_hw
    return [tuple(max(32, round(side * s / base / 32) * 32) for side in (height, width)) for s in sides if s > 0]
