"""Which row of a class head is which class. Rows go by name; a row without a name is never an answer."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dfine_lib.categories import COCO, OBJECTS365, OBJECTS365_OF_COCO
from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)
_HEADS = ("enc_score_head.", "dec_score_head.")  # decoder entries with one row a class
_EMBEDDING = "denoising_class_embed.weight"  # one row a class, and a last one for padding
_NEVER = -10.0  # bias of a row that stands for no class: a score of 0.00005


class WeightsError(DfineError):
    """A weights file that is missing, damaged, or of another model or other classes than asked for."""


def of_heads(key: str) -> bool:
    """Whether an entry is of a class head, `[C, ...]`."""
    return any(part in key for part in _HEADS)


def by_class(key: str) -> bool:
    """Whether an entry has a row for each class: a class head, or the denoising embedding `[C + 1, D]`."""
    return of_heads(key) or _EMBEDDING in key


def checked_names(path: Path, names: Sequence[str], num_rows: int) -> tuple[str, ...]:
    """One name a row, or none at all; an empty name is of a row that stands for no class.

    Names of another number than there are rows name nothing, which is logged. Placeholders as `LABEL_0`, which Hugging
    Face's port writes where it knows no names, are none.
    """
    names = tuple(names)
    if len(names) == len(OBJECTS365) == num_rows - 1:
        names = (*names, "")  # trained by an earlier version of this library: the row that stands for no class is last
    if not any(names) or names == tuple(f"LABEL_{i}" for i in range(num_rows)):
        return ()
    if names and len(names) != num_rows:
        log.warning("%s: has %d class rows and %d class names, so the names are not used", path, num_rows, len(names))
        return ()
    return names


def take_rows(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """The entries with these class rows alone, in this order; the embedding keeps its row for padding, the last."""
    index = torch.tensor(rows, dtype=torch.int64)
    taken = dict(state)
    for key, value in state.items():
        if by_class(key):
            last = value[-1:] if _EMBEDDING in key else value[:0]
            taken[key] = torch.cat([value[index], last])
    return taken


def with_row_zero(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The entries as the published Objects365 files have them: a row's number is the class's id, which begin at 1.

    Row 0 stands for no class: the first row without a name, or one that is never an answer.
    """
    named = [i for i, name in enumerate(names) if name]
    zero = names.index("") if "" in names else None
    taken = take_rows(state, named)
    for key, value in state.items():
        if by_class(key):
            never = torch.full_like(value[:1], _NEVER if key.endswith("bias") else 0.0)
            taken[key] = torch.cat([never if zero is None else value[zero : zero + 1], taken[key]])
    return taken


def source_rows(
    path: Path, stored_names: Sequence[str], num_rows: int, names: Sequence[str], rows: Mapping[str, str]
) -> list[int | None]:
    """The file's row for each class of the model, or None.

    Args:
        path: of the file, for messages.
        stored_names: the file's classes by row; empty where the file does not say.
        num_rows: its class rows.
        names: the model's classes.
        rows: the file's class for a class of the model, where names differ; of a file without names the number of the
            row, from 0.

    Raises:
        WeightsError: a class in `rows` that the model or the file does not have, or a name that two rows of the file
            have.
    """
    own = stored_names or tuple(map(str, range(num_rows)))
    place = {name: i for i, name in enumerate(own) if name}
    for target, source in rows.items():
        if target not in names or source not in place:
            whose, has = ("model", tuple(names)) if target not in names else ("file", tuple(place))
            what = "class" if stored_names or whose == "model" else "class names, and no row"
            raise WeightsError(
                f"{path}: the {whose} has no {what} {target if whose == 'model' else source!r}; "
                f"it has {', '.join(has[:8])}{' and more' if len(has) > 8 else ''}."
            )
    published = dict(zip(COCO, (OBJECTS365[i] for i in OBJECTS365_OF_COCO), strict=True))
    found = []
    for name in names:
        equal = name if name in place else published.get(name, "")
        source = rows.get(name) or (equal if stored_names else "")
        if source and own.count(source) > 1:
            raise WeightsError(f"{path}: more than one class row is named {source!r}. {how_to_name(path)}")
        found.append(place.get(source))
    return found


def how_to_name(path: Path, recipe: bool = False) -> str:
    """The way out for a file whose rows have no names, or not the right ones; `recipe`: nor is its model known."""
    return (
        f"Write names into a copy: dfine weights {shlex.quote(str(path))} --to NAMED.safetensors --names NAMES.txt"
        f"{' --recipe NAME' if recipe else ''}, one name a line in the order of the rows, and an empty line for a row "
        "that stands for no class, as row 0 does where a training took ids from 1 as labels."
    )
