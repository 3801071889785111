"""Which function checks which exercise, and the words for what it found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Checker = Callable[[Any], None]
_CHECKERS: dict[str, Checker] = {}


class Wrong(Exception):
    """An answer that is not right; the message says what is off."""


class ToDo(Exception):
    """The answer is still the stub: it gave None."""


def exercise(number: str) -> Callable[[Checker], Checker]:
    """Register the checker of an exercise, `"14.1"`; it raises `Wrong` for an answer that is off."""

    def register(checker: Checker) -> Checker:
        _CHECKERS[number] = checker
        return checker

    return register


def ask(answer: Callable[..., Any], *arguments: Any) -> Any:
    """What the answer, a function, gives for these arguments.

    Raises:
        ToDo: it gave None.
    """
    result = answer(*arguments)
    if result is None:
        raise ToDo
    return result


def numbers(given: Any, count: int, names: str) -> list[float]:
    """The answer as so many numbers; NaN is left to the comparison.

    Raises:
        Wrong: it has more or fewer.
    """
    values = [float(x) for x in given]
    if len(values) != count:
        raise Wrong(f"give {count} numbers, {names}; yours are {values}")
    return values


def near(given: float, right: float, tolerance: float, message: str) -> None:
    """Compare two numbers.

    Raises:
        Wrong: they differ by `tolerance` or more, or one is not a number.
    """
    if not abs(given - right) < tolerance:
        raise Wrong(message)


def same_shape(given: Any, right: Tensor, what: str = "the result") -> Tensor:
    """The answer as a tensor.

    Raises:
        Wrong: it is no tensor, or one of another shape.
    """
    if not isinstance(given, Tensor) or given.shape != right.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise Wrong(f"{what} is a tensor {list(right.shape)}, yours: {shape}")
    return given


def all_checkers() -> dict[str, Checker]:
    """Every exercise's checker by its number, in order."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"workbook.exercises.{module.name}")
    return dict(sorted(_CHECKERS.items()))


def feedback(number: str, answer: Any) -> str:
    """One line: to do, correct, or what is off."""
    checkers = all_checkers()
    if number not in checkers:
        return f"{number}: there is no such exercise; known are {', '.join(checkers)}"
    if answer is None:
        return f"{number}: to do"
    state = torch.random.get_rng_state()
    try:
        checkers[number](answer)
        found = "correct"
    except ToDo:
        found = "to do"
    except Wrong as problem:
        found = str(problem)
    except (Exception, SystemExit) as error:  # whatever a learner's code raises is reported, not passed on
        found = f"your answer raised {type(error).__name__}: {error}"
    finally:
        torch.random.set_rng_state(state)  # a check changes nothing in the cells after it
    return f"{number}: {found}"


def check(number: str, answer: Any) -> None:
    """Print the feedback on an answer; the workbook prints nowhere else."""
    print(feedback(number, answer))
