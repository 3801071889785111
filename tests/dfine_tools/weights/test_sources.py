"""Any source of weights: what is found, under which names, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.model.weights import WeightsError
from dfine_tools.weights.huggingface import to_huggingface
from dfine_tools.weights.sources import read


def tiny(num_classes: int = 3) -> DFINE:
    return DFINE(replace(SIZES["pico"], num_classes=num_classes))


def test_366_rows_of_another_file_name_are_said_to_be_taken_for_objects365(tmp_path, caplog):
    state = tiny(num_classes=366).state_dict()
    for name, times in (("dfine_s_obj365.pth", 0), ("best.pth", 1)):
        torch.save({"model": state}, tmp_path / name)
        assert read(tmp_path / name).category_names[0] == "Person"
        assert sum("taken for Objects365" in record.getMessage() for record in caplog.records) == times


def test_a_file_of_another_checksum_is_refused(tmp_path):
    file = tmp_path / "a.pth"
    torch.save(tiny().state_dict(), file)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read(file, sha256=right).path == file
    with pytest.raises(WeightsError, match=rf"a\.pth: its sha256 checksum is {right}, not 0000"):
        read(file, sha256="0" * 64)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth: no such weights file"):
        read(tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match=r"a folder without model\.safetensors\. Give a weights file"):
        read(tmp_path)
    (tmp_path / "best.pth").touch()
    with pytest.raises(WeightsError, match=r"It holds .*best\.pth: give one of them"):
        read(tmp_path)
    with pytest.raises(WeightsError, match="a published name such as dfine_n_coco"):
        read("dfine_n_cocoo")


def test_a_file_of_hugging_faces_is_read_under_our_names_without_its_configuration_too(tmp_path):
    state = tiny().state_dict()
    save_file({k: v.clone() for k, v in to_huggingface(state).items()}, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        weights = read(source)
        assert weights.model is None and weights.state_dict.keys() == state.keys()
