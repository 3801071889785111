"""Work that overlaps: one stage reads ahead while another computes, never further than a bound."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def in_background(items: Iterable[T], ahead: int, drop_oldest: bool = False) -> Iterator[T]:
    """The same items, made by a thread that runs at most `ahead` items in front of the consumer.

    An exception of `items` is raised here, after the items before it. Closing this generator, or leaving its loop,
    ends the thread and closes `items`.

    Args:
        items: run through in the thread.
        ahead: most items that wait for the consumer, at least 1.
        drop_oldest: where `ahead` items wait, drop the oldest and go on. For cameras, which do not wait either.
    """
    waiting: deque[T] = deque()
    state = threading.Condition()
    ended, stop = False, False
    failure: BaseException | None = None

    def make() -> None:
        nonlocal ended, failure
        source = iter(items)
        try:
            for item in source:
                with state:
                    if drop_oldest and len(waiting) >= ahead:
                        waiting.popleft()
                    state.wait_for(lambda: stop or len(waiting) < ahead)
                    if stop:
                        break
                    waiting.append(item)
                    state.notify_all()
                del item
        except BaseException as error:  # raised by the consumer
            failure = error
        finally:
            if hasattr(source, "close"):
                source.close()
            with state:
                ended = True
                state.notify_all()

    thread = threading.Thread(target=make, name="dfine-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with state:
                state.wait_for(lambda: waiting or ended)
                if not waiting:
                    break
                item = waiting.popleft()
                state.notify_all()
            yield item
            del item
        if failure is not None:
            raise failure
    finally:
        with state:
            stop = True
            waiting.clear()
            state.notify_all()
        thread.join()


def map_ahead(do: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """`do` of every item, in order, by a few threads; at most `ahead` results wait to be taken."""
    running: deque[Future] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="dfine-map") as pool:
        try:
            for item in items:
                running.append(pool.submit(do, item))
                del item
                if len(running) >= ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for one in running:
                one.cancel()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in turn; the last may be shorter."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
