"""Weights in and out of files. Nothing here runs code from a file: safetensors, or `torch.load(weights_only=True)`."""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dfine_lib.config import DataConfig, ModelConfig
from dfine_lib.files import write_atomically
from dfine_lib.model.class_rows import WeightsError, by_class, carried_rows, source_rows
from dfine_lib.model.decoder import DERIVED_KEYS

log = logging.getLogger(__name__)
# Frozen norms do not count batches, trained ones do; nothing depends on the count.
_NOT_COMPARED = (*DERIVED_KEYS, "num_batches_tracked")


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict and what its file says about it."""

    path: Path
    state_dict: dict[str, Tensor]
    category_names: tuple[str, ...] = ()  # one for each class row, "" for a row of no class; () where not known
    category_ids: tuple[int, ...] = ()  # one for each name that is not ""; () where not known
    model: ModelConfig | None = None
    data: DataConfig | None = None
    # The class to take in place of one that the file does not have, as COCO's "person" is "Person" in Objects365.
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def backbone_only(self) -> bool:
        """Whether this is a pretrained backbone without encoder and decoder."""
        return "stem.stem1.conv.weight" in self.state_dict

    @property
    def num_classes(self) -> int | None:
        """Rows of the class heads."""
        bias = self.state_dict.get("decoder.enc_score_head.bias")
        return None if bias is None else len(bias)

    def model_config(self, config: ModelConfig | None = None) -> ModelConfig:
        """Shape of the model: `config` with as many classes as the file has rows, or else what the file says.

        Raises:
            WeightsError: the file does not say it, and no `config` is given.
        """
        if config is not None:
            return replace(config, num_classes=self.num_classes or config.num_classes)
        if self.model is None:
            words = "the file does not say which model it is of, and no recipe was given"
            raise WeightsError(f"{self.path}: {words}", "name_recipe", source=self.path)
        return self.model


def read_weights(path: str | Path) -> Weights:
    """Read a file: our `.safetensors`, or an authors' `.pth` (its EMA weights where it holds them).

    Raises:
        WeightsError: missing, damaged, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file. Give a .safetensors or .pth file that exists.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("dfine", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: damaged or not a safetensors file ({error}). Fetch or write it again.") from error
    tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    try:
        names, ids = tuple(about.get("category_names", ())), tuple(about.get("category_ids", ()))
        return Weights(path, tensors, names, ids, **configs_of(about))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: written by another version of this library ({error}).") from error


def _read_pytorch(path: Path) -> Weights:
    """The EMA weights of a checkpoint, else its model, else the file is the state dict itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that the next lines refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in whatever way its bytes happen to lead to
        raise _not_opened(path, error) from error
    content = content if isinstance(content, dict) else {}
    state = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), dict)), content)
    state = state.get("module", state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: no state dict of a model found in it.")
    return Weights(path, {key.removeprefix("module."): value for key, value in state.items()})


def _not_opened(path: Path, error: Exception) -> WeightsError:
    """The error in our words, without torch's advice to open the file all the same."""
    with open(path, "rb") as file:  # of a zip archive, or of a pickle of protocol 2 or later
        starts_like_pytorch = file.read(2).startswith((b"PK", b"\x80"))
    if isinstance(error, pickle.UnpicklingError) and starts_like_pytorch:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        return WeightsError(
            f"{path}: holds more than tensors{f' ({blocked[1]})' if blocked else ''}, so it is not opened: it could "
            "run code. Save its state dict alone, or as safetensors."
        )
    words = f"{path}: damaged or not a weights file. Fetch it again, or give a .safetensors or .pth file"
    return WeightsError(words, None if path.suffix.lower() in (".pth", ".pt") else "exported_file")


def configs_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The configs in JSON, which has no tuples."""
    classes = {"model": ModelConfig, "data": DataConfig}
    return {
        key: of(**{field: tuple(v) if isinstance(v, list) else v for field, v in about[key].items()})
        for key, of in classes.items() if key in about
    }  # fmt: skip


def save_weights(
    path: str | Path, model: nn.Module, *, data: DataConfig, category_names: tuple[str, ...],
    category_ids: tuple[int, ...], half: bool = False,
) -> Path:  # fmt: skip
    """Write a model as safetensors with everything needed to use it again; the file appears whole or not at all.

    Args:
        category_names: one for each class row; empty where they are not known.
        category_ids: one for each name.
        half: store floating-point tensors as float16.

    Raises:
        WeightsError: another number of names than the model has class rows, or of ids than names.
    """
    path, count = Path(path), len(category_names)
    if count not in (0, model.config.num_classes) or len(category_ids) not in (0, count):
        raise WeightsError(
            f"{path}: {count} class names and {len(category_ids)} category ids, for {model.config.num_classes} classes"
        )
    about = {
        "model": asdict(model.config), "data": asdict(data),
        "category_names": list(category_names), "category_ids": [int(i) for i in category_ids],
    }  # fmt: skip
    state = {
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in model.state_dict().items()
    }
    write_atomically(path, save(state, {"dfine": json.dumps(about)}))
    return path


def load_weights(
    model: nn.Module, weights: Weights, category_names: tuple[str, ...] = (), rows: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Fill a model; where its classes are others than the file's, carry over the rows of classes that both know.

    Rows are matched by class name, or else by `weights.aliases`. A file without class names is taken in the order of
    its rows where it has as many as the model, or not at all, with a warning. Rows without a match, and the denoising
    embedding, keep their fresh values. Weights of a backbone alone fill the backbone.

    Args:
        model: to be filled.
        weights: from `read_weights`.
        category_names: the model's classes, in the order of its rows; empty: the classes are the file's.
        rows: the file's class for a class of the model, by name, where names differ: `{"taxi": "car"}`; of a file
            without names the number of the row, from 0: `{"taxi": "2"}`.

    Returns:
        `{"rows": {class of the model: class of the file, or number of its row if it has no names, or None}}`; empty
        where every row was taken as it is, by equal names.

    Raises:
        WeightsError: a model of another size (the first entries that differ are named) or with other bins; another
            number of classes without names for them; a class in `rows` that the model or the file does not have.
    """
    path, rows, report = weights.path, rows or {}, {}
    if weights.backbone_only:
        if rows:
            raise WeightsError(f"{path}: a backbone alone has no classes to take, and rows were asked of it.")
        backbone = f"backbone than this model's {model.config.backbone}"
        model.backbone.load_state_dict(_fitting(model.backbone, weights, backbone))
        log.info("%s: the backbone is filled; encoder and decoder are fresh", path)
        return {"backbone": str(path)}
    bins = model.config.uniform_bins
    if weights.model is not None and weights.model.uniform_bins != bins:  # the shape of no entry shows it
        words = f"{path}: weights of another model, trained with uniform_bins={not bins}, for one with "
        raise WeightsError(f"{words}uniform_bins={bins}", "uniform_bins", value=str(not bins).lower())
    state = _fitting(model, weights, "model")
    num_rows, stored_names = weights.num_classes, weights.category_names
    if len(stored_names) != num_rows:
        stored_names = ()
    as_it_is = category_names in ((), stored_names) and num_rows == model.config.num_classes
    if rows or not as_it_is:
        if not rows and not category_names:
            raise WeightsError(
                f"{path}: {num_rows} class rows, for a model with {model.config.num_classes} whose classes "
                "are not named. Name them, or build the model with as many."
            )
        sources = source_rows(path, stored_names, num_rows, category_names, rows, weights.aliases)
        state |= carried_rows(model.state_dict(), state, sources)
        names = stored_names or range(num_rows)
        taken = {name: None if j is None else names[j] for name, j in zip(category_names, sources, strict=True)}
        report = {"rows": taken}
        carried, fresh = (", ".join(n for n in taken if (taken[n] is None) == new) or "none" for new in (False, True))
        log.info("%s: classes carried over: %s; fresh: %s", path, carried, fresh)
    model.load_state_dict(state)
    return report


def _fitting(module: nn.Module, weights: Weights, what: str) -> dict[str, Tensor]:
    """The file's entries for a module, one for each of its own; class rows may be of another number."""
    own, stored = module.state_dict(), weights.state_dict
    if weights.backbone_only:  # its file holds a classifier too
        stored = {key: stored[key] for key in own if key in stored}
    wanted, found = (
        {k: "rows" if by_class(k) else list(v.shape) for k, v in entries.items() if not k.endswith(_NOT_COMPARED)}
        for entries in (own, stored)
    )
    other = [key for key in wanted | found if wanted.get(key) != found.get(key)]
    if other:
        shapes = (f"{key}: {found.get(key, 'missing')}, expected {wanted.get(key, 'none')}" for key in other[:3])
        raise WeightsError(
            f"{weights.path}: weights of another {what}. {len(other)} entries differ, first {'; '.join(shapes)}. "
            "Choose the recipe of the size that these weights were trained with."
        )
    return {key: stored.get(key, value) for key, value in own.items()}
