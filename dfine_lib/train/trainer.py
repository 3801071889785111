"""The training loop: from a data set and a recipe to a run folder that can be resumed, repeated and used."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dfine_lib import __version__
from dfine_lib.config import Recipe
from dfine_lib.criterion import Criterion
from dfine_lib.data.samples import Batch
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.data.source import CocoFolder
from dfine_lib.device import describe_device, pick_device, set_backends, usable_precision
from dfine_lib.distributed import Ranks, current_ranks
from dfine_lib.errors import DfineError
from dfine_lib.evaluate.coco_ap import CocoEvaluator, evaluate_model
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import Weights, load_weights, read_weights, save_weights
from dfine_lib.recipes import get_recipe
from dfine_lib.train.callback import RunCallback
from dfine_lib.train.checkpoint import CheckpointError, load_state
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.meter import Meter, memory_mb
from dfine_lib.train.optim import build_optimizer, lr_multiplier
from dfine_lib.train.run_folder import RunFolder, read_rows
from dfine_lib.train.run_plan import RunPlan, plan_run
from dfine_lib.train.stages import Action, Progress, after_evaluation, begin_epoch
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
    read: Callable[[Path], Weights] = read_weights,
    forms: Sequence[Form] = (),
    source: CocoFolder | None = None,
    callback: RunCallback | None = None,
) -> dict[str, Any]:
    """Train, or resume a run that was stopped; of a finished run only the result is returned.

    Several processes that have joined (`dfine_tools.runs.processes.joined_processes`) train as one: each batch is
    sharded over ranks, and rank zero writes the folder.

    Args:
        recipe: a name or a recipe.
        data: what `source` opens; for a `CocoFolder` what `find_split` understands.
        out: the run folder.
        seed: of weights, order, augmentation and denoising. A run is a function of recipe, data and seed: bit for bit
            on a CPU, up to floating-point error on a GPU, where sums have no fixed order.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        resume: resume from `last.pt` if there is one; False: a folder that holds a run is refused.
        weights: fine-tune from this file; None: train from scratch.
        class_rows: the class of the weights file to take for a class of the data, where names differ:
            `{"taxi": "car"}`.
        read: opens the weights file; `dfine_tools.weights.sources.read` knows the classes of published files too.
        forms: functions of model, recipe and device, called in this order once the model is on its device. Each may
            change how the model computes (never what), and returns whether it did.
        source: opens the data and makes the loaders; None: a `CocoFolder`.
        callback: what is called during the run, on rank zero; None: nothing is.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: anything wrong with recipe, data, weights or an earlier run in the folder; nothing was trained.
        OSError: the folder cannot be written.
        NonFiniteLoss: the loss stayed non-finite; `last.pt` holds the last good state.
    """
    ranks = current_ranks()
    where = pick_device(device, ranks)
    recipe = get_recipe(recipe)
    if recipe.train.precision is None:
        precision = ranks.on_rank_zero(RunFolder(out, writes=False).precision) or usable_precision(None, where)
        recipe = replace(recipe, train=replace(recipe.train, precision=precision))
    plan = plan_run(recipe, Path(data), seed=seed, weights=weights, class_rows=class_rows, source=source)
    folder = RunFolder(out, writes=ranks.is_zero)
    callback = callback if callback and ranks.is_zero else RunCallback()
    try:
        callback.open(folder.path)
        result = ranks.on_rank_zero(lambda: _earlier_result(plan, folder, resume))
        return _Run(plan, folder, where, ranks, read, forms, callback).train() if result is None else result
    finally:
        callback.end()


def _earlier_result(plan: RunPlan, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The result of the run, if it is finished; an error where the folder holds another one or none may be resumed."""
    plan.check_same_run(folder)
    if not resume and (folder.last.exists() or folder.result.exists()):
        raise DfineError(f"{folder.path} already holds a run", "other_out")
    if not folder.result.exists():
        return None
    log.info("%s is finished; nothing to train", folder.path)
    return json.loads(folder.result.read_text(encoding="utf-8"))


class _Run:
    """Model, optimizer, EMA and loaders of one run, from scratch or as the run folder's state says."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        device: torch.device,
        ranks: Ranks,
        read: Callable[[Path], Weights],
        forms: Sequence[Form],
        callback: RunCallback,
    ) -> None:
        self.plan, self.recipe, self.folder, self.device, self.ranks = plan, plan.recipe, folder, device, ranks
        self.callback = callback
        recipe = plan.recipe
        state = self._stored(folder.last)
        stored = read(plan.weights) if plan.weights and state is None else None
        self.evaluator = CocoEvaluator(plan.val, plan.train.category_ids)
        for index in (plan.train, plan.val):
            # Decoding every image takes minutes on large sets; missing, cut-off and missized ones are always found.
            every = state is None and len(index) <= DECODE_UP_TO
            ranks.on_rank_zero(lambda index=index, every=every: plan.source.check(index, every))
        self.model, class_rows = self._model(stored, fresh=state is None)
        put_on = [form.__name__ for form in forms if form(self.model, recipe, device)]
        numerics = set_backends(recipe.train.matmul_precision, device, recipe.train.cudnn_benchmark)
        self.precision = usable_precision(recipe.train.precision, device)
        log.info("training in %s on %s", self.precision, describe_device(device))
        config = replace(recipe.train, precision=self.precision)
        self.optimizer = build_optimizer(self.model, config)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = ModelEMA(self.model, config)
        self.step = TrainStep(self.model, Criterion(recipe.loss), self.optimizer, self.ema, config, device, ranks)
        shard = {"rank": ranks.rank, "world_size": ranks.size, "device": device}
        self.loader = plan.source.train_loader(plan.train, recipe, seed=plan.seed, **shard)
        self.val_loader = plan.source.eval_loader(plan.val, recipe, **shard)
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.total = self.steps_per_epoch * recipe.train.epochs
        self.skipped_in_a_row = 0
        self.progress = Progress(ema_decay=self.ema.decay)
        here = {
            "device": describe_device(device), "versions": {"dfine_lib": __version__, "torch": torch.__version__},
            **callback.describe(device), "processes": ranks.size,
            "numerics": numerics | {"precision": self.precision}, "forms": put_on,
        }  # fmt: skip
        if state is None:
            paths = {"data": str(plan.train.annotation_file), "weights_file": str(plan.weights or "")}
            folder.begin(plan.identity() | paths | {"class_rows": class_rows} | here)
            self._save()
        else:
            self._restore(state)
        callback.begin(folder.path, self._steps())
        self._record({"kind": "session", "step": self._steps(), **here})

    def _model(self, stored: Weights | None, fresh: bool) -> tuple[DFINE, dict[str, Any]]:
        """The model on its device, and which class rows came from the weights file."""
        plan, class_rows = self.plan, {}
        torch.manual_seed(derived_seed(Draw.WEIGHTS, plan.seed))
        model = DFINE.from_recipe(self.recipe)
        if stored is not None:
            class_rows = load_weights(model, stored, plan.train.category_names, plan.class_rows)
        elif fresh and self.recipe.model.freeze_norm:
            log.warning(
                "%s was published with a pretrained backbone whose batch norms stay frozen; from scratch it learns "
                "slowly at best. Start from pretrained weights, or set model.freeze_norm and model.freeze_stem to "
                "false",
                self.recipe.name,
            )
        if self.ranks.size > 1 and self.device.type == "cuda":  # torch synchronises batch norms on GPUs only
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model.to(self.device, memory_format=torch.channels_last), class_rows

    def train(self) -> dict[str, Any]:
        """All epochs that are still to do."""
        config = self.recipe.train
        for epoch in range(self.progress.epoch, config.epochs):
            self._apply(begin_epoch(config, self.progress))
            self._train_epoch(epoch)
            if (epoch + 1) % config.evaluate_every == 0 or epoch + 1 == config.epochs:
                self._save(step_in_epoch=self.steps_per_epoch)  # if the evaluation fails, the epoch is not lost
                self._evaluate(epoch)
            self._save(epoch=epoch + 1, step_in_epoch=0)
        return self.ranks.on_rank_zero(self._finish)

    def _train_epoch(self, epoch: int) -> None:
        config, first = self.recipe.train, self.progress.step_in_epoch
        batches = self.loader.epoch(epoch, first * config.accumulate)
        self.model.train()
        bar = tqdm(
            range(first, self.steps_per_epoch), initial=first, total=self.steps_per_epoch, unit="step",
            desc=f"epoch {epoch + 1}/{config.epochs}", dynamic_ncols=True, mininterval=1.0,
            disable=not self.ranks.is_zero,
        )  # fmt: skip
        meter, saved = Meter(self.device), time.perf_counter()
        for i in bar:
            number, last = epoch * self.steps_per_epoch + i, i + 1 == self.steps_per_epoch
            before = time.perf_counter()
            micro_batches = [next(batches) for _ in range(config.accumulate)]
            meter.add(sum(map(len, micro_batches)) * self.ranks.size, time.perf_counter() - before)
            factor = lr_multiplier(config, number, self.total)
            for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = lr * factor
            # Denoising draws are a function of seed and step, different on each rank.
            torch.manual_seed(derived_seed(Draw.NOISE, self.plan.seed, number) + self.ranks.rank)
            result = self.step(micro_batches)
            position = {"step": number, "epoch": epoch}
            self._note_skipped(result, position, micro_batches)
            if (number + 1) % ROW_EVERY == 0 or last:
                self._record_step(result, position | {"lr": config.lr * factor, **meter.read()}, bar)
            if time.perf_counter() - saved > STATE_EVERY and not last:
                self._save(epoch=epoch, step_in_epoch=i + 1)
                saved = time.perf_counter()

    def _record_step(self, result: StepResult, measured: dict[str, Any], bar: tqdm) -> None:
        self.progress = replace(self.progress, seconds=self.progress.seconds + measured["seconds"])
        row = {"kind": "train", **measured, "total": self.total, "loss": result.loss, "losses": result.losses}
        row["grad_norm"] = result.grad_norm
        if self.precision == "fp16":
            row["overflowed_steps"] = self.progress.overflowed
        self._record(row)
        ap = f"AP {self.progress.best_ap:.3f}, " if self.progress.best_ap >= 0 else ""
        left = tqdm.format_interval((self.total - measured["step"] - 1) * measured["seconds_per_step"])
        waiting = f"waiting for data {measured['data_wait_share']:.0%}"
        bar.set_postfix_str(f"loss {result.loss:.2f}, {ap}{waiting}, {left} left")

    def _record(self, row: dict[str, Any]) -> None:
        self.folder.record(row)
        self.callback.after_row(row)

    def _note_skipped(self, result: StepResult, position: Mapping[str, int], micro_batches: Sequence[Batch]) -> None:
        """Count a step that was skipped and say why; end the run when too many consecutive steps were."""
        number = position["step"]
        if result.overflowed:
            self.progress = replace(self.progress, overflowed=self.progress.overflowed + 1)
            log.info("step %d skipped: its gradients overflow in fp16; the loss scale is halved", number)
        if not result.non_finite:
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        self.progress = replace(self.progress, skipped=self.progress.skipped + 1)
        own = [int(i) for batch in micro_batches for i in batch.image_ids]
        image_ids = [i for ids in self.ranks.gather(own) for i in ids]
        terms = ", ".join(result.non_finite)
        log.warning("step %d skipped: %s not finite; images %s", number, terms, image_ids)
        self._record({"kind": "skipped", **position, "terms": list(result.non_finite), "image_ids": image_ids})
        if self.skipped_in_a_row >= self.recipe.train.max_skipped_steps:
            raise NonFiniteLoss(
                f"{self.skipped_in_a_row} consecutive steps were not finite, the last at step {number} in {terms} "
                f"(images {image_ids[:8]}). Look at those images",
                "lower_lr", lr=f"{self.recipe.train.lr / 3:.1g}", weights=self.folder.model,
            )  # fmt: skip

    def _evaluate(self, epoch: int) -> None:
        start, models = time.perf_counter(), {"ema": self.ema.module, "raw": self.model}
        metrics = {
            name: evaluate_model(model, self.val_loader, self.evaluator, self.device, ranks=self.ranks)
            for name, model in models.items()
        }
        seconds = time.perf_counter() - start
        row = {"step": (epoch + 1) * self.steps_per_epoch - 1, "epoch": epoch}
        self.callback.after_evaluation(models["ema"], self.val_loader, row)
        self._record({
            "kind": "eval", **row, "seconds": seconds,
            "images_per_second": len(models) * len(self.plan.val) / seconds, "memory_mb": memory_mb(self.device),
            **{name: value.to_dict() for name, value in metrics.items()},
        })  # fmt: skip
        ap = self.ranks.on_rank_zero(lambda: metrics["ema"].ap)  # NaN if the split has no box
        self.progress = replace(self.progress, seconds=self.progress.seconds + seconds)
        self._apply(after_evaluation(self.recipe.train, self.progress, ap))

    def _apply(self, action: Action) -> None:
        """Do with weights, state and EMA what the stage has decided."""
        self.progress = action.progress
        if action.keep_weights and self.ranks.is_zero:
            train = self.plan.train
            save_weights(
                self.folder.model, self.ema.module, data=self.recipe.data,
                category_names=train.category_names, category_ids=train.category_ids,
            )  # fmt: skip
        if action.keep_stage1:
            self.folder.save_state(self.folder.best_stage1, self.step.state_dict())
        if action.rewind and (best := self._stored(self.folder.best_stage1)) is not None:
            self.step.load_state_dict(best)
        if action.ema_decay is not None:
            self.ema.decay = action.ema_decay

    def _steps(self) -> int:
        """Optimizer steps taken since the start of the run."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step_in_epoch

    def _stored(self, path: Path) -> dict[str, Any] | None:
        """A state file, read by rank zero for all."""
        return self.ranks.on_rank_zero(lambda: load_state(path) if path.exists() else None)

    def _save(self, **position: int) -> None:
        self.progress = replace(self.progress, **position)
        state = self.step.state_dict() | {"progress": asdict(self.progress), "ema_decay_in_use": self.ema.decay}
        self.folder.save_state(self.folder.last, state | {"step": self._steps()})

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.step.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{self.folder.last}: not a state of this run ({reason})", "other_out") from error
        self.progress = replace(self.progress, **state["progress"])
        self.ema.decay = state["ema_decay_in_use"]
        not_evaluated = self.progress.step_in_epoch == self.steps_per_epoch
        self.folder.forget_rows_after(state["step"] - 1, self.progress.epoch if not_evaluated else None)
        log.info("resuming %s at epoch %d", self.folder.path, self.progress.epoch + 1)

    def _finish(self) -> dict[str, Any]:
        rows, progress = read_rows(self.folder.rows), self.progress
        train_rows, evaluations, sessions = ([r for r in rows if r["kind"] == k] for k in ("train", "eval", "session"))
        memory = [row["memory_mb"] for row in rows if row.get("memory_mb") is not None]
        result = {
            "ap": None if progress.best_ap < 0 else progress.best_ap, "best_epoch": progress.best_epoch,
            "last": {name: evaluations[-1][name] for name in ("ema", "raw")}, "sessions": sessions,
            "steps": self.total, "skipped_steps": progress.skipped, "overflowed_steps": progress.overflowed,
            "seconds": progress.seconds, "memory_mb": max(memory, default=None),
            "images_per_second": statistics.median(row["images_per_second"] for row in train_rows),
            "compiled": getattr(self.model, "compiled", False),
            **json.loads(self.folder.about.read_text(encoding="utf-8")),
        }  # fmt: skip
        self.folder.write_json(self.folder.result, result)
        return result
