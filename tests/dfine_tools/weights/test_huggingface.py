"""Hugging Face's port and ours: the same entries, the same configuration, the same boxes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from dfine_lib import DFINE
from dfine_lib.config import SIZES, DataConfig
from dfine_lib.model.weights import WeightsError, load_weights
from dfine_tools.weights.huggingface import (
    from_huggingface,
    huggingface_config,
    is_huggingface,
    model_config,
    save_huggingface,
    to_huggingface,
)
from dfine_tools.weights.sources import read

NAMES = ("cat", "dog", "owl")


def model_of(size: str, seed: int = 0) -> DFINE:
    """A model whose maps keep their size and differ from place to place, so that no near-tie decides on the queries."""
    torch.manual_seed(seed)
    config = replace(SIZES[size], num_classes=3)
    fresh = DFINE(replace(config, freeze_norm=False, freeze_stem=False, num_denoising=0)).train()
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    fresh(torch.rand(2, 3, 320, 320))
    for head in (fresh.decoder.dec_bbox_head, fresh.decoder.pre_bbox_head, fresh.decoder.enc_score_head):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    model = DFINE(config)
    state = {k: v for k, v in fresh.state_dict().items() if k in model.state_dict()}
    assert not model.load_state_dict(state, strict=False).missing_keys
    return model.eval()


def test_names_go_there_and_back_without_loss():
    for size in SIZES:
        state = DFINE(replace(SIZES[size], num_classes=3)).state_dict()
        theirs = to_huggingface(state)
        assert is_huggingface(theirs) and not is_huggingface(state)
        back = from_huggingface(theirs)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state), size


def test_configurations_go_there_and_back():
    for size, model in SIZES.items():
        config = huggingface_config(replace(model, num_classes=3), NAMES)
        assert model_config(json.loads(json.dumps(config))) == replace(model, num_classes=3), size


@pytest.mark.parametrize(("key", "value"), [("model_type", "rt_detr"), ("encoder_layers", 2), ("layer_scale", 0.5)])
def test_another_model_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        model_config(huggingface_config(SIZES["n"], ()) | {key: value})


@pytest.mark.parametrize("size", ["n", "s", "l"])
def test_their_library_finds_the_same_boxes_with_our_file(size, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = model_of(size)
    folder = save_huggingface(tmp_path / "theirs", model, data=DataConfig(image_size=320), names=NAMES)
    theirs, report = transformers.DFineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.id2label == dict(enumerate(NAMES))
    images = torch.rand(2, 3, 320, 320)
    # In double precision: on random weights a rounding of float32 grows through the backbone by a factor of 100.
    with torch.no_grad():
        ours, found = model.double()(images.double()), theirs.double().eval()(images.double())
    assert_close(found.pred_boxes, ours.pred_boxes, rtol=0, atol=1e-4)
    assert_close(found.logits, ours.pred_logits, rtol=0, atol=1e-3)


def test_our_library_opens_their_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DFineConfig.from_dict(huggingface_config(replace(SIZES["n"], num_classes=3), NAMES))
    theirs = transformers.DFineForObjectDetection(config)
    theirs.save_pretrained(tmp_path)
    ours = DFINE.from_pretrained(tmp_path)
    assert ours.config == replace(SIZES["n"], num_classes=3)
    assert read(tmp_path).category_names == NAMES
    back = from_huggingface(load_file(tmp_path / "model.safetensors"))
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


def test_frozen_norms_of_theirs_fill_trained_ones_of_ours(tmp_path):
    frozen = DFINE(replace(SIZES["n"], num_classes=3, freeze_norm=True, freeze_stem=True))
    save_huggingface(tmp_path, frozen, data=DataConfig(), names=NAMES)
    model = DFINE(replace(SIZES["n"], num_classes=3))
    assert load_weights(model, read(tmp_path), NAMES) == {}
    assert torch.equal(model.backbone.stem.stem1.bn.running_var, frozen.backbone.stem.stem1.bn.running_var)


def test_classes_are_carried_over_by_name(tmp_path):
    source = model_of("n")
    save_huggingface(tmp_path, source, data=DataConfig(), names=NAMES)
    model = DFINE(replace(SIZES["n"], num_classes=2))
    rows = load_weights(model, read(tmp_path), ("owl", "fox"))["rows"]
    assert rows == {"owl": "owl", "fox": None}
    assert torch.equal(model.decoder.enc_score_head.weight[0], source.decoder.enc_score_head.weight[2])


def test_a_configuration_of_another_model_is_told_with_its_file(tmp_path):
    save_huggingface(tmp_path, DFINE(SIZES["pico"]), data=DataConfig())
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    with pytest.raises(WeightsError, match=r"config\.json.*'detr'"):
        read(tmp_path)


def test_a_file_with_a_part_missing_is_told(tmp_path):
    state = to_huggingface(DFINE(SIZES["pico"]).state_dict())
    del state["model.decoder.layers.0.self_attn.k_proj.weight"]
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="k_proj"):
        read(tmp_path)
