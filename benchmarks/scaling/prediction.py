"""From the costs of one image to seconds, bytes and the first thing that stops more GPUs from helping.

A step is a roofline: kernels with arithmetic take as long as their arithmetic or their bytes, whichever is longer; all
others as long as their bytes. Beside it run, and hide if they are shorter: the processor that starts the kernels, the
exchange of gradients (it begins with the backward pass), and the reading of the next images. Nothing hides what all
ranks do together and wait for: matching, and the statistics of synchronised norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.scaling import hardware
from benchmarks.scaling.hardware import DISKS, DataSet, Machine
from dfine_lib.config import Recipe
from dfine_lib.data.transforms import multiscale_sizes
from dfine_lib.recipes import get_recipe

UPDATE_BYTES = 4 * 14  # a trained parameter: clipping 3, AdamW 7, average 3, zeroing 1 times four bytes
STATE_BYTES = 4 * 5  # a parameter: itself, its gradient, AdamW's two, its average
LEAST_PER_GPU = 4  # images; below, kernels are too small and norms see too little
BACKWARD = 2 / 3  # of a step's time
COCO_JSON_BYTES = 448e6 / 118_287  # an image of instances_train2017.json


@dataclass(frozen=True)
class Prediction:
    """One size on one data set and so many GPUs."""

    batch_size: int  # of all GPUs
    passes: int  # that a step is made of, where its images do not fit at once
    memory: float  # bytes of one GPU at the largest input
    step_seconds: dict[str, float]  # of what runs beside each other, and of `wait`, which nothing hides
    images_per_second: float
    epoch_seconds: float
    first: str  # what the step waits for
    input_bytes: float  # a second of all machines, files as they lie on disk
    input_cores: float  # that decoding and augmenting take, of each GPU


def predict(
    costs: Mapping[str, Any], size: str, data: DataSet, machine: Machine, gpus: int, precision: str = "bf16"
) -> Prediction:
    """Predict training with the size's recipe for that data, at its own batch as far as it goes round.

    Args:
        costs: the content of `benchmarks/scaling.json`.
        size: n, s, m, l or x.
        data: what is trained on.
        machine: where; several of them where one has fewer GPUs.
        gpus: in all.
        precision: `bf16` or `tf32`.
    """
    recipe = get_recipe(f"{size}_{data.schedule}")
    batch = max(recipe.data.batch_size, LEAST_PER_GPU * gpus)
    return predict_batch(costs, size, data.images, machine, gpus, batch, precision, recipe)


def predict_batch(
    costs: Mapping[str, Any], size: str, images: int, machine: Machine, gpus: int, batch: int, precision: str,
    recipe: Recipe,
) -> Prediction:  # fmt: skip
    """As `predict`, at a batch of one's own."""
    cost, timed, reading = costs["sizes"][size], costs["timed"], costs["input"]
    bf16 = precision == "bf16"
    area, largest = _areas(recipe)
    here = math.ceil(batch / gpus)
    kept = cost["saved_bytes"] * (cost["saved_bf16"] if bf16 else 1.0)
    fixed = STATE_BYTES * cost["parameters"] + hardware.CONTEXT
    room = (machine.memory - fixed) / hardware.SLACK
    passes = next((p for p in range(1, here + 1) if math.ceil(here / p) * kept * largest <= room), here)
    memory = fixed + hardware.SLACK * math.ceil(here / passes) * kept * largest

    flops = machine.bf16_flops if bf16 else machine.tf32_flops
    bandwidth = machine.bandwidth * hardware.MOVING
    arithmetic_bytes = cost["arithmetic_bytes"] * (cost["arithmetic_bf16"] if bf16 else 1.0)
    moving_bytes = cost["moving_bytes"] * (cost["moving_bf16"] if bf16 else 1.0)
    arithmetic = cost["flops"] / (flops * hardware.ARITHMETIC)
    compute = here * area * max(arithmetic, arithmetic_bytes / bandwidth)
    moving = here * area * moving_bytes / bandwidth + UPDATE_BYTES * cost["trained_parameters"] / bandwidth
    gpu = compute + moving

    link = machine.link if gpus <= machine.gpus else min(machine.link, machine.network * machine.gpus)
    exchanged = 2 * (gpus - 1) / gpus * 4 * cost["trained_parameters"]
    gradients = exchanged / (link * hardware.EXCHANGE)
    latency = hardware.COLLECTIVE["machine" if gpus <= machine.gpus else "network"]
    wait = here * timed["matching_seconds"] + (2 * cost["norms"] * latency * passes if gpus > 1 else 0.0)
    decoding = here * reading["stage1_seconds"] / machine.cores
    disk = here * reading["file_bytes"] * min(gpus, machine.gpus) / machine.disk
    beside = {
        "GPU arithmetic" if compute > moving else "GPU memory": gpu,
        "starting kernels": passes * cost["kernels"] * timed["kernel_seconds"] + wait,
        "gradients": gpu * (1 - BACKWARD) + gradients,
        "decoding": decoding,
        "disk": disk,
    }
    # What waits for the GPU's results waits beside it too; reading does not.
    step = {name: t + (wait if name.startswith("GPU") or name == "gradients" else 0.0) for name, t in beside.items()}
    first = max(step, key=step.get)
    rate = batch / step[first]
    return Prediction(
        batch_size=batch,
        passes=passes,
        memory=memory,
        step_seconds=step,
        images_per_second=rate,
        epoch_seconds=images / rate,
        first=first,
        input_bytes=rate * reading["file_bytes"],
        input_cores=rate / gpus * reading["stage1_seconds"],
    )


def _areas(recipe: Recipe) -> tuple[float, float]:
    """Mean and largest number of input pixels, as a share of the base size's."""
    data = recipe.data
    sizes = [data.image_hw]
    if data.base_size_repeat is not None:
        sizes = multiscale_sizes(data.image_hw, data.base_size_repeat)
    base = data.image_hw[0] * data.image_hw[1]
    areas = [height * width / base for height, width in sizes]
    return sum(areas) / len(areas), max(areas)


def of_disks(costs: Mapping[str, Any], images_per_second: float) -> dict[str, tuple[float, float]]:
    """Share of each disk that so many images a second take: read as single files, and as shards in one stream."""
    return {
        name: (
            max(images_per_second / files, images_per_second * costs["input"]["file_bytes"] / stream),
            images_per_second * costs["input"]["file_bytes"] / stream,
        )
        for name, (stream, files) in DISKS.items()
    }


def before_the_first_step(costs: Mapping[str, Any], data: DataSet) -> dict[str, float]:
    """What a data set takes once, or in each process: seconds and bytes."""
    cost = costs["input"]
    return {
        "files, bytes": data.images * cost["file_bytes"],
        "annotations as JSON, bytes": data.images * COCO_JSON_BYTES * data.boxes / 7.3,
        "reading the JSON, seconds": data.images * cost["index_seconds"] * data.boxes / 7,
        "packed index, bytes": data.images * cost["packed_bytes"] * (0.5 + 0.5 * data.boxes / 7),
        "plan of an epoch, bytes a process": data.images * cost["plan_bytes"],
        "looking for every file, seconds": data.images * cost["stat_seconds"],
    }


def on_this_processor(
    costs: Mapping[str, Any], size: str, side: int, batch: int, processes: int, measured: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of a step on processors that wait for nothing: here all parts follow one another, in each process.

    Args:
        costs: the content of `benchmarks/scaling.json`.
        size: n, s, m, l or x.
        side: of the input, pixels; one size, no worker processes.
        batch: images of all processes.
        processes: one thread each, as many as there are cores or fewer.
        measured: of this processor with as many processes at work: `flops` and `bandwidth` (`costs.time_processor`),
            `exchange` (bytes a second of an all-reduce), and `sample_seconds` of reading and augmenting one image.
    """
    cost, timed = costs["sizes"][size], costs["timed"]
    here, area = batch / processes, side * side / 640**2
    flops, bandwidth = measured["flops"] * hardware.ARITHMETIC, measured["bandwidth"] * hardware.MOVING
    arithmetic = max(cost["flops"] / flops, cost["arithmetic_bytes"] / bandwidth)
    parts = {
        "arithmetic": here * area * arithmetic,
        "memory": (here * area * cost["moving_bytes"] + UPDATE_BYTES * cost["trained_parameters"]) / bandwidth,
        "starting kernels": cost["kernels"] * timed["kernel_seconds"],
        "matching": here * timed["matching_seconds"],
        "reading": here * measured["sample_seconds"],
        "gradients": 0.0 if processes == 1 else 4 * cost["trained_parameters"] / measured["exchange"],
    }
    return parts | {"step": sum(parts.values())}
