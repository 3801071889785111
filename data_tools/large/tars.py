"""The tars of a split: where they come from, what is in them, and whether it is what `shards.json` tells.

The tars may lie elsewhere: with `DFINE_SHARDS_FROM` in the environment, `BASE/SPLIT/FILE` is opened by webdataset,
which knows https://, gs:// and `pipe:COMMAND` (`{}` stands for SPLIT/FILE). Nothing but this variable names a place or
a command: names in `shards.json` are those of files, and checked.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dfine_lib.data.coco import CocoIndex
from dfine_lib.errors import DataError

FORMAT = "dfine shards 1"
SHARD_INDEX = "shards.json"  # in an image folder: its images are in tars
SOURCE = "DFINE_SHARDS_FROM"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}\.tar")


@dataclass(frozen=True, eq=False)
class Shards:
    """The tars of one split."""

    folder: Path
    names: tuple[str, ...]
    counts: np.ndarray  # int64 [K] images
    sizes: tuple[int, ...]  # bytes
    checksums: tuple[int | None, ...] = ()  # `checksum` over the images in their order; None: not given

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
            return url, webdataset().gopen(url)
        except Exception as error:  # whatever the scheme's own client raises
            raise DataError(f"{url}: cannot be opened: {error}. It comes from {SOURCE}.") from error

    def images(self, i: int, skip: int = 0) -> Iterator[tuple[int, bytes, str]]:
        """Image id, encoded image and place of every image of shard `i`, after the first `skip`.

        Raises:
            DataError: the tar is damaged; or, once it is read to its end, its images are not those of `shards.json`.
        """
        url, stream = self.open(i)
        tars = webdataset().tariterators
        found, read, left = 0, 0, False
        try:
            with stream:  # a command that fails says so when it is closed
                for sample in tars.group_by_keys(tars.tar_file_expander([{"url": url, "stream": stream}])):
                    found += 1
                    identity, content, where = _image(sample, url)
                    read = checksum(identity, content, read)
                    if found > skip:
                        left = True
                        yield identity, content, where
                        left = False
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            if left:  # nobody wants more of it
                return
            what = str(error.args[0] if error.args else type(error).__name__)[:300]
            if os.environ.get(SOURCE) and isinstance(error, OSError):
                raise DataError(f"{url}: cannot be read ({what}). Is it there? It comes from {SOURCE}.") from error
            raise DataError(f"{url}: damaged or cut off ({what}). Write or copy it again.") from error
        index = self.folder / SHARD_INDEX
        if found != self.counts[i]:
            raise DataError(
                f"{url}: holds {found} images, but {index} says {self.counts[i]}: damaged, or of another set. Write "
                "or copy it again."
            )
        if self.checksums and self.checksums[i] not in (None, read):
            raise DataError(
                f"{url}: its images are not those that {index} tells of (another checksum): damaged, or of another "
                "set. Write or copy both again."
            )


def checksum(image_id: int, content: bytes, before: int = 0) -> int:
    """CRC-32 over id and bytes of an image, and over those `before` it; it tells damage that still decodes."""
    return zlib.crc32(content, zlib.crc32(b"%d:" % image_id, before))


def is_sharded(index: CocoIndex) -> bool:
    """Whether the images of an index are in shards."""
    return (index.image_folder / SHARD_INDEX).is_file()


def read_shards(index: CocoIndex) -> Shards:
    """What `shards.json` of an index's image folder says.

    Raises:
        DataError: it is damaged, names something else than files beside it, or other images than the annotation file.
    """
    file = index.image_folder / SHARD_INDEX
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise DataError(f"{file}: not of this version ({FORMAT!r}). Write the shards again.")
        rows = [
            (
                str(row["file"]),
                int(row["images"]),
                int(row["bytes"]),
                None if row.get("crc32") is None else int(row["crc32"]),
            )
            for row in content["shards"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: no index of shards ({type(error).__name__}). Write the shards again.") from error
    for name, images, _, _ in rows:
        if not _NAME.fullmatch(name) or not 0 < images < 2**31:
            raise DataError(f"{file}: {name[:60]!r} with {images} images is no shard: names are those of tar files.")
    total = sum(images for _, images, _, _ in rows)
    if total != len(index):
        raise DataError(
            f"{file}: {total} images in shards, {len(index)} in {index.annotation_file}. Write the shards again."
        )
    names, counts, sizes, checksums = zip(*rows)
    return Shards(index.image_folder, names, np.array(counts, np.int64), sizes, checksums)


def check_shards(index: CocoIndex) -> None:
    """All shards of an index are there and as large as they were written; nothing is read through.

    Raises:
        DataError: names the shard.
    """
    shards = read_shards(index)
    webdataset()
    if os.environ.get(SOURCE):
        return
    for name, size in zip(shards.names, shards.sizes, strict=True):
        path = shards.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            is_ = "not there" if found is None else f"{found:,} bytes"
            raise DataError(f"{path}: is {is_}, should be {size:,} bytes. Copy it again (or see {SOURCE}).")


def webdataset() -> Any:
    try:
        import webdataset as found
    except ImportError as error:
        raise DataError('shards are read through webdataset, which is missing: pip install -e ".[shards]"') from error
    return found


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


def _image(sample: dict[str, Any], url: str) -> tuple[int, bytes, str]:
    fields = [name for name in sample if not name.startswith("__") and name != "json"]
    try:
        identity = int(sample["__key__"])
    except ValueError:
        identity = None
    if identity is None or len(fields) != 1:
        raise DataError(f"{url}: {sample['__key__'][:60]!r} should be an image id with one image. Write it again.")
    return identity, sample[fields[0]], f"{url}, {sample['__key__']}.{fields[0]}"
