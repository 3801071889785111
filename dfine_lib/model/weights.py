"""Weights in and out of files. Nothing here runs code from a file: safetensors, or `torch.load(weights_only=True)`."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dfine_lib.categories import COCO, OBJECTS365, PUBLISHED_IDS
from dfine_lib.config import DataConfig, ModelConfig, Recipe
from dfine_lib.files import write_atomically
from dfine_lib.model.class_rows import (
    WeightsError,
    by_class,
    checked_names,
    how_to_name,
    of_heads,
    source_rows,
    take_rows,
)
from dfine_lib.model.decoder import DERIVED_KEYS
from dfine_lib.model.huggingface import from_huggingface, is_huggingface, model_config
from dfine_lib.model.published import COCO_FILES, OBJECTS365_FILES, described, locate_weights
from dfine_lib.recipes import get_recipe

__all__ = ["Weights", "WeightsError", "load_weights", "locate_weights", "read_weights", "save_weights"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict and what its file says of it."""

    path: Path
    state_dict: dict[str, Tensor]
    category_names: tuple[str, ...] = ()  # one a row of the class heads; empty where the file does not say
    category_ids: tuple[int, ...] = ()  # one a name; likewise
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

    def model_config(self, recipe: str | Recipe | None = None) -> ModelConfig:
        """Shape of the model: a recipe's, with the class rows of the file, or else what the file says.

        Raises:
            WeightsError: the file does not say it, and no recipe is given.
        """
        if recipe is not None:
            config = get_recipe(recipe).model
            return replace(config, num_classes=self.num_classes or config.num_classes)
        if self.model is None:
            raise WeightsError(
                f"{self.path}: the file does not say which model it is of, and no recipe was given",
                "name_recipe", source=self.path,
            )  # fmt: skip
        return self.model


def read_weights(path: str | Path, *, sha256: str | None = None, unnamed_rows: bool = False) -> Weights:
    """Read our `.safetensors`, an authors' `.pth` (averaged weights where it holds them), or a Hugging Face folder.

    Of a Hugging Face folder, or the `model.safetensors` in it, the `config.json` beside says which model it is. A
    published file may be given by name, such as `dfine_l_coco`; it is downloaded if it is not in the cache yet.

    Where a file names its classes, class rows without a name are left out here, as the first of the 366 rows of the
    published Objects365 files: no model that is built from what this returns can answer them.

    Args:
        path: of the file or folder, or a published name.
        sha256: refuse a file with another checksum, be it downloaded now or there already.
        unnamed_rows: keep class rows without a name; theirs is "", and they have no category id.

    Raises:
        WeightsError: missing, damaged, of another checksum, or holding anything but tensors and plain values.
        DownloadError: a published file that could not be had.
    """
    weights = _read(locate_weights(path, sha256))
    if weights.num_classes is None:
        return weights
    names = checked_names(weights.path, weights.category_names, weights.num_classes)
    named = [name for name in names if name]
    ids = weights.category_ids if names and len(weights.category_ids) == len(named) else ()
    weights = replace(weights, category_names=names, category_ids=ids)
    return weights if unnamed_rows else without_unnamed_rows(weights)


def without_unnamed_rows(weights: Weights) -> Weights:
    """Only the class rows that have names; all of them where the file names none."""
    named = [i for i, name in enumerate(weights.category_names) if name]
    if len(named) == len(weights.category_names):
        return weights
    return replace(
        weights,
        state_dict=take_rows(weights.state_dict, named),
        category_names=tuple(weights.category_names[i] for i in named),
        model=weights.model and replace(weights.model, num_classes=len(named)),
    )


def _read(path: Path) -> Weights:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that the next lines refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in whatever way its bytes happen to lead to
        reason = _without_advice(str(error))
        if isinstance(error, pickle.UnpicklingError) and _starts_like_pytorch(path):
            raise WeightsError(
                f"{path}: holds more than tensors, so it is not opened: it could run code ({reason}). "
                "Save its state dict alone, or as safetensors."
            ) from error
        if path.suffix.lower() not in (".pth", ".pt") and not _starts_like_pytorch(path):
            raise WeightsError(
                f"{path}: not a weights file. Weights are .safetensors or .pth files; exported files, .onnx and .xml, "
                "are for `dfine predict` and `dfine bench`."
            ) from error
        raise WeightsError(f"{path}: damaged or not a PyTorch file ({reason}). Fetch it again.") from error
    for outer, inner in (("ema", "module"), ("model", None)):
        if isinstance(content, dict) and isinstance(content.get(outer), dict):
            found = content[outer].get(inner, content[outer]) if inner else content[outer]
            weights = _of_authors(path, _only_tensors(path, found))
            return _of_our_run(weights) if "progress" in content else weights
    return _of_authors(path, _only_tensors(path, content))


def _of_authors(path: Path, state: dict[str, Tensor]) -> Weights:
    """Their files hold tensors alone: size and classes are told from shapes and from the file's name."""
    weights, names = Weights(path, state, model=described(state)), ()
    if weights.num_classes == len(OBJECTS365) + 1:
        names = ("", *OBJECTS365)  # their rows are the ids of the file, which begin at 1
        if path.stem not in OBJECTS365_FILES:
            log.warning("%s: names no classes; its 366 class rows are taken for Objects365's, by their number", path)
    elif weights.num_classes == len(COCO) and path.stem in COCO_FILES:
        names = COCO
    ids = PUBLISHED_IDS.get(tuple(name for name in names if name), ())
    return replace(weights, category_names=names, category_ids=ids)


def _of_our_run(weights: Weights) -> Weights:
    """The state of a run of ours holds tensors alone too; `run.json` beside it says what they are of."""
    try:
        run = json.loads((weights.path.parent / "run.json").read_text(encoding="utf-8"))
        model, data = ModelConfig(**_tuples(run["recipe"]["model"])), DataConfig(**_tuples(run["recipe"]["data"]))
        names = tuple(map(str, run["classes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return weights
    if model.num_classes != weights.num_classes:
        return weights
    return replace(weights, model=model, data=data, category_names=names)


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
        model = ModelConfig(**_tuples(about["model"])) if "model" in about else None
        data = DataConfig(**_tuples(about["data"])) if "data" in about else None
        names, ids = tuple(about.get("category_names", ())), tuple(about.get("category_ids", ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: written by another version of this library ({error}).") from error
    return Weights(path, tensors, names, ids, model, data)


def _of_huggingface(path: Path, tensors: dict[str, Tensor]) -> Weights:
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
        return Weights(path, from_huggingface(tensors), names, PUBLISHED_IDS.get(tuple(names), ()), model)
    except KeyError as error:
        raise WeightsError(f"{path}: an entry of the model is missing ({error}). Fetch it again.") from error


def save_weights(
    path: str | Path,
    model: nn.Module,
    *,
    data: DataConfig,
    category_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    half: bool = False,
) -> Path:
    """Write a model as safetensors with everything needed to use it again; the file appears whole or not at all.

    Args:
        category_names: one a class row; empty where they are not known.
        category_ids: one a name.
        half: store floating-point tensors as float16.

    Raises:
        ValueError: names of another number than the model has class rows, or ids than names.
    """
    path, count = Path(path), len(category_names)
    if count not in (0, model.config.num_classes) or len(category_ids) not in (0, count):
        raise ValueError(
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
    model: nn.Module,
    weights: Weights,
    category_names: tuple[str, ...] = (),
    rows: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Fill a model; where its classes are others than the file's, carry over the rows of classes that both know.

    Rows are matched by class name; from Objects365 to COCO by the authors' table. Rows without a match, and the
    denoising embedding, keep their fresh values. Weights of a backbone alone fill the backbone.

    Rows of a file without names are taken in their order where the model has as many, which is logged, and otherwise
    not at all.

    Args:
        model: to be filled.
        weights: from `read_weights`.
        category_names: the model's classes, in order of its rows; empty: the model is the file's own.
        rows: the file's class to take for a class of the model, by name, where names differ: `{"taxi": "car"}`; of a
            file without names the number of the row, from 0: `{"taxi": "2"}`.

    Returns:
        `{"rows": {target name: source name, or number of the row in a file without names, or None}}`; empty where
        every row was taken as it is, by equal names.

    Raises:
        WeightsError: a model of another size, the first entries that differ are named; one with other bins, or of
            another number of classes without names for them; or a class in `rows` that the model or the file does not
            have.
    """
    if weights.backbone_only:
        if rows:
            raise WeightsError(f"{weights.path}: a backbone alone has no classes to take, and rows were asked of it.")
        return _load_backbone(model, weights)
    bins = model.config.uniform_bins
    if weights.model is not None and weights.model.uniform_bins != bins:  # no entry's shape would tell
        raise WeightsError(
            f"{weights.path}: weights of another model, trained with uniform_bins={weights.model.uniform_bins}, for "
            f"one with uniform_bins={bins}. Set model.uniform_bins={str(not bins).lower()}, or name no recipe where "
            "the file tells its model, or start from fresh weights."
        )
    own = model.state_dict()
    state = {k: v for k, v in weights.state_dict.items() if k.rsplit(".", 1)[-1] not in DERIVED_KEYS}
    for key in [k for k in own | state if k.endswith(".num_batches_tracked")]:
        if key in own:  # frozen norms do not count batches, trained ones do; nothing depends on the count
            state.setdefault(key, own[key])
        else:
            del state[key]
    class_keys = [k for k in own if by_class(k)]
    missing, unknown = [k for k in own if k not in state], [k for k in state if k not in own]
    other = [k for k in own if k in state and k not in class_keys and own[k].shape != state[k].shape]
    if missing or unknown or other:
        shapes = [f"{k} {list(state[k].shape)} for {list(own[k].shape)}" for k in other]
        raise WeightsError(
            f"{weights.path}: weights of another model. {_first('Missing', missing)}"
            f"{_first('Not in this model', unknown)}{_first('Of another shape', shapes)}"
            "Choose the recipe of the size that these weights were trained with."
        )
    same_number = all(own[k].shape == state[k].shape for k in class_keys)
    if same_number and not rows and (not category_names or category_names == weights.category_names):
        model.load_state_dict(state)
        return {}
    if not category_names and not rows:
        raise WeightsError(
            f"{weights.path}: {weights.num_classes} class rows, for a model with {model.config.num_classes} whose "
            "classes are not named. Name them, or build the model with as many."
        )
    if same_number and not rows and not weights.category_names:
        log.warning(
            "%s: names no classes, so its %d class rows are taken in their order, row 0 for %r. Where they are in "
            "another: %s", weights.path, weights.num_classes, category_names[0],
            how_to_name(weights.path, weights.model is None),
        )  # fmt: skip
        model.load_state_dict(state)
        return {"rows": {name: i for i, name in enumerate(category_names)}}
    sources = source_rows(weights.path, weights.category_names, weights.num_classes, category_names, rows or {})
    for key in class_keys:
        fresh, stored = own[key].clone(), state[key]
        if of_heads(key):
            for i, j in enumerate(sources):
                if j is not None:
                    fresh[i] = stored[j]
        state[key] = fresh
    model.load_state_dict(state)
    names = weights.category_names or range(weights.num_classes)
    taken = {name: None if j is None else names[j] for name, j in zip(category_names, sources, strict=True)}
    carried = ", ".join(name for name, j in zip(category_names, sources, strict=True) if j is not None) or "none"
    fresh = ", ".join(name for name, j in zip(category_names, sources, strict=True) if j is None) or "none"
    log.info("%s: classes carried over: %s; fresh: %s", weights.path, carried, fresh)
    if not weights.category_names and not rows:
        log.warning(
            "%s: names no classes, and has %d class rows for %d classes, so none is carried over. %s", weights.path,
            weights.num_classes, len(category_names), how_to_name(weights.path, weights.model is None),
        )  # fmt: skip
    return {"rows": taken}


def _load_backbone(model: nn.Module, weights: Weights) -> dict[str, object]:
    own, state = model.backbone.state_dict(), weights.state_dict
    other = [
        k for k in own if not k.endswith("num_batches_tracked") and own[k].shape != getattr(state.get(k), "shape", 0)
    ]
    if other:
        raise WeightsError(
            f"{weights.path}: of another backbone than this model's {model.config.backbone}. "
            f"{_first('Missing or of another shape', other)}Take the file of that name."
        )
    model.backbone.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    log.info("%s: the backbone is filled; encoder and decoder are fresh", weights.path)
    return {"backbone": str(weights.path)}


def _tuples(values: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _without_advice(words: str) -> str:
    """What torch says of a file that it cannot open, without its advice to open it all the same."""
    lines = [line.strip() for line in words.replace("WeightsUnpickler error:", "\n").split("\n") if line.strip()]
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation", "(1)", "(2)")
    reasons = [line for line in lines if not line.startswith(advice) and "weights_only" not in line]
    return (reasons or ["no reason given"])[0].removesuffix(".")


def _starts_like_pytorch(path: Path) -> bool:
    """Whether the first bytes are those of a zip archive or of a pickle of protocol 2 or later."""
    with open(path, "rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _only_tensors(path: Path, state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: no state dict of a model found in it.")
    return {k.removeprefix("module."): v for k, v in state.items()}


def _first(what: str, keys: list[str]) -> str:
    return f"{what}: {', '.join(keys[:2])}{f' and {len(keys) - 2} more' if len(keys) > 2 else ''}. " if keys else ""
