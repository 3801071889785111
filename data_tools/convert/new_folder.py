"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dfine_lib.data.images import DataError

_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def new_folder(out: Path, *sources: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well, and goes when not.

    An empty folder that nothing can take the place of (a disk is mounted there, its parent is not ours) is filled at
    the end from a folder inside it.

    Raises:
        DataError: see `check_out`.
        OSError: it cannot be written; the message names `out`.
    """
    check_out(out, *sources)
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    inside = place.is_dir() and (place.is_mount() or not os.access(place.parent, os.W_OK | os.X_OK))
    unfinished = (place if inside else place.parent) / f"{_start(place)}{os.getpid()}"
    try:
        unfinished.mkdir()
        yield unfinished
        check_out(out, *sources)
        if inside:
            for path in sorted(unfinished.iterdir()):
                path.rename(place / path.name)
        else:
            if place.exists():
                place.rmdir()
            unfinished.rename(place)
    except OSError as error:
        if (named := named_error(error, unfinished, out, "nothing was left behind")) is None:
            raise
        raise named from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def kept_folder(out: Path, lock: Path) -> Iterator[None]:
    """Let one process at a time work on a folder whose files stay when it is stopped, for the next run to resume.

    Raises:
        DataError: another process is at work there.
        OSError: it cannot be written; the message names `out`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise DataError(f"{out}: another process is at work here. Wait for it, or choose another folder.") from None
    except OSError as error:
        if (named := named_error(error, out, out, "what is done is kept, and the same command resumes")) is None:
            raise
        raise named from error


def _start(place: Path) -> str:
    return f".{place.name}.partial-"


def named_error(error: OSError, folder: Path, out: Path, state: str) -> OSError | None:
    """The error with `out` in its message and what to do, where it is about writing in `folder`; else None.

    Files that are written bit by bit give no name when the disk is full, and those in a folder beside `out` one that
    nobody knows.
    """
    place = error.filename2 or error.filename
    if error.errno not in _NO_ROOM and (place is None or not Path(os.fsdecode(place)).is_relative_to(folder)):
        return None
    way_out = "Make room, or choose another folder" if error.errno in _NO_ROOM else "Choose another folder"
    return OSError(error.errno, f"{error.strerror}; {state}. {way_out}", str(out))


def _remove_abandoned(place: Path) -> None:
    """Remove what a run that was killed has left beside `place`, or in it."""
    start = _start(place)
    homes = [place.parent, place] if place.is_dir() else [place.parent]
    for folder in [path for home in homes for path in home.iterdir() if path.name.startswith(start)]:
        number = folder.name.removeprefix(start)
        if number.isascii() and number.isdigit():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
            except (OSError, OverflowError):  # somebody else's, and alive
                continue


def check_out(out: Path, *sources: Path) -> None:
    """`DataError` where `out` holds something already or lies in a source."""
    check_is_folder(out)
    if out.is_dir() and any(not path.name.startswith(_start(out.resolve())) for path in out.iterdir()):
        raise DataError(f"{out} is not empty: choose another folder, or empty it.")
    for source in sources:
        check_outside(out, source)


def check_is_folder(out: Path) -> None:
    """`DataError` where something else than a folder is there."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"{out} is there and no folder: choose another place.")


def check_outside(out: Path, source: Path) -> None:
    """`DataError` where `out` lies in a source."""
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside {source}, which is not to be changed: choose another place.")


def bring(path: Path, target: Path, how: str) -> None:
    """A hard link at `target` where the disk has them and `how` is link, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    true = path.resolve()
    if how == "link":
        try:
            os.link(true, target)
            return
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
    shutil.copyfile(true, target)
