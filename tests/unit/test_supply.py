"""A queue that is made as it is emptied."""

from __future__ import annotations

from collections.abc import Iterator

from fim_eval.supply import Supply


def test_nothing_is_made_before_it_is_needed() -> None:
    made = []

    def source() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    supply = Supply(source())
    assert made == []
    assert supply
    assert (supply.peek(), supply.take(), made) == (0, 0, [0])
    assert (supply.take(), made) == (1, [0, 1])


def test_what_is_put_back_comes_first() -> None:
    supply = Supply([2, 3])
    supply.put_back(1)
    assert [supply.take() for _ in range(3)] == [1, 2, 3]
    assert not supply


def test_what_is_left_goes_to_whoever_is_ready_each_once() -> None:
    lost, one, other = Supply([1, 2, 3, 4, 5]), Supply([10]), Supply[int]()
    lost.take()
    lost.put_back(1)
    lost.leave_to([one, other])
    assert not lost
    assert [one.take(), other.take(), other.take()] == [10, 1, 2]
    # Two that are lost one after the other leave theirs to the third.
    other.leave_to([one])
    assert [one.take() for _ in range(3)] == [3, 4, 5]
    assert not one
    assert not other
