"""The size of chunks follows what the workers of a run were seen to do."""

from __future__ import annotations

import pytest

from producer.run.chunk_size import FIRST, FIRST_WINDOW, LARGEST, SMALLEST, ChunkSize


def sized(*rates: float) -> ChunkSize:
    """After a chunk of each worker, worker n with the n-th rate."""
    size = ChunkSize()
    for number, rate in enumerate(rates):
        size.note(f"label-{number}", 100, 100 / rate)
    return size


def test_a_fixed_size_stays_whatever_comes_back() -> None:
    size = ChunkSize(7)
    size.note("label-1", 7, 0.001)

    assert (size.next(1000), size.window(20), size.window(0)) == (7, 20, 16)


def test_before_anything_came_back_chunks_are_short_and_few() -> None:
    assert (ChunkSize().next(10_000), ChunkSize().window(16), ChunkSize().window(2)) == (FIRST, FIRST_WINDOW, 2)


@pytest.mark.parametrize(("rate", "images"), [(400, 800), (4, SMALLEST), (60, 120), (5000, LARGEST)])
def test_a_chunk_takes_two_seconds_within_bounds(rate: float, images: int) -> None:
    assert sized(rate).next(1_000_000) == images


def test_the_median_worker_decides_and_its_newest_chunks_count() -> None:
    assert sized(100, 200, 5000).next(1_000_000) == 400
    size = sized(100)
    for _ in range(5):
        size.note("label-0", 10, 0.05)
    assert size.next(1_000_000) == 400


def test_the_last_chunks_of_several_workers_get_shorter_and_those_of_one_do_not() -> None:
    assert sized(400).next(100) == 800
    assert [sized(400, 400).next(left) for left in (4000, 1000, 200)] == [800, 250, 50]
    assert [sized(60, 60).next(left) for left in (100, 3)] == [25, SMALLEST]


def test_the_last_chunks_are_not_so_short_that_pauses_between_them_take_longer() -> None:
    assert [sized(4000, 4000).next(left) for left in (100_000, 2000, 100, 3)] == [LARGEST, 500, 400, 400]


def test_a_few_chunks_a_worker_are_in_flight() -> None:
    assert [sized(400).window(16), sized(400, 400).window(16), sized(*[400] * 8).window(16)] == [3, 6, 16]
    assert [ChunkSize().window(0), sized(400).window(0), sized(*[400] * 16).window(0)] == [FIRST_WINDOW, 3, 48]


def test_a_chunk_without_time_or_rows_teaches_nothing() -> None:
    size = ChunkSize()
    size.note("label-1", 0, 1.0)
    size.note("label-1", 10, 0.0)

    assert size.next(100) == FIRST
