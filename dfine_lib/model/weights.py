"""Weights in and out of files. Nothing here runs code from a file: safetensors, or `torch.load(weights_only=True)`."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dfine_lib.categories import COCO, OBJECTS365, PUBLISHED_IDS
from dfine_lib.config import DataConfig, ModelConfig
from dfine_lib.files import write_atomically
from dfine_lib.model.class_rows import WeightsError, checked_names, of_heads, source_rows, take_rows
from dfine_lib.model.decoder import DERIVED_KEYS
from dfine_lib.model.huggingface import from_huggingface, is_huggingface, model_config
from dfine_lib.model.published import COCO_FILES, OBJECTS365_FILES, described, locate_weights

__all__ = ["Weights", "WeightsError", "load_weights", "locate_weights", "read_weights", "save_weights"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict and what its file says about it."""

    path: Path
    state_dict: dict[str, Tensor]
    category_names: tuple[str, ...] = ()  # one for each row of the class heads; empty where the file does not say
    category_ids: tuple[int, ...] = ()  # one for each name; empty where the file does not say
    model: ModelConfig | None = None
    data: DataConfig | None = None

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


def read_weights(path: str | Path, *, sha256: str | None = None, unnamed_rows: bool = False) -> Weights:
    """Read our `.safetensors`, an authors' `.pth` (its EMA weights where it holds them), or a Hugging Face folder.

    Class rows without a name are left out here, as row 0 of the 366 rows of the published Objects365 files: no model
    that is built from what this returns can detect them.

    Args:
        path: of the file or folder, or a published name such as `dfine_l_coco`, which is downloaded once.
        sha256: refuse a file with another checksum, be it downloaded now or there already.
        unnamed_rows: keep class rows without a name; theirs is "", and they have no category id.

    Raises:
        WeightsError: missing, damaged, of another checksum, or holding anything but tensors and plain values.
        DownloadError: a published file that cannot be downloaded.
    """
    path = locate_weights(path, sha256)
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    if weights.num_classes is None:
        return weights
    names = checked_names(path, weights.category_names, weights.num_classes)
    known_ids = len(weights.category_ids) == sum(map(bool, names))
    weights = replace(weights, category_names=names, category_ids=weights.category_ids if known_ids else ())
    return weights if unnamed_rows else weights.named_rows()


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("dfine", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: damaged or not a safetensors file ({error}). Fetch or write it again.") from error
    tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    if is_huggingface(tensors):
        return _of_huggingface(path, tensors)
    try:
        model, data = (cls(**_tuples(about[key])) if key in about else None for key, cls in _CONFIGS.items())
        names, ids = tuple(about.get("category_names", ())), tuple(about.get("category_ids", ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: written by another version of this library ({error}).") from error
    return Weights(path, tensors, names, ids, model, data)


def _of_huggingface(path: Path, tensors: dict[str, Tensor]) -> Weights:
    """Its `config.json`, next to the file, says which model it is."""
    file, model, names = path.parent / "config.json", None, ()
    if file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            model = model_config(config)
            labels = {int(i): str(name) for i, name in config["id2label"].items()}
            names = tuple(labels[i] for i in range(len(labels)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{file}: not the configuration of a D-FINE ({error}).") from error
    try:
        return Weights(path, from_huggingface(tensors), names, PUBLISHED_IDS.get(names, ()), model)
    except KeyError as error:
        raise WeightsError(f"{path}: an entry of the model is missing ({error}). Fetch it again.") from error


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
    state = {key.removeprefix("module."): value for key, value in state.items()}
    weights = Weights(path, state, model=described(state))
    return _of_our_run(weights) if "progress" in content else _of_authors(weights)


def _of_authors(weights: Weights) -> Weights:
    """Their files hold tensors only: the classes follow from the number of rows and from the file's name."""
    path, names = weights.path, ()
    if weights.num_classes == len(OBJECTS365) + 1:
        names = ("", *OBJECTS365)  # the number of a row is the class's id in the data set; ids begin at 1
        if path.stem not in OBJECTS365_FILES:
            log.warning("%s: names no classes; its 366 class rows are taken for Objects365's, by their number", path)
    elif weights.num_classes == len(COCO) and path.stem in COCO_FILES:
        names = COCO
    return replace(weights, category_names=names, category_ids=PUBLISHED_IDS.get(tuple(filter(None, names)), ()))


def _of_our_run(weights: Weights) -> Weights:
    """The state of a run of ours holds tensors only too; `run.json` in the same folder says which model they are of."""
    try:
        run = json.loads((weights.path.parent / "run.json").read_text(encoding="utf-8"))
        model, data = (cls(**_tuples(run["recipe"][key])) for key, cls in _CONFIGS.items())
        names = tuple(map(str, run["classes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _of_authors(weights)
    if model.num_classes != weights.num_classes:
        return _of_authors(weights)
    return replace(weights, model=model, data=data, category_names=names)


_CONFIGS: dict[str, Any] = {"model": ModelConfig, "data": DataConfig}


def _tuples(values: dict) -> dict:
    """Fields of a config as JSON holds them: it has no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


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

    Rows are matched by class name; from Objects365 to COCO by the authors' table. Rows without a match, and the
    denoising embedding, keep their fresh values. Weights of a backbone alone fill the backbone.

    A file without class names is taken in the order of its rows where it has as many as the model, with a warning, or
    not at all.

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
        WeightsError: a model of another size, the first entries that differ are named; one with other bins, or of
            another number of classes without names for them; or a class in `rows` that the model or the file does not
            have.
    """
    path, rows = weights.path, rows or {}
    if weights.backbone_only:
        if rows:
            raise WeightsError(f"{path}: a backbone alone has no classes to take, and rows were asked of it.")
        return _load_backbone(model, weights)
    state = _matching_entries(model, weights)
    same = category_names in ((), weights.category_names) and weights.num_classes == model.config.num_classes
    if same and not rows:
        model.load_state_dict(state)
        return {}
    if not category_names and not rows:
        raise WeightsError(
            f"{path}: {weights.num_classes} class rows, for a model with {model.config.num_classes} whose classes are "
            "not named. Name them, or build the model with as many."
        )
    sources = source_rows(path, weights.category_names, weights.num_classes, category_names, rows)
    if sources != list(range(weights.num_classes)):
        for key, fresh in model.state_dict().items():
            if of_heads(key):
                stored, state[key] = state[key], fresh.clone()
                for row, source in enumerate(sources):
                    if source is not None:
                        state[key][row] = stored[source]
            elif "denoising_class_embed" in key:
                state[key] = fresh
    model.load_state_dict(state)
    names = weights.category_names or range(weights.num_classes)
    taken = {name: None if j is None else names[j] for name, j in zip(category_names, sources, strict=True)}
    carried, fresh = ([name for name in taken if (taken[name] is None) == new] for new in (False, True))
    log.info("%s: classes carried over: %s; fresh: %s", path, ", ".join(carried) or "none", ", ".join(fresh) or "none")
    return {"rows": taken}


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
    by_class = {key for key in own if of_heads(key) or "denoising_class_embed" in key}
    other = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own.keys() & state.keys() - by_class if own[key].shape != state[key].shape
    ]  # fmt: skip
    if missing or unknown or other:
        raise WeightsError(
            f"{path}: weights of another model. {_first('Missing', missing)}{_first('Not in this model', unknown)}"
            f"{_first('Of another shape', sorted(other))}Choose the recipe of the size that these weights were trained "
            "with."
        )
    return state


def _load_backbone(model: nn.Module, weights: Weights) -> dict[str, object]:
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
