"""Any source of weights: what is found, under which names, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from published import filled
from safetensors.torch import save_file

from dfine_lib import DFINE
from dfine_lib.config import SIZES, DataConfig
from dfine_lib.model.weights import Weights, WeightsError
from dfine_tools.weights.huggingface import to_huggingface
from dfine_tools.weights.sources import read

NAMES = ("cat", "dog", "owl")


def tiny(num_classes: int = 3, **changes: int) -> DFINE:
    return DFINE(replace(SIZES["pico"], num_classes=num_classes, **changes))


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


def noted(file: Path, model: DFINE, **about: object) -> Weights:
    """Read back what was written with these notes."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, file, {"dfine": json.dumps({"model": asdict(model.config)} | about)})
    return read(file)


def test_a_row_without_a_name_is_left_out_where_the_file_is_read(tmp_path):
    model = filled(tiny(), 1)
    weights = noted(tmp_path / "w.safetensors", model, category_names=["cat", "", "owl"], category_ids=[4, 90])
    assert (weights.category_names, weights.category_ids, weights.model.num_classes) == (("cat", "owl"), (4, 90), 2)
    opened, source = DFINE.from_pretrained(tmp_path / "w.safetensors").state_dict(), model.state_dict()
    for key, value in opened.items():
        rows = [0, 2] if "enc_score_head" in key or "dec_score_head" in key else slice(None)
        rows = [0, 2, 3] if "denoising_class_embed" in key else rows  # the last is for padding
        assert torch.equal(value, source[key][rows] if source[key].ndim else source[key])
    whole = read(tmp_path / "w.safetensors", unnamed_rows=True)
    assert whole.category_names == ("cat", "", "owl") and whole.num_classes == 3


def test_names_of_another_number_and_placeholders_name_nothing(tmp_path, caplog):
    model = tiny()
    assert (
        noted(tmp_path / "a.safetensors", model, category_names=[f"LABEL_{i}" for i in range(3)]).category_names == ()
    )
    assert not caplog.records
    assert noted(tmp_path / "b.safetensors", model, category_names=["cat", "dog"]).category_names == ()
    assert "has 3 class rows and 2 class names, so the names are not used" in caplog.records[0].getMessage()


def test_the_state_of_a_run_of_ours_is_of_the_model_and_classes_that_run_json_names(tmp_path):
    model, data = tiny(encoder_dim=32, hidden_dim=32), DataConfig(image_size=(96, 160), batch_size=2)
    file, about = tmp_path / "last.pt", tmp_path / "run.json"
    state = {
        "model": tiny(encoder_dim=32, hidden_dim=32).state_dict(),
        "ema": model.state_dict(),
        "progress": {"epoch": 1},
    }
    torch.save(state, file)
    assert read(file).model is None  # alone it is of a size that shapes do not tell
    recipe = {"name": "mine", "model": asdict(model.config), "data": asdict(data)}
    about.write_text(json.dumps({"recipe": recipe, "classes": list(NAMES)}))
    weights = read(file)
    assert (weights.model, weights.data, weights.category_names) == (model.config, data, NAMES)
    opened, source = DFINE.from_pretrained(file).state_dict(), model.state_dict()
    assert all(torch.equal(opened[key], value) for key, value in source.items())
    for broken in ('{"recipe": ', '{"recipe": {"model": {"depth": 3}}}', "[]"):
        about.write_text(broken)
        assert read(file).model is None
    torch.save({"model": model.state_dict()}, file)  # of the authors, by chance in such a folder
    about.write_text(json.dumps({"recipe": recipe, "classes": list(NAMES)}))
    assert read(file).category_names == ()
