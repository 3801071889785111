"""Tables of finished runs, compared with what the authors published."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfine_lib.errors import DfineError
from dfine_lib.train.run_folder import read_rows
from dfine_tools.published import PUBLISHED_AP

logger = logging.getLogger(__name__)

# What is read of a file: type of each key. Whole names must be there; those with a `?` may be missing or null.
_NUMBER = (int, float)
_OF_A_RUN: dict[str, Any] = {
    "ap": (*_NUMBER, type(None)), "best_epoch": int, "last": (dict, type(None)), "recipe": dict, "seconds?": _NUMBER,
    "images?": dict, "classes?": list, "saved_weights?": dict, "commit?": str,
}  # fmt: skip
_OF_AN_EVALUATION: dict[str, Any] = {"ap": (*_NUMBER, type(None)), "weights": str, "images": int, "per_class": dict}
_COCO_VAL_IMAGES, _COCO_CLASSES, _COCO_SIDE = 5000, 80, 640


def finished_runs(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The `metrics.json` of every finished run below a folder, by the run's name.

    Args:
        folder: `runs`, say: read are `*/metrics.json` in it. Another file is left out with a warning.

    Returns:
        Contents by name. Where `saved_weights` is missing, since no notebook scored them, it holds the metrics that
        `metrics.jsonl` has for the best epoch, if it has them.

    Raises:
        ValueError: there is no such folder.
    """
    runs = _contents(folder, "metrics.json", _OF_A_RUN)
    for name, content in runs.items():
        rows = Path(folder) / name / "metrics.jsonl"
        if "saved_weights" not in content and rows.is_file():
            best = [
                row for row in read_rows(rows) if (row.get("kind"), row.get("epoch")) == ("eval", content["best_epoch"])
            ]
            content["saved_weights"] = best[-1].get("ema") if best else None
    return runs


def evaluations(folder: str | Path) -> dict[str, dict[str, Any]]:
    """As `finished_runs`, of the `evaluation.json` that experiments/evaluate.ipynb writes.

    Raises:
        ValueError: there is no such folder.
    """
    return _contents(folder, "evaluation.json", _OF_AN_EVALUATION)


def result_rows(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a run, best AP first: recipe, data, duration and result; AP 0..1."""
    rows = []
    for name, run in runs.items():
        last, recipe = run["last"] or {}, run["recipe"]
        saved = run.get("saved_weights") or {}
        images = run.get("images") or {}
        rows.append(
            {
                "run": name,
                "recipe": recipe.get("name"),
                "AP": _number(run["ap"]),
                "AP50": _number(saved.get("ap50")),
                "AP75": _number(saved.get("ap75")),
                "last, EMA": _number((last.get("ema") or {}).get("ap")),
                "last, non-EMA": _number((last.get("raw") or {}).get("ap")),
                "epochs": recipe.get("train", {}).get("epochs"),
                "steps": run.get("steps"),
                "train images": images.get("train"),
                "val images": images.get("val"),
                "classes": len(run["classes"]) if run.get("classes") else None,
                "image size": _side(recipe),
                "minutes": None if run.get("seconds") is None else round(run["seconds"] / 60),
                "device": run.get("device"),
                "seed": run.get("seed"),
                "commit": (run.get("commit") or "unknown")[:7],
            }
        )
    return sorted(rows, key=lambda row: -1 if row["AP"] is None else row["AP"], reverse=True)


def published_rows(
    runs: Mapping[str, Mapping[str, Any]], evaluated: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """A row a published recipe: the authors' AP, that of their weights as scored here, and that of our best run.

    Only runs and evaluations on all of COCO val2017 at 640 px count, recognised by its 5,000 images and 80 classes; a
    run of the recipe on other data cannot be compared with the published AP.

    Args:
        runs: of `finished_runs`.
        evaluated: of `evaluations`; published weights are recognised by their name, as dfine_l_coco.

    Returns:
        `recipe`, `published`, `published weights, scored here`, `trained here` and `difference` (of the last to the
        first), in percent; None where nothing was run.
    """
    ours: dict[str, float] = {}
    for run in runs.values():
        name, ap = run["recipe"].get("name"), _number(run["ap"])
        on_coco = (run.get("images") or {}).get("val") == _COCO_VAL_IMAGES
        on_coco &= len(run.get("classes") or ()) == _COCO_CLASSES and _side(run["recipe"]) == _COCO_SIDE
        if on_coco and ap is not None and name in PUBLISHED_AP:
            ours[name] = max(ours.get(name, 0.0), 100 * ap)
    scored: dict[str, float] = {}
    for evaluation in (evaluated or {}).values():
        name = Path(str(evaluation["weights"])).stem.removeprefix("dfine_").removesuffix("_e25")
        on_coco = evaluation["images"] == _COCO_VAL_IMAGES and len(evaluation["per_class"]) == _COCO_CLASSES
        on_coco &= str(evaluation.get("input", "")).startswith(f"{_COCO_SIDE} x {_COCO_SIDE}")
        if on_coco and _number(evaluation["ap"]) is not None and name in PUBLISHED_AP:
            scored[name] = 100 * evaluation["ap"]
    return [
        {
            "recipe": name,
            "published": published,
            "published weights, scored here": scored.get(name),
            "trained here": ours.get(name),
            "difference": ours[name] - published if name in ours else None,
        }
        for name, published in PUBLISHED_AP.items()
    ]


def _contents(folder: str | Path, name: str, kinds: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise DfineError(f"{folder}: no such folder of runs; train one first, or name another folder")
    found = {}
    for file in sorted(folder.glob(f"*/{name}")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            logger.warning("left out %s: %s", file, error)
            continue
        if (why := _unfit(content, kinds)) is not None:
            logger.warning("left out %s: %s", file, why)
            continue
        found[file.parent.name] = content
    return found


def _unfit(content: Any, kinds: Mapping[str, Any]) -> str | None:
    """Why a file does not fit; None if it does."""
    for key, kind in kinds.items():
        name = key.removesuffix("?")
        if not isinstance(content, dict) or (name not in content and name == key):
            return f"no {name!r} in it"
        value = content.get(name)
        if not isinstance(value, kind) and (value is not None or name == key):
            return f"{name!r} cannot be {value!r}"[:200]
    for whole, part in (("last", "ema"), ("last", "raw"), ("recipe", "data"), ("recipe", "train")):
        if not isinstance((content.get(whole) or {}).get(part), dict | type(None)):
            return f"'{whole}.{part}' should be an object"
    return None


def _side(recipe: Mapping[str, Any]) -> Any:
    """Input size: one number where it is square, else [height, width]."""
    side = (recipe.get("data") or {}).get("image_size")
    return side[0] if isinstance(side, list) and len(set(side)) == 1 else side


def _number(value: Any) -> float | None:
    """AP as it may be reported; the -1 of a run whose evaluation had nothing to measure is None."""
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if sound else None
