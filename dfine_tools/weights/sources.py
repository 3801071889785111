"""Every source of weights: a file, a folder of Hugging Face's, the name of a published file."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path

import torch

from data_tools.download.file import wrong_checksum
from dfine_lib.model.weights import Weights, WeightsError, configs_of, read_weights
from dfine_tools.weights.categories import OBJECTS365_NAMES_OF_COCO
from dfine_tools.weights.huggingface import is_huggingface, read_huggingface
from dfine_tools.weights.named_rows import named_rows, with_usable_names
from dfine_tools.weights.published import PUBLISHED, fetch, of_authors


def locate(source: str | Path, sha256: str | None = None) -> Path:
    """The file that a path, a Hugging Face folder or the name of a published file means; the last is downloaded once.

    Args:
        source: path or name.
        sha256: refuse a file with another checksum, whether it is downloaded now or there already.

    Raises:
        WeightsError: there is no such file, or it has another checksum.
        DownloadError: a published file that cannot be downloaded.
    """
    if str(source) in PUBLISHED and not Path(source).exists():
        source = fetch(str(source), sha256=sha256)
    given = Path(source)
    file = given / "model.safetensors" if given.is_dir() else given
    if given.is_dir() and not file.is_file():
        inside = sorted(str(each) for end in (".safetensors", ".pth", ".pt") for each in given.glob(f"*{end}"))[:5]
        way_out = f"It holds {', '.join(inside)}: give one of them." if inside else "Give a weights file."
        raise WeightsError(f"{given}: a folder without model.safetensors. {way_out}")
    if not file.is_file():
        near = difflib.get_close_matches(str(given), PUBLISHED, n=3, cutoff=0.7) or list(PUBLISHED)[:3]
        raise WeightsError(
            f"{file}: no such weights file. Give a .safetensors or .pth file that exists, a folder of Hugging Face's, "
            f"or a published name such as {', '.join(near)}."
        )
    if (reason := wrong_checksum(file, sha256 and f"sha256:{sha256}")) is not None:
        raise WeightsError(f"{file}: {reason}. Fetch it again, or ask for the checksum that belongs to this file.")
    with open(file, "rb"):  # a file that may not be read is reported as that
        return file


def read(source: str | Path, *, sha256: str | None = None, unnamed_rows: bool = False) -> Weights:
    """What `read_weights` reads, from any source that `locate` finds, with what is known of its model and classes.

    COCO's classes are known by the names of the nearest classes of Objects365, too.
    Class rows without a name are left out here, as row 0 of the 366 rows of the published Objects365 files: no model
    that is built from what this returns can detect them.

    Args:
        source: path or name.
        sha256: refuse a file with another checksum.
        unnamed_rows: keep class rows without a name; theirs is "", and they have no category id.

    Raises:
        WeightsError, DownloadError: as of `locate` and `read_weights`.
    """
    weights = read_weights(locate(source, sha256))
    if is_huggingface(weights.state_dict):
        weights = read_huggingface(weights)
    elif weights.model is None:
        weights = _of_run(weights) or of_authors(weights)
    weights = replace(with_usable_names(weights), aliases=OBJECTS365_NAMES_OF_COCO)
    return weights if unnamed_rows else named_rows(weights)


def _of_run(weights: Weights) -> Weights | None:
    """The state of a run of ours holds tensors only; `run.json` in the same folder says which model they are of."""
    try:
        run = json.loads((weights.path.parent / "run.json").read_text(encoding="utf-8"))
        about, classes = configs_of(run["recipe"]), tuple(map(str, run["classes"]))
        if about["model"].num_classes == weights.num_classes and _is_state(weights.path):
            return replace(weights, **about, category_names=classes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _is_state(path: Path) -> bool:
    return path.suffix != ".safetensors" and "progress" in torch.load(path, map_location="meta", weights_only=True)
