"""One sample on its way to a batch: strong augmentation, flip, stretch; and the sides of multi-scale training."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dfine_lib.boxes import box_iou, box_xyxy_to_cxcywh
from dfine_lib.config import DataConfig


class Sample(NamedTuple):
    """One image with its boxes."""

    image: Tensor  # uint8 [3, H, W]
    labels: Tensor  # int64 [G]
    boxes_xyxy: Tensor  # float32 [G, 4] pixels of this image


def stretch(sample: Sample, image_hw: tuple[int, int]) -> Sample:
    """The whole image at `image_hw`, bilinear with antialias, aspect ratio not kept; boxes go along."""
    height, width = sample.image.shape[-2:]
    if (height, width) == image_hw:
        return sample
    image = functional.resize_image(sample.image, list(image_hw), antialias=True)
    scale = torch.tensor([image_hw[1] / width, image_hw[0] / height] * 2)
    return Sample(image, sample.labels, sample.boxes_xyxy * scale)


def drop_small(sample: Sample, least_px: float = 1.0) -> Sample:
    """The sample without boxes that are narrower or lower than `least_px` pixels."""
    keep = ((sample.boxes_xyxy[:, 2:] - sample.boxes_xyxy[:, :2]) >= least_px).all(1)
    return sample if bool(keep.all()) else Sample(sample.image, sample.labels[keep], sample.boxes_xyxy[keep])


def normalised_cxcywh(sample: Sample) -> Tensor:
    """Boxes of the sample as centre and size in 0..1 of the image, float32 `[G, 4]`."""
    height, width = sample.image.shape[-2:]
    return box_xyxy_to_cxcywh(sample.boxes_xyxy) / torch.tensor([width, height] * 2)


class IoUCrop(v2.RandomIoUCrop):
    """torchvision's IoU crop, its trials drawn together.

    The search for a crop is the dearest part of the augmentation when its trials are tensors of one box each; the
    conditions and the distribution of crops are the same.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Place of the crop and which boxes have their centre inside; empty: leave the sample as it is."""
        boxes = next(item for item in flat_inputs if isinstance(item, tv_tensors.BoundingBoxes)).as_subclass(Tensor)
        height, width = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image)).shape[-2:]
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


class TrainTransform:
    """Augmentation of one training sample; draws from torch's global CPU generator.

    Stage 1: photometric distortion, zoom-out (filled with 0), IoU crop, flip, stretch. Stage 2: flip and stretch.
    In both, boxes under 1 px are dropped before the flip and after the stretch, as in the published runs. A step of
    probability 0 is not built.
    """

    def __init__(self, data: DataConfig, *, strong: bool) -> None:
        self.image_hw = data.image_hw
        self.steps: list[v2.Transform] = []
        if strong and data.photometric > 0:
            self.steps.append(v2.RandomPhotometricDistort(p=data.photometric))
        if strong and data.zoom_out > 0:
            self.steps.append(v2.RandomZoomOut(fill=0, p=data.zoom_out))
        self.crop = IoUCrop() if strong and data.iou_crop > 0 else None
        self.crop_probability = data.iou_crop
        self.flip_probability = data.flip

    def __call__(self, sample: Sample) -> Sample:
        """An augmented sample of the network's input size, uint8 `[3, H, W]`."""
        if self.steps or self.crop:
            sample = self._strong(sample)
        sample = drop_small(sample)
        if self.flip_probability > 0 and float(torch.rand(())) < self.flip_probability:
            width = sample.image.shape[-1]
            left, top, right, bottom = sample.boxes_xyxy.unbind(1)
            flipped = torch.stack([width - right, top, width - left, bottom], dim=1)
            sample = Sample(sample.image.flip(-1), sample.labels, flipped)
        return drop_small(stretch(sample, self.image_hw))

    def _strong(self, sample: Sample) -> Sample:
        image = tv_tensors.Image(sample.image.contiguous())  # colour steps are faster plane by plane
        boxes = tv_tensors.BoundingBoxes(sample.boxes_xyxy, format="XYXY", canvas_size=tuple(image.shape[-2:]))
        for step in self.steps:
            image, boxes = step(image, boxes)
        if self.crop and len(boxes) and float(torch.rand(())) < self.crop_probability:  # no crop is without a box
            image, boxes = self.crop(image, boxes)
        return Sample(image.as_subclass(Tensor), sample.labels, boxes.as_subclass(Tensor))


class EvalTransform:
    """Stretch only; every box is kept."""

    def __init__(self, data: DataConfig) -> None:
        self.image_hw = data.image_hw

    def __call__(self, sample: Sample) -> Sample:
        """The sample at the network's input size, uint8 `[3, H, W]`."""
        return stretch(sample, self.image_hw)


def multiscale_sizes(image_hw: tuple[int, int], base_size_repeat: int) -> list[tuple[int, int]]:
    """Height and width of every size that a multi-scale batch is drawn from, with repetitions.

    Sides run from 75 % to 125 % of the base in steps of 32, rounded down to multiples of 32; the base itself stands in
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
