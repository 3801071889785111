"""The authors' published files: which there are, how one gets here, which model and classes one holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from data_tools.download.file import download
from dfine_lib.config import SIZES, ModelConfig
from dfine_lib.errors import DfineError
from dfine_lib.model.hgnetv2 import ARCHITECTURES
from dfine_lib.model.weights import Weights
from dfine_tools.weights.categories import COCO, OBJECTS365, PUBLISHED_IDS

log = logging.getLogger(__name__)

ADDRESS = "https://github.com/Peterande/storage/releases/download/dfinev1.0"
_SIZES = {"coco": "nsmlx", "obj365": "smlx", "obj2coco": "smlx"}
PUBLISHED: dict[str, str] = {
    f"dfine_{size}_{schedule}": f"dfine_{size}_{schedule}.pth" for schedule, sizes in _SIZES.items() for size in sizes
} | {
    "dfine_l_obj2coco": "dfine_l_obj2coco_e25.pth",
    "dfine_l_obj365_e25": "dfine_l_obj365_e25.pth",
    **{f"hgnetv2_b{i}": f"PPHGNetV2_B{i}_stage1.pth" for i in range(7)},
}
_COCO_FILES = {Path(file).stem for name, file in PUBLISHED.items() if name.endswith(("_coco", "_obj2coco"))}
_OBJECTS365_FILES = {Path(file).stem for name, file in PUBLISHED.items() if "_obj365" in name}


def home() -> Path:
    """Where published files are kept: `DFINE_HOME`, else `~/.cache/dfine`."""
    return Path(os.environ.get("DFINE_HOME") or Path.home() / ".cache" / "dfine")


def fetch(name: str, *, sha256: str | None = None, progress: bool = True) -> Path:
    """A published file from the folder `home()`; a missing one is downloaded once (`DFINE_MIRROR`: from where).

    Args:
        name: one of `PUBLISHED`.
        sha256: refuse a file with another checksum.
        progress: show a bar.

    Raises:
        DownloadError: as of `download`.
        DfineError: unknown name.
    """
    if name not in PUBLISHED:
        raise DfineError(f"unknown published weights {name!r}; known are {', '.join(PUBLISHED)}")
    file = home() / PUBLISHED[name]
    return download(
        f"{(os.environ.get('DFINE_MIRROR') or ADDRESS).rstrip('/')}/{file.name}", file,
        checksum=sha256 and f"sha256:{sha256}", progress=progress,
        hint=f"Without a network: fetch that address elsewhere and put the file into {file.parent}, or name another "
        "folder by DFINE_HOME.",
    )  # fmt: skip


def of_authors(weights: Weights) -> Weights:
    """An authors' file, with what its tensors do not say: model and classes follow from shapes and the file's name."""
    stem, names = weights.path.stem, ()
    if weights.num_classes == len(OBJECTS365) + 1:
        names = ("", *OBJECTS365)  # the number of a row is the class's id in the data set; ids begin at 1
        if stem not in _OBJECTS365_FILES:
            words = "%s: names no classes; its 366 class rows are taken for Objects365's, by their number"
            log.warning(words, weights.path)
    elif weights.num_classes == len(COCO) and stem in _COCO_FILES:
        names = COCO
    ids = PUBLISHED_IDS.get(tuple(filter(None, names)), ())
    return replace(weights, model=described(weights.state_dict), category_names=names, category_ids=ids)


def described(state: Mapping[str, Tensor]) -> ModelConfig | None:
    """The model that these entries belong to, by their names and shapes; None where it is none of the sizes.

    What shapes do not show (number of queries and of denoising groups) is as published.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for config in SIZES.values():
        stem, stages = ARCHITECTURES[config.backbone]
        levels, layers, dim = len(config.feat_strides), config.num_decoder_layers, config.encoder_dim
        expected = {
            "backbone.stem.stem1.conv.weight": (stem[1], 3, 3, 3),
            "encoder.input_proj.0.conv.weight": (dim, stages[4 - levels].out_channels, 1, 1),
            "encoder.fpn_blocks.0.cv2.0.conv1.conv.weight": (round(config.encoder_expansion * dim // 2), dim, 1, 1),
            f"decoder.dec_score_head.{layers - 1}.bias": shapes.get("decoder.enc_score_head.bias"),
            "decoder.enc_output.proj.weight": (config.hidden_dim, config.hidden_dim),
        }
        beyond = {f"decoder.dec_score_head.{layers}.bias", f"encoder.input_proj.{levels}.conv.weight"}
        if all(shapes.get(key, 0) == shape for key, shape in expected.items()) and not shapes.keys() & beyond:
            frozen = "backbone.stem.stem1.bn.num_batches_tracked" not in shapes
            return replace(
                config, num_classes=shapes["decoder.enc_score_head.bias"][0],
                use_lab="backbone.stem.stem1.lab.scale" in shapes, freeze_norm=frozen, freeze_stem=frozen,
                up=float(state.get("decoder.up", config.up)),
                reg_scale=float(state.get("decoder.reg_scale", config.reg_scale)),
            )  # fmt: skip
    return None
