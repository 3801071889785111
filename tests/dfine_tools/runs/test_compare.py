"""Runs beside each other: our rows, the authors' log, what was cut off, and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfine_tools.runs.compare import (
    CompareError,
    comparison,
    differences,
    read_run,
    read_runs,
    summaries,
)
from dfine_tools.tables import as_text

ROOT = Path(__file__).parents[3]
TWELVE = [0.3, 0.5, 0.35, 0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.3, 0.5, 0.7]


def our_run(folder: Path, aps=(0.1, 0.3, 0.2), lr=1e-3, seed=0, finished=False) -> Path:
    """A run's folder: two training rows and an evaluation an epoch."""
    folder.mkdir(parents=True)
    rows = [{"kind": "session", "step": 0}]
    for epoch, ap in enumerate(aps):
        rows += [{"kind": "train", "step": 0, "epoch": epoch, "loss": value} for value in (10 - epoch, 8 - epoch)]
        ema = {"ap": ap, "ap50": None if ap is None else 2 * ap, "ap75": ap}
        rows.append({"kind": "eval", "step": 0, "epoch": epoch, "ema": ema, "raw": {"ap": 0.9}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"recipe": {"name": "pico", "train": {"lr": lr}, "data": {"image_size": 64}}, "seed": seed}
    (folder / ("metrics.json" if finished else "run.json")).write_text(json.dumps(about))
    return folder


def log(file: Path, *lines) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return file


def their_row(epoch: int, ap: float, **more) -> dict:
    return {
        "train_lr": 4e-4,
        "train_loss": 30.0 - epoch,
        "test_coco_eval_bbox": [ap, *TWELVE[1:]],
        "epoch": epoch,
    } | more


def test_our_rows_give_the_averaged_weights_ap_and_the_mean_loss_of_each_epoch_from_1(tmp_path):
    run = read_run(our_run(tmp_path / "mine"))
    assert run.name == "mine" and run.unreadable == 0
    assert run.ap == {1: 0.1, 2: 0.3, 3: 0.2} and run.ap50 == {1: 0.2, 2: 0.6, 3: 0.4}
    assert run.loss == {1: 9.0, 2: 8.0, 3: 7.0}
    assert run.best == (2, 0.3) and run.last == (3, 0.2)
    assert run.settings == {"recipe": "pico", "train.lr": 1e-3, "data.image_size": 64, "seed": 0}


def test_the_authors_log_gives_ap_and_loss_by_epoch_from_1_and_no_settings(tmp_path):
    run = read_run(log(tmp_path / "dfine_l" / "log.txt", their_row(0, 0.31), their_row(1, 0.41)))
    assert run.name == "dfine_l" and run.settings is None
    assert run.ap == {1: 0.31, 2: 0.41} and run.ap50 == {1: 0.5, 2: 0.5} and run.ap75[2] == 0.35
    assert run.loss == {1: 30.0, 2: 29.0}
    assert read_run(tmp_path / "dfine_l").ap == run.ap


def test_lines_cut_off_are_passed_over_and_counted_and_of_a_repeated_epoch_the_last_counts(tmp_path):
    cut = json.dumps(their_row(1, 0.4))[:60] + "\n"
    lines = [their_row(0, 0.3), cut, "\n", "[1, 2]\n", {"epoch": "x"}, their_row(1, 0.42), their_row(1, 0.45)]
    run = read_run(log(tmp_path / "log.txt", *lines, '{"train_loss": 2'))
    assert run.ap == {1: 0.3, 2: 0.45}
    assert run.unreadable == 4


def test_a_byte_order_mark_costs_no_epoch_and_nested_nonsense_is_a_line_that_is_none(tmp_path):
    file = log(tmp_path / "log.txt", their_row(0, 0.3), "[" * 100_000 + "\n", their_row(1, 0.4))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    run = read_run(file)
    assert run.ap == {1: 0.3, 2: 0.4} and run.unreadable == 1


def test_what_was_not_measured_is_absent(tmp_path):
    rows = [their_row(0, -1), {"epoch": 1, "train_loss": float("nan")}, {"epoch": 2, "test_coco_eval_bbox": [0.2]}]
    run = read_run(log(tmp_path / "log.txt", *rows))
    assert run.ap == {3: 0.2} and run.ap50 == {1: 0.5} and run.loss == {1: 30.0}
    nothing = read_run(our_run(tmp_path / "fresh", aps=(None,)))
    assert nothing.best is None and nothing.last is None
    assert summaries([nothing])[0]["best AP"] is None and comparison([nothing]) == []


def test_the_table_has_a_row_an_epoch_and_a_column_a_run(tmp_path):
    runs = read_runs([our_run(tmp_path / "a"), log(tmp_path / "b" / "log.txt", their_row(0, 0.31))])
    assert comparison(runs) == [
        {"epoch": 1, "a": 0.1, "b": 0.31},
        {"epoch": 2, "a": 0.3, "b": None},
        {"epoch": 3, "a": 0.2, "b": None},
    ]
    expected = {"run": "a", "best AP": 0.3, "epoch": 2, "AP50": 0.6, "AP75": 0.3, "last AP": 0.2}
    assert summaries(runs)[0] == expected | {"last epoch": 3, "last loss": 7.0}


def test_a_long_table_is_thinned_out_but_keeps_the_best_and_the_last_epoch(tmp_path):
    file = log(tmp_path / "log.txt", *[their_row(e, 0.9 if e == 77 else 0.001 * e) for e in range(132)])
    epochs = [row["epoch"] for row in comparison([read_run(file)], most=20)]
    assert 20 <= len(epochs) <= 21 and 78 in epochs and epochs[0] == 1 and epochs[-1] == 132


def test_only_what_differs_between_our_runs_is_listed(tmp_path):
    paths = [our_run(tmp_path / "a"), our_run(tmp_path / "b", lr=2e-3, finished=True), tmp_path / "t" / "log.txt"]
    log(paths[2], their_row(0, 0.3))
    assert differences(read_runs(paths)) == [{"setting": "train.lr", "a": 1e-3, "b": 2e-3}]
    assert differences(read_runs([our_run(tmp_path / "c", seed=1), paths[0]])) == [{"setting": "seed", "c": 1, "a": 0}]
    assert differences(read_runs([paths[2]])) == []


def test_runs_of_one_name_are_told_apart_by_their_folders_and_the_same_run_by_number(tmp_path):
    one, two = our_run(tmp_path / "x" / "run"), our_run(tmp_path / "y" / "run")
    assert [run.name for run in read_runs([one, two])] == ["x/run", "y/run"]
    assert [run.name[-3:] for run in read_runs([one, one])] == ["(1)", "(2)"]


def test_a_recorded_run_of_the_repository_is_read_with_its_settings():
    run = read_run(ROOT / "results" / "pico_digits.jsonl")
    recorded = json.loads((ROOT / "results" / "pico_digits.json").read_text())
    assert run.name == "pico_digits" and run.best == (recorded["best_epoch"] + 1, pytest.approx(recorded["ap"]))
    assert run.settings["train.lr"] == recorded["recipe"]["train"]["lr"] and run.settings["seed"] == recorded["seed"]


def test_what_is_no_run_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CompareError, match=r"neither metrics\.jsonl nor log\.txt"):
        read_run(tmp_path)
    with pytest.raises(CompareError, match="no such file"):
        read_run(tmp_path / "none.txt")
    with pytest.raises(CompareError, match="2 of 3 lines are no JSON objects"):
        read_run(log(tmp_path / "some.txt", "hello\n", "world\n", {"a": 1}))
    with pytest.raises(CompareError, match="0 of 0 lines"):
        read_run(log(tmp_path / "empty.txt"))


def test_text_tables_align_numbers_to_the_right_and_write_a_dash_for_none():
    rows = [{"run": "a", "AP": 0.5, "epoch": 10}, {"run": "bcd", "AP": None, "epoch": 2}]
    assert as_text(rows) == "run       AP    epoch\na      0.500       10\nbcd        -        2"
    assert as_text([]) == ""
