"""The same numbers on the device as on the CPU, and in 16 bits as in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.gpu.check import Row, Setting
from benchmarks.gpu.training import SEED, case, model_of, noise, on, train_step
from data_tools import shapes
from dfine_lib.boxes import box_xyxy_to_cxcywh
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.device import set_backends
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import get_recipe
from dfine_lib.train.step import StepResult, TrainStep

WEIGHTS = Path(__file__).parents[2] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
SCORE = 0.3  # of detections that are compared
# In exact float32 the two differ by the order of sums, a relative 1e-5 after fifty layers. TF32, which must not show
# here, moves scores by up to 0.03.
LOGITS, BOXES_PX, LOSSES, GRADIENTS, SCORES = 1e-2, 0.02, 1e-3, 1e-2, 1e-3
# Least cosine of the gradient with that of float32, and where an image has 300 boxes. Autocast in bf16 on a CPU gives
# 0.990 and 0.957, simulated autocast of a GPU 0.984 to 0.991 in bf16 and 0.999 in fp16.
COSINES = {"bf16": (0.97, 0.9), "fp16": (0.99, 0.97)}
OVERFLOWS = 10  # steps until the loss scale must have become small enough


@dataclass(frozen=True)
class Computed:
    """What one device computes, moved to the CPU."""

    logits: Tensor  # [B, Q, C]
    boxes: Tensor  # [B, Q, 4] px
    detections: list[Detections]
    losses: dict[str, float]
    gradient: Tensor  # [P]


def parity(setting: Setting) -> Iterator[Row]:
    """The teaching checkpoint on the device beside the CPU, in exact float32."""
    count = 2 if setting.dry else 16
    about = f"pico, trained, {shapes.REFERENCE_SIZE} px, batch {count}, fp32, beside the CPU"
    cpu, gpu = (computed(device, count) for device in (torch.device("cpu"), setting.device))
    logits, boxes = nearest_queries(gpu, cpu)
    yield Row(what="logits", case=about, value=logits, at_most=LOGITS)
    yield Row(what="boxes", case=about, value=boxes, unit="px", at_most=BOXES_PX)
    difference, term = max(
        (abs(gpu.losses[name] - value) / max(abs(value), 1e-3), name) for name, value in cpu.losses.items()
    )
    yield Row(what="losses, relative", case=about, value=difference, at_most=LOSSES, details={"largest in": term})
    error = float((gpu.gradient - cpu.gradient).norm() / cpu.gradient.norm())
    yield Row(what="gradient, relative", case=about, value=error, at_most=GRADIENTS)
    scores, pixels, number = detection_differences(gpu.detections, cpu.detections)
    text = f"{number} detections"
    yield Row(what="scores after post-processing", case=about, value=scores, at_most=SCORES, text=text)
    yield Row(what="boxes after post-processing", case=about, value=pixels, unit="px", at_most=BOXES_PX)


def computed(device: torch.device, count: int) -> Computed:
    """Forward passes of both modes, losses and gradients. Denoising is left out: its draws differ by device."""
    trained = DFINE.from_pretrained(WEIGHTS)
    model = DFINE(replace(trained.config, num_denoising=0))
    model.load_state_dict(trained.state_dict(), strict=False)  # the embedding of the denoising queries is not there
    set_backends("highest", device)
    model.to(device, memory_format=torch.channels_last)
    batch = on(shapes_batch(count), device)
    with torch.no_grad():
        outputs = model.eval()(batch.images)
        found = postprocess(outputs, batch.sizes_wh.to(device))
    losses = build_criterion("pico")(model.train()(batch.images, batch.targets), batch.targets)
    sum(losses.values()).backward()
    return Computed(
        outputs.pred_logits.cpu(), outputs.pred_boxes.cpu() * shapes.REFERENCE_SIZE, [one.to("cpu") for one in found],
        {name: float(value.detach()) for name, value in losses.items()}, gradient_of(model),
    )  # fmt: skip


def gradient_of(model: nn.Module) -> Tensor:
    """All gradients in one vector, float64 on the CPU; zeros where a parameter has none."""
    parts = [
        (torch.zeros_like(p) if p.grad is None else p.grad).flatten().double().cpu()
        for p in model.parameters()
        if p.requires_grad
    ]
    return torch.cat(parts)


def nearest_queries(one: Computed, other: Computed) -> tuple[float, float]:
    """Largest differences of logits and of boxes (px), for 98 of 100 queries, each from the nearest query.

    Tokens of nearly equal scores may change their order in query selection, and the last of the chosen ones its place.
    """
    boxes = (one.boxes[:, :, None] - other.boxes[:, None]).abs().amax(-1)  # [B, Q, Q]
    logits = (one.logits[:, :, None] - other.logits[:, None]).abs().amax(-1)
    nearest = (boxes + logits).argmin(-1, keepdim=True)
    found = (each.gather(-1, nearest).flatten() for each in (logits, boxes))
    logits, boxes = (float(each.quantile(0.98, interpolation="higher")) for each in found)
    return logits, boxes


def detection_differences(found: list[Detections], expected: list[Detections]) -> tuple[float, float, int]:
    """Largest differences of scores and of boxes (px) over the detections from `SCORE` on, and how many they are."""
    scores, pixels, number = 0.0, 0.0, 0
    for one, other in zip(found, expected, strict=True):
        for k in torch.nonzero(other.scores >= SCORE).flatten().tolist():
            same = one.labels == other.labels[k]
            if not same.any():
                return math.inf, math.inf, number
            boxes = (one.boxes_xyxy[same] - other.boxes_xyxy[k]).abs().amax(1)
            gaps = (one.scores[same] - other.scores[k]).abs()
            nearest = int((boxes + gaps).argmin())
            scores, pixels = max(scores, float(gaps[nearest])), max(pixels, float(boxes[nearest]))
            number += 1
    return scores, pixels, number


def odd_batches(setting: Setting) -> Iterator[Row]:
    """Size n on batches at the edges of what may come: losses and gradients are finite in every precision."""
    made, device = case("n", 8, setting), setting.device
    state = model_of(made).state_dict()
    for name, counts in _odd_counts(made.batch).items():
        batch = on(noise(counts, made.side), device)
        for precision in _precisions(setting):
            model = DFINE(made.recipe.model)
            model.load_state_dict(state)
            result, skipped = _first_step(train_step(model, made.recipe, device, precision), batch)
            yield Row(
                what="finite losses and gradients", case=f"n, {made.side} px, {name}, {precision}",
                value=float(not result.non_finite and not result.overflowed), at_least=1,
                text=f"loss {result.loss:.2f}, {skipped} steps skipped before",
                details={"losses": result.losses, "not finite": result.non_finite},
            )  # fmt: skip


def precisions(setting: Setting) -> Iterator[Row]:
    """The teaching checkpoint: gradients in 16 bits beside those in exact float32, on the same device.

    Of trained weights, since those of randomly initialised ones say little: whichever query is matched is a near-tie.
    """
    device, count = setting.device, 2 if setting.dry else 8
    usual = shapes_batch(count)
    for name, counts in _odd_counts(count).items():
        batch = replace(usual, targets=noise(counts, shapes.REFERENCE_SIZE, len(shapes.CLASSES)).targets)
        if name == "one image":
            batch = shapes_batch(1)
        elif name == "a usual batch":
            batch = usual
        batch, expected = on(batch, device), None
        for precision in _precisions(setting):
            model = DFINE.from_pretrained(WEIGHTS)
            _first_step(train_step(model, get_recipe("pico"), device, precision, exact=True), batch)
            gradient = gradient_of(model)
            if expected is None:
                expected = gradient
                continue
            yield Row(
                what="cosine of the gradient with that of fp32",
                case=f"pico, trained, {shapes.REFERENCE_SIZE} px, {name}, {precision}",
                value=float(nn.functional.cosine_similarity(gradient, expected, dim=0)),
                at_least=COSINES[precision][name.startswith("300")],
            )  # fmt: skip


def shapes_batch(count: int) -> Batch:
    """Images of the embedded set `shapes` with their boxes, on the CPU."""
    made, side = shapes.batch(count), float(shapes.REFERENCE_SIZE)
    boxes = [box_xyxy_to_cxcywh(each / side) for each in made.boxes_xyxy]
    targets = Targets.of_images([{"labels": a, "boxes": b} for a, b in zip(made.labels, boxes, strict=True)])
    return Batch(made.images, targets, torch.arange(count), torch.full((count, 2), side))


def _odd_counts(batch: int) -> dict[str, list[int]]:
    """Boxes of each image, by the name of the batch."""
    return {
        "no boxes": [0] * batch,
        "one image": [3],
        "300 boxes in one image": [300] + [0] * (batch - 1),
        "a usual batch": [1 + 5 * i % 13 for i in range(batch)],
    }


def _precisions(setting: Setting) -> tuple[str, ...]:
    return ("fp32", "bf16") if setting.dry else ("fp32", "bf16", "fp16")  # a CPU lacks some operators of fp16


def _first_step(step: TrainStep, batch: Batch) -> tuple[StepResult, int]:
    """The first step that fp16 does not skip, and how many it skipped before: those leave the weights alone."""
    skipped = 0
    while True:
        torch.manual_seed(SEED)
        result = step([batch])
        if not result.overflowed or skipped == OVERFLOWS:
            return result, skipped
        skipped += 1
