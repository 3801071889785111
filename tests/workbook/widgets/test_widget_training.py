"""Watching a run: from its folder, until it ends, with the last state kept."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ipywidgets")
from workbook import widgets
from workbook.widgets import training

PROGRAM = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
for step in (9, 19):
    time.sleep(0.15)
    row = {"kind": "train", "step": step, "total": 20, "epoch": 0, "loss": 30.0 - step, "seconds_per_step": 0.1,
           "seconds": 1.0, "data_wait_share": 0.0}
    with open(run / "metrics.jsonl", "a") as rows:
        rows.write(json.dumps(row) + "\\n")
if sys.argv[2] == "ends":
    (run / "metrics.json").write_text("{}")
sys.exit(0 if sys.argv[2] == "ends" else 3)
"""


def write_row(run: Path, step: int) -> None:
    row = {"kind": "train", "step": step, "total": 30, "epoch": 0, "loss": 9.0, "data_wait_share": 0.0, "seconds": 1.0}
    with open(run / "metrics.jsonl", "a") as rows:
        rows.write(json.dumps(row) + "\n")


@pytest.fixture
def shown(monkeypatch) -> list:
    """What was displayed, and then what the display was updated with."""
    seen = []

    class Handle:
        def update(self, watch) -> None:
            seen.append((watch, watch.figure.alt_text))

    monkeypatch.setattr(
        training, "display", lambda watch, display_id: seen.append((watch, watch.figure.alt_text)) or Handle()
    )
    return seen


def test_refresh_draws_what_was_added(tmp_path):
    write_row(tmp_path, 9)
    watch = widgets.watch_training(tmp_path)
    before = watch.image.value
    assert 'class="dfine-figure"' in before and "step 10 of 30" in before
    write_row(tmp_path, 19)
    watch.button.click()
    assert "step 20 of 30" in watch.image.value


def test_it_is_drawn_again_only_where_the_folder_has_changed(tmp_path, monkeypatch):
    write_row(tmp_path, 9)
    watch, drawn = widgets.RunWatch(tmp_path), []
    whole = training.viz.live_run
    monkeypatch.setattr(training.viz, "live_run", lambda folder: drawn.append(1) or whole(folder))
    assert not watch.refresh_if_changed() and drawn == []
    write_row(tmp_path, 19)
    assert watch.refresh_if_changed() and drawn == [1]


def test_without_a_kernel_it_is_its_last_picture_with_words(tmp_path):
    write_row(tmp_path, 9)
    watch = widgets.RunWatch(tmp_path)
    bundle = watch._repr_mimebundle_()
    assert bundle["text/plain"] == watch.figure.alt_text and str(tmp_path) not in bundle["text/plain"]
    assert base64.b64decode(bundle["image/png"]) == watch.figure.png()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_cell_that_waits_keeps_the_last_state(tmp_path, shown):
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), "ends"]) as process:
        assert widgets.watch_training(tmp_path, every=0.05, until=process) is None
    (first, before), (last, after) = shown
    assert first is last and "waiting for a run" in before and "finished after 20 steps" in after
    assert last.message.value == ""


def test_a_process_that_fails_ends_the_watching_and_is_told(tmp_path, shown):
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), "fails"]) as process:
        widgets.watch_training(tmp_path, every=0.05, until=process)
    watch, words = shown[-1]
    assert "step 20 of 20" in words and "exit code 3" in watch.message.value


def test_a_function_says_when_to_stop(tmp_path, shown):
    answers = iter([False, False, True, True, True])
    widgets.watch_training(tmp_path, every=0.01, until=lambda: next(answers))
    assert len(shown) == 2


def test_a_finished_run_is_shown_and_not_waited_for(tmp_path, shown):
    write_row(tmp_path, 29)
    (tmp_path / "metrics.json").write_text("{}")
    widgets.watch_training(tmp_path, until=lambda: pytest.fail("asked"))
    assert "finished" in shown[-1][1]
    assert "finished" in widgets.watch_training(tmp_path).figure.alt_text


def test_between_cells_it_follows_the_run_until_it_is_finished(tmp_path):
    async def kernel() -> training.RunWatch:
        watch = widgets.watch_training(tmp_path, every=0.01)
        write_row(tmp_path, 29)
        (tmp_path / "metrics.json").write_text("{}")
        await asyncio.wait_for(watch._task, 20)
        return watch

    assert "finished after 30 steps" in asyncio.run(kernel()).figure.alt_text


def test_a_closed_widget_follows_no_more(tmp_path):
    async def kernel() -> bool:
        watch = widgets.watch_training(tmp_path, every=60)
        watch.close()
        with pytest.raises(asyncio.CancelledError):
            await watch._task
        return True

    assert asyncio.run(kernel())


def test_what_cannot_be_drawn_is_told_and_the_last_picture_stays(tmp_path):
    write_row(tmp_path, 9)
    watch = widgets.RunWatch(tmp_path)
    before = watch.image.value
    (tmp_path / "samples.json").write_text('{"images": [{}], "epoch": 0}')
    watch.refresh()
    assert watch.image.value == before and "KeyError" in watch.message.value


def test_looks_that_are_no_time_apart_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every"):
        widgets.watch_training(tmp_path, every=0)
