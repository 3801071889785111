"""One file from an address, once and whole: a cut download resumes, a file with a wrong checksum is not kept.

`torch.hub.download_url_to_file` and pooch start again from the first byte after a cut.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)


class DownloadError(DfineError):
    """A file that cannot be downloaded; the message says what to fetch and where to put it."""


def download(
    source: str, file: Path, *, checksum: str | None = None, progress: bool = True, hint: str = "", attempts: int = 5,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:  # fmt: skip
    """The file, downloaded from `source` where it is missing.

    A cut download resumes from `.NAME.part` in the same folder; the file appears when it is whole. Processes that ask
    for the same file at once wait for the first.

    Args:
        source: http or https address.
        file: where it belongs; its folder is made.
        checksum: refuse any other; "sha256:…", "sha1:…" or "md5:…".
        progress: show a bar.
        hint: end of the message where it fails: the way out.
        attempts: connections that are tried while each brings something.
        stopped: asked between blocks; True ends the download, for a later call to resume.

    Raises:
        DownloadError: no network, no such file there, a connection cut too often, a wrong checksum, a full disk.
    """
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if not file.exists():  # else another process was quicker
                part = file.with_name(f".{file.name}.part")
                _download(source, part, progress, attempts, stopped)
                if (reason := wrong_checksum(part, checksum)) is not None:
                    part.unlink()
                    raise OSError(f"{reason}; the file was not kept")
                part.replace(file)
    except OSError as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise DownloadError(f"{file.name} could not be downloaded from {source} ({reason}). {hint}".rstrip()) from error
    return file


def _download(source: str, part: Path, progress: bool, attempts: int, stopped: Callable[[], bool]) -> None:
    """Append to `part`, from where it ends, until it is as long as the server says."""
    for attempt in range(attempts):
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(source, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                start = have if answer.status == 206 else 0  # else the server starts again from the first byte
                length = answer.headers.get("Content-Length")
                total = None if length is None else start + int(length)
                log.info("downloading %s to %s", source, part.parent)
                bar = tqdm(
                    initial=start, total=total, unit="B", unit_scale=True, desc=part.name[1:-5], disable=not progress
                )
                with open(part, "ab" if start else "wb") as file, bar:
                    while block := answer.read(1 << 20):
                        bar.update(file.write(block))
                        if stopped():
                            raise InterruptedError("stopped")
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return  # nothing is left to send
            part.unlink()  # it is of another file
            continue
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
            if attempt + 1 == attempts or not part.exists() or part.stat().st_size == have:
                raise
            time.sleep(min(attempt, 10))
            continue
        if total is None or part.stat().st_size == total:
            return
    raise OSError(f"the connection was cut {attempts} times")


def wrong_checksum(file: Path, checksum: str | None) -> str | None:
    """What its checksum is instead; None where it is right, or none is known."""
    if checksum is None:
        return None
    kind, _, wanted = checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    return None if found == wanted.lower() else f"its {kind} checksum is {found}, not {wanted}"
