"""Whether a server is well. Whoever finds that it may not be waits here until it is again.

A server whose engine has died refuses everything, and one whose engine hangs answers nothing while
its `/health` says 200 (https://github.com/vllm-project/vllm/issues/17972): only a generated token
shows that it is well. Knows no prompt and no task.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from fim_eval.errors import EndpointError, FimEvalError
from fim_eval.records import Timeouts

FIRST_LOOK_S = 1.0
LONGEST_LOOK_S = 15.0

OVERDUE_TIMES = 10
"""A request is overdue that has waited so many times as long as the slowest of the latest."""

LATEST = 64
"""Requests that are compared with, at most: those that may generate as many tokens."""

FEWEST = 16
"""With fewer nothing is overdue."""


class HungError(Exception):
    """What was asked is given up: the server accepts requests and generates nothing."""


class Health:
    """Of one server, shared by all who ask it."""

    def __init__(
        self,
        look: Callable[[], Awaitable[str | None]],
        timeouts: Timeouts,
        *,
        where: str,
        clock_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        notice: Callable[[str], None],
    ) -> None:
        """Nothing is asked yet.

        Args:
            look: asks for one token; tells what is wrong, None if nothing is. Raises what ends the
                run.
            timeouts: for `stall_s` and `recovery_s`.
            where: the server, for messages.
            clock_s: monotonic.
            sleep: awaited between looks.
            notice: told, for a person, when the server is lost and when it is back.
        """
        self._look = look
        self._timeouts = timeouts
        self._where = where
        self._clock_s = clock_s
        self._sleep = sleep
        self._notice = notice
        self._recovery: asyncio.Task[None] | None = None
        self._lost_s: float | None = None
        """Since when no token could be had."""
        self._pending: dict[asyncio.Timeout, tuple[float, int]] = {}
        """When each was sent, and how many tokens it may generate."""
        self._waits_s: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=LATEST))
        """By tokens: a reading of the prompt's probabilities says nothing of a long answer."""
        self._answered_s = clock_s()

    @property
    def is_lost(self) -> bool:
        """Whether it is being waited for."""
        return self._recovery is not None

    @property
    def is_long_lost(self) -> bool:
        """Whether it has been waited for so long that a single request would be given up."""
        since_s = self._lost_s
        return since_s is not None and self._clock_s() - since_s > self._timeouts.overdue_s

    async def recovered(self) -> None:
        """Return when the server generates; at once if it does, or if nobody is to wait.

        Raises:
            EndpointError: it does not within `recovery_s`.
        """
        if not self._timeouts.recovery_s:
            return
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())
            self._recovery.add_done_callback(self._recovery_ended)
        await asyncio.shield(self._recovery)

    def _recovery_ended(self, task: asyncio.Task[None]) -> None:
        self._recovery = self._lost_s = None
        if not task.cancelled():
            task.exception()  # told by those who wait

    async def _recover(self) -> None:
        started = self._clock_s()
        wait_s, told = FIRST_LOOK_S, False
        while (fault := await self._look()) is not None:
            waited_s = self._clock_s() - started
            if waited_s > self._timeouts.recovery_s:
                raise EndpointError(
                    f"{self._where}: does not answer any more ({fault}), for {waited_s:.0f} s now; "
                    "what was answered is on disk. Start it again and run the same command: it "
                    "resumes"
                )
            if not told:
                self._notice(f"{self._where}: is lost ({fault}); waiting for it")
                told, self._lost_s = True, self._clock_s()
            await self._sleep(wait_s)
            wait_s = min(LONGEST_LOOK_S, 1.5 * wait_s)
        self._answered_s = self._clock_s()
        if told:
            self._notice(f"{self._where}: is back after {self._clock_s() - started:.0f} s")

    @asynccontextmanager
    async def watched(self, max_tokens: int) -> AsyncIterator[None]:
        """Inside, a request waits for its answer.

        Args:
            max_tokens: that it may generate.

        Raises:
            HungError: `watch` has given it up.
        """
        if not self._pending:
            self._answered_s = self._clock_s()
        try:
            async with asyncio.timeout(None) as pending:
                sent_s = self._clock_s()
                self._pending[pending] = (sent_s, max_tokens)
                try:
                    yield
                finally:
                    del self._pending[pending]
        except TimeoutError as error:
            if pending.expired():
                # It would have taken longer: the next one that is slow is waited for longer.
                self._waits_s[max_tokens].append(self._clock_s() - sent_s)
                raise HungError("nothing was generated") from error
            raise
        self._answered_s = self._clock_s()
        self._waits_s[max_tokens].append(self._answered_s - sent_s)

    async def watch(self) -> None:
        """Give up what is asked whenever nothing was answered for long and no token can be had.

        A single request that waits far longer than others took is given up, too: a gateway may
        have lost it. Each time the bound grows by `OVERDUE_TIMES`, so that an answer that is only
        slow soon has all of `request_s`. And what a server still has when it is lost
        and answers nothing any more: one that was told to end waits for those who ask, and its
        engine has ended already (vLLM 0.32: `engine client stopped`, then `Waiting for connections
        to close`). Runs until it is cancelled; from then on the server is not waited for either.
        """
        try:
            await self._watch()
        finally:
            if self._recovery is not None:
                self._recovery.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._timeouts.stall_s, self._timeouts.overdue_s) / 4)
            self._give_up_overdue()
            self._give_up_lost()
            quiet_s = self._clock_s() - self._answered_s
            if not self._pending or self.is_lost or quiet_s < self._timeouts.stall_s:
                continue
            before_s = self._answered_s
            try:
                fault = await self._look()
            except FimEvalError as error:
                # Told by whoever asks again, and so looks again: nobody awaits us.
                fault = str(error)
            else:
                if fault is None:
                    # Slow, not hung: the token came.
                    self._answered_s = self._clock_s()
                if fault is None or self._answered_s != before_s:
                    # Or answers did, while the token was waited for.
                    continue
            self._notice(
                f"{self._where}: {len(self._pending)} requests without an answer for "
                f"{quiet_s:.0f} s, and it is not well ({fault}); they are given up and asked again"
            )
            for pending in self._pending:
                _expire(pending)

    def _give_up_overdue(self) -> None:
        if self.is_lost:
            return
        now_s = self._clock_s()
        for max_tokens, waits_s in self._waits_s.items():
            if len(waits_s) < FEWEST:
                continue
            bound_s = max(self._timeouts.overdue_s, OVERDUE_TIMES * max(waits_s))
            overdue = [
                pending
                for pending, (sent_s, most) in self._pending.items()
                if most == max_tokens and now_s - sent_s > bound_s
            ]
            for pending in overdue:
                _expire(pending)
            if overdue:
                self._notice(
                    f"{self._where}: {len(overdue)} requests without an answer for {bound_s:.0f} "
                    "s, while others have theirs; they are given up and asked again"
                )

    def _give_up_lost(self) -> None:
        if self._lost_s is None:
            return
        # As long as answers come it is only behind: what it has would lose its place in the queue.
        quiet_s = self._clock_s() - max(self._lost_s, self._answered_s)
        if quiet_s < self._timeouts.overdue_s:
            return
        for pending in self._pending:
            _expire(pending)


def _expire(pending: asyncio.Timeout) -> None:
    # One that is on its way out already cannot be told again.
    if not pending.expired():
        pending.reschedule(asyncio.get_running_loop().time())
