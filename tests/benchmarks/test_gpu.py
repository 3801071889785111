"""The checks for a GPU: the dry mode runs them all, survives what goes wrong, and cannot be recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import table
from benchmarks.gpu.check import Check, Row, Setting, Skipped
from benchmarks.gpu.numerics import Computed, detection_differences, nearest_queries
from benchmarks.gpu.pack import CHECKS, REAL, Refused, results_file, run_pack
from benchmarks.gpu.page import as_table
from benchmarks.gpu.runs import beside_one_card
from dfine_lib.evaluate.postprocess import Detections

ROOT = Path(__file__).parents[2]
STATUSES = {"pass", "fail", "measured", "skipped"}


def dry(folder: Path) -> Setting:
    return Setting(dry=True, folder=folder / "files")


def statuses(results: dict, name: str) -> list[str]:
    return [row["status"] for row in results["checks"][name]["rows"]]


def start(out: Path) -> subprocess.Popen:
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry", "--minutes", "60", "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "AUTHORS"}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=out.parent, env=environment, stdout=subprocess.PIPE, text=True)


def test_the_dry_mode_runs_every_check_and_continues_where_it_was_stopped(tmp_path):
    pytest.importorskip("onnxscript", reason="engine_pico exports")
    out = tmp_path / "dry.json"
    stopped = start(out)
    while stopped.poll() is None and not out.exists():
        time.sleep(0.1)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate()
    assert stopped.returncode == 130
    first = json.loads(out.read_text(encoding="utf-8"))["checks"]
    assert 0 < len(first) < len(CHECKS)

    page = start(out).communicate()[0]
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["dry"] and list(results["checks"]) == [check.name for check in CHECKS]
    assert {name: results["checks"][name] for name in first} == first
    for name in results["checks"]:
        assert statuses(results, name) and set(statuses(results, name)) <= STATUSES, results["checks"][name]
        assert f"\n| {name} | " in page
    assert "Dry mode on a CPU" in page.strip().splitlines()[-1]
    assert set(statuses(results, "parity")) == {"pass"}  # the CPU beside itself
    skipped = {name for name in results["checks"] if "skipped" in statuses(results, name)}
    assert skipped == {"engine_n", "engine_l", "compiled_l", "two_cards"}


def good(setting):
    yield Row(what="a number", value=2.0, at_most=3.0)


def raises(setting):
    yield Row(what="before", value=1.0)
    raise ValueError("no good")


def hangs(setting):
    yield Row(what="before", value=1.0)
    subprocess.run(["sleep", "1000"])


def dies(setting):
    os._exit(3)
    yield


def lacks(setting):
    raise Skipped("one card")
    yield


def test_a_check_that_raises_hangs_or_dies_is_a_row_and_the_next_one_runs(tmp_path):
    checks = [Check(work.__name__, work) for work in (raises, dies, lacks, good)]
    checks.insert(1, Check("hangs", hangs, seconds=0.2))
    lines: list[str] = []
    results = run_pack(dry(tmp_path), tmp_path / "r.json", checks=checks, show=lines.append)
    assert results["checks"] == json.loads((tmp_path / "r.json").read_text())["checks"]
    assert statuses(results, "raises") == ["measured", "error"]
    assert results["checks"]["raises"]["rows"][1]["text"] == "ValueError: no good"
    assert statuses(results, "hangs") == ["measured", "timeout"]
    assert statuses(results, "dies") == ["error"] and "exit code 3" in results["checks"]["dies"]["rows"][0]["text"]
    assert statuses(results, "lacks") == ["skipped"]
    assert statuses(results, "good") == ["pass"]
    assert [line.split(":")[0] for line in lines] == [check.name for check in checks]


def test_results_of_another_card_or_commit_are_not_continued(tmp_path):
    file, checks = tmp_path / "r.json", [Check("good", good), Check("lacks", lacks)]
    run_pack(dry(tmp_path), file, checks=checks, only=["good"])
    found = json.loads(file.read_text())
    assert list(found["checks"]) == ["good"]
    found["checks"]["good"]["rows"][0]["value"] = 1.5
    file.write_text(json.dumps(found))
    assert run_pack(dry(tmp_path), file, checks=checks)["checks"]["good"] == found["checks"]["good"]
    for key in ("card", "commit", "torch", "driver"):
        file.write_text(json.dumps(found | {key: "another"}))
        results = run_pack(dry(tmp_path), file, checks=checks)
        assert results["checks"]["good"]["rows"][0]["value"] == 2.0 and list(results["checks"]) == ["good", "lacks"]


def test_a_named_check_runs_again_and_what_has_no_time_is_left_for_the_next_call(tmp_path):
    file, checks = tmp_path / "r.json", [Check("good", good), Check("lacks", lacks)]
    lines: list[str] = []
    assert run_pack(dry(tmp_path), file, checks=checks, seconds=-1, show=lines.append)["checks"] == {}
    assert lines == ["good: out of time; the same command continues here"]
    first = run_pack(dry(tmp_path), file, checks=checks)
    first["checks"]["good"]["rows"] = []
    file.write_text(json.dumps(first))
    again = run_pack(dry(tmp_path), file, checks=checks, only=["good"])
    assert statuses(again, "good") == ["pass"] and again["checks"]["lacks"] == first["checks"]["lacks"]
    with pytest.raises(Refused, match="no such check: bad"):
        run_pack(dry(tmp_path), file, checks=checks, only=["bad"])


def test_results_of_the_dry_mode_cannot_be_recorded(tmp_path):
    assert not results_file(dry=True).is_relative_to(REAL.parent) and results_file(dry=False) == REAL
    with pytest.raises(Refused, match="not recorded"):
        run_pack(dry(tmp_path), REAL, checks=[Check("good", good)])
    results = run_pack(dry(tmp_path), tmp_path / "gpu.json", checks=[Check("good", good)])
    assert results["dry"]
    with pytest.raises(ValueError, match="dry mode"):
        table.gpu_table(tmp_path)
    if REAL.exists():
        assert not json.loads(REAL.read_text(encoding="utf-8"))["dry"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_only_the_dry_mode_runs(tmp_path):
    with pytest.raises(Refused, match="--dry"):
        run_pack(Setting(dry=False, folder=tmp_path), tmp_path / "r.json", checks=[Check("good", good)])
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Row(what="x", value=1.0), "measured"),
        (Row(what="x", value=1.0, at_most=1.0), "pass"),
        (Row(what="x", value=1.1, at_most=1.0), "fail"),
        (Row(what="x", value=0.9, at_least=1.0), "fail"),
        (Row(what="x", value=float("nan"), at_most=1.0), "fail"),
        (Row(what="x", value=None, at_most=1.0), "fail"),
        (Row(what="x", ended="timeout"), "timeout"),
    ],
)
def test_a_status_follows_from_value_and_limits(row, status):
    assert row.status == row.to_dict()["status"] == status


def test_the_page_says_what_was_not_run(tmp_path):
    assert table.gpu_table(tmp_path) == as_table(None) and "Not run" in as_table(None)
    row = Row(what="training step", case="n | 640 px", value=0.75, at_most=0.8, text="a and b").to_dict()
    results = {
        "dry": False, "order": ["steps_n", "two_cards"], "commit": "0123456789+",
        "card": "H", "memory_gb": 80, "compute_capability": "9.0", "cards": 1, "driver": "580", "torch": "2.14",
        "checks": {"steps_n": {"date": "2026-01-02T00:00:00", "command": "benchmarks/gpu.sh", "rows": [row]}},
    }  # fmt: skip
    page = as_table(results)
    assert "| steps_n | training step | n \\| 640 px | 0.75: a and b | at most 0.8 | pass |" in page
    assert "| two_cards |  |  |  |  | **not run** |" in page
    assert "H (80 GB" in page and "`0123456+`, `benchmarks/gpu.sh`" in page and page.endswith("2026-01-02.")
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    assert table.gpu_table(tmp_path) == page and table.table(tmp_path) == "Nothing has been measured yet."


def test_the_page_of_speed_has_the_table_of_the_results():
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == table.filled(page)


def test_queries_are_compared_whatever_their_order():
    draw = torch.Generator().manual_seed(0)
    logits, boxes = torch.rand(2, 50, 3, generator=draw), 100 * torch.rand(2, 50, 4, generator=draw)
    one = Computed(logits, boxes, [], {}, torch.zeros(1))
    order = torch.randperm(50, generator=draw)
    other = replace(one, logits=logits[:, order] + 0.01, boxes=boxes[:, order])
    assert nearest_queries(other, one) == (pytest.approx(0.01, abs=1e-6), 0.0)


def test_detections_are_compared_with_those_of_their_label():
    def found(*scores: float, shift: float = 0.0) -> list[Detections]:
        boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 80, 80]])[: len(scores)] + shift
        return [Detections(torch.arange(len(scores)), boxes, torch.tensor(scores))]

    scores, pixels, number = detection_differences(found(0.8, 0.6, shift=0.5), found(0.9, 0.6))
    assert (scores, pixels, number) == (pytest.approx(0.1), 0.5, 2)
    assert detection_differences(found(0.8), found(0.8, 0.6))[0] == float("inf")
    assert detection_differences(found(0.8), found(0.8, 0.1)) == (0.0, 0.0, 1)


def test_two_cards_are_compared_step_by_step():
    rows = list(beside_one_card({9: 10.0, 19: 8.0}, {9: 10.1, 19: 10.4}))
    assert [row.value for row in rows] == [pytest.approx(0.01), pytest.approx(0.155)]
    assert [row.status for row in rows] == ["pass", "fail"]
    assert [row.status for row in beside_one_card({9: 1.0}, {19: 1.0})] == ["error"]
