"""Ground truth of a batch: labels and boxes of all images, concatenated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dfine_lib.device import copy_to


@dataclass(frozen=True, eq=False)
class Targets:
    """Labels and boxes of all images of a batch, image after image.

    Made once, where the batch is made; moved to the device once; the model and the criterion use it as it is.
    """

    labels: Tensor  # int64 [M], M boxes in the batch
    boxes_cxcywh: Tensor  # float32 [M, 4], fractions of the image
    counts: tuple[int, ...]  # number of boxes of each image; the sum is M

    @classmethod
    def of_images(cls, images: TargetsLike) -> Targets:
        """Concatenate a list of `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1, one dict for each image."""
        if isinstance(images, Targets):
            return images
        labels, boxes = (torch.cat([image[key] for image in images]) for key in ("labels", "boxes"))
        return cls(labels, boxes.float(), tuple(len(image["labels"]) for image in images))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.counts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.image, range(len(self)))

    def image(self, i: int) -> dict[str, Tensor]:
        """`labels` `[G]` and `boxes` cxcywh `[G, 4]` of one image."""
        start = sum(self.counts[:i])
        own = slice(start, start + self.counts[i])
        return {"labels": self.labels[own], "boxes": self.boxes_cxcywh[own]}

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        labels, boxes = (x.to(device, non_blocking=True) for x in (self.labels, self.boxes_cxcywh))
        return Targets(labels, boxes, self.counts)

    @cached_property
    def image_index(self) -> Tensor:
        """Index of the image that each box is in: int64 `[M]`."""
        index = [i for i, count in enumerate(self.counts) for _ in range(count)]
        return copy_to(self.labels.device, torch.tensor(index, dtype=torch.int64))

    @cached_property
    def index_in_image(self) -> Tensor:
        """Index of each box among the boxes of its image: int64 `[M]`."""
        index = [j for count in self.counts for j in range(count)]
        return copy_to(self.labels.device, torch.tensor(index, dtype=torch.int64))


TargetsLike = Targets | Sequence[Mapping[str, Tensor]]
