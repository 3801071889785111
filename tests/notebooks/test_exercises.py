"""The checkers of the exercises: they never raise, and take no wrong answer for a right one."""

from __future__ import annotations

import pytest
import torch
from workbook.exercises import all_checkers, check, feedback
from workbook.exercises.registry import exercise


def raising(*arguments):
    raise KeyError("a learner's mistake")


def leaving(*arguments):
    raise SystemExit(1)


WRONG = {
    "a function that gives 0": lambda *arguments: 0,
    "a function that gives 1": lambda *arguments: 1,
    "a function that gives True": lambda *arguments: True,
    "a function that gives text": lambda *arguments: "text",
    "a function that gives three zeros": lambda *arguments: torch.zeros(3),
    "a function that gives an empty list": lambda *arguments: [],
    "a function that gives NaN": lambda *arguments: float("nan"),
    "a function without arguments": lambda: 1,
    "a function that raises": raising,
    "a function that leaves": leaving,
    "the number -12345": -12345,
    "text": "text",
    "an empty tensor": torch.empty(0),
}


@pytest.mark.parametrize("number", all_checkers())
def test_a_wrong_answer_is_told_in_a_line_and_nothing_is_raised(number):
    for name, answer in WRONG.items():
        said = feedback(number, answer)
        assert said.startswith(f"{number}: "), said
        assert not said.endswith(": correct"), f"{number} takes {name} for the answer"


@pytest.mark.parametrize("number", all_checkers())
def test_a_stub_is_to_do(number):
    assert feedback(number, None) == f"{number}: to do"


NAN = float("nan")


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("40.1", 100 * 5 / 6),
        ("40.1", 0.835),
        ("15.1", (NAN, NAN, NAN, NAN)),
        ("21.1", (0.55, 0.52)),
        ("23.1", (0.89, 0.06, 0.06)),
    ],
)
def test_a_plausible_wrong_answer_by_hand_is_refused(number, answer):
    assert not feedback(number, answer).endswith(": correct")


@pytest.mark.parametrize(
    ("number", "answer"), [("40.1", 83.5), ("21.1", (0.55, 0.13)), ("23.1", (0.67, 0.17, 0.17)), ("30.1", 693.1)]
)
def test_a_right_answer_by_hand_may_be_rounded(number, answer):
    assert feedback(number, answer) == f"{number}: correct"


def test_a_gradient_without_the_temperature_is_told_its_factor():
    def gradient(student, teacher, T):
        return ((student / T).softmax(0) - (teacher / T).softmax(0)) / T

    assert feedback("23.3", gradient) == "23.3: T = 5: yours is 0.04 times the right one"


def test_a_norm_whose_mean_is_not_scaled_is_no_folded_norm():
    def folded(weight, gamma, beta, mean, variance):
        return weight * gamma / variance**0.5, beta - mean

    assert "yours is" in feedback("50.1", folded)


def test_a_check_prints_its_feedback(capsys):
    check("14.1", lambda fraction: None)
    assert capsys.readouterr().out == "14.1: to do\n"


def test_an_unknown_number_names_the_known_ones():
    assert "14.1" in feedback("99.9", 1) and "no such exercise" in feedback("99.9", 1)


def test_a_check_leaves_the_random_numbers_of_the_notebook_alone(monkeypatch):
    from workbook.exercises import registry

    monkeypatch.setattr(registry, "_CHECKERS", dict(registry._CHECKERS))
    exercise("98.1")(lambda answer: torch.rand(1))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    feedback("98.1", 0)
    assert torch.equal(torch.rand(2), expected)
