"""What a server is to be asked next: a queue that is made as it is emptied."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Supply(Generic[T]):
    """A queue of which nothing is in memory but what comes next."""

    def __init__(self, source: Iterable[T] = ()) -> None:
        """Nothing is made yet."""
        self._source = iter(source)
        self._front: deque[T] = deque()

    def __bool__(self) -> bool:
        """Whether anything is left; what comes next is made."""
        return bool(self._made())

    def peek(self) -> T:
        """What comes next. There has to be something."""
        return self._made()[0]

    def take(self) -> T:
        """What comes next, and no more from now on. There has to be something."""
        return self._made().popleft()

    def _made(self) -> deque[T]:
        """What is in memory: one item at least, if any is left."""
        if not self._front:
            self._front.extend(islice(self._source, 1))
        return self._front

    def put_back(self, item: T) -> None:
        """Something that comes before all the rest."""
        self._front.appendleft(item)

    def leave_to(self, others: Iterable[Supply[T]]) -> None:
        """Have others work off what is left, behind their own: whoever is ready takes the next."""
        left = chain([*self._front], self._source)
        self._front.clear()
        self._source = iter(())
        for other in others:
            other._source = chain(other._source, left)
