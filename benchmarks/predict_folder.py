"""How much of the model's own speed is left once pictures come from a folder and answers go into a file.

    python -m benchmarks.predict_folder [--model n320.onnx] [--images photos]

The model alone: ONNX Runtime with its own settings, on pictures that lie ready in memory as float32. End to end: what
`dfine predict FOLDER --json FILE` does, from the first picture opened to the last answer on disk. Loading the model is
in neither. Without `--model` it is size n at 320 px with random weights, exported here; without `--images` 200
photographs of 640 x 480 are cut out of the two that scikit-learn brings, and saved as JPEG.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.ratio import arguments, compare, record, use_threads
from dfine_lib import DFINE
from dfine_lib.recipes import get_recipe
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.images import read_image
from dfine_tools.deploy.predict import Predictor, network_input
from dfine_tools.deploy.predict_files import predict_files
from dfine_tools.deploy.sources import find_source

SEED, SIDE, IMAGES = 0, 320, 200
BATCHES = (1, 4)
LEAST_SHARE = 0.9  # of the model's own images a second
SETTINGS = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT")}  # `dfine predict` and `make bench` set it to 2000
OBJECTS = 20  # that an image's answer holds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="a .onnx file")
    parser.add_argument("--images", type=Path, help="folder of pictures")
    options = parser.parse_args()
    use_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or exported(Path(scratch) / "n.onnx")
        folder = options.images or photographs(Path(scratch) / "photos")
        predictor = Predictor(model, backend="onnxruntime", device="cpu")
        count, side = len(find_source(folder)), predictor.backend.image_hw[0]
        first = predictor(find_source(folder).items[0], score=0.0)[0]
        score = float(first.scores[OBJECTS - 1])  # random weights are sure of nothing
        rows = []
        for batch in BATCHES:
            case = f"{'size n' if options.model is None else model.name}, {side} px, {count} images, batch {batch}"
            if options.only in case:
                rows.append(
                    compare(
                        lambda: end_to_end(predictor, folder, score, Path(scratch) / "found.json"),
                        model_alone(model, folder, predictor.backend.image_hw, batch),
                        turns=options.turns,
                        what="dfine predict, a folder",
                        case=case,
                        unit="s",
                        against="its model alone, ONNX Runtime",
                        at_most=round(1 / LEAST_SHARE, 3),
                        details={"images": count, "objects": OBJECTS, "checked": "an answer for every image"}
                        | SETTINGS,
                    )
                )
    if rows and not options.dry:
        record("predict_folder", rows, seed=SEED)


def exported(file: Path) -> Path:
    """Size n; what it finds does not change how long it takes."""
    torch.manual_seed(SEED)
    return export_onnx(DFINE(get_recipe("n_coco").model), file, SIDE)


def photographs(folder: Path, count: int = IMAGES) -> Path:
    """Cut-outs of real photographs, each another one."""
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(SEED)
    for number in range(count):
        photo = originals[number % len(originals)]
        width = int(rng.integers(photo.width // 2, photo.width))
        height = width * 3 // 5
        left, top = rng.integers(0, (photo.width - width + 1, photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height)).resize((640, 480), Image.Resampling.BICUBIC)
        part.save(folder / f"{number:04d}.jpg", quality=92)
    return folder


def end_to_end(predictor: Predictor, folder: Path, score: float, answers: Path) -> None:
    """A folder in, a JSON file out."""
    summary = predict_files(predictor, folder, json_file=answers, score=score, progress=False)
    if summary.images != len(find_source(folder)):
        raise RuntimeError(f"{summary.skipped} pictures could not be read")


def model_alone(model: Path, folder: Path, image_hw: tuple[int, int], batch: int) -> Callable[[], None]:
    """The same pictures through ONNX Runtime, from memory."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = torch.stack([network_input(read_image(file), image_hw) for file in find_source(folder).items])
    pixels, sizes = (images.float() / 255).numpy(), np.full((len(images), 2), SIDE, np.int64)

    def run() -> None:
        for first in range(0, len(pixels), batch):
            part = slice(first, first + batch)
            session.run(None, {"images": pixels[part], "orig_target_sizes": sizes[part]})

    return run


if __name__ == "__main__":
    main()
