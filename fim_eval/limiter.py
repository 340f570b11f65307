"""How many prompts may be in flight: what a server bears, found out while it works. Pure.

It is told what happens and when; it holds no clock and starts nothing. As congestion control does:
up while more in flight gives more answers a second, down at once where the server refuses. Where
the server tells its queue, each client keeps a short one of its own in it, reckoned from the whole:
then the server is never idle, and clients that know nothing of each other share it about evenly
(docs/decisions/0026). The numbers are ours; the schemes are those of TCP's slow start and
multiplicative decrease (https://www.rfc-editor.org/rfc/rfc5681) and of TCP Vegas
(https://doi.org/10.1109/49.464716).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Reason = Literal[
    "start", "no queue", "faster", "no faster", "trying", "overloaded", "short queue", "queueing"
]

START_UP = 2.0
"""At the beginning, for as long as the server tells that nothing waits."""

UP = 1.5
FASTER = 1.05
"""What counts as faster: less is noise."""

DOWN = 0.7
OFTEN = 0.1
"""Share of requests refused, of this round's and the last one's, that is an overload: a gateway
that now and then refuses one says nothing of how many it bears."""

CALM = 3
"""Rounds before more is tried again where the server tells that nothing waits."""

STEADY = 10
"""Rounds before more is tried again elsewhere; after an overload, `CALM` more."""

LEAST_S = 1.0
"""A round is at least so long, and at least as many answers as may be in flight."""

SOON_S = 0.25
"""At the beginning it is enough, where the server has told of half of what is in flight: then it
has taken it in, and nothing waits."""

SHORT_QUEUE = 0.25
"""Own prompts that wait at the server, for each prompt that it works on: with fewer there may be
more in flight, or it runs dry when several are answered at once."""

LONG_QUEUE = 0.5
"""With more there is too much: they wait, and are answered no sooner."""

LEAST = 32
"""A queue never takes a client below this: one that always gives way to others that do not would
ask nothing."""


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
    _queue: tuple[float, float] | None = field(init=False, default=None)
    """Prompts that wait at the server and that it works on, of all clients, when it last told."""

    _tells: bool = field(init=False, default=False)
    _starting: bool = field(init=False, default=True)
    """Neither a queue nor a refusal was seen, and it has not got slower."""

    _best: tuple[float, int] = field(init=False, default=(0.0, 0))
    _growing: bool = field(init=False, default=True)
    _rest: int = field(init=False, default=0)
    """Rounds before there may be more again."""

    def __post_init__(self) -> None:
        self.limit = min(self.start, self.ceiling)

    @property
    def look_again_s(self) -> float:
        """How soon it wants to be told of the server's queue again."""
        return SOON_S if self._starting and self.limit < self.ceiling else LEAST_S

    def begin(self, now_s: float) -> None:
        """The first prompt is sent."""
        self._since_s = now_s
        self.history.append(Change(now_s, self.limit, 0.0, "start"))

    def answered(self, prompts: int, now_s: float) -> None:
        """So many prompts have their outcome."""
        self._answers += prompts
        self._requests += 1
        since_s = now_s if self._since_s is None else self._since_s
        # What was told before this round tells of another limit: it is waited for.
        is_told = self._queue is not None or not self._tells
        if is_told and now_s - since_s >= LEAST_S and self._answers >= self.limit:
            self._end_round(now_s, self._answers / (now_s - since_s))

    def overloaded(self, now_s: float) -> None:
        """The server has refused a request because it has too many (429, 503)."""
        self._refused += 1
        seen = self._refused + self._requests + self._requests_before
        if not self._overloaded and self._refused > OFTEN * seen:
            # Once a round: what was sent before the limit fell is refused, too.
            self._overloaded, self._starting = True, False
            self._set(now_s, 0.0, max(1, int(self.limit * DOWN)), "overloaded")

    def queued(self, waiting: float, running: float, now_s: float) -> None:
        """By the server's own count, of all its clients: prompts that wait and that it works on."""
        self._tells, self._queue = True, (waiting, running)
        self._starting = self._starting and not waiting
        if not (self._starting and running) or self._since_s is None:
            return
        least_s = SOON_S if running >= self.limit / 2 else LEAST_S
        if now_s - self._since_s >= least_s and self.limit < self.ceiling:
            self._set(now_s, 0.0, self._more(START_UP), "no queue")
            self._new_round(now_s)

    def not_told(self) -> None:
        """The server does not tell its queue, or does not any more."""
        self._tells, self._queue = False, None

    def _end_round(self, now_s: float, rate: float) -> None:
        self._rest = max(0, self._rest - 1)
        if self._overloaded:
            self._overloaded, self._growing, self._rest = False, False, CALM + STEADY
        elif self._queue is not None and self._queue[0]:
            self._keep_queue(now_s, rate, *self._queue)
        elif self._growing:
            if rate > self._best[0] * FASTER:
                self._best = (rate, self.limit)
                self._set(now_s, rate, self._more(), "faster")
            else:
                self._growing, self._starting = False, False
                self._rest = CALM if self._tells else STEADY
                self._set(now_s, rate, self._best[1], "no faster")
        elif not self._rest:
            self._best, self._growing = (rate, self.limit), True
            self._set(now_s, rate, self._more(), "trying")
        self._new_round(now_s)

    def _new_round(self, now_s: float) -> None:
        self._since_s, self._answers, self._queue = now_s, 0, None
        self._requests_before, self._requests, self._refused = self._requests, 0, 0

    def _keep_queue(self, now_s: float, rate: float, waiting: float, running: float) -> None:
        """Let as many wait as is good. Of all who wait our share is as of all in flight."""
        own = self.limit * waiting / (waiting + running)
        short, long = SHORT_QUEUE * running, LONG_QUEUE * running
        wanted = int(self.limit - own + (short + long) / 2)
        if own > long:
            self._growing = False
            least = min(self.limit, LEAST)
            self._set(now_s, rate, max(least, int(self.limit * DOWN), wanted), "queueing")
        elif own < short and not self._rest:
            self._growing = False
            self._set(now_s, rate, min(self._more(), wanted), "short queue")

    def _more(self, times: float = UP) -> int:
        return min(self.ceiling, max(self.limit + 1, int(self.limit * times)))

    def _set(self, now_s: float, rate: float, limit: int, reason: Reason) -> None:
        if limit != self.limit:
            self.limit = limit
            self.history.append(Change(now_s, limit, round(rate, 2), reason))
