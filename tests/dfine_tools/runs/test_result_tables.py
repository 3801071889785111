"""Tables of finished runs: what counts beside a published number, and what is left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from workbook import viz

from dfine_lib.recipes import RECIPES
from dfine_tools.published import PUBLISHED_AP
from dfine_tools.runs.results import (
    evaluations,
    finished_runs,
    published_rows,
    result_rows,
)
from dfine_tools.tables import as_markdown

FACTS = Path(__file__).parents[4] / "shared" / "facts" / "published.json"
README = Path(__file__).parents[3] / "README.md"


def result(ap=0.5, recipe="n_coco", val=5000, classes=80, side=640, **more) -> dict:
    return {
        "ap": ap,
        "best_epoch": 1,
        "last": {"ema": {"ap": 0.4}, "raw": {"ap": 0.3}},
        "recipe": {"name": recipe, "data": {"image_size": side}, "train": {"epochs": 3}},
        "images": {"train": 10, "val": val},
        "classes": [str(n) for n in range(classes)],
        "seconds": 90.0,
        "steps": 7,
        "commit": "0123456789",
    } | more


def write(folder: Path, name: str, content) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_finished_runs_are_read_and_what_is_none_is_left_out_with_a_warning(tmp_path, caplog):
    write(tmp_path, "a/metrics.json", result())
    write(tmp_path, "cut/metrics.json", '{"ap": 0.')
    write(tmp_path, "other/metrics.json", {"ap": 0.5})
    write(tmp_path, "unfinished/metrics.jsonl", "")
    with caplog.at_level(logging.WARNING):
        assert list(finished_runs(tmp_path)) == ["a"]
    assert "cut/metrics.json" in caplog.text and "no 'best_epoch' in it" in caplog.text
    assert evaluations(tmp_path) == {}
    with pytest.raises(ValueError, match="no such folder of runs"):
        finished_runs(tmp_path / "none")


def test_files_with_values_of_other_kinds_are_left_out_and_the_rest_is_reported(tmp_path, caplog):
    write(tmp_path, "a/metrics.json", result())
    write(
        tmp_path,
        "a/metrics.jsonl",
        '[]\nnull\n3\n{"step": 1}\n{"kind": "eval", "epoch": 1, "ema": {"ap50": 0.6}}\n{"ki',
    )
    write(tmp_path, "recipe/metrics.json", result(recipe="n_coco") | {"recipe": "n_coco"})
    write(tmp_path, "seconds/metrics.json", result(seconds="90"))
    write(tmp_path, "last/metrics.json", result(last={"ema": 0.4}))
    write(tmp_path, "list/metrics.json", "[1, 2]")
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "metrics.json").write_bytes(bytes(range(256)))
    write(tmp_path, "e/evaluation.json", {"ap": 0.5, "weights": None, "images": 5, "per_class": {}})
    write(tmp_path, "nulls/metrics.json", result(None, seconds=None, commit=None, last=None, saved_weights=None))
    with caplog.at_level(logging.WARNING):
        rows = result_rows(finished_runs(tmp_path))
    assert [(row["run"], row["AP50"]) for row in rows] == [("a", 0.6), ("nulls", None)]
    assert evaluations(tmp_path) == {}
    assert "recipe/metrics.json: 'recipe' cannot be 'n_coco'" in caplog.text
    assert "'seconds' cannot be '90'" in caplog.text and "'last.ema' should be an object" in caplog.text
    published_rows(finished_runs(tmp_path), evaluations(tmp_path))


def test_a_row_holds_the_best_ap_with_its_ap50_and_both_kinds_of_weights_at_the_end(tmp_path):
    write(tmp_path, "a/metrics.json", result())
    rows = [{"kind": "eval", "epoch": e, "ema": {"ap": 0.1 * e, "ap50": 0.2 * e, "ap75": 0.3}} for e in range(3)]
    write(tmp_path, "a/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path, "b/metrics.json", result(0.7, side=[320, 320], saved_weights={"ap50": 0.9, "ap75": 0.8}))
    first, second = result_rows(finished_runs(tmp_path))
    assert [first["run"], second["run"]] == ["b", "a"]  # best first
    assert (first["AP"], first["AP50"], first["AP75"], first["image size"]) == (0.7, 0.9, 0.8, 320)
    assert (second["AP50"], second["last, EMA"], second["last, non-EMA"]) == (0.2, 0.4, 0.3)
    assert (second["minutes"], second["epochs"], second["commit"]) == (2, 3, "0123456")


def test_a_run_whose_evaluation_had_nothing_to_measure_has_no_ap_and_stands_last():
    rows = result_rows({"a": result(-1), "b": result(0.0), "c": result(None)})
    assert [(row["run"], row["AP"]) for row in rows] == [("b", 0.0), ("a", None), ("c", None)]


def test_beside_a_published_number_stands_the_best_run_of_that_recipe_on_all_of_coco():
    runs = {"a": result(0.40), "b": result(0.42), "c": result(0.9, val=100), "d": result(0.9, side=320)}
    runs |= {"e": result(0.9, classes=3), "f": result(0.5, recipe="n_custom")}
    rows = {row["recipe"]: row for row in published_rows(runs)}
    assert rows["n_coco"]["trained here"] == pytest.approx(42.0)
    assert rows["n_coco"]["difference"] == pytest.approx(-0.8)
    assert all(row["trained here"] is None for name, row in rows.items() if name != "n_coco")
    assert list(rows) == list(PUBLISHED_AP)


def test_published_weights_scored_here_are_known_by_their_name_and_by_the_images():
    coco = {"ap": 0.57, "images": 5000, "per_class": dict.fromkeys(map(str, range(80)), 0.5), "input": "640 x 640 (…)"}
    evaluated = {
        "one": coco | {"weights": "weights/dfine_l_obj2coco_e25.pth"},
        "two": coco | {"weights": "dfine_s_coco", "images": 50},
        "three": coco | {"weights": "dfine_m_coco", "input": "320 x 320 (…)"},
    }
    rows = {row["recipe"]: row["published weights, scored here"] for row in published_rows({}, evaluated)}
    assert {name: ap for name, ap in rows.items() if ap is not None} == {"l_obj2coco": pytest.approx(57.0)}


def test_the_published_numbers_are_those_of_known_recipes_and_of_the_readme():
    assert set(PUBLISHED_AP) <= set(RECIPES)
    text = README.read_text(encoding="utf-8")
    for name in ("n_coco", "s_coco", "m_coco", "l_coco", "x_coco"):
        assert f"| `{name}` | {PUBLISHED_AP[name]:.1f} |" in text


@pytest.mark.skipif(not FACTS.exists(), reason="shared/facts/published.json is not here")
def test_the_published_numbers_are_those_of_the_facts():
    rows = json.loads(FACTS.read_text())["rows"]
    facts = {f"{size}_{schedule}": ap for size, schedule, ap, *_ in rows if schedule != "obj365"}
    assert facts == PUBLISHED_AP


def test_a_markdown_table_escapes_bars_and_writes_a_dash_for_none():
    assert as_markdown([{"a": "x|y", "b": None}, {"a": 1, "b": 0.25}]) == (
        "| a    |     b |\n|:-----|------:|\n| x\\|y |     – |\n| 1    | 0.250 |"
    )
    assert as_markdown([]) == ""


def test_the_figure_draws_what_was_run_and_tells_the_rest_as_not_run():
    picture = viz.published_beside_ours(published_rows({"a": result(0.42)}))
    published, _, ours = picture.axes[0].lines
    assert list(published.get_ydata()) == list(PUBLISHED_AP.values()) and list(ours.get_ydata()) == [42.0]
    assert "n_coco: 42.8, trained here 42.0" in picture.alt_text and "x_coco: 55.8, not run here" in picture.alt_text
