"""Thirty optimizer steps of size n with warm-up, clipping and EMA against the authors' run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from fill import image_batch
from published import as_targets, golden_model, read

from dfine_lib.criterion import build_criterion
from dfine_lib.recipes import get_recipe
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.optim import build_optimizer, warmup_factor

RECIPE = "n_coco"
TRAIN = get_recipe(RECIPE).train


@pytest.fixture(scope="module")
def gold() -> dict:
    return read("curve_n.json")


@pytest.fixture(scope="module")
def run(gold) -> SimpleNamespace:
    """The same thirty steps, about 20 s of CPU time: the only test of forward, backward and update in a row."""
    model = golden_model("n").train()
    criterion, optimizer, ema = build_criterion(RECIPE), build_optimizer(model, TRAIN), ModelEMA(model, TRAIN)
    base = [group["lr"] for group in optimizer.param_groups]
    batches = [
        (torch.from_numpy(image_batch(2, 320, 320, 1001 + k)), as_targets(gold["counts"], seed=2001 + k))
        for k in range(4)
    ]
    rows = []
    for k in range(len(gold["steps"])):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * warmup_factor(TRAIN, k)
        images, targets = batches[k % 4]
        torch.manual_seed(1 + k)
        loss = sum(criterion(model(images, targets), targets).values())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        ema.update(model)
        rows.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": [g["lr"] for g in optimizer.param_groups]})
    return SimpleNamespace(rows=rows, ema=ema.module)


def test_learning_rates_rise_as_published(run, gold):
    for row, expected in zip(run.rows, gold["steps"], strict=True):
        assert sorted(set(row["lr"])) == pytest.approx(sorted(set(expected["lr"])), rel=1e-6)


def test_the_loss_follows_the_published_curve(run, gold):
    losses = [row["loss"] for row in run.rows]
    expected = [row["loss"] for row in gold["steps"]]
    assert losses[:3] == pytest.approx(expected[:3], rel=6e-4)  # as single terms differ between processors
    # From step 3 on the two runs part a little: there a query is wanted by two boxes equally often, and this run of the
    # authors' code broke that tie the other way (docs/differences.md). From then on rounding grows as in any run: after
    # changing every weight by its last bit, losses differed by up to 6e-4 at step 9 and 2e-3 at step 29.
    assert losses[:10] == pytest.approx(expected[:10], rel=1.5e-3)
    assert losses == pytest.approx(expected, rel=1e-2)


def test_the_first_gradient_norms_are_as_published(run, gold):
    # 1e-2: half a percent was seen; later ones depend on which near-tied queries were selected.
    got, expected = ([row["grad_norm"] for row in rows[:5]] for rows in (run.rows, gold["steps"]))
    assert got == pytest.approx(expected, rel=1e-2)


def test_the_average_of_the_weights_is_as_published(run, gold):
    entries = run.ema.state_dict()
    assert set(gold["ema_norm"]) <= set(entries)
    got = {k: entries[k].double().norm().item() for k in gold["ema_norm"]}
    assert got == {k: pytest.approx(v, rel=1e-2, abs=1e-5) for k, v in gold["ema_norm"].items()}


def test_the_average_forgets_at_a_rate_that_rises_with_its_updates(gold):
    # One weight that is 1, then -1, over 3000 updates: decay(t) = 0.9999 (1 - exp(-t / 1000)), t = 1 at the first.
    toy = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(toy.weight)
    ema, value = ModelEMA(toy, TRAIN), 0.0
    for t in range(1, 3001):
        weight, decay = (1.0 if t < 1500 else -1.0), gold["ema_decay"] * (1 - math.exp(-t / gold["ema_warmups"]))
        value = decay * value + (1 - decay) * weight
        torch.nn.init.constant_(toy.weight, weight)
        ema.update(toy)
    assert ema.module.weight.item() == pytest.approx(value, abs=1e-3)
