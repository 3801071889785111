"""Models, batches and training steps on the device, shared by the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.check import Setting
from benchmarks.peers import authors
from benchmarks.peers.cases import Case, Clock
from benchmarks.peers.exporting import as_if_trained
from dfine_lib.config import Recipe
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.device import set_backends
from dfine_lib.model.dfine import DFINE
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.optim import build_optimizer
from dfine_lib.train.step import TrainStep
from dfine_tools.forms.compilation import compile_model

SEED = 1  # of the denoising draws
DRY_SIDE, DRY_BATCH, DRY_QUERIES = 64, 2, 10


class TinyCase(Case):
    """The structure of a size, small enough for the dry mode: l becomes as narrow as n."""

    @property
    def recipe(self) -> Recipe:
        """The published recipe with fewer weights."""
        recipe = super().recipe
        if self.size == "n":
            return recipe
        narrow = dict(backbone="B0", encoder_dim=128, encoder_feedforward=256, encoder_depth_mult=0.34)
        model = replace(recipe.model, **narrow, hidden_dim=128, feedforward=256, num_decoder_layers=3)
        return replace(recipe, model=model)


def case(size: str, batch: int, setting: Setting) -> Case:
    """A published size at 640 px; on the CPU a tiny input and few queries."""
    return TinyCase(size, DRY_SIDE, DRY_BATCH, queries=DRY_QUERIES) if setting.dry else Case(size, 640, batch)


def model_of(case: Case) -> DFINE:
    """The model of a case in training mode, on the CPU, its activations of the magnitude of a trained model's."""
    return as_if_trained(case.model(), case.data().images[:2]).train()


def on(batch: Batch, device: torch.device) -> Batch:
    """A batch with images and targets on a device."""
    return replace(batch, images=batch.images.to(device), targets=batch.targets.to(device))


def noise(counts: Sequence[int], side: int, num_classes: int = 80, seed: int = 0) -> Batch:
    """Noise with so many boxes in each image, on the CPU."""
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        size = 0.05 + 0.35 * torch.rand(count, 2, generator=draw)
        centre = size / 2 + (1 - size) * torch.rand(count, 2, generator=draw)
        labels = torch.randint(0, num_classes, (count,), generator=draw)
        targets.append({"labels": labels, "boxes": torch.cat([centre, size], 1)})
    images = torch.rand(len(counts), 3, side, side, generator=draw)
    sizes_wh = torch.full((len(counts), 2), float(side))
    return Batch(images, Targets.of_images(targets), torch.arange(len(counts)), sizes_wh)


def train_step(
    model: DFINE, recipe: Recipe, device: torch.device, precision: str, *, backend: str = "", exact: bool = False
) -> TrainStep:
    """The step that `dfine train` takes on that device.

    Args:
        model: moved to the device and changed by the steps.
        precision: fp32, bf16 or fp16.
        backend: of `torch.compile`; none: not compiled.
        exact: float32 without TF32.
    """
    train = replace(recipe.train, precision=precision)
    set_backends("highest" if exact else train.matmul_precision, device, train.cudnn_benchmark)
    model.to(device, memory_format=torch.channels_last).train()
    if backend:
        compile_model(model, backend)
    ema = ModelEMA(model, train)
    return TrainStep(model, build_criterion(recipe), build_optimizer(model, train), ema, train, device)


def repeated(step: TrainStep, batch: Batch) -> Callable[[], None]:
    """A step on the same batch with the same denoising draws, again and again."""

    def run() -> None:
        torch.manual_seed(SEED)
        step([batch])

    return run


def authors_step(case: Case, model: DFINE, checkout: Any, batch: Batch, device: torch.device) -> Callable[[], None]:
    """The step of the authors' code with AMP, as their configurations have it, from the weights of our model."""
    peer, recipe = authors.Authors(checkout), case.recipe
    theirs = peer.model(model, case.side).to(device).train()
    criterion, average = peer.criterion(recipe).to(device), peer.ema(theirs, recipe)
    optimizer = peer.optimizer(theirs, build_optimizer(model, recipe.train).param_groups, model)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    targets = list(batch.targets)

    def run() -> None:
        torch.manual_seed(SEED)
        authors.step(
            theirs, criterion, optimizer, average, recipe.train.clip_max_norm, batch.images, targets, Clock(), scaler
        )

    return run


def loss_difference(case: Case, model: DFINE, checkout: Any, batch: Batch, device: torch.device) -> tuple[float, str]:
    """Largest relative difference of a loss term from the authors', in exact float32, and which term it is.

    Terms of the denoising queries are left out: the two need not draw the noise in the same order.
    """
    peer, recipe = authors.Authors(checkout), case.recipe
    set_backends("highest", device)
    model, theirs = model.to(device), peer.model(model, case.side).to(device).train()
    with torch.no_grad():
        targets = list(batch.targets)
        expected = peer.criterion(recipe).to(device)(theirs(batch.images, targets=targets), targets)
        found = build_criterion(recipe)(model(batch.images, batch.targets), batch.targets)
    return max(
        (abs(float(found[name]) - float(expected[name])) / max(abs(float(expected[name])), 1e-3), name)
        for name in found.keys() & expected.keys()
        if "_dn_" not in name
    )
