"""A run folder belongs to one process at a time: two that write one run would spoil it."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from dfine_lib.errors import DfineError

LOCK_WAIT = 10.0  # seconds: DataLoader workers of a killed run hold its lock until they notice


class FolderLock:
    """A run folder kept for this process; the lock goes with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the folder, and remove files that a killed run had half written.

        Raises:
            DfineError: another process holds the folder.
        """
        holder = self.folder / ".holder"  # beside the lock, which is empty
        try:
            self._lock.acquire(timeout=LOCK_WAIT, poll_interval=0.2)
        except Timeout as error:
            process = holder.read_text().strip() if holder.exists() else "unknown"
            message = f"{self.folder}: process {process} is training into this folder"
            raise DfineError(message, "folder_in_use") from error
        holder.write_text(str(os.getpid()))
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process write here."""
        self._lock.release()
