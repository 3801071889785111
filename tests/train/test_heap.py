"""Memory that a process keeps for itself."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_the_heap_is_marked_for_huge_pages_and_no_page_is_taken_for_it():
    program = """
import re, resource
from dfine_tools.runs.heap import keep_freed_memory
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keep_freed_memory(1024, huge_pages=True)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 20_000  # KiB
areas = re.findall(r"\\[heap\\](.*?)VmFlags:([^\\n]*)", open("/proc/self/smaps").read(), re.S)
print(any("hg" in flags.split() for _, flags in areas))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    switched_off = "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    assert done.stdout.strip() == "True" or switched_off
