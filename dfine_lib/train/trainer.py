"""The training loop: from a data folder and a recipe to a run folder that can be resumed, repeated and used."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dfine_lib.config import Recipe
from dfine_lib.criterion import build_criterion
from dfine_lib.data.loader import Batch, Draw, derived_seed
from dfine_lib.data.source import CocoFolder
from dfine_lib.device import pick_device, set_backends, usable_precision
from dfine_lib.distributed import Ranks, joined, was_restarted
from dfine_lib.errors import DfineError
from dfine_lib.evaluate.coco_ap import CocoEvaluator, CocoMetrics, evaluate_model
from dfine_lib.evaluate.samples import sample_detections
from dfine_lib.heap import keep_freed_memory
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import load_weights, locate_weights, read_weights, save_weights
from dfine_lib.recipes import get_recipe
from dfine_lib.train.checkpoint import CheckpointError, load_state
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.meter import Meter, in_words, memory_mb, over_a_run
from dfine_lib.train.optim import build_optimizer, lr_multiplier
from dfine_lib.train.run_folder import RunFolder, describe_machine
from dfine_lib.train.run_plan import RunPlan, plan_run
from dfine_lib.train.step import NonFiniteLoss, StepResult, TrainStep

log = logging.getLogger(__name__)
ROW_EVERY = 10  # optimizer steps between lines of metrics.jsonl
DECODE_UP_TO = 20_000  # images of a split that are decoded once before a run starts
STATE_EVERY = 600.0  # seconds between states saved within an epoch
Form = Callable[[DFINE, Recipe, torch.device], bool]


def train(
    recipe: str | Recipe,
    data: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = True,
    weights: str | Path | None = None,
    class_rows: Mapping[str, str] | None = None,
    forms: Sequence[Form] = (),
    source: CocoFolder | None = None,
) -> dict[str, Any]:
    """Train, or go on with a run that was stopped; a finished run only returns its result.

    Started by torchrun in several processes, they train as one: batches are shared out, rank 0 writes the folder.

    Args:
        recipe: a name or a recipe.
        data: what `find_split` understands.
        out: the run folder.
        seed: of weights, order, augmentation and denoising; a run is a function of recipe, data and seed, bit for
            bit on a CPU. On a GPU gradients are added up in any order and noise is another: up to rounding there.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        resume: go on from `last.pt` where there is one; otherwise a folder that holds a run is refused.
        weights: fine-tune from this file instead of fresh weights.
        class_rows: its class to take for a class of the data, where names differ: `{"taxi": "car"}`.
        forms: functions of model, recipe and device, called in this order once the model stands on its device; each
            may change how the model computes (never what), and returns whether it did.
        source: opens the data and makes the loaders; None: a `CocoFolder`.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: anything wrong with recipe, data, weights or an earlier run in the folder; nothing was trained.
        OSError: the folder cannot be written.
        NonFiniteLoss: the loss stayed non-finite; `last.pt` holds the last good state.
        ProcessLost, ToldElsewhere: see `dfine_lib.distributed.joined`.
    """
    source = source or CocoFolder()
    with joined(device) as ranks:
        resume = resume or was_restarted()
        if weights:
            ranks.on_first(lambda: locate_weights(weights))  # a file to be downloaded is told of once
        plan = plan_run(get_recipe(recipe), Path(data), seed, weights, class_rows, source)
        run = _Run(plan, RunFolder(out, writes=ranks.first), pick_device(device, ranks), ranks, forms, source)
        try:
            result = ranks.on_first(lambda: run.result() if resume and run.folder.result.exists() else None)
            return run.train(resume) if result is None else result
        finally:
            run.folder.release()


class _Run:
    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        device: torch.device,
        ranks: Ranks,
        forms: Sequence[Form],
        source: CocoFolder,
    ) -> None:
        self.forms, self.source = forms, source
        self.plan, self.recipe, self.folder, self.device, self.ranks = plan, plan.recipe, folder, device, ranks
        folder.lock()
        ranks.on_first(lambda: plan.compare_with_earlier(folder))

    def result(self) -> dict[str, Any]:
        """The result on disk."""
        log.info("%s is finished; nothing to train", self.folder.path)
        return json.loads(self.folder.result.read_text(encoding="utf-8"))

    def train(self, resume: bool) -> dict[str, Any]:
        """All epochs that are still to do."""
        folder = self.folder
        if not resume and self.ranks.on_first(lambda: folder.last.exists() or folder.result.exists()):
            raise DfineError(f"{folder.path} already holds a run; choose another --out, or resume it")
        state = self._stored(folder.last)
        if self.device.type == "cpu":
            keep_freed_memory(2047, huge_pages=True)  # a step asks for what the step before gave back
        self.evaluator = CocoEvaluator(self.plan.val.annotation_file, self.plan.train.category_ids)
        for index in (self.plan.train, self.plan.val):
            # Opening every picture costs minutes on large sets; missing, cut-off and missized ones are always found.
            every = state is None and len(index) <= DECODE_UP_TO
            self.ranks.on_first(lambda index=index, every=every: self.source.check(index, every))
        rows = self._build(fresh=state is None)
        here = describe_machine(self.device) | {
            "processes": self.ranks.size,
            "numerics": self.numerics,
            "forms": self.put_on,
        }
        if state is None:
            places = {"data": str(self.plan.train.annotation_file), "weights_file": str(self.plan.weights or "")}
            folder.begin()
            folder.write_json(folder.about, self.plan.identity() | places | {"class_rows": rows} | here)
            self._save()
        else:
            self._restore(state)
        folder.append({"kind": "session", "step": self._step_number(), **here})

        folder.begin_curves(self._step_number())
        metrics: dict[str, CocoMetrics] = {}
        train = self.recipe.train
        for epoch in range(self.progress["epoch"], train.epochs):
            if epoch == train.stop_epoch and not self.progress["step_in_epoch"]:
                self._begin_stage2()
            self._train_epoch(epoch)
            if (epoch + 1) % train.evaluate_every == 0 or epoch + 1 == train.epochs:
                self.progress |= {"epoch": epoch, "step_in_epoch": self.loader.steps_per_epoch}
                self._save()  # whatever the evaluation meets, the epoch is done
                metrics = self._evaluate(epoch)
            self.progress |= {"epoch": epoch + 1, "step_in_epoch": 0}
            self._save()
        return self.ranks.on_first(lambda: self._finish(metrics))

    def _build(self, fresh: bool) -> dict[str, Any]:
        """Model, optimizer, average, loaders; which class rows came from the weights file."""
        recipe, device, rows = self.recipe, self.device, {}
        torch.manual_seed(derived_seed(Draw.WEIGHTS, self.plan.seed))
        self.model = DFINE.from_recipe(recipe)
        if self.plan.weights and fresh:
            stored = read_weights(self.plan.weights)
            rows = load_weights(self.model, stored, self.plan.train.category_names, self.plan.rows)
        elif fresh and recipe.model.freeze_norm:
            log.warning(
                "%s was published with a pretrained backbone whose norms stay frozen; from random weights it learns "
                "slowly at best. Give --weights, or --set model.freeze_norm=false --set model.freeze_stem=false",
                recipe.name,
            )
        if self.ranks.size > 1 and device.type == "cuda":  # nowhere else are there batch norms over processes
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model.to(device, memory_format=torch.channels_last)
        self.put_on = [form.__name__ for form in self.forms if form(self.model, recipe, device)]
        self.numerics = set_backends(recipe.train, device)
        self.numerics["precision"] = usable_precision(recipe.train.precision, device)
        train = replace(recipe.train, precision=self.numerics["precision"])
        self.optimizer = build_optimizer(self.model, train)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = ModelEMA(self.model, train)
        self.step = TrainStep(
            self.model, build_criterion(recipe), self.optimizer, self.ema, train, device, self.ranks
        )  # fmt: skip
        share = {"rank": self.ranks.rank, "world_size": self.ranks.size, "device": device}
        self.loader = self.source.train_loader(self.plan.train, recipe, seed=self.plan.seed, **share)
        self.val_loader = self.source.eval_loader(self.plan.val, recipe, **share)
        self.total = self.loader.steps_per_epoch * recipe.train.epochs
        self.skipped_in_a_row = 0
        self.progress = {
            "epoch": 0, "step_in_epoch": 0, "best_ap": -1.0, "best_stage1_ap": -1.0, "best_epoch": -1,
            "skipped": 0, "overflowed": 0, "ema_decay": self.ema.decay, "seconds": 0.0,
        }  # fmt: skip
        return rows

    def _train_epoch(self, epoch: int) -> None:
        train, per_epoch = self.recipe.train, self.loader.steps_per_epoch
        first = self.progress["step_in_epoch"]
        batches = self.loader.epoch(epoch, first * train.accumulate)
        self.model.train()
        bar = tqdm(
            range(first, per_epoch), initial=first, total=per_epoch, desc=f"epoch {epoch + 1}/{train.epochs}",
            unit="step", dynamic_ncols=True, mininterval=1.0, disable=not self.ranks.first,
        )  # fmt: skip
        meter, saved = Meter(self.device), time.perf_counter()
        for i in bar:
            number = epoch * per_epoch + i
            before = time.perf_counter()
            micro = [next(batches) for _ in range(train.accumulate)]
            meter.add(sum(len(batch.targets) for batch in micro) * self.ranks.size, time.perf_counter() - before)
            factor = lr_multiplier(train, number, self.total)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            result = self._step(number, micro)
            self._note_skipped(result, number, epoch, micro)
            if (number + 1) % ROW_EVERY == 0 or i + 1 == per_epoch:
                reading = meter.read()
                self._row(result, number, epoch, train.lr * factor, reading)
                left = (self.total - number - 1) * reading["seconds_per_step"]
                best = self.progress["best_ap"]  # below 0 before the first evaluation
                bar.set_postfix_str(
                    f"loss {result.loss:.2f}, {f'AP {best:.3f}, ' if best >= 0 else ''}"
                    f"waiting for data {reading['data_wait_share']:.0%}, {in_words(left)} left"
                )
            if time.perf_counter() - saved > STATE_EVERY and i + 1 < per_epoch:
                self.progress |= {"epoch": epoch, "step_in_epoch": i + 1}
                self._save()
                saved = time.perf_counter()

    def _step(self, number: int, micro: list[Batch]) -> StepResult:
        # Denoising draws: a function of seed and step, another on each rank.
        torch.manual_seed(derived_seed(Draw.NOISE, self.plan.seed, number) + self.ranks.rank)
        return self.step(micro)

    def _note_skipped(self, result: StepResult, number: int, epoch: int, batches: list[Batch]) -> None:
        if result.overflowed:
            self.progress["overflowed"] += 1
            log.info("step %d skipped: its gradients overflow in fp16; the next loss scale is half", number)
        if not result.non_finite:
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        self.progress["skipped"] += 1
        own = [int(i) for batch in batches for i in batch.image_ids]
        image_ids = [i for ids in self.ranks.gather(own) for i in ids]
        log.warning("step %d skipped: %s not finite; images %s", number, ", ".join(result.non_finite), image_ids)
        self.folder.append(
            {
                "kind": "skipped",
                "step": number,
                "epoch": epoch,
                "terms": list(result.non_finite),
                "image_ids": image_ids,
            }
        )
        if self.skipped_in_a_row >= self.recipe.train.max_skipped_steps:
            raise NonFiniteLoss(
                f"{self.skipped_in_a_row} steps in a row were not finite, the last at step {number} in "
                f"{', '.join(result.non_finite)} (images {image_ids[:8]}). Look at those images; then start again in "
                f"another --out with --set train.lr={self.recipe.train.lr / 3:.1g} or --precision fp32, from "
                f"{self.folder.model} as --weights where it is there"
            )

    def _row(self, result: StepResult, number: int, epoch: int, lr: float, reading: dict[str, Any]) -> None:
        self.progress["seconds"] += reading["seconds"]
        row = {"kind": "train", "step": number, "total": self.total, "epoch": epoch, "loss": result.loss}
        row |= {"losses": result.losses, "grad_norm": result.grad_norm, "lr": lr, **reading}
        if self.numerics["precision"] == "fp16":
            row["overflowed_steps"] = self.progress["overflowed"]
        self.folder.append(row)
        for key in ("loss", "grad_norm", "lr", "images_per_second", "data_wait_share", "memory_mb"):
            self.folder.curve(f"train/{key}", row[key], number)

    def _evaluate(self, epoch: int) -> dict[str, CocoMetrics]:
        step = (epoch + 1) * self.loader.steps_per_epoch - 1
        start = time.perf_counter()
        models = {"ema": self.ema.module, "raw": self.model}
        several = self.ranks.size > 1
        metrics = {
            name: evaluate_model(model, self.val_loader, self.evaluator, self.device, distributed=several)
            for name, model in models.items()
        }
        ap = self.ranks.on_first(lambda: metrics["ema"].ap)  # NaN where the file has no box to find
        shown = sample_detections(models["ema"], self.val_loader, self.device) if self.ranks.first else []
        about = {"step": step, "epoch": epoch, "category_names": self.plan.train.category_names}
        self.folder.write_json(self.folder.samples, about | {"images": shown})
        seconds = time.perf_counter() - start
        row = {"kind": "eval", "step": step, "epoch": epoch, "seconds": seconds}
        row |= {"images_per_second": len(models) * len(self.plan.val) / seconds, "memory_mb": memory_mb(self.device)}
        self.folder.append(row | {name: value.to_dict() for name, value in metrics.items()})
        for name, value in metrics.items():
            if math.isfinite(value.ap):
                self.folder.curve(f"eval/ap_{name}", value.ap, step)
        self.progress["seconds"] += seconds
        self._keep_best(epoch, ap)
        return metrics

    def _keep_best(self, epoch: int, ap: float) -> None:
        train, progress = self.recipe.train, self.progress
        measured = math.isfinite(ap)
        # While nothing is found, or nothing can be measured, the latest weights are kept.
        improved = not measured or ap > progress["best_ap"] or ap == progress["best_ap"] == 0
        if improved:
            progress |= {"best_ap": ap if measured else progress["best_ap"], "best_epoch": epoch}
            self._save_model()
        if epoch < train.stop_epoch:
            rewinds = train.stop_epoch < train.epochs and train.ema_restart_decay is not None
            if ap > progress["best_stage1_ap"] and rewinds:
                progress["best_stage1_ap"] = ap
                self.folder.save_state(self.folder.best_stage1, self.step.state_dict())
        elif not improved and train.ema_restart_decay is not None:
            best = self._stored(self.folder.best_stage1)
            if best is None:
                return
            # Stage 2 that does not help starts again from the best of stage 1, with a shorter memory.
            self.step.load_state_dict(best)
            progress["ema_decay"] -= 0.0001
            if not train.faithful:
                self.ema.decay = progress["ema_decay"]

    def _begin_stage2(self) -> None:
        train = self.recipe.train
        if train.ema_restart_decay is None:
            return
        best = self._stored(self.folder.best_stage1)
        if best is not None:
            self.step.load_state_dict(best)
        self.progress["ema_decay"] = train.ema_restart_decay
        if not train.faithful:  # the published code lowers a number that its schedule no longer reads
            self.ema.decay = train.ema_restart_decay

    def _stored(self, path: Path) -> dict[str, Any] | None:
        """A state file, read by rank 0 for all."""
        return self.ranks.on_first(lambda: load_state(path) if path.exists() else None)

    def _save(self) -> None:
        state = self.step.state_dict() | {"progress": self.progress, "ema_decay_in_use": self.ema.decay}
        self.folder.save_state(self.folder.last, state | {"step": self._step_number()})

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.step.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder.last}: not a state of this run ({str(error).splitlines()[0]}); choose another --out"
            ) from error
        self.progress |= state["progress"]
        self.ema.decay = state["ema_decay_in_use"]
        unscored = self.progress["step_in_epoch"] == self.loader.steps_per_epoch  # saved between epoch and evaluation
        self.folder.forget_rows_after(state["step"] - 1, self.progress["epoch"] if unscored else None)
        log.info("resuming %s at epoch %d", self.folder.path, self.progress["epoch"] + 1)

    def _step_number(self) -> int:
        return self.progress["epoch"] * self.loader.steps_per_epoch + self.progress["step_in_epoch"]

    def _save_model(self) -> None:
        if not self.ranks.first:
            return
        save_weights(
            self.folder.model, self.ema.module, data=self.recipe.data,
            category_names=self.plan.train.category_names, category_ids=self.plan.train.category_ids,
        )  # fmt: skip

    def _finish(self, metrics: dict[str, CocoMetrics]) -> dict[str, Any]:
        if not metrics:  # killed between the last state and here
            row = [row for row in self.folder.read_rows() if row["kind"] == "eval"][-1]
            numbers = {name: row[name] for name in ("ema", "raw")}
        else:
            numbers = {name: value.to_dict() for name, value in metrics.items()}
        best_ap = self.progress["best_ap"]  # below 0 where there was nothing to measure
        result = {
            "ap": None if best_ap < 0 else best_ap, "best_epoch": self.progress["best_epoch"], "last": numbers,
            "sessions": [row for row in self.folder.read_rows() if row["kind"] == "session"],
            "steps": self.total, "skipped_steps": self.progress["skipped"],
            "overflowed_steps": self.progress["overflowed"], "seconds": self.progress["seconds"],
            **over_a_run(self.folder.read_rows()), "compiled": getattr(self.model, "compiled", False),
            **json.loads(self.folder.about.read_text(encoding="utf-8")),
        }  # fmt: skip
        self.folder.write_json(self.folder.result, result)
        return result
