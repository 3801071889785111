"""Unpack an archive from elsewhere: only files, only inside the folder, no more than there can honestly be in it."""

from __future__ import annotations

import fnmatch
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from data_tools.convert.records import clean_name
from dfine_lib.data.images import DataError

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
MOST_FILES = 5_000_000
# JSON of boxes shrinks to a twentieth, images do not shrink at all; a bomb unpacks to a thousand times its size.
MOST_TIMES, MOST_BESIDES = 100, 64 << 20  # times the archive's size, plus bytes
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20  # bytes of a long name or of extended attributes, which tarfile reads into memory whole
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
)  # fmt: skip


def unpack(archive: Path, folder: Path, *, only: str = "*", progress: bool = True) -> int:
    """Unpack into `folder`, all or nothing; files that are there are replaced. Returns how many.

    It is unpacked beside first, into `folder/.ARCHIVE.unpacked`, and moved when the last member was good.

    Args:
        archive: .zip, .tar.gz, .tgz or .tar; never changed.
        folder: made where it is missing.
        only: members whose name fits this pattern.
        progress: show a bar.

    Raises:
        DataError: damaged, encrypted; a member that is absolute, climbs out with `..`, is a link or a device; more
            bytes or files than such an archive can hold; no member that fits `only`. Nothing stays of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{archive.name}.unpacked"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        names = _unpack(archive, unfinished, only, progress)
        if not names:
            raise DataError(f"{archive}: holds no file that fits {only!r}. Is it the right archive?")
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).replace(target)
        return len(names)
    except NotImplementedError as error:  # Deflate64 and the like
        raise DataError(
            f"{archive}: whole, but of a kind that Python's zipfile cannot read ({error}). Unpack it by other means, "
            "and pack it again as .tar or a common .zip."
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # bz2 and gzip, which have no exceptions of their
            raise  # own, give no number
        raise DataError(f"{archive}: cannot be unpacked ({error}); it is damaged.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack(archive: Path, folder: Path, only: str, progress: bool) -> list[str]:
    left = MOST_TIMES * archive.stat().st_size + MOST_BESIDES
    members = _zip_members if archive.name.endswith(".zip") else _tar_members
    names: list[str] = []
    bar = tqdm(
        desc=f"unpacking {archive.name}", unit="file", leave=False, dynamic_ncols=True, delay=2.0, disable=not progress
    )
    with bar:
        for raw_name, stream in members(archive):
            name = clean_name(raw_name, f"{archive}: member")
            if not fnmatch.fnmatchcase(name, only):
                continue
            if len(names) == MOST_FILES:
                raise DataError(f"{archive}: more than {MOST_FILES:,} files; refused.")
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{archive}: member {name[:80]!r} leads out of the folder; refused.")
            with _new_file(target, f"{archive}: member {name[:80]!r}") as out:
                while block := stream.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise DataError(
                            f"{archive}: unpacks to more than {MOST_TIMES} times its size, as archives made to fill "
                            "disks do; refused."
                        )
                    out.write(block)
            names.append(name)
            bar.update()
    return list(dict.fromkeys(names))


def _new_file(target: Path, member: str) -> IO[bytes]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:  # they name a folder that will be gone
        raise DataError(
            f"{member} is a file and a folder at once, or lies in a file; the archive is damaged."
        ) from error


_ENCRYPTED = 0x1  # bit of a zip member's flags


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive}: member {member.filename[:80]!r} is a link or a device; refused.")
            clean_name(member.filename, f"{archive}: member")
            if member.flag_bits & _ENCRYPTED:
                raise DataError(
                    f"{archive}: member {member.filename[:80]!r} is encrypted. Unpack the archive with its password, "
                    "and pack it again without one."
                )
            if not member.is_dir():
                with opened.open(member) as stream:
                    yield member.filename, stream


class _Member(tarfile.TarInfo):
    """A member of a tar, refused before tarfile reads a header of any length or a boundless list of holes."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a file with holes")
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:  # the other form, whose list stands before the file
        raise tarfile.ReadError("a file with holes")


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with archive.open("rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=file) if packed else file  # tarfile's own gzip would not look at the checksum
        with tarfile.open(fileobj=stream, mode="r|" if packed else "r|*", tarinfo=_Member) as opened:  # in one pass
            yield from _regular_members(archive, opened)
        while packed and stream.read(_BLOCK):  # up to the checksum, at the end
            pass


def _regular_members(archive: Path, opened: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in opened:
        if member.isdir():
            continue
        if not member.isreg():
            raise DataError(f"{archive}: member {member.name[:80]!r} is a link or a device; refused.")
        stream = opened.extractfile(member)
        if stream is not None:
            yield member.name, stream
        opened.members = []  # it would remember every member
