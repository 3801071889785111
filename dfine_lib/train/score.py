"""What the trainer needs to know of an evaluation, so that it need not know which one it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dfine_lib.data.loader import EvalLoader


class Metrics(Protocol):
    """What an evaluation returns: `ap`, NaN where there is none, and a JSON-safe dict of all metrics."""

    ap: float

    def to_dict(self) -> dict[str, Any]: ...


class Score(Protocol):
    """Scores a model on a validation loader; `samples` is what it finds on a few of the images, JSON-safe."""

    def __call__(self, model: nn.Module, loader: EvalLoader, device: torch.device) -> Metrics: ...

    def samples(self, model: nn.Module, loader: EvalLoader, device: torch.device) -> list[dict[str, Any]]: ...


# From the validation file and the category id of each label to what scores a model: made before the first step, so
# that a file which cannot be scored is found then.
MakeScore = Callable[[Path, Sequence[int]], Score]
