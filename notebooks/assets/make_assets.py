"""Make the files of this folder from a finished run of the teaching recipe.

    python notebooks/assets/make_assets.py runs/pico_shapes_teaching data/shapes_teaching

Writes the teaching checkpoint (float16 safetensors), its card and numbers, and the README's figure. The numbers are
those of the written float16 file, read back and scored on the validation images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from workbook import viz

from dfine_lib import DFINE
from dfine_lib.data import find_split, read_coco, read_image
from dfine_lib.data.samples import CocoImages, collate, to_batch
from dfine_lib.evaluate import postprocess
from dfine_lib.model.weights import load_weights, read_weights, save_weights
from dfine_tools.analysis.refinement import nearest_ground_truths, refinement_of
from dfine_tools.analysis.saved import evaluate_weights

HERE = Path(__file__).parent
NAME = "dfine_pico_shapes"
CARD = """# {name}

The teaching checkpoint: D-FINE `pico`, trained on the synthetic set `shapes` from random weights.

| | |
|---|---|
| file | `{name}.safetensors`, float16, {megabytes:.1f} MB, sha256 `{sha256}` |
| AP on {val_images} validation images (this file) | **{ap:.3f}**, AP50 {ap50:.3f}, AP75 {ap75:.3f} |
| last epoch, EMA / non-EMA weights | {ema:.3f} / {raw:.3f} |
| recipe | `{recipe}`, {epochs} epochs, {steps} steps of {batch_size} images, seed {seed} |
| data | `{data_command}`, version {data_version} of the set |
| command | `{command}` |
| commit | `{commit}` |
| device | {device} ({processor}), {threads} thread(s), {minutes:.0f} minutes of training and evaluation |
| versions | {versions} |
| all numbers | `{name}.json`, the run's `metrics.json` |
| licence | Apache-2.0, as the code; no image of anybody's went into it |

Made by `python notebooks/assets/make_assets.py RUN DATA`. Classes: {classes}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("data", type=Path, help="the data it was trained on")
    arguments = parser.parse_args()
    stored = read_weights(arguments.run / "model.safetensors")
    model = DFINE(stored.model)
    load_weights(model, stored)
    target = save_weights(
        HERE / f"{NAME}.safetensors",
        model,
        data=stored.data,
        category_names=stored.category_names,
        category_ids=stored.category_ids,
        half=True,
    )
    write_card(arguments.run, arguments.data, target)
    figure = refinement_figure(DFINE.from_pretrained(target), arguments.data)
    figure.savefig(HERE / "readme.png", dpi=110)
    print(f"{target}, its card and numbers, and {HERE / 'readme.png'}")


def write_card(run: Path, data: Path, target: Path) -> None:
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    made_of = json.loads((data / "data_set.json").read_text(encoding="utf-8"))
    result["float16_file"] = evaluate_weights(target, data).to_dict()
    (HERE / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scores, recipe = result["float16_file"], result["recipe"]
    content = target.read_bytes()
    card = CARD.format(
        name=NAME, megabytes=len(content) / 1e6, sha256=hashlib.sha256(content).hexdigest(),
        val_images=result["images"]["val"], ap=scores["ap"], ap50=scores["ap50"], ap75=scores["ap75"],
        ema=result["last"]["ema"]["ap"], raw=result["last"]["raw"]["ap"], recipe=recipe["name"],
        epochs=recipe["train"]["epochs"], steps=result["steps"], batch_size=recipe["data"]["batch_size"],
        seed=result["seed"], data_command=data_command(made_of), data_version=made_of["version"],
        command=result["command"], commit=result["commit"],
        device=result["device"], processor=result["machine"]["processor"], threads=result["threads"],
        minutes=result["seconds"] / 60, versions=", ".join(f"{k} {v}" for k, v in result["versions"].items()),
        classes=", ".join(result["classes"]),
    )  # fmt: skip
    (HERE / f"{NAME}.md").write_text(card, encoding="utf-8")


def data_command(made_of: dict) -> str:
    words = " ".join(f"--{key} {made_of[key]}" for key in ("train", "val", "size", "seed"))
    return f"python -m data_tools.{made_of['name']} DATA {words}"


def refinement_figure(model: DFINE, data: Path):
    """The object among the first validation images whose box its layers improved most."""
    index = read_coco(*find_split(data, "val"), training=False)
    stored = read_weights(HERE / f"{NAME}.safetensors")
    chosen = list(range(min(60, len(index))))
    batch = to_batch(collate([CocoImages(index, stored.data)[i] for i in chosen]), index, stored.data.image_hw, "cpu")
    with torch.inference_mode():
        outputs = model(batch.images, keep_layers=True)
    best, most = None, -1.0
    for i, found in enumerate(postprocess(outputs, batch.sizes_wh)):
        labels, boxes = (torch.as_tensor(x) for x in index.targets(chosen[i]))
        nearest = nearest_ground_truths(found, labels, boxes, least_iou=0.85)
        for k in torch.nonzero((nearest >= 0) & (found.scores > 0.6)).flatten().tolist():
            steps = refinement_of(outputs, i, int(found.queries[k]), batch.sizes_wh[i])
            errors = (steps.boxes_by_layer_xyxy - boxes[nearest[k]]).abs().sum(-1)
            gain = float(errors[0] - errors[-1])
            if gain > most:
                most, best = gain, (i, k, steps, boxes[nearest[k]], found)
    if best is None:
        raise ValueError(f"no object of the first {len(chosen)} images was found well enough to be drawn")
    i, k, steps, ground_truth, found = best
    title = f"{index.category_names[int(found.labels[k])]}, score {float(found.scores[k]):.2f}"
    image = read_image(index.file_name(chosen[i]))
    return viz.edge_distributions(
        image, steps.corner_logits_by_layer, steps.boxes_by_layer_xyxy, steps.bin_offsets, ground_truth, title
    )


if __name__ == "__main__":
    main()
