"""Images of rare classes stand in an epoch as often as LVIS's formula says, every time augmented anew."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_tools.large.repeat_factor import class_repeat_factors, draw_epoch, repeat_factors, samples_per_epoch
from data_tools.large.source import LargeFolder
from data_tools.stats import repeats
from dfine_lib.data import read_coco
from dfine_lib.train.run_plan import fitted_to_data
from tests.data.test_loader import equal, ids

train_loader = LargeFolder().train_loader


def test_factors_worked_out_by_hand(content, write):
    content["images"] += [{"id": 100 + i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(6)]
    index = read_coco(*write(content))  # 8 images: plane (4) in two of them, brush (90) in one
    assert class_repeat_factors(index, 0.5).tolist() == [math.sqrt(0.5 / 0.25), 2.0]
    assert class_repeat_factors(index, 0.2).tolist() == [1.0, math.sqrt(0.2 * 8)]
    assert repeat_factors(index, 0.5).tolist() == [math.sqrt(2), 2.0, *[1.0] * 6]  # image 9 holds both classes
    assert repeat_factors(index, None).tolist() == [1.0] * 8
    assert samples_per_epoch(repeat_factors(index, 0.5)) == 9  # 1.41 + 2 + 6


def test_a_class_without_a_box_and_a_threshold_that_is_no_fraction(content, write):
    content["categories"].append({"id": 91, "name": "nowhere"})
    index = read_coco(*write(content))
    assert class_repeat_factors(index, 1.0).tolist() == [1.0, math.sqrt(2), 1.0]
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="fraction of the images"):
            class_repeat_factors(index, threshold)


def test_epochs_are_equally_long_and_fractions_are_met_on_average():
    factors = np.random.default_rng(0).choice([1.0, 1.0, 1.3, 2.75], size=200)
    epochs = [draw_epoch(factors, np.random.default_rng(seed)) for seed in range(400)]
    times = np.stack([np.bincount(epoch[:, 0], minlength=200) for epoch in epochs])
    assert {len(epoch) for epoch in epochs} == {int(factors.sum())}
    assert (times <= np.ceil(factors)).all()
    assert (times >= np.floor(factors) - 1).all()  # the last sample may be cut off
    assert (times < np.floor(factors)).sum() <= 400
    assert np.abs(times.mean(0) - factors).max() < 0.12  # 5 standard errors of a draw of 0 or 1
    for place, copy in Counter(map(tuple, epochs[0].tolist())).items():
        assert copy == 1, f"{place} stands twice: its copies would be augmented alike"


def test_off_the_order_is_a_plain_permutation(many, recipe, varied):
    plain = draw_epoch(np.ones(23), np.random.default_rng(5))
    assert plain[:, 0].tolist() == np.random.default_rng(5).permutation(23).tolist()
    assert not plain[:, 1].any()
    some, other = (train_loader(many, r, seed=0) for r in (recipe, varied(repeat_threshold=1e-6)))
    assert equal(list(some.epoch(0)), list(other.epoch(0)))


def test_ranks_share_the_repeats_and_an_epoch_goes_on_at_any_batch(many, varied):
    recipe = varied(repeat_threshold=1.0, num_workers=1)
    loader = train_loader(many, recipe, seed=3)
    assert len(loader) == len(loader.sample_indices(1)) // 4 > 23 // 4
    whole = list(loader.epoch(1))
    assert equal(list(loader.epoch(1, 3)), whole[3:])
    assert equal(list(train_loader(many, recipe, seed=3).epoch(1)), whole)
    ranks = [train_loader(many, recipe, seed=3, rank=r, world_size=2) for r in (0, 1)]
    parts = [[batch.image_ids.tolist() for batch in rank.epoch(1)] for rank in ranks]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(b.image_ids.tolist()) for b in whole]
    assert ids(loader.epoch(2)) != ids(whole)


def test_copies_of_an_image_are_augmented_differently(many, varied):
    batches = list(train_loader(many, varied(repeat_threshold=1.0, base_size_repeat=None), seed=0).epoch(0))
    pictures: dict[int, list[torch.Tensor]] = {}
    for batch in batches:
        for identity, picture in zip(batch.image_ids.tolist(), batch.images, strict=True):
            pictures.setdefault(identity, []).append(picture)
    twice = [found for found in pictures.values() if len(found) > 1]
    assert len(twice) >= 3
    assert sum(torch.equal(found[0], found[1]) for found in twice) <= len(twice) // 3


def test_the_length_of_a_run_follows(many, varied):
    warmups = []
    for threshold in (None, 1.0):
        recipe = varied(repeat_threshold=threshold)
        images = LargeFolder().samples_per_epoch(many, recipe)
        recipe = fitted_to_data(replace(recipe, train=replace(recipe.train, epochs=40)), many, images)
        warmups.append(recipe.train.warmup_iterations)
    steps = [40 * len(train_loader(many, varied(repeat_threshold=threshold), seed=0)) for threshold in (None, 1.0)]
    assert warmups == [count // 10 for count in steps]
    assert warmups[0] < warmups[1]


def test_the_numbers_are_told_before_a_run(tmp_path):
    from tests.small_runs import write_folder

    data = write_folder(tmp_path / "data")
    told = repeats(data, 1.0)
    assert told["images"] == 8 <= told["draws"]
    assert list(told["class_factors"]) == ["dot", "bar"]
