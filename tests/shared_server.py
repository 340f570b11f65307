"""One server and its clients, event by event, without a clock, a socket or a task."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fim_eval.limiter import Limiter

LOOK_S = 1.0
TURNAROUND_S = 0.003
"""From a request's last answer until the next one is there."""


@dataclass(slots=True, eq=False)
class SharedClient:
    """Asks as `crew` does: lists, as many as its limiter lets."""

    limiter: Limiter
    left: int
    """Prompts that are not asked yet."""

    joined_s: float
    in_flight: int = 0
    done_s: float | None = None
    limits: list[tuple[float, int]] = field(default_factory=list)
    """At every look."""

    def mean_limit(self, from_s: float, to_s: float) -> float:
        """Over the looks of a time."""
        found = [limit for at_s, limit in self.limits if from_s <= at_s < to_s]
        return sum(found) / len(found)


@dataclass(slots=True, eq=False)
class _List:
    client: SharedClient
    prompts: int
    open: int


class SharedServer:
    """Works on so many prompts at once, each for a time of its own; others wait in order."""

    def __init__(
        self, places: int, mean_s: float, *, batch: int = 16, seed: int = 0, tells: bool = True
    ) -> None:
        self.places = places
        self.now_s = 0.0
        self.clients: list[SharedClient] = []
        self._mean_s = mean_s
        self._batch = batch
        self._tells = tells
        self._draw = random.Random(seed)  # noqa: S311  no secret
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._running = 0
        self._queue: deque[_List] = deque()
        self._busy: list[tuple[float, int]] = []
        """From when on how many are worked on."""

    def join(
        self, at_s: float, *, start: int = 64, prompts: int = 10**9, ceiling: int = 256
    ) -> SharedClient:
        """A client that begins then."""
        client = SharedClient(Limiter(ceiling, start), prompts, at_s)
        self.clients.append(client)
        self._at(at_s, lambda: self._begin(client))
        return client

    def run(self, until_s: float) -> None:
        """On to that time, or until every client is done."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, happens = heapq.heappop(self._events)
            happens()
            if all(client.done_s is not None for client in self.clients):
                return
        self.now_s = until_s

    def busy(self, from_s: float, to_s: float) -> float:
        """Share of its places that were at work."""
        total = 0.0
        ends = [at_s for at_s, _ in self._busy[1:]] + [to_s]
        for (at_s, running), end_s in zip(self._busy, ends, strict=True):
            total += running * max(0.0, min(end_s, to_s) - max(at_s, from_s))
        return total / (self.places * (to_s - from_s))

    def full_from_s(self, share: float = 0.95) -> float | None:
        """When so many of its places were first at work."""
        return next((at_s for at_s, running in self._busy if running >= share * self.places), None)

    def _at(self, at_s: float, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, happens))

    def _begin(self, client: SharedClient) -> None:
        client.limiter.begin(self.now_s)
        self._look(client)
        self._fill(client)

    def _look(self, client: SharedClient) -> None:
        if client.done_s is not None:
            return
        if self._tells:
            client.limiter.queued(len(self._queue), self._running, self.now_s)
            if client.in_flight:
                self._fill(client)
        client.limits.append((self.now_s, client.limiter.limit))
        self._at(self.now_s + LOOK_S * (1 + self._draw.random() / 50), lambda: self._look(client))

    def _fill(self, client: SharedClient) -> None:
        while client.left and (
            not client.in_flight or client.in_flight + self._batch <= client.limiter.limit
        ):
            prompts = min(self._batch, client.left)
            client.left -= prompts
            client.in_flight += prompts
            self._queue.extend([_List(client, prompts, prompts)] * prompts)
            self._work()

    def _work(self) -> None:
        while self._queue and self._running < self.places:
            one = self._queue.popleft()
            self._running += 1
            # Half of the time is common to all, half as varied as the length of answers.
            seconds = self._mean_s * (0.5 + 0.5 * self._draw.expovariate(1.0))
            self._at(self.now_s + seconds, lambda one=one: self._answer(one))  # type: ignore[misc]
        self._busy.append((self.now_s, self._running))

    def _answer(self, one: _List) -> None:
        self._running -= 1
        one.open -= 1
        self._work()
        if not one.open:
            self._at(self.now_s + TURNAROUND_S, lambda: self._return(one))

    def _return(self, one: _List) -> None:
        client = one.client
        client.limiter.answered(one.prompts, self.now_s)
        client.in_flight -= one.prompts
        if not client.left and not client.in_flight:
            client.done_s = self.now_s
        self._fill(client)
