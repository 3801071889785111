"""COCO JSON to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import check_images, read_image
from dfine_lib.errors import DataError

if TYPE_CHECKING:
    from dfine_lib.data.loader import EvalLoader, TrainLoader
    from dfine_lib.data.samples import Batch

__all__ = [
    "Batch",
    "CocoIndex",
    "DataError",
    "EvalLoader",
    "TrainLoader",
    "check_images",
    "find_split",
    "read_coco",
    "read_image",
]


def __getattr__(name: str) -> object:
    """Load what needs torch on first use, so that tools which only read and write data sets do without."""
    if name in ("Batch", "EvalLoader", "TrainLoader"):
        from dfine_lib.data import loader

        return getattr(loader, name)
    raise AttributeError(f"module 'dfine_lib.data' has no attribute {name!r}")
