"""Weights in and out of files. Nothing here runs code from a file: safetensors, or `torch.load(weights_only=True)`."""

from __future__ import annotations

import json
import logging
import pickle
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
from dfine_lib.model.class_rows import WeightsError, by_class, of_heads, source_rows, take_rows
from dfine_lib.model.decoder import DERIVED_KEYS

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict and what its file says about it.

    Names of another number than there are class rows are dropped, and so are placeholders such as `LABEL_0`, which
    Hugging Face's port writes where it knows no names; and category ids of another number than there are names.
    """

    path: Path
    state_dict: dict[str, Tensor]
    category_names: tuple[str, ...] = ()  # one for each class row, "" for a row of no class; () where not known
    category_ids: tuple[int, ...] = ()  # one for each name that is not ""; () where not known
    model: ModelConfig | None = None
    data: DataConfig | None = None
    # The class to take in place of one that the file does not have, as COCO's "person" is "Person" in Objects365.
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names, num_rows = tuple(self.category_names), self.num_classes or 0
        if len(names) == 365 == num_rows - 1:  # Objects365
            names = (*names, "")  # trained by an earlier version: the row that stands for no class is last
        if not any(names) or names == tuple(f"LABEL_{i}" for i in range(num_rows)):
            names = ()
        elif len(names) != num_rows:
            words = "%s: has %d class rows and %d class names, so the names are not used"
            log.warning(words, self.path, num_rows, len(names))
            names = ()
        known_ids = len(self.category_ids) == sum(map(bool, names))
        object.__setattr__(self, "category_names", names)
        object.__setattr__(self, "category_ids", self.category_ids if known_ids else ())

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

    def named_rows(self) -> Weights:
        """Only the class rows that have names; all of them where the file names none."""
        named = [i for i, name in enumerate(self.category_names) if name]
        if len(named) == len(self.category_names):
            return self
        return replace(
            self,
            state_dict=take_rows(self.state_dict, named),
            category_names=tuple(self.category_names[i] for i in named),
            model=self.model and replace(self.model, num_classes=len(named)),
        )


def read_weights(path: str | Path, *, unnamed_rows: bool = False) -> Weights:
    """Read a file: our `.safetensors`, or an authors' `.pth` (its EMA weights where it holds them).

    Class rows without a name are left out here, as row 0 of the 366 rows of the published Objects365 files: no model
    that is built from what this returns can detect them.

    Args:
        path: of the file.
        unnamed_rows: keep class rows without a name; theirs is "", and they have no category id.

    Raises:
        WeightsError: missing, damaged, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file. Give a .safetensors or .pth file that exists.")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    return weights if unnamed_rows else weights.named_rows()


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
        return Weights(path, tensors, names, ids, **_configs(about))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: written by another version of this library ({error}).") from error


def _read_pytorch(path: Path) -> Weights:
    """The EMA weights of a checkpoint, else its model, else the file is the state dict itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that the next lines refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in whatever way its bytes happen to lead to
        raise _why_not_opened(path, error) from error
    state = content
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        state = content["ema"].get("module", content["ema"])
    elif isinstance(content, dict) and isinstance(content.get("model"), dict):
        state = content["model"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: no state dict of a model found in it.")
    weights = Weights(path, {key.removeprefix("module."): value for key, value in state.items()})
    about = _about_run(path.parent / "run.json") if "progress" in content else {}
    fits = about and about["model"].num_classes == weights.num_classes
    return replace(weights, **about) if fits else weights


def _about_run(file: Path) -> dict[str, Any]:
    """The state of a run of ours holds tensors only too; `run.json` in the same folder says which model they are of."""
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        configs = _configs(run["recipe"])
        return {"model": configs["model"], "data": configs["data"], "category_names": tuple(map(str, run["classes"]))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _configs(about: Mapping[str, Any]) -> dict[str, Any]:
    """The configs in JSON, which has no tuples."""
    classes = {"model": ModelConfig, "data": DataConfig}
    return {
        key: of(**{field: tuple(v) if isinstance(v, list) else v for field, v in about[key].items()})
        for key, of in classes.items() if key in about
    }  # fmt: skip


def _why_not_opened(path: Path, error: Exception) -> WeightsError:
    """The error in our words, without torch's advice to open the file all the same."""
    lines = [line.strip() for line in str(error).replace("WeightsUnpickler error:", "\n").split("\n") if line.strip()]
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation", "(1)", "(2)")
    reasons = [line for line in lines if not line.startswith(advice) and "weights_only" not in line]
    reason = (reasons or ["no reason given"])[0].removesuffix(".")
    with open(path, "rb") as file:  # of a zip archive, or of a pickle of protocol 2 or later
        starts_like_pytorch = file.read(2).startswith((b"PK", b"\x80"))
    if isinstance(error, pickle.UnpicklingError) and starts_like_pytorch:
        return WeightsError(
            f"{path}: holds more than tensors, so it is not opened: it could run code ({reason}). "
            "Save its state dict alone, or as safetensors."
        )
    if path.suffix.lower() not in (".pth", ".pt") and not starts_like_pytorch:
        return WeightsError(f"{path}: not a weights file. Weights are .safetensors or .pth files", "exported_file")
    return WeightsError(f"{path}: damaged or not a PyTorch file ({reason}). Fetch it again.")


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
        return _load_backbone(model, weights, rows)
    state = _matching_entries(model, weights)
    as_it_is = category_names in ((), weights.category_names) and weights.num_classes == model.config.num_classes
    if rows or not as_it_is:
        if not rows and not category_names:
            raise WeightsError(
                f"{path}: {weights.num_classes} class rows, for a model with {model.config.num_classes} whose classes "
                "are not named. Name them, or build the model with as many."
            )
        sources = source_rows(path, weights.category_names, weights.num_classes, category_names, rows, weights.aliases)
        state |= _carried_rows(model, state, sources)
        names = weights.category_names or range(weights.num_classes)
        taken = {name: None if j is None else names[j] for name, j in zip(category_names, sources, strict=True)}
        report = {"rows": taken}
        carried, fresh = (", ".join(n for n in taken if (taken[n] is None) == new) or "none" for new in (False, True))
        log.info("%s: classes carried over: %s; fresh: %s", path, carried, fresh)
    model.load_state_dict(state)
    return report


def _carried_rows(model: nn.Module, state: Mapping[str, Tensor], sources: list[int | None]) -> dict[str, Tensor]:
    """The entries by class of a model, with these rows of a file's; none where they are the file's as they are."""
    if sources == list(range(len(sources))) and len(sources) == len(state["decoder.enc_score_head.bias"]):
        return {}
    carried = {key: fresh.clone() for key, fresh in model.state_dict().items() if by_class(key)}
    for key in filter(of_heads, carried):
        for row, source in enumerate(sources):
            if source is not None:
                carried[key][row] = state[key][source]
    return carried


def _matching_entries(model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """The file's entries, one for each of the model's; class rows may be of another number."""
    path, bins, own = weights.path, model.config.uniform_bins, model.state_dict()
    if weights.model is not None and weights.model.uniform_bins != bins:  # the shape of no entry shows it
        raise WeightsError(
            f"{path}: weights of another model, trained with uniform_bins={weights.model.uniform_bins}, for one with "
            f"uniform_bins={bins}", "uniform_bins", value=str(not bins).lower(),
        )  # fmt: skip
    state = {key: value for key, value in weights.state_dict.items() if key.rsplit(".", 1)[-1] not in DERIVED_KEYS}
    for key in [key for key in own | state if key.endswith(".num_batches_tracked")]:
        if key in own:  # frozen norms do not count batches, trained ones do; nothing depends on the count
            state.setdefault(key, own[key])
        else:
            del state[key]
    missing, unknown = [key for key in own if key not in state], [key for key in state if key not in own]
    other = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own.keys() & state.keys() if not by_class(key) and own[key].shape != state[key].shape
    ]  # fmt: skip
    if missing or unknown or other:
        raise WeightsError(
            f"{path}: weights of another model. {_first('Missing', missing)}{_first('Not in this model', unknown)}"
            f"{_first('Of another shape', sorted(other))}Choose the recipe of the size that these weights were trained "
            "with."
        )
    return state


def _load_backbone(model: nn.Module, weights: Weights, rows: Mapping[str, str]) -> dict[str, object]:
    if rows:
        raise WeightsError(f"{weights.path}: a backbone alone has no classes to take, and rows were asked of it.")
    own, state = model.backbone.state_dict(), weights.state_dict
    counted = "num_batches_tracked"
    other = [k for k in own if not k.endswith(counted) and own[k].shape != getattr(state.get(k), "shape", None)]
    if other:
        raise WeightsError(
            f"{weights.path}: of another backbone than this model's {model.config.backbone}. "
            f"{_first('Missing or of another shape', other)}Take the file of that name."
        )
    model.backbone.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    log.info("%s: the backbone is filled; encoder and decoder are fresh", weights.path)
    return {"backbone": str(weights.path)}


def _first(what: str, keys: list[str]) -> str:
    return f"{what}: {', '.join(keys[:2])}{f' and {len(keys) - 2} more' if len(keys) > 2 else ''}. " if keys else ""
