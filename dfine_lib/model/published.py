"""Where a weights file is; the authors' published files: which there are, which model one holds, how it gets here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dfine_lib.config import SIZES, ModelConfig
from dfine_lib.download import download, wrong_checksum
from dfine_lib.errors import DfineError
from dfine_lib.model.class_rows import WeightsError
from dfine_lib.model.hgnetv2 import ARCHITECTURES

ADDRESS = "https://github.com/Peterande/storage/releases/download/dfinev1.0"
_SIZES = {"coco": "nsmlx", "obj365": "smlx", "obj2coco": "smlx"}
PUBLISHED: dict[str, str] = {
    f"dfine_{size}_{schedule}": f"dfine_{size}_{schedule}.pth" for schedule, sizes in _SIZES.items() for size in sizes
} | {
    "dfine_l_obj2coco": "dfine_l_obj2coco_e25.pth",
    "dfine_l_obj365_e25": "dfine_l_obj365_e25.pth",
    **{f"hgnetv2_b{i}": f"PPHGNetV2_B{i}_stage1.pth" for i in range(7)},
}
COCO_FILES = {Path(file).stem for name, file in PUBLISHED.items() if name.endswith(("_coco", "_obj2coco"))}
OBJECTS365_FILES = {Path(file).stem for name, file in PUBLISHED.items() if "_obj365" in name}


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


def locate_weights(path: str | Path, sha256: str | None = None) -> Path:
    """The file that a path, a Hugging Face folder or the name of a published file means; the last is downloaded.

    Raises:
        WeightsError: there is none, or one of another checksum than asked for.
        DownloadError: a published file that cannot be downloaded.
    """
    if str(path) in PUBLISHED and not Path(path).exists():
        path = fetch(str(path), sha256=sha256)
    given = Path(path)
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
