"""Samples of an index, and how some of them become a mini-batch: read, augment, collate, to floats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from dfine_lib.config import DataConfig
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.images import read_image
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.data.targets import Targets
from dfine_lib.data.transforms import Sample, TrainTransform, normalised_cxcywh, stretch
from dfine_lib.errors import DataError


@dataclass(frozen=True, eq=False)
class Batch:
    """A mini-batch."""

    images: Tensor  # float32 [B, 3, H, W] in 0..1
    targets: Targets
    image_ids: Tensor  # int64 [B], the file's
    sizes_wh: Tensor  # float32 [B, 2] pixels of the original

    def __len__(self) -> int:
        return len(self.images)


class SampleKey(NamedTuple):
    """Everything that one training sample depends on besides the seed."""

    epoch: int
    index: int
    strong: bool  # stage 1
    copy: int = 0  # number of this repeat within the epoch, where images are repeated


class RawBatch(NamedTuple):
    """What crosses from a worker: bytes rather than floats, and one tensor, since each tensor costs a file handle."""

    images: Tensor  # uint8 [B, 3, H, W]
    counts: np.ndarray  # int64 [B]; G of every image
    labels: np.ndarray  # int64 [sum G]
    boxes_cxcywh: np.ndarray  # float32 [sum G, 4]
    indices: np.ndarray  # int64 [B]


class CocoImages(Dataset):
    """Image and boxes by key: a `SampleKey` in training, an index in evaluation."""

    def __init__(self, index: CocoIndex, data: DataConfig, *, seed: int = 0) -> None:
        self.index = index
        self.seed = seed
        self.train_transforms = {strong: TrainTransform(data, strong=strong) for strong in (False, True)}
        self.image_hw = data.image_hw

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey | int) -> tuple[Sample, int]:
        """Sample at the network's input size, boxes in its pixels; and its index.

        Raises:
            DataError: the image file is missing, damaged or of another size than the annotation file says.
        """
        return self.sample(key, *self._content(key.index if isinstance(key, SampleKey) else key))

    def sample(self, key: SampleKey | int, source: Path | str, content: bytes | None = None) -> tuple[Sample, int]:
        """The same, of the image file `source`, or of its encoded bytes."""
        if isinstance(key, SampleKey):
            sample = self._read(key.index, source, content)
            state = torch.get_rng_state()  # transforms draw from the global generator; the caller's stays as it was
            copy = (key.copy,) if key.copy else ()
            torch.default_generator.manual_seed(derived_seed(Draw.AUGMENT, self.seed, key.epoch, key.index, *copy))
            try:
                return self.train_transforms[key.strong](sample), key.index
            finally:
                torch.set_rng_state(state)
        return stretch(self._read(key, source, content), self.image_hw), key

    def __getitems__(self, keys: list[SampleKey] | list[int]) -> list[tuple[Sample, int]] | DataError:
        """All of them; an error is returned, since one raised in a worker would arrive wrapped in its traceback."""
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def _content(self, i: int) -> tuple[Path | str, bytes | None]:
        """The file of an image, and its bytes where they have been read already."""
        return self.index.file_name(i), None

    def _read(self, i: int, source: Path | str, content: bytes | None) -> Sample:
        image = read_image(source, content)
        height, width = image.shape[-2:]
        if [width, height] != self.index.sizes_wh[i].tolist():
            says = " x ".join(map(str, self.index.sizes_wh[i]))
            raise DataError(
                f"{source}: {width} x {height}, but {self.index.annotation_file} says {says} "
                f"for image id {self.index.image_ids[i]}. `check_images` lists every such file."
            )
        labels, boxes_xyxy = self.index.targets(i)
        return Sample(image, torch.from_numpy(labels.copy()), torch.from_numpy(boxes_xyxy.copy()))


def collate(samples: list[tuple[Sample, int]] | DataError) -> RawBatch | DataError:
    """Samples of one size as a `RawBatch`; an error is passed on."""
    if isinstance(samples, DataError):
        return samples
    parts = [sample for sample, _ in samples]
    return RawBatch(
        images=torch.stack([sample.image for sample in parts]).contiguous(),
        counts=np.array([len(sample.labels) for sample in parts], dtype=np.int64),
        labels=np.concatenate([sample.labels.numpy() for sample in parts]),
        boxes_cxcywh=np.concatenate([normalised_cxcywh(sample).numpy() for sample in parts]),
        indices=np.array([i for _, i in samples], dtype=np.int64),
    )


def to_batch(
    raw: RawBatch, index: CocoIndex, image_hw: tuple[int, int], device: torch.device | str | None = None
) -> Batch:
    """Bytes to floats, on `device`, at `image_hw` (nearest neighbour, as in the published multi-scale training)."""
    images = raw.images if device is None else raw.images.to(device, non_blocking=True)
    if tuple(images.shape[-2:]) != image_hw:
        images = functional.interpolate(images, size=image_hw)
    images = images.to(torch.float32).div_(255)

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device is None else tensor.to(device, non_blocking=True)

    return Batch(
        images=images,
        targets=Targets(move(raw.labels), move(raw.boxes_cxcywh), tuple(raw.counts.tolist())),
        image_ids=move(index.image_ids[raw.indices]),
        sizes_wh=move(index.sizes_wh[raw.indices].astype(np.float32)),
    )
