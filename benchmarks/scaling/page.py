"""The page: what was measured, what is predicted from it, how far the one is from the other where both are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.scaling import hardware
from benchmarks.scaling.check import BATCH, memory_of
from benchmarks.scaling.costs import BOXES, SIZES
from benchmarks.scaling.hardware import DATA_SETS, GB, MACHINES, PREDICTED, REPORTS, DataSet
from benchmarks.scaling.prediction import (
    STATE_BYTES,
    before_the_first_step,
    of_disks,
    on_this_processor,
    predict,
    predict_batch,
)
from dfine_lib.recipes import changed, get_recipe

Costs = Mapping[str, Any]
GPUS = {"COCO train2017": (1, 4, 8, 16), "Objects365 v2 train": (4, 8, 32, 128), "a billion images": (64, 256, 1024)}
WHAT_THEN = {
    "GPU arithmetic": "more GPUs; nothing else is in the way",
    "GPU memory": "elementwise kernels move bytes, the multipliers wait: `torch.compile` fuses them, bf16 halves what "
    "autocast lets it halve",
    "starting kernels": "the processor cannot start kernels as fast as the GPU ends them: a larger batch for each "
    "GPU, or "
    "`torch.compile`; more GPUs at the same batch do not help",
    "gradients": "a larger batch for each GPU, accumulation (gradients travel once a step), or a faster network; "
    "not more "
    "GPUs. Compressing them to bf16 halves them (a DDP communication hook)",
    "decoding": "more `--workers`, up to the cores there are; pictures scaled down once to about 640 px "
    "(`dfine data objects365 resize` does it, for Objects365); JPEG decoding on the GPU (nvJPEG, by torchvision's "
    "`decode_jpeg` on "
    "cuda) and augmentation there",
    "disk": "tar shards (`dfine data shard`, read through webdataset) on local NVMe disks; then fewer bytes a picture",
}


def as_page(costs: Costs) -> str:
    """Markdown, a function of `benchmarks/scaling.json` alone."""
    sections = [
        _head(costs),
        _measured(costs),
        _here(costs),
        _reported(costs),
        *(_epochs(costs, data) for data in DATA_SETS),
        _memory(costs),
        _input(costs),
        _billion(costs),
        _stated(),
    ]
    return "\n\n".join(sections) + "\n"


def _head(costs: Costs) -> str:
    return (
        "# Training at scale: what to expect, and what stops first\n\n"
        "<!-- made by `python -m benchmarks.scaling write` from scaling.json; change the program, not this page -->\n\n"
        "**Predicted, not run.** No GPU and none of these data sets was at hand. The costs of one image are *measured* "
        "on a CPU (operations and bytes do not depend on the machine), what GPUs, links and disks do is *stated* by "
        "their makers, and the rest is arithmetic (`scaling/prediction.py`). How good that arithmetic is stands in two "
        "places: beside [runs of one and two processes on this CPU](#held-against-runs-on-this-cpu), and beside "
        "[what others report](#held-against-what-others-report), who are slower. Memory comes out close; a "
        "time is what "
        "the machine allows, **the least to expect**: read the tables for what stops first and what changes with size "
        "and number, and measure one epoch before you plan with a time.\n\n"
        + "\n".join(
            f"- `{about['command']}`: commit `{(about['commit'] or 'unknown')[:7]}"
            f"{'+' if (about['commit'] or '').endswith('+changes') else ''}`, {about['processor']}, one thread, torch "
            f"{about['torch']}, {about['started'][:10]}"
            for about in costs["measured"].values()
        )
        + f"\n\nRandom weights and pictures, seed 0, {BOXES} boxes an image; 640 px; the recipes' own batch, or "
        "4 images a GPU where that is more; bf16 unless said otherwise; without `torch.compile` and activation "
        "checkpointing."
    )


def _measured(costs: Costs) -> str:
    rows = [
        {
            "size": size,
            "parameters, M": f"{c['parameters'] / 1e6:.1f}",
            "GFLOP": f"{c['flops'] / 1e9:.0f}",
            "kernels a step": f"{c['kernels']}",
            "read and written, GB": f"{(c['arithmetic_bytes'] + c['moving_bytes']) / GB:.1f}",
            "kept for backward, MB": f"{c['saved_bytes'] / 1e6:.0f}",
            "the same in bf16, MB": f"{c['saved_bytes'] * c['saved_bf16'] / 1e6:.0f}",
            "gradients, MB": f"{4 * c['trained_parameters'] / 1e6:.0f}",
        }
        for size in SIZES
        for c in [costs["sizes"][size]]
    ]
    c, t = costs["input"], costs["timed"]
    return (
        "## Measured: one image in training, forward and backward\n\n" + _table(rows) + "\n\n"
        f"In: a file of {c['file_bytes'] / 1e3:.0f} kB and {c['pixels'] / 1e6:.2f} megapixels ({c['images']:.0f} "
        f"pictures of "
        f"COCO) takes one core {1e3 * c['decode_seconds']:.0f} ms to decode, {1e3 * c['stage1_seconds']:.0f} ms with "
        f"the strong "
        f"augmentation of stage 1, {1e3 * c['stage2_seconds']:.0f} ms in stage 2. A kernel takes "
        f"{1e6 * t['kernel_seconds']:.0f} µs to be started from Python, the matching of an image "
        f"{1e3 * t['matching_seconds']:.2f} ms."
    )


def _here(costs: Costs) -> str:
    check, rows = costs["check"], []
    for run in check["runs"]:
        processor = {"sample_seconds": check["processor"][f"sample_seconds_{run['side']}"]}
        processor |= check["processor"][str(run["processes"])]
        parts = on_this_processor(costs, run["size"], run["side"], BATCH, run["processes"], processor)
        memory = memory_of(costs, run, check["processor"])
        rows.append(
            {
                "size": run["size"],
                "px": run["side"],
                "processes": run["processes"],
                "predicted, s a step": f"{parts['step']:.2f}",
                "measured, s a step": f"{run['step']:.2f}",
                "predicted / measured": f"**{parts['step'] / run['step']:.2f}**",
                "predicted, MiB a process": f"{memory:.0f}",
                "measured, MiB": f"{run['memory_mb']:.0f}",
                "ratio": f"**{memory / run['memory_mb']:.2f}**",
                "largest part": max((n for n in parts if n != "step"), key=parts.get),
            }
        )
    speeds = []
    for size, side in dict.fromkeys((run["size"], run["side"]) for run in check["runs"]):
        step = {run["processes"]: run["step"] for run in check["runs"] if (run["size"], run["side"]) == (size, side)}
        told = {
            row["processes"]: float(row["predicted, s a step"])
            for row in rows
            if (row["size"], row["px"]) == (size, side)
        }
        speeds.append(f"{size}: {told[1] / told[2]:.2f} predicted, {step[1] / step[2]:.2f} measured")
    one, two = check["processor"]["1"], check["processor"]["2"]
    return (
        "## Held against runs on this CPU\n\n"
        f"`dfine train` on 32 pictures of BCCD, batch {BATCH}, fp32, one thread a process, no workers; the "
        f"second epoch "
        "counts. Predicted by the same formula, with the same shares of the peak as for GPUs, from the table above and "
        "this processor's own peaks, measured with one and with two processes at work: a convolution of 128 "
        "channels at "
        f"{one['flops'] / 1e9:.0f} and {two['flops'] / 1e9:.0f} GFLOP/s a process, a copy at "
        f"{one['bandwidth'] / GB:.1f} and {two['bandwidth'] / GB:.1f} GB/s, gloo's all-reduce at "
        f"{two['exchange'] / GB:.2f} GB/s. Nothing is fitted to the runs.\n\n" + _table(rows) + "\n\n"
        f"Gain of the second process: {'; '.join(speeds)}. Memory is the peak of a process; of two, each keeps half of "
        "the images."
    )


def _reported(costs: Costs) -> str:
    rows = []
    for report in REPORTS:
        recipe = changed(get_recipe(f"{report.size}_coco"), {"data.base_size_repeat": None})
        if "DEIM" in report.source or "Peterande" in report.source:
            recipe = get_recipe(f"{report.size}_coco")
        found = predict_batch(
            costs, report.size, 1, MACHINES[report.machine], report.gpus, report.batch_size, report.precision, recipe
        )
        memory = "–"
        if report.memory_gb is not None:
            memory = f"{found.memory / GB:.0f} / {report.memory_gb:g}"
        rows.append(
            {
                "what": report.what,
                "on": f"{report.gpus} x "
                f"{MACHINES[report.machine].name.split(' (')[0].split('x ')[-1].removeprefix('x ')}",
                "predicted, images/s": f"{found.images_per_second:.0f}",
                "reported": f"{report.images_per_second:.0f}",
                "ratio": f"**{found.images_per_second / report.images_per_second:.1f}**",
                "GB a GPU, predicted / reported": memory,
                "predicted to wait for": found.first,
                "source": report.source,
            }
        )
    return (
        "## Held against what others report\n\n"
        "Their code, their machines, their words: neither run nor verified by us, and their disks and processors are "
        "not known. A prediction is what a machine allows at its best. The reports are slower by the ratios "
        "below; runs "
        "that wait for disk, workers or the interpreter would be. Only their memory can be compared one to one.\n\n"
        + _table(rows)
    )


def _epochs(costs: Costs, data: DataSet) -> str:
    blocks = []
    for key in PREDICTED:
        machine, rows = MACHINES[key], []
        for size in SIZES:
            row = {"size": size}
            for gpus in GPUS[data.name]:
                found = predict(costs, size, data, machine, gpus)
                row[f"{gpus} GPU{'s' if gpus > 1 else ''}"] = f"{_duration(found.epoch_seconds)}, {found.first}"
            epochs = get_recipe(f"{size}_{data.schedule}").train.epochs
            if data.schedule == "coco" or data.images < 1e8:
                gpus = GPUS[data.name][2]
                whole = predict(costs, size, data, machine, gpus).epoch_seconds * epochs
                row[f"whole recipe on {gpus}"] = f"{epochs} epochs: {_duration(whole)}"
            rows.append(row)
        blocks.append(f"**{machine.name}**\n\n" + _table(rows))
    return (
        f"## Predicted: an epoch of {data.name} ({data.images:,} images)\n\n"
        "Time of an epoch without its evaluation, and what it waits for.\n\n" + "\n\n".join(blocks)
    )


def _memory(costs: Costs) -> str:
    rows = []
    for size in SIZES:
        c = costs["sizes"][size]
        row = {
            "size": size,
            "weights, gradients, AdamW, average, GB": f"{STATE_BYTES * c['parameters'] / GB:.2f}",
        }
        for images in (4, 8, 16, 32):
            found = [
                predict_batch(costs, size, 1, MACHINES["h100"], 1, images, precision, get_recipe(f"{size}_coco"))
                for precision in ("bf16", "tf32")
            ]
            row[f"{images} images, GB bf16 / fp32"] = " / ".join(
                f"{f.memory / GB:.1f}" + (f" ({f.passes} passes)" if f.passes > 1 else "") for f in found
            )
        rows.append(row)
    x = costs["sizes"]["x"]
    return (
        "## Predicted: memory of one GPU\n\n"
        "At the largest multi-scale input (800 px; n trains at 640 only). Where it does not fit into 80 GB, the "
        "number is "
        "that of so many accumulation passes (`--set train.accumulate=N`). Times of passes are those of "
        "`train.exact_accumulation=false`; as it is by default, each goes forward once more: 1.26 of the time, n at "
        "320 px on this CPU.\n\n" + _table(rows) + "\n\n"
        f"**FSDP is not needed.** It shares out weights, gradients and optimizer state. Of the largest size that is "
        f"{STATE_BYTES * x['parameters'] / GB:.2f} GB ({STATE_BYTES} bytes for each of {x['parameters'] / 1e6:.0f} M "
        f"parameters), as much as the activations of "
        f"{STATE_BYTES * x['parameters'] / (x['saved_bytes'] * x['saved_bf16']):.1f} "
        f"images; 100 M parameters would take {STATE_BYTES * 1e8 / GB:.0f} GB. What fills a GPU is activations, "
        f"which FSDP "
        "leaves alone: fewer images a pass, accumulation, or activation checkpointing shrink those."
    )


def _input(costs: Costs) -> str:
    rows = []
    coco = DATA_SETS[0]
    for key in PREDICTED:
        machine = MACHINES[key]
        for size in SIZES:
            found = predict(costs, size, coco, machine, machine.gpus)
            rows.append(
                {
                    "machine": machine.name,
                    "size": size,
                    "images/s": f"{found.images_per_second:.0f}",
                    "files, MB/s": f"{found.input_bytes / 1e6:.0f}",
                    "to the GPUs, MB/s": f"{found.images_per_second * costs['input']['sent_bytes'] / 1e6:.0f}",
                    "cores a GPU: wanted / there": f"{found.input_cores:.1f} / {machine.cores}",
                }
            )
    fastest = predict(costs, "n", coco, MACHINES["h100"], 8).images_per_second
    slowest = predict(costs, "x", coco, MACHINES["4090"], 4).images_per_second
    disks = [
        {
            "disk": name,
            f"x on 4 x 4090 ({slowest:.0f} images/s): files / shards": " / ".join(
                f"{share:.0%}" for share in of_disks(costs, slowest)[name]
            ),
            f"n on 8 x H100 ({fastest:.0f} images/s): files / shards": " / ".join(
                f"{share:.0%}" for share in of_disks(costs, fastest)[name]
            ),
        }
        for name in hardware.DISKS
    ]
    return (
        "## Predicted: what must be read\n\n"
        "One whole machine on COCO.\n\n" + _table(rows) + "\n\n"
        "Share of a disk that this takes, pictures read as single files or in shards (tar files of some thousand "
        "pictures, "
        "read from end to end, shuffled in a buffer). Above 100 % it is the bottleneck.\n\n" + _table(disks) + "\n\n"
        "A hard disk and a network file system fail by the number of files long before their bandwidth is used: shards "
        "there, or a copy on a local SSD. COCO (19 GB) fits into the memory of any of these machines and is read "
        "from disk "
        "once.\n\n### What then\n\n" + "\n".join(f"- **{name}**: {way}." for name, way in WHAT_THEN.items())
    )


def _billion(costs: Costs) -> str:
    rows = []
    sets = {data.name: before_the_first_step(costs, data) for data in DATA_SETS}
    for what in next(iter(sets.values())):
        unit = _duration if what.endswith("seconds") else _bytes
        rows.append({"": what.rsplit(",", 1)[0]} | {name: unit(found[what]) for name, found in sets.items()})
    return (
        "## Predicted: before the first step\n\n" + _table(rows) + "\n\n"
        "COCO and Objects365: nothing in the way; `dfine data pack` once, and processes share the "
        "index.\n\n"
        "A billion images: the GPUs are not the first thing that stops. (1) **One JSON file of annotations** is more "
        "than a machine can read into memory, and the packed index is made from it: it must be made in parts (not "
        "written yet). Opened, it is mapped from disk and shared by all processes of a machine. (2) **One file an "
        "image** is a billion entries of a file system: `dfine data shard` writes tars of some thousand "
        "pictures, which "
        "webdataset reads from end to end, from disks or a bucket. (3) **The plan of an epoch**, which "
        "single files need "
        "in every process, does not fit; shards need the order of shards only, and 8 bytes an image to find its boxes. "
        "(4) A recipe: nobody has published one for a billion images; an epoch or less of Objects365's is "
        "where to begin."
        "\n\nNothing of this size was run: the largest index measured has 1.7 million images, made up "
        "(`benchmarks/results`)."
    )


def _stated() -> str:
    lines = [f"- {machine.name}: {machine.source}." for machine in MACHINES.values()]
    lines += [f"- {data.name}: {data.source}." for data in DATA_SETS]
    lines += [f"- Disks: {hardware.DISKS_SOURCE}."]
    return (
        "## Stated, and assumed\n\n" + "\n".join(lines) + "\n"
        f"- Ours to assume: convolutions and products reach {hardware.ARITHMETIC:.0%} of a GPU's peak, elementwise "
        f"kernels "
        f"{hardware.MOVING:.0%} of its bandwidth, an all-reduce {hardware.EXCHANGE:.0%} of a link; a small "
        f"collective takes "
        f"{1e6 * hardware.COLLECTIVE['machine']:.0f} µs in a machine and {1e6 * hardware.COLLECTIVE['network']:.0f} µs "
        f"between machines (each synchronised norm has two); {hardware.CONTEXT / GB:.0f} GB a GPU for CUDA itself, and "
        f"{hardware.SLACK - 1:.0%} more than the activations.\n"
        "- Of bf16, bytes moved and kept are those of autocast's rules for the CPU, counted on tensors without numbers."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size or (unit == "h" and seconds >= 5400):
            return f"{seconds / size:,.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{count:.0f} B"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names: Iterable[str] = list(rows[0])
    lines = [names, ["---"] * len(rows[0]), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
