"""Class rows: which row of a class head is which class. Rows go by name; a row without a name is never a detection."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)
_EMBEDDING = "denoising_class_embed.weight"  # [C + 1, D]: a row for each class, and a last row for padding


class WeightsError(DfineError):
    """A weights file that is missing, damaged, or of another model or other classes than asked for."""


def of_heads(key: str) -> bool:
    """Whether an entry of a state dict belongs to a class head, `[C, ...]`."""
    return "enc_score_head." in key or "dec_score_head." in key


def by_class(key: str) -> bool:
    """Whether an entry of a state dict has a row for each class."""
    return of_heads(key) or _EMBEDDING in key


def carried_rows(
    fresh: Mapping[str, Tensor], stored: Mapping[str, Tensor], sources: Sequence[int | None]
) -> dict[str, Tensor]:
    """The entries by class of a model, with these rows of a file's; none where they are the file's as they are."""
    if list(sources) == list(range(len(stored["decoder.enc_score_head.bias"]))):
        return {}
    carried = {key: value.clone() for key, value in fresh.items() if by_class(key)}
    for key in filter(of_heads, carried):
        for row, source in enumerate(sources):
            if source is not None:
                carried[key][row] = stored[key][source]
    return carried


def source_rows(
    path: Path, stored_names: Sequence[str], num_rows: int, names: Sequence[str], rows: Mapping[str, str],
    aliases: Mapping[str, str],
) -> list[int | None]:  # fmt: skip
    """The file's row for each class of the model; None: it has no such class.

    A class takes the row that `rows` names, else the row of its own name, else the one that `aliases` names. Of a file
    without names only `rows` counts, or, where it names none, the order of the rows. Arguments and errors are those of
    `load_weights`.
    """
    if not stored_names and not rows:
        return _in_order(path, num_rows, names)
    own = tuple(stored_names) or tuple(map(str, range(num_rows)))
    row_of = {name: i for i, name in enumerate(own) if name}
    for target, source in rows.items():
        if target not in names:
            raise WeightsError(f"{path}: the model has no class {target!r}; it has {_first_names(names)}.")
        if source not in row_of:
            what = "class" if stored_names else "class names, and no row"
            raise WeightsError(f"{path}: the file has no {what} {source!r}; it has {_first_names(tuple(row_of))}.")
    by_name = {name: name if name in row_of else aliases.get(name) for name in names} if stored_names else {}
    sources = [(by_name | dict(rows)).get(name) for name in names]
    for source in sources:
        if source and own.count(source) > 1:
            raise WeightsError(f"{path}: more than one class row is named {source!r}", "name_rows", path=path)
    return [row_of.get(source) for source in sources]


def _in_order(path: Path, num_rows: int, names: Sequence[str]) -> list[int | None]:
    """The rows of a file without names, in their order if it has as many as there are classes; logged either way."""
    equal = num_rows == len(names)
    as_it_is = f"so its {num_rows} class rows are taken in their order, row 0 for {names[0]!r}"
    words = as_it_is if equal else f"and has {num_rows} class rows for {len(names)} classes, so none is carried over"
    log.warning("%s: names no classes, %s", path, words, extra={"remedy": "name_rows", "values": {"path": path}})
    return list(range(num_rows)) if equal else [None] * len(names)


def _first_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:8])}{' and more' if len(names) > 8 else ''}"
