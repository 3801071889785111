"""Pictures a second of `dfine data objects365 resize`, beside one thread of Pillow; and how far levels move.

    python -m benchmarks.objects365_resize [--pictures 400] [--photographs ../shared/data/coco_free]

Speed: JPEGs of 1,200 x 800 and 2,600 x 1,733 pixels, made by enlarging noise, to 640. Pillow's Lanczos in one thread
opens, resizes and saves; ours does all of its work, annotation file included, with a thread a core. Both in this
process, by turns. Levels: real photographs shrunk to a quarter, against Pillow's whole decoding and
Lanczos, before saving; beside it what saving with quality 75 itself does.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ratio import ROOT, Row, arguments, compare, record
from data_tools.objects365 import resize
from data_tools.objects365.shrink import QUALITY, SPARE, shrunk_pixels, target_size

SIZE = 640


def make(folder: Path, pictures: int, width: int, height: int) -> None:
    """A set in the published layout whose pictures are 20 files, each linked many times."""
    rng = np.random.default_rng(0)
    images, kinds = [], min(20, pictures)
    for i in range(pictures):
        name = f"images/v1/patch0/objects365_v1_{i:08d}.jpg"
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < kinds:
            noise = Image.fromarray(rng.integers(0, 255, (height // 12, width // 12, 3), dtype=np.uint8))
            smooth = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
            grain = rng.integers(-6, 7, (height, width, 1))
            Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            os.link(folder / "train" / images[i % kinds]["file_name"], path)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
    boxes = [{"id": i, "image_id": i % pictures, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
             for i in range(12 * pictures)]  # fmt: skip
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "Person"}]}
    (folder / "train/zhiyuan_objv2_train.json").write_text(json.dumps(content))


def with_pillow(folder: Path, out: Path) -> float:
    """Seconds."""
    out.mkdir()
    start = time.perf_counter()
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            image.resize(target_size(*image.size, SIZE), Image.Resampling.LANCZOS).save(out / path.name)
    return time.perf_counter() - start


def ours(folder: Path, out: Path) -> float:
    """Seconds."""
    start = time.perf_counter()
    resize(folder, out, splits=("train",), size=SIZE, progress=False)
    return time.perf_counter() - start


def speed(pictures: int, width: int, height: int, turns: int, found: dict) -> Row:
    """Seconds for all pictures, by turns."""
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place) / "set", itertools.count()
        make(folder, pictures, width, height)
        return compare(
            lambda: ours(folder, Path(place) / f"ours{next(count)}"),
            lambda: with_pillow(folder, Path(place) / f"pillow{next(count)}"),
            turns=turns, what="dfine data objects365 resize", case=f"{pictures} JPEGs of {width} x {height} px",
            against="Pillow's Lanczos in one thread", at_most=0.333 if width == 1200 else None,
            details={"cores": os.cpu_count(), "levels": found},
        )  # fmt: skip


def levels(photographs: Path) -> dict[str, dict[str, float]]:
    """Mean and largest difference of levels (0 to 255), over photographs shrunk to a quarter."""
    found: dict[str, list[tuple[float, int]]] = {}
    for path in sorted(photographs.rglob("*.jpg"))[:60]:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            if image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
                continue
            size = max(image.size) // 4
            theirs = image.resize(target_size(*image.size, size), Image.Resampling.LANCZOS)
        saved = BytesIO()
        theirs.save(saved, "JPEG", quality=QUALITY)
        kinds = {
            "decoded whole": shrunk_pixels(data, size, spare=100),
            f"reduced, spare {SPARE}": shrunk_pixels(data, size),
            "reduced, no spare": shrunk_pixels(data, size, spare=1),
            f"saving with quality {QUALITY}": np.asarray(Image.open(saved)),
        }
        for name, pixels in kinds.items():
            difference = np.abs(pixels.astype(int) - np.asarray(theirs))
            found.setdefault(name, []).append((float(difference.mean()), int(difference.max())))
    return {name: {"mean": sum(mean for mean, _ in rows) / len(rows), "largest": max(most for _, most in rows),
                   "photographs": len(rows)} for name, rows in found.items()}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, turns=3)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--photographs", type=Path, default=ROOT.parent / "shared/data/coco_free")
    options = parser.parse_args()
    found = levels(options.photographs)
    sizes = [(options.pictures, 1200, 800), (options.pictures // 4, 2600, 1733)]
    rows = [speed(*size, options.turns, found) for size in sizes if options.only in str(size)]
    if not options.dry:
        record("objects365_resize", rows)


if __name__ == "__main__":
    main()
