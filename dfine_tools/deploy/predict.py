"""From images of any kind to what is in them: one class over all backends.

Reading, inference, and whatever the caller does with the results overlap; how far one runs ahead is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from data_tools.ledger import Ledger
from dfine_lib.data.transforms import Sample, stretch
from dfine_lib.errors import DfineError
from dfine_lib.model.dfine import DFINE
from dfine_tools.deploy.backends import Backend, open_backend
from dfine_tools.deploy.backends.exported import STREAMS
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.pipeline import in_background, in_groups, map_ahead
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.sources import UNREADABLE, Frame, ImageSource, NoImages, VideoSource, find_source
from dfine_tools.deploy.video import VideoReader

log = logging.getLogger(__name__)
MANY = 32  # images from which on it pays to open the file once more, for several calls at a time


def network_input(image: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """An image as the network is shown it, in training and here: the whole of it, stretched.

    Args:
        image: uint8 `[3, H, W]`, RGB, upright.
        image_hw: height and width of the network's input.

    Returns:
        uint8 `[3, *image_hw]`.
    """
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    return stretch(Sample(image, *nothing), image_hw).image


_Shown = tuple[Frame, Tensor]  # an image, and what the network sees of it: uint8 [3, h, w]


class Predictor:
    """A detector that takes images of any kind.

    Args:
        model: a `Backend`, or what `open_backend` opens: a file (`.safetensors`, `.pth`, `.onnx`, `.xml`, a published
            name) or a `DFINE`.
        options: `backend`, `device`, `image_size`, `class_names`, `edges` of `open_backend`; none for a `Backend`.

    Raises:
        BackendError: a file that cannot be run.
        WeightsError: weights that cannot be used.

    Example:
        `Predictor("model.safetensors")("photo.jpg")[0].show()`
    """

    def __init__(self, model: Backend | str | Path | DFINE, **options: Any) -> None:
        self.backend = model if isinstance(model, Backend) and not options else open_backend(model, **options)
        self.skipped: list[str] = []  # of the latest source: images that could not be read, and why
        self.ledger = Ledger()  # of the latest source: what was found in it, taken, and left out for which reason

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; empty where the file does not say."""
        return self.backend.class_names

    def __call__(
        self, source: Any, *, score: float = 0.4, batch_size: int = 1, progress: bool = False
    ) -> list[Prediction]:
        """What is in every image of the source, in order.

        Images that came as arrays are kept with the results, those of files are read again where they are drawn,
        frames of a video are not kept: `stream` is for drawing those.

        Args:
            source: as `find_source` takes it; not a camera or a stream, which have no end.
            score, batch_size, progress: as of `stream`.

        Raises:
            SourceError: nothing to read, or nothing that can be read; a source without end.
        """
        found = find_source(source)
        if isinstance(found, VideoSource):
            where, live = found.location, found.live
            if live is None:  # an address: what is behind it tells
                found = opened(found)
                if live := found.live:
                    found.close()
            if live:
                raise SourceError(f"{where}: has no end, so no list of results; loop over `stream` instead.")
        return list(self.stream(found, score=score, batch_size=batch_size, progress=progress))

    def stream(
        self,
        source: Any,
        *,
        score: float = 0.4,
        batch_size: int = 1,
        keep_images: bool = False,
        progress: bool = False,
        listed: Callable[[str, str, str], None] | None = None,
    ) -> Iterator[Prediction]:
        """The same one by one, while the next images are being read and looked at; memory stays bounded.

        An image that cannot be read is left out, with a warning, and listed in `skipped`; where it is the only one, it
        is an error. Of cameras and streams the latest frames are taken, older ones that came too fast are left out.
        `ledger` counts it all; after the last result its sums agree.

        Args:
            source: as `find_source` takes it, cameras and streams too; or what `opened` returned.
            score: leave out objects below it.
            batch_size: images a forward pass; of cameras and streams one at a time is soonest.
            keep_images: keep each image with its result, so that drawing does not read it again.
            progress: show a bar.
            listed: called with kind, reason and place of all that is left out, as `Ledger` does.

        Raises:
            ValueError: `batch_size` below 1, `score` outside 0..1.
            SourceError: nothing to read, or nothing that can be read.
        """
        if batch_size < 1 or batch_size != int(batch_size):
            raise DfineError(f"batch_size must be at least 1, and whole, got {batch_size}")
        if not 0 <= score <= 1:
            raise DfineError(f"score must lie in 0..1, got {score}")
        found = opened(source)
        skipped = self.skipped = []  # its own: another thread may call meanwhile
        if isinstance(found, VideoReader):
            ledger = self.ledger = Ledger(listed)
            images, total, in_memory = self._of_video(found, batch_size), found.count, False
            many = not found.live
        else:
            ledger = self.ledger = found.ledger(listed)
            _report(found)
            images, total = self._of_images(found, batch_size, skipped, ledger), len(found)
            many = total >= MANY
            in_memory = not any(isinstance(item, str | Path) for item in found.items)
        backend, streams = self._streams(total, many)

        def detect(batch: list[_Shown]) -> list[Prediction]:
            return self._detect(backend, batch, score, keep_images or in_memory)

        batches = map_ahead(detect, in_groups(images, batch_size), streams, streams)
        results = in_background(_flat(batches, images), ahead=batch_size)
        return _counted(results, found, ledger, skipped, progress)

    def _streams(self, total: int | None, many: bool) -> tuple[Backend, int]:
        """What runs, and how many calls at a time: on the processor, while one waits for a thread, another goes on."""
        if self.backend.shared is None or total == 1:
            return self.backend, 1
        return (self.backend.shared(), STREAMS) if many else (self.backend, 2)

    def _detect(self, backend: Backend, batch: list[_Shown], score: float, keep: bool) -> list[Prediction]:
        frames, pixels = zip(*batch, strict=True)
        found, edges = backend.detect(torch.stack(pixels), torch.tensor([frame.size_wh for frame in frames]))
        about = dict(class_names=self.backend.class_names, category_ids=self.backend.category_ids)
        results = []
        for i, (one, frame) in enumerate(zip(found, frames, strict=True)):
            every = Prediction(
                frame.name, frame.size_wh, one.labels, one.boxes_xyxy, one.scores, **about, path=frame.path,
                frame=frame.number, time_s=frame.time_s, edges=edges[i] if edges else None,
                image=frame.image if keep else None,
            )  # fmt: skip
            results.append(every.above(score))
        return results

    def _of_images(self, source: ImageSource, batch_size: int, skipped: list[str], ledger: Ledger) -> Iterator[_Shown]:
        def read(number: int) -> _Shown | SourceError:
            try:
                frame = source.read(number)
            except SourceError as error:
                return error
            return frame, network_input(frame.image, self.backend.image_hw)

        threads = max(1, min(4, os.cpu_count() or 1))
        for image in map_ahead(read, range(len(source)), threads, ahead=2 * batch_size + threads):
            if not isinstance(image, SourceError):
                if (frames := image[0].in_file) > 1:
                    ledger.found("frames", frames)
                    ledger.taken("frames")
                    ledger.left_out("frames", "only the first frame of an image is used", image[0].path, frames - 1)
                yield image
                continue
            if len(source) == 1:
                raise image
            skipped.append(str(image))
            ledger.left_out(source.kind, UNREADABLE, image)
            log.warning("left out %s", image)
        if len(skipped) == len(source):
            raise NoImages(
                f"none of the {len(source)} images can be read; the first: {skipped[0]} ({ledger.summary(source.kind)})"
            )

    def _of_video(self, reader: VideoReader, batch_size: int) -> Iterator[_Shown]:
        frames = ((frame, network_input(frame.image, self.backend.image_hw)) for frame in reader)
        ahead = 1 if reader.live and batch_size == 1 else 2 * batch_size
        return in_background(frames, ahead=ahead, drop_oldest=reader.live)


def opened(source: Any) -> ImageSource | VideoReader:
    """What `find_source` finds, a video opened: then it is known whether it is live.

    Raises:
        SourceError: nothing to read, or a video that cannot be opened.
    """
    if isinstance(source, VideoReader):
        return source
    found = find_source(source)
    return VideoReader(found) if isinstance(found, VideoSource) else found


def _flat(batches: Iterator[list[Prediction]], images: Iterator[_Shown]) -> Iterator[Prediction]:
    with contextlib.closing(images), contextlib.closing(batches):
        for batch in batches:
            yield from batch


def _counted(
    results: Iterator[Prediction], found: ImageSource | VideoReader, ledger: Ledger, skipped: list[str], progress: bool
) -> Iterator[Prediction]:
    """The results, each shown on the bar and entered in the ledger, whose sums are checked after the last."""
    came = taken = 0  # images, or frames of a video
    total = len(found) if isinstance(found, ImageSource) else found.count
    bar = tqdm(
        total=total, desc="predict", unit="image", leave=False, dynamic_ncols=True, delay=1.0, disable=not progress
    )
    with contextlib.closing(results), bar:
        try:
            for result in results:
                taken += 1
                if isinstance(found, ImageSource):
                    ledger.taken(found.kind)
                else:
                    came = result.frame + 1
                yield result
                del result
                bar.update(taken + len(skipped) - bar.n)
        finally:  # once, not frame by frame: a camera may run for days
            if isinstance(found, VideoReader):
                where, missing = found.source.location, found.missing
                ledger.found("frames", came + missing)
                ledger.taken("frames", taken)
                ledger.left_out("frames", "came faster than they were looked at", where, came - taken)
                ledger.left_out("frames", "missing or damaged", where, missing)
    ledger.check()


def _report(source: ImageSource) -> None:
    """Log what is left out before any image is read: a line for each reason, with the first few names."""
    by_reason: dict[str, list[str]] = {}
    for reason, path in source.left_out:
        by_reason.setdefault(reason, []).append(str(path))
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
        log.warning("left out, %s: %s%s", reason, ", ".join(paths[:3]), more)
