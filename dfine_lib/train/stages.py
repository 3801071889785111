"""How far a run is, and what its two stages do between epochs: decisions about numbers, without a model.

The first stage trains with strong augmentation; the second has the no-augmentation epochs (the published
`stop_epoch`). The second starts from the best weights of the first, and returns to them after every evaluation that
did not improve the best AP, each time with a slightly lower EMA decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dfine_lib.config import TrainConfig

DECAY_STEP = 0.0001  # by which the EMA decay falls at each return to the first stage


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; stored in its state file under these names."""

    epoch: int = 0
    step_in_epoch: int = 0  # steps taken of that epoch; all of them: trained, but not evaluated yet
    best_ap: float = -1.0  # below 0 as long as nothing was measured
    best_stage1_ap: float = -1.0
    best_epoch: int = -1
    skipped: int = 0  # steps with a loss or gradient that is not finite
    overflowed: int = 0  # steps whose gradients left the range of fp16
    ema_decay: float = 0.9999  # of the stage; the published code lowers it without using it
    seconds: float = 0.0  # of training and evaluation


@dataclass(frozen=True)
class Action:
    """What to do with weights and state now."""

    progress: Progress
    keep_weights: bool = False  # write the EMA weights: they are the best of the run
    keep_stage1: bool = False  # write the state: it is the best of the first stage
    rewind: bool = False  # load the best state of the first stage
    ema_decay: float | None = None  # use this one from now on; None: go on with the one in use


def begin_epoch(train: TrainConfig, progress: Progress) -> Action:
    """At the start of an epoch: the first no-augmentation epoch begins from the best of the first stage."""
    begins = progress.epoch == train.stop_epoch and progress.step_in_epoch == 0
    if not begins or train.ema_restart_decay is None:
        return Action(progress)
    return _restart(train, replace(progress, ema_decay=train.ema_restart_decay))


def after_evaluation(train: TrainConfig, progress: Progress, ap: float) -> Action:
    """After the evaluation of `progress.epoch`: keep the best weights, or return to the best of the first stage.

    While nothing is detected (AP 0), or nothing can be measured (NaN: no box in the split), the latest weights count
    as the best.

    Args:
        train: epochs, first no-augmentation epoch, EMA decay of the second stage.
        progress: of the epoch that was just trained.
        ap: of the EMA weights.
    """
    measured = math.isfinite(ap)
    improved = not measured or ap > progress.best_ap or ap == progress.best_ap == 0
    if improved:
        progress = replace(progress, best_epoch=progress.epoch, best_ap=ap if measured else progress.best_ap)
    if progress.epoch < train.stop_epoch:
        has_second_stage = train.stop_epoch < train.epochs and train.ema_restart_decay is not None
        if has_second_stage and ap > progress.best_stage1_ap:
            return Action(replace(progress, best_stage1_ap=ap), keep_weights=improved, keep_stage1=True)
    elif not improved and train.ema_restart_decay is not None and progress.best_stage1_ap >= 0:
        return _restart(train, replace(progress, ema_decay=progress.ema_decay - DECAY_STEP))
    return Action(progress, keep_weights=improved)


def _restart(train: TrainConfig, progress: Progress) -> Action:
    # Differs with `faithful`: the published code lowers a number that its EMA schedule no longer reads.
    decay = None if train.faithful else progress.ema_decay
    return Action(progress, rewind=progress.best_stage1_ap >= 0, ema_decay=decay)
