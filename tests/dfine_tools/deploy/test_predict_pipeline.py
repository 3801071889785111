"""Stages that overlap keep order, bounds and errors, and leave no thread behind."""

from __future__ import annotations

import threading
import time

import pytest

from dfine_tools.deploy.pipeline import in_background, in_groups, map_ahead


@pytest.fixture(autouse=True)
def _no_thread_stays():
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before  # a thread of an earlier test may end meanwhile


class Counting:
    """0, 1, 2, …; knows how many were made, and whether it was closed."""

    def __init__(self, stop: int) -> None:
        self.stop, self.made, self.closed = stop, 0, False

    def __call__(self):
        try:
            for i in range(self.stop):
                self.made = i + 1
                yield i
        finally:
            self.closed = True


def test_items_come_whole_and_in_order():
    assert list(in_background(iter(range(100)), 3)) == list(range(100))
    assert list(map_ahead(lambda x: x * x, range(50), 4, 7)) == [x * x for x in range(50)]
    assert list(in_background([], 1)) == list(map_ahead(str, [], 1, 1)) == []
    assert list(in_groups(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_the_maker_runs_no_further_ahead_than_it_may():
    source = Counting(1000)
    ahead = in_background(source(), 3)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert 2 <= source.made <= 5  # one taken, three waiting, one in hand
    ahead.close()
    assert source.closed


def test_mapping_reads_no_further_ahead_than_it_may():
    source = Counting(1000)
    results = map_ahead(lambda x: x, source(), 2, 5)
    assert next(results) == 0 and source.made == 5
    results.close()
    assert source.closed


@pytest.mark.parametrize("stage", [lambda items: in_background(items, 2), lambda items: map_ahead(str, items, 2, 2)])
def test_an_error_of_the_source_comes_out_where_it_is_read(stage):
    def bad():
        yield 1
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        list(stage(bad()))


def test_an_error_while_mapping_comes_out():
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda x: 1 // x, [1, 1, 0, 1, 1], 2, 3))


def test_the_maker_works_while_the_taker_does():
    def slow():
        for _ in range(5):
            time.sleep(0.05)
            yield 0

    start = time.perf_counter()
    for _ in in_background(slow(), 2):
        time.sleep(0.05)
    assert time.perf_counter() - start < 0.45  # one after the other would take 0.5


def test_who_drops_the_oldest_never_waits():
    source = Counting(50)
    latest = in_background(source(), 1, drop_oldest=True)
    first = next(latest)
    time.sleep(0.2)
    assert source.made == 50
    taken = [first, *latest]
    assert taken[-1] == 49 and len(taken) <= 3
