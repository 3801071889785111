"""Files that appear whole or not at all, and values as JSON can hold them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes its name when the block ends: a full disk or a kill leaves the old one as it was.

    A pipe or a device (`/dev/null`) is written to as it stands, never replaced.

    Raises:
        OSError: the write failed; the message names the file, and nothing half-written stays.
    """
    if path.is_fifo() or path.is_char_device():
        with open(path, "wb") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # there may not even be a folder
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); an earlier file is unharmed. "
            "Free some space or choose another folder"
        ) from error  # fmt: skip


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all; errors are those of `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def json_safe(value: Any) -> Any:
    """The value with null for every NaN and infinity, which JSON has no word for; keys become text."""
    if isinstance(value, dict):
        return {str(key): json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
