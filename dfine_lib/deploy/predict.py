"""From pictures of any kind to what is in them: one class over all backends.

Reading, inference, and whatever the caller does with the results overlap; how far one runs ahead is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dfine_lib.data.transforms import Sample, stretch
from dfine_lib.deploy.backends import Backend, open_backend
from dfine_lib.deploy.backends.exported import STREAMS
from dfine_lib.deploy.pipeline import in_background, in_groups, map_ahead
from dfine_lib.deploy.results import Prediction
from dfine_lib.deploy.sources import Frame, ImageSource, SourceError, VideoSource, find_source
from dfine_lib.deploy.video import VideoReader
from dfine_lib.model.dfine import DFINE

log = logging.getLogger(__name__)
MANY = 32  # pictures from which on it pays to open the file once more, for several calls at a time


def network_input(image: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """A picture as the network is shown it, in training and here: the whole of it, stretched.

    Args:
        image: uint8 `[3, H, W]`, RGB, upright.
        image_hw: height and width of the network's input.

    Returns:
        uint8 `[3, *image_hw]`.
    """
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    return stretch(Sample(image, *nothing), image_hw).image


class _Ready(NamedTuple):
    """A picture and what the network sees of it."""

    frame: Frame
    pixels: Tensor  # uint8 [3, h, w]


class Predictor:
    """A detector that takes pictures as they come.

    Args:
        weights: a file as `open_backend` takes it (`.safetensors`, `.pth`, `.onnx`, `.xml`, a published name), or a
            `DFINE`.
        backend: `auto` (by the file), `torch`, `onnxruntime`, `openvino`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        image_size: side, or (height, width), of the network's input; None: as the file says, else 640.
        class_names: names by label, where the file holds none.
        edges: give the distributions of the edges with each object (torch alone).

    Raises:
        BackendError: a file that cannot be run.
        WeightsError: weights that cannot be used.

    Example:
        `Predictor("model.safetensors")("photo.jpg")[0].show()`
    """

    def __init__(
        self,
        weights: str | Path | DFINE,
        *,
        backend: str = "auto",
        device: str = "auto",
        image_size: int | tuple[int, int] | None = None,
        class_names: tuple[str, ...] = (),
        edges: bool = False,
    ) -> None:
        self.backend: Backend = open_backend(
            weights, backend=backend, device=device, image_size=image_size, class_names=class_names, edges=edges
        )
        self.skipped: list[str] = []  # of the latest source: pictures that could not be read, and why

    @classmethod
    def of(cls, backend: Backend) -> Predictor:
        """One over a backend that is open already."""
        predictor = cls.__new__(cls)
        predictor.backend, predictor.skipped = backend, []
        return predictor

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; empty where the file does not say."""
        return self.backend.class_names

    def __call__(
        self, source: Any, *, score: float = 0.4, batch_size: int = 1, progress: bool = False
    ) -> list[Prediction]:
        """What is in every picture of the source, in order.

        Pictures that came as arrays are kept with the results, those of files are read again where they are drawn,
        frames of a video are not kept: `stream` is for drawing those.

        Args:
            source: as `find_source` takes it; not a camera or a stream, which have no end.
            score: leave out objects below it.
            batch_size: pictures a forward pass.
            progress: show a bar.

        Raises:
            SourceError: nothing to read, or nothing that can be read; a source without end.
        """
        found = find_source(source)
        if isinstance(found, VideoSource) and found.live:
            raise SourceError(f"{found.location}: has no end, so no list of results; loop over `stream` instead.")
        return list(self.stream(found, score=score, batch_size=batch_size, progress=progress))

    predict = __call__

    def stream(
        self,
        source: Any,
        *,
        score: float = 0.4,
        batch_size: int = 1,
        keep_images: bool = False,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """The same one by one, while the next pictures are being read and looked at; memory stays bounded.

        A picture that cannot be read is left out, told in a warning and in `skipped`; where it is the only one, it is
        an error. Of cameras and streams the latest frames are taken, older ones that came too fast are left out.

        Args:
            source: as `find_source` takes it, cameras and streams too.
            score: leave out objects below it.
            batch_size: pictures a forward pass; of cameras and streams one at a time is soonest.
            keep_images: keep each picture with its result, so that drawing does not read it again.
            progress: show a bar.

        Raises:
            ValueError: `batch_size` below 1, `score` outside 0..1.
            SourceError: nothing to read, or nothing that can be read.
        """
        if batch_size < 1 or batch_size != int(batch_size):
            raise ValueError(f"batch_size must be at least 1, and whole, got {batch_size}")
        if not 0 <= score <= 1:
            raise ValueError(f"score must lie in 0..1, got {score}")
        found = source if isinstance(source, ImageSource | VideoSource) else find_source(source)
        skipped = self.skipped = []  # its own: another thread may call meanwhile
        if isinstance(found, VideoSource):
            reader = VideoReader(found)
            pictures, total, in_memory = self._of_video(reader, batch_size), reader.count, False
            many = not found.live
        else:
            pictures, total = self._of_images(found, batch_size, skipped), len(found)
            many = total >= MANY
            in_memory = not any(isinstance(item, str | Path) for item in found.items)
        return self._results(pictures, total, many, score, batch_size, keep_images or in_memory, progress, skipped)

    def _results(self, pictures, total, many, score, batch_size, keep, progress, skipped) -> Iterator[Prediction]:
        def detected() -> Iterator[Prediction]:
            groups = in_groups(pictures, batch_size)
            batches = map_ahead(lambda batch: self._detect(backend, batch, score, keep), groups, streams, streams)
            with contextlib.closing(pictures), contextlib.closing(batches):
                for batch in batches:
                    yield from batch

        # Several at a time on the processor: where one waits for a thread of its own, another goes on.
        backend, streams = self.backend, 1
        if backend.shared is not None and total != 1:
            backend, streams = (backend.shared(), STREAMS) if many else (backend, 2)
        results = in_background(detected(), ahead=batch_size)
        with contextlib.closing(results), tqdm(
            total=total, desc="predict", unit="image", leave=False, dynamic_ncols=True, disable=not progress, delay=1.0
        ) as bar:  # fmt: skip
            for count, result in enumerate(results, start=1):
                yield result
                del result
                bar.update(count + len(skipped) - bar.n)

    def _detect(self, backend: Backend, batch: list[_Ready], score: float, keep: bool) -> list[Prediction]:
        sizes_wh = torch.tensor([ready.frame.size_wh for ready in batch])
        found, edges = backend.detect(torch.stack([ready.pixels for ready in batch]), sizes_wh)
        about = dict(class_names=self.backend.class_names, category_ids=self.backend.category_ids)
        results = []
        for i, (one, (frame, _)) in enumerate(zip(found, batch, strict=True)):
            every = Prediction(
                frame.name, frame.size_wh, one.labels, one.boxes_xyxy, one.scores, **about, path=frame.path,
                frame=frame.number, time_s=frame.time_s, edges=edges[i] if edges else None,
                image=frame.image if keep else None,
            )  # fmt: skip
            results.append(every.above(score))
        return results

    def _ready(self, frame: Frame) -> _Ready:
        return _Ready(frame, network_input(frame.image, self.backend.image_hw))

    def _of_images(self, source: ImageSource, batch_size: int, skipped: list[str]) -> Iterator[_Ready]:
        def read(number: int) -> _Ready | SourceError:
            try:
                return self._ready(source.read(number))
            except SourceError as error:
                return error

        threads = max(1, min(4, os.cpu_count() or 1))
        for picture in map_ahead(read, range(len(source)), threads, ahead=2 * batch_size + threads):
            if isinstance(picture, _Ready):
                yield picture
                continue
            if len(source) == 1:
                raise picture
            skipped.append(str(picture))
            log.warning("left out %s", picture)
        if len(skipped) == len(source):
            raise SourceError(f"none of the {len(source)} pictures can be read; the first: {skipped[0]}")

    def _of_video(self, reader: VideoReader, batch_size: int) -> Iterator[_Ready]:
        live = reader.source.live
        frames = (self._ready(frame) for frame in reader)
        return in_background(frames, ahead=1 if live and batch_size == 1 else 2 * batch_size, drop_oldest=live)
