"""A small data folder and recipe; one thread, so that runs are the same bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import SMALL, write_folder

from dfine_lib.config import Recipe
from dfine_lib.recipes import changed, get_recipe


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("set"))


@pytest.fixture
def small_recipe() -> Recipe:
    return changed(get_recipe("pico"), SMALL)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
