"""Weights in another form hold the same numbers."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from published import filled
from safetensors.torch import load_file, save_file

from dfine_lib import DFINE
from dfine_lib.config import SIZES, DataConfig
from dfine_lib.model.weights import WeightsError, load_weights, save_weights
from dfine_tools.cli import main
from dfine_tools.weights.categories import OBJECTS365
from dfine_tools.weights.conversion import convert_weights, describe_weights
from dfine_tools.weights.huggingface import save_huggingface
from dfine_tools.weights.sources import read

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def model() -> DFINE:
    return filled(DFINE(replace(SIZES["pico"], num_classes=3)), 1)


@pytest.fixture
def ours(model, tmp_path):
    data = DataConfig(image_size=160)
    return save_weights(tmp_path / "a.safetensors", model, data=data, category_names=NAMES, category_ids=(4, 9, 90))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("form", ["b.safetensors", "b.pth", "folder"])
def test_every_form_opens_as_the_same_model(ours, model, tmp_path, form):
    out = convert_weights(ours, tmp_path / "new" / form)
    opened = DFINE.from_pretrained(out)
    assert same(opened.state_dict(), model.state_dict()) and opened.config == model.config
    if form != "b.pth":
        assert read(out).category_names == NAMES
    if form == "b.safetensors":
        assert read(convert_weights(ours, tmp_path / "c.safetensors", names="xyz")).category_ids == (4, 9, 90)


def test_the_authors_form_has_the_anchors_of_the_input_size(ours, tmp_path):
    state = torch.load(convert_weights(ours, tmp_path / "b.pth"), weights_only=True)["model"]
    assert state["decoder.anchors"].shape == (1, 20 * 20 + 10 * 10 + 5 * 5, 4)
    assert state["decoder.valid_mask"].shape == (1, 525, 1)


def test_a_training_checkpoint_becomes_its_averaged_weights(model, tmp_path):
    raw = filled(DFINE(model.config), 2).state_dict()
    content = {"model": raw, "ema": {"module": model.state_dict()}, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "checkpoint0007.pth")
    out = convert_weights(tmp_path / "checkpoint0007.pth", tmp_path / "b.safetensors", names=NAMES, half=True)
    assert out.stat().st_size < 0.3 * (tmp_path / "checkpoint0007.pth").stat().st_size
    stored = read(out)
    assert stored.category_names == NAMES and stored.category_ids == (), "ids that nobody knows are not made up"
    with pytest.raises(WeightsError, match="3 classes, but 2 names"):
        convert_weights(tmp_path / "checkpoint0007.pth", tmp_path / "c.safetensors", names=("cat", "dog"))


def test_a_model_of_unknown_shape_asks_for_its_recipe(tmp_path):
    torch.save({"model": DFINE(replace(SIZES["pico"], hidden_dim=32, encoder_dim=32)).state_dict()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no recipe was given"):
        convert_weights(tmp_path / "a.pth", tmp_path / "b.safetensors")


def test_the_command_tells_and_converts(ours, tmp_path, capsys):
    assert main(["weights", str(ours)]) == 0
    told = capsys.readouterr().out
    assert "pico" in told and "cat, dog, owl" in told and "160" in told
    assert main(["weights", str(ours), "--to", str(tmp_path / "theirs")]) == 0
    assert (tmp_path / "theirs" / "config.json").exists()
    assert main(["weights", str(tmp_path / "theirs"), "--to", str(tmp_path / "b.pth"), "--image-size", "320"]) == 0
    assert describe_weights(tmp_path / "b.pth")["model"] == "pico"


def test_the_command_explains_what_it_cannot_do(tmp_path, capsys, monkeypatch):
    assert main(["weights", str(tmp_path / "nothing.pth")]) == 2
    assert "no such weights file" in capsys.readouterr().err
    monkeypatch.setenv("DFINE_HOME", str(tmp_path))
    monkeypatch.setenv("DFINE_MIRROR", "http://127.0.0.1:9")
    assert main(["weights", "dfine_x_coco"]) == 2
    assert "DFINE_HOME" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"uniform_bins": True}, {"quality_head": False}])
def test_what_only_this_library_builds_is_kept_in_its_own_form_alone(tmp_path, change):
    model = filled(DFINE(replace(SIZES["pico"], num_classes=3, **change)), 1)
    about = {"data": DataConfig(image_size=160), "category_names": NAMES, "category_ids": (1, 2, 3)}
    ours = save_weights(tmp_path / "a.safetensors", model, **about)
    (setting,) = (f"{name}={value}" for name, value in change.items())
    for form in ("b.pth", "folder"):
        with pytest.raises(WeightsError, match=f"{setting}.*Only ours can hold it: .*safetensors"):
            convert_weights(ours, tmp_path / form)
        assert not (tmp_path / form).exists()
    with pytest.raises(ValueError, match=f"cannot build a model with {setting}"):
        save_huggingface(tmp_path / "folder", model, data=DataConfig())
    assert not (tmp_path / "folder").exists()
    assert DFINE.from_pretrained(convert_weights(ours, tmp_path / "c.safetensors")).config == model.config


ROWS = ("person", "bicycle", "Sneakers")


@pytest.fixture(scope="module")
def of_objects365() -> DFINE:
    """366 rows; the bias of each is its number."""
    model = filled(DFINE(replace(SIZES["n"], num_classes=366)), 4)
    with torch.no_grad():
        model.decoder.enc_score_head.bias.copy_(torch.arange(366.0))
    return model


def bias_of_three(file) -> list[float]:
    coco = DFINE(replace(SIZES["n"], num_classes=3))
    taken = load_weights(coco, read(file), ROWS)["rows"]
    assert taken == {"person": "Person", "bicycle": "Bicycle", "Sneakers": "Sneakers"}
    return coco.decoder.enc_score_head.bias.tolist()


def test_a_model_of_objects365_trained_here_takes_the_published_order_of_rows(of_objects365, tmp_path):
    """The row that stands for no class is the first of published files, was the last of ours, and is left out now."""
    names, ids = OBJECTS365, tuple(range(1, 366))
    older = save_weights(
        tmp_path / "o.safetensors", of_objects365, data=DataConfig(), category_names=(*names, ""), category_ids=()
    )
    content = load_file(older)
    about = {"model": asdict(of_objects365.config), "category_names": names, "category_ids": ids}
    save_file(content, older, {"dfine": json.dumps(about)})  # as earlier versions wrote it
    expected = [float(names.index(name)) for name in ("Person", "Bicycle", "Sneakers")]
    ours = convert_weights(older, tmp_path / "ours.safetensors", half=True)
    assert read(ours, unnamed_rows=True).num_classes == 365 and read(ours).category_ids == ids
    for source in (older, ours):
        for form in ("o.pth", "folder", "half.safetensors"):
            out = convert_weights(source, tmp_path / source.stem / form, half=form.startswith("half"))
            assert bias_of_three(out) == expected
        published = torch.load(tmp_path / source.stem / "o.pth", weights_only=True)["model"]
        first = 365.0 if source == older else -10.0
        assert published["decoder.enc_score_head.bias"].tolist() == [first, *range(365)]
        embedding, own = (state["decoder.denoising_class_embed.weight"] for state in (published, content))
        assert len(embedding) == 367
        if source == older:
            assert torch.equal(embedding[1:366], own[:365])
            assert torch.equal(embedding[366], own[366])  # padding stays at the end


def test_published_weights_of_objects365_keep_all_rows_in_the_published_forms_and_the_named_in_ours(
    of_objects365, tmp_path
):
    source = tmp_path / "dfine_n_obj365.pth"
    torch.save({"model": of_objects365.state_dict()}, source)
    expected = [float(OBJECTS365.index(name) + 1) for name in ("Person", "Bicycle", "Sneakers")]
    for form in ("b.pth", "folder", "c.safetensors"):
        out = convert_weights(source, tmp_path / form)
        assert bias_of_three(out) == expected
        state = read(out, unnamed_rows=True).state_dict
        rows = 365 if form.endswith("safetensors") else 366
        assert torch.equal(state["decoder.enc_score_head.bias"], torch.arange(366.0)[-rows:])
        assert read(out).num_classes == 365
    about = describe_weights(source)
    assert (about["classes"], about["rows of no class"]) == (365, 1)


def test_coco_weights_keep_the_ids_of_coco(tmp_path):
    torch.save({"model": DFINE(SIZES["n"]).state_dict()}, tmp_path / "dfine_n_coco.pth")
    ids = read(convert_weights(tmp_path / "dfine_n_coco.pth", tmp_path / "c.safetensors")).category_ids
    assert (ids[10], ids[11], ids[-1], len(ids)) == (11, 13, 90, 80)  # 12 is of no class


def test_names_come_from_a_file_and_a_row_with_an_empty_one_is_left_out(model, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    listed = tmp_path / "names.txt"
    listed.write_text("\ufeff\ncat, small\nowl\n", encoding="utf-8")
    for names in (str(listed), ",cat; small,owl"):
        command = ["weights", str(tmp_path / "a.pth"), "--to", str(tmp_path / "b.safetensors"), "--names", names]
        assert main(command) == 0
        named = read(tmp_path / "b.safetensors")
        assert named.category_names == (("cat, small" if names == str(listed) else "cat; small"), "owl")
        assert torch.equal(named.state_dict["decoder.enc_score_head.bias"], model.decoder.enc_score_head.bias[1:])
        assert DFINE.from_pretrained(tmp_path / "b.safetensors").config.num_classes == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("cat,dog", "3 classes, but 2 names"),
        ("cat,cat,dog", "'cat' is there twice"),
        (",,", "3 classes, but 3 names"),
        ("nowhere.txt", r"nowhere\.txt: no such file"),
    ],
)
def test_names_of_another_number_twice_or_none_are_refused(ours, tmp_path, capsys, names, words):
    assert main(["weights", str(ours), "--to", str(tmp_path / "b.safetensors"), "--names", names]) == 2
    assert re.search(words, capsys.readouterr().err) and not (tmp_path / "b.safetensors").exists()
