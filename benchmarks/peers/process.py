"""One side of a comparison in a process of its own: allocator and threads as that side's own training sets them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

SPIN = "GOMP_SPINCOUNT"  # how long waiting threads spin; read when torch is loaded


class Side:
    """Work that is done elsewhere when called. To be used in a `with`.

    Args:
        make: a function of a module; makes the work from `arguments`, there.
        as_we_train: with what `dfine train` sets for its process; otherwise with nothing set.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any, as_we_train: bool) -> None:
        self._here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(there, as_we_train, make, arguments), daemon=True)
        before = os.environ.pop(SPIN, None)
        if as_we_train:
            os.environ[SPIN] = "1000"
        try:
            self._process.start()
        finally:
            os.environ.pop(SPIN, None)
            if before is not None:
                os.environ[SPIN] = before
        there.close()
        self._here.recv()  # made

    def __call__(self) -> Any:
        self._here.send(True)
        return self._here.recv()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._process.join(10)
        self._process.kill()


def _serve(connection: Any, as_we_train: bool, make: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    if as_we_train:
        from dfine_lib.data.loader import keep_freed_memory

        keep_freed_memory(2047)
    work = make(*arguments)
    try:
        connection.send(None)
        while connection.recv():
            connection.send(work())
    except EOFError:  # the other end has what it wanted
        return
