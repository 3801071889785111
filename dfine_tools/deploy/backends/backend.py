"""A detector that is ready to run, whatever runs it: the same pixels in, the same detections out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfine_lib.errors import DfineError
from dfine_lib.evaluate.postprocess import Detections

PUBLISHED_HW = (640, 640)  # the input of the published models, where weights say nothing


class BackendError(DfineError):
    """A file that cannot be run, or not by the backend asked for; the message says what would."""


class DeviceError(BackendError):
    """A device that this backend does not run on, or not here; other backends may."""


@dataclass(frozen=True, eq=False)
class EdgeDistributions:
    """Where the four edges (left, top, right, bottom) of K boxes may be.

    The mean of `positions_px` under `probabilities` is the box's edge.
    """

    probabilities: Tensor  # float32 [K, 4, N + 1], last layer
    positions_px: Tensor  # float32 [K, 4, N + 1], place of each bin in pixels of the original image


@dataclass(frozen=True, eq=False)
class Backend:
    """A detector ready to run, whatever runs it."""

    name: str  # torch, onnxruntime, openvino, tensorrt
    file: Path | None  # None: a model in memory
    image_hw: tuple[int, int]  # of its input
    class_names: tuple[str, ...]  # by label; empty where the file does not say
    category_ids: tuple[int, ...]  # the data set's id of each label; likewise
    batch: int | None  # the one batch size that the file takes; None: any
    device: str
    answer: Callable[[np.ndarray, np.ndarray], tuple[list[Detections], list[EdgeDistributions] | None]]
    about: Mapping[str, str] = field(default_factory=dict)  # what an exported file says of itself
    shared: Callable[[], Backend] | None = None  # the same, for several calls at a time; opened once, when asked for
    takes_bytes: bool = False  # whether `answer` makes floats of bytes itself; otherwise it is given float32 in 0..1

    def detect(
        self, images: Tensor, sizes_wh: Tensor | np.ndarray
    ) -> tuple[list[Detections], list[EdgeDistributions] | None]:
        """Detect in any number of images.

        Args:
            images: uint8 `[B, 3, H, W]`, RGB, of the size `image_hw`; or float32 in 0..1.
            sizes_wh: `[B, 2]`, width and height of the original images in pixels.

        Returns:
            For each image its `Detections`, scores falling, on the CPU; and where the backend was opened with
            `edges`, the edge distributions of each.

        Raises:
            ValueError: images of another size than the file takes.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_hw):
            raise ValueError(f"images must be [B, 3, {self.image_hw[0]}, {self.image_hw[1]}], got {list(images.shape)}")
        pixels = images.contiguous().numpy()  # quicker while they are bytes
        if images.dtype != torch.uint8:
            pixels = pixels.astype(np.float32, copy=False)
        elif not self.takes_bytes:  # by numpy: torch would wake threads that take cores from the detector's own
            pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
        sizes = np.ascontiguousarray(np.asarray(sizes_wh), dtype=np.int64)
        count, step = len(pixels), self.batch or max(1, len(pixels))
        found: list[Detections] = []
        edges: list[EdgeDistributions] = []
        for start in range(0, count, step):
            part, part_sizes = pixels[start : start + step], sizes[start : start + step]
            short = (self.batch or len(part)) - len(part)
            if short:  # a file of one batch size gets its last image again, and the answers are dropped
                part = np.concatenate([part, np.repeat(part[-1:], short, 0)])
                part_sizes = np.concatenate([part_sizes, np.repeat(part_sizes[-1:], short, 0)])
            one_found, one_edges = self.answer(part, part_sizes)
            found += one_found[: len(one_found) - short]
            edges += one_edges or []
        return found, edges or None
