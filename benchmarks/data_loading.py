"""From JPEG files to augmented float batches: our loader beside torchvision's transforms on PIL images.

    python -m benchmarks.data_loading [--data COCO-style folder] [--turns 7]

Peer: the published order of augmentations (photometric distortion, zoom-out, IoU crop, flip, resize, each with the
published probability), as `torchvision.transforms.v2` steps on PIL images, boxes as tv_tensors, then float and stack.
Each side runs in a process of its own, as a worker does, with one thread. Seconds are those of the processor (CPU),
per image. Without `--data`, 64 made pictures of 640 x 480 stand in for COCO: about 120 kB each, 7 boxes.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks import ratio
from dfine_lib.config import DataConfig
from dfine_lib.data import CocoIndex, find_split, read_coco
from dfine_lib.data.samples import CocoImages, SampleKey, collate, to_batch
from dfine_tools.runs.heap import keep_freed_memory

BATCH, BATCHES = 8, 4  # of a turn


def make_pictures(folder: Path, count: int = 64, seed: int = 0) -> CocoIndex:
    """Pictures of 640 x 480 with detail at every scale, as photographs have it, and 7 boxes each."""
    draws = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(count):
        pixels = np.zeros((480, 640, 3))
        for side in (5, 20, 80, 320, 640):  # detail falls with its size
            detail = draws.normal(0, 1, (side * 3 // 4 or 1, side, 3)).clip(-3, 3)
            grown = Image.fromarray(((detail + 3) * 42.5).astype(np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
            pixels += (np.asarray(grown) / 42.5 - 3) * 40 * (5 / side) ** 0.35
        Image.fromarray((pixels + 120).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480})
        for _ in range(7):
            size = np.exp(draws.uniform(np.log(12), np.log([500, 400]))).round(2)
            place = (draws.uniform(0, 1, 2) * ([640, 480] - size)).round(2)
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": int(draws.integers(1, 81)),
                "bbox": [*place.tolist(), *size.tolist()],
            })  # fmt: skip
    content = {
        "images": images, "annotations": annotations, "categories": [{"id": k, "name": str(k)} for k in range(1, 81)]
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return read_coco(folder / "instances.json", folder)


class Sometimes(v2.Transform):
    """A transform with a probability."""

    def __init__(self, transform: v2.Transform, p: float) -> None:
        super().__init__()
        self.chosen, self.p = transform, p

    def forward(self, *inputs):
        return self.chosen(*inputs) if torch.rand(1) < self.p else inputs if len(inputs) > 1 else inputs[0]


class Peer:
    """Samples by torchvision's transforms on PIL images, in the published order."""

    def __init__(self, index: CocoIndex, data: DataConfig, strong: bool) -> None:
        self.index = index
        steps: list[v2.Transform] = []
        if strong and data.photometric:
            steps.append(v2.RandomPhotometricDistort(p=data.photometric))
        if strong and data.zoom_out:
            steps.append(v2.RandomZoomOut(fill=0, p=data.zoom_out))
        if strong and data.iou_crop:
            steps.append(Sometimes(v2.RandomIoUCrop(), data.iou_crop))
        steps += [v2.SanitizeBoundingBoxes(min_size=1), v2.RandomHorizontalFlip(data.flip)]
        steps += [v2.Resize(list(data.image_hw)), v2.SanitizeBoundingBoxes(min_size=1)]
        self.transform = v2.Compose(steps)

    def sample(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Float picture and its target, boxes as centre and size in 0..1."""
        image = Image.open(self.index.file_name(i)).convert("RGB")
        labels, boxes = self.index.targets(i)
        canvas = (image.height, image.width)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(boxes.copy()), format="XYXY", canvas_size=canvas)
        image, target = self.transform(image, {"boxes": boxes, "labels": torch.from_numpy(labels.copy())})
        pixels = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)
        boxes = v2.functional.convert_bounding_box_format(target["boxes"], new_format="CXCYWH")
        width_height = torch.tensor([image.width, image.height] * 2)
        return pixels, {"labels": target["labels"], "boxes": boxes.as_subclass(Tensor) / width_height}

    def batch(self, places: list[int], _: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """One batch of those images."""
        samples = [self.sample(i) for i in places]
        return torch.stack([image for image, _ in samples]), [target for _, target in samples]


class Ours:
    """The same of our loader, in one process."""

    def __init__(self, index: CocoIndex, data: DataConfig, strong: bool) -> None:
        self.index, self.data, self.strong = index, data, strong
        self.images = CocoImages(index, data, seed=0)

    def batch(self, places: list[int], epoch: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """One batch of those images."""
        keys = [SampleKey(epoch, i, self.strong) for i in places]
        batch = to_batch(collate(self.images.__getitems__(keys)), self.index, self.data.image_hw)
        return batch.images, list(batch.targets)


def batches(index: CocoIndex, turn: int) -> Iterator[list[int]]:
    """Places in the index of the batches of one turn."""
    order = np.random.default_rng(turn).permutation(max(len(index), BATCH * BATCHES)) % len(index)
    for start in range(0, BATCH * BATCHES, BATCH):
        yield order[start : start + BATCH].tolist()


def check(index: CocoIndex, data: DataConfig) -> dict[str, float]:
    """Without chance both give the same; with it, pictures of the same brightness, darkness and number of boxes.

    Returns:
        Largest difference of a pixel (of 255) and of a box, and how many standard errors lie between the means.
    """
    plain = replace(data, flip=0.0)
    places = list(range(min(8, len(index))))
    (ours, our_boxes), (theirs, their_boxes) = (side(index, plain, False).batch(places, 0) for side in (Ours, Peer))
    found = {"pixel": float((ours - theirs).abs().max() * 255)}
    found["box"] = max(
        float((a["boxes"] - b["boxes"]).abs().max())
        for a, b in zip(our_boxes, their_boxes, strict=True)
        if len(a["boxes"])
    )
    torch.manual_seed(0)
    seen = []
    for side in (Ours(index, data, True), Peer(index, data, True)):
        rows = []
        for turn in range(8):
            for places in batches(index, turn):
                images, targets = side.batch(places, turn)
                small = images[:, :, ::8, ::8]
                rows += [
                    [float(x.mean()), float((x.amax(0) == 0).float().mean()), len(t["boxes"])]
                    for x, t in zip(small, targets, strict=True)
                ]
        seen.append(torch.tensor(rows))
    error = sum(rows.var(0) / len(rows) for rows in seen).sqrt()
    for name, apart in zip(("brightness", "black", "boxes"), ((seen[0].mean(0) - seen[1].mean(0)) / error).tolist()):
        found[f"{name}, standard errors apart"] = round(abs(apart), 2)
    if found["pixel"] > 1.01 or found["box"] > 1e-5 or max(list(found.values())[2:]) > 4:
        raise SystemExit(f"not the same: {found}")
    return found


def in_process(kind: type, index: CocoIndex, data: DataConfig, strong: bool) -> Callable[[], float]:
    """A process that works through a turn whenever called; returns CPU seconds per image."""
    here, there = multiprocessing.Pipe()

    def work() -> None:
        torch.set_num_threads(1)
        if kind is Ours:
            keep_freed_memory()  # as in our workers
        side = kind(index, data, strong)
        while (turn := there.recv()) is not None:
            start = time.process_time()
            for places in batches(index, turn):
                side.batch(places, turn)
            there.send((time.process_time() - start) / (BATCH * BATCHES))

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    turns = iter(range(10**9))

    def turn() -> float:
        here.send(next(turns))
        return here.recv()

    return turn


def main() -> None:
    parser = ratio.arguments(__doc__, turns=7)
    parser.add_argument("--data", type=Path, help="COCO-style folder (default: made pictures)")
    options = parser.parse_args()
    ratio.use_threads(1)
    data = DataConfig(num_workers=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        index = read_coco(*find_split(options.data, "train")) if options.data else make_pictures(Path(folder))
        size = np.mean([index.file_name(i).stat().st_size for i in range(len(index))])
        name = options.data.name if options.data else "made pictures"
        same = check(index, data)
        print(f"{name}: {len(index)} pictures of {size / 1000:.0f} kB; {same}")
        for stage, strong in (("all augmentations", True), ("stage 2", False)):
            if options.only not in stage:
                continue
            sides = [in_process(kind, index, data, strong) for kind in (Ours, Peer)]
            row = ratio.compare(
                *sides, turns=options.turns, warmup=2, what="loading one image", case=f"{name}, 640 px, {stage}",
                against="torchvision v2 on PIL", at_most=0.5 if strong else None,
                details={"kilobytes": round(size / 1000), "check": same, "seconds": "CPU, one thread"},
            )  # fmt: skip
            print(f"    {1 / row.ours:.0f} images/s of one core, theirs {1 / row.theirs:.0f}")
            rows.append(row)
    if not options.dry:
        ratio.record("data_loading", rows)


if __name__ == "__main__":
    main()
