"""Which function checks which exercise, and the words for what it found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

import workbook.exercises

Checker = Callable[[Any], str | None]
_CHECKERS: dict[str, Checker] = {}


class ToDo(Exception):
    """The answer is still the stub: it gave None."""


def exercise(number: str) -> Callable[[Checker], Checker]:
    """Register the checker of an exercise, `"14.1"`; it returns None for a right answer, else what is off."""

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


def all_checkers() -> dict[str, Checker]:
    """Every exercise's checker by its number, in order."""
    for module in pkgutil.iter_modules(workbook.exercises.__path__):
        importlib.import_module(f"workbook.exercises.{module.name}")
    return dict(sorted(_CHECKERS.items()))


def verdict(number: str, answer: Any) -> str:
    """One line: to do, correct, or what is off."""
    checkers = all_checkers()
    if number not in checkers:
        return f"{number}: there is no such exercise; known are {', '.join(checkers)}"
    if answer is None:
        return f"{number}: to do"
    state = torch.random.get_rng_state()
    try:
        problem = checkers[number](answer)
    except ToDo:
        problem = "to do"
    except (Exception, SystemExit) as error:  # whatever a learner's code raises is told, not passed on
        problem = f"your answer raised {type(error).__name__}: {error}"
    finally:
        torch.random.set_rng_state(state)  # a check changes nothing in the cells after it
    return f"{number}: {problem or 'correct'}"


def check(number: str, answer: Any) -> None:
    """Print the verdict on an answer; the library prints nowhere else."""
    print(verdict(number, answer))
