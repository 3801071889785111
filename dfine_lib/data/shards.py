"""Pictures out of tar shards, read from end to end: what object storage and network disks are quick at.

A folder of shards is a data folder whose `images/SPLIT/` holds tars and `shards.json` in place of pictures
(`dfine data shard` makes it). Boxes come from the annotation file beside it, as ever; the tars are read through
webdataset. Augmentation stays a function of seed, epoch and image; the order is one of seed, epoch and number of ranks.

The tars may lie elsewhere: with `DFINE_SHARDS_FROM` in the environment, `BASE/SPLIT/FILE` is opened by webdataset,
which knows https://, gs:// and `pipe:COMMAND` (`{}` stands for SPLIT/FILE). Nothing but this variable names a place or
a command: names in `shards.json` are those of files, and checked.
"""

from __future__ import annotations

import json
import os
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.images import SHARD_INDEX, DataError
from dfine_lib.data.loader import (
    Batch,
    CocoImages,
    EvalLoader,
    RawBatch,
    SampleKey,
    TrainLoader,
    _batches,
    _start_worker,
    collate,
    derived_seed,
    finish,
    workers_of,
)  # fmt: skip

FORMAT = "dfine shards 1"
SOURCE = "DFINE_SHARDS_FROM"
STREAMS = 12  # that a rank reads, whatever the number of workers; divides by most of their numbers
SHUFFLED = 4096  # pictures of a rank, still encoded, among which the next one is drawn
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}\.tar")
_ORDER, _WITHIN = 3, 4  # what a derived seed is for


def is_sharded(index: CocoIndex) -> bool:
    """Whether the pictures of an index lie in shards."""
    return (index.image_folder / SHARD_INDEX).is_file()


@dataclass(frozen=True, eq=False)
class Shards:
    """The tars of one split."""

    folder: Path
    names: tuple[str, ...]
    counts: np.ndarray  # int64 [K] pictures
    sizes: tuple[int, ...]  # bytes

    def open(self, i: int) -> tuple[str, IO[bytes]]:
        """Where shard `i` comes from, and a stream of it.

        Raises:
            DataError: it is not there, leaves its folder, or holds anything else than plain files.
        """
        source = os.environ.get(SOURCE)
        if not source:
            path = self.folder / self.names[i]
            _check_tar(path, self.folder)
            return str(path), path.open("rb")
        name = f"{self.folder.name}/{self.names[i]}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.folder.name):
            raise DataError(f"{self.folder}: a split of this name cannot be read from {SOURCE}. Rename it.")
        if source.startswith("pipe:") and "{}" not in source:
            raise DataError(f"{SOURCE}: {source!r} should hold {{}}, which stands for the name of the shard.")
        url = source.replace("{}", name) if "{}" in source else f"{source.rstrip('/')}/{name}"
        try:
            return url, _webdataset().gopen(url)
        except Exception as error:  # whatever the scheme's own client raises
            raise DataError(f"{url}: cannot be opened: {error}. It comes from {SOURCE}.") from error

    def pictures(self, i: int, skip: int = 0) -> Iterator[tuple[int, bytes, str]]:
        """Image id, encoded picture and place of every picture of shard `i`, after the first `skip`."""
        url, stream = self.open(i)
        tars = _webdataset().tariterators
        found = 0
        with stream:
            try:
                for sample in tars.group_by_keys(tars.tar_file_expander([{"url": url, "stream": stream}])):
                    found += 1
                    if found > skip:
                        yield _picture(sample, url)
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{url}: damaged or cut off ({error.args[0]}). Write or copy it again.") from error
        if found != self.counts[i]:
            raise DataError(f"{url}: holds {found} pictures, but {self.folder / SHARD_INDEX} says {self.counts[i]}.")


def read_shards(index: CocoIndex) -> Shards:
    """What `shards.json` of an index's image folder says.

    Raises:
        DataError: it is damaged, names something else than files beside it, or other pictures than the annotation file.
    """
    file = index.image_folder / SHARD_INDEX
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise DataError(f"{file}: not of this version ({FORMAT!r}). Write the shards again.")
        rows = [(str(row["file"]), int(row["images"]), int(row["bytes"])) for row in content["shards"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: no index of shards ({type(error).__name__}). Write the shards again.") from error
    for name, images, _ in rows:
        if not _NAME.fullmatch(name) or not 0 < images < 2**31:
            raise DataError(f"{file}: {name[:60]!r} with {images} pictures is no shard: names are those of tar files.")
    total = sum(images for _, images, _ in rows)
    if total != len(index):
        raise DataError(
            f"{file}: {total} pictures in shards, {len(index)} in {index.annotation_file}. Write the shards again."
        )
    names, counts, sizes = zip(*rows)
    return Shards(index.image_folder, names, np.array(counts, np.int64), sizes)


def check_shards(index: CocoIndex) -> None:
    """All shards of an index are there and as large as they were written; nothing is read through.

    Raises:
        DataError: names the shard.
    """
    shards = read_shards(index)
    _webdataset()
    if os.environ.get(SOURCE):
        return
    for name, size in zip(shards.names, shards.sizes, strict=True):
        path = shards.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            is_ = "not there" if found is None else f"{found:,} bytes"
            raise DataError(f"{path}: is {is_}, should be {size:,} bytes. Copy it again (or see {SOURCE}).")


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise DataError('shards are read through webdataset, which is missing: pip install -e ".[shards]"') from error
    return webdataset


def _check_tar(path: Path, folder: Path) -> None:
    """Headers only: plain files, none larger than the tar. (A sparse one of a kilobyte may hold a terabyte.)"""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} leads out of {folder}, to {path.resolve()}: not read.")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # it would keep them all
                if not member.isreg() or member.issparse():
                    raise DataError(f"{path}: {member.name[:80]!r} is no plain file: not read.")
    except FileNotFoundError:
        raise DataError(f"{path}: no such shard. Copy it there (or see {SOURCE}).") from None
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no tar archive, or cut off ({error}). Write or copy it again.") from error


def _picture(sample: dict[str, Any], url: str) -> tuple[int, bytes, str]:
    fields = [name for name in sample if not name.startswith("__") and name != "json"]
    try:
        identity = int(sample["__key__"])
    except ValueError:
        identity = None
    if identity is None or len(fields) != 1:
        raise DataError(f"{url}: {sample['__key__'][:60]!r} should be an image id with one picture. Write it again.")
    return identity, sample[fields[0]], f"{url}, {sample['__key__']}.{fields[0]}"


class ShardImages(CocoImages):
    """As `CocoImages`, but a picture's bytes are handed in; asked by its place, it looks for them in the shards."""

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
            for identity, content, where in self.shards.pictures(shard):
                if identity == self.index.image_ids[i]:
                    return where, content
        raise DataError(f"{self.shards.folder}: no shard holds image id {self.index.image_ids[i]}.")


class ShardStreams(IterableDataset):
    """Batches of one rank, numbered; batch k comes from stream k modulo `STREAMS`.

    Args:
        images: transforms, and the index.
        order: shards in the order in which they are gone through, as one long row of pictures.
        start: the rank's first picture in that row.
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
                yield collate([self._sample(*picture) for picture in islice(streams[s], self.sizes[k])])
        except DataError as error:
            yield error

    def _stream(self, s: int) -> Iterator[tuple[int, bytes, str]]:
        own = self._slice(int(self.starts[s]), int(self.starts[s + 1]))
        if self.train is None:
            return own
        seed = derived_seed(_WITHIN, self.images.seed, self.train[0], int(self.starts[s]))
        size = max(1, SHUFFLED // STREAMS)
        return _webdataset().shuffle(size, initial=size, rng=random.Random(seed))(own)

    def _slice(self, start: int, end: int) -> Iterator[tuple[int, bytes, str]]:
        """Pictures `start` to `end` of the row."""
        while start < end:
            k = int(np.searchsorted(self.ends, start, side="right"))
            shard = int(self.order[k])
            skip = start - int(self.ends[k] - self.images.shards.counts[shard])
            stop = min(end, int(self.ends[k]))
            # A shard that is read to its end is asked once more, which counts its pictures.
            pictures = self.images.shards.pictures(shard, skip)
            yield from pictures if stop == self.ends[k] else islice(pictures, stop - start)
            start = stop

    def _sample(self, image_id: int, content: bytes, where: str) -> Any:
        place = self.images.place(image_id, where)
        key = place if self.train is None else SampleKey(self.train[0], place, self.train[1])
        return self.images.sample(key, where, content)


def _run(streams: ShardStreams, num_workers: int) -> Iterator[RawBatch]:
    workers = max((n for n in range(1, num_workers + 1) if STREAMS % n == 0), default=0)
    loader = DataLoader(
        streams, batch_size=None, collate_fn=_as_it_is, num_workers=workers, worker_init_fn=_start_worker,
        multiprocessing_context="fork" if workers and os.name == "posix" else None,
        pin_memory=torch.cuda.is_available(), generator=torch.Generator(),
    )  # fmt: skip
    return _batches(loader)


def _as_it_is(raw: Any) -> Any:
    return raw


class ShardTrainLoader(TrainLoader):
    """`TrainLoader` over shards: shards are shuffled, and pictures among `SHUFFLED` that are read ahead.

    Every epoch, each picture comes at most once over all ranks and workers; what is left over when the last step is
    full is dropped. Shards at the border between two ranks, or two streams, are read by both.

    Raises:
        ValueError: fewer pictures than a step takes, or `data.repeat_threshold`, which would draw from everywhere.
    """

    def __init__(self, index: CocoIndex, recipe: Recipe, **share: Any) -> None:
        if recipe.data.repeat_threshold is not None:
            raise ValueError("repeat_threshold draws pictures from all over the set, shards are read in order: give "
                             "the data folder that they were made of")  # fmt: skip
        super().__init__(index, recipe, **share)
        if len(index) < recipe.data.batch_size:
            raise ValueError(f"{len(index)} pictures in shards are fewer than a batch of {recipe.data.batch_size}")
        self.images = ShardImages(index, read_shards(index), recipe, seed=self.seed)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches `start_batch`, `start_batch + 1`, … of that epoch."""
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must lie in 0..{len(self)}, got {start_batch}")
        size = self.recipe.data.batch_size // self.shares
        shards = len(self.images.shards.names)
        order = np.random.default_rng(derived_seed(_ORDER, self.seed, epoch)).permutation(shards)
        stage = (epoch, epoch < self.recipe.train.stop_epoch)
        start = self.rank * len(self) * size
        streams = ShardStreams(self.images, order, start, [size] * len(self), start_batch, stage)
        return self._finished(epoch, start_batch, streams)

    def _finished(self, epoch: int, start_batch: int, streams: ShardStreams) -> Iterator[Batch]:
        for batch, raw in enumerate(_run(streams, workers_of(self.recipe.data)), start_batch):
            yield finish(raw, self.index, self.image_hw(epoch, batch), self.device)


class ShardEvalLoader(EvalLoader):
    """`EvalLoader` over shards: every picture once over all ranks, in another order than the file's."""

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
        for raw in _run(ShardStreams(self.images, order, self.start, self.sizes), workers_of(self.recipe.data)):
            yield finish(raw, self.index, self.recipe.data.image_hw, self.device)


def train_loader(index: CocoIndex, recipe: Recipe, **share: Any) -> TrainLoader:
    """A `TrainLoader` of pictures in a folder or in shards; arguments are its."""
    return (ShardTrainLoader if is_sharded(index) else TrainLoader)(index, recipe, **share)


def eval_loader(index: CocoIndex, recipe: Recipe, **share: Any) -> EvalLoader:
    """An `EvalLoader` of pictures in a folder or in shards; arguments are its."""
    return (ShardEvalLoader if is_sharded(index) else EvalLoader)(index, recipe, **share)
