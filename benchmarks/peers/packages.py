"""`pydfine` and `dfine-seg`: models of the shape of ours out of a folder, each in a process of its own.

The folders are made by pip, apart from our environment, and are on no path but that of their process:

    pip install --target pydfine --no-deps pydfine
    pip install --target dfine_seg --no-deps dfine-seg loguru opencv-python-headless
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.cases import Case, Clock

PACKAGES = ("pydfine", "dfine-seg")
SEED = 1  # of the denoising draws


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--pydfine` and `--dfine-seg`, from the variables PYDFINE and DFINE_SEG where they are not given."""
    for name in PACKAGES:
        variable = name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}", type=Path, default=os.environ.get(variable) or None,
            help=f"folder that `pip install --target FOLDER --no-deps {name}` has made",
        )  # fmt: skip


def _pydfine(case: Case) -> tuple[nn.Module, nn.Module]:
    from dfine import DFINEConfig
    from dfine.backends.native import DFINE, DFINECriterion

    config = DFINEConfig.preset(
        case.size, imgsz=case.side, backbone_pretrained=False, num_queries=case.recipe.model.num_queries
    )
    return DFINE.from_config(config), DFINECriterion.from_config(config)


def _dfine_seg(case: Case) -> tuple[nn.Module, nn.Module]:
    from dfine_seg.model.dfine import build_loss, build_model

    size = [case.side, case.side]
    return build_model(case.size, 80, False, "cpu", img_size=size), build_loss(case.size, 80, 0.0, False)


def _ours(case: Case) -> tuple[nn.Module, nn.Module]:
    from dfine_lib.criterion import build_criterion

    return case.model(), build_criterion(case.recipe)


_BUILD = {"pydfine": _pydfine, "dfine-seg": _dfine_seg, "ours": _ours}


class Side:
    """One implementation at work in a process of its own, by turns.

    Args:
        name: of `PACKAGES`, or "ours".
        folder: where the package lies; None for ours.
        case: model and batch.
        work: "forward" (evaluation, deployed form) or "step" (forward pass, criterion with matching, backward pass).
        threads: of torch.
    """

    def __init__(self, name: str, folder: Path | None, case: Case, work: str, threads: int) -> None:
        self._here, there = multiprocessing.Pipe()
        about = (name, folder and str(folder), case, work, threads, there)
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=about, daemon=True)
        process.start()
        there.close()
        try:
            self.version, self.answer = self._here.recv()  # {name: tensor or number} of the first call
        except EOFError:
            raise SystemExit(f"{name}: could not be run, see above") from None

    def __call__(self) -> dict[str, float]:
        self._here.send(True)
        return self._here.recv()

    def end(self) -> None:
        """Let the process go."""
        self._here.send(False)


def _serve(name: str, folder: str | None, case: Case, work: str, threads: int, there: Any) -> None:
    version = ""
    if folder is not None:
        sys.path.insert(0, folder)
        found = importlib.metadata.distributions(name=name, path=[folder])
        version = next((d.version for d in found), "(version unknown)")
    torch.set_num_threads(threads)
    run = answer_of(name, work, case)
    there.send((version, run(Clock())))
    while there.recv():
        clock = Clock()
        run(clock)
        there.send(clock.parts)


def answer_of(name: str, work: str, case: Case) -> Callable[[Clock], dict[str, Any]]:
    """What one turn of `Side` calls, in this process: returns its answer, and puts its seconds by part on the clock."""
    model, criterion = _BUILD[name](case)
    if name != "ours":  # the weights of ours; what is computed from the shape stays theirs
        weights, own = case.model().state_dict(), model.state_dict()
        model.load_state_dict(weights | {key: value for key, value in own.items() if key not in weights})
    return (_forward if work == "forward" else _step)(name, model, criterion, case)


def _forward(name: str, model: nn.Module, _: nn.Module, case: Case) -> Callable[[Clock], dict[str, Any]]:
    model.eval()
    if name == "ours":
        from dfine_tools.deploy import deploy_mode

        model = deploy_mode(model).to(memory_format=torch.channels_last)
    else:
        model.deploy()
    images = case.data().images

    @torch.inference_mode()
    def run(clock: Clock) -> dict[str, Tensor]:
        with clock("forward"):
            found = model(images)
        take = found.get if isinstance(found, dict) else lambda key: getattr(found, key)
        return {key: take(key).clone() for key in ("pred_logits", "pred_boxes")}

    return run


def _step(name: str, model: nn.Module, criterion: nn.Module, case: Case) -> Callable[[Clock], dict[str, Any]]:
    batch = case.data()
    targets = list(batch.targets)
    model.train()
    if name == "ours":
        model.to(memory_format=torch.channels_last)

    def run(clock: Clock) -> dict[str, float]:
        torch.manual_seed(SEED)
        with clock("forward"):
            outputs = model(batch.images, targets=targets)
        with clock("criterion"):
            losses = criterion(outputs, targets)
            loss = sum(losses.values())
        with clock("backward"):
            model.zero_grad(set_to_none=True)
            loss.backward()
        start = time.perf_counter()
        numbers = {key: float(value.detach()) for key, value in losses.items()}
        clock.parts["backward"] += time.perf_counter() - start
        return numbers

    return run
