"""What one image costs, measured on this machine: operations, bytes, seconds. GPUs are predicted from these."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from data_tools.large.packed import write_packed
from dfine_lib.criterion import build_criterion, matcher
from dfine_lib.data.coco import find_split, read_coco
from dfine_lib.data.images import read_image
from dfine_lib.data.loader import TrainLoader
from dfine_lib.data.samples import CocoImages, SampleKey
from dfine_lib.model import decoder
from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import changed, get_recipe

SIZES = ("n", "s", "m", "l", "x")
BOXES = 7  # an image, as in COCO


class Counter(TorchDispatchMode):
    """Counts what runs inside: kernels, their arithmetic, and the bytes that they read and write.

    Arithmetic is that of torch's own counter (2 for each multiply-add of convolutions and matrix products). What only
    gives another view of its input is no kernel. Each is taken to read its inputs and to write its outputs once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.flops = 0
        self.arithmetic_bytes = 0  # of kernels that have arithmetic
        self.moving_bytes = 0  # of all others

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or func in _FREE:
            return result
        self.kernels += 1
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        moved = sum(t.numel() * t.element_size() for t in tensors)
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            self.moving_bytes += moved
        else:
            self.flops += count(*args, **kwargs, out_val=result)
            self.arithmetic_bytes += moved
        return result


_aten = torch.ops.aten
_FREE = {_aten.detach.default, _aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default}


class Step:
    """A training step of one size without its optimizer, on random images."""

    def __init__(self, size: str, side: int, images: int) -> None:
        torch.manual_seed(0)
        recipe = changed(get_recipe(f"{size}_coco"), {"data.image_size": side})
        self.model = DFINE.from_recipe(recipe).train()
        self.criterion = build_criterion(recipe)
        self.images = torch.rand(images, 3, side, side).contiguous(memory_format=torch.channels_last)
        self.targets = _targets(images)

    def forward(self) -> Tensor:
        """The loss."""
        return sum(self.criterion(self.model(self.images, self.targets), self.targets).values())

    def counted(self) -> tuple[Counter, int]:
        """Forward and backward, and the bytes kept between them, weights aside."""
        with Counter() as counter, _saving(self.model) as kept:
            self.forward().backward()
        return counter, sum(kept.values())


def _targets(images: int) -> list[dict[str, Tensor]]:
    return [
        {"labels": torch.randint(0, 80, (BOXES,)), "boxes": torch.rand(BOXES, 4) * 0.4 + 0.2} for _ in range(images)
    ]


@contextmanager
def _saving(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of every storage that a forward pass keeps for its backward pass, those of the model aside."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def count_size(size: str, side: int = 640) -> dict[str, float]:
    """Operations and bytes of one image in training; those of bf16 as a share of fp32's."""
    step = Step(size, side, 1)
    (one, kept_one), (two, kept_two) = step.counted(), Step(size, side, 2).counted()
    full, half = (_without_numbers(size, side, bf16) for bf16 in (False, True))
    trained = [p for p in step.model.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
        "norms": sum(isinstance(m, nn.BatchNorm2d) for m in step.model.modules()),
        "kernels": one.kernels,  # of a pass, however many images
        "flops": two.flops - one.flops,
        "arithmetic_bytes": two.arithmetic_bytes - one.arithmetic_bytes,
        "moving_bytes": two.moving_bytes - one.moving_bytes,
        "saved_bytes": kept_two - kept_one,
        **{f"{name}_bf16": half[name] / full[name] for name in full},
    }


def _without_numbers(size: str, side: int, bf16: bool) -> dict[str, int]:
    """Bytes of one image more in the model's passes, on tensors that have shapes only: bf16 is slow on a CPU."""

    def run(images: int) -> tuple[Counter, int]:
        targets, draw = _targets(images), decoder.make_denoising_queries

        def drawn(*args: Any, **kwargs: Any) -> Any:
            with unset_fake_temporarily():
                return draw(*args, **kwargs)

        decoder.make_denoising_queries = drawn
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                model = DFINE.from_recipe(f"{size}_coco").train()
                x = torch.empty(images, 3, side, side).contiguous(memory_format=torch.channels_last)
                with Counter() as counter, _saving(model) as kept:
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        outputs = model(x, targets)
                    sum(t.float().sum() for t in _tensors(outputs) if t.requires_grad).backward()
        finally:
            decoder.make_denoising_queries = draw
        return counter, sum(kept.values())

    (one, kept_one), (two, kept_two) = run(1), run(2)
    return {
        "arithmetic": two.arithmetic_bytes - one.arithmetic_bytes,
        "moving": two.moving_bytes - one.moving_bytes,
        "saved": kept_two - kept_one,
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def time_step() -> dict[str, float]:
    """Seconds of the processor that a kernel takes to be started, and that an image's matching takes.

    The first from forward and backward passes of many layers on eight numbers each: starting is all that there is to
    do, as for the processor beside a GPU.
    """
    with one_thread():
        layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU()) for _ in range(100)))
        x = torch.rand(1, 8)
        with Counter() as counter:
            layers(x).sum().backward()
        seconds = _seconds(lambda: layers(x).sum().backward(), repeat=20)
        return {
            "kernel_seconds": seconds / counter.kernels,
            "matching_seconds": _matching_seconds(Step("l", 320, 4)) / 4,
        }


def _matching_seconds(step: Step) -> float:
    """Of the assignment of queries to boxes, which runs on the CPU whatever the model runs on."""
    assign, spent = matcher.linear_sum_assignment, 0.0

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal spent
        start = time.perf_counter()
        result = assign(*args, **kwargs)
        spent += time.perf_counter() - start
        return result

    matcher.linear_sum_assignment = timed
    try:
        step.forward()
    finally:
        matcher.linear_sum_assignment = assign
    return spent


def time_input(data: Path, side: int = 640, repeat: int = 5) -> dict[str, float]:
    """Seconds of one core that an image costs before the GPU sees it, and bytes that it is on disk and on the way."""
    index = read_coco(*find_split(data, "train"))
    recipe = changed(get_recipe("l_coco"), {"data.image_size": side})
    images = CocoImages(index, recipe.data)
    every = range(len(index))
    with one_thread():
        decode = _seconds(lambda: [read_image(index.file_name(i)) for i in every], repeat) / len(index)
        strong = [_seconds(lambda e=e: [images[SampleKey(e, i, True)] for i in every], 1) for e in range(1, repeat + 1)]
        plain = _seconds(lambda: [images[SampleKey(0, i, False)] for i in every], repeat) / len(index)
        stat = _seconds(lambda: [index.file_name(i).stat() for i in every], repeat) / len(index)
    return {
        "images": len(index),
        "file_bytes": float(np.mean([index.file_name(i).stat().st_size for i in every])),
        "pixels": float(index.sizes_wh.prod(1).mean()),
        "decode_seconds": decode,
        "stage1_seconds": float(np.median(strong)) / len(index),
        "stage2_seconds": plain,
        "stat_seconds": stat,
        "sent_bytes": 3 * side * side,
        **_time_index(),
    }


def _time_index(images: int = 20_000) -> dict[str, float]:
    """Of an annotation file like COCO's: bytes and seconds an image, and what an epoch's plan takes in memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances_train.json"
        records = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(images)]
        annotations = [
            {"id": k, "image_id": k // BOXES, "category_id": 1 + k % 80, "bbox": [10.25, 20.5, 100.75, 50.25],
             "area": 5062.7, "iscrowd": 0}
            for k in range(BOXES * images)
        ]  # fmt: skip
        categories = [{"id": 1 + i, "name": str(i)} for i in range(80)]
        file.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
        start = time.perf_counter()
        index = read_coco(file, folder)
        reading = time.perf_counter() - start
        packed = write_packed(index, Path(folder) / "train.packed").stat().st_size
        loader = TrainLoader(index, changed(get_recipe("l_coco"), {"data.num_workers": 0}), seed=0)
        tracemalloc.start()
        epoch = loader.epoch(0)
        plan = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del epoch
    return {
        "index_seconds": reading / images,
        "packed_bytes": packed / images,
        "plan_bytes": plan / images,
    }


def time_processor() -> dict[str, float]:
    """What one thread of this processor does in a second at its best: the same numbers that GPUs state."""
    with one_thread():
        layer = nn.Conv2d(128, 128, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        x = torch.rand(8, 128, 40, 40).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = _seconds(lambda: layer(x), 10)
        flops = 2 * x.shape[0] * 40 * 40 * 128 * 128 * 9 / seconds
        a = torch.rand(32 * 2**20 // 4)
        b = torch.empty_like(a)
        bandwidth = 2 * a.numel() * 4 / _seconds(lambda: torch.mul(a, 2.0, out=b), 20)
    return {"flops": flops, "bandwidth": bandwidth}


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(call: Callable[[], Any], repeat: int) -> float:
    """Median of so many calls, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
