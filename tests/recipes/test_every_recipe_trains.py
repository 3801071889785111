"""Every published recipe, at its real size, takes two steps on a small picture."""

from __future__ import annotations

import math

import pytest
import torch

from dfine_lib import DFINE
from dfine_lib.criterion import build_criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.targets import Targets
from dfine_lib.recipes import RECIPES, get_recipe
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.optim import build_optimizer
from dfine_lib.train.step import TrainStep

PUBLISHED = [name for name in RECIPES if not name.startswith("pico")]


def test_there_are_twenty_nine():
    assert len(PUBLISHED) == 29


@pytest.mark.parametrize("name", PUBLISHED)
def test_two_steps(name):
    torch.manual_seed(0)
    recipe = get_recipe(name)
    train = recipe.train
    model = DFINE.from_recipe(recipe).train()
    step = TrainStep(
        model, build_criterion(recipe), build_optimizer(model, train), ModelEMA(model, train), train,
        torch.device("cpu"),
    )  # fmt: skip
    # The last row of every class head takes part: 366 rows in obj365, 777 in custom, 1 in CrowdHuman.
    labels = torch.tensor([0, recipe.model.num_classes - 1])
    target = {"labels": labels, "boxes": torch.tensor([[0.3, 0.4, 0.3, 0.5], [0.7, 0.6, 0.2, 0.3]])}
    batch = Batch(
        torch.rand(2, 3, 64, 64), Targets.of_images([target, target]), torch.arange(2), torch.full((2, 2), 64.0)
    )
    before = model.decoder.dec_score_head[-1].weight.clone()
    results = [step([batch]) for _ in range(2)]
    assert not any(result.non_finite for result in results), results[0].non_finite
    assert all(math.isfinite(result.loss) and result.grad_norm > 0 for result in results)
    assert len(results[0].losses) == len(results[1].losses) > 20
    changed = (model.decoder.dec_score_head[-1].weight != before).any(1)
    assert changed[labels].all()
