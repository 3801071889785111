"""Pictures a second of `dfine data objects365 resize`, beside one thread of Pillow; and how far levels move.

    python benchmarks/objects365_resize.py [--pictures 400] [--photographs ../shared/data/coco_free] [--out FILE.json]

Speed: JPEGs of 1,200 x 800 and 2,600 x 1,733 pixels, made by enlarging noise, to 640. Pillow's Lanczos in one thread
opens, resizes and saves; ours does all of its work, annotation file included, with a thread a core. Both in this
process, in turn, the best of three. Levels: real photographs shrunk to a quarter, against Pillow's whole decoding and
Lanczos, before saving; beside it what saving with quality 75 itself does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


def speed(pictures: int, width: int, height: int) -> dict[str, float]:
    """Best of three, in turn."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        make(folder, pictures, width, height)
        seconds = {"pillow": [], "ours": []}
        for i in range(3):
            seconds["pillow"].append(with_pillow(folder, Path(place) / f"pillow{i}"))
            seconds["ours"].append(ours(folder, Path(place) / f"ours{i}"))
    rates = {name: pictures / min(times) for name, times in seconds.items()}
    return {"width": width, "height": height, "pictures": pictures, "images_per_second": rates,
            "times_faster": rates["ours"] / rates["pillow"]}  # fmt: skip


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data/coco_free"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/objects365_resize.json"))
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "command": " ".join(["python", *sys.argv]), "commit": commit, "seed": 0, "cores": os.cpu_count(),
        "device": f"cpu, {platform.machine()}", "torch": torch.__version__, "levels": levels(options.photographs),
        "speed": [speed(options.pictures, 1200, 800), speed(options.pictures // 4, 2600, 1733)],
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
