"""A training index in one file that is mapped into memory: millions of images, opened at once, shared by all workers.

Reading and checking 25 million boxes of JSON takes minutes and gigabytes. Packed once, the same arrays are opened in
milliseconds; a page is read from the disk when a sample on it is drawn.

Layout: the magic line, the length of the header (8 bytes, little endian), the header (JSON), the arrays, each starting
at a multiple of 64 bytes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from dfine_lib.data.coco import CocoIndex, read_coco
from dfine_lib.errors import DataError, DfineError
from dfine_lib.files import whole_file

SUFFIX = ".packed"
_MAGIC = b"dfine packed index 1\n"
_ALIGN = 64
_ARRAYS = {  # field: dtype, dimensions
    "image_ids": ("int64", 1),
    "sizes_wh": ("int32", 2),
    "name_bytes": ("uint8", 1),
    "name_offsets": ("int64", 1),
    "box_offsets": ("int64", 1),
    "boxes_xyxy": ("float32", 2),
    "labels": ("int64", 1),
    "iscrowd": ("bool", 1),
}


class PackedIndex(CocoIndex):
    """An index whose arrays are maps of a file; a process that is sent it opens the file itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return read_packed, (self.annotation_file, self.image_folder)


def write_packed(index: CocoIndex, file: str | Path) -> Path:
    """Write a training index as one file; it appears whole or not at all.

    Args:
        index: of `read_coco(..., training=True)`.
        file: name ending in `.packed`; replaced where it exists.

    Raises:
        ValueError: another ending.
    """
    file = Path(file)
    if file.suffix != SUFFIX:
        raise DfineError(f"{file}: the name of a packed index ends in {SUFFIX}")
    arrays = {name: np.ascontiguousarray(getattr(index, name), dtype) for name, (dtype, _) in _ARRAYS.items()}
    place, places = 0, {}
    for name, array in arrays.items():
        places[name] = {"shape": array.shape, "offset": place}
        place += math.ceil(array.nbytes / _ALIGN) * _ALIGN
    header = {
        "source": index.annotation_file.name,
        "category_ids": index.category_ids,
        "category_names": index.category_names,
        "dropped": index.dropped,
        "arrays": places,
        "bytes": place,
    }
    words = json.dumps(header).encode()
    start = _start_of_arrays(len(words))
    with whole_file(file) as out:
        out.write(_MAGIC + struct.pack("<Q", len(words)) + words)
        for name, array in arrays.items():
            out.seek(start + places[name]["offset"])
            out.write(memoryview(array.reshape(-1).view(np.uint8)))  # `tofile` says nothing of a disk that is full
        out.truncate(start + place)
    return file


def read_index(annotation_file: Path | str, image_folder: Path | str, **options: Any) -> CocoIndex:
    """An index out of COCO JSON or a packed file; options are those of `read_coco`.

    Raises:
        DataError: as `read_coco`; or a packed file was given for evaluation, or holds other category ids.
    """
    file = Path(annotation_file)
    if file.suffix != SUFFIX:
        return read_coco(file, image_folder, **options)
    if not options.get("training", True):
        raise DataError(f"{file}: packed for training, so it cannot be evaluated on. Give the annotation file itself.")
    index = read_packed(file, image_folder)
    category_ids = options.get("category_ids")
    if category_ids is not None and tuple(category_ids) != index.category_ids:
        raise DataError(f"{file}: was packed with other category ids. Pack the annotation file again.")
    return index


def read_packed(file: str | Path, image_folder: str | Path) -> PackedIndex:
    """Open a packed index; its arrays are maps of the file.

    Args:
        file: written by `write_packed`.
        image_folder: folder that the file names are relative to.

    Raises:
        DataError: no such file, another kind of file, cut off, or arrays that do not fit each other.
    """
    file, folder = Path(file), Path(image_folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such image folder, needed by {file}.")
    try:
        size = file.stat().st_size
        with open(file, "rb") as source:
            if source.read(len(_MAGIC)) != _MAGIC:
                raise DataError(f"{file}: not a packed index of this version. Pack the annotation file again.")
            (length,) = struct.unpack("<Q", source.read(8))
            if length > size:
                raise DataError(f"{file}: damaged; its header says {length} bytes. Pack the annotation file again.")
            header = json.loads(source.read(length))
        start = _start_of_arrays(length)
        arrays = {name: _array(file, header, name, start, size) for name in _ARRAYS}
        index = PackedIndex(
            annotation_file=file,
            image_folder=folder,
            category_ids=tuple(int(i) for i in header["category_ids"]),
            category_names=tuple(str(name) for name in header["category_names"]),
            dropped={str(k): int(v) for k, v in header["dropped"].items()},
            **arrays,
        )
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: damaged ({error}). Pack the annotation file again.") from error
    _check(file, index)
    return index


def _start_of_arrays(header_length: int) -> int:
    return math.ceil((len(_MAGIC) + 8 + header_length) / _ALIGN) * _ALIGN


def _array(file: Path, header: dict[str, Any], name: str, start: int, size: int) -> np.ndarray:
    dtype, dimensions = _ARRAYS[name]
    shape, offset = tuple(int(n) for n in header["arrays"][name]["shape"]), int(header["arrays"][name]["offset"])
    length = math.prod(shape) * np.dtype(dtype).itemsize
    if len(shape) != dimensions or min(*shape, offset) < 0 or start + offset + length > size:
        raise DataError(f"{file}: cut off; {name} should lie at byte {start + offset}. Pack the annotation file again.")
    if not length:
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, mode="r", offset=start + offset, shape=shape)


def _check(file: Path, index: CocoIndex) -> None:
    """Lengths and ends that must agree; the arrays themselves are not read through."""
    images, boxes = len(index.image_ids), len(index.labels)
    agree = (
        index.sizes_wh.shape == (images, 2)
        and index.boxes_xyxy.shape == (boxes, 4)
        and index.iscrowd.shape == (boxes,)
        and len(index.name_offsets) == len(index.box_offsets) == images + 1
        and int(index.box_offsets[-1]) == boxes
        and int(index.name_offsets[-1]) == len(index.name_bytes)
        and len(index.category_ids) == len(index.category_names) > 0
    )
    if not agree:
        raise DataError(f"{file}: its arrays do not fit each other. Pack the annotation file again.")
