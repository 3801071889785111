"""One optimizer step: forward and backward passes, clipping, update, EMA; nothing non-finite gets through."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfine_lib.config import TrainConfig
from dfine_lib.criterion.criterion import Criterion, Normalizers, term_names
from dfine_lib.data.samples import Batch
from dfine_lib.distributed import ALONE, Ranks, running_statistics
from dfine_lib.errors import DfineError
from dfine_lib.model.denoising import num_dn_groups
from dfine_lib.train.ema import ModelEMA

# First loss scale of fp16; it doubles every 2,000 steps. With torch's own 65,536, the first four steps or more of a run
# overflow and are skipped: randomly initialised heads have gradient norms of hundreds; black images overflow at 1,024.
FIRST_SCALE = 512.0
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(DfineError, ArithmeticError):
    """Too many consecutive steps had a loss or gradient that is not finite."""


@dataclass(frozen=True)
class StepResult:
    """What a step did, over all ranks."""

    losses: dict[str, float]
    grad_norm: float
    non_finite: tuple[str, ...] = ()  # names of the terms that were not finite, or "grad_norm": the step was skipped
    overflowed: bool = False  # gradients left the range of fp16: the step was skipped, the next has half the loss scale

    @property
    def loss(self) -> float:
        """Sum of all terms."""
        return sum(self.losses.values())


class TrainStep:
    """Model, criterion, optimizer and EMA, and the steps that change them.

    With several ranks, each takes its part of the images: gradients and losses are those of all images, so every rank
    takes the same step, or skips it. Running statistics of batch norms that are not synchronised become means over
    ranks.
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

    def __call__(self, micro_batches: Sequence[Batch]) -> StepResult:
        """Take one step over the images of all micro-batches.

        The normalizers of the losses are those of the step, known once all micro-batches were matched. So several
        micro-batches go forward twice, first without gradients. Without `exact_accumulation` they go forward once, and
        each has its own normalizers, which gives more weight to images of micro-batches with few boxes.
        """
        self.optimizer.zero_grad(set_to_none=True)
        exact = len(micro_batches) > 1 and self.train.exact_accumulation
        terms = self._backward(micro_batches, self._normalizers(micro_batches) if exact else None)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip_max_norm)

        grad_norm, *values = torch.stack([norm, *terms.values()]).tolist()  # the step's one transfer to the host
        losses = dict(zip(terms, values, strict=True))
        non_finite, overflowed = [name for name, value in losses.items() if not math.isfinite(value)], False
        if not non_finite and not math.isfinite(grad_norm):
            overflowed = self.scaler.get_scale() > 1  # in fp16 only; from 1 on, the scale is no longer the cause
            non_finite = [] if overflowed else ["grad_norm"]
        if non_finite:
            self.optimizer.zero_grad(set_to_none=True)
            self._restore_statistics()
        else:
            self.scaler.step(self.optimizer)  # which leaves the weights alone where gradients overflowed
        self.ranks.average_(self.statistics)
        if not non_finite and not overflowed:
            self.ema.update(self.model)
        self.scaler.update()
        return StepResult(losses, grad_norm, tuple(non_finite), overflowed)

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, except the decay of the EMA, which the run sets."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; other entries are ignored."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _backward(self, micro_batches: Sequence[Batch], normalizers: Normalizers | None) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches; the loss terms, as means over micro-batches and ranks."""
        terms: dict[str, Tensor] = {}
        number = len(micro_batches)
        for i, batch in enumerate(micro_batches, 1):
            # Ranks all-reduce gradients once a step, in its last backward pass.
            with contextlib.nullcontext() if i == number or self.ranks.size == 1 else self.forward.no_sync():
                with self._autocast():
                    outputs = self.forward(_channels_last(batch), batch.targets)
                losses = self.criterion(outputs, batch.targets, normalizers)  # float32, outside autocast
                self.scaler.scale(sum(losses.values()) / number).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + value.detach() / number
        if self.ranks.size == 1:
            return terms
        # A rank without boxes has no denoising terms: 0. All ranks need the same names for one all-reduce.
        names = term_names(self.criterion.config, self.model.config)
        nothing = torch.zeros((), device=self.device)
        values = torch.stack([terms.get(name, nothing) for name in names])
        self.ranks.average_([values])
        return dict(zip(names, values, strict=True))

    @torch.no_grad()
    def _normalizers(self, micro_batches: Sequence[Batch]) -> Normalizers:
        """Normalizers of the step, by one more forward pass of each micro-batch, which leaves the buffers alone."""
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        counts = []
        for batch in micro_batches:
            with self._autocast():
                outputs = self.model(_channels_last(batch))
            groups = num_dn_groups(batch.targets.counts, self.model.config.num_denoising)
            counts.append(self.criterion.counts(outputs, batch.targets, groups))
        torch._foreach_copy_(buffers, before)
        return Normalizers.of_step(counts, self.device)

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = _DTYPES.get(self.train.precision)
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()

    def _restore_statistics(self) -> None:
        """A forward pass on NaN makes running statistics NaN: take those from the EMA."""
        ema = dict(self.ema.module.named_buffers())
        for name, buffer in self.model.named_buffers():
            if buffer.is_floating_point() and not torch.isfinite(buffer).all():
                buffer.copy_(ema[name])


def _channels_last(batch: Batch) -> Tensor:
    return batch.images.contiguous(memory_format=torch.channels_last)
