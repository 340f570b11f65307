"""Whether a server is well. Whoever finds that it may not be waits here until it is again.

A server whose engine has died refuses everything, and one whose engine hangs answers nothing while
its `/health` says 200 (https://github.com/vllm-project/vllm/issues/17972): only a generated token
shows that it is well. Knows no prompt and no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from fim_eval.errors import EndpointError
from fim_eval.records import Timeouts

FIRST_LOOK_S = 1.0
LONGEST_LOOK_S = 15.0

OVERDUE = 10.0
"""Times the slowest answer so far, for one request: then it is taken for lost. Twice as patient
after each that was given up, so that what is honestly slow gets its answer."""


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
        self._pending: dict[asyncio.Timeout, float] = {}
        """Requests, with when each was sent."""

        self._slowest_s = 0.0
        self._patience = OVERDUE
        self._answered_s = clock_s()

    @property
    def is_lost(self) -> bool:
        """Whether it is being waited for."""
        return self._recovery is not None

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
        self._recovery = None
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
                told = True
            await self._sleep(wait_s)
            wait_s = min(LONGEST_LOOK_S, 1.5 * wait_s)
        self._answered_s = self._clock_s()
        if told:
            self._notice(f"{self._where}: is back after {self._clock_s() - started:.0f} s")

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, a request waits for its answer.

        Raises:
            HungError: `watch` has given it up.
        """
        sent_s = self._clock_s()
        if not self._pending:
            self._answered_s = sent_s
        try:
            async with asyncio.timeout(None) as pending:
                self._pending[pending] = sent_s
                try:
                    yield
                finally:
                    del self._pending[pending]
        except TimeoutError as error:
            if pending.expired():
                waited_s = self._clock_s() - sent_s
                raise HungError(f"given up after {waited_s:.0f} s without an answer") from error
            raise
        self._answered_s = self._clock_s()
        self._slowest_s = max(self._slowest_s, self._answered_s - sent_s)

    async def watch(self) -> None:
        """Give up what waits in vain, so that it is asked again.

        All of it, whenever nothing was answered for long and no token can be had; one request,
        when it has waited far longer than any that was answered. Runs until it is cancelled.
        """
        while True:
            await asyncio.sleep(self._timeouts.stall_s / 4)
            if self.is_lost:
                continue
            self._give_up_overdue()
            quiet_s = self._clock_s() - self._answered_s
            if not self._pending or quiet_s < self._timeouts.stall_s:
                continue
            fault = await self._look()
            if fault is None:
                # Slow, not hung: the token came.
                self._answered_s = self._clock_s()
                continue
            self._notice(
                f"{self._where}: {len(self._pending)} requests without an answer for "
                f"{quiet_s:.0f} s, and no token either ({fault}); they are given up and asked again"
            )
            self._give_up(self._pending)

    def _give_up_overdue(self) -> None:
        if not self._slowest_s:
            return
        longest_s = max(self._timeouts.stall_s, self._patience * self._slowest_s)
        now_s = self._clock_s()
        overdue = [one for one, sent_s in self._pending.items() if now_s - sent_s > longest_s]
        if overdue:
            self._patience *= 2
            self._notice(
                f"{self._where}: {len(overdue)} requests without an answer for {longest_s:.0f} s, "
                f"others took {self._slowest_s:.0f} s at most; they are given up and asked again"
            )
            self._give_up(overdue)

    @staticmethod
    def _give_up(requests: Iterable[asyncio.Timeout]) -> None:
        now = asyncio.get_running_loop().time()
        for pending in list(requests):
            pending.reschedule(now)
