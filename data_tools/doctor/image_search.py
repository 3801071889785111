"""Which file belongs to each entry of `images`, by the rules of the converter, and which files belong to none."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_tools.convert.image_files import Found, ImageFiles
from data_tools.convert.records import ImageRecord
from data_tools.doctor.finding import Examination, Example
from data_tools.doctor.pixels import look_at
from data_tools.doctor.reading import Split, shown
from data_tools.image_formats import why_not_opened
from dfine_lib.data.images import DataError


def find_and_look(case: Examination, data: Path) -> None:
    """Find the image of every entry, look at it, and report what lies elsewhere and what no entry names.

    Args:
        case: its splits get `found`, `file_names` of what was found, and `files`.
        data: the data folder, below which images are searched; a file: they are searched in the split's image folder.
    """
    listed: dict[Path, ImageFiles | None] = {}
    used: set[str] = set()
    for split in case.splits:
        if split.image_folder is None:
            continue
        home = data if data.is_dir() else split.image_folder
        if home not in listed:
            listed[home] = _listing(home)
        why = _find(split, listed[home])
        paths = {i: path for i in range(len(split.images)) if (path := split.path(i)) is not None}
        used.update(os.path.normpath(path) for path in paths.values())
        case.found("image_elsewhere", split, "images", sorted(split.found),
                   lambda i, split=split: f"found {shown(str(split.found[i].path), 200)}")  # fmt: skip
        for folder, own in ((split.image_folder, paths.keys() - split.found.keys()), (home, split.found.keys())):
            unique = list(dict.fromkeys(paths[i] for i in sorted(own)))
            known = dict(zip(unique, look_at(unique, folder), strict=True))
            for i in own:
                split.files[i] = known[paths[i]]
        for i, reason in why.items():
            file = split.files[i]
            if file is not None and file.problem == "image_missing":
                split.files[i] = replace(file, message=reason)
    _orphans(case, listed, used, data)


def _listing(home: Path) -> ImageFiles | None:
    try:
        return ImageFiles(home, home, None, follow_links=True)
    except (DataError, OSError):  # too many files to list, or a folder that cannot be entered
        return None


def _find(split: Split, files: ImageFiles | None) -> dict[int, str]:
    """Fill `split.found`; returns why there is no image, by entry."""
    if files is None:
        return {}
    exact, names = set(), Counter()
    found: dict[int, Found] = {}
    why: dict[int, str] = {}
    for i, record in enumerate(split.images):
        path, name = split.path(i), record.get("file_name")
        if path is not None and os.path.isfile(path) and why_not_opened(path) is None:
            exact.add(os.path.normpath(path))
            names[os.path.normpath(name)] += 1
        elif isinstance(name, str) and name:
            wanted = ImageRecord(split.name, name, None, None, [], split.image_words(i),
                                 folders=(split.image_folder,), may_be_path=True)  # fmt: skip
            try:
                one = files.find(wanted)
            except DataError as error:
                one = str(error)
            if isinstance(one, Found):
                found[i] = one
            else:
                why[i] = one
    claims = Counter(os.path.normpath(one.path) for one in found.values())
    names.update(os.path.normpath(one.name) for one in found.values())
    for i, one in found.items():
        path = os.path.normpath(one.path)
        if path in exact or claims[path] > 1 or names[os.path.normpath(one.name)] > 1:
            # two entries, and the image of one of them is not there
            why[i] = f"{one.path} would be the image of another entry too"
            continue
        split.found[i] = one
        split.file_names[i] = one.name
    return why


def _orphans(case: Examination, listed: dict[Path, ImageFiles | None], used: set[str], data: Path) -> None:
    reported: set[Path] = set()
    for split in case.splits:
        folder = split.image_folder
        files = None if folder is None else listed[data if data.is_dir() else folder]
        if folder is None or files is None or folder.resolve() in reported:
            continue
        reported.add(folder.resolve())
        names = (*files.files, *files.not_opened)
        start = "" if folder == files.home else folder.relative_to(files.home).as_posix() + "/"
        orphans = sorted(name for name in names
                         if name.startswith(start) and os.path.normpath(files.home / name) not in used)  # fmt: skip
        examples = [
            Example(f"{split.name}: {shown(name.removeprefix(start))[1:-1]}"
                    + (f": {files.not_opened[name]}" if name in files.not_opened else ""), files.home / name)
            for name in orphans[:8]
        ]  # fmt: skip
        case.report("image_orphan", split.name, examples, len(orphans))
