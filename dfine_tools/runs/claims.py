"""The paper's claims as controlled experiments: conditions, paired seeds, measured runs, conclusions.

A claims file holds the conditions, each a few fields of the recipe, and the claims, each a metric and the two
conditions that it compares. Every run of a seed starts from the same backbone and encoder, and from the same decoder as
far as shapes agree; its data come in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from dfine_lib.config import Recipe
from dfine_lib.data import EvalLoader, find_split, read_coco
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.errors import DfineError
from dfine_lib.files import json_safe, write_atomically
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.weights import save_weights
from dfine_lib.recipes import get_recipe
from dfine_tools.analysis.localization import localization
from dfine_tools.analysis.paired import conclusion, holm, paired_effect
from dfine_tools.runs.launch import training_command
from dfine_tools.runs.settings import with_settings
from dfine_tools.runs.sweep import Trial

_SHARED_PARTS = ("backbone.", "encoder.")  # of the weights that every run starts from


class ClaimsError(DfineError):
    """A claims file that cannot be read."""


@dataclass(frozen=True)
class Claim:
    """A difference that the paper predicts."""

    claim: str
    paper: str  # where the paper says it, and its own effect
    metric: str  # as `measure_run` names it
    of: str  # condition
    against: str  # condition that it is compared with
    sign: int = 1  # of the predicted difference
    against_metric: str = ""  # where the two differ, as `raw_ap` for `ap`; "" for the same


@dataclass(frozen=True)
class Claims:
    """A claims file."""

    recipe: str
    weights: Path  # backbone and encoder of every run
    epochs: int
    seeds: list[int]
    settings: dict[str, Any]  # fields of the recipe, for all conditions
    conditions: dict[str, dict[str, Any]]  # fields of the recipe by condition
    claims: list[Claim] = field(default_factory=list)

    def recipe_of(self, condition: str) -> Recipe:
        """The recipe of a condition."""
        return with_settings(get_recipe(self.recipe), {**self.settings, **self.conditions[condition]})


def read_claims(file: str | Path) -> Claims:
    """Read a claims file; every condition is checked.

    Raises:
        ClaimsError: no such file, unknown keys, a claim about a condition that is not there, or a setting that the
            recipe does not have.
    """
    file = Path(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        claims = Claims(**content | {
            "weights": file.parent / content["weights"],
            "conditions": {name: own or {} for name, own in content["conditions"].items()},
            "claims": [Claim(**claim) for claim in content.get("claims", [])],
        })  # fmt: skip
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ClaimsError(f"{file}: no claims file: {error}") from error
    for claim in claims.claims:
        if missing := {claim.of, claim.against} - claims.conditions.keys():
            raise ClaimsError(f"{file}: {claim.claim!r} is about {missing.pop()!r}, which is no condition")
    for condition in claims.conditions:
        try:
            claims.recipe_of(condition)
        except ValueError as error:
            raise ClaimsError(f"{file}: {condition}: {error}") from error
    return claims


def initial_model(claims: Claims, condition: str, seed: int, index: CocoIndex) -> DFINE:
    """The model that a run starts from.

    Args:
        claims: the file.
        condition: one of its conditions.
        seed: of the decoder.
        index: the training split, for its classes.
    """

    def fresh(recipe: Recipe) -> DFINE:
        torch.manual_seed(derived_seed(Draw.WEIGHTS, seed))
        return DFINE.from_recipe(recipe, num_classes=index.num_classes)

    model = fresh(claims.recipe_of(condition))
    start, reference = open_model(claims.weights)[0], fresh(with_settings(get_recipe(claims.recipe), claims.settings))
    state = model.state_dict()
    for key, own in state.items():
        shared = (start if key.startswith(_SHARED_PARTS) else reference).state_dict().get(key)
        if shared is not None and shared.shape == own.shape:
            state[key] = shared
        elif key.startswith(_SHARED_PARTS):
            raise ClaimsError(f"{claims.weights}: has no {key} of shape {list(own.shape)}, which {condition} needs")
    model.load_state_dict(state)
    return model


def make_trials(
    claims: Claims, data: str | Path, out: str | Path, *, seeds: Sequence[int] | None = None, device: str = "cpu"
) -> list[Trial]:
    """The trials of a claims file on a data set, all conditions of a seed before the next seed.

    Writes the weights that each starts from, `start.safetensors` in its folder.

    Args:
        claims: the file.
        data: COCO-style folder.
        out: folder of the trials, `<out>/<condition>/seed<seed>`.
        seeds: default: those of the file.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
    """
    trials, index = [], read_coco(*find_split(data, "train"))
    for seed in claims.seeds if seeds is None else seeds:
        for condition, own in claims.conditions.items():
            folder, recipe = Path(out) / condition / f"seed{seed}", claims.recipe_of(condition)
            weights = folder / "start.safetensors"
            if not weights.exists():
                folder.mkdir(parents=True, exist_ok=True)
                save_weights(
                    weights, initial_model(claims, condition, seed, index), data=recipe.data,
                    category_names=index.category_names, category_ids=index.category_ids,
                )  # fmt: skip
            # Evaluated once, so that the weights that are kept are those after the last epoch.
            settings = {**claims.settings, **own, "train.evaluate_every": claims.epochs}
            command = training_command(
                claims.recipe, data, folder, epochs=claims.epochs, seed=seed, device=device, weights=weights,
                settings=settings,
            )  # fmt: skip
            trials.append(Trial(condition, seed, folder, tuple(command)))
    return trials


def measure_run(trial: Trial, data: str | Path, results: str | Path) -> dict[str, Any]:
    """What a finished trial says, written to `<results>/<condition>/seed<seed>.json`; measured once.

    Metrics are those of the EMA weights after the last epoch, on the validation split: COCO's twelve; `loc_ap75`,
    `loc_ap90`, `loc_ap95`, which are class-agnostic, and the edge errors of `localization`; both of every decoder
    layer, as `layer1_edge_px`. `raw_ap` is of the weights themselves.
    """
    file = Path(results) / trial.condition / f"seed{trial.seed}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    run = trial.result
    if run is None:
        raise ClaimsError(f"{trial.out}: the run has not finished, so there is nothing to measure")
    last = run["last"]
    metrics = {name: value for name, value in last["ema"].items() if name != "per_class"}
    metrics["raw_ap"] = last["raw"]["ap"]
    model, weights = open_model(trial.out / "model.safetensors")
    annotation_file, image_folder = find_split(data, "val")
    recipe = Recipe(name=run["recipe"]["name"], model=model.config, data=weights.data)
    index = read_coco(annotation_file, image_folder, training=False)
    layers = localization(model, EvalLoader(index, recipe, device=torch.device("cpu")), annotation_file)
    for k, row in enumerate(layers, start=1):
        metrics |= {f"layer{k}_{name}": value for name, value in _named(row)}
    metrics |= dict(_named(layers[-1]))
    result = {
        "condition": trial.condition, "seed": trial.seed, "data": Path(data).name, "metrics": metrics,
        "steps": run["steps"], "minutes": run["seconds"] / 60, "skipped_steps": run["skipped_steps"],
        **{key: run[key] for key in ("device", "commit", "versions", "recipe") if key in run},
        "command": " ".join(["dfine", *trial.command[trial.command.index("train") :]]),
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(json_safe(result), indent=1) + "\n").encode())
    return result


def _named(row: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((f"loc_{name}" if name.startswith("ap") else name, value) for name, value in row.items())


def read_results(results: str | Path) -> list[dict[str, Any]]:
    """All measured runs of a data set, as `measure_run` wrote them."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(results).glob("*/seed*.json"))]


def claim_rows(claims: Claims, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each claim: pairs, the mean difference with its interval, Holm's p-value, and the conclusion.

    Pairs are the seeds that both conditions have. Holm's correction goes over all claims that have two pairs or more.
    """
    by_run = {(run["condition"], run["seed"]): run["metrics"] for run in results}
    effects = []
    for claim in claims.claims:
        differences = []
        for seed in sorted({seed for condition, seed in by_run if condition == claim.of}):
            own, other = by_run[claim.of, seed], by_run.get((claim.against, seed), {})
            values = own.get(claim.metric), other.get(claim.against_metric or claim.metric)
            if None not in values:
                differences.append(values[0] - values[1])
        effects.append(paired_effect(differences) if differences else None)
    tested = [i for i, effect in enumerate(effects) if effect is not None and effect.n > 1]
    adjusted = dict(zip(tested, holm([effects[i].p for i in tested]), strict=True))
    rows = []
    for i, (claim, effect) in enumerate(zip(claims.claims, effects, strict=True)):
        row = {"claim": claim.claim, "paper": claim.paper, "metric": claim.metric, "n": effect.n if effect else 0}
        if i in adjusted:
            row |= {"difference": effect.mean, "low": effect.low, "high": effect.high, "p (Holm)": adjusted[i]}
            row |= {"visible": effect.visible, "conclusion": conclusion(effect, adjusted[i], claim.sign)}
        else:
            mean = effect.mean if effect else math.nan
            row |= {"difference": mean, "low": math.nan, "high": math.nan, "p (Holm)": math.nan}
            row |= {"visible": math.nan, "conclusion": "too few runs"}
        rows.append(row)
    return rows
