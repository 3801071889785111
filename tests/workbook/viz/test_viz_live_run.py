"""A run drawn from its folder, whatever is in it so far."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workbook import viz


def train_row(step: int, wait: float = 0.25) -> dict:
    return {
        "kind": "train", "step": step, "total": 40, "epoch": step // 20, "loss": 30.0 - step / 4, "seconds": 5.0,
        "seconds_per_step": 0.5, "data_wait_share": wait,
    }  # fmt: skip


def eval_row(epoch: int, ema: float | None, raw: float) -> dict:
    return {"kind": "eval", "step": 20 * epoch + 19, "epoch": epoch, "ema": {"ap": ema}, "raw": {"ap": raw}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run of 40 steps, stopped after 30 and one evaluation."""
    run = tmp_path / "secret_place" / "run"
    run.mkdir(parents=True)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    (run / "run.json").write_text(json.dumps({"recipe": {"name": "pico", "train": {"epochs": 2}}}))
    rows = [{"kind": "session", "step": 0}, train_row(9), train_row(19), eval_row(0, 0.25, 0.5), train_row(29)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {
        "file": str(tmp_path / "a.png"), "image_id": 7, "size_wh": [64, 48],
        "truth": {"labels": [0], "boxes_xyxy": [[4, 4, 30, 30]]},
        "detections": {"labels": [0, 1], "boxes_xyxy": [[5, 4, 30, 29], [0, 0, 9, 9]], "scores": [0.9, 0.1]},
    }  # fmt: skip
    samples = {"step": 19, "epoch": 0, "category_names": ["dot", "bar"], "images": [sample]}
    (run / "samples.json").write_text(json.dumps(samples))
    return run


def line(figure: viz.Figure, title: str, label: str) -> list[list[float]]:
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left") == title)
    return next(each for each in axes.lines if each.get_label() == label).get_xydata().tolist()


def test_an_unfinished_run_is_drawn_as_far_as_it_has_come(folder):
    figure = viz.live_run(folder)
    assert line(figure, "training loss", "as logged") == [[10, 27.75], [20, 25.25], [30, 22.75]]
    assert line(figure, "AP on the validation set", "EMA") == [[1, 0.25]]
    assert line(figure, "AP on the validation set", "non-EMA") == [[1, 0.5]]
    for words in ("pico: step 30 of 40, epoch 2, 00:05 left", "25 % of the time", "1 there, 1 found", "0.25 EMA"):
        assert words in figure.alt_text
    assert "secret_place" not in figure.alt_text
    assert figure.png().startswith(b"\x89PNG")


def test_detections_below_the_score_are_left_out(folder):
    assert "1 there, 2 found" in viz.live_run(folder, score=0.05).alt_text
    assert "1 there, 0 found" in viz.live_run(folder, score=0.95).alt_text


def test_an_empty_folder_and_a_missing_one_say_that_they_wait(tmp_path):
    for folder in (tmp_path, tmp_path / "not_made_yet"):
        figure = viz.live_run(folder)
        assert "waiting for a run to begin" in figure.alt_text and "no AP yet" in figure.alt_text
        assert figure.png().startswith(b"\x89PNG")
    assert not (tmp_path / "not_made_yet").exists()


def test_a_run_that_has_begun_but_taken_no_step_says_so(folder):
    (folder / "metrics.jsonl").unlink()
    (folder / "samples.json").unlink()
    words = viz.live_run(folder).alt_text
    assert "pico: waiting for the first steps" in words and "come with the first evaluation" in words


@pytest.mark.parametrize("length", [1, 40, -1])
def test_a_last_line_that_was_cut_off_is_left_out(folder, length):
    whole = viz.live_run(folder).alt_text
    with open(folder / "metrics.jsonl", "a") as rows:
        rows.write(json.dumps(train_row(39))[:length])
    assert viz.live_run(folder).alt_text == whole


def test_a_finished_run_says_so_and_marks_where_it_went_on(folder):
    with open(folder / "metrics.jsonl", "a") as rows:
        for row in ({"kind": "session", "step": 20}, train_row(39), eval_row(1, None, 0.6)):
            rows.write(json.dumps(row) + "\n")
    (folder / "metrics.json").write_text("{}")
    figure = viz.live_run(folder)
    assert "pico: finished after 40 steps" in figure.alt_text and "AP after epoch 2: 0.25 EMA" in figure.alt_text
    assert line(figure, "training loss", "resumed") == [[20, 0], [20, 1]]


def test_pictures_and_samples_that_are_gone_or_damaged_do_not_stop_the_drawing(folder):
    (folder.parents[1] / "a.png").unlink()
    assert "1 there, 1 found" in viz.live_run(folder).alt_text
    (folder / "samples.json").write_text('{"step": 1')
    assert "no sample detections yet" in viz.live_run(folder).alt_text


def test_waiting_is_weighted_by_time_not_by_rows(folder):
    rows = [train_row(9, wait=1.0) | {"seconds": 1.0}, train_row(19, wait=0.0) | {"seconds": 9.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "10 % of the time" in viz.live_run(folder).alt_text


def test_parts_of_a_loss_are_lines_with_their_names(tmp_path):
    figure = viz.loss_by_kind([9, 19], {"fgl": [6.5, 5.0], "vfl": [17.0, 8.0]})
    drawn = [each.get_xydata().tolist() for each in figure.axes[0].lines]
    assert drawn == [[[9, 6.5], [19, 5.0]], [[9, 17.0], [19, 8.0]]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["fgl", "vfl"]
    assert "fgl 6.50 to 5.00, vfl 17.00 to 8.00" in figure.alt_text and figure.png()
    with pytest.raises(ValueError, match="vfl: 1 values for 2 steps"):
        viz.loss_by_kind([9, 19], {"vfl": [17.0]})
