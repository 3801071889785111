"""Write a generated data set as a COCO folder: all of it or nothing, the same bytes everywhere.

OUT/annotations/instances_train.json   OUT/images/train/000001.png
OUT/annotations/instances_val.json     OUT/images/val/000001.png
OUT/data_set.json                      what made it; its presence says that the folder is complete
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data_tools.convert.new_folder import new_folder
from dfine_lib.errors import DfineError

MARKER = "data_set.json"
VAL_START = 2**31  # val is the same stream of images, from here on: a longer train never meets it
_STORED_BLOCK = 65535  # most bytes that one stored block of a deflate stream holds

Sample = tuple[np.ndarray, list[dict[str, Any]]]  # uint8 [H, W, 3], annotations without ids


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder is to hold. Equal plans give equal bytes."""

    name: str
    version: int  # of the program that draws the images; raise it whenever a pixel changes
    train: int  # images
    val: int
    size: int  # side of the square images, pixels
    seed: int

    def __post_init__(self) -> None:
        for key, low, high in (("train", 1, 10**6), ("val", 1, 10**6), ("size", 64, 1024), ("seed", 0, 2**32 - 1)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise DfineError(f"{key} must be a whole number in {low} .. {high}, got {value!r}")

    @property
    def parameters(self) -> dict[str, Any]:
        """The plan as plain values, as it stands in the marker and in the JSON's `info`."""
        return {key: getattr(self, key) for key in ("name", "version", "train", "val", "size", "seed")}


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 `[H, W, 3]`, not compressed.

    Compressed bytes depend on the zlib or libjpeg that a machine has; stored blocks do not. They are also the
    quickest to write and to read.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # the leading 0 of a row: no filter
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    raw = rows.tobytes()
    stream = [b"\x78\x01"]
    for start in range(0, len(raw), _STORED_BLOCK):
        block = raw[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(raw)
        stream += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    stream.append(struct.pack(">I", zlib.adler32(raw)))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, red green blue
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(stream)) + chunk(b"IEND", b"")


def is_complete(out: Path, plan: Plan) -> bool:
    """Whether `out` already holds exactly this plan; False when there is nothing there (or an empty folder).

    Raises:
        ValueError: `out` holds something else; the message says what.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise DfineError(f"{out} is a file, not a folder: choose another place")
    if not (out / MARKER).is_file():
        if any(out.iterdir()):
            raise DfineError(f"{out} is not empty and was not made by {plan.name}: choose another folder, or empty it")
        return False
    try:
        found = json.loads((out / MARKER).read_text())
        if not isinstance(found, dict):
            raise DfineError("it holds no object")
    except ValueError as error:
        raise DfineError(f"{out / MARKER} cannot be read ({error}): remove {out} and make it again") from error
    wanted = plan.parameters
    differing = [
        f"{key} is {found.get(key)!r}, asked for {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]
    ]
    if differing:
        raise DfineError(f"{out} holds another data set ({'; '.join(differing)}): choose another folder, or remove it")
    return True


def write_coco_folder(
    out: str | Path, plan: Plan, classes: Sequence[str], sample: Callable[[int, int, int], Sample], description: str,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Write the folder beside its place, then move it there; reuse it when it is there already.

    Args:
        out: the folder to make. Its parents are made; an exception on the way leaves no `out`.
        plan: what it holds; equal plans give equal bytes on every machine.
        classes: names; ids are 1 .. their number in this order.
        sample: from seed, index and image side to an image and its annotations (`category_id`, `bbox`, …).
        description: a line for the JSON's `info`.
        progress: show a tqdm bar.

    Returns:
        `out` as a Path.

    Raises:
        ValueError: `out` holds something else.
        OSError: `out` cannot be written.
    """
    out = Path(out)
    if is_complete(out, plan):
        return out
    try:
        with new_folder(out) as folder:
            _write_set(folder, plan, classes, sample, description, progress)
    except OSError:
        if is_complete(out, plan):  # somebody else was quicker with the same set
            return out
        raise
    return out


def _write_set(
    folder: Path, plan: Plan, classes: Sequence[str], sample: Callable[[int, int, int], Sample], description: str,
    progress: bool,
) -> None:  # fmt: skip
    (folder / "annotations").mkdir()
    with tqdm(total=plan.train + plan.val, desc=plan.name, unit="image", disable=not progress) as bar:
        for split, first, count in (("train", 0, plan.train), ("val", VAL_START, plan.val)):
            made = (sample(plan.seed, first + i, plan.size) for i in range(count))
            data = _write_images(folder / "images" / split, made, plan.size, bar)
            data["info"] = {"description": description, "split": split, **plan.parameters}
            data["categories"] = [
                {"id": number, "name": name, "supercategory": plan.name} for number, name in enumerate(classes, start=1)
            ]
            target = folder / "annotations" / f"instances_{split}.json"
            target.write_bytes(json.dumps(data, separators=(",", ":"), allow_nan=False).encode())
    (folder / MARKER).write_bytes((json.dumps(plan.parameters, indent=1) + "\n").encode())


def _write_images(folder: Path, samples: Iterable[Sample], size: int, bar: tqdm) -> dict[str, Any]:
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (pixels, found) in enumerate(samples):
        name = f"{index + 1:06d}.png"
        (folder / name).write_bytes(encode_png(pixels))
        images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "iscrowd": 0, **annotation})
        bar.update()
    return {"images": images, "annotations": annotations}


def command_line(
    name: str, make: Callable[..., Path], description: str, train: int, val: int, arguments: Sequence[str] | None
) -> int:
    """Parse, call `make`, say what was made. Exit status: 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(
        prog=f"python -m data_tools.{name}",
        description=description,
        epilog=f"example: python -m data_tools.{name} data/{name} --train {train} --val {val} --size 160 --seed 0",
    )
    parser.add_argument("out", metavar="OUT", help="the folder to make; reused when it holds the same set already")
    parser.add_argument("--train", type=int, default=train, metavar="N", help="training images (default %(default)s)")
    parser.add_argument("--val", type=int, default=val, metavar="N", help="validation images (default %(default)s)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="side of the images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    existed = (Path(options.out) / MARKER).is_file()
    try:
        settings = {key: getattr(options, key) for key in ("train", "val", "size", "seed")}
        out = make(options.out, **settings, progress=not options.quiet)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    total = options.train + options.val
    how = "there already" if existed else f"{seconds:.1f} s, {total / seconds:.0f} images/s"
    print(f"{name}: {options.train} train + {options.val} val images of {options.size} px in {out} ({how})")
    return 0
