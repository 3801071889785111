"""Which machine and which code a run, a benchmark or an evaluation was made with."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import dfine_lib
from dfine_lib.device import describe_device


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine and the code: versions, processor, device, commit, command."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["dfine" if "dfine" in sys.argv[0] else Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit_of(Path(dfine_lib.__file__)),
        "versions": {
            "dfine_lib": dfine_lib.__version__, "torch": torch.__version__, "python": platform.python_version()
        },
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def commit_of(source: Path) -> str | None:
    """Commit of the repository that a file is tracked in; not of one that merely encloses it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(source.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
