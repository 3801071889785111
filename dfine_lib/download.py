"""One file from an address, once and whole: a cut download goes on, a wrong one is not kept."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from dfine_lib.errors import DfineError
from dfine_lib.files import process_lock

log = logging.getLogger(__name__)


class DownloadError(DfineError):
    """A file that could not be had; the message says what to fetch and where to put it."""


def download(
    source: str, file: Path, *, checksum: str | None = None, progress: bool = True, hint: str = "", attempts: int = 5,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:  # fmt: skip
    """The file, fetched from `source` where it is missing.

    A download that was cut goes on where it stopped, from `.NAME.part` beside the file; the file appears when it is
    whole. Processes that ask for the same file at once wait for the first.

    Args:
        source: http or https address.
        file: where it belongs; its folder is made.
        checksum: refuse any other; "sha256:…", "sha1:…" or "md5:…".
        progress: show a bar.
        hint: end of the message where it fails: the way out.
        attempts: connections that are tried while each brings something.
        stopped: asked between blocks; True ends the download, for a later call to go on.

    Raises:
        DownloadError: no network, no such file there, a cut that did not mend, a wrong size or checksum, a full disk.
    """
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with process_lock(file.with_name(f".{file.name}.lock")):
            if not file.exists():  # else another process was quicker
                part = file.with_name(f".{file.name}.part")
                _download(source, part, progress, attempts, stopped)
                if (reason := wrong_checksum(part, checksum)) is not None:
                    part.unlink()
                    raise OSError(f"{reason}; the file was not kept")
                part.replace(file)
    except OSError as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise DownloadError(f"{file.name} could not be had from {source} ({reason}). {hint}".rstrip()) from error
    return file


def _download(source: str, part: Path, progress: bool, attempts: int, stopped: Callable[[], bool]) -> None:
    """Bytes of `source` into `part`, from where it ends, until it is as long as the server says."""
    for attempt in range(attempts):
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(source, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                if have and answer.status != 206:  # the server starts again from the first byte
                    have = 0
                length = answer.headers.get("Content-Length")
                total = None if length is None else have + int(length)
                log.info("downloading %s to %s", source, part.parent)
                with (
                    open(part, "ab" if have else "wb") as file,
                    tqdm(
                        initial=have, total=total, unit="B", unit_scale=True, desc=part.name[1:-5], disable=not progress
                    ) as bar,
                ):
                    while not stopped() and (block := answer.read(1 << 20)):
                        file.write(block)
                        bar.update(len(block))
                if stopped():
                    raise InterruptedError("stopped")
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing is left to send, or the part is of another file
                if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                part.unlink()
                continue
            raise
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
            if attempt + 1 == attempts or not part.exists() or part.stat().st_size == have:
                raise
            time.sleep(min(attempt, 10))
            continue
        size = part.stat().st_size
        if total is None or size == total:
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
    return (
        None if digest.hexdigest() == wanted.lower() else f"its {kind} checksum is {digest.hexdigest()}, not {wanted}"
    )
