"""Where things lie in a folder of Objects365, and what makes a folder that a killed run left go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.convert.pictures import bring
from data_tools.objects365.whole_files import remove_quietly
from dfine_lib.data.images import DataError
from dfine_lib.files import alone, write_atomically

DATA_FILE = "objects365.json"  # what `dfine train --data` takes
_SETTINGS = ".unfinished.json"
_CACHE = ".remap.npz"


def annotations_of(source: Path, split: str, *names: str) -> Path:
    """The annotation file of a split: the first of `names` that is there, else as it is published.

    Raises:
        DataError: there is none.
    """
    names = (*names, f"zhiyuan_objv2_{split}.json")
    for name in names:
        for file in (source / split / name, source / "annotations" / name, source / name):
            if file.is_file():
                return file
    raise DataError(
        f"{source}: no {split}/{' and no '.join(names)}. Name the folder that holds train/ and val/ of Objects365 v2 "
        "(`dfine data download objects365` makes it)."
    )


@contextlib.contextmanager
def only_one(source: Path, out: Path) -> Iterator[None]:
    """Make `out` and let one process at a time work on it; `DataError` where it lies in `source` or is busy."""
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside {source}, which is not to be changed: choose another place.")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is there and no folder: choose another place.")
    out.mkdir(parents=True, exist_ok=True)
    lock = out / ".lock"
    try:
        with alone(lock, wait=False):
            yield
    except BlockingIOError:
        raise DataError(f"{out}: another process is at work here. Wait for it, or choose another folder.") from None
    remove_quietly(lock)


@contextlib.contextmanager
def resumed_settings(out: Path, files: Mapping[str, Path], settings: dict[str, Any]) -> Iterator[None]:
    """Go on with a folder that was begun with the same files and settings; the note of them goes at the end.

    Raises:
        DataError: it holds something else, or is finished already.
    """
    now = settings | {
        "files": {split: [str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns]
                  for split, file in files.items()}
    }  # fmt: skip
    note = out / _SETTINGS
    if note.exists():
        try:
            begun = json.loads(note.read_text())
        except ValueError:
            begun = None
        if begun != json.loads(json.dumps(now)):
            raise DataError(f"{out} was begun with other files or settings: choose another folder, or empty this one.")
    elif any(path.name != ".lock" for path in out.iterdir()):
        raise DataError(f"{out} is not empty: choose another folder, or empty it.")
    else:
        write_atomically(note, json.dumps(now).encode())
    yield
    remove_quietly(out / _CACHE)
    remove_quietly(note)


def finish_folder(out: Path, annotations: Mapping[str, str], report: dict[str, Any], report_name: str) -> None:
    """Write the report, and the file that names both splits for `dfine train`."""
    named = {split: {"annotations": f"{split}/{name}", "images": split} for split, name in annotations.items()}
    write_atomically(out / report_name, (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / DATA_FILE, (json.dumps(named, indent=1) + "\n").encode())


def link_picture(path: Path, target: Path, how: str) -> bool:
    """Bring a picture to its place, unless it is there; `bring` says how. True: it is there now."""
    if not target.exists():
        part = target.with_name(f".{target.name}.part")
        remove_quietly(part)
        bring(path, part, how)
        part.replace(target)
    return True
