"""Batches of an index, the same for a seed whatever the number of workers, and resumable at any batch.

The order of an epoch, every augmentation and every multi-scale size are functions of (seed, epoch, image or step):
no random state is carried from one sample to the next, so there is none to save.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from dfine_lib.config import DataConfig, Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.images import DataError, read_image
from dfine_lib.data.targets import Targets
from dfine_lib.data.transforms import EvalTransform, Sample, TrainTransform, multiscale_sizes, normalised_cxcywh
from dfine_lib.errors import DfineError


class Draw(IntEnum):
    """What a derived seed is for; beside each, what it depends on besides the run's seed. Every run depends on these
    numbers: none is ever changed or used again."""

    ORDER = 0  # epoch
    AUGMENT = 1  # epoch, image, and number of the copy from the second copy on
    SIZE = 2  # epoch, step
    SHARD_ORDER = 3  # epoch
    SHARD_SHUFFLE = 4  # epoch, first image of the stream
    WEIGHTS = 5  # nothing else
    NOISE = 6  # step of the run


@dataclass(frozen=True, eq=False)
class Batch:
    """What the network sees at once."""

    images: Tensor  # float32 [B, 3, H, W] in 0..1
    targets: Targets
    image_ids: Tensor  # int64 [B], the file's
    sizes_wh: Tensor  # float32 [B, 2] pixels of the original

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.targets.to(device),
            self.image_ids.to(device, non_blocking=True),
            self.sizes_wh.to(device, non_blocking=True),
        )


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


def derived_seed(draw: Draw, seed: int, *parts: int) -> int:
    """A 63-bit seed for one draw of a run: a function of the kind of draw, the run's seed and `parts`, well mixed.

    No two draws of a run share a seed, but for one pair: with seed 0, the weights and the order of epoch 0. These feed
    two kinds of generator, torch's and numpy's, so the numbers that they draw have nothing in common.
    """
    entropy = [draw, seed, *parts]
    # Weights and noise go without a tag, as in the runs that there are. `SeedSequence` pads with zeros: [k, k] would be
    # [k, k, 0, 0], which is another draw where k is one of the tags.
    if draw is Draw.WEIGHTS:
        entropy = [seed, 0]
    elif draw is Draw.NOISE and not seed == 1 + parts[0] <= Draw.SHARD_SHUFFLE:
        entropy = [seed, 1 + parts[0]]
    words = np.random.SeedSequence([int(part) % 2**64 for part in entropy]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


class CocoImages(Dataset):
    """Image and boxes by key: a `SampleKey` in training, a place in the index in evaluation."""

    def __init__(self, index: CocoIndex, data: DataConfig, *, seed: int = 0) -> None:
        self.index = index
        self.seed = seed
        self.train_transforms = {strong: TrainTransform(data, strong=strong) for strong in (False, True)}
        self.eval_transform = EvalTransform(data)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey | int) -> tuple[Sample, int]:
        """Sample at the network's input size, boxes in its pixels; and its place in the index.

        Raises:
            DataError: the image file is missing, damaged or of another size than the annotation file says.
        """
        return self.sample(key, *self._content(key.index if isinstance(key, SampleKey) else key))

    def sample(self, key: SampleKey | int, source: Path | str, content: bytes | None = None) -> tuple[Sample, int]:
        """The same, of the picture that lies at `source`, or of its encoded bytes."""
        if isinstance(key, SampleKey):
            sample = self._read(key.index, source, content)
            state = torch.get_rng_state()  # transforms draw from the global generator; the caller's stays as it was
            copy = (key.copy,) if key.copy else ()
            torch.default_generator.manual_seed(derived_seed(Draw.AUGMENT, self.seed, key.epoch, key.index, *copy))
            try:
                return self.train_transforms[key.strong](sample), key.index
            finally:
                torch.set_rng_state(state)
        return self.eval_transform(self._read(key, source, content)), key

    def __getitems__(self, keys: list[SampleKey] | list[int]) -> list[tuple[Sample, int]] | DataError:
        """All of them; a fault is returned, since one raised in a worker would arrive wrapped in its traceback."""
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def _content(self, i: int) -> tuple[Path | str, bytes | None]:
        """Where a picture lies, and its bytes where they are at hand already."""
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
    """Samples of one size as a `RawBatch`; a fault is passed on."""
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


def finish(
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


class _Chunks(Sampler):
    """Batches of keys, replaced before every pass."""

    def __init__(self, chunks: list[list[Any]]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


def _start_method(num_workers: int) -> str | None:
    """Forked workers share the index's memory. Only Linux's system libraries can be forked safely: elsewhere the
    platform's own way, which sends the index to each worker."""
    return "fork" if num_workers > 0 and sys.platform == "linux" else None


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the collector leaves the parent's objects alone, so their pages stay shared


def workers_of(data: DataConfig) -> int:
    """Processes that read images for this one: `num_workers` as given, or 4 but no more than cores it may use."""
    if data.num_workers is not None:
        return data.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def pins_memory(device: torch.device | str | None) -> bool:
    """Whether batches are pinned: only for a GPU, since pinning opens a context there (half a gigabyte)."""
    return device is not None and torch.device(device).type == "cuda" and torch.cuda.is_available()


def _data_loader(
    images: CocoImages, chunks: _Chunks, num_workers: int, device: torch.device | str | None
) -> DataLoader:
    return DataLoader(
        images,
        batch_sampler=chunks,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=_start_method(num_workers),
        pin_memory=pins_memory(device),
        generator=torch.Generator(),  # otherwise starting a pass draws from the global generator
    )


def _batches(loader: DataLoader) -> Iterator[RawBatch]:
    for raw in loader:
        if isinstance(raw, DataError):
            try:
                raise raw
            finally:
                del raw  # or exception and frame hold each other, and with them the workers
        yield raw


class TrainLoader:
    """Shuffled, augmented batches of one rank.

    A step of the optimizer takes the next `batch_size` images of the epoch's order, shared out over ranks and
    accumulation passes; what is left over at the end is dropped. If the epoch has fewer images than one step takes,
    its only step takes them all, as evenly as can be (an image is repeated where a rank would have none).

    Args:
        index: a training index.
        recipe: batch size, accumulation, sizes and augmentation.
        seed: of order, augmentation and sizes; the same on all ranks.
        rank: this process.
        world_size: number of processes.
        device: where batches are put; bytes are sent and made floats there. None leaves them on the CPU.
        sample_indices: gives the sample indices of an epoch, int64 `[S, 2]`: index of the image, and which of its
            copies in this epoch this is, from 0; `S` is the same in every epoch. Default: every image once, shuffled.

    Raises:
        ValueError: the recipe oversamples (`data.repeat_threshold`) and no `sample_indices` do; or the batch
            size does not divide by ranks and accumulation passes.
    """

    def __init__(
        self,
        index: CocoIndex,
        recipe: Recipe,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
        sample_indices: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        if recipe.data.repeat_threshold is not None and sample_indices is None:
            raise DfineError(
                "repeat_threshold oversamples images: train with source=data_tools.large.source.LargeFolder()"
            )
        self.shares = world_size * recipe.train.accumulate
        if recipe.data.batch_size % self.shares:
            raise DfineError(
                f"batch_size {recipe.data.batch_size} cannot be shared out evenly over {world_size} ranks and "
                f"{recipe.train.accumulate} accumulation passes; choose a multiple of {self.shares}"
            )
        if not 0 <= rank < world_size:
            raise DfineError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.index, self.recipe, self.seed = index, recipe, seed
        self.rank, self.world_size, self.device = rank, world_size, device
        self.sample_indices = sample_indices or self._shuffled
        self.steps_per_epoch = max(1, len(self.sample_indices(0)) // recipe.data.batch_size)
        self._chunks = _Chunks([])
        images = CocoImages(index, recipe.data, seed=seed)
        self._loader = _data_loader(images, self._chunks, workers_of(recipe.data), device)
        self._passes = 0

    def __len__(self) -> int:
        """Batches of one epoch on this rank: optimizer steps times accumulation passes."""
        return self.steps_per_epoch * self.recipe.train.accumulate

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Every image once, int64 `[I, 2]`."""
        order = np.random.default_rng(derived_seed(Draw.ORDER, self.seed, epoch)).permutation(len(self.index))
        return np.stack([order, np.zeros_like(order)], axis=1)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Places in the index of every batch of this rank in that epoch."""
        return [batch[:, 0] for batch in self._draws(epoch)]

    def _draws(self, epoch: int) -> list[np.ndarray]:
        """The same, each place with the number of the copy: int64 `[B, 2]`."""
        batch_size = self.recipe.data.batch_size
        order = self.sample_indices(epoch)
        if len(order) < batch_size:
            steps = [np.resize(order, (max(len(order), self.shares), 2))]
        else:
            steps = np.split(order[: self.steps_per_epoch * batch_size], self.steps_per_epoch)
        return [share for step in steps for share in np.array_split(step, self.shares)[self.rank :: self.world_size]]

    def image_hw(self, epoch: int, batch: int) -> tuple[int, int]:
        """Height and width of that batch: one for all passes and ranks of a step; the base size in stage 2."""
        data = self.recipe.data
        if data.base_size_repeat is None or epoch >= self.recipe.train.stop_epoch:
            return data.image_hw
        sizes = multiscale_sizes(data.image_hw, data.base_size_repeat)
        step = batch // self.recipe.train.accumulate
        return sizes[derived_seed(Draw.SIZE, self.seed, epoch, step) % len(sizes)]

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches `start_batch`, `start_batch + 1`, … of that epoch.

        Only one epoch can be under way: a second call ends the first, which then raises RuntimeError.
        """
        if not 0 <= start_batch <= len(self):
            raise DfineError(f"start_batch must lie in 0..{len(self)}, got {start_batch}")
        strong = epoch < self.recipe.train.stop_epoch
        batches = self._draws(epoch)[start_batch:]
        chunks = [[SampleKey(epoch, i, strong, copy) for i, copy in batch.tolist()] for batch in batches]
        self._passes += 1
        return self._run(epoch, start_batch, chunks, self._passes)

    def _run(self, epoch: int, start_batch: int, chunks: list[list[SampleKey]], own: int) -> Iterator[Batch]:
        def check() -> None:
            if own != self._passes:
                raise RuntimeError(f"epoch {epoch} was ended by a later call of TrainLoader.epoch")

        check()
        self._chunks.chunks = chunks
        if not chunks:
            return
        for batch, raw in enumerate(_batches(self._loader), start_batch):
            yield finish(raw, self.index, self.image_hw(epoch, batch), self.device)
            check()


class EvalLoader:
    """Every image exactly once over all ranks, in the file's order, stretched to the base size.

    Args:
        index: an index of any kind; boxes are passed on as it has them.
        recipe: input size, `eval_batch_size` (over all ranks), workers.
        rank: this process; it takes images rank, rank + world_size, …
        world_size: number of processes.
        device: as for `TrainLoader`.
    """

    def __init__(
        self,
        index: CocoIndex,
        recipe: Recipe,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DfineError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.index, self.recipe, self.device = index, recipe, device
        own = list(range(rank, len(index), world_size))
        size = max(1, recipe.data.eval_batch_size // world_size)
        self._chunks = _Chunks([own[start : start + size] for start in range(0, len(own), size)])
        self.images = CocoImages(index, recipe.data)
        self._loader = _data_loader(self.images, self._chunks, workers_of(recipe.data), device)

    def __len__(self) -> int:
        """Batches of this rank; 0 if there are fewer images than ranks."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[Batch]:
        for raw in _batches(self._loader):
            yield finish(raw, self.index, self.recipe.data.image_hw, self.device)
