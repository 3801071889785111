"""Whole programs on the device: the tests marked gpu, what `make run` trains, two cards beside one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks.gpu.check import Row, Setting, Skipped
from benchmarks.gpu.numerics import WEIGHTS
from benchmarks.ratio import ROOT
from data_tools.digits import make_digits
from dfine_lib.train.run_folder import read_rows
from dfine_tools import cli

RECORDED = ROOT / "results" / "pico_digits.json"  # the run of a CPU
AP = 0.01  # that a run may differ from it
FIRST_LOSS, CURVE = 0.02, 0.1  # relative differences of the total loss, two cards beside one


def marked_tests(setting: Setting) -> Iterator[Row]:
    """Every test marked gpu. In the dry mode all are skipped, since there is no GPU."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text(encoding="utf-8")]
    report = setting.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:nbval", "-p", "no:cacheprovider"]
    engine = setting.folder / "n_fp16.engine"
    environment = os.environ | ({"DFINE_ENGINE": str(engine)} if engine.exists() else {})
    subprocess.run([*command, f"--junitxml={report}", *map(str, sorted(files))], cwd=ROOT, env=environment)
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    results = {f"{each.get('classname')}.{each.get('name')}": _result(each) for each in cases}
    counts = Counter(result for result, _ in results.values())
    words = [f"{name.rpartition('.')[2]} {result}: {why}" for name, (result, why) in results.items() if why]
    text = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
    yield Row(
        what="tests marked gpu that fail", value=counts["failed"], at_most=0 if cases else -1, case="pytest -m gpu",
        text="; ".join([text or "no test was found", *words]), details={"tests": results},
    )  # fmt: skip


def _result(test: ElementTree.Element) -> tuple[str, str]:
    """passed, failed or skipped, and why."""
    for child in test:
        if child.tag in ("failure", "error", "skipped"):
            why = (child.get("message") or "").strip().splitlines() or [""]
            return "skipped" if child.tag == "skipped" else "failed", why[0][:120]
    return "passed", ""


def make_run(setting: Setting) -> Iterator[Row]:
    """What `make run` trains: the teaching checkpoint, fine-tuned on the embedded digits. Its AP beside the CPU's."""
    data = _digits(setting)
    result = _trained(setting, data, "pico_digits", ["--epochs", "1"] if setting.dry else [])
    shutil.rmtree(setting.folder / "pico_digits")  # a finished run is not trained again
    expected = result["ap"] if setting.dry else json.loads(RECORDED.read_text(encoding="utf-8"))["ap"]
    precision = result.get("numerics", {}).get("precision", "")
    yield Row(
        what="AP, difference from the recorded run of a CPU", case=f"pico_digits, {result['steps']} steps, {precision}",
        value=abs(result["ap"] - expected), at_most=AP, text=f"{result['ap']:.4f}, CPU {expected:.4f}",
        details={key: result.get(key) for key in ("ap", "seconds", "skipped_steps", "overflowed_steps", "numerics")},
    )  # fmt: skip
    yield Row(
        what="training, without set-up", case="pico_digits", value=result["seconds"], unit="s",
        text=f"{result['images_per_second']:.0f} images/s" if result.get("images_per_second") else "",
    )  # fmt: skip


def two_cards(setting: Setting) -> Iterator[Row]:
    """An epoch with `--nproc 2` beside the same on one card, without denoising, whose draws differ by process."""
    if torch.cuda.device_count() < 2:
        raise Skipped("one card")
    data = _digits(setting)
    options = ["--epochs", "1", "--set", "model.num_denoising=0", "--precision", "fp32"]
    curves = []
    for number in (1, 2):
        _trained(setting, data, f"nproc_{number}", [*options, "--nproc", str(number)])
        curves.append(loss_curve(setting.folder / f"nproc_{number}"))
        shutil.rmtree(setting.folder / f"nproc_{number}")
    yield from beside_one_card(*curves)


def loss_curve(run: Path) -> dict[int, float]:
    """Total loss of each logged step of a run."""
    return {row["step"]: row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"}


def beside_one_card(one: dict[int, float], two: dict[int, float]) -> Iterator[Row]:
    """Differences of the losses of two cards from those of one, by step."""
    if not one or one.keys() != two.keys():
        yield Row(what="two cards", ended="error", text=f"logged steps differ: {sorted(one)} and {sorted(two)}")
        return
    differences = [abs(two[step] - one[step]) / one[step] for step in sorted(one)]
    about, details = f"pico_digits, --nproc 2, {max(one) + 1} steps", {"one": one, "two": two}
    yield Row(
        what="loss of the first logged step, relative to one card", case=about, value=differences[0],
        at_most=FIRST_LOSS, details=details,
    )  # fmt: skip
    mean = sum(differences) / len(differences)
    yield Row(what="loss, mean over all logged steps, relative to one card", case=about, value=mean, at_most=CURVE)


def _digits(setting: Setting) -> Path:
    """The embedded set of `make run`; in the dry mode two steps of it."""
    if setting.dry:
        return make_digits(setting.folder / "digits", train=32, val=4, progress=False)
    return make_digits(setting.folder / "digits", progress=False)


def _trained(setting: Setting, data: Path, name: str, options: list[str]) -> dict[str, Any]:
    """`dfine train` from the teaching checkpoint, or what is left of it; the content of metrics.json."""
    out = setting.folder / name
    words = ["train", "--recipe", "pico_digits", "--data", str(data), "--out", str(out), "--weights", str(WEIGHTS)]
    code = cli.main([*words, "--device", setting.device.type, *options])
    if code:
        raise RuntimeError(f"dfine train ended with exit code {code}; {setting.folder} holds its log")
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
