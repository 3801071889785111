"""The training loop: from a data folder and a recipe to a run folder that can be resumed, repeated and used."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dfine_lib.config import Recipe
from dfine_lib.criterion import build_criterion
from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import DataError, check_images
from dfine_lib.data.loader import Batch, EvalLoader, TrainLoader, derived_seed
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import load_weights, read_weights, save_weights
from dfine_lib.recipes import adapted_to_length, get_recipe
from dfine_lib.train.checkpoint import CheckpointError, load_state, save_state
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.meter import Meter, in_words
from dfine_lib.train.optim import build_optimizer, rate_factor
from dfine_lib.train.run_folder import RunFolder, describe_machine, recipe_to_dict
from dfine_lib.train.step import NonFiniteLoss, StepResult, TrainStep

log = logging.getLogger(__name__)
ROW_EVERY = 10  # optimizer steps between lines of metrics.jsonl
DECODE_UP_TO = 20_000  # images of a split that are decoded once before a run starts
_FREE = ("num_workers", "eval_batch_size")  # may be others when a run goes on: they change no result
STATE_EVERY = 600.0  # seconds between states saved within an epoch


class Metrics(Protocol):
    """What an evaluation returns: `ap` and a JSON-safe dict of all numbers."""

    ap: float

    def to_dict(self) -> dict[str, Any]: ...


Evaluate = Callable[[nn.Module, EvalLoader, Path, torch.device], Metrics]


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def fitted_to_data(recipe: Recipe, index: CocoIndex) -> Recipe:
    """The recipe with as many classes as the data has, and settings that suit the run's length."""
    steps = max(1, len(index) // recipe.data.batch_size) * recipe.train.epochs
    classes = index.num_classes
    if recipe.name.endswith("_obj365") and classes <= recipe.model.num_classes:
        classes = recipe.model.num_classes  # published: 366 rows for 365 classes
    return adapted_to_length(replace(recipe, model=replace(recipe.model, num_classes=classes)), steps)


def train(
    recipe: str | Recipe,
    data: str | Path,
    out: str | Path,
    *,
    evaluate: Evaluate,
    seed: int = 0,
    device: str = "auto",
    resume: bool = True,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Train, or go on with a run that was stopped; a finished run only returns its result.

    Args:
        recipe: a name or a recipe.
        data: a folder that `find_split` understands.
        out: the run folder.
        evaluate: scores a model on a validation loader (`dfine_lib.evaluate`).
        seed: of weights, order, augmentation and denoising; a run is a function of recipe, data and seed.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        resume: go on from `last.pt` where there is one; otherwise a folder that holds a run is refused.
        weights: fine-tune from this file instead of fresh weights.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: anything wrong with recipe, data, weights or an earlier run in the folder; nothing was trained.
        OSError: the folder cannot be written.
        NonFiniteLoss: the loss stayed non-finite; `last.pt` holds the last good state.
    """
    return _Run(get_recipe(recipe), Path(data), Path(out), evaluate, seed, pick_device(device), resume, weights).run()


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        evaluate: Evaluate,
        seed: int,
        device: torch.device,
        resume: bool,
        weights: str | Path | None,
    ) -> None:
        self.evaluate, self.seed, self.device = evaluate, seed, device
        train_file, train_images = find_split(data, "train")
        self.val_file, val_images = find_split(data, "val")
        self.index = read_coco(train_file, train_images, training=True)
        val_index = read_coco(self.val_file, val_images, training=False, category_ids=self.index.category_ids)
        self.recipe = fitted_to_data(recipe, self.index)
        self.folder = RunFolder(out)
        self.about = {
            "recipe": recipe_to_dict(self.recipe), "data": str(data.resolve()), "seed": seed,
            "weights": str(Path(weights).resolve()) if weights else None,
            "images": {"train": len(self.index), "val": len(val_index)},
            "classes": list(self.index.category_names),
        }  # fmt: skip
        self.state = self._earlier_state(resume)
        if self.finished:
            return
        _check_names(self.index, val_index)
        for index in (self.index, val_index):
            # Opening every picture costs minutes on large sets; missing, cut-off and missized ones are always found.
            check_images(index, every=self.state is None and len(index) <= DECODE_UP_TO)

        torch.manual_seed(derived_seed(seed, 0))
        self.model = DFINE.from_recipe(self.recipe)
        if weights and self.state is None:
            load_weights(self.model, read_weights(weights), self.index.category_names)
        self.model.to(device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, self.recipe)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = ModelEMA(self.model, self.recipe)
        self.step = TrainStep(
            self.model, build_criterion(self.recipe), self.optimizer, self.ema, self.recipe.train, device
        )
        self.loader = TrainLoader(self.index, self.recipe, seed=seed, device=device)
        self.val_loader = EvalLoader(val_index, self.recipe, device=device)
        self.skipped_in_a_row = 0
        self.total = self.loader.steps_per_epoch * self.recipe.train.epochs
        self.progress = {
            "epoch": 0, "step_in_epoch": 0, "best_ap": -1.0, "best_stage1_ap": -1.0, "best_epoch": -1,
            "skipped": 0, "ema_decay": self.ema.decay, "seconds": 0.0,
        }  # fmt: skip

    @property
    def finished(self) -> bool:
        """Is the result already on disk?"""
        return self.folder.result.exists() and self.state is not None

    def _earlier_state(self, resume: bool) -> dict[str, Any] | None:
        if not self.folder.last.exists():
            return None
        if not resume:
            raise ValueError(f"{self.folder.path} already holds a run; choose another --out, or resume it")
        before = json.loads(self.folder.about.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(self.about))
        for about in (before, now):
            for field in _FREE:
                about["recipe"]["data"].pop(field)
        differing = [key for key in now if before.get(key) != now[key]]
        if differing:
            detail = "; ".join(_difference(key, before.get(key), now[key]) for key in differing)
            raise CheckpointError(
                f"{self.folder.path} holds a run with other settings ({detail}); choose another --out, or repeat the "
                "settings it was started with"
            )
        return load_state(self.folder.last)

    def run(self) -> dict[str, Any]:
        if self.finished:
            log.info("%s is finished; nothing to train", self.folder.path)
            return json.loads(self.folder.result.read_text(encoding="utf-8"))
        if self.state is None:
            self.folder.write_json(self.folder.about, self.about | describe_machine(self.device))
            self.folder.forget_rows_after(-1)
        else:
            self._restore(self.state)
        writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=self._step_number())
        metrics: dict[str, Metrics] = {}
        try:
            for epoch in range(self.progress["epoch"], self.recipe.train.epochs):
                if epoch == self.recipe.train.stop_epoch and not self.progress["step_in_epoch"]:
                    self._begin_stage2()
                self._train_epoch(epoch, writer)
                train = self.recipe.train
                if (epoch + 1) % train.evaluate_every == 0 or epoch + 1 == train.epochs:
                    metrics = self._evaluate(epoch, writer)
                self.progress |= {"epoch": epoch + 1, "step_in_epoch": 0}
                self._save()
        finally:
            writer.close()
        return self._finish(metrics)

    def _train_epoch(self, epoch: int, writer: SummaryWriter) -> None:
        train, per_epoch = self.recipe.train, self.loader.steps_per_epoch
        first = self.progress["step_in_epoch"]
        batches = self.loader.epoch(epoch, first * train.accumulate)
        self.model.train()
        bar = tqdm(
            range(first, per_epoch), initial=first, total=per_epoch, desc=f"epoch {epoch + 1}/{train.epochs}",
            unit="step", dynamic_ncols=True, mininterval=1.0,
        )  # fmt: skip
        meter, saved = Meter(self.device), time.perf_counter()
        for i in bar:
            number = epoch * per_epoch + i
            before = time.perf_counter()
            micro = [next(batches) for _ in range(train.accumulate)]
            meter.add(sum(len(batch.targets) for batch in micro), time.perf_counter() - before)
            factor = rate_factor(self.recipe, number, self.total)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            torch.manual_seed(derived_seed(self.seed, 1 + number))  # denoising draws: a function of seed and step
            result = self.step(micro)
            self._note_skipped(result, number, epoch, micro)
            if (number + 1) % ROW_EVERY == 0 or i + 1 == per_epoch:
                reading = meter.read()
                self._row(writer, result, number, epoch, train.lr * factor, reading)
                left = (self.total - number - 1) * reading["seconds_per_step"]
                bar.set_postfix_str(
                    f"loss {result.loss:.2f}, AP {max(self.progress['best_ap'], 0):.3f}, "
                    f"waiting for data {reading['data_wait_share']:.0%}, {in_words(left)} left"
                )
            if time.perf_counter() - saved > STATE_EVERY and i + 1 < per_epoch:
                self.progress |= {"epoch": epoch, "step_in_epoch": i + 1}
                self._save()
                saved = time.perf_counter()

    def _note_skipped(self, result: StepResult, number: int, epoch: int, batches: list[Batch]) -> None:
        if not result.broken:
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        self.progress["skipped"] += 1
        image_ids = [int(i) for batch in batches for i in batch.image_ids]
        log.warning("step %d skipped: %s not finite; images %s", number, ", ".join(result.broken), image_ids)
        self.folder.append(
            {"kind": "skipped", "step": number, "epoch": epoch, "terms": list(result.broken), "image_ids": image_ids}
        )
        if self.skipped_in_a_row >= self.recipe.train.max_skipped_steps:
            raise NonFiniteLoss(
                f"{self.skipped_in_a_row} steps in a row were not finite, the last at step {number} in "
                f"{', '.join(result.broken)} (images {image_ids[:8]}). The last good state is {self.folder.last}. "
                "Lower train.lr, or use --precision fp32, and look at those images"
            )

    def _row(
        self, writer: SummaryWriter, result: StepResult, number: int, epoch: int, lr: float, reading: dict[str, Any]
    ) -> None:
        self.progress["seconds"] += reading["seconds"]
        row = {"kind": "train", "step": number, "total": self.total, "epoch": epoch, "loss": result.loss}
        row |= {"losses": result.losses, "grad_norm": result.grad_norm, "lr": lr, **reading}
        self.folder.append(row)
        for key in ("loss", "grad_norm", "lr", "images_per_second", "data_wait_share", "memory_mb"):
            writer.add_scalar(f"train/{key}", row[key], number)

    def _evaluate(self, epoch: int, writer: SummaryWriter) -> dict[str, Metrics]:
        step = (epoch + 1) * self.loader.steps_per_epoch - 1
        start = time.perf_counter()
        models = {"ema": self.ema.module, "raw": self.model}
        metrics = {
            name: self.evaluate(model, self.val_loader, self.val_file, self.device) for name, model in models.items()
        }
        ap = metrics["ema"].ap
        ap = ap if ap > 0 else 0.0  # not a number where the file has no box to find
        seconds = time.perf_counter() - start
        row = {"kind": "eval", "step": step, "epoch": epoch, "seconds": seconds}
        self.folder.append(row | {name: value.to_dict() for name, value in metrics.items()})
        for name, value in metrics.items():
            writer.add_scalar(f"eval/ap_{name}", value.ap, step)
        self.progress["seconds"] += seconds
        self._keep_best(epoch, ap)
        return metrics

    def _keep_best(self, epoch: int, ap: float) -> None:
        train, progress = self.recipe.train, self.progress
        improved = ap > progress["best_ap"]
        if improved:
            progress |= {"best_ap": ap, "best_epoch": epoch}
            self._save_model()
        if epoch < train.stop_epoch:
            if ap > progress["best_stage1_ap"] and train.stop_epoch < train.epochs:
                progress["best_stage1_ap"] = ap
                save_state(self.folder.best_stage1, self._learned())
        elif not improved and train.ema_restart_decay is not None and self.folder.best_stage1.exists():
            # Stage 2 that does not help starts again from the best of stage 1, with a shorter memory.
            self._restore_learned(load_state(self.folder.best_stage1))
            progress["ema_decay"] -= 0.0001
            if not train.faithful:
                self.ema.decay = progress["ema_decay"]

    def _begin_stage2(self) -> None:
        train = self.recipe.train
        if train.ema_restart_decay is None:
            return
        if self.folder.best_stage1.exists():
            self._restore_learned(load_state(self.folder.best_stage1))
        self.progress["ema_decay"] = train.ema_restart_decay
        if not train.faithful:  # the published code lowers a number that its schedule no longer reads
            self.ema.decay = train.ema_restart_decay

    def _learned(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
        }

    def _restore_learned(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])

    def _save(self) -> None:
        state = self._learned() | {"progress": self.progress, "ema_decay_in_use": self.ema.decay}
        save_state(self.folder.last, state | {"step": self._step_number()})

    def _restore(self, state: dict[str, Any]) -> None:
        self._restore_learned(state)
        self.progress = dict(state["progress"])
        self.ema.decay = state["ema_decay_in_use"]
        self.folder.forget_rows_after(state["step"] - 1)
        log.info("resuming %s at epoch %d", self.folder.path, self.progress["epoch"] + 1)

    def _step_number(self) -> int:
        return self.progress["epoch"] * self.loader.steps_per_epoch + self.progress["step_in_epoch"]

    def _save_model(self) -> None:
        save_weights(
            self.folder.model, self.ema.module, data=self.recipe.data,
            category_names=self.index.category_names, category_ids=self.index.category_ids,
        )  # fmt: skip

    def _finish(self, metrics: dict[str, Metrics]) -> dict[str, Any]:
        if not metrics:  # killed between the last state and here
            row = [row for row in self.folder.read_rows() if row["kind"] == "eval"][-1]
            numbers = {name: row[name] for name in ("ema", "raw")}
        else:
            numbers = {name: value.to_dict() for name, value in metrics.items()}
        result = {
            "ap": self.progress["best_ap"], "best_epoch": self.progress["best_epoch"], "last": numbers,
            "steps": self.total, "skipped_steps": self.progress["skipped"], "seconds": self.progress["seconds"],
            **json.loads(self.folder.about.read_text(encoding="utf-8")),
        }  # fmt: skip
        self.folder.write_json(self.folder.result, result)
        return result


def _check_names(train: CocoIndex, val: CocoIndex) -> None:
    names = dict(zip(train.category_ids, train.category_names, strict=True))
    for category_id, name in zip(val.category_ids, val.category_names, strict=True):
        if names.get(category_id, name) != name:
            raise DataError(
                f"{val.annotation_file}: category id {category_id} is {name!r}, but {names[category_id]!r} in "
                f"{train.annotation_file}; give both files the same list of categories"
            )


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [_difference(f"{key}.{k}", before.get(k), now.get(k)) for k in now if before.get(k) != now.get(k)]
        return "; ".join(parts)
    return f"{key} {before!r} then, {now!r} now"
