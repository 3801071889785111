"""From the tensors of a model to the 12 COCO metrics, compared with pycocotools and faster-coco-eval; time and memory.

    python -m benchmarks.evaluation [--only pycocotools] [--images 500 5000] [--replaced DIR]

`--replaced` compares with an earlier checkout too, one that scores by its own code: `git worktree add DIR 9cd083e`.

Objects and detections are made: 7 objects an image on average, of 80 classes, one in 50 a crowd; 300 detections an
image, half of them about an object, most of these of its class. Each side is a process of its own that holds the
ground truth, read, and the detections as tensors of labels, boxes and scores per image. Timed is all from there; memory
is the peak of the whole process, Python, torch and the detections included. pycocotools takes minutes for 5,000
images: from 1,000 on there is one repetition.

`dfine eval` does not score while it infers: the detections are collected, and scored at the end.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ratio

CLASSES, DETECTIONS, SIDE, LARGE = 80, 300, 640, 1000
NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NUMBERS += ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")


def made_up(images: int, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """A COCO file of that many images, ids from 1, and the `Detections` of each."""
    random = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(1, images + 1):
        n = int(random.poisson(7))
        labels = random.integers(0, CLASSES, n)
        labels[: n // 2] = labels[:1]  # an image holds several of one kind
        wh = np.exp(random.normal(4, 1, (n, 2))).clip(4, 400)
        xywh = np.concatenate([random.random((n, 2)) * (SIDE - wh), wh], 1)
        for label, box in zip(labels.tolist(), xywh.tolist(), strict=True):
            area = box[2] * box[3] * random.uniform(0.5, 1)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": label + 1, "bbox": box, "area": area,
                "iscrowd": int(random.random() < 0.02),
            })  # fmt: skip
        found.append(_found(random, labels, xywh))
    file = {
        "info": {}, "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, images + 1)],
        "annotations": annotations, "categories": [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)],
    }  # fmt: skip
    return file, found


def _found(random: np.random.Generator, labels: np.ndarray, xywh: np.ndarray) -> Any:
    """Half of them near an object, most of these of its class, a tenth of them with a high score."""
    from dfine_lib.evaluate import Detections

    k = DETECTIONS
    kinds, scores = random.integers(0, CLASSES, k), random.beta(0.3, 5, k)
    boxes = np.concatenate([random.random((k, 2)) * 500, np.exp(random.normal(4, 1, (k, 2))).clip(4, 400)], 1)
    if len(labels):
        near, which = random.random(k) < 0.5, random.integers(0, len(labels), k)
        moved = xywh[which] + random.normal(0, 0.12, (k, 4)) * np.tile(xywh[which, 2:], (1, 2))
        boxes = np.where(near[:, None], np.concatenate([moved[:, :2], moved[:, 2:].clip(2)], 1), boxes)
        kinds = np.where(near & (random.random(k) < 0.8), labels[which], kinds)
        scores = np.where(near & (random.random(k) < 0.1), random.random(k), scores)
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(*map(torch.from_numpy, (kinds[order], boxes, scores[order].astype(np.float32))))


def ours(file: dict[str, Any], found: list[Any]) -> Callable[[], tuple[dict[str, float], list[float]]]:
    """As `dfine eval`."""
    from dfine_lib.evaluate import CocoEvaluator

    evaluator = CocoEvaluator(file)
    ids = [image["id"] for image in file["images"]]

    def turn() -> tuple[dict[str, float], list[float]]:
        evaluator.reset()
        start = time.perf_counter()
        evaluator.add(ids, found)
        added = time.perf_counter()
        metrics = evaluator.metrics()
        parts = {"collect": added - start, "score": time.perf_counter() - added}
        return parts, [getattr(metrics, name) for name in NUMBERS]

    return turn


def replaced(checkout: Path) -> Callable:
    """`ours` of an earlier checkout; nothing of the library may have been imported in this process."""

    def side(file: dict[str, Any], found: list[Any]) -> Callable[[], tuple[dict[str, float], list[float]]]:
        return ours(file, found)

    side.checkout = checkout  # imported from there, in a process of its own
    return side


def theirs(package: str) -> Callable:
    """As the package's README says, detections as one array, the fastest way in; both have the same interface."""

    def side(file: dict[str, Any], found: list[Any]) -> Callable[[], tuple[dict[str, float], list[float]]]:
        if package == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        else:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        truth = COCO()
        truth.dataset = file
        truth.createIndex()
        ids = [image["id"] for image in file["images"]]

        def turn() -> tuple[dict[str, float], list[float]]:
            start = time.perf_counter()
            rows = []
            for image, one in zip(ids, found, strict=True):
                boxes = one.boxes_xyxy.double()
                boxes[:, 2:] -= boxes[:, :2]
                first, last = torch.full((len(one), 1), float(image)).double(), one.labels[:, None].double() + 1
                rows.append(torch.cat([first, boxes, one.scores[:, None].double(), last], 1).numpy())
            own = truth.loadRes(np.concatenate(rows))
            loaded = time.perf_counter()
            run = COCOeval(truth, own, "bbox")
            run.evaluate()
            matched = time.perf_counter()
            run.accumulate()
            run.summarize()
            parts = {"collect": loaded - start, "match": matched - loaded, "sum up": time.perf_counter() - matched}
            return parts, np.asarray(run.stats)[:12].tolist()

        return turn

    return side


class Side:
    """One implementation in a process of its own. Called: seconds by part. Afterwards: its metrics, and its memory."""

    def __init__(self, make: Callable, images: int) -> None:
        self.here, there = multiprocessing.Pipe()
        work = multiprocessing.get_context("fork").Process(target=self._work, args=(make, images, there), daemon=True)
        work.start()
        self.here.recv()  # all is made
        self.numbers: list[float] = []
        self.gigabytes = 0.0

    def __call__(self) -> dict[str, float]:
        self.here.send(True)
        parts, self.numbers, self.gigabytes = self.here.recv()
        return parts

    def end(self) -> None:
        """Let the process go, and what it holds."""
        self.here.send(False)
        self.here.recv()

    @staticmethod
    def _work(make: Callable, images: int, there: Any) -> None:
        torch.set_num_threads(1)
        if hasattr(make, "checkout"):
            sys.path.insert(0, str(make.checkout))
        with contextlib.redirect_stdout(io.StringIO()):
            turn = make(*made_up(images))
        there.send(None)
        while there.recv():
            with contextlib.redirect_stdout(io.StringIO()):
                parts, numbers = turn()
            there.send((parts, numbers, peak_gb()))
        there.send(None)


def peak_gb() -> float:
    """The most that this process has held so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9


def beside(package: str | Path, images: int, turns: int) -> list[ratio.Row]:
    """Time and memory, compared with a package or an earlier checkout; the metrics must agree."""
    is_checkout = isinstance(package, Path)
    name = "our own matching (9cd083e)" if is_checkout else f"{package} {importlib.metadata.version(package)}"
    case = f"{images:,} images, {DETECTIONS} detections each"
    sides = Side(ours, images), Side(replaced(package) if is_checkout else theirs(package), images)
    is_oracle = package == "pycocotools"
    timed = ratio.compare(
        *sides, turns=turns, warmup=0, what="evaluation", case=case, against=name,
        details={"seconds": "one thread"},
    )  # fmt: skip
    difference = float(np.abs(np.subtract(*(side.numbers for side in sides))).max())
    print(f"    largest difference of the 12 metrics: {difference:.1e}")
    if not difference < 1e-12:
        raise SystemExit(f"{name} gives other metrics: nothing is recorded")
    timed.details["largest_difference"] = difference
    rows = [timed]
    if images >= LARGE:
        memory = {"turns": 1, "warmup": 0, "what": "evaluation, peak memory", "case": case, "unit": "GB"}
        rows.append(ratio.compare(*(lambda side=side: side.gigabytes for side in sides), against=name, **memory))
        if is_oracle:
            rows.append(ratio.measure(lambda: sides[0].gigabytes, **memory))
    for side in sides:
        side.end()
    return rows


def main() -> None:
    parser = ratio.arguments(__doc__, turns=5)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--replaced", type=Path, metavar="DIR", help="an earlier checkout to compare with")
    options = parser.parse_args()
    ratio.use_threads(1)
    rows = []
    for package in ("pycocotools", "faster-coco-eval"):
        for images in options.images if options.only in package else ():
            rows += beside(package, images, 1 if images >= LARGE else options.turns)
    for images in options.images if options.replaced else ():
        rows += beside(options.replaced, images, 1 if images >= LARGE else options.turns)
    if not options.dry:
        print(ratio.record("evaluation", rows))


if __name__ == "__main__":
    main()
