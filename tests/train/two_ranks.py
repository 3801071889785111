"""What the tests of several processes compute, in one process or, by torchrun, in two: one file of results a rank."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from small_runs import SMALL
from torch import nn

from dfine_lib.boxes import box_xyxy_to_cxcywh, inverse_sigmoid
from dfine_lib.criterion import build_criterion
from dfine_lib.data import EvalLoader, find_split, read_coco
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.distributed import ALONE, Ranks, current_ranks
from dfine_lib.evaluate.coco_ap import evaluate_model
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.outputs import DFINEOutput
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.step import TrainStep
from dfine_tools.runs.processes import joined_processes

# Boxes of each of eight images. The most on both ranks are the same where denoising queries are to be the same.
USUAL, EMPTY_HALF = (
    [2, 1, 1, 2, 0, 2, 2, 1],
    [2, 1, 0, 0, 1, 2, 0, 0],
)  # micro-batches of 4 images: rank 1 has the last two
CASES = {
    "plain": {"model.num_denoising": 0},
    "denoising without noise": {"model.label_noise_ratio": 0.0, "model.box_noise_scale": 0.0},
    "accumulated": {"model.num_denoising": 0, "train.accumulate": 2},
    "normalizers of each micro-batch": {
        "model.num_denoising": 0,
        "train.accumulate": 2,
        "train.exact_accumulation": False,
    },
    "whole, denoising without noise": {"model.label_noise_ratio": 0.0, "model.box_noise_scale": 0.0},
    "accumulated, denoising without noise": {
        "model.label_noise_ratio": 0.0,
        "model.box_noise_scale": 0.0,
        "train.accumulate": 2,
    },
    "no union set": {"model.num_denoising": 0, "loss.union_set": False},
    "rank without boxes": {"model.num_denoising": 0},
    "rank without boxes, denoising": {},
    "no box at all": {"model.num_denoising": 0},
    "not finite on one rank": {},
}


def recipe_of(case: str):
    own = {"model.num_classes": 2, "train.ema_decay": 0.5, "train.ema_ramp": 0, "train.clip_max_norm": 0.1}
    own["model.num_queries"] = 20  # every token of 64 x 64 pixels: which are selected is not left to rounding
    return changed(get_recipe("pico"), SMALL | own | CASES[case])


def batches_of(case: str, ranks: Ranks) -> list[Batch]:
    """This rank's share of the images of one step, one batch for each micro-batch, as `TrainLoader` makes them."""
    passes = recipe_of(case).train.accumulate
    counts = [0] * 8 if case == "no box at all" else EMPTY_HALF if "without boxes" in case else USUAL
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 64, 64, generator=draw)
    targets = [
        {
            "labels": torch.randint(0, 2, (n,), generator=draw),
            "boxes": torch.rand(n, 4, generator=draw) * torch.tensor([0.4, 0.4, 0.3, 0.3]) + 0.2,
        }
        for n in counts
    ]
    if case == "not finite on one rank":
        images[7] = torch.nan
    fewer = ("rank" in case or "denoising" in case) and passes == 1 and "whole" not in case
    per_pass = (4 if fewer else 8) // passes
    own = []
    for start in range(0, passes * per_pass, per_pass):
        share = per_pass // ranks.size
        place = slice(start + ranks.rank * share, start + (ranks.rank + 1) * share)
        if case == "not finite on one rank":
            place = slice(4 + place.start, 4 + place.stop)
        boxes = Targets.of_images(targets[place])
        own.append(Batch(images[place], boxes, torch.arange(8)[place], torch.full((8, 2), 64.0)[place]))
    return own


def steps(case: str, ranks: Ranks = ALONE) -> dict:
    """Two steps, norms in eval mode and plain gradient descent: gradients of the first, weights after the last."""
    recipe = recipe_of(case)
    torch.manual_seed(0)
    model = DFINE.from_recipe(recipe).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for p in model.parameters():
        if p.requires_grad and not p.any():  # heads start at 0, where layers agree and nothing is distilled
            nn.init.normal_(p, std=0.2)
    ema = ModelEMA(model, recipe.train)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    step = TrainStep(model, build_criterion(recipe), optimizer, ema, recipe.train, torch.device("cpu"), ranks)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    results, gradients = [], {}
    for number in range(2):
        torch.manual_seed(number)
        results.append(step(batches_of(case, ranks)))
        if not number:
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {
        "gradients": gradients,
        "moved": {name: weights[name] - before[name] for name in weights},
        "average": {name: p.clone() for name, p in ema.module.named_parameters()},
        "losses": [result.losses for result in results],
        "norms": [result.grad_norm for result in results],
        "non_finite": [list(result.non_finite) for result in results],
    }


def statistics(ranks: Ranks) -> list[torch.Tensor]:
    """Running means after a step with norms in training mode."""
    recipe = recipe_of("plain")
    torch.manual_seed(0)
    model = DFINE.from_recipe(recipe).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ema = ModelEMA(model, recipe.train)
    TrainStep(model, build_criterion(recipe), optimizer, ema, recipe.train, torch.device("cpu"), ranks)(
        batches_of("plain", ranks)
    )
    return [b.clone() for name, b in model.named_buffers() if "running" in name]


class Finder(nn.Module):
    """Knows the pictures by their sum: finds every object, somewhat beside its place."""

    def __init__(self, loader: EvalLoader) -> None:
        super().__init__()
        self.answers = {}
        for i, batch in enumerate(loader):
            draw = torch.Generator().manual_seed(i)
            labels, boxes_xyxy = loader.index.targets(i)
            boxes = torch.zeros(6, 4)
            boxes[: len(labels)] = box_xyxy_to_cxcywh(torch.from_numpy(boxes_xyxy).float() / 64)
            boxes += 0.03 * torch.rand(6, 4, generator=draw)
            scores = torch.full((6, loader.index.num_classes), 0.01)
            scores[range(len(labels)), labels] = 0.2 + 0.7 * torch.rand(len(labels), generator=draw)
            self.answers[batch.images.sum().item()] = (inverse_sigmoid(scores), boxes)

    def forward(self, images: torch.Tensor) -> DFINEOutput:
        logits, boxes = zip(*(self.answers[image[None].sum().item()] for image in images), strict=True)
        nothing = dict.fromkeys(("decoder", "encoder", "bin_offsets", "denoising", "denoising_plan"))
        return DFINEOutput(pred_logits=torch.stack(logits), pred_boxes=torch.stack(boxes), **nothing)


def evaluation(data: Path, images: int, ranks: Ranks = ALONE) -> dict:
    """A folder of so many pictures scored, shared out over ranks."""
    index = read_coco(*find_split(data / str(images), "val"), training=False)
    recipe = changed(get_recipe("pico"), SMALL | {"data.eval_batch_size": ranks.size})
    model = Finder(EvalLoader(index, changed(recipe, {"data.eval_batch_size": 1})))
    loader = EvalLoader(index, recipe, rank=ranks.rank, world_size=ranks.size)
    metrics = evaluate_model(model, loader, index.annotation_file, "cpu", ranks=ranks)
    own = [int(i) for batch in loader for i in batch.image_ids]
    return {"metrics": metrics.to_dict(), "images": sorted(i for ids in ranks.gather(own) for i in ids)}


def main(data: Path, out: Path) -> None:
    with joined_processes("cpu") as ranks:
        assert ranks == current_ranks() and ranks.size == 2
        results = {case: steps(case, ranks) for case in CASES}
        results["evaluation"] = {images: evaluation(data, images, ranks) for images in (9, 1)}
        results["statistics"] = statistics(ranks)
        results["gathered"] = ranks.gather(ranks.rank)
        results["from the first"] = ranks.on_rank_zero(lambda: ["rank", ranks.rank])
        mine = [torch.full((2,), float(ranks.rank)), torch.full((1, 3), 2.0 * ranks.rank)]
        ranks.average_(mine)
        results["averaged"] = mine
        torch.save(results, out / f"{ranks.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
