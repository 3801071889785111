"""The cases that are measured, and inputs for them that both sides share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from dfine_lib.config import Recipe
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import get_recipe


@dataclass(frozen=True)
class Case:
    """A size of model and the batch that it learns from."""

    size: str
    side: int  # px
    batch: int
    boxes: int = 7  # an image
    queries: int | None = None  # None: as published

    def __str__(self) -> str:
        queries = f", {self.queries} queries" if self.queries else ""
        boxes = f", {self.boxes} boxes an image" if self.boxes != 7 else ""
        return f"{self.size}, {self.side} px, batch {self.batch}{queries}{boxes}"

    @property
    def recipe(self) -> Recipe:
        """The published recipe of that size."""
        recipe = get_recipe(f"{self.size}_coco")
        model = replace(recipe.model, num_queries=self.queries) if self.queries else recipe.model
        return replace(recipe, model=model)

    def model(self, seed: int = 0) -> DFINE:
        """Our model in training mode; weights are drawn so that no two queries answer alike, as after training."""
        torch.manual_seed(seed)
        model = DFINE(self.recipe.model)
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                if parameter.ndim > 1 and not parameter.any():  # heads start at zero
                    nn.init.normal_(parameter, std=0.05)
        return model.train()

    def data(self, seed: int = 0) -> Batch:
        """Noise with boxes in it; speed does not depend on what is in a picture."""
        draw = torch.Generator().manual_seed(seed)
        images = torch.rand(self.batch, 3, self.side, self.side, generator=draw)
        targets = []
        for _ in range(self.batch):
            size = 0.05 + 0.35 * torch.rand(self.boxes, 2, generator=draw)
            centre = size / 2 + (1 - size) * torch.rand(self.boxes, 2, generator=draw)
            labels = torch.randint(0, 80, (self.boxes,), generator=draw)
            targets.append({"labels": labels, "boxes": torch.cat([centre, size], 1)})
        sizes_wh = torch.full((self.batch, 2), float(self.side))
        return Batch(images, Targets.of_images(targets), torch.arange(self.batch), sizes_wh)


# Those that the aims of training are set for.
TRAINING = [Case("n", 320, 8), Case("n", 160, 16, queries=60), Case("n", 640, 4), Case("s", 640, 2)]


@dataclass
class Clock:
    """Seconds by part."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - start


def worst_difference(ours: dict[str, Tensor], theirs: dict[str, float]) -> tuple[float, str]:
    """Largest relative difference of two sets of losses, and of which term; a term that one lacks counts as 0."""
    names = ours.keys() | theirs.keys()
    pairs = {
        name: tuple(float(torch.as_tensor(side.get(name, 0.0)).detach()) for side in (ours, theirs)) for name in names
    }
    return max((abs(a - b) / max(abs(a), abs(b), 1e-3), name) for name, (a, b) in pairs.items())
