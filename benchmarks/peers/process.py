"""One side of a comparison in a process of its own: with the allocator as that side's own training sets it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


class Side:
    """Work that is done elsewhere when called. To be used in a `with`.

    Args:
        make: a function of a module; makes the work from `arguments`, there.
        keep_memory: what is freed is kept for the next step, as `dfine train` does.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any, keep_memory: bool) -> None:
        self._here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(there, keep_memory, make, arguments), daemon=True)
        self._process.start()
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


def _serve(connection: Any, keep_memory: bool, make: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    if keep_memory:
        from dfine_tools.runs.heap import keep_freed_memory

        keep_freed_memory(2047, huge_pages=True)
    work = make(*arguments)
    try:
        connection.send(None)
        while connection.recv():
            connection.send(work())
    except EOFError:  # the other end has what it wanted
        return
