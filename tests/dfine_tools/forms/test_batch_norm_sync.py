"""Synchronised batch norms of two processes compute what one computes on all images, and never stop for the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from two_norms import PARTS, images_and_weights, norm, step

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.recipes import get_recipe
from dfine_tools.forms import FORMS, synchronise_batch_norms

SCRIPT = Path(__file__).with_name("two_norms.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Results of both processes."""
    folder = tmp_path_factory.mktemp("norms")
    path = os.pathsep.join([str(SCRIPT.parents[3]), os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder)], stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_two_processes_have_outputs_gradients_and_statistics_of_one(ranks, way):
    """In float64, so that the tolerance is far below what a wrong count or a missing term would give."""
    alone = step(norm().train())
    for rank, part in zip(ranks, PARTS, strict=True):
        assert rank[way].keys() == alone.keys()
        for name in ("y", "x"):
            assert_close(rank[way][name], alone[name][part], rtol=0, atol=1e-11)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert_close(rank[way][name], alone[name], rtol=1e-12, atol=0)
    for name in ("weight", "bias"):  # of each process's images: DistributedDataParallel averages them
        assert_close(ranks[0][way][name] + ranks[1][way][name], alone[name], rtol=0, atol=1e-10)


def test_the_statistics_are_those_of_the_formula(ranks):
    x, _ = images_and_weights()
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    assert_close(ranks[0]["plain"]["running_mean"], 0.1 * mean, rtol=1e-12, atol=0)
    assert_close(ranks[0]["plain"]["running_var"], 0.9 + 0.1 * var, rtol=1e-12, atol=0)


def test_one_collective_forward_one_backward_and_no_stop_for_the_host(ranks):
    for rank in ranks:
        assert rank["dispatched"]["allreduce_"] == 2
        stops = {"boolean index", "nonzero", "_local_scalar_dense", "masked_select", "allgather_", "_to_copy"}
        assert not stops & rank["dispatched"].keys()


def test_torch_compile_takes_it_into_one_graph(ranks):
    assert [rank["breaks"] for rank in ranks] == [0, 0]


def test_evaluation_takes_the_running_statistics(ranks):
    alone = norm().train()
    step(alone)
    assert_close(ranks[1]["in evaluation"], alone.eval()(images_and_weights()[0]), rtol=0, atol=1e-11)


def test_the_form_is_put_on_where_norms_are_synchronised_and_nowhere_else():
    recipe, device = get_recipe("pico"), torch.device("cpu")
    model = DFINE(SIZES["pico"])
    assert synchronise_batch_norms in FORMS and not synchronise_batch_norms(model, recipe, device)
    assert not any("forward" in vars(module) for module in model.modules())
    keys = model.state_dict().keys()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert synchronise_batch_norms(synchronised, recipe, device) and synchronised.state_dict().keys() == keys
    norms = [module for module in synchronised.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms and all("forward" in vars(module) for module in norms)
