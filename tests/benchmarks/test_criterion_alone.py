"""Cutting the model's answers off from the model, so that the criterion is measured alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.criterion import cut_off


@dataclass(frozen=True)
class Answer:
    logits: torch.Tensor
    scale: float


def test_answers_are_cut_off_and_what_stands_twice_becomes_one_leaf():
    weight = torch.ones(3, requires_grad=True)
    made, fixed = 2 * weight, torch.zeros(2)
    cut, leaves = cut_off({"layers": [Answer(made, 4.0)], "teacher": made, "bins": fixed})
    assert cut["bins"] is fixed and cut["layers"][0].scale == 4.0
    assert cut["layers"][0].logits is cut["teacher"]
    assert len(leaves) == 1 and leaves[0].is_leaf
    (cut["teacher"].sum() + cut["layers"][0].logits.sum()).backward()
    assert weight.grad is None
    assert leaves[0].grad.tolist() == [2.0, 2.0, 2.0]
