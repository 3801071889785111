"""What the two stages of a run decide, told from numbers alone."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from dfine_lib.config import TrainConfig
from dfine_lib.train.stages import Action, Progress, after_evaluation, begin_epoch

TRAIN = TrainConfig(epochs=6, stop_epoch=3, ema_restart_decay=0.99)
ONE_STAGE = TrainConfig(epochs=3, stop_epoch=500, ema_restart_decay=None)


def run(train: TrainConfig, aps: list[float]) -> list[tuple[Action, Action]]:
    """What is decided at the start of each epoch and after its evaluation."""
    progress, decided = Progress(ema_decay=0.9999), []
    for epoch, ap in enumerate(aps):
        begin = begin_epoch(train, progress)
        after = after_evaluation(train, begin.progress, ap)
        decided.append((begin, after))
        progress = Progress(**asdict(after.progress) | {"epoch": epoch + 1})
    return decided


def test_the_best_of_the_first_stage_is_kept_and_the_second_starts_from_it():
    decided = run(TRAIN, [0.2, 0.4, 0.3, 0.5])
    assert [after.keep_weights for _, after in decided] == [True, True, False, True]
    assert [after.keep_stage1 for _, after in decided] == [True, True, False, False]
    assert [begin.rewind for begin, _ in decided] == [False, False, False, True]
    assert decided[3][0].ema_decay == 0.99
    assert decided[3][1].progress.best_ap == 0.5 and decided[3][1].progress.best_stage1_ap == 0.4


def test_an_epoch_of_the_second_stage_that_does_not_improve_returns_to_the_first_with_a_lower_decay():
    decided = run(TRAIN, [0.2, 0.4, 0.3, 0.4, 0.5, 0.1])
    assert [after.rewind for _, after in decided] == [False, False, False, True, False, True]
    assert decided[3][1].ema_decay == pytest.approx(0.9899)
    assert decided[4][1].ema_decay is None  # improved: training goes on from here
    assert decided[5][1].ema_decay == pytest.approx(0.9898)
    assert decided[5][1].progress.best_epoch == 4


@pytest.mark.parametrize("repeated", [2, 3])
def test_an_evaluation_that_is_repeated_after_a_kill_decides_the_same(repeated):
    """State is saved before the evaluation: what it decided is lost with the process, and decided again."""
    before = run(TRAIN, [0.2, 0.4, 0.3, 0.4])[repeated][0].progress
    stored = Progress(**asdict(before) | {"step_in_epoch": 7})
    ap = [0.2, 0.4, 0.3, 0.4][repeated]
    assert begin_epoch(TRAIN, stored) == Action(stored)  # in the middle of an epoch nothing begins
    assert after_evaluation(TRAIN, stored, ap) == after_evaluation(TRAIN, stored, ap)
    assert after_evaluation(TRAIN, stored, ap).rewind == (repeated == 3)


def test_a_run_resumed_before_the_first_step_of_the_second_stage_begins_that_stage_again():
    progress = Progress(epoch=3, best_ap=0.4, best_stage1_ap=0.4, ema_decay=0.9999)
    again = Progress(**asdict(begin_epoch(TRAIN, progress).progress))
    assert begin_epoch(TRAIN, again) == begin_epoch(TRAIN, progress)


def test_without_a_second_stage_nothing_is_rewound_and_no_state_is_kept():
    decided = run(ONE_STAGE, [0.2, 0.1, 0.3])
    assert not any(action.rewind or action.keep_stage1 or action.ema_decay for pair in decided for action in pair)
    assert [after.keep_weights for _, after in decided] == [True, False, True]


def test_a_second_stage_without_a_first_has_nothing_to_return_to():
    decided = run(TrainConfig(epochs=2, stop_epoch=0, ema_restart_decay=0.99), [0.3, 0.2])
    assert decided[0][0].ema_decay == 0.99 and not decided[0][0].rewind
    assert not decided[1][1].rewind and decided[1][1].ema_decay is None


def test_where_nothing_is_measured_the_latest_weights_are_kept_and_nothing_is_rewound():
    decided = run(TRAIN, [math.nan] * 5)
    assert all(after.keep_weights and not after.keep_stage1 and not after.rewind for _, after in decided)
    assert not decided[3][0].rewind and decided[4][1].progress.best_epoch == 4
    assert decided[4][1].progress.best_ap < 0


def test_the_faithful_second_stage_lowers_a_decay_that_nobody_reads():
    train = TrainConfig(epochs=6, stop_epoch=1, ema_restart_decay=0.99, faithful=True)
    decided = run(train, [0.4, 0.3])
    assert decided[1][0].rewind and decided[1][0].ema_decay is None
    assert decided[1][1].rewind and decided[1][1].ema_decay is None
    assert decided[1][1].progress.ema_decay == pytest.approx(0.9899)
