"""Every published state dict loads strictly; every parameter is trained as it was."""

from __future__ import annotations

import pytest
import torch
from published import DERIVED, SIZES, read

from dfine_lib import DFINE
from dfine_lib.recipes import get_recipe
from dfine_lib.train.optim import build_optimizer


@pytest.fixture(scope="module", params=SIZES)
def size_and_model(request) -> tuple[str, DFINE]:
    return request.param, DFINE.from_recipe(f"{request.param}_coco")


def test_size_n_has_the_parameters_counted_by_the_authors():
    model = DFINE.from_recipe("n_coco")
    assert sum(p.numel() for p in model.parameters()) == 3_782_693
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3_782_691  # without up and reg_scale


def test_keys_and_shapes_are_the_published_ones(size_and_model):
    size, model = size_and_model
    published = read(f"manifest_{size}.json")["state_dict"]
    kept = {key: shape for key, shape in published.items() if key.split(".")[-1] not in DERIVED}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == kept


def test_parameters_are_as_many_as_published(size_and_model):
    size, model = size_and_model
    manifest = read(f"manifest_{size}.json")
    assert sum(p.numel() for p in model.parameters()) == manifest["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == manifest["trainable"]


def test_a_published_file_loads_strictly_derived_entries_included(size_and_model):
    size, model = size_and_model
    state = {  # one number in memory for each entry: what is looked at is keys and shapes
        key: torch.full((), 0.5).expand(shape) for key, shape in read(f"manifest_{size}.json")["state_dict"].items()
    }
    model.load_state_dict(state, strict=True)
    assert all(bool((p == 0.5).all()) for p in model.parameters())


def test_learning_rate_and_weight_decay_of_every_parameter_are_as_published(size_and_model):
    size, model = size_and_model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    got = {
        names[id(parameter)]: pytest.approx((group["lr"], group["weight_decay"]), rel=1e-6)
        for group in build_optimizer(model, get_recipe(f"{size}_coco").train).param_groups
        for parameter in group["params"]
    }
    assert {name: tuple(pair) for name, pair in read(f"manifest_{size}.json")["optimizer"].items()} == got
