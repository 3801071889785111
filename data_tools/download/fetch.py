"""Fetch, check, unpack: several files at a time, resuming a run that was stopped."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_tools.convert.json_stream import parse
from data_tools.convert.new_folder import bring, check_is_folder, kept_folder
from data_tools.convert.records import decoded
from data_tools.download.archives import SUFFIXES, unpack
from data_tools.download.data_set import DataSet, RemoteFile
from data_tools.download.file import download, wrong_checksum
from dfine_lib.data.images import DataError
from dfine_lib.files import write_atomically

NOTE = "download.json"  # what has been fetched and unpacked; the presence of a file in it is the record of its work
_ATTEMPTS = 100  # connections for one file, while each brings something


@dataclass(frozen=True)
class Fetched:
    """What a call did."""

    data_set: DataSet
    out: Path
    files: int  # of the set, by this call
    there: int  # by earlier ones
    unpacked: int  # files in them

    def __str__(self) -> str:
        there = f", {self.there} were there" if self.there else ""
        follow = self.data_set.next.replace("OUT", str(self.out))
        return (
            f"download {self.data_set.name}: {self.files} files fetched{there}, {self.unpacked:,} files unpacked in "
            f"{self.out}; next: {follow}"
        )


def fetch_data_set(
    data_set: DataSet, out: Path | str, *, splits: tuple[str, ...] = ("train", "val"),
    archives: Path | str | None = None, keep_archives: bool = False, parallel: int = 4, progress: bool = True,
) -> Fetched:  # fmt: skip
    """Bring a data set into `out`, in the layout that this workbook reads.

    Stopped at any moment, the same call resumes: parts of files with their next byte, archives with the next one.

    Args:
        data_set: of `known_sets()`.
        out: folder to make, or to resume in.
        splits: of "train" and "val".
        archives: folder of files that were fetched already; nothing is downloaded then, and nothing changed there.
        keep_archives: leave what was downloaded in `out/.download`.
        parallel: files at a time.
        progress: show bars.

    Returns:
        Counts.

    Raises:
        DownloadError: a file could not be had; the message says what to fetch and where to put it.
        DataError: `archives` lacks files (all are named, with their addresses), a checksum is wrong, an archive is
            damaged or means harm, too little space, `out` holds something else or is busy.
    """
    out = Path(out)
    files = data_set.of_splits(splits)
    given = None if archives is None else _given(data_set, files, Path(archives))
    if not out.is_dir():  # a link to a folder is one to resume in
        check_is_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / NOTE).exists() and not (out / ".download").is_dir():
        raise DataError(f"{out} is not empty and holds no download: choose another folder, or empty it.")
    store = out / ".download"
    with kept_folder(out, store / ".lock"):
        result = _Work(data_set, out, store, given, keep_archives, progress).run(files, parallel)
    if not keep_archives:
        shutil.rmtree(store, ignore_errors=True)
    return result


def _given(data_set: DataSet, files: tuple[RemoteFile, ...], folder: Path) -> dict[str, Path]:
    """Where each file lies in a folder of fetched ones: under its split, or at the top where its name is unique."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.")
    names = [file.name for file in data_set.files]
    found, missing = {}, []
    for file in files:
        places = [folder / file.key, folder / file.to / file.name]
        if names.count(file.name) == 1:
            places.append(folder / file.name)
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            wanted = file.name if names.count(file.name) == 1 else file.key
            missing.append(f"  {wanted} from {file.page or file.address}")
        else:
            found[file.key] = place
    if missing:
        more = [f"  … and {len(missing) - 20} more (--list names all)"] if len(missing) > 20 else []
        raise DataError(
            "\n".join([f"{folder} lacks {len(missing)} of {len(files)} files; put there:", *missing[:20], *more])
        )
    return found


class _Work:
    def __init__(
        self, data_set: DataSet, out: Path, store: Path, given: dict[str, Path] | None, keep: bool, progress: bool
    ):
        self.data_set, self.out, self.store, self.given = data_set, out, store, given
        self.keep, self.progress = keep, progress
        self.note_lock, self.stop = threading.Lock(), threading.Event()
        self.note = {"set": data_set.name, "terms": data_set.terms, "files": {}}
        if (out / NOTE).exists():
            found = parse(decoded((out / NOTE).read_bytes(), out / NOTE), str(out / NOTE))
            if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
                raise DataError(f"{out / NOTE}: not the note of a download. Choose another folder, or remove it.")
            if found.get("set") != data_set.name:
                raise DataError(f"{out} holds {found.get('set')!r}: choose another folder.")
            self.note["files"] = found["files"]

    def run(self, files: tuple[RemoteFile, ...], parallel: int) -> Fetched:
        todo = [file for file in files if file.key not in self.note["files"]]
        if todo and self.given is None:
            self._check_room()
        with ThreadPoolExecutor(max(1, parallel)) as pool:
            futures = [pool.submit(self._one, file) for file in todo]
            try:
                unpacked = sum(future.result() for future in futures)
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return Fetched(self.data_set, self.out, len(todo), len(files) - len(todo), unpacked)

    def _check_room(self) -> None:
        free, needed = shutil.disk_usage(self.out).free / 1e9, self.data_set.unpacked_gigabytes
        if not self.note["files"] and free < needed:
            raise DataError(f"{self.out}: {free:.0f} GB are free, {needed:g} GB are needed. Choose another disk.")

    def _one(self, file: RemoteFile) -> int:
        if self.given is not None:
            local = self.given[file.key]
            if (reason := wrong_checksum(local, file.checksum)) is not None:
                raise DataError(
                    f"{local}: {reason}. It is damaged or another version: fetch {file.page or file.address}."
                )
        else:
            hint = (
                f"The same command resumes. Or fetch {file.page or file.address} elsewhere, put it into a folder as "
                f"{file.key}, and name that folder with --from."
            )
            local = download(
                file.address, self.store / file.key, checksum=file.checksum, progress=self.progress, hint=hint,
                attempts=_ATTEMPTS, stopped=self.stop.is_set,
            )  # fmt: skip
        folder = self.out / file.to
        if file.name.endswith(SUFFIXES):
            count = self._unpack(local, folder, file.only)
        else:
            count = 1
            target = folder / file.name
            target.unlink(missing_ok=True)
            bring(local, target, "link")
        with self.note_lock:
            self.note["files"][file.key] = {"address": file.address, "checksum": file.checksum, "unpacked": count}
            write_atomically(self.out / NOTE, (json.dumps(self.note, indent=1) + "\n").encode())
        if self.given is None and not self.keep:
            local.unlink()
        return count

    def _unpack(self, archive: Path, folder: Path, only: str) -> int:
        try:
            return unpack(archive, folder, only=only, progress=self.progress)
        except DataError as error:
            if self.given is not None:
                raise
            archive.unlink()
            raise DataError(f"{error} The archive was removed; the same command fetches it again.") from error
