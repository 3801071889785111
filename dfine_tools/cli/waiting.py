"""A word while a command's libraries are loaded, which takes seconds on a slow disk or a busy machine."""

from __future__ import annotations

import os
import sys
import threading

AFTER_S = 1.5


def start(command: str) -> threading.Timer:
    """After `AFTER_S` seconds, say on stderr that PyTorch is being loaded, if it is; cancel what is returned."""
    timer = threading.Timer(AFTER_S, _tell, (command,))
    timer.daemon = True
    timer.start()
    return timer


def is_loading() -> bool:
    """Whether torch, or torchvision after it, is on its way in; False where a command does without."""
    if os.environ.get("RANK", "0") != "0":  # one of several processes speaks
        return False
    return "torch" in sys.modules and not all(map(_loaded, ("torch", "torchvision")))


def _loaded(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _tell(command: str) -> None:
    if is_loading():
        print(f"dfine {command}: loading PyTorch …", file=sys.stderr, flush=True)
