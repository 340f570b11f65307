"""Many programs through few zygotes: in parallel, past what hangs, and past our own failures."""

from __future__ import annotations

import collections
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from fim_eval.judge import Examination, Ruling, rule
from fim_eval.records import Execution
from fim_eval.sandbox.jail import Jail
from fim_eval.sandbox.worker import KilledFromOutsideError, Limits, SandboxError, Zygote

KeyT = TypeVar("KeyT")

ATTEMPTS = 3
"""How often a program is tried when the sandbox itself fails."""

PROGRAMS_PER_ZYGOTE = 2_000
"""Then a new one: what little a zygote gathers (interned names, compiled tests) goes with it."""

PATIENCE_S = 0.25
"""A program that takes longer is put off: it is ended, and run again, with all its time, when all
others are done, so that those that hang do not hold them up. Among those put off, one that takes
longer does not count as one at work any more: another may start beside it."""

GATHER_S = 0.005
"""How long results may gather before whoever waits for them is woken."""

LANES_PER_WORKER = 4
"""Zygotes for each worker at most: one at work, the others with programs that took long."""


@dataclass(frozen=True, slots=True)
class Job(Generic[KeyT]):
    """One program, the tests it has to pass, and what it may use."""

    key: KeyT
    program: str
    examination: Examination
    limits: Limits


@dataclass(frozen=True, slots=True)
class Examined(Generic[KeyT]):
    """What came of a job."""

    job: Job[KeyT]
    execution: Execution
    ruling: Ruling


def run_jobs(jobs: Iterable[Job[KeyT]], jail: Jail, workers: int) -> Generator[Examined[KeyT]]:
    """Execute every job, `workers` at a time, and yield each as it ends: in no order.

    Closing the iterator ends everything that runs.

    Args:
        jobs: read as they are needed, from one of several threads at a time.
        jail: where they run.
        workers: programs at work at once; the number of processors.
    """
    pool = _Pool(jobs, jail, workers)
    try:
        yield from pool.results()
    finally:
        pool.stop()


class _Pool(Generic[KeyT]):
    """Lanes: threads with a zygote each. As many are at work as there are workers.

    A lane whose program takes long gives its place to another lane, and afterwards waits until it
    is given one again.
    """

    def __init__(self, jobs: Iterable[Job[KeyT]], jail: Jail, workers: int) -> None:
        self._jobs = iter(jobs)
        self._jail = jail
        self._workers = workers
        self._results: queue.SimpleQueue[Examined[KeyT] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._taking = threading.Condition()
        self._put_off: collections.deque[Job[KeyT]] = collections.deque()
        self._may_put_off = 0
        """Lanes whose program may yet be put off."""

        self._placing = threading.Lock()
        self._lanes: list[_Lane] = []
        self._waiting: list[_Lane] = []
        self._vacant = 0
        """Places that no lane has taken: all of them are busy with programs that take long."""

        self._stopping = False
        """No more jobs are given."""

        self._aborted = False
        """What runs is not wanted any more."""

    def results(self) -> Iterator[Examined[KeyT]]:
        with self._placing:
            for _ in range(self._workers):
                self._start_lane()
        ended = 0
        while ended < len(self._lanes):
            result = self._next_result()
            if result is None:
                ended += 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def _next_result(self) -> Examined[KeyT] | BaseException | None:
        try:
            return self._results.get_nowait()
        except queue.Empty:
            # A few at a time: to wake up for each would cost the lanes a tenth of their rate.
            time.sleep(GATHER_S)
            return self._results.get()

    def stop(self) -> None:
        """Give no more jobs, end what runs, wait for the threads."""
        self._aborted = True
        self._wind_down()
        for lane in self._lanes:
            lane.kill()
        for lane in self._lanes:
            lane.thread.join()

    def _wind_down(self) -> None:
        with self._placing:
            self._stopping = True
            for lane in self._waiting:
                lane.placed.set()
        with self._taking:
            self._taking.notify_all()

    def _start_lane(self) -> None:
        lane = _Lane(self._jail)
        lane.thread = threading.Thread(target=self._work, args=(lane,), daemon=True)
        self._lanes.append(lane)
        lane.thread.start()

    def _give_place(self) -> None:
        """A lane's program takes long: let another lane work beside it."""
        with self._placing:
            if self._waiting:
                self._waiting.pop().placed.set()
            elif len(self._lanes) < self._workers * LANES_PER_WORKER and not self._stopping:
                self._start_lane()
            else:
                self._vacant += 1

    def _take_place(self, lane: _Lane) -> None:
        """Wait for a place after having given one."""
        with self._placing:
            if self._vacant:
                self._vacant -= 1
                return
            if self._stopping:
                return
            lane.placed.clear()
            self._waiting.append(lane)
        lane.placed.wait()

    def _work(self, lane: _Lane) -> None:
        try:
            while not self._stopping:
                job, is_last = self._take()
                if job is None:
                    break
                if not is_last:
                    result = self._examine_soon(lane, job)
                    if result is not None:
                        self._results.put(result)
                    continue
                gave_place = False

                def on_slow() -> None:
                    nonlocal gave_place
                    gave_place = True
                    self._give_place()

                self._results.put(self._examine(lane, job, math.inf, on_slow))
                if gave_place:
                    self._take_place(lane)
        except BaseException as error:
            self._results.put(error)
        finally:
            self._wind_down()
            lane.retire()
            self._results.put(None)

    def _take(self) -> tuple[Job[KeyT] | None, bool]:
        """The next job, if any, and whether it has all its time: those put off come last."""
        with self._taking:
            job = next(self._jobs, None)
            if job is not None:
                self._may_put_off += 1
                return job, False
            while not self._put_off and self._may_put_off and not self._stopping:
                self._taking.wait()
            return (self._put_off.popleft() if self._put_off else None), True

    def _examine_soon(self, lane: _Lane, job: Job[KeyT]) -> Examined[KeyT] | None:
        """What came of a job; None if it was put off."""
        result = None
        try:
            result = self._examine(lane, job, PATIENCE_S, _nothing)
        finally:
            with self._taking:
                self._may_put_off -= 1
                if result is not None and result.ruling.outcome == "timeout":
                    self._put_off.append(job)
                    result = None
                self._taking.notify_all()
        return result

    def _examine(
        self, lane: _Lane, job: Job[KeyT], most_s: float, on_slow: Callable[[], None]
    ) -> Examined[KeyT]:
        examination = job.examination
        failure = SandboxError("stopped")
        for attempt in range(1, ATTEMPTS + 1):
            if self._aborted:
                break
            try:
                execution = lane.zygote().run(
                    job.program,
                    examination.setup,
                    [(check.kind, check.source) for check in examination.checks],
                    job.limits,
                    most_s=most_s,
                    marker=secrets.token_hex(16) if examination.evidence == "completion" else "",
                    careful=attempt > 1,
                    patience_s=PATIENCE_S,
                    on_slow=on_slow if attempt == 1 else _nothing,
                )
            except SandboxError as error:
                failure = error
                lane.retire()
                continue
            ruling = rule(examination, execution)
            # A process that did not end as it should may have left a mark.
            if ruling.outcome in ("protocol-error", "died"):
                lane.retire()
            if attempt > 1:
                execution = execution.model_copy(update={"attempts": attempt})
            return Examined(job, execution, ruling)
        if isinstance(failure, KilledFromOutsideError):
            execution = failure.execution.model_copy(update={"attempts": ATTEMPTS})
        else:
            execution = Execution(end="sandbox-error", error=str(failure), attempts=ATTEMPTS)
        return Examined(job, execution, rule(examination, execution))


class _Lane:
    """A thread, and the zygote that it started and talks to."""

    thread: threading.Thread

    def __init__(self, jail: Jail) -> None:
        self._jail = jail
        self._zygote: Zygote | None = None
        self._killed = False
        self.placed = threading.Event()

    def zygote(self) -> Zygote:
        """The lane's zygote; a new one if it has none, or that one is spent."""
        if self._zygote is not None and self._zygote.executed >= PROGRAMS_PER_ZYGOTE:
            self.retire()
        if self._zygote is None:
            zygote = Zygote(self._jail)
            zygote.start()
            self._zygote = zygote
            if self._killed:
                self.retire()
                raise SandboxError("stopped")
        return self._zygote

    def retire(self) -> None:
        """End the zygote; the next program gets a new one."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def kill(self) -> None:
        """End the zygote from another thread, so that the lane stops waiting for it."""
        # First the mark, then the look: whichever zygote comes later sees the mark.
        self._killed = True
        zygote = self._zygote
        if zygote is not None:
            zygote.kill()


def _nothing() -> None:
    """Nobody is to be told."""
