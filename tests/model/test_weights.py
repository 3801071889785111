"""Weights in and out of files: what is kept, what is carried over, and what is refused without harm."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import filled
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from dfine_lib import DFINE, files
from dfine_lib.config import SIZES, DataConfig
from dfine_lib.files import write_atomically
from dfine_lib.model.weights import Weights, WeightsError, load_weights, read_weights, save_weights
from dfine_tools.cli.remedies import RemedyFormatter, with_remedy

TINY = replace(SIZES["pico"], encoder_dim=32, encoder_feedforward=64, hidden_dim=32, feedforward=64, num_queries=12)
DATA = DataConfig(image_size=(96, 160), batch_size=2)
NAMES = ("cat", "dog", "owl")
CLASS_ENTRIES = ("enc_score_head.", "dec_score_head.")


def tiny(num_classes: int = 3, seed: int = 1, **changes: object) -> DFINE:
    return filled(DFINE(replace(TINY, num_classes=num_classes, **changes)), seed)


@pytest.fixture(scope="module")
def model() -> DFINE:
    return tiny()


@pytest.fixture
def saved(model, tmp_path) -> Path:
    return save_weights(tmp_path / "w.safetensors", model, data=DATA, category_names=NAMES, category_ids=(4, 9, 90))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def files_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ---- ablations -------------------------------------------------------------------------------------------------------


def test_a_model_without_quality_heads_over_uniform_bins_comes_back_as_it_was(tmp_path):
    model = tiny(uniform_bins=True, quality_head=False).eval()
    path = save_weights(tmp_path / "w.safetensors", model, data=DATA, category_names=NAMES, category_ids=(4, 9, 90))
    other, images = DFINE.from_pretrained(path), torch.rand(1, 3, 64, 64)
    assert (other.config.uniform_bins, other.config.quality_head) == (True, False)
    assert torch.equal(other.decoder.bin_offsets, model.decoder.bin_offsets)
    with torch.no_grad():
        assert torch.equal(other(images).pred_boxes, model(images).pred_boxes)


def test_weights_of_other_bins_or_with_other_heads_are_refused_with_the_way_out(saved):
    with pytest.raises(WeightsError, match=r"uniform_bins=False, for one ") as error:
        load_weights(tiny(uniform_bins=True), read_weights(saved))
    assert "Set model.uniform_bins=false" in with_remedy(error.value)
    with pytest.raises(WeightsError, match=r"decoder\.decoder\.lqe_layers\.\S+: \[.*\], expected none"):
        load_weights(tiny(quality_head=False), read_weights(saved))


# ---- round trip ------------------------------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit(model, saved):
    assert same(read_weights(saved).state_dict, model.state_dict())
    other = tiny(seed=2)
    assert load_weights(other, read_weights(saved), NAMES) == {}
    assert same(other.state_dict(), model.state_dict())


def test_what_the_model_is_and_what_it_was_trained_on_comes_back(model, saved):
    weights = read_weights(saved)
    assert weights.model == model.config
    assert weights.data == DATA
    assert weights.category_names == NAMES
    assert weights.category_ids == (4, 9, 90)
    assert load_weights(DFINE(weights.model), weights) == {}  # enough to build it again


def test_half_precision_halves_the_file_and_keeps_three_digits(model, saved, tmp_path):
    small = save_weights(
        tmp_path / "half.safetensors", model, data=DATA, category_names=NAMES, category_ids=(4, 9, 90), half=True
    )
    assert small.stat().st_size < 0.6 * saved.stat().st_size
    assert load_file(small)["backbone.stem.stem1.conv.weight"].dtype == torch.float16
    state = read_weights(small).state_dict
    for key, value in model.state_dict().items():
        assert state[key].dtype == value.dtype  # float32 again; counters stay integers
        assert_close(state[key], value, rtol=1e-3, atol=1e-6)


def test_shared_parameters_are_stored_and_stay_shared(saved):
    other = tiny(seed=2)
    load_weights(other, read_weights(saved))
    assert other.decoder.decoder.up is other.decoder.up


def test_saving_leaves_nothing_else_behind(saved):
    assert files_in(saved.parent) == ["w.safetensors"]


def test_a_model_in_training_is_saved_without_its_graph(tmp_path):
    model = tiny()
    model(torch.rand(2, 3, 64, 64)).pred_logits.sum().backward()
    path = save_weights(tmp_path / "w.safetensors", model, data=DATA, category_names=NAMES, category_ids=(1, 2, 3))
    assert same(read_weights(path).state_dict, model.state_dict())


def test_a_safetensors_file_of_others_is_read_without_our_notes(model, tmp_path):
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "bare.safetensors")
    weights = read_weights(tmp_path / "bare.safetensors")
    assert same(weights.state_dict, model.state_dict())
    assert (weights.model, weights.data, weights.category_names) == (None, None, ())


# ---- the authors' checkpoints ----------------------------------------------------------------------------------------


def test_the_averaged_weights_of_an_authors_checkpoint_are_taken(model, tmp_path):
    raw = tiny(seed=3).state_dict()
    content = {"model": raw, "ema": {"module": model.state_dict(), "updates": 1000}, "date": "today", "last_epoch": 3}
    torch.save(content, tmp_path / "dfine.pth")
    assert same(read_weights(tmp_path / "dfine.pth").state_dict, model.state_dict())
    del content["ema"]
    torch.save(content, tmp_path / "raw.pth")
    assert same(read_weights(tmp_path / "raw.pth").state_dict, raw)


def test_a_bare_state_dict_and_one_of_a_wrapped_model_are_taken(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "wrapped.pth")
    for name in ("bare.pth", "wrapped.pth"):
        assert same(read_weights(tmp_path / name).state_dict, model.state_dict())


def test_derived_entries_of_published_files_do_not_matter(model, tmp_path):
    extra = {"decoder.anchors": torch.zeros(1, 8400, 4), "decoder.valid_mask": torch.ones(1, 8400, 1)}
    torch.save({"ema": {"module": {**model.state_dict(), **extra}}}, tmp_path / "dfine.pth")
    other = tiny(seed=2)
    assert load_weights(other, read_weights(tmp_path / "dfine.pth")) == {}
    assert same(other.state_dict(), model.state_dict())


# ---- other classes ---------------------------------------------------------------------------------------------------


def test_rows_of_known_classes_are_carried_over_by_name(model, saved):
    target = ("owl", "fish", "cat", "bee")
    other = tiny(num_classes=4, seed=2)
    fresh = {key: value.clone() for key, value in other.state_dict().items()}
    report = load_weights(other, read_weights(saved), target)
    assert report == {"rows": {"owl": "owl", "fish": None, "cat": "cat", "bee": None}}
    source, now = model.state_dict(), other.state_dict()
    heads = [key for key in now if any(entry in key for entry in CLASS_ENTRIES)]
    assert len(heads) == 2 * (1 + 3)  # weight and bias of the encoder's and three layers' heads
    for key in heads:
        for row, source_row in enumerate([2, None, 0, None]):
            expected = fresh[key][row] if source_row is None else source[key][source_row]
            assert torch.equal(now[key][row], expected)
    embedding = "decoder.denoising_class_embed.weight"
    assert torch.equal(now[embedding], fresh[embedding])
    for key in now.keys() - {*heads, embedding}:
        assert torch.equal(now[key], source[key])


def test_the_same_classes_in_another_order_change_places(model, saved):
    other = tiny(seed=2)
    report = load_weights(other, read_weights(saved), ("owl", "dog", "cat"))
    assert report == {"rows": {"owl": "owl", "dog": "dog", "cat": "cat"}}
    bias = "decoder.enc_score_head.bias"
    assert torch.equal(other.state_dict()[bias], model.state_dict()[bias].flip(0))


def unnamed(saved: Path) -> Weights:
    return replace(read_weights(saved), category_names=(), category_ids=())


@pytest.mark.parametrize("number", [2, 4, 7])
def test_another_number_of_unnamed_classes_starts_fresh_and_says_so_with_both_numbers(model, saved, number, caplog):
    other, names = tiny(num_classes=number, seed=2), tuple("abcdefg")[:number]
    fresh = {key: value.clone() for key, value in other.state_dict().items()}
    assert load_weights(other, unnamed(saved), names) == {"rows": dict.fromkeys(names)}
    now = other.state_dict()
    assert torch.equal(now["decoder.enc_score_head.weight"], fresh["decoder.enc_score_head.weight"])
    assert torch.equal(now["backbone.stem.stem1.conv.weight"], model.state_dict()["backbone.stem.stem1.conv.weight"])
    told = [RemedyFormatter().format(record) for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and f"3 class rows for {number} classes, so none is carried over" in told[0]
    assert "dfine weights" in told[0] and "--names" in told[0]


def test_as_many_unnamed_classes_are_taken_in_their_order_which_is_logged_once_and_returned(model, saved, caplog):
    other = tiny(seed=2)
    assert load_weights(other, unnamed(saved), ("owl", "dog", "cat")) == {"rows": {"owl": 0, "dog": 1, "cat": 2}}
    assert same(other.state_dict(), model.state_dict())
    (told,) = (record.getMessage() for record in caplog.records)
    assert "its 3 class rows are taken in their order, row 0 for 'owl'" in told and str(saved) in told


def test_unnamed_rows_can_be_told_by_their_numbers(model, saved):
    other = tiny(num_classes=2, seed=2)
    assert load_weights(other, unnamed(saved), ("owl", "1"), {"owl": "2"}) == {"rows": {"owl": 2, "1": None}}
    bias = "decoder.enc_score_head.bias"
    assert other.state_dict()[bias][0] == model.state_dict()[bias][2]
    with pytest.raises(WeightsError, match="the file has no class names, and no row '3'; it has 0, 1, 2"):
        load_weights(tiny(num_classes=2), unnamed(saved), ("owl", "dog"), {"owl": "3"})


def test_a_model_of_another_number_of_classes_without_names_is_refused_and_stays_as_it_was(saved):
    other = tiny(num_classes=4, seed=2)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match="3 class rows, for a model with 4 whose classes are not named"):
        load_weights(other, read_weights(saved))
    assert same(other.state_dict(), before)


def test_a_name_that_two_rows_have_is_refused_with_the_way_out(saved):
    weights = replace(read_weights(saved), category_names=("cat", "cat", "owl"))
    assert load_weights(tiny(num_classes=1), weights, ("owl",)) == {"rows": {"owl": "owl"}}
    with pytest.raises(WeightsError, match="more than one class row is named 'cat'") as error:
        load_weights(tiny(num_classes=2), weights, ("owl", "cat"))
    assert "--names" in with_remedy(error.value)


def test_saving_refuses_names_of_another_number_than_there_are_class_rows(model, tmp_path):
    with pytest.raises(ValueError, match="2 class names and 0 category ids, for 3 classes"):
        save_weights(tmp_path / "w.safetensors", model, data=DATA, category_names=("a", "b"), category_ids=())
    assert files_in(tmp_path) == []


def test_loading_changes_neither_the_file_nor_what_was_read(model, saved):
    weights, content = read_weights(saved), saved.read_bytes()
    load_weights(tiny(num_classes=4, seed=2), weights, ("owl", "fish", "cat", "bee"))
    assert same(weights.state_dict, model.state_dict())
    assert saved.read_bytes() == content


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_another_width_is_refused_naming_entries_and_both_shapes(saved):
    wider = tiny(encoder_dim=64, hidden_dim=64)
    with pytest.raises(
        WeightsError, match=r"w\.safetensors.*another model\. \d+ entries .*: \[32, .*\], expected \[64, "
    ):
        load_weights(wider, read_weights(saved))


def test_another_depth_is_refused_naming_what_is_missing_and_what_is_too_much(saved):
    deeper, flatter = tiny(num_decoder_layers=4), tiny(num_decoder_layers=2)
    with pytest.raises(
        WeightsError, match=r"\d+ entries differ, .*decoder\.decoder\.layers\.3\.\S+: missing, expected"
    ):
        load_weights(deeper, read_weights(saved))
    with pytest.raises(WeightsError, match=r"decoder\.dec_bbox_head\.2\.\S+: \[.*\], expected none"):
        load_weights(flatter, read_weights(saved))


def test_a_model_that_refused_weights_is_as_it_was(saved):
    other = tiny(num_decoder_layers=4, seed=2)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError):
        load_weights(other, read_weights(saved))
    assert same(other.state_dict(), before)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(WeightsError, match=f"{path.name}: no such weights file"):
            read_weights(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_a_truncated_file_is_refused_as_damaged(model, saved, name, share):
    path = saved.parent / name
    if path.suffix == ".pth":
        torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=name == "w.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=f"{name}: damaged") as caught:
        read_weights(path)
    assert caught.value.__cause__ is not None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_a_file_with_wrong_bytes_in_its_head_is_read_or_refused_and_never_fails_otherwise(tmp_path, name):
    path, state = tmp_path / name, {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}
    if path.suffix == ".pth":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=name == "w.pth")
    else:
        save_file(state, path, {"dfine": "{}"})
    content, dice, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 3, 20])):
            damaged[dice.randrange(min(len(content), 400))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except WeightsError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "content", [b"<html>Not found</html>" * 50, b"version https://git-lfs.github.com/spec/v1\noid"]
)
def test_something_else_under_that_name_is_refused_as_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: damaged or not a"):
        read_weights(tmp_path / name)


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_refused_and_runs_none(model, tmp_path):
    canary = tmp_path / "sings"
    torch.save({"model": model.state_dict(), "extra": Canary(canary)}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth: holds more than tensors.*could run code") as caught:
        read_weights(tmp_path / "evil.pth")
    assert not canary.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice to open it all the same
    assert "Do it only" not in str(caught.value)
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the canary is alive
    assert canary.exists()


def test_of_code_that_torch_blocks_by_name_the_message_names_it_and_gives_no_advice(model, tmp_path):
    class Shell:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'sings'}",))

    torch.save({"model": model.state_dict(), "extra": Shell()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model": Shell()}))
    for name in ("evil.pth", "old.pth"):
        with warnings.catch_warnings(record=True) as warned, pytest.raises(WeightsError, match="could run") as caught:
            read_weights(tmp_path / name)
        assert not warned
        assert not any(word in str(caught.value) for word in ("weights_only", "Re-running", "trusted", "issue"))
        assert name == "old.pth" or "system" in str(caught.value)
    assert not (tmp_path / "sings").exists()


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"epoch": 3}, [1, 2], {"model": {"weight": 3}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: no state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("about", [{"model": {"unheard_of": 1}}, {"model": {"num_queries": 0}}, [], {"model": 3}])
def test_notes_of_another_version_are_refused_as_such(model, tmp_path, about):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {"dfine": json.dumps(about)})
    with pytest.raises(WeightsError, match=r"w\.safetensors: written by another version"):
        read_weights(tmp_path / "w.safetensors")


# ---- a full disk -----------------------------------------------------------------------------------------------------


class FullDisk:
    """An open file that takes half of what it is given."""

    def __init__(self, *args: object) -> None:
        self.file = open(*args)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(params=["write", "fsync", "replace"])
def full_disk(request, monkeypatch) -> None:
    """The disk is full from now on; seen while writing, flushing or renaming."""

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if request.param == "write":
        monkeypatch.setattr(files, "open", FullDisk, raising=False)
    else:
        monkeypatch.setattr(files.os, request.param, no_space)


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(saved, full_disk):
    before = saved.read_bytes()
    with pytest.raises(OSError, match=r"w\.safetensors could not be written \(No space left") as caught:
        save_weights(saved, tiny(seed=2), data=DATA, category_names=NAMES, category_ids=(1, 2, 3))
    assert caught.value.errno == errno.ENOSPC
    assert saved.read_bytes() == before
    assert files_in(saved.parent) == ["w.safetensors"]


def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path, full_disk):
    with pytest.raises(OSError, match="could not be written"):
        write_atomically(tmp_path / "new.bin", b"0123456789")
    assert files_in(tmp_path) == []


def test_a_folder_that_is_not_there_or_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in ("nowhere", "file"):
        with pytest.raises(OSError, match=f"{folder}/w.bin could not be written"):
            write_atomically(tmp_path / folder / "w.bin", b"0")


def test_an_old_file_is_replaced_as_a_whole(tmp_path):
    write_atomically(tmp_path / "w.bin", b"a longer old content")
    write_atomically(tmp_path / "w.bin", b"new")
    assert (tmp_path / "w.bin").read_bytes() == b"new"
    assert files_in(tmp_path) == ["w.bin"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    """A rename would put a file in its place: `--out /dev/null`, as root, took the device from the whole machine."""
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join(10)
    assert found == [b"content"] and pipe.is_fifo()
