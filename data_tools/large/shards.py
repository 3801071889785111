"""Images out of tar shards, read from end to end: what object storage and network disks are quick at.

A folder of shards is a data folder whose `images/SPLIT/` holds tars and `shards.json` in place of images
(`dfine data shard` makes it). Boxes come from the annotation file beside it, as ever; the tars are read through
webdataset (`data_tools.large.tars`). Augmentation stays a function of seed, epoch and image; the order is one of seed,
epoch and number of ranks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from data_tools.large.tars import Shards, read_shards, webdataset
from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.loader import EvalLoader, TrainLoader, data_loader, num_workers_of, raw_batches
from dfine_lib.data.samples import Batch, CocoImages, RawBatch, SampleKey, collate, to_batch
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.errors import DataError, DfineError

STREAMS = 12  # that a rank reads, whatever the number of workers; divides by most of their numbers
SHUFFLED = 4096  # images of a rank, still encoded, among which the next one is drawn


class ShardImages(CocoImages):
    """As `CocoImages`, but an image's bytes are handed in; asked by its place, it looks for them in the shards."""

    def __init__(self, index: CocoIndex, shards: Shards, recipe: Recipe, *, seed: int = 0) -> None:
        super().__init__(index, recipe.data, seed=seed)
        self.shards = shards
        self._order = np.argsort(index.image_ids, kind="stable")

    def place(self, image_id: int, where: str) -> int:
        """Place of an image id in the index."""
        k = int(np.searchsorted(self.index.image_ids, image_id, sorter=self._order))
        if k == len(self._order) or self.index.image_ids[self._order[k]] != image_id:
            raise DataError(
                f"{where}: {self.index.annotation_file} has no image id {image_id}. Write the shards again."
            )
        return int(self._order[k])

    def _content(self, i: int) -> tuple[str | Path, bytes | None]:
        for shard in range(len(self.shards.names)):
            for identity, content, where in self.shards.images(shard):
                if identity == self.index.image_ids[i]:
                    return where, content
        raise DataError(f"{self.shards.folder}: no shard holds image id {self.index.image_ids[i]}.")


class ShardStreams(IterableDataset):
    """Batches of one rank, numbered; batch k comes from stream k modulo `STREAMS`.

    Args:
        images: transforms, and the index.
        order: shards in the order in which they are gone through, as one long row of images.
        start: the rank's first image in that row.
        sizes: of every batch.
        first: number of the first batch that is wanted.
        train: epoch and stage 1; None for evaluation: then nothing is shuffled.
    """

    def __init__(
        self, images: ShardImages, order: np.ndarray, start: int, sizes: list[int], first: int = 0,
        train: tuple[int, bool] | None = None,
    ) -> None:  # fmt: skip
        self.images, self.sizes, self.first, self.train = images, sizes, first, train
        self.order = order
        self.ends = np.cumsum(images.shards.counts[order])
        lengths = [sum(sizes[s::STREAMS]) for s in range(STREAMS)]
        self.starts = start + np.concatenate([[0], np.cumsum(lengths)])

    def __iter__(self) -> Iterator[RawBatch | DataError]:
        worker = get_worker_info()
        which, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        try:
            # A worker is asked for every `workers`-th batch, beginning at `first`.
            streams: dict[int, Iterator[Any]] = {}
            for k in range(self.first + which, len(self.sizes), workers):
                s = k % STREAMS
                if s not in streams:
                    done = sum(self.sizes[s : self.first : STREAMS])
                    streams[s] = islice(self._stream(s), done, None)
                yield collate([self._sample(*image) for image in islice(streams[s], self.sizes[k])])
        except DataError as error:
            yield error

    def _stream(self, s: int) -> Iterator[tuple[int, bytes, str]]:
        own = self._slice(int(self.starts[s]), int(self.starts[s + 1]))
        if self.train is None:
            return own
        seed = derived_seed(Draw.SHARD_SHUFFLE, self.images.seed, self.train[0], int(self.starts[s]))
        size = max(1, SHUFFLED // STREAMS)
        return webdataset().shuffle(size, initial=size, rng=random.Random(seed))(own)

    def _slice(self, start: int, end: int) -> Iterator[tuple[int, bytes, str]]:
        """Images `start` to `end` of the row."""
        while start < end:
            k = int(np.searchsorted(self.ends, start, side="right"))
            shard = int(self.order[k])
            skip = start - int(self.ends[k] - self.images.shards.counts[shard])
            stop = min(end, int(self.ends[k]))
            # A shard that is read to its end is asked once more, which counts its images.
            images = self.images.shards.images(shard, skip)
            yield from images if stop == self.ends[k] else islice(images, stop - start)
            start = stop

    def _sample(self, image_id: int, content: bytes, where: str) -> Any:
        place = self.images.place(image_id, where)
        key = place if self.train is None else SampleKey(self.train[0], place, self.train[1])
        return self.images.sample(key, where, content)


def _run(streams: ShardStreams, num_workers: int, device: torch.device | str | None) -> Iterator[RawBatch]:
    workers = max((n for n in range(1, num_workers + 1) if STREAMS % n == 0), default=0)
    return raw_batches(data_loader(streams, workers, device, batch_size=None, collate_fn=_as_it_is))


def _as_it_is(raw: Any) -> Any:
    return raw


class ShardTrainLoader(TrainLoader):
    """`TrainLoader` over shards: shards are shuffled, and images among `SHUFFLED` that are read ahead.

    Every epoch, each image comes at most once over all ranks and workers; what is left over when the last step is
    full is dropped. Shards at the border between two ranks, or two streams, are read by both.

    Raises:
        ValueError: fewer images than a step takes, or `data.repeat_threshold`, which would draw from everywhere.
    """

    def __init__(self, index: CocoIndex, recipe: Recipe, **share: Any) -> None:
        if recipe.data.repeat_threshold is not None:
            raise DfineError("repeat_threshold draws images from all over the set, shards are read in order: give "
                             "the data folder that they were made of")  # fmt: skip
        super().__init__(index, recipe, **share)
        if len(index) < recipe.data.batch_size:
            raise DfineError(f"{len(index)} images in shards are fewer than a batch of {recipe.data.batch_size}")
        self.images = ShardImages(index, read_shards(index), recipe, seed=self.seed)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches `start_batch`, `start_batch + 1`, … of that epoch."""
        if not 0 <= start_batch <= len(self):
            raise DfineError(f"start_batch must lie in 0..{len(self)}, got {start_batch}")
        size = self.recipe.data.batch_size // self.micro_batches
        shards = len(self.images.shards.names)
        order = np.random.default_rng(derived_seed(Draw.SHARD_ORDER, self.seed, epoch)).permutation(shards)
        stage = (epoch, epoch < self.recipe.train.stop_epoch)
        start = self.rank * len(self) * size
        streams = ShardStreams(self.images, order, start, [size] * len(self), start_batch, stage)
        return self._finished(epoch, start_batch, streams)

    def _finished(self, epoch: int, start_batch: int, streams: ShardStreams) -> Iterator[Batch]:
        for batch, raw in enumerate(
            _run(streams, num_workers_of(self.recipe.data, self.device), self.device), start_batch
        ):
            yield to_batch(raw, self.index, self.image_hw(epoch, batch), self.device)


class ShardEvalLoader(EvalLoader):
    """`EvalLoader` over shards: every image once over all ranks, in another order than the file's."""

    def __init__(self, index: CocoIndex, recipe: Recipe, *, rank: int = 0, world_size: int = 1, **more: Any) -> None:
        super().__init__(index, recipe, rank=rank, world_size=world_size, **more)
        self.images = ShardImages(index, read_shards(index), recipe)
        self.start, end = (len(index) * r // world_size for r in (rank, rank + 1))
        size = max(1, recipe.data.eval_batch_size // world_size)
        self.sizes = [min(size, end - start) for start in range(self.start, end, size)]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.images.shards.names))
        streams = ShardStreams(self.images, order, self.start, self.sizes)
        for raw in _run(streams, num_workers_of(self.recipe.data, self.device), self.device):
            yield to_batch(raw, self.index, self.recipe.data.image_hw, self.device)
