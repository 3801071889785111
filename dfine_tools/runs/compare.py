"""Compare runs epoch by epoch: ours, and logs of the authors' code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfine_lib.errors import DfineError

# Index in their list of the 12 COCO metrics: AP, AP50, AP75, then by size, then recalls.
_INDEX = {"ap": 0, "ap50": 1, "ap75": 2}
# What else bears on the result of a run, apart from the recipe.
_ABOUT = ("seed", "weights", "annotations", "images", "classes", "device", "threads", "commit")


class CompareError(DfineError):
    """A run that cannot be compared: nothing to read there, or in no known format."""


@dataclass(frozen=True)
class RunCurve:
    """The metrics of a run by epoch, the first being 1.

    AP is that of the EMA weights, 0..1; an epoch without a value is absent.
    """

    name: str
    path: Path
    ap: dict[int, float]
    ap50: dict[int, float] = field(default_factory=dict)
    ap75: dict[int, float] = field(default_factory=dict)
    loss: dict[int, float] = field(default_factory=dict)  # mean of the weighted sum of all terms over the epoch
    settings: dict[str, Any] | None = None  # field of the recipe to value, and `_ABOUT`; None in the authors' log
    unreadable: int = 0  # lines that were cut off or are none of this format

    @property
    def best(self) -> tuple[int, float] | None:
        """Epoch and value of the highest AP, the first of equals; None before any evaluation."""
        return max(self.ap.items(), key=lambda item: (item[1], -item[0]), default=None)

    @property
    def last(self) -> tuple[int, float] | None:
        """The latest evaluated epoch and its AP."""
        return max(self.ap.items(), default=None)


def read_runs(paths: Iterable[str | Path]) -> list[RunCurve]:
    """Read several runs, as `read_run`; runs of the same name get their folders' names too.

    Raises:
        CompareError: as `read_run`.
    """
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    depth = 2
    while len(set(names)) < len(names) and depth < 6:
        twice = {name for name in names if names.count(name) > 1}
        parts = [(run.path.parent if run.path.name in _OWN_FILES else run.path).resolve().parts for run in runs]
        names = ["/".join(p[-depth:]) if n in twice else n for n, p in zip(names, parts, strict=True)]
        depth += 1
    if len(set(names)) < len(names):  # the same run twice
        names = [f"{name} ({number})" for number, name in enumerate(names, start=1)]
    return [RunCurve(**{**vars(run), "name": name}) for run, name in zip(runs, names, strict=True)]


_OWN_FILES = ("metrics.jsonl", "log.txt")


def read_run(path: str | Path) -> RunCurve:
    """Read the metrics of a run.

    Args:
        path: a run's folder; its `metrics.jsonl`; a recorded run, `results/NAME.jsonl`; or a log of the authors' code
            (`log.txt`, or the folder with it): one JSON object a line, with `epoch`, `train_loss` and the list
            `test_coco_eval_bbox` of the 12 COCO metrics. Lines that were cut off are passed over. Of an epoch that
            occurs twice, as after a resumed run, the last counts.

    Raises:
        CompareError: there is no such file, or no line of it is of either format.
    """
    given = Path(path)
    file = given
    if given.is_dir():
        file = next((given / name for name in _OWN_FILES if (given / name).is_file()), given)
        if file == given:
            raise CompareError(f"{given}: neither metrics.jsonl nor log.txt is in this folder, so it holds no run.")
    if not file.is_file():
        raise CompareError(f"{file}: no such file. Give a run's folder, its metrics.jsonl, or a log.txt.")
    rows, unreadable = _read_lines(file)
    name = file.resolve().parent.name if file.name in _OWN_FILES else file.stem
    if any("kind" in row for row in rows):
        return _ours(name, file, [row for row in rows if "kind" in row], unreadable)
    if any("epoch" in row and ("train_loss" in row or "test_coco_eval_bbox" in row) for row in rows):
        return _published(name, file, rows, unreadable)
    raise CompareError(
        f"{file}: no line is of our metrics.jsonl (key 'kind') or of the authors' log.txt (keys 'epoch' and "
        f"'test_coco_eval_bbox'); {unreadable} of {unreadable + len(rows)} lines are no JSON objects."
    )


def _read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file, one a line, and how many other lines there are, as one that was cut off."""
    rows, unreadable = [], 0
    for line in filter(str.strip, file.read_text(encoding="utf-8-sig", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unreadable += 1
    return rows, unreadable


def comparison(runs: Sequence[RunCurve], most: int | None = None) -> list[dict[str, Any]]:
    """AP by epoch, a row an epoch and a column a run; None where a run has no value.

    Args:
        runs: with names of their own.
        most: keep about so many epochs, among them the last, and the best of each run.
    """
    epochs = sorted({epoch for run in runs for epoch in run.ap})
    if most is not None and len(epochs) > most:
        stays = {run.best[0] for run in runs if run.best} | {epochs[-1]}
        stays |= {epochs[round(n * (len(epochs) - 1) / max(most - 1, 1))] for n in range(most)}
        epochs = sorted(stays)
    return [{"epoch": epoch} | {run.name: run.ap.get(epoch) for run in runs} for epoch in epochs]


def summaries(runs: Sequence[RunCurve]) -> list[dict[str, Any]]:
    """A row a run: best AP with its epoch, AP50 and AP75 there, the last AP, the last loss."""
    rows = []
    for run in runs:
        epoch, ap = run.best or (None, None)
        rows.append(
            {
                "run": run.name,
                "best AP": ap,
                "epoch": epoch,
                "AP50": run.ap50.get(epoch),
                "AP75": run.ap75.get(epoch),
                "last AP": run.last[1] if run.last else None,
                "last epoch": max([*run.ap, *run.loss], default=None),
                "last loss": run.loss[max(run.loss)] if run.loss else None,
            }
        )
    return rows


def differences(runs: Sequence[RunCurve]) -> list[dict[str, Any]]:
    """The settings that differ between runs of ours: a row a setting, a column a run. Logs of the authors hold none.

    With the fields of the recipe: seed, the weights and annotations that a run started from (as fingerprints), numbers
    of images, classes, device, threads and commit. A setting that a run does not know is None.
    """
    known = [run for run in runs if run.settings is not None]
    names = list(dict.fromkeys(name for run in known for name in run.settings))
    rows = [{"setting": name} | {run.name: run.settings.get(name) for run in known} for name in names]
    return [row for row in rows if len({json.dumps(v, sort_keys=True) for k, v in row.items() if k != "setting"}) > 1]


def _ours(name: str, file: Path, rows: list[dict[str, Any]], unreadable: int) -> RunCurve:
    metrics: dict[str, dict[int, float]] = {"ap": {}, "ap50": {}, "ap75": {}}
    losses: dict[int, list[float]] = {}
    for row in rows:
        epoch = row.get("epoch")
        if not isinstance(epoch, int):
            continue
        if row["kind"] == "eval":
            for key, values in metrics.items():
                _put(values, epoch + 1, (row.get("ema") or {}).get(key))
        elif row["kind"] == "train" and _is_number(row.get("loss")):
            losses.setdefault(epoch + 1, []).append(row["loss"])
    loss = {epoch: sum(values) / len(values) for epoch, values in losses.items()}
    return RunCurve(name, file, **metrics, loss=loss, settings=_settings(file), unreadable=unreadable)


def _settings(file: Path) -> dict[str, Any] | None:
    """The recipe's fields, by dotted name, and what else bears on a run; of the JSON file beside its rows."""
    beside = [file.with_name("metrics.json"), file.with_name("run.json"), file.with_suffix(".json")]
    for candidate in beside if file.name == "metrics.jsonl" else beside[2:]:
        try:
            content = json.loads(candidate.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
            continue
        settings: dict[str, Any] = {}
        for part, values in content["recipe"].items():
            settings |= {f"{part}.{k}": v for k, v in values.items()} if isinstance(values, dict) else {part: values}
        settings["recipe"] = settings.pop("name", None)
        return settings | {key: content[key] for key in _ABOUT if key in content}
    return None


def _published(name: str, file: Path, rows: list[dict[str, Any]], unreadable: int) -> RunCurve:
    metrics: dict[str, dict[int, float]] = {"ap": {}, "ap50": {}, "ap75": {}}
    loss: dict[int, float] = {}
    for row in rows:
        epoch = row.get("epoch")
        if not isinstance(epoch, int) or isinstance(epoch, bool):
            unreadable += 1
            continue
        _put(loss, epoch + 1, row.get("train_loss"))
        found = row.get("test_coco_eval_bbox")
        if isinstance(found, list):
            for key, index in _INDEX.items():
                _put(metrics[key], epoch + 1, found[index] if index < len(found) else None)
    return RunCurve(name, file, **metrics, loss=loss, unreadable=unreadable)


def _put(values: dict[int, float], epoch: int, value: Any) -> None:
    """Keep a number; COCO's -1 means that there was nothing to measure."""
    if _is_number(value) and value >= 0:
        values[epoch] = float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
