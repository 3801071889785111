"""Settings as people write them: read as Python reads them, of the type of their field, or refused by name."""

from __future__ import annotations

import re

import pytest

from dfine_lib.recipes import flat, get_recipe
from dfine_tools.runs.settings import with_settings


def test_settings_are_read_as_python_reads_them_and_keep_the_type_of_their_field():
    recipe = with_settings(
        get_recipe("l_coco"),
        {
            "train.lr": "1e-3",
            "train.epochs": "3",
            "train.ema_restart_decay": "none",
            "train.faithful": "true",
            "data.image_size": "320,480",
            "data.base_size_repeat": "none",
            "model.points_per_level": [4, 4, 4],
            "model.backbone": "B0",
            "loss.ddf": 0,
        },
    )
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.ema_restart_decay) == (1e-3, 3, None)
    assert recipe.train.faithful is True
    assert (recipe.data.image_size, recipe.data.base_size_repeat) == ((320, 480), None)
    assert (recipe.model.points_per_level, recipe.model.backbone) == ((4, 4, 4), "B0")
    assert isinstance(recipe.loss.ddf, float)
    assert set(flat(recipe)) == set(flat(get_recipe("l_coco")))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("train.learning_rate", "1", "train.lr"),
        ("lr", "1", "train.lr"),
        ("train.epochs", "many", "train.epochs must be int"),
        ("train.epochs", "2.5", "train.epochs must be int"),
        ("train.faithful", "1", "train.faithful must be bool"),
        ("data.image_size", "1,2,3", "data.image_size must be int | tuple"),
        ("train.epochs", "0", "epochs must be at least 1"),
        ("data.image_size", "100", "multiple of 32"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(setting, value, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        with_settings(get_recipe("l_coco"), {setting: value})
