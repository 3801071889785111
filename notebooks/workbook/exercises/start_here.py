"""Checkers of lesson 00."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.evaluate.postprocess import Detections
from workbook.exercises.registry import Wrong, ask, exercise


@exercise("00.1")
def number_of_layers(answer: Any) -> None:
    """Decoder layers of the teaching checkpoint."""
    from dfine_lib.config import SIZES

    right = SIZES["pico"].num_decoder_layers
    if answer != right or isinstance(answer, bool):
        raise Wrong(f"it is not {answer}; model.config.num_decoder_layers says it")


@exercise("00.2")
def highest_score(answer: Callable[..., Any]) -> None:
    """Name and score of the highest-scoring detection."""
    names = ["cat", "dog", "owl"]
    for labels, scores in (([2, 0], [0.9, 0.3]), ([1, 1, 0], [0.71, 0.7, 0.2]), ([0], [0.05])):
        boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(len(labels), 4)
        given = ask(answer, Detections(torch.tensor(labels), boxes, torch.tensor(scores)), names)
        if len(given) != 2 or given[0] != names[labels[0]] or not abs(float(given[1]) - scores[0]) < 1e-4:
            raise Wrong(f"labels {labels} with scores {scores}: ({names[labels[0]]!r}, {scores[0]}), yours is {given}")
