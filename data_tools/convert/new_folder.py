"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dfine_lib.data.images import DataError


@contextlib.contextmanager
def new_folder(out: Path, *sources: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well, and goes when not."""
    for source in sources:
        check_out(source, out)
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    unfinished = place.parent / f".{place.name}.partial-{os.getpid()}"
    try:
        unfinished.mkdir()
        yield unfinished
        check_out(sources[0], out)
        if place.exists():
            place.rmdir()
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    """Remove what a run that was killed has left beside `place`."""
    start = f".{place.name}.partial-"
    for folder in [path for path in place.parent.iterdir() if path.name.startswith(start)]:
        number = folder.name.removeprefix(start)
        if number.isascii() and number.isdigit():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
            except (OSError, OverflowError):  # somebody else's, and alive
                continue


def check_out(source: Path, out: Path) -> None:
    """`DataError` where `out` holds something already or lies in the source."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"{out} is there and no folder: choose another place.")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: choose another folder, or empty it.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside {source}, which is not to be changed: choose another place.")
