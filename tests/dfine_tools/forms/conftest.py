from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_runs import SMALL

from dfine_lib.config import Recipe
from dfine_lib.recipes import changed, get_recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "golden"))  # fill and published: weights that do something


@pytest.fixture
def small_recipe() -> Recipe:
    return changed(get_recipe("pico"), SMALL)
