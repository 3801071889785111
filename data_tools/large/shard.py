"""A data folder as tar shards, which object storage and network disks deliver at full speed; and as a packed index."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from data_tools.convert.image_headers import UnreadableImage, header_size
from data_tools.convert.new_folder import bring, new_folder
from data_tools.convert.records import clean_name, inside
from data_tools.large.packed import read_index, write_packed
from data_tools.large.tars import FORMAT, SHARD_INDEX, checksum
from data_tools.parts import Part, read_parts
from dfine_lib.data.coco import find_split, read_coco
from dfine_lib.errors import DataError, DfineError

LARGEST_IMAGE = 1 << 30  # bytes of one image file


def shard_data(
    source: Path | str, out: Path | str, *, images_per_shard: int = 1000, seed: int = 0, follow_links: bool = False,
    progress: bool = True,
) -> str:  # fmt: skip
    """Write a data folder whose images lie in tars: `images/SPLIT/000000.tar`, … with `shards.json`.

    A sample is `ID.EXT`, the image file as it is, and `ID.json`: its record and its annotations. `shards.json` says
    how many images and bytes each tar has, and a checksum of its images. Annotation files are taken over as they
    are. Images of the train split are shuffled, since they are read from end to end; other splits keep their order.
    Equal arguments give equal bytes.

    Args:
        source: what `find_split` understands.
        out: folder to make.
        images_per_shard: images of one tar.
        seed: of the shuffling.
        follow_links: take images that are links out of their folder.
        progress: show a bar.

    Returns:
        One line that sums up.

    Raises:
        DataError: the source is not sound, or webdataset is missing.
        ValueError: `images_per_shard` below 1.
    """
    if images_per_shard < 1:
        raise DfineError(f"images_per_shard must be at least 1, got {images_per_shard}")
    source, out = Path(source), Path(out)
    parts, summary = read_parts(source), []
    for split, part in parts.items():  # what training would refuse is summary now, not after hours of copying
        read_coco(part.file, part.folder, training=split == "train")
    with new_folder(out, source) as folder:
        for split, part in parts.items():
            order = np.arange(len(part.images))
            if split == "train":
                order = np.random.default_rng(seed).permutation(order)
            rows = _write_split(folder / "images" / split, part, order, images_per_shard, follow_links, progress)
            total = sum(row["bytes"] for row in rows)
            index = {"format": FORMAT, "seed": seed, "images": len(order), "shards": rows}
            (folder / "images" / split / SHARD_INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
            bring(part.file, folder / "annotations" / f"instances_{split}.json", "copy")
            summary.append(f"{split} {len(order):,} images in {len(rows):,} shards, {total / 1e6:,.1f} MB")
    return f"{'; '.join(summary)}; in {out}"


def _write_split(
    folder: Path, part: Part, order: np.ndarray, images_per_shard: int, follow_links: bool, progress: bool
) -> list[dict[str, Any]]:
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise DataError(
            'shards are written through webdataset, which is missing: pip install -e ".[shards]"'
        ) from error
    if not len(order):
        raise DataError(f"{part.file}: no images, so there is nothing to write.")
    folder.mkdir(parents=True)
    boxes: dict[int, list[dict[str, Any]]] = {}
    for record in part.annotations:
        boxes.setdefault(record["image_id"], []).append(record)
    rows = []
    bar = tqdm(total=len(order), desc=f"{folder.name}: images", unit="image", delay=2.0, leave=False,
               disable=not progress)  # fmt: skip
    with bar:
        for number, start in enumerate(range(0, len(order), images_per_shard)):
            own = order[start : start + images_per_shard].tolist()
            path, read = folder / f"{number:06d}.tar", 0
            with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0.0, user="", group="") as tar:
                for i in own:
                    image = part.images[i]
                    ending, content = _read(part, image, follow_links)
                    read = checksum(int(image["id"]), content, read)
                    record = {"image": image, "annotations": boxes.get(image["id"], [])}
                    about = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
                    tar.write({"__key__": str(int(image["id"])), ending: content, "json": about})
                    bar.update()
            rows.append({"file": path.name, "images": len(own), "bytes": path.stat().st_size, "crc32": read})
    return rows


def _read(part: Part, image: dict[str, Any], follow_links: bool) -> tuple[str, bytes]:
    """Ending and bytes of an image."""
    place = f"{part.file}, image id {image['id']}"
    name = clean_name(image.get("file_name"), place)
    path = inside(part.folder / name, part.folder, follow_links)
    if not path.is_file():
        raise DataError(f"{place}: there is no {path}. `dfine doctor` lists all that is missing.")
    if path.stat().st_size > LARGEST_IMAGE:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes are no image to train on. Shrink it or remove it.")
    try:
        found = header_size(path)
    except UnreadableImage as error:
        raise DataError(f"{path}: no readable image ({error}). `dfine doctor` lists all such files.") from error
    if found != (image.get("width"), image.get("height")):
        raise DataError(
            f"{place}: {path} is {found[0]} x {found[1]}, the record says {image.get('width')} x "
            f"{image.get('height')}. `dfine doctor --fix` writes a copy with the true sizes."
        )
    ending = path.suffix[1:].lower()
    return (ending if ending.isalnum() and ending.isascii() and ending != "json" else "image"), path.read_bytes()


def pack_data(source: Path | str, out: Path | str) -> str:
    """Write the train split's annotations as one file that opens at once, and `data.json`, which `--data` takes.

    Args:
        source: what `find_split` understands, with both splits.
        out: folder to make: `train.packed`, and `data.json`, which names it and everything that stays where it is.

    Returns:
        One line that sums up.

    Raises:
        DataError: the source is not sound.
    """
    source, out = Path(source), Path(out)
    index = read_index(*find_split(source, "train"))
    annotations, images = find_split(source, "val")
    with new_folder(out, source) as folder:
        write_packed(replace(index, image_folder=index.image_folder.resolve()), folder / "train.packed")
        places = {
            "train": {"annotations": "train.packed", "images": str(index.image_folder.resolve())},
            "val": {"annotations": str(annotations.resolve()), "images": str(images.resolve())},
        }
        (folder / "data.json").write_text(json.dumps(places, indent=1) + "\n", encoding="utf-8")
    return f"{len(index):,} images, {len(index.labels):,} boxes; train with --data {out / 'data.json'}"
