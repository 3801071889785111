from __future__ import annotations

import os
import pickle
import warnings
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from dfine_lib.config import DataConfig
from dfine_lib.data import DataError, EvalLoader, TrainLoader, read_coco
from dfine_lib.data.images import read_image
from dfine_lib.data.loader import num_workers_of
from dfine_lib.data.samples import CocoImages, SampleKey
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.data.transforms import multiscale_sizes


def flat(batch) -> list[torch.Tensor]:
    """Every tensor of a batch, in a fixed order."""
    counts = torch.tensor(batch.targets.counts, device=batch.targets.labels.device)
    return [batch.images, batch.image_ids, batch.sizes_wh, batch.targets.labels, batch.targets.boxes_cxcywh, counts]


def equal(some, others) -> bool:
    """Whether two lists of batches agree bit for bit."""
    some, others = ([flat(batch) for batch in batches] for batches in (some, others))
    return [len(x) for x in some] == [len(x) for x in others] and all(
        torch.equal(a, b) for x, y in zip(some, others, strict=True) for a, b in zip(x, y, strict=True)
    )


def ids(batches) -> list[int]:
    return [int(i) for batch in batches for i in batch.image_ids]


def test_a_batch_is_what_the_trainer_was_promised(many, recipe):
    batch = next(TrainLoader(many, recipe, seed=0).epoch(0))
    assert batch.images.dtype == torch.float32
    assert batch.images.shape[:2] == (4, 3)
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert batch.image_ids.dtype == torch.int64
    assert batch.sizes_wh.dtype == torch.float32
    assert batch.sizes_wh.tolist() == [[40, 32]] * 4
    assert len(batch) == len(batch.targets) == 4
    for target in batch.targets:
        assert (target["labels"].dtype, target["boxes"].dtype) == (torch.int64, torch.float32)
        assert target["boxes"].shape == (len(target["labels"]), 4)


def test_an_evaluation_batch_worked_out_by_hand(many, varied):
    batch = next(iter(EvalLoader(many, varied(image_size=(32, 64)))))
    assert batch.image_ids.tolist() == [100, 103, 106, 109, 112, 115]
    assert batch.images.shape == (6, 3, 32, 64)
    assert batch.targets.image(2)["labels"].tolist() == [0, 1]
    boxes = torch.tensor([[14 / 40, 9 / 32, 20 / 40, 12 / 32], [15 / 40, 9 / 32, 20 / 40, 12 / 32]])
    assert_close(batch.targets.image(2)["boxes"], boxes)


def test_an_image_of_the_input_size_arrives_bit_for_bit(write, content, varied):
    content["images"] = [image | {"width": 64, "height": 64} for image in content["images"]]
    index = read_coco(*write(content, pictures=True))
    batch = next(iter(EvalLoader(index, varied())))
    assert torch.equal((batch.images[0] * 255).round().to(torch.uint8), read_image(index.file_name(0)))


def test_an_epoch_sees_each_image_at_most_once_and_another_order_the_next(many, recipe):
    loader = TrainLoader(many, recipe, seed=0)
    first, second = ids(loader.epoch(0)), ids(loader.epoch(1))
    assert len(loader) == 5
    assert len(set(first)) == len(first) == 20  # of 23: the last partial batch is dropped
    assert first != second
    assert ids(TrainLoader(many, recipe, seed=1).epoch(0)) != first


@pytest.mark.parametrize(("cores", "workers"), [({0}, 1), ({3, 5}, 2), (set(range(64)), 4)])
def test_workers_that_nobody_chose_are_no_more_than_the_cores(monkeypatch, many, varied, cores, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of more workers than cores
        for loader in (TrainLoader(many, varied(num_workers=None), seed=0), EvalLoader(many, varied(num_workers=None))):
            assert loader._loader.num_workers == workers


@pytest.mark.parametrize(
    ("device", "cores", "processes", "workers"),
    [
        ("cuda", 64, 1, 16), ("cuda:1", 12, 1, 11), ("cuda", 64, 8, 7), ("cuda", 2, 1, 1), ("cuda", 4, 8, 1),
        ("cpu", 64, 1, 4), ("cpu", 64, 8, 4),
    ],
)  # fmt: skip
def test_a_gpu_has_as_many_workers_as_its_part_of_the_cores_allows(monkeypatch, device, cores, processes, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert num_workers_of(DataConfig(), device) == workers
    assert num_workers_of(DataConfig(num_workers=3), device) == 3


def test_workers_that_were_chosen_stay_and_torch_may_warn_of_them(monkeypatch, many, varied):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    with pytest.warns(UserWarning, match="suggested max number of worker"):
        assert TrainLoader(many, varied(num_workers=3), seed=0)._loader.num_workers == 3
    assert TrainLoader(many, varied(num_workers=0), seed=0)._loader.num_workers == 0


@pytest.mark.parametrize("epoch", [0, 3], ids=["stage 1", "stage 2"])
def test_workers_do_not_change_a_bit(many, varied, epoch):
    one, two = (list(TrainLoader(many, varied(num_workers=n), seed=7).epoch(epoch)) for n in (0, 2))
    assert equal(one, two)
    assert equal(one, list(TrainLoader(many, varied(num_workers=1), seed=7).epoch(epoch)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_continues_at_any_batch_even_after_another_was_left(many, varied, num_workers):
    loader = TrainLoader(many, varied(num_workers=num_workers), seed=3)
    whole = list(loader.epoch(1))
    left = loader.epoch(0)
    next(left)
    for start in (0, 2, 5):
        assert equal(list(loader.epoch(1, start)), whole[start:])


def test_an_epoch_that_a_later_one_ended_says_so(many, varied):
    loader = TrainLoader(many, varied(num_workers=1), seed=3)
    first = loader.epoch(0)
    next(first)
    next(loader.epoch(1))
    with pytest.raises(RuntimeError, match="epoch 0 was ended"):
        next(first)


def test_the_epochs_differ_in_augmentation_not_only_in_order(many, varied):
    loader = TrainLoader(many, varied(base_size_repeat=None), seed=0)
    images = [{int(i): x for b in loader.epoch(e) for i, x in zip(b.image_ids, b.images, strict=True)} for e in (0, 1)]
    common = images[0].keys() & images[1].keys()
    assert sum(torch.equal(images[0][i], images[1][i]) for i in common) <= len(common) // 4


def test_the_callers_random_state_is_left_alone_and_does_not_matter(many, varied):
    for num_workers in (0, 1):
        loader = TrainLoader(many, varied(num_workers=num_workers), seed=3)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = list(loader.epoch(0))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert equal(list(loader.epoch(0)), first)


def test_ranks_and_accumulation_share_out_the_same_steps(many, varied):
    whole = TrainLoader(many, varied(batch_size=8), seed=5)
    steps = [sorted(batch.image_ids.tolist()) for batch in whole.epoch(0)]
    shared = [TrainLoader(many, varied(batch_size=8, accumulate=2), seed=5, rank=r, world_size=2) for r in (0, 1)]
    assert [len(loader) for loader in shared] == [4, 4]
    parts = [list(loader.epoch(0)) for loader in shared]
    assert all(len(batch) == 2 for part in parts for batch in part)
    assert [sorted(ids(part[2 * k + a] for part in parts for a in (0, 1))) for k in (0, 1)] == steps
    sides = [[batch.images.shape[-2:] for batch in part] for part in parts]
    assert sides[0] == sides[1] == [batch.images.shape[-2:] for batch in whole.epoch(0) for _ in (0, 1)]


def test_a_batch_that_cannot_be_shared_out_is_refused(many, varied):
    with pytest.raises(ValueError, match=r"batch_size 4 .* multiple of 3"):
        TrainLoader(many, varied(), seed=0, world_size=3)
    with pytest.raises(ValueError, match="rank"):
        TrainLoader(many, varied(), seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="start_batch"):
        TrainLoader(many, varied(), seed=0).epoch(0, 6)


def test_fewer_images_than_a_step_make_one_partial_batch(many, varied):
    loader = TrainLoader(many, varied(batch_size=32), seed=0)
    assert len(loader) == 1
    assert sorted(ids(loader.epoch(0))) == many.image_ids.tolist()
    shared = [TrainLoader(many, varied(batch_size=64), seed=0, rank=r, world_size=4) for r in range(4)]
    assert Counter(i for loader in shared for i in ids(loader.epoch(0))) == Counter(many.image_ids.tolist())
    crowded = [TrainLoader(many, varied(batch_size=64), seed=0, rank=r, world_size=32) for r in range(32)]
    assert all([len(batch) for batch in loader.epoch(0)] == [1] for loader in crowded)


def test_multiscale_draws_its_sizes_in_stage_1_only(many, varied):
    loader = TrainLoader(many, varied(image_size=128, batch_size=1), seed=0)
    sizes = Counter(tuple(batch.images.shape[-2:]) for batch in loader.epoch(0))
    assert set(sizes) == set(multiscale_sizes((128, 128), 2))
    assert {tuple(batch.images.shape[-2:]) for batch in loader.epoch(2)} == {(128, 128)}
    fixed = TrainLoader(many, varied(base_size_repeat=None), seed=0)
    assert {tuple(batch.images.shape[-2:]) for batch in fixed.epoch(0)} == {(64, 64)}


def test_multiscale_takes_the_nearest_pixel_of_the_base_size(many, varied):
    options = dict(photometric=0.0, zoom_out=0.0, iou_crop=0.0)
    scaled = TrainLoader(many, varied(image_size=128, **options), seed=0)
    plain = TrainLoader(many, varied(image_size=128, base_size_repeat=None, **options), seed=0)
    for some, base in zip(scaled.epoch(0), plain.epoch(0), strict=True):
        size = some.images.shape[-2:]
        assert torch.equal(some.images, torch.nn.functional.interpolate(base.images, size=size))
        assert torch.equal(some.targets.boxes_cxcywh, base.targets.boxes_cxcywh)


@pytest.mark.parametrize("world_size", [1, 2, 5, 30])
def test_evaluation_sees_every_image_once_over_all_ranks(many, varied, world_size):
    loaders = [EvalLoader(many, varied(), rank=r, world_size=world_size) for r in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert [len(part) for part in batches] == [len(loader) for loader in loaders]
    assert sorted(i for part in batches for i in ids(part)) == many.image_ids.tolist()
    assert all(len(batch) <= max(1, 6 // world_size) for part in batches for batch in part)


def test_evaluation_repeats_with_workers(many, varied):
    loader = EvalLoader(many, varied(num_workers=2))
    first = list(loader)
    assert equal(list(loader), first)
    assert equal(list(EvalLoader(many, varied())), first)


def test_an_index_without_a_box_in_a_batch_passes(write, content, varied):
    content["annotations"] = []
    index = read_coco(*write(content, pictures=True), training=False)
    (batch,) = EvalLoader(index, varied())
    assert [target["boxes"].shape for target in batch.targets] == [(0, 4)] * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_went_missing_or_changed_size_is_named(many, varied, num_workers):
    """The message starts with the file: no worker's traceback around it."""
    many.file_name(4).unlink()
    with pytest.raises(DataError, match=r"\A\S*04\.png: no such image file"):
        list(EvalLoader(many, varied(num_workers=num_workers)))
    many.file_name(4).write_bytes(many.file_name(5).read_bytes())
    many.sizes_wh[5] = [7, 9]
    with pytest.raises(DataError, match=r"\A\S*05\.png: 40 x 32, but .* says 7 x 9 for image id 115"):
        list(EvalLoader(many, varied(num_workers=num_workers)))


def test_workers_use_one_thread_and_leave_no_file_open(many, varied):
    loader = TrainLoader(many, varied(num_workers=2), seed=0)
    list(loader.epoch(0))
    before = len(os.listdir("/proc/self/fd"))
    for epoch in range(1, 6):
        list(loader.epoch(epoch))
    assert len(os.listdir("/proc/self/fd")) <= before
    workers = loader._loader._iterator._workers
    assert [len(os.listdir(f"/proc/{worker.pid}/fd")) < 100 for worker in workers] == [True, True]


def test_the_images_travel_to_a_worker_that_is_started_afresh(many, recipe):
    """As on systems that cannot fork."""
    images = CocoImages(many, recipe.data, seed=3)
    sample, again = (part[SampleKey(0, 7, True)][0] for part in (images, pickle.loads(pickle.dumps(images))))
    assert all(torch.equal(a, b) for a, b in zip(sample, again, strict=True))


@pytest.mark.parametrize("seed", [-1, 0, 1, 2, 3, 4, 5, 2**40])
def test_no_two_draws_of_a_run_share_a_seed(seed):
    epochs, images = range(6), range(8)
    draws = [(Draw.WEIGHTS,), *((Draw.NOISE, step) for step in range(60))]
    draws += [(draw, epoch) for draw in (Draw.ORDER, Draw.SHARD_ORDER) for epoch in epochs]
    draws += [(draw, epoch, i) for draw in (Draw.SIZE, Draw.SHARD_SHUFFLE) for epoch in epochs for i in images]
    draws += [(Draw.AUGMENT, epoch, i, *copy) for epoch in epochs for i in images for copy in ((), (1,), (2,))]
    seeds = {derived_seed(draw, seed, *parts): (draw, *parts) for draw, *parts in draws}
    assert all(0 <= value < 2**63 for value in seeds)
    shared = set(draws) - set(seeds.values())
    assert shared == ({(Draw.WEIGHTS,)} if seed == 0 else set())  # that of the order of epoch 0: for another generator


def test_derived_seeds_stay_those_of_the_runs_that_there_are():
    """Or no run could be repeated or resumed: every number here was drawn by a run before."""
    assert derived_seed(Draw.ORDER, 7, 3) == 6017043774356144487
    assert derived_seed(Draw.AUGMENT, 7, 3, 12) == 3713616506026228366
    assert derived_seed(Draw.AUGMENT, 7, 3, 12, 2) == 4886237005998587948
    assert derived_seed(Draw.SIZE, 7, 3, 40) == 2316555393319167243
    assert derived_seed(Draw.SHARD_ORDER, 7, 3) == 56151162862707083
    assert derived_seed(Draw.SHARD_SHUFFLE, 7, 3, 64) == 319989518812072595
    assert derived_seed(Draw.WEIGHTS, 7) == 8460147692890830636
    assert derived_seed(Draw.NOISE, 7, 40) == 1862694236168566762
    assert derived_seed(Draw.WEIGHTS, 0) == 7896617691693857887
    assert derived_seed(Draw.NOISE, 0, 0) == 2918264622725855778
    assert derived_seed(Draw.NOISE, 1, 1) == 7764949442709860949
    assert derived_seed(Draw.NOISE, -1, 2) == 5957258398962347266
