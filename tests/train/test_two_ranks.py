"""Two processes, started by torchrun, compute what one computes."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import write_folder
from torch.testing import assert_close
from two_ranks import CASES, batches_of, evaluation, recipe_of, statistics, steps

from dfine_lib.criterion import build_criterion
from dfine_lib.criterion.criterion import term_names
from dfine_lib.distributed import ALONE, running_statistics
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.layers import FrozenBatchNorm2d
from dfine_lib.recipes import get_recipe
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.step import TrainStep

HERE = Path(__file__).parent
EXACT = [case for case in CASES if case not in ("rank without boxes, denoising", "not finite on one rank")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Data of nine pictures, and of one: fewer than ranks."""
    parent = tmp_path_factory.mktemp("sets")
    for images in (9, 1):
        write_folder(parent / str(images), images=images)
    return parent


@pytest.fixture(scope="module")
def ranks(folders, tmp_path_factory) -> list[dict]:
    """Results of both ranks."""
    out = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*torchrun, str(HERE / "two_ranks.py"), str(folders), str(out)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


in_one_process = functools.cache(steps)


def off(ours: dict, theirs: dict) -> float:
    """Length of the difference, relative to the length of `theirs`."""
    assert ours.keys() == theirs.keys()
    difference = sum((ours[name] - theirs[name]).double().square().sum() for name in theirs)
    return float((difference / sum(t.double().square().sum() for t in theirs.values())).sqrt())


@pytest.mark.parametrize("case", EXACT)
def test_the_gradients_of_a_step_are_those_of_one_process_on_all_images(ranks, case):
    alone, (first, second) = in_one_process(case), (rank[case] for rank in ranks)
    assert any(g.any() for g in alone["gradients"].values()) and alone["non_finite"] == [[], []]
    assert off(first["gradients"], alone["gradients"]) < 1e-5
    for name, gradient in alone["gradients"].items():  # each by itself too, down to what rounding leaves
        assert_close(first["gradients"][name], gradient, rtol=1e-4, atol=1e-6 * alone["norms"][0], msg=name)
    assert all(torch.equal(g, second["gradients"][name]) for name, g in first["gradients"].items())


@pytest.mark.parametrize("case", EXACT)
def test_weights_ema_and_losses_after_several_steps_are_those_of_one_process(ranks, case):
    alone, (first, second) = in_one_process(case), (rank[case] for rank in ranks)
    assert off(first["moved"], alone["moved"]) < 1e-4
    assert off(first["average"], alone["average"]) < 1e-6
    for ours, theirs in zip(first["losses"], alone["losses"], strict=True):
        for name, value in ours.items():  # one process has no denoising terms where there is nothing to denoise
            assert value == pytest.approx(theirs.get(name, 0.0), rel=1e-4, abs=1e-6), name
    assert first["losses"] == second["losses"] and first["norms"] == second["norms"]
    assert all(torch.equal(p, second["average"][name]) for name, p in first["average"].items())


@pytest.mark.parametrize(
    ("case", "whole"),
    [("accumulated", "plain"), ("accumulated, denoising without noise", "whole, denoising without noise")],
)
def test_micro_batches_with_unequal_numbers_of_boxes_make_the_step_of_all_images_at_once(ranks, case, whole):
    whole = in_one_process(whole)
    for found in (in_one_process(case), ranks[0][case]):
        assert off(found["gradients"], whole["gradients"]) < 1e-5
        assert off(found["moved"], whole["moved"]) < 1e-4
        for name, value in whole["losses"][0].items():
            assert found["losses"][0][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_micro_batches_with_their_own_normalizers_make_another_step():
    apart, whole = in_one_process("normalizers of each micro-batch"), in_one_process("plain")
    assert 1e-3 < off(apart["gradients"], whole["gradients"]) < 0.5


def test_running_statistics_move_once_a_micro_batch():
    recipe = recipe_of("accumulated")
    torch.manual_seed(0)
    model = DFINE.from_recipe(recipe).train()
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batches = batches_of("accumulated", ALONE)
    ema = ModelEMA(model, recipe.train)
    TrainStep(model, build_criterion(recipe), optimizer, ema, recipe.train, torch.device("cpu"))(batches)
    for batch in batches:
        other(batch.images)
    for (name, found), expected in zip(model.named_buffers(), other.buffers(), strict=True):
        assert_close(found, expected, msg=name)


def test_a_rank_without_boxes_takes_the_same_step_as_the_other(ranks):
    first, second = (rank["rank without boxes, denoising"] for rank in ranks)
    assert all(torch.isfinite(g).all() for g in first["gradients"].values())
    assert first["gradients"]["decoder.denoising_class_embed.weight"].any()  # learnt from the other rank's boxes
    assert all(torch.equal(g, second["gradients"][name]) for name, g in first["gradients"].items())
    assert all(torch.equal(m, second["moved"][name]) for name, m in first["moved"].items())


def test_what_is_not_finite_on_one_rank_is_skipped_by_all(ranks):
    first, second = (rank["not finite on one rank"] for rank in ranks)
    assert first["non_finite"] == second["non_finite"] and all(first["non_finite"])
    assert not any(m.any() for rank in (first, second) for m in rank["moved"].values())


@pytest.mark.parametrize("images", [9, 1])
def test_an_evaluation_shared_out_equals_that_of_one_process(ranks, folders, images):
    alone, (first, second) = evaluation(folders, images), (rank["evaluation"][images] for rank in ranks)
    assert 0 < alone["metrics"]["ap"] < 1
    assert first == second == alone
    assert first["images"] == list(range(1, images + 1))  # each once


def test_running_statistics_become_the_mean_over_ranks(ranks):
    first, second = (rank["statistics"] for rank in ranks)
    assert all(map(torch.equal, first, second))
    alone = statistics(ALONE)
    # Of equal shares, the mean of the means is the mean of all; first norm only, what follows it is normalised apart.
    assert_close(first[0], alone[0], rtol=1e-4, atol=1e-6)


def test_norms_that_are_synchronised_or_frozen_are_left_out_of_that_mean():
    norms = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.SyncBatchNorm(2), FrozenBatchNorm2d(2))
    kept = running_statistics(norms)
    assert [id(t) for t in kept] == [id(norms[0].running_mean), id(norms[0].running_var)]


def test_ranks_agree_on_what_one_of_them_knows(ranks):
    for rank in ranks:
        assert rank["gathered"] == [0, 1] and rank["from the first"] == ["rank", 0]
        assert [t.tolist() for t in rank["averaged"]] == [[0.5, 0.5], [[1.0, 1.0, 1.0]]]


def test_the_names_of_all_terms_are_those_that_the_criterion_gives():
    losses = in_one_process("denoising without noise")["losses"][0]
    assert set(term_names(get_recipe("pico").loss, get_recipe("pico").model)) == set(losses)
