"""Where things lie in a folder of Objects365, and what makes a folder that a killed run left go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.convert.coco_layouts import spare_names
from data_tools.convert.json_stream import parse
from data_tools.convert.new_folder import bring, check_is_folder, check_outside, kept_folder
from dfine_lib.data.images import DataError
from dfine_lib.files import write_atomically

DATA_FILE = "objects365.json"  # what `dfine train --data` takes
REPORT = "objects365_report.json"
_UNFINISHED, _LOCK = ".unfinished.json", ".lock"


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
    check_outside(out, source)
    if not out.is_dir():  # a link to a folder is one to resume in
        check_is_folder(out)
    with kept_folder(out, out / _LOCK):
        yield
    (out / _LOCK).unlink(missing_ok=True)


def work_of(files: Mapping[str, Path], **settings: Any) -> dict[str, Any]:
    """What a run is to do, to be recognised by the next one: settings, and name, size and time of its files."""
    found = {split: (file.resolve(), file.stat()) for split, file in files.items()}
    return settings | {
        "files": {split: [str(path), stat.st_size, stat.st_mtime_ns] for split, (path, stat) in found.items()}
    }


def finished(out: Path, work: dict[str, Any]) -> dict[str, Any] | None:
    """The result in the report of `out` where this work was done there before, else None.

    Raises:
        DataError: other work was done there.
    """
    report = out / REPORT
    if not report.exists():
        return None
    found = parse(report.read_text(encoding="utf-8"), str(report))
    if found.get("work") != work:
        raise DataError(f"{out} holds the result of other files or settings: choose another folder.")
    result: dict[str, Any] = found["result"]
    return result


@contextlib.contextmanager
def resumable(out: Path, work: dict[str, Any], files_may_change: bool = False) -> Iterator[None]:
    """Work in a folder that is new, or was begun with the same work; the note of it goes at the end.

    Args:
        out: the folder.
        work: of `work_of`.
        files_may_change: their places must be the same, not their contents: one of them was corrected.

    Raises:
        DataError: `out` holds something else.
    """
    note = out / _UNFINISHED
    if note.exists():
        try:
            begun = json.loads(note.read_text())
        except ValueError:
            begun = None
        if begun != work and not (files_may_change and _places(begun) == _places(work)):
            raise DataError(f"{out} was begun with other files or settings: choose another folder, or empty this one.")
    elif any(path.name != _LOCK for path in out.iterdir()):
        raise DataError(f"{out} is not empty: choose another folder, or empty it.")
    else:
        write_atomically(note, json.dumps(work).encode())
    for part in out.glob("*/.*.part"):  # of a run that was killed
        part.unlink()
    yield
    note.unlink(missing_ok=True)


def _places(work: Any) -> Any:
    """The work without size and time of its files."""
    try:
        return work | {"files": {split: row[0] for split, row in work["files"].items()}}
    except (TypeError, KeyError, AttributeError, IndexError):
        return None


def finish(out: Path, annotations: Mapping[str, str], work: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the file that names both splits for `dfine train`, and the report."""
    named = {split: {"annotations": f"{split}/{name}", "images": split} for split, name in annotations.items()}
    write_atomically(out / DATA_FILE, (json.dumps(named, indent=1) + "\n").encode())
    write_atomically(out / REPORT, (json.dumps({"work": work, "result": result}, indent=1) + "\n").encode())


def place_of(folder: Path, name: str) -> Path:
    """An image of a list: at the path that the list gives, or where the published archives unpack it."""
    path = folder / name
    return path if path.is_file() else next(
        (spare for other in spare_names(name) if (spare := folder / other).is_file()), path
    )  # fmt: skip


def link_image(path: Path, target: Path, how: str) -> bool:
    """Bring an image to its place, unless it is there; `bring` says how. True: it is there now."""
    if not target.exists():
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        bring(path, part, how)
        part.replace(target)
    return True
