"""Every published recipe against the authors' configuration (tests/golden/recipes.json), field by field; the rules that
carry a recipe to another batch, image size or length."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dfine_lib.config import SIZES, DataConfig, LossConfig, ModelConfig, Recipe, TrainConfig
from dfine_lib.recipes import RECIPES, adapted_to_length, changed, flat, get_recipe
from dfine_tools.cli.recipes import parent_of
from dfine_tools.runs.settings import for_epochs, scaled

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())
PUBLISHED = sorted(GOLDEN)

# Fixed in the code, not in a recipe: one value in all 29 files.
CONSTANTS = {
    "lr_scheduler.type": "MultiStepLR",  # its first step is beyond every run: a constant rate
    "lr_scheduler.milestones": [500],
    "lr_scheduler.gamma": 0.1,
    "ema.type": "ModelEMA",
    "ema.start": 0,
    "encoder.num_encoder_layers": 1,
    "encoder.dropout": 0.0,
    "encoder.enc_act": "gelu",
    "encoder.act": "silu",
    "decoder.eval_idx": -1,
    "decoder.layer_scale": 1,
    "decoder.cross_attn_method": "default",
    "decoder.query_select_method": "default",
    "sync_bn": True,
    "use_amp": True,  # here the precision is chosen for the machine
}
# Choices of a run, made where it is started: start weights, how often to save. Category ids are always remapped.
NOT_OF_A_RECIPE = {"backbone.pretrained", "checkpoint_freq", "remap_mscoco_category"}
BACKBONE_CHANNELS = {"B0": (256, 512, 1024), "B2": (384, 768, 1536), "B4": (512, 1024, 2048), "B5": (512, 1024, 2048)}


def flattened(entry: dict, prefix: str = "") -> dict:
    """Nested keys joined by dots."""
    result = {}
    for key, value in entry.items():
        result |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def as_published(recipe: Recipe) -> dict:
    """Our recipe in the words of the authors' file."""
    model, data, train = recipe.model, recipe.data, recipe.train
    size, schedule = recipe.name.split("_")
    levels = len(model.feat_strides)
    words = {
        "size": size,
        "schedule": schedule,
        "num_classes": model.num_classes,
        "epochs": train.epochs,
        "strong_augmentation_stop_epoch": train.stop_epoch,
        "multiscale_and_stage1_stop_epoch": train.stop_epoch,
        "base_size_repeat": data.base_size_repeat,
        "ema_restart_decay": train.ema_restart_decay,
        "train_total_batch_size": data.batch_size,
        "val_total_batch_size": data.eval_batch_size,
        "lr": train.lr,
        "betas": list(train.betas),
        "weight_decay": train.weight_decay,
        "clip_max_norm": train.clip_max_norm,
        "ema.decay": train.ema_decay,
        "ema.warmups": train.ema_ramp,
        "lr_warmup_iterations": train.warmup_iterations,
        "backbone.name": model.backbone,
        "backbone.return_idx": [1, 2, 3][-levels:],
        "backbone.freeze_norm": model.freeze_norm,
        "backbone.freeze_at": 0 if model.freeze_stem else -1,
        "encoder.in_channels": list(BACKBONE_CHANNELS[model.backbone][-levels:]),
        "encoder.feat_strides": list(model.feat_strides),
        "encoder.hidden_dim": model.encoder_dim,
        "encoder.use_encoder_idx": [levels - 1],
        "encoder.nhead": model.num_heads,
        "encoder.dim_feedforward": model.encoder_feedforward,
        "encoder.expansion": model.encoder_expansion,
        "encoder.depth_mult": model.encoder_depth_mult,
        "decoder.feat_channels": [model.encoder_dim] * levels,
        "decoder.feat_strides": list(model.feat_strides),
        "decoder.hidden_dim": model.hidden_dim,
        "decoder.num_levels": levels,
        "decoder.num_layers": model.num_decoder_layers,
        "decoder.num_queries": model.num_queries,
        "decoder.num_denoising": model.num_denoising,
        "decoder.label_noise_ratio": model.label_noise_ratio,
        "decoder.box_noise_scale": model.box_noise_scale,
        "decoder.reg_max": model.reg_max,
        "decoder.reg_scale": model.reg_scale,
        "decoder.num_points": list(model.points_per_level),
    }
    # Written out only where they differ from the authors' defaults.
    words |= {"backbone.freeze_stem_only": True} if model.freeze_stem else {}
    words |= {"backbone.use_lab": True} if model.use_lab else {}
    words |= {"decoder.dim_feedforward": model.feedforward} if model.feedforward != 1024 else {}
    return words | CONSTANTS


def test_l_coco_by_hand():
    recipe = get_recipe("l_coco")
    assert (recipe.model.backbone, recipe.model.num_decoder_layers, recipe.model.reg_scale) == ("B4", 6, 4.0)
    assert (recipe.train.epochs, recipe.train.stop_epoch) == (80, 72)
    assert (recipe.train.lr, recipe.train.backbone_lr, recipe.train.weight_decay) == (2.5e-4, 1.25e-5, 1.25e-4)
    assert (recipe.data.batch_size, recipe.data.base_size_repeat) == (32, 4)


def test_all_29_published_recipes_are_here_and_nothing_else_but_pico():
    assert len(PUBLISHED) == 29
    assert {name for name in RECIPES if not name.startswith("pico")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_the_published_file_says(name):
    wanted = {k: v for k, v in flattened(GOLDEN[name]).items() if k not in NOT_OF_A_RECIPE | {"param_groups"}}
    assert as_published(get_recipe(name)) == wanted


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_carries_its_own_name_and_no_faithful_switch(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert not recipe.train.faithful
    assert recipe.data.image_size == 640


def published_rate_and_decay(entry: dict, parameter: str) -> tuple[float, float]:
    """What the authors' optimizer gives to a parameter: the first expression that finds it, else the defaults."""
    for group in entry["param_groups"]:
        if re.search(group["params"], parameter):
            return group.get("lr", entry["lr"]), group.get("weight_decay", entry["weight_decay"])
    return entry["lr"], entry["weight_decay"]


# One name of each kind that an expression tells apart; the whole lists, from real models, are tests/train's business.
KINDS = {
    "backbone": "backbone.stages.1.blocks.0.layers.0.conv.weight",
    "backbone_norm": "backbone.stages.1.blocks.0.layers.0.bn.weight",
    "backbone_affine": "backbone.stem.stem1.lab.scale",
    "norm": "encoder.fpn_blocks.0.cv1.norm.weight",
    "norm_bias": "decoder.decoder.layers.0.norm1.bias",
    "bias": "decoder.dec_score_head.0.bias",
    "weight": "decoder.dec_bbox_head.0.layers.0.weight",
}


def rate_and_decay(train: TrainConfig, kind: str) -> tuple[float, float]:
    """What our recipe gives to a parameter of that kind."""
    if kind.startswith("backbone"):
        decayed = train.decay_backbone_norm or kind != "backbone_norm"
        return train.backbone_lr, train.weight_decay if decayed else 0.0
    decayed = kind == "weight" or (kind == "bias" and train.decay_bias)
    return train.lr, train.weight_decay if decayed else 0.0


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_kind_of_parameter_gets_the_published_rate_and_decay(name):
    train = get_recipe(name).train
    for kind, parameter in KINDS.items():
        assert rate_and_decay(train, kind) == published_rate_and_decay(GOLDEN[name], parameter), kind


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_fine_tuned_from_the_shape_that_its_size_names(name):
    size = SIZES[name.split("_")[0]]
    assert replace(get_recipe(name).model, num_classes=size.num_classes) == size


# ---- looking up and changing --------------------------------------------------------------------------------------


def test_a_recipe_passes_through_and_takes_model_overrides():
    recipe = get_recipe("n_coco", num_queries=20)
    assert recipe.model.num_queries == 20
    assert get_recipe(recipe) is recipe


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="n_custom"):
        get_recipe("n_costum")
    with pytest.raises(ValueError, match="num_querys"):
        get_recipe("n_coco", num_querys=20)


def test_parents():
    assert parent_of(get_recipe("l_coco")) is None
    assert parent_of(get_recipe("s_coco")).name == "l_coco"
    assert parent_of(get_recipe("s_obj2custom")).name == "s_coco"
    assert parent_of(get_recipe("pico")).name == "l_coco"


def test_fields_are_replaced_by_their_dotted_names_and_an_unknown_one_is_answered_with_the_nearest():
    recipe = changed(get_recipe("l_coco"), {"train.lr": 1e-3, "data.batch_size": 32})
    assert (recipe.train.lr, recipe.data.batch_size, recipe.data.fit_batch_size) == (1e-3, 32, False)
    assert set(flat(recipe)) == set(flat(get_recipe("l_coco")))
    with pytest.raises(ValueError, match="lr must be positive and finite, got '1e-3'"):
        changed(recipe, {"train.lr": "1e-3"})  # text is read in dfine_tools.runs.settings
    for name in ("train.learning_rate", "lr"):
        with pytest.raises(ValueError, match=r"train\.lr"):
            changed(recipe, {name: 1e-3})


# ---- another batch, size, length ----------------------------------------------------------------------------------


def test_twice_the_batch_by_hand():
    recipe = scaled(get_recipe("l_coco"), batch=64)
    assert recipe.data.batch_size == 64
    assert recipe.train.lr == pytest.approx(5e-4)
    assert recipe.train.backbone_lr == pytest.approx(2.5e-5)
    assert recipe.train.ema_decay == pytest.approx(0.9998)
    assert recipe.train.ema_restart_decay == pytest.approx(0.9998)
    assert recipe.train.ema_ramp == 500
    assert recipe.train.warmup_iterations == 250


@pytest.mark.parametrize("name", PUBLISHED)
def test_scaling_there_and_back_changes_nothing(name):
    recipe = get_recipe(name)
    back = scaled(scaled(recipe, 2 * recipe.data.batch_size), recipe.data.batch_size)
    for field, value in flat(recipe).items():
        assert flat(back)[field] == pytest.approx(value) if isinstance(value, float) else flat(back)[field] == value


def test_a_recipe_without_ramp_warm_up_and_restart_keeps_it_so_when_scaled():
    assert scaled(get_recipe("l_obj2coco"), 8).train.warmup_iterations == 0
    assert scaled(get_recipe("l_obj2coco"), 8).train.ema_ramp == 0
    assert scaled(get_recipe("l_obj365"), 8).train.ema_restart_decay is None


def test_a_huge_batch_leaves_a_decay_that_is_one():
    assert scaled(get_recipe("l_coco"), 32 * 20_000).train.ema_decay == 0.0


def test_image_size_is_one_number():
    recipe = get_recipe("l_coco")
    small = changed(recipe, {"data.image_size": 320})
    assert small.data.image_hw == (320, 320)
    assert changed(small, {"data.image_size": 640}) == recipe
    assert changed(recipe, {"data.image_size": (320, 480)}).data.image_hw == (320, 480)
    with pytest.raises(ValueError, match="multiple of 32"):
        changed(recipe, {"data.image_size": 100})


def test_stage_two_keeps_its_share_of_the_epochs():
    recipe = get_recipe("l_coco")
    assert for_epochs(recipe, 40).train.stop_epoch == 36
    assert for_epochs(recipe, 80) == recipe
    assert for_epochs(recipe, 2).train.stop_epoch == 1
    assert for_epochs(recipe, 1).train.stop_epoch == 0
    assert for_epochs(get_recipe("l_obj365"), 5).train.stop_epoch == 500


def window(decay: float) -> float:
    """Steps that an EMA remembers."""
    return 1 / (1 - decay)


def test_a_long_run_is_left_alone():
    recipe = get_recipe("l_coco")
    assert adapted_to_length(recipe, 500_000) is recipe
    assert adapted_to_length(recipe, 110_000) is recipe


IMAGES = {"coco": 118_287, "obj2coco": 118_287, "obj365": 1_742_289, "ch": 15_000}  # training images, published


@pytest.mark.parametrize("name", [name for name in RECIPES if name.split("_")[-1] in IMAGES])
def test_a_published_run_on_its_own_data_stays_as_published(name):
    recipe = get_recipe(name)
    steps = IMAGES[name.split("_")[-1]] // recipe.data.batch_size * recipe.train.epochs
    assert adapted_to_length(recipe, steps) is recipe


def test_nine_hundred_steps_by_hand():
    train = adapted_to_length(get_recipe("n_custom"), 900).train
    assert train.warmup_iterations == 90
    assert window(train.ema_decay) == pytest.approx(45)  # a twentieth of the run
    assert train.ema_restart_decay is None  # a rewind to the best epoch of stage 1 would undo most of so short a run
    assert train.flat_fraction == 0.5  # flat, then a cosine
    assert train.ema_ramp == 4  # a tenth of the window, as published
    unchanged = get_recipe("n_custom").train
    assert replace(train, **{k: getattr(unchanged, k) for k in CHANGED_BY_LENGTH}) == unchanged


CHANGED_BY_LENGTH = ("warmup_iterations", "ema_decay", "ema_restart_decay", "ema_ramp", "flat_fraction")


@pytest.mark.parametrize("name", ["l_coco", "x_coco", "s_obj2custom", "l_obj365", "pico"])
@pytest.mark.parametrize("steps", [1, 30, 900, 4_000, 20_000, 99_000, 1_000_000])
def test_what_is_adapted_fits_the_run_and_is_never_longer_than_published(name, steps):
    recipe = get_recipe(name)
    train = adapted_to_length(recipe, steps).train
    assert train.warmup_iterations <= max(steps / 10, 1)
    assert train.warmup_iterations <= recipe.train.warmup_iterations
    assert window(train.ema_decay) <= max(0.4 * steps, 10.001)
    assert train.ema_decay <= recipe.train.ema_decay
    assert train.ema_decay >= min(0.9, recipe.train.ema_decay)
    assert train.ema_ramp <= recipe.train.ema_ramp
    assert train.ema_restart_decay in (None, recipe.train.ema_restart_decay)
    assert adapted_to_length(replace(recipe, train=train), steps).train == train  # adapting twice is adapting once


def test_a_small_batch_does_not_escape_by_its_many_steps():
    recipe = scaled(get_recipe("n_custom"), 4)  # an EMA window of 320,000 steps
    assert window(adapted_to_length(recipe, 160_000).train.ema_decay) == pytest.approx(8_000)
    assert adapted_to_length(recipe, 160_000).train.warmup_iterations == 500 * 32
    assert adapted_to_length(recipe, 20_000).train.warmup_iterations == 500


def test_faithful_and_switched_off_recipes_are_left_alone():
    for name in ("faithful", "adapt_to_length"):
        recipe = get_recipe("l_coco")
        recipe = replace(recipe, train=replace(recipe.train, **{name: name == "faithful"}))
        assert adapted_to_length(recipe, 100) is recipe


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1 step"):
        adapted_to_length(get_recipe("l_coco"), 0)


# ---- ranges ----------------------------------------------------------------------------------------------------------

NUMBERS = [
    (config, f.name, kinds & {"int", "float"})
    for config in (ModelConfig, LossConfig, DataConfig, TrainConfig)
    for f in fields(config)
    if (kinds := set(re.findall(r"\w+", f.type))) & {"int", "float"}
]


@pytest.mark.parametrize(("config", "name", "kinds"), NUMBERS, ids=[f"{c.__name__}.{name}" for c, name, _ in NUMBERS])
def test_a_number_out_of_range_is_refused_with_field_and_value(config, name, kinds):
    """Whatever the field: a number below 0 and, where fractions are allowed, one that is none mean nothing."""
    whole, default = -1, getattr(config(), name)
    for bad in [whole, *([math.nan, -0.5] if "float" in kinds else [])]:
        value = (bad, *default[1:]) if isinstance(default, tuple) else bad
        with pytest.raises(ValueError, match=rf"^{name} .*{re.escape(str(bad))}"):
            config(**{name: value})


@pytest.mark.parametrize(
    ("config", "name", "bad"),
    [
        (ModelConfig, "reg_max", 5), (ModelConfig, "reg_max", 2), (ModelConfig, "up", 0.0),
        (ModelConfig, "num_heads", 0), (ModelConfig, "reg_scale", math.inf), (ModelConfig, "label_noise_ratio", 1.5),
        (LossConfig, "temperature", 0.0), (LossConfig, "cost_alpha", 1.01), (DataConfig, "base_size_repeat", 0),
        (DataConfig, "flip", 2.0), (TrainConfig, "betas", (0.9, 1.0)), (TrainConfig, "flat_fraction", 1.5),
        (TrainConfig, "ema_restart_decay", 1.0), (TrainConfig, "final_lr_fraction", 1.1),
        (TrainConfig, "lr", math.inf), (TrainConfig, "lr", 0.0),
    ],
)  # fmt: skip
def test_the_ends_of_the_ranges(config, name, bad):
    with pytest.raises(ValueError, match=f"^{name} .*{re.escape(str(bad))}"):
        config(**{name: bad})
