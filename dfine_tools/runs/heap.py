"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory(megabytes: int = 256, huge_pages: bool = False) -> None:
    """Let this process keep what it frees, up to that much: it will ask for the same sizes again and again.

    Given back to the system and fetched anew, a page at a time, they cost more than the arithmetic on them. Only with
    glibc; elsewhere nothing happens.

    Args:
        megabytes: below 2048.
        huge_pages: ask the system for pages of 2 MiB, of which the processor finds any at once; for work on maps of
            many megabytes. Where the system has them switched off nothing happens.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, megabytes << 20)
        mallopt(mmap_threshold, 32 << 20)  # the most that an older glibc takes
        mallopt(mmap_threshold, megabytes << 20)
        if huge_pages:
            _use_huge_pages(libc, (megabytes - 64) << 20)  # less than what makes it give memory back


def _use_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Let the heap grow by so many bytes, mark them for huge pages before any is touched, and free them again."""
    huge, mark = 2 << 20, 14  # MADV_HUGEPAGE
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is None:
        return
    first = -(-block // huge) * huge
    libc.madvise(first, (block + size - first) // huge * huge, mark)
    libc.free(block)
