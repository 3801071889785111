"""The authors' code, from a checkout of github.com/Peterande/D-FINE: built to the shape of one of our models."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfine_lib.config import Recipe
from dfine_lib.model.dfine import DFINE

PACKAGE = "authors_src"  # what their `src` is called here
NAME = "the authors' code"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """`--authors`, from the variable AUTHORS where it is not given."""
    parser.add_argument(
        "--authors", type=Path, default=os.environ.get("AUTHORS") or None, help="folder that holds src/zoo/dfine"
    )


def asked_for(options: argparse.Namespace) -> Authors | None:
    """What `--authors` names; says so where it was not given."""
    if options.authors is None:
        print("left out: it needs --authors, a checkout of the authors' code")
        return None
    return Authors(options.authors)


class Authors:
    """Their classes. Only the files that hold them are run, not the packages' `__init__`, which want all of theirs."""

    def __init__(self, checkout: str | Path) -> None:
        self.checkout = Path(checkout)
        source = self.checkout / "src"
        if not (source / "zoo" / "dfine" / "dfine_decoder.py").exists():
            raise SystemExit(f"{source}/zoo/dfine/dfine_decoder.py: not there; --authors takes a checkout of D-FINE")
        folders = ["", "core", "misc", "nn", "nn/backbone", "optim", "zoo", "zoo/dfine", "data"]
        for folder in folders:
            name = ".".join([PACKAGE, *filter(None, folder.split("/"))])
            package = sys.modules[name] = types.ModuleType(name)
            package.__path__ = [str(source / folder)]
        sys.modules[f"{PACKAGE}.core"].register = lambda *_, **__: lambda thing: thing
        sys.modules[f"{PACKAGE}.data"].DataLoader = None  # named by their dist_utils, never used here
        sys.modules[f"{PACKAGE}.misc"].dist_utils = self._module("misc.dist_utils")
        self.dfine = self._module("zoo.dfine.dfine").DFINE
        self.backbone = self._module("nn.backbone.hgnetv2").HGNetv2
        self.encoder = self._module("zoo.dfine.hybrid_encoder").HybridEncoder
        self.decoder = self._module("zoo.dfine.dfine_decoder").DFINETransformer
        self.criterion_class = self._module("zoo.dfine.dfine_criterion").DFINECriterion
        self.matcher = self._module("zoo.dfine.matcher").HungarianMatcher
        self.ema_class = self._module("optim.ema").ModelEMA

    @staticmethod
    def _module(name: str) -> types.ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    def model(self, ours: DFINE, image_size: int) -> nn.Module:
        """Their model of the same shape and with the same weights as ours."""
        config, strides = ours.config, list(ours.config.feat_strides)
        levels, dim = len(strides), config.encoder_dim
        backbone = self.backbone(
            name=config.backbone, use_lab=config.use_lab, return_idx=list(range(4 - levels, 4)), pretrained=False,
            freeze_at=0 if config.freeze_stem else -1, freeze_norm=config.freeze_norm,
        )  # fmt: skip
        encoder = self.encoder(
            in_channels=ours.backbone.out_channels, feat_strides=strides, hidden_dim=dim, nhead=config.num_heads,
            dim_feedforward=config.encoder_feedforward, use_encoder_idx=[levels - 1],
            expansion=config.encoder_expansion, depth_mult=config.encoder_depth_mult,
            eval_spatial_size=[image_size] * 2,
        )  # fmt: skip
        decoder = self.decoder(
            num_classes=config.num_classes, hidden_dim=config.hidden_dim, num_queries=config.num_queries,
            feat_channels=[dim] * levels, feat_strides=strides, num_levels=levels,
            num_points=list(config.points_per_level), nhead=config.num_heads, num_layers=config.num_decoder_layers,
            dim_feedforward=config.feedforward, num_denoising=config.num_denoising,
            eval_spatial_size=[image_size] * 2, reg_max=config.reg_max, reg_scale=config.reg_scale,
        )  # fmt: skip
        theirs = self.dfine(backbone, encoder, decoder)
        weights, own = ours.state_dict(), theirs.state_dict()
        derived = {name: value for name, value in own.items() if name not in weights}
        theirs.load_state_dict(weights | derived)
        return theirs

    def criterion(self, recipe: Recipe) -> nn.Module:
        """Their criterion and matcher with a recipe's weights."""
        loss = recipe.loss
        matcher = self.matcher(
            {"cost_class": loss.cost_class, "cost_bbox": loss.cost_bbox, "cost_giou": loss.cost_giou},
            use_focal_loss=True, alpha=loss.cost_alpha, gamma=loss.cost_gamma,
        )  # fmt: skip
        weights = {f"loss_{kind}": getattr(loss, kind) for kind in ("vfl", "bbox", "giou", "fgl", "ddf")}
        return self.criterion_class(
            matcher, weights, ["vfl", "boxes", "local"], alpha=loss.vfl_alpha, gamma=loss.vfl_gamma,
            num_classes=recipe.model.num_classes, reg_max=recipe.model.reg_max,
        )  # fmt: skip

    def ema(self, model: nn.Module, recipe: Recipe) -> Any:
        """Their average of the weights."""
        return self.ema_class(model, decay=recipe.train.ema_decay, warmups=recipe.train.ema_ramp)

    def optimizer(self, model: nn.Module, groups: list[dict], ours: DFINE) -> torch.optim.Optimizer:
        """AdamW as their configurations make it, over the same groups as ours."""
        names = {id(parameter): name for name, parameter in ours.named_parameters()}
        own = dict(model.named_parameters())
        groups = [group | {"params": [own[names[id(p)]] for p in group["params"]]} for group in groups]
        return torch.optim.AdamW(groups, lr=groups[0]["lr"], betas=(0.9, 0.999))


def step(
    model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, ema: Any, clip: float,
    images: Tensor, targets: list[dict[str, Tensor]], clock: Any, scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:  # fmt: skip
    """One step as in their `train_one_epoch`, in float32, or with a scaler in AMP; the losses as numbers, as they log.

    AMP is autocast in the device's own type, float16 on a GPU.
    """
    with clock("forward"), torch.autocast(images.device.type, enabled=scaler is not None):
        outputs = model(images, targets=targets)
        if scaler is not None and (outputs["pred_boxes"].isnan().any() or outputs["pred_boxes"].isinf().any()):
            raise ArithmeticError("the authors' boxes are not finite")
    with clock("criterion"):
        losses = criterion(outputs, targets)
        loss = sum(losses.values())
    with clock("backward"):
        optimizer.zero_grad()
        (loss if scaler is None else scaler.scale(loss)).backward()
    with clock("optimizer"):
        if scaler is not None:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    with clock("average"):
        ema.update(model)
    return {name: value.item() for name, value in losses.items()}
