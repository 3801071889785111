"""Checkers of lesson 32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbook.exercises.registry import Wrong, ask, exercise, numbers

Rows = Sequence[Mapping[str, Any]]


@exercise("32.1")
def steps_and_rows(answer: Sequence[int]) -> None:
    """Optimizer steps, and rows of kind train, of a run of 100 images in batches of 8 over 3 epochs."""
    given = numbers(answer, 2, "steps and rows")
    if given[0] != 36:
        raise Wrong(f"not {given[0]:g} steps: count the whole batches of one epoch first")
    if given[1] != 6:
        raise Wrong(
            f"36 steps is right; not {given[1]:g} rows: every tenth step of the run, and the last step of each epoch"
        )


@exercise("32.2")
def wait_share(answer: Callable[[Rows], float]) -> None:
    """Fraction of the training time of a whole run that it waited for data."""
    for readings in ([(10.0, 0.5), (30.0, 0.1)], [(2.0, 0.0), (1.0, 0.9), (7.0, 0.2)], [(5.0, 0.25)]):
        rows: list[dict[str, Any]] = [{"kind": "session", "step": 0, "seconds": 50.0}]
        for number, (seconds, share) in enumerate(readings):
            rows.append({"kind": "train", "step": 10 * number + 9, "seconds": seconds, "data_wait_share": share})
            rows.append({"kind": "eval", "step": 10 * number + 9, "seconds": 100.0})
        right = sum(seconds * share for seconds, share in readings) / sum(seconds for seconds, _ in readings)
        given = float(ask(answer, rows))
        if not abs(given - right) < 1e-6:
            given_rows = ", ".join(f"{seconds:g} s at {share:.0%}" for seconds, share in readings)
            raise Wrong(f"train rows of {given_rows}: the fraction is {right:.4f}, yours is {given:.4f}")


@exercise("32.3")
def kept_epoch(answer: Callable[[Rows], int]) -> None:
    """The epoch whose EMA weights `model.safetensors` holds."""
    for ema, right in (
        ((0.1, 0.4, 0.3), 1),
        ((0.2, 0.5, 0.5), 1),
        ((0.0, 0.0, 0.1, 0.0), 2),
        ((0.0, None, 0.0), 2),
        ((0.3, 0.0, None, 0.2), 0),
    ):
        rows: list[dict[str, Any]] = [{"kind": "session", "step": 0}]
        for number, ap in enumerate(ema):
            rows.append({"kind": "train", "step": 40 * number + 39, "epoch": 2 * number + 1, "loss": 9.0 - number})
            about = {"kind": "eval", "step": 40 * number + 39, "epoch": 2 * number + 1}
            rows.append(about | {"ema": {"ap": ap}, "raw": {"ap": 0.9 - 0.1 * number}})
        given = ask(answer, rows)
        if given != 2 * right + 1:
            given_rows = ", ".join(f"epoch {2 * number + 1}: {ap}" for number, ap in enumerate(ema))
            raise Wrong(f"EMA AP of {given_rows}: the weights kept are of epoch {2 * right + 1}, you say {given}")
