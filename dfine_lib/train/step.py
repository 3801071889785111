"""One optimizer step: forward and backward passes, clipping, update, average; nothing non-finite gets through."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfine_lib.config import TrainConfig
from dfine_lib.criterion.criterion import Criterion, Share, term_names
from dfine_lib.data.samples import Batch
from dfine_lib.distributed import ALONE, Ranks, running_statistics
from dfine_lib.errors import DfineError
from dfine_lib.model.outputs import DFINEOutput
from dfine_lib.train.ema import ModelEMA

# Of fp16's loss scale, which doubles every 2,000 steps. From torch's own 65,536 on, a run's first four steps or more
# overflow and are skipped: fresh heads have gradient norms of hundreds; batches of black images overflow at 1,024.
FIRST_SCALE = 512.0
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(DfineError, ArithmeticError):
    """Too many steps in a row gave a loss or gradient that is not a finite number."""


@dataclass(frozen=True)
class StepResult:
    """What a step did, over all ranks.

    `broken` names the terms that were not finite: if any, the step was skipped. With `overflowed` it was skipped too,
    since gradients left the range of fp16; the next step has half the loss scale, and nothing is wrong.
    """

    losses: dict[str, float]
    grad_norm: float
    broken: tuple[str, ...] = ()
    overflowed: bool = False

    @property
    def loss(self) -> float:
        """Sum of all terms."""
        return sum(self.losses.values())


class TrainStep:
    """Model, criterion, optimizer and average, moved on by one step at a time.

    With several ranks, each takes its share of the images: gradients and losses are those of all, so every rank takes
    the same step, or skips it. Running statistics of batch norms that are not synchronised become means over ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        ema: ModelEMA,
        train: TrainConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.criterion, self.optimizer, self.ema = model, criterion, optimizer, ema
        self.train, self.device, self.ranks = train, device, ranks
        self.forward = ranks.wrapped(model)
        self.statistics = running_statistics(model)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, FIRST_SCALE, enabled=train.precision == "fp16")

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        """Take one step over `batches`, one pass each: the step that all their images together would make.

        What losses are divided by, boxes and union pairs, is that of the step, and known once all passes were matched.
        So several passes go forward twice, first without gradients; without `exact_accumulation` they go once, and each
        divides by its own numbers, which gives images of passes with few boxes more weight.
        """
        self.optimizer.zero_grad(set_to_none=True)
        share = self._share(batches) if len(batches) > 1 and self.train.exact_accumulation else None
        terms: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with self._exchange(i + 1 == len(batches)):
                with self._autocast():
                    outputs = self.forward(_channels_last(batch), batch.targets)
                losses = self.criterion(outputs, batch.targets, share)  # float32, outside autocast
                self.scaler.scale(sum(losses.values()) / len(batches)).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + value.detach() / len(batches)
        terms = self._over_ranks(terms)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip_max_norm)

        values = torch.stack([norm, *terms.values()]).tolist()  # the step's one transfer to the host
        finite = [math.isfinite(value) for value in values]
        named = dict(zip(terms, values[1:], strict=True))
        # In fp16 a gradient may overflow: the scaler skips that step and halves its scale, until that reaches 1.
        scaled_down = self.scaler.is_enabled() and not finite[0] and self.scaler.get_scale() > 1
        broken = [name for name, ok in zip(terms, finite[1:], strict=True) if not ok]
        if not finite[0] and not broken and not scaled_down:
            broken = ["grad_norm"]
        if broken:
            self.optimizer.zero_grad(set_to_none=True)
            self._mend_statistics()
            self.ranks.average_(self.statistics)
        else:
            self.scaler.step(self.optimizer)
            self.ranks.average_(self.statistics)
            if finite[0]:
                self.ema.update(self.model)
        self.scaler.update()
        return StepResult(named, values[0], tuple(broken), scaled_down and not broken)

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, the average's decay aside, which is the run's."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave; other entries are left aside."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    @torch.no_grad()
    def _share(self, batches: Sequence[Batch]) -> Share:
        """What the passes' losses are divided by; running statistics stay as they are."""
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]

        def forward(batch: Batch) -> DFINEOutput:
            with self._autocast():
                return self.model(_channels_last(batch))

        targets = [batch.targets for batch in batches]
        share = self.criterion.share(map(forward, batches), targets, self.model.config.num_denoising)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return share

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager:
        """Ranks exchange gradients once a step, in its last backward pass."""
        return contextlib.nullcontext() if last or self.ranks.size == 1 else self.forward.no_sync()

    def _over_ranks(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms as means over ranks, so that all see the same; a rank without boxes has no denoising terms: 0."""
        if self.ranks.size == 1:
            return terms
        names = term_names(self.criterion.config, self.model.config.num_decoder_layers)
        values = torch.stack([terms.get(name, torch.zeros((), device=self.device)) for name in names])
        self.ranks.average_([values])
        return dict(zip(names, values, strict=True))

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = _DTYPES.get(self.train.precision)
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()

    def _mend_statistics(self) -> None:
        """A forward pass on NaN poisons running means: take those back from the average."""
        average = dict(self.ema.module.named_buffers())
        for name, buffer in self.model.named_buffers():
            if buffer.is_floating_point() and not torch.isfinite(buffer).all():
                buffer.copy_(average[name])


def _channels_last(batch: Batch) -> Tensor:
    return batch.images.contiguous(memory_format=torch.channels_last)
