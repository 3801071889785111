"""Checkers of lesson 20."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.criterion.matcher import MatchedIndices, union_set
from workbook.exercises.registry import Wrong, ask, exercise


@exercise("20.1")
def queries_by_hand(answer: Any) -> None:
    """The query of each of three boxes, from a small table of costs."""
    given = [int(query) for query in answer]
    cost = [[1.0, 2.0, 6.0], [2.0, 5.0, 9.0], [3.0, 4.0, 7.0]]
    if len(given) != 3 or sorted(given) != [0, 1, 2]:
        raise Wrong(f"give a different query, 0, 1 or 2, to each of the three boxes; yours are {given}")
    total = sum(cost[box][query] for box, query in enumerate(given))
    if total > 11:
        raise Wrong(f"yours costs {total:g} in all; there is a cheaper one")


@exercise("20.2")
def runner_up(answer: Callable[[Any], float]) -> None:
    """By how much the second-best assignment costs more than the best."""
    generator = torch.Generator().manual_seed(20)
    for boxes, queries in ((2, 2), (2, 4), (3, 5), (1, 3)):
        cost = torch.randn(boxes, queries, generator=generator)
        totals = sorted(
            float(sum(cost[box, query] for box, query in enumerate(chosen)))
            for chosen in itertools.permutations(range(queries), boxes)
        )
        right = totals[1] - totals[0]
        given = float(ask(answer, cost.clone()))
        if not abs(given - right) < 1e-4:
            raise Wrong(
                f"for random costs of {boxes} boxes and {queries} queries the second-best assignment costs "
                f"{right:.4f} more than the best, you say {given:.4f}"
            )


@exercise("20.3")
def a_box_left_out(answer: Any) -> None:
    """Two layers' matchings of two boxes, after which box 1 has no query in the union set."""
    layers = [[int(query) for query in layer] for layer in answer]
    if len(layers) != 2 or any(len(layer) != 2 for layer in layers):
        raise Wrong(
            f"give two lists of two queries: for each layer the query of box 0 and of box 1; yours are {layers}"
        )
    for number, layer in enumerate(layers, start=1):
        if len(set(layer)) != 2 or not all(0 <= query <= 9 for query in layer):
            raise Wrong(f"layer {number} must choose two different queries, 0 to 9; yours are {layer}")
    query, box = torch.tensor(layers), torch.tensor([[0, 1], [0, 1]])
    kept = union_set(MatchedIndices(torch.zeros_like(query), query, box), num_queries=10)
    pairs = list(zip(kept.query[0].tolist(), kept.box[0].tolist(), strict=True))
    if any(box == 1 for _, box in pairs):
        raise Wrong(f"the union set of these layers is {pairs} (query, box): box 1 still has a query")
