"""How many prompts may be in flight: what a server bears, found out while it works. Pure.

It is told what happens and when; it holds no clock and starts nothing. As congestion control does:
up while more in flight gives more answers a second, down at once where the server refuses or its
queue grows. The numbers are ours; the scheme is that of TCP's slow start and multiplicative
decrease (https://www.rfc-editor.org/rfc/rfc5681).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["start", "faster", "no faster", "trying", "overloaded", "queueing"]

UP = 1.5
FASTER = 1.05
"""What counts as faster: less is noise."""

DOWN = 0.7
OFTEN = 0.1
"""Share of requests refused, of this round's and the last one's, that is an overload: a gateway
that now and then refuses one says nothing of how many it bears."""

CALM = 3
"""Rounds without growth after an overload."""

STEADY = 10
"""Rounds after which more is tried again."""

LEAST_S = 1.0
"""A round is at least so long, and at least as many answers as may be in flight."""

LONG_QUEUE = 0.5
"""Of what is in flight, waiting at the server: then there is too much."""

SHORT_QUEUE = 0.1
"""Up to here there may be more."""


@dataclass(frozen=True, slots=True)
class Change:
    """A new limit, and why."""

    at_s: float
    limit: int
    prompts_per_s: float
    """Of the round that led to it."""

    reason: Reason


@dataclass(slots=True)
class Limiter:
    """The limit of one server, in prompts."""

    ceiling: int
    """That a user has set; never exceeded."""

    start: int = 64
    limit: int = field(init=False)
    history: list[Change] = field(init=False, default_factory=list)
    _since_s: float | None = field(init=False, default=None)
    _answers: int = field(init=False, default=0)
    _requests: int = field(init=False, default=0)
    _requests_before: int = field(init=False, default=0)
    _refused: int = field(init=False, default=0)
    _overloaded: bool = field(init=False, default=False)
    _queue: float = field(init=False, default=0.0)
    _best: tuple[float, int] = field(init=False, default=(0.0, 0))
    _growing: bool = field(init=False, default=True)
    _rounds: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.limit = min(self.start, self.ceiling)

    def begin(self, now_s: float) -> None:
        """The first prompt is sent."""
        self._since_s = now_s
        self.history.append(Change(now_s, self.limit, 0.0, "start"))

    def answered(self, prompts: int, now_s: float) -> None:
        """So many prompts have their outcome."""
        self._answers += prompts
        self._requests += 1
        since_s = now_s if self._since_s is None else self._since_s
        if now_s - since_s >= LEAST_S and self._answers >= self.limit:
            self._end_round(now_s, self._answers / (now_s - since_s))

    def overloaded(self, now_s: float) -> None:
        """The server has refused a request because it has too many (429, 503)."""
        self._refused += 1
        seen = self._refused + self._requests + self._requests_before
        if not self._overloaded and self._refused > OFTEN * seen:
            # Once a round: what was sent before the limit fell is refused, too.
            self._overloaded = True
            self._set(now_s, 0.0, max(1, int(self.limit * DOWN)), "overloaded")

    def queued(self, waiting: float) -> None:
        """So many requests wait inside the server, by its own count."""
        self._queue = waiting

    def _end_round(self, now_s: float, rate: float) -> None:
        self._rounds += 1
        share = self._queue / self.limit
        if self._overloaded:
            self._overloaded, self._growing, self._rounds = False, False, -CALM
        elif share > LONG_QUEUE:
            self._growing = False
            self._set(now_s, rate, max(1, int(self.limit * DOWN)), "queueing")
        elif self._growing:
            if rate > self._best[0] * FASTER:
                self._best = (rate, self.limit)
                if share <= SHORT_QUEUE:
                    self._set(now_s, rate, self._more(), "faster")
            else:
                self._growing, self._rounds = False, 0
                self._set(now_s, rate, self._best[1], "no faster")
        elif self._rounds >= STEADY and share <= SHORT_QUEUE:
            self._best, self._growing, self._rounds = (rate, self.limit), True, 0
            self._set(now_s, rate, self._more(), "trying")
        self._since_s, self._answers = now_s, 0
        self._requests_before, self._requests, self._refused = self._requests, 0, 0

    def _more(self) -> int:
        return min(self.ceiling, max(self.limit + 1, int(self.limit * UP)))

    def _set(self, now_s: float, rate: float, limit: int, reason: Reason) -> None:
        if limit != self.limit:
            self.limit = limit
            self.history.append(Change(now_s, limit, round(rate, 2), reason))
