"""Mini-batches of an index, the same for a seed whatever the number of workers, and resumable at any batch.

The order of an epoch, every augmentation and every multi-scale size are functions of (seed, epoch, image or step):
no random state is carried from one sample to the next, so there is none to save.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dfine_lib.config import DataConfig, Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.samples import Batch, CocoImages, RawBatch, SampleKey, collate, to_batch
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.data.transforms import multiscale_sizes
from dfine_lib.errors import DataError, DfineError


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the collector leaves the parent's objects alone, so their pages stay shared


def num_workers_of(data: DataConfig, device: torch.device | str | None = None) -> int:
    """DataLoader workers: `num_workers` as given, or what the cores that this process may use allow.

    A GPU takes more images than four workers decode: up to 16, of the process's part of the cores less one for itself.
    Elsewhere up to 4, since the model computes on the same cores.
    """
    if data.num_workers is not None:
        return data.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device is None or torch.device(device).type != "cuda":
        return min(4, cores)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # on this machine, as torchrun started them
    return max(1, min(16, cores // processes - 1))


def data_loader(dataset: Dataset, num_workers: int, device: torch.device | str | None, **options: Any) -> DataLoader:
    """A DataLoader for batches that go to `device`; options are those of `DataLoader`."""
    # Pinning opens a context on the GPU (half a gigabyte), so it is only for batches that go there.
    pin = device is not None and torch.device(device).type == "cuda" and torch.cuda.is_available()
    return DataLoader(
        dataset,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        # Forked workers share the memory of the index. Only Linux's system libraries can be forked safely: elsewhere
        # the platform's own way, which sends the index to each worker.
        multiprocessing_context="fork" if num_workers > 0 and sys.platform == "linux" else None,
        pin_memory=pin,
        generator=torch.Generator(),  # otherwise starting a pass draws from the global generator
        **options,
    )


def raw_batches(loader: DataLoader) -> Iterator[RawBatch]:
    """What a DataLoader gives; an error that a worker returned is raised here."""
    for raw in loader:
        if isinstance(raw, DataError):
            try:
                raise raw
            finally:
                del raw  # or exception and frame hold each other, and with them the workers
        yield raw


class _ImageLoader:
    """What training and evaluation share: the samples of an index, of which one rank takes its batches."""

    def __init__(
        self,
        index: CocoIndex,
        recipe: Recipe,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DfineError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.index, self.recipe, self.seed = index, recipe, seed
        self.rank, self.world_size, self.device = rank, world_size, device
        self.images = CocoImages(index, recipe.data, seed=seed)
        self._keys: list[list[Any]] = []  # sample keys of every batch of a pass; replaced in place before the pass

    @cached_property
    def _loader(self) -> DataLoader:
        workers = num_workers_of(self.recipe.data, self.device)
        return data_loader(
            self.images,
            workers,
            self.device,
            batch_sampler=self._keys,
            collate_fn=collate,
            persistent_workers=workers > 0,
        )


class TrainLoader(_ImageLoader):
    """Shuffled, augmented batches of one rank.

    An optimizer step takes the next `batch_size` sample indices of the epoch, sharded over ranks and micro-batches;
    the rest at the end is dropped. An epoch with fewer samples than one step takes is one step with all of them,
    sharded as evenly as can be (an image is repeated where a rank would have none).

    Args:
        index: a training index.
        recipe: batch size, accumulation, sizes and augmentation.
        seed: of order, augmentation and sizes; the same on all ranks.
        rank: this process.
        world_size: number of processes.
        device: device of the batches; they are sent as bytes and made floats there. None: the CPU.
        sample_indices: gives the sample indices of an epoch, int64 `[S, 2]`: index of the image, and which of its
            copies in this epoch this is, from 0; `S` is the same in every epoch. Default: every image once, shuffled.

    Raises:
        ValueError: the recipe oversamples (`data.repeat_threshold`) and no `sample_indices` do; or the batch
            size is no multiple of ranks times micro-batches.
    """

    def __init__(
        self,
        index: CocoIndex,
        recipe: Recipe,
        *,
        seed: int,
        sample_indices: Callable[[int], np.ndarray] | None = None,
        **rank_and_device: Any,
    ) -> None:
        if recipe.data.repeat_threshold is not None and sample_indices is None:
            raise DfineError(
                "repeat_threshold oversamples images: train with source=data_tools.large.source.LargeFolder()"
            )
        super().__init__(index, recipe, seed=seed, **rank_and_device)
        self.micro_batches = self.world_size * recipe.train.accumulate
        if recipe.data.batch_size % self.micro_batches:
            raise DfineError(
                f"batch_size {recipe.data.batch_size} cannot be sharded evenly over {self.world_size} ranks and "
                f"{recipe.train.accumulate} micro-batches; choose a multiple of {self.micro_batches}"
            )
        self.sample_indices = sample_indices or self._shuffled
        self.steps_per_epoch = max(1, len(self.sample_indices(0)) // recipe.data.batch_size)
        self._passes = 0

    def __len__(self) -> int:
        """Batches of one epoch on this rank: optimizer steps times micro-batches."""
        return self.steps_per_epoch * self.recipe.train.accumulate

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Every image once, int64 `[I, 2]`."""
        order = np.random.default_rng(derived_seed(Draw.ORDER, self.seed, epoch)).permutation(len(self.index))
        return np.stack([order, np.zeros_like(order)], axis=1)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Sample indices of every batch of this rank in that epoch."""
        return [batch[:, 0] for batch in self._batches_of(epoch)]

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """The same, each sample index with the number of the copy: int64 `[B, 2]`."""
        batch_size = self.recipe.data.batch_size
        order = self.sample_indices(epoch)
        if len(order) < batch_size:
            steps = [np.resize(order, (max(len(order), self.micro_batches), 2))]
        else:
            steps = np.split(order[: self.steps_per_epoch * batch_size], self.steps_per_epoch)
        return [
            part for step in steps for part in np.array_split(step, self.micro_batches)[self.rank :: self.world_size]
        ]

    def image_hw(self, epoch: int, batch: int) -> tuple[int, int]:
        """Height and width of that batch: one for all micro-batches and ranks of a step; the base size in stage 2."""
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
        samples = self._batches_of(epoch)[start_batch:]
        batches = [[SampleKey(epoch, i, strong, copy) for i, copy in batch.tolist()] for batch in samples]
        self._passes += 1
        return self._run(epoch, start_batch, batches, self._passes)

    def _run(self, epoch: int, start_batch: int, batches: list[list[SampleKey]], number: int) -> Iterator[Batch]:
        def check() -> None:
            if number != self._passes:
                raise RuntimeError(f"epoch {epoch} was ended by a later call of TrainLoader.epoch")

        check()
        self._keys[:] = batches
        if not batches:
            return
        for batch, raw in enumerate(raw_batches(self._loader), start_batch):
            yield to_batch(raw, self.index, self.image_hw(epoch, batch), self.device)
            check()


class EvalLoader(_ImageLoader):
    """Every image exactly once over all ranks, in the file's order, stretched to the base size.

    Args:
        index: an index of any kind; boxes are passed on as it has them.
        recipe: input size, `eval_batch_size` (over all ranks), workers.
        rank: this process; it takes images rank, rank + world_size, …
        world_size: number of processes.
        device: as for `TrainLoader`.
    """

    def __init__(self, index: CocoIndex, recipe: Recipe, **rank_and_device: Any) -> None:
        super().__init__(index, recipe, **rank_and_device)
        own = list(range(self.rank, len(index), self.world_size))
        size = max(1, recipe.data.eval_batch_size // self.world_size)
        self._keys += [own[start : start + size] for start in range(0, len(own), size)]

    def __len__(self) -> int:
        """Batches of this rank; 0 if there are fewer images than ranks."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        for raw in raw_batches(self._loader):
            yield to_batch(raw, self.index, self.recipe.data.image_hw, self.device)
