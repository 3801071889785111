"""A training step on the device: how often the host waits, kernel launches, time, peak memory."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import dfine_lib
import dfine_tools
from benchmarks.gpu.check import Row, Setting, Skipped
from benchmarks.gpu.training import authors_step, case, loss_difference, model_of, noise, on, repeated, train_step
from benchmarks.peers import authors
from benchmarks.peers.cases import Case
from benchmarks.ratio import compare
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.device import set_backends
from dfine_tools.forms.compilation import is_compiled

BATCHES = (8, 32)
SYNCHRONISATIONS = 2  # the matching costs go to the host, and the losses
OF_AUTHORS = 0.8  # of the time and of the peak memory of the authors' step with AMP
EQUAL_LOSSES = 1e-2  # relative, in exact float32
NEW_LENGTH = 2.0  # times the usual step
CHANNELS_LAST = 1.05  # times the step in the contiguous layout
NEW_LENGTHS = range(20, 32)  # boxes an image: each number gives another number of denoising queries
Step = Callable[[], Any]


@dataclass(frozen=True)
class Measured:
    """A training step, repeated on one batch."""

    seconds: float  # median
    peak_gb: float  # most that was allocated, less what was allocated before the model was made
    launches: int

    def __str__(self) -> str:
        return f"peak memory {self.peak_gb:.2f} GB, {self.launches} launches"


# ---- the host's part of a step -------------------------------------------------------------------------------------


def synchronisations(setting: Setting) -> Iterator[Row]:
    """Where the host waits for the device in a step, by PyTorch's own warnings."""
    for size in "nl":
        made, device = case(size, 8, setting), setting.device
        step = repeated(train_step(model_of(made), made.recipe, device, "bf16"), on(made.data(), device))
        _times(step, setting, 3)  # lazy set-up is not a step's
        lines = _host_reads(step) if setting.dry else _waits(step)
        yield Row(
            what="host synchronisations of a step", case=f"{made}, bf16", value=sum(lines.values()),
            at_most=setting.limit(SYNCHRONISATIONS), text=", ".join(lines), details={"lines": lines},
        )  # fmt: skip


def _waits(step: Step) -> Counter[str]:
    """Lines of ours at which PyTorch warns of a synchronisation."""
    ours = tuple(str(Path(package.__file__).parent) for package in (dfine_lib, dfine_tools))
    lines: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            own = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ours)]
            lines[f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "backward pass"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return lines


def _host_reads(step: Step) -> Counter[str]:
    """The nearest that a CPU has: operators that would wait on a GPU."""
    with _Operators() as operators:
        step()
    names = ("_local_scalar_dense", "nonzero")
    return Counter({name: operators.counts[name] for name in names if operators.counts[name]})


def _launches(step: Step, setting: Setting) -> int:
    """Kernels that a step launches; on a CPU, its operators."""
    if setting.dry:
        with _Operators() as operators:
            step()
        return operators.counts.total()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    return sum(each.count for each in found.key_averages() if "LaunchKernel" in each.key)


class _Operators(TorchDispatchMode):
    """Counts calls of ATen operators, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


# ---- time and memory -----------------------------------------------------------------------------------------------


def steps_n(setting: Setting) -> Iterator[Row]:
    """Size n: see `_steps`."""
    return _all_batches(_steps, "n", setting)


def steps_l(setting: Setting) -> Iterator[Row]:
    """Size l: see `_steps`."""
    return _all_batches(_steps, "l", setting)


def compiled_n(setting: Setting) -> Iterator[Row]:
    """Size n: see `_compiled`."""
    return _all_batches(_compiled, "n", setting)


def compiled_l(setting: Setting) -> Iterator[Row]:
    """Size l: see `_compiled`."""
    if setting.dry:
        raise Skipped("in the dry mode as compiled_n")
    return _all_batches(_compiled, "l", setting)


def _all_batches(work: Callable[[Case, Setting], Iterator[Row]], size: str, setting: Setting) -> Iterator[Row]:
    for batch in BATCHES[:1] if setting.dry else BATCHES:
        yield from _fitting(work, case(size, batch, setting), setting)


def _fitting(work: Callable[[Case, Setting], Iterator[Row]], made: Case, setting: Setting) -> Iterator[Row]:
    """The rows of a case; one that is too large for the card is a row, and the next case can start."""
    try:
        yield from work(made, setting)
    except torch.OutOfMemoryError:
        yield Row(what="training step", case=str(made), ended="skipped", text="the card has too little memory")
    _free(setting)


def _steps(made: Case, setting: Setting) -> Iterator[Row]:
    """A step in fp32 and in bf16, and in bf16 beside the authors' step with AMP."""
    batch = on(made.data(), setting.device)
    for precision in ("fp32", "bf16"):
        ours = None  # frees the step before
        before = _allocated(setting)
        ours = repeated(train_step(model_of(made), made.recipe, setting.device, precision), batch)
        found = _measured(ours, setting, before)
        yield _step_row(f"{made}, {precision}", found)
    if setting.authors is not None:
        yield from _beside_authors(made, batch, ours, found, setting)


def _step_row(about: str, found: Measured, **details: Any) -> Row:
    return Row(
        what="training step", case=about, value=1e3 * found.seconds, unit="ms", text=str(found),
        details=vars(found) | details,
    )  # fmt: skip


def _beside_authors(made: Case, batch: Batch, ours: Step, found: Measured, setting: Setting) -> Iterator[Row]:
    """Whether losses are equal; then ratios of our bf16 step to the authors' AMP step, the two interleaved."""
    difference, term = loss_difference(made, model_of(made), setting.authors, batch, setting.device)
    yield Row(
        what="losses, relative", case=f"{made}, fp32, {authors.NAME}", value=difference, at_most=EQUAL_LOSSES,
        details={"largest in": term},
    )  # fmt: skip
    set_backends(made.recipe.train.matmul_precision, setting.device, made.recipe.train.cudnn_benchmark)
    before = _allocated(setting)
    theirs = authors_step(made, model_of(made), setting.authors, batch, setting.device)
    other = _measured(theirs, setting, before)
    about = f"{made}, bf16 / {authors.NAME} in AMP"
    turns = 1 if setting.dry else 7
    both = compare(
        lambda: _times(ours, setting, 3), lambda: _times(theirs, setting, 3), turns=turns,
        warmup=0 if setting.dry else 1, show=False, what="training step", case=about, against=authors.NAME,
    )  # fmt: skip
    yield Row(
        what="training step", case=about, value=both.ratio, at_most=setting.limit(OF_AUTHORS),
        text=f"{1e3 * both.ours:.1f} and {1e3 * both.theirs:.1f} ms",
        details={"ours": both.ours, "theirs": both.theirs, "interquartile range": both.middle_half, "turns": turns},
    )  # fmt: skip
    if other.peak_gb:
        yield Row(
            what="peak memory", case=about, value=found.peak_gb / other.peak_gb, at_most=OF_AUTHORS,
            text=f"{found.peak_gb:.2f} and {other.peak_gb:.2f} GB",
        )  # fmt: skip
    if other.launches:  # none are seen where the profiler may not use the device
        yield Row(
            what="launches", case=about, value=found.launches / other.launches,
            text=f"{found.launches} and {other.launches}",
        )  # fmt: skip


def _compiled(made: Case, setting: Setting) -> Iterator[Row]:
    """A compiled step in bf16. The dry mode traces it, and generates no code."""
    batch, before = on(made.data(), setting.device), _allocated(setting)
    start = time.perf_counter()
    step = train_step(
        model_of(made), made.recipe, setting.device, "bf16", backend="eager" if setting.dry else "inductor"
    )
    repeated(step, batch)()
    setting.synchronize()
    compiling = time.perf_counter() - start
    row = _step_row(f"{made}, bf16, compiled", _measured(repeated(step, batch), setting, before), compiling=compiling)
    yield row if is_compiled(step.model) else Row(what=row.what, case=row.case, ended="error", text="not compiled")


def _measured(step: Step, setting: Setting, before: int) -> Measured:
    _times(step, setting, 5)
    launches = _launches(step, setting)
    _reset_peak(setting)
    seconds = statistics.median(_times(step, setting, 1) for _ in range(1 if setting.dry else 15))
    return Measured(seconds, _peak(setting, before), launches)


def _times(step: Step, setting: Setting, steps: int) -> float:
    """Mean seconds of so many steps; of one on the CPU, where speed says nothing."""
    steps = 1 if setting.dry else steps
    setting.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    setting.synchronize()
    return (time.perf_counter() - start) / steps


def _free(setting: Setting) -> None:
    gc.collect()
    if not setting.dry:
        torch.cuda.empty_cache()


def _allocated(setting: Setting) -> int:
    _free(setting)
    return 0 if setting.dry else torch.cuda.memory_allocated()


def _reset_peak(setting: Setting) -> None:
    if not setting.dry:
        torch.cuda.reset_peak_memory_stats()


def _peak(setting: Setting, before: int) -> float:
    return 0.0 if setting.dry else (torch.cuda.max_memory_allocated() - before) / 2**30


# ---- choices that cuDNN makes --------------------------------------------------------------------------------------


def attention(setting: Setting) -> Iterator[Row]:
    """Numbers of denoising queries that were never met before, with cuDNN's attention and without it.

    cuDNN plans its attention for each new shape. The case that the library chooses has a limit.
    """
    made, device = case("n", 8, setting), setting.device
    lengths = NEW_LENGTHS[:2] if setting.dry else NEW_LENGTHS
    step = train_step(model_of(made), made.recipe, device, "bf16")
    chosen = torch.backends.cuda.cudnn_sdp_enabled()
    batches = [on(noise([boxes] * made.batch, made.side), device) for boxes in lengths]
    torch.backends.cuda.enable_cudnn_sdp(False)
    for batch in batches:  # what else is new with a length, such as memory, is not measured
        repeated(step, batch)()
    for on_cudnn in (False, True):
        torch.backends.cuda.enable_cudnn_sdp(on_cudnn)
        usual = repeated(step, on(made.data(), device))
        _times(usual, setting, 5)
        known = statistics.median(_times(usual, setting, 1) for _ in range(1 if setting.dry else 10))
        new = [_times(repeated(step, batch), setting, 1) for batch in batches]
        yield Row(
            what="step with a new number of queries", value=statistics.median(new) / known,
            case=f"{made}, bf16, {'with' if on_cudnn else 'without'} cuDNN's attention"
            f"{', as the library sets it' if on_cudnn == chosen else ''}",
            at_most=setting.limit(NEW_LENGTH) if on_cudnn == chosen else None,
            text=f"times the usual {1e3 * known:.1f} ms; at worst {1e3 * max(new):.0f} ms",
            details={"usual": known, "new": new},
        )  # fmt: skip


def layout(setting: Setting) -> Iterator[Row]:
    """channels_last beside contiguous: forward pass, losses and backward pass."""
    for size in "nl":
        yield from _fitting(_layouts, case(size, 16, setting), setting)


def _layouts(made: Case, setting: Setting) -> Iterator[Row]:
    batch = on(made.data(), setting.device)
    sides = [_forward_backward(made, batch, each) for each in (torch.channels_last, torch.contiguous_format)]
    both = compare(
        *(lambda side=side: _times(side, setting, 3) for side in sides), turns=1 if setting.dry else 5,
        warmup=0 if setting.dry else 2, show=False, what="", case="", against="",
    )  # fmt: skip
    yield Row(
        what="forward and backward pass, channels_last / contiguous", case=f"{made}, bf16", value=both.ratio,
        at_most=setting.limit(CHANNELS_LAST), text=f"{1e3 * both.ours:.1f} and {1e3 * both.theirs:.1f} ms",
    )  # fmt: skip


def _forward_backward(made: Case, batch: Batch, memory_format: torch.memory_format) -> Step:
    """Not `TrainStep`, whose images are channels_last."""
    train = made.recipe.train
    set_backends(train.matmul_precision, batch.images.device, train.cudnn_benchmark)
    model = model_of(made).to(batch.images.device, memory_format=memory_format)
    images, criterion = batch.images.contiguous(memory_format=memory_format), build_criterion(made.recipe)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16):
            outputs = model(images, batch.targets)
        sum(criterion(outputs, batch.targets).values()).backward()

    return run
